//! What level 2 reads, and its pre-activations before and behind the gate, as training and inference compute them.

use super::scratch::Scratch;
use super::{Arch, CodeRow, Params};
use crate::config::GateKind;
use crate::gate::{self, Families, Reads};
use crate::kernel::Isa;
use crate::kernel::dense;
use core::ops::Range;

/// Weights as the forward passes of training and of inference read them.
#[derive(Clone, Copy)]
pub(crate) struct Weights<'a> {
    pub arch: &'a Arch,
    pub params: &'a Params,
    pub families: &'a Families,
    /// The gate that is active: a hard gate may not have started yet.
    pub gate: GateKind,
}

impl Weights<'_> {
    /// Writes `s`, what level 2 reads, for the first `n` rows, given the latents of level 1 of each.
    pub fn source<'c>(&self, isa: Isa, n: usize, z1: impl Fn(usize) -> CodeRow<'c>, t: &mut Scratch) {
        let (d, width) = (self.arch.d, self.arch.source_width());
        let d1 = &self.params.level[0].w_dec;
        self.arch.source.fill(isa, d1, &t.xt[..n * d], d, z1, &mut t.s[..n * width]);
    }

    /// Writes `a2 = s W2^T + b2` of the rows `rows` of the scratch to its first rows.
    pub fn ungated2(&self, isa: Isa, rows: Range<usize>, t: &mut Scratch) {
        let (width, f2) = (self.arch.source_width(), self.arch.level[1].latents);
        let n = rows.len();
        let s = &t.s[rows.start * width..rows.end * width];
        let (w, b) = (&self.params.level[1].w_enc, &self.params.level[1].b_enc);
        dense::affine(isa, s, w, width, Some(b), &mut t.a2[..n * f2]);
    }

    /// Returns the gated pre-activations of row `i`, from its ungated ones and the latents of level 1. `t.g2` then has
    /// the soft gate.
    pub fn gate_row<'t>(&self, isa: Isa, i: usize, z1: CodeRow<'_>, t: &'t mut Scratch) -> &'t [f32] {
        let f2 = self.arch.level[1].latents;
        let a = &t.a2[i * f2..(i + 1) * f2];
        match self.gate.reads() {
            Reads::Nothing => return a,
            Reads::AllPreActivations => {
                gate::soft_gate(isa, z1, &self.params.gate.w, &self.params.gate.b, &mut t.g2);
                self.gate.apply(a, &t.g2, &mut t.u2);
            }
            Reads::ActiveParents { largest_only } => {
                gate::hard(self.families, z1.active(), largest_only, a, &mut t.u2);
            }
        }
        &t.u2
    }
}
