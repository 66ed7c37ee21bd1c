//! Exact screening in 8 bits: bounds that exclude latents which cannot be selected for a row.
//!
//! Weights and rows are rounded to 8-bit integers with a scale each, `w^_j = t_j q_j` and `x^ = s p`. Their products
//! cost a fraction of those in `f32` (VNNI does 64 multiply-adds per instruction), and a bound says how large their
//! error can be.
//!
//! # The bound
//!
//! The scale of a row is set by its largest number, and rows of language models have a few outlying ones. So rows and
//! weights are first rotated by the same orthogonal matrix `H` (`rounding::mix`), which spreads them and preserves
//! every product: `w . x = (H w) . (H x)`. From here on `w` and `x` are the rotated ones; the rounding of the rotation
//! is part of the error of the integers.
//!
//! With `dw_j = |w_j - w^_j|` and `dx = |x - x^|` (Euclidean norms), by Cauchy and Schwarz
//!
//! ```text
//! |w_j . x - w^_j . x^| = |(w_j - w^_j) . x + w^_j . (x - x^)| <= dw_j |x| + |w^_j| dx
//! ```
//!
//! in exact arithmetic. The rounding of `f32` is bounded too, with `u = 2^-24` and `m = ceil(d / 16)`:
//!
//! * the pre-activation that [`dense`](super::dense) computes has an error of at most `(m + 4) u (1 + o(1)) |w_j| |x|`
//!   in its sum (chains of `m` fused multiply-adds, a tree of 4 additions) and `u |b_j| + u |w_j| |x| (1 + o(1))` in
//!   the bias;
//! * `a = s (t_j (q_j . p)) + b_j` is computed with at most four roundings (the integer is exact, its conversion rounds
//!   above 2^24): `4 u |w^_j| |x^| + u |b_j|`, and adding the bound itself rounds once more.
//!
//! The total is within `e_ij = alpha_j |x| + beta_j dx + kappa_j`, where `alpha_j = (dw_j + eps (|w_j| + |w^_j|)) (1 +
//! 2^-12)`, `eps = (m + 32) u`, `beta_j = |w^_j| (1 + 2^-12)` and `kappa_j = 2^-20 (|b_j| + |t_j|) + 1e-30`, with `t_j`
//! a threshold that is subtracted from the bias. Norms are rounded up by a factor that covers their own summation and
//! the rotation; where squares could leave the range of `f32` they are replaced by a cruder bound.
//!
//! So the pre-activation `v_ij` is in `[a - e, a + e]`, and `v >= l` is impossible if `a + e < l`. For a **threshold**
//! `l` is that threshold. For **top-k** [`fire`](super::fire) needs an `l` that the `k` largest reach, which it guesses
//! and then proves: if the exact values show `k` of them at or above `l`, then every latent that is left out is below
//! all of these, and none of the `k` largest is missing, ties included. The guess rises with the latents found: `l` is
//! the `k`-th largest `a - c e` so far. With `c` = 1 it would need no proof, but the error is a sum of `d` small ones
//! and almost never comes near its bound: a fraction `c` is nearly certain to hold, and leaves a fifth as many latents.
//!
//! A comparison with NaN keeps the latent. The remaining latents are computed by [`dense::pairs`](super::dense::pairs):
//! the result is that of the full product, bit for bit, whatever the quality of the bound.

mod hits;
mod pass;
mod rounding;

use alloc::vec;
use alloc::vec::Vec;

use super::dense::{Matrix, Pick};
use super::weight::Weight;
use super::{Isa, LANES};
use crate::compute::Compute;
use bytemuck::{Pod, Zeroable};
pub(crate) use hits::NONE;
use hits::{Hits, PANEL};
use rounding::{integers, mix};

/// Widest rows: beyond this width the bound of a norm's own rounding, and the 32-bit sums, no longer hold.
const WIDEST: usize = 1 << 15;

/// Four columns of the latents of a strip, one byte each.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C, align(64))]
struct Line([i32; LANES]);

/// Further data of the latents of a strip: sixteen consecutive places.
#[derive(Clone, Copy, Debug)]
struct Strip {
    /// `-128 sum_c q_jc`: rows are stored with 128 added, as unsigned bytes.
    start: [i32; LANES],
    /// `t_j`.
    scale: [f32; LANES],
    bias: [f32; LANES],
    alpha: [f32; LANES],
    beta: [f32; LANES],
    kappa: [f32; LANES],
    /// The lanes that have a latent, one bit each.
    there: u32,
}

impl Strip {
    const EMPTY: Self = {
        let zero = [0.0; LANES];
        Self { start: [0; LANES], scale: zero, bias: zero, alpha: zero, beta: zero, kappa: zero, there: 0 }
    };
}

/// Weights in 8 bits with their error bounds: a copy of a quarter of the size, and 28 bytes per latent.
#[derive(Clone, Debug)]
pub struct Screen {
    d: usize,
    /// The latent at each place, or [`NONE`].
    places: Vec<u32>,
    /// The number of latents, and whether they ascend from place to place.
    latents: usize,
    ascending: bool,
    /// Number `ceil(d / 4)` of column groups of each strip.
    lines: Vec<Line>,
    strips: Vec<Strip>,
    /// A row and the rotated row, for each thread that rounds.
    mixed: Vec<[Vec<f32>; 2]>,
}

/// The places and rows of a pass.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Visits<'a> {
    /// All places and all rows.
    All,
    /// The places that `groups` name, whose rows are parts of `rows`.
    Groups { rows: &'a [u32], groups: &'a [Group] },
}

/// Places `places.0..places.1` meet rows `rows.0..rows.1` of a list.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Group {
    pub places: (u32, u32),
    pub rows: (u32, u32),
}

/// What bars are compared with, and whether they move.
#[derive(Clone, Copy)]
pub(super) struct Bars<'a> {
    /// Thresholds that are taken from pre-activations first, given for all rows of the weights.
    pub below: Option<&'a [f32]>,
    /// Raises the bars on the way.
    pub rising: Option<Rising>,
}

/// Bars that rise to the `k`-th largest `a - share e` found so far.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rising {
    pub k: usize,
    share: f32,
}

impl Rising {
    /// Returns the bars for `k` of the latents of width `d`. An error that is a sum of `d` independent ones has a size
    /// of about `e / sqrt(3 d)`; this allows for five of those.
    pub fn new(k: usize, d: usize) -> Self {
        Self { k, share: (3.0 / libm::sqrtf(d as f32)).min(1.0) }
    }

    /// Values that a row collects before they are reduced to the `k` largest.
    fn room(self) -> usize {
        self.k.saturating_add(self.k.max(32))
    }

    /// Capacity for them: whole vectors are written at the end.
    fn stride(self) -> usize {
        self.room().saturating_add(LANES)
    }
}

/// Rows in 8 bits, and the hits among them.
#[derive(Clone, Debug, Default)]
pub(super) struct Scratch {
    /// One rotated row.
    mixed: Vec<f32>,
    /// `(n, ceil(d / 4))` words of four bytes.
    words: Vec<i32>,
    /// `s`, `|x|`, `dx` of each row.
    rows: Vec<[f32; 3]>,
    /// Whether these are all of the rows that were rounded last.
    whole: bool,
    /// The value that a pre-activation must exceed, per row.
    pub bar: Vec<f32>,
    /// `(n, stride)` values of `a - share e` above the bar, and the number of them for each row.
    best: Vec<f32>,
    n_best: Vec<u32>,
    pub hits: Hits,
}

impl Screen {
    /// Makes capacity for weights `[f, d]`.
    #[must_use]
    pub fn new(f: usize, d: usize) -> Self {
        assert!((1..WIDEST).contains(&d), "screen: rows of {d} numbers");
        let strips = f.div_ceil(LANES);
        Self {
            d,
            places: Vec::with_capacity(f),
            latents: 0,
            ascending: true,
            lines: vec![Line([0; LANES]); strips * d.div_ceil(4)],
            strips: vec![Strip::EMPTY; strips],
            mixed: Vec::new(),
        }
    }

    /// Returns whether screening can pay for `f` latents of width `d` on this machine. Measured on Zen 5 with VNNI;
    /// without 8-bit dot products it never pays for many rows.
    #[must_use]
    pub fn pays(isa: Isa, f: usize, d: usize) -> bool {
        isa.has_dot8() && f >= 512 && (96..WIDEST).contains(&d)
    }

    /// Returns the number of latents.
    pub(super) fn latents(&self) -> usize {
        self.latents
    }

    /// Returns the latent at each place, or [`NONE`].
    pub(super) fn places(&self) -> &[u32] {
        &self.places
    }

    /// Returns whether latents ascend from place to place.
    pub(super) fn ascending(&self) -> bool {
        self.ascending
    }

    /// Returns the number of pairs of a row and a place in a pass over `n` rows.
    fn n_pairs(&self, n: usize, visits: Visits<'_>) -> usize {
        match visits {
            Visits::All => n.saturating_mul(self.places.len()),
            Visits::Groups { groups, .. } => {
                let of = |(from, to): (u32, u32)| (to - from) as usize;
                groups.iter().map(|g| of(g.places) * of(g.rows)).sum()
            }
        }
    }

    /// Returns the most hits that are stored: an eighth of all pairs, and as many again that rising bars store at
    /// first.
    fn most(n: usize, pairs: usize, rising: Option<Rising>) -> usize {
        let at_first = rising.map_or(0, |r| (pairs / 8).saturating_add(n.saturating_mul(r.room().saturating_mul(2))));
        (pairs / 8).max(n.saturating_mul(64)).saturating_add(at_first).min(pairs)
    }

    /// Makes capacity for blocks of `n` rows, and `k` if bars rise; returns the most pairs that can be left.
    pub(super) fn reserve(&self, n: usize, k: Option<usize>, t: &mut Scratch) -> usize {
        t.mixed.reserve(self.d);
        t.words.reserve(n * self.d.div_ceil(4));
        t.rows.reserve(n);
        t.bar.reserve(n);
        let rising = k.map(|k| Rising::new(k, self.d));
        if let Some(rising) = rising {
            t.best.reserve(n.saturating_mul(rising.stride()));
            t.n_best.reserve(n);
        }
        // Two more strips are stored before the number is checked.
        let most = Self::most(n, n.saturating_mul(self.places.len()), rising) + n * PANEL;
        t.hits.reserve(most, self.strips.len());
        most
    }

    /// Replaces the weights by the rows of `w`, in their order, and their bias, given for all rows of the matrix. A
    /// list may contain `u32::MAX` where there is no latent. Allocates nothing unless there are more rows than ever
    /// before.
    ///
    /// # Panics
    /// If the width does not fit.
    pub fn quantise<W: Weight>(&mut self, compute: Compute, w: Matrix<'_, W>, bias: &[f32]) {
        let Compute { isa, par } = compute;
        assert_eq!(w.d, self.d, "screen: the weights are not [f, d]");
        let q = self.d.div_ceil(4);
        self.places.clear();
        match w.rows {
            Pick::Range(from, to) => self.places.extend(from as u32..to as u32),
            Pick::List(list) => self.places.extend_from_slice(list),
        }
        self.latents = self.places.iter().filter(|j| **j != NONE).count();
        self.ascending = self.places.is_sorted();
        let strips = self.places.len().div_ceil(LANES);
        self.strips.resize(strips, Strip::EMPTY);
        self.lines.resize(strips * q, Line([0; LANES]));
        if strips == 0 || self.d == 0 {
            return;
        }
        let words: &mut [f32] = bytemuck::cast_slice_mut(&mut self.lines);
        if self.mixed.len() < par.threads() {
            self.mixed.resize_with(par.threads(), || [Vec::new(), Vec::new()]);
        }
        let places = &self.places;
        par.for_items(&mut self.mixed, &mut self.strips, words, q * LANES, |[wide, mixed], s, strip, words| {
            mixed.resize(w.d, 0.0);
            let words: &mut [[i32; LANES]] = bytemuck::cast_slice_mut(words);
            strip.there = 0;
            let here = &places[s * LANES..places.len().min((s + 1) * LANES)];
            for (l, &j) in here.iter().enumerate().filter(|(_, j)| **j != NONE) {
                let j = j as usize;
                let (row, scale) = w.of(j);
                let n = dispatch!(isa, simd => {
                    wide.clear();
                    wide.extend(row.iter().map(|w| w.widen(scale)));
                    let off = mix(simd, wide, mixed);
                    integers(mixed, off, |c, word| words[c][l] = word)
                });
                let eps = (w.d.div_ceil(LANES) + 32) as f32 * f32::EPSILON * 0.5;
                strip.there |= 1 << l;
                strip.start[l] = n.sum.wrapping_mul(-128);
                strip.scale[l] = n.scale;
                strip.bias[l] = bias[j];
                strip.alpha[l] = (n.error + eps * (n.norm + n.norm_hat)) * (1.0 + 1.0 / 4096.0);
                strip.beta[l] = n.norm_hat * (1.0 + 1.0 / 4096.0);
                strip.kappa[l] = bias[j].abs() / 1_048_576.0 + 1e-30;
            }
        });
    }

    /// Rounds the rows of `x`, `(n, d)`, for the following passes.
    pub(super) fn round(&self, isa: Isa, x: &[f32], t: &mut Scratch) {
        let (n, q) = (x.len() / self.d, self.d.div_ceil(4));
        t.mixed.resize(self.d, 0.0);
        t.words.resize(n * q, 0);
        t.rows.resize(n, [0.0; 3]);
        dispatch!(isa, simd => {
            for ((row, words), out) in x.chunks(self.d).zip(t.words.chunks_mut(q)).zip(&mut t.rows) {
                let off = mix(simd, row, &mut t.mixed);
                // Signed bytes become unsigned: 128 is added, without a carry.
                let n = integers(&t.mixed, off, |c, word| words[c] = word ^ 0x8080_8080_u32 as i32);
                *out = [n.scale, n.norm, n.error];
            }
        });
        t.whole = true;
    }
}

impl Scratch {
    /// Keeps only the rows `which`, ascending, of those that were rounded.
    pub fn only(&mut self, which: &[u32]) {
        self.whole = false;
        let q = self.words.len() / self.rows.len();
        for (to, from) in which.iter().map(|i| *i as usize).enumerate() {
            self.words.copy_within(from * q..(from + 1) * q, to * q);
            self.rows[to] = self.rows[from];
        }
        self.rows.truncate(which.len());
        self.words.truncate(which.len() * q);
    }

    /// Removes the rows.
    pub fn forget(&mut self) {
        self.whole = false;
    }

    /// Returns whether the current rows are these `n` rows, provided that they were the last that were rounded.
    pub fn has(&self, n: usize, d: usize) -> bool {
        self.whole && self.rows.len() == n && self.words.len() == n * d.div_ceil(4)
    }

    /// Returns upper bounds of the norms of the rows.
    pub fn norm(&self, i: usize) -> f32 {
        self.rows[i][1]
    }
}

/// Returns the upper and the lower end of every pair of `x`, `(n, d)`, and a latent, `(n, f)`: the bound of this
/// module, for tests.
#[must_use]
pub fn bounds(screen: &Screen, isa: Isa, x: &[f32]) -> Vec<[f32; 2]> {
    let mut out = Vec::new();
    let (mut words, mut mixed) = (vec![0; screen.d.div_ceil(4)], vec![0.0; screen.d]);
    for row in x.chunks(screen.d) {
        let r = dispatch!(isa, simd => {
            let off = mix(simd, row, &mut mixed);
            integers(&mixed, off, |c, word| words[c] = word ^ 0x8080_8080_u32 as i32)
        });
        for at in (0..screen.places.len()).filter(|at| screen.places[*at] != NONE) {
            let (strip, lane) = (&screen.strips[at / LANES], at % LANES);
            let lines = &screen.lines[at / LANES * words.len()..];
            let mut sum = strip.start[lane];
            for (word, line) in words.iter().zip(lines) {
                for (x, w) in word.to_ne_bytes().into_iter().zip(line.0[lane].to_ne_bytes()) {
                    sum += i32::from(x) * i32::from(w as i8);
                }
            }
            let a = libm::fmaf(sum as f32 * strip.scale[lane], r.scale, strip.bias[lane]);
            let e = libm::fmaf(strip.beta[lane], r.error, strip.kappa[lane]);
            let e = libm::fmaf(strip.alpha[lane], r.norm, e);
            out.push([a + e, a - e]);
        }
    }
    out
}
