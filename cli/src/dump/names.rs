//! Names of the files of dumps, and errors with these names.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow};
use serde::de::DeserializeOwned;
use strata_core::Error;
use strata_core::format::json::lenient;

use crate::files::read;

/// Returns an error of a parser with the path of the file, and without the byte offset, since the message names a
/// field.
pub(super) fn in_file(path: &Path, error: Error) -> anyhow::Error {
    match error {
        Error::Format { what, .. } => anyhow!("`{}`: {what}", path.display()),
        error => anyhow!("`{}`: {error}", path.display()),
    }
}

pub(crate) fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

pub(super) fn stem(path: &Path) -> String {
    path.file_stem().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

/// Returns the name of the directory, even if its path is `.`.
pub(super) fn directory_name(directory: &Path) -> String {
    directory.canonicalize().map_or_else(|_| stem(directory), |d| file_name(&d))
}

/// Reads a JSON file that belongs to a dump.
pub(super) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let json = read::bytes(path, read::SMALL)?;
    lenient(&json).and_then(serde_json::from_value).map_err(|e| anyhow!("`{}`: {e}", path.display()))
}

/// Returns the files of a directory whose names `is_one` accepts, sorted by name.
pub(super) fn files_of(directory: &Path, is_one: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten();
    let names = entries.filter_map(|e| e.ok()?.file_name().into_string().ok());
    let mut names: Vec<String> = names.filter(|n| !n.starts_with('.') && is_one(n)).collect();
    names.sort_unstable();
    names.into_iter().map(|n| directory.join(n)).collect()
}

/// Returns the ending of a file name in lower case.
pub(super) fn extension(path: &Path) -> String {
    path.extension().and_then(|e| e.to_str()).unwrap_or("").to_ascii_lowercase()
}
