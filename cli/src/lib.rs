//! The `strata` command line: everything that reads or writes files, and the language models that activations come from.
#![deny(unsafe_code)]

pub mod capture;
pub mod lm;
pub mod splice;
