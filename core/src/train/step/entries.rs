//! The sparse working set of a step: the entries of each level, which the forward and the backward pass touch.

use crate::entry::{CodeRow, EntryRow};
use alloc::vec::Vec;

/// Which gradients of a level's entries later stages read, so that they must be kept for the whole batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// The part of `dL/du` that comes through the other level: for level 1 of two.
    pub through: bool,
    /// `dL/da` in place of `dL/du`: for level 2.
    pub ungated: bool,
    /// `dL/dg`: for level 2 with a soft gate.
    pub gate: bool,
    /// Number of parameters per latent that the activation has: 1 for jumprelu, 2 for gated.
    pub own: usize,
    /// AuxK activations: where AuxK acts.
    pub aux: bool,
}

/// Gradients of the entries of one level of one chunk: one number per entry, or none where no stage reads them.
#[derive(Clone, Debug, Default)]
pub struct Gradients {
    /// `dL/dz` through the level's own terms, and through the other level.
    pub z: [Vec<f32>; 2],
    /// `dL/du`, split alike.
    pub u: [Vec<f32>; 2],
    /// `dL/da`: level 2 only.
    pub a: Vec<f32>,
    /// `dL/dg`: level 2 only.
    pub g: Vec<f32>,
    /// Gradients of the activation's parameters: the threshold of jumprelu, or `r_mag` and `b_mag` of gated.
    pub p: [Vec<f32>; 2],
}

impl Gradients {
    /// Swaps the vectors that are not kept with those of `spare`. A thread does so before and after each chunk, so that
    /// its chunks share one memory for them, which stays in the cache.
    pub fn exchange(&mut self, spare: &mut Self, kept: Kept) {
        core::mem::swap(&mut self.z, &mut spare.z);
        let Self { u: [u0, u1], a, g, p: [p0, p1], .. } = self;
        let Self { u: [v0, v1], a: b, g: h, p: [q0, q1], .. } = spare;
        for (mine, other, kept) in [
            (u0, v0, !kept.ungated),
            (u1, v1, kept.through),
            (a, b, kept.ungated),
            (g, h, kept.gate),
            (p0, q0, kept.own > 0),
            (p1, q1, kept.own > 1),
        ] {
            if !kept {
                core::mem::swap(mine, other);
            }
        }
    }

    /// Sets all gradients of `n` entries to zero.
    pub fn zero(&mut self, n: usize) {
        let Self { z: [z0, z1], u: [u0, u1], a, g, p: [p0, p1] } = self;
        for grad in [z0, z1, u0, u1, a, g, p0, p1] {
            grad.clear();
            grad.resize(n, 0.0);
        }
    }
}

/// Entries of one level of one chunk of rows, by row. Parallel vectors, one number per entry.
///
/// An entry is any `(row, latent)` that some gradient needs: a latent that fires (`z > 0`), one in the band below its
/// jumprelu threshold, a dead one that AuxK has selected (`v > 0`), or one whose ungated pre-activation the containment
/// loss penalises.
#[derive(Clone, Debug, Default)]
pub struct Entries {
    /// Index of the first entry of each row, then the number of entries: `rows + 1` numbers.
    pub offsets: Vec<u32>,
    /// Latents; those that fire come first in a row, ascending.
    pub index: Vec<u32>,
    /// Pre-activations after the gate.
    pub u: Vec<f32>,
    /// Latent activations; 0 where the latent does not fire.
    pub z: Vec<f32>,
    /// AuxK activations; 0 where AuxK has not selected the latent. Empty where AuxK does not act.
    pub v: Vec<f32>,
    /// Pre-activations before a soft gate; empty without one.
    pub a: Vec<f32>,
    /// Soft gates; empty without one.
    pub g: Vec<f32>,
    /// Gradients of the entries.
    pub grad: Gradients,
}

impl Entries {
    /// Removes all rows, and keeps the memory.
    pub fn clear(&mut self) {
        self.offsets.clear();
        self.offsets.push(0);
        self.index.clear();
        self.u.clear();
        self.z.clear();
        self.v.clear();
        self.a.clear();
        self.g.clear();
    }

    /// Copies the rows of `other`, without a soft gate and gradients.
    pub fn copy_from(&mut self, other: &Self) {
        self.clear();
        self.offsets.clear();
        self.offsets.extend_from_slice(&other.offsets);
        self.index.extend_from_slice(&other.index);
        self.u.extend_from_slice(&other.u);
        self.z.extend_from_slice(&other.z);
        self.v.extend_from_slice(&other.v);
    }

    /// Returns the number of entries.
    pub fn count(&self) -> usize {
        self.index.len()
    }

    /// Appends an entry to the row that is being built; `soft` is the ungated pre-activation and the gate where there
    /// is a soft one.
    pub fn push(&mut self, index: u32, u: f32, z: f32, soft: Option<(f32, f32)>) {
        self.index.push(index);
        self.u.push(u);
        self.z.push(z);
        if let Some((a, g)) = soft {
            self.a.push(a);
            self.g.push(g);
        }
    }

    /// Returns the entries of row `i` with their gradients.
    pub(crate) fn row_mut(&mut self, i: usize) -> EntryRow<'_> {
        let row = self.row(i);
        // Vectors that the step does not need are empty.
        let part = |values: &'_ [f32]| values.get(row.clone()).map(|_| row.clone()).unwrap_or(0..0);
        let (v, a, g) = (part(&self.v), part(&self.a), part(&self.g));
        let Gradients { z: [z0, z1], u: [u0, u1], a: grad_a, g: grad_g, p: [p0, p1] } = &mut self.grad;
        EntryRow {
            index: &self.index[row.clone()],
            u: &self.u[row.clone()],
            z: &self.z[row.clone()],
            v: &self.v[v],
            a: &self.a[a],
            g: &self.g[g],
            grad_z: [&mut z0[row.clone()], &mut z1[row.clone()]],
            grad_u: [&mut u0[row.clone()], &mut u1[row.clone()]],
            grad_a: &mut grad_a[row.clone()],
            grad_g: &mut grad_g[row.clone()],
            grad_p: [&mut p0[row.clone()], &mut p1[row]],
        }
    }

    /// Returns all entries of row `i` as a code, in which silent latents have the value 0.
    pub(crate) fn code(&self, i: usize) -> CodeRow<'_> {
        let row = self.row(i);
        CodeRow { index: &self.index[row.clone()], value: &self.z[row] }
    }

    /// Returns the codes of all rows, in order.
    pub(crate) fn codes(&self) -> impl Iterator<Item = CodeRow<'_>> + Clone {
        (0..self.n_rows()).map(|i| self.code(i))
    }

    /// Returns the number of rows; 0 before the first step.
    pub fn n_rows(&self) -> usize {
        self.offsets.len().saturating_sub(1)
    }

    /// Returns the AuxK activation of an entry.
    pub fn aux(&self, at: usize) -> f32 {
        self.v.get(at).copied().unwrap_or(0.0)
    }

    /// Ends a row.
    pub fn end_row(&mut self) {
        self.offsets.push(self.index.len() as u32);
    }

    /// Returns the entries of row `i`.
    pub fn row(&self, i: usize) -> core::ops::Range<usize> {
        self.offsets[i] as usize..self.offsets[i + 1] as usize
    }
}

/// Candidates of one level of one chunk, by row: what encoding found, before a selection over the batch.
#[derive(Clone, Debug, Default)]
pub struct List {
    /// Index of the first candidate of each row, then the number of candidates: `rows + 1` numbers.
    pub offsets: Vec<u32>,
    /// Latents.
    pub index: Vec<u32>,
    /// Pre-activations.
    pub u: Vec<f32>,
    /// Pre-activations before a soft gate; empty without one.
    pub a: Vec<f32>,
    /// Soft gates; empty without one.
    pub g: Vec<f32>,
}

impl List {
    /// Removes all rows, and keeps the memory.
    pub fn clear(&mut self) {
        self.offsets.clear();
        self.offsets.push(0);
        self.index.clear();
        self.u.clear();
        self.a.clear();
        self.g.clear();
    }

    /// Ends a row whose indices and pre-activations have been pushed; `soft` gives the ungated pre-activations and the
    /// gates of the whole row.
    pub fn end_row(&mut self, soft: Option<(&[f32], &[f32])>) {
        if let Some((a, g)) = soft {
            for &j in &self.index[self.a.len()..] {
                self.a.push(a[j as usize]);
                self.g.push(g[j as usize]);
            }
        }
        self.offsets.push(self.index.len() as u32);
    }

    /// Returns the entries of row `i`.
    pub fn row(&self, i: usize) -> core::ops::Range<usize> {
        self.offsets[i] as usize..self.offsets[i + 1] as usize
    }

    /// Returns the number of rows; 0 before the first step.
    pub fn n_rows(&self) -> usize {
        self.offsets.len().saturating_sub(1)
    }

    /// Returns row `i` as latents with their pre-activations.
    pub(crate) fn code(&self, i: usize) -> CodeRow<'_> {
        let row = self.row(i);
        CodeRow { index: &self.index[row.clone()], value: &self.u[row] }
    }

    /// Returns the ungated pre-activation and the gate of an entry, where there is a soft gate.
    pub fn soft(&self, at: usize) -> Option<(f32, f32)> {
        (!self.a.is_empty()).then(|| (self.a[at], self.g[at]))
    }
}

/// Entries of one level by latent, over the whole batch, rows ascending: the transpose of the chunks' [`Entries`]. What
/// is not kept of them is empty here.
#[derive(Clone, Debug, Default)]
pub struct ByLatent {
    /// Index of the first entry of each latent, then the number of entries: `f + 1` numbers.
    pub offsets: Vec<u32>,
    /// Row of the batch.
    pub at: Vec<u32>,
    /// Latent activations.
    pub z: Vec<f32>,
    /// AuxK activations.
    pub v: Vec<f32>,
    /// The factor of a row in the gradient of the encoder row: `dL/du` of level 1, in two parts, or `dL/da` of level 2.
    pub grad: [Vec<f32>; 2],
    /// `dL/dg` of level 2.
    pub grad_g: Vec<f32>,
    /// Gradients of the activation's parameters.
    pub grad_p: [Vec<f32>; 2],
    /// Scratch: where the next entry of each latent goes.
    next: Vec<u32>,
}

impl ByLatent {
    /// Transposes the entries of all chunks, `chunk` rows each.
    pub fn fill<'e>(&mut self, f: usize, chunk: usize, kept: Kept, chunks: impl Iterator<Item = &'e Entries> + Clone) {
        self.offsets.clear();
        self.offsets.resize(f + 1, 0);
        for e in chunks.clone() {
            for &j in &e.index {
                self.offsets[j as usize + 1] += 1;
            }
        }
        for j in 0..f {
            self.offsets[j + 1] += self.offsets[j];
        }
        let n = self.offsets[f] as usize;
        self.next.clear();
        self.next.extend_from_slice(&self.offsets[..f]);
        self.at.resize(n, 0);
        let Self { z, v, grad: [g0, g1], grad_g, grad_p: [p0, p1], .. } = self;
        for (values, there) in [
            (z, true),
            (v, kept.aux),
            (g0, true),
            (g1, kept.through),
            (grad_g, kept.gate),
            (p0, kept.own > 0),
            (p1, kept.own > 1),
        ] {
            values.resize(if there { n } else { 0 }, 0.0);
        }
        for (c, e) in chunks.enumerate() {
            let grad = if kept.ungated { &e.grad.a } else { &e.grad.u[0] };
            for i in 0..e.offsets.len() - 1 {
                for at in e.row(i) {
                    let to = &mut self.next[e.index[at] as usize];
                    let k = *to as usize;
                    *to += 1;
                    self.at[k] = (c * chunk + i) as u32;
                    self.z[k] = e.z[at];
                    self.grad[0][k] = grad[at];
                    if kept.aux {
                        self.v[k] = e.aux(at);
                    }
                    if kept.through {
                        self.grad[1][k] = e.grad.u[1][at];
                    }
                    if kept.gate {
                        self.grad_g[k] = e.grad.g[at];
                    }
                    for p in 0..kept.own {
                        self.grad_p[p][k] = e.grad.p[p][at];
                    }
                }
            }
        }
    }

    /// Returns the entries of latent `j`.
    pub fn latent(&self, j: usize) -> core::ops::Range<usize> {
        self.offsets[j] as usize..self.offsets[j + 1] as usize
    }
}
