//! Activations: which latents of a row fire, their value, and the gradient. Each has a file of its own, with forward and
//! backward side by side.
//!
//! | name | latents of a row, `u` its pre-activations | `dz/du` where `z > 0` | parameters |
//! |---|---|---|---|
//! | relu | `max(u, 0)` | 1 | |
//! | topk | `u` at the `k` largest positive `u` | 1 | |
//! | batchtopk | training: `u` at the `k n` largest positive `u` of the batch; inference: `u 1[u > tau]` | 1 | `tau` |
//! | jumprelu | `u 1[u > theta]` | 1 | `theta`, by a straight-through kernel |
//! | gated | `1[u > 0] max(e^r u + b, 0)` | `e^r` | `r`, `b` |
//!
//! Thresholds are strict. The selection itself has no gradient.
//!
//! [`Activation`] names the choice, and [`Rule`] is the choice with the numbers of one level: the same rule encodes and
//! trains. A rule is dispatched once per row or per list, so that the loops inside are those of one activation.

mod batchtopk;
mod gated;
mod jumprelu;
mod kind;
mod relu;
mod topk;

pub(crate) use kind::{Auxiliary, Backward, Candidacy};

use crate::choice::choices;
use crate::entry::EntryRow;
use crate::kernel::fire::Limit;
use crate::kernel::{Isa, select};
use alloc::vec::Vec;
use batchtopk::Batchtopk;
use gated::Gated;
use jumprelu::Jumprelu;
use kind::Kind;
use relu::Relu;
use topk::Topk;

choices! {
    /// How pre-activations become latents.
    Activation {
        /// `z = max(u, 0)`, sparse through the L1 penalty.
        Relu = "relu",
        /// The `k` largest positive pre-activations of each row (Gao et al. 2024).
        Topk = "topk",
        /// The `k n` largest positive pre-activations of a batch of `n` rows; a tracked threshold at inference (Bussmann et al. 2024).
        Batchtopk = "batchtopk",
        /// `z = u 1[u > theta]` with a threshold per latent (Rajamanoharan et al. 2024).
        Jumprelu = "jumprelu",
        /// `z = 1[u > 0] max(e^r u + b_mag, 0)`: a tied Gated SAE (Rajamanoharan et al. 2024).
        Gated = "gated",
    }
}

/// How many latents of a level may be active, and which of them compete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Selection {
    /// Each latent stands for itself; a penalty makes the level sparse.
    Each,
    /// The largest `k` of each row.
    Row,
    /// The largest `k n` of a batch of `n` rows; a tracked threshold at inference.
    Batch,
}

/// A tensor of one number per latent that belongs to an activation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parameter {
    /// `theta` of `jumprelu`.
    Threshold,
    /// `r`, the logarithm of the slope of `gated`.
    RMag,
    /// `b`, the offset of `gated`.
    BMag,
}

impl Activation {
    /// Returns the parameters that are trained with the activation, at most two.
    pub const fn parameters(self) -> &'static [Parameter] {
        match self {
            Self::Relu | Self::Topk | Self::Batchtopk => &[],
            Self::Jumprelu => &[Parameter::Threshold],
            Self::Gated => &[Parameter::RMag, Parameter::BMag],
        }
    }

    /// Returns which pre-activations compete in training.
    pub const fn selection(self) -> Selection {
        match self {
            Self::Relu | Self::Jumprelu | Self::Gated => Selection::Each,
            Self::Topk => Selection::Row,
            Self::Batchtopk => Selection::Batch,
        }
    }

    /// Returns whether the sparsity penalty weighs latents by the norms of their decoder rows, so that it has a gradient
    /// there.
    pub const fn penalises_decoder_norms(self) -> bool {
        match self {
            Self::Relu | Self::Topk | Self::Batchtopk => true,
            Self::Jumprelu | Self::Gated => false,
        }
    }

    /// Returns whether the level has an auxiliary reconstruction, which trains its gate.
    pub(crate) const fn has_auxiliary(self) -> bool {
        match self {
            Self::Gated => true,
            Self::Relu | Self::Topk | Self::Batchtopk | Self::Jumprelu => false,
        }
    }

    /// Returns whether a penalty, and not a count, makes the level sparse.
    pub const fn is_penalised(self) -> bool {
        matches!(self.selection(), Selection::Each)
    }

    /// Returns whether a threshold that training tracks decides at inference.
    pub const fn has_tau(self) -> bool {
        matches!(self.selection(), Selection::Batch)
    }

    /// Raises what the pre-activations of a level must reach to fire, of all latents alike: by about a factor `e^by`
    /// (`jumprelu`), or by `by unit` (`relu`, `gated`). Nothing where a count decides.
    pub(crate) fn raise(self, by: f64, unit: f64, limits: Limits<'_>) {
        match self {
            Self::Relu => relu::raise(by, unit, limits.bias),
            Self::Jumprelu => jumprelu::raise(by, unit, limits.threshold, limits.bias),
            Self::Gated => gated::raise(by, unit, limits.bias, limits.r_mag, limits.b_mag),
            Self::Topk | Self::Batchtopk => {}
        }
    }

    /// Returns whether to raise the limits of a level changes the values of what still fires.
    pub(crate) const fn raises_values(self) -> bool {
        match self {
            Self::Relu => true,
            Self::Topk | Self::Batchtopk | Self::Jumprelu | Self::Gated => false,
        }
    }

    /// Returns whether a latent fires with its pre-activation as value if that exceeds a positive threshold.
    pub const fn has_threshold(self) -> bool {
        match self {
            Self::Batchtopk | Self::Jumprelu => true,
            Self::Relu | Self::Topk | Self::Gated => false,
        }
    }

    /// Returns whether `k` is a whole number of latents, at least 1.
    pub const fn has_whole_k(self) -> bool {
        matches!(self.selection(), Selection::Row)
    }
}

/// The tensors of a level that decide which of its latents fire, `(f)` each, to be moved; empty where there is none.
#[derive(Debug)]
pub(crate) struct Limits<'a> {
    /// Encoder biases.
    pub bias: &'a mut [f32],
    /// Thresholds of `jumprelu`.
    pub threshold: &'a mut [f32],
    /// Logarithms of the slopes of `gated`.
    pub r_mag: &'a [f32],
    /// Offsets of `gated`.
    pub b_mag: &'a mut [f32],
}

/// The tensors of an activation, `(f)` each; empty where it has none.
#[derive(Clone, Copy, Debug, Default)]
pub struct Parameters<'a> {
    /// Thresholds of `jumprelu`.
    pub threshold: &'a [f32],
    /// Logarithms of the slopes of `gated`.
    pub r_mag: &'a [f32],
    /// Offsets of `gated`.
    pub b_mag: &'a [f32],
}

/// The activation of one level with its numbers: which entries of a row fire, and their values.
#[derive(Clone, Copy, Debug)]
pub struct Rule<'a>(Inner<'a>);

#[derive(Clone, Copy, Debug)]
enum Inner<'a> {
    Relu(Relu),
    Topk(Topk),
    Batchtopk(Batchtopk),
    Jumprelu(Jumprelu<'a>),
    Gated(Gated<'a>),
}

/// Evaluates `$body` with `$kind` the activation of a rule, once for each type of it.
macro_rules! each {
    ($rule:expr, $kind:ident => $body:expr) => {
        match &$rule.0 {
            Inner::Relu($kind) => $body,
            Inner::Topk($kind) => $body,
            Inner::Batchtopk($kind) => $body,
            Inner::Jumprelu($kind) => $body,
            Inner::Gated($kind) => $body,
        }
    };
}

impl<'a> Rule<'a> {
    /// Returns the rule of a level: `k` latents per row, the tracked threshold `tau`, and its parameters, each where the
    /// activation has it.
    pub fn new(activation: Activation, k: f64, tau: f32, parameters: Parameters<'a>) -> Self {
        let Parameters { threshold, r_mag, b_mag } = parameters;
        Self(match activation {
            Activation::Relu => Inner::Relu(Relu),
            Activation::Topk => Inner::Topk(Topk { k: k as usize }),
            Activation::Batchtopk => Inner::Batchtopk(Batchtopk { k, tau }),
            Activation::Jumprelu => Inner::Jumprelu(Jumprelu { threshold }),
            Activation::Gated => Inner::Gated(Gated { r_mag, b_mag }),
        })
    }

    /// Returns the rule by which ungated pre-activations of the level count as firing in training, each row by itself:
    /// counts of a row or a batch become the tracked threshold `tau`.
    pub(crate) fn ungated(self, tau: f32) -> Self {
        match self.0 {
            Inner::Topk(_) | Inner::Batchtopk(_) => Self(Inner::Batchtopk(Batchtopk { k: 0.0, tau: tau.max(0.0) })),
            Inner::Relu(_) | Inner::Jumprelu(_) | Inner::Gated(_) => self,
        }
    }

    /// Returns the limit that a pre-activation must reach to fire. It is the whole rule, except for a gated level,
    /// where [`Rule::keep`] decides.
    pub fn limit(&self) -> Limit<'_> {
        each!(self, kind => kind.limit())
    }

    /// Returns the threshold that the pre-activation of latent `j` must exceed to fire; 0 where the activation has none.
    pub fn threshold(&self, j: usize) -> f32 {
        match &self.0 {
            Inner::Batchtopk(kind) => kind.tau,
            Inner::Jumprelu(kind) => kind.threshold[j],
            Inner::Relu(_) | Inner::Topk(_) | Inner::Gated(_) => 0.0,
        }
    }

    /// Returns slopes `e^r` and offsets `b` where the value of a latent is not its pre-activation `u`, but `max(e^r u + b, 0)`.
    pub(crate) fn magnitudes(&self) -> Option<(Vec<f32>, &[f32])> {
        match &self.0 {
            Inner::Gated(kind) => Some(kind.magnitudes()),
            Inner::Relu(_) | Inner::Topk(_) | Inner::Batchtopk(_) | Inner::Jumprelu(_) => None,
        }
    }

    /// Appends those of the latents `from`, with pre-activations `u` that have reached the limit of a row, that fire.
    pub fn keep(&self, from: &[u32], u: &[f32], index: &mut Vec<u32>, value: &mut Vec<f32>) {
        let first = index.len();
        index.extend_from_slice(from);
        value.extend_from_slice(u);
        self.settle(first, index, value);
    }

    /// Appends the latents of one row that fire: their indices, ascending, and their values `z`.
    pub fn fire(&self, isa: Isa, u: &[f32], index: &mut Vec<u32>, value: &mut Vec<f32>) {
        let first = index.len();
        select_row(isa, self.limit(), u, index, value);
        self.settle(first, index, value);
    }

    /// Turns the pre-activations from index `first` on, which have reached the limit, into the values of those that
    /// fire.
    fn settle(&self, first: usize, index: &mut Vec<u32>, value: &mut Vec<f32>) {
        each!(self, kind => filter(kind, first, index, value, |_, z| z));
    }

    /// Drops the pre-activations from index `first` on that have reached the limit and do not fire.
    pub(crate) fn drop_silent(&self, first: usize, index: &mut Vec<u32>, u: &mut Vec<f32>) {
        each!(self, kind => filter(kind, first, index, u, |u, _| u));
    }

    /// Returns the limit that a pre-activation must reach in training to become a candidate.
    pub(crate) fn candidates<'b>(&'b self, by: &Candidacy<'b>) -> Limit<'b> {
        each!(self, kind => kind.candidates(by))
    }

    /// Writes the lower ends of the bands of the straight-through kernel where the activation has one; else nothing.
    pub(crate) fn bands(&self, bandwidth: f32, band: &mut Vec<f32>) {
        match self.0 {
            Inner::Jumprelu(kind) => kind.bands(bandwidth, band),
            Inner::Relu(_) | Inner::Topk(_) | Inner::Batchtopk(_) | Inner::Gated(_) => {}
        }
    }

    /// Writes the values of pre-activations that were selected; 0 where a latent does not fire.
    pub(crate) fn values(&self, index: &[u32], u: &[f32], z: &mut Vec<f32>) {
        z.clear();
        each!(self, kind => z.extend(index.iter().zip(u).map(|(j, u)| kind.value(*j as usize, *u).max(0.0))));
    }

    /// Carries `dL/dz` to `dL/du` and to the activation's parameters.
    pub(crate) fn backward(&self, by: &Backward, row: &mut EntryRow<'_>) {
        each!(self, kind => kind.backward(by, row));
    }

    /// Calls `add` with the terms of a row's sparsity penalty, and adds its gradient to the entries:
    /// `lambda/n sum z |D_j|` (relu, topk, batchtopk), `lambda/n sum 1[z > 0]` (jumprelu), `lambda/n sum relu(u)` (gated).
    pub(crate) fn penalise(&self, penalty: f32, norms: &[f32], row: &mut EntryRow<'_>, add: impl FnMut(f64)) {
        if penalty != 0.0 {
            each!(self, kind => kind.penalise(penalty, norms, row, add));
        }
    }

    /// Adds the gradient of the auxiliary reconstruction of a gated level, and returns its value; 0 for the others.
    pub(crate) fn auxiliary(&self, by: Auxiliary<'_>, row: &mut EntryRow<'_>) -> f64 {
        each!(self, kind => kind.auxiliary(by, row))
    }
}

/// Appends the pre-activations of one row that reach a limit, ascending by latent.
pub(crate) fn select_row(isa: Isa, limit: Limit<'_>, u: &[f32], index: &mut Vec<u32>, value: &mut Vec<f32>) {
    match limit {
        Limit::Above(t) => select::above(isa, u, t, index, value),
        Limit::AboveEach(t) => select::above_each(isa, u, t, index, value),
        Limit::Topk(k) => select::topk_row(isa, u, k, index, value),
    }
}

/// Keeps those of the entries from index `first` on that fire, with `kept(u, z)` in place of the pre-activation.
fn filter<K: Kind>(kind: &K, first: usize, index: &mut Vec<u32>, value: &mut Vec<f32>, kept: impl Fn(f32, f32) -> f32) {
    if K::LIMIT_DECIDES {
        return;
    }
    let mut to = first;
    for at in first..index.len() {
        let z = kind.value(index[at] as usize, value[at]);
        if z > 0.0 {
            (index[to], value[to]) = (index[at], kept(value[at], z));
            to += 1;
        }
    }
    index.truncate(to);
    value.truncate(to);
}
