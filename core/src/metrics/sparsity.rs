//! How many latents fire on a token, and how often each one fires.

use alloc::vec;
use alloc::vec::Vec;

use super::exact::ExactSum;
use super::fixed::{self, FixedSum};
use crate::model::CodesView;
use crate::{Error, Result};

/// A latent is alive if it fires on this many tokens; the median density is over those.
pub const ALIVE_TOKENS: u64 = 10;
/// Number of bins of densities, a quarter of a decade each, from `10^-10` to 1.
pub const DENSITY_BINS: usize = 40;

/// Streaming counts over the codes of one level.
///
/// Integer counts, exact sums of per-token terms, and values in fixed point ([`FixedSum`]): the report depends on the
/// tokens alone, not on their order, nor on blocks, nor on how they are split among accumulators that are merged.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct Sparsity {
    tokens: u64,
    /// `[latents]`: tokens on which the latent fires.
    fires: Vec<u64>,
    /// `[latents]`: the sum of its values.
    mass: Vec<FixedSum>,
    /// `[latents + 1]`: tokens with that many active latents.
    l0: Vec<u64>,
    hoyer: ExactSum,
}

/// The sparsity of one level; `p_j` is the share of tokens on which latent `j` fires. NaN without tokens.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct SparsityReport {
    /// Tokens seen.
    pub tokens: u64,
    /// Latents of the level.
    pub latents: usize,
    /// Mean number of active latents per token. 0 to `latents`.
    pub l0_mean: f64,
    /// Its standard deviation over tokens (divisor `N`). 0 and up.
    pub l0_sd: f64,
    /// The 5, 25, 50, 75, 95 and 99 % quantiles of L0: the least `k` with at least that share of tokens at `<= k`.
    pub l0_quantiles: Option<[usize; 6]>,
    /// Share of tokens on which nothing is active. 0 to 1.
    pub empty_tokens: f64,
    /// Latents by `log10 p_j`: bin `b` is `[-10 + b / 4, -10 + (b + 1) / 4)`, `p_j = 1` in the last one, never-firing
    /// latents in none; [`DENSITY_BINS`] of them.
    pub density_histogram: Vec<u64>,
    /// Share of latents that never fire. 0 to 1, lower is better.
    pub dead: f64,
    /// Share of latents with `0 < p_j < 1e-5`. 0 to 1, lower is better.
    pub ultra_rare: f64,
    /// Share of latents with `p_j > .1`. 0 to 1.
    pub dense: f64,
    /// Median of `p_j` over latents that fire on at least [`ALIVE_TOKENS`] tokens; NaN if none does. The ratio of the
    /// two levels' medians is the measured sparsity ratio.
    pub median_density: f64,
    /// Share of latents that the median leaves out.
    pub not_alive: f64,
    /// Mean over tokens with an active latent of `(sqrt m - ||z||_1 / ||z||_2) / (sqrt m - 1)`, `m` the number of
    /// latents. 0 (all equal) to 1 (one active); NaN for `m < 2`.
    pub hoyer: f64,
    /// `sum_i (2 i - m - 1) p_(i) / (m sum p)`, `p_(1) <= ... <= p_(m)`. 0 (all equally often) to 1.
    pub gini: f64,
    /// `exp(-sum_j q_j ln q_j)`, `q_j` the latent's share of the sum of all values. 1 to `latents`, higher is better.
    pub effective_latents: f64,
    /// `effective_latents / latents`. 0 to 1, higher is better.
    pub utilisation: f64,
}

impl Sparsity {
    /// Makes an empty accumulator for a level with `latents` latents.
    pub fn new(latents: usize) -> Self {
        let mass = vec![FixedSum::default(); latents];
        Self { tokens: 0, fires: vec![0; latents], mass, l0: vec![0; latents + 1], hoyer: ExactSum::default() }
    }

    /// Adds a block of codes.
    ///
    /// # Errors
    /// [`Error::Shape`] if the number of latents differs, [`Error::NotFinite`] (with the token) for an infinite value,
    /// [`Error::Range`] for one over [`fixed::LIMIT`], [`Error::Index`] if a token has more entries than there are
    /// latents; nothing is added then.
    pub fn add(&mut self, codes: &CodesView<'_>) -> Result<()> {
        let latents = self.fires.len();
        if codes.latents() != latents {
            return Err(Error::Shape { what: "latents of the codes", expected: latents, got: codes.latents() });
        }
        for t in 0..codes.tokens() {
            let mut active = 0;
            for (_, z) in codes.active(t) {
                fixed::check("value of the codes", f64::from(z), self.tokens + t as u64)?;
                active += 1;
            }
            if active > latents {
                return Err(Error::Index { what: "active latents of a token", index: active, len: latents + 1 });
            }
        }
        for t in 0..codes.tokens() {
            let (mut l0, mut l1, mut l2) = (0, 0.0, 0.0);
            for (j, z) in codes.active(t) {
                let z = f64::from(z);
                (l0, l1, l2) = (l0 + 1, l1 + z, l2 + z * z);
                self.fires[j] += 1;
                self.mass[j].add(z);
            }
            self.l0[l0] += 1;
            if l0 > 0 && latents > 1 {
                let root = libm::sqrt(latents as f64);
                self.hoyer.add((root - l1 / libm::sqrt(l2)) / (root - 1.0));
            }
        }
        self.tokens += codes.tokens() as u64;
        Ok(())
    }

    /// Adds the tokens of `other`.
    ///
    /// # Panics
    /// If the numbers of latents differ.
    pub fn merge(&mut self, other: &Self) {
        assert_eq!(self.fires.len(), other.fires.len(), "merged accumulators must have one number of latents");
        self.tokens += other.tokens;
        self.fires.iter_mut().zip(&other.fires).for_each(|(a, b)| *a += b);
        self.l0.iter_mut().zip(&other.l0).for_each(|(a, b)| *a += b);
        self.mass.iter_mut().zip(&other.mass).for_each(|(a, b)| a.merge(b));
        self.hoyer.merge(&other.hoyer);
    }

    /// Returns `n_j`, the number of tokens on which each latent fires.
    pub fn fires(&self) -> &[u64] {
        &self.fires
    }

    /// Returns the scores of all tokens added.
    pub fn report(&self) -> SparsityReport {
        let (m, n) = (self.fires.len(), self.tokens as f64);
        let share = |of: usize| of as f64 / m as f64;
        let density = |fires: u64| fires as f64 / n;
        let moment = |power: u32| -> u128 {
            self.l0.iter().enumerate().map(|(k, c)| (k as u128).pow(power) * u128::from(*c)).sum()
        };
        let l0_mean = moment(1) as f64 / n;
        // N sum k^2 - (sum k)^2 as integers, so that no digits cancel.
        let spread = u128::from(self.tokens) * moment(2) - moment(1) * moment(1);
        let mut sorted = self.fires.clone();
        sorted.sort_unstable();
        let alive = &sorted[sorted.partition_point(|f| *f < ALIVE_TOKENS)..];
        let mut density_histogram = vec![0; DENSITY_BINS];
        for fires in sorted.iter().filter(|f| **f > 0) {
            let bin = libm::floor((libm::log10(density(*fires)) + 10.0) * 4.0);
            density_histogram[(bin.max(0.0) as usize).min(DENSITY_BINS - 1)] += 1;
        }
        let total: u128 = sorted.iter().map(|f| u128::from(*f)).sum();
        let ranked: i128 =
            sorted.iter().enumerate().map(|(i, f)| (2 * i as i128 + 1 - m as i128) * i128::from(*f)).sum();
        let mass: Vec<f64> = self.mass.iter().map(FixedSum::value).collect();
        let all: f64 = mass.iter().sum();
        let entropy: f64 = mass.iter().filter(|a| **a > 0.0).map(|a| -(a / all) * libm::log(a / all)).sum();
        let effective_latents = if all > 0.0 { libm::exp(entropy) } else { f64::NAN };
        let with_hoyer = if m > 1 { self.tokens - self.l0[0] } else { 0 };
        SparsityReport {
            tokens: self.tokens,
            latents: m,
            l0_mean,
            l0_sd: libm::sqrt(spread as f64) / n,
            l0_quantiles: (self.tokens > 0).then(|| [5, 25, 50, 75, 95, 99].map(|percent| self.quantile(percent))),
            empty_tokens: self.l0[0] as f64 / n,
            density_histogram,
            dead: share(sorted.partition_point(|f| *f == 0)),
            ultra_rare: share(sorted.iter().filter(|f| **f > 0 && density(**f) < 1e-5).count()),
            dense: share(sorted.iter().filter(|f| density(**f) > 0.1).count()),
            median_density: match alive.len() {
                0 => f64::NAN,
                k => (density(alive[(k - 1) / 2]) + density(alive[k / 2])) / 2.0,
            },
            not_alive: share(m - alive.len()),
            hoyer: self.hoyer.value() / with_hoyer as f64,
            gini: ranked as f64 / (m as f64 * total as f64),
            effective_latents,
            utilisation: effective_latents / m as f64,
        }
    }

    /// Returns the least `k` such that at least `percent` % of the tokens have at most `k` active latents.
    fn quantile(&self, percent: u128) -> usize {
        let mut below = 0u128;
        let reached = self.l0.iter().position(|c| {
            below += u128::from(*c);
            below * 100 >= percent * u128::from(self.tokens)
        });
        reached.unwrap_or(self.fires.len())
    }
}
