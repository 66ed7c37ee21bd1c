//! The model at the end of a training: `RUN/sae`.

use crate::checkpoint;
use crate::files::{io_error, write_atomic};
use crate::run;
use anyhow::Result;
use std::fs;
use std::io::Write;
use std::path::Path;
use strata_core::Model;
use strata_core::format::weights::{self, Origin};
use strata_core::train::Comm;

/// Bytes of a model that a rank sends at a time.
const PIECE: usize = 1 << 24;

/// Writes `RUN/sae`.
pub(super) fn write_model(run: &Path, model: &Model, origin: &Origin) -> Result<()> {
    let dir = run.join("sae");
    fs::create_dir_all(&dir).map_err(|e| io_error("making", &dir, &e))?;
    let files = [(run::WEIGHTS, weights::write_weights(model)?), (run::CFG, weights::write_cfg(&model.arch, origin))];
    files.iter().try_for_each(|(name, bytes)| write_atomic(&dir.join(name), bytes))?;
    run::write_sums(&dir, &files)
}

/// Writes `RUN/sae` from the rows of all ranks: the first one writes them as they come, and holds no more than its own.
pub(super) fn write_model_over(run: &Path, model: &Model, origin: &Origin, comm: &dyn Comm) -> Result<()> {
    let dir = run.join("sae");
    let layout = weights::Layout::new(&model.arch);
    let write = |out: &mut dyn Write| -> Result<()> {
        out.write_all(&layout.header)?;
        for (name, is_sharded) in &layout.tensors {
            out.write_all(weights::tensor_bytes(model, name))?;
            let others = if *is_sharded { 1..comm.size() } else { 0..0 };
            for rank in others {
                loop {
                    let piece = comm.receive(rank)?;
                    out.write_all(&piece)?;
                    if piece.is_empty() {
                        break;
                    }
                }
            }
        }
        Ok(())
    };
    if comm.rank() > 0 {
        for (name, _) in layout.tensors.iter().filter(|(_, is_sharded)| *is_sharded) {
            for piece in weights::tensor_bytes(model, name).chunks(PIECE) {
                comm.send(0, piece)?;
            }
            comm.send(0, &[])?;
        }
        return Ok(comm.broadcast(&mut Vec::new())?);
    }
    fs::create_dir_all(&dir).map_err(|e| io_error("making", &dir, &e))?;
    let sum = checkpoint::write_hashed(&dir.join(run::WEIGHTS), write)?;
    let cfg = weights::write_cfg(&model.arch, origin);
    write_atomic(&dir.join(run::CFG), &cfg)?;
    run::write_known_sums(&dir, &[(run::WEIGHTS, sum), (run::CFG, checkpoint::sha256(&cfg))])?;
    // No rank ends before the model is there.
    Ok(comm.broadcast(&mut Vec::new())?)
}
