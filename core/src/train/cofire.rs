//! Which latents fire together, and the families that follow from it.
//!
//! The tree has no gradient: it is a slowly updated statistic. With decayed counts `N` of tokens, `N_i` of parents
//! that fire, `N_j` of children whose ungated pre-activation is above their threshold, `N_ij` of both:
//!
//! ```text
//! P(i|j) = N_ij / N_j,   score(j, i) = P(i|j) ln(P(i|j) / (N_i / N))       expected log-lift
//! parent(j) = argmax_i score, or ROOT if P(parent|j) < root_below or N_j < min_count
//! ```

use super::counts::Counts;
use super::observed::Observed;
use super::state::{Array, Saved, State};
use crate::config::GateConfig;
use crate::error::Result;
use crate::gate::ROOT;
use crate::par::Par;
use crate::rng::Philox;
use alloc::format;
use alloc::vec;
use alloc::vec::Vec;
use core::cmp::Ordering;

/// Parents that a child may fall back on where those that suit it better are full.
const CHOICES: usize = 64;

/// A child that asks for a parent.
#[derive(Clone, Copy)]
struct Offer {
    score: f64,
    child: u32,
    parent: u32,
    /// Which of its choices that is, from 1.
    turn: usize,
}

impl Offer {
    /// Best first; ties to the lower child, then the lower parent.
    fn order(&self, other: &Self) -> Ordering {
        other.score.total_cmp(&self.score).then(self.child.cmp(&other.child)).then(self.parent.cmp(&other.parent))
    }
}

/// Decayed counts. Stored with a growing weight instead of a decay of the whole table.
#[derive(Clone, Debug, PartialEq)]
pub struct Cofire {
    f1: usize,
    f2: usize,
    /// `N_i`.
    pub(crate) parent: Vec<f64>,
    /// `N_j`.
    pub(crate) child: Vec<f64>,
    /// `N_ij / N_j`.
    pub(crate) both: Counts,
    /// Sum of `|x - x_hat2|^2` over the tokens on which a parent fires.
    pub(crate) energy: Vec<f64>,
    /// `N`, the weight of the next token, and the half-lives since the table faded, negative.
    pub(crate) tokens: [f64; 3],
}

impl Cofire {
    /// No counts.
    pub fn new(f1: usize, f2: usize) -> Self {
        Self {
            f1,
            f2,
            parent: vec![0.0; f1],
            child: vec![0.0; f2],
            both: Counts::new(f1, f2),
            energy: vec![0.0; f1],
            tokens: [0.0, 1.0, 0.0],
        }
    }

    /// Takes in a step, which stands for `steps` steps, and decays what came before.
    ///
    /// Each thread counts for a block of children: it looks for its own among the ungated pre-activations of every row, so
    /// that the tokens of a child come in the order of the rows.
    pub fn update(&mut self, par: Par, seen: &Observed, decay: f64, steps: u64) {
        self.tokens[1] /= libm::pow(decay, steps as f64);
        let w = self.tokens[1] * steps as f64;
        self.tokens[0] += w * seen.n() as f64;
        let Observed { codes: [fires, _], ungated, energy, .. } = seen;
        for (b, &energy) in energy.iter().enumerate() {
            for &i in &fires.index[fires.row(b)] {
                self.parent[i as usize] += w;
                self.energy[i as usize] += w * f64::from(energy);
            }
            for &j in &ungated.index[ungated.row(b)] {
                self.child[j as usize] += w;
            }
        }
        self.age(par, decay, steps);
        self.both.update(par, |block| {
            let children = block.children();
            for b in 0..seen.n() {
                let own = &ungated.index[ungated.row(b)];
                let own = &own[own.partition_point(|j| *j < children.start)..];
                let own = &own[..own.partition_point(|j| *j < children.end)];
                for &j in own {
                    block.token(j, steps as u32, fires.index[fires.row(b)].iter().copied());
                }
            }
        });
        if self.tokens[1] > 1e6 {
            self.rescale(1.0 / self.tokens[1]);
        }
    }

    /// Lets the table fade for every half-life that has passed.
    fn age(&mut self, par: Par, decay: f64, steps: u64) {
        if decay >= 1.0 {
            return;
        }
        self.tokens[2] += steps as f64 * libm::log2(decay);
        while self.tokens[2] <= -1.0 {
            self.tokens[2] += 1.0;
            self.both.fade(par);
        }
    }

    fn rescale(&mut self, by: f64) {
        for v in self.parent.iter_mut().chain(&mut self.child).chain(&mut self.energy).chain(&mut self.tokens[..2]) {
            *v *= by;
        }
    }

    /// Returns the number of parents.
    pub(crate) fn n_parents(&self) -> usize {
        self.f1
    }

    /// `P(i|j)`; 0 for a child that was never seen.
    pub fn containment(&self, j: usize, parent: u32) -> f64 {
        if parent == ROOT || self.child[j] <= 0.0 {
            return 0.0;
        }
        self.both.share(j, parent as usize)
    }

    /// Tokens that child `j` was counted on, decayed, in units of tokens.
    fn seen(&self, j: usize) -> f64 {
        self.child[j] / self.tokens[1]
    }

    /// The parents of highest score. Families are capped: the children that a full family turns away, those of lowest
    /// score, go to their next best parent. Without ROOT (`root_below = 0`) a child never seen gets a parent at random.
    ///
    /// Children ask for their best parents in turn, and a full family turns its worst member away, who then asks for its next
    /// one. Both sides go by the same scores, so that it ends as if all pairs had been taken from the best one down, without
    /// a list of them.
    pub fn assign(&self, gate: &GateConfig, rng: &mut Philox) -> Vec<u32> {
        let cap = ((gate.family_cap * self.f2 as f64 / self.f1 as f64) as usize).max(1);
        let rootless = gate.root_below == 0.0;
        let mut families: Vec<Vec<Offer>> = vec![Vec::new(); self.f1];
        for j in 0..self.f2 {
            if self.seen(j) < gate.min_count && !rootless {
                continue;
            }
            let mut asks = Some((j as u32, None, 1));
            while let Some((child, last, turn)) = asks.take() {
                if turn > CHOICES {
                    break;
                }
                let Some(offer) = self.best(child, gate.root_below, last, turn) else { break };
                let family = &mut families[offer.parent as usize];
                family.push(offer);
                if family.len() > cap {
                    let worst = (0..family.len()).max_by(|a, b| family[*a].order(&family[*b])).unwrap_or(0);
                    let Offer { child, turn, .. } = family[worst];
                    asks = Some((child, Some(family.swap_remove(worst)), turn + 1));
                }
            }
        }
        let mut parents = vec![ROOT; self.f2];
        for offer in families.iter().flatten() {
            parents[offer.child as usize] = offer.parent;
        }
        if rootless {
            for p in parents.iter_mut().filter(|p| **p == ROOT) {
                *p = rng.below(self.f1 as u64) as u32;
            }
        }
        parents
    }

    /// The best parent of a child after `last`, as its choice number `turn`.
    fn best(&self, child: u32, root_below: f64, last: Option<Offer>, turn: usize) -> Option<Offer> {
        let mut best: Option<Offer> = None;
        if self.child[child as usize] <= 0.0 {
            return None;
        }
        for (i, contained) in self.both.shares(child as usize).enumerate() {
            if contained > 0.0 && contained >= root_below {
                let base = (self.parent[i] / self.tokens[0]).max(1e-12);
                let score = contained * libm::log(contained / base);
                let offer = Offer { score, child, parent: i as u32, turn };
                let comes = last.is_none_or(|last| offer.order(&last).is_gt());
                if comes && best.is_none_or(|best| offer.order(&best).is_lt()) {
                    best = Some(offer);
                }
            }
        }
        best
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
        self.both.forget(j);
    }
}

impl Saved for Cofire {
    fn save(&self, name: &str, state: &mut State) {
        let Self { f1: _, f2: _, parent, child, both, energy, tokens } = self;
        state.put(format!("{name}.parent"), Array::F64(parent.clone()));
        state.put(format!("{name}.child"), Array::F64(child.clone()));
        state.put(format!("{name}.both"), Array::U16(both.numbers().clone()));
        state.put(format!("{name}.energy"), Array::F64(energy.clone()));
        state.put(format!("{name}.tokens"), Array::F64(tokens.to_vec()));
    }

    fn load(&mut self, name: &str, state: &mut State) -> Result<()> {
        self.parent = state.take_f64(&format!("{name}.parent"), self.parent.len())?;
        self.child = state.take_f64(&format!("{name}.child"), self.child.len())?;
        self.both.set_numbers(state.take_u16(&format!("{name}.both"), self.both.numbers().len())?);
        self.energy = state.take_f64(&format!("{name}.energy"), self.energy.len())?;
        let tokens = state.take_f64(&format!("{name}.tokens"), self.tokens.len())?;
        self.tokens.copy_from_slice(&tokens);
        Ok(())
    }
}
