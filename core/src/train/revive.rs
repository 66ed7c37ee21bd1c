//! Dead latents: who is dead, and where a dead child starts anew.

use super::cofire::Cofire;
use super::objective::Objective;
use super::optim::Adam;
use crate::config::TrainConfig;
use crate::gate::ROOT;
use crate::kernel::adam;
use crate::model::Params;
use crate::rng::Philox;
use alloc::vec;
use alloc::vec::Vec;

/// Rows since each latent of a level fired.
#[derive(Clone, Debug, PartialEq)]
pub struct Silence {
    /// Rows, a latent.
    pub since: Vec<u64>,
}

impl Silence {
    /// Nobody has been silent yet.
    pub fn new(f: usize) -> Self {
        Self { since: vec![0; f] }
    }

    /// Takes in the batch of `objective`.
    pub fn update(&mut self, objective: &Objective, level: usize) {
        let n = objective.n() as u64;
        self.since.iter_mut().for_each(|s| *s = s.saturating_add(n));
        for (_, j, _, _) in objective.fired(level) {
            self.since[j] = 0;
        }
    }

    /// Latents that have not fired for more than `after` rows, ascending.
    pub fn dead(&self, after: u64, out: &mut Vec<u32>) {
        out.clear();
        out.extend(self.since.iter().enumerate().filter(|(_, s)| **s > after).map(|(j, _)| j as u32));
    }
}

/// Gives every dead child to the parent with the most error a child, and sets its encoder and decoder rows to the unit
/// residual of a token of the last batch on which that parent fires, drawn towards high error. Its bias, its moments
/// and its counts start at zero. Returns how many were set.
///
/// Where level 2 has no decoder direction of its own (`comp`) or does not read activations (`z1`), nothing is done.
pub(super) fn reseed(
    objective: &Objective,
    cofire: &mut Cofire,
    silence: &mut Silence,
    dead: &[u32],
    parents: &mut [u32],
    params: &mut Params,
    optimiser: &mut Adam,
    train: &TrainConfig,
    rng: &mut Philox,
) -> usize {
    let arch = *objective.arch();
    if dead.is_empty() || !objective.composed.is_empty() || !arch.source.is_activations() {
        return 0;
    }
    let d = arch.d;
    let mut size = vec![0usize; arch.level[0].latents];
    for (j, &p) in parents.iter().enumerate() {
        if p != ROOT && dead.binary_search(&(j as u32)).is_err() {
            size[p as usize] += 1;
        }
    }
    let mut tokens: Vec<Vec<usize>> = vec![Vec::new(); arch.level[0].latents];
    for (b, i, _, _) in objective.fired(0) {
        tokens[i].push(b);
    }
    let mut set = 0;
    for &j in dead {
        let Some(p) = cofire.neediest(&size) else { break };
        size[p] += 1;
        let mut best: Option<(f64, usize)> = None;
        for &b in &tokens[p] {
            let energy: f64 = objective.residual(b).iter().map(|r| f64::from(*r) * f64::from(*r)).sum();
            let draw = energy * rng.uniform_f64();
            if draw > best.map_or(0.0, |x| x.0) {
                best = Some((draw, b));
            }
        }
        let Some((_, b)) = best else { continue };
        let j = j as usize;
        let row = &mut params.level[1].w_dec[j * d..(j + 1) * d];
        row.copy_from_slice(objective.residual(b));
        adam::normalise(objective.isa, row);
        let direction = row.to_vec();
        params.level[1].w_enc[j * d..(j + 1) * d].copy_from_slice(&direction);
        params.level[1].b_enc[j] = 0.0;
        optimiser.reset_latent(&arch, train, 1, j);
        parents[j] = p as u32;
        cofire.forget(j);
        silence.since[j] = 0;
        set += 1;
    }
    set
}
