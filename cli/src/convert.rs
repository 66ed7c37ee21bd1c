//! `strata convert`, and `strata export --format saelens`: the weights of a model in the format of another tool. The
//! directory appears whole or not at all.

use crate::args::{PartName, To};
use crate::console::Console;
use crate::files::{PendingDirectory, write_atomic};
use crate::run::{CFG, Run, WEIGHTS, write_sums};
use anyhow::{Result, anyhow, bail, ensure};
use serde::Serialize;
use std::path::Path;
use strata_core::format::saelens_writer::{self, Metadata, Part, is_path};
use strata_core::format::weights::Origin;
use strata_core::format::{npz, weights};
use strata_core::{Dtype, Error};

impl From<PartName> for Part {
    fn from(name: PartName) -> Self {
        match name {
            PartName::Level1 => Self::Level1,
            PartName::Level2 => Self::Level2,
            PartName::Both => Self::Both,
            PartName::Tree => Self::Tree,
        }
    }
}

/// The source, the target and the options of a conversion.
pub struct Job<'a> {
    /// The model.
    pub run: &'a Run,
    /// The directory to make.
    pub out: &'a Path,
    /// The format to write.
    pub to: To,
    /// SAELens: which latents.
    pub part: Option<PartName>,
    /// SAELens: the type of the numbers.
    pub dtype: Dtype,
    /// Also write what is not exact.
    pub inexact: bool,
    /// Metadata for SAELens.
    pub metadata: Metadata,
}

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Converted {
    /// The format of the source.
    pub from: &'static str,
    /// Latents that were written.
    pub latents: usize,
    /// What is not exact, one sentence each.
    pub losses: Vec<String>,
    /// Missing metadata that SAELens needs for some of its uses.
    pub missing: Vec<&'static str>,
}

/// Converts the model. The directory `job.out` appears whole or not at all.
///
/// # Errors
/// If the format cannot represent the model, if it cannot represent it exactly and `job.inexact` is not set, or if the
/// directory exists or cannot be written.
pub fn convert(job: &Job<'_>, console: &mut Console<'_>) -> Result<Converted> {
    let model = &*job.run.model;
    ensure!(job.part.is_none() || job.to == To::Saelens, "--part: it is for --to saelens, which alone holds parts");
    ensure!(
        job.dtype == Dtype::F32 || job.to == To::Saelens,
        "--weights-dtype: it is for --to saelens; the others are f32"
    );
    if let Some(name) = job.metadata.model.as_deref().filter(|name| is_path(name) || Path::new(name).exists()) {
        bail!("--model-id: expected the name of a model on a hub, found `{name}`, which is a path of this machine");
    }
    let given = &job.metadata;
    let to = match job.to {
        To::Saelens => "saelens",
        To::Strata => "strata",
        To::Int8 => "int8",
        To::Npz => "npz",
    };
    let has_no_place = |flag: &str| format!("{flag}: the files of --to {to} have no place for it");
    ensure!(job.to == To::Saelens || given.prepend_bos.is_none(), has_no_place("--prepend-bos"));
    ensure!(job.to == To::Saelens || given.dataset.is_none(), has_no_place("--dataset"));
    if job.to == To::Npz {
        for (flag, is_given) in [
            ("--model-id", given.model.is_some()),
            ("--hook", given.hook.is_some()),
            ("--context", given.context.is_some()),
        ] {
            ensure!(!is_given, has_no_place(flag));
        }
    }
    let mut pending = PendingDirectory::create(job.out)?;
    let (mut losses, mut missing, mut latents) = (Vec::new(), Vec::new(), model.arch.latents().iter().sum());
    // The core names settings; here they are flags.
    let as_flag = |error: Error| match error {
        Error::Config { key, why } => anyhow!("--{}: {why}", if key == "dtype" { "weights-dtype" } else { &*key }),
        other => anyhow!(other),
    };
    let files: Vec<(&str, Vec<u8>)> = match job.to {
        To::Npz => vec![("params.npz", npz::write(model).map_err(as_flag)?)],
        To::Strata | To::Int8 => {
            let (given, origin) = (job.metadata.clone(), job.run.origin.clone());
            let origin = Origin {
                model: given.model.or(origin.model),
                hook: given.hook.or(origin.hook),
                context: given.context.or(origin.context),
                ..origin
            };
            let weights = match job.to {
                To::Int8 => weights::write_weights_int8(model)?,
                _ => weights::write_weights(model)?,
            };
            vec![(CFG, weights::write_cfg(&model.arch, &origin)), (WEIGHTS, weights)]
        }
        To::Saelens => {
            let flat = model.arch.n_levels() == 1;
            let Some(part) = job.part.or(flat.then_some(PartName::Level1)) else {
                bail!(
                    "--part: a model of two levels is written as level1, level2, both (side by side) or tree (with its \
                     families, for saelens_strata.py)"
                );
            };
            latents = match part {
                PartName::Level1 => model.arch.level[0].latents,
                PartName::Level2 => model.arch.level[1].latents,
                PartName::Both | PartName::Tree => latents,
            };
            ensure!(!flat || part == PartName::Level1, "--part: the model has one level, which is level1");
            let written = saelens_writer::write(model, &job.run.origin, &job.metadata, part.into(), job.dtype);
            let written = written.map_err(as_flag)?;
            if let Some(loss) = written.losses.first().filter(|_| !job.inexact) {
                let more = if written.losses.len() > 1 {
                    format!(" (and {} more)", written.losses.len() - 1)
                } else {
                    String::new()
                };
                bail!("not exact: {loss}{more}; --inexact writes it all the same");
            }
            (losses, missing) = (written.losses, written.missing);
            vec![(CFG, written.cfg), (WEIGHTS, written.weights)]
        }
    };
    let is_own = matches!(job.to, To::Strata | To::Int8);
    let root = if is_own { pending.directory("sae")? } else { pending.hidden().to_owned() };
    for (name, bytes) in &files {
        write_atomic(&root.join(name), bytes)?;
    }
    if is_own {
        write_sums(&root, &files)?;
    }
    pending.finish()?;
    losses.iter().for_each(|loss| console.note(format!("not exact: {loss}")));
    if !missing.is_empty() {
        console.note(format!(
            "SAELens' ActivationsStore and evals want {}, which is not known: give it with --model-id, --hook, --context, \
             --prepend-bos",
            missing.join(", ")
        ));
    }
    console.note(format!("wrote {latents} latents into {}", job.out.display()));
    Ok(Converted { from: job.run.format.name, latents, losses, missing })
}
