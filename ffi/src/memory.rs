//! Whether there is enough memory.

use crate::failure::{Failure, Outcome};
use crate::status::STRATA_STATUS_MEMORY;
use alloc::vec::Vec;
use core::hint::black_box;

/// Checks that so many bytes can be allocated: asked at once, since single allocations abort where they fail.
pub(crate) fn check_memory(bytes: usize) -> Outcome {
    let mut probe = Vec::<u8>::new();
    probe.try_reserve_exact(bytes).map_err(|_| Failure::new(STRATA_STATUS_MEMORY, "out of memory"))?;
    // Or the compiler, which sees that nothing uses it, may leave it out.
    black_box(&mut probe);
    Ok(())
}
