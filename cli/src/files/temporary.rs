//! Hidden files and directories under random names.
//!
//! A process holds a lock on each of its own while it works on it. A file or directory with such a name and without a
//! lock was left by a process that has ended; the next process that makes one in the same directory removes it.

use std::fs::{self, File};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// The end of every such name; no other files end like this.
const ENDING: &str = ".strata.tmp";
/// Number of characters of the final name that are repeated in the hidden one.
const SHOWN: usize = 40;
/// Number of names that are tried.
const TRIES: usize = 100;

/// The hidden files and directories of this process.
static OWN: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// Returns the directory of `path`.
pub(crate) fn parent_of(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// A hidden file or directory of this process; it is removed when it is dropped, unless it was published.
#[derive(Debug)]
pub(crate) struct Temporary {
    path: PathBuf,
    /// Holds the lock. None where the system has no locks.
    lock: Option<File>,
    published: bool,
}

impl Temporary {
    /// Makes a hidden file beside `path`, and removes leftovers of other processes there.
    ///
    /// # Errors
    /// The error of the file system.
    pub(crate) fn file(path: &Path) -> io::Result<(Self, File)> {
        Self::make(path, |hidden| File::create_new(hidden), |file, _| file.try_clone())
    }

    /// Makes a hidden directory beside `path`, and removes leftovers of other processes there.
    ///
    /// # Errors
    /// The error of the file system.
    pub(crate) fn directory(path: &Path) -> io::Result<Self> {
        let made = Self::make(path, |hidden| fs::create_dir(hidden), |(), hidden| File::open(hidden))?;
        Ok(made.0)
    }

    /// Makes it with `create` under a free name, and locks what `open` returns.
    fn make<T>(
        path: &Path,
        create: impl Fn(&Path) -> io::Result<T>,
        open: impl Fn(&T, &Path) -> io::Result<File>,
    ) -> io::Result<(Self, T)> {
        let name = path.file_name().ok_or_else(|| io::Error::other("the path has no file name"))?;
        sweep(parent_of(path));
        let shown: String = name.to_string_lossy().chars().take(SHOWN).collect();
        for _ in 0..TRIES {
            let random = RandomState::new().build_hasher().finish();
            let hidden = path.with_file_name(format!(".{shown}.{random:016x}{ENDING}"));
            let made = match create(&hidden) {
                Err(e) if e.kind() == ErrorKind::AlreadyExists => continue,
                made => made?,
            };
            let mut own = Self { path: hidden.clone(), lock: None, published: false };
            OWN.lock().unwrap_or_else(PoisonError::into_inner).push(hidden);
            if !cfg!(unix) {
                return Ok((own, made));
            }
            match open(&made, &own.path) {
                Ok(file) => match file.try_lock() {
                    Ok(()) => own.lock = Some(file),
                    // Another process took it for a leftover before it was locked.
                    Err(fs::TryLockError::WouldBlock) => continue,
                    Err(fs::TryLockError::Error(_)) => {}
                },
                Err(e) if e.kind() == ErrorKind::NotFound => continue,
                Err(e) => return Err(e),
            }
            if own.path.symlink_metadata().is_ok() {
                return Ok((own, made));
            }
        }
        Err(ErrorKind::AlreadyExists.into())
    }

    /// Returns the hidden path.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Gives it its final name.
    ///
    /// # Errors
    /// The error of the file system; the hidden file is then removed.
    pub(crate) fn publish(mut self, path: &Path) -> io::Result<()> {
        fs::rename(&self.path, path)?;
        self.published = true;
        Ok(())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.published {
            remove(&self.path);
        }
        OWN.lock().unwrap_or_else(PoisonError::into_inner).retain(|p| *p != self.path);
    }
}

/// Removes all hidden files and directories of this process, which is about to end.
pub(super) fn remove_all() {
    // Do not wait for the lock: the thread that holds it may be the one that ran out of memory. What remains is removed
    // by a later process.
    if let Ok(own) = OWN.try_lock() {
        own.iter().for_each(|path| remove(path));
    }
}

fn remove(path: &Path) {
    // A leftover that cannot be removed is tried again by the next command that writes here.
    let _ = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
}

/// Removes what processes that have ended have left in `directory`.
fn sweep(directory: &Path) {
    if !cfg!(unix) {
        return;
    }
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let is_plain = entry.file_type().is_ok_and(|kind| kind.is_file() || kind.is_dir());
        if !(name.starts_with('.') && name.ends_with(ENDING) && is_plain) {
            continue;
        }
        // The lock is held until the removal. Without locks on this file system leftovers cannot be recognised.
        if let Ok(file) = File::open(entry.path())
            && file.try_lock().is_ok()
        {
            remove(&entry.path());
        }
    }
}

#[cfg(all(test, unix))]
#[allow(clippy::disallowed_methods, reason = "files of the test")]
mod tests {
    use crate::files::temporary::{ENDING, Temporary, sweep};
    use std::fs;

    #[test]
    fn leftovers_are_swept_and_live_ones_are_not() {
        let dir = std::env::temp_dir().join(format!("strata-sweep-{}", std::process::id()));
        fs::create_dir_all(dir.join(format!(".old.1{ENDING}"))).expect("a leftover directory");
        fs::write(dir.join(format!(".old.2{ENDING}")), "x").expect("a leftover file");
        fs::write(dir.join(".mine.tmp"), "x").expect("a file of another program");
        let (live, _file) = Temporary::file(&dir.join("new")).expect("a file");
        let also = Temporary::directory(&dir.join("new")).expect("a directory");
        sweep(&dir);
        let mut left: Vec<_> = fs::read_dir(&dir).expect("names").map(|e| e.expect("an entry").path()).collect();
        left.sort();
        let mut expected = vec![dir.join(".mine.tmp"), live.path().to_owned(), also.path().to_owned()];
        expected.sort();
        assert_eq!(left, expected);
        drop((live, also));
        assert_eq!(fs::read_dir(&dir).expect("names").count(), 1);
        fs::remove_dir_all(&dir).expect("removed");
    }
}
