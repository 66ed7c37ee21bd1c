//! Reads models of two levels back from the SAELens files that `saelens_writer.rs` makes of them.
//!
//! | part | how the levels are stored |
//! |---|---|
//! | `tree`, the architecture `strata` | `f1` latents of level 1, then level 2; `activations`, `ks` and `gate` in `cfg.json`; `threshold (f)`, `r_mag (f)`, `b_mag (f)` for the activation that has them; `parent (f2, 3)`, the digits of the parent to the base 256, `256^3 - 1` for ROOT |
//! | `both`, an architecture of SAELens (`--from saelens-levels`) | the same order; the metadata has the number of latents and the activation of each level |
//!
//! Files in f32 give back the original tensors to the bit, with two exceptions in `both`: the `b_mag` of a gated level,
//! and the thresholds of a `jumprelu` level beside a gated one. SAELens' gated class stores them with the bias of the
//! gate added, and subtracting it again rounds.
//!
//! SAELens may have changed a model between loading and saving it (`fold_W_dec_norm`). If the one threshold of a
//! `batchtopk` level has become a threshold per latent, the level is read as `jumprelu`.

use super::arrays::Arrays;
use super::json::Settings;
use super::look::{Choices, Look, Parsed, What};
use super::origin::Origin;
use super::saelens_settings;
use crate::activation::{Activation, Parameter};
use crate::config::ModelKind;
use crate::decoder::Decoder;
use crate::error::Result;
use crate::gate::{GateKind, ROOT};
use crate::model::{Arch, LevelArch, LevelParams, Model, Variant};
use crate::source::Source;
use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;
use serde_json::Value;

/// The tensors of both levels, concatenated; a tensor that is not in the files is empty.
struct Sides {
    d: usize,
    d_out: usize,
    /// `(f, d)`.
    w_enc: Vec<f32>,
    b_enc: Vec<f32>,
    /// `(f, d_out)`.
    w_dec: Vec<f32>,
    b_dec: Vec<f32>,
    threshold: Vec<f32>,
    r_mag: Vec<f32>,
    b_mag: Vec<f32>,
}

impl Sides {
    fn read(cfg: &Settings, arrays: &Arrays, d_out: usize) -> Result<Self> {
        let (d, f) = (cfg.size("d_in")?, cfg.size("d_sae")?);
        let optional = |name: &str| if arrays.has(name) { arrays.vector(name, f) } else { Ok(Default::default()) };
        Ok(Self {
            d,
            d_out,
            w_enc: arrays.matrix_transposed("W_enc", d, f)?.to_vec(),
            b_enc: optional("b_enc")?.to_vec(),
            w_dec: arrays.matrix("W_dec", f, d_out)?.to_vec(),
            b_dec: arrays.vector("b_dec", d_out)?.to_vec(),
            threshold: optional("threshold")?.to_vec(),
            r_mag: optional("r_mag")?.to_vec(),
            b_mag: optional("b_mag")?.to_vec(),
        })
    }

    /// Returns the model of these tensors, split as `arch` says. A level whose thresholds do not fit its activation
    /// becomes `jumprelu`.
    fn into_model(self, mut arch: Arch, parents: Vec<u32>, w_skip: Vec<f32>) -> Result<Model> {
        let [f1, f2] = arch.latents();
        let mut tau = [0.0; 2];
        let mut level: [LevelParams; 2] = Default::default();
        for (l, at) in [0..f1, f1..f1 + f2].into_iter().enumerate() {
            let of = |tensor: &[f32], width: usize| tensor[at.start * width..at.end * width].to_vec().into();
            let threshold = self.threshold.get(at.clone()).unwrap_or_default();
            let kind = &mut arch.level[l].activation;
            let one = threshold.first().copied().unwrap_or(0.0);
            // A level with parameters has thresholds already or needs none, and topk counts: only the others can become
            // jumprelu.
            let by_threshold = kind.parameters().is_empty() && !kind.has_whole_k();
            let fits =
                if kind.has_tau() { threshold.iter().all(|t| *t == one) } else { threshold.iter().all(|t| *t <= 0.0) };
            if by_threshold && !fits {
                *kind = Activation::Jumprelu;
            }
            if kind.has_tau() {
                tau[l] = one;
            }
            level[l] = LevelParams {
                w_enc: of(&self.w_enc, self.d),
                b_enc: of(&self.b_enc, 1),
                w_dec: of(&self.w_dec, self.d_out),
                ..LevelParams::default()
            };
            for &parameter in kind.parameters() {
                *level[l].parameter_mut(parameter) = match parameter {
                    Parameter::Threshold => of(&self.threshold, 1),
                    Parameter::RMag => of(&self.r_mag, 1),
                    Parameter::BMag => of(&self.b_mag, 1),
                };
            }
        }
        let mut model = Model { arch, params: Default::default(), parents, tau };
        model.params.b_dec = self.b_dec.into();
        model.params.level = level;
        model.params.w_skip = w_skip.into();
        model.check()?;
        Ok(model)
    }
}

/// The details of the training in the metadata.
struct Details {
    settings: Settings,
    arch: Option<Arch>,
}

impl Details {
    fn new(cfg: &Settings) -> Self {
        let settings = cfg.object("metadata").object("training_architecture_details");
        let arch = settings.get("architecture").and_then(|value| serde_json::from_value(value.clone()).ok());
        Self { settings, arch }
    }

    fn origin(&self, cfg: &Settings) -> Origin {
        let count = |key| self.settings.count(key).ok().flatten().unwrap_or(0);
        Origin { steps: count("steps"), rows: count("rows"), seed: count("seed"), ..saelens_settings::origin(cfg) }
    }
}

fn parsed(model: Model, origin: Origin) -> Parsed {
    Parsed { what: What::Model(Box::new(model)), origin, notes: Vec::new(), is_scaled: true }
}

/// Returns the variant that SAELens' settings describe.
fn variant(cfg: &Settings, target: Option<usize>, skip: bool) -> Result<Variant> {
    let raw_input = !cfg.flag("apply_b_dec_to_input", true)?;
    Ok(Variant { raw_input, row_norm: saelens_settings::normalisation(cfg)?.0, target, skip, ..Variant::default() })
}

/// Returns the architecture of two levels that both read `x` and whose reconstructions add up.
fn side_by_side(d: usize, level: [LevelArch; 2], gate: GateKind, variant: Variant) -> Arch {
    Arch { model: ModelKind::Tree, d, level, source: Source::X, decoder: Decoder::Cum, gate, variant }
}

/// Reads the architecture `strata`.
pub(super) fn read_tree(cfg: &Settings, arrays: &Arrays) -> Result<Parsed> {
    let details = Details::new(cfg);
    let (d, f, f1) = (cfg.size("d_in")?, cfg.size("d_sae")?, cfg.size("f1")?);
    if f1 >= f {
        return Err(cfg.wrong(format_args!("`f1`: expected fewer than all {f} latents, found {f1}")));
    }
    let known = ["W_enc", "W_dec", "b_dec", "b_enc", "threshold", "r_mag", "b_mag", "parent"];
    arrays.only(&known, "the architecture `strata`")?;
    for name in &known[3..7] {
        arrays.vector(name, f)?;
    }
    let mut level = [LevelArch { latents: f1, activation: Activation::Relu, k: 1.0 }; 2];
    level[1].latents = f - f1;
    for (l, level) in level.iter_mut().enumerate() {
        let at = |key: &str| cfg.get(key).and_then(|list| list.get(l));
        let kind = at("activations").and_then(Value::as_str);
        let Some(kind) = Activation::ALL.iter().find(|a| Some(a.name()) == kind) else {
            let expected = Activation::NAMES.join(", ");
            return Err(cfg.wrong(format_args!("`activations`: expected two of {expected}, found {kind:?}")));
        };
        let Some(k) = at("ks").and_then(Value::as_u64) else {
            return Err(cfg.wrong("`ks`: expected two whole numbers"));
        };
        // `ks` are whole numbers, since SAELens wants them; the metadata has the `k` of the training.
        let exact = details.arch.map(|arch| arch.level[l].k).filter(|exact| *exact as u64 == k);
        (level.activation, level.k) = (*kind, exact.unwrap_or(k as f64));
    }
    let digits = arrays.matrix("parent", f - f1, 3)?;
    let mut parents = Vec::with_capacity(f - f1);
    for digits in digits.chunks_exact(3) {
        if let Some(digit) = digits.iter().find(|v| !(0.0..256.0).contains(*v) || libm::truncf(**v) != **v) {
            return Err(arrays.wrong(format_args!("tensor `parent`: expected digits from 0 to 255, found {digit}")));
        }
        let parent = digits.iter().fold(0u32, |n, digit| n << 8 | *digit as u32);
        parents.push(if parent == (1 << 24) - 1 { ROOT } else { parent });
    }
    let named = cfg.text("gate").unwrap_or_default();
    let Some(mut gate) = GateKind::ALL.iter().copied().find(|gate| gate.has_families() && gate.name() == named) else {
        return Err(cfg.wrong(format_args!("`gate`: expected `hard` or `group-top1`, found `{named}`")));
    };
    // A model without families is written as one with a hard gate in which no child has a parent.
    if let Some(own) = details.arch.map(|arch| arch.gate).filter(|own| !own.has_families() && !own.has_weights())
        && parents.iter().all(|p| *p == ROOT)
    {
        (gate, parents) = (own, Vec::new());
    }
    let arch = side_by_side(d, level, gate, variant(cfg, None, false)?);
    let model = Sides::read(cfg, arrays, d)?.into_model(arch, parents, Vec::new())?;
    Ok(parsed(model, details.origin(cfg)))
}

/// Reads both levels from a directory that `strata convert --part both` wrote.
pub(super) fn read_both(look: &Look<'_>, _: &Choices) -> Result<Parsed> {
    let (cfg, arrays) = (look.settings("SAELens")?, look.arrays);
    let details = Details::new(cfg);
    let was_both = details.settings.text("part") == Some("both");
    let Some(own) = details.arch.filter(|arch| was_both && arch.n_levels() == 2) else {
        return Err(cfg.wrong(
            "its metadata does not say that it has both levels of a model of Strata (`strata convert --part both`): read it as a \
             model of one level, without --from",
        ));
    };
    if details.settings.get("losses").and_then(Value::as_array).is_none_or(|losses| !losses.is_empty()) {
        return Err(cfg.wrong("it was written with --inexact, and its files do not hold what was lost"));
    }
    let (d, f) = (cfg.size("d_in")?, cfg.size("d_sae")?);
    let [f1, f2] = own.latents();
    if own.d != d || f1.checked_add(f2) != Some(f) {
        return Err(
            cfg.wrong(format_args!("its metadata is of {f1} and {f2} latents on rows of {}, not its own", own.d))
        );
    }
    let target = cfg.count("d_out")?.map(|n| n as usize);
    let skip = arrays.has("W_skip");
    let w_skip = if skip { arrays.matrix("W_skip", target.unwrap_or(d), d)?.to_vec() } else { Vec::new() };
    let mut sides = Sides::read(cfg, arrays, target.unwrap_or(d))?;
    if arrays.has("b_gate") {
        let gate = arrays.vector("b_gate", f)?;
        for name in ["r_mag", "b_mag"] {
            arrays.vector(name, f)?;
        }
        sides.b_enc = gate.to_vec();
        sides.threshold = vec![0.0; f];
        for (l, at) in [0..f1, f1..f].into_iter().enumerate() {
            let kind = own.level[l].activation;
            let tau = details.settings.get("tau").and_then(|tau| tau.get(l)).and_then(Value::as_f64);
            for j in at {
                if kind.parameters().contains(&Parameter::RMag) {
                    sides.b_mag[j] -= libm::expf(sides.r_mag[j]) * gate[j];
                    continue;
                }
                // A threshold is written as a gate with the bias `b - threshold` and a magnitude with the bias `b`.
                sides.b_enc[j] = sides.b_mag[j];
                let threshold = (sides.b_mag[j] - gate[j]).max(0.0);
                sides.threshold[j] = tau.filter(|_| kind.has_tau()).map_or(threshold, |tau| (tau as f32).max(0.0));
            }
        }
    } else {
        arrays.vector("b_enc", f)?;
    }
    let arch = side_by_side(d, own.level, own.gate, variant(cfg, target, skip)?);
    let model = sides.into_model(arch, Vec::new(), w_skip)?;
    Ok(parsed(model, details.origin(cfg)))
}
