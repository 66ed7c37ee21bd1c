//! Co-activation of siblings.

use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;

use super::super::check_parents;
use super::super::composition::MAX_PAIRS;
use super::super::fixed::{self, FixedSum};
use super::{Draws, Partition, Score, counts_of, members};
use crate::gate::Families;
use crate::model::CodesView;
use crate::par::Par;
use crate::{Error, ROOT, Result};

/// Streaming counts of the latents of level 2 that fire together: of siblings, or of all.
///
/// Integer counts, and sums in fixed point ([`FixedSum`]): the report depends on the tokens alone, not on their order,
/// nor on blocks, nor on how they are split among accumulators that are merged. Memory: 8 bytes per pair of siblings,
/// at most `4 sum_C n_C^2`; with all pairs, 4 bytes for each of the `f2 (f2 - 1) / 2`; 32 bytes per latent of level 2
/// for the ratios. While a block is added, 1 MiB and 4 bytes per latent more.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct Cofiring {
    families: Families,
    f1: usize,
    tokens: u64,
    fires1: Vec<u64>,
    fires2: Vec<u64>,
    /// `[f2]`: tokens on which the latent and its parent fire.
    with_parent: Vec<u64>,
    /// `[f2]`: the index of the latent among its siblings.
    rank: Vec<u32>,
    /// `[f1 + 1]`: the start of the triangle of each family.
    start: Vec<usize>,
    /// Tokens on which two siblings fire, by pair: the triangles of all families.
    siblings: Vec<u32>,
    /// Tokens on which their parent fires too, likewise.
    siblings_with_parent: Vec<u32>,
    /// Tokens on which two latents of level 2 fire, by pair: one triangle; none unless all pairs are counted.
    all: Option<Vec<u32>>,
    /// `[f2]`: the sum of the latent's values.
    mass: Vec<FixedSum>,
    /// `[f2]`: the sum of its parent's values on the tokens on which the latent fires.
    parent_mass: Vec<FixedSum>,
}

/// Active latents are collected over tokens until there are this many; then their pairs are counted.
const TOGETHER: usize = 1 << 16;

/// One family with at least two alive children; means over its pairs of alive siblings.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct FamilyCofiring {
    /// The parent.
    pub parent: u32,
    /// Its alive children.
    pub children: u32,
    /// Mean of `phi = (N N_jk - n_j n_k) / sqrt(n_j (N - n_j) n_k (N - n_k))`. -1 to 1, 0: independent; NaN if no pair
    /// has one.
    pub phi: f64,
    /// Mean of `N_jk / (n_j + n_k - N_jk)`. 0 to 1, 0: exclusive.
    pub jaccard: f64,
    /// Mean of `phi` over only the tokens on which the parent fires. -1 to 1, 0: independent given the parent, below 0:
    /// exclusive; NaN if no pair has one.
    pub phi_given_parent: f64,
}

/// How siblings fire; means over pairs of alive siblings. Siblings of an exclusive hierarchy have values near 0 or
/// below by design: given the parent they should be below 0.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct CofiringReport {
    /// Tokens seen.
    pub tokens: u64,
    /// Pairs of alive siblings.
    pub pairs: u64,
    /// Pairs without a `phi`: one of them fires on every token.
    pub pairs_without_phi: u64,
    /// Pairs without a `phi` given the parent: given it, one of them never fires, or always.
    pub pairs_without_phi_given_parent: u64,
    /// Latents left out: under [`ROOT`].
    pub root: usize,
    /// Latents left out: not alive.
    pub not_alive: usize,
    /// Mean `phi` of siblings. -1 to 1, 0: independent. The null needs all pairs.
    pub phi: Score,
    /// Mean Jaccard index of siblings. 0 to 1, 0: exclusive. The null needs all pairs.
    pub jaccard: Score,
    /// Mean `phi` of siblings on the tokens of their parent. -1 to 1; the null is 0: independent given the parent.
    pub phi_given_parent: f64,
    /// Modularity of the families on the graph of all alive latents in families, with weights `max(phi, 0)`. -1/2 to 1,
    /// higher: families fire together, 0 is chance; NaN without all pairs.
    pub modularity: Score,
    /// Every family with at least two alive children, by parent.
    pub family: Vec<FamilyCofiring>,
}

/// Returns the index of the pair `a != b` in a triangle without its diagonal, stored row by row.
pub(super) fn triangle(a: usize, b: usize) -> usize {
    let (low, high) = (a.min(b), a.max(b));
    high * (high - 1) / 2 + low
}

/// Returns the range of the pairs of `j` with lower indices in a triangle.
pub(super) fn below(j: usize) -> Range<usize> {
    let start = j * j.saturating_sub(1) / 2;
    start..start + j
}

/// Returns the number of pairs of `n` latents; none above [`MAX_PAIRS`].
pub(super) fn pairs_of(n: usize) -> Option<usize> {
    n.checked_mul(n.saturating_sub(1)).map(|p| p / 2).filter(|p| *p <= MAX_PAIRS)
}

impl Cofiring {
    /// Makes an accumulator that counts only siblings.
    ///
    /// # Errors
    /// [`Error::Index`] for a parent that is neither below `f1` nor [`ROOT`]; [`Error::Config`] for more than
    /// [`MAX_PAIRS`] pairs.
    pub fn new(f1: usize, parent: &[u32]) -> Result<Self> {
        check_parents("learned parents", parent, f1)?;
        let families = Families::new(parent.to_vec(), f1);
        let f2 = parent.len();
        let (mut rank, mut start) = (vec![0; f2], vec![0usize]);
        for p in 0..f1 {
            let children = families.children(p as u32);
            children.iter().enumerate().for_each(|(r, &j)| rank[j as usize] = r as u32);
            let end = pairs_of(children.len()).map(|n| start[p] + n).filter(|n| *n <= MAX_PAIRS);
            start.push(end.ok_or_else(too_many)?);
        }
        let pairs = start[f1];
        Ok(Self {
            families,
            f1,
            tokens: 0,
            fires1: vec![0; f1],
            fires2: vec![0; f2],
            with_parent: vec![0; f2],
            rank,
            start,
            siblings: vec![0; pairs],
            siblings_with_parent: vec![0; pairs],
            all: None,
            mass: vec![FixedSum::default(); f2],
            parent_mass: vec![FixedSum::default(); f2],
        })
    }

    /// Makes an accumulator that counts all pairs of latents of level 2, for the nulls and the modularity. Costs `L0^2
    /// / 2` more steps per token.
    ///
    /// # Errors
    /// As [`Cofiring::new`].
    pub fn with_all_pairs(f1: usize, parent: &[u32]) -> Result<Self> {
        let pairs = pairs_of(parent.len()).ok_or_else(too_many)?;
        Ok(Self { all: Some(vec![0; pairs]), ..Self::new(f1, parent)? })
    }

    /// Adds a block.
    ///
    /// # Errors
    /// [`Error::Shape`] where sizes disagree, [`Error::Capacity`] for more than `2^32 - 1` tokens, [`Error::NotFinite`]
    /// (with the token) for an infinite value, [`Error::Range`] for one over [`fixed::LIMIT`];
    /// nothing is added then.
    pub fn add(&mut self, codes1: &CodesView<'_>, codes2: &CodesView<'_>) -> Result<()> {
        let (n, f2) = (codes1.tokens(), self.rank.len());
        for (what, expected, got) in [
            ("latents of the codes of level 1", self.f1, codes1.latents()),
            ("latents of the codes of level 2", f2, codes2.latents()),
            ("tokens of the codes of level 2", n, codes2.tokens()),
        ] {
            if expected != got {
                return Err(Error::Shape { what, expected, got });
            }
        }
        check_room(self.tokens + n as u64)?;
        for t in 0..n {
            for (_, z) in codes1.active(t).chain(codes2.active(t)) {
                fixed::check("value of the codes", f64::from(z), self.tokens + t as u64)?;
            }
        }
        let mut z1 = vec![0.0f32; self.f1];
        // The active latents of level 2 on each token, ascending, and whether their parent is active.
        let (mut offsets, mut active, mut token) = (vec![0u32], Vec::new(), Vec::<(u32, bool)>::new());
        for t in 0..n {
            for (i, z) in codes1.active(t) {
                self.fires1[i] += 1;
                z1[i] = z;
            }
            token.clear();
            for (j, z) in codes2.active(t) {
                let p = self.families.parents()[j];
                let with_parent = p != ROOT && z1[p as usize] > 0.0;
                token.push((j as u32, with_parent));
                self.fires2[j] += 1;
                self.mass[j].add(f64::from(z));
                if with_parent {
                    self.with_parent[j] += 1;
                    self.parent_mass[j].add(f64::from(z1[p as usize]));
                }
            }
            token.sort_unstable();
            token.dedup();
            active.extend(&token);
            offsets.push(active.len() as u32);
            codes1.active(t).for_each(|(i, _)| z1[i] = 0.0);
            if active.len() >= TOGETHER || t + 1 == n {
                self.count_pairs(&offsets, &active);
                active.clear();
                offsets.truncate(1);
            }
        }
        self.tokens += n as u64;
        Ok(())
    }

    /// Counts the pairs of each token's latents, latent by latent, so that the counts of one latent stay in the cache
    /// for all tokens.
    fn count_pairs(&mut self, offsets: &[u32], active: &[(u32, bool)]) {
        // Sorts the entries of `active` by latent: for each, the start of its token in `active`, and its own position.
        let mut start = vec![0u32; self.rank.len() + 1];
        active.iter().for_each(|(j, _)| start[*j as usize + 1] += 1);
        (1..start.len()).for_each(|j| start[j] += start[j - 1]);
        let (mut next, mut entry) = (start.clone(), vec![(0u32, 0u32); active.len()]);
        for w in offsets.windows(2) {
            for at in w[0]..w[1] {
                let next = &mut next[active[at as usize].0 as usize];
                entry[*next as usize] = (w[0], at);
                *next += 1;
            }
        }
        let parents = self.families.parents();
        for j in 0..self.rank.len() {
            let p = parents[j];
            for &(first, at) in &entry[start[j] as usize..start[j + 1] as usize] {
                // Latents ascend, so that the pairs with those before it are the row of `j` in a triangle.
                let before = &active[first as usize..at as usize];
                if p != ROOT {
                    for &(i, with_parent) in before.iter().filter(|(i, _)| parents[*i as usize] == p) {
                        let i = self.rank[i as usize] as usize;
                        let pair = self.start[p as usize] + triangle(i, self.rank[j] as usize);
                        self.siblings[pair] += 1;
                        self.siblings_with_parent[pair] += u32::from(with_parent);
                    }
                }
                if let Some(all) = &mut self.all {
                    let row = &mut all[below(j)];
                    before.iter().for_each(|(i, _)| row[*i as usize] += 1);
                }
            }
        }
    }

    /// Adds the tokens of `other`.
    ///
    /// # Errors
    /// [`Error::Capacity`] for more than `2^32 - 1` tokens together; nothing is added then.
    ///
    /// # Panics
    /// If the families differ, or only one has all pairs.
    pub fn merge(&mut self, other: &Self) -> Result<()> {
        let same = self.families == other.families && self.all.is_some() == other.all.is_some();
        assert!(same, "merged accumulators must be of one tree");
        check_room(self.tokens + other.tokens)?;
        self.tokens += other.tokens;
        for (a, b) in [
            (&mut self.fires1, &other.fires1),
            (&mut self.fires2, &other.fires2),
            (&mut self.with_parent, &other.with_parent),
        ] {
            a.iter_mut().zip(b).for_each(|(a, b)| *a += b);
        }
        let none = Vec::new();
        for (a, b) in [
            (Some(&mut self.siblings), &other.siblings),
            (Some(&mut self.siblings_with_parent), &other.siblings_with_parent),
            (self.all.as_mut(), other.all.as_ref().unwrap_or(&none)),
        ] {
            a.into_iter().flatten().zip(b).for_each(|(a, b)| *a += b);
        }
        self.mass.iter_mut().zip(&other.mass).for_each(|(a, b)| a.merge(b));
        self.parent_mass.iter_mut().zip(&other.parent_mass).for_each(|(a, b)| a.merge(b));
        Ok(())
    }

    /// Returns the number of tokens on which each latent of level 2 fires, `[f2]`.
    pub fn fires(&self) -> &[u64] {
        &self.fires2
    }

    /// Returns `rho_j = E[z_pi(j) | j on] / E[z_j | j on]`, `[f2]`, with `pi(j)` the parent of `j`. 0 and up; NaN under
    /// [`ROOT`], and if `j` never fires.
    pub fn ratios(&self) -> Vec<f64> {
        let of = |j: usize| match self.families.parents()[j] {
            ROOT => f64::NAN,
            _ => self.parent_mass[j].value() / self.mass[j].value(),
        };
        (0..self.rank.len()).map(of).collect()
    }

    /// Returns the number of tokens on which two siblings fire together.
    ///
    /// # Panics
    /// If they are the same latent, or not siblings.
    pub fn together(&self, j: usize, k: usize) -> u32 {
        let p = self.families.parents()[j];
        assert!(j != k && p != ROOT && p == self.families.parents()[k], "latents {j} and {k} are no siblings");
        self.siblings[self.sibling(p, j, k)]
    }

    /// Returns the index of a pair of siblings in `siblings`.
    fn sibling(&self, p: u32, j: usize, k: usize) -> usize {
        self.start[p as usize] + triangle(self.rank[j] as usize, self.rank[k] as usize)
    }

    /// Returns the Jaccard index of two latents that fire together on `together` tokens.
    fn jaccard(&self, together: u32, j: usize, k: usize) -> f64 {
        f64::from(together) / (self.fires2[j] + self.fires2[k] - u64::from(together)) as f64
    }

    /// Returns the scores of all tokens added. The nulls and the modularity exist only with all pairs; they cost one
    /// pass over all pairs, and one over the pairs of siblings for each draw.
    pub fn report(&self, par: Par, draws: Draws) -> CofiringReport {
        let partition = Partition::families(self.families.parents(), &self.fires2);
        let (latent, label) = (partition.latents(), partition.labels());
        let (offset, member) = members(label, partition.clusters());
        let mut total = Means::default();
        let mut family = Vec::new();
        for (c, w) in offset.windows(2).enumerate().filter(|(_, w)| w[1] - w[0] > 1) {
            let p = partition.names()[c];
            let mut means = Means::default();
            for_pairs(&member[w[0]..w[1]], |a, b| {
                let (j, k) = (latent[a] as usize, latent[b] as usize);
                let at = self.sibling(p, j, k);
                let (both, given) = (self.siblings[at], self.siblings_with_parent[at]);
                means.phi.add(phi(self.tokens, both, self.fires2[j], self.fires2[k]));
                means.jaccard.add(self.jaccard(both, j, k));
                let parent = self.fires1[p as usize];
                means.given.add(phi(parent, given, self.with_parent[j], self.with_parent[k]));
            });
            total.merge(&means);
            family.push(FamilyCofiring {
                parent: p,
                children: (w[1] - w[0]) as u32,
                phi: means.phi.mean(),
                jaccard: means.jaccard.mean(),
                phi_given_parent: means.given.mean(),
            });
        }
        let alone = |value| Score::new(value, [].into_iter());
        let [null_phi, null_jaccard, modularity] = match &self.all {
            Some(all) => self.against_null(par, draws, &partition, all),
            None => [alone(f64::NAN); 3],
        };
        CofiringReport {
            tokens: self.tokens,
            pairs: total.jaccard.n,
            pairs_without_phi: total.jaccard.n - total.phi.n,
            pairs_without_phi_given_parent: total.jaccard.n - total.given.n,
            root: partition.root(),
            not_alive: partition.not_alive(),
            phi: if self.all.is_some() { null_phi } else { alone(total.phi.mean()) },
            jaccard: if self.all.is_some() { null_jaccard } else { alone(total.jaccard.mean()) },
            phi_given_parent: total.given.mean(),
            modularity,
            family,
        }
    }

    /// Returns `phi`, Jaccard index and modularity of the families, and of the draws.
    fn against_null(&self, par: Par, draws: Draws, partition: &Partition, all: &[u32]) -> [Score; 3] {
        let latent = partition.latents();
        let n = latent.len();
        let pair = |a: usize, b: usize| {
            let (j, k) = (latent[a] as usize, latent[b] as usize);
            let both = all[triangle(j, k)];
            (phi(self.tokens, both, self.fires2[j], self.fires2[k]), self.jaccard(both, j, k))
        };
        // A latent that fires on every token has no phi (NaN), and `NaN.max(0)` is 0: it has no edges.
        let degree = par.map(n, |a| (0..n).filter(|&b| b != a).map(|b| pair(a, b).0.max(0.0)).sum::<f64>());
        let whole: f64 = degree.iter().sum();
        Score::of(par, draws, &counts_of(partition, &self.fires2), partition.labels(), |label| {
            let (offset, member) = members(label, partition.clusters());
            let (mut phi, mut jaccard, mut inside, mut squares) = (Mean::default(), Mean::default(), 0.0, 0.0);
            for w in offset.windows(2) {
                let cluster = &member[w[0]..w[1]];
                for_pairs(cluster, |a, b| {
                    let (p, j) = pair(a, b);
                    phi.add(p);
                    jaccard.add(j);
                    inside += 2.0 * p.max(0.0);
                });
                let share = cluster.iter().map(|&a| degree[a]).sum::<f64>() / whole;
                squares += share * share;
            }
            [phi.mean(), jaccard.mean(), inside / whole - squares]
        })
    }
}

/// Calls `f` for each pair of items.
fn for_pairs(items: &[usize], mut f: impl FnMut(usize, usize)) {
    for (k, &b) in items.iter().enumerate() {
        items[..k].iter().for_each(|&a| f(a, b));
    }
}

/// Returns the correlation of two latents that fire on `a` and `b` of `n` tokens, and on `both` together.
fn phi(n: u64, both: u32, a: u64, b: u64) -> f64 {
    let (n, both, a, b) = (n as f64, f64::from(both), a as f64, b as f64);
    let variance = a * (n - a) * b * (n - b);
    if variance > 0.0 { (n * both - a * b) / libm::sqrt(variance) } else { f64::NAN }
}

/// Checks that counts of 32 bits can hold `tokens` tokens.
fn check_room(tokens: u64) -> Result<()> {
    if tokens > u64::from(u32::MAX) {
        let (needed, got) = (usize::try_from(tokens).unwrap_or(usize::MAX), u32::MAX as usize);
        return Err(Error::Capacity { what: "tokens in a co-firing table", needed, got });
    }
    Ok(())
}

fn too_many() -> Error {
    Error::config("f2", alloc::format!("expected at most {MAX_PAIRS} pairs of latents, found more"))
}

/// A running mean of the values that are not NaN.
#[derive(Default)]
pub(super) struct Mean {
    sum: f64,
    pub(super) n: u64,
}

impl Mean {
    pub(super) fn add(&mut self, v: f64) {
        if !v.is_nan() {
            self.sum += v;
            self.n += 1;
        }
    }

    pub(super) fn mean(&self) -> f64 {
        self.sum / self.n as f64
    }
}

#[derive(Default)]
struct Means {
    phi: Mean,
    jaccard: Mean,
    given: Mean,
}

impl Means {
    fn merge(&mut self, other: &Self) {
        for (a, b) in
            [(&mut self.phi, &other.phi), (&mut self.jaccard, &other.jaccard), (&mut self.given, &other.given)]
        {
            a.sum += b.sum;
            a.n += b.n;
        }
    }
}
