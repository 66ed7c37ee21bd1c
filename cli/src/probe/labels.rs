//! Labels: a file with an integer class per row or per sequence, or the character classes of the dump itself.
//!
//! A file is a `.npy` with one dimension of integers, or a `.safetensors` with a tensor `labels` of one dimension of
//! integers and, for spurious correlation removal, a second one `attributes` of the same length. A negative number
//! leaves out its row or sequence. The number of labels is that of the rows of the dump or that of its sequences; in
//! the second case the rows of each sequence are averaged, as SAEBench does.

use crate::dump::Dump;
use crate::dump::integers::Integers;
use crate::eval::classes::TokenClasses;
use crate::files::read;
use anyhow::{Result, anyhow, bail, ensure};
use std::path::Path;
use strata_core::Error;
use strata_core::format::dump::TensorTable;
use strata_core::format::npy::NpyArray;

/// The unit that has a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Unit {
    /// One label per row of the dump.
    Rows,
    /// One label per sequence.
    Sequences,
}

/// Labels of a dump.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Labels {
    /// The unit that has a label.
    pub unit: Unit,
    /// The class of each row or sequence; none for those that are left out.
    pub class: Vec<Option<u32>>,
    /// A second attribute, for spurious correlation removal.
    pub attribute: Option<Vec<Option<u32>>>,
    /// Names of the classes, where they are known.
    pub names: Vec<String>,
}

/// The word that selects the character classes of the dump.
pub const CHARS: &str = "chars";

impl Labels {
    /// Reads the file `path`, or makes [`CHARS`].
    ///
    /// # Errors
    /// One sentence: for a file of another kind or length, or with fewer than two classes; for [`CHARS`], for a dump
    /// without tokens or their texts.
    pub fn open(path: &Path, dump: &Dump) -> Result<Self> {
        if path.as_os_str() == CHARS {
            return Self::chars(dump);
        }
        let shown = path.display().to_string();
        let bytes = read::bytes(path, read::LARGE)?;
        let (labels, attributes) = match path.extension().and_then(|e| e.to_str()) {
            Some("npy") => (npy(&bytes).map_err(|e| anyhow!("`{shown}`: {e}"))?, None),
            Some("safetensors") => tensors(&bytes).map_err(|e| anyhow!("`{shown}`: {e}"))?,
            _ => bail!("`{shown}`: expected labels in a .npy or .safetensors file, or the word `{CHARS}`"),
        };
        let (rows, sequences) = (dump.n_rows(), dump.sequence_starts().map(|s| s.len() as u64));
        let found = labels.len() as u64;
        let unit = match sequences {
            _ if found == rows => Unit::Rows,
            Some(n) if found == n => Unit::Sequences,
            Some(n) => bail!("`{shown}`: expected {rows} labels, one per row, or {n}, one per sequence, found {found}"),
            None => {
                bail!(
                    "`{shown}`: expected {rows} labels, one per row ({} has no sequences), found {found}",
                    dump.name()
                )
            }
        };
        if let Some(a) = &attributes {
            ensure!(a.len() == labels.len(), "`{shown}`: expected {found} attributes, found {}", a.len());
        }
        let class = classes(&labels, &shown, "labels")?;
        let attribute = attributes.map(|a| classes(&a, &shown, "attributes")).transpose()?;
        let most = class.iter().flatten().max().copied().unwrap_or(0);
        let labels = Self { unit, class, attribute, names: (0..=most).map(|c| c.to_string()).collect() };
        labels.check(&format!("`{shown}`"))?;
        Ok(labels)
    }

    fn chars(dump: &Dump) -> Result<Self> {
        let (Some(tokens), Some(vocab)) = (dump.tokens(), dump.vocab()) else {
            bail!(
                "--labels {CHARS}: {} does not have tokens and their texts: capture it with `strata capture`",
                dump.name()
            );
        };
        let classes = TokenClasses::new(vocab);
        let labels = Self {
            unit: Unit::Rows,
            class: tokens.iter().map(|t| Some(classes.of(*t))).collect(),
            attribute: None,
            names: classes.names().iter().map(|n| (*n).to_owned()).collect(),
        };
        labels.check(&format!("--labels {CHARS}"))?;
        Ok(labels)
    }

    fn check(&self, whose: &str) -> Result<()> {
        let mut found: Vec<u32> = self.class.iter().flatten().copied().collect();
        found.sort_unstable();
        found.dedup();
        ensure!(found.len() > 1, "{whose}: labels: expected at least 2 classes, found {}", found.len());
        Ok(())
    }
}

/// The largest class.
const MOST: i64 = 9999;

fn classes(labels: &[i64], shown: &str, what: &str) -> Result<Vec<Option<u32>>> {
    let class = |(i, &l): (usize, &i64)| match l {
        ..0 => Ok(None),
        0..=MOST => Ok(Some(l as u32)),
        _ => Err(anyhow!("`{shown}`: {what}: expected classes of at most {MOST}, found {l} at {i}")),
    };
    labels.iter().enumerate().map(class).collect()
}

type Tensors = (Vec<i64>, Option<Vec<i64>>);

fn tensors(bytes: &[u8]) -> Result<Tensors> {
    let table = TensorTable::parse(bytes)?;
    let read = |name: &str| -> Result<Option<Vec<i64>>> {
        let Some(tensor) = table.tensor(name) else { return Ok(None) };
        let dtype = tensor.dtype;
        ensure!(tensor.shape.len() == 1, "tensor `{name}`: expected 1 dimension, found {}", tensor.shape.len());
        let Some(integers) = Integers::stored(tensor) else {
            bail!("tensor `{name}`: expected integers, found {dtype}");
        };
        Ok(Some(integers.values(bytes).collect()))
    };
    let Some(labels) = read("labels")? else { bail!("expected a tensor `labels`, found none") };
    Ok((labels, read("attributes")?))
}

/// Reads a `.npy` of one dimension of integers.
fn npy(bytes: &[u8]) -> Result<Vec<i64>> {
    let why = |e: Error| match e {
        Error::Format { what, .. } => anyhow!(what),
        e => anyhow!(e),
    };
    let Some(integers) = Integers::npy(bytes).map_err(why)? else {
        let descr = NpyArray::parse(bytes).map_err(why)?.descr;
        bail!("descr: expected little-endian integers, found '{}'", descr.escape_debug());
    };
    ensure!(integers.shape.len() == 1, "shape: expected 1 dimension, found {}", integers.shape.len());
    Ok(integers.values(bytes).collect())
}
