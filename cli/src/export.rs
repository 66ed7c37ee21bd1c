//! `strata export`: what latents do on the rows of a dump, in the formats of the tools that people already use.
//!
//! Each level is a sparse autoencoder of its own there. The rows are read twice, so that memory does not grow with them,
//! and the directory appears whole or not at all. See [`neuronpedia`] and [`delphi`] for what is written, and what is not.

use crate::args::ExportFormat;
use crate::console::Console;
use crate::dump::Dump;
use crate::run::Run;
use anyhow::{Context, Result, ensure};
use pending::PendingDirectory;
use serde::Serialize;
use std::path::Path;
use strata_core::Isa;

pub mod delphi;
mod histogram;
pub mod neuronpedia;
mod pending;

/// What to export to where.
pub struct Job<'a> {
    /// The run.
    pub run: &'a Run,
    /// The rows, with their tokens.
    pub dump: &'a Dump,
    /// The format.
    pub format: ExportFormat,
    /// The directory to make.
    pub out: &'a Path,
    /// Files a level, for delphi.
    pub splits: Option<usize>,
    /// Instruction set.
    pub isa: Isa,
}

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Exported {
    /// The format.
    pub format: &'static str,
    /// Rows that were exported.
    pub rows: u64,
    /// Rows at the end of the dump that the format has no place for.
    pub left_out: u64,
    /// Activations above 0 of level 1 and of level 2.
    pub entries: [u64; 2],
    /// Directories that were made, a level each, below the one that was named.
    pub directories: Vec<String>,
}

/// Exports; the directory `job.out` appears whole or not at all.
///
/// # Errors
/// If the widths differ, the dump does not say its tokens and sequences, a row or an activation is not finite, the
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
    }?;
    let Exported { rows, left_out, .. } = &exported;
    if *left_out > 0 {
        console.note(format!("the last {left_out} rows are no whole sequence and were left out"));
    }
    console.note(format!(
        "exported {rows} rows for {} into {}: {}",
        exported.format,
        job.out.display(),
        exported.directories.join(", ")
    ));
    Ok(exported)
}

/// The token id of every row.
fn tokens(dump: &Dump) -> Result<&[u32]> {
    dump.tokens().with_context(|| lacks(dump, "its tokens"))
}

/// One sentence for a dump that does not say `what`.
fn lacks(dump: &Dump, what: &str) -> String {
    let name = dump.name();
    format!("an export needs a dump that says {what}, and {name} does not: capture it with `strata capture`")
}
