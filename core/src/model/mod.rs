//! The two-level SAE: its parameters, encode and decode. Nothing about training.
//!
//! ```text
//! xt = x - b_dec
//! u1 = xt W1^T + b1            z1 = act1(u1)            x_hat1 = z1 D1 + b_dec
//! s  = xt | xt - z1 D1 | z1    (source x | res | z1)
//! a2 = s W2^T + b2             u2 = gate(a2, z1)        z2 = act2(u2)
//! x_hat2 = x_hat1 + z2 D2 | z2 D2 + b_dec | (z2 E2) D1 + b_dec      (decoder cum | ind | comp)
//! ```
//!
//! Row vectors; every weight matrix is stored `(latents, inputs)` row-major, so that a decoder direction is one
//! contiguous row. A saved model reads raw activations: centring and scaling are folded into it (see
//! [`crate::normalise`]), decoder rows have norm 1, and latents are in the units of the activations.

mod codes;
mod encode;
mod hierarchy;
mod params;
pub mod seed;
mod stored;
mod tensor;

pub use codes::{CodeRow, Codes, CodesByLatent, CodesView};
pub(crate) use encode::Weights;
pub use encode::{Encoder, Lanes, Scratch};
pub(crate) use hierarchy::{Hierarchy, Order};
pub use params::{Id, N_TENSORS, NAMES, Params, Widths};
pub use stored::WeightType;
pub use tensor::{SharedBytes, Tensor};

use crate::activation::Rule;
use crate::config::{Activation, Config, Decoder, GateKind, ModelKind, Source};
use crate::error::{At, Error, Result};
use crate::gate::ROOT;
use crate::kernel::{Isa, dense};
use crate::par::Par;
use alloc::format;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// What must be known of a model besides its weights.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Arch {
    /// Which model.
    pub model: ModelKind,
    /// Width of a row of activations (`d_in`).
    pub d: usize,
    /// Latents of level 1.
    pub f1: usize,
    /// Latents of level 2; 0 for a flat SAE.
    pub f2: usize,
    /// Activation of level 1.
    pub activation1: Activation,
    /// Activation of level 2.
    pub activation2: Activation,
    /// Target L0 of level 1.
    pub k1: f64,
    /// Target L0 of level 2.
    pub k2: f64,
    /// What level 2 reads.
    pub source: Source,
    /// What level 2 adds to.
    pub decoder: Decoder,
    /// The gate between the levels, as it acts at inference.
    pub gate: GateKind,
}

impl Arch {
    /// The architecture that `config` asks for, for rows of width `d`.
    pub fn new(config: &Config, d: usize) -> Self {
        let seed = config.model == ModelKind::Seed;
        let act = |a: Activation| if seed { Activation::Relu } else { a };
        Self {
            model: config.model,
            d,
            f1: config.level1.latents,
            f2: config.level2.latents,
            activation1: act(config.level1.activation),
            activation2: act(config.level2.activation),
            k1: config.level1.k,
            k2: config.level2.k,
            source: if seed { Source::Z1 } else { config.source },
            decoder: if seed { Decoder::Comp } else { config.decoder },
            gate: config.gate.kind,
        }
    }

    /// Width of what level 2 reads.
    pub fn source_width(&self) -> usize {
        if self.source == Source::Z1 { self.f1 } else { self.d }
    }

    /// Width of a row of each tensor; 0 where this architecture has no such tensor.
    pub fn widths(&self) -> Widths {
        let mut w = [0; N_TENSORS];
        let mut set = |id: Id, width: usize| w[id as usize] = width;
        set(Id::BDec, 1);
        set(Id::WEnc1, self.d);
        set(Id::BEnc1, 1);
        set(Id::WDec1, self.d);
        if self.f2 > 0 {
            set(Id::WEnc2, self.source_width());
            set(Id::BEnc2, 1);
            set(Id::WDec2, if self.decoder == Decoder::Comp { self.f1 } else { self.d });
        }
        if self.model == ModelKind::Seed {
            set(Id::BDec2, 1);
            if self.gate.has_weights() {
                set(Id::GateEnc1, self.d);
                set(Id::GateBias1, 1);
                set(Id::GateEnc2, self.f1);
                set(Id::GateBias2, 1);
            }
            return w;
        }
        for (act, ids, f) in [
            (self.activation1, [Id::Threshold1, Id::RMag1, Id::BMag1], self.f1),
            (self.activation2, [Id::Threshold2, Id::RMag2, Id::BMag2], self.f2),
        ] {
            if f > 0 && act == Activation::Jumprelu {
                set(ids[0], 1);
            }
            if f > 0 && act == Activation::Gated {
                set(ids[1], 1);
                set(ids[2], 1);
            }
        }
        if self.f2 > 0 && self.gate.has_weights() {
            set(Id::GateW, self.f2);
            set(Id::GateB, 1);
        }
        w
    }

    /// Number of rows of each tensor that is there.
    pub fn n_rows(&self, id: usize) -> usize {
        const F1: [usize; 10] = [
            Id::WEnc1 as usize,
            Id::BEnc1 as usize,
            Id::WDec1 as usize,
            Id::Threshold1 as usize,
            Id::RMag1 as usize,
            Id::BMag1 as usize,
            Id::GateW as usize,
            Id::GateEnc1 as usize,
            Id::GateBias1 as usize,
            Id::BDec2 as usize,
        ];
        if id == Id::BDec as usize {
            self.d
        } else if F1.contains(&id) {
            self.f1
        } else {
            self.f2
        }
    }

    /// Parameters of this shape, all zero.
    pub fn zeros(&self) -> Params {
        let widths = self.widths();
        Params {
            tensors: core::array::from_fn(|i| {
                alloc::vec![0.0; widths[i] * if widths[i] == 0 { 0 } else { self.n_rows(i) }].into()
            }),
        }
    }
}

/// A trained model.
#[derive(Clone, Debug, PartialEq)]
pub struct Model {
    /// Its architecture.
    pub arch: Arch,
    /// Its weights.
    pub params: Params,
    /// The parent of every latent of level 2: an index into level 1, or [`ROOT`]. Empty without families.
    pub parents: Vec<u32>,
    /// `batchtopk`: the tracked threshold of each level.
    pub tau: [f32; 2],
}

impl Model {
    /// Checks that weights and tables have the shapes that the architecture calls for.
    ///
    /// # Errors
    /// [`Error::Shape`] or [`Error::Index`] naming the tensor.
    pub fn check(&self) -> Result<()> {
        let widths = self.arch.widths();
        for (i, tensor) in self.params.tensors.iter().enumerate() {
            let expected = if widths[i] == 0 { 0 } else { widths[i] * self.arch.n_rows(i) };
            if tensor.len() != expected {
                return Err(Error::Shape { what: NAMES[i], expected, got: tensor.len() });
            }
            if !tensor.all_finite() {
                let at = tensor.iter().position(|v| !v.is_finite()).unwrap_or(0);
                return Err(Error::NotFinite { what: NAMES[i].into(), at: At::Element(at as u64) });
            }
        }
        for (level, act, k) in [(1, self.arch.activation1, self.arch.k1), (2, self.arch.activation2, self.arch.k2)] {
            if act == Activation::Topk && k < 1.0 && (level == 1 || self.arch.f2 > 0) {
                return Err(Error::config("k", format!("level {level}: topk needs a k of at least 1, found {k}")));
            }
        }
        let expected = if self.arch.gate.has_families() { self.arch.f2 } else { 0 };
        if self.parents.len() != expected {
            return Err(Error::Shape { what: "parent", expected, got: self.parents.len() });
        }
        if let Some(&p) = self.parents.iter().find(|&&p| p != ROOT && p as usize >= self.arch.f1) {
            return Err(Error::Index { what: "parent", index: p as usize, len: self.arch.f1 });
        }
        Ok(())
    }

    /// The rule by which latents of a level (1 or 2) fire at inference.
    ///
    /// # Panics
    /// If `level` is neither.
    pub fn rule(&self, level: usize) -> Rule<'_> {
        assert!(level == 1 || level == 2, "level {level} of two");
        let (act, k, theta, r, b) = match level {
            1 => (self.arch.activation1, self.arch.k1, Id::Threshold1, Id::RMag1, Id::BMag1),
            _ => (self.arch.activation2, self.arch.k2, Id::Threshold2, Id::RMag2, Id::BMag2),
        };
        match act {
            Activation::Relu => Rule::Above(0.0),
            Activation::Topk => Rule::Topk((k as usize).min([self.arch.f1, self.arch.f2][level - 1])),
            Activation::Batchtopk => Rule::Above(self.tau[level - 1]),
            Activation::Jumprelu => Rule::AboveEach(&self.params[theta]),
            Activation::Gated => Rule::Gated { r_mag: &self.params[r], b_mag: &self.params[b] },
        }
    }

    /// The most latents of a level (1 or 2) that one row can fire: `k` for topk, and no more children than the families
    /// of the largest possible set of parents have.
    pub fn max_active(&self, level: usize) -> usize {
        let f = [self.arch.f1, self.arch.f2][level - 1];
        if self.arch.model == ModelKind::Seed || f == 0 {
            return f;
        }
        let most = if let Rule::Topk(k) = self.rule(level) { k.min(f) } else { f };
        if level == 1 || !self.arch.gate.has_families() { most } else { most.min(self.max_open()) }
    }

    /// The most children that the active parents of a row, and ROOT, let fire behind a hard gate.
    pub(crate) fn max_open(&self) -> usize {
        let mut families = alloc::vec![0; self.arch.f1];
        let mut roots = 0;
        for &p in &self.parents {
            *if p == ROOT { &mut roots } else { &mut families[p as usize] } += 1;
        }
        if self.arch.gate == GateKind::GroupTop1 {
            families.iter_mut().for_each(|n| *n = 1.min(*n));
        }
        families.sort_unstable_by(|a, b| b.cmp(a));
        roots + families.iter().take(self.max_active(1)).sum::<usize>()
    }

    /// The decoder directions of level 2 in the space of the activations, `(f2, d)`: `D2`, or `E2 D1` for `comp`.
    pub fn decoder2(&self, isa: Isa, par: Par) -> Vec<f32> {
        if self.arch.f2 == 0 || self.arch.decoder != Decoder::Comp {
            return self.params[Id::WDec2].to_vec();
        }
        let mut out = alloc::vec![0.0; self.arch.f2 * self.arch.d];
        compose(isa, par, &self.arch, &self.params, &mut out);
        out
    }
}

/// `C2 = E2 D1`, `(f2, d)`: what a latent of level 2 adds to the reconstruction when it composes level 1.
pub(crate) fn compose(isa: Isa, par: Par, arch: &Arch, params: &Params, out: &mut [f32]) {
    let d1t = dense::transposed(&params[Id::WDec1], arch.f1, arch.d);
    let e2 = &params[Id::WDec2];
    par.for_rows(arch.f2, 64, [out], [arch.d], |first, [rows]| {
        let n = rows.len() / arch.d;
        dense::affine(isa, &e2[first * arch.f1..(first + n) * arch.f1], &d1t, arch.f1, None, rows);
    });
}
