//! Adam over unit-norm decoder rows: project, clip, update, renormalise.
//!
//! There are two passes over memory, because the clip needs the norm of the whole gradient before the first number moves.
//! The first projects the gradients and sums their squares, block by block while they are in the cache: it reads gradients
//! and, of decoders, rows (8 bytes per number) and writes 4. The second does all the rest, block by block too: it reads 16
//! and writes 12. Without a limit (`train.clip = 0`) the first pass still checks that all gradients are finite, and
//! computes the norm for the log.
//!
//! The squares of a tensor are summed in f64: rows of a block, blocks of a group of [`GROUP`] rows, then the groups, each
//! in index order. No chain is long, and a dictionary that is split at multiples of the group has the same sums.

use super::accumulate::GROUP;
use crate::config::{ModelKind, TrainConfig};
use crate::error::{At, Error, Result};
use crate::kernel::{Isa, adam, reduce};
use crate::model::{Arch, Id, NAMES, Params};
use crate::par::Par;
use alloc::vec;
use alloc::vec::Vec;

/// Numbers that one thread handles together.
const BLOCK: usize = 1 << 14;

/// Rows of width `width` whose squares are summed by one thread: a power of two of at most [`GROUP`] rows, so that a group
/// is a whole number of blocks.
fn rows_of_block(width: usize) -> usize {
    let rows = (BLOCK / width).clamp(1, GROUP);
    1 << rows.ilog2()
}

/// Adam's moments and its clock.
#[derive(Clone, Debug, PartialEq)]
pub struct Adam {
    /// First moments.
    pub m: Params,
    /// Second moments.
    pub v: Params,
    /// Updates so far.
    pub t: u64,
    /// Norms that the decoder rows of both levels would have if they were free; empty where they do not count.
    pub norms: [Vec<f32>; 2],
    /// Sums of squares of the blocks of a gradient.
    squares: Vec<f64>,
}

/// The decoders.
const DECODERS: [Id; 2] = [Id::WDec1, Id::WDec2];

impl Adam {
    /// Moments of zero, for parameters of this architecture.
    pub fn new(arch: &Arch, train: &TrainConfig, params: &Params) -> Self {
        let widths = arch.widths();
        let rows = |id: Id| params[id].len().checked_div(widths[id as usize]).unwrap_or(0);
        let free = arch.model == ModelKind::Tree && train.row_norm > 0.0;
        let norms = DECODERS.map(|id| vec![train.row_norm as f32; if free { rows(id) } else { 0 }]);
        Self { m: params.zeros_like(), v: params.zeros_like(), t: 0, norms, squares: Vec::new() }
    }

    /// Which decoder a tensor is, if its rows are kept at norm 1.
    fn unit_rows(arch: &Arch, id: usize) -> Option<usize> {
        DECODERS.iter().position(|d| arch.model == ModelKind::Tree && *d as usize == id)
    }

    /// One update; returns the norm of the gradient before clipping.
    ///
    /// For unit rows `dD -= (dD . D) D` first and `D /= |D|` after; the global norm is clipped in between. With
    /// `train.row_norm` the rate of such a row is `lr / n`, and then `n <- n |D|`: `n D` moves as a free row would. Thresholds
    /// are kept at 0 or above. The tensors of `fixed` stay as they are, moments too, and their gradients do not count.
    ///
    /// # Errors
    /// [`Error::NotFinite`] naming the tensor whose gradient is not finite; nothing is updated then.
    pub fn update(
        &mut self,
        isa: Isa,
        par: Par,
        arch: &Arch,
        train: &TrainConfig,
        lr: f64,
        fixed: &[Id],
        params: &mut Params,
        grads: &mut Params,
    ) -> Result<f64> {
        let widths = arch.widths();
        let is_fixed = |id: usize| fixed.iter().any(|f| *f as usize == id);
        let mut squares = 0.0f64;
        for id in 0..NAMES.len() {
            let (p, g, width) = (&params.tensors[id], &mut grads.tensors[id], widths[id]);
            if g.is_empty() || is_fixed(id) {
                continue;
            }
            let block = rows_of_block(width);
            let unit = Self::unit_rows(arch, id).is_some();
            let parts = &mut self.squares;
            parts.clear();
            parts.resize(g.len().div_ceil(block * width), 0.0);
            // A scratch space a thread would be of no use: the sums are the scratch.
            let mut lanes = [(); 64];
            let lanes = &mut lanes[..par.threads().min(64)];
            par.for_items(lanes, parts, g, block * width, |(), i, sum, part| {
                if unit {
                    let rows = &p[i * block * width..];
                    for (g, p) in part.chunks_mut(width).zip(rows.chunks(width)) {
                        adam::project_out(isa, p, g);
                    }
                }
                *sum = part.chunks(width.max(64)).map(|c| f64::from(reduce::sum_squares(isa, c))).sum::<f64>();
            });
            let sum: f64 = parts.chunks(GROUP / block).map(|group| group.iter().sum::<f64>()).sum();
            if !sum.is_finite() {
                return Err(Error::NotFinite {
                    what: alloc::format!("the gradient of {}", NAMES[id]),
                    at: At::Step(self.t),
                });
            }
            squares += sum;
        }
        let norm = libm::sqrt(squares);
        self.t += 1;
        let t = self.t as f64;
        let step = adam::AdamStep {
            lr: (lr / (1.0 - libm::pow(train.beta1, t))) as f32,
            beta1: train.beta1 as f32,
            beta2: train.beta2 as f32,
            eps: train.eps as f32,
            correction2: (1.0 / (1.0 - libm::pow(train.beta2, t))) as f32,
            grad_scale: if train.clip > 0.0 && norm > train.clip { (train.clip / norm) as f32 } else { 1.0 },
        };
        for id in 0..NAMES.len() {
            let width = widths[id];
            if params.tensors[id].is_empty() || is_fixed(id) {
                continue;
            }
            let unit = Self::unit_rows(arch, id);
            let norms = unit.map_or(&mut [][..], |l| &mut self.norms[l]);
            let free = usize::from(!norms.is_empty());
            let not_negative = id == Id::Threshold1 as usize || id == Id::Threshold2 as usize;
            let n_rows = params.tensors[id].len() / width;
            let g = &grads.tensors[id];
            let block = BLOCK.div_ceil(width);
            par.for_rows(
                n_rows,
                block,
                [&mut params.tensors[id], &mut self.m.tensors[id], &mut self.v.tensors[id], norms],
                [width, width, width, free],
                |first, [p, m, v, norms]| {
                    let g = &g[first * width..first * width + p.len()];
                    if norms.is_empty() {
                        adam::adam(isa, &step, g, p, m, v);
                    }
                    for (i, n) in norms.iter_mut().enumerate() {
                        let row = i * width..(i + 1) * width;
                        let p = &mut p[row.clone()];
                        let step = adam::AdamStep { lr: step.lr / *n, ..step };
                        adam::adam(isa, &step, &g[row.clone()], p, &mut m[row.clone()], &mut v[row]);
                        *n *= libm::sqrtf(reduce::sum_squares(isa, p));
                    }
                    if unit.is_some() {
                        p.chunks_mut(width).for_each(|row| adam::normalise(isa, row));
                    }
                    if not_negative {
                        p.iter_mut().for_each(|v| *v = v.max(0.0));
                    }
                },
            );
        }
        Ok(norm)
    }

    /// Forgets the moments of row `j` of a tensor whose rows are `width` wide, and what norm it would have.
    pub fn reset_row(&mut self, train: &TrainConfig, id: Id, j: usize, width: usize) {
        if let Some(n) = DECODERS.iter().position(|d| *d == id).and_then(|l| self.norms[l].get_mut(j)) {
            *n = train.row_norm as f32;
        }
        for moments in [&mut self.m, &mut self.v] {
            moments[id][j * width..(j + 1) * width].fill(0.0);
        }
    }
}
