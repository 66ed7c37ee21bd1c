//! From rows to the latents that may fire, in one pass: products, bias and selection of a tile while it is in the cache.
//! Pre-activations are never written out as a whole.

use alloc::vec::Vec;

use super::dense::{self, Matrix, Pair, X_GROUP};
use super::screen::{self, Screen};
use super::select::{above_each_body, keep_largest, scan};
use super::{Isa, LANES};

/// Latents of a tile.
const WIDTH: usize = 4 * LANES;

/// What a pre-activation must reach.
#[derive(Clone, Copy, Debug)]
pub enum Limit<'a> {
    /// `u > t`.
    Above(f32),
    /// `u_j > t_j`, given for all rows of the weights.
    AboveEach(&'a [f32]),
    /// The `k` largest positive ones of a row; of equal ones, those with the lower index.
    Topk(usize),
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
    /// What the next entry must exceed, top-k only.
    limit: f32,
}

impl RowLists {
    /// Empties the lists of `n` rows; keeps the memory.
    fn reset(&mut self, n: usize, start: f32) {
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

    /// Room for `each` entries, all that there can be, in each of `n` rows, with what selecting the `k` largest of them needs besides.
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

    /// The number of rows.
    #[must_use]
    pub fn n(&self) -> usize {
        self.n
    }

    /// Indices and pre-activations of row `i`.
    ///
    /// # Panics
    /// If there is no such row.
    #[must_use]
    pub fn row(&self, i: usize) -> (&[u32], &[f32]) {
        let row = &self.rows[..self.n][i];
        (&row.index, &row.value)
    }
}

/// What [`fire`] needs besides; reused from block to block.
#[derive(Clone, Debug, Default)]
pub struct Scratch {
    tile: Vec<f32>,
    screen: screen::Scratch,
    pairs: Vec<Pair>,
    values: Vec<f32>,
}

impl Scratch {
    /// Room for blocks of `n` rows of width `d` against `f` latents.
    pub fn reserve(&mut self, n: usize, f: usize, d: usize, screened: Option<&Screen>, limit: Limit<'_>) {
        self.tile.reserve(dense_rows(d).min(n) * WIDTH.min(f));
        if let Some(screen) = screened {
            let k = if let Limit::Topk(k) = limit { Some(k) } else { None };
            let most = screen.reserve(n, k, &mut self.screen);
            self.pairs.reserve(most);
            self.values.reserve(most);
        }
    }
}

/// Rows that stay in a cache of the second level, beside which weights go by.
fn dense_rows(d: usize) -> usize {
    (X_GROUP / d.max(1)).max(1).next_multiple_of(24)
}

/// Entries that a row collects before they are cut to the `k` largest.
fn topk_room(k: usize) -> usize {
    k.saturating_add(k.max(64))
}

/// The latents of each row whose pre-activation `u_ij = bias_j + x_i . w_j` reaches the limit, with that pre-activation.
///
/// | argument | shape | layout |
/// |---|---|---|
/// | `x` | `[n, d]` | row-major |
/// | `w` | `[f, d]` | the rows picked, ascending |
/// | `bias` | all rows of the weights | |
/// | `screen` | those picked | the same weights in 8 bits, or none |
/// | `out` | `[n]` lists | written; indices are rows of the weights, ascending; NaN is left out |
///
/// Pre-activations have the bits of [`dense::affine`]; the result does not depend on `screen`. Cost: the product of
/// `n` rows with `f` latents in the caller's thread, or with a screen a fourth to a sixth of it.
///
/// # Panics
/// If the lengths do not fit.
pub fn fire(
    isa: Isa,
    x: &[f32],
    w: Matrix<'_>,
    bias: &[f32],
    limit: Limit<'_>,
    screen: Option<&Screen>,
    t: &mut Scratch,
    out: &mut RowLists,
) {
    let d = w.d;
    let n = x.len().checked_div(d).unwrap_or(0);
    assert_eq!(x.len(), n * d, "fire: x is not [n, d]");
    out.reset(n, if let Limit::Above(t) = limit { t } else { 0.0 });
    if w.rows.is_empty() || matches!(limit, Limit::Topk(0)) {
        return;
    }
    if let Some(screen) = screen
        && screened(isa, x, w, bias, limit, screen, t, out)
    {
        return;
    }
    let rows = dense_rows(d);
    for (b, x) in x.chunks(rows * d).enumerate() {
        let n = x.len() / d;
        let f = w.rows.len();
        for first in (0..f).step_by(WIDTH) {
            let part = w.only(w.rows.part(first..f.min(first + WIDTH)));
            let width = part.rows.len();
            t.tile.resize(n * width, 0.0);
            dense::product(isa, Matrix::all(x, d), part, Some(bias), &mut t.tile);
            select_tile(isa, &t.tile, part, limit, &mut out.rows[b * rows..b * rows + n]);
        }
    }
    if let Limit::Topk(k) = limit {
        out.rows[..n].iter_mut().for_each(|row| cut(row, k));
    }
}

/// Adds what reaches the limit in a tile `(rows, latents of part)`.
fn select_tile(isa: Isa, u: &[f32], part: Matrix<'_>, limit: Limit<'_>, rows: &mut [RowList]) {
    let width = part.rows.len();
    dispatch!(isa, simd => {
        for (u, row) in u.chunks_exact(width).zip(rows) {
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

/// Leaves the `k` largest.
fn cut(row: &mut RowList, k: usize) {
    if row.index.len() > k {
        keep_largest(0, k, &mut row.index, &mut row.value);
    }
}

/// [`fire`] by way of the screen; `false` if it left too many for that to pay.
fn screened(
    isa: Isa,
    x: &[f32],
    w: Matrix<'_>,
    bias: &[f32],
    limit: Limit<'_>,
    screen: &Screen,
    t: &mut Scratch,
    out: &mut RowLists,
) -> bool {
    assert_eq!(screen.f(), w.rows.len(), "fire: the screen has other latents");
    let n = out.n;
    let (start, below, k) = match limit {
        Limit::Above(t) => (t, None, None),
        Limit::AboveEach(t) => (0.0, Some(t), None),
        Limit::Topk(k) => (0.0, None, Some(k)),
    };
    t.screen.limit.clear();
    t.screen.limit.resize(n, start);
    if !screen.run(isa, x, w.rows, below, k, &mut t.screen) {
        return false;
    }
    let hits = &t.screen.hits;
    t.pairs.clear();
    t.pairs.extend(hits.iter().map(|h| Pair { row: h.row, latent: w.rows.row(h.at as usize) as u32 }));
    t.values.resize(hits.len(), 0.0);
    dense::pairs(isa, x, w.values, w.d, bias, &t.pairs, &mut t.values);
    // Panel by panel, and within a row ascending: so are the lists.
    for (pair, &u) in t.pairs.iter().zip(&t.values) {
        let row = &mut out.rows[pair.row as usize];
        let least = below.map_or(row.limit, |t| t[pair.latent as usize]);
        if u > least {
            row.index.push(pair.latent);
            row.value.push(u);
            if let Some(k) = k.filter(|k| row.index.len() >= topk_room(*k)) {
                row.limit = keep_largest(0, k, &mut row.index, &mut row.value);
            }
        }
    }
    if let Some(k) = k {
        out.rows[..n].iter_mut().for_each(|row| cut(row, k));
    }
    true
}
