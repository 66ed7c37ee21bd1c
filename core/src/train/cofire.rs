//! Co-firing statistics of parents and children, and the families that are assigned from them.
//!
//! The choice of parents has no gradient; it follows statistics that change slowly. Of decayed counts, `N` is the
//! number of tokens, `N_i` of those on which parent `i` fires, `N_j` of those on which the ungated pre-activation of
//! child `j` is above its threshold, and `N_ij` of those on which both happen:
//!
//! ```text
//! P(i|j) = N_ij / N_j,   score(j, i) = P(i|j) ln(P(i|j) / (N_i / N))       expected log-lift
//! parent(j) = argmax_i score, or ROOT if P(parent|j) < root_below or N_j < min_count
//! ```

use super::comm::Comm;
use super::counts::Counts;
use super::observed::Observed;
use super::state::{Array, Saved, State};
use crate::config::GateConfig;
use crate::error::Result;
use crate::gate::ROOT;
use crate::par::Par;
use crate::rng::Philox;
use alloc::format;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::cmp::Ordering;
use core::ops::Range;

/// Number of parents that a child asks, best first, before it gives up: families are capped, and its best ones may be
/// full.
const CHOICES: usize = 64;

/// Number of them that the shards of a dictionary tell each other at first.
const FIRST_CHOICES: usize = 8;

/// A child's request to join the family of a parent.
#[derive(Clone, Copy)]
struct Offer {
    score: f64,
    child: u32,
    parent: u32,
    /// Rank of this parent among the child's choices, from 1.
    rank: usize,
}

impl Offer {
    /// Orders offers best first; ties go to the lower child, then to the lower parent.
    fn order(&self, other: &Self) -> Ordering {
        other.score.total_cmp(&self.score).then(self.child.cmp(&other.child)).then(self.parent.cmp(&other.parent))
    }
}

/// The numbers of [`Cofire`] that grow with the numbers of latents.
pub(crate) struct Sums<'a> {
    pub parent: &'a [f64],
    pub child: &'a [f64],
    pub energy: &'a [f64],
    pub both: &'a [u16],
}

/// Decayed counts of which parents and children fire together.
///
/// The counts are not decayed each step, which would touch the whole table; the weight of each new token grows instead,
/// and all is scaled back when the weight becomes large.
#[derive(Clone, Debug, PartialEq)]
pub struct Cofire {
    f1: usize,
    f2: usize,
    /// `N_i`, in units of the weight of the next token.
    pub(crate) parent: Vec<f64>,
    /// `N_j`, likewise.
    pub(crate) child: Vec<f64>,
    /// `N_ij / N_j`, from sampled counts: of the children of this shard.
    pub(crate) both: Counts,
    own: Range<usize>,
    /// Sum of `|x - x_hat2|^2` over the tokens on which a parent fires.
    pub(crate) energy: Vec<f64>,
    /// `N`; the weight of the next token; and minus the number of half-lives since `both` was halved.
    pub(crate) tokens: [f64; 3],
}

impl Cofire {
    /// Returns counts of zero.
    pub fn new(f1: usize, f2: usize) -> Self {
        Self::of_shard(f1, f2, 0..f2)
    }

    /// Returns counts of zero of a shard, which has the counts of pairs of its own children.
    pub(super) fn of_shard(f1: usize, f2: usize, own: Range<usize>) -> Self {
        Self {
            f1,
            f2,
            parent: vec![0.0; f1],
            child: vec![0.0; f2],
            both: Counts::new(f1, own.len()),
            own,
            energy: vec![0.0; f1],
            tokens: [0.0, 1.0, 0.0],
        }
    }

    /// Adds the counts of a step and decays the earlier ones. The step stands for `steps` steps, since behind a hard
    /// gate only one of several is counted.
    ///
    /// Each thread counts for a block of children, and finds these among the ungated pre-activations of every row: so
    /// the tokens of a child are counted in the order of the rows on any number of threads.
    pub fn update(&mut self, par: Par, seen: &Observed, decay: f64, steps: u64) {
        let (w, fades) = self.weigh(seen.n(), decay, steps);
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
        (0..fades).for_each(|_| self.both.fade(par));
        let first = self.own.start as u32;
        self.both.update(par, |block| {
            let children = block.children();
            let children = children.start + first..children.end + first;
            for b in 0..seen.n() {
                let own = &ungated.index[ungated.row(b)];
                let own = &own[own.partition_point(|j| *j < children.start)..];
                let own = &own[..own.partition_point(|j| *j < children.end)];
                for &j in own {
                    block.token(j - first, steps as u32, fires.index[fires.row(b)].iter().copied());
                }
            }
        });
        if let Some(by) = self.rescaling() {
            self.parent.iter_mut().chain(&mut self.child).chain(&mut self.energy).for_each(|v| *v *= by);
        }
    }

    /// Moves the clock on by a step of `n` rows that stands for `steps` steps. Returns the weight of a row in the sums, and how often
    /// the counts of pairs are halved before it: once for every half-life that has passed.
    pub(crate) fn weigh(&mut self, n: usize, decay: f64, steps: u64) -> (f64, u32) {
        self.tokens[1] /= libm::pow(decay, steps as f64);
        let w = self.tokens[1] * steps as f64;
        self.tokens[0] += w * n as f64;
        let mut fades = 0;
        if decay < 1.0 {
            self.tokens[2] += steps as f64 * libm::log2(decay);
            while self.tokens[2] <= -1.0 {
                self.tokens[2] += 1.0;
                fades += 1;
            }
        }
        (w, fades)
    }

    /// Returns by what all sums are multiplied after a step, where the weight of a row has become large.
    pub(crate) fn rescaling(&mut self) -> Option<f64> {
        let by = 1.0 / self.tokens[1];
        (self.tokens[1] > 1e6).then(|| {
            self.tokens[..2].iter_mut().for_each(|v| *v *= by);
            by
        })
    }

    /// Returns the numbers that a device counts.
    pub(crate) fn sums(&self) -> Sums<'_> {
        Sums { parent: &self.parent, child: &self.child, energy: &self.energy, both: self.both.numbers() }
    }

    /// Replaces them.
    pub(crate) fn set_sums(&mut self, parent: Vec<f64>, child: Vec<f64>, energy: Vec<f64>, both: Vec<u16>) {
        (self.parent, self.child, self.energy) = (parent, child, energy);
        self.both.set_numbers(Arc::new(both));
    }

    /// Returns the number of parents.
    pub(crate) fn n_parents(&self) -> usize {
        self.f1
    }

    /// Returns `P(i|j)`; 0 for a child that was never counted, and for ROOT.
    ///
    /// # Panics
    /// If the child is of another shard.
    pub fn containment(&self, j: usize, parent: u32) -> f64 {
        if parent == ROOT || self.child[j] <= 0.0 {
            return 0.0;
        }
        self.both.share(j - self.own.start, parent as usize)
    }

    /// Returns the decayed number of tokens on which child `j` fired, in units of tokens.
    fn seen(&self, j: usize) -> f64 {
        self.child[j] / self.tokens[1]
    }

    /// Returns the parent of each child: the one of highest score. Families are capped; the children of lowest score
    /// leave a full family for their next best parent. Without ROOT (`root_below = 0`) a child that was never counted
    /// gets a random parent.
    ///
    /// This is deferred acceptance (Gale and Shapley 1962): each child asks for its best parent, and a family that is
    /// too large rejects its worst member, which then asks for its next best parent. Since parents and children rank
    /// each other by the same scores, the result is that of taking all pairs from the best one down, without a sorted
    /// list of `f1 f2` pairs.
    pub fn assign(&self, gate: &GateConfig, rng: &mut Philox) -> Vec<u32> {
        self.assign_by(gate, rng, |child, last, rank| Some(self.best(child, gate.root_below, last, rank)))
            .unwrap_or_default()
    }

    /// [`Cofire::assign`] over shards, each of which has the same result.
    ///
    /// Each shard knows the choices of its own children. They tell each other the first few of each, and more where the
    /// families are so full that a child asks for more.
    ///
    /// # Errors
    /// What the exchange finds.
    pub(super) fn assign_over(&self, comm: &dyn Comm, gate: &GateConfig, rng: &mut Philox) -> Result<Vec<u32>> {
        if comm.is_solo() {
            return Ok(self.assign(gate, rng));
        }
        let mut known = FIRST_CHOICES;
        comm.stage("assignment");
        loop {
            let (mut counts, mut parents, mut scores) = (Vec::new(), Vec::new(), Vec::new());
            for child in self.own.clone() {
                let mut offers = self.offers(child as u32, gate.root_below);
                offers.sort_unstable_by(Offer::order);
                offers.truncate(known);
                counts.push(offers.len() as u32);
                parents.extend(offers.iter().map(|offer| offer.parent));
                scores.extend(offers.iter().map(|offer| offer.score));
            }
            comm.all_gather(&mut counts)?;
            comm.all_gather(&mut parents)?;
            comm.all_gather(&mut scores)?;
            let mut first = vec![0usize];
            counts.iter().for_each(|n| first.push(first[first.len() - 1] + *n as usize));
            // None where the choice is not known: there may be more of them than were told.
            let choice = |child: u32, _: Option<Offer>, rank: usize| {
                let (from, n) = (first[child as usize], counts[child as usize] as usize);
                if rank > n {
                    return if n == known { None } else { Some(None) };
                }
                let at = from + rank - 1;
                Some(Some(Offer { score: scores[at], child, parent: parents[at], rank }))
            };
            let mut drawn = rng.clone();
            if let Some(assigned) = self.assign_by(gate, &mut drawn, choice) {
                *rng = drawn;
                return Ok(assigned);
            }
            known = (2 * known).min(CHOICES);
        }
    }

    /// Assigns children by their choices: `choice(child, last, rank)` is choice number `rank` of a child, which comes after
    /// `last`; none where it has no more. Returns none where a choice is not known.
    fn assign_by(
        &self,
        gate: &GateConfig,
        rng: &mut Philox,
        choice: impl Fn(u32, Option<Offer>, usize) -> Option<Option<Offer>>,
    ) -> Option<Vec<u32>> {
        let cap = ((gate.family_cap * self.f2 as f64 / self.f1 as f64) as usize).max(1);
        let rootless = gate.root_below == 0.0;
        let mut families: Vec<Vec<Offer>> = vec![Vec::new(); self.f1];
        for j in 0..self.f2 {
            if self.seen(j) < gate.min_count && !rootless {
                continue;
            }
            let mut unassigned = Some((j as u32, None, 1));
            while let Some((child, last, rank)) = unassigned.take() {
                if rank > CHOICES {
                    break;
                }
                let Some(offer) = choice(child, last, rank)? else { break };
                let family = &mut families[offer.parent as usize];
                family.push(offer);
                if family.len() > cap {
                    let worst = (0..family.len()).max_by(|a, b| family[*a].order(&family[*b])).unwrap_or(0);
                    let Offer { child, rank, .. } = family[worst];
                    unassigned = Some((child, Some(family.swap_remove(worst)), rank + 1));
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
        Some(parents)
    }

    /// Returns the offers of a child of this shard to all parents, in any order.
    fn offers(&self, child: u32, root_below: f64) -> Vec<Offer> {
        if self.child[child as usize] <= 0.0 {
            return Vec::new();
        }
        let shares = self.both.shares(child as usize - self.own.start).enumerate();
        let of = shares.filter(|(_, contained)| *contained > 0.0 && *contained >= root_below);
        of.map(|(i, contained)| self.offer(child, i, contained, 1)).collect()
    }

    /// Returns the offer of a child to parent `i`, in whose tokens a share `contained` of its own lies.
    fn offer(&self, child: u32, i: usize, contained: f64, rank: usize) -> Offer {
        let base = (self.parent[i] / self.tokens[0]).max(1e-12);
        Offer { score: contained * libm::log(contained / base), child, parent: i as u32, rank }
    }

    /// Returns the best parent of a child among those that come after `last` in its order, as its choice number `rank`.
    fn best(&self, child: u32, root_below: f64, last: Option<Offer>, rank: usize) -> Option<Offer> {
        let mut best: Option<Offer> = None;
        if self.child[child as usize] <= 0.0 {
            return None;
        }
        for (i, contained) in self.both.shares(child as usize - self.own.start).enumerate() {
            if contained > 0.0 && contained >= root_below {
                let offer = self.offer(child, i, contained, rank);
                let not_asked_yet = last.is_none_or(|last| offer.order(&last).is_gt());
                if not_asked_yet && best.is_none_or(|best| offer.order(&best).is_lt()) {
                    best = Some(offer);
                }
            }
        }
        best
    }

    /// Assigns parents anew, and moves a child only if its new parent contains it by `hysteresis` more than the present
    /// one; ROOT counts as containing `root_below` of a child. A child of ROOT moves for a margin of .05 already.
    /// Returns how many moved.
    ///
    /// # Errors
    /// What the exchange with other shards finds.
    pub(super) fn reassign_over(
        &self,
        comm: &dyn Comm,
        gate: &GateConfig,
        parents: &mut [u32],
        rng: &mut Philox,
    ) -> Result<usize> {
        let fresh = self.assign_over(comm, gate, rng)?;
        // Each shard decides about its own children.
        let moves = self.own.clone().map(|j| {
            let (now, new) = (parents[j], fresh[j]);
            let value = |p: u32| if p == ROOT { gate.root_below } else { self.containment(j, p) };
            let margin = if now == ROOT { 0.05 } else { gate.hysteresis };
            u8::from(new != now && self.seen(j) >= gate.min_count && value(new) > value(now) + margin)
        });
        let mut moves: Vec<u8> = moves.collect();
        comm.all_gather(&mut moves)?;
        let mut moved = 0;
        for ((now, &new), _) in parents.iter_mut().zip(&fresh).zip(moves).filter(|(_, moves)| *moves > 0) {
            *now = new;
            moved += 1;
        }
        Ok(moved)
    }

    /// Returns the parent with the most error per child, `argmax_i R_i / (n_i + 1)`: `R_i` is the error summed over the
    /// tokens on which parent `i` fires, and `n_i` its number of children, `size`.
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

    /// Sets the counts of a child to zero, since it is reseeded.
    pub(crate) fn forget(&mut self, j: usize) {
        self.child[j] = 0.0;
        if self.own.contains(&j) {
            self.both.forget(j - self.own.start);
        }
    }
}

impl Saved for Cofire {
    fn save(&self, name: &str, state: &mut State) {
        let Self { f1: _, f2: _, own: _, parent, child, both, energy, tokens } = self;
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
