//! Llamascopium (Language-Model-SAEs): `config.json` and `sae_weights.safetensors` with `W_E (d, f)`, `b_E (f)`, `W_D
//! (f, d)`, `b_D (d)` if `use_decoder_bias`, `activation_function.log_jumprelu_threshold (f)` if `act_fn` is jumprelu,
//! and `dataset_average_activation_norm.HOOK` (one number per hook point).
//!
//! With `sparsity_include_decoder_norm`, which latents fire is decided by the pre-activation times the norm of the
//! decoder row, but codes are without this factor. `norm_activation`: `dataset-wise` scales rows by `sqrt(d) / mean
//! norm`, which is folded in here; `token-wise` scales each row to the norm `sqrt(d)`; `inference` takes rows as they
//! are. The model is a transcoder if its two hook points differ. Encoders read rows as they are.

use super::flat::{Flat, FlatRule};
use super::look::{Choices, Look, Parsed};
use super::origin::Origin;
use crate::error::Result;
use crate::model::Tensor;
use crate::row_norm::RowNorm;
use alloc::borrow::ToOwned;
use alloc::format;
use alloc::vec;

const THRESHOLD: &str = "activation_function.log_jumprelu_threshold";
const NORM: &str = "dataset_average_activation_norm.";

/// Reads a model.
pub(super) fn read(look: &Look<'_>, _: &Choices) -> Result<Parsed> {
    let (config, arrays) = (look.settings("Llamascopium")?, look.arrays);
    if let Some(kind) = config.text("sae_type").filter(|kind| *kind != "sae") {
        return Err(config.wrong(format_args!("`sae_type`: only `sae` is read, found `{kind}`")));
    }
    if config.flag("use_glu_encoder", false)? {
        return Err(config.wrong("a gated linear unit in the encoder (`use_glu_encoder`) is not read"));
    }
    let [d, f] = arrays.sizes("W_E")?;
    let mut known = vec!["W_E", "b_E", "W_D"];
    let b_dec: Tensor = if config.flag("use_decoder_bias", true)? {
        known.push("b_D");
        arrays.vector("b_D", d)?
    } else {
        vec![0.0; d].into()
    };
    let function = config.text("act_fn").unwrap_or("relu");
    let rule = match function {
        "relu" => FlatRule::Relu,
        "topk" => FlatRule::Topk(Flat::checked_k(config.count("top_k")?, f, |why| config.wrong(why))?),
        "jumprelu" => {
            known.push(THRESHOLD);
            let mut threshold = arrays.vector(THRESHOLD, f)?;
            threshold.iter_mut().for_each(|t| *t = libm::exp(f64::from(*t)) as f32);
            FlatRule::Jumprelu(threshold)
        }
        other => {
            let why = format!("`act_fn`: expected relu, jumprelu or topk, found `{other}`");
            return Err(config.wrong(if other == "batchtopk" {
                format!("{why}, which depends on the batch: convert the model to jumprelu first")
            } else {
                why
            }));
        }
    };
    let mut flat = Flat::new(
        arrays.matrix_transposed("W_E", d, f)?,
        arrays.vector("b_E", f)?,
        arrays.matrix("W_D", f, d)?,
        b_dec,
        rule,
        false,
    );
    if config.flag("sparsity_include_decoder_norm", true)? {
        flat.compete_by_norms();
    }
    let hook = |key: &str| config.text(key).unwrap_or_default();
    let (hook_in, hook_out) = (hook("hook_point_in"), hook("hook_point_out"));
    if hook_in != hook_out && !hook_out.is_empty() {
        flat = flat.transcoder();
    }
    let unknown = arrays.arrays.keys().find(|name| !known.contains(&name.as_str()) && !name.starts_with(NORM));
    if let Some(name) = unknown {
        return Err(arrays.wrong(format_args!("it holds a tensor `{name}`, which its settings do not call for")));
    }
    let origin = Origin { hook: Some(hook_in).filter(|h| !h.is_empty()).map(ToOwned::to_owned), ..Origin::default() };
    Ok(match config.text("norm_activation").unwrap_or("dataset-wise") {
        "inference" => Parsed::flat(flat, origin),
        "token-wise" if hook_in == hook_out || hook_out.is_empty() => {
            flat.row_norm = RowNorm::Constant;
            Parsed::flat(flat, origin)
        }
        "dataset-wise" => {
            let scale = |hook: &str| -> Result<f32> {
                let norm = arrays.number(&format!("{NORM}{hook}"))?;
                if norm.is_finite() && norm > 0.0 {
                    return Ok((libm::sqrt(d as f64) / f64::from(norm)) as f32);
                }
                Err(arrays.wrong(format_args!("`{NORM}{hook}`: expected a norm above 0, found {norm}")))
            };
            flat.fold_scale(scale(hook_in)?, scale(if hook_out.is_empty() { hook_in } else { hook_out })?);
            Parsed::flat(flat, origin).scaled()
        }
        other => {
            let why = "`norm_activation`: expected dataset-wise, token-wise (of an autoencoder) or inference";
            return Err(config.wrong(format_args!("{why}, found `{other}`")));
        }
    })
}
