//! AuxK: dead latents reconstruct the residual of the living ones (Gao et al. 2024).
//!
//! ```text
//! forward   v = the k_aux largest positive pre-activations of dead latents,  aux_l = alpha_l / (n nu) |v D - r_l|^2
//! backward  e_l = 2 alpha_l / (n nu) (v D - r_l),  du += (e_l D^T) 1[v > 0],  dD += v^T e_l
//! ```
//!
//! `alpha_l = aux / fvu_l min(n_dead / k_aux, 1)`, with no gradient through it, makes the term as large as the
//! reconstruction loss of its level. Its part of `dD` is summed by latent, in [`gradients`](super::gradients).

use super::entries::List;
use super::inputs::Inputs;
use super::settings::StepSettings;
use super::workspace::DeadScratch;
use crate::config::Config;
use crate::entry::{CodeRow, EntryRow};
use crate::kernel::dense::{self, Matrix, Pick};
use crate::kernel::fire::Search;
use crate::kernel::{Isa, reduce, select, sparse};
use crate::model::Arch;
use alloc::vec::Vec;

/// Rows per product with the encoder rows of the dead latents.
const DEAD_ROWS: usize = 24;

/// Returns the largest number of dead latents that AuxK selects per row: `revive.k_aux`, or half the width of the
/// reconstructed rows where that is 0.
pub(in crate::train) fn k_aux(config: &Config, arch: &Arch) -> usize {
    let k_aux = config.revive.k_aux;
    if k_aux > 0 { k_aux } else { (arch.d_out() / 2).max(1) }
}

/// Returns whether AuxK acts at any level.
pub(super) fn is_on(inputs: &Inputs<'_>) -> bool {
    let dead = &inputs.settings.dead[..inputs.n_levels()];
    inputs.config.loss.aux > 0.0 && dead.iter().any(|dead| !dead.is_empty())
}

/// Returns `alpha_l`, given the fraction of variance unexplained: 0 where nothing is dead or nothing is left to
/// explain.
pub(super) fn aux_weight(config: &Config, arch: &Arch, settings: &StepSettings, fvu: f64, level: usize) -> f64 {
    let dead = settings.dead[level].len();
    if dead == 0 || fvu.is_nan() || fvu <= 0.0 || level >= arch.n_levels() {
        return 0.0;
    }
    config.loss.aux / fvu * (dead as f64 / k_aux(config, arch) as f64).min(1.0)
}

/// The selection among the dead latents of both levels.
pub(super) struct Selection<'a> {
    isa: Isa,
    /// The dead latents of this shard.
    dead: [&'a [u32]; 2],
    /// Whether any shard has dead latents.
    any: [bool; 2],
    /// 0 without AuxK.
    k_aux: usize,
}

impl<'a> Selection<'a> {
    /// Returns the selection of a step.
    pub fn new(inputs: &Inputs<'a>) -> Self {
        let settings = inputs.settings;
        Self {
            isa: inputs.compute.isa,
            dead: inputs.dead,
            any: settings.dead.each_ref().map(|dead| !dead.is_empty()),
            k_aux: if inputs.config.loss.aux > 0.0 { k_aux(inputs.config, inputs.arch) } else { 0 },
        }
    }

    /// Returns whether AuxK acts at a level, and the level has dead latents.
    pub fn acts(&self, level: usize) -> bool {
        self.k_aux > 0 && self.any[level]
    }

    /// Returns the largest number of latents that are selected per row.
    pub fn k_aux(&self) -> usize {
        self.k_aux
    }

    /// Appends to `list` one row for each row of a search: the latents that AuxK selects among the dead ones for which
    /// `open(row, latent)` holds, which is whether the gate lets them fire.
    pub fn rows(
        &self,
        level: usize,
        search: Search<'_>,
        mut open: impl FnMut(usize, u32) -> bool,
        scratch: &mut DeadScratch,
        list: &mut List,
    ) {
        if !self.acts(level) {
            return;
        }
        let dead = self.dead[level];
        let Search { x, w, bias, .. } = search;
        if dead.is_empty() {
            // Those of other shards.
            (0..x.len() / w.d).for_each(|_| list.end_row(None));
            return;
        }
        let DeadScratch { u: u_dead, picked } = scratch;
        for (b, x) in x.chunks(DEAD_ROWS * w.d).enumerate() {
            let n = x.len() / w.d;
            u_dead.resize(n * dead.len(), 0.0);
            dense::product(self.isa, Matrix::all(x, w.d), w.only(Pick::List(dead)), Some(bias), u_dead);
            for (i, u) in u_dead.chunks_exact_mut(dead.len()).enumerate() {
                for (u, &j) in u.iter_mut().zip(dead) {
                    if !open(b * DEAD_ROWS + i, j) {
                        *u = f32::NEG_INFINITY;
                    }
                }
                self.largest(dead, u, picked, list);
                list.end_row(None);
            }
        }
    }

    /// Appends what AuxK selects on a row whose pre-activations `u` are known for all latents of the level.
    pub fn row(&self, level: usize, u: &[f32], scratch: &mut DeadScratch, list: &mut List) {
        let DeadScratch { u: u_dead, picked } = scratch;
        u_dead.clear();
        u_dead.extend(self.dead[level].iter().map(|&j| u[j as usize]));
        self.largest(self.dead[level], u_dead, picked, list);
    }

    /// Appends the `k_aux` dead latents with the largest positive pre-activations `u`, `(dead)`, of a row.
    fn largest(&self, dead: &[u32], u: &[f32], picked: &mut List, list: &mut List) {
        picked.clear();
        select::topk_row(self.isa, u, self.k_aux, &mut picked.index, &mut picked.u);
        for (&i, &v) in picked.index.iter().zip(&picked.u) {
            list.index.push(dead[i as usize]);
            list.u.push(v);
        }
    }
}

/// AuxK of one level in the backward pass.
pub(super) struct Backward<'a> {
    pub isa: Isa,
    /// `2 alpha / (n nu)`.
    pub weight: f32,
    /// Decoder rows of the level, `(f, d)`.
    pub decoder: &'a [f32],
    /// Whether `out` holds the sum `v D` already: that of all shards.
    pub is_summed: bool,
}

impl Backward<'_> {
    /// Writes `e` to `out`, `(d_out)`, adds `(e D^T) 1[v > 0]` to `dL/du` of the entries of a row, and returns the
    /// row's part of the loss.
    ///
    /// `picks` are the selected latents of the row, ascending: the sum `v D` is taken in this order, and not in that of
    /// the entries, in which selected latents that also fire come first.
    pub fn row(
        &self,
        entries: &mut EntryRow<'_>,
        picks: CodeRow<'_>,
        r: &[f32],
        out: &mut [f32],
        dots: &mut Vec<f32>,
    ) -> f64 {
        let Self { isa, weight, decoder, is_summed } = *self;
        if !is_summed {
            out.fill(0.0);
            sparse::accumulate_rows(isa, picks.index, picks.value, decoder, out.len(), out);
        }
        for (o, r) in out.iter_mut().zip(r) {
            *o -= r;
        }
        let value = 0.5 * f64::from(weight) * f64::from(reduce::sum_squares(isa, out));
        reduce::scale(isa, weight, out);
        dots.resize(entries.index.len(), 0.0);
        sparse::dot_rows(isa, entries.index, decoder, out.len(), out, dots);
        for (at, dot) in dots.iter().enumerate() {
            if entries.v[at] > 0.0 {
                entries.grad_u[0][at] += dot;
            }
        }
        value
    }
}
