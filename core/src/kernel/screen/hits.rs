//! Candidate pairs found by a screening pass.

use alloc::vec::Vec;

use fearless_simd::{f32x16, i32x16, mask32x16, prelude::*};

use crate::kernel::LANES;
use crate::kernel::dense::{Pair, Pick};

/// The index of no latent.
pub(crate) const NONE: u32 = u32::MAX;

/// Most places of one product of rows and strips: two strips, or one.
pub(super) const PANEL: usize = 2 * LANES;

/// Latents of rows that may be selected, panel by panel.
#[derive(Clone, Debug, Default)]
pub(in crate::kernel) struct Hits {
    /// `row * PANEL + lane`, and an upper bound of the pre-activation; longer than what is in use, so that whole
    /// vectors can be written at the end.
    keys: Vec<i32>,
    upper: Vec<f32>,
    n: usize,
    /// The first place of each panel, and the end of its hits.
    ends: Vec<(usize, usize)>,
}

impl Hits {
    /// Returns the number of hits.
    pub fn len(&self) -> usize {
        self.n
    }

    /// Makes capacity for so many hits of all panels.
    pub fn reserve(&mut self, most: usize, panels: usize) {
        self.keys.reserve(most + LANES);
        self.upper.reserve(most + LANES);
        self.ends.reserve(panels);
    }

    /// Removes all hits.
    pub fn clear(&mut self) {
        self.n = 0;
        self.ends.clear();
    }

    /// Makes capacity for a panel of so many rows.
    pub fn begin_panel(&mut self, rows: usize) {
        let room = self.n + rows * PANEL + LANES;
        if self.keys.len() < room {
            self.keys.resize(room, 0);
            self.upper.resize(room, 0.0);
        }
    }

    /// Ends the panel whose first place is `first`.
    pub fn end_panel(&mut self, first: usize) {
        if self.n > self.ends.last().map_or(0, |(_, end)| *end) {
            self.ends.push((first, self.n));
        }
    }

    /// Adds the lanes of `mask`.
    ///
    /// # Panics
    /// If there is no capacity.
    #[inline(always)]
    pub fn add<S: Simd>(&mut self, keys: i32x16<S>, upper: f32x16<S>, mask: mask32x16<S>) {
        let room = self.n..self.n + LANES;
        keys.compress(mask).store_slice(&mut self.keys[room.clone()]);
        upper.compress(mask).store_slice(&mut self.upper[room]);
        self.n += mask.to_bitmask().count_ones() as usize;
    }

    /// Writes the hits that exceed the bars of their rows to `pairs`, which is emptied before: latent by latent, so that its
    /// weights are read once, and row by row within. Row `i` of those screened is row `rows.row(i)`; `places` gives the
    /// latents.
    pub fn sort(&mut self, bars: &[f32], rows: Pick<'_>, places: &[u32], pairs: &mut Vec<Pair>) {
        pairs.clear();
        let (mut start, mut first) = (0, 0);
        for &(place, end) in &self.ends {
            let (keys, upper) = (&mut self.keys[start..end], &self.upper[start..end]);
            start = end;
            let (mut kept, mut counts) = (0, [0; PANEL]);
            for i in 0..keys.len() {
                let key = keys[i];
                keys[kept] = key;
                let bar = bars[key as usize / PANEL];
                let stays = usize::from(upper[i] > bar || upper[i].is_nan());
                counts[key as usize % PANEL] += stays;
                kept += stays;
            }
            let mut ends = [0; PANEL];
            let mut next = first;
            for (end, count) in ends.iter_mut().zip(counts) {
                (*end, next) = (next, next + count);
            }
            pairs.resize(next, Pair { row: 0, latent: 0 });
            for &key in &keys[..kept] {
                let lane = key as usize % PANEL;
                let latent = places[place + lane];
                debug_assert_ne!(latent, NONE, "a hit where there is no latent");
                pairs[ends[lane]] = Pair { row: rows.row(key as usize / PANEL) as u32, latent };
                ends[lane] += 1;
            }
            first = next;
        }
    }
}
