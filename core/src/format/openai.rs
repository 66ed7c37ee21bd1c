//! OpenAI's sparse_autoencoder: a pickle with `encoder.weight (f, d)`, `latent_bias (f)`, `decoder.weight (d, f)`,
//! `pre_bias (d)`, statistics of training, the name of the activation and, for `TopK`, its `k`.
//!
//! The encoder reads `x - pre_bias`. Rows are first normalised one by one if the activation is `TopK`, and not
//! otherwise: no field of the file tells it, and OpenAI's own reader decides in the same way.

use super::arrays::Scalar;
use super::flat::{Flat, FlatRule};
use super::look::{Choices, Look, Parsed};
use super::origin::Origin;
use crate::error::Result;
use crate::row_norm::RowNorm;

const NAMES: [&str; 7] = [
    "pre_bias",
    "latent_bias",
    "encoder.weight",
    "decoder.weight",
    "stats_last_nonzero",
    "latents_activation_frequency",
    "latents_mean_square",
];

/// Reads a model.
pub(super) fn read(look: &Look<'_>, choices: &Choices) -> Result<Parsed> {
    let arrays = look.arrays;
    let [f, d] = arrays.sizes("encoder.weight")?;
    arrays.only(&NAMES, "OpenAI's autoencoder")?;
    let text = |key: &str| match arrays.values.get(key) {
        Some(Scalar::Text(text)) => Some(text.as_str()),
        _ => None,
    };
    let function = text("activation").unwrap_or("ReLU");
    let (rule, row_norm) = match function {
        "ReLU" => (FlatRule::Relu, RowNorm::None),
        "TopK" => {
            if let Some(after) = text("activation_state_dict.postact_fn").filter(|name| *name != "ReLU") {
                return Err(arrays.wrong(format_args!("TopK with `{after}` after it is not read: expected `ReLU`")));
            }
            let k = match arrays.values.get("activation_state_dict.k") {
                Some(Scalar::Int(k)) => u64::try_from(*k).ok(),
                _ => None,
            };
            (FlatRule::Topk(Flat::checked_k(k.or(choices.k), f, |why| arrays.wrong(why))?), RowNorm::Layer)
        }
        other => return Err(arrays.wrong(format_args!("the activation `{other}` is not read: expected ReLU or TopK"))),
    };
    let mut flat = Flat::new(
        arrays.matrix("encoder.weight", f, d)?,
        arrays.vector("latent_bias", f)?,
        arrays.matrix_transposed("decoder.weight", d, f)?,
        arrays.vector("pre_bias", d)?,
        rule,
        true,
    );
    flat.row_norm = row_norm;
    Ok(Parsed::flat(flat, Origin::default()))
}
