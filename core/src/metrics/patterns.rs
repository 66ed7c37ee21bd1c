//! Where latents fire: by position in the sequence, by class of token, in runs, and with which values; and how the
//! numbers of active latents of the two levels depend on each other ([`across`]).

use alloc::vec;
use alloc::vec::Vec;

use super::fixed::{self, FixedSum};
use super::similarity::MAX_CELLS;
use super::sparsity::ALIVE_TOKENS;
use crate::model::CodesView;
use crate::{Error, Result};

pub mod across;

/// Marks a token without a class.
pub const NO_CLASS: u32 = u32::MAX;
/// Buckets of positions: 0, 1, 2-3, 4-7, 8-15, ..., as many as there are for 32 bits.
pub const POSITION_BUCKETS: usize = 33;

/// Returns the bucket of a position: 0 for 0, otherwise `1 + floor(log2 position)`.
pub fn position_bucket(position: u32) -> usize {
    (u32::BITS - position.leading_zeros()) as usize
}

/// Returns the first position of a bucket.
fn first_position(bucket: usize) -> u32 {
    if bucket == 0 { 0 } else { 1 << (bucket - 1) }
}

/// Streaming counts over the codes of one level, whose tokens have a position and may have a class.
///
/// A token continues the one before it if its position is the next one; else a new piece begins there. Integer counts
/// and sums in fixed point ([`FixedSum`]): blocks of any size that are added in order give the same bits. Merged parts
/// equal the whole to the bit if the rows are cut where a piece begins, as between sequences; a part that begins inside
/// of a sequence breaks the runs at its first token, and [`PatternReport::cut_pieces`] counts it.
///
/// Memory: `64 + 8 (33 + classes)` bytes per latent. Cost: `O(L0)` per token.
#[derive(Clone, Debug)]
pub struct Patterns {
    classes: usize,
    tokens: u64,
    without_class: u64,
    pieces: u64,
    cut_pieces: u64,
    /// The position of the token that was added last; none at the start, and after a merge.
    position: Option<u32>,
    /// `[33 + classes]`: the number of tokens, and of active latents on them, first by bucket of positions and then by
    /// class.
    seen: Vec<[u64; 2]>,
    latent: Vec<Latent>,
    /// `[latents, 33 + classes]`: the tokens on which each latent fires, likewise.
    fires: Vec<u64>,
}

/// Counts and sums of one latent.
#[derive(Clone, Copy, Debug, Default)]
struct Latent {
    fires: u64,
    runs: u64,
    /// The number, from 1, of the token on which it fired last.
    last: u64,
    value: FixedSum,
    square: FixedSum,
}

/// The mean number of active latents on a group of tokens: a class, or a bucket of positions.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Group {
    /// The class, or the first position of the bucket.
    pub of: u32,
    /// Its tokens.
    pub tokens: u64,
    /// Mean L0 on them. NaN without tokens.
    pub l0: f64,
}

/// How unevenly a latent fires over groups of tokens: `q_b` is the share of its firings that are in group `b`, `t_b`
/// the share of all tokens in it. NaN if it fires in none.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Preference {
    /// `argmax_b q_b`, ties to the lower one: the class, or the first position of the bucket.
    pub top: Option<u32>,
    /// `q_top`. 0 to 1.
    pub share: f64,
    /// `q_top / t_top`. 0 and up, 1: like all tokens; the top group has the most firings, not the highest lift, so this
    /// may be below 1.
    pub lift: f64,
    /// `sum_b q_b log2(q_b / t_b)`. 0 and up, 0: like all tokens; a latent that fires on `n` random tokens has about
    /// `(groups - 1) / (2 n ln 2)` by chance.
    pub bits: f64,
}

/// One latent.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct LatentPattern {
    /// `n_j`: tokens on which it fires.
    pub fires: u64,
    /// `E[z | z > 0]`. NaN if it never fires.
    pub value_mean: f64,
    /// `sd[z | z > 0] / E[z | z > 0]` (divisor `n_j`). 0 and up, 0: always the same value; NaN if it never fires.
    pub value_cv: f64,
    /// `n_j / runs`, a run being consecutive tokens of a piece on which it fires. 1 and up; NaN if it never fires.
    pub run_length: f64,
    /// `1 / (1 - p_j)`: the mean run of independent firing in an endless sequence. NaN if it never fires, or always.
    pub run_length_expected: f64,
    /// `run_length / run_length_expected`. 1: independent, above: in bursts, below: it avoids its own neighbourhood, or
    /// pieces are not much longer than runs. NaN as above.
    pub burstiness: f64,
    /// Over buckets of positions.
    pub position: Preference,
    /// Over classes; tokens of none are left out.
    pub class: Preference,
}

/// The patterns of one level. Means are over latents that are alive (at least [`ALIVE_TOKENS`] tokens) and do not fire
/// on every token; NaN where there are none.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct PatternReport {
    /// Tokens seen.
    pub tokens: u64,
    /// Tokens of no class.
    pub without_class: u64,
    /// Number of pieces, runs of tokens at consecutive positions.
    pub pieces: u64,
    /// Number of pieces that do not begin at position 0, since tokens were left out or a sequence was cut. Runs end
    /// there early.
    pub cut_pieces: u64,
    /// Mean L0 of the buckets of positions, up to the last one that was met.
    pub l0_by_position: Vec<Group>,
    /// Mean L0 of each class.
    pub l0_by_class: Vec<Group>,
    /// Latents left out of the means: not alive.
    pub not_alive: usize,
    /// Latents left out of the means: they fire on every token.
    pub always_on: usize,
    /// Mean `value_cv`. 0 and up.
    pub value_cv: f64,
    /// `sum_j n_j / sum_j runs_j`. 1 and up.
    pub run_length: f64,
    /// `sum_j n_j / sum_j n_j (1 - p_j)`: what it would be if all fired independently.
    pub run_length_expected: f64,
    /// `run_length / run_length_expected`. 1: independent, above: in bursts.
    pub burstiness: f64,
    /// Mean of the latents' bits about the position. 0 and up, 0: position says nothing.
    pub position_bits: f64,
    /// Mean of the latents' bits about the class, of those that have them. 0 and up, higher: more specific.
    pub class_bits: f64,
    /// `[latents]`.
    pub latent: Vec<LatentPattern>,
}

impl Patterns {
    /// Makes an empty accumulator for a level with `latents` latents; classes are in `0..classes`.
    ///
    /// # Errors
    /// [`Error::Config`] for more than [`MAX_CELLS`] counts of firings.
    pub fn new(latents: usize, classes: usize) -> Result<Self> {
        let groups = classes.saturating_add(POSITION_BUCKETS);
        let cells = latents.checked_mul(groups).filter(|n| *n <= MAX_CELLS).ok_or_else(|| {
            let why =
                alloc::format!("{latents} latents x {groups} groups, over the {MAX_CELLS} cells that are counted");
            Error::config("classes", why)
        })?;
        Ok(Self {
            classes,
            tokens: 0,
            without_class: 0,
            pieces: 0,
            cut_pieces: 0,
            position: None,
            seen: vec![[0; 2]; groups],
            latent: vec![Latent::default(); latents],
            fires: vec![0; cells],
        })
    }

    /// Adds a block of codes, with the position of each of its tokens in its sequence and, where tokens have classes,
    /// the class or [`NO_CLASS`].
    ///
    /// # Errors
    /// [`Error::Shape`] where sizes disagree, [`Error::Index`] for a class that there is not, [`Error::NotFinite`]
    /// (with the token) for an infinite value, [`Error::Range`] for one whose square is over
    /// [`fixed::LIMIT`]; nothing is added then.
    pub fn add(&mut self, codes: &CodesView<'_>, position: &[u32], class: Option<&[u32]>) -> Result<()> {
        let n = codes.tokens();
        for (what, expected, got) in [
            ("latents of the codes", self.latent.len(), codes.latents()),
            ("positions of the tokens", n, position.len()),
            ("classes of the tokens", n, class.map_or(n, <[u32]>::len)),
        ] {
            if expected != got {
                return Err(Error::Shape { what, expected, got });
            }
        }
        let unknown = |c: &&u32| **c != NO_CLASS && **c as usize >= self.classes;
        if let Some(&c) = class.and_then(|class| class.iter().find(unknown)) {
            return Err(Error::Index { what: "classes of the tokens", index: c as usize, len: self.classes });
        }
        for t in 0..n {
            for (_, z) in codes.active(t) {
                fixed::check("square of a value of the codes", f64::from(z) * f64::from(z), self.tokens + t as u64)?;
            }
        }
        let groups = self.seen.len();
        for t in 0..n {
            let continues = position[t] != 0 && self.position == Some(position[t] - 1);
            self.position = Some(position[t]);
            self.pieces += u64::from(!continues);
            self.cut_pieces += u64::from(!continues && position[t] != 0);
            let bucket = position_bucket(position[t]);
            let class = class.map(|c| c[t]).filter(|c| *c != NO_CLASS).map(|c| POSITION_BUCKETS + c as usize);
            let before = self.tokens;
            self.tokens += 1;
            let mut l0 = 0;
            for (j, z) in codes.active(t) {
                let (latent, z) = (&mut self.latent[j], f64::from(z));
                latent.fires += 1;
                latent.runs += u64::from(!continues || latent.last != before);
                latent.last = self.tokens;
                latent.value.add(z);
                latent.square.add(z * z);
                let row = &mut self.fires[j * groups..(j + 1) * groups];
                row[bucket] += 1;
                if let Some(class) = class {
                    row[class] += 1;
                }
                l0 += 1;
            }
            self.seen[bucket][0] += 1;
            self.seen[bucket][1] += l0;
            match class {
                Some(class) => {
                    self.seen[class][0] += 1;
                    self.seen[class][1] += l0;
                }
                None => self.without_class += 1,
            }
        }
        Ok(())
    }

    /// Adds the tokens of `other`. What is added next does not continue the tokens so far.
    ///
    /// # Panics
    /// If latents or classes differ.
    pub fn merge(&mut self, other: &Self) {
        let same = self.latent.len() == other.latent.len() && self.classes == other.classes;
        assert!(same, "merged patterns must be of the same latents and classes");
        self.tokens += other.tokens;
        self.without_class += other.without_class;
        self.pieces += other.pieces;
        self.cut_pieces += other.cut_pieces;
        self.position = None;
        self.fires.iter_mut().zip(&other.fires).for_each(|(a, b)| *a += b);
        self.seen.iter_mut().zip(&other.seen).for_each(|(a, b)| (a[0], a[1]) = (a[0] + b[0], a[1] + b[1]));
        for (a, b) in self.latent.iter_mut().zip(&other.latent) {
            a.fires += b.fires;
            a.runs += b.runs;
            a.value.merge(&b.value);
            a.square.merge(&b.square);
        }
    }

    /// Returns the scores of all tokens added.
    pub fn report(&self) -> PatternReport {
        let latent: Vec<LatentPattern> = (0..self.latent.len()).map(|j| self.of(j)).collect();
        let alive = |l: &&LatentPattern| l.fires >= ALIVE_TOKENS;
        let always_on = latent.iter().filter(alive).filter(|l| l.fires == self.tokens).count();
        let kept = || latent.iter().zip(&self.latent).filter(|(l, _)| alive(l) && l.fires < self.tokens);
        let fires = kept().map(|(l, _)| l.fires).sum::<u64>() as f64;
        let run_length = fires / kept().map(|(_, l)| l.runs).sum::<u64>() as f64;
        let run_length_expected = fires / kept().map(|(l, _)| l.fires as f64 / l.run_length_expected).sum::<f64>();
        let group = |(g, &[tokens, l0]): (usize, &[u64; 2])| {
            let of = if g < POSITION_BUCKETS { first_position(g) } else { (g - POSITION_BUCKETS) as u32 };
            Group { of, tokens, l0: l0 as f64 / tokens as f64 }
        };
        let met = self.seen[..POSITION_BUCKETS].iter().rposition(|s| s[0] > 0).map_or(0, |last| last + 1);
        PatternReport {
            tokens: self.tokens,
            without_class: self.without_class,
            pieces: self.pieces,
            cut_pieces: self.cut_pieces,
            l0_by_position: self.seen.iter().enumerate().take(met).map(group).collect(),
            l0_by_class: self.seen.iter().enumerate().skip(POSITION_BUCKETS).map(group).collect(),
            not_alive: latent.iter().filter(|l| !alive(l)).count(),
            always_on,
            value_cv: super::defined_mean(kept().map(|(l, _)| l.value_cv)),
            run_length,
            run_length_expected,
            burstiness: run_length / run_length_expected,
            position_bits: super::defined_mean(kept().map(|(l, _)| l.position.bits)),
            class_bits: super::defined_mean(kept().map(|(l, _)| l.class.bits)),
            latent,
        }
    }

    /// Returns the scores of one latent.
    fn of(&self, j: usize) -> LatentPattern {
        let l = &self.latent[j];
        let n = l.fires as f64;
        let mean = l.value.value() / n;
        // Rounding may bring the variance of equal values below 0.
        let variance = (l.square.value() / n - mean * mean).max(0.0);
        let run_length = n / l.runs as f64;
        let some = l.fires > 0 && l.fires < self.tokens;
        let run_length_expected = if some { self.tokens as f64 / (self.tokens - l.fires) as f64 } else { f64::NAN };
        let groups = self.seen.len();
        let (position, class) = self.fires[j * groups..(j + 1) * groups].split_at(POSITION_BUCKETS);
        let (position_seen, class_seen) = self.seen.split_at(POSITION_BUCKETS);
        let mut over_positions = preference(position, position_seen);
        over_positions.top = over_positions.top.map(|b| first_position(b as usize));
        LatentPattern {
            fires: l.fires,
            value_mean: mean,
            value_cv: if l.fires > 0 { libm::sqrt(variance) / mean } else { f64::NAN },
            run_length,
            run_length_expected,
            burstiness: run_length / run_length_expected,
            position: over_positions,
            class: preference(class, class_seen),
        }
    }
}

/// Returns the preference of a latent over groups, from its firings and from the tokens of each group.
fn preference(fires: &[u64], seen: &[[u64; 2]]) -> Preference {
    let all = fires.iter().sum::<u64>();
    let tokens = seen.iter().map(|s| s[0]).sum::<u64>() as f64;
    if all == 0 {
        return Preference { top: None, share: f64::NAN, lift: f64::NAN, bits: f64::NAN };
    }
    let q = |g: usize| fires[g] as f64 / all as f64;
    let lift = |g: usize| q(g) / (seen[g][0] as f64 / tokens);
    let top = (0..fires.len()).rev().max_by_key(|&g| fires[g]).unwrap_or(0);
    let bits = (0..fires.len()).filter(|&g| fires[g] > 0).map(|g| q(g) * libm::log2(lift(g))).sum();
    Preference { top: Some(top as u32), share: q(top), lift: lift(top), bits }
}
