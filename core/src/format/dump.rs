//! The activation dump: its manifest `dump.json`, and the headers of the safetensors files beside it.

use crate::error::{Error, Result};
use crate::rows::Dtype;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::ops::Range;
use safetensors::tensor::{Dtype as StDtype, Metadata, TensorInfo};
use serde::{Deserialize, Serialize};

/// The file of a dump directory that names all others.
pub const MANIFEST_FILE: &str = "dump.json";
/// The value of [`Manifest::format`].
pub const FORMAT: &str = "strata-dump";
/// The value of [`Manifest::version`].
pub const VERSION: u32 = 1;
/// The tensor of a shard.
pub const ACTIVATIONS: &str = "activations";
/// The tensor of token ids, `[N] u32`.
pub const TOKENS: &str = "tokens";
/// The tensor of first rows of sequences, `[S] u64`.
pub const SEQUENCE_STARTS: &str = "sequence_starts";
/// The tensor of the mean row in the statistics file, `[D] f32`.
pub const MEAN: &str = "mean";

/// `dump.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`FORMAT`].
    pub format: String,
    /// [`VERSION`].
    pub version: u32,
    /// Width of a row.
    pub d: usize,
    /// Rows of all shards.
    pub rows: u64,
    /// The type of the numbers.
    pub dtype: Dtype,
    /// The shards in order.
    pub shards: Vec<ShardEntry>,
    /// The file with the token ids: safetensors with [`TOKENS`], a `.npy` of integers, or raw `u32`.
    #[serde(default)]
    pub tokens: Option<String>,
    /// The file with the first row of each sequence, where neither the tokens nor the context say it: safetensors with
    /// [`SEQUENCE_STARTS`], a `.npy` of integers, or raw `u64`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sequence_starts: Option<String>,
    /// The file with the text of each token id: a JSON list of strings.
    #[serde(default)]
    pub vocab: Option<String>,
    /// The ids of special tokens, which are no text: beginnings, ends, padding.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub special_tokens: Option<Vec<u32>>,
    /// The model the rows come from.
    #[serde(default)]
    pub model: Option<String>,
    /// The hook point in the model.
    #[serde(default)]
    pub hook: Option<String>,
    /// Rows per sequence, where all sequences have the same number; the last one may be shorter.
    #[serde(default)]
    pub context: Option<usize>,
    /// Statistics of the rows as stored.
    #[serde(default)]
    pub stats: Option<Stats>,
}

/// Returns the bytes of [`Manifest::vocab`]: the text of each token id, empty for an id without one.
pub fn vocab_json(texts: &[String]) -> Vec<u8> {
    serde_json::to_vec(texts).expect("strings are JSON")
}

/// An entry of the manifest for a shard, which is a safetensors, `.npy` or raw file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShardEntry {
    /// The name of the file, in the directory of the manifest.
    pub file: String,
    /// The number of its rows.
    pub rows: u64,
}

/// Statistics of a dump.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stats {
    /// `mean_i ||x_i||`.
    pub mean_norm: f64,
    /// The file with [`MEAN`].
    #[serde(default)]
    pub mean: Option<String>,
}

impl Manifest {
    /// The keys of `dump.json`.
    pub const KEYS: [&str; 14] = [
        "format",
        "version",
        "d",
        "rows",
        "dtype",
        "shards",
        "tokens",
        "sequence_starts",
        "vocab",
        "special_tokens",
        "model",
        "hook",
        "context",
        "stats",
    ];
    /// The keys of an entry of `shards`.
    pub const SHARD_KEYS: [&str; 2] = ["file", "rows"];
    /// The keys of `stats`.
    pub const STATS_KEYS: [&str; 2] = ["mean_norm", "mean"];

    /// Reads and checks a manifest.
    ///
    /// # Errors
    /// [`Error::Format`] with the field, what was expected and what was found: for an unknown key, another format or
    /// version, a size of 0, a number of rows that is not the sum over the shards, and file names that occur twice or
    /// are not names in the same directory.
    pub fn parse(json: &[u8]) -> Result<Self> {
        let manifest: Self = serde_json::from_slice(json).map_err(|e| Error::format(0, format!("{e}")))?;
        manifest.check()?;
        Ok(manifest)
    }

    /// Returns the bytes of `dump.json`.
    ///
    /// # Errors
    /// What [`Manifest::check`] finds.
    pub fn to_json(&self) -> Result<Vec<u8>> {
        self.check()?;
        serde_json::to_vec_pretty(self).map_err(|e| Error::format(0, format!("{e}")))
    }

    /// Checks the fields, as [`Manifest::parse`] does.
    ///
    /// # Errors
    /// As [`Manifest::parse`].
    pub fn check(&self) -> Result<()> {
        let wrong = |what: String| Err(Error::format(0, what));
        if self.format != FORMAT {
            return wrong(format!("`format`: expected \"{FORMAT}\", found {:?}", brief(&self.format)));
        }
        if self.version != VERSION {
            return wrong(format!("`version`: expected {VERSION}, found {}", self.version));
        }
        if self.d == 0 {
            return wrong("`d`: expected at least 1, found 0".into());
        }
        if self.context == Some(0) {
            return wrong("`context`: expected at least 1, found 0".into());
        }
        let total = self.shards.iter().try_fold(0_u64, |sum, s| sum.checked_add(s.rows));
        if total != Some(self.rows) {
            let total = total.map_or("more than 2^64".into(), |t| format!("{t}"));
            return wrong(format!("`rows`: expected {total}, the sum of the shards, found {}", self.rows));
        }
        if let Some(stats) = &self.stats
            && !(stats.mean_norm.is_finite() && stats.mean_norm >= 0.0)
        {
            return wrong(format!("`stats.mean_norm`: expected a norm, found {}", stats.mean_norm));
        }
        let mut names: Vec<&str> = self.shards.iter().map(|s| s.file.as_str()).collect();
        names.extend([&self.tokens, &self.sequence_starts, &self.vocab].into_iter().flatten().map(String::as_str));
        names.extend(self.stats.iter().filter_map(|s| s.mean.as_deref()));
        names.sort_unstable();
        for (i, name) in names.iter().enumerate() {
            let is_plain = !name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\\', ':', '\0']);
            if !is_plain {
                let name = brief(name);
                return wrong(format!("file names: expected names in the directory of the dump, found {name:?}"));
            }
            if i > 0 && names[i - 1] == *name {
                let name = brief(name);
                let why = "rows that are there twice would be held out and trained on";
                return wrong(format!("file names: {name:?} is there twice: {why}"));
            }
        }
        Ok(())
    }
}

/// Returns the beginning of a text of a file, to be shown in a message.
fn brief(text: &str) -> String {
    text.chars().take(80).collect()
}

/// A matrix of rows in a file: `bytes` holds exactly `n * d` numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Matrix {
    /// The type of the numbers.
    pub dtype: Dtype,
    /// Rows.
    pub n: usize,
    /// Width of a row.
    pub d: usize,
    /// Rows per sequence, where the tensor has three dimensions.
    pub context: Option<usize>,
    /// Byte range of the rows in the file.
    pub bytes: Range<usize>,
}

/// A tensor of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// The type of the numbers.
    pub dtype: StDtype,
    /// The size of each dimension.
    pub shape: Vec<usize>,
    /// Byte range of the numbers in the file, row-major.
    pub bytes: Range<usize>,
}

/// The tensors of a safetensors file; it has been checked that they cover its data without gaps and overlaps.
#[derive(Clone, Debug)]
pub struct TensorTable {
    data_start: usize,
    metadata: Metadata,
}

impl TensorTable {
    /// Largest header in bytes; those of real models are below 1 MB.
    pub const MAX_HEADER: usize = 16 << 20;

    /// Reads the header of `file`, the whole bytes of a safetensors file.
    ///
    /// # Errors
    /// [`Error::Format`] with the field, what was expected and what was found.
    pub fn parse(file: &[u8]) -> Result<Self> {
        let Some((length, rest)) = file.split_first_chunk::<8>() else {
            return Err(Error::format(0, format!("header length: expected 8 bytes, found {}", file.len())));
        };
        let length = u64::from_le_bytes(*length);
        let most = rest.len().min(Self::MAX_HEADER);
        let Some(header) = usize::try_from(length).ok().filter(|&n| n <= most).map(|n| &rest[..n]) else {
            let why = format!("header length: expected at most {most} bytes, found {length}");
            return Err(Error::format(0, why));
        };
        // `SafeTensors::read_metadata` is not used because it adds the sizes of a hostile header without a check for
        // overflow.
        let metadata: Metadata =
            serde_json::from_slice(header).map_err(|e| Error::format(8, format!("safetensors header: {e}")))?;
        let (expected, found) = (metadata.data_len(), rest.len() - header.len());
        if expected != found {
            let why = format!("data: expected {expected} bytes by the header, found {found}");
            return Err(Error::format(8 + header.len(), why));
        }
        Ok(Self { data_start: 8 + header.len(), metadata })
    }

    /// Returns the byte range of the tensor, which lies within the file, since the tensors cover exactly its data.
    fn range(&self, info: &TensorInfo) -> Range<usize> {
        self.data_start + info.data_offsets.0..self.data_start + info.data_offsets.1
    }

    /// Returns what the file's own metadata has under `key`.
    pub(crate) fn metadata(&self, key: &str) -> Option<&str> {
        self.metadata.metadata().as_ref()?.get(key).map(String::as_str)
    }

    /// Returns the names of all tensors, sorted.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.metadata.tensors().into_keys().collect();
        names.sort_unstable();
        names
    }

    /// Returns the tensor `name`, if it exists.
    pub fn tensor(&self, name: &str) -> Option<Stored> {
        let info = self.metadata.info(name)?;
        Some(Stored { dtype: info.dtype, shape: info.shape.clone(), bytes: self.range(info) })
    }

    /// Returns the rows of a shard: the tensor `activations`, or the only one of floats with two or three dimensions.
    ///
    /// # Errors
    /// [`Error::Format`] if there is no such tensor, or if it is none of f32, f16 or bf16.
    pub fn activations(&self) -> Result<Matrix> {
        if self.metadata.info(ACTIVATIONS).is_some() {
            return self.matrix(ACTIVATIONS);
        }
        let is_rows = |name: &String| {
            let info = self.metadata.info(name);
            info.is_some_and(|i| matches!(i.shape.len(), 2 | 3) && dtype_of(i.dtype).is_some())
        };
        let matrices: Vec<String> = self.names().into_iter().filter(is_rows).collect();
        match &matrices[..] {
            [only] => self.matrix(only),
            _ => {
                let n = matrices.len();
                let why = format!("tensors: expected `{ACTIVATIONS}` or a single matrix of floats, found {n}");
                Err(Error::format(8, why))
            }
        }
    }

    /// Returns the tensor `name` as rows: `[rows, width]`, or `[sequences, rows, width]`.
    ///
    /// # Errors
    /// [`Error::Format`] if it does not exist, has other dimensions, or is not f32, f16 or bf16.
    pub fn matrix(&self, name: &str) -> Result<Matrix> {
        let wrong = |what: String| Err(Error::format(8, what));
        let Some(info) = self.metadata.info(name) else {
            return wrong(format!("expected a tensor `{}`, found none", brief(name)));
        };
        let name = brief(name);
        let Some(dtype) = dtype_of(info.dtype) else {
            return wrong(format!("tensor `{name}`: dtype: expected F32, F16 or BF16, found {}", info.dtype));
        };
        let (n, context, d) = match info.shape[..] {
            [n, d] => (n, None, d),
            [n, t, d] => (n.saturating_mul(t), Some(t), d),
            _ => {
                let dims = info.shape.len();
                let wanted = "2 dimensions (rows, width) or 3 (sequences, rows, width)";
                return wrong(format!("tensor `{name}`: shape: expected {wanted}, found {dims}"));
            }
        };
        if d == 0 {
            return wrong(format!("tensor `{name}`: shape: expected a width of at least 1, found 0"));
        }
        Ok(Matrix { dtype, n, d, context: context.filter(|t| *t > 0), bytes: self.range(info) })
    }

    /// Returns the bytes of the vector `name` of numbers of `dtype`, if it exists.
    ///
    /// # Errors
    /// [`Error::Format`] if it has another type or number of dimensions.
    pub fn vector(&self, name: &str, dtype: StDtype) -> Result<Option<Range<usize>>> {
        let Some(info) = self.metadata.info(name) else { return Ok(None) };
        if info.dtype != dtype || info.shape.len() != 1 {
            let (found, dims) = (info.dtype, info.shape.len());
            let why = format!("tensor `{name}`: expected 1 dimension of {dtype}, found {dims} of {found}");
            return Err(Error::format(8, why));
        }
        Ok(Some(self.range(info)))
    }
}

/// Returns the type of rows for a type of safetensors.
pub fn dtype_of(dtype: StDtype) -> Option<Dtype> {
    match dtype {
        StDtype::F32 => Some(Dtype::F32),
        StDtype::F16 => Some(Dtype::F16),
        StDtype::BF16 => Some(Dtype::Bf16),
        _ => None,
    }
}

/// Returns the header of a shard: always [`SHARD_HEADER`] bytes, so that it can be rewritten in place once the number
/// of rows is known.
///
/// # Errors
/// [`Error::Shape`] if the size overflows.
pub fn shard_header(dtype: Dtype, n: u64, d: usize) -> Result<Vec<u8>> {
    let name = match dtype {
        Dtype::F32 => "F32",
        Dtype::F16 => "F16",
        Dtype::Bf16 => "BF16",
    };
    let size = n.checked_mul(d as u64).and_then(|n| n.checked_mul(dtype.size_bytes() as u64));
    let Some(size) = size else {
        return Err(Error::Shape { what: "rows of a shard", expected: usize::MAX / d.max(1) / 4, got: n as usize });
    };
    Ok(header(&[(ACTIVATIONS, name, format!("{n},{d}"), 0..size)]))
}

/// Returns the header of a file with one vector of `n` numbers of four bytes, whose type safetensors calls `dtype`.
pub fn vector_header(name: &str, dtype: &str, n: u64) -> Vec<u8> {
    header(&[(name, dtype, format!("{n}"), 0..n.saturating_mul(4))])
}

/// Returns a header of [`SHARD_HEADER`] bytes for tensors given as `(name, dtype, shape, bytes of the data)`.
pub(super) fn header(tensors: &[(&str, &str, String, Range<u64>)]) -> Vec<u8> {
    let mut header = ((SHARD_HEADER - 8) as u64).to_le_bytes().to_vec();
    for (i, (name, dtype, shape, Range { start, end })) in tensors.iter().enumerate() {
        let before = if i == 0 { '{' } else { ',' };
        let text = format!(
            "{before}\"{name}\":{{\"dtype\":\"{dtype}\",\"shape\":[{shape}],\"data_offsets\":[{start},{end}]}}"
        );
        header.extend_from_slice(text.as_bytes());
    }
    header.push(b'}');
    assert!(header.len() <= SHARD_HEADER, "two short names and numbers of 20 digits fit in the header");
    header.resize(SHARD_HEADER, b' ');
    header
}

/// Size of the header of a shard that this crate wrote.
pub const SHARD_HEADER: usize = 256;
