//! sparsify: `cfg.json` and `sae.safetensors` with `encoder.weight (f, d)`, `encoder.bias (f)`, `W_dec (f, d)`, `b_dec
//! (d)` and, with `skip_connection`, `W_skip (d, d)`.
//!
//! Latents are the `k` largest positive pre-activations, or with `activation = "groupmax"` the largest of each of `k`
//! groups of consecutive latents. The encoder reads `x - b_dec`, unless the model is a transcoder. `multi_topk` and
//! `normalize_decoder` are settings of training.

use super::flat::{Flat, FlatRule};
use super::look::{Choices, Look, Parsed};
use super::origin::Origin;
use crate::error::Result;
use alloc::vec;

/// Reads a model.
pub(super) fn read(look: &Look<'_>, choices: &Choices) -> Result<Parsed> {
    let (cfg, arrays) = (look.settings("sparsify")?, look.arrays);
    let [f, d] = arrays.sizes("encoder.weight")?;
    if let Some(said) = cfg.count("d_in")?.filter(|said| *said != d as u64) {
        return Err(cfg.wrong(format_args!("`d_in`: expected {d}, the width of `encoder.weight`, found {said}")));
    }
    if cfg.flag("signed", false)? {
        return Err(cfg.wrong("`signed`: models of sparsify whose latents may be below 0 are not read"));
    }
    let k = Flat::checked_k(cfg.count("k")?.or(choices.k), f, |why| cfg.wrong(why))?;
    let rule = match cfg.text("activation").unwrap_or("topk") {
        "topk" => FlatRule::Topk(k),
        "groupmax" if f.is_multiple_of(k) => FlatRule::GroupMax(k),
        "groupmax" => return Err(cfg.wrong(format_args!("`k`: {f} latents do not make {k} groups of one size"))),
        other => return Err(cfg.wrong(format_args!("`activation`: expected topk or groupmax, found `{other}`"))),
    };
    let transcodes = cfg.flag("transcode", false)?;
    let mut known = vec!["encoder.weight", "encoder.bias", "W_dec", "b_dec"];
    let mut flat = Flat::new(
        arrays.matrix("encoder.weight", f, d)?,
        arrays.vector("encoder.bias", f)?,
        arrays.matrix("W_dec", f, d)?,
        arrays.vector("b_dec", d)?,
        rule,
        !transcodes,
    );
    if transcodes {
        flat = flat.transcoder();
    }
    if cfg.flag("skip_connection", false)? {
        known.push("W_skip");
        flat.w_skip = Some(arrays.matrix("W_skip", d, d)?);
    }
    arrays.only(&known, "sparsify with these settings")?;
    Ok(Parsed::flat(flat, Origin::default()))
}
