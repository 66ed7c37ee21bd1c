//! The architecture of a model, and the shapes of its tensors.

use super::{GateParams, LevelParams, ParamSpec, Params, Variant};
use crate::activation::{Activation, Parameter};
use crate::config::{Config, ModelKind};
use crate::decoder::Decoder;
use crate::gate::GateKind;
use crate::source::Source;
use serde::{Deserialize, Serialize};

/// One level of an architecture.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LevelArch {
    /// Number of latents; 0 for the level 2 of a flat SAE.
    pub latents: usize,
    /// How pre-activations become latents.
    pub activation: Activation,
    /// Target number of active latents per row.
    pub k: f64,
}

/// The architecture of a model: all that must be known besides its weights.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(from = "Fields", into = "Fields")]
pub struct Arch {
    /// Which model.
    pub model: ModelKind,
    /// Width of a row of activations (`d_in`).
    pub d: usize,
    /// Level 1 (parents) and level 2 (children).
    pub level: [LevelArch; 2],
    /// What level 2 reads.
    pub source: Source,
    /// What level 2 adds to.
    pub decoder: Decoder,
    /// The gate between the levels, as it acts at inference.
    pub gate: GateKind,
    /// Its differences from an autoencoder that encodes `x - b_dec`.
    pub variant: Variant,
}

/// The fields of an architecture as `cfg.json` has them.
#[derive(Serialize, Deserialize)]
#[serde(rename = "Arch", deny_unknown_fields)]
struct Fields {
    model: ModelKind,
    d: usize,
    f1: usize,
    f2: usize,
    activation1: Activation,
    activation2: Activation,
    k1: f64,
    k2: f64,
    source: Source,
    decoder: Decoder,
    gate: GateKind,
    #[serde(default, skip_serializing_if = "Variant::is_none")]
    variant: Variant,
}

impl From<Fields> for Arch {
    fn from(f: Fields) -> Self {
        Self {
            model: f.model,
            d: f.d,
            level: [
                LevelArch { latents: f.f1, activation: f.activation1, k: f.k1 },
                LevelArch { latents: f.f2, activation: f.activation2, k: f.k2 },
            ],
            source: f.source,
            decoder: f.decoder,
            gate: f.gate,
            variant: f.variant,
        }
    }
}

impl From<Arch> for Fields {
    fn from(arch: Arch) -> Self {
        let [one, two] = arch.level;
        Self {
            model: arch.model,
            d: arch.d,
            f1: one.latents,
            f2: two.latents,
            activation1: one.activation,
            activation2: two.activation,
            k1: one.k,
            k2: two.k,
            source: arch.source,
            decoder: arch.decoder,
            gate: arch.gate,
            variant: arch.variant,
        }
    }
}

impl Arch {
    /// Returns the architecture of `config` for rows of width `d`.
    pub fn new(config: &Config, d: usize) -> Self {
        Self::with_target(config, d, None)
    }

    /// Returns the architecture that `config` asks for, for a transcoder from rows of width `d` to those of `target`; an
    /// autoencoder has no target. A transcoder reads rows as they are, without `b_dec`, which lies in another space.
    pub fn with_target(config: &Config, d: usize, target: Option<usize>) -> Self {
        let is_seed = config.model == ModelKind::Seed;
        let level = [0, 1].map(|l| {
            let level = config.level(l);
            let activation = if is_seed { Activation::Relu } else { level.activation };
            LevelArch { latents: level.latents, activation, k: level.k }
        });
        let prune = [0, 1].map(|l| if level[l].latents > 0 { config.level(l).prune as f32 } else { 0.0 });
        Self {
            model: config.model,
            d,
            level,
            source: if is_seed { Source::Z1 } else { config.source },
            decoder: if is_seed { Decoder::Comp } else { config.decoder },
            gate: config.gate.kind,
            variant: Variant { target, raw_input: target.is_some(), skip: config.skip, prune, ..Variant::default() },
        }
    }

    /// Returns the number of latents of both levels, `[f1, f2]`.
    pub const fn latents(&self) -> [usize; 2] {
        [self.level[0].latents, self.level[1].latents]
    }

    /// Returns the number of levels: 1 for a flat SAE, else 2.
    pub const fn n_levels(&self) -> usize {
        if self.level[1].latents > 0 { 2 } else { 1 }
    }

    /// Returns the width of the reconstruction: `d`, or that of a transcoder's target.
    pub fn d_out(&self) -> usize {
        self.variant.target.unwrap_or(self.d)
    }

    /// Returns the width of what level 2 reads.
    pub const fn source_width(&self) -> usize {
        self.source.width(self.d, self.level[0].latents)
    }

    /// Returns shape and meaning of every tensor; the spec of a tensor that this architecture does not have is empty.
    pub fn specs(&self) -> Params<ParamSpec> {
        let (d, [f1, f2], is_seed) = (self.d, self.latents(), self.model == ModelKind::Seed);
        let d_out = self.d_out();
        let tensor = |level, rows, width| ParamSpec { rows, width, level, ..ParamSpec::default() };
        let level = [0, 1].map(|l| {
            let f = self.level[l].latents;
            if f == 0 {
                return LevelParams::default();
            }
            let tensor = |width| ParamSpec { per_latent: true, ..tensor(Some(l), f, width) };
            let reads = if l == 0 { d } else { self.source_width() };
            let writes = if l == 0 { d_out } else { self.decoder.width(d_out, f1) };
            let mut level = LevelParams {
                w_enc: tensor(reads),
                b_enc: ParamSpec { scales_with_x: 1, ..tensor(1) },
                w_dec: ParamSpec { unit_rows: true, ..tensor(writes) },
                ..LevelParams::default()
            };
            if is_seed {
                // The latents of level 1 have no unit then: its encoder divides by the unit of the rows, and its
                // decoder multiplies by it.
                let power = if l == 0 { 1 } else { 0 };
                level.w_enc.scales_with_x = -power;
                level.b_enc.scales_with_x = 0;
                level.w_dec = ParamSpec { unit_rows: false, scales_with_x: power, ..level.w_dec };
                if self.gate.has_weights() {
                    (level.gate_w, level.gate_b) = (level.w_enc, level.b_enc);
                }
                return level;
            }
            for &parameter in self.level[l].activation.parameters() {
                *level.parameter_mut(parameter) = match parameter {
                    Parameter::Threshold => ParamSpec { nonnegative: true, scales_with_x: 1, ..tensor(1) },
                    Parameter::RMag => tensor(1),
                    Parameter::BMag => ParamSpec { scales_with_x: 1, ..tensor(1) },
                };
            }
            level
        });
        let mut specs = Params { level, ..Params::default() };
        specs.b_dec = ParamSpec { scales_with_x: 1, ..tensor(Some(0), d_out, 1) };
        if self.variant.scale {
            specs.level[0].scale = ParamSpec { per_latent: true, ..tensor(Some(0), f1, 1) };
        }
        if self.variant.skip {
            specs.w_skip = tensor(Some(0), d_out, d);
        }
        if is_seed {
            specs.b_dec2 = tensor(Some(1), f1, 1);
        } else if f2 > 0 && self.gate.has_weights() {
            let [w, b] = self.gate.units();
            specs.gate = GateParams {
                w: ParamSpec { scales_with_x: w, ..tensor(None, f1, f2) },
                b: ParamSpec { scales_with_x: b, ..tensor(None, f2, 1) },
            };
        }
        specs
    }

    /// Returns parameters of this shape, all zero.
    pub fn zeros(&self) -> Params {
        self.specs().map(|spec| alloc::vec![0.0; spec.len()].into())
    }
}
