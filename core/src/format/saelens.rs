//! A model of SAELens: `cfg.json` and `sae_weights.safetensors`, the same file names as those of Strata's own models.
//!
//! | `architecture` | tensors besides `W_enc (d, f)`, `W_dec (f, d_out)`, `b_dec (d_out)` | becomes |
//! |---|---|---|
//! | `standard` | `b_enc` | relu |
//! | `topk`, with `k` | `b_enc` | topk; with `rescale_acts_by_decoder_norm` the norms of decoder rows move into the encoder |
//! | `abstopk`, with `k` | `b_enc` | the same by absolute value |
//! | `jumprelu`, as `batchtopk` and `matryoshka_batchtopk` are saved too | `b_enc`, `threshold` | jumprelu |
//! | `batchtopk`, `matryoshka_batchtopk`: checkpoints of a training | `b_enc`, `topk_threshold` | jumprelu |
//! | `gated` | `b_gate`, `r_mag`, `b_mag` | gated |
//! | `transcoder`, `jumprelu_transcoder` | `b_enc`, `threshold` | a transcoder |
//! | `skip_transcoder`, `jumprelu_skip_transcoder` | the same, and `W_skip (d_out, d)` | a transcoder with a skip connection |
//! | `strata`, which `saelens_strata.py` registers | see `saelens_levels.rs` | a model of two levels |
//!
//! Latents have the values that SAELens gives them, so decoder rows keep their norms. An encoder reads `x - b_dec`
//! unless `apply_b_dec_to_input` is false. Of the values of `normalize_activations`, `layer_norm` and
//! `constant_norm_rescale` normalise each row by itself; SAELens does not apply the others once a model is saved.
//!
//! Before version 6, settings of the model and of its training were in one object, and the architecture `topk` was
//! `standard` with the activation function `topk`.

use super::arrays::Arrays;
use super::flat::{Flat, FlatRule};
use super::json::Settings;
use super::look::{Choices, Look, Parsed};
use super::saelens_levels;
use super::saelens_settings::{AVERAGE, normalisation, origin};
use super::saelens_writer::TREE;
use crate::error::Result;
use alloc::format;
use alloc::vec::Vec;

/// Architectures of SAELens that a model of this crate cannot represent, and why.
const REFUSED: [(&str, &str); 2] = [
    (
        "matching_pursuit",
        "each latent is chosen on the residual of those before it, in a number of steps that depends on the row",
    ),
    ("temporal", "latents depend on earlier rows"),
];
/// The architectures that are read, for a message.
const READ: &str = "`standard`, `topk`, `abstopk`, `jumprelu`, `gated`, `transcoder`, `skip_transcoder`, \
                    `jumprelu_transcoder` or `jumprelu_skip_transcoder`";

/// Returns whether `cfg` has the fields of a configuration of SAELens.
pub(super) fn is_one(cfg: &Settings) -> bool {
    !cfg.has("format") && cfg.has("d_in") && cfg.has("d_sae")
}

/// Reads a model from a directory.
pub(super) fn read_look(look: &Look<'_>, choices: &Choices) -> Result<Parsed> {
    read(look.settings("SAELens")?, look.arrays, choices)
}

/// Reads a model.
pub(super) fn read(cfg: &Settings, arrays: &Arrays, choices: &Choices) -> Result<Parsed> {
    let (d, f) = (cfg.size("d_in")?, cfg.size("d_sae")?);
    let activation = cfg.first_text(&["activation_fn", "activation_fn_str"]).unwrap_or("relu");
    let named = cfg.text("architecture").unwrap_or("standard");
    // See the module: files from before version 6.
    let architecture = if named == "standard" && activation == "topk" { "topk" } else { named };
    if architecture == TREE {
        return saelens_levels::read_tree(cfg, arrays);
    }
    if let Some((_, why)) = REFUSED.iter().find(|(name, _)| *name == architecture) {
        return Err(cfg.wrong(format_args!("the architecture `{architecture}` is not read: {why}")));
    }
    let plain = architecture.strip_prefix("jumprelu_").unwrap_or(architecture);
    let is_transcoder = matches!(plain, "transcoder" | "skip_transcoder");
    let has_thresholds = architecture.starts_with("jumprelu");
    let bias = if architecture == "gated" { "b_gate" } else { "b_enc" };
    let mut known: Vec<&str> = alloc::vec!["W_enc", "W_dec", "b_dec", bias];
    let k = || {
        let k = cfg.count("k")?.map_or_else(|| cfg.object("activation_fn_kwargs").count("k"), |k| Ok(Some(k)))?;
        Flat::checked_k(k.or(choices.k), f, |why| cfg.wrong(why))
    };
    let rule = match architecture {
        // A checkpoint of a training. The model that is saved at the end has the norms and the threshold folded in.
        "batchtopk" | "matryoshka_batchtopk" => {
            known.push("topk_threshold");
            Flat::one_threshold(arrays.number("topk_threshold")?, f)
        }
        "topk" => FlatRule::Topk(k()?),
        "abstopk" => FlatRule::AbsTopk(k()?),
        "gated" => {
            known.extend(["r_mag", "b_mag"]);
            FlatRule::Gated { r_mag: arrays.vector("r_mag", f)?, b_mag: arrays.vector("b_mag", f)? }
        }
        _ if has_thresholds && (architecture == "jumprelu" || is_transcoder) => {
            known.push("threshold");
            FlatRule::Jumprelu(arrays.vector("threshold", f)?)
        }
        "standard" | "transcoder" | "skip_transcoder" => {
            if activation != "relu" {
                return Err(cfg.wrong(format_args!("the activation function `{activation}` is not read")));
            }
            FlatRule::Relu
        }
        other => return Err(cfg.wrong(format_args!("`architecture`: expected {READ}, found `{other}`"))),
    };
    let d_out = if is_transcoder { cfg.size("d_out")? } else { d };
    let w_dec = arrays.matrix("W_dec", f, d_out)?;
    let centred = cfg.flag("apply_b_dec_to_input", true)?;
    let w_enc = arrays.matrix_transposed("W_enc", d, f)?;
    let mut flat = Flat::new(w_enc, arrays.vector(bias, f)?, w_dec, arrays.vector("b_dec", d_out)?, rule, centred);
    if is_transcoder {
        flat = flat.transcoder();
    }
    if plain == "skip_transcoder" {
        known.push("W_skip");
        flat.w_skip = Some(arrays.matrix("W_skip", d_out, d)?);
    }
    if arrays.has("scaling_factor") {
        // SAELens drops this tensor if it is all ones, and refuses it otherwise.
        if arrays.get("scaling_factor")?.to_f32()?.iter().any(|v| (v - 1.0).abs() > 1e-5) {
            return Err(
                arrays.wrong("it holds a tensor `scaling_factor` that is not all ones, which SAELens refuses too")
            );
        }
        known.push("scaling_factor");
    }
    arrays.only(&known, &format!("the architecture `{architecture}` of SAELens"))?;
    let in_training = architecture.ends_with("batchtopk");
    if architecture.ends_with("topk") && cfg.flag("rescale_acts_by_decoder_norm", in_training)? {
        // The threshold of a checkpoint already applies to latents times the norms.
        let threshold = in_training.then(|| flat.rule.clone());
        flat.fold_decoder_norms();
        flat.rule = threshold.unwrap_or(flat.rule);
    }

    let (row_norm, normalised) = normalisation(cfg)?;
    flat.row_norm = row_norm;
    let parsed = Parsed::flat(flat, origin(cfg));
    Ok(match normalised {
        AVERAGE if choices.norm_scaling_factor.is_none() => parsed.note(
            "cfg.json says that rows were scaled to an average norm (expected_average_only_in), and no file holds the \
             factor: rows are taken as they are, as SAELens' load_from_disk does; if SAE.from_pretrained knows a factor for \
             this model, give it with --norm-scaling-factor",
        ),
        "covariance_whitening" => parsed.note(
            "cfg.json says that rows were whitened (covariance_whitening), and no file holds how: rows are taken as they \
             are, as SAELens does",
        ),
        _ => parsed,
    })
}
