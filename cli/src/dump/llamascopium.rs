//! Chunks of activations as Llamascopium caches them: a directory per hook point with `chunk-%08d.safetensors` or
//! `shard-R-chunk-%08d.safetensors`, which hold `activation`, `[sequences, tokens, d]`, and `tokens` and `mask`,
//! `[sequences, tokens]`. Rows that the mask leaves out are not rows of the dump.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use strata_core::format::dump::TensorTable;

use super::integers::Integers;
use super::map::Map;
use super::names::{directory_name, files_of, in_file};
use super::numbers::Numbers;
use super::parts::Parts;
use super::shard::{Layout, Mapped, Shard};
use super::source::Source;

/// Returns the shard and the chunk in a file name.
fn place(path: &Path) -> Option<(u64, u64)> {
    let name = path.file_stem()?.to_str()?;
    match name.strip_prefix("shard-") {
        Some(rest) => {
            let (shard, chunk) = rest.split_once("-chunk-")?;
            Some((shard.parse().ok()?, chunk.parse().ok()?))
        }
        None => Some((0, name.strip_prefix("chunk-")?.parse().ok()?)),
    }
}

fn chunks(directory: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found = files_of(directory, |name| name.ends_with(ending) && place(Path::new(name)).is_some());
    found.sort_by_key(|path| place(path));
    found
}

pub(super) fn detect(directory: &Path) -> bool {
    !chunks(directory, ".safetensors").is_empty() || !chunks(directory, ".pt").is_empty()
}

pub(super) fn open(directory: &Path, _: &Source) -> Result<Parts> {
    if let Some(path) = chunks(directory, ".pt").first() {
        bail!(
            "`{}` is a pickle, which is not read: write the cache with format \"safetensors\", or convert every chunk with: \
             python -c \"import torch, glob; from safetensors.torch import save_file; [save_file({{k: v.contiguous() for k, v \
             in torch.load(p).items() if hasattr(v, 'shape')}}, p[:-2] + 'safetensors') for p in glob.glob('*.pt')]\"",
            path.display()
        );
    }
    let (mut shards, mut ids, mut starts) = (Vec::new(), Vec::new(), Vec::new());
    // Rows per sequence, as long as all have the same number and none is left out.
    let mut context = None;
    let mut is_regular = true;
    for (number, path) in chunks(directory, ".safetensors").iter().enumerate() {
        let shown = path.display();
        let mapped = Mapped::open(path, number)?;
        let table = TensorTable::parse(&mapped.map).map_err(|e| in_file(path, e))?;
        let matrix = table.matrix("activation").map_err(|e| in_file(path, e))?;
        let integers = |name: &str| -> Result<Option<Integers>> {
            let Some(found) = table.tensor(name).and_then(Integers::stored) else { return Ok(None) };
            ensure!(
                found.len() == matrix.n,
                "`{shown}`: tensor `{name}`: expected {} numbers, one per row, found {}",
                matrix.n,
                found.len()
            );
            Ok(Some(found))
        };
        let tokens = integers("tokens")?;
        let tokens =
            tokens.with_context(|| format!("`{shown}`: expected a tensor `tokens` of integers, found none"))?;
        let mask: Option<Vec<bool>> = integers("mask")?.map(|m| m.values(&mapped.map).map(|v| v != 0).collect());
        let length = matrix.context.unwrap_or(matrix.n).max(1);
        let row = matrix.d * matrix.dtype.size_bytes();
        let mut layout = Layout::empty(matrix.dtype, matrix.d);
        let all = tokens.ids(path, Map::of(path)?)?;
        for first in (0..matrix.n).step_by(length) {
            let mut kept = 0;
            for i in first..(first + length).min(matrix.n) {
                if mask.as_ref().is_none_or(|m| m[i]) {
                    if kept == 0 {
                        starts.push(ids.len() as u64);
                    }
                    layout.push(1, matrix.bytes.start + i * row, row);
                    ids.push(all.get()[i]);
                    kept += 1;
                }
            }
            is_regular &= kept == *context.get_or_insert(length) && matrix.context.is_some();
        }
        shards.push(Shard::new(mapped, layout)?);
    }
    let mut parts = Parts::new(directory_name(directory), shards);
    parts.hook = Some(parts.name.clone());
    parts.tokens = Some(Numbers::Copied(ids));
    if is_regular {
        parts.context = context;
    } else {
        parts.sequence_starts = (!starts.is_empty()).then_some(Numbers::Copied(starts));
    }
    Ok(parts)
}
