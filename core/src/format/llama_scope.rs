//! Llama Scope: `hyperparams.json` and `checkpoints/final.safetensors`; and Llama Scope R1 Distill: `config.json` and
//! `sae_weights.safetensors`. Both hold `encoder.weight (f, d)`, `encoder.bias (f)`, `decoder.weight (d, f)`,
//! `decoder.bias (d)`, and their encoders read rows as they are.
//!
//! Llama Scope has one threshold for all latents, and scaled its rows by `s = sqrt(d) / m`, with `m` the mean norm in
//! `dataset_average_activation_norm`. As SAELens does, the scale is folded in, and the threshold is `s` times that of
//! the file; latents are in the units of scaled rows. R1 Distill has `log_jumprelu_threshold (f)` and no scale.

use super::flat::{Flat, FlatRule};
use super::json::Settings;
use super::look::{Choices, Look, Parsed};
use super::origin::Origin;
use crate::error::Result;
use alloc::borrow::ToOwned;
use alloc::string::String;
use alloc::vec::Vec;

const NAMES: [&str; 4] = ["encoder.weight", "encoder.bias", "decoder.weight", "decoder.bias"];
const THRESHOLD: &str = "log_jumprelu_threshold";
const NORM: &str = "dataset_average_activation_norm";

fn flat(look: &Look<'_>, rule: FlatRule, f: usize, d: usize) -> Result<Flat> {
    let arrays = look.arrays;
    let [w_enc, b_enc, w_dec, b_dec] = NAMES;
    Ok(Flat::new(
        arrays.matrix(w_enc, f, d)?,
        arrays.vector(b_enc, f)?,
        arrays.matrix_transposed(w_dec, d, f)?,
        arrays.vector(b_dec, d)?,
        rule,
        false,
    ))
}

fn origin(config: &Settings) -> Origin {
    Origin { hook: config.text("hook_point_in").map(ToOwned::to_owned), ..Origin::default() }
}

/// Reads a model of Llama Scope.
pub(super) fn read(look: &Look<'_>, choices: &Choices) -> Result<Parsed> {
    let config = look.settings("Llama Scope")?;
    let [f, d] = look.arrays.sizes("encoder.weight")?;
    look.arrays.only(&NAMES, "Llama Scope")?;
    let mean = config.object(NORM);
    let norm = |key: &str| -> Result<Option<f32>> {
        let norm = mean.number(key)?.filter(|n| *n > 0.0);
        Ok(norm.map(|n| (libm::sqrt(d as f64) / n) as f32))
    };
    let Some(scale) = choices.norm_scaling_factor.map_or_else(|| norm("in"), |s| Ok(Some(s)))? else {
        return Err(config.wrong(
            "`dataset_average_activation_norm`: expected a number above 0 for `in`: give the scale of the rows with \
             --norm-scaling-factor",
        ));
    };
    let function = config.text("act_fn").unwrap_or("jumprelu");
    let rule = match function {
        "jumprelu" => match config.number("jump_relu_threshold")? {
            Some(threshold) => Flat::one_threshold((threshold * f64::from(scale)) as f32, f),
            None => return Err(config.wrong("`jump_relu_threshold` is missing")),
        },
        "relu" => FlatRule::Relu,
        "topk" => FlatRule::Topk(Flat::checked_k(config.count("top_k")?, f, |why| config.wrong(why))?),
        other => return Err(config.wrong(format_args!("`act_fn`: expected jumprelu, relu or topk, found `{other}`"))),
    };
    let mut flat = flat(look, rule, f, d)?;
    let mut notes = Vec::new();
    if config.flag("apply_decoder_bias_to_pre_encoder", false)? {
        flat.centred = true;
        notes.push(
            "hyperparams.json says `apply_decoder_bias_to_pre_encoder`: the encoder reads x - b_dec, which SAELens' converter \
             leaves out"
                .to_owned(),
        );
    }
    if function == "topk" && config.flag("sparsity_include_decoder_norm", false)? {
        flat.compete_by_norms();
    }
    if choices.norm_scaling_factor.is_some() {
        // `Parsed::finish` folds in the scale that the user gives.
        return Ok(Parsed { notes, ..Parsed::flat(flat, origin(config)) });
    }
    flat.fold_scale(scale, scale);
    Ok(Parsed { notes, ..Parsed::flat(flat, origin(config)).scaled() })
}

/// Reads a model of Llama Scope R1 Distill.
pub(super) fn read_r1(look: &Look<'_>, choices: &Choices) -> Result<Parsed> {
    let [f, d] = look.arrays.sizes("encoder.weight")?;
    let [w_enc, b_enc, w_dec, b_dec] = NAMES;
    let known = [w_enc, b_enc, w_dec, b_dec, THRESHOLD];
    let is_known = |name: &&String| known.contains(&name.as_str()) || name.starts_with(NORM);
    if let Some(name) = look.arrays.arrays.keys().find(|name| !is_known(name)) {
        return Err(look.arrays.wrong(format_args!("it holds a tensor `{name}`, which Llama Scope R1 does not have")));
    }
    let mut threshold = look.arrays.vector(THRESHOLD, f)?;
    threshold.iter_mut().for_each(|t| *t = libm::exp(f64::from(*t)) as f32);
    let flat = flat(look, FlatRule::Jumprelu(threshold), f, d)?;
    let parsed = Parsed::flat(flat, look.settings.as_ref().map(origin).unwrap_or_default());
    Ok(if choices.norm_scaling_factor.is_some() {
        parsed
    } else {
        parsed.note(
            "rows of Llama Scope R1 were scaled to an average norm: they are taken as they are, as SAELens' converter does; \
             the factor that SAE.from_pretrained folds in stands in its list, and is given with --norm-scaling-factor",
        )
    })
}
