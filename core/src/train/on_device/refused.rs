//! What is not trained on devices yet.

use crate::config::{Config, ModelKind};
use crate::error::{Error, Result};
use crate::model::Arch;
use alloc::format;

/// Returns the error of a setting that is not computed on devices.
fn refused(key: &str, value: &str) -> Error {
    Error::Device { what: format!("`{key} = {value}` is not trained on a GPU yet: use the CPU") }
}

/// Checks that a model of these settings is trained on devices.
pub(super) fn check(config: &Config, arch: &Arch) -> Result<()> {
    let two = arch.n_levels() == 2;
    if config.model == ModelKind::Seed {
        return Err(refused("model", "\"seed\""));
    }
    if arch.variant.target.is_some() {
        return Err(Error::Device { what: "transcoders are not trained on a GPU yet: use the CPU".into() });
    }
    if two && !arch.source.is_activations() {
        return Err(refused("source", &format!("\"{}\"", arch.source)));
    }
    if two && arch.decoder.is_composed() {
        return Err(refused("decoder", &format!("\"{}\"", arch.decoder)));
    }
    if two && arch.gate.has_weights() {
        return Err(refused("gate.kind", &format!("\"{}\"", arch.gate)));
    }
    let loss = config.loss.consistency;
    if two && !loss.is_on_devices() {
        return Err(refused("loss.consistency", &format!("\"{loss}\"")));
    }
    if two && config.train.balance.projects() {
        return Err(refused("train.balance", &format!("\"{}\"", config.train.balance)));
    }
    if config.train.freeze.fixes_encoders()
        || config.train.freeze.fixes_decoders()
        || config.train.freeze.anchors_decoders()
    {
        return Err(refused("train.freeze", &format!("\"{}\"", config.train.freeze)));
    }
    if config.train.prune > 0.0 {
        return Err(refused("train.prune", &format!("{}", config.train.prune)));
    }
    Ok(())
}
