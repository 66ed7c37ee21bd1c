//! `strata inspect`: statistics of a dump from one pass over its rows, and whether it can be trained on.

use std::io::{self, Write};

use anyhow::Result;
use serde::Serialize;
use strata_core::{Dtype, Par};

use crate::dump::Dump;
use crate::escape::escaped;
use crate::health::{self, zero_tail};
use crate::report::number::{percent, show};

/// Rows per chunk of work; fixed, so that the sums do not depend on the number of threads.
const CHUNK: usize = 1024;
/// Chunks whose sums are in memory at once.
const GROUP: usize = 32;
/// Norms kept for an exact median: 64 MiB of them.
const EXACT: u64 = 1 << 24;
/// Bits of a norm that the histogram ignores: 2048 bins per octave, each 0.05 % wide.
const DROPPED_BITS: u32 = 12;

/// A column is dominant if it has at least this share of the variance, and ten times the share of an average one.
const DOMINANT_SHARE: f64 = 0.05;
/// Dominant columns that are named.
const MOST_DOMINANT: usize = 5;
/// A larger median norm is not one of activations: the bytes are probably of another type.
const LARGEST_MEDIAN: f64 = 1e10;

/// The findings of [`inspect`].
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Inspection {
    /// The name of the dump.
    pub name: String,
    /// Rows of the dump.
    pub n_rows: u64,
    /// Width of a row.
    pub d: usize,
    /// Type of the stored numbers.
    pub dtype: Dtype,
    /// Bytes of all rows.
    pub n_bytes: u64,
    /// Files with rows.
    pub n_shards: usize,
    /// The model that the rows come from.
    pub model: Option<String>,
    /// The hook point in the model.
    pub hook: Option<String>,
    /// Whether every row has a token id.
    pub has_tokens: bool,
    /// Sequences, where they are known.
    pub n_sequences: Option<u64>,
    /// Rows per sequence, where all sequences have the same number.
    pub context: Option<usize>,
    /// Number of texts of token ids, if there are any.
    pub n_vocab: Option<usize>,
    /// The first row whose token id has no text, and the id.
    pub first_token_without_text: Option<(u64, u32)>,
    /// Number of rows that were read, from the first on: all of them, or the limit.
    pub n_inspected: u64,
    /// Rows with NaN or an infinity. The statistics below leave them out.
    pub n_not_finite: u64,
    /// The first such number.
    pub first_not_finite: Option<Location>,
    /// `mean_i ||x_i||`.
    pub mean_norm: f64,
    /// The median of `||x_i||`.
    pub median_norm: f64,
    /// Whether the median is exact; otherwise it is the middle of a histogram bin 0.05 % wide.
    pub median_is_exact: bool,
    /// The smallest `||x_i||`.
    pub min_norm: f64,
    /// The largest `||x_i||`.
    pub max_norm: f64,
    /// Rows that are all zeros.
    pub n_zero: u64,
    /// Those of them at the end of the dump, without another row after them; 0 where not all rows were read.
    pub n_zero_tail: u64,
    /// Rows with a norm over ten times the median, none where that is 0: with the default `data.outlier`, training and
    /// evaluation leave them out.
    pub n_outliers: u64,
    /// Columns that have the same number in every row.
    pub n_constant_columns: usize,
    /// The columns with the most of `total_variance`, if single columns have much of it.
    pub dominant_columns: Vec<Dominant>,
    /// The first two files that contain the same rows, if there are any.
    pub equal_shards: Option<[String; 2]>,
    /// `||mean_i x_i||`, without the `n_outliers` rows.
    pub norm_of_mean: f64,
    /// `norm_of_mean / median_norm`; none where the median is 0.
    pub norm_of_mean_to_median: Option<f64>,
    /// `sum_j var_i(x_ij)`, without the `n_outliers` rows.
    pub total_variance: f64,
    /// Whether the dump can be trained on.
    pub is_ready: bool,
    /// The most serious fault, in one sentence, or `ready to train on`.
    pub verdict: String,
    /// Notes that do not stop a training, one sentence each.
    pub notes: Vec<String>,
}

/// A column and its share of the total variance.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Dominant {
    /// The column.
    pub column: usize,
    /// `var(x_j) / sum_i var(x_i)`.
    pub share: f64,
}

/// A number in a dump.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Location {
    /// The file.
    pub shard: String,
    /// Its row in the file.
    pub row: usize,
    /// Its column.
    pub column: usize,
}

/// Sums over the finite rows of a chunk.
struct Chunk {
    norms: Vec<f32>,
    sum: Vec<f64>,
    square: Vec<f64>,
    norm: f64,
    /// Its first row, and the columns in which another row differs from it.
    first: Vec<f32>,
    varies: Vec<bool>,
    n_not_finite: u64,
    first_not_finite: Option<Location>,
}

fn inspect_chunk(dump: &Dump, start: u64, n: usize) -> Result<Chunk> {
    let d = dump.d();
    let mut chunk = Chunk {
        norms: Vec::with_capacity(n),
        sum: vec![0.0; d],
        square: vec![0.0; d],
        norm: 0.0,
        first: Vec::new(),
        varies: vec![false; d],
        n_not_finite: 0,
        first_not_finite: None,
    };
    let mut row = vec![0.0_f32; d];
    dump.for_views(start, n, |rows, place| {
        for i in 0..rows.n() {
            if let Some((_, column)) = rows.slice(i..i + 1).first_not_finite() {
                chunk.n_not_finite += 1;
                chunk.first_not_finite.get_or_insert_with(|| Location {
                    shard: place.path.display().to_string(),
                    row: place.first + i,
                    column,
                });
                continue;
            }
            rows.widen_row(i, &mut row);
            if chunk.first.is_empty() {
                chunk.first.clone_from(&row);
            }
            let mut square = 0.0;
            for ((sum, of_column), &v) in chunk.sum.iter_mut().zip(&mut chunk.square).zip(&row) {
                let v = f64::from(v);
                *sum += v;
                *of_column += v * v;
                square += v * v;
            }
            chunk.varies.iter_mut().zip(&chunk.first).zip(&row).for_each(|((varies, a), b)| *varies |= a != b);
            chunk.norm += square.sqrt();
            chunk.norms.push(square.sqrt() as f32);
        }
    })?;
    Ok(chunk)
}

/// Sums over rows, by column.
struct Moments {
    n: u64,
    sum: Vec<f64>,
    square: Vec<f64>,
}

/// Sums the finite ones of the first `n_rows` rows whose norm is at most `limit`.
fn moments_within(dump: &Dump, n_rows: u64, limit: f64) -> Result<Moments> {
    let d = dump.d();
    let mut all = Moments { n: 0, sum: vec![0.0; d], square: vec![0.0; d] };
    for start in (0..n_rows).step_by(CHUNK * GROUP) {
        let n_group = (n_rows - start).min((CHUNK * GROUP) as u64) as usize;
        let parts = Par::Rayon.map(n_group.div_ceil(CHUNK), |c| -> Result<Moments> {
            let mut part = Moments { n: 0, sum: vec![0.0; d], square: vec![0.0; d] };
            let mut row = vec![0.0_f32; d];
            dump.for_views(start + (c * CHUNK) as u64, CHUNK.min(n_group - c * CHUNK), |rows, _| {
                for i in 0..rows.n() {
                    rows.widen_row(i, &mut row);
                    let norm = row.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt() as f32;
                    // False for what is not finite too.
                    if f64::from(norm) <= limit {
                        part.n += 1;
                        for ((sum, square), v) in part.sum.iter_mut().zip(&mut part.square).zip(&row) {
                            let v = f64::from(*v);
                            *sum += v;
                            *square += v * v;
                        }
                    }
                }
            })?;
            Ok(part)
        });
        for part in parts {
            let part = part?;
            all.n += part.n;
            all.sum.iter_mut().zip(&part.sum).for_each(|(a, b)| *a += b);
            all.square.iter_mut().zip(&part.square).for_each(|(a, b)| *a += b);
        }
    }
    Ok(all)
}

/// The norms: all of them, or counts per bin.
enum Norms {
    All(Vec<f32>),
    Bins(Vec<u64>),
}

impl Norms {
    fn add(&mut self, norms: &[f32]) {
        match self {
            Self::All(all) => all.extend_from_slice(norms),
            Self::Bins(bins) => norms.iter().for_each(|n| bins[(n.to_bits() >> DROPPED_BITS) as usize] += 1),
        }
    }

    /// Returns the median, and the number of norms above ten times the median.
    fn median_and_outliers(&mut self) -> (f64, u64) {
        match self {
            Self::All(all) if all.is_empty() => (0.0, 0),
            Self::All(all) => {
                let middle = all.len() / 2;
                let is_odd = all.len() % 2 == 1;
                let (below, &mut upper, _) = all.select_nth_unstable_by(middle, f32::total_cmp);
                let lower = if is_odd { upper } else { below.iter().copied().fold(0.0, f32::max) };
                let median = (f64::from(lower) + f64::from(upper)) / 2.0;
                (median, all.iter().filter(|&&n| median > 0.0 && f64::from(n) > 10.0 * median).count() as u64)
            }
            Self::Bins(bins) => {
                let total: u64 = bins.iter().sum();
                let mut seen = 0;
                let bin = bins.iter().position(|n| {
                    seen += n;
                    seen > total / 2
                });
                let centre =
                    |bin: usize| f64::from(f32::from_bits((bin as u32) << DROPPED_BITS | 1 << (DROPPED_BITS - 1)));
                let median = bin.map_or(0.0, centre);
                let above = bins.iter().enumerate().filter(|&(b, &n)| n > 0 && centre(b) > 10.0 * median);
                (median, above.map(|(_, n)| n).sum())
            }
        }
    }
}

/// Reads the rows of `dump` once, or the first `limit_rows` of them, on the current rayon pool.
///
/// Numbers that are not finite are counted, not an error. Memory does not grow with the rows, beyond 64 MiB.
///
/// # Errors
/// If the files can no longer be read.
pub fn inspect(dump: &Dump, limit_rows: Option<u64>) -> Result<Inspection> {
    inspect_with(dump, limit_rows, EXACT)
}

/// [`inspect`] of every row, with the rows of each piece reported to `progress`.
///
/// # Errors
/// As [`inspect`], and those of `progress`.
pub fn inspect_with_progress(dump: &Dump, progress: impl FnMut(u64) -> Result<()>) -> Result<Inspection> {
    look(dump, None, EXACT, progress)
}

/// [`inspect`] with a median that is exact for at most `most_exact` rows.
///
/// # Errors
/// As [`inspect`].
pub fn inspect_with(dump: &Dump, limit_rows: Option<u64>, most_exact: u64) -> Result<Inspection> {
    look(dump, limit_rows, most_exact, |_| Ok(()))
}

fn look(
    dump: &Dump,
    limit_rows: Option<u64>,
    most_exact: u64,
    mut progress: impl FnMut(u64) -> Result<()>,
) -> Result<Inspection> {
    let (d, n_inspected) = (dump.d(), limit_rows.unwrap_or(u64::MAX).min(dump.n_rows()));
    let median_is_exact = n_inspected <= most_exact;
    let mut norms = match median_is_exact {
        true => Norms::All(Vec::new()),
        false => Norms::Bins(vec![0; 1 << (31 - DROPPED_BITS)]),
    };
    let (mut sum, mut square, mut norm) = (vec![0.0; d], vec![0.0; d], 0.0);
    let (mut first, mut varies) = (Vec::new(), vec![false; d]);
    let (mut min_norm, mut max_norm, mut n_zero, mut n_finite) = (f32::INFINITY, 0.0_f32, 0, 0_u64);
    let (mut n_not_finite, mut first_not_finite) = (0, None);
    let mut start = 0;
    while start < n_inspected {
        let n_group = (n_inspected - start).min((CHUNK * GROUP) as u64) as usize;
        let chunks = Par::Rayon.map(n_group.div_ceil(CHUNK), |c| {
            inspect_chunk(dump, start + (c * CHUNK) as u64, CHUNK.min(n_group - c * CHUNK))
        });
        for chunk in chunks {
            let chunk = chunk?;
            norms.add(&chunk.norms);
            for &n in &chunk.norms {
                min_norm = min_norm.min(n);
                max_norm = max_norm.max(n);
                n_zero += u64::from(n == 0.0);
            }
            n_finite += chunk.norms.len() as u64;
            sum.iter_mut().zip(&chunk.sum).for_each(|(a, b)| *a += b);
            square.iter_mut().zip(&chunk.square).for_each(|(a, b)| *a += b);
            norm += chunk.norm;
            if first.is_empty() {
                first.clone_from(&chunk.first);
            }
            for (j, varies) in varies.iter_mut().enumerate().take(chunk.first.len()) {
                *varies |= chunk.varies[j] || chunk.first[j] != first[j];
            }
            n_not_finite += chunk.n_not_finite;
            first_not_finite = first_not_finite.or(chunk.first_not_finite);
        }
        start += n_group as u64;
        progress(n_group as u64)?;
    }

    let (median_norm, n_outliers) = norms.median_and_outliers();
    let mean_norm = norm / n_finite.max(1) as f64;
    let mut count = n_finite.max(1) as f64;
    // Some rows of a hundred times the norm have most of the variance: what training sees is measured without them.
    if n_outliers > 0 {
        let kept = moments_within(dump, n_inspected, 10.0 * median_norm)?;
        (count, sum, square) = (kept.n.max(1) as f64, kept.sum, kept.square);
    }
    let square_of_mean: f64 = sum.iter().map(|s| (s / count).powi(2)).sum();
    let norm_of_mean = square_of_mean.sqrt();
    let total_variance = (square.iter().sum::<f64>() / count - square_of_mean).max(0.0);
    let variance = |j: usize| (square[j] / count - (sum[j] / count).powi(2)).max(0.0);
    let shares =
        (0..d).map(|column| Dominant { column, share: variance(column) / total_variance.max(f64::MIN_POSITIVE) });
    let least = DOMINANT_SHARE.max(10.0 / d as f64);
    let mut dominant_columns: Vec<Dominant> = shares.filter(|c| c.share >= least).collect();
    dominant_columns.sort_by(|a, b| b.share.total_cmp(&a.share));
    dominant_columns.truncate(MOST_DOMINANT);
    let equal = dump.equal_shards().map(|(a, b)| [a, b].map(|p| p.display().to_string()));
    let first_token_without_text = dump.tokens().zip(dump.vocab()).and_then(|(tokens, vocab)| {
        let at = tokens.iter().position(|&t| t as usize >= vocab.len())?;
        Some((at as u64, tokens[at]))
    });
    let mut found = Inspection {
        name: dump.name().into(),
        n_rows: dump.n_rows(),
        d,
        dtype: dump.dtype(),
        n_bytes: dump.n_bytes(),
        n_shards: dump.n_shards(),
        model: dump.model().map(Into::into),
        hook: dump.hook().map(Into::into),
        has_tokens: dump.tokens().is_some(),
        n_sequences: dump.sequence_starts().map(|s| s.len() as u64),
        context: dump.context(),
        n_vocab: dump.vocab().map(<[String]>::len),
        first_token_without_text,
        n_inspected,
        n_not_finite,
        first_not_finite,
        mean_norm,
        median_norm,
        median_is_exact,
        min_norm: if n_finite == 0 { 0.0 } else { min_norm.into() },
        max_norm: max_norm.into(),
        n_zero,
        n_zero_tail: if n_inspected == dump.n_rows() { zero_tail(dump)? } else { 0 },
        n_outliers,
        n_constant_columns: if n_finite > 1 { varies.iter().filter(|v| !**v).count() } else { 0 },
        dominant_columns,
        equal_shards: equal,
        norm_of_mean,
        norm_of_mean_to_median: (median_norm > 0.0).then(|| norm_of_mean / median_norm),
        total_variance,
        is_ready: false,
        verdict: String::new(),
        notes: Vec::new(),
    };
    if n_inspected == dump.n_rows() {
        found.notes = health::unfilled_files(dump)?;
    }
    found.notes.extend(what_to_know(&found));
    let wrong = what_is_wrong(&found, dump.source().raw.is_some());
    found.is_ready = wrong.is_none();
    found.verdict = wrong.unwrap_or_else(|| "ready to train on".into());
    Ok(found)
}

/// Returns the most serious fault, in one sentence.
fn what_is_wrong(i: &Inspection, is_raw: bool) -> Option<String> {
    let n = i.n_inspected;
    let another_type =
        if is_raw { "are the numbers f64, or of another type than --dtype says?" } else { "are the numbers f64?" };
    if let Some(Location { shard, row, column }) = &i.first_not_finite {
        let count = i.n_not_finite;
        return Some(format!(
            "{count} of {n} rows hold NaN or infinity, the first in `{shard}` at row {row}, column {column}: capture \
             again in bf16 or f32, or leave those rows out{}",
            if is_raw { format!("; {another_type}") } else { String::new() }
        ));
    }
    if let Some((row, token)) = i.first_token_without_text {
        let n_vocab = i.n_vocab.unwrap_or(0);
        return Some(format!("row {row} has token {token}, but the vocabulary has only {n_vocab} texts"));
    }
    if let Some([a, b]) = &i.equal_shards {
        return Some(format!(
            "`{a}` and `{b}` hold the same rows, which would be held out and trained on: leave one out"
        ));
    }
    if n == 1 {
        return Some("there is only one row, so that there is nothing to learn".into());
    }
    // The sums are in f64 and the numbers have at most 24 bits: a variance below this is rounding error.
    if i.total_variance <= 1e-12 * (i.norm_of_mean * i.norm_of_mean) {
        return Some(format!("all {n} rows are equal, so that there is nothing to learn"));
    }
    if let Some(sentence) = health::zeros(i.n_zero_tail, i.n_rows) {
        return Some(sentence);
    }
    if i.median_norm > LARGEST_MEDIAN {
        return Some(format!("the median norm is {}: {another_type}", show(i.median_norm)));
    }
    if i.n_zero * 2 > n {
        return Some(format!("{} of {n} rows are all zeros: were padding tokens captured?", i.n_zero));
    }
    if i.n_rows < i.d as u64 {
        return Some(format!("there are only {} rows for {} dimensions: capture more", i.n_rows, i.d));
    }
    None
}

/// Returns the notes that do not stop a training, one sentence each.
fn what_to_know(i: &Inspection) -> Vec<String> {
    let mut notes = Vec::new();
    match i.n_constant_columns {
        0 => {}
        1 => notes.push("1 column is the same number in every row".into()),
        n => notes.push(format!("{n} columns are the same number in every row")),
    }
    if !i.dominant_columns.is_empty() {
        let of = |c: &Dominant| format!("column {} has {}", c.column, percent(c.share));
        let list: Vec<String> = i.dominant_columns.iter().map(of).collect();
        notes.push(format!("few columns dominate: {} of the variance; the loss is mostly theirs", list.join(", ")));
    }
    if i.n_zero > i.n_zero_tail && i.n_zero * 2 <= i.n_inspected {
        notes.push(format!("{} rows are all zeros: were padding tokens captured?", i.n_zero));
    }
    notes
}

/// Prints `i` as a table.
///
/// # Errors
/// Those of `out`.
pub fn print(i: &Inspection, out: &mut impl Write) -> io::Result<()> {
    let mut line = |name: &str, value: String| writeln!(out, "{name:<16}{}", escaped(&value));
    let bytes = i.n_bytes as f64;
    let size = match i.n_bytes {
        ..1_000_000 => format!("{:.1} kB", bytes / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", bytes / 1e6),
        _ => format!("{:.1} GB", bytes / 1e9),
    };
    line("dump", i.name.clone())?;
    let stored = match i.n_shards {
        0 => "drawn when they are read".into(),
        n => format!("{size} in {n} file(s)"),
    };
    line("rows x width", format!("{} x {} {}, {stored}", i.n_rows, i.d, i.dtype))?;
    if let Some(model) = &i.model {
        line("from", format!("{model}{}", i.hook.as_ref().map_or(String::new(), |h| format!(", {h}"))))?;
    }
    let tokens = match (i.has_tokens, i.n_vocab) {
        (false, _) => "none".into(),
        (true, None) => "one per row, without texts".into(),
        (true, Some(n)) => format!("one per row, {n} texts"),
    };
    line("tokens", tokens)?;
    if let Some(n) = i.n_sequences {
        line("sequences", format!("{n}{}", i.context.map_or(String::new(), |c| format!(" of {c} rows"))))?;
    }
    if i.n_inspected < i.n_rows {
        line("looked at", format!("the first {} rows", i.n_inspected))?;
    }
    line("mean norm", show(i.mean_norm))?;
    let note = if i.median_is_exact { "" } else { " (from a histogram, within 0.05 %)" };
    line("median norm", format!("{}{note}", show(i.median_norm)))?;
    line("norms from, to", format!("{}, {}", show(i.min_norm), show(i.max_norm)))?;
    let fate = match i.n_outliers {
        0 => "",
        _ => "; training and evaluation leave them out, see `data.outlier`, and so do the next two lines",
    };
    line("outlier rows", format!("{} (over ten times the median norm{fate})", i.n_outliers))?;
    let ratio = i.norm_of_mean_to_median.map_or(String::new(), |r| format!(", {} of the median norm", show(r)));
    line("norm of mean", format!("{}{ratio}", show(i.norm_of_mean)))?;
    line("total variance", show(i.total_variance))?;
    line("zero rows", i.n_zero.to_string())?;
    line("not finite", format!("{} row(s)", i.n_not_finite))?;
    i.notes.iter().try_for_each(|note| line("note", note.clone()))?;
    line("verdict", i.verdict.clone())
}
