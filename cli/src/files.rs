//! Files that appear whole or not at all, and one sentence for each way in which that fails.

use std::ffi::OsString;
use std::fs::{self, File, TryLockError};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result, anyhow, bail, ensure};

/// One sentence: what was being done (`reading`, `writing`), to which path, and what came in the way.
pub fn io_error(doing: &str, path: &Path, error: &io::Error) -> anyhow::Error {
    let why = match error.kind() {
        ErrorKind::StorageFull => "the disk is full".into(),
        ErrorKind::QuotaExceeded => "the disk quota is used up".into(),
        ErrorKind::NotFound => "no such file or directory".into(),
        ErrorKind::PermissionDenied => "permission denied".into(),
        ErrorKind::ReadOnlyFilesystem => "the file system is read-only".into(),
        _ => error.to_string(),
    };
    anyhow!("{doing} `{}`: {why}", path.display())
}

/// Reads a JSON file.
///
/// # Errors
/// One sentence with the path if it cannot be read or is not JSON.
pub fn read_json(path: &Path) -> Result<serde_json::Value> {
    let text = fs::read_to_string(path).map_err(|e| io_error("reading", path, &e))?;
    serde_json::from_str(&text).map_err(|e| anyhow!("reading `{}`: expected JSON: {e}", path.display()))
}

/// A name beside `path` that nothing else uses: hidden, and of this process.
pub(crate) fn temporary_sibling(path: &Path) -> Result<PathBuf> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let name = path.file_name().with_context(|| format!("writing `{}`: the path has no file name", path.display()))?;
    let mut temporary = OsString::from(".");
    temporary.push(name);
    temporary.push(format!(".{}-{}.tmp", process::id(), COUNT.fetch_add(1, Ordering::Relaxed)));
    Ok(path.with_file_name(temporary))
}

/// The directory that holds `path`.
pub(crate) fn parent_of(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Makes the names in `directory` last. Only Unix lets a directory be opened for that.
pub(crate) fn sync_directory(directory: &Path) -> Result<()> {
    if cfg!(unix) {
        File::open(directory).and_then(|d| d.sync_all()).map_err(|e| io_error("writing", directory, &e))?;
    }
    Ok(())
}

/// Keeps `directory` for this process as long as the result lives; the system lets go of it however the process ends.
/// Only Unix lets a directory be opened for that; a file system without locks keeps nothing.
///
/// # Errors
/// If another process has it.
pub(crate) fn lock(directory: &Path) -> Result<Option<File>> {
    if !cfg!(unix) {
        return Ok(None);
    }
    let file = File::open(directory).map_err(|e| io_error("reading", directory, &e))?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => bail!("`{}` is in use by another process", directory.display()),
        Err(TryLockError::Error(_)) => Ok(None),
    }
}

/// Removes what a killed process left unfinished in `directory`, which must be locked.
pub(crate) fn remove_leftovers(directory: &Path) -> Result<()> {
    let Ok(entries) = fs::read_dir(directory) else { return Ok(()) };
    for path in entries.filter_map(|e| e.ok().map(|e| e.path())) {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with('.') && name.ends_with(".tmp") {
            let gone = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            gone.map_err(|e| io_error("removing", &path, &e))?;
        }
    }
    Ok(())
}

/// Writes `bytes` to `path`, replacing what is there: temporary file beside it, fsync, rename, fsync of the directory.
///
/// # Errors
/// One sentence with the path; `path` is then as it was before, and the temporary file is gone.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<()> {
    ensure!(!path.is_dir(), "writing `{}`: it is a directory", path.display());
    let temporary = temporary_sibling(path)?;
    let write = || {
        let mut file = File::create_new(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    write().map_err(|e| {
        let _ = fs::remove_file(&temporary);
        io_error("writing", path, &e)
    })?;
    sync_directory(parent_of(path))
}

/// A file that is written a piece at a time and appears under its name when it is finished; dropped before, it leaves
/// nothing behind.
#[derive(Debug)]
pub struct PendingFile {
    file: File,
    temporary: PathBuf,
    path: PathBuf,
    finished: bool,
}

impl PendingFile {
    /// Starts a file that will be called `path`, replacing what is there.
    ///
    /// # Errors
    /// One sentence with the path.
    pub fn create(path: &Path) -> Result<Self> {
        ensure!(!path.is_dir(), "writing `{}`: it is a directory", path.display());
        let temporary = temporary_sibling(path)?;
        let file = File::create_new(&temporary).map_err(|e| io_error("writing", path, &e))?;
        Ok(Self { file, temporary, path: path.to_owned(), finished: false })
    }

    /// Sets the length, so that a full disk shows early where the file system can tell.
    ///
    /// # Errors
    /// What the file system says.
    pub fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    /// Gives the file its name.
    ///
    /// # Errors
    /// One sentence with the path; what was there before is untouched.
    pub fn finish(mut self) -> Result<()> {
        self.file
            .sync_all()
            .and_then(|()| fs::rename(&self.temporary, &self.path))
            .map_err(|e| io_error("writing", &self.path, &e))?;
        self.finished = true;
        sync_directory(parent_of(&self.path))
    }
}

impl Write for PendingFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl io::Seek for PendingFile {
    fn seek(&mut self, to: io::SeekFrom) -> io::Result<u64> {
        self.file.seek(to)
    }
}

impl Drop for PendingFile {
    fn drop(&mut self) {
        if !self.finished {
            let _ = fs::remove_file(&self.temporary);
        }
    }
}
