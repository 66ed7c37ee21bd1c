//! A dump directory with a `dump.json`.

use std::path::Path;

use anyhow::{Result, anyhow, bail, ensure};
use safetensors::Dtype as StDtype;
use serde_json::Value;
use strata_core::format::dump::{MANIFEST_FILE, MEAN, Manifest, TensorTable};

use super::bare::open_file;
use super::ids::{Tokens, open_starts, open_tokens};
use super::map::Map;
use super::names::{directory_name, extension, in_file};
use super::parts::Parts;
use super::source::{RawSpec, Source};
use crate::files::read;
use crate::{nearest::nearest, texts};

pub(super) fn detect(directory: &Path) -> bool {
    directory.join(MANIFEST_FILE).exists()
}

pub(super) fn open(directory: &Path, _: &Source) -> Result<Parts> {
    let manifest_path = directory.join(MANIFEST_FILE);
    let json = read::bytes(&manifest_path, read::SMALL)?;
    check_keys(&json, &manifest_path)?;
    let manifest = Manifest::parse(&json).map_err(|e| in_file(&manifest_path, e))?;
    let mut shards = Vec::with_capacity(manifest.shards.len());
    let mut context = manifest.context;
    for (number, entry) in manifest.shards.iter().enumerate() {
        let path = directory.join(&entry.file);
        let is_raw = !matches!(extension(&path).as_str(), "npy" | "safetensors");
        let raw = is_raw.then_some(RawSpec { dtype: manifest.dtype, dim: manifest.d });
        let found = open_file(&path, raw, number)?;
        let shard = found.shard;
        shard.expect("rows", entry.rows, shard.n() as u64, &manifest_path)?;
        shard.expect("width", manifest.d, shard.layout.d, &manifest_path)?;
        shard.expect("dtype", manifest.dtype, shard.layout.dtype, &manifest_path)?;
        if let Some(t) = found.context {
            shard.expect("context", context.unwrap_or(t), t, &manifest_path)?;
            context = Some(t);
        }
        shards.push(shard);
    }
    let mut parts = Parts::new(directory_name(directory), shards);
    parts.context = context;
    if let Some(file) = &manifest.tokens {
        let path = directory.join(file);
        let Tokens { ids, starts, context } = open_tokens(&path, manifest.rows)?;
        (parts.tokens, parts.sequence_starts) = (Some(ids), starts);
        parts.context = parts.context.or(context.filter(|_| parts.sequence_starts.is_none()));
    }
    if let Some(file) = &manifest.sequence_starts {
        let path = directory.join(file);
        ensure!(
            parts.sequence_starts.is_none(),
            "`{}`: the starts of sequences are already in `{}`",
            path.display(),
            manifest.tokens.as_deref().unwrap_or_default()
        );
        parts.sequence_starts = Some(open_starts(&path, manifest.rows)?);
    }
    parts.vocab = manifest.vocab.as_ref().map(|file| texts::open(&directory.join(file))).transpose()?;
    if let Some(stats) = &manifest.stats {
        parts.mean_norm = Some(stats.mean_norm);
        parts.mean = stats.mean.as_ref().map(|file| open_mean(&directory.join(file), manifest.d)).transpose()?;
    }
    parts.special_tokens = manifest.special_tokens;
    (parts.model, parts.hook) = (manifest.model, manifest.hook);
    parts.directory = Some(directory.to_owned());
    Ok(parts)
}

/// Checks that there are no unknown keys; the error names the nearest known one.
fn check_keys(json: &[u8], path: &Path) -> Result<()> {
    // Input that is not JSON, or not an object, is explained by the parser.
    let Ok(Value::Object(manifest)) = serde_json::from_slice::<Value>(json) else { return Ok(()) };
    let check = |object: &Value, prefix: &str, known: &[&str]| -> Result<()> {
        let Some(object) = object.as_object() else { return Ok(()) };
        let Some(key) = object.keys().find(|k| !known.contains(&k.as_str())) else { return Ok(()) };
        let shown: String = key.chars().take(80).collect();
        let hint = match nearest(key, known.iter().copied()) {
            Some(near) => format!("did you mean `{prefix}{near}`?"),
            None => format!("the keys are {}", known.join(", ")),
        };
        bail!("`{}`: unknown key `{prefix}{shown}`; {hint}", path.display())
    };
    for shard in manifest.get("shards").and_then(Value::as_array).into_iter().flatten() {
        check(shard, "shards.", &Manifest::SHARD_KEYS)?;
    }
    check(manifest.get("stats").unwrap_or(&Value::Null), "stats.", &Manifest::STATS_KEYS)?;
    check(&Value::Object(manifest), "", &Manifest::KEYS)
}

fn open_mean(path: &Path, d: usize) -> Result<Vec<f32>> {
    let file = Map::of(path)?;
    let range = TensorTable::parse(&file).and_then(|t| t.vector(MEAN, StDtype::F32)).map_err(|e| in_file(path, e))?;
    let Some(range) = range else { bail!("`{}`: expected a tensor `{MEAN}`, found none", path.display()) };
    let found = range.len() / 4;
    ensure!(found == d, "`{}`: tensor `{MEAN}`: expected {d} numbers, found {found}", path.display());
    let mean: Vec<f32> = file[range].as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b)).collect();
    let at = mean.iter().position(|v| !v.is_finite());
    match at {
        None => Ok(mean),
        Some(j) => {
            Err(anyhow!("`{}`: tensor `{MEAN}`: expected finite numbers, found {} at {j}", path.display(), mean[j]))
        }
    }
}
