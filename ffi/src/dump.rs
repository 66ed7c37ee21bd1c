//! A dump directory, written row by row in bounded memory, and seen whole or not at all.

use crate::params::{check_reserved, items, params, strata_dump_params};
use crate::rows::{self, RowsIn};
use crate::status::{Failure, Guarded, Outcome, STRATA_STATUS_IO, STRATA_STATUS_NOT_FINITE, STRATA_STATUS_SHAPE};
use std::ffi::{CStr, OsString, c_char};
use std::fs::{self, File};
use std::io::{BufWriter, ErrorKind, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process;
use strata_core::format::dump::{
    FORMAT, MANIFEST_FILE, MEAN, Manifest, SHARD_HEADER, ShardEntry, Stats, TOKENS, VERSION, shard_header,
    vector_header, vocab_json,
};
use strata_core::{Dtype, Error, Rows};

/// A dump being written. One thread at a time may use it, any thread.
pub struct strata_dump(pub(crate) Guarded<Dump>);

/// The inside of a dump. Until [`Dump::finish`] everything lies in a hidden directory beside `path`, which goes with
/// it.
pub(crate) struct Dump {
    path: PathBuf,
    directory: PathBuf,
    /// What is known so far.
    manifest: Manifest,
    rows_a_shard: u64,
    shard: Option<Stream>,
    tokens: Option<Stream>,
    /// Texts of the vocabulary, where there is one.
    n_vocab: Option<usize>,
    failed: bool,
    norm_sum: f64,
    sum: Vec<f64>,
    values: Vec<f32>,
    bytes: Vec<u8>,
}

/// A file whose header is written last.
struct Stream {
    path: PathBuf,
    file: BufWriter<File>,
}

impl Stream {
    fn create(path: PathBuf) -> Outcome<Self> {
        let file = File::create_new(&path).map_err(|e| Failure::io("writing", &path, &e))?;
        let mut stream = Self { path, file: BufWriter::with_capacity(1 << 20, file) };
        stream.write(&[0; SHARD_HEADER])?;
        Ok(stream)
    }

    fn write(&mut self, bytes: &[u8]) -> Outcome {
        self.file.write_all(bytes).map_err(|e| Failure::io("writing", &self.path, &e))
    }

    fn close(mut self, header: &[u8]) -> Outcome {
        let mut close = || {
            self.file.seek(SeekFrom::Start(0))?;
            self.file.write_all(header)?;
            self.file.flush()?;
            self.file.get_ref().sync_all()
        };
        close().map_err(|e| Failure::io("writing", &self.path, &e))
    }
}

const TOKENS_FILE: &str = "tokens.safetensors";
const VOCAB_FILE: &str = "vocab.json";
const STATS_FILE: &str = "stats.safetensors";

impl Dump {
    /// # Safety
    /// The strings of `settings` are NULL or end with a zero.
    pub unsafe fn create(path: &Path, settings: &strata_dump_params) -> Outcome<Self> {
        check_reserved(settings.reserved)?;
        let dtype = rows::dtype(settings.dtype).map_err(Failure::of("params"))?;
        let d = settings.d;
        // SAFETY: as the caller promises.
        let model = unsafe { text(settings.model) }.map_err(Failure::of("params: model"))?;
        // SAFETY: the same.
        let hook = unsafe { text(settings.hook) }.map_err(Failure::of("params: hook"))?;
        if d == 0 {
            return Err(Failure::new(STRATA_STATUS_SHAPE, "params: d is 0: set it to the numbers in a row"));
        }
        let Some(row_bytes) = d.checked_mul(dtype.size_bytes()).filter(|n| *n <= 1 << 30) else {
            return Err(Failure::found(STRATA_STATUS_SHAPE, "params: d: expected rows of at most 1 GiB", d));
        };
        let shard = if settings.max_shard_bytes == 0 { 1 << 30 } else { settings.max_shard_bytes };
        Ok(Self {
            path: path.to_owned(),
            directory: create_beside(path)?,
            manifest: Manifest {
                format: FORMAT.into(),
                version: VERSION,
                d,
                rows: 0,
                dtype,
                shards: Vec::new(),
                tokens: None,
                vocab: None,
                model,
                hook,
                context: (settings.context > 0).then_some(settings.context as usize),
                stats: None,
            },
            rows_a_shard: (shard / row_bytes as u64).max(1),
            shard: None,
            tokens: None,
            n_vocab: None,
            failed: false,
            norm_sum: 0.0,
            sum: vec![0.0; d],
            values: vec![0.0; d],
            bytes: Vec::with_capacity(row_bytes),
        })
    }

    pub fn d(&self) -> usize {
        self.manifest.d
    }

    /// Writes the texts of the tokens.
    pub fn set_vocab(&mut self, texts: &[String]) -> Outcome {
        self.check_whole()?;
        if self.manifest.rows > 0 || self.n_vocab.is_some() {
            return Err(params("a vocabulary is given once, before the first rows"));
        }
        if texts.is_empty() {
            return Err(Failure::found(STRATA_STATUS_SHAPE, "n_texts: expected at least 1", 0));
        }
        self.failed = true;
        self.write_file(VOCAB_FILE, &vocab_json(texts))?;
        self.failed = false;
        self.manifest.vocab = Some(VOCAB_FILE.into());
        self.n_vocab = Some(texts.len());
        Ok(())
    }

    /// Appends rows, with the token of each where `tokens` is not NULL.
    ///
    /// # Safety
    /// `tokens` is NULL or has as many entries as there are rows.
    pub unsafe fn append(&mut self, x: &RowsIn, tokens: *const u32) -> Outcome {
        self.check_whole()?;
        let with_tokens = !tokens.is_null();
        if self.manifest.rows > 0 && with_tokens != self.manifest.tokens.is_some() {
            return Err(params("tokens: expected them for all rows, or for none"));
        }
        // SAFETY: as the caller promises.
        let tokens = if with_tokens { unsafe { items(tokens, x.n) }.map_err(Failure::of("tokens"))? } else { &[] };
        let len = self.n_vocab.unwrap_or(usize::MAX);
        if let Some(&token) = tokens.iter().find(|&&token| token as usize >= len) {
            return Err(Error::Index { what: "tokens, of a vocabulary", index: token as usize, len }.into());
        }
        x.check_finite().map_err(Failure::of("x"))?;
        if x.n == 0 {
            return Ok(());
        }
        self.failed = true;
        self.append_tokens(tokens)?;
        (0..x.n).try_for_each(|i| self.append_row(x.row(i)))?;
        self.failed = false;
        Ok(())
    }

    fn append_tokens(&mut self, tokens: &[u32]) -> Outcome {
        if tokens.is_empty() {
            return Ok(());
        }
        self.manifest.tokens = Some(TOKENS_FILE.into());
        let stream = opened(&mut self.tokens, &self.directory, TOKENS_FILE)?;
        tokens.iter().try_for_each(|token| stream.write(&token.to_le_bytes()))
    }

    fn append_row(&mut self, row: Rows<'_>) -> Outcome {
        let Manifest { d, dtype, .. } = self.manifest;
        row.widen_row(0, &mut self.values);
        self.bytes.clear();
        dtype.narrow(&self.values, &mut self.bytes);
        let stored = Rows::new(&self.bytes, 1, d, self.bytes.len(), dtype)?;
        if stored.first_not_finite().is_some() {
            let row = self.manifest.rows;
            let why = format!("row {row} of the dump is beyond the range of {dtype}; bf16 and f32 hold it");
            return Err(Failure::new(STRATA_STATUS_NOT_FINITE, why));
        }
        // Statistics are of the rows as stored.
        stored.widen_row(0, &mut self.values);
        let mut square = 0.0;
        for (sum, &v) in self.sum.iter_mut().zip(&self.values) {
            *sum += f64::from(v);
            square += f64::from(v) * f64::from(v);
        }
        self.norm_sum += square.sqrt();
        if self.shard.is_none() {
            let file = format!("acts-{:05}.safetensors", self.manifest.shards.len());
            self.manifest.shards.push(ShardEntry { file, rows: 0 });
        }
        let entry = self.manifest.shards.last_mut().expect("pushed with the stream");
        opened(&mut self.shard, &self.directory, &entry.file)?.write(&self.bytes)?;
        entry.rows += 1;
        self.manifest.rows += 1;
        if entry.rows == self.rows_a_shard { self.close_shard() } else { Ok(()) }
    }

    fn close_shard(&mut self) -> Outcome {
        if let (Some(stream), Some(entry)) = (self.shard.take(), self.manifest.shards.last()) {
            stream.close(&shard_header(self.manifest.dtype, entry.rows, self.manifest.d)?)?;
        }
        Ok(())
    }

    /// Writes what is left, makes it last, and gives the directory its name.
    pub fn finish(&mut self) -> Outcome {
        self.check_whole()?;
        let rows = self.manifest.rows;
        if rows == 0 {
            return Err(Failure::new(STRATA_STATUS_SHAPE, "a dump has at least 1 row"));
        }
        self.close_shard()?;
        if let Some(stream) = self.tokens.take() {
            stream.close(&vector_header(TOKENS, "U32", rows))?;
        }
        let mut mean = vector_header(MEAN, "F32", self.sum.len() as u64);
        let numbers: Vec<f32> = self.sum.iter().map(|sum| (sum / rows as f64) as f32).collect();
        Dtype::F32.narrow(&numbers, &mut mean);
        self.write_file(STATS_FILE, &mean)?;
        self.manifest.stats = Some(Stats { mean_norm: self.norm_sum / rows as f64, mean: Some(STATS_FILE.into()) });
        self.write_file(MANIFEST_FILE, &self.manifest.to_json()?)?;
        sync(&self.directory)?;
        check_absent(&self.path)?;
        fs::rename(&self.directory, &self.path).map_err(|e| Failure::io("writing", &self.path, &e))?;
        sync(self.path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new(".")))
    }

    fn check_whole(&self) -> Outcome {
        if self.failed {
            return Err(Failure::new(STRATA_STATUS_IO, "an earlier error left the dump incomplete"));
        }
        Ok(())
    }

    fn write_file(&self, name: &str, bytes: &[u8]) -> Outcome {
        let path = self.directory.join(name);
        let write = || {
            let mut file = File::create_new(&path)?;
            file.write_all(bytes)?;
            file.sync_all()
        };
        write().map_err(|e| Failure::io("writing", &path, &e))
    }
}

impl Drop for Dump {
    fn drop(&mut self) {
        // Closed before they go, which some systems want.
        (self.shard, self.tokens) = (None, None);
        // Not there any more if it was given its name.
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// The stream in `slot`, opened as `directory/name` if there is none.
fn opened<'a>(slot: &'a mut Option<Stream>, directory: &Path, name: &str) -> Outcome<&'a mut Stream> {
    match slot {
        Some(stream) => Ok(stream),
        None => Ok(slot.insert(Stream::create(directory.join(name))?)),
    }
}

/// A directory beside `path` that nothing else uses: hidden, and of this process.
fn create_beside(path: &Path) -> Outcome<PathBuf> {
    check_absent(path)?;
    let Some(name) = path.file_name() else {
        return Err(Failure::new(STRATA_STATUS_IO, "dir: the path has no file name"));
    };
    for n in 0_u32.. {
        let mut hidden = OsString::from(".");
        hidden.push(name);
        hidden.push(format!(".{}-{n}.tmp", process::id()));
        let directory = path.with_file_name(hidden);
        match fs::create_dir(&directory) {
            Ok(()) => return Ok(directory),
            Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
            Err(e) => return Err(Failure::io("writing", path, &e)),
        }
    }
    unreachable!("four thousand million directories")
}

/// On Unix a rename would replace an empty directory.
fn check_absent(path: &Path) -> Outcome {
    if path.symlink_metadata().is_ok() {
        return Err(Failure::new(STRATA_STATUS_IO, format!("writing `{}`: it exists already", path.display())));
    }
    Ok(())
}

/// Makes the names in `directory` last. Only Unix lets a directory be opened for that.
fn sync(directory: &Path) -> Outcome {
    if cfg!(unix) {
        let synced = File::open(directory).and_then(|d| d.sync_all());
        synced.map_err(|e| Failure::io("writing", directory, &e))?;
    }
    Ok(())
}

/// # Safety
/// `at` is NULL or ends with a zero.
unsafe fn text(at: *const c_char) -> Outcome<Option<String>> {
    if at.is_null() {
        return Ok(None);
    }
    // SAFETY: as the caller promises.
    let text = unsafe { CStr::from_ptr(at) };
    text.to_str().map(|text| Some(text.to_owned())).map_err(|_| params("expected UTF-8"))
}

/// Strings, an empty one for NULL, with U+FFFD for what is not UTF-8.
///
/// # Safety
/// `at` is NULL or has `len` entries, each NULL or ending with a zero.
pub(crate) unsafe fn texts(at: *const *const c_char, len: usize) -> Outcome<Vec<String>> {
    let text = |&at: &*const c_char| {
        if at.is_null() {
            return String::new();
        }
        // SAFETY: as the caller promises.
        unsafe { CStr::from_ptr(at) }.to_string_lossy().into_owned()
    };
    // SAFETY: the same.
    Ok(unsafe { items(at, len) }?.iter().map(text).collect())
}

/// # Safety
/// `at` is NULL or ends with a zero, and stays as it is while the result is used.
pub(crate) unsafe fn path<'a>(at: *const c_char) -> Outcome<&'a Path> {
    if at.is_null() {
        return Err(Failure::null());
    }
    // SAFETY: as the caller promises.
    let text = unsafe { CStr::from_ptr(at) };
    #[cfg(unix)]
    return Ok(Path::new(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(text.to_bytes())));
    #[cfg(not(unix))]
    return text.to_str().map(Path::new).map_err(|_| params("path: expected UTF-8"));
}
