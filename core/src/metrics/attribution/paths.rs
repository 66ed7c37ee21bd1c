//! The paths of a stacked decoder: level 2 to level 1 to the activations.

use alloc::vec;
use alloc::vec::Vec;

use super::super::defined_mean;
use crate::par::Par;
use crate::{Error, Result};

/// Number of parents whose paths together should explain a child.
const TOP: usize = 3;

/// The paths of one latent of level 2: `C_j = sum_i E2_ji D1_i`, with weights `w_i = |E2_ji| ||D1_i||`.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Path {
    /// `argmax_i w_i`, ties to the lower one.
    pub top: u32,
    /// `(sum_i w_i)^2 / sum_i w_i^2`: the effective number of parents. 1 and up, lower: sparser; NaN if all are 0.
    pub effective_parents: f64,
    /// `1 - ||C_j - sum_(i in top 3) E2_ji D1_i||^2 / ||C_j||^2`, by the three largest weights. Up to 1, higher: three
    /// parents explain the latent; below 0 if the other paths cancel them; NaN if `C_j = 0`.
    pub explained_by_three: f64,
}

/// The paths of a stacked decoder; means over the defined values.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct PathReport {
    /// Mean `effective_parents`. 1 to `f1`, lower: sparser.
    pub effective_parents: f64,
    /// Mean `explained_by_three`. Up to 1, higher: three parents explain the latents.
    pub explained_by_three: f64,
    /// Latents for which either is undefined.
    pub undefined: usize,
    /// `[f2]`.
    pub path: Vec<Path>,
}

/// Computes the paths of a stacked decoder (`decoder = "comp"`) from its weights alone.
///
/// | argument | shape | layout |
/// |---|---|---|
/// | `e2` | `[f2, f1]` | row-major: the decoder of level 2 as it is stored |
/// | `decoder1` | `[f1, d]` | row-major |
///
/// In `f64`, in index order. Cost: `O(f2 f1 d)`.
///
/// # Errors
/// [`Error::Shape`] where sizes disagree.
pub fn paths(par: Par, e2: &[f32], decoder1: &[f32], f1: usize, d: usize) -> Result<PathReport> {
    let f2 = e2.len().checked_div(f1).unwrap_or(0);
    for (what, expected, got) in [
        ("decoder of level 2 (a multiple of f1)", f2 * f1, e2.len()),
        ("decoder of level 1", f1.saturating_mul(d), decoder1.len()),
    ] {
        if expected != got {
            return Err(Error::Shape { what, expected, got });
        }
    }
    let row = |i: usize| decoder1[i * d..(i + 1) * d].iter().map(|w| f64::from(*w));
    let norm: Vec<f64> = par.map(f1, |i| libm::sqrt(row(i).map(|w| w * w).sum()));
    let path = par.map(f2, |j| {
        let e = &e2[j * f1..(j + 1) * f1];
        let weight = |i: usize| f64::from(e[i].abs()) * norm[i];
        let (sum, squares) = (0..f1).map(weight).fold((0.0, 0.0), |(s, q), w| (s + w, q + w * w));
        let mut top: Vec<usize> = Vec::with_capacity(TOP + 1);
        for i in 0..f1 {
            let at = top.iter().position(|&k| weight(k) < weight(i)).unwrap_or(top.len());
            top.insert(at, i);
            top.truncate(TOP);
        }
        let (mut all, mut rest) = (vec![0.0; d], vec![0.0; d]);
        for i in (0..f1).filter(|&i| e[i] != 0.0) {
            let keep = if top.contains(&i) { 0.0 } else { f64::from(e[i]) };
            for ((a, r), w) in all.iter_mut().zip(&mut rest).zip(row(i)) {
                *a += f64::from(e[i]) * w;
                *r += keep * w;
            }
        }
        let square = |v: &[f64]| v.iter().map(|x| x * x).sum::<f64>();
        let explained = if square(&all) > 0.0 { 1.0 - square(&rest) / square(&all) } else { f64::NAN };
        let top = top.first().map_or(0, |&i| i as u32);
        Path { top, effective_parents: sum * sum / squares, explained_by_three: explained }
    });
    Ok(PathReport {
        effective_parents: defined_mean(path.iter().map(|p| p.effective_parents)),
        explained_by_three: defined_mean(path.iter().map(|p| p.explained_by_three)),
        undefined: path.iter().filter(|p| p.effective_parents.is_nan() || p.explained_by_three.is_nan()).count(),
        path,
    })
}
