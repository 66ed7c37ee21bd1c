//! Hidden states as vLLM's connectors write them: a safetensors file per request with `hidden_states`, `[tokens,
//! layers, d]`, and `token_ids`, `[tokens]`.
//!
//! The files do not tell which layers they contain; the layers are in the order of the setting
//! `eagle_aux_hidden_state_layer_ids`. An id `i` there is the *input* of block `i`: the residual stream after block `i
//! - 1`.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use strata_core::format::dump::{TensorTable, dtype_of};

use super::integers::Integers;
use super::map::Map;
use super::names::{directory_name, files_of, in_file};
use super::numbers::Numbers;
use super::parts::Parts;
use super::shard::{Layout, Mapped, Shard};
use super::source::Source;

const STATES: &str = "hidden_states";
const IDS: &str = "token_ids";

pub(super) fn detect(directory: &Path) -> bool {
    let Some(first) = files_of(directory, |name| name.ends_with(".safetensors")).into_iter().next() else {
        return false;
    };
    let table = Map::of(&first).ok().and_then(|file| TensorTable::parse(&file).ok());
    table.is_some_and(|t| t.tensor(STATES).is_some() && t.tensor(IDS).is_some())
}

pub(super) fn open(directory: &Path, source: &Source) -> Result<Parts> {
    let (mut shards, mut ids, mut starts) = (Vec::new(), Vec::new(), Vec::new());
    for (number, path) in files_of(directory, |name| name.ends_with(".safetensors")).iter().enumerate() {
        let shown = path.display();
        let mapped = Mapped::open(path, number)?;
        let table = TensorTable::parse(&mapped.map).map_err(|e| in_file(path, e))?;
        let tensor =
            table.tensor(STATES).with_context(|| format!("`{shown}`: expected a tensor `{STATES}`, found none"))?;
        let Some(dtype) = dtype_of(tensor.dtype) else {
            bail!("`{shown}`: tensor `{STATES}`: dtype: expected F32, F16 or BF16, found {}", tensor.dtype);
        };
        let (n, layers, d) = match tensor.shape[..] {
            [n, d] => (n, 1, d),
            [n, layers, d] => (n, layers, d),
            _ => bail!(
                "`{shown}`: tensor `{STATES}`: shape: expected [tokens, layers, width], found {} dimensions",
                tensor.shape.len()
            ),
        };
        ensure!(d > 0, "`{shown}`: tensor `{STATES}`: shape: expected a width of at least 1, found 0");
        let layer = match source.layer {
            Some(layer) if layer < layers => layer,
            Some(layer) => {
                bail!("--layer {layer}: expected 0 to {}, the index in `{STATES}` of `{shown}`", layers.max(1) - 1)
            }
            None if layers == 1 => 0,
            None => bail!(
                "`{shown}` holds {layers} layers: choose one with --layer, its index from 0 on in \
                 eagle_aux_hidden_state_layer_ids (an id i there is the input of block i, the residual stream after block i - 1)"
            ),
        };
        let row = d * dtype.size_bytes();
        let mut layout = Layout::empty(dtype, d);
        layout.push(n, tensor.bytes.start + layer * row, layers * row);
        let tokens = table.tensor(IDS).and_then(Integers::stored);
        let tokens = tokens.with_context(|| format!("`{shown}`: expected a tensor `{IDS}` of integers, found none"))?;
        ensure!(tokens.len() == n, "`{shown}`: tensor `{IDS}`: expected {n} ids, one per row, found {}", tokens.len());
        if n > 0 {
            starts.push(ids.len() as u64);
            ids.extend_from_slice(tokens.ids(path, Map::of(path)?)?.get());
        }
        shards.push(Shard::new(mapped, layout)?);
    }
    let mut parts = Parts::new(directory_name(directory), shards);
    parts.tokens = Some(Numbers::Copied(ids));
    parts.sequence_starts = (!starts.is_empty()).then_some(Numbers::Copied(starts));
    Ok(parts)
}
