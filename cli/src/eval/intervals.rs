//! Bootstrap intervals of the sums of an evaluation.

use super::collect::{Collector, TERMS};
use anyhow::Result;
use serde::Serialize;
use strata_core::Par;
use strata_core::metrics::bootstrap::{self, Interval, Resamples};
use strata_core::metrics::composition::EdgeIntervals;

/// Intervals of 95 % from a bootstrap over 32 blocks of sequences, since tokens of one sequence depend on each other.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Intervals {
    /// The interval of `fidelity.level1.fvu`.
    pub fvu1: Interval,
    /// The interval of `fidelity.level2.fvu`.
    pub fvu2: Interval,
    /// The interval of `fidelity.gain`.
    pub gain: Interval,
    /// The interval of `level1.l0_mean`.
    pub l0_1: Interval,
    /// The interval of `level2.l0_mean`.
    pub l0_2: Interval,
    /// The intervals of scores of `composition`; none without families.
    pub edges: Option<EdgeIntervals>,
}

/// Computes the intervals of the sums in `seen`, for reconstructions of width `d`.
///
/// # Errors
/// If there are too few blocks to draw from.
pub(super) fn intervals(seen: &Collector<'_>, d: usize) -> Result<Intervals> {
    let sums = seen.sums.values();
    let of = |statistic: fn(&[f64]) -> f64| interval_of(&sums, d, statistic);
    Ok(Intervals {
        fvu1: of(|s| s[1] / spread(s))?,
        fvu2: of(fvu2)?,
        gain: of(|s| (s[1] - s[2]) / s[1])?,
        l0_1: of(|s| s[3] / s[0])?,
        l0_2: of(|s| s[4] / s[0])?,
        edges: seen.tree.as_ref().map(|t| t.edges.report(Par::Rayon, Resamples::default())),
    })
}

/// Returns the interval of a statistic of [`Collector::sums`]; [`TERMS`] explains their entries `s[0]` to `s[5]`.
pub(super) fn interval_of(sums: &[f64], d: usize, statistic: fn(&[f64]) -> f64) -> Result<Interval> {
    Ok(bootstrap::interval(sums, TERMS + d, Resamples::default(), statistic)?)
}

/// Returns `||x||^2 - N ||mean x||^2` from [`Collector::sums`]; NaN for rows that do not vary.
pub(super) fn spread(s: &[f64]) -> f64 {
    let mean: f64 = s[TERMS..].iter().map(|x| x * x).sum::<f64>() / s[0];
    if s[5] - mean > 0.0 { s[5] - mean } else { f64::NAN }
}

/// Returns the FVU of both levels together, from [`Collector::sums`].
pub(super) fn fvu2(s: &[f64]) -> f64 {
    s[2] / spread(s)
}
