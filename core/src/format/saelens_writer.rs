//! Writes a model for SAELens 6: `cfg.json` and `sae_weights.safetensors`, for its `load_from_disk`.
//!
//! | part | latents | exact where |
//! |---|---|---|
//! | level 1 | those of level 1: `x_hat1` | always |
//! | level 2 | those of level 2 | it reads `x`, without a gate, and reconstructs by itself (decoder ind or comp) |
//! | both | level 1, then level 2 (`f1 + j`): `x_hat2` | it reads `x`, without a gate, decoder cum, not topk in both |
//! | tree | the same with families and activations of each level | decoder cum, source `x`, no soft gate |
//!
//! `tree` is an architecture of its own, which `saelens_strata.py` registers with SAELens. The other parts become
//! architectures of SAELens: relu `standard`, topk `topk`, batch-top-k `jumprelu` with one threshold, gated `gated`
//! with `b_mag + e^r b_enc`. What SAELens cannot represent is refused, or written inexactly and listed in
//! [`Written::losses`]. `saelens_levels.rs` reads `tree` and `both` back as two levels.

use super::origin::Origin;
use crate::activation::Activation;
use crate::compute::Compute;
use crate::config::ModelKind;
use crate::error::{Error, Result};
use crate::gate::ROOT;
use crate::kernel::fire::Limit;
use crate::kernel::{Isa, dense, reduce};
use crate::model::{LevelArch, Model, TopkBy};
use crate::par::Par;
use crate::row_norm::RowNorm;
use crate::rows::Dtype;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;
use safetensors::tensor::TensorView;
use serde_json::{Map, Value, json};

/// The version of SAELens whose format the files have; SAELens reads lower versions as its older formats.
const LENS_VERSION: &str = "6.0.0";
/// The architecture of [`Part::Tree`].
pub const TREE: &str = "strata";

/// Which latents are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Level 1.
    Level1,
    /// Level 2.
    Level2,
    /// Both levels side by side, as one level.
    Both,
    /// Both levels with gate and families.
    Tree,
}

/// Metadata that SAELens wants beside the weights.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metadata {
    /// The language model, by its name on the Hugging Face hub.
    pub model: Option<String>,
    /// The hook point.
    pub hook: Option<String>,
    /// Tokens per sequence.
    pub context: Option<u64>,
    /// Whether sequences begin with a special token.
    pub prepend_bos: Option<bool>,
    /// The data set.
    pub dataset: Option<String>,
}

/// The files, and in what they differ from the model.
#[derive(Clone, Debug, PartialEq)]
pub struct Written {
    /// `cfg.json`.
    pub cfg: Vec<u8>,
    /// `sae_weights.safetensors`.
    pub weights: Vec<u8>,
    /// What is not exact, one sentence each.
    pub losses: Vec<String>,
    /// Keys of the metadata that SAELens needs for some uses and whose values are not known.
    pub missing: Vec<&'static str>,
}

/// One level by itself: `u = xt W + b` and the rule of its latents.
struct Level {
    activation: Activation,
    k: usize,
    rule: LevelRule,
    /// `(f, d)`.
    encoder: Vec<f32>,
    bias: Vec<f32>,
    /// `(f, d_out)`.
    decoder: Vec<f32>,
    threshold: Vec<f32>,
    r_mag: Vec<f32>,
    b_mag: Vec<f32>,
    /// `b_mag` in the convention of this crate: added to `e^r` times the pre-activation with its bias.
    offset: Vec<f32>,
}

/// The rules that SAELens has classes for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum LevelRule {
    /// A pre-activation above 0 fires.
    Relu,
    /// A pre-activation above a threshold fires.
    Threshold,
    /// A fixed number of latents per row fires.
    Count,
    /// A gate decides what fires, and a separate magnitude is the value.
    Gate,
}

impl Level {
    fn new(model: &Model, level: usize) -> Self {
        let (arch, p) = (&model.arch, &model.params.level[level]);
        let LevelArch { latents: f, activation, k } = arch.level[level];
        let mut decoder =
            if level == 0 { p.w_dec.to_vec() } else { model.decoder2(Compute::new(Isa::default(), Par::Seq)) };
        if level == 0 && arch.variant.scale {
            for (row, scale) in decoder.chunks_exact_mut(arch.d_out()).zip(&p.scale) {
                row.iter_mut().for_each(|v| *v *= scale);
            }
        }
        let (rule, threshold) = match model.rule(level).limit() {
            Limit::Topk(_) => (LevelRule::Count, vec![0.0; f]),
            _ if !p.r_mag.is_empty() => (LevelRule::Gate, vec![0.0; f]),
            Limit::Above(t) if t <= 0.0 && !activation.has_tau() => (LevelRule::Relu, vec![0.0; f]),
            Limit::Above(t) => (LevelRule::Threshold, vec![t.max(0.0); f]),
            Limit::AboveEach(t) => (LevelRule::Threshold, t.iter().map(|t| t.max(0.0)).collect()),
        };
        let (mut r_mag, mut b_mag, bias) = (p.r_mag.to_vec(), p.b_mag.to_vec(), p.b_enc.to_vec());
        let offset = if rule == LevelRule::Gate { b_mag.clone() } else { bias.clone() };
        if rule == LevelRule::Gate {
            // SAELens' magnitude is e^r times the product without the bias of the gate; ours has this bias inside.
            for (b, (r, bias)) in b_mag.iter_mut().zip(r_mag.iter().zip(&bias)) {
                *b += libm::expf(*r) * bias;
            }
        } else {
            // A threshold as a gated rule: 1[u - t > 0] max(u, 0).
            (r_mag, b_mag) = (vec![0.0; f], bias.clone());
        }
        let encoder = p.w_enc.to_vec();
        Self { activation, k: k as usize, rule, encoder, bias, decoder, threshold, r_mag, b_mag, offset }
    }

    fn latents(&self) -> usize {
        self.bias.len()
    }
}

/// The tensors and settings so far.
struct Draft<'a> {
    tensors: Vec<(&'a str, Vec<usize>, Vec<f32>)>,
    settings: Map<String, Value>,
}

impl<'a> Draft<'a> {
    fn add(&mut self, name: &'a str, shape: Vec<usize>, data: Vec<f32>) {
        self.tensors.push((name, shape, data));
    }
}

/// Returns a vector of both levels, concatenated.
fn joined(levels: &[Level], of: impl Fn(&Level) -> &[f32]) -> Vec<f32> {
    levels.iter().flat_map(|level| of(level).iter().copied()).collect()
}

/// Returns the error for a model that SAELens cannot represent at all.
#[cold]
fn impossible<T>(what: &str) -> Result<T> {
    Err(Error::config("part", what))
}

/// Returns the files for `part` of `model`, with numbers of type `dtype`.
///
/// # Errors
/// [`Error::Config`] for a model that SAELens has no class for. A model that SAELens can represent only inexactly is
/// written, with the differences in [`Written::losses`].
pub fn write(model: &Model, origin: &Origin, metadata: &Metadata, part: Part, dtype: Dtype) -> Result<Written> {
    model.check()?;
    let arch = &model.arch;
    let mut losses = Vec::new();
    if arch.model == ModelKind::Seed {
        return impossible("SAELens has no class for the seed model, which has gates on both levels");
    }
    // A model of one level has only this part.
    let part = if arch.n_levels() == 1 { Part::Level1 } else { part };
    let chosen = match part {
        Part::Level1 => &[0usize][..],
        Part::Level2 => &[1],
        Part::Both | Part::Tree => &[0, 1],
    };
    if part == Part::Tree && arch.variant.target.is_some() {
        return impossible("SAELens has no class for a transcoder with families, and saelens_strata.py registers none");
    }
    if part == Part::Tree && arch.level[0].latents >= (1 << 24) - 1 {
        return impossible(
            "expected fewer than 2^24 - 1 latents of level 1, since parents are written as numbers of 24 bits",
        );
    }
    if chosen.iter().any(|l| arch.variant.prune[*l] > 0.0) {
        losses.push(
            "latents that only repeat others are pruned after encoding (`prune`): there they stay active, and L0 is higher".into(),
        );
    }
    let levels: Vec<Level> = chosen.iter().map(|l| Level::new(model, *l)).collect();
    if part != Part::Level1 {
        two_levels(model, part, &mut losses)?;
    }
    let mut draft = Draft { tensors: Vec::new(), settings: Map::new() };
    let architecture = match part {
        Part::Tree => tree(model, &levels, &mut draft),
        _ => flat(model, &levels, &mut draft, &mut losses)?,
    };
    let (d, d_out, f) = (arch.d, arch.d_out(), levels.iter().map(Level::latents).sum::<usize>());
    let mut encoder = joined(&levels, |level| &level.encoder);
    if part != Part::Level1 && !arch.source.is_activations() {
        encoder = rows_through_level1(model, &levels, &mut draft)?;
    }
    draft.add("W_enc", vec![d, f], dense::transposed(&encoder, f, d));
    draft.add("W_dec", vec![f, d_out], joined(&levels, |level| &level.decoder));
    draft.add("b_dec", vec![d_out], model.params.b_dec.to_vec());

    let (written, missing) = described(model, origin, metadata, part, &losses);
    let settings = json!({
        "architecture": architecture, "d_in": d, "d_sae": f, "dtype": name_of(dtype), "device": "cpu",
        "apply_b_dec_to_input": !arch.variant.raw_input,
        "normalize_activations": match arch.variant.row_norm {
            RowNorm::None => "none",
            RowNorm::Layer => "layer_norm",
            RowNorm::Constant => "constant_norm_rescale",
        },
        "reshape_activations": "none", "metadata": written,
    });
    if let Value::Object(map) = settings {
        draft.settings.extend(map);
    }
    if arch.variant.target.is_some() {
        draft.settings.insert("d_out".into(), json!(d_out));
    }
    let mut cfg = serde_json::to_vec_pretty(&draft.settings).unwrap_or_default();
    cfg.push(b'\n');
    Ok(Written { cfg, weights: serialised(&draft.tensors, dtype)?, losses, missing })
}

fn name_of(dtype: Dtype) -> &'static str {
    match dtype {
        Dtype::F32 => "float32",
        Dtype::F16 => "float16",
        Dtype::Bf16 => "bfloat16",
    }
}

/// Adds the losses of level 2 that come from its connection to level 1, which SAELens cannot represent.
fn two_levels(model: &Model, part: Part, losses: &mut Vec<String>) -> Result<()> {
    let arch = &model.arch;
    if !arch.source.is_parallel() {
        losses.push(if arch.source.is_activations() {
            "level 2 reads the residual of level 1, but every encoder of SAELens reads the row itself: in SAELens, latents of level 2 \
             also fire on what level 1 has explained"
                .into()
        } else {
            "level 2 reads the latents of level 1, but every encoder of SAELens reads the row itself: in SAELens, level 2 reads all \
             pre-activations of level 1, whether they fire or not"
                .into()
        });
    }
    if arch.gate.has_weights() {
        losses.push(format!(
            "SAELens has no gate between levels (`{}`): in SAELens, latents of level 2 have the values that they would have without \
             the gate",
            arch.gate
        ));
    }
    if arch.gate.has_families() && part != Part::Tree {
        losses.push(format!(
            "SAELens has no gate between levels (`{}`): in SAELens, children also fire without their parents; --part tree keeps the \
             families, with a class that saelens_strata.py registers",
            arch.gate
        ));
    }
    match (part, arch.decoder.is_cumulative()) {
        (Part::Both | Part::Tree, false) => losses.push(format!(
            "with the decoder `{}` level 2 reconstructs by itself, but SAELens adds the decoder rows of all latents",
            arch.decoder
        )),
        (Part::Level2, true) => losses.push(format!(
            "with the decoder `{}` level 2 refines what level 1 reconstructs: alone it reconstructs a part of the row",
            arch.decoder
        )),
        (Part::Level1, _) | (Part::Level2, false) | (Part::Both | Part::Tree, true) => {}
    }
    Ok(())
}

/// Adds the tensors and settings of the levels side by side, and returns the architecture of SAELens that has them.
fn flat<'a>(model: &Model, levels: &[Level], draft: &mut Draft<'a>, losses: &mut Vec<String>) -> Result<&'static str> {
    let variant = &model.arch.variant;
    let f: usize = levels.iter().map(Level::latents).sum();
    let topk = levels.iter().filter(|level| level.rule == LevelRule::Count).count();
    let gated = levels.iter().any(|level| level.rule == LevelRule::Gate);
    let relu = levels.iter().all(|level| level.rule == LevelRule::Relu);
    if variant.scale {
        losses.push(
            "latents compete by the pre-activation times the norm of the decoder row: in SAELens, their values have this factor".into(),
        );
    }
    if topk > 0 && topk < levels.len() {
        return impossible("SAELens has no class for one level with topk and one without: write the levels one by one");
    }
    if variant.topk_by == TopkBy::Group && topk > 0 {
        return impossible("SAELens has no class in which the largest latent of each group fires (GroupMax)");
    }
    if topk == 2 {
        losses.push(
            "each level has its own k largest latents: in SAELens, the k1 + k2 largest of both levels together fire"
                .into(),
        );
    }
    let skip = variant.skip;
    if variant.target.is_none() && skip {
        return impossible("SAELens has no class for an autoencoder with a skip connection");
    }
    if skip {
        draft.add("W_skip", vec![model.arch.d_out(), model.arch.d], model.params.w_skip.to_vec());
    }
    let bias = joined(levels, |level| &level.bias);
    if variant.target.is_some() && (topk > 0 || gated) {
        return impossible("SAELens has classes for transcoders with relu and jumprelu only");
    }
    if topk > 0 {
        draft.add("b_enc", vec![f], bias);
        draft.settings.insert("k".into(), json!(levels.iter().map(|level| level.k).sum::<usize>().min(f)));
        draft.settings.insert("rescale_acts_by_decoder_norm".into(), json!(false));
        return Ok(if variant.topk_by == TopkBy::Absolute { "abstopk" } else { "topk" });
    }
    if gated {
        let gate = |level: &Level| level.bias.iter().zip(&level.threshold).map(|(b, t)| b - t).collect::<Vec<f32>>();
        draft.add("b_gate", vec![f], levels.iter().flat_map(gate).collect());
        draft.add("r_mag", vec![f], joined(levels, |level| &level.r_mag));
        draft.add("b_mag", vec![f], joined(levels, |level| &level.b_mag));
        return Ok("gated");
    }
    draft.add("b_enc", vec![f], bias);
    if !relu {
        draft.add("threshold", vec![f], joined(levels, |level| &level.threshold));
    }
    Ok(match (variant.target.is_some(), relu, skip) {
        (false, true, _) => "standard",
        (false, false, _) => "jumprelu",
        (true, true, false) => "transcoder",
        (true, true, true) => "skip_transcoder",
        (true, false, false) => "jumprelu_transcoder",
        (true, false, true) => "jumprelu_skip_transcoder",
    })
}

/// Adds the tensors and settings of both levels with gate and families; returns the architecture.
fn tree<'a>(model: &Model, levels: &[Level], draft: &mut Draft<'a>) -> &'static str {
    let [f1, f2] = model.arch.latents();
    let f = f1 + f2;
    draft.add("b_enc", vec![f], joined(levels, |level| &level.bias));
    draft.add("threshold", vec![f], joined(levels, |level| &level.threshold));
    draft.add("r_mag", vec![f], joined(levels, |level| &level.r_mag));
    draft.add("b_mag", vec![f], joined(levels, |level| &level.offset));
    // Parents are digits to the base 256, which bf16 represents exactly; ROOT is 256^3 - 1.
    let parent = |j: usize| model.parents.get(j).copied().unwrap_or(ROOT).min((1 << 24) - 1);
    let digits = (0..f2).flat_map(|j| [16, 8, 0].map(|shift| (parent(j) >> shift & 0xff) as f32)).collect();
    draft.add("parent", vec![f2, 3], digits);
    let kinds: Vec<&str> = levels.iter().map(|level| level.activation.name()).collect();
    let ks: Vec<usize> = levels.iter().map(|level| level.k).collect();
    // Without families every child is written as one of ROOT, which a hard gate always lets fire.
    let gate = if model.arch.gate.has_families() { model.arch.gate.name() } else { "hard" };
    for (key, value) in [("f1", json!(f1)), ("activations", json!(kinds)), ("ks", json!(ks)), ("gate", json!(gate))] {
        draft.settings.insert(key.into(), value);
    }
    TREE
}

/// Returns the encoder rows that read `x` in place of the latents of level 1, `W2 W1`, and adds `W2 b1` to the bias of
/// level 2.
fn rows_through_level1(model: &Model, levels: &[Level], draft: &mut Draft<'_>) -> Result<Vec<f32>> {
    let (d, [f1, f2]) = (model.arch.d, model.arch.latents());
    let [one, two] = &model.params.level;
    let transposed = dense::transposed(&one.w_enc, f1, d);
    let mut through = vec![0.0; f2 * d];
    dense::affine(Isa::default(), &two.w_enc, &transposed, f1, None, &mut through);
    let first = if levels.len() == 2 { f1 } else { 0 };
    let bias = draft.tensors.iter_mut().find(|(name, ..)| matches!(*name, "b_enc" | "b_gate"));
    if let Some((_, _, bias)) = bias {
        for (b, row) in bias[first..].iter_mut().zip(two.w_enc.chunks_exact(f1)) {
            *b += reduce::dot(Isa::default(), row, &one.b_enc);
        }
    }
    let mut encoder = if first > 0 { one.w_enc.to_vec() } else { Vec::new() };
    encoder.extend(through);
    Ok(encoder)
}

/// Returns the metadata, and those of its keys whose values are not known.
fn described(
    model: &Model,
    origin: &Origin,
    metadata: &Metadata,
    part: Part,
    losses: &[String],
) -> (Value, Vec<&'static str>) {
    let name = match part {
        Part::Level1 => "level1",
        Part::Level2 => "level2",
        Part::Both => "both",
        Part::Tree => "tree",
    };
    let model_name = metadata.model.clone().or_else(|| origin.model.clone().filter(|name| !is_path(name)));
    let value = json!({
        "sae_lens_version": LENS_VERSION,
        "sae_lens_training_version": null,
        "model_name": model_name,
        "hook_name": metadata.hook.clone().or_else(|| origin.hook.clone()),
        "hook_head_index": null,
        "context_size": metadata.context.or(origin.context),
        "prepend_bos": metadata.prepend_bos,
        "dataset_path": metadata.dataset,
        "model_from_pretrained_kwargs": {},
        "training_architecture": "strata",
        "training_architecture_details": {
            "part": name, "losses": losses, "architecture": model.arch, "steps": origin.steps, "rows": origin.rows,
            "seed": origin.seed, "tau": model.tau,
        },
    });
    let wanted = ["model_name", "hook_name", "context_size", "prepend_bos"];
    let missing = wanted.into_iter().filter(|key| value[*key].is_null()).collect();
    (value, missing)
}

/// Returns whether the name of a language model is a path on some machine; names on the hub have at most one `/`, and
/// not at the start.
pub fn is_path(name: &str) -> bool {
    name.starts_with(['/', '.', '~']) || name.contains('\\') || name.matches('/').count() > 1
}

/// Returns the bytes of a safetensors file.
fn serialised(tensors: &[(&str, Vec<usize>, Vec<f32>)], dtype: Dtype) -> Result<Vec<u8>> {
    let kind = match dtype {
        Dtype::F32 => safetensors::Dtype::F32,
        Dtype::F16 => safetensors::Dtype::F16,
        Dtype::Bf16 => safetensors::Dtype::BF16,
    };
    let mut bytes: Vec<Vec<u8>> = Vec::with_capacity(tensors.len());
    for (name, _, data) in tensors {
        let most = if dtype == Dtype::F16 { 65504.0 } else { f32::MAX };
        if let Some(large) = data.iter().find(|v| v.abs() > most) {
            let why = format!("`{name}` holds {large}, which is beyond the range of {dtype}: choose another type");
            return Err(Error::config("dtype", why));
        }
        let mut narrow = Vec::with_capacity(data.len() * dtype.size_bytes());
        dtype.narrow(data, &mut narrow);
        bytes.push(narrow);
    }
    let failed = |e: safetensors::SafeTensorError| Error::format(0, format!("weights: {e}"));
    let views = tensors.iter().zip(&bytes).map(|((name, shape, _), bytes)| {
        TensorView::new(kind, shape.clone(), bytes).map(|view| (name.to_string(), view)).map_err(failed)
    });
    let views: Vec<(String, TensorView<'_>)> = views.collect::<Result<_>>()?;
    safetensors::serialize(views, None).map_err(failed)
}
