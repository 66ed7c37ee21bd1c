//! Bare files as shards: `.npy`, `.safetensors`, and raw numbers with a type and a width.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail, ensure};
use strata_core::format::dump::{SEQUENCE_STARTS, TOKENS, TensorTable};
use strata_core::format::npy::NpyHeader;

use super::convert;
use super::integers::Integers;
use super::map::Map;
use super::names::{extension, in_file, stem};
use super::numbers::Numbers;
use super::parts::Parts;
use super::shard::{Layout, Mapped, Shard};
use super::source::{RawSpec, Source};

/// A file of rows that has been opened.
pub(super) struct Found {
    pub(super) shard: Shard,
    /// Rows per sequence, where the array has three dimensions.
    pub(super) context: Option<usize>,
    tokens: Option<Integers>,
    starts: Option<Integers>,
}

/// Opens file `number` of a dump as rows.
pub(super) fn open_file(path: &Path, raw: Option<RawSpec>, number: usize) -> Result<Found> {
    if !path.exists() {
        return Err(crate::files::io_error("reading", path, &std::io::ErrorKind::NotFound.into()));
    }
    if let Some(what) = convert::foreign(path) {
        bail!("`{}` {what}", path.display());
    }
    let mapped = Mapped::open(path, number)?;
    let file = &mapped.map;
    let ending = extension(path);
    let is_raw = matches!(ending.as_str(), "bin" | "raw" | "dat" | "memmap");
    if !is_raw && raw.is_some() {
        bail!(
            "`{}`: --dtype and --dim are for raw files (.bin), and the header of this one names both",
            path.display()
        );
    }
    let (mut tokens, mut starts) = (None, None);
    let (layout, context) = match ending.as_str() {
        "npy" => {
            let header = NpyHeader::parse(file).map_err(|e| match convert::npy(path, file) {
                Some(line) => anyhow!("{}; {line}", in_file(path, e)),
                None => in_file(path, e),
            })?;
            let [n, d] = header.shape;
            (Layout::dense(header.dtype, n, d, header.data_offset), header.context)
        }
        "safetensors" => {
            let table = TensorTable::parse(file).map_err(|e| in_file(path, e))?;
            let matrix = table.activations().map_err(|e| in_file(path, e))?;
            tokens = table.tensor(TOKENS).and_then(Integers::stored);
            starts = table.tensor(SEQUENCE_STARTS).and_then(Integers::stored);
            (Layout::from(&matrix), matrix.context)
        }
        _ if is_raw => {
            let Some(RawSpec { dtype, dim }) = raw else {
                bail!(
                    "`{}`: a raw file (.{ending}) needs --dtype and --dim: it does not say its type and width",
                    path.display()
                );
            };
            let row_bytes = dim.checked_mul(dtype.size_bytes()).filter(|&b| b > 0);
            let row_bytes = row_bytes.with_context(|| format!("--dim: expected a width above 0, found {dim}"))?;
            ensure!(
                file.len().is_multiple_of(row_bytes),
                "`{}`: size: expected a multiple of {row_bytes} bytes ({dim} {dtype} per row), found {} bytes",
                path.display(),
                file.len()
            );
            (Layout::dense(dtype, file.len() / row_bytes, dim, 0), None)
        }
        _ => bail!(
            "`{}`: expected a dump directory, .npy, .safetensors or .bin, found the ending `{ending}`",
            path.display()
        ),
    };
    Ok(Found { shard: Shard::new(mapped, layout)?, context, tokens, starts })
}

/// Checks that no file is given twice, whatever its names: training would see held-out rows.
fn check_distinct(paths: &[PathBuf]) -> Result<()> {
    let mut seen: Vec<(PathBuf, &PathBuf)> = Vec::new();
    for path in paths {
        if let Ok(real) = fs::canonicalize(path) {
            seen.push((real, path));
        }
    }
    seen.sort();
    for pair in seen.windows(2) {
        ensure!(
            pair[0].0 != pair[1].0,
            "`{}` is given twice: rows that are there twice would be held out and trained on",
            pair[1].1.display()
        );
    }
    Ok(())
}

/// Opens the paths of `source` as shards.
pub(super) fn open(source: &Source) -> Result<Parts> {
    let paths = &source.paths;
    check_distinct(paths)?;
    if let (Some(layer), false) = (source.layer, paths.is_empty()) {
        bail!("--layer {layer}: `{}` has one layer only", paths[0].display());
    }
    let found: Vec<Found> =
        paths.iter().enumerate().map(|(i, path)| open_file(path, source.raw, i)).collect::<Result<_>>()?;
    let name = match &paths[..] {
        [only] => stem(only),
        _ => format!("{} and {} more", stem(&paths[0]), paths.len() - 1),
    };
    let context = found[0].context;
    for other in &found[1..] {
        ensure!(
            other.context == context,
            "`{}`: sequences: expected {} by `{}`, found {}",
            other.shard.path.display(),
            sequences(context),
            paths[0].display(),
            sequences(other.context)
        );
    }
    let (tokens, starts) = beside(&found)?;
    let mut parts = Parts::new(name, found.into_iter().map(|f| f.shard).collect());
    parts.context = context;
    parts.tokens = tokens;
    // `context` already tells where sequences start.
    parts.sequence_starts = if context.is_none() { starts } else { None };
    Ok(parts)
}

/// Returns the words for rows per sequence in a message.
fn sequences(context: Option<usize>) -> String {
    context.map_or("none".into(), |t| format!("{t} rows each"))
}

type Beside = (Option<Numbers<u32>>, Option<Numbers<u64>>);

/// Opens the tokens and starts of sequences beside the activations.
fn beside(found: &[Found]) -> Result<Beside> {
    let Some(first) = found.iter().find(|f| f.tokens.is_some()) else { return Ok((None, None)) };
    for Found { shard, tokens, .. } in found {
        let (path, n) = (shard.path.display(), shard.n());
        let Some(tokens) = tokens else {
            bail!(
                "`{path}`: expected a tensor `{TOKENS}` of integers as in `{}`, found none",
                first.shard.path.display()
            );
        };
        ensure!(
            tokens.len() == n,
            "`{path}`: tensor `{TOKENS}`: expected {n} ids, one per row, found {}",
            tokens.len()
        );
    }
    if let [Found { shard, tokens: Some(tokens), starts, .. }] = found {
        let (path, n) = (&shard.path, shard.n() as u64);
        let starts = starts.as_ref().map(|s| s.starts(path, Map::of(path)?, n)).transpose()?;
        return Ok((Some(tokens.ids(path, Map::of(path)?)?), starts));
    }
    let (mut ids, mut all_starts, mut first_row) = (Vec::new(), Vec::new(), 0);
    for Found { shard, tokens, starts, .. } in found {
        let (path, n) = (&shard.path, shard.n() as u64);
        if let Some(tokens) = tokens {
            ids.extend_from_slice(tokens.ids(path, Map::of(path)?)?.get());
        }
        if let Some(starts) = starts {
            all_starts.extend(starts.starts(path, Map::of(path)?, n)?.get().iter().map(|s| first_row + s));
        }
        first_row += n;
    }
    let starts = found.iter().all(|f| f.starts.is_some()).then_some(Numbers::Copied(all_starts));
    Ok((Some(Numbers::Copied(ids)), starts))
}
