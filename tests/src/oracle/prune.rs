//! Leave-one-out pruning of what a step has selected, in f64.

use super::{M, Problem, Tensors};
use strata_core::config::Decoder;

/// Returns the smallest of the pre-activations that are selected.
pub(super) fn smallest(u: &M, selected: &M) -> f64 {
    u.iter().zip(selected).filter(|(_, selected)| **selected > 0.0).map(|(u, _)| *u).fold(f64::INFINITY, f64::min)
}

impl Problem {
    /// Prunes the latents `fires` of a level, of pre-activations `u`: one after another the one of each row whose value by least
    /// squares, given the others, is the farthest below its limit. `left` is
    /// what the level has to reconstruct.
    pub(super) fn prune(&self, [u, directions, left]: [&M; 3], theta: f64, fires: &mut M, nearest: &mut f64) {
        let limit = self.config.train.prune * theta;
        for (i, mut row) in fires.rows_mut().into_iter().enumerate() {
            loop {
                let active: Vec<usize> = (0..row.len()).filter(|j| row[*j] > 0.0).collect();
                let mut r = left.row(i).to_owned();
                active.iter().for_each(|&j| r.scaled_add(-u[(i, j)], &directions.row(j)));
                let excess = |j: usize| {
                    let d = directions.row(j);
                    u[(i, j)] + r.dot(&d) / d.dot(&d) - limit
                };
                let mut all: Vec<(f64, usize)> = active.iter().map(|&j| (excess(j), j)).collect();
                all.sort_by(|a, b| a.0.total_cmp(&b.0));
                let Some(&(weakest, j)) = all.first() else { break };
                *nearest = nearest.min(weakest.abs());
                if weakest > 0.0 {
                    break;
                }
                if let Some(next) = all.get(1) {
                    *nearest = nearest.min(next.0 - weakest);
                }
                row[j] = 0.0;
            }
        }
    }

    /// Returns what level 2 has to reconstruct where level 1 has the latents `z1`.
    pub(super) fn left_for_level_2(&self, p: &Tensors, z1: &M) -> M {
        let left = self.wanted(p) - p.vector("b_dec");
        if self.arch.decoder == Decoder::Cum {
            left - z1.dot(&p.matrix("level1.w_dec", self.arch.level[0].latents))
        } else {
            left
        }
    }
}
