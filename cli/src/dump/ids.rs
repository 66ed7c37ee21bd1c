//! Files of token ids and of starts of sequences.

use std::path::Path;

use anyhow::{Result, anyhow, bail, ensure};
use strata_core::format::dump::{SEQUENCE_STARTS, TOKENS, TensorTable};

use super::integers::Integers;
use super::map::Map;
use super::names::{extension, in_file};
use super::numbers::Numbers;
use super::{convert, pt};

/// The content of a file of token ids.
pub(super) struct Tokens {
    pub(super) ids: Numbers<u32>,
    pub(super) starts: Option<Numbers<u64>>,
    /// Ids per sequence, where the array has two dimensions.
    pub(super) context: Option<usize>,
}

/// Opens a file of integers and finds the tensor called `name`; in a safetensors file without that name, the only one.
/// An integer of a `.bin` file has `raw_size` bytes.
fn open(path: &Path, name: &str, raw_size: usize) -> Result<(Map, Integers)> {
    if extension(path) == "pt" {
        return pt::integers(path);
    }
    let file = Map::of(path)?;
    let shown = path.display();
    let found = match extension(path).as_str() {
        "npy" => Integers::npy(&file).map_err(|e| in_file(path, e))?.ok_or_else(|| {
            let line = convert::integers(path);
            anyhow!("`{shown}`: expected row-major little-endian integers, found others; {line}")
        })?,
        "safetensors" => {
            let table = TensorTable::parse(&file).map_err(|e| in_file(path, e))?;
            let mut all: Vec<(String, Integers)> = table
                .names()
                .into_iter()
                .filter_map(|n| Some((n.clone(), Integers::stored(table.tensor(&n)?)?)))
                .collect();
            let at = all.iter().position(|(n, _)| n == name).or((all.len() == 1).then_some(0));
            match at {
                Some(at) => all.swap_remove(at).1,
                None => bail!("`{shown}`: expected a tensor `{name}` of integers, found {} others", all.len()),
            }
        }
        "bin" => {
            ensure!(
                file.len().is_multiple_of(raw_size),
                "`{shown}`: size: expected a multiple of {raw_size} bytes, found {}",
                file.len()
            );
            Integers::at(0..file.len(), raw_size, false)
        }
        _ => bail!("`{shown}`: expected integers in a .npy, .safetensors or .pt file; {}", convert::integers(path)),
    };
    Ok((file, found))
}

/// Opens the token ids of `n_rows` rows, with the starts of sequences beside them.
pub(super) fn open_tokens(path: &Path, n_rows: u64) -> Result<Tokens> {
    let (file, ids) = open(path, TOKENS, 4)?;
    let mut starts = None;
    if extension(path) == "safetensors" {
        let table = TensorTable::parse(&file).map_err(|e| in_file(path, e))?;
        if let Some(found) = table.tensor(SEQUENCE_STARTS).and_then(Integers::stored) {
            // A second map of the same file costs nothing, and each vector owns the map that it points into.
            starts = Some(found.starts(path, Map::of(path)?, n_rows)?);
        }
    }
    let (found, display) = (ids.len() as u64, path.display());
    ensure!(found == n_rows, "`{display}`: token ids: expected {n_rows}, one per row, found {found}");
    let context = match ids.shape[..] {
        [_, t] => Some(t),
        _ => None,
    };
    Ok(Tokens { ids: ids.ids(path, file)?, starts, context })
}

/// Opens the first rows of the sequences of `n_rows` rows.
pub(super) fn open_starts(path: &Path, n_rows: u64) -> Result<Numbers<u64>> {
    let (file, starts) = open(path, SEQUENCE_STARTS, 8)?;
    starts.starts(path, file, n_rows)
}
