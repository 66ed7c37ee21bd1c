//! A run directory, or its `sae/` alone, as something to encode with.

use crate::checkpoint::sha256;
use crate::files::{read, write_atomic};
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use strata_core::format::weights::{self, Origin};
use strata_core::{Encoder, Isa, Model, Par};

/// The description of a model, below `sae`.
pub(crate) const CFG: &str = "cfg.json";
/// Its tensors.
pub(crate) const WEIGHTS: &str = "sae_weights.safetensors";
/// The SHA-256 of both, in the form of `sha256sum`.
const SUMS: &str = "SHA256SUMS";

/// Writes the sums of the files of a model beside them, so that whoever reads the model can tell that it is whole and
/// that its files belong together.
///
/// # Errors
/// If the file cannot be written.
pub(crate) fn write_sums(sae: &Path, files: &[(&str, Vec<u8>)]) -> Result<()> {
    let lines: String = files.iter().map(|(name, bytes)| format!("{}  {name}\n", sha256(bytes))).collect();
    write_atomic(&sae.join(SUMS), lines.as_bytes())
}

/// Compares the sums of files, given with their names, with those that were written with them. A model without sums, as
/// of earlier versions and other tools, passes.
fn check_sums(sae: &Path, found: &[(&str, &str)]) -> Result<()> {
    let Some(text) = read::optional_text(&sae.join(SUMS), read::SMALL)? else { return Ok(()) };
    for (name, found) in found {
        let line = text.lines().find_map(|l| l.split_once("  ").filter(|(_, n)| n == name));
        if let Some((expected, _)) = line.filter(|(expected, _)| expected != found) {
            bail!(
                "{} is damaged or was changed: expected the SHA-256 {expected} by {SUMS}, found {found}; if it is right \
                 as it is, remove {SUMS}",
                sae.join(name).display()
            );
        }
    }
    Ok(())
}

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
        let sae = if dir.join(CFG).exists() { dir.to_owned() } else { dir.join("sae") };
        if !sae.join(CFG).exists() && !sae.join(WEIGHTS).exists() {
            if dir.join("checkpoints").exists() {
                bail!("{} has not finished training: go on with `strata train --resume`", dir.display());
            }
            bail!("{} is no run: expected {} in it", dir.display(), Path::new("sae").join(CFG).display());
        }
        let cfg = read::bytes(&sae.join(CFG), read::SMALL)?;
        let bytes = read::bytes(&sae.join(WEIGHTS), read::LARGE)?;
        let hash = sha256(&bytes);
        check_sums(&sae, &[(CFG, &sha256(&cfg)), (WEIGHTS, &hash)])?;
        let (model, origin) =
            weights::read_model(&cfg, &bytes).with_context(|| format!("reading {}", sae.display()))?;
        let dir =
            if sae == dir && dir.file_name().is_some_and(|n| n == "sae") { dir.parent().unwrap_or(dir) } else { dir };
        Ok(Self { dir: dir.to_owned(), model: Arc::new(model), origin, hash })
    }

    /// The model made ready to encode.
    ///
    /// # Errors
    /// If its tensors do not fit together.
    pub fn encoder(&self, isa: Isa) -> Result<Encoder> {
        Ok(Encoder::new(self.model.clone(), isa, Par::Rayon)?)
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
