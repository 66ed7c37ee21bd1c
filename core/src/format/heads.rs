//! Files of linear heads: safetensors, whose metadata has one key, `probe`, with a description in JSON.
//!
//! | tensor | type and shape | contents |
//! |---|---|---|
//! | `unit` | F32 `[1]` | rows and codes are multiplied by it |
//! | `offsets` | U64 `[heads + 1]` | head `h` has the weights from `offsets[h]` to `offsets[h + 1]` |
//! | `index` | U32 `[weights]` | the latent of each weight (`f1 + j` for level 2), or the column of the row |
//! | `weight` | F64 `[weights]` | |
//! | `bias` | F64 `[heads]` | |

use super::dump::TensorTable;
use crate::error::{Error, Result};
use crate::heads::{Head, Heads, Reads};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde::{Deserialize, Serialize};

/// The name of the format.
const FORMAT: &str = "strata-probe";
/// The version that is read and written.
const VERSION: u32 = 1;
/// The key of the description.
const KEY: &str = "probe";

#[derive(Deserialize)]
struct Version {
    format: String,
    version: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Description {
    format: String,
    version: u32,
    d: usize,
    f1: usize,
    f2: usize,
    /// Hexadecimal.
    model: String,
    heads: Vec<Entry>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    reads: What,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum What {
    Row,
    Latents,
}

/// Writes heads.
///
/// # Errors
/// As [`Heads::check`].
pub fn write(heads: &Heads) -> Result<Vec<u8>> {
    heads.check()?;
    let (mut offsets, mut index, mut weight, mut bias) = (vec![0u64], Vec::new(), Vec::new(), Vec::new());
    let mut entries = Vec::new();
    for head in &heads.heads {
        let reads = match &head.reads {
            Reads::Row => {
                index.extend(0..heads.d as u32);
                What::Row
            }
            Reads::Latents(latents) => {
                index.extend_from_slice(latents);
                What::Latents
            }
        };
        entries.push(Entry { name: head.name.clone(), reads });
        weight.extend_from_slice(&head.weight);
        bias.push(head.bias);
        offsets.push(weight.len() as u64);
    }
    let [f1, f2] = heads.latents;
    let model = format!("{:016x}", heads.model);
    let description =
        Description { format: FORMAT.into(), version: VERSION, d: heads.d, f1, f2, model, heads: entries };
    let failed = |what: String| Error::format(0, format!("heads: {what}"));
    let text = serde_json::to_string(&description).map_err(|e| failed(e.to_string()))?;
    let unit: Vec<u8> = heads.unit.to_le_bytes().into();
    let offsets: Vec<u8> = offsets.iter().flat_map(|v| v.to_le_bytes()).collect();
    let indices: Vec<u8> = index.iter().flat_map(|v| v.to_le_bytes()).collect();
    let weights: Vec<u8> = weight.iter().flat_map(|v| v.to_le_bytes()).collect();
    let biases: Vec<u8> = bias.iter().flat_map(|v| v.to_le_bytes()).collect();
    let mut tensors = Vec::new();
    for (name, dtype, n, bytes) in [
        ("unit", Dtype::F32, 1, &unit),
        ("offsets", Dtype::U64, bias.len() + 1, &offsets),
        ("index", Dtype::U32, index.len(), &indices),
        ("weight", Dtype::F64, weight.len(), &weights),
        ("bias", Dtype::F64, bias.len(), &biases),
    ] {
        tensors.push((name, TensorView::new(dtype, vec![n], bytes).map_err(|e| failed(e.to_string()))?));
    }
    // One key: the order of several would not be the same in every process.
    let metadata = [(KEY.to_string(), text)].into_iter().collect();
    safetensors::serialize(tensors, Some(metadata)).map_err(|e| failed(e.to_string()))
}

/// Reads heads. Total: any bytes give heads or one clear error.
///
/// # Errors
/// [`Error::Format`] for bytes that are not such a file, [`Error::Version`] for another version.
pub fn read(file: &[u8]) -> Result<Heads> {
    let table = TensorTable::parse(file)?;
    let Some(text) = table.metadata(KEY) else {
        return Err(Error::format(8, format!("metadata: expected the key `{KEY}` of a file of heads, found none")));
    };
    let described = |e: serde_json::Error| Error::format(8, format!("metadata: `{KEY}`: {e}"));
    let version: Version = serde_json::from_str(text).map_err(described)?;
    if version.format != FORMAT {
        let found: String = version.format.chars().take(40).collect();
        return Err(Error::format(8, format!("metadata: format: expected `{FORMAT}`, found `{found}`")));
    }
    if version.version != VERSION {
        return Err(Error::Version { what: FORMAT, expected: VERSION, got: version.version });
    }
    let description: Description = serde_json::from_str(text).map_err(described)?;
    let Ok(model) = u64::from_str_radix(&description.model, 16) else {
        return Err(Error::format(8, "metadata: model: expected 16 hexadecimal digits"));
    };
    let vector = |name: &str, dtype: Dtype| -> Result<&[u8]> {
        let range = table.vector(name, dtype)?;
        range
            .map(|range| &file[range])
            .ok_or_else(|| Error::format(8, format!("expected a tensor `{name}`, found none")))
    };
    let [unit, offsets] = [("unit", Dtype::F32), ("offsets", Dtype::U64)].map(|(name, dtype)| vector(name, dtype));
    let unit = match unit?.as_chunks::<4>() {
        ([unit], []) => f32::from_le_bytes(*unit),
        (all, _) => return Err(Error::format(8, format!("tensor `unit`: expected 1 number, found {}", all.len()))),
    };
    let offsets: Vec<u64> = offsets?.as_chunks::<8>().0.iter().map(|v| u64::from_le_bytes(*v)).collect();
    let index: Vec<u32> =
        vector("index", Dtype::U32)?.as_chunks::<4>().0.iter().map(|v| u32::from_le_bytes(*v)).collect();
    let of_f64 = |name| -> Result<Vec<f64>> {
        Ok(vector(name, Dtype::F64)?.as_chunks::<8>().0.iter().map(|v| f64::from_le_bytes(*v)).collect())
    };
    let (weight, bias) = (of_f64("weight")?, of_f64("bias")?);
    let n = description.heads.len();
    for (name, expected, found) in
        [("offsets", n + 1, offsets.len()), ("bias", n, bias.len()), ("index", weight.len(), index.len())]
    {
        if expected != found {
            return Err(Error::format(8, format!("tensor `{name}`: expected {expected} numbers, found {found}")));
        }
    }
    let is_ascending = offsets.first() == Some(&0)
        && offsets.last() == Some(&(weight.len() as u64))
        && offsets.windows(2).all(|pair| pair[0] <= pair[1]);
    if !is_ascending {
        return Err(Error::format(8, "tensor `offsets`: expected numbers that ascend from 0 to that of the weights"));
    }
    let mut heads = Vec::new();
    for (h, entry) in description.heads.into_iter().enumerate() {
        let range = offsets[h] as usize..offsets[h + 1] as usize;
        let reads = match entry.reads {
            What::Latents => Reads::Latents(index[range.clone()].to_vec()),
            What::Row => {
                if !index[range.clone()].iter().copied().eq(0..range.len() as u32) {
                    return Err(Error::format(
                        8,
                        format!("head {h}: index: expected every column of the row in order"),
                    ));
                }
                Reads::Row
            }
        };
        heads.push(Head { name: entry.name, reads, weight: weight[range].to_vec(), bias: bias[h] });
    }
    let heads = Heads { d: description.d, latents: [description.f1, description.f2], model, unit, heads };
    heads.check()?;
    Ok(heads)
}
