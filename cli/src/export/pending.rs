//! A directory that appears whole or not at all.

use crate::files::{io_error, parent_of, sync_directory, temporary_sibling};
use anyhow::{Result, bail, ensure};
use std::fs;
use std::path::{Path, PathBuf};

/// A directory that lies hidden beside its path until it is finished; dropped before, it leaves nothing behind.
pub struct PendingDirectory {
    path: PathBuf,
    hidden: PathBuf,
    inner: Vec<PathBuf>,
}

impl PendingDirectory {
    /// Starts the directory that will be at `path`.
    ///
    /// # Errors
    /// If `path` exists, or its parent does not.
    pub fn create(path: &Path) -> Result<Self> {
        if path.symlink_metadata().is_ok() {
            bail!("writing `{}`: it exists already; remove it or choose another name", path.display());
        }
        let hidden = temporary_sibling(path)?;
        fs::create_dir(&hidden).map_err(|e| io_error("writing", path, &e))?;
        Ok(Self { path: path.to_owned(), hidden, inner: Vec::new() })
    }

    /// Makes a directory in it; returns where it lies until then.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn directory(&mut self, name: &str) -> Result<PathBuf> {
        let inner = self.hidden.join(name);
        fs::create_dir(&inner).map_err(|e| io_error("writing", &self.path.join(name), &e))?;
        self.inner.push(inner.clone());
        Ok(inner)
    }

    /// Gives it its name. Whoever wrote the files has made them last.
    ///
    /// # Errors
    /// If that fails; nothing is at the path then.
    pub fn finish(self) -> Result<()> {
        self.inner.iter().chain([&self.hidden]).try_for_each(|d| sync_directory(d))?;
        // On Unix a rename would replace an empty directory.
        ensure!(self.path.symlink_metadata().is_err(), "writing `{}`: it exists by now", self.path.display());
        fs::rename(&self.hidden, &self.path).map_err(|e| io_error("writing", &self.path, &e))?;
        sync_directory(parent_of(&self.path))
    }
}

impl Drop for PendingDirectory {
    fn drop(&mut self) {
        // Gone after `finish`: it was renamed.
        let _ = fs::remove_dir_all(&self.hidden);
    }
}
