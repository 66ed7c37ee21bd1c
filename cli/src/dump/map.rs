//! The bytes of a file: mapped where the file system permits it, otherwise read.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::ops::{Deref, Range};
use std::path::Path;

use anyhow::Result;
#[cfg(unix)]
use memmap2::UncheckedAdvice;
use memmap2::{Mmap, MmapMut, MmapOptions};

use crate::files::{io_error, read};

/// Most bytes that one page fault maps: a huge page.
#[cfg(unix)]
const AROUND_BYTES: usize = 2 << 20;

/// The bytes of a file, at a fixed address.
#[derive(Debug)]
pub(super) struct Map {
    bytes: Mmap,
    /// Whether the pages belong to the file, so that a released page is read from it again.
    is_backed: bool,
}

impl Map {
    /// Maps `path`.
    ///
    /// # Errors
    /// One sentence with the path.
    pub(super) fn of(path: &Path) -> Result<Self> {
        Ok(Self::open(path)?.1)
    }

    /// Opens `path` and maps it: shared where that is possible, otherwise private (some file systems in user space
    /// support nothing else), otherwise by reading it as a whole.
    ///
    /// # Errors
    /// One sentence with the path.
    #[allow(unsafe_code, reason = "mapping a file is unsafe in principle; see the SAFETY comment")]
    pub(super) fn open(path: &Path) -> Result<(File, Self)> {
        let file = read::open(path)?;
        // SAFETY: the map is read-only and private to this process, and nothing in this process writes to a file that
        // it has mapped: writers make new files and rename them, which leaves mapped files alone. If another program
        // overwrites the file in place, rows read later contain its bytes: every row is checked to be finite when it is
        // read, token ids are plain integers, and all offsets were computed at opening, so that no memory outside of
        // the map is reached. If another program truncates the file, reading the map beyond its new end ends the
        // process with SIGBUS. So the manual says not to modify a dump while it is in use.
        let shared = unsafe { Mmap::map(&file) };
        let refused = match shared {
            Ok(bytes) => return Ok((file, Self { bytes, is_backed: true })),
            Err(e) if e.kind() == ErrorKind::OutOfMemory => return Err(io_error("reading", path, &e)),
            Err(e) => e,
        };
        // SAFETY: as above. A private map that nothing writes to shows the file as a shared one does.
        let private = unsafe { MmapOptions::new().map_copy_read_only(&file) };
        if let Ok(bytes) = private {
            return Ok((file, Self { bytes, is_backed: true }));
        }
        let bytes = read_whole(&file).map_err(|e| match e.kind() {
            ErrorKind::OutOfMemory => io_error("reading", path, &e),
            // The error of the first attempt says more about the file.
            _ => io_error("reading", path, &refused),
        })?;
        Ok((file, Self { bytes, is_backed: false }))
    }

    /// Releases the pages of `range` from the memory of this process. They are read from the file again when they are
    /// needed.
    #[cfg(unix)]
    #[allow(unsafe_code, reason = "this advice may lose what was written to a map; see the SAFETY comment")]
    pub(super) fn release(&self, range: Range<usize>) {
        if !self.is_backed {
            return;
        }
        // A page fault also maps neighbouring pages, so the range is widened to whole pieces of that size.
        let (start, end) = (range.start / AROUND_BYTES * AROUND_BYTES, range.end.next_multiple_of(AROUND_BYTES));
        let n_bytes = end.min(self.bytes.len()) - start;
        // SAFETY: the map is read-only and backed by a file, so that its pages contain nothing that the file does not:
        // the next access finds the same bytes.
        let advised = unsafe { self.bytes.unchecked_advise_range(UncheckedAdvice::DontNeed, start, n_bytes) };
        // If the advice is refused, the only cost is memory.
        drop(advised);
    }

    #[cfg(not(unix))]
    pub(super) fn release(&self, _: Range<usize>) {
        let _ = self.is_backed;
    }
}

impl Deref for Map {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

fn read_whole(mut file: &File) -> std::io::Result<Mmap> {
    let n = usize::try_from(file.metadata()?.len()).map_err(|_| ErrorKind::OutOfMemory)?;
    let mut bytes = MmapMut::map_anon(n)?;
    file.read_exact(&mut bytes)?;
    bytes.make_read_only()
}
