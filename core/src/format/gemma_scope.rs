//! Gemma Scope: `params.npz` (1) and `params.safetensors` with `config.json` (2). All of them are jumprelu models whose
//! encoder reads rows as they are: `W_enc (d, f)`, `W_dec (f, d_out)`, `b_enc (f)`, `b_dec (d_out)`, `threshold (f)`,
//! in upper or lower case; Gemma Scope 2 also has `affine_skip_connection (d, d_out)`.
//!
//! An autoencoder and a transcoder of Gemma Scope 1 have the same arrays: only the name of the repository distinguishes
//! them. Models of embeddings are for rows that are `sqrt(d)` times as large: `W_enc / sqrt(d)`, `W_dec sqrt(d)`.

use super::flat::{Flat, FlatRule};
use super::look::{Choices, Look, Parsed};
use super::origin::Origin;
use crate::error::Result;
use alloc::borrow::ToOwned;
use alloc::format;

const NAMES: [[&str; 5]; 2] =
    [["W_enc", "W_dec", "b_enc", "b_dec", "threshold"], ["w_enc", "w_dec", "b_enc", "b_dec", "threshold"]];
const SKIP: &str = "affine_skip_connection";

fn names(look: &Look<'_>) -> [&'static str; 5] {
    NAMES[usize::from(look.arrays.has("w_enc"))]
}

/// Returns whether the arrays are those of an `.npz` of Gemma Scope.
pub(super) fn is_one(look: &Look<'_>) -> bool {
    look.arrays.file.ends_with(".npz") && look.arrays.has_all(&names(look))
}

/// Returns whether the path, or an output of another width, says that it is a transcoder.
pub(super) fn is_transcoder(look: &Look<'_>) -> bool {
    let [w_enc, w_dec, ..] = names(look);
    let width = |name: &str, at: usize| look.arrays.sizes(name).map(|sizes| sizes[at]).unwrap_or_default();
    look.files.path().to_ascii_lowercase().contains("transcoder") || width(w_enc, 0) != width(w_dec, 1)
}

fn flat(look: &Look<'_>) -> Result<Flat> {
    let arrays = look.arrays;
    let [w_enc, w_dec, b_enc, b_dec, threshold] = names(look);
    let ([d, f], [_, d_out]) = (arrays.sizes(w_enc)?, arrays.sizes(w_dec)?);
    Ok(Flat::new(
        arrays.matrix_transposed(w_enc, d, f)?,
        arrays.vector(b_enc, f)?,
        arrays.matrix(w_dec, f, d_out)?,
        arrays.vector(b_dec, d_out)?,
        FlatRule::Jumprelu(arrays.vector(threshold, f)?),
        false,
    ))
}

/// Reads an autoencoder of Gemma Scope 1.
pub(super) fn read(look: &Look<'_>, choices: &Choices) -> Result<Parsed> {
    look.arrays.only(&names(look), "Gemma Scope")?;
    let parsed = Parsed::flat(flat(look)?, Origin::default());
    // With `--from` the user has decided that it is an autoencoder.
    Ok(if choices.from.is_some() {
        parsed
    } else {
        parsed.note(
            "params.npz of Gemma Scope is read as an autoencoder: a transcoder's has the same arrays, and is read with \
             --from gemma-scope-transcoder; one of embeddings with --from gemma-scope-embedding",
        )
    })
}

/// Reads a transcoder of Gemma Scope 1.
pub(super) fn read_transcoder(look: &Look<'_>, _: &Choices) -> Result<Parsed> {
    look.arrays.only(&names(look), "Gemma Scope")?;
    Ok(Parsed::flat(flat(look)?.transcoder(), Origin::default()))
}

/// Reads an autoencoder of embeddings of Gemma Scope 1.
pub(super) fn read_embedding(look: &Look<'_>, _: &Choices) -> Result<Parsed> {
    look.arrays.only(&names(look), "Gemma Scope")?;
    let mut flat = flat(look)?;
    let root = libm::sqrt(flat.d() as f64);
    flat.w_enc.iter_mut().for_each(|w| *w = (f64::from(*w) / root) as f32);
    flat.w_dec.iter_mut().for_each(|w| *w = (f64::from(*w) * root) as f32);
    Ok(Parsed::flat(flat, Origin::default()))
}

/// Reads a model of Gemma Scope 2.
pub(super) fn read_2(look: &Look<'_>, _: &Choices) -> Result<Parsed> {
    let mut flat = flat(look)?;
    let [w_enc, w_dec, b_enc, b_dec, threshold] = names(look);
    look.arrays.only(&[w_enc, w_dec, b_enc, b_dec, threshold, SKIP], "Gemma Scope 2")?;
    let (d, d_out) = (flat.d(), flat.b_dec.len());
    let mut origin = Origin::default();
    let path = look.files.path();
    let mut is_transcoder = d != d_out || look.arrays.has(SKIP) || path.contains("transcoder");
    if let Some(config) = &look.settings {
        if let Some(other) = config.text("architecture").filter(|name| !matches!(*name, "jump_relu" | "jumprelu")) {
            return Err(config.wrong(format_args!("`architecture`: expected `jump_relu`, found `{other}`")));
        }
        is_transcoder |= config.text("type").is_some_and(|kind| kind.contains("transcoder") || kind == "clt");
        origin.model = config.text("model_name").map(ToOwned::to_owned);
        origin.hook = config.text("hf_hook_point_in").map(ToOwned::to_owned);
    }
    if is_transcoder {
        flat = flat.transcoder();
    }
    if look.arrays.has(SKIP) {
        // It is stored as (d, d_out) and multiplies from the right.
        flat.w_skip = Some(look.arrays.matrix_transposed(SKIP, d, d_out)?);
    }
    let parsed = Parsed::flat(flat, origin);
    Ok(if look.settings.is_some() {
        parsed
    } else {
        let kind = if is_transcoder { "a transcoder" } else { "an autoencoder" };
        parsed.note(format!("config.json is missing: the model is read as {kind}"))
    })
}
