//! Leave-one-out pruning: a latent stays active only if the reconstruction without it would miss it.
//!
//! ```text
//! r = x - x_hat,   z*_j = z_j + r . d_j / |d_j|^2,   excess_j = z*_j - p theta_j
//! while the smallest excess is <= 0: remove its latent, r += z_j d_j
//! ```
//!
//! `z*_j` is the value of latent `j` by least squares with all other active latents as they are, `theta_j` the threshold that its
//! pre-activation had to exceed (`batchtopk`: the tracked one, `jumprelu`: its own), and `p` the setting `prune` of the level.
//! The latents that stay keep their values. An encoder cannot see what other latents explain; this test can, and removes
//! the firings that only repeat them. One latent is removed at a time, since two that explain the same would otherwise both go.
//! Level 1 is pruned against its own reconstruction, before level 2 reads it; level 2 against the reconstruction of both.
//!
//! A training can prune too (`train.prune`, [`step::prune`](crate::train)): the same test on what each step selects.
//!
//! This is backward elimination of sparse regression (Couvreur and Bresler 2000), with a fixed threshold and without a refit.

use super::Codes;
use crate::activation::Rule;
use crate::kernel::{Isa, reduce, sparse};
use alloc::vec::Vec;

/// Working memory for one row.
#[derive(Clone, Debug, Default)]
pub(crate) struct Scratch {
    /// `(d)`: what the reconstruction leaves.
    pub residual: Vec<f32>,
    /// `(d)`: the reconstruction.
    pub written: Vec<f32>,
    /// `r . d_j` of each active latent.
    pub product: Vec<f32>,
}

impl Scratch {
    /// Reserves room for rows of width `d` with at most `active` latents of one level.
    pub fn reserve(&mut self, d: usize, active: usize) {
        self.residual.reserve(d);
        self.written.reserve(d);
        self.product.reserve(active);
    }
}

/// The decoder directions of a level, as pruning reads them.
#[derive(Clone, Copy)]
pub(crate) struct Directions<'a> {
    /// `(f, d)`.
    pub rows: &'a [f32],
    /// `(f)`: `|d_j|^2`.
    pub squares: &'a [f32],
}

/// What decides whether a latent of a level stays.
#[derive(Clone, Copy)]
pub(super) struct Judge<'a> {
    pub isa: Isa,
    pub rule: &'a Rule<'a>,
    /// `p`.
    pub share: f32,
    pub directions: Directions<'a>,
    /// Codes that are part of the same reconstruction and stay, with their directions `(f, d)`: those of level 1.
    pub beside: Option<(&'a Codes, &'a [f32])>,
    /// `(d)`: part of the reconstruction.
    pub bias: Option<&'a [f32]>,
}

/// Removes entries of `codes`, those of the rows `x`, `(n, d)`, each row by itself.
///
/// Cost per row with `k` active latents of which `m` are removed: `(m + 1) k` products of width `d`.
pub(super) fn prune(judge: Judge<'_>, d: usize, x: &[f32], codes: &mut Codes, t: &mut Scratch) {
    let Judge { isa, rule, share, directions, beside, bias } = judge;
    t.residual.resize(d, 0.0);
    t.written.resize(d, 0.0);
    let Codes { offsets, index, value } = codes;
    let (mut from, mut to) = (0, 0);
    for (i, x) in x.chunks_exact(d).enumerate() {
        // The row moves down to the end of those before it.
        let len = offsets[i + 1] - from;
        index.copy_within(from..from + len, to);
        value.copy_within(from..from + len, to);
        from += len;
        let mut end = to + len;
        match bias {
            Some(bias) => t.written.copy_from_slice(bias),
            None => t.written.fill(0.0),
        }
        if let Some((codes, rows)) = beside {
            let row = codes.row(i);
            sparse::accumulate_rows(isa, row.index, row.value, rows, d, &mut t.written);
        }
        sparse::accumulate_rows(isa, &index[to..end], &value[to..end], directions.rows, d, &mut t.written);
        reduce::sub_into(isa, x, &t.written, &mut t.residual);
        let row = (&mut index[to..end], &mut value[to..end]);
        let limit = |j: u32| share * rule.threshold(j as usize);
        end = to + prune_row(isa, directions, limit, row, &mut t.residual, &mut t.product);
        to = end;
        offsets[i + 1] = to;
    }
    index.truncate(to);
    value.truncate(to);
}

/// Removes the entries of one row that are not worth their place: its latents, ascending, and their values. Those that stay come
/// first, and their number is returned. `residual`, `(d)`, is what the reconstruction by all of them leaves; afterwards it is
/// what that by the others leaves.
///
/// `limit(j)` is `p theta_j`.
pub(crate) fn prune_row(
    isa: Isa,
    directions: Directions<'_>,
    limit: impl Fn(u32) -> f32,
    (index, value): (&mut [u32], &mut [f32]),
    residual: &mut [f32],
    product: &mut Vec<f32>,
) -> usize {
    let d = residual.len();
    let mut end = index.len();
    while end > 0 {
        product.clear();
        product.resize(end, 0.0);
        sparse::dot_rows(isa, &index[..end], directions.rows, d, residual, product);
        let mut weakest = (f32::INFINITY, 0);
        for (at, product) in product.iter().enumerate() {
            let square = directions.squares[index[at] as usize];
            // A direction of length 0 writes nothing.
            let excess = if square > 0.0 { value[at] + product / square - limit(index[at]) } else { f32::NEG_INFINITY };
            if excess < weakest.0 {
                weakest = (excess, at);
            }
        }
        let (excess, at) = weakest;
        if excess > 0.0 {
            break;
        }
        let j = index[at] as usize;
        reduce::axpy(isa, value[at], &directions.rows[j * d..(j + 1) * d], residual);
        index.copy_within(at + 1..end, at);
        value.copy_within(at + 1..end, at);
        end -= 1;
    }
    end
}
