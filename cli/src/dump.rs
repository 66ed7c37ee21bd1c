//! Activation dumps on disk: mapped for reading, streamed for writing.

mod content;
mod map;
mod writer;

use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail, ensure};
use safetensors::Dtype as StDtype;
use sha2::{Digest, Sha256};
use strata_core::format::dump::{MANIFEST_FILE, MEAN, Manifest, Matrix, SEQUENCE_STARTS, TOKENS, TensorTable};
use strata_core::format::npy::NpyHeader;
use strata_core::{Dtype, Error, Rows};

use crate::files::{io_error, read};
use map::Map;
pub use writer::{DumpSpec, DumpSummary, DumpWriter};

/// What a raw `.bin` file does not say itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RawSpec {
    /// The type of the numbers.
    pub dtype: Dtype,
    /// Numbers in a row.
    pub dim: usize,
}

/// Rows of activations in one or more mapped files. Shared by threads; memory does not grow with the rows.
#[derive(Debug)]
pub struct Dump {
    name: String,
    d: usize,
    dtype: Dtype,
    n_rows: u64,
    shards: Vec<Shard>,
    tokens: Option<Numbers<u32>>,
    sequence_starts: Option<Numbers<u64>>,
    vocab: Option<Vec<String>>,
    mean: Option<Vec<f32>>,
    manifest: Option<Manifest>,
}

#[derive(Debug)]
struct Shard {
    path: PathBuf,
    map: Map,
    /// For single rows: to read one from the file maps no pages, which would have to be let go again. None beyond the first
    /// [`OPEN_FILES`] shards, and where files cannot be read at a place.
    #[cfg_attr(not(unix), allow(dead_code, reason = "there is no such reading"))]
    file: Option<File>,
    /// The rows of all shards before this one.
    first_row: u64,
    matrix: Matrix,
}

/// Shards of a dump that stay open: systems allow a process some hundreds of open files.
const OPEN_FILES: usize = if cfg!(unix) { 32 } else { 0 };

/// A vector in a file: mapped if it is aligned there, else copied.
#[derive(Debug)]
enum Numbers<T> {
    Mapped(Map, Range<usize>),
    Copied(Vec<T>),
}

impl<T: bytemuck::Pod> Numbers<T> {
    fn new(map: Map, range: Range<usize>, from_le: impl Fn(&[u8]) -> T) -> Self {
        let bytes = &map[range.clone()];
        if cfg!(target_endian = "little") && bytemuck::try_cast_slice::<u8, T>(bytes).is_ok() {
            Self::Mapped(map, range)
        } else {
            Self::Copied(bytes.chunks_exact(size_of::<T>()).map(from_le).collect())
        }
    }

    fn get(&self) -> &[T] {
        match self {
            // Aligned as it was in `new`: a map does not move.
            Self::Mapped(map, range) => bytemuck::cast_slice(&map[range.clone()]),
            Self::Copied(values) => values,
        }
    }
}

/// The most bytes of a token. The longest ones of published vocabularies have some hundred.
const TOKEN_BYTES: usize = 4096;

/// Refuses a token that no text has: contexts repeat their tokens again and again.
///
/// # Errors
/// One sentence with the token's id.
pub(crate) fn check_token(id: usize, text: &str) -> Result<()> {
    ensure!(text.len() <= TOKEN_BYTES, "token {id}: expected at most {TOKEN_BYTES} bytes, found {}", text.len());
    Ok(())
}

/// The sentence of an error of the parsers. They are given a name of a field, mostly; byte 0 says nothing more.
fn in_file(path: &Path, error: Error) -> anyhow::Error {
    match error {
        Error::Format { offset: 0, what } => anyhow!("`{}`: {what}", path.display()),
        error => anyhow!("`{}`: {error}", path.display()),
    }
}

impl Dump {
    /// Opens a dump directory, or `.npy`, `.safetensors` or (with `raw`) `.bin` files, which are shards in this order.
    ///
    /// Only headers are read; of each file the size is checked against its header to the byte.
    ///
    /// # Errors
    /// One sentence that names the file, the field, what was expected and what was found.
    pub fn open(paths: &[PathBuf], raw: Option<RawSpec>) -> Result<Self> {
        let first = paths.first().context("a dump: expected a directory or at least one file, found none")?;
        let dump = if first.is_dir() {
            ensure!(
                paths.len() == 1,
                "`{}`: expected a single dump directory or several files, found a directory and {} more",
                first.display(),
                paths.len() - 1
            );
            ensure!(raw.is_none(), "`{}`: a type and a width are for .bin files, not for a directory", first.display());
            Self::open_directory(first)?
        } else {
            Self::open_files(paths, raw)?
        };
        ensure!(dump.n_rows > 0, "`{}`: rows: expected at least 1, found 0", first.display());
        Ok(dump)
    }

    fn open_files(paths: &[PathBuf], raw: Option<RawSpec>) -> Result<Self> {
        let mut shards: Vec<Shard> = Vec::with_capacity(paths.len());
        let mut first_row = 0;
        for path in paths {
            let shard = Shard::open(path, raw, shards.len(), first_row)?;
            if let Some(first) = shards.first() {
                shard.expect("width", first.matrix.d, shard.matrix.d, &first.path)?;
                shard.expect("dtype", first.matrix.dtype, shard.matrix.dtype, &first.path)?;
            }
            first_row += shard.matrix.n as u64;
            shards.push(shard);
        }
        let name = match paths {
            [only] => stem(only),
            _ => format!("{} and {} more", stem(&paths[0]), paths.len() - 1),
        };
        let Matrix { d, dtype, .. } = shards[0].matrix;
        Ok(Self {
            name,
            d,
            dtype,
            n_rows: first_row,
            shards,
            tokens: None,
            sequence_starts: None,
            vocab: None,
            mean: None,
            manifest: None,
        })
    }

    fn open_directory(directory: &Path) -> Result<Self> {
        let manifest_path = directory.join(MANIFEST_FILE);
        if !manifest_path.exists() {
            let directory = directory.display();
            bail!("`{directory}`: expected {MANIFEST_FILE} in it, found none; bare files are given one by one");
        }
        let json = read::bytes(&manifest_path, read::SMALL)?;
        let manifest = Manifest::parse(&json).map_err(|e| in_file(&manifest_path, e))?;
        let mut shards = Vec::with_capacity(manifest.shards.len());
        let mut first_row = 0;
        for entry in &manifest.shards {
            let shard = Shard::open(&directory.join(&entry.file), None, shards.len(), first_row)?;
            shard.expect("rows", entry.rows, shard.matrix.n as u64, &manifest_path)?;
            shard.expect("width", manifest.d, shard.matrix.d, &manifest_path)?;
            shard.expect("dtype", manifest.dtype, shard.matrix.dtype, &manifest_path)?;
            first_row += entry.rows;
            shards.push(shard);
        }
        let (mut tokens, mut sequence_starts) = (None, None);
        if let Some(file) = &manifest.tokens {
            let path = directory.join(file);
            (tokens, sequence_starts) = open_tokens(&path, manifest.rows)?;
        }
        if sequence_starts.is_none()
            && let Some(context) = manifest.context
        {
            sequence_starts = Some(Numbers::Copied((0..manifest.rows).step_by(context).collect()));
        }
        let vocab = match &manifest.vocab {
            None => None,
            Some(file) => {
                let path = directory.join(file);
                let json = read::bytes(&path, read::VOCABULARY)?;
                let texts: Vec<String> = serde_json::from_slice(&json)
                    .map_err(|e| anyhow!("`{}`: expected a list of strings: {e}", path.display()))?;
                let mut all = texts.iter().enumerate();
                all.try_for_each(|(id, t)| check_token(id, t)).with_context(|| format!("`{}`", path.display()))?;
                Some(texts)
            }
        };
        let mean = match manifest.stats.as_ref().and_then(|s| s.mean.as_ref()) {
            None => None,
            Some(file) => Some(open_mean(&directory.join(file), manifest.d)?),
        };
        let name = directory.canonicalize().map_or_else(|_| stem(directory), |d| file_name(&d));
        let (d, dtype, n_rows) = (manifest.d, manifest.dtype, manifest.rows);
        Ok(Self { name, d, dtype, n_rows, shards, tokens, sequence_starts, vocab, mean, manifest: Some(manifest) })
    }

    /// Rows of all shards, at least 1.
    pub fn n_rows(&self) -> u64 {
        self.n_rows
    }

    /// Numbers in a row, at least 1.
    pub fn d(&self) -> usize {
        self.d
    }

    /// The type of the stored numbers.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// The number of files with rows.
    pub fn n_shards(&self) -> usize {
        self.shards.len()
    }

    /// The name of the directory or file, for reports.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The directory of a dump that is one, as it was named.
    pub fn directory(&self) -> Option<&Path> {
        self.manifest.as_ref()?;
        self.shards.first()?.path.parent()
    }

    /// The token id of every row. Not checked against the vocabulary: look up with `get`.
    pub fn tokens(&self) -> Option<&[u32]> {
        self.tokens.as_ref().map(Numbers::get)
    }

    /// The first row of every sequence: ascending, from 0, below `n_rows`. Multiples of the context if there is one and
    /// the dump does not list them.
    pub fn sequence_starts(&self) -> Option<&[u64]> {
        self.sequence_starts.as_ref().map(Numbers::get)
    }

    /// Rows of a sequence, where all have as many.
    pub fn context(&self) -> Option<usize> {
        self.manifest.as_ref()?.context
    }

    /// The text of each token id.
    pub fn vocab(&self) -> Option<&[String]> {
        self.vocab.as_deref()
    }

    /// The model the rows come from.
    pub fn model(&self) -> Option<&str> {
        self.manifest.as_ref()?.model.as_deref()
    }

    /// The place in the model.
    pub fn hook(&self) -> Option<&str> {
        self.manifest.as_ref()?.hook.as_deref()
    }

    /// `mean_i ||x_i||` of the rows as stored, where the dump says it.
    pub fn mean_norm(&self) -> Option<f64> {
        Some(self.manifest.as_ref()?.stats.as_ref()?.mean_norm)
    }

    /// The mean row, where the dump has it.
    pub fn mean(&self) -> Option<&[f32]> {
        self.mean.as_deref()
    }

    /// `out[k, :] = f32(row rows[k])`. `out` is `[rows.len(), d]`, written, never read.
    ///
    /// # Errors
    /// A row that does not exist, or that the file no longer holds; a number that is NaN or infinite, with its shard, row
    /// and column.
    ///
    /// # Panics
    /// If `out` has another size.
    pub fn read_rows(&self, rows: &[u64], out: &mut [f32]) -> Result<()> {
        assert!(out.len() == rows.len() * self.d, "[{}, {}] into a buffer of {}", rows.len(), self.d, out.len());
        // In the order of the files, so that a page is read once, and let go behind where it was mapped.
        let mut order: Vec<usize> = (0..rows.len()).collect();
        order.sort_unstable_by_key(|&k| rows[k]);
        let mut trail = Trail::default();
        let mut bytes = vec![0; self.d * self.dtype.size_bytes()];
        for k in order {
            let row = rows[k];
            ensure!(row < self.n_rows, "`{}`: row {row} of {} rows", self.name, self.n_rows);
            let shard = self.shard_of(row);
            let i = (row - shard.first_row) as usize;
            let out = &mut out[k * self.d..(k + 1) * self.d];
            if !shard.read_row(i, &mut bytes, out)? {
                trail.pass(shard, i..i + 1);
                shard.rows()?.widen_row(i, out);
            }
            shard.check_finite(i, self.d, out)?;
        }
        Ok(())
    }

    /// `out[k, :] = f32(row start + k)` for `k` in `0..n`. `out` is `[n, d]`, written, never read.
    ///
    /// # Errors
    /// As [`Dump::read_rows`].
    ///
    /// # Panics
    /// If `out` has another size.
    pub fn read_range(&self, start: u64, n: usize, out: &mut [f32]) -> Result<()> {
        assert!(out.len() == n * self.d, "[{n}, {}] into a buffer of {}", self.d, out.len());
        let (mut out, mut trail) = (out, Trail::default());
        for piece in self.pieces(start, n)? {
            trail.pass(piece.shard, piece.range.clone());
            let (part, rest) = out.split_at_mut(piece.range.len() * self.d);
            piece.shard.rows()?.widen(piece.range.clone(), part);
            piece.shard.check_finite(piece.range.start, self.d, part)?;
            out = rest;
        }
        Ok(())
    }

    /// Rows `start..start + n`, as ranges of rows of shards in order.
    fn pieces(&self, start: u64, n: usize) -> Result<Vec<Piece<'_>>> {
        let end = start.checked_add(n as u64).filter(|&end| end <= self.n_rows);
        let end = end.with_context(|| format!("`{}`: {n} rows from row {start} of {} rows", self.name, self.n_rows))?;
        let (mut at, mut pieces) = (start, Vec::new());
        while at < end {
            let shard = self.shard_of(at);
            let shard_end = (shard.first_row + shard.matrix.n as u64).min(end);
            let range = (at - shard.first_row) as usize..(shard_end - shard.first_row) as usize;
            pieces.push(Piece { shard, range });
            at = shard_end;
        }
        Ok(pieces)
    }

    /// The shard that holds `row`, which must exist. Never an empty shard.
    fn shard_of(&self, row: u64) -> &Shard {
        &self.shards[self.shards.partition_point(|s| s.first_row + s.matrix.n as u64 <= row)]
    }

    /// Calls `f` with the views that make up rows `start..start + n`, in order, and what names a place in each.
    /// Nothing is checked to be finite.
    pub(crate) fn for_views(&self, start: u64, n: usize, mut f: impl FnMut(Rows<'_>, Place<'_>)) -> Result<()> {
        let mut trail = Trail::default();
        for Piece { shard, range } in self.pieces(start, n)? {
            trail.pass(shard, range.clone());
            f(shard.rows()?.slice(range.clone()), Place { path: &shard.path, first: range.start });
        }
        Ok(())
    }

    /// Bytes of all rows.
    pub fn n_bytes(&self) -> u64 {
        self.shards.iter().map(|s| s.matrix.bytes.len() as u64).sum()
    }

    /// A hash of what makes a dump that dump, cheap at any size: the shape and type, and of every shard its rows, the
    /// bytes before them, and its first, middle and last row. Names and places do not matter.
    pub fn fingerprint(&self) -> String {
        let mut hash = Sha256::new();
        hash.update(format!("strata-dump-fingerprint-1 {} {} {}\n", self.n_rows, self.d, self.dtype));
        let row_bytes = self.d * self.dtype.size_bytes();
        for Shard { map, matrix, .. } in &self.shards {
            hash.update(format!("{} {}\n", matrix.n, matrix.bytes.start));
            hash.update(&map[..matrix.bytes.start.min(1 << 16)]);
            if matrix.n > 0 {
                for i in [0, matrix.n / 2, matrix.n - 1] {
                    hash.update(&map[matrix.bytes.start + i * row_bytes..][..row_bytes]);
                }
            }
        }
        hash.finalize()[..16].iter().map(|b| format!("{b:02x}")).collect()
    }
}

struct Piece<'a> {
    shard: &'a Shard,
    range: Range<usize>,
}

/// Pages of a map that a reader leaves behind before they are let go.
const TRAIL_BYTES: usize = 1 << 20;

/// Lets go of the pages that a reader has behind it, at the latest when it is done: memory does not grow with the rows
/// that were read. The system keeps them as long as it has no other use for the memory, but not as ours.
#[derive(Default)]
struct Trail<'a> {
    shard: Option<&'a Shard>,
    bytes: Range<usize>,
}

impl<'a> Trail<'a> {
    /// Rows that are read next, none before those that were read last.
    fn pass(&mut self, shard: &'a Shard, rows: Range<usize>) {
        let row_bytes = shard.matrix.d * shard.matrix.dtype.size_bytes();
        let start = shard.matrix.bytes.start;
        let bytes = start + rows.start * row_bytes..start + rows.end * row_bytes;
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

/// Where a view comes from: row `i` of it is row `first + i` of the file `path`.
pub(crate) struct Place<'a> {
    pub(crate) path: &'a Path,
    pub(crate) first: usize,
}

impl Shard {
    /// Shard `number` of a dump.
    fn open(path: &Path, raw: Option<RawSpec>, number: usize, first_row: u64) -> Result<Self> {
        let (file, map) = Map::open(path)?;
        let extension = path.extension().and_then(|e| e.to_str()).unwrap_or("").to_ascii_lowercase();
        if extension != "bin" && raw.is_some() {
            bail!("`{}`: a type and a width are for .bin files; this one says its own", path.display());
        }
        let matrix = match extension.as_str() {
            "npy" => {
                let header = NpyHeader::parse(&map).map_err(|e| in_file(path, e))?;
                let [n, d] = header.shape;
                Matrix { dtype: header.dtype, n, d, bytes: header.data_offset..map.len() }
            }
            "safetensors" => {
                TensorTable::parse(&map).and_then(|table| table.activations()).map_err(|e| in_file(path, e))?
            }
            "bin" => {
                let Some(RawSpec { dtype, dim }) = raw else {
                    bail!(
                        "`{}`: a .bin file needs --dtype and --dim: it does not say its type and width",
                        path.display()
                    );
                };
                let row_bytes = dim.checked_mul(dtype.size_bytes()).filter(|&b| b > 0);
                let row_bytes = row_bytes.with_context(|| format!("--dim: expected a width above 0, found {dim}"))?;
                ensure!(
                    map.len().is_multiple_of(row_bytes),
                    "`{}`: size: expected a multiple of {row_bytes} bytes ({dim} {dtype} a row), found {} bytes",
                    path.display(),
                    map.len()
                );
                Matrix { dtype, n: map.len() / row_bytes, d: dim, bytes: 0..map.len() }
            }
            _ => bail!(
                "`{}`: expected a dump directory, .npy, .safetensors or .bin, found the ending `{extension}`",
                path.display()
            ),
        };
        Ok(Self { path: path.to_owned(), map, file: (number < OPEN_FILES).then_some(file), first_row, matrix })
    }

    fn expect<T: PartialEq + std::fmt::Display>(&self, field: &str, expected: T, found: T, by: &Path) -> Result<()> {
        ensure!(
            expected == found,
            "`{}`: {field}: expected {expected} by `{}`, found {found}",
            self.path.display(),
            by.display()
        );
        Ok(())
    }

    fn rows(&self) -> Result<Rows<'_>> {
        let Matrix { dtype, n, d, ref bytes } = self.matrix;
        let row_bytes = d.saturating_mul(dtype.size_bytes());
        Rows::new(&self.map[bytes.clone()], n, d, row_bytes, dtype).map_err(|e| in_file(&self.path, e))
    }

    /// Reads row `i` from the file, not the map; `bytes` are of a row. Whether it could.
    #[cfg(unix)]
    fn read_row(&self, i: usize, bytes: &mut [u8], out: &mut [f32]) -> Result<bool> {
        use std::os::unix::fs::FileExt;
        let Some(file) = &self.file else { return Ok(false) };
        let Matrix { dtype, d, bytes: ref all, .. } = self.matrix;
        let offset = (all.start + i * bytes.len()) as u64;
        file.read_exact_at(bytes, offset).map_err(|e| io_error("reading", &self.path, &e))?;
        Rows::new(bytes, 1, d, bytes.len(), dtype)?.widen_row(0, out);
        Ok(true)
    }

    #[cfg(not(unix))]
    fn read_row(&self, _: usize, _: &mut [u8], _: &mut [f32]) -> Result<bool> {
        Ok(false)
    }

    /// `values` are rows of this shard from its row `first` on.
    fn check_finite(&self, first: usize, d: usize, values: &[f32]) -> Result<()> {
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

type Tokens = (Option<Numbers<u32>>, Option<Numbers<u64>>);

fn open_tokens(path: &Path, n_rows: u64) -> Result<Tokens> {
    let parse = |map: &Map| {
        let table = TensorTable::parse(map)?;
        Ok((table.vector(TOKENS, StDtype::U32)?, table.vector(SEQUENCE_STARTS, StDtype::U64)?))
    };
    let file = Map::of(path)?;
    let (ids, starts) = parse(&file).map_err(|e| in_file(path, e))?;
    let starts = match starts {
        None => None,
        // The second map costs nothing and lets each vector own what it points into.
        Some(range) => {
            Some(Numbers::new(Map::of(path)?, range, |b| u64::from_le_bytes(b.try_into().expect("8 bytes"))))
        }
    };
    if let Some(starts) = &starts {
        let starts = starts.get();
        let ascend = starts.windows(2).all(|w| w[0] < w[1]);
        let in_range = starts.first() == Some(&0) && starts.last().is_some_and(|&s| s < n_rows);
        ensure!(
            ascend && in_range,
            "`{}`: tensor `{SEQUENCE_STARTS}`: expected ascending rows from 0 to below {n_rows}, found others",
            path.display()
        );
    }
    let Some(range) = ids else { bail!("`{}`: expected a tensor `{TOKENS}`, found none", path.display()) };
    let found = (range.len() / 4) as u64;
    let display = path.display();
    ensure!(found == n_rows, "`{display}`: tensor `{TOKENS}`: expected {n_rows} ids, one a row, found {found}");
    let ids = Numbers::new(file, range, |b| u32::from_le_bytes(b.try_into().expect("4 bytes")));
    Ok((Some(ids), starts))
}

fn open_mean(path: &Path, d: usize) -> Result<Vec<f32>> {
    let file = Map::of(path)?;
    let range = TensorTable::parse(&file).and_then(|t| t.vector(MEAN, StDtype::F32)).map_err(|e| in_file(path, e))?;
    let Some(range) = range else { bail!("`{}`: expected a tensor `{MEAN}`, found none", path.display()) };
    let found = range.len() / 4;
    ensure!(found == d, "`{}`: tensor `{MEAN}`: expected {d} numbers, found {found}", path.display());
    let mean: Vec<f32> = file[range].as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b)).collect();
    let at = mean.iter().position(|v| !v.is_finite());
    match at {
        None => Ok(mean),
        Some(j) => {
            Err(anyhow!("`{}`: tensor `{MEAN}`: expected finite numbers, found {} at {j}", path.display(), mean[j]))
        }
    }
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

fn stem(path: &Path) -> String {
    path.file_stem().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}
