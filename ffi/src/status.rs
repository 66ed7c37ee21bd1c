//! The status codes of the header.

use core::ffi::CStr;

/// The result of a function: 0, or what went wrong. Numbers are never changed or reused; callers must be ready for numbers
/// that they do not know. 10 to 19: an argument; 20 to 29: data; 30 to 39: a resource; 40 to 49: a device.
pub type strata_status = i32;

/// The call succeeded.
pub const STRATA_STATUS_OK: i32 = 0;
/// A pointer that must not be NULL is.
pub const STRATA_STATUS_NULL: i32 = 10;
/// A size does not fit the other arguments.
pub const STRATA_STATUS_SHAPE: i32 = 12;
/// The model does not have this level or latent, or the vocabulary of the dump does not have this token.
pub const STRATA_STATUS_INDEX: i32 = 14;
/// A field of a struct has an invalid value; this includes struct_size and reserved fields.
pub const STRATA_STATUS_PARAMS: i32 = 16;
/// A buffer of the caller is too small; n of strata_codes says what is needed.
pub const STRATA_STATUS_CAPACITY: i32 = 18;
/// The bytes do not follow their format.
pub const STRATA_STATUS_FORMAT: i32 = 20;
/// The type of numbers is unknown.
pub const STRATA_STATUS_DTYPE: i32 = 22;
/// The file has a version that this library does not read.
pub const STRATA_STATUS_VERSION: i32 = 24;
/// A number is NaN or infinite.
pub const STRATA_STATUS_NOT_FINITE: i32 = 26;
/// A file cannot be read or written.
pub const STRATA_STATUS_IO: i32 = 30;
/// There is not enough memory, or a thread cannot be started.
pub const STRATA_STATUS_MEMORY: i32 = 32;
/// Another thread is using the handle at this moment, or its threads did not survive a fork.
pub const STRATA_STATUS_BUSY: i32 = 34;
/// A device failed, or is missing.
pub const STRATA_STATUS_DEVICE: i32 = 40;
/// The library has a bug. From now on the handle can only be freed.
pub const STRATA_STATUS_PANIC: i32 = 99;

/// The name of a status, `"STRATA_STATUS_..."`.
pub(crate) fn name(status: strata_status) -> &'static CStr {
    match status {
        STRATA_STATUS_OK => c"STRATA_STATUS_OK",
        STRATA_STATUS_NULL => c"STRATA_STATUS_NULL",
        STRATA_STATUS_SHAPE => c"STRATA_STATUS_SHAPE",
        STRATA_STATUS_INDEX => c"STRATA_STATUS_INDEX",
        STRATA_STATUS_PARAMS => c"STRATA_STATUS_PARAMS",
        STRATA_STATUS_CAPACITY => c"STRATA_STATUS_CAPACITY",
        STRATA_STATUS_FORMAT => c"STRATA_STATUS_FORMAT",
        STRATA_STATUS_DTYPE => c"STRATA_STATUS_DTYPE",
        STRATA_STATUS_VERSION => c"STRATA_STATUS_VERSION",
        STRATA_STATUS_NOT_FINITE => c"STRATA_STATUS_NOT_FINITE",
        STRATA_STATUS_IO => c"STRATA_STATUS_IO",
        STRATA_STATUS_MEMORY => c"STRATA_STATUS_MEMORY",
        STRATA_STATUS_BUSY => c"STRATA_STATUS_BUSY",
        STRATA_STATUS_DEVICE => c"STRATA_STATUS_DEVICE",
        STRATA_STATUS_PANIC => c"STRATA_STATUS_PANIC",
        _ => c"STRATA_STATUS_UNKNOWN",
    }
}
