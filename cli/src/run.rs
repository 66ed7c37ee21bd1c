//! A run directory, or a model of another tool, opened to encode with.

use crate::checkpoint::sha256;
use crate::dump::Dump;
use crate::files::{parent_of, read, write_atomic};
use crate::pickle;
use anyhow::{Result, anyhow, bail, ensure};
use std::cell::RefCell;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use strata_core::format::arrays::Arrays;
use strata_core::format::formats::{self, Choices, Files, Format};
use strata_core::format::weights::Origin;
use strata_core::model::SharedBytes;
use strata_core::{Compute, Device, Encoder, Error, Isa, Model, Par};

/// The description of a model, below `sae`.
pub(crate) const CFG: &str = "cfg.json";
/// Its weights.
pub(crate) const WEIGHTS: &str = "sae_weights.safetensors";
/// The SHA-256 of both, in the form of `sha256sum`.
const SUMS: &str = "SHA256SUMS";

/// Writes the checksums of the files of a model beside them, so that readers can tell that the model is whole and that
/// its files belong together.
///
/// # Errors
/// If the file cannot be written.
pub(crate) fn write_sums(sae: &Path, files: &[(&str, Vec<u8>)]) -> Result<()> {
    let sums: Vec<(&str, String)> = files.iter().map(|(name, bytes)| (*name, sha256(bytes))).collect();
    write_known_sums(sae, &sums)
}

/// [`write_sums`] of files whose checksums are known.
///
/// # Errors
/// If the file cannot be written.
pub(crate) fn write_known_sums(sae: &Path, files: &[(&str, String)]) -> Result<()> {
    let lines: String = files.iter().map(|(name, sum)| format!("{sum}  {name}\n")).collect();
    write_atomic(&sae.join(SUMS), lines.as_bytes())
}

/// Compares the checksums of files, given with their names, with those that were written with them. A model without
/// checksums, from an earlier version or another tool, passes.
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

/// A trained run, or a model that another tool has saved.
pub struct Run {
    /// Its directory: where `eval.json` of a run goes.
    pub dir: PathBuf,
    /// The model.
    pub model: Arc<Model>,
    /// The origin of the model.
    pub origin: Origin,
    /// SHA-256 of its weights.
    pub hash: String,
    /// The format of its files.
    pub format: &'static Format,
    /// What the user should know: assumptions that no file confirms, each one sentence.
    pub notes: Vec<String>,
}

/// The files of a directory, or one file and those beside it. Files that were read are kept, since several formats may
/// be tried.
struct Directory<'a> {
    path: &'a Path,
    root: &'a Path,
    named: Option<&'a str>,
    read: RefCell<Vec<(String, SharedBytes)>>,
}

impl<'a> Directory<'a> {
    fn new(path: &'a Path) -> Self {
        let named = path.file_name().and_then(|name| name.to_str()).filter(|_| path.is_file());
        let root = if named.is_some() { parent_of(path) } else { path };
        Self { path, root, named, read: RefCell::default() }
    }

    /// Compares the files of a model with the checksums that were written with them, and returns that of the weights;
    /// none without checksums.
    fn check_sums(&self) -> Result<Option<String>> {
        let folder = ["", "sae/"].into_iter().find(|folder| self.has(&format!("{folder}{CFG}")));
        let Some(folder) = folder.filter(|folder| self.has(&format!("{folder}{SUMS}"))) else { return Ok(None) };
        let sum = |name: &str| -> Result<String> {
            let bytes = self.read(&format!("{folder}{name}")).map_err(|e| anyhow!("{e}"))?;
            Ok(sha256((*bytes).as_ref()))
        };
        let (cfg, weights) = (sum(CFG)?, sum(WEIGHTS)?);
        check_sums(&self.root.join(folder), &[(CFG, &cfg), (WEIGHTS, &weights)])?;
        Ok(Some(weights))
    }
}

impl Files for Directory<'_> {
    fn named(&self) -> Option<&str> {
        self.named
    }

    fn path(&self) -> String {
        self.path.display().to_string()
    }

    fn whole_path(&self) -> String {
        // Links are kept: the names of a cache stand in front of them.
        std::path::absolute(self.path).map_or_else(|_| self.path(), |path| path.display().to_string())
    }

    fn list(&self) -> Vec<String> {
        let entries = fs::read_dir(self.root).into_iter().flatten().filter_map(Result::ok);
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
    }

    fn has(&self, name: &str) -> bool {
        self.root.join(name).exists()
    }

    fn read(&self, name: &str) -> strata_core::Result<SharedBytes> {
        if let Some((_, bytes)) = self.read.borrow().iter().find(|(of, _)| of == name) {
            return Ok(bytes.clone());
        }
        let most = if [".json", ".yaml"].iter().any(|end| name.ends_with(end)) { read::SMALL } else { read::LARGE };
        let bytes = read::bytes(&self.root.join(name), most).map_err(|e| Error::file(format!("{e:#}")))?;
        let bytes: SharedBytes = Arc::new(bytes);
        self.read.borrow_mut().push((name.to_owned(), bytes.clone()));
        Ok(bytes)
    }

    fn pickle(&self, name: &str, bytes: &SharedBytes) -> strata_core::Result<Arrays> {
        pickle::read(name, bytes)
    }
}

impl Run {
    /// Opens `RUN`, `RUN/sae`, or a model of another tool.
    ///
    /// # Errors
    /// As [`Run::open_as`].
    pub fn open(path: &Path) -> Result<Self> {
        Self::open_as(path, &Choices::default())
    }

    /// Opens a model as [`Run::open`] does, with the choices of the user.
    ///
    /// # Errors
    /// One sentence naming the file that is missing or damaged.
    pub fn open_as(path: &Path, choices: &Choices) -> Result<Self> {
        let files = Directory::new(path);
        if !path.exists() {
            bail!("{} is no run: no such file or directory", path.display());
        }
        // A run that was stopped has settings and checkpoints, but no model yet.
        let stopped = ["config.toml", "checkpoints"].iter().all(|name| files.has(name)) && !files.has("sae");
        let sum = files.check_sums()?;
        let loaded = formats::load(&files, choices).map_err(|e| match e {
            _ if stopped => {
                anyhow!("{} has not finished training: continue with `strata train --resume`", path.display())
            }
            Error::File { what } => anyhow!(what),
            // The choices of the user are flags here.
            Error::Config { key, why } if ["norm-scaling-factor", "row-norm"].contains(&&*key) => {
                anyhow!("--{key}: {why}")
            }
            other => anyhow!(other).context(format!("reading {}", path.display())),
        })?;
        let (weights, bytes) = loaded.weights;
        let hash = sum.unwrap_or_else(|| sha256((*bytes).as_ref()));
        let in_sae = !weights.contains('/') && files.named.is_none() && path.file_name().is_some_and(|n| n == "sae");
        let dir = if loaded.format.is_own() && in_sae { path.parent().unwrap_or(path) } else { files.root };
        let (model, origin, format, notes) = (Arc::new(loaded.model), loaded.origin, loaded.format, loaded.notes);
        Ok(Self { dir: dir.to_owned(), model, origin, hash, format, notes })
    }

    /// Makes the model ready to encode.
    ///
    /// # Errors
    /// If its tensors do not fit together.
    pub fn encoder(&self, isa: Isa) -> Result<Encoder> {
        Ok(Encoder::new(self.model.clone(), Compute::new(isa, Par::Rayon))?)
    }

    /// Makes the model ready to encode on a device, or on the processor.
    ///
    /// # Errors
    /// As [`Run::encoder`], and if the model is not computed on devices or does not fit.
    pub fn encoder_on(&self, isa: Isa, device: Option<&Device>) -> Result<Encoder> {
        let encoder = self.encoder(isa)?;
        match device {
            Some(device) => Ok(encoder.on(device)?),
            None => Ok(encoder),
        }
    }

    /// Returns the directory for results about the model: `out`, or that of a run. Nothing is written into a model of
    /// another tool.
    ///
    /// # Errors
    /// For such a model without `out`.
    pub fn output<'a>(&'a self, out: Option<&'a Path>) -> Result<&'a Path> {
        let dir = self.dir.display();
        let title = self.format.title;
        ensure!(
            out.is_some() || self.format.is_own(),
            "nothing is written into {dir}, a model of {title}: name a place for what is found with --out"
        );
        Ok(out.unwrap_or(&self.dir))
    }

    /// Refuses to measure the reconstruction of a transcoder without the rows that it should reconstruct, or with rows
    /// of another width or number; and refuses such rows for an autoencoder.
    ///
    /// # Errors
    /// One sentence.
    pub fn check_target(&self, dump: &Dump, target: Option<&Dump>) -> Result<()> {
        let (dir, arch) = (self.dir.display(), &self.model.arch);
        let Some(target) = target else {
            let what = "is a transcoder: name the dump of what it should reconstruct with --target";
            ensure!(arch.variant.target.is_none(), "the model of {dir} {what}");
            return Ok(());
        };
        ensure!(arch.variant.target.is_some(), "--target is for a transcoder, and the model of {dir} is none");
        ensure!(
            target.d() == arch.d_out(),
            "{} has rows of width {}, and the transcoder of {dir} reconstructs rows of width {}",
            target.name(),
            target.d(),
            arch.d_out()
        );
        ensure!(
            target.n_rows() == dump.n_rows(),
            "{} has {} rows and {} has {}: expected a target for each row",
            target.name(),
            target.n_rows(),
            dump.name(),
            dump.n_rows()
        );
        Ok(())
    }

    /// Refuses rows whose width is not that of the model.
    ///
    /// # Errors
    /// One sentence naming both.
    pub fn check_width(&self, dump: &Dump) -> Result<()> {
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
