//! How often each parent fires with each child, in two bytes a pair.
//!
//! A child has a row of `u16`: four words of its own, then one count a parent. Counts are of a sample of its tokens, one
//! of every `2^shift`, so that `P(i|j) = count_i / sampled`, and none can outgrow its two bytes: where `sampled` would,
//! the row is halved and `shift` grows. What is old counts less: every half-life `shift` falls by one, which halves what
//! each count stands for, or the row is halved where it is 0 already.
//!
//! A halved count is rounded up and down in turn, so that small ones are right on the average and a single one does not
//! live for ever. With `sampled` tokens a share of `P` is known to within `sqrt(P (1 - P) / sampled)`, as is that of any
//! sample; up to 65,535 tokens nothing is left out.

use crate::par::Par;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;

/// Words of a row before its counts.
const HEAD: usize = 4;
/// Tokens that were counted.
const SAMPLED: usize = 0;
/// How rare the sample is.
const SHIFT: usize = 1;
/// Tokens since the last one of the sample, two words: less than `2^shift`.
const TICK: usize = 2;
/// The bit of the shift's word that says how the next halving rounds.
const TURN: u16 = 1 << 15;

/// Children whose counts one thread adds to.
const CHILDREN: usize = 256;

/// Counts of `f2` children with `f1` parents. A clone shares them until one of the two changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counts {
    f1: usize,
    rows: Arc<Vec<u16>>,
}

impl Counts {
    /// No counts.
    pub fn new(f1: usize, f2: usize) -> Self {
        Self { f1, rows: Arc::new(vec![0; f2 * (HEAD + f1)]) }
    }

    /// All numbers, for a checkpoint.
    pub fn numbers(&self) -> &Arc<Vec<u16>> {
        &self.rows
    }

    /// Goes on from the numbers of a checkpoint.
    ///
    /// # Panics
    /// If there are more or fewer of them.
    pub fn set_numbers(&mut self, rows: Arc<Vec<u16>>) {
        assert_eq!(rows.len(), self.rows.len(), "numbers of a table of counts");
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

    /// The share of child `j`'s tokens on which each parent fires; nothing for a child that was never counted.
    pub fn shares(&self, j: usize) -> impl Iterator<Item = f64> + '_ {
        let row = self.row(j);
        let sampled = f64::from(row[SAMPLED].max(1));
        row[HEAD..].iter().map(move |c| f64::from(*c) / sampled)
    }

    /// The share of child `j`'s tokens on which parent `i` fires; 0 for a child that was never counted.
    pub fn share(&self, j: usize, i: usize) -> f64 {
        let row = self.row(j);
        f64::from(row[HEAD + i]) / f64::from(row[SAMPLED].max(1))
    }

    /// Forgets a child.
    pub fn forget(&mut self, j: usize) {
        self.row_mut(j).fill(0);
    }

    /// Halves what everything counted so far stands for.
    pub fn fade(&mut self, par: Par) {
        let width = HEAD + self.f1;
        let rows: &mut Vec<u16> = Arc::make_mut(&mut self.rows);
        par.for_chunks(rows, CHILDREN * width, |_, rows| rows.chunks_mut(width).for_each(fade));
    }

    /// Calls `f` for every block of consecutive children, each on one thread. The bits do not depend on threads if the tokens
    /// of a child come in one order.
    pub fn update(&mut self, par: Par, f: impl Fn(&mut Block<'_>) + Sync + Send) {
        let width = HEAD + self.f1;
        let rows: &mut Vec<u16> = Arc::make_mut(&mut self.rows);
        par.for_chunks(rows, CHILDREN * width, |c, rows| {
            f(&mut Block { first: (c * CHILDREN) as u32, width, rows });
        });
    }
}

/// The counts of some consecutive children.
pub struct Block<'a> {
    first: u32,
    width: usize,
    rows: &'a mut [u16],
}

impl Block<'_> {
    /// The children.
    pub fn children(&self) -> Range<u32> {
        self.first..self.first + (self.rows.len() / self.width) as u32
    }

    /// Notes a token of child `j` that stands for `weight` tokens, on which `parents` fire.
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

/// Notes a token that stands for `weight` of them; returns what is added to the count of each parent that fires on it.
fn token(row: &mut [u16], weight: u32) -> u16 {
    let tick = (u32::from(row[TICK + 1]) << 16 | u32::from(row[TICK])) + weight;
    loop {
        let shift = u32::from(row[SHIFT] & !TURN);
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

/// Halves what the counts of a row stand for.
fn fade(row: &mut [u16]) {
    if row[SHIFT] & !TURN == 0 {
        if row[SAMPLED] > 0 {
            halve(row);
        }
        return;
    }
    row[SHIFT] -= 1;
    let mask = (1u32 << (row[SHIFT] & !TURN)) - 1;
    row[TICK] &= mask as u16;
    row[TICK + 1] &= (mask >> 16) as u16;
}

/// Halves the counts themselves. `sampled` is rounded up: no count is above it.
fn halve(row: &mut [u16]) {
    let up = usize::from(row[SHIFT] & TURN > 0);
    row[SHIFT] ^= TURN;
    row[SAMPLED] = row[SAMPLED].div_ceil(2);
    for (i, c) in row[HEAD..].iter_mut().enumerate() {
        *c = *c / 2 + (*c & ((i + up) & 1) as u16);
    }
}
