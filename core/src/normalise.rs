//! Normalisation of rows for training, and its folding into the saved weights.
//!
//! `x' = (x - mean) * scale`, with `scale = sqrt(d / E||x - mean||^2)` so that `E||x'||^2 = d`: losses, learning rates
//! and thresholds are then comparable between layers and data sets. A saved model has this folded in:
//!
//! ```text
//! b_dec <- mean + b_dec / scale      b_enc, b_mag, threshold, tau <- the same / scale
//! gate.w <- gate.w * scale (mul)     gate.b <- gate.b / scale (add)
//! ```
//!
//! Every activation is positively homogeneous, so in the folded model the same latents fire with `1 / scale` times the
//! value, and decoder rows keep norm 1: latents are in the units of the raw activations. The seed model has sigmoids of
//! its input, so there the scale is folded into the encoders (`W <- W * scale`, `b <- b - scale W mean`) and `D1 <- D1
//! / scale`.

use crate::config::{DataConfig, ModelKind};
use crate::error::{Error, Result};
use crate::kernel::{Isa, reduce};
use crate::model::Model;
use crate::row_norm::RowNorm;
use crate::row_rule::is_over;
use alloc::vec;
use alloc::vec::Vec;

/// The normalisation that was measured on a sample of rows.
#[derive(Clone, Debug, PartialEq)]
pub struct Normalisation {
    /// Subtracted from every row, `(d)`; zeros where centring is off.
    pub mean: Vec<f32>,
    /// Multiplies every centred row; 1 where scaling is off.
    pub scale: f32,
    /// Initial decoder bias, `(d)`, in normalised units.
    pub centre: Vec<f32>,
    /// Total variance `E||x' - E x'||^2` of normalised rows: the denominator of every loss.
    pub variance: f32,
    /// Largest norm of a raw row that training uses; infinity keeps all rows.
    pub norm_limit: f32,
    /// Normalisation of each row, before all of the above.
    pub row_norm: RowNorm,
}

impl Normalisation {
    /// Measures raw rows, `(n, d)`.
    ///
    /// # Errors
    /// [`Error::Config`] if the rows do not vary, so that there is nothing to explain.
    pub fn measure(isa: Isa, rows: &[f32], d: usize, data: &DataConfig) -> Result<Self> {
        let norms: Vec<f32> = rows.chunks(d).map(|r| libm::sqrtf(reduce::sum_squares(isa, r))).collect();
        let mut norm_limit = f32::INFINITY;
        if data.outlier > 0.0 && !norms.is_empty() {
            let mut sorted = norms.clone();
            sorted.sort_by(f32::total_cmp);
            let median = sorted[sorted.len() / 2];
            if median > 0.0 {
                norm_limit = median * data.outlier as f32;
            }
        }
        let kept = |norm: f32| norm <= norm_limit;
        let normalised;
        let rows = if data.row_norm == RowNorm::None {
            rows
        } else {
            normalised = one_by_one(data.row_norm, rows, d);
            &normalised
        };
        let n = norms.iter().filter(|n| kept(**n)).count();
        let mut mean = vec![0.0f64; d];
        for (row, &norm) in rows.chunks(d).zip(&norms) {
            if kept(norm) {
                for (m, &x) in mean.iter_mut().zip(row) {
                    *m += f64::from(x);
                }
            }
        }
        mean.iter_mut().for_each(|m| *m /= n.max(1) as f64);
        let mut squares = 0.0f64;
        let mut about_mean = 0.0f64;
        for (row, &norm) in rows.chunks(d).zip(&norms) {
            if kept(norm) {
                for (&m, &x) in mean.iter().zip(row) {
                    let x = f64::from(x);
                    squares += x * x;
                    about_mean += (x - m) * (x - m);
                }
            }
        }
        if n < 2 || about_mean <= 0.0 || !about_mean.is_finite() {
            return Err(Error::config(
                "data",
                alloc::format!("expected rows that vary, found {n} rows of total variance {about_mean}"),
            ));
        }
        let energy = if data.centre { about_mean } else { squares };
        let scale = if data.scale { libm::sqrt(d as f64 * n as f64 / energy) as f32 } else { 1.0 };
        let mean: Vec<f32> = if data.centre { mean.iter().map(|&m| m as f32).collect() } else { vec![0.0; d] };
        let mut out = Self { mean, scale, centre: vec![0.0; d], variance: 0.0, norm_limit, row_norm: data.row_norm };
        out.variance = (about_mean / n as f64 * f64::from(scale) * f64::from(scale)) as f32;
        if data.geometric_median {
            let kept: Vec<usize> = (0..norms.len()).filter(|&i| kept(norms[i])).collect();
            out.centre = weiszfeld(isa, d, kept.len(), |i, row| {
                row.copy_from_slice(&rows[kept[i] * d..(kept[i] + 1) * d]);
                out.apply_affine(row);
            });
        }
        Ok(out)
    }

    /// `x <- (x - mean) * scale` for whole rows, after the normalisation of each row.
    pub fn apply(&self, rows: &mut [f32]) {
        for row in rows.chunks_mut(self.mean.len()) {
            if self.row_norm != RowNorm::None {
                self.row_norm.of(row).apply(row);
            }
            self.apply_affine(row);
        }
    }

    fn apply_affine(&self, rows: &mut [f32]) {
        for row in rows.chunks_mut(self.mean.len()) {
            for (x, &m) in row.iter_mut().zip(&self.mean) {
                *x = (*x - m) * self.scale;
            }
        }
    }

    /// Returns whether training uses this raw row.
    pub fn keeps(&self, isa: Isa, row: &[f32]) -> bool {
        !is_over(isa, row, self.norm_limit)
    }

    /// Returns the normalisation that leaves rows of width `d` as they are, but for `row_norm`.
    pub fn identity(d: usize, row_norm: RowNorm) -> Self {
        let (mean, centre) = (vec![0.0; d], vec![0.0; d]);
        Self { mean, scale: 1.0, centre, variance: 1.0, norm_limit: f32::INFINITY, row_norm }
    }

    /// Folds `x' = (x - m) s` and `y' = (y - q) t` into a transcoder that was trained on such rows, `t` and `q` those of
    /// `target`: it reads raw rows and reconstructs raw rows, decoder rows keep norm 1, and latents are in units of what they
    /// write.
    ///
    /// ```text
    /// W <- (s / t) W        b_enc, b_mag, threshold, tau <- the same / t        b_enc -= W m     (encoders that read x)
    /// W_skip <- (s / t) W_skip        b_dec <- q + b_dec / t - W_skip m
    /// gate.w <- gate.w t (mul)        gate.b <- gate.b / t (add)
    /// ```
    pub fn fold_into(&self, target: &Self, isa: Isa, model: &mut Model) {
        let (s, t) = (self.scale, target.scale);
        let specs = model.arch.specs();
        for ((_, tensor), (_, spec)) in model.params.tensors_mut().into_iter().zip(specs.tensors()) {
            match spec.scales_with_x {
                1 => tensor.iter_mut().for_each(|v| *v /= t),
                -1 => scale(tensor, t),
                _ => {}
            }
        }
        let reads_rows = [true, model.arch.source.is_activations()];
        for (level, _) in model.params.level.iter_mut().zip(reads_rows).filter(|(_, reads)| *reads) {
            scale(&mut level.w_enc, s / t);
            for (b, w) in level.b_enc.iter_mut().zip(level.w_enc.chunks(self.mean.len())) {
                *b -= reduce::dot(isa, w, &self.mean);
            }
        }
        scale(&mut model.params.w_skip, s / t);
        model.params.b_dec.iter_mut().zip(&target.mean).for_each(|(b, &q)| *b += q);
        for (b, w) in model.params.b_dec.iter_mut().zip(model.params.w_skip.chunks(self.mean.len())) {
            *b -= reduce::dot(isa, w, &self.mean);
        }
        for (tau, level) in model.tau.iter_mut().zip(model.arch.level) {
            if level.activation.has_tau() {
                *tau /= t;
            }
        }
    }

    /// Folds `x' = (x - mean) * scale` into a model that was trained on normalised rows.
    pub fn fold(&self, isa: Isa, model: &mut Model) {
        let s = self.scale;
        model.arch.variant.row_norm = self.row_norm;
        let specs = model.arch.specs();
        for ((_, tensor), (_, spec)) in model.params.tensors_mut().into_iter().zip(specs.tensors()) {
            match spec.scales_with_x {
                1 => tensor.iter_mut().for_each(|v| *v /= s),
                -1 => tensor.iter_mut().for_each(|v| *v *= s),
                _ => {}
            }
        }
        for (b, &m) in model.params.b_dec.iter_mut().zip(&self.mean) {
            *b += m;
        }
        if model.arch.model == ModelKind::Seed {
            // Its encoder reads `x` itself, not `x - b_dec`, so the mean is folded into the biases.
            let level = &mut model.params.level[0];
            for (w, b) in [(&level.w_enc, &mut level.b_enc), (&level.gate_w, &mut level.gate_b)] {
                for (b, w) in b.iter_mut().zip(w.chunks(self.mean.len())) {
                    *b -= reduce::dot(isa, w, &self.mean);
                }
            }
        }
        for (tau, level) in model.tau.iter_mut().zip(model.arch.level) {
            if level.activation.has_tau() {
                *tau /= s;
            }
        }
    }
}

/// Multiplies by `factor`.
fn scale(numbers: &mut [f32], factor: f32) {
    numbers.iter_mut().for_each(|v| *v *= factor);
}

/// Returns the rows after the normalisation of each row.
fn one_by_one(row_norm: RowNorm, rows: &[f32], d: usize) -> Vec<f32> {
    let mut out = rows.to_vec();
    out.chunks_mut(d).for_each(|row| row_norm.of(row).apply(row));
    out
}

/// Returns the point that minimises the sum of distances to `rows`, by Weiszfeld's iteration from the mean: at most 100
/// steps, until it moves by less than 1e-5 of its scale.
pub fn geometric_median(isa: Isa, rows: &[f32], d: usize) -> Vec<f32> {
    weiszfeld(isa, d, rows.len() / d, |i, row| row.copy_from_slice(&rows[i * d..(i + 1) * d]))
}

/// Returns the geometric median of `n` rows that `read` writes one at a time, so that no second copy of them is needed.
fn weiszfeld(isa: Isa, d: usize, n: usize, read: impl Fn(usize, &mut [f32])) -> Vec<f32> {
    let mut at = vec![0.0f32; d];
    if n == 0 {
        return at;
    }
    let mut row = vec![0.0f32; d];
    for step in 0..100 {
        let mut total = 0.0f64;
        let mut next = vec![0.0f64; d];
        for i in 0..n {
            read(i, &mut row);
            let distance =
                if step == 0 { 1.0 } else { libm::sqrt(f64::from(reduce::sum_squares_diff(isa, &row, &at))) };
            let w = 1.0 / distance.max(1e-8);
            total += w;
            for (m, &x) in next.iter_mut().zip(&row) {
                *m += w * f64::from(x);
            }
        }
        let mut moved = 0.0f64;
        for (a, m) in at.iter_mut().zip(&next) {
            let m = (m / total) as f32;
            moved += f64::from(m - *a) * f64::from(m - *a);
            *a = m;
        }
        if step > 0 && libm::sqrt(moved) < 1e-5 * libm::sqrt(d as f64) {
            break;
        }
    }
    at
}
