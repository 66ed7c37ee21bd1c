//! Linear probes: which labels can be read from the codes, from how few latents, and what removing those latents does.
//!
//! The definitions are those of SAEBench (Karvonen et al. 2025, arXiv 2503.09532), on rows, or on rows pooled by
//! sequence ([`pool`]), with a probe that is fitted to convergence ([`logistic`]) in place of one that is trained for a
//! number of epochs.
//!
//! | part | question |
//! |---|---|
//! | [`protocol`] | how well do the `k` best latents rank a class, with many and with few examples, as sae-probes measures it? |
//! | [`sparse`] | how well do the `k` best latents distinguish a class from the rest? |
//! | [`erase`] | does removing a class's latents remove that class and nothing else (TPP), or a bias (SCR)? |
//! | [`mdl`] | how many bits do the codes of a token need? |
//! | [`together`] | which directions tell where each of many latents fires? |

use alloc::vec;
use alloc::vec::Vec;

use crate::model::{Codes, CodesView};
use crate::rng::Philox;
use crate::{Error, Result};

pub mod erase;
pub mod logistic;
pub mod mdl;
pub mod protocol;
pub mod sparse;
pub mod together;

/// The random streams of this module, one per use.
const STREAM: u64 = 0x7072_6f62 << 32;
/// Number of blocks of contiguous sequences in a split.
pub const SPLIT_BLOCKS: usize = 50;

/// A binary task: labelled rows to fit on, and others to test on.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Binary {
    /// Rows to fit on.
    pub train: Labelled,
    /// Rows to test on.
    pub test: Labelled,
}

/// Rows and whether each is positive.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Labelled {
    /// Indices of the rows.
    pub row: Vec<u32>,
    /// Whether each row is positive.
    pub label: Vec<bool>,
}

impl Labelled {
    /// Returns the number of rows.
    pub fn len(&self) -> usize {
        self.row.len()
    }

    /// Returns whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.row.is_empty()
    }

    /// Returns the number of positive rows.
    pub fn positives(&self) -> usize {
        self.label.iter().filter(|l| **l).count()
    }

    /// Returns all rows of `candidates` with the rarer label and as many with the other, at most `most` of each, drawn
    /// without replacement, ascending. The accuracy of chance is then 1/2.
    pub fn balanced(candidates: impl Iterator<Item = (u32, bool)>, most: usize, rng: &mut Philox) -> Self {
        let mut kinds = [Vec::new(), Vec::new()];
        candidates.for_each(|(row, label)| kinds[usize::from(label)].push(row));
        let each = kinds[0].len().min(kinds[1].len()).min(most);
        let mut chosen: Vec<(u32, bool)> = Vec::with_capacity(2 * each);
        for (rows, label) in kinds.into_iter().zip([false, true]) {
            chosen.extend(draw(rows, each, rng).into_iter().map(|row| (row, label)));
        }
        chosen.sort_unstable();
        Self { row: chosen.iter().map(|c| c.0).collect(), label: chosen.iter().map(|c| c.1).collect() }
    }
}

/// Draws `n` of `items`, without replacement.
fn draw(mut items: Vec<u32>, n: usize, rng: &mut Philox) -> Vec<u32> {
    for i in 0..n {
        let j = i + rng.below((items.len() - i) as u64) as usize;
        items.swap(i, j);
    }
    items.truncate(n);
    items
}

impl Binary {
    /// Returns the task to tell class `class` from all others, [balanced](Labelled::balanced) on either side of the
    /// split.
    ///
    /// | argument | shape | meaning |
    /// |---|---|---|
    /// | `of` | `[n]` | the class of each row; rows without one are left out |
    /// | `is_test` | `[n]` | whether a row is tested on, else fitted on |
    /// | `most` | | most rows per label to fit on; a quarter of it to test on |
    ///
    /// # Panics
    /// If the lengths differ, or there are more than `2^32` rows.
    pub fn one_against_rest(of: &[Option<u32>], class: u32, is_test: &[bool], most: usize, seed: u64) -> Self {
        assert_eq!(of.len(), is_test.len(), "a side of the split for each row");
        assert!(u32::try_from(of.len()).is_ok(), "expected less than 2^32 rows: take a sample");
        let mut rng = Philox::new(seed, STREAM + u64::from(class));
        let mut side = |test: bool, most| {
            let rows = (0..of.len()).filter(|&i| is_test[i] == test);
            Labelled::balanced(rows.filter_map(|i| of[i].map(|c| (i as u32, c == class))), most, &mut rng)
        };
        Self { train: side(false, most), test: side(true, most.div_ceil(4)) }
    }
}

/// Returns which of `n` contiguous sequences are used for tests: they are cut into [`SPLIT_BLOCKS`] contiguous blocks
/// (as many as there are sequences, if fewer), and `share` of the blocks, at least one and not all, is drawn. Whole
/// blocks are drawn since neighbours in a text resemble each other, and single rows would leak from one side to the
/// other.
pub fn split(n: usize, share: f64, seed: u64) -> Vec<bool> {
    let blocks = n.min(SPLIT_BLOCKS);
    let mut is_test = vec![false; n];
    if blocks < 2 {
        return is_test;
    }
    let tested = (libm::round(share * blocks as f64) as usize).clamp(1, blocks - 1);
    let chosen = draw((0..blocks as u32).collect(), tested, &mut Philox::new(seed, STREAM - 1));
    for b in chosen.into_iter().map(|b| b as usize) {
        is_test[b * n / blocks..(b + 1) * n / blocks].fill(true);
    }
    is_test
}

/// The confusion matrix of a probe.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Answers {
    /// Positive rows called positive.
    pub true_positive: u64,
    /// Negative rows called positive.
    pub false_positive: u64,
    /// Positive rows called negative.
    pub false_negative: u64,
    /// Negative rows called negative.
    pub true_negative: u64,
}

impl Answers {
    /// Counts pairs of a label and a prediction.
    pub fn of(pairs: impl Iterator<Item = (bool, bool)>) -> Self {
        let mut a = Self::default();
        for (label, called) in pairs {
            *match (label, called) {
                (true, true) => &mut a.true_positive,
                (false, true) => &mut a.false_positive,
                (true, false) => &mut a.false_negative,
                (false, false) => &mut a.true_negative,
            } += 1;
        }
        a
    }

    /// Returns `(tp + tn) / n`. 0 to 1, higher is better; NaN without rows.
    pub fn accuracy(&self) -> f64 {
        let right = self.true_positive + self.true_negative;
        right as f64 / (right + self.false_positive + self.false_negative) as f64
    }

    /// Returns `2 tp / (2 tp + fp + fn)`. 0 to 1, higher is better; NaN if nothing is positive and nothing is called
    /// so.
    pub fn f1(&self) -> f64 {
        let twice = 2 * self.true_positive;
        twice as f64 / (twice + self.false_positive + self.false_negative) as f64
    }

    /// Returns `tp / (tp + fp)`; NaN if nothing is called positive.
    pub fn precision(&self) -> f64 {
        self.true_positive as f64 / (self.true_positive + self.false_positive) as f64
    }

    /// Returns `tp / (tp + fn)`; NaN if nothing is positive.
    pub fn recall(&self) -> f64 {
        self.true_positive as f64 / (self.true_positive + self.false_negative) as f64
    }
}

/// Averages rows and codes over the tokens of each sequence, as SAEBench does: `x_s = mean_{t in s} x_t`, and likewise
/// each latent, which counts as 0 where it does not fire. Sums in `f64`, in token order.
///
/// | argument | shape | layout |
/// |---|---|---|
/// | `x` | `[n, d]` | row-major |
/// | `codes` | `[n]` | |
/// | `starts` | `[s]` | first row of each sequence: ascending, from 0, below `n` |
///
/// # Errors
/// [`Error::Shape`] where sizes disagree or `starts` is not as described.
pub fn pool(x: &[f32], d: usize, codes: &CodesView<'_>, starts: &[usize]) -> Result<(Vec<f32>, Codes)> {
    let n = codes.tokens();
    if x.len() != n * d {
        return Err(Error::Shape { what: "numbers of the rows to pool", expected: n * d, got: x.len() });
    }
    let ascending = starts.first().is_none_or(|s| *s == 0) && starts.windows(2).all(|w| w[0] < w[1]);
    if !ascending || starts.last().is_some_and(|s| *s >= n) || starts.is_empty() != (n == 0) {
        let got = starts.last().copied().unwrap_or(0);
        return Err(Error::Shape {
            what: "first rows of sequences (ascending from 0, below the rows)",
            expected: n,
            got,
        });
    }
    let (mut rows, mut pooled) = (Vec::with_capacity(starts.len() * d), Codes::new());
    let (mut sum, mut latent, mut touched) = (vec![0.0f64; d], vec![0.0f64; codes.latents()], Vec::new());
    for (s, &start) in starts.iter().enumerate() {
        let end = starts.get(s + 1).copied().unwrap_or(n);
        let count = (end - start) as f64;
        sum.fill(0.0);
        for t in start..end {
            sum.iter_mut().zip(&x[t * d..(t + 1) * d]).for_each(|(s, x)| *s += f64::from(*x));
            for (j, z) in codes.active(t) {
                if latent[j] == 0.0 {
                    touched.push(j);
                }
                latent[j] += f64::from(z);
            }
        }
        rows.extend(sum.iter().map(|s| (s / count) as f32));
        touched.sort_unstable();
        for j in touched.drain(..) {
            pooled.index.push(j as u32);
            pooled.value.push((latent[j] / count) as f32);
            latent[j] = 0.0;
        }
        pooled.end_row();
    }
    Ok((rows, pooled))
}

/// Returns the codes of both levels as those of one dictionary, the latents of level 1 first.
///
/// # Errors
/// [`Error::Shape`] if the tokens differ.
pub fn joined(codes1: &CodesView<'_>, codes2: &CodesView<'_>) -> Result<Codes> {
    if codes1.tokens() != codes2.tokens() {
        return Err(Error::Shape { what: "tokens of the codes", expected: codes1.tokens(), got: codes2.tokens() });
    }
    let mut codes = Codes::new();
    for t in 0..codes1.tokens() {
        let second = codes2.active(t).map(|(j, z)| (j + codes1.latents(), z));
        for (j, z) in codes1.active(t).chain(second) {
            codes.index.push(j as u32);
            codes.value.push(z);
        }
        codes.end_row();
    }
    Ok(codes)
}

/// Returns `mean_{positive rows} z_j - mean_{negative rows} z_j` of every latent; NaN if there are no positive or no
/// negative rows. Sums in `f64`, in the order of the rows.
///
/// # Errors
/// [`Error::Index`] for a row that the codes do not have.
pub fn mean_difference(codes: &CodesView<'_>, on: &Labelled) -> Result<Vec<f64>> {
    check_rows(on, codes.tokens())?;
    let mut sums = [vec![0.0f64; codes.latents()], vec![0.0f64; codes.latents()]];
    for (&row, &label) in on.row.iter().zip(&on.label) {
        let sums = &mut sums[usize::from(label)];
        codes.active(row as usize).for_each(|(j, z)| sums[j] += f64::from(z));
    }
    let positives = on.positives();
    let [n0, n1] = [on.len() - positives, positives].map(|n| n as f64);
    Ok(sums[1].iter().zip(&sums[0]).map(|(a, b)| a / n1 - b / n0).collect())
}

/// Checks that every row of `on` has a label and is below `n`.
fn check_rows(on: &Labelled, n: usize) -> Result<()> {
    if on.row.len() != on.label.len() {
        return Err(Error::Shape { what: "labels of the rows", expected: on.row.len(), got: on.label.len() });
    }
    match on.row.iter().find(|r| **r as usize >= n) {
        Some(&r) => Err(Error::Index { what: "rows of the examples", index: r as usize, len: n }),
        None => Ok(()),
    }
}
