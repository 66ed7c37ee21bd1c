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
    /// A file that does not exist, or that the host cannot read.
    File {
        /// What the host says, with the name of the file.
        what: String,
    },
    /// Bytes that are not what their format says.
    Format {
        /// Position in the file, in bytes from its start.
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
        /// The tensor, loss term or input that holds it.
        what: String,
        /// Its position.
        at: At,
    },
    /// A feature that this build leaves out.
    NotBuilt {
        /// The cargo feature.
        feature: &'static str,
    },
    /// A device that is missing, that failed, or that does not compute what was asked for.
    Device {
        /// What is wrong, and what to do.
        what: String,
    },
    /// Another process of a training over several that has ended, or with which nothing can be exchanged.
    Rank {
        /// Which one, and what is wrong.
        what: String,
    },
    /// Memory that could not be allocated.
    Memory {
        /// The use of the memory.
        what: &'static str,
        /// Number of bytes.
        bytes: usize,
    },
    /// A number that is too large for the sum that it is added to.
    Range {
        /// Name of the sum.
        what: &'static str,
        /// The number.
        value: f64,
        /// Limit of its magnitude.
        limit: f64,
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
    /// Returns an [`Error::Format`] at `offset`.
    #[cold]
    pub fn format(offset: usize, what: impl Into<String>) -> Self {
        Self::Format { offset, what: what.into() }
    }

    /// Returns an [`Error::File`].
    #[cold]
    pub fn file(what: impl Into<String>) -> Self {
        Self::File { what: what.into() }
    }

    /// Returns an [`Error::Config`] for `key`.
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
            Self::File { what } => f.write_str(what),
            // The start of the file is the position of errors about the whole file.
            Self::Format { offset: 0, what } => f.write_str(what),
            Self::Format { offset, what } => write!(f, "{what} (at byte {offset})"),
            Self::Version { what, expected, got } => write!(f, "{what}: expected version {expected}, found {got}"),
            Self::Config { key, why } => write!(f, "setting `{key}`: {why}"),
            Self::NotFinite { what, at } => write!(f, "{what} is not finite {at}"),
            Self::NotBuilt { feature } => write!(f, "this build leaves out the feature `{feature}`"),
            Self::Device { what } | Self::Rank { what } => f.write_str(what),
            Self::Memory { what, bytes } => write!(f, "out of memory: {what} needs {bytes} bytes"),
            Self::Range { what, value, limit } => {
                write!(f, "{what}: expected a number below {limit:e} in magnitude, found {value:e}")
            }
            Self::Capacity { what, needed, got } => {
                write!(f, "{what}: {needed} entries are needed, the buffer has {got}")
            }
        }
    }
}

impl core::error::Error for Error {}

/// Position of a number that is not finite. All positions are counted from 0.
#[non_exhaustive]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    /// In this training step.
    Step(u64),
    /// In this row of the input.
    Row(u64),
    /// At this token of a stream.
    Token(u64),
    /// In this context (sequence) of a stream.
    Context(u64),
    /// For this latent.
    Latent(u64),
    /// In this element of a tensor.
    Element(u64),
    /// After this many iterations of a solver.
    Iteration(u64),
}

impl At {
    /// Element `i` of a tensor.
    #[must_use]
    pub const fn element(i: usize) -> Self {
        Self::Element(i as u64)
    }

    /// Latent `i`.
    #[must_use]
    pub const fn latent(i: usize) -> Self {
        Self::Latent(i as u64)
    }
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Step(i) => write!(f, "at step {i}"),
            Self::Row(i) => write!(f, "in row {i}"),
            Self::Token(i) => write!(f, "at token {i}"),
            Self::Context(i) => write!(f, "in context {i}"),
            Self::Latent(i) => write!(f, "at latent {i}"),
            Self::Element(i) => write!(f, "at element {i}"),
            Self::Iteration(i) => write!(f, "after {i} iterations"),
        }
    }
}
