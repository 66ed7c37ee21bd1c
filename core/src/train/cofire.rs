//! Which latents fire together, and the families that follow from it.
//!
//! The tree has no gradient: it is a slowly updated statistic. With decayed counts `N` of tokens, `N_i` of parents
//! that fire, `N_j` of children whose UNGATED drive is above their threshold, `N_ij` of both:
//!
//! ```text
//! P(i|j) = N_ij / N_j,   score(j, i) = P(i|j) ln(P(i|j) / (N_i / N))       expected log-lift
//! parent(j) = argmax_i score, or ROOT if P(parent|j) < root_below or N_j < min_count
//! ```

use super::objective::Objective;
use crate::config::GateConfig;
use crate::gate::ROOT;
use crate::kernel::reduce;
use crate::model::Tensor;
use crate::par::Par;
use crate::rng::Philox;
use alloc::vec;
use alloc::vec::Vec;

/// Parents that a child may fall back on where those that suit it better are full.
const CHOICES: usize = 64;

/// Children whose counts one thread adds to.
const CHILDREN: usize = 256;

/// Decayed counts. Stored with a growing weight instead of a decay of the whole table.
#[derive(Clone, Debug, PartialEq)]
pub struct Cofire {
    f1: usize,
    f2: usize,
    /// `N_i`.
    pub(crate) parent: Vec<f64>,
    /// `N_j`.
    pub(crate) child: Vec<f64>,
    /// `N_ij`, `(f2, f1)`.
    pub(crate) both: Tensor,
    /// Sum of `|x - x_hat2|^2` over the tokens on which a parent fires.
    pub(crate) energy: Vec<f64>,
    /// `N` and the weight of the next token.
    pub(crate) tokens: [f64; 2],
}

impl Cofire {
    /// No counts.
    pub fn new(f1: usize, f2: usize) -> Self {
        Self {
            f1,
            f2,
            parent: vec![0.0; f1],
            child: vec![0.0; f2],
            both: vec![0.0; f1 * f2].into(),
            energy: vec![0.0; f1],
            tokens: [0.0, 1.0],
        }
    }

    /// Takes in the batch that `objective` has just seen, which stands for `steps` steps, and decays what came before.
    ///
    /// A block of children a thread: each looks for its own among the drives of every row, so that every count is added
    /// to in the order of the rows.
    pub fn update(&mut self, par: Par, objective: &Objective, decay: f64, steps: u64) {
        self.tokens[1] /= libm::pow(decay, steps as f64);
        let w = self.tokens[1] * steps as f64;
        self.tokens[0] += w * objective.n() as f64;
        let mut b = 0;
        for chunk in &objective.chunks {
            let e1 = &chunk.level[0];
            for i in 0..e1.offsets.len() - 1 {
                let energy = f64::from(reduce::sum_squares(objective.isa, objective.residual(b)));
                b += 1;
                for at in e1.row(i) {
                    if e1.z[at] > 0.0 {
                        self.parent[e1.index[at] as usize] += w;
                        self.energy[e1.index[at] as usize] += w * energy;
                    }
                }
                let drives = &chunk.drives;
                for &j in &drives.index[drives.row(i)] {
                    self.child[j as usize] += w;
                }
            }
        }
        let (f1, w32) = (self.f1, w as f32);
        par.for_chunks(&mut self.both, CHILDREN * f1, |c, both| {
            let first = (c * CHILDREN) as u32;
            for chunk in &objective.chunks {
                let (e1, drives) = (&chunk.level[0], &chunk.drives);
                for i in 0..e1.offsets.len() - 1 {
                    let own = &drives.index[drives.row(i)];
                    let own = &own[own.partition_point(|j| *j < first)..];
                    let own = &own[..own.partition_point(|j| *j < first + CHILDREN as u32)];
                    for &j in own {
                        let row = &mut both[(j - first) as usize * f1..][..f1];
                        for at in e1.row(i) {
                            if e1.z[at] > 0.0 {
                                row[e1.index[at] as usize] += w32;
                            }
                        }
                    }
                }
            }
        });
        if self.tokens[1] > 1e6 {
            self.rescale(1.0 / self.tokens[1]);
        }
    }

    fn rescale(&mut self, by: f64) {
        for v in self.parent.iter_mut().chain(&mut self.child).chain(&mut self.energy).chain(&mut self.tokens) {
            *v *= by;
        }
        self.both.iter_mut().for_each(|v| *v = (f64::from(*v) * by) as f32);
    }

    /// `P(i|j)`; 0 for a child that was never seen.
    pub fn containment(&self, j: usize, parent: u32) -> f64 {
        if parent == ROOT || self.child[j] <= 0.0 {
            return 0.0;
        }
        f64::from(self.both[j * self.f1 + parent as usize]) / self.child[j]
    }

    /// Tokens that child `j` was counted on, decayed, in units of tokens.
    fn seen(&self, j: usize) -> f64 {
        self.child[j] / self.tokens[1]
    }

    /// The parents of highest score. Families are capped: the children that a full family turns away, those of lowest
    /// score, go to their next best parent. Without ROOT (`root_below = 0`) a child never seen gets a parent at random.
    pub fn assign(&self, gate: &GateConfig, rng: &mut Philox) -> Vec<u32> {
        let cap = ((gate.family_cap * self.f2 as f64 / self.f1 as f64) as usize).max(1);
        let mut ranked: Vec<(f64, u32, u32)> = Vec::new();
        let mut own: Vec<(f64, u32, u32)> = Vec::new();
        let mut parents = vec![ROOT; self.f2];
        let rootless = gate.root_below == 0.0;
        for j in 0..self.f2 {
            if self.seen(j) < gate.min_count && !rootless {
                continue;
            }
            for i in 0..self.f1 {
                let contained = self.containment(j, i as u32);
                if contained > 0.0 && contained >= gate.root_below {
                    let base = (self.parent[i] / self.tokens[0]).max(1e-12);
                    own.push((contained * libm::log(contained / base), j as u32, i as u32));
                }
            }
            own.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.2.cmp(&b.2)));
            own.truncate(CHOICES);
            ranked.append(&mut own);
        }
        // Best first; ties to the lower child, then the lower parent.
        ranked.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)).then(a.2.cmp(&b.2)));
        let mut size = vec![0usize; self.f1];
        for (_, j, i) in ranked {
            if parents[j as usize] == ROOT && size[i as usize] < cap {
                parents[j as usize] = i;
                size[i as usize] += 1;
            }
        }
        if rootless {
            for p in parents.iter_mut().filter(|p| **p == ROOT) {
                *p = rng.below(self.f1 as u64) as u32;
            }
        }
        parents
    }

    /// Moves a child only where another parent (or ROOT, which counts as containing `root_below` of it) contains it
    /// better by `hysteresis`; from ROOT a margin of .05 is enough. Returns how many moved.
    pub fn reassign(&self, gate: &GateConfig, parents: &mut [u32], rng: &mut Philox) -> usize {
        let fresh = self.assign(gate, rng);
        let mut moved = 0;
        for (j, (now, &new)) in parents.iter_mut().zip(&fresh).enumerate() {
            let value = |p: u32| if p == ROOT { gate.root_below } else { self.containment(j, p) };
            let margin = if *now == ROOT { 0.05 } else { gate.hysteresis };
            if new != *now && self.seen(j) >= gate.min_count && value(new) > value(*now) + margin {
                *now = new;
                moved += 1;
            }
        }
        moved
    }

    /// The parent with the most error a child, `argmax_i R_i / (n_i + 1)`, given its number of children.
    pub(crate) fn neediest(&self, size: &[usize]) -> Option<usize> {
        let mut best: Option<(f64, usize)> = None;
        for (i, (&energy, &n)) in self.energy.iter().zip(size).enumerate() {
            let share = energy / (n + 1) as f64;
            if share > best.map_or(0.0, |b| b.0) {
                best = Some((share, i));
            }
        }
        best.map(|b| b.1)
    }

    /// Forgets a child that starts anew.
    pub(crate) fn forget(&mut self, j: usize) {
        self.child[j] = 0.0;
        self.both[j * self.f1..(j + 1) * self.f1].fill(0.0);
    }
}
