//! Captures activations of a language model over a text, at one or several hook points in one pass.

use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail, ensure};
use strata_core::Dtype;

use crate::console::{self, Console};
use crate::dump::{DumpSpec, DumpWriter};
use crate::files::MadeDirectories;
use crate::lm::hook::Hook;
use crate::lm::{Lm, ordered};

/// What to capture.
#[derive(Clone, Debug)]
pub struct CaptureSpec {
    /// Where the activations are taken, at one point or several.
    pub hooks: Vec<Hook>,
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

/// Longest window by default. Models state contexts far longer than the windows on which SAEs are trained.
pub const DEFAULT_CONTEXT: usize = 1024;

/// A sink for the rows of each hook point, and the token of each row.
pub type Sink<'a> = dyn FnMut(&[Vec<f32>], &[u32]) -> Result<()> + 'a;

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
    /// Returns the default: windows of the model's longest context, but no more than [`DEFAULT_CONTEXT`]; every row, to the
    /// end of the text.
    pub fn new(lm: &Lm, hooks: &[Hook]) -> Self {
        let context = lm.config().n_positions.min(DEFAULT_CONTEXT);
        Self { hooks: hooks.to_vec(), context, bos: false, skip_first: 0, max_tokens: None }
    }
}

/// Runs `lm` over `text` and gives `sink` the rows of each of `spec.hooks` and their tokens, in the order of the text, a few
/// windows at a time. `progress(done, total)` counts rows.
///
/// Windows run on as many threads as the current rayon pool has. The rows have the same bits for any number. Memory grows
/// with the number of threads, and by 4 bytes per captured token. No more of the text is encoded than is needed.
///
/// # Errors
/// A hook point or context out of range, text that cannot be encoded or is shorter than one window, or what `sink` returned.
pub fn capture(
    lm: &Lm,
    text: &str,
    spec: &CaptureSpec,
    sink: &mut Sink<'_>,
    progress: &dyn Fn(u64, u64),
) -> Result<CaptureReport> {
    ensure!(!spec.hooks.is_empty(), "expected a hook point to capture, found none");
    spec.hooks.iter().try_for_each(|hook| lm.check_hook(*hook))?;
    let (t, skip) = (spec.context, spec.skip_first);
    let most = lm.config().n_positions;
    ensure!((1..=most).contains(&t), "the context must be from 1 to {most} tokens in {}, found {t}", lm.name());
    ensure!(skip < t, "the tokens skipped in each window must be fewer than its {t}, found {skip}");
    lm.check_memory(t, rayon::current_num_threads())?;
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
    let ids: Vec<u32> = match bos {
        Some(bos) => ids.chunks_exact(step).take(n_windows).flat_map(|w| [&[bos][..], w].concat()).collect(),
        None => ids,
    };
    if let Some(last) = spec.hooks.iter().max() {
        lm.read_blocks(*last)?;
    }

    let total = (n_windows * kept) as u64;
    let widths: Vec<usize> = spec.hooks.iter().map(|h| lm.width(*h)).collect();
    let compute = |windows: &Range<usize>| {
        let windows: Vec<&[u32]> = ids[windows.start * t..windows.end * t].chunks_exact(t).collect();
        lm.activations(&windows, &spec.hooks)
    };
    progress(0, total);
    let mut done = 0;
    let jobs = lm.batches(n_windows, t).into_iter().map(Ok);
    ordered(jobs, compute, |windows, mut rows: Vec<Vec<f32>>| {
        let tokens = &ids[windows.start * t..windows.end * t];
        if skip == 0 {
            sink(&rows, tokens)?;
        } else {
            for (rows, d) in rows.iter_mut().zip(&widths) {
                *rows = rows.chunks_exact(t * d).flat_map(|w| w[skip * d..].iter().copied()).collect();
            }
            let tokens: Vec<u32> = tokens.chunks_exact(t).flat_map(|w| w[skip..].iter().copied()).collect();
            sink(&rows, &tokens)?;
        }
        done += (windows.len() * kept) as u64;
        progress(done, total);
        Ok(())
    })?;
    Ok(CaptureReport { n_windows: n_windows as u64, n_rows: done, n_tokens: (n_windows * step) as u64 })
}

/// Captures into dumps, each of which appears whole or not at all: one at `path`, or, of several hook points, one per point in
/// the directory `path`.
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
    let several = spec.hooks.len() > 1;
    // An interrupt removes the directory as long as it is empty.
    let _made = if several { Some(MadeDirectories::all(path)?) } else { None };
    let place = |hook: &Hook| if several { path.join(hook.to_string()) } else { path.to_owned() };
    let paths: Vec<PathBuf> = spec.hooks.iter().map(place).collect();
    let mut writers = Vec::new();
    for (hook, path) in spec.hooks.iter().zip(&paths) {
        let mut dump = DumpSpec::new(lm.width(*hook), dtype);
        dump.model = Some(lm.name().to_owned());
        dump.hook = Some(hook.to_string());
        dump.context = Some(spec.context - spec.skip_first);
        dump.vocab = Some(lm.vocab());
        dump.special_tokens = lm.special_tokens();
        // It may be a token that stands for text too.
        if spec.bos {
            dump.special_tokens.push(lm.bos()?);
            dump.special_tokens.sort_unstable();
            dump.special_tokens.dedup();
        }
        writers.push(DumpWriter::create(path, dump)?);
    }
    let bar = console.bar("capturing", 0, "tokens");
    let mut sink = |rows: &[Vec<f32>], tokens: &[u32]| {
        console::check_interrupt()?;
        writers.iter_mut().zip(rows).try_for_each(|(writer, rows)| writer.append(rows, Some(tokens)))
    };
    let report = capture(lm, text, spec, &mut sink, &|done, total| {
        bar.set_length(total);
        bar.set_position(done);
    })?;
    bar.finish_and_clear();
    for ((writer, hook), path) in writers.into_iter().zip(&spec.hooks).zip(&paths) {
        writer.finish()?;
        console.note(format!(
            "captured {} rows of width {} at {hook} into {}",
            report.n_rows,
            lm.width(*hook),
            path.display()
        ));
    }
    if console.json {
        console.json(&report)?;
    }
    Ok(())
}
