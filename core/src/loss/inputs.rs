//! Input and scratch of the losses.

use super::seed_cos::SeedCos;
use crate::entry::CodeRow;
use crate::gate::Families;
use crate::kernel::Isa;
use alloc::vec::Vec;
use core::ops::Range;

/// Weights of a consistency loss, from the settings.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Weights {
    /// `wc`.
    pub weight: f64,
    /// `contain`: weight of the term that trains the child.
    pub down: f32,
    /// `contain`: weight of the term that trains the parent.
    pub up: f32,
    /// `contain`: the margin `tau`.
    pub margin: f32,
}

/// Input of a term in one step.
#[derive(Clone, Copy)]
pub(crate) struct Inputs<'a> {
    pub isa: Isa,
    /// Rows of the batch.
    pub n: usize,
    /// Total variance `nu` of the rows.
    pub variance: f32,
    /// Width of a row.
    pub d: usize,
    /// Decoder rows of level 1, `(f1, d)`.
    pub d1: &'a [f32],
    /// Decoder rows of level 2, `(f2, d)`, or `(f2, f1)` where they compose level 1's.
    pub d2: &'a [f32],
    pub families: &'a Families,
    /// Sums over the batch, for `seed-cos`.
    pub seed_cos: &'a SeedCos,
}

/// The ungated pre-activations of a row that the containment loss reads: of all shards of a dictionary, with latents as
/// the whole dictionary counts them.
#[derive(Clone)]
pub(crate) struct Ungated<'a> {
    /// Latents of level 2, with their ungated pre-activations.
    pub code: CodeRow<'a>,
    /// The pre-activations of their parents; empty where the parents are all of this shard, which has entries for them.
    pub parents: &'a [f32],
    /// The latents of this shard, per level.
    pub own: [Range<u32>; 2],
}

/// Scratch of one row.
pub(crate) struct Scratch<'a> {
    /// [`Consistency::scratch_width`](super::Consistency::scratch_width) numbers.
    pub vector: &'a mut [f32],
    /// Numbers of one row's entries.
    pub row: &'a mut Vec<f32>,
    /// One slot per latent of each level, all `u32::MAX` between calls.
    pub slots: &'a mut [Vec<u32>; 2],
}
