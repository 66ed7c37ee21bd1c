//! A model as SAELens saves it: `cfg.json` and `sae_weights.safetensors` under the same names as ours, of one level.
//!
//! | `architecture` | tensors besides `W_enc (d, f)`, `W_dec (f, d)`, `b_dec (d)` | becomes |
//! |---|---|---|
//! | `standard` | `b_enc` | relu |
//! | `topk`, with `k` | `b_enc` | topk; with `rescale_acts_by_decoder_norm` the norms of decoder rows go to the encoder |
//! | `jumprelu`, as `batchtopk` and `matryoshka_batchtopk` are saved too | `b_enc`, `threshold` | jumprelu |
//! | `gated` | `b_gate`, `r_mag`, `b_mag` | gated |
//!
//! Latents have the values that SAELens gives them: decoder rows keep their norms where that changes nothing. An encoder
//! that reads `x` rather than `x - b_dec` (`apply_b_dec_to_input = false`) gets `W_enc b_dec` in its bias.

use super::weights::{Origin, find, floats, reserved};
use crate::config::{Activation, Decoder, GateKind, ModelKind, Source};
use crate::error::{Error, Result};
use crate::kernel::{Isa, reduce};
use crate::model::{Arch, LevelArch, Model, Tensor};
use crate::rows::Dtype;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;
use serde::Deserialize;

/// `cfg.json`. Before version 6 the metadata lay at the top, and an activation function took the place of `topk`.
#[derive(Deserialize)]
struct Cfg {
    d_in: usize,
    d_sae: usize,
    architecture: Option<String>,
    apply_b_dec_to_input: Option<bool>,
    normalize_activations: Option<serde_json::Value>,
    rescale_acts_by_decoder_norm: Option<bool>,
    k: Option<u64>,
    #[serde(alias = "activation_fn_str")]
    activation_fn: Option<String>,
    activation_fn_kwargs: Option<Kwargs>,
    metadata: Option<Metadata>,
    #[serde(flatten)]
    top: Metadata,
}

#[derive(Deserialize)]
struct Kwargs {
    k: Option<u64>,
}

#[derive(Deserialize)]
struct Metadata {
    model_name: Option<String>,
    #[serde(alias = "hook_point")]
    hook_name: Option<String>,
    context_size: Option<u64>,
}

/// Reads a model. The tensors that are taken as they lie are made by `tensor`.
pub(super) fn read(
    cfg: &[u8],
    weights: &[u8],
    tensor: impl Fn(&TensorView<'_>, Dtype) -> Result<Tensor>,
) -> Result<(Model, Origin)> {
    let cfg: Cfg = serde_json::from_slice(cfg).map_err(|e| Error::format(0, format!("cfg.json of SAELens: {e}")))?;
    let wrong = |what: String| Err(Error::format(0, format!("cfg.json of SAELens: {what}")));
    let (d, f) = (cfg.d_in, cfg.d_sae);
    for (what, n) in [("d_in", d), ("d_sae", f)] {
        if n == 0 || n >= u32::MAX as usize {
            return wrong(format!("`{what}` must be between 1 and {}, found {n}", u32::MAX - 1));
        }
    }
    // A flag, or the name of a scalar that was meant to be folded: SAELens does nothing with either.
    if let Some(serde_json::Value::String(name)) = &cfg.normalize_activations
        && !matches!(name.as_str(), "none" | "expected_average_only_in")
    {
        return wrong(format!("`normalize_activations`: expected rows that are taken as they are, found `{name}`"));
    }
    let topk = cfg.activation_fn.as_deref() == Some("topk");
    let architecture = cfg.architecture.as_deref().unwrap_or("standard");
    let activation = match architecture {
        "standard" if topk => Activation::Topk,
        "standard" => Activation::Relu,
        "topk" => Activation::Topk,
        "jumprelu" => Activation::Jumprelu,
        "gated" => Activation::Gated,
        other => {
            let expected = "expected `standard`, `topk`, `jumprelu` or `gated`";
            return wrong(format!("`architecture`: {expected}, found `{other}`"));
        }
    };
    let k = cfg.k.or(cfg.activation_fn_kwargs.and_then(|kwargs| kwargs.k));
    let k = match (activation, k) {
        (Activation::Topk, Some(k)) if k > 0 => k as f64,
        (Activation::Topk, k) => return wrong(format!("`k`: expected at least 1, found {}", k.unwrap_or(0))),
        // How many fire on average is not said; no more than there are.
        _ => f as f64,
    };
    let arch = Arch {
        model: ModelKind::Tree,
        d,
        level: [
            LevelArch { latents: f, activation, k },
            LevelArch { latents: 0, activation: Activation::Relu, k: 1.0 },
        ],
        source: Source::X,
        decoder: Decoder::Cum,
        gate: GateKind::None,
    };

    let file =
        SafeTensors::deserialize(weights).map_err(|e| Error::format(0, format!("sae_weights.safetensors: {e}")))?;
    let mut model = Model { arch, params: Default::default(), parents: Vec::new(), tau: [0.0; 2] };
    let p = &mut model.params;
    let vector = |name: &str| {
        let (view, dtype) = floats(&file, name, f as u128)?;
        tensor(&view, dtype)
    };
    let matrix = |name: &str, shape: [usize; 2]| {
        let (view, dtype) = floats(&file, name, d as u128 * f as u128)?;
        if view.shape() != shape {
            return Err(Error::format(0, format!("tensor `{name}`: expected {shape:?}, found {:?}", view.shape())));
        }
        tensor(&view, dtype)
    };
    let (view, dtype) = floats(&file, "b_dec", d as u128)?;
    p.b_dec = tensor(&view, dtype)?;
    p.level[0].w_dec = matrix("W_dec", [f, d])?;
    p.level[0].w_enc = transposed(&matrix("W_enc", [d, f])?, d, f)?.into();
    let bias = if activation == Activation::Gated { "b_gate" } else { "b_enc" };
    let mut known = alloc::vec!["b_dec", "W_dec", "W_enc", bias];
    p.level[0].b_enc = vector(bias)?;
    match activation {
        Activation::Jumprelu => {
            known.push("threshold");
            p.level[0].threshold = vector("threshold")?;
            // There a relu comes first: below 0 nothing fires.
            p.level[0].threshold.iter_mut().for_each(|t| *t = t.max(0.0));
        }
        Activation::Gated => {
            known.extend(["r_mag", "b_mag"]);
            p.level[0].r_mag = vector("r_mag")?;
            p.level[0].b_mag = vector("b_mag")?;
            // There the magnitude is e^r times the product without a bias, here e^r times the pre-activation with it.
            for j in 0..f {
                let (r, b) = (p.level[0].r_mag[j], p.level[0].b_enc[j]);
                p.level[0].b_mag[j] -= libm::expf(r) * b;
            }
        }
        _ => {}
    }
    check_names(&file, &known)?;
    let isa = Isa::default();
    if cfg.apply_b_dec_to_input == Some(false) {
        for j in 0..f {
            let shift = reduce::dot(isa, &p.level[0].w_enc[j * d..(j + 1) * d], &p.b_dec);
            p.level[0].b_enc[j] += shift;
        }
    }
    if activation == Activation::Topk && cfg.rescale_acts_by_decoder_norm == Some(true) {
        fold_norms(isa, &mut model);
    }
    model.check()?;
    let meta = cfg.metadata.unwrap_or(cfg.top);
    let origin =
        Origin { model: meta.model_name, hook: meta.hook_name, context: meta.context_size, ..Default::default() };
    Ok((model, origin))
}

/// Whether `cfg` is a configuration of SAELens, as far as its fields say.
pub(super) fn is_one(cfg: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Probe {
        #[serde(default)]
        format: Option<serde::de::IgnoredAny>,
        #[serde(rename = "d_in")]
        _d_in: serde::de::IgnoredAny,
        #[serde(rename = "d_sae")]
        _d_sae: serde::de::IgnoredAny,
    }
    serde_json::from_slice::<Probe>(cfg).is_ok_and(|probe| probe.format.is_none())
}

/// Refuses tensors that would change what the model computes. A `scaling_factor` of ones does not.
fn check_names(file: &SafeTensors<'_>, known: &[&str]) -> Result<()> {
    // In the order of names: those of a file have none.
    let mut names = file.names();
    names.sort_unstable();
    for name in names {
        if known.contains(&name) {
            continue;
        }
        if name == "scaling_factor" {
            let view = find(file, name)?;
            let (view, dtype) = floats(file, name, view.shape().iter().map(|n| *n as u128).product())?;
            if super::weights::widened(&view, dtype)?.iter().all(|v| *v == 1.0) {
                continue;
            }
        }
        let why =
            format!("sae_weights.safetensors holds a tensor `{name}` that this architecture of SAELens does not have");
        return Err(Error::format(0, why));
    }
    Ok(())
}

/// `(d, f)` as `(f, d)`, in tiles.
fn transposed(w: &[f32], d: usize, f: usize) -> Result<Vec<f32>> {
    const TILE: usize = 32;
    let mut out = reserved(w.len())?;
    out.resize(w.len(), 0.0);
    for first in (0..d).step_by(TILE) {
        for (j, row) in out.chunks_exact_mut(d).enumerate() {
            for (c, v) in row[first..d.min(first + TILE)].iter_mut().enumerate() {
                *v = w[(first + c) * f + j];
            }
        }
    }
    Ok(out)
}

/// `n_j = |W_dec_j|`; `W_enc_j` and `b_enc_j` times `n_j`, `W_dec_j` over it: latents compete by what they add.
fn fold_norms(isa: Isa, model: &mut Model) {
    let (d, p) = (model.arch.d, &mut model.params);
    for j in 0..model.arch.level[0].latents {
        let norm = libm::sqrtf(reduce::sum_squares(isa, &p.level[0].w_dec[j * d..(j + 1) * d])).max(1e-8);
        // Norms of 1, as SAELens folds them on saving, leave the rows as they lie.
        if (norm - 1.0).abs() < 1e-6 {
            continue;
        }
        reduce::scale(isa, norm, &mut p.level[0].w_enc[j * d..(j + 1) * d]);
        p.level[0].b_enc[j] *= norm;
        p.level[0].w_dec[j * d..(j + 1) * d].iter_mut().for_each(|v| *v /= norm);
    }
}
