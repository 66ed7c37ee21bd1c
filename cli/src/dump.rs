//! Activation dumps on disk: mapped for reading, streamed for writing; and synthetic worlds, whose rows are drawn when they are read.
//!
//! [`Source`] says what to open and how; a table of formats turns it into shards, tokens and sequences, and [`Dump`]
//! reads rows from them.

mod arrow;
mod bare;
mod content;
mod convert;
mod drawn;
mod formats;
mod ids;
pub(crate) mod integers;
mod llamascopium;
mod manifest;
mod map;
mod memmap;
mod names;
mod numbers;
mod parts;
mod pt;
mod saev;
mod shard;
mod source;
mod vllm;
pub(crate) mod world;
mod writer;

use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};
use strata_core::{Dtype, Rows};

pub(crate) use names::file_name;
use numbers::Numbers;
use parts::Parts;
use shard::{Shard, Trail};
pub use source::{RawSpec, Source};
use world::Drawn;
pub use writer::{DumpSpec, DumpSummary, DumpWriter};

/// Rows of activations in one or more mapped files. Shared by threads; memory does not grow with the rows.
#[derive(Debug)]
pub struct Dump {
    n_rows: u64,
    parts: Parts,
    source: Source,
}

impl Source {
    /// Opens `source`.
    ///
    /// Only headers are read, and tokens that are not stored as 32 bits. The size of each file is compared with its
    /// header to the byte.
    ///
    /// # Errors
    /// One sentence that names the file, the field, what was expected and what was found.
    pub fn open(&self) -> Result<Dump> {
        let (parts, n_rows) = formats::open(self)?;
        Ok(Dump { n_rows, parts, source: self.clone() })
    }
}

impl Dump {
    /// Opens a dump directory, or `.npy`, `.safetensors` or (with `raw`) `.bin` files, which are shards in this order.
    ///
    /// # Errors
    /// As [`Source::open`].
    pub fn open(paths: &[PathBuf], raw: Option<RawSpec>) -> Result<Self> {
        Source { raw, ..Source::new(paths) }.open()
    }

    /// Returns the source that was opened.
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// Returns the number of rows of all shards, at least 1.
    pub fn n_rows(&self) -> u64 {
        self.n_rows
    }

    /// Returns the width of a row, at least 1.
    pub fn d(&self) -> usize {
        self.parts.drawn.as_ref().map_or_else(|| self.parts.shards[0].layout.d, Drawn::d)
    }

    /// Returns the type of the stored numbers.
    pub fn dtype(&self) -> Dtype {
        self.parts.shards.first().map_or(Dtype::F32, |shard| shard.layout.dtype)
    }

    /// Returns the number of files with rows: none where the rows of a synthetic world are drawn when they are read.
    pub fn n_shards(&self) -> usize {
        self.parts.shards.len()
    }

    /// Returns the name of the directory or file, for reports.
    pub fn name(&self) -> &str {
        &self.parts.name
    }

    /// Returns the directory of a dump that has a `dump.json`, as it was named.
    pub fn directory(&self) -> Option<&Path> {
        self.parts.directory.as_deref()
    }

    /// Returns the token id of every row. Ids are not checked against the vocabulary: look them up with `get`.
    pub fn tokens(&self) -> Option<&[u32]> {
        self.parts.tokens.as_ref().map(Numbers::get)
    }

    /// Returns the first row of every sequence: ascending, from 0, below `n_rows`. Where the dump does not list them,
    /// they are the multiples of the context, if there is one.
    pub fn sequence_starts(&self) -> Option<&[u64]> {
        self.parts.sequence_starts.as_ref().map(Numbers::get)
    }

    /// Returns the rows per sequence, where all sequences have the same number.
    pub fn context(&self) -> Option<usize> {
        self.parts.context
    }

    /// Returns the text of each token id.
    pub fn vocab(&self) -> Option<&[String]> {
        self.parts.vocab.as_deref()
    }

    /// Returns the ids of special tokens, which are not text, where the dump lists them.
    pub fn special_tokens(&self) -> Option<&[u32]> {
        self.parts.special_tokens.as_deref()
    }

    /// Returns the language model that the rows come from.
    pub fn model(&self) -> Option<&str> {
        self.parts.model.as_deref()
    }

    /// Returns the hook point in the model.
    pub fn hook(&self) -> Option<&str> {
        self.parts.hook.as_deref()
    }

    /// Returns `mean_i ||x_i||` of the rows as stored, where the dump says it.
    pub fn mean_norm(&self) -> Option<f64> {
        self.parts.mean_norm
    }

    /// Returns the mean row, where the dump has it.
    pub fn mean(&self) -> Option<&[f32]> {
        self.parts.mean.as_deref()
    }

    /// Reads single rows: `out[k, :] = f32(row rows[k])`. `out` is `[rows.len(), d]`, written, never read.
    ///
    /// # Errors
    /// A row that does not exist or that the file no longer contains; a number that is NaN or infinite, with its shard,
    /// row and column.
    ///
    /// # Panics
    /// If `out` has another size.
    pub fn read_rows(&self, rows: &[u64], out: &mut [f32]) -> Result<()> {
        self.read_rows_with(rows, out, &mut [])
    }

    /// [`Dump::read_rows`], with the bytes of the rows as they lie, one row behind the other, to `stored`, unless it is empty.
    ///
    /// # Errors
    /// As [`Dump::read_rows`].
    ///
    /// # Panics
    /// If `out` or `stored` has another size.
    pub fn read_rows_with(&self, rows: &[u64], out: &mut [f32], stored: &mut [u8]) -> Result<()> {
        let d = self.d();
        let row_bytes = d * self.dtype().size_bytes();
        assert!(stored.is_empty() || stored.len() == rows.len() * row_bytes, "bytes of {} rows", rows.len());
        assert!(out.len() == rows.len() * d, "[{}, {d}] into a buffer of {}", rows.len(), out.len());
        if let Some(row) = rows.iter().find(|row| **row >= self.n_rows) {
            bail!("`{}`: row {row} of {} rows", self.name(), self.n_rows);
        }
        if let Some(drawn) = &self.parts.drawn {
            rows.iter().zip(out.chunks_mut(d)).for_each(|(row, out)| drawn.rows(*row, 1, out));
            if !stored.is_empty() {
                stored.copy_from_slice(bytemuck::cast_slice(out));
            }
            return Ok(());
        }
        // Rows are read in the order of the files, so that each page is read once, and released where it was mapped.
        let mut order: Vec<usize> = (0..rows.len()).collect();
        order.sort_unstable_by_key(|&k| rows[k]);
        let mut trail = Trail::default();
        let mut bytes = vec![0; row_bytes];
        for k in order {
            let row = rows[k];
            let shard = self.shard_of(row);
            let i = (row - shard.first_row) as usize;
            let out = &mut out[k * d..(k + 1) * d];
            if !shard.read_row(i, &mut bytes, out)? {
                let mut span = 0..0;
                shard.for_runs(i..i + 1, |_, bytes| span = bytes);
                trail.pass(shard, span.clone());
                shard.view(i..i + 1, span.clone())?.widen_row(0, out);
                if !stored.is_empty() {
                    shard.stored(i..i + 1, span, |own| bytes.copy_from_slice(own));
                }
            }
            if !stored.is_empty() {
                stored[k * row_bytes..(k + 1) * row_bytes].copy_from_slice(&bytes);
            }
            shard.check_finite(i, d, out)?;
        }
        Ok(())
    }

    /// Reads consecutive rows: `out[k, :] = f32(row start + k)` for `k` in `0..n`. `out` is `[n, d]`, written, never
    /// read.
    ///
    /// # Errors
    /// As [`Dump::read_rows`].
    ///
    /// # Panics
    /// If `out` has another size.
    pub fn read_range(&self, start: u64, n: usize, out: &mut [f32]) -> Result<()> {
        let d = self.d();
        assert!(out.len() == n * d, "[{n}, {d}] into a buffer of {}", out.len());
        let end = self.end_of(start, n)?;
        if let Some(drawn) = &self.parts.drawn {
            drawn.rows(start, (end - start) as usize, out);
            return Ok(());
        }
        let mut rest = out;
        self.for_pieces(start, n, |shard, first, rows| {
            let (part, after) = std::mem::take(&mut rest).split_at_mut(rows.n() * d);
            rest = after;
            rows.widen(0..rows.n(), part);
            shard.check_finite(first, d, part)
        })
    }

    /// Reads consecutive rows as they lie, one behind the other. Numbers are not checked to be finite.
    ///
    /// # Errors
    /// A row that does not exist.
    pub fn read_range_stored(&self, start: u64, n: usize, out: &mut Vec<u8>) -> Result<()> {
        out.clear();
        if let Some(drawn) = &self.parts.drawn {
            self.end_of(start, n)?;
            return drawn.pieces(start, n, |_, rows| {
                out.extend_from_slice(bytemuck::cast_slice(rows));
                Ok(())
            });
        }
        self.for_spans(start, n, |shard, rows, bytes| {
            shard.stored(rows, bytes, |own| out.extend_from_slice(own));
            Ok(())
        })
    }

    /// Calls `f` with the views that make up rows `start..start + n`, in order, each with its shard and its first row
    /// there.
    fn for_pieces(&self, start: u64, n: usize, mut f: impl FnMut(&Shard, usize, Rows<'_>) -> Result<()>) -> Result<()> {
        self.for_spans(start, n, |shard, rows, bytes| f(shard, rows.start, shard.view(rows, bytes)?))
    }

    /// Calls `f` with the shards that contain rows `start..start + n`, in order, and with the rows in them: rows at
    /// equal distances, with the bytes of the file that they span.
    fn for_spans(
        &self,
        start: u64,
        n: usize,
        mut f: impl FnMut(&Shard, Range<usize>, Range<usize>) -> Result<()>,
    ) -> Result<()> {
        let end = self.end_of(start, n)?;
        let (mut at, mut trail) = (start, Trail::default());
        let mut pieces = Vec::new();
        while at < end {
            let shard = self.shard_of(at);
            let shard_end = (shard.first_row + shard.n() as u64).min(end);
            let rows = (at - shard.first_row) as usize..(shard_end - shard.first_row) as usize;
            shard.for_runs(rows, |rows, bytes| pieces.push((rows, bytes)));
            for (rows, bytes) in pieces.drain(..) {
                trail.pass(shard, bytes.clone());
                f(shard, rows, bytes)?;
            }
            at = shard_end;
        }
        Ok(())
    }

    /// Returns `start + n`, if there are so many rows.
    fn end_of(&self, start: u64, n: usize) -> Result<u64> {
        let end = start.checked_add(n as u64).filter(|&end| end <= self.n_rows);
        end.with_context(|| format!("`{}`: {n} rows from row {start} of {} rows", self.name(), self.n_rows))
    }

    /// Returns the shard that contains `row`, which must exist.
    fn shard_of(&self, row: u64) -> &Shard {
        let shards = &self.parts.shards;
        &shards[shards.partition_point(|s| s.first_row + s.n() as u64 <= row)]
    }

    /// Calls `f` with the views that make up rows `start..start + n`, in order, and the position of each. Numbers are
    /// not checked to be finite.
    pub(crate) fn for_views(&self, start: u64, n: usize, mut f: impl FnMut(Rows<'_>, Place<'_>)) -> Result<()> {
        if let Some(drawn) = &self.parts.drawn {
            self.end_of(start, n)?;
            return drawn.pieces(start, n, |first, rows| {
                f(Rows::from_f32(rows, drawn.d())?, Place { path: &drawn.path, first: first as usize });
                Ok(())
            });
        }
        self.for_pieces(start, n, |shard, first, rows| {
            f(rows, Place { path: &shard.path, first });
            Ok(())
        })
    }

    /// Returns the files in order, each with its rows.
    pub(crate) fn files(&self) -> impl Iterator<Item = (&Path, Range<u64>)> {
        self.parts.shards.iter().map(|s| (s.path.as_path(), s.first_row..s.first_row + s.n() as u64))
    }

    /// Returns the size of all rows in bytes, stored or not.
    pub fn n_bytes(&self) -> u64 {
        self.n_rows * (self.d() * self.dtype().size_bytes()) as u64
    }

    /// Returns the files of two shards that contain the same rows, if there are any.
    pub(crate) fn equal_shards(&self) -> Option<(&Path, &Path)> {
        let shards = &self.parts.shards;
        // Shards are sorted by a few rows of each, so that only those that may be equal are compared as a whole.
        let key = |s: &Shard| [0, s.n() / 2, s.n() - 1].map(|i| s.row_at(i).to_vec());
        let mut keyed: Vec<_> = shards.iter().filter(|s| s.n() > 0).map(|s| (s.n(), key(s), s)).collect();
        keyed.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
        keyed.windows(2).find_map(|w| {
            let [(n, key, a), (m, other, b)] = w else { return None };
            let candidates = *n > 1 && n == m && key == other && key.iter().flatten().any(|&b| b != 0);
            let equal = candidates && (0..*n).all(|i| a.row_at(i) == b.row_at(i));
            let (a, b) = if a.first_row < b.first_row { (a, b) } else { (b, a) };
            equal.then_some((a.path.as_path(), b.path.as_path()))
        })
    }

    /// Returns a hash that identifies the dump, cheap at any size: of the shape and type, and for every shard of its
    /// number of rows, the bytes before them, and its first, middle and last row. Names and directories do not matter.
    pub fn fingerprint(&self) -> String {
        let mut hash = Sha256::new();
        hash.update(format!("strata-dump-fingerprint-1 {} {} {}\n", self.n_rows, self.d(), self.dtype()));
        if let Some(drawn) = &self.parts.drawn {
            hash.update(format!("{:?}\n", drawn.config()));
        }
        for shard in &self.parts.shards {
            hash.update(format!("{} {}\n", shard.n(), shard.start()));
            hash.update(shard.head(1 << 16));
            if shard.n() > 0 {
                for i in [0, shard.n() / 2, shard.n() - 1] {
                    hash.update(shard.row_at(i));
                }
            }
        }
        hash.finalize()[..16].iter().map(|b| format!("{b:02x}")).collect()
    }
}

/// The origin of a view: row `i` of it is row `first + i` of the file `path`.
pub(crate) struct Place<'a> {
    pub(crate) path: &'a Path,
    pub(crate) first: usize,
}
