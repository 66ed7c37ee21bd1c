//! Files that appear whole or not at all, input files of bounded size, and errors that are one sentence each.
//!
//! | part | content |
//! |---|---|
//! | [`words`] | errors of the operating system and of libraries, in words for people |
//! | [`read`] | opening and reading input: regular files only, of a bounded size |
//! | `temporary` | hidden files and directories under random names, swept when their process is gone |
//! | `claim` | directories that are made and kept for this process |
//! | `space` | what does not fit on the disk is refused before it is written |

mod claim;
pub mod read;
mod space;
mod temporary;
pub mod words;

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Result, bail, ensure};

pub(crate) use claim::{Claim, MadeDirectories, remove_leftovers};
pub(crate) use space::expect_space;
pub(crate) use temporary::Temporary;
pub(crate) use temporary::parent_of;
pub use words::io_error;

/// Returns the name of the directory of a run without its path, also for `.` and the like; `run` if it has none.
pub(crate) fn directory_name(directory: &Path) -> String {
    let whole = directory.canonicalize().unwrap_or_else(|_| directory.to_owned());
    whole.file_name().map_or_else(|| "run".into(), |name| name.to_string_lossy().into_owned())
}

/// Makes the names in `directory` durable. Only Unix can open a directory for that.
pub(crate) fn sync_directory(directory: &Path) -> Result<()> {
    if cfg!(unix) {
        File::open(directory).and_then(|d| d.sync_all()).map_err(|e| io_error("writing", directory, &e))?;
    }
    Ok(())
}

/// Removes unfinished files of this process and directories that are still empty, before it ends.
pub(crate) fn remove_unfinished() {
    temporary::remove_all();
    claim::remove_made();
}

/// Returns the path that a new file called `path` has to replace: `path` itself, or the regular file that it links to.
///
/// # Errors
/// If it is not a regular file: renaming a file over a device would destroy the device.
pub(crate) fn destination(path: &Path) -> Result<PathBuf> {
    let shown = path.display();
    let Ok(found) = path.symlink_metadata() else { return Ok(path.to_owned()) };
    let kind = if found.is_symlink() { path.metadata().map(|m| m.file_type()) } else { Ok(found.file_type()) };
    match kind {
        Ok(kind) if kind.is_file() && found.is_symlink() => {
            path.canonicalize().map_err(|e| io_error("writing", path, &e))
        }
        Ok(kind) if kind.is_file() => Ok(path.to_owned()),
        Ok(kind) if kind.is_dir() => bail!("writing `{shown}`: it is a directory"),
        Ok(kind) => bail!("writing `{shown}`: it is {}, not a regular file; choose another name", read::name_of(kind)),
        Err(_) => bail!("writing `{shown}`: it is a symbolic link that leads nowhere"),
    }
}

/// Checks that nothing exists at a path.
///
/// # Errors
/// If there is something at `path`.
pub(crate) fn expect_free(path: &Path) -> Result<()> {
    ensure!(
        path.symlink_metadata().is_err(),
        "writing `{}`: it exists already; remove it or choose another name",
        path.display()
    );
    Ok(())
}

/// Checks that a file can be made in `directory`, so that long work does not fail when it writes its result.
///
/// # Errors
/// One sentence with the directory.
pub(crate) fn check_writable(directory: &Path) -> Result<()> {
    Temporary::file(&directory.join("probe")).map(drop).map_err(|e| io_error("writing into", directory, &e))
}

/// Writes `bytes` to `path`, replacing an existing file: temporary file beside it, fsync, rename, fsync of the
/// directory.
///
/// # Errors
/// One sentence with the path; `path` is then as it was before, and the temporary file is gone.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = PendingFile::create(path)?;
    file.write_all(bytes).map_err(|e| io_error("writing", path, &e))?;
    file.finish()
}

/// A file that is written piece by piece and appears under its name when it is finished. If it is dropped before, it
/// leaves nothing behind.
#[derive(Debug)]
pub struct PendingFile {
    file: File,
    temporary: Temporary,
    path: PathBuf,
}

impl PendingFile {
    /// Starts a file that will be called `path`, replacing an existing file.
    ///
    /// # Errors
    /// One sentence with the path.
    pub fn create(path: &Path) -> Result<Self> {
        let path = destination(path)?;
        let (temporary, file) = Temporary::file(&path).map_err(|e| io_error("writing", &path, &e))?;
        Ok(Self { file, temporary, path })
    }

    /// Sets the length, so that a full disk is reported early where the file system can tell.
    ///
    /// # Errors
    /// The error of the file system.
    pub fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    /// Returns the file itself.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Returns the hidden path that the file has until it is finished, for other processes that write parts of it.
    pub(crate) fn hidden(&self) -> &Path {
        self.temporary.path()
    }

    /// Gives the file its name.
    ///
    /// # Errors
    /// One sentence with the path; an existing file is then unchanged.
    pub fn finish(self) -> Result<()> {
        let Self { file, temporary, path } = self;
        file.sync_all().and_then(|()| temporary.publish(&path)).map_err(|e| io_error("writing", &path, &e))?;
        sync_directory(parent_of(&path))
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

/// A directory that is hidden beside its path until it is finished. If it is dropped before, it leaves nothing behind.
#[derive(Debug)]
pub struct PendingDirectory {
    path: PathBuf,
    hidden: Temporary,
    inner: Vec<PathBuf>,
}

impl PendingDirectory {
    /// Starts the directory that will be at `path`.
    ///
    /// # Errors
    /// If `path` exists, or its parent does not.
    pub fn create(path: &Path) -> Result<Self> {
        expect_free(path)?;
        let hidden = Temporary::directory(path).map_err(|e| io_error("writing", path, &e))?;
        Ok(Self { path: path.to_owned(), hidden, inner: Vec::new() })
    }

    /// Returns the path of the directory until it is finished.
    pub fn hidden(&self) -> &Path {
        self.hidden.path()
    }

    /// Makes a directory in it; returns its path until then.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn directory(&mut self, name: &str) -> Result<PathBuf> {
        let inner = self.hidden().join(name);
        fs::create_dir(&inner).map_err(|e| io_error("writing", &self.path.join(name), &e))?;
        self.inner.push(inner.clone());
        Ok(inner)
    }

    /// Gives the directory its name. The writers of its files have made them durable.
    ///
    /// # Errors
    /// If that fails; nothing is at the path then.
    pub fn finish(self) -> Result<()> {
        let Self { path, hidden, inner } = self;
        inner.iter().map(PathBuf::as_path).chain([hidden.path()]).try_for_each(sync_directory)?;
        // On Unix a rename would replace an empty directory.
        expect_free(&path)?;
        hidden.publish(&path).map_err(|e| io_error("writing", &path, &e))?;
        sync_directory(parent_of(&path))
    }
}
