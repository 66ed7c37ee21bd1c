//! The cache of activations from which delphi explains latents: a directory per level, named by the hook point of the
//! dump as in `blocks.3.hook_resid_post.level1` (other characters than letters, digits, `.`, `-` and `_` become `_`;
//! `level1` alone where the dump has no hook point), with files `FIRST_LAST.safetensors`, one per range of latents, and
//! `config.json`. Give the directory above them to `LatentDataset` as `raw_dir`.
//!
//! The entries of a file are in the order of rows and, within a row, of latents:
//!
//! - `locations [nnz, 3]`: sequence, row within it, latent minus `FIRST`; u16 where all of them fit, otherwise u32;
//! - `activations [nnz]`: f32, all that are above 0 (delphi writes f16, but reads both);
//! - `tokens [sequences, length]`: u32, in every file, as delphi takes them from whichever it reads first.
//!
//! `config.json` has the known keys of delphi. `dataset_repo` is the name of the dump, and the other `dataset_*` are
//! empty: delphi would need them only for files without tokens. `model_name` is the model of the dump, or null: delphi
//! loads a tokenizer by that name unless it is given one. Additional keys are `hook`, `level` and `run`, the SHA-256 of
//! the weights. Files for neighbours are not written: delphi makes them itself.
//!
//! delphi reads sequences of one length: rows at the end of the dump that do not make a whole sequence are left out. It
//! reads a file as a whole, so that more files need less memory. The length should be a multiple of delphi's
//! `example_ctx_len` (32 by default), or its windows reach from one sequence into the next.
//!
//! Rows are encoded twice, first only to count, and every entry is written to its position in its file: memory holds
//! one block of 2^14 rows with its codes, and 1 MiB of tokens.

use super::job::{Exported, Job, lacks, tokens};
use crate::console::{Console, check_interrupt};
use crate::dump::Dump;
use crate::encode::each_block;
use crate::files::PendingDirectory;
use crate::files::{io_error, write_atomic};
use anyhow::{Context, Result, bail, ensure};
use serde_json::json;
use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use strata_core::Codes;

/// Default number of files per level, as in delphi.
const SPLITS: usize = 5;
/// Most files, since all are open together.
const MOST_SPLITS: usize = 256;
/// Tokens that are written together.
const TOKENS: usize = 1 << 18;

/// The rows that are exported: the first `sequences` times `length`.
#[derive(Clone, Copy)]
struct Shape {
    sequences: u64,
    length: u64,
}

impl Shape {
    /// Returns the whole sequences of `dump`, which must have one length.
    fn of(dump: &Dump) -> Result<Self> {
        let (n, name) = (dump.n_rows(), dump.name());
        let starts = dump.sequence_starts().with_context(|| lacks(dump, "the starts of its sequences"))?;
        let length = dump.context().map(|t| t as u64).or(starts.get(1).copied()).unwrap_or(n);
        let ends = starts.iter().skip(1).chain([&n]);
        let other = starts.iter().zip(ends).map(|(start, end)| end - start).enumerate();
        // The last sequence may be shorter.
        let mut other = other.filter(|(i, rows)| *rows > length || (*rows < length && i + 1 < starts.len()));
        if let Some((i, rows)) = other.next() {
            bail!("{name}: delphi reads sequences of one length: expected {length} rows in sequence {i}, found {rows}");
        }
        let sequences = n / length;
        ensure!(sequences > 0, "{name}: expected at least one whole sequence of {length} rows, found {n} rows");
        ensure!(
            sequences.max(length) <= u64::from(u32::MAX),
            "{name}: delphi counts up to 2^32 sequences and rows of a sequence, found {sequences} of {length}"
        );
        Ok(Self { sequences, length })
    }

    fn rows(self) -> u64 {
        self.sequences * self.length
    }
}

/// One activation with its position.
struct Entry {
    sequence: u32,
    position: u32,
    latent: u32,
    value: f32,
}

impl Shape {
    /// Returns the activations above 0 of a level in a block of exported rows that begins at `start`.
    fn entries(self, codes: &Codes, start: u64) -> impl Iterator<Item = Entry> {
        let rows = (self.rows().saturating_sub(start) as usize).min(codes.n());
        (0..rows).flat_map(move |i| {
            let row = start + i as u64;
            let (sequence, position) = ((row / self.length) as u32, (row % self.length) as u32);
            let code = codes.row(i);
            let fires = code.index.iter().zip(code.value).filter(|(_, z)| **z > 0.0);
            fires.map(move |(j, z)| Entry { sequence, position, latent: *j, value: *z })
        })
    }
}

/// Writes and finishes `out`.
///
/// # Errors
/// As [`super::export`]; if sequences have several lengths, or `--splits` is out of range.
pub fn write(job: &Job<'_>, mut out: PendingDirectory, console: &Console<'_>) -> Result<Exported> {
    let Job { run, dump, isa, .. } = job;
    let splits = job.splits.unwrap_or(SPLITS);
    ensure!((1..=MOST_SPLITS).contains(&splits), "--splits: expected 1 to {MOST_SPLITS}, found {splits}");
    let tokens = tokens(dump)?;
    let shape = Shape::of(dump)?;
    let tokens = &tokens[..shape.rows() as usize];
    let encoder = run.encoder(*isa)?;
    let [f1, f2] = encoder.model().arch.latents();
    let bar = console.bar("exporting", 2 * dump.n_rows(), "tokens");

    let mut counts = [vec![0u64; f1], vec![0u64; f2]];
    let mut start = 0;
    each_block(&encoder, dump, 0..dump.n_rows(), |codes| {
        check_finite(codes, start)?;
        for (counts, codes) in counts.iter_mut().zip(codes) {
            shape.entries(codes, start).for_each(|e| counts[e.latent as usize] += 1);
        }
        start += codes[0].n() as u64;
        bar.inc(codes[0].n() as u64);
        Ok(())
    })?;

    let mut directories = Vec::new();
    let mut levels = [Vec::new(), Vec::new()];
    for (level, counts) in counts.iter().enumerate().filter(|(_, counts)| !counts.is_empty()) {
        let name = directory_name(job.hook(), level + 1);
        let (inner, shown) = (out.directory(&name)?, job.out.join(&name));
        let n = splits.min(counts.len());
        for i in 0..n {
            let range = i * counts.len() / n..(i + 1) * counts.len() / n;
            let entries = counts[range.clone()].iter().sum();
            levels[level].push(Split::create(range, entries, shape, tokens, &inner, &shown)?);
        }
        let config = json!({
            "dataset_repo": dump.name(), "dataset_split": "", "dataset_name": "", "dataset_column": "",
            "cache_ctx_len": shape.length, "ctx_len": shape.length, "n_tokens": shape.rows(), "n_splits": n,
            "model_name": job.model(), "hook": job.hook(), "level": level + 1, "run": run.hash,
        });
        write_atomic(&inner.join("config.json"), format!("{}\n", serde_json::to_string_pretty(&config)?).as_bytes())?;
        directories.push(name);
    }

    let mut start = 0;
    each_block(&encoder, dump, 0..dump.n_rows(), |codes| {
        for (splits, codes) in levels.iter_mut().zip(codes) {
            for entry in shape.entries(codes, start) {
                let at = splits.partition_point(|s| s.range.end <= entry.latent as usize);
                splits[at].push(&entry);
            }
            splits.iter_mut().try_for_each(Split::flush)?;
        }
        start += codes[0].n() as u64;
        bar.inc(codes[0].n() as u64);
        Ok(())
    })?;
    levels.into_iter().flatten().try_for_each(Split::close)?;
    out.finish()?;
    bar.finish_and_clear();
    let entries = counts.map(|c| c.iter().sum());
    Ok(Exported { format: "delphi", rows: shape.rows(), left_out: dump.n_rows() - shape.rows(), entries, directories })
}

/// Checks that all activations are finite, since delphi cannot rank others. `start` is the row of the first codes.
fn check_finite(codes: &[Codes; 2], start: u64) -> Result<()> {
    for (level, codes) in codes.iter().enumerate() {
        if let Some(at) = codes.value.iter().position(|v| !v.is_finite()) {
            let (row, level) = (start + codes.offsets.partition_point(|o| *o <= at) as u64 - 1, level + 1);
            let (latent, value) = (codes.index[at], codes.value[at]);
            bail!("row {row}, latent {latent} of level {level}: expected a finite activation, found {value}");
        }
    }
    Ok(())
}

/// Returns the name of the directory of a level: a plain name, whatever the hook point of the dump.
fn directory_name(hook: Option<&str>, level: usize) -> String {
    let plain = |c: char| if c.is_alphanumeric() || matches!(c, '.' | '-' | '_') { c } else { '_' };
    match hook {
        Some(hook) => format!("{}.level{level}", hook.chars().map(plain).collect::<String>()),
        None => format!("level{level}"),
    }
}

/// A file of a range of latents while it is written.
struct Split {
    range: Range<usize>,
    file: File,
    /// The final path, for errors.
    path: PathBuf,
    /// Bytes per number of `locations`.
    wide: usize,
    /// Offsets of the next bytes of `activations` and of `locations`.
    at: [u64; 2],
    /// The bytes to write there.
    pending: [Vec<u8>; 2],
}

impl Split {
    /// Makes the file with its header and tokens, and with space for the entries.
    fn create(
        range: Range<usize>,
        entries: u64,
        shape: Shape,
        tokens: &[u32],
        directory: &Path,
        shown: &Path,
    ) -> Result<Self> {
        let name = format!("{}_{}.safetensors", range.start, range.end - 1);
        let most = shape.sequences.max(shape.length).max(range.len() as u64);
        let (kind, wide) = if most <= 1 << 16 { ("U16", 2) } else { ("U32", 4) };
        let tokens_end = 4 * tokens.len() as u64;
        let activations_end = tokens_end + 4 * entries;
        let end = activations_end + 3 * wide as u64 * entries;
        let mut header = json!({
            "tokens": { "dtype": "U32", "shape": [shape.sequences, shape.length], "data_offsets": [0, tokens_end] },
            "activations": { "dtype": "F32", "shape": [entries], "data_offsets": [tokens_end, activations_end] },
            "locations": { "dtype": kind, "shape": [entries, 3], "data_offsets": [activations_end, end] },
        })
        .to_string();
        // Numbers in a mapped file must be aligned.
        while !header.len().is_multiple_of(8) {
            header.push(' ');
        }
        let path = shown.join(&name);
        let failed = |e: io::Error| io_error("writing", &path, &e);
        let mut file = File::create_new(directory.join(&name)).map_err(failed)?;
        let base = 8 + header.len() as u64;
        file.write_all(&(header.len() as u64).to_le_bytes()).map_err(failed)?;
        file.write_all(header.as_bytes()).map_err(failed)?;
        let mut bytes = Vec::new();
        for some in tokens.chunks(TOKENS) {
            check_interrupt()?;
            bytes.clear();
            bytes.extend(some.iter().flat_map(|t| t.to_le_bytes()));
            file.write_all(&bytes).map_err(failed)?;
        }
        // A full disk is reported early where the file system can tell.
        file.set_len(base + end).map_err(failed)?;
        let at = [base + tokens_end, base + activations_end];
        Ok(Self { range, file, path, wide, at, pending: [Vec::new(), Vec::new()] })
    }

    fn push(&mut self, entry: &Entry) {
        let [activations, locations] = &mut self.pending;
        activations.extend(entry.value.to_le_bytes());
        for number in [entry.sequence, entry.position, entry.latent - self.range.start as u32] {
            locations.extend(&number.to_le_bytes()[..self.wide]);
        }
    }

    /// Writes the buffered entries.
    fn flush(&mut self) -> Result<()> {
        for (at, bytes) in self.at.iter_mut().zip(&mut self.pending).filter(|(_, bytes)| !bytes.is_empty()) {
            let written = self.file.seek(SeekFrom::Start(*at)).and_then(|_| self.file.write_all(bytes));
            written.map_err(|e| io_error("writing", &self.path, &e))?;
            *at += bytes.len() as u64;
            bytes.clear();
        }
        Ok(())
    }

    fn close(self) -> Result<()> {
        self.file.sync_all().map_err(|e| io_error("writing", &self.path, &e))
    }
}
