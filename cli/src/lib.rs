//! The `strata` command line: everything that reads or writes files, and the language models that activations come from.
#![deny(unsafe_code)]

pub mod dump;
pub mod files;
pub mod inspect;
