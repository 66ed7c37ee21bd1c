//! Builds without MPI.

use anyhow::{Result, bail};
use std::sync::Arc;
use strata_core::train::Comm;

/// Says that this build does not speak to MPI, which has started `started` processes: without this sentence each would
/// train the whole model.
pub(super) fn connect(started: usize, _: &str) -> Result<Arc<dyn Comm>> {
    bail!(
        "{started} processes were started, and this build of strata leaves out the feature `mpi`: build it with --features \
         mpi, or set RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT for each"
    )
}
