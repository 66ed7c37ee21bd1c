//! Working memory of a step: the rows of a batch, in chunks, and scratch space for each thread.

use super::entries::{Entries, Gradients, List};
use super::layout::Layout;
use crate::config::Config;
use crate::loss;
use crate::model::{Arch, PruneScratch, Scratch};
use alloc::vec;
use alloc::vec::Vec;

// Rows of a chunk. The number is fixed, so that bits do not depend on threads.
pub(super) use crate::model::CHUNK;

/// The rows of a batch, with what the stages write about them.
#[derive(Clone, Debug)]
pub(super) struct Batch {
    /// Number of rows.
    pub n: usize,
    /// Where the vectors of a row lie; its stride is the largest that a step has needed so far.
    pub layout: Layout,
    /// `(n, stride)`.
    pub rows: Vec<f32>,
    /// Chunks of [`CHUNK`] rows; the last may be shorter.
    pub chunks: Vec<Chunk>,
}

impl Batch {
    /// Makes an empty batch for models of an architecture.
    pub fn new(arch: &Arch) -> Self {
        Self { n: 0, layout: Layout::new(arch), rows: Vec::new(), chunks: Vec::new() }
    }

    /// Starts a batch of `n` rows, each of which needs `stride` numbers of the row buffer in this step.
    ///
    /// # Panics
    /// If the rows cannot be counted in 32 bits.
    pub fn begin(&mut self, n: usize, stride: usize) {
        self.layout.stride = self.layout.stride.max(stride);
        self.n = n;
        assert!(n <= u32::MAX as usize, "expected a batch of less than 2^32 rows, found {n}");
        self.rows.resize(n * self.layout.stride, 0.0);
        self.chunks.resize_with(n.div_ceil(CHUNK), Chunk::default);
        for (c, chunk) in self.chunks.iter_mut().enumerate() {
            chunk.n_rows = (n - c * CHUNK).min(CHUNK);
        }
    }

    /// Frees the rows and the chunks.
    pub fn rest(&mut self) {
        (self.n, self.rows, self.chunks) = Default::default();
    }

    /// Returns the vector of row `b` that begins at number `first` of the row, `(width)`.
    pub fn vector(&self, b: usize, first: usize, width: usize) -> &[f32] {
        &self.rows[b * self.layout.stride + first..][..width]
    }
}

/// One chunk of rows.
#[derive(Clone, Debug, Default)]
pub(super) struct Chunk {
    /// Number of rows.
    pub n_rows: usize,
    /// The entries of each level: written by [`select`](super::select), their gradients by
    /// [`backward`](super::backward).
    pub level: [Entries; 2],
    /// Candidates of each level: written by [`collect`](super::collect), thinned out by [`select`](super::select).
    pub candidates: [List; 2],
    /// The dead latents that AuxK has selected, per level.
    pub aux: [List; 2],
    /// Ungated pre-activations of level 2 that count as firing; without rows in a step that does not ask for them.
    pub ungated: List,
    /// Partial sums of the loss.
    pub sums: Sums,
    /// `(d_out)` each: column sums of `r1` and `r2`.
    pub columns: [Vec<f32>; 2],
    /// Sum of squares of the residual of each row after the last level.
    pub energy: Vec<f32>,
    /// What the shards of a dictionary know of each other; empty where there is one.
    pub shared: Shared,
}

/// What a chunk has of all shards. Latents are counted from the first one of the dictionary.
#[derive(Clone, Debug, Default)]
pub(super) struct Shared {
    /// The latents that fire with their values, per level.
    pub codes: [List; 2],
    /// The ungated pre-activations of level 2 that count as firing, as in [`Chunk::ungated`].
    pub ungated: List,
    /// The pre-activation of the parent of each of [`Shared::ungated`], for the containment loss; 0 for ROOT.
    pub parents: Vec<f32>,
    /// Where only the largest child of a family can fire: the largest pre-activation of this shard's children of each active
    /// parent, row by row in the order of [`Shared::codes`], then whether it is the largest of all shards.
    pub families: (Vec<f32>, Vec<bool>),
    /// This shard's terms of the sparsity penalty, per level.
    pub penalty: [Addends; 2],
    /// `(n_rows, d_out)`: the sums of the auxiliary reconstructions of gated levels.
    pub gated: [Vec<f32>; 2],
}

/// Terms of a sum, by row.
#[derive(Clone, Debug, Default)]
pub(super) struct Addends {
    /// Number of terms of each row.
    pub counts: Vec<u32>,
    /// The terms.
    pub values: Vec<f64>,
}

impl Addends {
    /// Removes all terms, and keeps the memory.
    pub fn clear(&mut self) {
        self.counts.clear();
        self.values.clear();
    }

    /// Ends a row.
    pub fn end_row(&mut self, before: usize) {
        self.counts.push((self.values.len() - before) as u32);
    }
}

/// Partial sums of one chunk, in f64.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sums {
    pub squares: [f64; 2],
    pub sparsity: [f64; 2],
    pub consistency: f64,
    pub aux: [f64; 2],
    pub gated: [f64; 2],
    pub fired: [u64; 2],
}

/// Scratch space of one thread. No stage reads what another one left in it.
#[derive(Clone, Debug)]
pub(super) struct Lane {
    /// Scratch of the fused encoder, of the gate and of the source of level 2.
    pub forward: Scratch,
    /// Scratch of AuxK's selection.
    pub dead: DeadScratch,
    /// `(d_out)`: scratch of the gated activation's auxiliary reconstruction.
    pub vector: Vec<f32>,
    /// `(CHUNK, d_out)`: what the skip connection adds to a chunk of rows; empty without one.
    pub skip: Vec<f32>,
    /// One slot per latent of a level: the index of its entry in the row that is processed; `u32::MAX` between rows.
    pub slots: [Vec<u32>; 2],
    /// One number per entry of a row.
    pub row: Vec<f32>,
    /// Likewise.
    pub row2: Vec<f32>,
    /// Latents of one row's code, those that do not fire left out; their activations are in `row`.
    pub fires: Vec<u32>,
    /// Scratch of the consistency loss.
    pub miss: Vec<f32>,
    /// Memory for the gradients of a chunk that no later stage reads, per level.
    pub spare: [Gradients; 2],
    /// Scratch of pruning.
    pub prune: PruneScratch,
    /// Entries of level 1 before those of silent parents are added.
    pub old: Entries,
}

/// Scratch space of AuxK's selection.
#[derive(Clone, Debug, Default)]
pub(super) struct DeadScratch {
    /// `(rows, dead)`: pre-activations.
    pub u: Vec<f32>,
    /// What AuxK selects on one row.
    pub picked: List,
}

impl Lane {
    /// Makes the scratch space for models of these settings.
    ///
    /// `whole` is the architecture of all shards: the parents of a shard's children may be of others.
    pub fn new(whole: &Arch, config: &Config) -> Self {
        let arch = whole;
        let [f1, f2] = arch.latents();
        Self {
            forward: Scratch::of_chunk(arch),
            dead: DeadScratch::default(),
            vector: vec![0.0; arch.d_out()],
            skip: vec![0.0; if arch.variant.skip { CHUNK * arch.d_out() } else { 0 }],
            slots: [vec![u32::MAX; f1], vec![u32::MAX; f2]],
            row: Vec::new(),
            row2: Vec::new(),
            fires: Vec::new(),
            miss: vec![0.0; config.loss.consistency.scratch_width(arch.d_out(), f1)],
            spare: [Gradients::default(), Gradients::default()],
            prune: PruneScratch::default(),
            old: Entries::default(),
        }
    }

    /// Returns the scratch of the consistency loss.
    pub fn loss(&mut self) -> loss::Scratch<'_> {
        loss::Scratch { vector: &mut self.miss, row: &mut self.row, slots: &mut self.slots }
    }

    /// Frees the vectors that grow with the number of entries.
    pub fn rest(&mut self, arch: &Arch) {
        self.forward = Scratch::of_chunk(arch);
        self.dead = DeadScratch::default();
        self.spare = Default::default();
        self.old = Entries::default();
        (self.row, self.row2, self.fires) = Default::default();
    }
}
