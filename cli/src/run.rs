//! A run directory, or its `sae/` alone, as something to encode with.

use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use strata_core::format::weights::{self, Origin};
use strata_core::{Compute, Encoder, Isa, Model, Par};

/// A trained run.
pub struct Run {
    /// Its directory: where `eval.json` goes.
    pub dir: PathBuf,
    /// The model.
    pub model: Arc<Model>,
    /// Where it comes from.
    pub origin: Origin,
    /// SHA-256 of its weights.
    pub hash: String,
}

impl Run {
    /// Opens `RUN` or `RUN/sae`.
    ///
    /// # Errors
    /// One sentence naming the file that is missing or damaged.
    pub fn open(dir: &Path) -> Result<Self> {
        let sae = if dir.join("cfg.json").exists() { dir.to_owned() } else { dir.join("sae") };
        if !sae.join("cfg.json").exists() && !sae.join("sae_weights.safetensors").exists() {
            if dir.join("checkpoints").exists() {
                bail!("{} has not finished training: go on with `strata train --resume`", dir.display());
            }
            bail!("{} is no run: expected {} in it", dir.display(), Path::new("sae").join("cfg.json").display());
        }
        let read = |name: &str| {
            let path = sae.join(name);
            fs::read(&path).with_context(|| format!("reading {}", path.display()))
        };
        let (cfg, bytes) = (read("cfg.json")?, read("sae_weights.safetensors")?);
        let (model, origin) =
            weights::read_model(&cfg, &bytes).with_context(|| format!("reading {}", sae.display()))?;
        let dir =
            if sae == dir && dir.file_name().is_some_and(|n| n == "sae") { dir.parent().unwrap_or(dir) } else { dir };
        Ok(Self { dir: dir.to_owned(), model: Arc::new(model), origin, hash: crate::checkpoint::sha256(&bytes) })
    }

    /// The model made ready to encode.
    ///
    /// # Errors
    /// If its tensors do not fit together.
    pub fn encoder(&self, isa: Isa) -> Result<Encoder> {
        Ok(Encoder::new(self.model.clone(), Compute::new(isa, Par::Rayon))?)
    }

    /// Refuses rows of another width than the model's.
    ///
    /// # Errors
    /// One sentence naming both.
    pub fn check_width(&self, dump: &crate::dump::Dump) -> Result<()> {
        if dump.d() != self.model.arch.d {
            bail!(
                "{} has rows of width {}, and the model of {} reads rows of width {}",
                dump.name(),
                dump.d(),
                self.dir.display(),
                self.model.arch.d
            );
        }
        Ok(())
    }
}
