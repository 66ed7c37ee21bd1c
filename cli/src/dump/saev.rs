//! Shards of saev: `acts*.bin` of raw `f32`, `[examples, layers, tokens, d]`, with `metadata.json` and `shards.json`.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use strata_core::Dtype;

use super::names::{directory_name, file_name, files_of, read_json};
use super::parts::Parts;
use super::shard::{Layout, Mapped, Shard};
use super::source::Source;

/// `metadata.json`, with the names of protocols 1 to 2.1.
#[derive(Deserialize)]
struct Metadata {
    layers: Vec<usize>,
    content_tokens_per_example: Option<usize>,
    patches_per_ex: Option<usize>,
    n_patches_per_img: Option<usize>,
    #[serde(default)]
    cls_token: bool,
    d_model: Option<usize>,
    d_vit: Option<usize>,
    dtype: Option<String>,
    ckpt: Option<String>,
    vit_ckpt: Option<String>,
}

/// An entry of `shards.json`.
#[derive(Deserialize)]
struct Entry {
    name: String,
    n_examples: Option<usize>,
    n_ex: Option<usize>,
    n_imgs: Option<usize>,
}

/// Returns the number that stands under one of several names, or under more than one of them.
fn one_of(path: &Path, found: &[(&str, Option<usize>)]) -> Result<usize> {
    let mut said = found.iter().filter_map(|(name, value)| Some((name, (*value)?)));
    let names = || found.iter().map(|(name, _)| format!("`{name}`")).collect::<Vec<_>>().join(" or ");
    let (first, value) =
        said.next().with_context(|| format!("`{}`: expected {}, found none", path.display(), names()))?;
    if let Some((other, found)) = said.find(|(_, other)| *other != value) {
        bail!("`{}`: `{other}`: expected {value}, as `{first}` says, found {found}", path.display());
    }
    Ok(value)
}

pub(super) fn detect(directory: &Path) -> bool {
    directory.join("metadata.json").exists() && directory.join("acts000000.bin").exists()
}

pub(super) fn open(directory: &Path, source: &Source) -> Result<Parts> {
    let path = directory.join("metadata.json");
    let shown = path.display();
    let meta: Metadata = read_json(&path)?;
    if let Some(dtype) = meta.dtype.as_deref().filter(|t| *t != "float32") {
        bail!("`{shown}`: `dtype`: expected float32, found {dtype:?}");
    }
    let index = match (source.layer, &meta.layers[..]) {
        (None, [_]) => 0,
        (None, layers) => bail!("`{shown}`: it holds layers {layers:?}: choose one with --layer"),
        (Some(layer), layers) => layers
            .iter()
            .position(|l| *l == layer)
            .with_context(|| format!("--layer {layer}: expected one of {layers:?}, the layers in `{shown}`"))?,
    };
    let names = [
        ("content_tokens_per_example", meta.content_tokens_per_example),
        ("patches_per_ex", meta.patches_per_ex),
        ("n_patches_per_img", meta.n_patches_per_img),
    ];
    let tokens = one_of(&path, &names)?.saturating_add(usize::from(meta.cls_token));
    let d = one_of(&path, &[("d_model", meta.d_model), ("d_vit", meta.d_vit)])?;
    let row_bytes = d.checked_mul(4).filter(|n| *n > 0);
    let block = row_bytes.and_then(|n| n.checked_mul(tokens)).filter(|n| *n > 0);
    let example = block.and_then(|n| n.checked_mul(meta.layers.len()));
    let (Some(row_bytes), Some(block), Some(example)) = (row_bytes, block, example) else {
        bail!("`{shown}`: expected a width and tokens of at least 1, found {d} and {tokens}");
    };
    let mut shards = Vec::new();
    for (number, (name, examples)) in files(directory)?.into_iter().enumerate() {
        let mapped = Mapped::open(&directory.join(&name), number)?;
        let found = mapped.map.len();
        let examples = examples.unwrap_or(found / example);
        ensure!(
            examples.checked_mul(example).is_some_and(|n| n <= found) && found.is_multiple_of(example),
            "`{}`: size: expected {examples} examples of {example} bytes, found {found} bytes",
            mapped.path.display()
        );
        let mut layout = Layout::empty(Dtype::F32, d);
        for i in 0..examples {
            layout.push(tokens, i * example + index * block, row_bytes);
        }
        shards.push(Shard::new(mapped, layout)?);
    }
    let mut parts = Parts::new(directory_name(directory), shards);
    parts.context = Some(tokens);
    parts.model = meta.ckpt.or(meta.vit_ckpt);
    parts.hook = Some(format!("blocks.{}.hook_resid_post", meta.layers[index]));
    Ok(parts)
}

/// Returns the files of rows in order, with their examples where `shards.json` gives them.
fn files(directory: &Path) -> Result<Vec<(String, Option<usize>)>> {
    let path = directory.join("shards.json");
    if path.exists() {
        let entries: Vec<Entry> = read_json(&path)?;
        for entry in &entries {
            let plain = !entry.name.starts_with('.') && !entry.name.contains(['/', '\\']);
            ensure!(plain, "`{}`: expected names of files beside it, found {:?}", path.display(), entry.name);
        }
        let examples =
            |e: &Entry| one_of(&path, &[("n_examples", e.n_examples), ("n_ex", e.n_ex), ("n_imgs", e.n_imgs)]);
        return entries.iter().map(|e| Ok((e.name.clone(), Some(examples(e)?)))).collect();
    }
    let found = files_of(directory, |name| name.starts_with("acts") && name.ends_with(".bin"));
    Ok(found.iter().map(|path| (file_name(path), None)).collect())
}
