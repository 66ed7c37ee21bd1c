//! `strata_sae._native`: what the Python package `strata_sae` computes, without its conveniences.
//!
//! Arrays are read where they lie, and the interpreter is free for other threads while anything is computed. The classes
//! and functions here take what the Python layer has checked; [`python/strata_sae`](../python/strata_sae) has the
//! documentation for users.

mod arrays;
mod codes;
mod command;
mod dump;
mod failure;
mod model;
mod pool;
mod probe;
mod watch;

use pyo3::prelude::*;

// What the program has too: without memory, one sentence.
#[global_allocator]
static ALLOCATOR: strata_cli::memory::Allocator = strata_cli::memory::Allocator;

/// The native part of `strata_sae`.
#[pymodule]
mod _native {
    #[pymodule_export]
    use super::command::{check_settings, main, run, settings, vocabulary};
    #[pymodule_export]
    use super::dump::Writer;
    #[pymodule_export]
    use super::failure::Error;
    #[pymodule_export]
    use super::model::Model;
    #[pymodule_export]
    use super::pool::set_threads;
    #[pymodule_export]
    use super::probe::{Probe, ProbeState};
    #[pymodule_export]
    use super::watch::Watch;

    /// The version of the package.
    #[pymodule_export]
    const VERSION: &str = env!("CARGO_PKG_VERSION");
}
