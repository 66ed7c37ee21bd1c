//! Transcoders of circuit-tracer: `layer_N.safetensors` with `W_enc (f, d)`, `W_dec (f, d)`, `b_enc (f)`, `b_dec (d)`,
//! and optionally `W_skip (d, d)` and `activation_function.threshold`, one for all latents or one per latent. Encoders
//! read rows as they are; without thresholds the activation is relu.
//!
//! A layer of a cross-layer transcoder is two files, `W_enc_N.safetensors` (`W_enc_N`, `b_enc_N`, `b_dec_N`) and
//! `W_dec_N.safetensors` (`W_dec_N (f, layers, d)`). Each latent has a decoder row for every layer from `N` on; as
//! SAELens does, their sum is read as its decoder row.

use super::arrays::Arrays;
use super::flat::{Flat, FlatRule};
use super::look::{Choices, Look, Parsed};
use super::origin::Origin;
use crate::error::Result;
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

const NAMES: [&str; 4] = ["W_enc", "W_dec", "b_enc", "b_dec"];
const THRESHOLD: &str = "activation_function.threshold";

/// Returns whether more than the arrays says that it is a transcoder of circuit-tracer.
fn is_named(look: &Look<'_>) -> bool {
    let name = look.arrays.file.rsplit('/').next().unwrap_or_default();
    name.starts_with("layer_") || look.settings_name.is_some() || look.arrays.has(THRESHOLD)
}

/// Returns whether the arrays are those of a layer with one encoder row per latent. With as many latents as the rows are
/// wide the encoder could as well have one column per latent, as SAELens stores it; then the names have to say it.
pub(super) fn is_one(look: &Look<'_>) -> bool {
    let arrays = look.arrays;
    let sizes = |name: &str| arrays.sizes(name).ok();
    arrays.file.ends_with(".safetensors")
        && arrays.has_all(&NAMES)
        && sizes("W_enc").zip(sizes("W_dec")).is_some_and(|(encoder, decoder)| encoder[0] == decoder[0])
        && (is_named(look) || sizes("W_enc").is_some_and(|sizes| sizes[0] != sizes[1]))
}

fn origin(look: &Look<'_>) -> Origin {
    Origin { model: look.yaml("model_name"), hook: look.yaml("feature_input_hook"), ..Origin::default() }
}

/// Returns the activation. The jumprelu of circuit-tracer has no relu before it, so negative thresholds are refused.
fn rule(arrays: &Arrays, name: &str, f: usize) -> Result<FlatRule> {
    if !arrays.has(name) {
        return Ok(FlatRule::Relu);
    }
    let one = arrays.get(name)?.len() == 1;
    let threshold: Vec<f32> = if one { vec![arrays.number(name)?; f] } else { arrays.vector(name, f)?.to_vec() };
    if threshold.iter().any(|t| *t < 0.0) {
        return Err(
            arrays.wrong(format_args!("`{name}`: a threshold below 0 lets latents be below 0, which is not read"))
        );
    }
    Ok(FlatRule::Jumprelu(threshold.into()))
}

/// Reads a layer.
pub(super) fn read(look: &Look<'_>, choices: &Choices) -> Result<Parsed> {
    let arrays = look.arrays;
    let ([f, d], [_, d_out]) = (arrays.sizes("W_enc")?, arrays.sizes("W_dec")?);
    let mut flat = Flat::new(
        arrays.matrix("W_enc", f, d)?,
        arrays.vector("b_enc", f)?,
        arrays.matrix("W_dec", f, d_out)?,
        arrays.vector("b_dec", d_out)?,
        rule(arrays, THRESHOLD, f)?,
        false,
    )
    .transcoder();
    if arrays.has("W_skip") {
        flat.w_skip = Some(arrays.matrix("W_skip", d_out, d)?);
    }
    arrays.only(&["W_enc", "W_dec", "b_enc", "b_dec", "W_skip", THRESHOLD], "a transcoder of circuit-tracer")?;
    let parsed = Parsed::flat(flat, origin(look));
    Ok(if choices.from.is_some() || is_named(look) {
        parsed
    } else {
        parsed.note(
            "neither config.yaml beside it nor the name of the file says what it is: by its arrays it is read as a relu \
             transcoder of circuit-tracer, whose encoder reads rows as they are",
        )
    })
}

/// Returns the number in the name of a cross-layer transcoder's encoder.
pub(super) fn layer(look: &Look<'_>) -> Option<String> {
    let name = look.arrays.arrays.keys().find_map(|name| name.strip_prefix("W_enc_"))?;
    (!name.is_empty() && name.bytes().all(|b| b.is_ascii_digit())).then(|| name.into())
}

/// Reads a layer of a cross-layer transcoder.
pub(super) fn read_cross_layer(look: &Look<'_>, _: &Choices) -> Result<Parsed> {
    let arrays = look.arrays;
    let Some(layer) = layer(look) else {
        return Err(arrays.wrong("tensor `W_enc_N` is missing, N the number of the layer"));
    };
    let file = format!("W_dec_{layer}.safetensors");
    let mut decoders = Arrays::of_safetensors(&file, &look.files.read(&file)?)?;
    decoders.keep = arrays.keep;
    let [f, d] = arrays.sizes(&format!("W_enc_{layer}"))?;
    let name = format!("W_dec_{layer}");
    let layers = match *decoders.get(&name)?.shape() {
        [rows, layers, width] if rows == f && width == d => layers,
        ref shape => {
            return Err(decoders.wrong(format_args!("tensor `{name}`: expected [{f}, layers, {d}], found {shape:?}")));
        }
    };
    let w_dec = decoders.get(&name)?.summed_over_second()?;
    let flat = Flat::new(
        arrays.matrix(&format!("W_enc_{layer}"), f, d)?,
        arrays.vector(&format!("b_enc_{layer}"), f)?,
        w_dec.into(),
        arrays.vector(&format!("b_dec_{layer}"), d)?,
        rule(arrays, &format!("threshold_{layer}"), f)?,
        false,
    );
    Ok(Parsed::flat(flat.transcoder(), origin(look)).note(several_decoders(layers)))
}

/// The note on a layer of a cross-layer transcoder.
pub(super) fn several_decoders(layers: usize) -> String {
    format!(
        "a layer of a cross-layer transcoder: its {layers} decoders are added up, so that its latents are right and its \
         reconstruction is that of no layer"
    )
}
