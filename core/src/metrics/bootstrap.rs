//! Uncertainty of metrics: a bootstrap over blocks of contexts.
//!
//! Tokens of one context depend on each other, so that standard errors over tokens are too small. The dump is cut into
//! [`BLOCKS`] blocks of whole consecutive contexts, and blocks are drawn with replacement.

use alloc::collections::BTreeMap;
use alloc::vec;
use alloc::vec::Vec;

use super::exact::ExactSum;
use crate::error::At;
use crate::par::Par;
use crate::rng::Philox;
use crate::{Error, Result};

/// Number of blocks that a dump is cut into.
pub const BLOCKS: usize = 32;
/// Number of resamples of [`Resamples::default`].
pub const RESAMPLES: usize = 1000;
/// The random stream of this module.
const STREAM: u64 = 0x626f_6f74 << 32;

/// Sums of `terms` quantities over each block.
///
/// Exact sums ([`ExactSum`]): merged parts equal the whole to the bit. Memory: 550 bytes per term and block.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct BlockSums {
    terms: usize,
    contexts: u64,
    /// `[blocks, terms]`.
    sum: Vec<ExactSum>,
}

impl BlockSums {
    /// Makes zero sums for a dump of `contexts` contexts: `min(BLOCKS, contexts)` blocks.
    ///
    /// # Panics
    /// If there are no contexts or no terms.
    pub fn new(terms: usize, contexts: u64) -> Self {
        assert!(contexts > 0 && terms > 0, "block sums need contexts and terms");
        let blocks = contexts.min(BLOCKS as u64) as usize;
        Self { terms, contexts, sum: vec![ExactSum::default(); blocks * terms] }
    }

    /// Returns the number of blocks.
    pub fn blocks(&self) -> usize {
        self.sum.len() / self.terms
    }

    /// Returns the block of a context, `floor(context * blocks / contexts)`.
    ///
    /// # Panics
    /// If `context` is not in the dump.
    pub fn block_of(&self, context: u64) -> usize {
        block_of(context, self.contexts, self.blocks())
    }

    /// Adds `values`, one per term, to the block of `context`.
    ///
    /// # Errors
    /// [`Error::Shape`] if there is not one value for each term, [`Error::NotFinite`] (with the context); nothing
    /// is added then.
    ///
    /// # Panics
    /// If `context` is not in the dump.
    pub fn add(&mut self, context: u64, values: &[f64]) -> Result<()> {
        if values.len() != self.terms {
            return Err(Error::Shape { what: "terms of block sums", expected: self.terms, got: values.len() });
        }
        if values.iter().any(|v| !v.is_finite()) {
            return Err(Error::NotFinite { what: "a term of the block sums".into(), at: At::Context(context) });
        }
        let at = self.block_of(context) * self.terms;
        self.sum[at..at + self.terms].iter_mut().zip(values).for_each(|(s, v)| s.add(*v));
        Ok(())
    }

    /// Adds the sums of `other`.
    ///
    /// # Panics
    /// If terms or contexts differ.
    pub fn merge(&mut self, other: &Self) {
        let same = self.terms == other.terms && self.contexts == other.contexts;
        assert!(same, "merged block sums must be of one dump");
        self.sum.iter_mut().zip(&other.sum).for_each(|(a, b)| a.merge(b));
    }

    /// Returns the sums, `[blocks, terms]`.
    pub fn values(&self) -> Vec<f64> {
        self.sum.iter().map(ExactSum::value).collect()
    }
}

/// Returns the block of one of `contexts` contexts, `floor(context * blocks / contexts)`.
///
/// # Panics
/// If `context` is not one of them.
pub(super) fn block_of(context: u64, contexts: u64, blocks: usize) -> usize {
    assert!(context < contexts, "context {context} of {contexts}");
    (u128::from(context) * blocks as u128 / u128::from(contexts)) as usize
}

/// The number of resamples, their seed, and the coverage of an interval.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Resamples {
    /// Number of resamples.
    pub n: usize,
    /// Seed of the random numbers.
    pub seed: u64,
    /// Share of resamples inside of the interval, between 0 and 1.
    pub coverage: f64,
}

impl Default for Resamples {
    fn default() -> Self {
        Self { n: RESAMPLES, seed: 0, coverage: 0.95 }
    }
}

/// A statistic of all blocks with its bootstrap.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Interval {
    /// The statistic of the sums over all blocks.
    pub value: f64,
    /// The `(1 - coverage) / 2` quantile of the resamples, interpolated linearly.
    pub low: f64,
    /// The `(1 + coverage) / 2` quantile.
    pub high: f64,
    /// Standard deviation of the resamples (divisor `n - 1`): the standard error of `value`.
    pub standard_error: f64,
    /// Number of blocks to draw from; with few (for instance under ten) the interval is too narrow.
    pub blocks: usize,
    /// Resamples in which the statistic is NaN, which are left out. With fewer than two others, everything except
    /// `value` is NaN.
    pub undefined: usize,
}

/// Returns the percentile interval of `statistic`, a function of `terms` sums over a dump. In each resample as many
/// blocks as there are are drawn with replacement, their rows of sums are added, and `statistic` is applied to the
/// total.
///
/// | argument | shape | layout |
/// |---|---|---|
/// | `sums` | `[blocks, terms]` | row-major: [`BlockSums::values`] |
///
/// Rows are added in their order, each multiplied by the number of its draws: the bits do not depend on the order of
/// drawing.
///
/// # Errors
/// [`Error::Shape`] if `sums` are not whole rows, or none.
///
/// # Panics
/// If the coverage is not between 0 and 1.
pub fn interval(
    sums: &[f64],
    terms: usize,
    resamples: Resamples,
    statistic: impl Fn(&[f64]) -> f64 + Sync + Send,
) -> Result<Interval> {
    if terms == 0 || sums.is_empty() || !sums.len().is_multiple_of(terms) {
        return Err(Error::Shape { what: "entries of a row of block sums", expected: terms, got: sums.len() });
    }
    let blocks = sums.len() / terms;
    let [interval] = intervals(Par::Seq, blocks, resamples, |times| {
        let mut total = vec![0.0; terms];
        for (row, times) in sums.chunks_exact(terms).zip(times) {
            total.iter_mut().zip(row).for_each(|(t, v)| *t += f64::from(*times) * v);
        }
        [statistic(&total)]
    });
    Ok(interval)
}

/// Returns the percentile intervals of `N` statistics, which are functions of the number of times that each of `blocks`
/// blocks counts: once for the value, and as often as it is drawn in a resample.
///
/// # Panics
/// If there are no blocks, or the coverage is not between 0 and 1.
pub fn intervals<const N: usize>(
    par: Par,
    blocks: usize,
    resamples: Resamples,
    statistic: impl Fn(&[u32]) -> [f64; N] + Sync + Send,
) -> [Interval; N] {
    let Resamples { n, seed, coverage } = resamples;
    assert!(coverage > 0.0 && coverage < 1.0, "a coverage of {coverage}");
    assert!(blocks > 0, "a bootstrap over no blocks");
    let value = statistic(&vec![1; blocks]);
    let mut rng = Philox::new(seed, STREAM);
    let mut times = vec![0u32; n * blocks];
    for times in times.chunks_mut(blocks) {
        (0..blocks).for_each(|_| times[rng.below(blocks as u64) as usize] += 1);
    }
    let drawn = par.map(n, |k| statistic(&times[k * blocks..(k + 1) * blocks]));
    core::array::from_fn(|k| {
        let mut drawn: Vec<f64> = drawn.iter().map(|d| d[k]).filter(|v| !v.is_nan()).collect();
        drawn.sort_unstable_by(f64::total_cmp);
        let (value, undefined) = (value[k], n - drawn.len());
        if drawn.len() < 2 {
            let nan = f64::NAN;
            return Interval { value, low: nan, high: nan, standard_error: nan, blocks, undefined };
        }
        let count = drawn.len() as f64;
        let mean = drawn.iter().sum::<f64>() / count;
        let squares: f64 = drawn.iter().map(|v| (v - mean) * (v - mean)).sum();
        Interval {
            value,
            low: quantile(&drawn, (1.0 - coverage) / 2.0),
            high: quantile(&drawn, (1.0 + coverage) / 2.0),
            standard_error: libm::sqrt(squares / (count - 1.0)),
            blocks,
            undefined,
        }
    })
}

/// Returns the mean of `value` with the percentile interval of a bootstrap over clusters: values of one label, such as
/// the edges of one family, are drawn together. Everything except `blocks` is NaN without values.
///
/// # Panics
/// If the lengths differ, or the coverage is not between 0 and 1.
pub fn clustered(label: &[u32], value: &[f64], resamples: Resamples) -> Interval {
    assert_eq!(label.len(), value.len(), "a label for each value");
    let mut sums: BTreeMap<u32, [f64; 2]> = BTreeMap::new();
    for (label, value) in label.iter().zip(value) {
        let [sum, n] = sums.entry(*label).or_default();
        (*sum, *n) = (*sum + value, *n + 1.0);
    }
    if sums.is_empty() {
        let nan = f64::NAN;
        return Interval { value: nan, low: nan, high: nan, standard_error: nan, blocks: 0, undefined: 0 };
    }
    let [interval] = intervals(Par::Seq, sums.len(), resamples, |times| {
        let drawn = sums.values().zip(times).map(|([sum, n], times)| [sum * f64::from(*times), n * f64::from(*times)]);
        let [sum, n] = drawn.fold([0.0, 0.0], |[a, b], [sum, n]| [a + sum, b + n]);
        [sum / n]
    });
    interval
}

/// Returns the interval of `sum of term 0 / sum of term 1`; NaN where that is `0 / 0`.
///
/// # Errors
/// As [`interval`], for rows of two terms.
pub fn ratio(sums: &[f64], resamples: Resamples) -> Result<Interval> {
    interval(sums, 2, resamples, |s| s[0] / s[1])
}

/// Returns the interval of `FVU = sum ||e||^2 / (sum ||x||^2 - ||sum x||^2 / N)`, for rows of `3 + d` terms: `N`, `sum
/// ||e||^2`, `sum ||x||^2`, `sum x`. NaN without variance.
///
/// # Errors
/// As [`interval`].
pub fn fvu(sums: &[f64], d: usize, resamples: Resamples) -> Result<Interval> {
    interval(sums, 3 + d, resamples, |s| {
        let mean: f64 = s[3..].iter().map(|x| x * x).sum::<f64>() / s[0];
        let variance = s[2] - mean;
        if variance > 0.0 { s[1] / variance } else { f64::NAN }
    })
}

/// Returns a quantile of sorted values, interpolated at position `q (n - 1)`.
fn quantile(sorted: &[f64], q: f64) -> f64 {
    let position = q * (sorted.len() - 1) as f64;
    let low = libm::floor(position) as usize;
    let high = (low + 1).min(sorted.len() - 1);
    let part = position - low as f64;
    // Interpolating between two equal values could round, and between two infinite ones is NaN.
    if sorted[low] == sorted[high] { sorted[low] } else { sorted[low] + part * (sorted[high] - sorted[low]) }
}
