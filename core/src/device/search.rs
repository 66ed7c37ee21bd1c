//! The latents of rows whose pre-activation reaches a limit: the fused encoder of [`kernel::fire`](crate::kernel::fire) on a
//! device, with the same lists.
//!
//! What the screen leaves is computed exactly. For the `k` largest the bars start from a guess, a multiple of the norm of the row,
//! and rise to what the `k` strongest hits most probably exceed; `k` exact values above the bar prove that none is missing. Rows
//! without the proof are computed in full. Lists have room for a guess too: where a row needs more, all is launched again. Both are
//! found on the device, so that a search can be queued ([`Search::queue`]) and the host looks later at what it has lacked.

use super::kernels::{self, Bar, Bytes, Hits, Weights};
use super::lists::{FamiliesOn, Gate, ListSlots, Lists};
use super::{Device, Part, Slot};
use crate::error::Result;
use alloc::vec::Vec;

/// Most numbers of the lists of rows that are computed in full together.
const FULL: usize = 1 << 24;
/// Rows that the first guess of a bar is made from.
const FIRST: usize = 32;
/// Most rows that a guess is learnt from.
const LEARN: usize = 1024;
/// Numbers of [`Needs::found`].
pub(crate) const NEEDS: usize = 2;

/// Where a search that was queued says what it has found and what it lacked.
#[derive(Clone, Copy)]
pub(crate) struct Needs<'a> {
    /// One number, which is not 0 where lists are not complete.
    pub bad: Part<'a, u32>,
    /// `(NEEDS)`, zeros before: the most entries of a row, and the rows that were computed in full for lack of a proof.
    pub found: Part<'a, u32>,
}

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
    /// Rows that can be computed in full for lack of a proof.
    poor: usize,
    /// Whether there is a ratio, which is 0 where rows have too few pre-activations above 0.
    is_made: bool,
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
    words: Slot<u32>,
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

    /// Writes the lists of all rows to `out`, latents ascending, and returns their room. The host waits for the device to know whether
    /// there was room.
    pub fn run(&self, guess: &mut Guess, work: &mut Work, out: &mut ListSlots) -> Result<usize> {
        let (n, device) = (self.n(), self.x.device());
        self.prepare(guess, work)?;
        let (mut words, mut least) = (core::mem::take(&mut work.words), core::mem::take(&mut work.least));
        let all = words.room(device, 1 + NEEDS)?;
        let smallest = least.room(device, n)?;
        let room = loop {
            all.zero()?;
            let needs = Needs { bad: all.part(0..1), found: all.part(1..1 + NEEDS) };
            let room = self.queue(guess, work, out, needs, smallest)?;
            let read = all.to_vec()?;
            if !guess.lacks([read[1], read[2]], n, self.f()) {
                break room;
            }
        };
        if let Some([rows, _]) = self.screen.filter(|_| self.is_guessed()) {
            guess.learn_from(rows.known, smallest)?;
        }
        (work.words, work.least) = (words, least);
        Ok(room)
    }

    /// Returns whether the `k` largest are found from a guess.
    fn is_guessed(&self) -> bool {
        matches!(self.limit, Limit::Topk(k) if k > 0) && self.largest_of.is_none() && self.screen.is_some()
    }

    /// Makes the first guess of a level, for which the host waits for the device.
    pub fn prepare(&self, guess: &mut Guess, work: &mut Work) -> Result<()> {
        let (Limit::Topk(k), Some([rows, _])) = (self.limit, self.screen) else { return Ok(()) };
        if guess.is_made || !self.is_guessed() {
            return Ok(());
        }
        let first = self.n().min(FIRST);
        let (mut kept, device) = (ListSlots::default(), self.x.device());
        let least = device.alloc(first)?;
        let few = kept.room(device, first, k.min(self.f()))?;
        self.only(0, first).full(k.min(self.f()), &mut work.raw, &mut work.sorted, least.all(), few, None)?;
        guess.learn_from(rows.known, least.all())
    }

    /// Starts to write the lists of all rows to `out`, latents ascending, and returns their room, without waiting for the device. They
    /// are complete unless `needs.bad` says otherwise: [`Guess::lacks`] then gives what was missing. `least` receives the smallest of
    /// the `k` largest of each row, for [`Guess::learn_from`].
    pub fn queue(
        &self,
        guess: &mut Guess,
        work: &mut Work,
        out: &mut ListSlots,
        needs: Needs<'_>,
        least: Part<'_, f32>,
    ) -> Result<usize> {
        let (n, device) = (self.n(), self.x.device());
        if guess.room == 0 {
            let k = if let Limit::Topk(k) = self.limit { k } else { 0 };
            guess.room = (4 * k + 256).min(self.f());
        }
        let k = match self.limit {
            Limit::Topk(k) => k.min(self.f()),
            Limit::Above(_) | Limit::Each(_) => {
                self.above(guess.room, work, needs)?;
                core::mem::swap(&mut work.sorted, out);
                return Ok(guess.room);
            }
        };
        let kept = out.room(device, n, k)?;
        if k == 0 {
            kept.count.zero()?;
        } else if self.largest_of.is_some() {
            self.above(guess.room, work, needs)?;
            kernels::keep_largest(k, work.sorted.of(n, guess.room), least, kept)?;
        } else if self.screen.is_some() {
            self.largest(k, guess, work, kept, needs, least)?;
        } else {
            self.full(k, &mut work.raw, &mut work.sorted, least, kept, None)?;
        }
        Ok(k)
    }

    /// Writes to `work.sorted` what exceeds a limit that is known before; a selection of the largest has the limit 0.
    fn above(&self, room: usize, work: &mut Work, needs: Needs<'_>) -> Result<()> {
        let (n, f, device) = (self.n(), self.f(), self.x.device());
        let bar = match self.limit {
            Limit::Above(limit) => Bar::One(limit),
            Limit::Each(limits) => Bar::Each(limits),
            Limit::Topk(_) => Bar::One(0.0),
        };
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
            (None, None) => kernels::product_above(self.x, self.weights, bar, self.gate, None, lists)?,
        }
        kernels::most_found(needed, room, needs.found.part(0..1), needs.bad)?;
        kernels::rows_in_order(f, lists, work.sorted.room(device, n, room)?)
    }

    /// Writes the `k` largest of each row to `kept`, with every pre-activation computed; of as many rows as `there` says.
    fn full(
        &self,
        k: usize,
        raw: &mut ListSlots,
        sorted: &mut ListSlots,
        least: Part<'_, f32>,
        kept: Lists<'_>,
        there: Option<Part<'_, u32>>,
    ) -> Result<()> {
        let (n, f, d, device) = (self.n(), self.f(), self.weights.d, self.x.device());
        let together = (FULL / f).max(32).min(n);
        for first in (0..n).step_by(together.max(1)) {
            let rows = together.min(n - first);
            let x = self.x.part(first * d..(first + rows) * d);
            let gate = self.gate.map(|gate| gate.rows(first, rows));
            let lists = raw.room(device, rows, f)?;
            lists.count.zero()?;
            let there = there.map(|there| (there, first));
            kernels::product_above(x, self.weights, Bar::One(0.0), gate, there, lists)?;
            let sorted = sorted.room(device, rows, f)?;
            kernels::rows_in_order(f, lists, sorted)?;
            kernels::keep_largest(k, sorted, least.part(first..first + rows), kept.rows(first, rows))?;
        }
        Ok(())
    }

    /// Writes the `k` largest of each row to `kept`, through the screen.
    fn largest(
        &self,
        k: usize,
        guess: &mut Guess,
        work: &mut Work,
        kept: Lists<'_>,
        needs: Needs<'_>,
        least: Part<'_, f32>,
    ) -> Result<()> {
        let (n, f, d, device) = (self.n(), self.f(), self.weights.d, self.x.device());
        let Some([rows, latents]) = self.screen else { return Ok(()) };
        let Work { bar, hits: slots, raw, sorted, again, .. } = work;
        let bar = bar.room(device, n)?;
        // As in `kernel::screen`: five times the size of a sum of `d` independent errors.
        let share = (3.0 / libm::sqrtf(d as f32)).min(1.0);
        guess.room = guess.room.max(k);
        guess.poor = guess.poor.max(FIRST);
        let room = guess.room;
        kernels::start_bars(rows.known, guess.ratio, 0.0, bar)?;
        let hits = slots.room(device, n, room)?;
        kernels::screen(rows, latents, d, bar, share, self.gate, hits)?;
        let left = (slots.left.of(n), slots.left_index.of(n * room));
        kernels::raise_bars(k, slots.of(n, room), bar, left)?;
        let lists = raw.room(device, n, room)?;
        lists.count.zero()?;
        kernels::exact_above(self.x, self.weights, bar, None, left, lists)?;
        let sorted_lists = sorted.room(device, n, room)?;
        kernels::rows_in_order(f, lists, sorted_lists)?;
        kernels::keep_largest(k, sorted_lists, least, kept)?;
        let [most, poor] = [needs.found.part(0..1), needs.found.part(1..2)];
        kernels::most_found(slots.found.of(n), room, most, needs.bad)?;
        // `k` exact values above the bar prove that none is missing; without them the row is computed in full.
        let which = again.which.room(device, guess.poor.min(n))?;
        kernels::poor_rows(k, kept.count, bar, which, poor, needs.bad)?;
        again.queue(self, k, guess.poor.min(n), poor, [raw, sorted], kept)
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
    /// Computes the rows of `which` in full: as many as `there` says, at most `n`.
    fn queue(
        &mut self,
        search: &Search<'_>,
        k: usize,
        n: usize,
        there: Part<'_, u32>,
        [raw, sorted]: [&mut ListSlots; 2],
        kept: Lists<'_>,
    ) -> Result<()> {
        let (d, device, rows) = (search.weights.d, search.x.device(), self.which.of(n));
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
        again.full(k, raw, sorted, self.least.room(device, n)?, lists, Some(there))?;
        kernels::scatter_lists(rows, lists, kept)
    }
}

impl Guess {
    /// Returns the guess that bars start at so many norms.
    pub fn starting_at(ratio: f32) -> Self {
        Self { ratio, is_made: true, ..Self::default() }
    }

    /// Takes in what a search of `n` rows has found in its [`Needs::found`]: the most entries of a row, and the rows without proof.
    /// Returns whether it lacked room, so that it must be queued again; there is then more.
    pub fn lacks(&mut self, [most, poor]: [u32; NEEDS], n: usize, f: usize) -> bool {
        if most as usize > self.room {
            self.room = (most as usize).next_power_of_two().min(f);
            return true;
        }
        let lacks = poor as usize > self.poor.min(n);
        if lacks {
            self.poor = (poor as usize).next_power_of_two();
        }
        lacks
    }

    /// Learns from the `k`-th largest pre-activations `least` of some rows, 0 where too few exceeded the bar, and from what is known of
    /// these rows, `(n, ROUNDED)`.
    pub fn learn_from(&mut self, known: Part<'_, f32>, least: Part<'_, f32>) -> Result<()> {
        let n = least.len().min(LEARN);
        let known = known.part(0..n * kernels::ROUNDED).to_vec()?;
        let norms: Vec<f32> = known.chunks(kernels::ROUNDED).map(|row| row[1]).collect();
        self.learn(&least.part(0..n).to_vec()?, &norms);
        Ok(())
    }

    /// The guess is slightly below what most rows had that had enough; where many had not, it falls.
    fn learn(&mut self, least: &[f32], norms: &[f32]) {
        self.is_made = true;
        let ratios = least.iter().zip(norms).map(|(least, norm)| least / norm);
        let mut ratios: Vec<f32> = ratios.filter(|r| r.is_finite() && *r > 0.0).collect();
        let poor = least.len() - ratios.len();
        if ratios.is_empty() {
            self.ratio = 0.0;
            return;
        }
        let at = ratios.len() / 16;
        let fall = if poor > least.len() / 8 { 0.8 } else { 1.0 };
        self.ratio = 0.97 * fall * *ratios.select_nth_unstable_by(at, f32::total_cmp).1;
    }
}
