//! A hash of the content of a dump, so that a run does not continue with other rows than it began with.

use super::Dump;
use crate::console::check_interrupt;
use anyhow::Result;
use sha2::{Digest, Sha256};
use strata_core::metrics::absorption::sample;

/// Most bytes that are hashed. A larger dump is sampled in stretches spread over it, so that a training does not begin
/// with a long wait.
const BYTES: u64 = 256 << 20;
/// Bytes of each stretch.
const STRETCH: u64 = 256 << 10;

impl Dump {
    /// Returns a hash of the stored rows: of all of them up to 256 MiB, otherwise of 1,024 stretches of 256 KiB at
    /// fixed positions.
    ///
    /// # Errors
    /// If Ctrl-C was pressed.
    pub fn content(&self) -> Result<String> {
        let row_bytes = (self.d() * self.dtype().size_bytes()) as u64;
        let rows = (STRETCH / row_bytes).max(1);
        let starts: Vec<u64> = if self.n_bytes() <= BYTES {
            (0..self.n_rows).step_by(usize::try_from(rows)?).collect()
        } else {
            sample(0, self.n_rows, usize::try_from((BYTES / (rows * row_bytes)).max(1))?, 0)
        };
        let mut hash = Sha256::new();
        hash.update(format!("strata-dump-content-1 {} {} {}\n", self.n_rows, self.d(), self.dtype()));
        for start in starts {
            check_interrupt()?;
            let n = rows.min(self.n_rows - start) as usize;
            if let Some(drawn) = &self.parts.drawn {
                drawn.pieces(start, n, |_, rows| {
                    hash.update(bytemuck::cast_slice(rows));
                    Ok(())
                })?;
                continue;
            }
            self.for_spans(start, n, |shard, rows, bytes| {
                shard.stored(rows, bytes, |bytes| hash.update(bytes));
                Ok(())
            })?;
        }
        Ok(hash.finalize()[..16].iter().map(|b| format!("{b:02x}")).collect())
    }
}
