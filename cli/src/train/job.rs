//! Input and outcome of a training.

use crate::dump::Dump;
use std::path::Path;
use strata_core::{Config, Isa};

/// A dump, settings and a run directory.
pub struct Job<'a> {
    /// The dump.
    pub dump: &'a Dump,
    /// What a transcoder should reconstruct, a row for each row of `dump`; none for an autoencoder.
    pub target: Option<&'a Dump>,
    /// The run directory.
    pub run: &'a Path,
    /// Settings: those of the run when it is resumed, see [`settings_of`](super::settings_of).
    pub config: Config,
    /// Continue where the run stopped.
    pub resume: bool,
    /// Start from the newest checkpoint in this directory, of a run that is identical up to there: for its control.
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
