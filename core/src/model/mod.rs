//! The two-level SAE: its parameters, encoding and decoding. Training is in [`crate::train`].
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

mod arch;
mod codes;
mod compete;
mod encode;
mod hierarchy;
mod level2;
mod on_device;
mod packed;
mod params;
mod plan;
mod prune;
mod reconstruct;
mod scratch;
pub mod seed;
mod steer;
mod stored;
mod tensor;
mod variant;
mod watch;

pub use crate::entry::CodeRow;
pub use arch::{Arch, LevelArch};
pub use codes::{Codes, CodesByLatent, CodesView};
pub use encode::Encoder;
pub(crate) use hierarchy::{Behind, Hierarchy, Order};
pub(crate) use level2::Weights;
pub use packed::{Packed, PackedWeights};
pub use params::{GateParams, LevelParams, N_TENSORS, NAMES, ParamSpec, Params};
pub(crate) use prune::{Directions, Scratch as PruneScratch, prune_row};
pub(crate) use scratch::CHUNK;
pub use scratch::{Lanes, Scratch};
pub use steer::Edit;
pub use stored::WeightType;
pub use tensor::{SharedBytes, Tensor};
pub use variant::{TopkBy, Variant};
pub use watch::{Computed, Watch, Why};

use crate::activation::Rule;
use crate::compute::Compute;
use crate::config::ModelKind;
use crate::error::{At, Error, Result};
use crate::gate::{ROOT, Reads};
use crate::kernel::dense;
use crate::kernel::fire::Limit;
use alloc::format;
use alloc::vec::Vec;

/// A trained model.
#[derive(Clone, Debug, PartialEq)]
pub struct Model {
    /// The architecture.
    pub arch: Arch,
    /// The weights.
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
        self.check_without(&[])
    }

    /// Checks what [`Model::check`] does, but for the tensors of these names.
    fn check_without(&self, absent: &[&str]) -> Result<()> {
        let specs = self.arch.specs();
        let tensors = self.params.tensors().into_iter().zip(specs.tensors());
        for ((name, tensor), (_, spec)) in tensors.filter(|((name, _), _)| !absent.contains(name)) {
            if tensor.len() != spec.len() {
                return Err(Error::Shape { what: name, expected: spec.len(), got: tensor.len() });
            }
            if !tensor.all_finite() {
                let at = tensor.iter().position(|v| !v.is_finite()).unwrap_or(0);
                return Err(Error::NotFinite { what: name.into(), at: At::Element(at as u64) });
            }
        }
        for (l, level) in self.arch.level.iter().enumerate().take(self.arch.n_levels()) {
            let (k, activation) = (level.k, level.activation);
            if activation.has_whole_k() && k < 1.0 {
                let why = format!("level {}: {activation} needs a k of at least 1, found {k}", l + 1);
                return Err(Error::config("k", why));
            }
        }
        for (l, share) in self.arch.variant.prune.into_iter().enumerate().filter(|(_, share)| *share != 0.0) {
            let activation = self.arch.level[l].activation;
            let is_share = share > 0.0 && share.is_finite();
            if !(is_share && activation.has_threshold() && self.arch.variant.target.is_none()) {
                let why = format!(
                    "level {}: expected 0, or a positive share for `batchtopk` or `jumprelu` in an autoencoder, found {share} for \
                     `{activation}`{}",
                    l + 1,
                    if self.arch.variant.target.is_some() { " in a transcoder" } else { "" }
                );
                return Err(Error::config("prune", why));
            }
        }
        let f1 = self.arch.level[0].latents;
        if let (TopkBy::Group, Limit::Topk(k)) = (self.arch.variant.topk_by, self.rule(0).limit())
            && !f1.is_multiple_of(k)
        {
            return Err(Error::config("k", format!("{f1} latents do not make {k} groups of one size")));
        }
        let expected = if self.arch.gate.has_families() { self.arch.level[1].latents } else { 0 };
        if self.parents.len() != expected {
            return Err(Error::Shape { what: "parent", expected, got: self.parents.len() });
        }
        if let Some(&p) = self.parents.iter().find(|&&p| p != ROOT && p as usize >= self.arch.level[0].latents) {
            return Err(Error::Index { what: "parent", index: p as usize, len: self.arch.level[0].latents });
        }
        Ok(())
    }

    /// Returns the rule by which latents of a level (0 or 1) fire at inference.
    ///
    /// # Panics
    /// If `level` is neither.
    pub fn rule(&self, level: usize) -> Rule<'_> {
        let (arch, params) = (&self.arch.level[level], &self.params.level[level]);
        Rule::new(arch.activation, arch.k.min(arch.latents as f64), self.tau[level], params.activation())
    }

    /// Returns the limit that a pre-activation of level 1 must reach to be considered: that of its rule, or 0 where
    /// groups decide.
    pub(crate) fn limit1<'a>(&self, rule: &'a Rule<'_>) -> Limit<'a> {
        if self.arch.variant.topk_by == TopkBy::Group { Limit::Above(0.0) } else { rule.limit() }
    }

    /// Returns the number of latents of a group of [`TopkBy::Group`].
    pub(crate) fn group_width(&self) -> usize {
        let level = &self.arch.level[0];
        level.latents / (level.k as usize).max(1)
    }

    /// Returns the largest number of latents of a level (0 or 1) that can be active on one row: `k` for topk, and at
    /// most the number of children in the families of the largest possible set of parents.
    pub fn max_active(&self, level: usize) -> usize {
        let f = self.arch.level[level].latents;
        if self.arch.model == ModelKind::Seed || f == 0 {
            return f;
        }
        let most = if let Limit::Topk(k) = self.rule(level).limit() { k.min(f) } else { f };
        if level == 0 || !self.arch.gate.has_families() { most } else { most.min(self.max_open()) }
    }

    /// Returns the largest number of children that can fire behind a hard gate: those of active parents and of ROOT.
    pub(crate) fn max_open(&self) -> usize {
        let mut families = alloc::vec![0; self.arch.level[0].latents];
        let mut roots = 0;
        for &p in &self.parents {
            *if p == ROOT { &mut roots } else { &mut families[p as usize] } += 1;
        }
        if self.arch.gate.reads() == (Reads::ActiveParents { largest_only: true }) {
            families.iter_mut().for_each(|n| *n = 1.min(*n));
        }
        families.sort_unstable_by(|a, b| b.cmp(a));
        roots + families.iter().take(self.max_active(0)).sum::<usize>()
    }

    /// Returns the decoder directions of level 2 in the space of the reconstruction, `(f2, d_out)`: `D2`, or `E2 D1` for `comp`.
    pub fn decoder2(&self, compute: Compute) -> Vec<f32> {
        if self.arch.level[1].latents == 0 || !self.arch.decoder.is_composed() {
            return self.params.level[1].w_dec.to_vec();
        }
        let mut out = alloc::vec![0.0; self.arch.level[1].latents * self.arch.d_out()];
        compose(compute, &self.arch, &self.params, &mut out);
        out
    }
}

/// Writes `C2 = E2 D1`, `(f2, d_out)`: the contribution of each latent of level 2 when it composes level 1.
pub(crate) fn compose(compute: Compute, arch: &Arch, params: &Params, out: &mut [f32]) {
    let Compute { isa, par } = compute;
    let d = arch.d_out();
    let d1t = dense::transposed(&params.level[0].w_dec, arch.level[0].latents, d);
    let e2 = &params.level[1].w_dec;
    par.for_rows(arch.level[1].latents, 64, [out], [d], |first, [rows]| {
        let n = rows.len() / d;
        dense::affine(
            isa,
            &e2[first * arch.level[0].latents..(first + n) * arch.level[0].latents],
            &d1t,
            arch.level[0].latents,
            None,
            rows,
        );
    });
}
