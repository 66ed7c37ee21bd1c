//! The sparse working set of a step: the entries of each level that forward and backward touch.

use alloc::vec::Vec;

/// Entries of one level of one chunk of rows, by row. Parallel vectors, one place an entry.
///
/// An entry is any `(row, latent)` that some gradient needs: a latent that fires (`z > 0`), one in the band below its
/// jumprelu threshold, a dead one that AuxK lights (`v > 0`), or one whose drive the containment loss charges.
#[derive(Clone, Debug, Default)]
pub struct Entries {
    /// `rows + 1` places.
    pub offsets: Vec<u32>,
    /// Latents; those that fire come first in a row, ascending.
    pub index: Vec<u32>,
    /// Pre-activations after the gate.
    pub u: Vec<f32>,
    /// Latent activations; 0 where the latent does not fire.
    pub z: Vec<f32>,
    /// AuxK activations; 0 where the latent is not lit.
    pub v: Vec<f32>,
    /// Drives before a soft gate.
    pub a: Vec<f32>,
    /// Soft gates.
    pub g: Vec<f32>,
    /// `dL/dz` through the level's own terms, and through the other level.
    pub grad_z: [Vec<f32>; 2],
    /// `dL/du`, split alike.
    pub grad_u: [Vec<f32>; 2],
    /// `dL/da`: level 2 only.
    pub grad_a: Vec<f32>,
    /// `dL/dg`: level 2 only.
    pub grad_g: Vec<f32>,
    /// Gradients of the activation's own parameters: `(theta, -)` or `(r, b)`.
    pub grad_p: [Vec<f32>; 2],
}

impl Entries {
    /// Forgets every row, keeps the memory.
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

    /// Number of entries.
    pub fn count(&self) -> usize {
        self.index.len()
    }

    /// Appends an entry to the row that is being built.
    pub fn push(&mut self, index: u32, u: f32, z: f32, v: f32, a: f32, g: f32) {
        self.index.push(index);
        self.u.push(u);
        self.z.push(z);
        self.v.push(v);
        self.a.push(a);
        self.g.push(g);
    }

    /// Ends a row.
    pub fn end_row(&mut self) {
        self.offsets.push(self.index.len() as u32);
    }

    /// Places of row `i`.
    pub fn row(&self, i: usize) -> core::ops::Range<usize> {
        self.offsets[i] as usize..self.offsets[i + 1] as usize
    }

    /// Sizes the gradients to the entries and zeroes them.
    pub fn zero_gradients(&mut self) {
        let n = self.count();
        let [z0, z1] = &mut self.grad_z;
        let [u0, u1] = &mut self.grad_u;
        let [p0, p1] = &mut self.grad_p;
        for grad in [z0, z1, u0, u1, p0, p1, &mut self.grad_a, &mut self.grad_g] {
            grad.clear();
            grad.resize(n, 0.0);
        }
    }
}

/// Candidates of one level of one chunk: what a row's scan found, before the batch decides.
#[derive(Clone, Debug, Default)]
pub struct List {
    /// `rows + 1` places.
    pub offsets: Vec<u32>,
    /// Latents.
    pub index: Vec<u32>,
    /// Pre-activations.
    pub u: Vec<f32>,
    /// Drives before a soft gate; empty without one.
    pub a: Vec<f32>,
    /// Soft gates; empty without one.
    pub g: Vec<f32>,
}

impl List {
    /// Forgets every row, keeps the memory.
    pub fn clear(&mut self) {
        self.offsets.clear();
        self.offsets.push(0);
        self.index.clear();
        self.u.clear();
        self.a.clear();
        self.g.clear();
    }

    /// Ends a row whose indices and pre-activations have been pushed; `soft` gives drives and gates of the whole row.
    pub fn end_row(&mut self, soft: Option<(&[f32], &[f32])>) {
        if let Some((a, g)) = soft {
            for &j in &self.index[self.a.len()..] {
                self.a.push(a[j as usize]);
                self.g.push(g[j as usize]);
            }
        }
        self.offsets.push(self.index.len() as u32);
    }

    /// Places of row `i`.
    pub fn row(&self, i: usize) -> core::ops::Range<usize> {
        self.offsets[i] as usize..self.offsets[i + 1] as usize
    }

    /// Drive and gate of a place; the pre-activation itself without a soft gate.
    pub fn soft(&self, at: usize) -> (f32, f32) {
        if self.a.is_empty() { (self.u[at], 0.0) } else { (self.a[at], self.g[at]) }
    }
}

/// Entries of one level by latent, over the whole batch, rows ascending: the transpose of the chunks' [`Entries`].
#[derive(Clone, Debug, Default)]
pub struct ByLatent {
    /// `f + 1` places.
    pub offsets: Vec<u32>,
    /// Row of the batch, times the number of slots a row has in the row buffer.
    pub at: Vec<u32>,
    /// Latent activations.
    pub z: Vec<f32>,
    /// AuxK activations.
    pub v: Vec<f32>,
    /// What the encoder row is multiplied with: `dL/du` of level 1, split in two, or `dL/da` of level 2.
    pub grad: [Vec<f32>; 2],
    /// `dL/dg` of level 2.
    pub grad_g: Vec<f32>,
    /// Gradients of the activation's parameters.
    pub grad_p: [Vec<f32>; 2],
    next: Vec<u32>,
}

impl ByLatent {
    /// Transposes the entries of all chunks, `chunk` rows each. For level 2 (`gated`) the encoder's gradient is `grad_a`.
    pub fn fill<'e>(
        &mut self,
        f: usize,
        chunk: usize,
        slots: usize,
        gated: bool,
        chunks: impl Iterator<Item = &'e Entries> + Clone,
    ) {
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
        let [g0, g1] = &mut self.grad;
        let [p0, p1] = &mut self.grad_p;
        for values in [&mut self.z, &mut self.v, g0, g1, &mut self.grad_g, p0, p1] {
            values.resize(n, 0.0);
        }
        for (c, e) in chunks.enumerate() {
            for i in 0..e.offsets.len() - 1 {
                for at in e.row(i) {
                    let to = &mut self.next[e.index[at] as usize];
                    let k = *to as usize;
                    *to += 1;
                    self.at[k] = ((c * chunk + i) * slots) as u32;
                    self.z[k] = e.z[at];
                    self.v[k] = e.v[at];
                    self.grad[0][k] = if gated { e.grad_a[at] } else { e.grad_u[0][at] };
                    self.grad[1][k] = if gated { 0.0 } else { e.grad_u[1][at] };
                    self.grad_g[k] = e.grad_g[at];
                    self.grad_p[0][k] = e.grad_p[0][at];
                    self.grad_p[1][k] = e.grad_p[1][at];
                }
            }
        }
    }

    /// Places of latent `j`.
    pub fn latent(&self, j: usize) -> core::ops::Range<usize> {
        self.offsets[j] as usize..self.offsets[j + 1] as usize
    }
}
