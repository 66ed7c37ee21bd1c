//! Shards of `ActivationCache` (jkminder's dictionary_learning): `shard_i.memmap` of raw rows beside `shard_i.meta`, in
//! a directory per submodule; `tokens.pt` and `sequence_ranges.pt` are there or in the directory above.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use strata_core::Dtype;

use super::names::{directory_name, read_json};
use super::parts::Parts;
use super::pt;
use super::shard::{Layout, Mapped, Shard};
use super::source::Source;

/// `config.json`.
#[derive(Deserialize)]
struct Config {
    #[serde(default)]
    shuffle_shards: bool,
    #[serde(default)]
    shard_count: Option<usize>,
}

/// `shard_i.meta`.
#[derive(Deserialize)]
struct Meta {
    shape: Vec<usize>,
    dtype: String,
}

fn shard(directory: &Path, i: usize) -> PathBuf {
    directory.join(format!("shard_{i}.memmap"))
}

/// Returns the directories with shards: this one, or those in it.
fn stores(directory: &Path) -> Vec<PathBuf> {
    if shard(directory, 0).exists() {
        return vec![directory.to_owned()];
    }
    let entries = fs::read_dir(directory).into_iter().flatten();
    let mut found: Vec<PathBuf> =
        entries.filter_map(|e| Some(e.ok()?.path())).filter(|p| shard(p, 0).exists()).collect();
    found.sort();
    found
}

pub(super) fn detect(directory: &Path) -> bool {
    !stores(directory).is_empty()
}

pub(super) fn open(directory: &Path, _: &Source) -> Result<Parts> {
    let stores = stores(directory);
    let [store] = &stores[..] else {
        let names: Vec<String> = stores.iter().map(|s| format!("`{}`", s.display())).collect();
        bail!("`{}`: it holds several submodules: give one of {}", directory.display(), names.join(", "));
    };
    let config: Config = read_json(&store.join("config.json"))?;
    let mut shards = Vec::new();
    while shard(store, shards.len()).exists() {
        let number = shards.len();
        let path = store.join(format!("shard_{number}.meta"));
        let Meta { shape, dtype } = read_json(&path)?;
        let shown = path.display();
        let [n, d] = shape[..] else {
            bail!("`{shown}`: `shape`: expected 2 dimensions (rows, width), found {}", shape.len());
        };
        let dtype = match dtype.strip_prefix("torch.").unwrap_or(&dtype) {
            "float32" => Dtype::F32,
            "float16" => Dtype::F16,
            // Files whose numbers NumPy calls int16 contain bf16.
            "bfloat16" => Dtype::Bf16,
            other => bail!("`{shown}`: `dtype`: expected float32, float16 or bfloat16, found {other:?}"),
        };
        let size = d.checked_mul(dtype.size_bytes()).and_then(|n_bytes| n_bytes.checked_mul(n));
        let size =
            size.filter(|_| d > 0).with_context(|| format!("`{shown}`: `shape`: expected sizes, found {shape:?}"))?;
        let mapped = Mapped::open(&shard(store, number), number)?;
        ensure!(
            mapped.map.len() == size,
            "`{}`: size: expected {size} bytes ({n} rows of {d} {dtype}), found {}",
            mapped.path.display(),
            mapped.map.len()
        );
        shards.push(Shard::new(mapped, Layout::dense(dtype, n, d, 0))?);
    }
    if let Some(count) = config.shard_count {
        let found = shards.len();
        ensure!(count == found, "`{}`: expected {count} shards by config.json, found {found}", store.display());
    }
    let n_rows = shards.iter().map(|s| s.n() as u64).sum();
    let mut parts = Parts::new(directory_name(store), shards);
    parts.hook = Some(parts.name.clone());
    // The tokens are not shuffled with the rows.
    if !config.shuffle_shards {
        let beside = |name: &str| {
            let directories = [Some(store.as_path()), store.parent()];
            directories.into_iter().flatten().map(|p| p.join(name)).find(|p| p.exists())
        };
        if let Some(path) = beside("tokens.pt") {
            let (file, ids) = pt::integers(&path)?;
            let (expected, found) = (n_rows, ids.len() as u64);
            ensure!(expected == found, "`{}`: expected {expected} ids, one per row, found {found}", path.display());
            parts.tokens = Some(ids.ids(&path, file)?);
        }
        if let Some(path) = beside("sequence_ranges.pt") {
            let (file, starts) = pt::integers(&path)?;
            parts.sequence_starts = Some(starts.starts(&path, file, n_rows)?);
        }
    }
    Ok(parts)
}
