//! How the numbers of active latents of the two levels depend on each other.

use alloc::vec;
use alloc::vec::Vec;

use super::super::check_parents;
use crate::gate::ROOT;
use crate::model::CodesView;
use crate::{Error, Result};

/// Streaming sums of integers over the codes of both levels: merged parts equal the whole to the bit, in any order and
/// however the rows are cut. Cost: `O(L0_1 + L0_2)` per token.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct Across {
    parent: Vec<u32>,
    /// `[f1]`: whether a latent of level 1 has children.
    has_children: Vec<bool>,
    tokens: u64,
    /// `sum a`, `sum b`, `sum a^2`, `sum b^2`, `sum a b` over tokens, `a = L0_1`, `b = L0_2`.
    sums: [u128; 5],
    /// `[f1 + 1]`: tokens with that `L0_1`, and the sum of `L0_2` on them.
    given: Vec<[u64; 2]>,
    /// See [`AcrossReport::children_per_active_parent`].
    children: [u64; 4],
    /// `[f1]`: active children on the current token, all 0 between tokens.
    active: Vec<u32>,
}

/// The activity of level 2 on tokens with `l0_1` active latents at level 1.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Given {
    /// `L0_1`.
    pub l0_1: usize,
    /// Tokens with it.
    pub tokens: u64,
    /// `E[L0_2 | L0_1 = l0_1]`.
    pub l0_2: f64,
}

/// How the activity of the two levels is related.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct AcrossReport {
    /// Tokens seen.
    pub tokens: u64,
    /// Pearson's correlation over tokens of `L0_1` and `L0_2`. -1 to 1, 0: unrelated; NaN if either never varies.
    pub l0_correlation: f64,
    /// Every `L0_1` that was met, ascending.
    pub l0_2_given_l0_1: Vec<Given>,
    /// Pairs of a token and an active latent of level 1 that has children, by how many of those fire: 0, 1, 2, more.
    pub children_per_active_parent: [u64; 4],
}

impl Across {
    /// Makes an empty accumulator. `parent` has an entry for each latent of level 2: [`ROOT`] for all without families.
    ///
    /// # Errors
    /// [`Error::Index`] for a parent that is neither below `f1` nor [`ROOT`].
    pub fn new(f1: usize, parent: &[u32]) -> Result<Self> {
        check_parents("learned parents", parent, f1)?;
        let mut has_children = vec![false; f1];
        parent.iter().filter(|p| **p != ROOT).for_each(|&p| has_children[p as usize] = true);
        Ok(Self {
            parent: parent.to_vec(),
            has_children,
            tokens: 0,
            sums: [0; 5],
            given: vec![[0; 2]; f1 + 1],
            children: [0; 4],
            active: vec![0; f1],
        })
    }

    /// Adds a block.
    ///
    /// # Errors
    /// [`Error::Shape`] where sizes disagree, [`Error::Index`] if a token has more active latents than there are;
    /// nothing is added then.
    pub fn add(&mut self, codes1: &CodesView<'_>, codes2: &CodesView<'_>) -> Result<()> {
        let (n, f1) = (codes1.tokens(), self.active.len());
        for (what, expected, got) in [
            ("latents of the codes of level 1", f1, codes1.latents()),
            ("latents of the codes of level 2", self.parent.len(), codes2.latents()),
            ("tokens of the codes of level 2", n, codes2.tokens()),
        ] {
            if expected != got {
                return Err(Error::Shape { what, expected, got });
            }
        }
        if let Some(index) = (0..n).map(|t| codes1.active(t).count()).find(|k| *k > f1) {
            return Err(Error::Index { what: "active latents of a token", index, len: f1 + 1 });
        }
        for t in 0..n {
            let (mut a, mut b) = (0, 0);
            for (j, _) in codes2.active(t) {
                b += 1;
                if self.parent[j] != ROOT {
                    self.active[self.parent[j] as usize] += 1;
                }
            }
            for (i, _) in codes1.active(t) {
                a += 1;
                if self.has_children[i] {
                    self.children[self.active[i].min(3) as usize] += 1;
                }
            }
            for (j, _) in codes2.active(t).filter(|(j, _)| self.parent[*j] != ROOT) {
                self.active[self.parent[j] as usize] = 0;
            }
            let (wide_a, wide_b) = (a as u128, u128::from(b));
            let terms = [wide_a, wide_b, wide_a * wide_a, wide_b * wide_b, wide_a * wide_b];
            self.sums.iter_mut().zip(terms).for_each(|(sum, term)| *sum += term);
            self.given[a][0] += 1;
            self.given[a][1] += b;
        }
        self.tokens += n as u64;
        Ok(())
    }

    /// Adds the tokens of `other`.
    ///
    /// # Panics
    /// If the levels or parents differ.
    pub fn merge(&mut self, other: &Self) {
        let same = self.active.len() == other.active.len() && self.parent == other.parent;
        assert!(same, "merged accumulators must be of one tree");
        self.tokens += other.tokens;
        self.sums.iter_mut().zip(&other.sums).for_each(|(a, b)| *a += b);
        self.given.iter_mut().zip(&other.given).for_each(|(a, b)| (a[0], a[1]) = (a[0] + b[0], a[1] + b[1]));
        self.children.iter_mut().zip(&other.children).for_each(|(a, b)| *a += b);
    }

    /// Returns the scores of all tokens added.
    pub fn report(&self) -> AcrossReport {
        let n = u128::from(self.tokens);
        let [a, b, aa, bb, ab] = self.sums;
        // N^2 times the covariance and the variances, as integers, so that no digits cancel.
        let (covariance, one, two) = ((n * ab) as i128 - (a * b) as i128, n * aa - a * a, n * bb - b * b);
        AcrossReport {
            tokens: self.tokens,
            l0_correlation: covariance as f64 / (libm::sqrt(one as f64) * libm::sqrt(two as f64)),
            l0_2_given_l0_1: self
                .given
                .iter()
                .enumerate()
                .filter(|(_, g)| g[0] > 0)
                .map(|(l0_1, g)| Given { l0_1, tokens: g[0], l0_2: g[1] as f64 / g[0] as f64 })
                .collect(),
            children_per_active_parent: self.children,
        }
    }
}
