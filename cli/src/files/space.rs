//! The space that a file system has left.

use std::path::Path;

use anyhow::{Result, bail};

use super::parent_of;

/// Refuses to write `bytes` to `path` where the file system has less space; `what` names the sizes that cause it.
///
/// # Errors
/// One sentence with both sizes.
pub(crate) fn expect_space(path: &Path, bytes: u128, what: impl FnOnce() -> String) -> Result<()> {
    let Some(free) = free(parent_of(path)) else { return Ok(()) };
    if bytes > free {
        bail!(
            "writing `{}`: {} {} on the disk, and it has {} left",
            path.display(),
            what(),
            amount(bytes),
            amount(free)
        );
    }
    Ok(())
}

/// Returns the bytes that a user may still write to the file system of `directory`. Known on Unix only.
#[cfg(unix)]
fn free(directory: &Path) -> Option<u128> {
    let found = rustix::fs::statvfs(directory).ok()?;
    Some(u128::from(found.f_bavail) * u128::from(found.f_frsize))
}

#[cfg(not(unix))]
fn free(_directory: &Path) -> Option<u128> {
    None
}

fn amount(bytes: u128) -> String {
    match bytes {
        0..1_000_000_000 => format!("{} MB", bytes.div_ceil(1_000_000)),
        1_000_000_000..1_000_000_000_000 => format!("{:.1} GB", bytes as f64 / 1e9),
        _ => format!("{:.1} TB", bytes as f64 / 1e12),
    }
}
