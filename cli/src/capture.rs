//! Captures the residual stream of a language model over a text.

use std::path::Path;

use anyhow::{Result, bail, ensure};
use strata_core::Dtype;

use crate::console::{self, Console};
use crate::dump::{DumpSpec, DumpWriter};
use crate::lm::hook::hook_of;
use crate::lm::{Lm, batches, ordered};

/// What to capture.
#[derive(Clone, Debug)]
pub struct CaptureSpec {
    /// The block whose output is captured, counted from 0.
    pub layer: usize,
    /// Tokens per window. The text is cut into windows of this length that do not overlap, in order; the tokens after
    /// the last whole window are dropped.
    pub context: usize,
    /// Begin every window with the BOS token, which counts as one of its tokens.
    pub bos: bool,
    /// Rows left out at the start of every window, where the model has little context.
    pub skip_first: usize,
    /// Most rows, rounded down to whole windows.
    pub max_tokens: Option<u64>,
}

/// A sink for rows, `n_embd` numbers each, and the token of each row.
pub type Sink<'a> = dyn FnMut(&[f32], &[u32]) -> Result<()> + 'a;

/// What was captured.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct CaptureReport {
    /// Windows that were run.
    pub n_windows: u64,
    /// Rows that were given to the sink.
    pub n_rows: u64,
    /// Tokens of the text in these windows, including those at their starts that are left out.
    pub n_tokens: u64,
}

impl CaptureSpec {
    /// Returns the default: windows of the model's longest context, every row, to the end of the text.
    pub fn new(lm: &Lm, layer: usize) -> Self {
        Self { layer, context: lm.config().n_positions, bos: false, skip_first: 0, max_tokens: None }
    }
}

/// Runs `lm` over `text` and gives `sink` the rows after block `spec.layer` and their tokens, in the order of the text,
/// a few windows at a time. `progress(done, total)` counts rows.
///
/// Windows run on as many threads as the current rayon pool has. The rows have the same bits for any number. Memory grows
/// with the number of threads, and by 4 bytes per captured token. No more of the text is encoded than is needed.
///
/// # Errors
/// A layer or context out of range, text that cannot be encoded or is shorter than one window, or what `sink` returned.
pub fn capture(
    lm: &Lm,
    text: &str,
    spec: &CaptureSpec,
    sink: &mut Sink<'_>,
    progress: &dyn Fn(u64, u64),
) -> Result<CaptureReport> {
    lm.check_layer(spec.layer)?;
    let (t, skip, d) = (spec.context, spec.skip_first, lm.config().n_embd);
    let most = lm.config().n_positions;
    ensure!((1..=most).contains(&t), "the context must be from 1 to {most} tokens in {}, found {t}", lm.name());
    ensure!(skip < t, "the tokens skipped in each window must be fewer than its {t}, found {skip}");
    lm.check_attention(t, rayon::current_num_threads())?;
    let bos = if spec.bos { Some(lm.bos()?) } else { None };
    // What a window takes of the text.
    let step = t - usize::from(spec.bos);
    ensure!(step > 0, "a window of 1 token that begins with the token of the beginning has none of the text");
    let kept = t - skip;
    let most_windows =
        spec.max_tokens.map_or(usize::MAX, |max| usize::try_from(max / kept as u64).unwrap_or(usize::MAX));
    if let Some(max) = spec.max_tokens {
        ensure!(most_windows > 0, "a limit of {max} tokens is less than the {kept} rows of one window");
    }
    let ids = lm.encode_first(text, most_windows.saturating_mul(step))?;
    let n_windows = (ids.len() / step).min(most_windows);
    if n_windows == 0 {
        bail!("the text has {} tokens, but one window needs {step}", ids.len());
    }
    let ids = match bos {
        Some(bos) => ids.chunks_exact(step).take(n_windows).flat_map(|w| [&[bos], w].concat()).collect(),
        None => ids,
    };

    let total = (n_windows * kept) as u64;
    let batches = batches(n_windows, t);
    let tokens_of = |i: usize| &ids[batches[i].start * t..batches[i].end * t];
    let compute = |i: usize| lm.resid_post(tokens_of(i), batches[i].len(), t, spec.layer);
    progress(0, total);
    let mut done = 0;
    let (mut kept_rows, mut kept_tokens) = (Vec::new(), Vec::new());
    ordered(batches.len(), compute, |i, rows: Vec<f32>| {
        let tokens = tokens_of(i);
        if skip == 0 {
            sink(&rows, tokens)?;
        } else {
            kept_rows.clear();
            kept_tokens.clear();
            rows.chunks_exact(t * d).for_each(|w| kept_rows.extend_from_slice(&w[skip * d..]));
            tokens.chunks_exact(t).for_each(|w| kept_tokens.extend_from_slice(&w[skip..]));
            sink(&kept_rows, &kept_tokens)?;
        }
        done += (batches[i].len() * kept) as u64;
        progress(done, total);
        Ok(())
    })?;
    Ok(CaptureReport { n_windows: n_windows as u64, n_rows: done, n_tokens: (n_windows * step) as u64 })
}

/// Captures into a dump at `path`, which appears whole or not at all.
///
/// # Errors
/// As [`capture`] and [`DumpWriter`].
pub fn capture_to(
    lm: &Lm,
    text: &str,
    spec: &CaptureSpec,
    dtype: Dtype,
    path: &Path,
    console: &mut Console<'_>,
) -> Result<()> {
    let mut dump = DumpSpec::new(lm.config().n_embd, dtype);
    dump.model = Some(lm.name().to_owned());
    dump.hook = Some(hook_of(spec.layer));
    dump.context = Some(spec.context - spec.skip_first);
    dump.vocab = Some(lm.vocab());
    dump.special_tokens = lm.special_tokens();
    // It may be a token that stands for text too.
    if spec.bos {
        dump.special_tokens.push(lm.bos()?);
        dump.special_tokens.sort_unstable();
        dump.special_tokens.dedup();
    }
    let mut writer = DumpWriter::create(path, dump)?;
    let bar = console.bar("capturing", 0, "tokens");
    let mut sink = |rows: &[f32], tokens: &[u32]| {
        console::check_interrupt()?;
        writer.append(rows, Some(tokens))
    };
    let report = capture(lm, text, spec, &mut sink, &|done, total| {
        bar.set_length(total);
        bar.set_position(done);
    })?;
    bar.finish_and_clear();
    writer.finish()?;
    console.note(format!(
        "captured {} rows of width {} after block {} into {}",
        report.n_rows,
        lm.config().n_embd,
        spec.layer,
        path.display()
    ));
    if console.json {
        console.json(&report)?;
    }
    Ok(())
}
