//! Activations that SAELens has cached: a Hugging Face data set on disk (`state.json`, Arrow files) whose rows are
//! contexts: a column of `[tokens, d]` floats, named by its hook point, and `token_ids`. A column of `[d]` floats is
//! read as well.

mod ipc;

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use strata_core::Dtype;

use super::convert;
use super::integers::Integers;
use super::names::{directory_name, read_json};
use super::numbers::Numbers;
use super::parts::Parts;
use super::shard::{Layout, Mapped, Shard};
use super::source::Source;
use ipc::{Bounds, Column, File, Leaf};

/// `state.json`.
#[derive(Deserialize)]
struct State {
    #[serde(rename = "_data_files")]
    data_files: Vec<DataFile>,
    /// Files that define another order of the rows.
    #[serde(default, rename = "_indices_data_files")]
    indices: Option<Vec<DataFile>>,
}

#[derive(Deserialize)]
struct DataFile {
    filename: String,
}

pub(super) fn detect(directory: &Path) -> bool {
    directory.join("state.json").exists() && directory.join("dataset_info.json").exists()
}

/// The tokens and sequences of all files together.
#[derive(Default)]
struct Sequences {
    ids: Vec<u32>,
    starts: Vec<u64>,
    rows: u64,
    /// Rows per sequence, as long as all have the same number.
    context: Option<usize>,
    is_irregular: bool,
}

pub(super) fn open(directory: &Path, _: &Source) -> Result<Parts> {
    let path = directory.join("state.json");
    let state: State = read_json(&path)?;
    if state.indices.is_some_and(|files| !files.is_empty()) {
        bail!(
            "`{}`: the data set was shuffled or filtered without being written anew: write it with \
             dataset.flatten_indices().save_to_disk(...)",
            path.display()
        );
    }
    let (mut shards, mut all, mut hook) = (Vec::new(), Sequences::default(), None);
    let mut has_ids = true;
    for (number, entry) in state.data_files.iter().enumerate() {
        let plain = !entry.filename.starts_with('.') && !entry.filename.contains(['/', '\\']);
        ensure!(plain, "`{}`: expected names of files beside it, found {:?}", path.display(), entry.filename);
        let mapped = Mapped::open(&directory.join(&entry.filename), number)?;
        let shown = mapped.path.display().to_string();
        let file = File::parse(&mapped.map).with_context(|| shown.clone())?;
        let rows = column(&file.columns).with_context(|| shown.clone())?;
        let ids = file.columns.iter().find(|c| c.name == "token_ids" && c.lists.len() == rows.lists.len() - 1);
        has_ids &= ids.is_some();
        hook = Some(rows.name.clone());
        // A file may have no rows, as the last one of a data set that was split unevenly.
        if let Some(layout) = layout(&mapped, &file, rows, ids, &mut all).with_context(|| shown.clone())? {
            shards.push(Shard::new(mapped, layout)?);
        }
    }
    ensure!(!shards.is_empty(), "`{}`: expected rows, found none", directory.display());
    let mut parts = Parts::new(directory_name(directory), shards);
    parts.hook = hook;
    if has_ids {
        parts.tokens = Some(Numbers::Copied(all.ids));
    }
    if all.is_irregular {
        parts.sequence_starts = Some(Numbers::Copied(all.starts));
    } else {
        parts.context = all.context;
    }
    Ok(parts)
}

/// Returns the column of activations: the only one of lists of floats.
fn column(columns: &[Column]) -> Result<&Column> {
    let is_rows = |c: &&Column| matches!(c.lists.len(), 1 | 2) && matches!(c.leaf, Leaf::Float(_));
    let found: Vec<&Column> = columns.iter().filter(is_rows).collect();
    match found[..] {
        [only] => Ok(only),
        [] => bail!("expected a column of lists of floats, found none"),
        _ => {
            let names: Vec<&str> = found.iter().map(|c| c.name.as_str()).collect();
            bail!("expected one column of lists of floats, found {}: {}", names.len(), names.join(", "))
        }
    }
}

/// Finds the rows of a file, if it has any; their tokens and sequences go to `all`.
fn layout(
    mapped: &Mapped,
    file: &File,
    rows: &Column,
    ids: Option<&Column>,
    all: &mut Sequences,
) -> Result<Option<Layout>> {
    let (dtype, size) = match rows.leaf {
        Leaf::Float(4) => (Dtype::F32, 4),
        Leaf::Float(2) => (Dtype::F16, 2),
        _ => bail!("column `{}`: expected f32 or f16, found f64; {}", rows.name, convert::dataset(&mapped.path)),
    };
    let mut found: Option<Layout> = None;
    for batch in &file.batches {
        let values = rows.values(&mapped.map, batch)?;
        let (inner, outer) = values.bounds.split_last().context("expected lists, found none")?;
        let (lists, d) = match inner {
            Bounds::Regular { lists: 0, .. } => continue,
            Bounds::Regular { lists, each } if *each > 0 => (*lists, *each),
            _ => bail!("column `{}`: expected rows of one width, found several", rows.name),
        };
        let layout = found.get_or_insert_with(|| Layout::empty(dtype, d));
        ensure!(layout.d == d, "column `{}`: width: expected {} as before, found {d}", rows.name, layout.d);
        layout.push(lists, values.bytes.start, d * size);
        match outer {
            [] => {}
            [Bounds::Regular { lists, each }] => {
                all.is_irregular |= *all.context.get_or_insert(*each) != *each;
                all.starts.extend((0..*lists as u64).map(|i| all.rows + i * *each as u64));
            }
            [Bounds::Irregular(ends), ..] => {
                all.is_irregular = true;
                let starts = ends.windows(2).filter(|w| w[0] < w[1]).map(|w| all.rows + w[0] as u64);
                all.starts.extend(starts.collect::<Vec<_>>());
            }
            _ => bail!("column `{}`: expected lists of rows, found more levels", rows.name),
        }
        if let Some(ids) = ids {
            let Leaf::Integer(size @ (1 | 2 | 4 | 8), signed) = ids.leaf else {
                bail!("column `{}`: expected integers, found others", ids.name);
            };
            let bytes = ids.values(&mapped.map, batch)?.bytes;
            let tokens = Integers::at(bytes, size, signed);
            ensure!(
                tokens.len() == lists,
                "column `{}`: expected {lists} ids, one per row, found {}",
                ids.name,
                tokens.len()
            );
            for id in tokens.values(&mapped.map) {
                let id = u32::try_from(id).ok();
                all.ids
                    .push(id.with_context(|| format!("column `{}`: expected ids from 0 on, found others", ids.name))?);
            }
        }
        all.rows += lists as u64;
    }
    Ok(found)
}
