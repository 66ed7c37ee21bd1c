//! The boundary that no panic crosses.

use crate::failure::Outcome;
use crate::message::explain;
use crate::params::strata_error;
use crate::status::{STRATA_STATUS_OK, strata_status};

#[cfg(not(feature = "std"))]
use crate::bare::run;
#[cfg(feature = "std")]
use crate::caught::run;

#[cfg(not(feature = "std"))]
pub use crate::bare::Guarded;
#[cfg(feature = "std")]
pub use crate::caught::Guarded;

/// Runs the body of an exported function, and catches a panic.
pub fn boundary(body: impl FnOnce() -> Outcome) -> strata_status {
    run(body).map_or_else(|failure| failure.status, |()| STRATA_STATUS_OK)
}

/// [`boundary`], with the explanation of a failure in `err`.
///
/// # Safety
/// `err` is NULL or points to a struct of `struct_size` bytes.
pub(crate) unsafe fn boundary_with(err: *mut strata_error, body: impl FnOnce() -> Outcome) -> strata_status {
    run(body).map_or_else(
        |failure| {
            // SAFETY: as the caller promises.
            unsafe { explain(err, &failure) };
            failure.status
        },
        |()| STRATA_STATUS_OK,
    )
}
