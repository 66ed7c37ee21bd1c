//! Directories that a command makes, and locks while it works.

use super::words::io_error;
use anyhow::{Result, bail, ensure};
use std::fs::{self, File, TryLockError};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// Directories that this process has made and may still remove.
static MADE: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// Removes the directories that this process has made and that are still empty, before it ends.
pub(super) fn remove_made() {
    // Do not wait for the lock: the thread that holds it may be the one that ends the process.
    if let Ok(made) = MADE.try_lock() {
        made.iter().rev().for_each(|d| drop(fs::remove_dir(d)));
    }
}

fn forget(directories: &[PathBuf]) {
    MADE.lock().unwrap_or_else(PoisonError::into_inner).retain(|d| !directories.contains(d));
}

/// Directories that were made; those that are still empty are removed when this is dropped, unless they were kept.
#[derive(Debug, Default)]
pub(crate) struct MadeDirectories(Vec<PathBuf>);

impl MadeDirectories {
    /// Makes `path` and every missing directory above it.
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
                // Another process was faster, and may remove the directory again.
                Err(e) if e.kind() == ErrorKind::AlreadyExists && directory.is_dir() => {}
                Err(e) => return Err(io_error("making", path, &e)),
            }
        }
        Ok(made)
    }

    /// Keeps the directories.
    pub(crate) fn keep(&mut self) {
        forget(&self.0);
        self.0.clear();
    }
}

impl Drop for MadeDirectories {
    fn drop(&mut self) {
        // A directory that is no longer empty is not removed.
        self.0.iter().rev().for_each(|d| drop(fs::remove_dir(d)));
        forget(&self.0);
    }
}

/// A lock on a directory for as long as this value lives; the operating system releases it however the process ends.
/// There is no lock on other systems than Unix, which cannot open a directory, nor on file systems without locks.
#[derive(Debug)]
pub(crate) struct Claim {
    made: MadeDirectories,
    _lock: Option<File>,
}

impl Claim {
    /// Makes `directory` if it does not exist, and locks it. If several processes do so at once, one succeeds.
    ///
    /// # Errors
    /// If another process has locked it, or it cannot be made.
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
                    // The process that has the lock may not have written into the directory yet: it must not lose it
                    // because this process made it.
                    made.keep();
                    bail!(in_use())
                }
                Err(TryLockError::Error(_)) => return Ok(Self { made, _lock: None }),
            }
        }
        bail!(in_use())
    }

    /// Keeps the directory, even if it is empty.
    pub(crate) fn keep(&mut self) {
        self.made.keep();
    }
}

/// Returns whether `path` still leads to the directory that was opened.
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

/// Removes what a killed process left unfinished in `directory`, which must be claimed and contain only files of this
/// program.
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
