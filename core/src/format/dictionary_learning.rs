//! dictionary_learning: `ae.pt`, a pickle, and `config.json`, which names the class.
//!
//! | `dict_class` | arrays besides the encoder and the decoder | rule | encoder reads |
//! |---|---|---|---|
//! | `AutoEncoder` | `bias (d)` | relu; decoder rows are normalised, as by `from_pretrained` | `x - bias` |
//! | `AutoEncoderNew` | `decoder.bias (d)` | relu | `x` |
//! | `GatedAutoEncoder` | `decoder_bias (d)`, `r_mag`, `gate_bias`, `mag_bias (f)` | gated | `x - decoder_bias` |
//! | `AutoEncoderTopK` | `b_dec (d)`, `k`, `threshold` | topk; the threshold is not used | `x - b_dec` |
//! | `BatchTopKSAE` | `b_dec (d)`, `k`, `threshold` | one threshold | `x - b_dec` |
//! | `MatryoshkaBatchTopKSAE` | `b_dec (d)`, `k`, `threshold`, `group_sizes` | one threshold | `x - b_dec` |
//! | `JumpReluAutoEncoder` | `b_dec (d)`, `threshold (f)` | jumprelu | `x` |
//!
//! The last two have `W_enc (d, f)` and `W_dec (f, d)`, the others `encoder.weight (f, d)` and `decoder.weight (d, f)`.
//! Where rows were normalised in training, the biases and thresholds of the file have been converted to raw rows.
//! Without `config.json`, the names of the arrays tell the classes apart, except topk from batch-top-k. DeepSeek R1's
//! autoencoder has the arrays of `AutoEncoderNew`.

use super::arrays::{Arrays, Scalar};
use super::flat::{Flat, FlatRule};
use super::json::Settings;
use super::look::{Choices, Look, Parsed};
use super::origin::Origin;
use crate::error::Result;
use alloc::borrow::{Cow, ToOwned};
use alloc::format;
use alloc::string::String;

/// The prefix of the autoencoder's arrays in a checkpoint that also has the optimiser.
const NESTED: &str = "ae.";

/// Returns the arrays of the autoencoder itself.
fn inside<'a>(look: &'a Look<'_>) -> Cow<'a, Arrays> {
    look.arrays.below(NESTED).map_or(Cow::Borrowed(look.arrays), Cow::Owned)
}

fn trainer(look: &Look<'_>) -> Settings {
    look.settings.as_ref().map(|config| config.object("trainer")).unwrap_or_default()
}

/// Returns the class that `config.json` names.
fn named(look: &Look<'_>) -> Option<String> {
    trainer(look).text("dict_class").map(ToOwned::to_owned)
}

/// Returns the class, from `config.json` or the names of the arrays; empty if neither determines it.
fn class(look: &Look<'_>, arrays: &Arrays) -> String {
    if let Some(class) = named(look) {
        return class;
    }
    let has = |name: &str| arrays.has(name);
    let class = match () {
        () if has("gate_bias") => "GatedAutoEncoder",
        () if has("group_sizes") => "MatryoshkaBatchTopKSAE",
        () if has("W_enc") && has("threshold") => "JumpReluAutoEncoder",
        () if has("bias") => "AutoEncoder",
        () if has("decoder.bias") => "AutoEncoderNew",
        () => "",
    };
    class.to_owned()
}

/// Returns whether the arrays are those of a dictionary, of the class `wanted` if that is not empty.
pub(super) fn is_one(look: &Look<'_>, wanted: &str) -> bool {
    let arrays = inside(look);
    let encoder = (arrays.has("encoder.weight") && arrays.has("decoder.weight"))
        || (arrays.has_all(&["W_enc", "W_dec", "threshold"]));
    let is_pickle = !look.arrays.file.ends_with(".safetensors") && !look.arrays.file.ends_with(".npz");
    encoder && is_pickle && (wanted.is_empty() || class(look, &arrays) == wanted)
}

/// Returns the factor that rows were divided by in training, a number or a tensor of one, where a backup has it.
fn norm_factor(arrays: &Arrays) -> Result<Option<f64>> {
    const NAME: &str = "norm_factor";
    let factor = match arrays.values.get(NAME) {
        Some(Scalar::Float(factor)) => *factor,
        Some(Scalar::Int(factor)) => *factor as f64,
        Some(other) => return Err(arrays.wrong(format_args!("`{NAME}`: expected a number above 0, found {other:?}"))),
        None if arrays.has(NAME) => f64::from(arrays.number(NAME)?),
        None => return Ok(None),
    };
    if !(factor.is_finite() && factor > 0.0) {
        return Err(arrays.wrong(format_args!("`{NAME}`: expected a number above 0, found {factor}")));
    }
    Ok(Some(factor))
}

/// Reads the arrays as an `AutoEncoderTopK`, whatever class `config.json` has.
pub(super) fn read_topk(look: &Look<'_>, choices: &Choices) -> Result<Parsed> {
    read_class(look, choices, "AutoEncoderTopK")
}

/// Reads the arrays as a `BatchTopKSAE`, whatever class `config.json` has.
pub(super) fn read_batchtopk(look: &Look<'_>, choices: &Choices) -> Result<Parsed> {
    read_class(look, choices, "BatchTopKSAE")
}

/// Reads the class that `config.json` or the arrays determine.
pub(super) fn read(look: &Look<'_>, choices: &Choices) -> Result<Parsed> {
    let class = class(look, &inside(look));
    let parsed = read_class(look, choices, &class)?;
    Ok(if named(look).is_some() {
        parsed
    } else {
        parsed.note(format!(
            "no config.json names the class: by its arrays it is read as `{class}` of dictionary_learning"
        ))
    })
}

fn read_class(look: &Look<'_>, choices: &Choices, class: &str) -> Result<Parsed> {
    let arrays = &*inside(look);
    let linear = arrays.has("encoder.weight");
    let [f, d] = if linear {
        arrays.sizes("encoder.weight")?
    } else {
        let [d, f] = arrays.sizes("W_enc")?;
        [f, d]
    };
    let w_enc = || if linear { arrays.matrix("encoder.weight", f, d) } else { arrays.matrix_transposed("W_enc", d, f) };
    let w_dec = || if linear { arrays.matrix_transposed("decoder.weight", d, f) } else { arrays.matrix("W_dec", f, d) };
    let (encoder, decoder) = if linear { ("encoder.weight", "decoder.weight") } else { ("W_enc", "W_dec") };
    let bias = if linear { "encoder.bias" } else { "b_enc" };
    let make = |b_enc: &str, b_dec: &str, rule: FlatRule, centred: bool| -> Result<Flat> {
        Ok(Flat::new(w_enc()?, arrays.vector(b_enc, f)?, w_dec()?, arrays.vector(b_dec, d)?, rule, centred))
    };
    let (mut flat, more): (Flat, &[&str]) = match class {
        "AutoEncoder" => {
            let mut flat = make(bias, "bias", FlatRule::Relu, true)?;
            flat.fold_decoder_norms();
            (flat, &["bias"])
        }
        "AutoEncoderNew" => (make(bias, "decoder.bias", FlatRule::Relu, false)?, &["decoder.bias"]),
        "GatedAutoEncoder" => {
            let rule = FlatRule::Gated { r_mag: arrays.vector("r_mag", f)?, b_mag: arrays.vector("mag_bias", f)? };
            (make("gate_bias", "decoder_bias", rule, true)?, &["decoder_bias", "gate_bias", "mag_bias", "r_mag"])
        }
        "AutoEncoderTopK" => {
            let k = match arrays.has("k") {
                true => Some(arrays.number("k")? as u64),
                false => trainer(look).count("k")?,
            };
            let k = Flat::checked_k(k.or(choices.k), f, |why| arrays.wrong(why))?;
            (make(bias, "b_dec", FlatRule::Topk(k), true)?, &["b_dec", "k", "threshold"])
        }
        "BatchTopKSAE" | "MatryoshkaBatchTopKSAE" => {
            let rule = Flat::one_threshold(arrays.number("threshold")?, f);
            (make(bias, "b_dec", rule, true)?, &["b_dec", "k", "threshold", "group_sizes"])
        }
        "JumpReluAutoEncoder" => {
            let rule = FlatRule::Jumprelu(arrays.vector("threshold", f)?);
            (make(bias, "b_dec", rule, false)?, &["b_dec", "threshold"])
        }
        "" => {
            let why = "config.json is missing beside it, and topk and batch-top-k have the same arrays: say which it is \
                       with --from dictionary-learning-topk or --from dictionary-learning-batchtopk";
            return Err(arrays.wrong(why));
        }
        other => return Err(arrays.wrong(format_args!("the class `{other}` of dictionary_learning is not read"))),
    };
    let known: alloc::vec::Vec<&str> = [encoder, decoder, bias].into_iter().chain(more.iter().copied()).collect();
    arrays.only(&known, &format!("the class `{class}` of dictionary_learning"))?;

    let trainer = trainer(look);
    let context = look.settings.as_ref().and_then(|config| config.object("buffer").count("ctx_len").ok().flatten());
    let origin = Origin {
        model: trainer.text("lm_name").map(ToOwned::to_owned),
        hook: trainer.text("submodule_name").map(ToOwned::to_owned),
        context,
        ..Origin::default()
    };
    // A checkpoint with the optimiser is written during training, before the biases are converted to raw rows.
    let backup = look.arrays.below(NESTED).is_some();
    if let Some(factor) = norm_factor(look.arrays)?.filter(|_| backup) {
        let by = factor as f32;
        for tensor in [&mut flat.b_enc, &mut flat.b_dec] {
            tensor.iter_mut().for_each(|v| *v *= by);
        }
        if let FlatRule::Jumprelu(bias) | FlatRule::Gated { b_mag: bias, .. } = &mut flat.rule {
            bias.iter_mut().for_each(|v| *v *= by);
        }
        return Ok(Parsed::flat(flat, origin).note(format!(
            "a backup of a training: its biases are multiplied by the norm factor {factor}, as dictionary_learning does at \
             the end"
        )));
    }
    Ok(Parsed::flat(flat, origin))
}
