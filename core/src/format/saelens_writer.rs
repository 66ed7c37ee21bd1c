//! A model as a directory of SAELens 6: `cfg.json` and `sae_weights.safetensors`, as its `load_from_disk` takes them.
//!
//! | part | latents | exact where |
//! |---|---|---|
//! | level 1 | those of level 1: `x_hat1` | always |
//! | level 2 | those of level 2 | it reads `x`, without a gate, and reconstructs by itself (decoder ind or comp) |
//! | both | level 1, then level 2 (`f1 + j`): `x_hat2` | it reads `x`, without a gate, decoder cum, not topk in both |
//! | tree | the same with families and activations of each level | decoder cum, source `x`, no soft gate |
//!
//! `tree` is an architecture of its own, which `saelens_strata.py` registers with SAELens; the others are SAELens' own:
//! relu becomes `standard`, topk `topk`, batch-top-k `jumprelu` with its one threshold, gated `gated` with
//! `b_mag + e^r b_enc`. What is not exact is refused, or done and said. `saelens_levels.rs` reads `tree` and `both` back as
//! the two levels that they were.

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

/// The version of SAELens whose meaning the files have; it reads anything below as one of its older formats.
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
    /// Both side by side, as one level.
    Both,
    /// Both, with what ties them together.
    Tree,
}

/// What SAELens asks for besides the weights.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metadata {
    /// The language model, by the name that a hub knows it by.
    pub model: Option<String>,
    /// The hook point.
    pub hook: Option<String>,
    /// Tokens per sequence.
    pub context: Option<u64>,
    /// Whether sequences begin with a token of their own.
    pub prepend_bos: Option<bool>,
    /// The data set.
    pub dataset: Option<String>,
}

/// The files, and what is not as in the model.
#[derive(Clone, Debug, PartialEq)]
pub struct Written {
    /// `cfg.json`.
    pub cfg: Vec<u8>,
    /// `sae_weights.safetensors`.
    pub weights: Vec<u8>,
    /// What is not exact, a sentence each.
    pub losses: Vec<String>,
    /// Keys of the metadata that SAELens wants for some of its uses and that are not known.
    pub missing: Vec<&'static str>,
}

/// One level as a rule of its own: `u = xt W + b`, and what becomes of it.
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
    /// `b_mag` as it lies in the model: offset of the magnitude of a pre-activation with its bias.
    offset: Vec<f32>,
}

/// What the classes of SAELens tell apart.
#[derive(Clone, Copy, PartialEq, Eq)]
enum LevelRule {
    /// Whatever is above 0 fires.
    Relu,
    /// What is above a threshold fires.
    Threshold,
    /// A count per row fires.
    Count,
    /// A gate decides, and a magnitude of its own is the value.
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
            // SAELens' magnitude is e^r times the product without a bias; ours e^r times the pre-activation with it.
            for (b, (r, bias)) in b_mag.iter_mut().zip(r_mag.iter().zip(&bias)) {
                *b += libm::expf(*r) * bias;
            }
        } else {
            // As a gated one: 1[u - t > 0] max(u, 0).
            (r_mag, b_mag) = (vec![0.0; f], bias.clone());
        }
        let encoder = p.w_enc.to_vec();
        Self { activation, k: k as usize, rule, encoder, bias, decoder, threshold, r_mag, b_mag, offset }
    }

    fn latents(&self) -> usize {
        self.bias.len()
    }
}

/// What is written so far.
struct Draft<'a> {
    tensors: Vec<(&'a str, Vec<usize>, Vec<f32>)>,
    settings: Map<String, Value>,
}

impl<'a> Draft<'a> {
    fn add(&mut self, name: &'a str, shape: Vec<usize>, data: Vec<f32>) {
        self.tensors.push((name, shape, data));
    }
}

fn joined(levels: &[Level], of: impl Fn(&Level) -> &[f32]) -> Vec<f32> {
    levels.iter().flat_map(|level| of(level).iter().copied()).collect()
}

/// What SAELens cannot hold at all.
#[cold]
fn impossible<T>(what: &str) -> Result<T> {
    Err(Error::config("part", what))
}

/// The files of `part` of `model` with numbers of type `dtype`.
///
/// # Errors
/// [`Error::Config`] for what SAELens has no class for; whatever is not exact is done and stands in
/// [`Written::losses`].
pub fn write(model: &Model, origin: &Origin, metadata: &Metadata, part: Part, dtype: Dtype) -> Result<Written> {
    model.check()?;
    let arch = &model.arch;
    let mut losses = Vec::new();
    if arch.model == ModelKind::Seed {
        return impossible("the seed model has gates on both of its levels, which no class of SAELens has");
    }
    // Of one level there is one part, whatever it is called.
    let part = if arch.n_levels() == 1 { Part::Level1 } else { part };
    let chosen = match part {
        Part::Level1 => &[0usize][..],
        Part::Level2 => &[1],
        Part::Both | Part::Tree => &[0, 1],
    };
    if part == Part::Tree && arch.variant.target.is_some() {
        return impossible(
            "a transcoder with families is no class of SAELens, nor one that saelens_strata.py registers",
        );
    }
    if part == Part::Tree && arch.level[0].latents >= (1 << 24) - 1 {
        return impossible("the parents are too many for the digits that they are written in");
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

/// What level 2 loses where SAELens cannot hold what ties it to level 1.
fn two_levels(model: &Model, part: Part, losses: &mut Vec<String>) -> Result<()> {
    let arch = &model.arch;
    if !arch.source.is_parallel() {
        losses.push(if arch.source.is_activations() {
            "level 2 reads what level 1 has left over, and every encoder of SAELens reads the row itself: there its latents \
             fire on what level 1 has explained, too"
                .into()
        } else {
            "level 2 reads the latents of level 1, and every encoder of SAELens reads the row itself: there it reads the \
             pre-activations of level 1, those that do not fire included"
                .into()
        });
    }
    if arch.gate.has_weights() {
        losses.push(format!(
            "the gate `{}` between the levels has no place in SAELens: there latents of level 2 have the values that they \
             would have without it",
            arch.gate
        ));
    }
    if arch.gate.has_families() && part != Part::Tree {
        losses.push(format!(
            "the gate `{}` has no place in SAELens: there children fire without their parents, too; --part tree keeps the \
             families, with a class that saelens_strata.py registers",
            arch.gate
        ));
    }
    match (part, arch.decoder.is_cumulative()) {
        (Part::Both | Part::Tree, false) => losses.push(format!(
            "with the decoder `{}` level 2 reconstructs by itself, and SAELens adds up what all latents decode to",
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

/// The architecture of SAELens that holds the levels side by side, with its tensors and settings.
fn flat<'a>(model: &Model, levels: &[Level], draft: &mut Draft<'a>, losses: &mut Vec<String>) -> Result<&'static str> {
    let variant = &model.arch.variant;
    let f: usize = levels.iter().map(Level::latents).sum();
    let topk = levels.iter().filter(|level| level.rule == LevelRule::Count).count();
    let gated = levels.iter().any(|level| level.rule == LevelRule::Gate);
    let relu = levels.iter().all(|level| level.rule == LevelRule::Relu);
    if variant.scale {
        losses.push(
            "latents compete by the norms of their decoder rows: there they are reported times these norms".into(),
        );
    }
    if topk > 0 && topk < levels.len() {
        return impossible(
            "one level is topk and the other is not, which no class of SAELens is: write the levels one by one",
        );
    }
    if variant.topk_by == TopkBy::Group && topk > 0 {
        return impossible("the largest of each group of latents (GroupMax) fires, which no class of SAELens has");
    }
    if topk == 2 {
        losses.push(
            "each level has its own k largest latents: there the k1 + k2 largest of both fire, whichever they are"
                .into(),
        );
    }
    let skip = variant.skip;
    if variant.target.is_none() && skip {
        return impossible("an autoencoder with a skip connection is no class of SAELens");
    }
    if skip {
        draft.add("W_skip", vec![model.arch.d_out(), model.arch.d], model.params.w_skip.to_vec());
    }
    let bias = joined(levels, |level| &level.bias);
    if variant.target.is_some() && (topk > 0 || gated) {
        return impossible("transcoders of SAELens are relu or jumprelu, and this one is not");
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

/// The tensors and settings of both levels with what ties them together.
fn tree<'a>(model: &Model, levels: &[Level], draft: &mut Draft<'a>) -> &'static str {
    let [f1, f2] = model.arch.latents();
    let f = f1 + f2;
    draft.add("b_enc", vec![f], joined(levels, |level| &level.bias));
    draft.add("threshold", vec![f], joined(levels, |level| &level.threshold));
    draft.add("r_mag", vec![f], joined(levels, |level| &level.r_mag));
    draft.add("b_mag", vec![f], joined(levels, |level| &level.offset));
    // Digits to the base 256, which bf16 holds too; ROOT is all of them at their most.
    let parent = |j: usize| model.parents.get(j).copied().unwrap_or(ROOT).min((1 << 24) - 1);
    let digits = (0..f2).flat_map(|j| [16, 8, 0].map(|shift| (parent(j) >> shift & 0xff) as f32)).collect();
    draft.add("parent", vec![f2, 3], digits);
    let kinds: Vec<&str> = levels.iter().map(|level| level.activation.name()).collect();
    let ks: Vec<usize> = levels.iter().map(|level| level.k).collect();
    // Without families every child is one of ROOT, which a hard gate lets fire.
    let gate = if model.arch.gate.has_families() { model.arch.gate.name() } else { "hard" };
    for (key, value) in [("f1", json!(f1)), ("activations", json!(kinds)), ("ks", json!(ks)), ("gate", json!(gate))] {
        draft.settings.insert(key.into(), value);
    }
    TREE
}

/// Encoders that read `x` in place of the latents of level 1: `W2 W1`, and `b2 + W2 b1`.
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

/// The metadata, and the keys of it that are not known.
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

/// Whether a model's name is that of a directory on some machine: one of a hub has at most one `/`, and none in front.
pub fn is_path(name: &str) -> bool {
    name.starts_with(['/', '.', '~']) || name.contains('\\') || name.matches('/').count() > 1
}

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
