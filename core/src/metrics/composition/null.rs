//! The composition scores of random families.

use alloc::vec::Vec;

use super::super::coherence::{Draws, Score};
use super::super::sparsity::ALIVE_TOKENS;
use super::super::{defined_mean, median};
use super::{Composition, REAL_CONTAINMENT, REAL_LIFT};
use crate::gate::ROOT;
use crate::par::Par;

/// Scores of the alive edges compared with those of shuffled families: parents are permuted among children of one
/// density class, so that every parent keeps the number of its children, and about how often they fire. Since a parent
/// that fires often contains every child, only a value above the null is more than an effect of density.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct CompositionNull {
    /// [`super::CompositionReport::containment`].
    pub containment: Score,
    /// [`super::CompositionReport::attachment`].
    pub attachment: Score,
    /// [`super::CompositionReport::median_lift`].
    pub median_lift: Score,
    /// [`super::CompositionReport::real_edges`].
    pub real_edges: Score,
    /// [`super::CompositionReport::phi`].
    pub phi: Score,
}

impl Composition {
    /// Returns the scores of the learned edges, and of `draws` random trees. Cost: one access to the co-activation
    /// table per edge and draw.
    pub fn null(&self, par: Par, draws: Draws) -> CompositionNull {
        let edges: Vec<usize> =
            (0..self.parent.len()).filter(|&j| self.parent[j] != ROOT && self.fires2[j] >= ALIVE_TOKENS).collect();
        let label: Vec<u32> = edges.iter().map(|&j| self.parent[j]).collect();
        let fires: Vec<u64> = edges.iter().map(|&j| self.fires2[j]).collect();
        let [containment, attachment, median_lift, real_edges, phi] = Score::of(par, draws, &fires, &label, |label| {
            let pairs = || label.iter().zip(&edges).map(|(&i, &j)| (i as usize, j));
            let containment = |(i, j): (usize, usize)| f64::from(self.together(i, j)) / self.fires2[j] as f64;
            let mut lifts: Vec<f64> = pairs().map(|(i, j)| self.lift(i, j)).filter(|l| !l.is_nan()).collect();
            let real = pairs().filter(|&p| self.lift(p.0, p.1) > REAL_LIFT && containment(p) > REAL_CONTAINMENT);
            [
                defined_mean(pairs().map(containment)),
                defined_mean(pairs().map(|(i, j)| self.attachment(i, j))),
                median(&mut lifts),
                real.count() as f64 / edges.len() as f64,
                defined_mean(pairs().map(|(i, j)| self.phi(i, j))),
            ]
        });
        CompositionNull { containment, attachment, median_lift, real_edges, phi }
    }
}
