//! The one error type of the crate.

use alloc::string::String;
use core::fmt;

/// What went wrong, with the data to say it in one sentence.
///
/// Anything that a file, a user or a C caller can cause is an `Error`; a caller's programming error is an `assert!`.
#[non_exhaustive]
#[derive(Debug, Clone, PartialEq)]
pub enum Error {
    /// A size differs from the one that the other arguments call for.
    Shape {
        /// What has the wrong size.
        what: &'static str,
        /// The size that was expected.
        expected: usize,
        /// The size that was found.
        got: usize,
    },
    /// An index lies outside of its table.
    Index {
        /// What is indexed.
        what: &'static str,
        /// The index.
        index: usize,
        /// The number of entries in the table.
        len: usize,
    },
    /// Bytes that are not what their format says.
    Format {
        /// Where in the file, in bytes from its start.
        offset: usize,
        /// What is wrong there.
        what: String,
    },
    /// A format of another version than this build reads.
    Version {
        /// The format.
        what: &'static str,
        /// The version that is read.
        expected: u32,
        /// The version that was found.
        got: u32,
    },
    /// A setting that is out of range or does not go with another one.
    Config {
        /// The setting, as it is written in `config.toml`.
        key: String,
        /// What was expected and what was found.
        why: String,
    },
    /// A number that is NaN or infinite.
    NotFinite {
        /// The tensor or loss term it was met in.
        what: String,
        /// The training step, or the row of the input.
        step: u64,
    },
    /// A feature that this build leaves out.
    NotBuilt {
        /// The cargo feature.
        feature: &'static str,
    },
    /// Memory that the system does not give.
    Memory {
        /// What it is for.
        what: &'static str,
        /// How many bytes.
        bytes: usize,
    },
    /// A buffer of the caller is too small.
    Capacity {
        /// Which buffer.
        what: &'static str,
        /// The number of entries needed.
        needed: usize,
        /// The number of entries given.
        got: usize,
    },
}

/// `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = core::result::Result<T, E>;

impl Error {
    /// An [`Error::Format`] at `offset`.
    #[cold]
    pub fn format(offset: usize, what: impl Into<String>) -> Self {
        Self::Format { offset, what: what.into() }
    }

    /// An [`Error::Config`] for `key`.
    #[cold]
    pub fn config(key: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Config { key: key.into(), why: why.into() }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shape { what, expected, got } => write!(f, "{what}: expected {expected}, found {got}"),
            Self::Index { what, index, len } => write!(f, "{what}: index {index} is outside of 0..{len}"),
            Self::Format { offset, what } => write!(f, "{what} (at byte {offset})"),
            Self::Version { what, expected, got } => write!(f, "{what}: expected version {expected}, found {got}"),
            Self::Config { key, why } => write!(f, "setting `{key}`: {why}"),
            Self::NotFinite { what, step } => write!(f, "{what} is not finite at step {step}"),
            Self::NotBuilt { feature } => write!(f, "this build leaves out the feature `{feature}`"),
            Self::Memory { what, bytes } => write!(f, "{what}: the system does not give {bytes} bytes of memory"),
            Self::Capacity { what, needed, got } => {
                write!(f, "{what}: {needed} entries are needed, the buffer has {got}")
            }
        }
    }
}

impl core::error::Error for Error {}
