//! The fused encoder: from rows to the latents that may fire, in one pass with products, bias and selection of a tile
//! while it is in the cache. Pre-activations are never written out as a whole.

use alloc::vec::Vec;

use super::dense::{self, Matrix, Pair, Pick, X_GROUP};
use super::screen::{self, Bars, Rising, Screen, Visits};
use super::select::{above_each_body, keep_largest, scan};
use super::weight::Weight;
use super::{Isa, LANES};

/// Latents of a tile.
const WIDTH: usize = 4 * LANES;

/// The limit that a pre-activation must reach.
#[derive(Clone, Copy, Debug)]
pub enum Limit<'a> {
    /// `u > t`.
    Above(f32),
    /// `u_j > t_j`, given for all rows of the weights.
    AboveEach(&'a [f32]),
    /// The `k` largest positive ones of a row; of equal ones, those with the lower index.
    Topk(usize),
}

impl Limit<'_> {
    /// Returns the limit where all latents have the same; else 0.
    pub(crate) fn one(&self) -> f32 {
        if let Self::Above(limit) = self { *limit } else { 0.0 }
    }
}

/// A search for the latents of rows whose pre-activation reaches a limit.
#[derive(Clone, Copy, Debug)]
pub struct Search<'a, W = f32> {
    /// `[n, d]`: rows.
    pub x: &'a [f32],
    /// `[f, d]`: the encoder rows of the latents that take part.
    pub w: Matrix<'a, W>,
    /// Biases, given for all rows of the weights.
    pub bias: &'a [f32],
    /// What a pre-activation must reach.
    pub limit: Limit<'a>,
}

/// The entries of several rows, each list in ascending order of the index.
#[derive(Clone, Debug, Default)]
pub struct RowLists {
    rows: Vec<RowList>,
    n: usize,
}

#[derive(Clone, Debug, Default)]
struct RowList {
    index: Vec<u32>,
    value: Vec<f32>,
    /// Top-k only: the value that the next entry must exceed.
    limit: f32,
}

impl RowLists {
    /// Empties the lists of `n` rows and keeps the memory.
    pub(crate) fn reset(&mut self, n: usize, start: f32) {
        if self.rows.len() < n {
            self.rows.resize_with(n, RowList::default);
        }
        self.n = n;
        for row in &mut self.rows[..n] {
            row.index.clear();
            row.value.clear();
            row.limit = start;
        }
    }

    /// Makes capacity for `each` entries, the most there can be, in each of `n` rows, with the scratch for selecting
    /// the `k` largest of them.
    pub fn reserve(&mut self, n: usize, each: usize, limit: Limit<'_>) {
        if self.rows.len() < n {
            self.rows.resize_with(n, RowList::default);
        }
        let (index, value) = match limit {
            Limit::Topk(k) => {
                let room = topk_room(k).saturating_add(WIDTH).min(each.saturating_add(WIDTH));
                (room, 2 * room)
            }
            _ => (each, each),
        };
        for row in &mut self.rows {
            row.index.reserve(index);
            row.value.reserve(value);
        }
    }

    /// Makes capacity for `each` entries, the most there can be, in each of `n` rows that are not filled in ascending
    /// order.
    pub(crate) fn reserve_unsorted(&mut self, n: usize, each: usize) {
        if self.rows.len() < n {
            self.rows.resize_with(n, RowList::default);
        }
        for row in &mut self.rows {
            row.index.reserve(each);
            row.value.reserve(2 * each);
        }
    }

    /// Adds an entry to row `i`.
    pub(crate) fn push(&mut self, i: usize, index: u32, value: f32) {
        self.rows[i].index.push(index);
        self.rows[i].value.push(value);
    }

    /// Returns the number of rows.
    #[must_use]
    pub fn n(&self) -> usize {
        self.n
    }

    /// Returns the indices and pre-activations of row `i`.
    ///
    /// # Panics
    /// If there is no such row.
    #[must_use]
    pub fn row(&self, i: usize) -> (&[u32], &[f32]) {
        let row = &self.rows[..self.n][i];
        (&row.index, &row.value)
    }
}

/// Numbers of pairs of a row and a latent that were computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// In 8 bits, including places of the screen without a latent.
    pub screened: u64,
    /// In `f32`.
    pub exact: u64,
}

/// Working memory of [`fire`]; reused from block to block.
#[derive(Clone, Debug, Default)]
pub struct Scratch {
    /// The work done so far.
    pub work: Work,
    tile: Vec<f32>,
    screen: screen::Scratch,
    pairs: Vec<Pair>,
    values: Vec<f32>,
    /// For the last two pairs of `(f, k)`, since the levels of a model share a scratch.
    guesses: [Guess; 2],
    /// Whether the current rows are already rounded.
    rounded: bool,
    /// Rows that the screen leaves over, and a spare list for them.
    left: Vec<u32>,
    spare: Vec<u32>,
    /// Entries of a row while it is sorted.
    entries: Vec<u64>,
}

/// First guess of the limits of top-k, as a multiple of the norm of a row.
#[derive(Clone, Debug, Default)]
struct Guess {
    f: usize,
    k: usize,
    ratio: f32,
    /// Limits over norms of the rows so far.
    seen: Vec<f32>,
}

impl Guess {
    /// Numbers of rows that a guess, and the first guess, are made from.
    const ROWS: usize = 64;
    const FIRST: usize = 6;

    /// Moves the guess for `k` of `f` latents to the first place.
    fn of(all: &mut [Self; 2], f: usize, k: usize) -> &mut Self {
        if (all[0].f, all[0].k) != (f, k) {
            all.swap(0, 1);
        }
        if (all[0].f, all[0].k) != (f, k) {
            all[0].seen.clear();
            all[0] = Self { f, k, ratio: 0.0, seen: core::mem::take(&mut all[0].seen) };
        }
        &mut all[0]
    }

    fn see(&mut self, limit: f32, norm: f32) {
        let ratio = limit / norm;
        self.seen.push(if ratio.is_finite() { ratio } else { 0.0 });
    }

    /// Returns a guess slightly below the limits of most rows: a row whose limit is lower is screened again, and a row
    /// whose limit is far higher collects more than it needs.
    fn learn(&mut self) {
        if self.seen.len() >= if self.ratio > 0.0 { Self::ROWS } else { Self::FIRST } {
            let at = self.seen.len() / 16;
            self.ratio = 0.97 * *self.seen.select_nth_unstable_by(at, f32::total_cmp).1;
            self.seen.clear();
        }
    }
}

impl Scratch {
    /// Makes capacity for the hits of so many panels.
    pub(crate) fn reserve_panels(&mut self, panels: usize) {
        self.screen.hits.reserve(0, panels);
    }

    /// Makes capacity for blocks of `n` rows of width `d` against `f` latents.
    pub fn reserve(&mut self, n: usize, f: usize, d: usize, screened: Option<&Screen>, limit: Limit<'_>) {
        self.tile.reserve(dense_rows(d).min(n) * WIDTH.min(f));
        if let Some(screen) = screened {
            let k = if let Limit::Topk(k) = limit { Some(k) } else { None };
            let most = screen.reserve(n, k, &mut self.screen);
            self.left.reserve(n);
            self.spare.reserve(n);
            self.entries.reserve(f);
            self.guesses.iter_mut().for_each(|guess| guess.seen.reserve(n + Guess::ROWS));
            self.pairs.reserve(most);
            self.values.reserve(most);
        }
    }
}

/// Rows that fit into a cache of the second level while weights stream past.
fn dense_rows(d: usize) -> usize {
    (X_GROUP / d.max(1)).max(1).next_multiple_of(24)
}

/// Entries that a row collects before they are reduced to the `k` largest.
fn topk_room(k: usize) -> usize {
    k.saturating_add(k.max(64))
}

/// Writes the latents of each row whose pre-activation `u_ij = bias_j + x_i . w_j` reaches the limit, with that
/// pre-activation.
///
/// | argument | shape | layout |
/// |---|---|---|
/// | `search.x` | `[n, d]` | row-major |
/// | `search.w` | `[f, d]` | the rows picked, ascending |
/// | `search.bias` | all rows of the weights | |
/// | `screen` | those picked | the same weights in 8 bits, or none |
/// | `out` | `[n]` lists | written; indices are rows of the weights, ascending; NaN is left out |
///
/// Pre-activations have the bits of [`dense::affine`]; the result does not depend on `screen`. Cost: the product of
/// `n` rows with `f` latents in the caller's thread, or with a screen a fourth to a sixth of it.
///
/// # Panics
/// If the lengths do not fit.
pub fn fire<W: Weight>(isa: Isa, search: Search<'_, W>, screen: Option<&Screen>, t: &mut Scratch, out: &mut RowLists) {
    let Search { x, w, limit, .. } = search;
    let d = w.d;
    let n = x.len().checked_div(d).unwrap_or(0);
    assert_eq!(x.len(), n * d, "fire: x is not [n, d]");
    out.reset(n, if let Limit::Above(t) = limit { t } else { 0.0 });
    // In any case the rows that were rounded before are not these.
    t.screen.forget();
    if w.rows.is_empty() || matches!(limit, Limit::Topk(0)) {
        return;
    }
    t.left.clear();
    t.rounded = false;
    match screen {
        None => in_full(isa, search, Pick::Range(0, n), t, out),
        Some(screen) if screened(isa, search, screen, Visits::All, t, out) => {
            let left = core::mem::take(&mut t.left);
            in_full(isa, search, Pick::List(&left), t, out);
            t.left = left;
        }
        Some(_) => in_full(isa, search, Pick::Range(0, n), t, out),
    }
}

/// Runs [`fire`] for the pairs of `visits` only. Returns the rows that are left to the caller, whose lists are empty;
/// these are all rows if the screen passed so many pairs that it did not pay. `rounded` says that `x` has the rows that
/// the scratch was used with last, which then need not be rounded again.
pub(crate) fn behind<'t, W: Weight>(
    isa: Isa,
    search: Search<'_, W>,
    screen: &Screen,
    visits: Visits<'_>,
    rounded: bool,
    t: &'t mut Scratch,
    out: &mut RowLists,
) -> &'t [u32] {
    let d = search.w.d;
    let n = search.x.len() / d;
    out.reset(n, 0.0);
    t.left.clear();
    t.rounded = rounded && t.screen.has(n, d);
    if !screened(isa, search, screen, visits, t, out) {
        t.left.clear();
        t.left.extend(0..n as u32);
    }
    &t.left
}

/// Runs [`fire`] for the rows `which`, whose lists are empty, with every pre-activation computed.
pub(crate) fn in_full<W: Weight>(
    isa: Isa,
    search: Search<'_, W>,
    which: Pick<'_>,
    t: &mut Scratch,
    out: &mut RowLists,
) {
    let Search { x, w, bias, limit } = search;
    t.work.exact += (which.len() * w.rows.len()) as u64;
    let tile = &mut t.tile;
    let (f, rows) = (w.rows.len(), dense_rows(w.d));
    for start in (0..which.len()).step_by(rows) {
        let which = which.part(start..which.len().min(start + rows));
        for first in (0..f).step_by(WIDTH) {
            let part = w.only(w.rows.part(first..f.min(first + WIDTH)));
            tile.resize(which.len() * part.rows.len(), 0.0);
            dense::product(isa, Matrix::all(x, w.d).only(which), part, Some(bias), tile);
            select_tile(isa, tile, part, limit, which, &mut out.rows);
        }
        if let Limit::Topk(k) = limit {
            for at in 0..which.len() {
                cut(&mut out.rows[which.row(at)], k);
            }
        }
    }
}

/// Adds the entries of a tile `(rows, latents of part)` that reach the limit.
fn select_tile<W: Weight>(
    isa: Isa,
    u: &[f32],
    part: Matrix<'_, W>,
    limit: Limit<'_>,
    which: Pick<'_>,
    rows: &mut [RowList],
) {
    let width = part.rows.len();
    dispatch!(isa, simd => {
        for (at, u) in u.chunks_exact(width).enumerate() {
            let row = &mut rows[which.row(at)];
            match limit {
                Limit::Above(_) => {
                    let RowList { index, value, limit } = row;
                    scan(simd, u, *limit, #[inline(always)] |at, u| {
                        index.push(part.rows.row(at) as u32);
                        value.push(u);
                        *limit
                    });
                }
                Limit::AboveEach(t) => {
                    let mut thresholds = [0.0; WIDTH];
                    for at in 0..width {
                        thresholds[at] = t[part.rows.row(at)];
                    }
                    let first = row.index.len();
                    above_each_body(simd, u, &thresholds[..width], &mut row.index, &mut row.value);
                    row.index[first..].iter_mut().for_each(|at| *at = part.rows.row(*at as usize) as u32);
                }
                Limit::Topk(k) => {
                    let RowList { index, value, limit } = row;
                    scan(simd, u, *limit, #[inline(always)] |at, u| {
                        index.push(part.rows.row(at) as u32);
                        value.push(u);
                        if index.len() >= topk_room(k) {
                            *limit = keep_largest(0, k, index, value);
                        }
                        *limit
                    });
                }
            }
        }
    });
}

/// Keeps the `k` largest; returns the smallest of them, or 0 if there are fewer.
fn cut(row: &mut RowList, k: usize) -> f32 {
    match row.index.len() {
        n if n > k => keep_largest(0, k, &mut row.index, &mut row.value),
        n if n == k => row.value.iter().copied().fold(f32::INFINITY, f32::min),
        _ => 0.0,
    }
}

/// Runs [`fire`] through the screen, except for the rows that it puts into `t.left`; returns `false` if so many latents
/// were left that this does not pay.
fn screened<W: Weight>(
    isa: Isa,
    search: Search<'_, W>,
    screen: &Screen,
    visits: Visits<'_>,
    t: &mut Scratch,
    out: &mut RowLists,
) -> bool {
    let Search { x, w, limit, .. } = search;
    assert_eq!(screen.latents(), w.rows.len(), "fire: the screen has other latents");
    let n = out.n;
    let (start, below) = match limit {
        Limit::Above(t) => (t, None),
        Limit::AboveEach(t) => (0.0, Some(t)),
        Limit::Topk(k) => return topk(isa, search, k.min(screen.latents()), screen, visits, t, out),
    };
    if !t.rounded {
        screen.round(isa, x, &mut t.screen);
    }
    t.screen.bar.clear();
    t.screen.bar.resize(n, start);
    if !screen.pass(isa, n, visits, Bars { below, rising: None }, &mut t.screen, &mut t.work.screened) {
        return false;
    }
    exact(isa, search, Pick::Range(0, n), screen, t);
    for (pair, &u) in t.pairs.iter().zip(&t.values) {
        if u > below.map_or(start, |t| t[pair.latent as usize]) {
            let row = &mut out.rows[pair.row as usize];
            row.index.push(pair.latent);
            row.value.push(u);
        }
    }
    if !in_order(screen, visits) {
        out.rows[..n].iter_mut().for_each(|row| row.sort(&mut t.entries));
    }
    true
}

/// Whether latents ascend.
fn in_order(screen: &Screen, visits: Visits<'_>) -> bool {
    screen.ascending() && matches!(visits, Visits::All)
}

/// Selects the `k` largest through the screen. Where all latents meet all rows, the bars start from a guess, and then
/// from 0 for the rows for which it was too high. Rows that are not proven by then are left over.
fn topk<W: Weight>(
    isa: Isa,
    search: Search<'_, W>,
    k: usize,
    screen: &Screen,
    visits: Visits<'_>,
    t: &mut Scratch,
    out: &mut RowLists,
) -> bool {
    let n = out.n;
    let bars = Bars { below: None, rising: Some(Rising::new(k, search.w.d)) };
    let sorted = in_order(screen, visits);
    if !t.rounded {
        screen.round(isa, search.x, &mut t.screen);
    }
    t.screen.bar.clear();
    let guess = Guess::of(&mut t.guesses, screen.latents(), k);
    if let Visits::Groups { .. } = visits {
        t.screen.bar.resize(n, 0.0);
        if !screen.pass(isa, n, visits, bars, &mut t.screen, &mut t.work.screened) {
            return false;
        }
        exact(isa, search, Pick::Range(0, n), screen, t);
        let seen = t.guesses[0].seen.len();
        largest(k, Pick::Range(0, n), sorted, t, out);
        // Bars that started at 0 do not inform a guess.
        t.guesses[0].seen.truncate(seen);
        return true;
    }
    if guess.ratio == 0.0 && n >= 8 * Guess::FIRST {
        t.screen.bar.resize(Guess::FIRST, 0.0);
        if !screen.pass(isa, Guess::FIRST, visits, bars, &mut t.screen, &mut t.work.screened) {
            return false;
        }
        for i in 0..Guess::FIRST {
            guess.see(t.screen.bar[i], t.screen.norm(i));
        }
        guess.learn();
        t.screen.bar.clear();
    }
    for i in 0..n {
        let start = guess.ratio * t.screen.norm(i);
        t.screen.bar.push(if start.is_finite() { start } else { 0.0 });
    }
    if !screen.pass(isa, n, visits, bars, &mut t.screen, &mut t.work.screened) {
        guess.ratio = 0.0;
        return false;
    }
    exact(isa, search, Pick::Range(0, n), screen, t);
    largest(k, Pick::Range(0, n), sorted, t, out);
    if !t.left.is_empty() && t.guesses[0].ratio > 0.0 {
        core::mem::swap(&mut t.left, &mut t.spare);
        t.left.clear();
        let again = core::mem::take(&mut t.spare);
        t.screen.only(&again);
        t.screen.bar.clear();
        t.screen.bar.resize(again.len(), 0.0);
        if screen.pass(isa, again.len(), visits, bars, &mut t.screen, &mut t.work.screened) {
            exact(isa, search, Pick::List(&again), screen, t);
            largest(k, Pick::List(&again), sorted, t, out);
        } else {
            t.left.extend_from_slice(&again);
        }
        t.spare = again;
    }
    t.guesses[0].learn();
    true
}

/// Puts the entries that exceed the bars into the lists of the rows `which`, and keeps the `k` largest; rows for which
/// this proves nothing go to `t.left`. `sorted` says whether latents ascend.
fn largest(k: usize, which: Pick<'_>, sorted: bool, t: &mut Scratch, out: &mut RowLists) {
    for at in 0..which.len() {
        out.rows[which.row(at)].limit = t.screen.bar[at];
    }
    let room = if sorted { topk_room(k) } else { usize::MAX };
    for (pair, &u) in t.pairs.iter().zip(&t.values) {
        let row = &mut out.rows[pair.row as usize];
        if u > row.limit {
            row.index.push(pair.latent);
            row.value.push(u);
            if row.index.len() >= room {
                row.limit = keep_largest(0, k, &mut row.index, &mut row.value);
            }
        }
    }
    for at in 0..which.len() {
        let row = &mut out.rows[which.row(at)];
        if !sorted {
            row.sort(&mut t.entries);
        }
        let least = cut(row, k);
        // All entries that exceed the bar were found: if they are `k`, or all that are positive, none is missing.
        if row.index.len() == k || t.screen.bar[at] == 0.0 {
            t.guesses[0].see(least, t.screen.norm(at));
        } else {
            t.left.push(which.row(at) as u32);
            row.index.clear();
            row.value.clear();
            row.limit = 0.0;
        }
    }
}

impl RowList {
    /// Sorts the entries by ascending index.
    fn sort(&mut self, t: &mut Vec<u64>) {
        t.clear();
        t.extend(self.index.iter().zip(&self.value).map(|(j, u)| u64::from(*j) << 32 | u64::from(u.to_bits())));
        t.sort_unstable();
        for ((j, u), entry) in self.index.iter_mut().zip(&mut self.value).zip(t) {
            (*j, *u) = ((*entry >> 32) as u32, f32::from_bits(*entry as u32));
        }
    }
}

/// Pre-activations of the hits that exceed the bars in the end; the rows that were screened are the rows `which` of `x`.
fn exact<W: Weight>(isa: Isa, search: Search<'_, W>, which: Pick<'_>, screen: &Screen, t: &mut Scratch) {
    t.screen.hits.sort(&t.screen.bar, which, screen.places(), &mut t.pairs);
    t.work.exact += t.pairs.len() as u64;
    t.values.resize(t.pairs.len(), 0.0);
    dense::pairs(isa, search.x, search.w, search.bias, &t.pairs, &mut t.values);
}
