//! The order in which training visits the rows of a dump: a permutation that is computed, not stored.
//!
//! Disks and page caches read long runs quickly and single rows slowly, so rows are mixed in two stages: blocks of
//! consecutive rows are permuted over the whole dump, and rows are permuted inside of a window of consecutive permuted
//! blocks. Within a window only its blocks are read.
//!
//! A permutation of `0..m` is an alternating Feistel network on the smallest `2^bits >= m`, repeated until the result
//! is below `m` (J. Black, P. Rogaway, *Ciphers with arbitrary finite domains*, 2002). It needs no table and has an
//! inverse.

use crate::rng::{Philox, mix};

/// Half-rounds of the Feistel network: four whole rounds.
const HALF_ROUNDS: usize = 8;

/// `row(epoch, i)` is a bijection of `0..n_rows` for every epoch, a pure function of (seed, epoch, i).
///
/// Memory is O(1) in `n_rows`. The cursor of a training run is one integer `pos`: epoch `pos / n_rows`, position `pos %
/// n_rows`; see [`RowOrder::fill`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowOrder {
    seed: u64,
    n_rows: u64,
    block: u64,
    window_blocks: u64,
    n_blocks: u64,
    /// Rows missing in the last block: `n_blocks * block - n_rows`.
    deficit: u64,
}

impl RowOrder {
    /// Makes an order of `n_rows` rows, in blocks of `block` rows and windows of `window_blocks` blocks.
    ///
    /// The last block and the last window may be short. `block = 1` or `window_blocks >= n_rows / block` mix rows over
    /// the whole dump; `window_blocks = 1` only permutes inside of each block.
    ///
    /// # Panics
    /// If `block` or `window_blocks` is 0, or `n_rows` is over `2^62`.
    #[must_use]
    pub fn new(seed: u64, n_rows: u64, block: u64, window_blocks: u64) -> Self {
        assert!(block > 0 && window_blocks > 0, "RowOrder: block and window_blocks must be at least 1");
        assert!(n_rows <= 1 << 62, "RowOrder: more than 2^62 rows");
        let block = block.min(n_rows.max(1));
        let n_blocks = n_rows.div_ceil(block);
        let window_blocks = window_blocks.min(n_blocks.max(1));
        Self { seed, n_rows, block, window_blocks, n_blocks, deficit: n_blocks * block - n_rows }
    }

    /// Returns the number of rows.
    #[must_use]
    pub fn n_rows(&self) -> u64 {
        self.n_rows
    }

    /// Returns the row at position `i` of `epoch`.
    ///
    /// # Panics
    /// If `i >= n_rows`.
    #[must_use]
    pub fn row(&self, epoch: u64, i: u64) -> u64 {
        let epoch = Epoch::new(self, epoch);
        let window = epoch.window_at(i);
        epoch.row(&window, i)
    }

    /// `rows[k] = row((pos + k) / n_rows, (pos + k) % n_rows)`: the rows at the positions from `pos`, across epochs.
    ///
    /// Faster than single calls of [`RowOrder::row`]: keys are computed once per epoch and window.
    ///
    /// # Panics
    /// If there are no rows and `rows` is not empty.
    pub fn fill(&self, pos: u64, rows: &mut [u64]) {
        if rows.is_empty() {
            return;
        }
        assert!(self.n_rows > 0, "RowOrder::fill: there are no rows");
        let mut epoch = Epoch::new(self, pos / self.n_rows);
        let mut i = pos % self.n_rows;
        let mut window = epoch.window_at(i);
        for row in rows {
            if i == self.n_rows {
                epoch = Epoch::new(self, epoch.epoch.wrapping_add(1));
                i = 0;
                window = epoch.window_at(0);
            } else if i == window.end {
                window = epoch.window_at(i);
            }
            *row = epoch.row(&window, i);
            i += 1;
        }
    }
}

/// The keys of one epoch.
struct Epoch<'a> {
    order: &'a RowOrder,
    epoch: u64,
    blocks: Permutation,
    /// The permuted position of the short block; `n_blocks`, which is no position, if no block is short.
    short_slot: u64,
}

/// Consecutive positions `start..end` of an epoch.
struct Window {
    start: u64,
    end: u64,
    first_slot: u64,
    rows: Permutation,
}

impl<'a> Epoch<'a> {
    fn new(order: &'a RowOrder, epoch: u64) -> Self {
        let blocks = Permutation::new(order.n_blocks, order.seed, epoch, 0);
        let short_slot = if order.deficit > 0 { blocks.invert(order.n_blocks - 1) } else { order.n_blocks };
        Self { order, epoch, blocks, short_slot }
    }

    /// The first position of the slot `slot`: the number of rows in the blocks before it.
    fn place_of_slot(&self, slot: u64) -> u64 {
        slot.min(self.order.n_blocks) * self.order.block - if slot > self.short_slot { self.order.deficit } else { 0 }
    }

    fn window_at(&self, i: u64) -> Window {
        let RowOrder { n_rows, block, window_blocks, n_blocks, deficit, seed } = *self.order;
        assert!(i < n_rows, "RowOrder: place {i} of {n_rows} rows");
        // After the short window, positions are those of an order without a short block, minus the deficit.
        let short_window_end = self.place_of_slot((self.short_slot / window_blocks + 1) * window_blocks);
        let full = if deficit > 0 && i >= short_window_end { i + deficit } else { i };
        let index = full / (window_blocks * block);
        let first_slot = index * window_blocks;
        let (start, end) =
            (self.place_of_slot(first_slot), self.place_of_slot((first_slot + window_blocks).min(n_blocks)));
        Window { start, end, first_slot, rows: Permutation::new(end - start, seed, self.epoch, index + 1) }
    }

    fn row(&self, window: &Window, i: u64) -> u64 {
        let RowOrder { block, deficit, .. } = *self.order;
        let place = window.start + window.rows.apply(i - window.start);
        // `place` counts rows of permuted blocks; after the short block, it counts as if that were whole.
        let short_end = self.place_of_slot(self.short_slot + 1);
        let full = if deficit > 0 && place >= short_end { place + deficit } else { place };
        debug_assert!(full / block >= window.first_slot, "a row left its window");
        self.blocks.apply(full / block) * block + full % block
    }
}

/// A keyed permutation of `0..m`.
#[derive(Clone, Copy)]
struct Permutation {
    m: u64,
    lo_bits: u32,
    lo_mask: u64,
    hi_mask: u64,
    keys: [u64; 2],
}

impl Permutation {
    /// `domain` distinguishes the permutations of one (seed, epoch): 0 for the blocks, `1 + w` for the window `w`.
    fn new(m: u64, seed: u64, epoch: u64, domain: u64) -> Self {
        // At least 4 bits: below that a Feistel network reaches few permutations.
        let bits = (u64::BITS - m.saturating_sub(1).leading_zeros()).max(4);
        let hi_bits = bits / 2;
        let lo_bits = bits - hi_bits;
        let [a, b, c, d] = Philox::new(seed, epoch).block(domain).map(u64::from);
        let mask = |bits: u32| (1_u64 << bits) - 1;
        Self { m, lo_bits, lo_mask: mask(lo_bits), hi_mask: mask(hi_bits), keys: [a | b << 32, c | d << 32] }
    }

    /// The function of half-round `r`: the two keys enter alternately, with a constant per round.
    fn mix(&self, r: usize, x: u64) -> u64 {
        const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;
        let key = self.keys[r / 2 % 2].rotate_left(8 * r as u32);
        mix((x ^ key).wrapping_add(GOLDEN.wrapping_mul(r as u64 + 1)))
    }

    fn half_round(&self, r: usize, lo: &mut u64, hi: &mut u64) {
        if r.is_multiple_of(2) {
            *hi ^= self.mix(r, *lo) & self.hi_mask;
        } else {
            *lo ^= self.mix(r, *hi) & self.lo_mask;
        }
    }

    fn apply(&self, x: u64) -> u64 {
        self.walk(x, 0..HALF_ROUNDS)
    }

    fn invert(&self, x: u64) -> u64 {
        self.walk(x, (0..HALF_ROUNDS).rev())
    }

    /// Each half-round is its own inverse, so the reversed rounds are the inverse, including the repetition.
    fn walk(&self, mut x: u64, rounds: impl Iterator<Item = usize> + Clone) -> u64 {
        debug_assert!(x < self.m, "{x} is outside of 0..{}", self.m);
        if self.m <= 1 {
            return x;
        }
        loop {
            let (mut lo, mut hi) = (x & self.lo_mask, x >> self.lo_bits);
            for r in rounds.clone() {
                self.half_round(r, &mut lo, &mut hi);
            }
            x = hi << self.lo_bits | lo;
            if x < self.m {
                return x;
            }
        }
    }
}
