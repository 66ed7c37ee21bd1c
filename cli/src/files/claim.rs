//! Directories that a command makes, and keeps for itself while it works.

use super::words::io_error;
use anyhow::{Result, bail, ensure};
use std::fs::{self, File, TryLockError};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// Those of this process that are not kept yet.
static MADE: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// Removes the directories that this process has made and that are still empty, as it is about to end.
pub(super) fn remove_made() {
    // Not waited for: the thread that has the list may be the one that ends the process.
    if let Ok(made) = MADE.try_lock() {
        made.iter().rev().for_each(|d| drop(fs::remove_dir(d)));
    }
}

fn forget(directories: &[PathBuf]) {
    MADE.lock().unwrap_or_else(PoisonError::into_inner).retain(|d| !directories.contains(d));
}

/// Directories that were made; those that are still empty are removed when this is dropped, unless it was kept.
#[derive(Debug, Default)]
pub(crate) struct MadeDirectories(Vec<PathBuf>);

impl MadeDirectories {
    /// Makes `path` and every directory above it that is not there.
    ///
    /// # Errors
    /// One sentence with the path.
    pub(crate) fn all(path: &Path) -> Result<Self> {
        let mut made = Self::default();
        let mut missing: Vec<&Path> = path.ancestors().take_while(|p| !p.as_os_str().is_empty()).collect();
        missing.retain(|p| !p.exists());
        for directory in missing.into_iter().rev() {
            match fs::create_dir(directory) {
                Ok(()) => {
                    made.0.push(directory.to_owned());
                    MADE.lock().unwrap_or_else(PoisonError::into_inner).push(directory.to_owned());
                }
                // Another process was faster, and it may be the one that removes it again.
                Err(e) if e.kind() == ErrorKind::AlreadyExists && directory.is_dir() => {}
                Err(e) => return Err(io_error("making", path, &e)),
            }
        }
        Ok(made)
    }

    /// Leaves them where they are.
    pub(crate) fn keep(&mut self) {
        forget(&self.0);
        self.0.clear();
    }
}

impl Drop for MadeDirectories {
    fn drop(&mut self) {
        // One that holds something by now is not removed, which is right.
        self.0.iter().rev().for_each(|d| drop(fs::remove_dir(d)));
        forget(&self.0);
    }
}

/// A directory that this process has for itself as long as this lives; the system releases it however the process
/// ends. Only Unix lets a directory be opened for that; a file system without locks keeps nothing.
#[derive(Debug)]
pub(crate) struct Claim {
    made: MadeDirectories,
    _lock: Option<File>,
}

impl Claim {
    /// Makes `directory` if it is not there, and takes it. Of several processes that do so at once, one succeeds.
    ///
    /// # Errors
    /// If another process has it, or it cannot be made.
    pub(crate) fn new(directory: &Path) -> Result<Self> {
        let in_use = || format!("`{}` is in use by another process", directory.display());
        // Another process that failed may remove the directory between its making and its locking.
        for _ in 0..10 {
            let mut made = MadeDirectories::all(directory)?;
            ensure!(directory.is_dir(), "making `{}`: it exists and is no directory", directory.display());
            if !cfg!(unix) {
                return Ok(Self { made, _lock: None });
            }
            let file = match File::open(directory) {
                Err(e) if e.kind() == ErrorKind::NotFound => continue,
                file => file.map_err(|e| io_error("reading", directory, &e))?,
            };
            match file.try_lock() {
                Ok(()) if is_same(&file, directory) => return Ok(Self { made, _lock: Some(file) }),
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    // The process that has the directory has not written into it yet, maybe: it must not lose it because
                    // this one made it.
                    made.keep();
                    bail!(in_use())
                }
                Err(TryLockError::Error(_)) => return Ok(Self { made, _lock: None }),
            }
        }
        bail!(in_use())
    }

    /// Leaves the directory where it is, even if it is empty.
    pub(crate) fn keep(&mut self) {
        self.made.keep();
    }
}

/// Whether `path` still leads to the directory that was opened.
#[cfg(unix)]
fn is_same(opened: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let of = |m: &fs::Metadata| (m.dev(), m.ino());
    matches!((&opened.metadata(), &fs::metadata(path)), (Ok(a), Ok(b)) if of(a) == of(b))
}

#[cfg(not(unix))]
fn is_same(_: &File, _: &Path) -> bool {
    true
}

/// Removes what a killed process left unfinished in `directory`, which must be claimed: it holds files of ours alone.
///
/// # Errors
/// If one cannot be removed.
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
