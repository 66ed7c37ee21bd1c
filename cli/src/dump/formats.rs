//! The formats of dumps: a table of directories that can be read, and the information that flags add.

use std::path::Path;

use anyhow::{Result, bail, ensure};

use super::ids::{Tokens, open_starts, open_tokens};
use super::numbers::Numbers;
use super::parts::Parts;
use super::source::Source;
use super::{arrow, bare, convert, drawn, llamascopium, manifest, memmap, saev, vllm};
use crate::texts;

/// A format of directories.
struct Format {
    /// The name of the format.
    name: &'static str,
    /// Returns whether a directory has this format, from the names in it.
    detect: fn(&Path) -> bool,
    /// Opens a directory of this format.
    open: fn(&Path, &Source) -> Result<Parts>,
    /// Whether it may hold several layers.
    has_layers: bool,
}

/// All formats of directories. The first that is detected is used.
const FORMATS: &[Format] = &[
    Format { name: "strata-dump", detect: manifest::detect, open: manifest::open, has_layers: false },
    // A stored dump of a world has both files, and its rows are read.
    Format { name: "a world that is drawn", detect: drawn::detect, open: drawn::open, has_layers: false },
    Format { name: "SAELens' cache in Arrow", detect: arrow::detect, open: arrow::open, has_layers: false },
    Format { name: "memmap shards", detect: memmap::detect, open: memmap::open, has_layers: false },
    Format { name: "saev shards", detect: saev::detect, open: saev::open, has_layers: true },
    Format { name: "Llamascopium chunks", detect: llamascopium::detect, open: llamascopium::open, has_layers: false },
    Format { name: "hidden states of vLLM", detect: vllm::detect, open: vllm::open, has_layers: true },
];

/// Opens `source`; returns its parts and the number of rows.
///
/// # Errors
/// As [`Source::open`].
pub(super) fn open(source: &Source) -> Result<(Parts, u64)> {
    let Some(first) = source.paths.first() else {
        bail!("a dump: expected a directory or at least one file, found none");
    };
    let mut parts = if first.is_dir() { open_directory(source, first)? } else { bare::open(source)? };
    let n_rows = parts.place()?;
    complete(source, &mut parts, n_rows)?;
    if parts.sequence_starts.is_none()
        && let Some(context) = parts.context
    {
        parts.sequence_starts = Some(Numbers::Copied((0..n_rows).step_by(context).collect()));
    }
    Ok((parts, n_rows))
}

fn open_directory(source: &Source, directory: &Path) -> Result<Parts> {
    let shown = directory.display();
    ensure!(
        source.paths.len() == 1,
        "`{shown}`: expected a single dump directory or several files, found a directory and {} more",
        source.paths.len() - 1
    );
    ensure!(source.raw.is_none(), "`{shown}`: a type and a width are for raw files, not for a directory");
    let Some(format) = FORMATS.iter().find(|f| (f.detect)(directory)) else {
        if let Some(what) = convert::foreign(directory) {
            bail!("`{shown}` {what}");
        }
        let names: Vec<&str> = FORMATS.iter().map(|f| f.name).collect();
        bail!(
            "`{shown}`: expected dump.json in it, or a directory of another format that is read ({}), found none; bare \
             files are given one by one",
            names.join(", ")
        );
    };
    ensure!(
        source.layer.is_none() || format.has_layers,
        "`{shown}`: --layer is for dumps of several layers, and this one ({}) has one",
        format.name
    );
    (format.open)(directory, source)
}

/// Adds the information of the flags to that of the files, which it must not contradict.
fn complete(source: &Source, parts: &mut Parts, n_rows: u64) -> Result<()> {
    if let Some(path) = &source.tokens {
        ensure!(parts.tokens.is_none(), "--tokens `{}`: the dump has its own tokens", path.display());
        let Tokens { ids, starts, context } = open_tokens(path, n_rows)?;
        parts.tokens = Some(ids);
        if parts.sequence_starts.is_none() {
            parts.sequence_starts = starts;
        }
        expect_context(parts, context, "--tokens")?;
    }
    expect_context(parts, source.context, "--context")?;
    if let Some(path) = &source.starts {
        ensure!(
            parts.context.is_none() && parts.sequence_starts.is_none(),
            "--starts `{}`: the dump or --context already tells where sequences begin",
            path.display()
        );
        parts.sequence_starts = Some(open_starts(path, n_rows)?);
    }
    if let Some(path) = &source.vocab {
        ensure!(
            parts.tokens.is_some(),
            "--vocab `{}`: the rows have no tokens: name a file of token ids with --tokens",
            path.display()
        );
        parts.vocab = Some(texts::open(path)?);
    }
    Ok(())
}

/// Uses `context` as the rows per sequence, unless something else was given.
fn expect_context(parts: &mut Parts, context: Option<usize>, by: &str) -> Result<()> {
    let Some(context) = context else { return Ok(()) };
    ensure!(context > 0, "{by}: expected sequences of at least 1 row, found 0");
    if let Some(own) = parts.context {
        ensure!(own == context, "{by}: sequences: expected {own} rows by the dump, found {context}");
    }
    ensure!(parts.sequence_starts.is_none(), "{by}: the dump already tells where sequences begin");
    parts.context = Some(context);
    Ok(())
}
