//! Gemma Scope: `params.npz` (1) and `params.safetensors` with `config.json` (2). All of them are jumprelu models whose
//! encoder reads rows as they are: `W_enc (d, f)`, `W_dec (f, d_out)`, `b_enc (f)`, `b_dec (d_out)`, `threshold (f)`,
//! in upper or lower case; Gemma Scope 2 also has `affine_skip_connection (d, d_out)`.
//!
//! An autoencoder and a transcoder of Gemma Scope 1 have the same arrays: only the name of the repository distinguishes
//! them. Models of embeddings are for rows that are `sqrt(d)` times as large: `W_enc / sqrt(d)`, `W_dec sqrt(d)`; they are in
//! a directory `embedding`, and no other sign of them exists. A layer of a cross-layer transcoder of Gemma Scope 2 has
//! decoders to several layers, `w_dec (f, layers, d_out)`, which are added up, as SAELens does.

use super::circuit_tracer;
use super::flat::{Flat, FlatRule};
use super::json::Settings;
use super::look::{Choices, Look, Parsed};
use super::origin::Origin;
use crate::error::Result;
use crate::model::Tensor;
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

/// Returns whether an output of another width says that it is a transcoder.
fn widths_differ(look: &Look<'_>) -> bool {
    let [w_enc, w_dec, ..] = names(look);
    let width = |name: &str, at: usize| look.arrays.sizes(name).map(|sizes| sizes[at]).unwrap_or_default();
    width(w_enc, 0) != width(w_dec, 1)
}

/// Returns whether a name in the path says that it is a transcoder.
fn is_named_transcoder(look: &Look<'_>) -> bool {
    look.any_name(|name| name.contains("transcoder"))
}

/// Returns whether the path, or an output of another width, says that it is a transcoder.
pub(super) fn is_transcoder(look: &Look<'_>) -> bool {
    is_named_transcoder(look) || widths_differ(look)
}

/// Returns whether it is in the directory of a repository that has its models of embeddings.
pub(super) fn is_embedding(look: &Look<'_>) -> bool {
    look.any_name(|name| name == "embedding") && !look.any_name(|name| name.starts_with("layer_"))
}

/// Returns `(f, d_out)`, the sum of the decoders of each latent, and how many there are.
fn decoder(look: &Look<'_>, name: &str, f: usize) -> Result<(Tensor, usize, usize)> {
    let arrays = look.arrays;
    let [rows, layers, d_out] = *arrays.get(name)?.shape() else {
        let [_, d_out] = arrays.sizes(name)?;
        return Ok((arrays.matrix(name, f, d_out)?, d_out, 1));
    };
    if rows != f || layers == 0 || d_out == 0 {
        let found = [rows, layers, d_out];
        return Err(arrays.wrong(format_args!("tensor `{name}`: expected [{f}, layers, width], found {found:?}")));
    }
    Ok((arrays.get(name)?.summed_over_second()?.into(), d_out, layers))
}

/// Returns the model, and how many decoders each latent has.
fn flat(look: &Look<'_>) -> Result<(Flat, usize)> {
    let arrays = look.arrays;
    let [w_enc, w_dec, b_enc, b_dec, threshold] = names(look);
    let [d, f] = arrays.sizes(w_enc)?;
    let (decoder, d_out, layers) = decoder(look, w_dec, f)?;
    let flat = Flat::new(
        arrays.matrix_transposed(w_enc, d, f)?,
        arrays.vector(b_enc, f)?,
        decoder,
        arrays.vector(b_dec, d_out)?,
        FlatRule::Jumprelu(arrays.vector(threshold, f)?),
        false,
    );
    Ok((flat, layers))
}

/// Returns the model of an `.npz`, whose latents have one decoder each.
fn flat_1(look: &Look<'_>) -> Result<Flat> {
    look.arrays.only(&names(look), "Gemma Scope")?;
    let (flat, layers) = flat(look)?;
    if layers > 1 {
        return Err(look
            .arrays
            .wrong("its latents have decoders to several layers, which no model of Gemma Scope 1 has"));
    }
    Ok(flat)
}

/// Reads an autoencoder of Gemma Scope 1.
pub(super) fn read(look: &Look<'_>, choices: &Choices) -> Result<Parsed> {
    let parsed = Parsed::flat(flat_1(look)?, Origin::default());
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
pub(super) fn read_transcoder(look: &Look<'_>, choices: &Choices) -> Result<Parsed> {
    let parsed = Parsed::flat(flat_1(look)?.transcoder(), Origin::default());
    Ok(if choices.from.is_some() || widths_differ(look) {
        parsed
    } else {
        parsed.note(
            "params.npz of Gemma Scope is read as a transcoder, since its path has that word: an autoencoder's has the same \
             arrays, and is read with --from gemma-scope",
        )
    })
}

/// Reads an autoencoder of embeddings of Gemma Scope 1.
pub(super) fn read_embedding(look: &Look<'_>, choices: &Choices) -> Result<Parsed> {
    let mut flat = flat_1(look)?;
    let root = libm::sqrt(flat.d() as f64);
    flat.w_enc.iter_mut().for_each(|w| *w = (f64::from(*w) / root) as f32);
    flat.w_dec.iter_mut().for_each(|w| *w = (f64::from(*w) * root) as f32);
    let parsed = Parsed::flat(flat, Origin::default());
    Ok(if choices.from.is_some() {
        parsed
    } else {
        parsed.note(
            "params.npz of Gemma Scope is read as an autoencoder of embeddings, for rows that are sqrt(d) times as large, \
             since it is in a directory `embedding`: any other is read with --from gemma-scope",
        )
    })
}

/// Returns whether `config.json` of Gemma Scope 2 says that the model is a transcoder, where it says anything about it.
fn kind(config: &Settings) -> Result<Option<bool>> {
    match config.text("type") {
        Some("sae") => return Ok(Some(false)),
        Some(kind) if kind.contains("transcoder") || kind == "clt" => return Ok(Some(true)),
        Some(other) => {
            return Err(config.wrong(format_args!("`type`: expected sae, transcoder or clt, found `{other}`")));
        }
        None => {}
    }
    let hooks = config.text("hf_hook_point_in").zip(config.text("hf_hook_point_out"));
    Ok(hooks.map(|(read, written)| read != written))
}

/// Reads a model of Gemma Scope 2.
pub(super) fn read_2(look: &Look<'_>, _: &Choices) -> Result<Parsed> {
    let (mut flat, layers) = flat(look)?;
    let [w_enc, w_dec, b_enc, b_dec, threshold] = names(look);
    look.arrays.only(&[w_enc, w_dec, b_enc, b_dec, threshold, SKIP], "Gemma Scope 2")?;
    let (d, d_out) = (flat.d(), flat.b_dec.len());
    let mut origin = Origin::default();
    let mut said = None;
    if let Some(config) = &look.settings {
        if let Some(other) = config.text("architecture").filter(|name| !matches!(*name, "jump_relu" | "jumprelu")) {
            return Err(config.wrong(format_args!("`architecture`: expected `jump_relu`, found `{other}`")));
        }
        said = kind(config)?;
        origin.model = config.text("model_name").map(ToOwned::to_owned);
        origin.hook = config.text("hf_hook_point_in").map(ToOwned::to_owned);
    }
    let certain = d != d_out || layers > 1 || look.arrays.has(SKIP);
    let is_transcoder = certain || said.unwrap_or_else(|| is_named_transcoder(look));
    if is_transcoder {
        flat = flat.transcoder();
    }
    if look.arrays.has(SKIP) {
        // It is stored as (d, d_out) and multiplies from the right.
        flat.w_skip = Some(look.arrays.matrix_transposed(SKIP, d, d_out)?);
    }
    let mut parsed = Parsed::flat(flat, origin);
    if !certain && said.is_none() {
        let why = if look.settings.is_some() { "config.json has no `type`" } else { "config.json is missing" };
        let kind = if is_transcoder { "a transcoder, since its path has that word" } else { "an autoencoder" };
        parsed = parsed.note(format!("{why}: the model is read as {kind}"));
    }
    Ok(if layers > 1 { parsed.note(circuit_tracer::several_decoders(layers)) } else { parsed })
}
