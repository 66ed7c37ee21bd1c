//! The files that a report is made of.

use crate::files;
use anyhow::{Result, anyhow, bail};
use serde_json::Value;
use std::path::Path;

/// Returns the text of a file that may be missing.
///
/// # Errors
/// One sentence if it is there and cannot be read.
pub fn read(path: &Path) -> Result<Option<String>> {
    files::read::optional_text(path, files::read::LARGE)
}

/// Returns the object in a file of JSON that may be missing.
///
/// # Errors
/// One sentence if it is there and holds no object.
pub fn read_json(path: &Path) -> Result<Option<Value>> {
    let Some(text) = read(path)? else { return Ok(None) };
    let value: Value = serde_json::from_str(&text).map_err(|e| anyhow!("reading {}: {e}", path.display()))?;
    if !value.is_object() {
        bail!("reading {}: expected an object", path.display());
    }
    Ok(Some(value))
}
