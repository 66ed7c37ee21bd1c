//! The cost of a reconstruction of the residual stream in the cross-entropy of its language model.

use anyhow::{Result, ensure};

use crate::dump::Dump;
use crate::lm::{Lm, batches, ordered};
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

/// Runs windows of `t` tokens, which follow each other in `ids`, through `lm`, with the residual stream after block
/// `layer` replaced. `replace(x, x_hat1, x_hat2)` gets whole rows of `x` and writes the reconstruction of each level;
/// `mean` is the row for mean ablation. `stays(i, x)` says whether row `i` of `ids` is never replaced. Tokens after the
/// last whole window are left out.
///
/// Windows run on as many threads as the current rayon pool has, `replace` on a pool of one; sums are in the order of
/// the windows, so that the bits are the same for any number of threads.
///
/// # Errors
/// A layer or length out of range; an error of `replace`; a reconstruction that is not finite, by its level; a model
/// that does not have its clean cross-entropy when its own activations are spliced in.
pub fn splice(
    lm: &Lm,
    layer: usize,
    ids: &[u32],
    t: usize,
    replace: impl Fn(&[f32], &mut [f32], &mut [f32]) -> Result<()> + Sync,
    mean: &[f32],
    stays: impl Fn(usize, &[f32]) -> bool + Sync,
) -> Result<SpliceReport> {
    lm.check_layer(layer)?;
    let most = lm.config().n_positions;
    ensure!((2..=most).contains(&t), "a window must have 2 to {most} tokens in {}, found {t}", lm.name());
    lm.check_attention(t, rayon::current_num_threads())?;
    let d = lm.config().n_embd;
    ensure!(mean.len() == d, "the mean row must have the model's width {d}, found {}", mean.len());
    let n_windows = ids.len() / t;
    ensure!(n_windows > 0, "the text has {} tokens, but one window needs {t}", ids.len());
    let batches = batches(n_windows, t);
    let tokens_of = |i: usize| &ids[batches[i].start * t..batches[i].end * t];
    check_identity(lm, layer, tokens_of(0), batches[0].len(), t)?;

    let compute = |i: usize| -> Result<([f64; 6], u64)> {
        let (ids, b) = (tokens_of(i), batches[i].len());
        let x = lm.resid_post(ids, b, t, layer)?;
        let (mut x_hat1, mut x_hat2) = (vec![0.0; x.len()], vec![0.0; x.len()]);
        replace(&x, &mut x_hat1, &mut x_hat2)?;
        for (level, x_hat) in [(1, &x_hat1), (2, &x_hat2)] {
            ensure!(x_hat.iter().all(|v| v.is_finite()), "the reconstruction of level {level} is not finite");
        }
        let nll = |rows: &[f32]| lm.nll_from(layer, rows, ids, b, t);
        let first = batches[i].start * t;
        let staying: Vec<usize> = (0..b * t).filter(|r| stays(first + r, &x[r * d..(r + 1) * d])).collect();
        let of_all = if staying.is_empty() { None } else { Some([nll(&x_hat1)?, nll(&x_hat2)?]) };
        let mut ablated = mean.repeat(b * t);
        for &r in &staying {
            let row = r * d..(r + 1) * d;
            for rows in [&mut x_hat1, &mut x_hat2, &mut ablated] {
                rows[row.clone()].copy_from_slice(&x[row.clone()]);
            }
        }
        let [level1, level2] = [nll(&x_hat1)?, nll(&x_hat2)?];
        let [all1, all2] = of_all.unwrap_or([level1, level2]);
        Ok(([nll(&x)?, level1, level2, nll(&ablated)?, all1, all2], staying.len() as u64))
    };
    let (mut sums, mut rows_left_out) = ([0.0; 6], 0);
    ordered(batches.len(), compute, |_, (part, staying)| {
        sums.iter_mut().zip(part).for_each(|(s, p)| *s += p);
        rows_left_out += staying;
        Ok(())
    })?;
    let n_tokens = (n_windows * (t - 1)) as u64;
    Ok(SpliceReport::new(sums.map(|s| s / n_tokens as f64), n_tokens, rows_left_out))
}

impl SpliceReport {
    /// Computes the scores from the cross-entropies: clean, of level 1, of level 2, of the mean, and of both levels
    /// with all rows replaced.
    fn new([clean, level1, level2, mean_ablated, all1, all2]: [f64; 6], n_tokens: u64, rows_left_out: u64) -> Self {
        let span = mean_ablated - clean;
        let recovered = |ce: f64| if span > 0.0 { (mean_ablated - ce) / span } else { f64::NAN };
        let (recovered1, recovered2) = (recovered(level1), recovered(level2));
        let of_all = [all1, all2];
        Self { clean, level1, level2, mean_ablated, recovered1, recovered2, n_tokens, rows_left_out, of_all }
    }
}

/// Checks that stopping after block `layer` and continuing from there gives the result of one uninterrupted pass.
fn check_identity(lm: &Lm, layer: usize, ids: &[u32], b: usize, t: usize) -> Result<()> {
    let last = lm.config().n_layer - 1;
    let terms = (b * (t - 1)) as f64;
    let clean = lm.nll_from(last, &lm.resid_post(ids, b, t, last)?, ids, b, t)? / terms;
    let spliced = lm.nll_from(layer, &lm.resid_post(ids, b, t, layer)?, ids, b, t)? / terms;
    ensure!(
        (clean - spliced).abs() <= IDENTITY_BOUND,
        "{} gives a cross-entropy of {clean} in one pass, but {spliced} when its own activations are put back after \
         block {layer}",
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
/// One sentence if the rows differ; a layer, length or token id out of range.
pub fn check_window(lm: &Lm, layer: usize, dump: &Dump, first: u64, ids: &[u32]) -> Result<()> {
    lm.check_layer(layer)?;
    let d = lm.config().n_embd;
    ensure!(dump.d() == d, "{} has rows of width {}, and {} has width {d}", dump.name(), dump.d(), lm.name());
    let anew = lm.resid_post(ids, 1, ids.len(), layer)?;
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
        "{} is not the model that {} was captured from: its rows after block {layer} differ from those of the dump by \
         {:.1} % (median of the first window), and the rounding of {} explains {:.1} %; name the right one with --model",
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
    use super::SpliceReport;

    #[test]
    fn recovered_is_nan_where_the_mean_is_no_worse_than_clean() {
        let r = SpliceReport::new([2.0, 3.0, 2.5, 4.0, 3.0, 2.5], 1, 0);
        assert_eq!((r.recovered1, r.recovered2), (0.5, 0.75));
        let r = SpliceReport::new([2.0, 3.0, 2.5, 2.0, 3.0, 2.5], 1, 0);
        assert!(r.recovered1.is_nan() && r.recovered2.is_nan());
    }
}
