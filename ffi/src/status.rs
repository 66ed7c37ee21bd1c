//! The status codes of the header.

use std::ffi::CStr;

/// What a function returns: 0, or what went wrong. Numbers are pinned and never reused; callers must be ready for ones
/// that they do not know. 10 to 19: an argument; 20 to 29: data; 30 to 39: a resource; 40 to 49: a device.
pub type strata_status = i32;

/// Done.
pub const STRATA_STATUS_OK: strata_status = 0;
/// A pointer that must not be NULL is.
pub const STRATA_STATUS_NULL: strata_status = 10;
/// A size is not the one that the other arguments call for.
pub const STRATA_STATUS_SHAPE: strata_status = 12;
/// A level or a latent that the model does not have; a token that the vocabulary of a dump does not have.
pub const STRATA_STATUS_INDEX: strata_status = 14;
/// A field of a struct has a value that it cannot have, its struct_size or a reserved field included.
pub const STRATA_STATUS_PARAMS: strata_status = 16;
/// A buffer of the caller is too small; strata_codes says in n what is needed.
pub const STRATA_STATUS_CAPACITY: strata_status = 18;
/// Bytes that are not what their format says.
pub const STRATA_STATUS_FORMAT: strata_status = 20;
/// A type of numbers that is not known.
pub const STRATA_STATUS_DTYPE: strata_status = 22;
/// A file of another version than this library reads.
pub const STRATA_STATUS_VERSION: strata_status = 24;
/// A number that is NaN or infinite.
pub const STRATA_STATUS_NOT_FINITE: strata_status = 26;
/// A file that cannot be read or written.
pub const STRATA_STATUS_IO: strata_status = 30;
/// Memory or threads that the system does not give.
pub const STRATA_STATUS_MEMORY: strata_status = 32;
/// A handle that one thread at a time may use is in use by another one at this moment.
pub const STRATA_STATUS_BUSY: strata_status = 34;
/// A device failed, or is not there.
pub const STRATA_STATUS_DEVICE: strata_status = 40;
/// A bug of the library. The handle that was passed can only be freed from now on.
pub const STRATA_STATUS_PANIC: strata_status = 99;

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
