//! Status codes, failures on their way to the caller, and the boundary that no panic crosses.

use crate::message::explain;
use crate::params::strata_error;
use std::borrow::Cow;
use std::ffi::CStr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Mutex, TryLockError};
use std::{fmt, io};
use strata_core::Error;

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

/// A status with the sentence that explains it.
#[derive(Debug)]
pub struct Failure {
    /// The status.
    pub status: strata_status,
    /// The argument that it is about, or nothing.
    argument: &'static str,
    why: Why,
}

/// The parts of a sentence, which is put together where it is written: calls of a context allocate nothing, not even if
/// they fail.
#[derive(Debug)]
enum Why {
    Text(Cow<'static, str>),
    /// What was expected, and the number that was found.
    Found(&'static str, u64),
    /// What is NaN or infinite, and its number.
    NotFinite(&'static str, u64),
    Core(Error),
}

/// What the body of an exported function gives.
pub type Outcome<T = ()> = Result<T, Failure>;

impl Failure {
    #[cold]
    fn because(status: strata_status, why: Why) -> Self {
        Self { status, argument: "", why }
    }

    #[cold]
    pub(crate) fn new(status: strata_status, message: impl Into<Cow<'static, str>>) -> Self {
        Self::because(status, Why::Text(message.into()))
    }

    /// `expected, found n`
    #[cold]
    pub(crate) fn found(status: strata_status, expected: &'static str, n: impl TryInto<u64>) -> Self {
        Self::because(status, Why::Found(expected, n.try_into().unwrap_or(u64::MAX)))
    }

    #[cold]
    pub(crate) fn null() -> Self {
        Self::new(STRATA_STATUS_NULL, "the pointer is NULL")
    }

    /// `what i is NaN or infinite`
    #[cold]
    pub(crate) fn not_finite(what: &'static str, i: usize) -> Self {
        Self::because(STRATA_STATUS_NOT_FINITE, Why::NotFinite(what, i as u64))
    }

    /// For `map_err`: says which argument of the function it is about.
    pub(crate) fn of(argument: &'static str) -> impl Fn(Self) -> Self {
        move |failure| Self { argument, ..failure }
    }

    /// `doing` is `reading` or `writing`.
    #[cold]
    pub(crate) fn io(doing: &str, path: &Path, error: &io::Error) -> Self {
        Self::new(STRATA_STATUS_IO, format!("{doing} `{}`: {error}", path.display()))
    }

    /// For errors about bytes that were read: whatever does not fit is a fault of the format; memory is not.
    #[cold]
    pub(crate) fn reading(error: Error) -> Self {
        let failure = Self::from(error);
        let kept = (STRATA_STATUS_FORMAT..STRATA_STATUS_DEVICE).contains(&failure.status);
        Self { status: if kept { failure.status } else { STRATA_STATUS_FORMAT }, ..failure }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.argument.is_empty() {
            write!(f, "{}: ", self.argument)?;
        }
        match &self.why {
            Why::Text(text) => f.write_str(text),
            Why::Found(expected, n) => write!(f, "{expected}, found {n}"),
            Why::NotFinite(what, i) => write!(f, "{what} {i} is NaN or infinite"),
            Why::Core(error) => error.fmt(f),
        }
    }
}

impl From<Error> for Failure {
    #[cold]
    fn from(error: Error) -> Self {
        let status = match error {
            Error::Shape { .. } => STRATA_STATUS_SHAPE,
            Error::Index { .. } => STRATA_STATUS_INDEX,
            Error::Format { .. } => STRATA_STATUS_FORMAT,
            Error::Version { .. } => STRATA_STATUS_VERSION,
            Error::NotFinite { .. } => STRATA_STATUS_NOT_FINITE,
            Error::Capacity { .. } => STRATA_STATUS_CAPACITY,
            Error::Memory { .. } => STRATA_STATUS_MEMORY,
            _ => STRATA_STATUS_PARAMS,
        };
        Self::because(status, Why::Core(error))
    }
}

/// Runs the body of an exported function. A panic ends here.
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

fn run(body: impl FnOnce() -> Outcome) -> Outcome {
    // Unwind safe: what a panic leaves half done is behind a `Guarded`, which stays closed then.
    catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|payload| {
        let text = payload.downcast_ref::<String>().map(String::as_str).or(payload.downcast_ref::<&str>().copied());
        Err(Failure::new(STRATA_STATUS_PANIC, format!("a bug in strata: {}", text.unwrap_or("a panic"))))
    })
}

/// Something that one thread at a time may use, and that a panic may leave half done: nobody may use it then.
#[derive(Debug)]
pub struct Guarded<T>(Mutex<T>);

impl<T> Guarded<T> {
    /// Open.
    pub fn new(value: T) -> Self {
        Self(Mutex::new(value))
    }

    /// Uses the value; if `f` panics, for the last time.
    ///
    /// # Errors Those of `f`; [`STRATA_STATUS_BUSY`] while another thread uses it, [`STRATA_STATUS_PANIC`] if an
    /// earlier call has panicked.
    pub fn with<R>(&self, f: impl FnOnce(&mut T) -> Outcome<R>) -> Outcome<R> {
        match self.0.try_lock() {
            Ok(mut value) => f(&mut value),
            Err(TryLockError::WouldBlock) => {
                Err(Failure::new(STRATA_STATUS_BUSY, "another thread is using this handle at this moment"))
            }
            Err(TryLockError::Poisoned(_)) => {
                Err(Failure::new(STRATA_STATUS_PANIC, "a bug in strata ended an earlier call: free this handle"))
            }
        }
    }
}
