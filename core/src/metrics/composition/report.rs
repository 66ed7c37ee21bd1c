//! The scores of the co-activation counts.

use alloc::vec::Vec;

use super::super::sparsity::ALIVE_TOKENS;
use super::super::{defined_mean, median};
use super::{Composition, REAL_CONTAINMENT, REAL_LIFT};
use crate::gate::{Families, ROOT};

/// One latent of level 2.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Child {
    /// Its parent in level 1, [`ROOT`] for none.
    pub parent: u32,
    /// `n_j`: tokens on which it fires.
    pub fires: u64,
    /// `P(parent | j) = N_ij / n_j`. 0 to 1, higher is better; NaN for [`ROOT`] or `n_j = 0`.
    pub containment: f64,
    /// `(P(parent | j) - P(parent)) / (1 - P(parent))`: how far the child fires with its parent by itself. At most 1,
    /// higher is better; 0 is chance and 1 is always. NaN as the containment, and for a parent that fires on every
    /// token.
    pub attachment: f64,
    /// `N N_ij / (n_i n_j)`. 0 and up, higher is better, 1 is chance; NaN for [`ROOT`], if either never fires, or if
    /// either fires on every token.
    pub lift: f64,
    /// `phi = (N N_ij - n_i n_j) / sqrt(n_i (N - n_i) n_j (N - n_j))`. -1 to 1, higher is better, 0 is chance; NaN as
    /// the lift.
    pub phi: f64,
    /// `N_ij / (n_i + n_j - N_ij)`. 0 to 1; low where a parent has many children; NaN for [`ROOT`], or if neither
    /// fires.
    pub jaccard: f64,
    /// `ln lift / -ln(N_ij / N)`. -1 (never together) to 1 (always together), 0 is chance; NaN as the lift.
    pub npmi: f64,
    /// `max_i w_ij / sum_i w_ij`, `w_ij = P(i | j)` where the lift of `(i, j)` is over [`REAL_LIFT`], else 0. 0 to 1,
    /// 1: a single parent; NaN if no `i` has such a lift.
    pub treeness: f64,
    /// `(sum_i w_ij)^2 / sum_i w_ij^2`: effective parents. 1 and up, lower is better; NaN as above.
    pub effective_parents: f64,
}

/// One latent of level 1 with children.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Parent {
    /// The latent.
    pub latent: u32,
    /// Its children.
    pub children: usize,
    /// `n_i`: tokens on which it fires.
    pub fires: u64,
    /// `P(some child | i)`. 0 to 1, neither way is better; NaN if `n_i = 0`.
    pub coverage: f64,
    /// `P(exactly one child | at least one)`. 0 to 1, higher is better, 1: siblings exclude each other; NaN if none
    /// ever fires.
    pub exclusivity: f64,
    /// `max_j P(j | i)` over its children. 0 to 1, near 1: one child fires nearly always; NaN if `n_i = 0`.
    pub purity: f64,
    /// `H = -sum_j q_j log2 q_j`, `q_j = N_ij / sum_k N_ik` over its children: the uncertainty about which child is
    /// active. 0 to `log2 children`; NaN if none fires with it.
    pub child_entropy_bits: f64,
    /// `H / log2 children`. 0 to 1, 1: all as often; NaN for an only child, and as above.
    pub child_entropy: f64,
    /// `2^H`. 1 to `children`, 1 for an only child; NaN if none fires with it.
    pub effective_children: f64,
    /// `mean_tokens |1[z_i > 0] - OR_j 1[z_j > 0]|` (Luo et al. 2026). 0 to 1, lower is better: the parent equals the
    /// union of its children.
    pub or_hamming: f64,
}

/// The composition of the levels. Means are over the defined values of alive latents (at least [`ALIVE_TOKENS`]
/// tokens); NaN where there are none.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct CompositionReport {
    /// Tokens seen.
    pub tokens: u64,
    /// Children under [`ROOT`].
    pub root_children: usize,
    /// Children with a parent that are not alive: left out below.
    pub edges_not_alive: usize,
    /// Alive edges without a lift: their parent never fires, or an end is always on.
    pub edges_without_lift: usize,
    /// Mean `containment` of the alive edges. 0 to 1, higher is better.
    pub containment: f64,
    /// Mean `attachment` of the alive edges. At most 1, higher is better, 0 is chance.
    pub attachment: f64,
    /// Median `lift` of the alive edges that have one. 0 and up, higher is better.
    pub median_lift: f64,
    /// Share of the alive edges with a lift over [`REAL_LIFT`] and a containment over [`REAL_CONTAINMENT`]. 0 to 1,
    /// higher is better.
    pub real_edges: f64,
    /// Mean `phi` of the alive edges. -1 to 1, higher is better.
    pub phi: f64,
    /// Mean `jaccard` of the alive edges. 0 to 1.
    pub jaccard: f64,
    /// Mean `npmi` of the alive edges. -1 to 1, higher is better.
    pub npmi: f64,
    /// Share of the alive edges whose parent fires on some token, with `P(child | parent) > P(parent | child)`. 0 to 1,
    /// lower is better: most of a hierarchy upside down is over 1/2, and `density_ratio` over 1.
    pub inverted_edges: f64,
    /// Median density of the alive latents of level 2 over that of level 1. 0 and up; below 1 in a hierarchy.
    pub density_ratio: f64,
    /// Mean `treeness` of the alive children. 0 to 1, higher is better.
    pub treeness: f64,
    /// Alive children without a treeness.
    pub children_without_treeness: usize,
    /// Mean `coverage` of the alive parents. 0 to 1.
    pub coverage: f64,
    /// Mean `exclusivity` of the alive parents with at least two children. 0 to 1, higher is better.
    pub exclusivity: f64,
    /// Mean `purity` of the alive parents. 0 to 1.
    pub purity: f64,
    /// Mean `child_entropy_bits` of the alive parents with at least two children. 0 to `log2` of the children.
    pub child_entropy_bits: f64,
    /// Mean `child_entropy` of the same. 0 to 1.
    pub child_entropy: f64,
    /// Mean `effective_children` of the same. 1 and up.
    pub effective_children: f64,
    /// Mean over tokens of the number of parents that differ from the union of their children: the sum of `or_hamming`
    /// over all parents. 0 and up, lower is better.
    pub or_hamming: f64,
    /// `[f2]`.
    pub child: Vec<Child>,
    /// The latents of level 1 that have children.
    pub parent: Vec<Parent>,
}

/// Returns `(P(i | j) - P(i)) / (1 - P(i))` from counts over `n` tokens; NaN if `j` never fires or `i` always does.
pub(in crate::metrics) fn attachment(n: u64, fires1: u64, fires2: u64, both: u64) -> f64 {
    if fires2 == 0 || fires1 == n {
        return f64::NAN;
    }
    let chance = fires1 as f64 / n as f64;
    (both as f64 / fires2 as f64 - chance) / (1.0 - chance)
}

impl Composition {
    /// Returns the lift of the pair `(i, j)`, see [`Child::lift`].
    pub(super) fn lift(&self, i: usize, j: usize) -> f64 {
        let (n, n1, n2) = (self.tokens, self.fires1[i], self.fires2[j]);
        if n1 == 0 || n2 == 0 || n1 == n || n2 == n {
            return f64::NAN;
        }
        n as f64 * f64::from(self.together(i, j)) / (n1 as f64 * n2 as f64)
    }

    /// Returns the correlation of the pair `(i, j)`, see [`Child::phi`].
    pub(super) fn phi(&self, i: usize, j: usize) -> f64 {
        let (n, n1, n2) = (self.tokens, self.fires1[i], self.fires2[j]);
        // Both products are below 2^66 and are subtracted as integers, so that no digits cancel.
        let over = i128::from(n) * i128::from(self.together(i, j)) - i128::from(n1) * i128::from(n2);
        let spread = |k: u64| libm::sqrt(k as f64) * libm::sqrt((n - k) as f64);
        over as f64 / (spread(n1) * spread(n2))
    }

    /// Returns the attachment of the pair `(i, j)`, see [`Child::attachment`].
    pub(super) fn attachment(&self, i: usize, j: usize) -> f64 {
        attachment(self.tokens, self.fires1[i], self.fires2[j], u64::from(self.together(i, j)))
    }

    fn npmi(&self, i: usize, j: usize) -> f64 {
        let lift = self.lift(i, j);
        match self.together(i, j) {
            0 if !lift.is_nan() => -1.0,
            both => libm::log(lift) / -libm::log(f64::from(both) / self.tokens as f64),
        }
    }

    fn jaccard(&self, i: usize, j: usize) -> f64 {
        let both = self.together(i, j);
        f64::from(both) / (self.fires1[i] + self.fires2[j] - u64::from(both)) as f64
    }

    fn parent(&self, i: usize, children: &[u32]) -> Parent {
        let (n, fires) = (self.tokens as f64, self.fires1[i] as f64);
        let together = || children.iter().map(|&j| self.together(i, j as usize));
        let all = together().map(u64::from).sum::<u64>() as f64;
        let shares = together().filter(|k| *k > 0).map(|k| f64::from(k) / all);
        // The fold starts at 0, so that the entropy of an only child is 0 and not -0.
        let bits = if all > 0.0 { shares.fold(0.0, |h, q| h - q * libm::log2(q)) } else { f64::NAN };
        Parent {
            latent: i as u32,
            children: children.len(),
            fires: self.fires1[i],
            coverage: self.covered[i] as f64 / fires,
            exclusivity: self.one_child[i] as f64 / self.any_child[i] as f64,
            purity: f64::from(together().max().unwrap_or(0)) / fires,
            child_entropy_bits: bits,
            // This is 0 / 0, so NaN, for an only child.
            child_entropy: bits / libm::log2(children.len() as f64),
            effective_children: libm::exp2(bits),
            or_hamming: (self.fires1[i] + self.any_child[i] - 2 * self.covered[i]) as f64 / n,
        }
    }

    fn child(&self, j: usize) -> Child {
        let (mut sum, mut squares, mut top) = (0.0, 0.0, 0.0f64);
        let given = |i: usize| f64::from(self.together(i, j)) / self.fires2[j] as f64;
        for i in (0..self.f1).filter(|&i| self.lift(i, j) > REAL_LIFT) {
            let w = given(i);
            (sum, squares, top) = (sum + w, squares + w * w, top.max(w));
        }
        let parent = (self.parent[j] != ROOT).then_some(self.parent[j] as usize);
        Child {
            parent: self.parent[j],
            fires: self.fires2[j],
            containment: parent.map_or(f64::NAN, given),
            attachment: parent.map_or(f64::NAN, |i| self.attachment(i, j)),
            lift: parent.map_or(f64::NAN, |i| self.lift(i, j)),
            phi: parent.map_or(f64::NAN, |i| self.phi(i, j)),
            jaccard: parent.map_or(f64::NAN, |i| self.jaccard(i, j)),
            npmi: parent.map_or(f64::NAN, |i| self.npmi(i, j)),
            treeness: top / sum,
            effective_parents: sum * sum / squares,
        }
    }

    /// Returns the scores of all tokens added. Cost: one pass over the co-activation table.
    pub fn report(&self) -> CompositionReport {
        let child: Vec<Child> = (0..self.parent.len()).map(|j| self.child(j)).collect();
        let families = Families::new(self.parent.clone(), self.f1);
        let parent: Vec<Parent> = (0..self.f1)
            .filter(|&i| !families.children(i as u32).is_empty())
            .map(|i| self.parent(i, families.children(i as u32)))
            .collect();
        let alive: Vec<&Child> = child.iter().filter(|c| c.fires >= ALIVE_TOKENS).collect();
        let edges: Vec<&Child> = alive.iter().copied().filter(|c| c.parent != ROOT).collect();
        let mut lifts: Vec<f64> = edges.iter().map(|c| c.lift).filter(|l| !l.is_nan()).collect();
        let real = edges.iter().filter(|c| c.lift > REAL_LIFT && c.containment > REAL_CONTAINMENT).count();
        let root_children = self.parent.iter().filter(|p| **p == ROOT).count();
        let parents = || parent.iter().filter(|p| p.fires >= ALIVE_TOKENS);
        let several = || parents().filter(|p| p.children > 1);
        let with_parent: Vec<_> = edges.iter().filter(|c| self.fires1[c.parent as usize] > 0).collect();
        // P(j | i) > P(i | j) means n_i < n_j, if they ever fire together.
        let inverted =
            with_parent.iter().filter(|c| c.containment > 0.0 && self.fires1[c.parent as usize] < c.fires).count();
        let density = |fires: &[u64]| {
            let mut alive: Vec<f64> = fires.iter().filter(|f| **f >= ALIVE_TOKENS).map(|f| *f as f64).collect();
            median(&mut alive)
        };
        CompositionReport {
            tokens: self.tokens,
            root_children,
            edges_not_alive: child.len() - root_children - edges.len(),
            edges_without_lift: edges.len() - lifts.len(),
            containment: defined_mean(edges.iter().map(|c| c.containment)),
            attachment: defined_mean(edges.iter().map(|c| c.attachment)),
            median_lift: median(&mut lifts),
            real_edges: real as f64 / edges.len() as f64,
            phi: defined_mean(edges.iter().map(|c| c.phi)),
            jaccard: defined_mean(edges.iter().map(|c| c.jaccard)),
            npmi: defined_mean(edges.iter().map(|c| c.npmi)),
            inverted_edges: inverted as f64 / with_parent.len() as f64,
            density_ratio: density(&self.fires2) / density(&self.fires1),
            treeness: defined_mean(alive.iter().map(|c| c.treeness)),
            children_without_treeness: alive.iter().filter(|c| c.treeness.is_nan()).count(),
            coverage: defined_mean(parents().map(|p| p.coverage)),
            exclusivity: defined_mean(several().map(|p| p.exclusivity)),
            purity: defined_mean(parents().map(|p| p.purity)),
            child_entropy_bits: defined_mean(several().map(|p| p.child_entropy_bits)),
            child_entropy: defined_mean(several().map(|p| p.child_entropy)),
            effective_children: defined_mean(several().map(|p| p.effective_children)),
            or_hamming: parent.iter().map(|p| p.or_hamming).sum(),
            child,
            parent,
        }
    }
}
