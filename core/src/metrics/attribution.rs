//! The shares that the parts of the tree have in a reconstruction.
//!
//! A reconstruction is a sum over subtrees: with the cumulative decoder `x_hat2 - b_dec = sum_p [z_p D1_p + sum_(c
//! under p) z_c D2_c] + sum_(c under ROOT) z_c D2_c`. The share of a token that a part `v` explains is `share(v) = v .
//! (x - b_dec) / ||x - b_dec||^2`. Shares are additive, so those of all parts and of the error `x - x_hat2` sum to 1. A
//! share may be below 0. Stacked decoders are sums over paths instead: [`paths`].

use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;

use super::fidelity::MIN_NORM;
use super::fixed::{self, FixedSum};
use super::sparsity::ALIVE_TOKENS;
use super::{check_parents, defined_mean};
use crate::compute::Compute;
use crate::error::At;
use crate::gate::ROOT;
use crate::kernel::{Isa, reduce};
use crate::model::CodesView;
use crate::{Error, Result};

/// Tokens that one thread processes at a time.
const TOKENS: usize = 64;

mod paths;

pub use paths::{Path, PathReport, paths};

/// Streaming shares of the subtrees, for models whose `x_hat2` is `b_dec` plus decoder rows: all except the seed model.
///
/// Dot products are in `f32`, in the order of [`reduce`]; shares are summed in fixed point ([`FixedSum`]): merged parts
/// equal the whole to the bit. Cost: `O((L0_1 + L0_2) d)` per token.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct Attribution {
    parent: Vec<u32>,
    tokens: u64,
    short_tokens: u64,
    parts: Parts,
    subtree: Vec<Subtree>,
    /// `[f1]`: which latents of level 1 fire on the current token, all false between tokens.
    #[serde(skip)]
    on: Vec<bool>,
}

/// Sums over tokens of the shares of each part.
#[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize)]
struct Parts {
    parents: FixedSum,
    children: FixedSum,
    orphans: FixedSum,
    root: FixedSum,
    error: FixedSum,
}

/// Sums for one subtree, over the tokens on which its parent fires.
#[derive(Clone, Copy, Debug, Default, serde::Serialize, serde::Deserialize)]
struct Subtree {
    fires: u64,
    own: FixedSum,
    children: FixedSum,
}

/// The shares of [`TOKENS`] tokens.
#[derive(Clone, Debug, Default)]
struct Shares {
    /// For each token that is not short: the shares of each active latent of level 1, of level 2, and of the error.
    share: Vec<f64>,
    /// Tokens without shares.
    short: Vec<bool>,
}

/// The decoders and the bias that shares are computed with.
#[derive(Clone, Copy, Debug)]
pub struct Decoders<'a> {
    /// Width of a row, not 0.
    pub d: usize,
    /// `[f1, d]` where level 2 adds to level 1 (the cumulative decoder); none where `x_hat2` consists of level 2 alone.
    pub decoder1: Option<&'a [f32]>,
    /// `[f2, d]`, in the space of the activations.
    pub decoder2: &'a [f32],
    /// `[d]`.
    pub b_dec: &'a [f32],
}

/// A block of tokens: the codes of both levels, the rows and the errors of level 2.
#[derive(Clone, Copy, Debug)]
pub struct Block<'a> {
    /// Codes of level 1.
    pub codes1: CodesView<'a>,
    /// Codes of level 2.
    pub codes2: CodesView<'a>,
    /// `[n, d]`, row-major: the rows.
    pub x: &'a [f32],
    /// `[n, d]`, row-major: `x_hat2 - x`.
    pub error: &'a [f32],
}

/// One latent of level 1 and its children, over the tokens on which it fires.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct SubtreeShare {
    /// The latent.
    pub latent: u32,
    /// Tokens on which it fires, except short ones.
    pub fires: u64,
    /// Mean share of the latent and its children. Higher: it explains more. NaN if it never fires.
    pub share: f64,
    /// Mean share of its children. NaN as above.
    pub children: f64,
    /// `children / share`: the composition index. 0: the parent alone, 1: the children alone; beyond both where one
    /// works against the other; NaN if the share is 0.
    pub composition: f64,
}

/// The shares of both levels. The five means `parents + children + orphans + root + error` sum to 1, up to rounding;
/// each of them may be below 0 or above 1. NaN where there is nothing to average.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct AttributionReport {
    /// Tokens seen.
    pub tokens: u64,
    /// Tokens left out: `||x - b_dec||` under [`MIN_NORM`].
    pub short_tokens: u64,
    /// Mean share of the latents of level 1; 0 where `x_hat2` consists of level 2 alone.
    pub parents: f64,
    /// Mean share of the children whose parent fires. Higher: the tree explains more.
    pub children: f64,
    /// Mean share of the children whose parent is off: 0 behind a hard gate.
    pub orphans: f64,
    /// Mean share of ROOT's subtree: the latents of level 2 without a parent.
    pub root: f64,
    /// Mean share of the error. Nearer to 0 is better; at 1 nothing is explained.
    pub error: f64,
    /// Mean over subtrees with children, of parents that fire on at least [`ALIVE_TOKENS`] tokens, of `share`.
    pub subtree_share: f64,
    /// Mean of `composition` over the same subtrees.
    pub composition: f64,
    /// Number of subtrees with children whose parent fires on fewer tokens: left out of both means.
    pub subtrees_not_alive: usize,
    /// The latents of level 1 that have children.
    pub subtree: Vec<SubtreeShare>,
}

impl Attribution {
    /// Makes an empty accumulator. `parent` has an entry for each latent of level 2.
    ///
    /// # Errors
    /// [`Error::Index`] for a parent that is neither below `f1` nor [`ROOT`].
    pub fn new(f1: usize, parent: &[u32]) -> Result<Self> {
        check_parents("learned parents", parent, f1)?;
        Ok(Self {
            parent: parent.to_vec(),
            tokens: 0,
            short_tokens: 0,
            parts: Parts::default(),
            subtree: vec![Subtree::default(); f1],
            on: vec![false; f1],
        })
    }

    /// Adds a block.
    ///
    /// # Errors
    /// [`Error::Shape`] where sizes disagree, [`Error::NotFinite`] (with the token) or
    /// [`Error::Range`] for a share that is not finite or over [`fixed::LIMIT`]; nothing is added then.
    pub fn add(&mut self, compute: Compute, block: &Block<'_>, decoders: Decoders<'_>) -> Result<()> {
        let Block { codes1, codes2, x, error } = block;
        let (n, f1, f2) = (codes1.tokens(), self.subtree.len(), self.parent.len());
        let Decoders { d, decoder1, decoder2, b_dec } = decoders;
        for (what, expected, got) in [
            ("latents of the codes of level 1", f1, codes1.latents()),
            ("latents of the codes of level 2", f2, codes2.latents()),
            ("tokens of the codes of level 2", n, codes2.tokens()),
            ("x", n.saturating_mul(d), x.len()),
            ("errors of level 2", n.saturating_mul(d), error.len()),
            ("decoder of level 1", f1.saturating_mul(d), decoder1.map_or(f1.saturating_mul(d), <[f32]>::len)),
            ("decoder of level 2", f2.saturating_mul(d), decoder2.len()),
            ("b_dec", d, b_dec.len()),
        ] {
            if expected != got {
                return Err(Error::Shape { what, expected, got });
            }
        }
        let parts: Vec<Shares> = compute
            .par
            .map(n.div_ceil(TOKENS), |c| {
                let tokens = c * TOKENS..n.min((c + 1) * TOKENS);
                shares(compute.isa, tokens, self.tokens, block, decoders)
            })
            .into_iter()
            .collect::<Result<_>>()?;
        let mut next = parts.iter().flat_map(|part| &part.share);
        let mut next = || *next.next().expect("a share for each term of a token that is not short");
        for t in 0..n {
            if parts[t / TOKENS].short[t % TOKENS] {
                self.short_tokens += 1;
                continue;
            }
            for (i, _) in codes1.active(t) {
                let share = next();
                self.parts.parents.add(share);
                self.subtree[i].fires += 1;
                self.subtree[i].own.add(share);
                self.on[i] = true;
            }
            for (j, _) in codes2.active(t) {
                let share = next();
                match self.parent[j] {
                    ROOT => self.parts.root.add(share),
                    p if self.on[p as usize] => {
                        self.parts.children.add(share);
                        self.subtree[p as usize].children.add(share);
                    }
                    _ => self.parts.orphans.add(share),
                }
            }
            self.parts.error.add(next());
            codes1.active(t).for_each(|(i, _)| self.on[i] = false);
        }
        self.tokens += n as u64;
        Ok(())
    }

    /// Adds the tokens of `other`.
    ///
    /// # Panics
    /// If the levels or parents differ.
    pub fn merge(&mut self, other: &Self) {
        let same = self.subtree.len() == other.subtree.len() && self.parent == other.parent;
        assert!(same, "merged accumulators must be of one tree");
        self.tokens += other.tokens;
        self.short_tokens += other.short_tokens;
        let (a, b) = (&mut self.parts, &other.parts);
        a.parents.merge(&b.parents);
        a.children.merge(&b.children);
        a.orphans.merge(&b.orphans);
        a.root.merge(&b.root);
        a.error.merge(&b.error);
        for (a, b) in self.subtree.iter_mut().zip(&other.subtree) {
            a.fires += b.fires;
            a.own.merge(&b.own);
            a.children.merge(&b.children);
        }
    }

    /// Returns the scores of all tokens added.
    pub fn report(&self) -> AttributionReport {
        let n = (self.tokens - self.short_tokens) as f64;
        let mut has_children = vec![false; self.subtree.len()];
        self.parent.iter().filter(|p| **p != ROOT).for_each(|&p| has_children[p as usize] = true);
        let subtree: Vec<SubtreeShare> = (0..self.subtree.len())
            .filter(|&i| has_children[i])
            .map(|i| {
                let Subtree { fires, own, children } = self.subtree[i];
                let mut all = own;
                all.merge(&children);
                SubtreeShare {
                    latent: i as u32,
                    fires,
                    share: all.value() / fires as f64,
                    children: children.value() / fires as f64,
                    composition: if all.value() == 0.0 { f64::NAN } else { children.value() / all.value() },
                }
            })
            .collect();
        let alive = || subtree.iter().filter(|s| s.fires >= ALIVE_TOKENS);
        AttributionReport {
            tokens: self.tokens,
            short_tokens: self.short_tokens,
            parents: self.parts.parents.value() / n,
            children: self.parts.children.value() / n,
            orphans: self.parts.orphans.value() / n,
            root: self.parts.root.value() / n,
            error: self.parts.error.value() / n,
            subtree_share: defined_mean(alive().map(|s| s.share)),
            composition: defined_mean(alive().map(|s| s.composition)),
            subtrees_not_alive: subtree.len() - alive().count(),
            subtree,
        }
    }
}

/// Returns the shares of some tokens of a block; `before` is the number of tokens before the block, for messages.
fn shares(isa: Isa, tokens: Range<usize>, before: u64, block: &Block<'_>, decoders: Decoders<'_>) -> Result<Shares> {
    let Block { codes1, codes2, x, error } = block;
    let Decoders { d, decoder1, decoder2, b_dec } = decoders;
    let mut out = Shares::default();
    let mut centred = vec![0.0; d];
    for t in tokens {
        let step = before + t as u64;
        reduce::sub_into(isa, &x[t * d..(t + 1) * d], b_dec, &mut centred);
        let square = f64::from(reduce::sum_squares(isa, &centred));
        if !square.is_finite() {
            return Err(Error::NotFinite { what: "an activation".into(), at: At::Token(step) });
        }
        let short = libm::sqrt(square) < MIN_NORM;
        out.short.push(short);
        if short {
            continue;
        }
        let mut push = |z: f32, row: &[f32]| {
            let share = f64::from(z) * (f64::from(reduce::dot(isa, row, &centred)) / square);
            fixed::check("share of a reconstruction", share, step)?;
            out.share.push(share);
            Ok(())
        };
        for (i, z) in codes1.active(t) {
            match decoder1 {
                Some(rows) => push(z, &rows[i * d..(i + 1) * d])?,
                None => push(0.0, &centred)?,
            }
        }
        for (j, z) in codes2.active(t) {
            push(z, &decoder2[j * d..(j + 1) * d])?;
        }
        push(-1.0, &error[t * d..(t + 1) * d])?;
    }
    Ok(out)
}
