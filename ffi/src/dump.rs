//! The dump directory that a host writes: row by row in bounded memory, and visible whole or not at all.

use crate::boundary::Guarded;
use crate::failure::{Failure, Outcome};
use crate::params::{check_reserved, items, params, strata_dump_params};
use crate::rows::{self, RowsIn};
use crate::status::{
    STRATA_STATUS_INDEX, STRATA_STATUS_IO, STRATA_STATUS_NOT_FINITE, STRATA_STATUS_PARAMS, STRATA_STATUS_SHAPE,
};
use std::ffi::{CStr, OsString, c_char};
use std::fs::{self, File};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, ErrorKind, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use strata_core::format::dump::SHARD_HEADER;
use strata_core::format::dump_builder::{DumpBuilder, DumpFiles, DumpPart, DumpSpec, Refusal};

/// A dump being written. One thread at a time may use it, any thread.
pub struct strata_dump(pub(crate) Guarded<Dump>);

/// The state of a dump.
pub(crate) struct Dump {
    files: Directory,
    builder: DumpBuilder,
}

/// The directory of a dump that is being written. Until [`Dump::finish`] it is hidden beside `path`; dropping it
/// deletes it.
struct Directory {
    path: PathBuf,
    directory: PathBuf,
    /// The open file of each [`DumpPart`].
    open: [Option<(PathBuf, File)>; 2],
}

impl Directory {
    fn create_beside(path: &Path) -> Outcome<Self> {
        check_absent(path)?;
        let Some(name) = path.file_name() else {
            return Err(Failure::new(STRATA_STATUS_IO, "dir: the path has no file name"));
        };
        // The name is random: where process ids repeat (containers), a directory that a killed process left behind
        // could have any name made of one.
        for attempt in 0..1000_u32 {
            let mut hidden = OsString::from(".");
            hidden.push(name);
            hidden.push(format!(".{:016x}.tmp", RandomState::new().hash_one(attempt)));
            let directory = path.with_file_name(hidden);
            match fs::create_dir(&directory) {
                Ok(()) => return Ok(Self { path: path.to_owned(), directory, open: [None, None] }),
                Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
                Err(e) => return Err(Failure::io("writing", path, &e)),
            }
        }
        Err(Failure::new(STRATA_STATUS_IO, format!("writing `{}`: found no free name beside it", path.display())))
    }

    fn with(&mut self, part: DumpPart, f: impl FnOnce(&mut File) -> io::Result<()>) -> Outcome {
        let (path, file) = self.open[part as usize].as_mut().expect("the builder writes to files that it has created");
        f(file).map_err(|e| Failure::io("writing", path, &e))
    }
}

impl DumpFiles for Directory {
    type Error = Failure;

    fn create(&mut self, part: DumpPart, name: &str) -> Outcome {
        let path = self.directory.join(name);
        let file = File::create_new(&path).map_err(|e| Failure::io("writing", &path, &e))?;
        self.open[part as usize] = Some((path, file));
        self.write(part, &[0; SHARD_HEADER])
    }

    fn write(&mut self, part: DumpPart, bytes: &[u8]) -> Outcome {
        self.with(part, |file| file.write_all(bytes))
    }

    fn close(&mut self, part: DumpPart, header: &[u8]) -> Outcome {
        self.with(part, |file| {
            file.seek(SeekFrom::Start(0))?;
            file.write_all(header)?;
            file.sync_all()
        })?;
        self.open[part as usize] = None;
        Ok(())
    }

    fn write_whole(&mut self, name: &str, bytes: &[u8]) -> Outcome {
        let path = self.directory.join(name);
        let write = || {
            let mut file = File::create_new(&path)?;
            file.write_all(bytes)?;
            file.sync_all()
        };
        write().map_err(|e| Failure::io("writing", &path, &e))
    }

    fn refuse(&self, why: Refusal) -> Failure {
        let status = match why {
            Refusal::NoWidth | Refusal::Width(_) | Refusal::NoRows | Refusal::NoTexts => STRATA_STATUS_SHAPE,
            Refusal::RowWidth { .. } | Refusal::TokenCount { .. } => STRATA_STATUS_SHAPE,
            Refusal::Token { .. } => STRATA_STATUS_INDEX,
            Refusal::NotFinite { .. } | Refusal::Range { .. } => STRATA_STATUS_NOT_FINITE,
            Refusal::Incomplete => STRATA_STATUS_IO,
            Refusal::NoContext | Refusal::SomeTokens | Refusal::LateVocab => STRATA_STATUS_PARAMS,
            Refusal::StartsWithoutTokens | Refusal::FirstStart(_) | Refusal::EmptySequence => STRATA_STATUS_PARAMS,
            Refusal::Core(error) => return error.into(),
        };
        Failure::new(status, why.to_string())
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // Some operating systems do not delete open files.
        self.open = [None, None];
        // After `Dump::finish` the directory has its name and is no longer here.
        let _ = fs::remove_dir_all(&self.directory);
    }
}

impl Dump {
    /// # Safety
    /// The strings of `settings` are NULL or end with a zero.
    pub unsafe fn create(path: &Path, settings: &strata_dump_params) -> Outcome<Self> {
        check_reserved(settings.reserved)?;
        let dtype = rows::dtype(settings.dtype).map_err(Failure::of("params"))?;
        let mut spec = DumpSpec::new(settings.d, dtype);
        // SAFETY: as the caller promises.
        spec.model = unsafe { text(settings.model) }.map_err(Failure::of("params: model"))?;
        // SAFETY: the same.
        spec.hook = unsafe { text(settings.hook) }.map_err(Failure::of("params: hook"))?;
        spec.context = (settings.context > 0).then_some(settings.context as usize);
        if settings.max_shard_bytes > 0 {
            spec.max_shard_bytes = settings.max_shard_bytes;
        }
        let mut files = Directory::create_beside(path)?;
        let builder = DumpBuilder::new(spec, &mut files).map_err(Failure::of("params"))?;
        Ok(Self { files, builder })
    }

    pub fn d(&self) -> usize {
        self.builder.d()
    }

    /// Writes the texts of the tokens.
    pub fn set_vocab(&mut self, texts: &[String]) -> Outcome {
        self.builder.set_vocab(texts, &mut self.files)
    }

    /// Adds ids to the special tokens of the dump.
    pub fn mark_special(&mut self, ids: &[u32]) {
        self.builder.mark_special(ids);
    }

    /// Appends rows, with the token of each where `tokens` is not NULL.
    ///
    /// # Safety
    /// `tokens` is NULL or has as many entries as there are rows.
    pub unsafe fn append(&mut self, x: &RowsIn, tokens: *const u32) -> Outcome {
        // SAFETY: as the caller promises.
        let given = || unsafe { items(tokens, x.n) };
        let tokens = (!tokens.is_null()).then(given).transpose().map_err(Failure::of("tokens"))?;
        self.builder.append((0..x.n).map(|i| x.row(i)), tokens, &mut self.files)
    }

    /// Writes the buffers, makes the files durable, and gives the directory its name.
    pub fn finish(&mut self) -> Outcome {
        let Self { files, builder } = self;
        builder.finish(files)?;
        sync(&files.directory)?;
        check_absent(&files.path)?;
        fs::rename(&files.directory, &files.path).map_err(|e| Failure::io("writing", &files.path, &e))?;
        let parent = files.path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        sync(parent).map_err(|failure| {
            let path = files.path.display();
            let why = format!("`{path}` is whole, but its name may not survive a loss of power: {failure}");
            Failure::new(STRATA_STATUS_IO, why)
        })
    }
}

/// On Unix a rename would replace an empty directory.
fn check_absent(path: &Path) -> Outcome {
    if path.symlink_metadata().is_ok() {
        return Err(Failure::new(STRATA_STATUS_IO, format!("writing `{}`: it exists already", path.display())));
    }
    Ok(())
}

/// Makes the names in `directory` durable. Only Unix can open a directory for that.
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

/// Reads strings: an empty one for NULL. Bytes that are no UTF-8, as those of a token that is a part of a character, are
/// written as `\xE2`, from which readers of dumps put the character together.
///
/// # Safety
/// `at` is NULL or has `len` entries, each NULL or ending with a zero.
pub(crate) unsafe fn texts(at: *const *const c_char, len: usize) -> Outcome<Vec<String>> {
    let text = |&at: &*const c_char| {
        if at.is_null() {
            return String::new();
        }
        // SAFETY: as the caller promises.
        let bytes = unsafe { CStr::from_ptr(at) }.to_bytes();
        let mut text = String::with_capacity(bytes.len());
        for chunk in bytes.utf8_chunks() {
            text.push_str(chunk.valid());
            chunk.invalid().iter().for_each(|byte| text.push_str(&format!("\\x{byte:02X}")));
        }
        text
    };
    // SAFETY: the same.
    Ok(unsafe { items(at, len) }?.iter().map(text).collect())
}

/// # Safety
/// `at` is NULL or ends with a zero, and does not change while the result is used.
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
