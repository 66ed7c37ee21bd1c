//! Reconstruction quality of both levels, under the names and definitions of other libraries.

use alloc::vec;
use alloc::vec::Vec;

use super::exact::ExactSum;
use crate::error::At;
use crate::kernel::{Isa, reduce, wide};
use crate::{Error, Result};

/// Tokens with a norm below this have no cosine, norm ratio or normalised error.
pub const MIN_NORM: f64 = 1e-6;

/// Streaming sums over blocks of tokens.
///
/// Terms are summed in `f64` inside a block, in row order, and blocks are summed exactly ([`ExactSum`]): the report
/// depends on the blocks alone, not on their order nor on how they are split among accumulators that are merged.
/// Other block boundaries may change the last bits, and change `fvu_batch`, `fve_var` and `ev_legacy` by definition.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct Fidelity {
    d: usize,
    tokens: u64,
    blocks: u64,
    short_tokens: u64,
    x: Vec<ExactSum>,
    x_square: ExactSum,
    levels: [Level; 2],
    #[serde(skip)]
    scratch: Block,
    #[serde(skip)]
    isa: Isa,
}

/// The numbers of one block, kept so that only larger blocks allocate.
#[derive(Clone, Debug, Default)]
struct Block {
    /// `[d]` mean row.
    mean: Vec<f64>,
    /// `[n]` squared distances to it.
    spread: Vec<f64>,
    /// `[n]` squared norms.
    norm: Vec<f64>,
    /// `[d]` mean error of a level.
    mean_error: Vec<f64>,
    /// `[d]` one error.
    error: Vec<f64>,
}

/// Sums of one level over tokens and blocks; each has the name of its score, `cosines`, `batches` and `legacies` being
/// the numbers of terms.
#[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize)]
struct Level {
    sse: ExactSum,
    nmse: ExactSum,
    norm_ratio: ExactSum,
    cosine: ExactSum,
    cosines: u64,
    fvu_batch: ExactSum,
    fve_var: ExactSum,
    batches: u64,
    legacy: ExactSum,
    legacies: u64,
}

/// The scores of one level, with `e = x_hat - x`. A score with an empty denominator is NaN.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct LevelFidelity {
    /// `sum ||e||^2 / (sum ||x||^2 - N ||mean x||^2)` over all tokens. 0 and up, lower is better; 1: the mean.
    pub fvu: f64,
    /// `1 - fvu` (SAELens `explained_variance`). Up to 1, higher is better.
    pub ev: f64,
    /// Mean over blocks of `sum ||e||^2 / sum ||x - mean_block x||^2` (sparsify). 0 and up, lower is better.
    pub fvu_batch: f64,
    /// Mean over blocks of `1 - sum_d Var(e) / sum_d Var(x)` (dictionary_learning). Up to 1, higher is better; blind to
    /// a constant error.
    pub fve_var: f64,
    /// Mean over tokens of `1 - ||e||^2 / ||x - mean_block x||^2` (SAELens, legacy). Up to 1, higher is better.
    pub ev_legacy: f64,
    /// `sum ||e||^2 / N`. 0 and up, lower is better.
    pub mse: f64,
    /// Mean over tokens of `||e||^2 / ||x||^2`. 0 and up, lower is better.
    pub nmse: f64,
    /// Mean over tokens of `cos(x, x_hat)`. -1 to 1, higher is better.
    pub cosine: f64,
    /// Mean over tokens of `||x_hat|| / ||x||`. 0 and up, 1 is best; below 1: shrinkage.
    pub norm_ratio: f64,
    /// Tokens without a cosine: `||x||` under [`MIN_NORM`], or `x_hat = 0`.
    pub tokens_without_cosine: u64,
    /// Blocks left out of `fvu_batch` and `fve_var`: all their tokens are equal.
    pub constant_blocks: u64,
    /// Tokens left out of `ev_legacy`: equal to the mean of their block.
    pub tokens_at_mean: u64,
}

/// The scores of both levels.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct FidelityReport {
    /// Tokens seen.
    pub tokens: u64,
    /// Tokens with `||x||` under [`MIN_NORM`]: left out of `nmse`, `cosine` and `norm_ratio`.
    pub short_tokens: u64,
    /// After level 1.
    pub level1: LevelFidelity,
    /// After level 2.
    pub level2: LevelFidelity,
    /// `(SSE_1 - SSE_2) / SSE_1`: the gain of level 2. Up to 1, higher is better; below 0: it harms.
    pub gain: f64,
}

impl Fidelity {
    /// Makes an empty accumulator for rows of width `d`.
    pub fn new(d: usize) -> Self {
        let levels = [Level::default(), Level::default()];
        let x = vec![ExactSum::default(); d];
        let scratch = Block { mean: vec![0.0; d], mean_error: vec![0.0; d], ..Block::default() };
        Self {
            d,
            tokens: 0,
            blocks: 0,
            short_tokens: 0,
            x,
            x_square: ExactSum::default(),
            levels,
            scratch,
            isa: Isa::default(),
        }
    }

    /// Adds one block; an empty one changes nothing.
    ///
    /// | argument | shape | layout |
    /// |---|---|---|
    /// | `x`, `x_hat1`, `x_hat2` | `[n, d]` | row-major |
    ///
    /// # Errors
    /// [`Error::Shape`] where sizes disagree, [`Error::NotFinite`] (with the token) for NaN or an
    /// infinite number; nothing is added then.
    pub fn add(&mut self, x: &[f32], x_hat1: &[f32], x_hat2: &[f32]) -> Result<()> {
        let d = self.d;
        for (what, len, expected) in [
            ("x (a multiple of d)", x.len(), x.len().checked_div(d).unwrap_or(0) * d),
            ("reconstruction of level 1", x_hat1.len(), x.len()),
            ("reconstruction of level 2", x_hat2.len(), x.len()),
        ] {
            if len != expected {
                return Err(Error::Shape { what, expected, got: len });
            }
        }
        for (what, values) in [("x", x), ("reconstruction of level 1", x_hat1), ("reconstruction of level 2", x_hat2)] {
            if !reduce::all_finite(self.isa, values)
                && let Some(at) = values.iter().position(|v| !v.is_finite())
            {
                return Err(Error::NotFinite { what: what.into(), at: At::Token(self.tokens + (at / d) as u64) });
            }
        }
        if x.is_empty() {
            return Ok(());
        }
        let (n, isa) = (x.len() / d, self.isa);
        let Block { mean, spread, norm, mean_error, error } = &mut self.scratch;
        mean.fill(0.0);
        x.chunks_exact(d).for_each(|row| wide::add(isa, row, mean));
        self.x.iter_mut().zip(&*mean).for_each(|(sum, m)| sum.add(*m));
        mean.iter_mut().for_each(|m| *m /= n as f64);
        spread.clear();
        norm.clear();
        for row in x.chunks_exact(d) {
            spread.push(wide::distance_to(isa, row, mean));
            norm.push(wide::sum_squares(isa, row));
        }
        self.x_square.add(sum_of(norm.iter().copied()));
        self.short_tokens += norm.iter().filter(|s| libm::sqrt(**s) < MIN_NORM).count() as u64;
        for (level, hat) in self.levels.iter_mut().zip([x_hat1, x_hat2]) {
            level.add(isa, &Rows { x, d, spread, norm }, hat, Errors { mean: mean_error, one: error });
        }
        self.tokens += n as u64;
        self.blocks += 1;
        Ok(())
    }

    /// Adds the blocks of `other`.
    ///
    /// # Panics
    /// If the dimensions differ.
    pub fn merge(&mut self, other: &Self) {
        assert_eq!(self.d, other.d, "merged accumulators must have one dimension");
        self.tokens += other.tokens;
        self.blocks += other.blocks;
        self.short_tokens += other.short_tokens;
        self.x_square.merge(&other.x_square);
        self.x.iter_mut().zip(&other.x).for_each(|(a, b)| a.merge(b));
        self.levels.iter_mut().zip(&other.levels).for_each(|(a, b)| a.merge(b));
    }

    /// Returns the scores of all blocks added.
    pub fn report(&self) -> FidelityReport {
        let n = self.tokens as f64;
        let mean_square = sum_of(self.x.iter().map(|s| square(s.value()))) / n;
        let variance = self.x_square.value() - mean_square;
        let level = |l: &Level| {
            let (sse, with_norm) = (l.sse.value(), (self.tokens - self.short_tokens) as f64);
            // A spread below the rounding error of the two sums whose difference it is counts as zero.
            let spread = if variance > 1e-14 * self.x_square.value() { variance } else { 0.0 };
            let fvu = if spread > 0.0 { sse / spread } else { f64::NAN };
            LevelFidelity {
                fvu,
                ev: 1.0 - fvu,
                fvu_batch: l.fvu_batch.value() / l.batches as f64,
                fve_var: l.fve_var.value() / l.batches as f64,
                ev_legacy: l.legacy.value() / l.legacies as f64,
                mse: sse / n,
                nmse: l.nmse.value() / with_norm,
                cosine: l.cosine.value() / l.cosines as f64,
                norm_ratio: l.norm_ratio.value() / with_norm,
                tokens_without_cosine: self.tokens - l.cosines,
                constant_blocks: self.blocks - l.batches,
                tokens_at_mean: self.tokens - l.legacies,
            }
        };
        let (sse1, sse2) = (self.levels[0].sse.value(), self.levels[1].sse.value());
        FidelityReport {
            tokens: self.tokens,
            short_tokens: self.short_tokens,
            level1: level(&self.levels[0]),
            level2: level(&self.levels[1]),
            gain: (sse1 - sse2) / sse1,
        }
    }
}

/// The rows of a block, with the numbers that both levels are measured by.
#[derive(Clone, Copy)]
struct Rows<'a> {
    /// `[n, d]`.
    x: &'a [f32],
    d: usize,
    /// `[n]` squared distances to the mean row.
    spread: &'a [f64],
    /// `[n]` squared norms.
    norm: &'a [f64],
}

/// Scratch for the errors of one level, `[d]` each.
struct Errors<'a> {
    mean: &'a mut [f64],
    one: &'a mut Vec<f64>,
}

impl Level {
    /// Adds the reconstruction `hat`, `[n, d]`, of a block.
    fn add(&mut self, isa: Isa, rows: &Rows<'_>, hat: &[f32], errors: Errors<'_>) {
        let (Rows { x, d, spread, norm }, Errors { mean: mean_error, one: difference }) = (*rows, errors);
        let n = spread.len();
        let (mut sse, mut nmse, mut ratio, mut cosine, mut legacy) = (0.0, 0.0, 0.0, 0.0, 0.0);
        mean_error.fill(0.0);
        for (t, (x, hat)) in x.chunks_exact(d).zip(hat.chunks_exact(d)).enumerate() {
            wide::add_difference(isa, hat, x, mean_error);
            let (error, hat_square) = (wide::distance(isa, hat, x), wide::sum_squares(isa, hat));
            sse += error;
            let x_norm = libm::sqrt(norm[t]);
            if x_norm >= MIN_NORM {
                nmse += error / norm[t];
                ratio += libm::sqrt(hat_square) / x_norm;
                if hat_square > 0.0 {
                    cosine += wide::dot(isa, x, hat) / (x_norm * libm::sqrt(hat_square));
                    self.cosines += 1;
                }
            }
            if spread[t] > 0.0 {
                legacy += 1.0 - error / spread[t];
                self.legacies += 1;
            }
        }
        let total = sum_of(spread.iter().copied());
        if total > 0.0 {
            // sum_d Var(e) around the mean error needs a second pass, since a difference of sums would cancel.
            mean_error.iter_mut().for_each(|m| *m /= n as f64);
            let rows = x.chunks_exact(d).zip(hat.chunks_exact(d));
            let around = sum_of(rows.map(|(x, hat)| wide::spread(isa, hat, x, mean_error, difference)));
            self.fvu_batch.add(sse / total);
            self.fve_var.add(1.0 - around / total);
            self.batches += 1;
        }
        let sums = [&mut self.sse, &mut self.nmse, &mut self.norm_ratio, &mut self.cosine, &mut self.legacy];
        sums.into_iter().zip([sse, nmse, ratio, cosine, legacy]).for_each(|(sum, v)| sum.add(v));
    }

    fn merge(&mut self, other: &Self) {
        self.sse.merge(&other.sse);
        self.nmse.merge(&other.nmse);
        self.norm_ratio.merge(&other.norm_ratio);
        self.cosine.merge(&other.cosine);
        self.fvu_batch.merge(&other.fvu_batch);
        self.fve_var.merge(&other.fve_var);
        self.legacy.merge(&other.legacy);
        self.cosines += other.cosines;
        self.batches += other.batches;
        self.legacies += other.legacies;
    }
}

fn square(x: f64) -> f64 {
    x * x
}

fn sum_of(values: impl Iterator<Item = f64>) -> f64 {
    values.sum()
}
