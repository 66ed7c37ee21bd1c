//! Input and output of every export.

use crate::args::ExportFormat;
use crate::dump::Dump;
use crate::run::Run;
use anyhow::{Context, Result};
use serde::Serialize;
use std::path::Path;
use strata_core::Isa;
use strata_core::format::saelens_writer::Metadata;

/// A run, a dump, a format and a directory.
pub struct Job<'a> {
    /// The run.
    pub run: &'a Run,
    /// The dump, with its tokens.
    pub dump: &'a Dump,
    /// The format.
    pub format: ExportFormat,
    /// The directory to make.
    pub out: &'a Path,
    /// Number of files per level, for delphi.
    pub splits: Option<usize>,
    /// The language model and the hook point, which take precedence over those of the dump.
    pub named: Metadata,
    /// Instruction set.
    pub isa: Isa,
}

impl Job<'_> {
    /// Returns the language model that the rows come from.
    pub fn model(&self) -> Option<&str> {
        self.named.model.as_deref().or_else(|| self.dump.model())
    }

    /// Returns the hook point of the rows.
    pub fn hook(&self) -> Option<&str> {
        self.named.hook.as_deref().or_else(|| self.dump.hook())
    }
}

/// The export that was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Exported {
    /// The format.
    pub format: &'static str,
    /// Rows that were exported.
    pub rows: u64,
    /// Rows that are not: for delphi those at the end of the dump that do not make a whole sequence, for Neuronpedia those
    /// that training left out.
    pub left_out: u64,
    /// Activations above 0 of level 1 and of level 2.
    pub entries: [u64; 2],
    /// Directories that were made, one per level, below the one that was named.
    pub directories: Vec<String>,
}

/// Returns the token id of every row.
///
/// # Errors
/// If the dump has no tokens.
pub fn tokens(dump: &Dump) -> Result<&[u32]> {
    dump.tokens().with_context(|| lacks(dump, "tokens"))
}

/// Returns the sentence for a dump that does not have `what`.
pub fn lacks(dump: &Dump, what: &str) -> String {
    let name = dump.name();
    format!("an export needs a dump that has {what}, and {name} does not: capture it with `strata capture`")
}
