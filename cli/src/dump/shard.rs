//! A file of rows: the position of each row in its bytes, and how it is read.

use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow, ensure};
use strata_core::format::dump::Matrix;
use strata_core::{Dtype, Rows};

use super::map::Map;
use super::names::in_file;
#[cfg(unix)]
use crate::files::io_error;

/// Number of shards whose files stay open: operating systems allow a process some hundreds of open files.
const OPEN_FILES: usize = if cfg!(unix) { 32 } else { 0 };
/// Bytes of a map that a reader passes before it releases them.
const TRAIL_BYTES: usize = 1 << 20;

/// A mapped file before the positions of its rows are known.
#[derive(Debug)]
pub(super) struct Mapped {
    pub(super) path: PathBuf,
    pub(super) map: Map,
    file: Option<File>,
}

impl Mapped {
    /// Opens file `number` of a dump.
    pub(super) fn open(path: &Path, number: usize) -> Result<Self> {
        let (file, map) = Map::open(path)?;
        Ok(Self { path: path.to_owned(), map, file: (number < OPEN_FILES).then_some(file) })
    }
}

/// Rows at equal distances in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    /// The index of the first of these rows in the file.
    pub(super) first: usize,
    /// The byte at which it starts.
    pub(super) start: usize,
    /// Bytes from one row to the next, at least the size of a row.
    pub(super) stride: usize,
}

/// The rows of a file.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    pub(super) dtype: Dtype,
    pub(super) d: usize,
    pub(super) n: usize,
    /// Ascending in both rows and bytes, the first from row 0.
    pub(super) runs: Vec<Run>,
}

impl Layout {
    /// Makes `n` contiguous rows from byte `start`.
    pub(super) fn dense(dtype: Dtype, n: usize, d: usize, start: usize) -> Self {
        let stride = d.saturating_mul(dtype.size_bytes());
        Self { dtype, d, n, runs: vec![Run { first: 0, start, stride }] }
    }

    /// Makes an empty set of rows.
    pub(super) fn empty(dtype: Dtype, d: usize) -> Self {
        Self { dtype, d, n: 0, runs: Vec::new() }
    }

    /// Appends `n` rows at equal distances. Rows that continue the last run are added to it.
    pub(super) fn push(&mut self, n: usize, start: usize, stride: usize) {
        if n == 0 {
            return;
        }
        let continues = self
            .runs
            .last()
            .is_some_and(|last| last.stride == stride && last.start + (self.n - last.first) * stride == start);
        if !continues {
            self.runs.push(Run { first: self.n, start, stride });
        }
        self.n += n;
    }

    fn row_bytes(&self) -> usize {
        self.d.saturating_mul(self.dtype.size_bytes())
    }
}

impl From<&Matrix> for Layout {
    fn from(m: &Matrix) -> Self {
        Self::dense(m.dtype, m.n, m.d, m.bytes.start)
    }
}

/// A file with rows of a dump.
#[derive(Debug)]
pub(super) struct Shard {
    pub(super) path: PathBuf,
    map: Map,
    /// The open file, for reading single rows: that maps no pages, which would have to be released again. `None` beyond
    /// the first [`OPEN_FILES`] shards, and where files cannot be read at an offset.
    #[cfg_attr(not(unix), allow(dead_code, reason = "files cannot be read at an offset there"))]
    file: Option<File>,
    /// Number of rows in all shards before this one.
    pub(super) first_row: u64,
    pub(super) layout: Layout,
}

impl Shard {
    /// Makes a shard of a mapped file, whose first row in the dump is not set yet.
    ///
    /// # Errors
    /// If the file is too short for the layout.
    pub(super) fn new(mapped: Mapped, layout: Layout) -> Result<Self> {
        let Mapped { path, map, file } = mapped;
        let row_bytes = layout.row_bytes();
        for (i, run) in layout.runs.iter().enumerate() {
            let rows = layout.runs.get(i + 1).map_or(layout.n, |next| next.first) - run.first;
            let end = rows.checked_sub(1).map_or(Some(run.start), |before| {
                before.checked_mul(run.stride)?.checked_add(run.start)?.checked_add(row_bytes)
            });
            ensure!(
                end.is_some_and(|end| end <= map.len()),
                "`{}`: size: expected {rows} more rows from byte {} on, found only {} bytes",
                path.display(),
                run.start,
                map.len()
            );
        }
        Ok(Self { path, map, file, first_row: 0, layout })
    }

    pub(super) fn n(&self) -> usize {
        self.layout.n
    }

    /// Returns the bytes of row `i`, which must exist.
    pub(super) fn row_at(&self, i: usize) -> &[u8] {
        let start = self.offset(i);
        &self.map[start..start + self.layout.row_bytes()]
    }

    /// Returns the bytes before the first row, at most `most`.
    pub(super) fn head(&self, most: usize) -> &[u8] {
        &self.map[..self.start().min(most)]
    }

    /// Returns the byte at which the rows start.
    pub(super) fn start(&self) -> usize {
        self.layout.runs.first().map_or(0, |run| run.start)
    }

    fn run_of(&self, i: usize) -> usize {
        self.layout.runs.partition_point(|run| run.first <= i) - 1
    }

    fn offset(&self, i: usize) -> usize {
        let run = self.layout.runs[self.run_of(i)];
        run.start + (i - run.first) * run.stride
    }

    /// Checks that `field` of this shard is what the file `by` says.
    pub(super) fn expect<T: PartialEq + std::fmt::Display>(
        &self,
        field: &str,
        expected: T,
        found: T,
        by: &Path,
    ) -> Result<()> {
        ensure!(
            expected == found,
            "`{}`: {field}: expected {expected} by `{}`, found {found}",
            self.path.display(),
            by.display()
        );
        Ok(())
    }

    /// Calls `f` with the ranges of `rows` that are at equal distances, in order, each with the bytes that it spans.
    pub(super) fn for_runs(&self, rows: Range<usize>, mut f: impl FnMut(Range<usize>, Range<usize>)) {
        let mut at = rows.start;
        while at < rows.end {
            let number = self.run_of(at);
            let end = self.layout.runs.get(number + 1).map_or(self.layout.n, |next| next.first).min(rows.end);
            f(at..end, self.offset(at)..self.offset(end - 1) + self.layout.row_bytes());
            at = end;
        }
    }

    /// Returns a view of rows at equal distances, as [`Shard::for_runs`] gives them.
    pub(super) fn view(&self, rows: Range<usize>, bytes: Range<usize>) -> Result<Rows<'_>> {
        let Layout { dtype, d, .. } = self.layout;
        let stride = self.layout.runs[self.run_of(rows.start)].stride;
        Rows::new(&self.map[bytes], rows.len(), d, stride, dtype).map_err(|e| in_file(&self.path, e))
    }

    /// Calls `f` with the bytes of rows at equal distances, as [`Shard::for_runs`] gives them.
    pub(super) fn stored(&self, rows: Range<usize>, bytes: Range<usize>, mut f: impl FnMut(&[u8])) {
        if bytes.len() == rows.len() * self.layout.row_bytes() {
            f(&self.map[bytes]);
        } else {
            rows.for_each(|i| f(self.row_at(i)));
        }
    }

    /// Reads row `i` from the file instead of the map, through `bytes`, which has the size of a row. Returns false if
    /// the file is not open.
    #[cfg(unix)]
    pub(super) fn read_row(&self, i: usize, bytes: &mut [u8], out: &mut [f32]) -> Result<bool> {
        use std::os::unix::fs::FileExt;
        let Some(file) = &self.file else { return Ok(false) };
        let Layout { dtype, d, .. } = self.layout;
        file.read_exact_at(bytes, self.offset(i) as u64).map_err(|e| io_error("reading", &self.path, &e))?;
        Rows::new(bytes, 1, d, bytes.len(), dtype)?.widen_row(0, out);
        Ok(true)
    }

    #[cfg(not(unix))]
    pub(super) fn read_row(&self, _: usize, _: &mut [u8], _: &mut [f32]) -> Result<bool> {
        Ok(false)
    }

    /// Checks that `values`, rows of this shard from its row `first`, are finite.
    pub(super) fn check_finite(&self, first: usize, d: usize, values: &[f32]) -> Result<()> {
        match Rows::from_f32(values, d)?.first_not_finite() {
            None => Ok(()),
            Some((i, column)) => {
                let (row, value) = (first + i, values[i * d + column]);
                Err(anyhow!(
                    "`{}`: row {row}, column {column}: expected a finite number, found {value} (row {} of the dump)",
                    self.path.display(),
                    self.first_row + row as u64
                ))
            }
        }
    }
}

/// Releases the pages of a map that a reader has passed, at the latest when it is dropped, so that memory does not grow
/// with the rows that were read. The operating system may keep them cached, but they no longer count as memory of this
/// process.
#[derive(Default)]
pub(super) struct Trail<'a> {
    shard: Option<&'a Shard>,
    bytes: Range<usize>,
}

impl<'a> Trail<'a> {
    /// Takes the bytes of the rows that are read next; they are never before those that were read last.
    pub(super) fn pass(&mut self, shard: &'a Shard, bytes: Range<usize>) {
        let goes_on = self.shard.is_some_and(|s| std::ptr::eq(s, shard));
        if !goes_on || bytes.end - self.bytes.start > TRAIL_BYTES {
            self.release();
            (self.shard, self.bytes.start) = (Some(shard), bytes.start);
        }
        self.bytes.end = bytes.end;
    }

    fn release(&mut self) {
        if let Some(shard) = self.shard.take() {
            shard.map.release(self.bytes.clone());
        }
    }
}

impl Drop for Trail<'_> {
    fn drop(&mut self) {
        self.release();
    }
}
