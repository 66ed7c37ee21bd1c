//! Labels: a file with an integer class a row or a sequence, or the character classes of the dump itself.
//!
//! A file is a `.npy` with one dimension of integers, or a `.safetensors` with a tensor `labels` of one dimension of
//! integers and, for spurious correlation removal, a second one `attributes` of the same length. A negative number
//! leaves its row or sequence out. There are as many numbers as the dump has rows, or as it has sequences: then the rows
//! of each sequence are averaged, as SAEBench does.

use crate::dump::Dump;
use crate::eval::classes::TokenClasses;
use crate::files::read;
use anyhow::{Result, anyhow, bail, ensure};
use safetensors::{Dtype, SafeTensors};
use std::path::Path;
use strata_core::format::dump::TensorTable;

/// What a label is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Unit {
    /// One a row of the dump.
    Rows,
    /// One a sequence.
    Sequences,
}

/// Labels of a dump.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Labels {
    /// What each is of.
    pub unit: Unit,
    /// One a row or sequence; none: left out.
    pub class: Vec<Option<u32>>,
    /// A second attribute, for spurious correlation removal.
    pub attribute: Option<Vec<Option<u32>>>,
    /// Names of the classes, where they are known.
    pub names: Vec<String>,
}

/// The word for the character classes of the dump.
pub const CHARS: &str = "chars";

impl Labels {
    /// The file `path`, or [`CHARS`].
    ///
    /// # Errors
    /// One sentence: a file that is none of these, of another length, or with fewer than two classes; for [`CHARS`] a
    /// dump without tokens or their texts.
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
            Some(n) => bail!("`{shown}`: expected {rows} labels, one a row, or {n}, one a sequence, found {found}"),
            None => {
                bail!("`{shown}`: expected {rows} labels, one a row ({} says no sequences), found {found}", dump.name())
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
                "--labels {CHARS}: {} does not say its tokens and their texts: capture it with `strata capture`",
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

/// Reads little-endian integers of `size` bytes.
fn integers(bytes: &[u8], size: usize, signed: bool) -> Vec<i64> {
    let one = |chunk: &[u8]| {
        let mut wide = [0; 8];
        wide[..size].copy_from_slice(chunk);
        let value = u64::from_le_bytes(wide);
        let unused = 64 - 8 * size as u32;
        match signed {
            true => (value << unused) as i64 >> unused,
            // What does not fit is too large in any case.
            false => i64::try_from(value).unwrap_or(i64::MAX),
        }
    };
    bytes.chunks_exact(size).map(one).collect()
}

type Tensors = (Vec<i64>, Option<Vec<i64>>);

fn tensors(bytes: &[u8]) -> Result<Tensors> {
    // Refuses headers whose sizes overflow, which the other parser does not.
    TensorTable::parse(bytes)?;
    let file = SafeTensors::deserialize(bytes)?;
    let read = |name: &str| {
        let Ok(view) = file.tensor(name) else { return Ok(None) };
        ensure!(view.shape().len() == 1, "tensor `{name}`: expected 1 dimension, found {}", view.shape().len());
        let (size, signed) = match view.dtype() {
            Dtype::U8 | Dtype::BOOL => (1, false),
            Dtype::I8 => (1, true),
            Dtype::U16 => (2, false),
            Dtype::I16 => (2, true),
            Dtype::U32 => (4, false),
            Dtype::I32 => (4, true),
            Dtype::U64 => (8, false),
            Dtype::I64 => (8, true),
            other => bail!("tensor `{name}`: expected integers, found {other}"),
        };
        Ok(Some(integers(view.data(), size, signed)))
    };
    let Some(labels) = read("labels")? else { bail!("expected a tensor `labels`, found none") };
    Ok((labels, read("attributes")?))
}

/// A `.npy` of one dimension of integers.
fn npy(bytes: &[u8]) -> Result<Vec<i64>> {
    let rest =
        bytes.strip_prefix(b"\x93NUMPY").ok_or_else(|| anyhow!("expected \"\\x93NUMPY\", this is no .npy file"))?;
    let (length, start): (usize, usize) = match rest {
        [1, 0, a, b, ..] => (usize::from(u16::from_le_bytes([*a, *b])), 4),
        [2 | 3, 0, a, b, c, d, ..] => (u32::from_le_bytes([*a, *b, *c, *d]) as usize, 6),
        _ => bail!("expected a .npy header of version 1.0 to 3.0, found another"),
    };
    let header = start.checked_add(length).and_then(|end| rest.get(start..end));
    let header = header.ok_or_else(|| anyhow!("the file ends within its header"))?;
    let header = std::str::from_utf8(header).map_err(|_| anyhow!("header: expected text"))?;
    let after = |key: &str, open: char, close: char| {
        let (_, tail) = header.split_once(&format!("'{key}':"))?;
        tail.trim_start().strip_prefix(open)?.split_once(close).map(|(inside, _)| inside)
    };
    let descr = after("descr", '\'', '\'').ok_or_else(|| anyhow!("header: `descr` is missing"))?;
    let (size, signed) = match descr {
        "|u1" | "|b1" => (1, false),
        "|i1" => (1, true),
        "<u2" => (2, false),
        "<i2" => (2, true),
        "<u4" => (4, false),
        "<i4" => (4, true),
        "<u8" => (8, false),
        "<i8" => (8, true),
        other => bail!("descr: expected little-endian integers, found '{}'", other.escape_debug()),
    };
    let shape = after("shape", '(', ')').ok_or_else(|| anyhow!("header: `shape` is missing"))?;
    let sizes: Vec<&str> = shape.split(',').map(str::trim).filter(|s| !s.is_empty()).collect();
    ensure!(sizes.len() == 1, "shape: expected 1 dimension, found {}", sizes.len());
    let n: usize =
        sizes[0].parse().map_err(|_| anyhow!("shape: expected a size, found `{}`", sizes[0].escape_debug()))?;
    let data = &rest[start + length..];
    let expected = n.checked_mul(size).ok_or_else(|| anyhow!("shape: {n} is too large"))?;
    ensure!(data.len() == expected, "expected {expected} bytes of data ({n} of '{descr}'), found {}", data.len());
    Ok(integers(data, size, signed))
}
