//! The files of a model of any format, as the core's readers ask for them.

use crate::failure::Outcome;
use crate::files;
use crate::memory::check_memory;
use crate::status::{STRATA_STATUS_IO, STRATA_STATUS_MEMORY};
use std::fs;
use std::path::Path;
use std::sync::Arc;
use strata_core::Error;
use strata_core::format::formats::Files;
use strata_core::model::SharedBytes;

/// A directory, or one file and those beside it. Settings are read, large files are mapped.
pub(crate) struct Directory<'a> {
    path: &'a Path,
    root: &'a Path,
    named: Option<&'a str>,
}

impl<'a> Directory<'a> {
    pub(crate) fn new(path: &'a Path) -> Self {
        let named = path.file_name().and_then(|name| name.to_str()).filter(|_| path.is_file());
        let root = if named.is_some() { path.parent().unwrap_or(Path::new("")) } else { path };
        Self { path, root, named }
    }

    fn bytes(&self, name: &str) -> Outcome<SharedBytes> {
        let path = self.root.join(name);
        if [".json", ".yaml"].iter().any(|end| name.ends_with(end)) {
            return Ok(Arc::new(files::read(&path)?));
        }
        let map = files::map(&path)?;
        // Twice as f32; in the file the numbers may be f16.
        check_memory((*map).as_ref().len().saturating_mul(4))?;
        Ok(map)
    }
}

impl Files for Directory<'_> {
    fn named(&self) -> Option<&str> {
        self.named
    }

    fn path(&self) -> String {
        self.path.display().to_string()
    }

    fn whole_path(&self) -> String {
        // Links are kept: the names of a cache stand in front of them.
        std::path::absolute(self.path).map_or_else(|_| self.path(), |path| path.display().to_string())
    }

    fn list(&self) -> Vec<String> {
        let root = if self.root.as_os_str().is_empty() { Path::new(".") } else { self.root };
        let entries = fs::read_dir(root).into_iter().flatten().filter_map(Result::ok);
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
    }

    fn has(&self, name: &str) -> bool {
        // Something that is not a file, such as a pipe, is refused when it is read, with a message that says so.
        fs::metadata(self.root.join(name)).is_ok()
    }

    fn read(&self, name: &str) -> strata_core::Result<SharedBytes> {
        self.bytes(name).map_err(|failure| match failure.status {
            STRATA_STATUS_IO => Error::file(failure.to_string()),
            STRATA_STATUS_MEMORY => Error::Memory { what: "weights", bytes: 0 },
            _ => Error::format(0, failure.to_string()),
        })
    }

    fn keeps(&self) -> bool {
        true
    }
}
