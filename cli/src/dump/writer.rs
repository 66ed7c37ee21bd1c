//! A dump directory, written row by row in bounded memory, and seen whole or not at all.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anyhow::{Result, bail, ensure};
use serde_json::json;
use strata_core::format::dump::{
    FORMAT, MANIFEST_FILE, MEAN, Manifest, SEQUENCE_STARTS, SHARD_HEADER, ShardEntry, Stats, TOKENS, VERSION,
    shard_header, vocab_json,
};
use strata_core::{Dtype, Rows};

use crate::files::{io_error, parent_of, sync_directory, temporary_sibling};

/// What a new dump is, besides its rows.
#[derive(Clone, Debug)]
pub struct DumpSpec {
    /// Numbers in a row.
    pub d: usize,
    /// The type they are stored as.
    pub dtype: Dtype,
    /// A shard is closed before it would be larger than this, and has at least one row.
    pub max_shard_bytes: u64,
    /// The model the rows come from.
    pub model: Option<String>,
    /// The place in the model.
    pub hook: Option<String>,
    /// Rows of a sequence, where all have as many.
    pub context: Option<usize>,
    /// The text of each token id.
    pub vocab: Option<Vec<String>>,
}

impl DumpSpec {
    /// Rows of `d` numbers of `dtype` in shards of 1 GiB, with nothing said about where they come from.
    pub fn new(d: usize, dtype: Dtype) -> Self {
        Self { d, dtype, max_shard_bytes: 1 << 30, model: None, hook: None, context: None, vocab: None }
    }
}

/// What was written.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct DumpSummary {
    /// The directory.
    pub path: PathBuf,
    /// Rows of all shards.
    pub n_rows: u64,
    /// Files with rows.
    pub n_shards: usize,
    /// Bytes of all rows.
    pub n_bytes: u64,
    /// `mean_i ||x_i||` of the rows as stored.
    pub mean_norm: f64,
}

/// Writes a dump. Until [`DumpWriter::finish`] everything lies in a hidden directory beside `path`; dropping the writer
/// removes it.
#[derive(Debug)]
pub struct DumpWriter {
    path: PathBuf,
    directory: PathBuf,
    spec: DumpSpec,
    rows_a_shard: u64,
    n_rows: u64,
    closed: Vec<ShardEntry>,
    open: Option<OpenShard>,
    tokens: Option<Stream>,
    sequence_starts: Vec<u64>,
    norm_sum: f64,
    sum: Vec<f64>,
    bytes: Vec<u8>,
    values: Vec<f32>,
    failed: bool,
}

#[derive(Debug)]
struct OpenShard {
    file: String,
    rows: u64,
    stream: Stream,
}

/// A file being written, whose errors name it.
#[derive(Debug)]
struct Stream {
    path: PathBuf,
    file: BufWriter<File>,
}

impl Stream {
    fn create(path: PathBuf) -> Result<Self> {
        let file = File::create_new(&path).map_err(|e| io_error("writing", &path, &e))?;
        Ok(Self { path, file: BufWriter::with_capacity(1 << 20, file) })
    }

    fn with(&mut self, f: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>) -> Result<()> {
        f(&mut self.file).map_err(|e| io_error("writing", &self.path, &e))
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.with(|file| file.write_all(bytes))
    }

    /// Writes `header` over the first bytes and makes the file last.
    fn close(mut self, header: &[u8]) -> Result<()> {
        self.with(|file| {
            file.seek(SeekFrom::Start(0))?;
            file.write_all(header)?;
            file.flush()?;
            file.get_ref().sync_all()
        })
    }
}

impl DumpWriter {
    /// Starts the dump that will be at `path`.
    ///
    /// # Errors
    /// If `path` exists, if its parent does not, or if the spec makes no sense.
    pub fn create(path: &Path, spec: DumpSpec) -> Result<Self> {
        ensure!(spec.d > 0, "a dump: width: expected at least 1, found 0");
        ensure!(spec.context != Some(0), "a dump: context: expected at least 1, found 0");
        if path.symlink_metadata().is_ok() {
            bail!("writing `{}`: it exists already; remove it or choose another name", path.display());
        }
        let directory = temporary_sibling(path)?;
        fs::create_dir(&directory).map_err(|e| io_error("writing", path, &e))?;
        let row_bytes = (spec.d * spec.dtype.size_bytes()) as u64;
        Ok(Self {
            path: path.to_owned(),
            directory,
            rows_a_shard: (spec.max_shard_bytes / row_bytes).max(1),
            n_rows: 0,
            closed: Vec::new(),
            open: None,
            tokens: None,
            sequence_starts: Vec::new(),
            norm_sum: 0.0,
            sum: vec![0.0; spec.d],
            bytes: Vec::new(),
            values: Vec::new(),
            failed: false,
            spec,
        })
    }

    /// Rows appended so far.
    pub fn n_rows(&self) -> u64 {
        self.n_rows
    }

    /// Says that the next row begins a sequence. Not needed where all have `context` rows.
    pub fn start_sequence(&mut self) {
        if self.sequence_starts.last() != Some(&self.n_rows) {
            self.sequence_starts.push(self.n_rows);
        }
    }

    /// Appends `rows`, `[n, d]`, and the token id of each. Either every call gives tokens or none does.
    ///
    /// # Errors
    /// A number that is not finite, or that the stored type cannot hold, with its row in the dump and its column; tokens
    /// that do not match; a file that cannot be written. Nothing more can be appended then, nor the dump be finished.
    pub fn append(&mut self, rows: &[f32], tokens: Option<&[u32]>) -> Result<()> {
        ensure!(!self.failed, "writing `{}`: an earlier error left the dump incomplete", self.path.display());
        self.failed = true;
        self.try_append(rows, tokens)?;
        self.failed = false;
        Ok(())
    }

    fn try_append(&mut self, rows: &[f32], tokens: Option<&[u32]>) -> Result<()> {
        let (d, path) = (self.spec.d, self.path.display());
        ensure!(rows.len().is_multiple_of(d), "writing `{path}`: expected rows of {d}, found {} numbers", rows.len());
        let n = rows.len() / d;
        if n == 0 {
            return Ok(());
        }
        ensure!(
            self.n_rows == 0 || tokens.is_some() == self.tokens.is_some(),
            "writing `{path}`: expected tokens for all rows or for none, found some"
        );
        if let Some(tokens) = tokens {
            ensure!(tokens.len() == n, "writing `{path}`: expected {n} tokens, one a row, found {}", tokens.len());
            if let Some(vocab) = &self.spec.vocab
                && let Some(&token) = tokens.iter().find(|&&t| t as usize >= vocab.len())
            {
                bail!("writing `{path}`: expected tokens below {}, the vocabulary, found {token}", vocab.len());
            }
            if self.tokens.is_none() {
                let mut stream = Stream::create(self.directory.join(TOKENS_FILE))?;
                stream.write(&[0; SHARD_HEADER])?;
                self.tokens = Some(stream);
            }
            let stream = self.tokens.as_mut().expect("made above");
            self.bytes.clear();
            self.bytes.extend(tokens.iter().flat_map(|t| t.to_le_bytes()));
            stream.write(&self.bytes)?;
        }
        // A bounded piece at a time, whatever the caller appends.
        let piece_rows = (1_usize << 20).div_ceil(d);
        let mut rest = rows;
        while !rest.is_empty() {
            let open = match &mut self.open {
                Some(open) => open,
                None => {
                    let file = format!("acts-{:05}.safetensors", self.closed.len());
                    let mut stream = Stream::create(self.directory.join(&file))?;
                    stream.write(&[0; SHARD_HEADER])?;
                    self.open.insert(OpenShard { file, rows: 0, stream })
                }
            };
            let room = usize::try_from(self.rows_a_shard - open.rows).unwrap_or(usize::MAX);
            let n = (rest.len() / d).min(piece_rows).min(room);
            let (piece, after) = rest.split_at(n * d);
            rest = after;

            self.bytes.clear();
            self.spec.dtype.narrow(piece, &mut self.bytes);
            let stored = Rows::new(&self.bytes, n, d, d * self.spec.dtype.size_bytes(), self.spec.dtype)?;
            if let Some((i, column)) = stored.first_not_finite() {
                let (row, value) = (self.n_rows + i as u64, piece[i * d + column]);
                let why = match self.spec.dtype {
                    dtype if value.is_finite() => {
                        format!("{value} is beyond the range of {dtype}; bf16 or f32 hold it")
                    }
                    _ => format!("expected a finite number, found {value}"),
                };
                bail!("writing `{}`: row {row}, column {column}: {why}", self.path.display());
            }
            self.values.resize(n * d, 0.0);
            stored.widen(0..n, &mut self.values);
            for row in self.values.chunks_exact(d) {
                let mut square = 0.0;
                for (sum, &v) in self.sum.iter_mut().zip(row) {
                    let v = f64::from(v);
                    *sum += v;
                    square += v * v;
                }
                self.norm_sum += square.sqrt();
            }
            open.stream.write(&self.bytes)?;
            open.rows += n as u64;
            self.n_rows += n as u64;
            if open.rows == self.rows_a_shard {
                self.close_shard()?;
            }
        }
        Ok(())
    }

    fn close_shard(&mut self) -> Result<()> {
        if let Some(OpenShard { file, rows, stream }) = self.open.take() {
            stream.close(&shard_header(self.spec.dtype, rows, self.spec.d)?)?;
            self.closed.push(ShardEntry { file, rows });
        }
        Ok(())
    }

    /// Writes what is left, makes it last, and gives the directory its name.
    ///
    /// # Errors
    /// If no row was appended, if an append failed, or if a file cannot be written; `path` then does not exist.
    pub fn finish(mut self) -> Result<DumpSummary> {
        let path = self.path.display();
        ensure!(!self.failed, "writing `{path}`: an earlier error left the dump incomplete");
        ensure!(self.n_rows > 0, "writing `{path}`: expected at least 1 row, found 0");
        self.close_shard()?;
        let mean_norm = self.norm_sum / self.n_rows as f64;

        let mut files = Vec::new();
        if let Some(mut stream) = self.tokens.take() {
            let header = self.finish_tokens(&mut stream)?;
            stream.close(&header)?;
            files.push(TOKENS_FILE);
        } else if !self.sequence_starts.is_empty() {
            bail!(
                "writing `{}`: starts of sequences are kept with the tokens, but there are none",
                self.path.display()
            );
        }
        if let Some(vocab) = &self.spec.vocab {
            self.write_file(VOCAB_FILE, &vocab_json(vocab))?;
        }
        let mean: Vec<u8> = self.sum.iter().flat_map(|s| ((s / self.n_rows as f64) as f32).to_le_bytes()).collect();
        let header = json!({ MEAN: { "dtype": "F32", "shape": [self.spec.d], "data_offsets": [0, mean.len()] } });
        self.write_file(STATS_FILE, &[padded_header(&header.to_string(), None)?, mean].concat())?;

        let manifest = Manifest {
            format: FORMAT.into(),
            version: VERSION,
            d: self.spec.d,
            rows: self.n_rows,
            dtype: self.spec.dtype,
            shards: self.closed.clone(),
            tokens: files.first().map(|&f| f.into()),
            vocab: self.spec.vocab.as_ref().map(|_| VOCAB_FILE.into()),
            model: self.spec.model.clone(),
            hook: self.spec.hook.clone(),
            context: self.spec.context,
            stats: Some(Stats { mean_norm, mean: Some(STATS_FILE.into()) }),
        };
        manifest.check()?;
        self.write_file(MANIFEST_FILE, &serde_json::to_vec_pretty(&manifest)?)?;
        sync_directory(&self.directory)?;
        // On Unix a rename would replace an empty directory.
        ensure!(self.path.symlink_metadata().is_err(), "writing `{}`: it exists by now", self.path.display());
        fs::rename(&self.directory, &self.path).map_err(|e| io_error("writing", &self.path, &e))?;
        sync_directory(parent_of(&self.path))?;
        Ok(DumpSummary {
            path: self.path.clone(),
            n_rows: self.n_rows,
            n_shards: self.closed.len(),
            n_bytes: self.n_rows * (self.spec.d * self.spec.dtype.size_bytes()) as u64,
            mean_norm,
        })
    }

    /// Appends the starts of sequences to the ids and returns the header of both.
    fn finish_tokens(&self, stream: &mut Stream) -> Result<Vec<u8>> {
        let ids_end = self.n_rows * 4;
        let mut tensors = BTreeMap::new();
        tensors.insert(TOKENS, json!({ "dtype": "U32", "shape": [self.n_rows], "data_offsets": [0, ids_end] }));
        if !self.sequence_starts.is_empty() {
            let display = self.path.display();
            let first = self.sequence_starts[0];
            let last = self.sequence_starts[self.sequence_starts.len() - 1];
            ensure!(first == 0, "writing `{display}`: the first sequence: expected row 0, found {first}");
            ensure!(last < self.n_rows, "writing `{display}`: the last sequence: expected a row, found none");
            let bytes: Vec<u8> = self.sequence_starts.iter().flat_map(|s| s.to_le_bytes()).collect();
            stream.write(&bytes)?;
            let end = ids_end + bytes.len() as u64;
            let count = self.sequence_starts.len();
            let starts = json!({ "dtype": "U64", "shape": [count], "data_offsets": [ids_end, end] });
            tensors.insert(SEQUENCE_STARTS, starts);
        }
        padded_header(&serde_json::to_string(&tensors)?, Some(SHARD_HEADER))
    }

    /// Puts a file of another kind beside the rows. Readers of dumps leave it alone.
    ///
    /// # Errors
    /// If there is a file of that name, or it cannot be written.
    pub fn attach(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        self.write_file(name, bytes)
    }

    fn write_file(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let path = self.directory.join(name);
        let write = || {
            let mut file = File::create_new(&path)?;
            file.write_all(bytes)?;
            file.sync_all()
        };
        write().map_err(|e| io_error("writing", &path, &e))
    }
}

impl Drop for DumpWriter {
    fn drop(&mut self) {
        // Gone after `finish`: it was renamed.
        let _ = fs::remove_dir_all(&self.directory);
    }
}

const TOKENS_FILE: &str = "tokens.safetensors";
const VOCAB_FILE: &str = "vocab.json";
const STATS_FILE: &str = "stats.safetensors";

/// The length and text of a safetensors header, filled with spaces to `size` bytes, or to a multiple of 8.
fn padded_header(text: &str, size: Option<usize>) -> Result<Vec<u8>> {
    let size = size.unwrap_or((8 + text.len()).next_multiple_of(8));
    ensure!(8 + text.len() <= size, "a header of {} bytes does not fit in {size}", 8 + text.len());
    let mut header = ((size - 8) as u64).to_le_bytes().to_vec();
    header.extend_from_slice(text.as_bytes());
    header.resize(size, b' ');
    Ok(header)
}
