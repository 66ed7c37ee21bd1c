//! Writes a model of one level as Gemma Scope's `params.npz`: `W_enc (d, f)`, `W_dec (f, d_out)`, `b_enc (f)`, `b_dec
//! (d_out)` and `threshold (f)`, f32. A latent fires if its pre-activation is above its threshold, and the encoder
//! reads rows as they are.

use super::npy::header;
use crate::config::ModelKind;
use crate::error::{Error, Result};
use crate::kernel::fire::Limit;
use crate::kernel::{Isa, dense, reduce};
use crate::model::Model;
use crate::row_norm::RowNorm;
use alloc::format;
use alloc::vec;
use alloc::vec::Vec;

/// The polynomial of the checksum of zip archives, with its bits reversed.
const POLYNOMIAL: u32 = 0xedb8_8320;

/// Returns the checksum of `bytes` in zip archives.
fn crc32(bytes: &[u8]) -> u32 {
    let table: [u32; 256] =
        core::array::from_fn(|i| (0..8).fold(i as u32, |c, _| if c & 1 == 1 { c >> 1 ^ POLYNOMIAL } else { c >> 1 }));
    !bytes.iter().fold(!0, |c: u32, b| table[((c ^ u32::from(*b)) & 0xff) as usize] ^ c >> 8)
}

/// Returns the bytes of a `.npy` file of the f32 array `data`.
fn npy(shape: &[usize], data: &[f32]) -> Vec<u8> {
    let mut bytes = header("<f4", shape);
    bytes.extend(data.iter().flat_map(|v| v.to_le_bytes()));
    bytes
}

/// Returns a zip archive of `.npy` files that are stored without compression.
///
/// # Errors
/// [`Error::Config`] above 4 GiB, the limit of archives without 64-bit sizes.
fn archive(members: &[(&str, Vec<u8>)]) -> Result<Vec<u8>> {
    let (mut out, mut table) = (Vec::new(), Vec::new());
    let short = |n: usize| (n as u16).to_le_bytes();
    let long = |n: usize| -> Result<[u8; 4]> {
        let n = u32::try_from(n).map_err(|_| Error::config("to", "an npz of more than 4 GiB is not written"))?;
        Ok(n.to_le_bytes())
    };
    for (name, data) in members {
        let name = format!("{name}.npy");
        let at = long(out.len())?;
        // Version 2.0, no flags, stored, the earliest time that the format can express.
        let mut fields = vec![20, 0, 0, 0, 0, 0, 0, 0, 0x21, 0];
        fields.extend(crc32(data).to_le_bytes());
        fields.extend(long(data.len())?);
        fields.extend(long(data.len())?);
        fields.extend(short(name.len()));
        fields.extend(short(0));
        out.extend([&b"PK\x03\x04"[..], &fields, name.as_bytes(), data].concat());
        let more = [&[0; 10][..], &at].concat();
        table.extend([&b"PK\x01\x02\x14\0"[..], &fields, &more, name.as_bytes()].concat());
    }
    let (at, size, n) = (long(out.len())?, long(table.len())?, short(members.len()));
    out.extend(table);
    out.extend([&b"PK\x05\x06\0\0\0\0"[..], &n, &n, &size, &at, &short(0)].concat());
    Ok(out)
}

/// Returns the bytes of `params.npz` for `model`.
///
/// # Errors
/// [`Error::Config`] for a model that the format cannot represent.
pub fn write(model: &Model) -> Result<Vec<u8>> {
    model.check()?;
    let (arch, p) = (&model.arch, &model.params.level[0]);
    let refused = |what: &str| Err(Error::config("to", format!("an npz of Gemma Scope holds {what}")));
    if arch.model == ModelKind::Seed || arch.n_levels() > 1 {
        return refused("models of one level: write one with `--to saelens --part level1`, or this one as it is");
    }
    let variant = &arch.variant;
    if variant.row_norm != RowNorm::None || variant.skip || variant.scale {
        return refused("neither normalised rows nor a skip connection nor scaled latents");
    }
    if variant.prune[0] > 0.0 {
        return refused("no pruning of active latents (`prune`), which this model has");
    }
    let (d, d_out, f) = (arch.d, arch.d_out(), arch.level[0].latents);
    let threshold: Vec<f32> = match model.rule(0).limit() {
        Limit::Above(t) if p.r_mag.is_empty() => vec![t.max(0.0); f],
        Limit::AboveEach(t) if p.r_mag.is_empty() => t.iter().map(|t| t.max(0.0)).collect(),
        _ => return refused("thresholds alone, neither top-k nor gated latents"),
    };
    let mut bias = p.b_enc.to_vec();
    if !variant.raw_input {
        // W (x - b_dec) + b_enc = W x + (b_enc - W b_dec)
        for (b, row) in bias.iter_mut().zip(p.w_enc.chunks_exact(d)) {
            *b -= reduce::dot(Isa::default(), row, &model.params.b_dec);
        }
    }
    archive(&[
        ("W_enc", npy(&[d, f], &dense::transposed(&p.w_enc, f, d))),
        ("W_dec", npy(&[f, d_out], &p.w_dec)),
        ("b_enc", npy(&[f], &bias)),
        ("b_dec", npy(&[d_out], &model.params.b_dec)),
        ("threshold", npy(&[f], &threshold)),
    ])
}
