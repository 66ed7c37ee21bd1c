//! Reads and writes through the caller's pointers: handles and outputs.

use crate::boundary::boundary;
use crate::failure::{Failure, Outcome};
use crate::handle::{Ctx, strata_ctx};
use crate::params::{Versioned, params, read_or_default};
use crate::status::strata_status;
use alloc::boxed::Box;

/// Calls `body` with the context, from one thread at a time.
pub(crate) fn with_ctx(ctx: *const strata_ctx, body: impl FnOnce(&mut Ctx) -> Outcome) -> strata_status {
    boundary(|| {
        // SAFETY: see the crate.
        unsafe { get(ctx) }.map_err(Failure::of("ctx"))?.call(body)
    })
}

/// Makes a handle with `params`, or with their defaults if the pointer is NULL, and writes it to `out`.
///
/// # Safety
/// See the crate.
pub(crate) unsafe fn make<T, P: Versioned>(
    out: *mut *mut T,
    params: *const P,
    make: impl FnOnce(&P) -> Outcome<T>,
) -> Outcome {
    let made = || {
        // SAFETY: see the crate.
        let params = unsafe { read_or_default(params) }.map_err(Failure::of("params"))?;
        make(&params)
    };
    // SAFETY: see the crate.
    unsafe { make_plain(out, made) }
}

/// Makes a handle that has no params, and writes it to `out`.
///
/// # Safety
/// See the crate.
pub(crate) unsafe fn make_plain<T>(out: *mut *mut T, make: impl FnOnce() -> Outcome<T>) -> Outcome {
    writable(out).map_err(Failure::of("out"))?;
    let handle = Box::new(make()?);
    // SAFETY: see the crate.
    unsafe { put(out, Box::into_raw(handle)) }
}

/// Returns an error if `out` is NULL or not aligned; whether it is valid is the caller's promise.
pub(crate) fn writable<T>(out: *const T) -> Outcome {
    if out.is_null() {
        return Err(Failure::null());
    }
    if out.is_aligned() { Ok(()) } else { Err(params("an output does not lie at its alignment")) }
}

/// Writes `value` to `out`.
///
/// # Safety
/// See the crate.
pub(crate) unsafe fn put<T>(out: *mut T, value: T) -> Outcome {
    writable(out)?;
    // SAFETY: neither NULL nor misaligned; see the crate.
    unsafe { out.write(value) };
    Ok(())
}

/// Returns the object of a handle.
///
/// # Safety
/// See the crate.
pub(crate) unsafe fn get<'a, T>(handle: *const T) -> Outcome<&'a T> {
    // SAFETY: see the crate.
    unsafe { handle.as_ref() }.ok_or_else(Failure::null)
}

/// Frees a handle; does nothing if it is NULL.
///
/// # Safety
/// See the crate.
pub(crate) unsafe fn free<T>(handle: *mut T) {
    if !handle.is_null() {
        boundary(|| {
            // SAFETY: it comes from `make`, and is freed once.
            drop(unsafe { Box::from_raw(handle) });
            Ok(())
        });
    }
}
