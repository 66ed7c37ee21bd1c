//! How often each parent fires with each child, in two bytes per pair.
//!
//! Each child has a row of `u16`: a header of four words, then one count per parent. The counts are of a sample of the
//! child's tokens, one of every `2^shift`, so that `P(i|j) = count_i / sampled`. When `sampled` would no longer fit
//! into two bytes, the row is halved and `shift` grows by one. Old tokens count less: every half-life, `shift` falls by
//! one, which halves the number of tokens that each count stands for; where `shift` is 0, the row is halved instead.
//!
//! Halving rounds odd counts up and down alternately, so that small counts are right on average, and a count of one
//! does not stay for ever. The standard error of a share `P` is `sqrt(P (1 - P) / sampled)`, as for any sample; up to
//! 65,535 tokens every token is counted.

use crate::par::Par;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;

/// Number of words of a row's header.
const HEAD: usize = 4;
/// Index of the header's word `sampled`: the number of tokens in the sample.
const SAMPLED: usize = 0;
/// Index of the header's word `shift`: one of every `2^shift` tokens is sampled.
const SHIFT: usize = 1;
/// Index of two words of the header: the number of tokens since the last sampled one, less than `2^shift`.
const TICK: usize = 2;
/// Bit of the word `shift` that says whether the next halving rounds odd counts at even positions up or down.
const ROUNDING: u16 = 1 << 15;

/// Number of children per block; a block is counted by one thread.
const CHILDREN: usize = 256;

/// Returns the number of words of a child's row, for `f1` parents.
pub(super) const fn row_width(f1: usize) -> usize {
    HEAD + f1
}

/// Counts of `f2` children with `f1` parents. A clone shares the memory until one of the two is written to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counts {
    f1: usize,
    rows: Arc<Vec<u16>>,
}

impl Counts {
    /// Returns counts of zero.
    pub fn new(f1: usize, f2: usize) -> Self {
        Self { f1, rows: Arc::new(vec![0; f2 * (HEAD + f1)]) }
    }

    /// Returns all rows, headers included, for a checkpoint.
    pub fn numbers(&self) -> &Arc<Vec<u16>> {
        &self.rows
    }

    /// Replaces all rows by those of a checkpoint.
    ///
    /// # Panics
    /// If their number of words is another.
    pub fn set_numbers(&mut self, rows: Arc<Vec<u16>>) {
        assert_eq!(rows.len(), self.rows.len(), "words of a table of co-firing counts");
        self.rows = rows;
    }

    fn row(&self, j: usize) -> &[u16] {
        let width = HEAD + self.f1;
        &self.rows[j * width..(j + 1) * width]
    }

    fn row_mut(&mut self, j: usize) -> &mut [u16] {
        let width = HEAD + self.f1;
        &mut Arc::make_mut(&mut self.rows)[j * width..(j + 1) * width]
    }

    /// Returns the share of child `j`'s tokens on which each parent fires; zeros for a child that was never counted.
    pub fn shares(&self, j: usize) -> impl Iterator<Item = f64> + '_ {
        let row = self.row(j);
        let sampled = f64::from(row[SAMPLED].max(1));
        row[HEAD..].iter().map(move |c| f64::from(*c) / sampled)
    }

    /// Returns the share of child `j`'s tokens on which parent `i` fires; 0 for a child that was never counted.
    pub fn share(&self, j: usize, i: usize) -> f64 {
        let row = self.row(j);
        f64::from(row[HEAD + i]) / f64::from(row[SAMPLED].max(1))
    }

    /// Sets the counts of a child to zero.
    pub fn forget(&mut self, j: usize) {
        self.row_mut(j).fill(0);
    }

    /// Halves the number of tokens that all counts stand for.
    pub fn fade(&mut self, par: Par) {
        let width = HEAD + self.f1;
        let rows: &mut Vec<u16> = Arc::make_mut(&mut self.rows);
        par.for_chunks(rows, CHILDREN * width, |_, rows| rows.chunks_mut(width).for_each(fade));
    }

    /// Calls `f` for every block of consecutive children, each on one thread. The counts do not depend on the threads
    /// if `f` counts the tokens of a child in a fixed order.
    pub fn update(&mut self, par: Par, f: impl Fn(&mut Block<'_>) + Sync + Send) {
        let width = HEAD + self.f1;
        let rows: &mut Vec<u16> = Arc::make_mut(&mut self.rows);
        par.for_chunks(rows, CHILDREN * width, |c, rows| {
            f(&mut Block { first: (c * CHILDREN) as u32, width, rows });
        });
    }
}

/// The counts of a block of consecutive children.
pub struct Block<'a> {
    first: u32,
    width: usize,
    rows: &'a mut [u16],
}

impl Block<'_> {
    /// Returns the children of the block.
    pub fn children(&self) -> Range<u32> {
        self.first..self.first + (self.rows.len() / self.width) as u32
    }

    /// Counts a token of child `j`, which stands for `weight` tokens, and on which `parents` fire.
    ///
    /// # Panics
    /// If the child is not of this block, or a parent does not exist.
    pub fn token(&mut self, j: u32, weight: u32, parents: impl Iterator<Item = u32>) {
        let row = &mut self.rows[(j - self.first) as usize * self.width..][..self.width];
        let units = token(row, weight);
        if units > 0 {
            let counts = &mut row[HEAD..];
            parents.for_each(|i| counts[i as usize] += units);
        }
    }
}

/// Counts a token that stands for `weight` tokens in the header of a row, and returns what is to be added to the count
/// of each parent that fires on it.
fn token(row: &mut [u16], weight: u32) -> u16 {
    let tick = (u32::from(row[TICK + 1]) << 16 | u32::from(row[TICK])) + weight;
    loop {
        let shift = u32::from(row[SHIFT] & !ROUNDING);
        let (units, rest) = (tick >> shift, tick & ((1 << shift) - 1));
        if let Some(sampled) = units.checked_add(u32::from(row[SAMPLED])).and_then(|n| u16::try_from(n).ok()) {
            row[SAMPLED] = sampled;
            (row[TICK], row[TICK + 1]) = (rest as u16, (rest >> 16) as u16);
            return units as u16;
        }
        halve(row);
        row[SHIFT] += 1;
    }
}

/// Halves the number of tokens that the counts of a row stand for.
fn fade(row: &mut [u16]) {
    if row[SHIFT] & !ROUNDING == 0 {
        if row[SAMPLED] > 0 {
            halve(row);
        }
        return;
    }
    row[SHIFT] -= 1;
    let mask = (1u32 << (row[SHIFT] & !ROUNDING)) - 1;
    row[TICK] &= mask as u16;
    row[TICK + 1] &= (mask >> 16) as u16;
}

/// Halves the counts of a row. `sampled` is rounded up, so that no count exceeds it.
fn halve(row: &mut [u16]) {
    let up = usize::from(row[SHIFT] & ROUNDING > 0);
    row[SHIFT] ^= ROUNDING;
    row[SAMPLED] = row[SAMPLED].div_ceil(2);
    for (i, c) in row[HEAD..].iter_mut().enumerate() {
        *c = *c / 2 + (*c & ((i + up) & 1) as u16);
    }
}
