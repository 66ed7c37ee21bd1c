//! What a training is asked for, and how it ends.

use crate::dump::Dump;
use std::path::Path;
use strata_core::{Config, Isa};

/// What to train, and where it goes.
pub struct Job<'a> {
    /// Rows.
    pub dump: &'a Dump,
    /// The run directory.
    pub run: &'a Path,
    /// Settings: those of the run when it is resumed, see [`settings_of`](super::settings_of).
    pub config: Config,
    /// Go on where the run stopped.
    pub resume: bool,
    /// Begin with the newest checkpoint in this directory, of a run that differs in nothing before it: for its control.
    pub from: Option<&'a Path>,
    /// Instruction set.
    pub isa: Isa,
}

/// How a training ended.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    /// All steps were taken; the model is in `RUN/sae`.
    Done,
    /// Ctrl-C: a checkpoint was written after this many steps.
    Interrupted(u64),
}
