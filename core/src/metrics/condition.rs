//! Whether a child belongs to its parent in the reconstruction too, not only by where it fires: the reconstruction
//! condition of Cao et al. 2026 (Tree SAE, Eq. 5), with class means instead of trained probes.

use alloc::vec;
use alloc::vec::Vec;

use super::check_parents;
use crate::compute::Compute;
use crate::error::At;
use crate::gate::ROOT;
use crate::kernel::{Isa, wide};
use crate::model::CodesView;
use crate::par::Par;
use crate::{Error, Result};

mod report;

pub use report::{ConditionReport, EdgeCondition, TOP};

/// Values may be up to this many times as large as the largest of the sample.
pub const HEADROOM: f64 = 64.0;
/// Rows of sums, or of tokens, that one thread processes at a time.
const ROWS: usize = 64;
/// Marks a latent without a row of sums.
const NONE: u32 = u32::MAX;

/// Streaming sums of the activations over the tokens on which each latent fires.
///
/// Activations are rounded to whole numbers of a unit `2^-e`, chosen so that [`HEADROOM`] times the largest of a sample
/// is `2^30` to `2^31` units: a resolution of at least `2^-24` of that largest one, so a mean is off by at most half
/// a unit, `2^-25` of it. A value is under `2^31` units and there are fewer than `2^32` tokens, so no sum reaches
/// `2^63`: 64 bits hold all of them exactly, and merged parts equal the whole to the bit, in any order. Larger values
/// are refused.
///
/// A block is added latent by latent, so that a row of sums is read and written once per block: blocks of a thousand
/// tokens and more are fast, and small ones cost a pass over the latents.
///
/// Memory: `8 d` bytes for each latent of level 2 and each one of level 1 that has children (28 MB for 9,216 of them
/// and `d` = 384), and for each child that ever fires without its parent: none behind a hard gate, otherwise at most as
/// much again. Cost: `O((L0_1 + L0_2) d)` integer additions per token, of 64 bits.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct Condition {
    parent: Vec<u32>,
    d: usize,
    /// `e`: a unit is `2^-e`.
    exponent: i32,
    tokens: u64,
    /// Tokens left out: with an activation too large for the sums.
    left_out: u64,
    /// `[d]`: of all tokens.
    all: Vec<i64>,
    /// `[f2, d]`: of the tokens on which each child fires.
    child: Vec<i64>,
    /// `[f1]`: the row of each parent in `of_parent`, [`NONE`] without children.
    row: Vec<u32>,
    of_parent: Vec<i64>,
    /// `[f2]`: the row of each child in `without_parent`, [`NONE`] as long as it never fires without its parent.
    alone: Vec<u32>,
    without_parent: Vec<i64>,
    fires1: Vec<u64>,
    fires2: Vec<u64>,
    /// `[f2]`: tokens on which the child fires and its parent does not.
    fires_alone: Vec<u64>,
    /// `[f1]`: which latents of level 1 fire on the current token, all false between tokens.
    on: Vec<bool>,
    /// `[n, d]`: the block in units.
    #[serde(skip)]
    units: Vec<i32>,
    /// The tokens of each row of `child`, `of_parent` and `without_parent`.
    #[serde(skip)]
    plans: [Plan; 3],
    #[serde(skip)]
    isa: Isa,
}

/// The tokens of a block by the row of sums that they are added to; reused from block to block.
#[derive(Clone, Debug, Default)]
struct Plan {
    /// Pairs of a row and a token, in the order of tokens.
    pair: Vec<[u32; 2]>,
    /// The end of the tokens of each row, once they are sorted.
    end: Vec<u32>,
    token: Vec<u32>,
}

impl Plan {
    /// Adds to each row of `sums` its tokens of `units`, and clears the plan.
    fn run(&mut self, compute: Compute, d: usize, units: &[i32], sums: &mut [i64]) {
        let Compute { isa, par } = compute;
        self.end.clear();
        self.end.resize(sums.len() / d + 1, 0);
        // Counting sort: the counts of the rows, stored one index further, become the start of each row; filling moves
        // each start to the end of its row.
        self.pair.iter().for_each(|[row, _]| self.end[*row as usize + 1] += 1);
        (1..self.end.len()).for_each(|r| self.end[r] += self.end[r - 1]);
        self.token.resize(self.pair.len(), 0);
        for [row, token] in self.pair.drain(..) {
            let at = &mut self.end[row as usize];
            self.token[*at as usize] = token;
            *at += 1;
        }
        let (end, token) = (&self.end, &self.token);
        par.for_chunks(sums, ROWS * d, |c, sums| {
            for (r, sum) in sums.chunks_mut(d).enumerate() {
                let row = c * ROWS + r;
                let start = if row == 0 { 0 } else { end[row - 1] };
                for &t in &token[start as usize..end[row] as usize] {
                    wide::add_integers(isa, &units[t as usize * d..(t as usize + 1) * d], sum);
                }
            }
        });
    }
}

impl Condition {
    /// Makes empty sums. `parent` has an entry for each latent of level 2; `sample` has some activations, not
    /// necessarily whole rows, from which the unit is taken: parts that are to be merged need the same sample.
    ///
    /// # Errors
    /// [`Error::Index`] for a parent that is neither below `f1` nor [`ROOT`], [`Error::NotFinite`] for a sample that is
    /// not finite, [`Error::Shape`] for no dimensions.
    pub fn new(f1: usize, parent: &[u32], d: usize, sample: &[f32]) -> Result<Self> {
        check_parents("learned parents", parent, f1)?;
        if let Some(at) = sample.iter().position(|x| !x.is_finite()) {
            let step = (at / d.max(1)) as u64;
            return Err(Error::NotFinite { what: "the sample of activations".into(), at: At::Row(step) });
        }
        if d == 0 {
            return Err(Error::Shape { what: "dimensions of a row", expected: 1, got: 0 });
        }
        let largest = largest(sample);
        // Any unit is suitable for a sample of zeros: 1 stands for its largest value.
        let largest = if largest == 0.0 { 1.0 } else { largest };
        // largest < 2^power, so HEADROOM times it is under 2^(power + 6).
        let (_, power) = libm::frexp(f64::from(largest));
        let (mut row, mut parents) = (vec![NONE; f1], 0);
        for &p in parent.iter().filter(|p| **p != ROOT) {
            if row[p as usize] == NONE {
                row[p as usize] = parents;
                parents += 1;
            }
        }
        let f2 = parent.len();
        Ok(Self {
            parent: parent.to_vec(),
            d,
            exponent: 31 - 6 - power,
            tokens: 0,
            left_out: 0,
            all: vec![0; d],
            child: vec![0; f2 * d],
            row,
            of_parent: vec![0; parents as usize * d],
            alone: vec![NONE; f2],
            without_parent: Vec::new(),
            fires1: vec![0; f1],
            fires2: vec![0; f2],
            fires_alone: vec![0; f2],
            on: vec![false; f1],
            units: Vec::new(),
            plans: Default::default(),
            isa: Isa::default(),
        })
    }

    /// Returns the unit to which activations are rounded.
    pub fn resolution(&self) -> f64 {
        libm::ldexp(1.0, -self.exponent)
    }

    /// Adds a block; `x` is `[n, d]` row-major. Tokens with an activation that is not under [`HEADROOM`] times the
    /// largest of the sample (up to the next power of two) are left out and counted: they alone would determine a mean.
    ///
    /// # Errors
    /// [`Error::Shape`] where sizes disagree, [`Error::NotFinite`] (with the token) for an
    /// activation that is not finite, [`Error::Capacity`] for more than `2^32 - 1` tokens; nothing is added then.
    pub fn add(&mut self, par: Par, codes1: &CodesView<'_>, codes2: &CodesView<'_>, x: &[f32]) -> Result<()> {
        let (n, d, isa) = (codes1.tokens(), self.d, self.isa);
        for (what, expected, got) in [
            ("latents of the codes of level 1", self.on.len(), codes1.latents()),
            ("latents of the codes of level 2", self.parent.len(), codes2.latents()),
            ("tokens of the codes of level 2", n, codes2.tokens()),
            ("x", n.saturating_mul(d), x.len()),
        ] {
            if expected != got {
                return Err(Error::Shape { what, expected, got });
            }
        }
        let too_large = self.too_large(x)?;
        self.check_room(self.tokens + n as u64)?;
        let scale = libm::ldexp(1.0, self.exponent);
        self.units.resize(x.len(), 0);
        par.for_chunks(&mut self.units, ROWS * d, |c, units| {
            let from = c * ROWS * d;
            wide::round(isa, &x[from..from + units.len()], scale, units);
        });
        for &t in &too_large {
            self.units[t * d..(t + 1) * d].fill(0);
        }
        for t in (0..n).filter(|t| too_large.binary_search(t).is_err()) {
            for (i, _) in codes1.active(t) {
                self.fires1[i] += 1;
                self.on[i] = true;
                if self.row[i] != NONE {
                    self.plans[1].pair.push([self.row[i], t as u32]);
                }
            }
            for (j, _) in codes2.active(t) {
                self.fires2[j] += 1;
                self.plans[0].pair.push([j as u32, t as u32]);
                let p = self.parent[j];
                if p != ROOT && !self.on[p as usize] {
                    self.fires_alone[j] += 1;
                    let row = self.row_alone(j) as u32;
                    self.plans[2].pair.push([row, t as u32]);
                }
            }
            codes1.active(t).for_each(|(i, _)| self.on[i] = false);
        }
        self.units.chunks(d).for_each(|units| wide::add_integers(isa, units, &mut self.all));
        let sums = [&mut self.child, &mut self.of_parent, &mut self.without_parent];
        for (plan, sums) in self.plans.iter_mut().zip(sums) {
            plan.run(Compute { isa, par }, d, &self.units, sums);
        }
        self.tokens += (n - too_large.len()) as u64;
        self.left_out += too_large.len() as u64;
        Ok(())
    }

    /// Returns the tokens with an activation that is too large, ascending.
    fn too_large(&self, x: &[f32]) -> Result<Vec<usize>> {
        let limit = libm::ldexp(1.0, 31 - self.exponent);
        // Magnitudes compare like their bits, and NaN is above all of them.
        let bits = |x: f32| x.to_bits() & 0x7fff_ffff;
        let over = bits(limit as f32);
        if x.iter().fold(0, |top, x| top.max(bits(*x))) < over {
            return Ok(Vec::new());
        }
        if let Some(at) = x.iter().position(|x| !x.is_finite()) {
            return Err(Error::NotFinite {
                what: "an activation".into(),
                at: At::Token(self.tokens + self.left_out + (at / self.d) as u64),
            });
        }
        let rows = x.chunks(self.d).enumerate();
        Ok(rows.filter(|(_, row)| row.iter().any(|x| bits(*x) >= over)).map(|(t, _)| t).collect())
    }

    /// Checks that sums of 64 bits can hold `tokens` tokens.
    fn check_room(&self, tokens: u64) -> Result<()> {
        if tokens > u64::from(u32::MAX) {
            let (needed, got) = (usize::try_from(tokens).unwrap_or(usize::MAX), u32::MAX as usize);
            return Err(Error::Capacity { what: "tokens in a table of class means", needed, got });
        }
        Ok(())
    }

    /// Returns the row of `without_parent` of a child; makes one the first time.
    fn row_alone(&mut self, j: usize) -> usize {
        if self.alone[j] == NONE {
            self.alone[j] = (self.without_parent.len() / self.d) as u32;
            self.without_parent.resize(self.without_parent.len() + self.d, 0);
        }
        self.alone[j] as usize
    }

    /// Adds the tokens of `other`.
    ///
    /// # Errors
    /// [`Error::Capacity`] for more than `2^32 - 1` tokens together; nothing is added then.
    ///
    /// # Panics
    /// If the levels, parents, dimensions or units differ.
    pub fn merge(&mut self, other: &Self) -> Result<()> {
        let same = self.on.len() == other.on.len() && self.parent == other.parent && self.d == other.d;
        assert!(same && self.exponent == other.exponent, "merged accumulators must be of one tree and one sample");
        self.check_room(self.tokens + other.tokens)?;
        self.tokens += other.tokens;
        self.left_out += other.left_out;
        for (a, b) in
            [(&mut self.all, &other.all), (&mut self.child, &other.child), (&mut self.of_parent, &other.of_parent)]
        {
            add_row(a, b);
        }
        for j in (0..other.alone.len()).filter(|&j| other.alone[j] != NONE) {
            let (from, to) = (other.alone[j] as usize, self.row_alone(j));
            let d = self.d;
            add_row(row_of(&mut self.without_parent, to, d), &other.without_parent[from * d..(from + 1) * d]);
        }
        for (a, b) in [
            (&mut self.fires1, &other.fires1),
            (&mut self.fires2, &other.fires2),
            (&mut self.fires_alone, &other.fires_alone),
        ] {
            a.iter_mut().zip(b).for_each(|(a, b)| *a += b);
        }
        Ok(())
    }

    /// Writes `d*_j = mean(x | j on) - mean(x | j off)`, `[d]`; returns whether it exists: `j` fires, but not always.
    ///
    /// # Panics
    /// If `out` is not of length `d`.
    pub fn direction(&self, j: usize, out: &mut [f64]) -> bool {
        let (on, off) = (self.fires2[j], self.tokens - self.fires2[j]);
        let child = &self.child[j * self.d..(j + 1) * self.d];
        self.difference(child, on, |c| self.all[c] - child[c], off, out)
    }

    /// Writes `d**_j = mean(x | j on) - mean(x | parent on, j off)`, `[d]`; returns whether it exists: `j` fires, and
    /// its parent also fires without it. It does not exist under [`ROOT`].
    ///
    /// # Panics
    /// If `out` is not of length `d`.
    pub fn strict_direction(&self, j: usize, out: &mut [f64]) -> bool {
        let (d, p) = (self.d, self.parent[j]);
        if p == ROOT {
            return false;
        }
        let child = &self.child[j * d..(j + 1) * d];
        let parent = &self.of_parent[self.row[p as usize] as usize * d..][..d];
        let alone = (self.alone[j] != NONE).then(|| &self.without_parent[self.alone[j] as usize * d..][..d]);
        let both = self.fires2[j] - self.fires_alone[j];
        let off = self.fires1[p as usize] - both;
        // The tokens with both: those of the child, minus those on which it fires alone.
        let parent_only = |c: usize| parent[c] - (child[c] - alone.map_or(0, |a| a[c]));
        self.difference(child, self.fires2[j], parent_only, off, out)
    }

    /// Writes the difference of the means of the sums `on` of `n_on` tokens and `off` of `n_off`; returns whether both
    /// have tokens.
    fn difference(&self, on: &[i64], n_on: u64, off: impl Fn(usize) -> i64, n_off: u64, out: &mut [f64]) -> bool {
        assert_eq!(out.len(), self.d, "a number for each dimension");
        if n_on == 0 || n_off == 0 {
            return false;
        }
        let unit = self.resolution();
        for (c, out) in out.iter_mut().enumerate() {
            *out = unit * (on[c] as f64 / n_on as f64 - off(c) as f64 / n_off as f64);
        }
        true
    }
}

/// Returns the largest magnitude; 0 for none.
fn largest(x: &[f32]) -> f32 {
    x.iter().fold(0.0, |m, x| m.max(x.abs()))
}

fn row_of(rows: &mut [i64], row: usize, d: usize) -> &mut [i64] {
    &mut rows[row * d..(row + 1) * d]
}

fn add_row(sum: &mut [i64], row: &[i64]) {
    sum.iter_mut().zip(row).for_each(|(a, b)| *a += b);
}
