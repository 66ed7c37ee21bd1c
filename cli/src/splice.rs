//! The cost of a reconstruction of the residual stream in the cross-entropy of its language model.

use std::ops::Range;

use anyhow::{Result, bail, ensure};

use crate::dump::Dump;
use crate::lm::hook::{Hook, Point};
use crate::lm::{Lm, log_total, nll, ordered};
use strata_core::Dtype;

/// Splicing the identity must give the clean cross-entropy to this many nats.
const IDENTITY_BOUND: f64 = 1e-6;

/// Mean cross-entropies, in nats per predicted token.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct SpliceReport {
    /// Of the unchanged model.
    pub clean: f64,
    /// With the reconstruction of level 1 in place of the residual stream.
    pub level1: f64,
    /// With the reconstruction of both levels.
    pub level2: f64,
    /// With the mean row in place of every row.
    pub mean_ablated: f64,
    /// With zeros in place of every row.
    pub zero_ablated: f64,
    /// Mean Kullback-Leibler divergence of the predictions with the reconstruction of level 1 from those of the unchanged
    /// model, `KL(clean || spliced)`, in nats per predicted token.
    pub kl1: f64,
    /// The same with the reconstruction of both levels.
    pub kl2: f64,
    /// `(mean_ablated - level1) / (mean_ablated - clean)`: 1 is no loss, 0 is no better than the mean, and less than 0
    /// is worse than the mean. NaN (null in JSON) where the mean is no worse than the clean model: there is then
    /// nothing to recover.
    pub recovered1: f64,
    /// The same of `level2`.
    pub recovered2: f64,
    /// Predicted tokens: all of every window but the first.
    pub n_tokens: u64,
    /// Rows that are never replaced, since the training of the model left them out.
    pub rows_left_out: u64,
    /// `level1` and `level2` with those rows replaced too.
    pub of_all: [f64; 2],
}

/// The cross-entropies of a pass, in the order in which they are summed.
#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    clean: f64,
    level: [f64; 2],
    mean_ablated: f64,
    zero_ablated: f64,
    kl: [f64; 2],
    of_all: [f64; 2],
}

impl Sums {
    fn add(&mut self, other: &Self) {
        self.clean += other.clean;
        self.mean_ablated += other.mean_ablated;
        self.zero_ablated += other.zero_ablated;
        for l in 0..2 {
            self.level[l] += other.level[l];
            self.kl[l] += other.kl[l];
            self.of_all[l] += other.of_all[l];
        }
    }
}

/// Runs windows of `lengths` tokens, which follow each other in `ids`, through `lm`, with the activations at `hook` replaced.
/// `replace(x, x_hat1, x_hat2)` gets whole rows of `x` and writes the reconstruction of each level; `mean` is the row for mean
/// ablation. `stays(i, x)` says whether row `i` of `ids` is never replaced.
///
/// Windows run on as many threads as the current rayon pool has, `replace` on a pool of one; sums are in the order of
/// the windows, so that the bits are the same for any number of threads.
///
/// # Errors
/// A hook point or length out of range; an error of `replace`; a reconstruction that is not finite, by its level; a model
/// that does not have its clean cross-entropy when its own activations are spliced in.
pub fn splice(
    lm: &Lm,
    hook: Hook,
    ids: &[u32],
    lengths: &[usize],
    replace: impl Fn(&[f32], &mut [f32], &mut [f32]) -> Result<()> + Sync,
    mean: &[f32],
    stays: impl Fn(usize, &[f32]) -> bool + Sync,
) -> Result<SpliceReport> {
    lm.check_hook(hook)?;
    let most = lm.config().n_positions;
    if let Some(t) = lengths.iter().find(|t| !(2..=most).contains(*t)) {
        bail!("a window must have 2 to {most} tokens in {}, found {t}", lm.name());
    }
    let longest = lengths.iter().max().copied().unwrap_or(0);
    lm.check_memory(longest, rayon::current_num_threads())?;
    let d = lm.width(hook);
    ensure!(mean.len() == d, "the mean row must have the model's width {d}, found {}", mean.len());
    ensure!(!lengths.is_empty(), "expected a window of tokens, found none");
    let n: usize = lengths.iter().sum();
    ensure!(ids.len() == n, "windows of {n} tokens have as many ids, found {}", ids.len());
    let batches = batches(lm, lengths);
    let first = &batches[0];
    check_identity(lm, hook, &ids[first.rows.clone()], &lengths[first.windows.clone()])?;

    let compute = |batch: &Batch| -> Result<(Sums, u64)> {
        let (lengths, first) = (&lengths[batch.windows.clone()], batch.rows.start);
        let ids = &ids[batch.rows.clone()];
        let (before, x) = rows_at(lm, hook, ids, lengths)?;
        let (mut x_hat1, mut x_hat2) = (vec![0.0; x.len()], vec![0.0; x.len()]);
        replace(&x, &mut x_hat1, &mut x_hat2)?;
        for (level, x_hat) in [(1, &x_hat1), (2, &x_hat2)] {
            ensure!(x_hat.iter().all(|v| v.is_finite()), "the reconstruction of level {level} is not finite");
        }
        let last = |rows: &[f32]| lm.last_stream(hook, &before, rows, lengths);
        let staying: Vec<usize> = (0..ids.len()).filter(|r| stays(first + r, &x[r * d..(r + 1) * d])).collect();
        let of_all = if staying.is_empty() { None } else { Some([last(&x_hat1)?, last(&x_hat2)?]) };
        let (mut ablated, mut zero) = (mean.repeat(ids.len()), vec![0.0; x.len()]);
        for &r in &staying {
            let row = r * d..(r + 1) * d;
            for rows in [&mut x_hat1, &mut x_hat2, &mut ablated, &mut zero] {
                rows[row.clone()].copy_from_slice(&x[row.clone()]);
            }
        }
        let mut streams = vec![last(&x)?, last(&x_hat1)?, last(&x_hat2)?, last(&ablated)?, last(&zero)?];
        streams.extend(of_all.into_iter().flatten());
        Ok((sums_of(lm, &streams, ids, lengths)?, staying.len() as u64))
    };
    let (mut sums, mut rows_left_out) = (Sums::default(), 0);
    ordered(batches.into_iter().map(Ok), compute, |_, (part, staying)| {
        sums.add(&part);
        rows_left_out += staying;
        Ok(())
    })?;
    let n_tokens = (n - lengths.len()) as u64;
    Ok(SpliceReport::new(&sums, n_tokens, rows_left_out))
}

/// Some windows that follow each other, and their rows.
struct Batch {
    windows: Range<usize>,
    rows: Range<usize>,
}

/// Returns the batches in which windows of some lengths are best computed.
fn batches(lm: &Lm, lengths: &[usize]) -> Vec<Batch> {
    let mut batches: Vec<Batch> = Vec::new();
    let mut row = 0;
    for (i, t) in lengths.iter().enumerate() {
        match batches.last_mut().filter(|batch| batch.rows.len() + t <= lm.batch_tokens()) {
            Some(batch) => (batch.windows.end, batch.rows.end) = (i + 1, row + t),
            None => batches.push(Batch { windows: i..i + 1, rows: row..row + t }),
        }
        row += t;
    }
    batches
}

/// Returns the windows of some lengths in `ids`.
fn windows_of<'a>(mut ids: &'a [u32], lengths: &[usize]) -> Vec<&'a [u32]> {
    let mut windows = Vec::with_capacity(lengths.len());
    for t in lengths {
        let (own, rest) = ids.split_at(*t);
        windows.push(own);
        ids = rest;
    }
    windows
}

/// Returns whether each of the tokens in windows of some lengths is followed by another in its window.
fn predicts(lengths: &[usize]) -> Vec<bool> {
    lengths.iter().flat_map(|t| (1..=*t).map(move |i| i < *t)).collect()
}

/// Returns the residual stream before the block of `hook` where it is needed to go on from there, and the rows at `hook`.
fn rows_at(lm: &Lm, hook: Hook, ids: &[u32], lengths: &[usize]) -> Result<(Vec<f32>, Vec<f32>)> {
    let windows = windows_of(ids, lengths);
    let is_stream = matches!(hook.point, Point::ResidPre | Point::ResidPost);
    let hooks = if is_stream { vec![hook] } else { vec![hook, Hook { layer: hook.layer, point: Point::ResidPre }] };
    let mut rows = lm.activations(&windows, &hooks)?;
    let before = rows.drain(1..).next().unwrap_or_default();
    Ok((before, rows.swap_remove(0)))
}

/// Sums over the predicted tokens of windows. `streams` are those after the last block: clean, with each level,
/// with the mean, with zeros, and, where rows stay, with each level in place of all rows.
fn sums_of(lm: &Lm, streams: &[Vec<f32>], ids: &[u32], lengths: &[usize]) -> Result<Sums> {
    let streams: Vec<&[f32]> = streams.iter().map(Vec::as_slice).collect();
    let (mut sums, predicts) = (Sums::default(), predicts(lengths));
    lm.for_logits(&streams, |i, rows| {
        if !predicts[i] {
            return;
        }
        let next = ids[i + 1];
        let clean = rows[0];
        sums.clean += nll(clean, next);
        for l in 0..2 {
            let ce = nll(rows[1 + l], next);
            sums.level[l] += ce;
            sums.kl[l] += divergence(clean, rows[1 + l]);
            sums.of_all[l] += rows.get(5 + l).map_or(ce, |row| nll(row, next));
        }
        sums.mean_ablated += nll(rows[3], next);
        sums.zero_ablated += nll(rows[4], next);
    })?;
    Ok(sums)
}

/// Returns `sum_i p_i (log p_i - log q_i)` of the distributions of two rows of logits, in nats.
fn divergence(p: &[f32], q: &[f32]) -> f64 {
    let (log_p, log_q) = (log_total(p), log_total(q));
    p.iter().zip(q).map(|(p, q)| (f64::from(*p) - log_p).exp() * (f64::from(*p) - log_p - f64::from(*q) + log_q)).sum()
}

impl SpliceReport {
    /// Computes means and scores from sums over `n_tokens` tokens.
    fn new(sums: &Sums, n_tokens: u64, rows_left_out: u64) -> Self {
        let mean = |sum: f64| sum / n_tokens as f64;
        let (clean, mean_ablated) = (mean(sums.clean), mean(sums.mean_ablated));
        let [level1, level2] = sums.level.map(mean);
        let [kl1, kl2] = sums.kl.map(mean);
        let span = mean_ablated - clean;
        let recovered = |ce: f64| if span > 0.0 { (mean_ablated - ce) / span } else { f64::NAN };
        Self {
            clean,
            level1,
            level2,
            mean_ablated,
            zero_ablated: mean(sums.zero_ablated),
            kl1,
            kl2,
            recovered1: recovered(level1),
            recovered2: recovered(level2),
            n_tokens,
            rows_left_out,
            of_all: sums.of_all.map(mean),
        }
    }
}

/// Checks that stopping at `hook` and continuing from there gives the result of one uninterrupted pass.
fn check_identity(lm: &Lm, hook: Hook, ids: &[u32], lengths: &[usize]) -> Result<()> {
    let predicts = predicts(lengths);
    let mean = |stream: &[f32]| -> Result<f64> {
        let mut sum = 0.0;
        lm.for_logits(&[stream], |i, rows| sum += if predicts[i] { nll(rows[0], ids[i + 1]) } else { 0.0 })?;
        Ok(sum / (ids.len() - lengths.len()) as f64)
    };
    let last = Hook::resid_post(lm.config().n_layer() - 1);
    let clean = mean(&lm.activations(&windows_of(ids, lengths), &[last])?[0])?;
    let (before, x) = rows_at(lm, hook, ids, lengths)?;
    let spliced = mean(&lm.last_stream(hook, &before, &x, lengths)?)?;
    ensure!(
        (clean - spliced).abs() <= IDENTITY_BOUND,
        "{} gives a cross-entropy of {clean} in one pass, but {spliced} when its own activations are put back at {hook}",
        lm.name()
    );
    Ok(())
}

/// Largest relative difference between a row of a dump and the same row computed anew, in the median over a window:
/// eight times the rounding of the dump's type; for f32 it covers what other programs compute differently.
fn agreement_bound(dtype: Dtype) -> f64 {
    match dtype {
        Dtype::F32 => 1e-3,
        Dtype::F16 => 8.0 * 2f64.powi(-11),
        Dtype::Bf16 => 8.0 * 2f64.powi(-8),
    }
}

/// Checks that `lm` gives the rows of `dump` from row `first` for the window `ids`: another model of the same sizes
/// would otherwise be accepted silently.
///
/// # Errors
/// One sentence if the rows differ; a hook point, length or token id out of range.
pub fn check_window(lm: &Lm, hook: Hook, dump: &Dump, first: u64, ids: &[u32]) -> Result<()> {
    lm.check_hook(hook)?;
    let d = lm.width(hook);
    ensure!(dump.d() == d, "{} has rows of width {}, and {} has width {d}", dump.name(), dump.d(), lm.name());
    let anew = lm.activations(&[ids], &[hook])?.swap_remove(0);
    let mut stored = vec![0.0; anew.len()];
    dump.read_range(first, ids.len(), &mut stored)?;
    let square = |row: &[f32]| row.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>();
    let off = |(a, b): (&[f32], &[f32])| {
        let difference: f64 = a.iter().zip(b).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum();
        (difference / square(b).max(f64::MIN_POSITIVE)).sqrt()
    };
    // The median is compared, since the first token of a window may have a norm unlike all others.
    let mut off: Vec<f64> = anew.chunks_exact(d).zip(stored.chunks_exact(d)).map(off).collect();
    off.sort_by(f64::total_cmp);
    let (off, bound) = (off[off.len() / 2], agreement_bound(dump.dtype()));
    ensure!(
        off <= bound,
        "{} is not the model that {} was captured from: its rows at {hook} differ from those of the dump by \
         {:.1} % (median of the first window), and the rounding of {} explains {:.1} %; name the right \
         one with --model (a dump without the first rows of its windows, by --skip-first, cannot be spliced: they are the \
         context of the others)",
        lm.name(),
        dump.name(),
        100.0 * off,
        dump.dtype(),
        100.0 * bound
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{SpliceReport, Sums};

    #[test]
    fn recovered_is_nan_where_the_mean_is_no_worse_than_clean() {
        let mut sums = Sums { clean: 2.0, level: [3.0, 2.5], mean_ablated: 4.0, ..Sums::default() };
        let r = SpliceReport::new(&sums, 1, 0);
        assert_eq!((r.recovered1, r.recovered2), (0.5, 0.75));
        sums.mean_ablated = 2.0;
        let r = SpliceReport::new(&sums, 1, 0);
        assert!(r.recovered1.is_nan() && r.recovered2.is_nan());
    }
}
