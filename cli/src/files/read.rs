//! Input files: only regular files, of bounded size.

use super::words::io_error;
use anyhow::{Context, Result, bail, ensure};
use std::fs::{self, File, FileType};
use std::io::{Read, Take};
use std::path::Path;

/// Most bytes of a file of settings, a description or a list of numbers about a run.
pub const SMALL: u64 = 64 << 20;
/// Most bytes of a vocabulary or a tokenizer.
pub const VOCABULARY: u64 = 1 << 30;
/// Most bytes of a file that must fit into memory as a whole. The available memory may be less.
pub const LARGE: u64 = 1 << 40;

/// Returns the name of a kind of file that is not a regular one.
pub(crate) fn name_of(kind: FileType) -> &'static str {
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt;
        if kind.is_fifo() {
            return "a pipe";
        }
        if kind.is_char_device() || kind.is_block_device() {
            return "a device";
        }
        if kind.is_socket() {
            return "a socket";
        }
    }
    if kind.is_dir() { "a directory" } else { "something else" }
}

/// Opens a regular file, or the one that a link leads to, for reading.
///
/// # Errors
/// One sentence with the path. A pipe or a device is refused before it is opened: opening a pipe waits for a writer,
/// and reading a device may never end.
pub fn open(path: &Path) -> Result<File> {
    let found = fs::metadata(path).map_err(|e| io_error("reading", path, &e))?.file_type();
    ensure!(found.is_file(), "reading `{}`: expected a file, found {}", path.display(), name_of(found));
    File::open(path).map_err(|e| io_error("reading", path, &e))
}

/// Reads a regular file of at most `most` bytes.
///
/// # Errors
/// One sentence with the path, for a file that cannot be opened, is larger, or does not fit into memory.
pub fn bytes(path: &Path, most: u64) -> Result<Vec<u8>> {
    let file = open(path)?;
    let n = file.metadata().map_err(|e| io_error("reading", path, &e))?.len();
    let too_large = |n: u64| format!("reading `{}`: expected at most {most} bytes, found {n}", path.display());
    ensure!(n <= most, too_large(n));
    let mut bytes = Vec::new();
    let fits = usize::try_from(n).is_ok_and(|n| bytes.try_reserve_exact(n + 1).is_ok());
    ensure!(fits, "reading `{}`: out of memory: its {n} bytes do not fit", path.display());
    // Some files are longer than their size says.
    let mut limited: Take<File> = file.take(most + 1);
    limited.read_to_end(&mut bytes).map_err(|e| io_error("reading", path, &e))?;
    ensure!(bytes.len() as u64 <= most, too_large(bytes.len() as u64));
    Ok(bytes)
}

/// Reads a regular file of UTF-8 text of at most `most` bytes.
///
/// # Errors
/// As [`bytes`]; for other text, the position of the first fault and what the encoding may be.
pub fn text(path: &Path, most: u64) -> Result<String> {
    let bytes = bytes(path, most)?;
    let hint = match bytes[..] {
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => "; it looks like UTF-16: save it as UTF-8",
        _ => "; save it as UTF-8",
    };
    match String::from_utf8(bytes) {
        Ok(text) => Ok(text),
        Err(error) => {
            let at = error.utf8_error().valid_up_to();
            let byte = error.as_bytes()[at];
            bail!("reading `{}`: byte {at}: expected UTF-8, found 0x{byte:02x}{hint}", path.display())
        }
    }
}

/// Reads a regular file of UTF-8 text of at most `most` bytes that may be missing.
///
/// # Errors
/// As [`text`].
pub fn optional_text(path: &Path, most: u64) -> Result<Option<String>> {
    match fs::metadata(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        _ => text(path, most).map(Some),
    }
}

/// Reads a JSON file of at most `most` bytes.
///
/// # Errors
/// As [`bytes`]; and the first field that does not fit.
pub fn json<T: serde::de::DeserializeOwned>(path: &Path, most: u64) -> Result<T> {
    serde_json::from_slice(&bytes(path, most)?).with_context(|| format!("reading `{}`", path.display()))
}
