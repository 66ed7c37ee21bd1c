//! Scores of the families behind their gate.

use alloc::vec::Vec;

use super::super::sparsity::ALIVE_TOKENS;
use super::Composition;

/// One latent of level 2 behind its gate.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct GatedChild {
    /// `n_j`: tokens on which it fires.
    pub fires: u64,
    /// `sum_tokens -2 z_j e . D_j + z_j^2 ||D_j||^2`, `e = x_hat2 - x`: the growth of the squared error if only `j` is
    /// removed. Higher is better; below 0: `j` harms. NaN if the blocks came without errors.
    pub gain: f64,
}

/// The families behind their gate. Means are over the defined values of alive latents (at least [`ALIVE_TOKENS`]
/// tokens); NaN where there are none.
///
/// Scores that a hard gate fixes for any parents are named `..._by_construction`: they are not evidence for a
/// hierarchy.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct GatedReport {
    /// Tokens seen.
    pub tokens: u64,
    /// Mean of `P(parent | child)` over the alive edges; 1 behind a hard gate.
    pub containment_by_construction: f64,
    /// Median lift of the alive edges that have one; behind a hard gate the median of `1 / P(parent)`.
    pub median_lift_by_construction: f64,
    /// Mean `phi` of the alive edges; behind a hard gate it follows from how often parent and child fire.
    pub phi_by_construction: f64,
    /// Mean over the alive parents of `P(some child | parent)`. 0 to 1.
    pub coverage: f64,
    /// Mean over the alive parents with at least two children of `P(exactly one child | at least one)`. 0 to 1.
    pub exclusivity: f64,
    /// Mean over tokens of the number of parents that differ from the union of their children (Luo et al. 2026). 0 and
    /// up, lower is better.
    pub or_hamming: f64,
    /// Share of the alive children with `gain < 0`. 0 to 1, lower is better.
    pub harmful: f64,
    /// `[f2]`.
    pub child: Vec<GatedChild>,
}

impl Composition {
    /// Returns the scores of the families, from counts of the gated codes.
    pub fn gated(&self) -> GatedReport {
        let all = self.report();
        let gain = |j: usize| if self.gained { self.gain[j].value() } else { f64::NAN };
        let child: Vec<GatedChild> =
            (0..self.parent.len()).map(|j| GatedChild { fires: self.fires2[j], gain: gain(j) }).collect();
        let alive = || child.iter().filter(|c| c.fires >= ALIVE_TOKENS);
        let harmful = alive().filter(|c| c.gain < 0.0).count() as f64 / alive().count() as f64;
        GatedReport {
            tokens: self.tokens,
            containment_by_construction: all.containment,
            median_lift_by_construction: all.median_lift,
            phi_by_construction: all.phi,
            coverage: all.coverage,
            exclusivity: all.exclusivity,
            or_hamming: all.or_hamming,
            harmful: if self.gained { harmful } else { f64::NAN },
            child,
        }
    }
}
