//! Failures on their way to the caller: a status, and the sentence that explains it.

use crate::status::{
    STRATA_STATUS_CAPACITY, STRATA_STATUS_DEVICE, STRATA_STATUS_FORMAT, STRATA_STATUS_INDEX, STRATA_STATUS_IO,
    STRATA_STATUS_MEMORY, STRATA_STATUS_NOT_FINITE, STRATA_STATUS_NULL, STRATA_STATUS_PARAMS, STRATA_STATUS_SHAPE,
    STRATA_STATUS_VERSION, strata_status,
};
use alloc::borrow::Cow;
use core::fmt;
use strata_core::Error;

/// A status with the sentence that explains it.
#[derive(Debug)]
pub struct Failure {
    /// The status.
    pub status: strata_status,
    /// The argument that the sentence is about, or nothing.
    argument: &'static str,
    why: Why,
}

/// The parts of a sentence, which is put together where it is written: calls of a context allocate nothing, even if
/// they fail.
#[derive(Debug)]
enum Why {
    Text(Cow<'static, str>),
    /// What was expected, and the number that was found.
    Found(&'static str, u64),
    /// The name of a value that is NaN or infinite, and its number.
    NotFinite(&'static str, u64),
    Core(Error),
}

/// The result of the body of an exported function.
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

    /// For `map_err`: adds the argument of the function that the failure is about.
    pub(crate) fn of(argument: &'static str) -> impl Fn(Self) -> Self {
        move |failure| Self { argument, ..failure }
    }

    /// For errors about bytes that were read: all of them are faults of the format, except for memory.
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
            Error::File { .. } => STRATA_STATUS_IO,
            Error::Format { .. } => STRATA_STATUS_FORMAT,
            Error::Version { .. } => STRATA_STATUS_VERSION,
            Error::NotFinite { .. } => STRATA_STATUS_NOT_FINITE,
            Error::Capacity { .. } => STRATA_STATUS_CAPACITY,
            Error::Memory { .. } => STRATA_STATUS_MEMORY,
            Error::Device { .. } | Error::NotBuilt { .. } => STRATA_STATUS_DEVICE,
            _ => STRATA_STATUS_PARAMS,
        };
        Self::because(status, Why::Core(error))
    }
}
