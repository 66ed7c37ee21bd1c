//! The files of a model: the small one is read, the large one mapped.

use crate::failure::{Failure, Outcome};
use crate::status::{STRATA_STATUS_FORMAT, STRATA_STATUS_IO, STRATA_STATUS_MEMORY};
use memmap2::{Mmap, MmapOptions};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;
use strata_core::model::SharedBytes;

/// Most bytes of a file that is read into memory. A `cfg.json` has a few hundred.
const MOST_BYTES: u64 = 1 << 20;

impl Failure {
    /// `doing` is `reading` or `writing`.
    #[cold]
    pub(crate) fn io(doing: &str, path: &Path, error: &io::Error) -> Self {
        Self::new(STRATA_STATUS_IO, format!("{doing} `{}`: {error}", path.display()))
    }
}

/// Opens a regular file. Something else under the name, such as a pipe, would block, or never end.
fn open(path: &Path) -> Outcome<File> {
    let open = || {
        if !fs::metadata(path)?.is_file() {
            return Err(io::Error::other("it is not a file"));
        }
        File::open(path)
    };
    open().map_err(|e| Failure::io("reading", path, &e))
}

/// Reads the bytes of a small file.
pub(crate) fn read(path: &Path) -> Outcome<Vec<u8>> {
    read_up_to(path, MOST_BYTES)
}

/// Reads the bytes of a file that has at most `most`.
pub(crate) fn read_up_to(path: &Path, most: u64) -> Outcome<Vec<u8>> {
    let mut bytes = Vec::new();
    open(path)?.take(most + 1).read_to_end(&mut bytes).map_err(|e| Failure::io("reading", path, &e))?;
    if bytes.len() as u64 > most {
        let why = format!("`{}`: expected at most {most} bytes, found more", path.display());
        return Err(Failure::new(STRATA_STATUS_FORMAT, why));
    }
    Ok(bytes)
}

/// Opens the bytes of a file: mapped, and shared with other processes that map it, where the file system allows it.
///
/// Some file systems (FUSE with `direct_io`) allow only private maps, some none: the file is then mapped privately, or
/// read.
pub(crate) fn map(path: &Path) -> Outcome<SharedBytes> {
    let mut file = open(path)?;
    // SAFETY: the map is read-only, and nothing in this library writes to a file that it has mapped. The caller of the
    // library promises that the file is not changed while the model lives (strata_model_load). If it is overwritten in
    // place all the same, the weights are different numbers from then on: they are f32, of which every bit pattern is a
    // value, and no size or index is read from the map after loading. If it is truncated, reading beyond its new end
    // ends the process with SIGBUS, which the manual says.
    if let Ok(map) = unsafe { Mmap::map(&file) } {
        return Ok(Arc::new(map));
    }
    // SAFETY: the same; pages of a private map that were not written change with the file, too.
    if let Ok(map) = unsafe { MmapOptions::new().map_copy_read_only(&file) } {
        return Ok(Arc::new(map));
    }
    let len = file.metadata().map_err(|e| Failure::io("reading", path, &e))?.len();
    let mut bytes = Vec::new();
    let reserved = usize::try_from(len).is_ok_and(|len| bytes.try_reserve_exact(len).is_ok());
    if !reserved {
        let why = format!("out of memory: reading `{}` needs {len} bytes", path.display());
        return Err(Failure::new(STRATA_STATUS_MEMORY, why));
    }
    file.read_to_end(&mut bytes).map_err(|e| Failure::io("reading", path, &e))?;
    Ok(Arc::new(bytes))
}
