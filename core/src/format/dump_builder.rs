//! Builds a dump, without I/O: which bytes are written to which file of the directory, in which order.
//!
//! The host owns the files ([`DumpFiles`]); [`DumpBuilder`] does everything else: it checks rows and tokens, splits the
//! rows into shards, measures statistics of the rows as they are stored, and makes the headers and the manifest. A dump
//! is written in one pass and in bounded memory: each file that grows starts with
//! [`SHARD_HEADER`](super::dump::SHARD_HEADER) reserved bytes, which are overwritten with its header once the number of
//! its rows is known.
//!
//! The host gives the directory its name after [`DumpBuilder::finish`], so that an unfinished dump is never found under
//! it.

use super::dump::{
    FORMAT, MANIFEST_FILE, MEAN, Manifest, SEQUENCE_STARTS, ShardEntry, Stats, TOKENS, VERSION, header, shard_header,
    vector_header, vocab_json,
};
use crate::error::{Error, Result};
use crate::rows::{Dtype, Rows};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

const TOKENS_FILE: &str = "tokens.safetensors";
const VOCAB_FILE: &str = "vocab.json";
const STATS_FILE: &str = "stats.safetensors";

/// Bytes that are buffered before a file is written to.
const BUFFER: usize = 1 << 20;
/// Numbers that are narrowed, checked and counted together.
const PIECE: usize = 1 << 16;
/// Most bytes of one row.
const MAX_ROW: usize = 1 << 30;

/// One of the two files of a dump that grow while rows are appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DumpPart {
    /// The open shard.
    Rows,
    /// The token ids.
    Tokens,
}

/// The files of a dump directory that is being written, as the host provides them. At most one file per [`DumpPart`] is
/// open at a time.
pub trait DumpFiles {
    /// The error of the host.
    type Error;

    /// Creates the file `name`, which must not exist, and writes [`SHARD_HEADER`](super::dump::SHARD_HEADER) zero
    /// bytes.
    ///
    /// # Errors
    /// If the file cannot be created or written.
    fn create(&mut self, part: DumpPart, name: &str) -> Result<(), Self::Error>;

    /// Appends `bytes` to the open file of `part`.
    ///
    /// # Errors
    /// If the file cannot be written.
    fn write(&mut self, part: DumpPart, bytes: &[u8]) -> Result<(), Self::Error>;

    /// Writes `header` over the first bytes of the open file of `part`, makes it durable and closes it.
    ///
    /// # Errors
    /// If the file cannot be written or synced.
    fn close(&mut self, part: DumpPart, header: &[u8]) -> Result<(), Self::Error>;

    /// Creates the file `name` with these bytes and makes it durable.
    ///
    /// # Errors
    /// If the file exists or cannot be written.
    fn write_whole(&mut self, name: &str, bytes: &[u8]) -> Result<(), Self::Error>;

    /// Turns a refusal of the builder into an error of the host.
    fn refuse(&self, why: Refusal) -> Self::Error;
}

/// Reasons for which the builder refuses a specification, rows, tokens or a vocabulary.
#[derive(Clone, Debug, PartialEq)]
pub enum Refusal {
    /// The specification has a width of 0.
    NoWidth,
    /// One row would have more than 1 GiB.
    Width(usize),
    /// Sequences of 0 rows.
    NoContext,
    /// An earlier error left the dump incomplete.
    Incomplete,
    /// The dump would have no rows.
    NoRows,
    /// The width of appended rows, where the dump has another.
    RowWidth {
        /// The width of the dump.
        expected: usize,
        /// The width of the rows.
        found: usize,
    },
    /// Tokens with some rows and not with others.
    SomeTokens,
    /// More or fewer tokens than rows.
    TokenCount {
        /// The number of rows.
        expected: usize,
        /// The number of tokens.
        found: usize,
    },
    /// A token that the vocabulary does not have.
    Token {
        /// The token.
        token: u32,
        /// The number of texts.
        vocab: usize,
    },
    /// A second vocabulary, or one after the first rows.
    LateVocab,
    /// A vocabulary without texts.
    NoTexts,
    /// A number of the rows that is NaN or infinite.
    NotFinite {
        /// Its row in the dump.
        row: u64,
        /// Its column.
        column: usize,
        /// The number.
        value: f32,
    },
    /// A number that the type of the dump cannot hold.
    Range {
        /// Its row in the dump.
        row: u64,
        /// Its column.
        column: usize,
        /// The number.
        value: f32,
        /// The type of the dump.
        dtype: Dtype,
    },
    /// Starts of sequences, which are stored beside the tokens, without tokens.
    StartsWithoutTokens,
    /// A first sequence that does not start at row 0.
    FirstStart(u64),
    /// A last sequence without rows.
    EmptySequence,
    /// The core refused a size, or there is not enough memory.
    Core(Error),
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self::Core(error)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoWidth => f.write_str("d is 0: set it to the numbers in a row"),
            Self::Width(d) => write!(f, "d: expected rows of at most 1 GiB, found {d} numbers"),
            Self::NoContext => f.write_str("context: expected at least 1, found 0"),
            Self::Incomplete => f.write_str("an earlier error left the dump incomplete"),
            Self::NoRows => f.write_str("a dump has at least 1 row"),
            Self::RowWidth { expected, found } => write!(f, "expected rows of {expected} numbers, found {found}"),
            Self::SomeTokens => f.write_str("tokens: expected them for all rows, or for none"),
            Self::TokenCount { expected, found } => {
                write!(f, "tokens: expected {expected}, one per row, found {found}")
            }
            Self::Token { token, vocab } => {
                write!(f, "tokens: expected ids below {vocab}, the size of the vocabulary, found {token}")
            }
            Self::LateVocab => f.write_str("a vocabulary is given once, before the first rows"),
            Self::NoTexts => f.write_str("n_texts: expected at least 1, found 0"),
            Self::NotFinite { row, column, value } => {
                write!(f, "row {row}, column {column}: expected a finite number, found {value}")
            }
            Self::Range { row, column, value, dtype } => {
                write!(f, "row {row}, column {column}: {value} is beyond the range of {dtype}; bf16 and f32 hold it")
            }
            Self::StartsWithoutTokens => {
                f.write_str("starts of sequences are stored beside the tokens, but there are none")
            }
            Self::FirstStart(row) => write!(f, "the first sequence: expected to start at row 0, found {row}"),
            Self::EmptySequence => f.write_str("the last sequence: expected at least 1 row, found none"),
            Self::Core(error) => error.fmt(f),
        }
    }
}

/// The description of a new dump, besides its rows.
#[derive(Clone, Debug, PartialEq)]
pub struct DumpSpec {
    /// Width of a row.
    pub d: usize,
    /// The type in which numbers are stored.
    pub dtype: Dtype,
    /// Largest size of the rows of a shard; but a shard has at least one row.
    pub max_shard_bytes: u64,
    /// The language model that the rows come from.
    pub model: Option<String>,
    /// The hook point in the model.
    pub hook: Option<String>,
    /// Rows per sequence, where all sequences have the same number.
    pub context: Option<usize>,
    /// The text of each token id.
    pub vocab: Option<Vec<String>>,
    /// The ids of special tokens, which are no text: beginnings, ends, padding.
    pub special_tokens: Vec<u32>,
}

impl DumpSpec {
    /// Returns the description of rows of `d` numbers of `dtype` in shards of 1 GiB, without an origin.
    pub fn new(d: usize, dtype: Dtype) -> Self {
        Self {
            d,
            dtype,
            max_shard_bytes: 1 << 30,
            model: None,
            hook: None,
            context: None,
            vocab: None,
            special_tokens: Vec::new(),
        }
    }
}

/// A dump that is being written.
#[derive(Clone, Debug)]
pub struct DumpBuilder {
    /// The manifest so far; its shards include the open one.
    manifest: Manifest,
    rows_per_shard: u64,
    shard_is_open: bool,
    /// Number of texts of the vocabulary, where there is one.
    n_vocab: Option<usize>,
    sequence_starts: Vec<u64>,
    /// Whether an error occurred after part of the rows had been written.
    failed: bool,
    /// Sum of the norms of the rows as stored.
    norm_sum: f64,
    /// `(d)`: sum of the rows as stored.
    sum: Vec<f64>,
    /// Bytes of the rows and of the tokens that are not written yet.
    buffer: [Vec<u8>; 2],
    /// Scratch: some rows as f32.
    values: Vec<f32>,
}

impl DumpBuilder {
    /// Starts a dump without rows. The vocabulary of `spec` is written at once.
    ///
    /// # Errors
    /// A [`Refusal`] for a width of 0, for rows above 1 GiB, for sequences of 0 rows, and where memory is short.
    pub fn new<F: DumpFiles>(spec: DumpSpec, files: &mut F) -> Result<Self, F::Error> {
        let mut builder = Self::without_vocab(&spec).map_err(|why| files.refuse(why))?;
        if let Some(texts) = &spec.vocab {
            builder.set_vocab(texts, files)?;
        }
        Ok(builder)
    }

    fn without_vocab(spec: &DumpSpec) -> Result<Self, Refusal> {
        if spec.d == 0 {
            return Err(Refusal::NoWidth);
        }
        let row_bytes = spec.d.checked_mul(spec.dtype.size_bytes()).filter(|n| *n <= MAX_ROW);
        let row_bytes = row_bytes.ok_or(Refusal::Width(spec.d))?;
        if spec.context == Some(0) {
            return Err(Refusal::NoContext);
        }
        let mut sum = reserved("column sums of a dump", spec.d)?;
        sum.resize(spec.d, 0.0);
        Ok(Self {
            manifest: Manifest {
                format: FORMAT.into(),
                version: VERSION,
                d: spec.d,
                rows: 0,
                dtype: spec.dtype,
                shards: Vec::new(),
                tokens: None,
                sequence_starts: None,
                vocab: None,
                special_tokens: (!spec.special_tokens.is_empty()).then(|| spec.special_tokens.clone()),
                model: spec.model.clone(),
                hook: spec.hook.clone(),
                context: spec.context,
                stats: None,
            },
            rows_per_shard: (spec.max_shard_bytes / row_bytes as u64).max(1),
            shard_is_open: false,
            n_vocab: None,
            sequence_starts: Vec::new(),
            failed: false,
            norm_sum: 0.0,
            sum,
            // A piece is added to the buffer, which is written when it is full.
            buffer: [
                reserved("the buffer of a dump", BUFFER + row_bytes.max(PIECE * 4))?,
                reserved("the buffer of a dump", 2 * BUFFER)?,
            ],
            values: reserved("a row of a dump", spec.d.max(PIECE))?,
        })
    }

    /// Returns the width of a row.
    pub fn d(&self) -> usize {
        self.manifest.d
    }

    /// Returns the number of rows appended so far.
    pub fn n_rows(&self) -> u64 {
        self.manifest.rows
    }

    /// Stores the text of each token id.
    ///
    /// # Errors
    /// A [`Refusal`] for a second vocabulary, one after the first rows, or one without texts; errors of the host.
    pub fn set_vocab<F: DumpFiles>(&mut self, texts: &[String], files: &mut F) -> Result<(), F::Error> {
        let why = match () {
            () if self.failed => Some(Refusal::Incomplete),
            () if self.manifest.rows > 0 || self.n_vocab.is_some() => Some(Refusal::LateVocab),
            () if texts.is_empty() => Some(Refusal::NoTexts),
            () => None,
        };
        if let Some(why) = why {
            return Err(files.refuse(why));
        }
        self.failed = true;
        files.write_whole(VOCAB_FILE, &vocab_json(texts))?;
        self.failed = false;
        self.manifest.vocab = Some(VOCAB_FILE.into());
        self.n_vocab = Some(texts.len());
        Ok(())
    }

    /// Adds ids to the special tokens of the dump, which its reader may leave out: see [`DumpSpec::special_tokens`].
    pub fn mark_special(&mut self, ids: &[u32]) {
        if ids.is_empty() {
            return;
        }
        let special = self.manifest.special_tokens.get_or_insert_default();
        special.extend_from_slice(ids);
        special.sort_unstable();
        special.dedup();
    }

    /// Declares that the next row starts a sequence. Not needed where all sequences have `context` rows.
    pub fn start_sequence(&mut self) {
        if self.sequence_starts.last() != Some(&self.manifest.rows) {
            self.sequence_starts.push(self.manifest.rows);
        }
    }

    /// Appends blocks of rows, in order, and the token id of each row. Either every call gives tokens or none does.
    ///
    /// # Errors
    /// A [`Refusal`] for tokens that do not match or a number that is NaN or infinite; the dump is then unchanged.
    /// After a [`Refusal::Range`] or an error of the host, nothing can be appended and the dump cannot be finished.
    pub fn append<'r, F: DumpFiles>(
        &mut self,
        blocks: impl Iterator<Item = Rows<'r>> + Clone,
        tokens: Option<&[u32]>,
        files: &mut F,
    ) -> Result<(), F::Error> {
        let n = self.check(blocks.clone(), tokens).map_err(|why| files.refuse(why))?;
        if n == 0 {
            return Ok(());
        }
        self.failed = true;
        if let Some(tokens) = tokens {
            self.append_tokens(tokens, files)?;
        }
        for rows in blocks {
            let mut first = 0;
            while first < rows.n() {
                let left_of_shard = self.rows_per_shard - self.open_rows();
                let n = (PIECE / self.manifest.d).max(1).min(rows.n() - first);
                let n = n.min(usize::try_from(left_of_shard).unwrap_or(usize::MAX));
                self.append_piece(rows, first, n, files)?;
                first += n;
            }
        }
        self.failed = false;
        Ok(())
    }

    /// Checks everything that can be checked before a byte is written; returns the number of rows.
    fn check<'r>(&self, blocks: impl Iterator<Item = Rows<'r>>, tokens: Option<&[u32]>) -> Result<usize, Refusal> {
        if self.failed {
            return Err(Refusal::Incomplete);
        }
        let mut n = 0;
        for rows in blocks {
            if rows.d() != self.manifest.d {
                return Err(Refusal::RowWidth { expected: self.manifest.d, found: rows.d() });
            }
            if let Some((i, column)) = rows.first_not_finite() {
                let row = self.manifest.rows + (n + i) as u64;
                return Err(Refusal::NotFinite { row, column, value: rows.get(i, column) });
            }
            n += rows.n();
        }
        if n == 0 {
            return Ok(0);
        }
        if self.manifest.rows > 0 && tokens.is_some() != self.manifest.tokens.is_some() {
            return Err(Refusal::SomeTokens);
        }
        if let Some(tokens) = tokens {
            if tokens.len() != n {
                return Err(Refusal::TokenCount { expected: n, found: tokens.len() });
            }
            if let Some(vocab) = self.n_vocab
                && let Some(&token) = tokens.iter().find(|&&token| token as usize >= vocab)
            {
                return Err(Refusal::Token { token, vocab });
            }
        }
        Ok(n)
    }

    /// Returns the rows of the open shard.
    fn open_rows(&self) -> u64 {
        self.manifest.shards.last().filter(|_| self.shard_is_open).map_or(0, |shard| shard.rows)
    }

    fn append_tokens<F: DumpFiles>(&mut self, tokens: &[u32], files: &mut F) -> Result<(), F::Error> {
        if self.manifest.tokens.is_none() {
            files.create(DumpPart::Tokens, TOKENS_FILE)?;
            self.manifest.tokens = Some(TOKENS_FILE.into());
        }
        for tokens in tokens.chunks(BUFFER / 4) {
            self.buffer[1].extend(tokens.iter().flat_map(|token| token.to_le_bytes()));
            self.flush(DumpPart::Tokens, BUFFER, files)?;
        }
        Ok(())
    }

    /// Stores rows `first..first + n` of `rows`, which fit in the open shard.
    fn append_piece<F: DumpFiles>(
        &mut self,
        rows: Rows<'_>,
        first: usize,
        n: usize,
        files: &mut F,
    ) -> Result<(), F::Error> {
        let Manifest { d, dtype, .. } = self.manifest;
        if !self.shard_is_open {
            let file = format!("acts-{:05}.safetensors", self.manifest.shards.len());
            files.create(DumpPart::Rows, &file)?;
            self.manifest.shards.push(ShardEntry { file, rows: 0 });
            self.shard_is_open = true;
        }
        self.values.resize(n * d, 0.0);
        rows.widen(first..first + n, &mut self.values);
        let start = self.buffer[0].len();
        dtype.narrow(&self.values, &mut self.buffer[0]);
        let stored = Rows::new(&self.buffer[0][start..], n, d, d * dtype.size_bytes(), dtype);
        let stored = stored.map_err(|error| files.refuse(error.into()))?;
        if let Some((i, column)) = stored.first_not_finite() {
            let (row, value) = (self.manifest.rows + i as u64, self.values[i * d + column]);
            return Err(files.refuse(Refusal::Range { row, column, value, dtype }));
        }
        // The statistics are those of the rows as stored.
        stored.widen(0..n, &mut self.values);
        for row in self.values.chunks_exact(d) {
            let mut square = 0.0;
            for (sum, &v) in self.sum.iter_mut().zip(row) {
                let v = f64::from(v);
                *sum += v;
                square += v * v;
            }
            self.norm_sum += libm::sqrt(square);
        }
        self.flush(DumpPart::Rows, BUFFER, files)?;
        self.manifest.rows += n as u64;
        if let Some(shard) = self.manifest.shards.last_mut() {
            shard.rows += n as u64;
        }
        if self.open_rows() == self.rows_per_shard { self.close_shard(files) } else { Ok(()) }
    }

    /// Writes the buffer of a file, if it has at least `least` bytes.
    fn flush<F: DumpFiles>(&mut self, part: DumpPart, least: usize, files: &mut F) -> Result<(), F::Error> {
        let buffer = &mut self.buffer[part as usize];
        if buffer.len() >= least {
            files.write(part, buffer)?;
            buffer.clear();
        }
        Ok(())
    }

    fn close_shard<F: DumpFiles>(&mut self, files: &mut F) -> Result<(), F::Error> {
        if self.shard_is_open {
            let header = shard_header(self.manifest.dtype, self.open_rows(), self.manifest.d);
            let header = header.map_err(|error| files.refuse(error.into()))?;
            self.flush(DumpPart::Rows, 0, files)?;
            files.close(DumpPart::Rows, &header)?;
            self.shard_is_open = false;
        }
        Ok(())
    }

    /// Writes the buffers, the statistics and finally the manifest. The host must then sync the directory and give it
    /// its name.
    ///
    /// # Errors
    /// A [`Refusal`] if there are no rows, if an append failed, or if starts of sequences are inconsistent; errors of
    /// the host.
    pub fn finish<F: DumpFiles>(&mut self, files: &mut F) -> Result<&Manifest, F::Error> {
        self.check_finish().map_err(|why| files.refuse(why))?;
        self.failed = true;
        self.close_shard(files)?;
        let rows = self.manifest.rows;
        if self.manifest.tokens.is_some() {
            self.close_tokens(files)?;
        }
        let mut mean = vector_header(MEAN, "F32", self.sum.len() as u64);
        self.values.clear();
        self.values.extend(self.sum.iter().map(|sum| (sum / rows as f64) as f32));
        Dtype::F32.narrow(&self.values, &mut mean);
        files.write_whole(STATS_FILE, &mean)?;
        self.manifest.stats = Some(Stats { mean_norm: self.norm_sum / rows as f64, mean: Some(STATS_FILE.into()) });
        let json = self.manifest.to_json().map_err(|error| files.refuse(error.into()))?;
        files.write_whole(MANIFEST_FILE, &json)?;
        Ok(&self.manifest)
    }

    fn check_finish(&self) -> Result<(), Refusal> {
        if self.failed {
            return Err(Refusal::Incomplete);
        }
        if self.manifest.rows == 0 {
            return Err(Refusal::NoRows);
        }
        let (Some(&first), Some(&last)) = (self.sequence_starts.first(), self.sequence_starts.last()) else {
            return Ok(());
        };
        match () {
            () if self.manifest.tokens.is_none() => Err(Refusal::StartsWithoutTokens),
            () if first != 0 => Err(Refusal::FirstStart(first)),
            () if last >= self.manifest.rows => Err(Refusal::EmptySequence),
            () => Ok(()),
        }
    }

    /// Appends the starts of the sequences to the file of tokens, and writes its header.
    fn close_tokens<F: DumpFiles>(&mut self, files: &mut F) -> Result<(), F::Error> {
        let (rows, starts) = (self.manifest.rows, self.sequence_starts.len() as u64);
        let header = if starts == 0 {
            vector_header(TOKENS, "U32", rows)
        } else {
            // The header lists tensors by name, as the writer of the safetensors library does.
            let starts = (SEQUENCE_STARTS, "U64", format!("{starts}"), 4 * rows..4 * rows + 8 * starts);
            header(&[starts, (TOKENS, "U32", format!("{rows}"), 0..4 * rows)])
        };
        for starts in core::mem::take(&mut self.sequence_starts).chunks(BUFFER / 8) {
            self.buffer[1].extend(starts.iter().flat_map(|start| start.to_le_bytes()));
            self.flush(DumpPart::Tokens, BUFFER, files)?;
        }
        self.flush(DumpPart::Tokens, 0, files)?;
        files.close(DumpPart::Tokens, &header)
    }
}

/// Returns an empty vector with capacity for `n` items, or an error that says what the memory was for.
fn reserved<T>(what: &'static str, n: usize) -> Result<Vec<T>, Refusal> {
    let mut vector = Vec::new();
    let bytes = n.saturating_mul(size_of::<T>());
    vector.try_reserve_exact(n).map_err(|_| Error::Memory { what, bytes })?;
    Ok(vector)
}
