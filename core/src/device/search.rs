//! The latents of rows whose pre-activation reaches a limit: the fused encoder of [`kernel::fire`](crate::kernel::fire) on a
//! device, with the same lists.
//!
//! What the screen leaves is computed exactly. For the `k` largest the bars start from a guess, a multiple of the norm of the row,
//! and rise to what the `k` strongest hits most probably exceed; `k` exact values above the bar prove that none is missing. Rows
//! without the proof are computed in full. Lists have room for a guess too: where a row needs more, all is launched again.

use super::kernels::{self, Bar, Bytes, Hits, Weights};
use super::lists::{FamiliesOn, Gate, ListSlots, Lists};
use super::{Device, Part, Slot};
use crate::error::Result;
use alloc::vec::Vec;

/// Most numbers of the lists of rows that are computed in full together.
const FULL: usize = 1 << 24;
/// Rows that the first guess of a bar is made from.
const FIRST: usize = 32;

/// What a pre-activation must reach.
#[derive(Clone, Copy)]
pub(crate) enum Limit<'a> {
    /// `u > t`.
    Above(f32),
    /// `u_j > t_j`, `(f)`.
    Each(Part<'a, f32>),
    /// The `k` largest positive ones of a row.
    Topk(usize),
}

/// Returns whether latents are screened first. With fewer or narrower ones the exact products cost about as much.
pub(crate) fn is_screened(f: usize, d: usize) -> bool {
    // Wider rows are beyond the bound of the screen.
    f >= 512 && (96..1 << 15).contains(&d)
}

/// A search for the latents of rows.
#[derive(Clone, Copy)]
pub(crate) struct Search<'a> {
    /// `(n, d)`.
    pub x: Part<'a, f32>,
    /// The encoder.
    pub weights: Weights<'a>,
    /// The rows and the encoder in 8 bits, where latents are screened. With a limit per latent it is in the latents.
    pub screen: Option<[Bytes<'a>; 2]>,
    /// The limit.
    pub limit: Limit<'a>,
    /// The gate, where there is one.
    pub gate: Option<Gate<'a>>,
    /// Only the largest child of each active parent, of the latents of level 1.
    pub largest_of: Option<(&'a FamiliesOn, Lists<'a>)>,
}

/// What is learnt of a level from search to search. It decides how much is computed, never what is found.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Guess {
    /// Places of a row; 0 before the first search.
    room: usize,
    /// The `k`-th largest pre-activation over the norm of the row, of nearly all rows.
    ratio: f32,
}

/// Working memory.
#[derive(Debug, Default)]
pub(crate) struct Work {
    bar: Slot<f32>,
    least: Slot<f32>,
    hits: HitSlots,
    raw: ListSlots,
    sorted: ListSlots,
    again: Again,
}

#[derive(Debug, Default)]
struct HitSlots {
    found: Slot<u32>,
    index: Slot<u32>,
    upper: Slot<f32>,
    likely: Slot<f32>,
    left: Slot<u32>,
    left_index: Slot<u32>,
}

/// Rows that are computed once more.
#[derive(Debug, Default)]
struct Again {
    which: Slot<u32>,
    x: Slot<f32>,
    active: Slot<u32>,
    kept: ListSlots,
    least: Slot<f32>,
}

impl HitSlots {
    fn room(&mut self, device: &Device, n: usize, room: usize) -> Result<Hits<'_>> {
        self.found.room(device, n)?.zero()?;
        self.left.room(device, n)?.zero()?;
        self.index.room(device, n * room)?;
        self.left_index.room(device, n * room)?;
        self.upper.room(device, n * room)?;
        self.likely.room(device, n * room)?;
        let all = n * room;
        let (found, index) = (self.found.of(n), self.index.of(all));
        Ok(Hits { room, found, index, upper: self.upper.of(all), likely: self.likely.of(all) })
    }
}

impl Search<'_> {
    fn n(&self) -> usize {
        self.x.len() / self.weights.d
    }

    fn f(&self) -> usize {
        self.weights.f()
    }

    /// Writes the lists of all rows to `out`, latents ascending, and returns their room.
    pub fn run(&self, guess: &mut Guess, work: &mut Work, out: &mut ListSlots) -> Result<usize> {
        let (n, device) = (self.n(), self.x.device());
        if guess.room == 0 {
            let k = if let Limit::Topk(k) = self.limit { k } else { 0 };
            guess.room = (4 * k + 256).min(self.f());
        }
        let k = match self.limit {
            Limit::Topk(k) => k.min(self.f()),
            Limit::Above(_) | Limit::Each(_) => {
                self.above(guess, work)?;
                core::mem::swap(&mut work.sorted, out);
                return Ok(guess.room);
            }
        };
        let kept = out.room(device, n, k)?;
        if k == 0 {
            kept.count.zero()?;
        } else if self.largest_of.is_some() {
            self.above(guess, work)?;
            let least = work.least.room(device, n)?;
            kernels::keep_largest(k, work.sorted.of(n, guess.room), least, kept)?;
        } else if self.screen.is_some() {
            self.largest(k, guess, work, kept)?;
        } else {
            let Work { raw, sorted, least, .. } = work;
            self.full(k, raw, sorted, least.room(device, n)?, kept)?;
        }
        Ok(k)
    }

    /// Writes to `work.sorted` what exceeds a limit that is known before; a selection of the largest has the limit 0.
    fn above(&self, guess: &mut Guess, work: &mut Work) -> Result<()> {
        let (n, f, device) = (self.n(), self.f(), self.x.device());
        let bar = match self.limit {
            Limit::Above(limit) => Bar::One(limit),
            Limit::Each(limits) => Bar::Each(limits),
            Limit::Topk(_) => Bar::One(0.0),
        };
        loop {
            let room = guess.room;
            let lists = work.raw.room(device, n, room)?;
            lists.count.zero()?;
            // What is compared with the room.
            let mut needed = lists.count;
            match (self.largest_of, self.screen) {
                (Some((families, parents)), _) => {
                    kernels::largest_children(self.x, self.weights, bar, families, parents, lists)?;
                }
                (None, Some([rows, latents])) => {
                    let hits = work.hits.room(device, n, room)?;
                    let (start, limits) = match bar {
                        Bar::One(limit) => (limit, None),
                        Bar::Each(limits) => (0.0, Some(limits)),
                    };
                    let bar = work.bar.room(device, n)?;
                    kernels::start_bars(rows.known, 0.0, start, bar)?;
                    kernels::screen(rows, latents, self.weights.d, bar, 0.0, self.gate, hits)?;
                    kernels::exact_above(self.x, self.weights, bar, limits, (hits.found, hits.index), lists)?;
                    needed = hits.found;
                }
                (None, None) => kernels::product_above(self.x, self.weights, bar, self.gate, lists)?,
            }
            let most = needed.to_vec()?.into_iter().max().unwrap_or(0) as usize;
            if most <= room {
                let lists = work.raw.of(n, room);
                return kernels::rows_in_order(f, lists, work.sorted.room(device, n, room)?);
            }
            guess.room = most.next_power_of_two().min(f);
        }
    }

    /// Writes the `k` largest of each row to `kept`, with every pre-activation computed.
    fn full(
        &self,
        k: usize,
        raw: &mut ListSlots,
        sorted: &mut ListSlots,
        least: Part<'_, f32>,
        kept: Lists<'_>,
    ) -> Result<()> {
        let (n, f, d, device) = (self.n(), self.f(), self.weights.d, self.x.device());
        let together = (FULL / f).max(32).min(n);
        for first in (0..n).step_by(together.max(1)) {
            let rows = together.min(n - first);
            let x = self.x.part(first * d..(first + rows) * d);
            let gate = self.gate.map(|gate| gate.rows(first, rows));
            let lists = raw.room(device, rows, f)?;
            lists.count.zero()?;
            kernels::product_above(x, self.weights, Bar::One(0.0), gate, lists)?;
            let sorted = sorted.room(device, rows, f)?;
            kernels::rows_in_order(f, lists, sorted)?;
            kernels::keep_largest(k, sorted, least.part(first..first + rows), kept.rows(first, rows))?;
        }
        Ok(())
    }

    /// Writes the `k` largest of each row to `kept`, through the screen.
    fn largest(&self, k: usize, guess: &mut Guess, work: &mut Work, kept: Lists<'_>) -> Result<()> {
        let (n, f, d, device) = (self.n(), self.f(), self.weights.d, self.x.device());
        let Some([rows, latents]) = self.screen else { return Ok(()) };
        let Work { bar, least, hits: slots, raw, sorted, again } = work;
        let least = least.room(device, n)?;
        let norms: Vec<f32> = rows.known.to_vec()?.chunks(kernels::ROUNDED).map(|row| row[1]).collect();
        if guess.ratio == 0.0 {
            let first = n.min(FIRST);
            let few = self.only(0, first);
            few.full(k, raw, sorted, least.part(0..first), kept.rows(0, first))?;
            guess.learn(&least.part(0..first).to_vec()?, &norms);
        }
        let bar = bar.room(device, n)?;
        // As in `kernel::screen`: five times the size of a sum of `d` independent errors.
        let share = (3.0 / libm::sqrtf(d as f32)).min(1.0);
        loop {
            let room = guess.room.max(k);
            kernels::start_bars(rows.known, guess.ratio, 0.0, bar)?;
            let hits = slots.room(device, n, room)?;
            kernels::screen(rows, latents, d, bar, share, self.gate, hits)?;
            let left = (slots.left.of(n), slots.left_index.of(n * room));
            kernels::raise_bars(k, slots.of(n, room), bar, left)?;
            let lists = raw.room(device, n, room)?;
            lists.count.zero()?;
            kernels::exact_above(self.x, self.weights, bar, None, left, lists)?;
            let sorted = sorted.room(device, n, room)?;
            kernels::rows_in_order(f, lists, sorted)?;
            kernels::keep_largest(k, sorted, least, kept)?;
            let most = slots.found.of(n).to_vec()?.into_iter().max().unwrap_or(0) as usize;
            if most <= room {
                break;
            }
            guess.room = most.next_power_of_two().min(f);
        }
        let (count, bars, least) = (kept.count.to_vec()?, bar.to_vec()?, least.to_vec()?);
        let poor: Vec<u32> =
            (0..n as u32).filter(|i| (count[*i as usize] as usize) < k && bars[*i as usize] > 0.0).collect();
        guess.learn(&least, &norms);
        if !poor.is_empty() { again.run(self, k, &poor, raw, sorted, kept) } else { Ok(()) }
    }

    /// Returns the search of `n` rows from row `first` on, without a screen.
    pub fn only(&self, first: usize, n: usize) -> Self {
        let d = self.weights.d;
        let gate = self.gate.map(|gate| gate.rows(first, n));
        let largest_of = self.largest_of.map(|(families, parents)| (families, parents.rows(first, n)));
        Self { x: self.x.part(first * d..(first + n) * d), gate, largest_of, screen: None, ..*self }
    }
}

impl HitSlots {
    fn of(&self, n: usize, room: usize) -> Hits<'_> {
        let all = n * room;
        let (found, index) = (self.found.of(n), self.index.of(all));
        Hits { room, found, index, upper: self.upper.of(all), likely: self.likely.of(all) }
    }
}

impl Again {
    /// Computes the rows `which` in full.
    fn run(
        &mut self,
        search: &Search<'_>,
        k: usize,
        which: &[u32],
        raw: &mut ListSlots,
        sorted: &mut ListSlots,
        kept: Lists<'_>,
    ) -> Result<()> {
        let (n, d, device) = (which.len(), search.weights.d, search.x.device());
        let rows = self.which.room(device, n)?;
        rows.put(which)?;
        let x = self.x.room(device, n * d)?;
        kernels::gather_rows(rows, search.x, d, x)?;
        let mut gate = search.gate;
        if let Some(gate) = &mut gate {
            let active = self.active.room(device, n * gate.words)?;
            kernels::gather_words(rows, gate.active, gate.words, active)?;
            gate.active = active;
        }
        let lists = self.kept.room(device, n, k)?;
        let again = Search { x, gate, screen: None, ..*search };
        again.full(k, raw, sorted, self.least.room(device, n)?, lists)?;
        kernels::scatter_lists(rows, lists, kept)
    }
}

impl Guess {
    /// Returns the guess that bars start at so many norms.
    pub fn starting_at(ratio: f32) -> Self {
        Self { room: 0, ratio }
    }

    /// Takes in the `k`-th largest pre-activations of some rows, 0 where there are fewer, and the norms of these rows: the guess
    /// is slightly below that of most of them.
    fn learn(&mut self, least: &[f32], norms: &[f32]) {
        let mut ratios: Vec<f32> = least.iter().zip(norms).map(|(least, norm)| least / norm).collect();
        ratios.iter_mut().filter(|r| !r.is_finite()).for_each(|r| *r = 0.0);
        if !ratios.is_empty() {
            let at = ratios.len() / 16;
            self.ratio = 0.97 * *ratios.select_nth_unstable_by(at, f32::total_cmp).1;
        }
    }
}
