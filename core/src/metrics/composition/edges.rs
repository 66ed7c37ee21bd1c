//! Intervals of the scores of edges: their counts by block of sequences.

use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;

use super::super::bootstrap::{BLOCKS, Interval, Resamples, block_of, intervals};
use super::super::sparsity::ALIVE_TOKENS;
use super::super::{check_parents, defined_mean, median};
use super::report::attachment;
use super::{REAL_CONTAINMENT, REAL_LIFT};
use crate::gate::ROOT;
use crate::model::CodesView;
use crate::par::Par;
use crate::{Error, Result};

/// Streaming counts of the edges of a tree in each of up to [`BLOCKS`] blocks of sequences, for a bootstrap.
///
/// Integer counts: they depend on the tokens alone. Memory: `4 blocks (4 f1 + 2 f2)` bytes. Cost:
/// `O(L0_1 + L0_2)` per token.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct EdgeBlocks {
    parent: Vec<u32>,
    contexts: u64,
    blocks: usize,
    tokens: Vec<u64>,
    /// `[f1, blocks]`: tokens on which a parent fires.
    fires1: Vec<u32>,
    /// `[f1, blocks]`: tokens on which some child of it fires.
    any: Vec<u32>,
    /// `[f1, blocks]`: tokens on which exactly one child of it fires.
    one: Vec<u32>,
    /// `[f2, blocks]`: tokens on which a child fires.
    fires2: Vec<u32>,
    /// `[f2, blocks]`: tokens on which the child and its parent fire.
    both: Vec<u32>,
    /// `[f1]`: whether a latent of level 1 fires on the current token; all false between tokens.
    on: Vec<bool>,
    /// `[f1]`: how many of its children fire on the current token; all 0 between tokens.
    #[serde(skip)]
    children: Vec<u32>,
}

/// Scores of the edges with their intervals, for level 2 without its gate, which shows what the children have learned.
/// Means and medians are over the edges whose child fires on at least [`ALIVE_TOKENS`] tokens.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct EdgeIntervals {
    /// The interval of [`super::CompositionReport::attachment`].
    pub attachment: Interval,
    /// The interval of [`super::CompositionReport::containment`].
    pub containment: Interval,
    /// The interval of [`super::CompositionReport::median_lift`].
    pub median_lift: Interval,
    /// The interval of [`super::CompositionReport::real_edges`].
    pub real_edges: Interval,
    /// The interval of [`super::CompositionReport::phi`].
    pub phi: Interval,
    /// The interval of [`super::CompositionReport::exclusivity`].
    pub exclusivity: Interval,
    /// The interval of [`super::CompositionReport::purity`].
    pub purity: Interval,
}

impl EdgeBlocks {
    /// Makes empty counts for a dump of `contexts` sequences. `parent` has an entry for each latent of level 2.
    ///
    /// # Errors
    /// [`Error::Index`] for a parent that is neither below `f1` nor [`ROOT`].
    ///
    /// # Panics
    /// If there are no sequences.
    pub fn new(f1: usize, parent: &[u32], contexts: u64) -> Result<Self> {
        check_parents("learned parents", parent, f1)?;
        assert!(contexts > 0, "expected at least one sequence");
        let blocks = contexts.min(BLOCKS as u64) as usize;
        let of = |latents: usize| vec![0u32; latents * blocks];
        Ok(Self {
            parent: parent.to_vec(),
            contexts,
            blocks,
            tokens: vec![0; blocks],
            fires1: of(f1),
            any: of(f1),
            one: of(f1),
            fires2: of(parent.len()),
            both: of(parent.len()),
            on: vec![false; f1],
            children: vec![0; f1],
        })
    }

    /// Adds the tokens of `other`.
    ///
    /// # Errors
    /// [`Error::Capacity`] for more than `2^32 - 1` tokens in a block; nothing is added then.
    ///
    /// # Panics
    /// If the parents or the dumps differ.
    pub fn merge(&mut self, other: &Self) -> Result<()> {
        let same = self.contexts == other.contexts && self.parent == other.parent && self.on.len() == other.on.len();
        assert!(same, "merged accumulators must be of one tree and one dump");
        self.tokens.iter().zip(&other.tokens).try_for_each(|(a, b)| check_room(a + b))?;
        self.tokens.iter_mut().zip(&other.tokens).for_each(|(a, b)| *a += b);
        for (a, b) in [
            (&mut self.fires1, &other.fires1),
            (&mut self.any, &other.any),
            (&mut self.one, &other.one),
            (&mut self.fires2, &other.fires2),
            (&mut self.both, &other.both),
        ] {
            a.iter_mut().zip(b).for_each(|(a, b)| *a += b);
        }
        Ok(())
    }

    /// Adds the tokens `rows` of a block of codes, which are in sequence number `context`.
    ///
    /// # Errors
    /// [`Error::Shape`] where sizes disagree, [`Error::Capacity`] for more than `2^32 - 1` tokens in a block; nothing
    /// is added then.
    ///
    /// # Panics
    /// If the sequence is not in the dump, or the rows are not in the codes.
    pub fn add(
        &mut self,
        context: u64,
        rows: Range<usize>,
        codes1: &CodesView<'_>,
        codes2: &CodesView<'_>,
    ) -> Result<()> {
        for (what, expected, got) in [
            ("latents of the codes of level 1", self.on.len(), codes1.latents()),
            ("latents of the codes of level 2", self.parent.len(), codes2.latents()),
            ("tokens of the codes of level 2", codes1.tokens(), codes2.tokens()),
        ] {
            if expected != got {
                return Err(Error::Shape { what, expected, got });
            }
        }
        let (block, blocks) = (block_of(context, self.contexts, self.blocks), self.blocks);
        let tokens = self.tokens[block] + rows.len() as u64;
        check_room(tokens)?;
        self.tokens[block] = tokens;
        let mut families = Vec::new();
        for t in rows {
            for (i, _) in codes1.active(t) {
                self.on[i] = true;
                self.fires1[i * blocks + block] += 1;
            }
            for (j, _) in codes2.active(t) {
                self.fires2[j * blocks + block] += 1;
                if self.parent[j] != ROOT {
                    let p = self.parent[j] as usize;
                    self.both[j * blocks + block] += u32::from(self.on[p]);
                    if self.children[p] == 0 {
                        families.push(p);
                    }
                    self.children[p] += 1;
                }
            }
            for p in families.drain(..) {
                self.any[p * blocks + block] += 1;
                self.one[p * blocks + block] += u32::from(self.children[p] == 1);
                self.children[p] = 0;
            }
            codes1.active(t).for_each(|(i, _)| self.on[i] = false);
        }
        Ok(())
    }

    /// Returns the scores with their intervals. Cost: `resamples.n blocks (4 f1 + 2 f2)` steps.
    pub fn report(&self, par: Par, resamples: Resamples) -> EdgeIntervals {
        let blocks = self.blocks;
        let all = vec![1; blocks];
        let sum = |counts: &[u32], at: usize, times: &[u32]| -> u64 {
            let counts = &counts[at * blocks..(at + 1) * blocks];
            counts.iter().zip(times).map(|(n, times)| u64::from(*n) * u64::from(*times)).sum()
        };
        let edges: Vec<usize> = (0..self.parent.len())
            .filter(|&j| self.parent[j] != ROOT && sum(&self.fires2, j, &all) >= ALIVE_TOKENS)
            .collect();
        let mut size = vec![0usize; self.on.len()];
        self.parent.iter().filter(|p| **p != ROOT).for_each(|p| size[*p as usize] += 1);
        let parents: Vec<usize> =
            (0..size.len()).filter(|&i| size[i] > 0 && sum(&self.fires1, i, &all) >= ALIVE_TOKENS).collect();
        let of = |times: &[u32]| -> [f64; 7] {
            let n: u64 = self.tokens.iter().zip(times).map(|(n, times)| n * u64::from(*times)).sum();
            let fires1: Vec<u64> = (0..size.len()).map(|i| sum(&self.fires1, i, times)).collect();
            let mut largest = vec![0u64; size.len()];
            // Every child counts for the purity of its parent, alive or not.
            for j in (0..self.parent.len()).filter(|&j| self.parent[j] != ROOT) {
                let most = &mut largest[self.parent[j] as usize];
                *most = (*most).max(sum(&self.both, j, times));
            }
            let counts: Vec<[u64; 3]> = edges
                .iter()
                .map(|&j| {
                    let fires1 = fires1[self.parent[j] as usize];
                    [fires1, sum(&self.fires2, j, times), sum(&self.both, j, times)]
                })
                .collect();
            let given = |&[_, n2, both]: &[u64; 3]| both as f64 / n2 as f64;
            let is_defined = |&[n1, n2, _]: &[u64; 3]| n1 > 0 && n2 > 0 && n1 < n && n2 < n;
            let lift = |c: &[u64; 3]| match is_defined(c) {
                true => n as f64 * c[2] as f64 / (c[0] as f64 * c[1] as f64),
                false => f64::NAN,
            };
            let phi = |c: &[u64; 3]| {
                if !is_defined(c) {
                    return f64::NAN;
                }
                let spread = |k: u64| libm::sqrt(k as f64) * libm::sqrt((n - k) as f64);
                let over = i128::from(n) * i128::from(c[2]) - i128::from(c[0]) * i128::from(c[1]);
                over as f64 / (spread(c[0]) * spread(c[1]))
            };
            let mut lifts: Vec<f64> = counts.iter().map(lift).filter(|l| !l.is_nan()).collect();
            let real = counts.iter().filter(|c| lift(c) > REAL_LIFT && given(c) > REAL_CONTAINMENT).count();
            let several = || parents.iter().filter(|i| size[**i] > 1);
            let one = |i: &usize| sum(&self.one, *i, times) as f64 / sum(&self.any, *i, times) as f64;
            [
                defined_mean(counts.iter().map(|&[n1, n2, both]| attachment(n, n1, n2, both))),
                defined_mean(counts.iter().map(given)),
                median(&mut lifts),
                real as f64 / counts.len() as f64,
                defined_mean(counts.iter().map(phi)),
                defined_mean(several().map(one)),
                defined_mean(parents.iter().map(|&i| largest[i] as f64 / fires1[i] as f64)),
            ]
        };
        let [attachment, containment, median_lift, real_edges, phi, exclusivity, purity] =
            intervals(par, blocks, resamples, of);
        EdgeIntervals { attachment, containment, median_lift, real_edges, phi, exclusivity, purity }
    }
}

/// Checks that the counts of a block of `tokens` tokens fit into 32 bits.
fn check_room(tokens: u64) -> Result<()> {
    if tokens > u64::from(u32::MAX) {
        let needed = usize::try_from(tokens).unwrap_or(usize::MAX);
        return Err(Error::Capacity { what: "tokens of a block of edges", needed, got: u32::MAX as usize });
    }
    Ok(())
}
