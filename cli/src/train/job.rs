//! Input and outcome of a training.

use crate::dump::Dump;
use std::path::Path;
use std::sync::Arc;
use strata_core::train::Comm;
use strata_core::{Config, Device, Isa};

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
    /// The GPU to train on.
    pub device: Option<&'a Device>,
    /// Repeat every step of this number on the CPU, and compare; 0: none.
    pub verify: u64,
    /// The ranks of the training: all call [`train`](super::train) with the same job, and each trains a part of the latents.
    pub comm: Arc<dyn Comm>,
    /// Whether every rank reads the rows, which costs no messages; otherwise the first one sends them to the others.
    pub read_all: bool,
}

impl Job<'_> {
    /// Returns whether this process is the one that writes the files of the run.
    pub fn is_first(&self) -> bool {
        self.comm.rank() == 0
    }
}

/// How a training ended.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    /// All steps were taken; the model is in `RUN/sae`.
    Done,
    /// Ctrl-C: a checkpoint was written after this many steps.
    Interrupted(u64),
}
