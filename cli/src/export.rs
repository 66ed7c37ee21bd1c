//! `strata export`: the activity of latents on the rows of a dump, in the formats of other tools.
//!
//! Each level becomes a sparse autoencoder of its own. The rows are read twice, so that memory does not grow with them,
//! and the directory appears whole or not at all. [`neuronpedia`] and [`delphi`] say what is written, and what is not.

use crate::args::ExportFormat;
use crate::console::Console;
use crate::files::PendingDirectory;
use anyhow::{Result, bail, ensure};

mod correlations;
pub mod cvector;
pub mod delphi;
mod groups;
mod histogram;
mod job;
pub mod neuronpedia;

pub use job::{Exported, Job};

/// Exports. The directory `job.out` appears whole or not at all.
///
/// # Errors
/// If the widths differ, the dump has no tokens or no starts of sequences, a row or an activation is not finite, the
/// directory exists, or it cannot be written.
pub fn export(job: &Job<'_>, console: &mut Console<'_>) -> Result<Exported> {
    job.run.check_width(job.dump)?;
    let out = PendingDirectory::create(job.out)?;
    let exported = match job.format {
        ExportFormat::Neuronpedia => {
            ensure!(job.splits.is_none(), "--splits: it is for --format delphi, found --format neuronpedia");
            neuronpedia::write(job, out, console)
        }
        ExportFormat::Delphi => delphi::write(job, out, console),
        ExportFormat::Saelens | ExportFormat::GgufCvector => bail!("--format: it writes weights, not activations"),
    }?;
    let Exported { rows, left_out, .. } = &exported;
    if *left_out > 0 {
        console.note(match job.format {
            ExportFormat::Delphi => format!("the last {left_out} rows are not a whole sequence and were left out"),
            _ => format!("{left_out} rows are left out, as they were in training"),
        });
    }
    console.note(format!(
        "exported {rows} rows for {} into {}: {}",
        exported.format,
        job.out.display(),
        exported.directories.join(", ")
    ));
    Ok(exported)
}
