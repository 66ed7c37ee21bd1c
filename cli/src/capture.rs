//! Captures activations of a language model over a text, at one or several hook points in one pass.

mod windows;

use std::cell::Cell;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail, ensure};
use strata_core::Dtype;

use crate::console::{self, Console};
use crate::corpus::Corpus;
use crate::dump::{DumpSpec, DumpWriter};
use crate::files::MadeDirectories;
use crate::lm::hook::Hook;
use crate::lm::{Lm, ordered};
use windows::{Cut, Windows};

/// What to capture.
#[derive(Clone, Debug)]
pub struct CaptureSpec {
    /// Where the activations are taken, at one point or several.
    pub hooks: Vec<Hook>,
    /// Tokens per window. The text is cut into windows of this length that do not overlap, in order; the tokens after
    /// the last whole window are dropped.
    pub context: usize,
    /// Begin every window and every document with the BOS token, which counts as one of the tokens of a window.
    pub bos: bool,
    /// Begin a new window with every document. The last window of a document may then be shorter.
    pub per_document: bool,
    /// Rows left out at the start of every window, where the model has little context.
    pub skip_first: usize,
    /// Most rows, rounded down to whole windows.
    pub max_tokens: Option<u64>,
}

/// Longest window by default. Models state contexts far longer than the windows on which SAEs are trained.
pub const DEFAULT_CONTEXT: usize = 1024;

/// Some windows of what was captured.
#[derive(Clone, Copy, Debug)]
pub struct Captured<'a> {
    /// The rows of each hook point.
    pub rows: &'a [Vec<f32>],
    /// The token of each row.
    pub tokens: &'a [u32],
    /// How many rows each window has.
    pub windows: &'a [usize],
}

/// A sink for rows.
pub type Sink<'a> = dyn FnMut(Captured<'_>) -> Result<()> + 'a;

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
        Self { hooks: hooks.to_vec(), context, bos: false, per_document: false, skip_first: 0, max_tokens: None }
    }
}

/// Runs `lm` over the documents of `corpus` and gives `sink` the rows of each of `spec.hooks` and their tokens, in order, a few
/// windows at a time. `progress(done, expected)` counts rows; how many there will be is an estimate until the last.
///
/// Windows run on as many threads as the current rayon pool has. The rows have the same bits for any number. Memory grows
/// with the number of threads, not with the text, of which no more is encoded than is needed.
///
/// # Errors
/// A hook point or context out of range, text that cannot be encoded or is shorter than one window, or what `sink` returned.
pub fn capture(
    lm: &Lm,
    corpus: &Corpus,
    spec: &CaptureSpec,
    sink: &mut Sink<'_>,
    progress: &dyn Fn(u64, u64),
) -> Result<CaptureReport> {
    check(lm, spec)?;
    let (t, skip) = (spec.context, spec.skip_first);
    lm.check_memory(t, rayon::current_num_threads())?;
    let bos = if spec.bos { Some(lm.bos()?) } else { None };
    // What a window takes of the text.
    let step = t - usize::from(spec.bos);
    ensure!(step > 0, "a window of 1 token that begins with the token of the beginning has none of the text");
    let limit = spec.max_tokens.unwrap_or(u64::MAX);
    let kept = (t - skip) as u64;
    ensure!(
        limit >= kept,
        "a limit of {limit} tokens (--max-tokens) is less than the {kept} rows of one window; give shorter windows with \
         --context"
    );
    if let Some(last) = spec.hooks.iter().max() {
        lm.read_blocks(*last)?;
    }

    let cut = Cut { context: t, bos, per_document: spec.per_document, skip_first: skip };
    let mut windows = Windows::new(lm, corpus, cut);
    let expected = Cell::new(limit.min(corpus.n_bytes()));
    let jobs = batches(&mut windows, skip, limit, lm.batch_tokens(), corpus.n_bytes(), &expected);
    let widths: Vec<usize> = spec.hooks.iter().map(|h| lm.width(*h)).collect();
    let compute = |windows: &Vec<Vec<u32>>| {
        let windows: Vec<&[u32]> = windows.iter().map(Vec::as_slice).collect();
        lm.activations(&windows, &spec.hooks)
    };
    progress(0, expected.get());
    let mut report = CaptureReport { n_windows: 0, n_rows: 0, n_tokens: 0 };
    ordered(jobs, compute, |windows, mut rows: Vec<Vec<f32>>| {
        for (rows, d) in rows.iter_mut().zip(&widths).filter(|_| skip > 0) {
            let mut all = rows.as_slice();
            let mut kept = Vec::with_capacity(rows.len());
            for window in &windows {
                let (own, rest) = all.split_at(window.len() * d);
                kept.extend_from_slice(&own[skip * d..]);
                all = rest;
            }
            *rows = kept;
        }
        let tokens: Vec<u32> = windows.iter().flat_map(|w| w[skip..].iter().copied()).collect();
        let lengths: Vec<usize> = windows.iter().map(|w| w.len() - skip).collect();
        sink(Captured { rows: &rows, tokens: &tokens, windows: &lengths })?;
        let n_bos = windows.iter().flatten().filter(|id| Some(**id) == bos).count();
        report.n_windows += windows.len() as u64;
        report.n_rows += tokens.len() as u64;
        report.n_tokens += windows.iter().map(|w| w.len() as u64).sum::<u64>() - n_bos as u64;
        progress(report.n_rows, expected.get().max(report.n_rows));
        Ok(())
    })?;
    if report.n_windows == 0 {
        bail!(
            "the text has {} tokens, but one window needs {step}; give shorter windows with --context",
            windows.n_tokens
        );
    }
    progress(report.n_rows, report.n_rows);
    Ok(report)
}

/// Checks the hook points of `spec` and the size of its windows.
fn check(lm: &Lm, spec: &CaptureSpec) -> Result<()> {
    ensure!(!spec.hooks.is_empty(), "expected a hook point to capture, found none");
    spec.hooks.iter().try_for_each(|hook| lm.check_hook(*hook))?;
    let (t, skip, most) = (spec.context, spec.skip_first, lm.config().n_positions);
    ensure!((1..=most).contains(&t), "the context must be from 1 to {most} tokens in {}, found {t}", lm.name());
    ensure!(skip < t, "the tokens skipped in each window (--skip-first) must be fewer than its {t}, found {skip}");
    Ok(())
}

/// Groups windows into batches of about `most` tokens, until the next would make more than `limit` rows. `expected` becomes an
/// estimate of the rows of the whole text of `n_bytes`.
fn batches<'a>(
    windows: &'a mut Windows<'_>,
    skip: usize,
    limit: u64,
    most: usize,
    n_bytes: u64,
    expected: &'a Cell<u64>,
) -> impl Iterator<Item = Result<Vec<Vec<u32>>>> + 'a {
    let (mut n_rows, mut has_ended, mut held) = (0, false, None);
    std::iter::from_fn(move || {
        let (mut batch, mut n_tokens) = (Vec::new(), 0);
        while !has_ended {
            let window = match held.take().map_or_else(|| windows.next().transpose(), |w| Ok(Some(w))) {
                Err(error) => return Some(Err(error)),
                Ok(window) => window.filter(|w: &Vec<u32>| n_rows + (w.len() - skip) as u64 <= limit),
            };
            let Some(window) = window else {
                has_ended = true;
                break;
            };
            if n_tokens > 0 && n_tokens + window.len() > most {
                held = Some(window);
                break;
            }
            n_rows += (window.len() - skip) as u64;
            n_tokens += window.len();
            batch.push(window);
        }
        // All that was read so far made these rows.
        let whole = n_rows as f64 * n_bytes as f64 / windows.n_bytes.max(1) as f64;
        expected.set(if has_ended { n_rows } else { (whole as u64).max(n_rows).min(limit) });
        (!batch.is_empty()).then_some(Ok(batch))
    })
}

/// Captures into dumps, each of which appears whole or not at all: one at `path`, or, of several hook points, one per point in
/// the directory `path`.
///
/// # Errors
/// As [`capture`] and [`DumpWriter`].
pub fn capture_to(
    lm: &Lm,
    corpus: &Corpus,
    spec: &CaptureSpec,
    dtype: Dtype,
    path: &Path,
    console: &mut Console<'_>,
) -> Result<()> {
    check(lm, spec)?;
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
        dump.context = (!spec.per_document).then_some(spec.context - spec.skip_first);
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
    let mut sink = |found: Captured<'_>| {
        console::check_interrupt()?;
        for (writer, rows) in writers.iter_mut().zip(found.rows) {
            if !spec.per_document {
                writer.append(rows, Some(found.tokens))?;
                continue;
            }
            let d = rows.len() / found.tokens.len();
            let mut from = 0;
            for n in found.windows {
                writer.start_sequence();
                writer.append(&rows[from * d..(from + n) * d], Some(&found.tokens[from..from + n]))?;
                from += n;
            }
        }
        Ok(())
    };
    let report = capture(lm, corpus, spec, &mut sink, &|done, total| {
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
