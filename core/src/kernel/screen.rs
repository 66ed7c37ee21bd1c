//! Exact screening in 8 bits: which latents of a row can be selected at all.
//!
//! Weights and rows are rounded to 8-bit integers with a scale each, `w^_j = t_j q_j` and `x^ = s p`. Their products cost a
//! fraction of those in `f32` (VNNI does 64 multiply-adds an instruction), and a bound says how far off they can be.
//!
//! # The bound
//!
//! With `dw_j = |w_j - w^_j|` and `dx = |x - x^|` (Euclidean norms), by Cauchy and Schwarz
//!
//! ```text
//! |w_j . x - w^_j . x^| = |(w_j - w^_j) . x + w^_j . (x - x^)| <= dw_j |x| + |w^_j| dx
//! ```
//!
//! in exact arithmetic. What `f32` adds is bounded too, with `u = 2^-24` and `m = ceil(d / 16)`:
//!
//! * the pre-activation that [`dense`](super::dense) computes is off by at most `(m + 4) u (1 + o(1)) |w_j| |x|` in its sum
//!   (chains of `m` fused multiply-adds, a tree of 4 additions) and by `u |b_j| + u |w_j| |x| (1 + o(1))` in the bias;
//! * `a = s (t_j (q_j . p)) + b_j` is computed with at most four roundings (the integer is exact, its conversion rounds
//!   above 2^24): `4 u |w^_j| |x^| + u |b_j|`, and adding the bound itself rounds once more.
//!
//! All of it is within `e_ij = alpha_j |x| + beta_j dx + kappa_j`, where
//! `alpha_j = (dw_j + eps (|w_j| + |w^_j|)) (1 + 2^-12)`, `eps = (m + 32) u`, `beta_j = |w^_j| (1 + 2^-12)` and
//! `kappa_j = 2^-20 (|b_j| + |t_j|) + 1e-30`, `t_j` a threshold that is taken from the bias. Norms are rounded up by a factor that covers their own summation; where squares could
//! leave the range of `f32` they are replaced by a cruder bound.
//!
//! So the pre-activation `v_ij` lies in `[a - e, a + e]`:
//!
//! * **threshold** `t`: `v > t` is impossible if `a + e <= t`;
//! * **top-k**: let `l` be the `k`-th largest of the lower ends `a - e` seen so far, or 0. At least `k` latents have
//!   `v >= l`, or `l = 0` and only positive ones count; a latent with `a + e < l` is below all of them, so it is not among
//!   the `k` largest, ties included.
//!
//! A row may begin with an `l` that is only guessed. If less than `k` lower ends turn out to be above it nothing is proven,
//! and the row begins again with 0.
//!
//! A comparison with NaN keeps the latent. Those that are left are computed by [`dense::pairs`](super::dense::pairs): the
//! result is that of the full product, bit for bit, whatever the quality of the bound.

use alloc::vec;
use alloc::vec::Vec;

use bytemuck::{Pod, Zeroable};
use fearless_simd::{f32x16, i32x16, prelude::*};

use super::dense::{Matrix, Pick};
use super::isa::Inner;
use super::{Isa, LANES};
use crate::Par;

/// Latents of a panel.
pub(super) const PANEL: usize = 2 * LANES;
/// Rows that are screened for a first guess of where the limits of top-k lie.
const FIRST: usize = 6;

/// Half-width of the range of the integers.
const MOST: f32 = 127.0;
/// What a norm is multiplied by, so that it is no less than the true one: covers sums of up to 2^13 terms a chain.
const UP: f32 = 1.0005;
/// Widest rows: beyond it the bound of a norm's own rounding, and the 32-bit sums, end.
const WIDEST: usize = 1 << 15;

/// Four columns of the latents of a panel, a byte each.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C, align(64))]
struct Line([[i32; LANES]; 2]);

/// What else is known of the latents of a panel.
#[derive(Clone, Copy, Debug)]
struct Panel {
    /// `-128 sum_c q_jc`: rows are stored with 128 added, as unsigned bytes.
    start: [[i32; LANES]; 2],
    /// `t_j`.
    scale: [[f32; LANES]; 2],
    /// The bias; minus infinity where there is no latent.
    bias: [[f32; LANES]; 2],
    alpha: [[f32; LANES]; 2],
    beta: [[f32; LANES]; 2],
    kappa: [[f32; LANES]; 2],
}

impl Panel {
    const EMPTY: Self = {
        let zero = [[0.0; LANES]; 2];
        let bias = [[f32::NEG_INFINITY; LANES]; 2];
        Self { start: [[0; LANES]; 2], scale: zero, bias, alpha: zero, beta: zero, kappa: zero }
    };
}

/// Weights in 8 bits, and how far off they are. A copy of a quarter of the size, and 24 bytes a latent.
#[derive(Clone, Debug)]
pub struct Screen {
    f: usize,
    d: usize,
    lines: Vec<Line>,
    panels: Vec<Panel>,
}

/// A latent of a row that may be selected.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Hit {
    /// The row.
    pub row: u32,
    /// The place of the latent among those screened.
    pub at: u32,
    /// No less than its pre-activation.
    pub upper: f32,
}

/// Rows in 8 bits, what was found of them, and the lower ends that top-k compares with.
#[derive(Clone, Debug, Default)]
pub(super) struct Scratch {
    /// `(n, ceil(d / 4))` words of four bytes.
    words: Vec<i32>,
    /// `s`, `|x|`, `dx` of each row.
    rows: Vec<[f32; 3]>,
    /// What a pre-activation must reach, a row.
    pub limit: Vec<f32>,
    /// The largest lower ends of each row, top-k only.
    lower: Vec<Vec<f32>>,
    /// Limits over norms of the rows at hand.
    ratios: Vec<f32>,
    /// Where the next ones begin, for the last two pairs of `(f, k)`: the levels of a model share a scratch.
    guesses: [(usize, usize, f32); 2],
    /// Rows for which that was too high, and the hits of the others.
    again: Vec<u32>,
    kept: Vec<Hit>,
    pub hits: Vec<Hit>,
}

impl Screen {
    /// Room for weights `[f, d]`.
    #[must_use]
    pub fn new(f: usize, d: usize) -> Self {
        assert!(d < WIDEST, "screen: rows of {d} numbers");
        let n_panels = f.div_ceil(PANEL);
        let lines = vec![Line([[0; LANES]; 2]); n_panels * d.div_ceil(4)];
        Self { f, d, lines, panels: vec![Panel::EMPTY; n_panels] }
    }

    /// Whether screening can pay: `f` latents of width `d` on this machine. Measured on Zen 5 with VNNI; without 8-bit dot
    /// products it never does for many rows.
    #[must_use]
    pub fn pays(isa: Isa, f: usize, d: usize) -> bool {
        isa.has_dot8() && f >= 512 && (96..WIDEST).contains(&d)
    }

    /// The latents.
    pub(super) fn f(&self) -> usize {
        self.f
    }

    /// The most pairs that are noted: an eighth of all, and again as much that top-k notes before its limits have risen.
    fn most(&self, n: usize, k: Option<usize>) -> usize {
        let all = n.saturating_mul(self.f);
        let rising =
            k.map_or(0, |k| n.max(FIRST).saturating_mul((self.f / 8).saturating_add(room(k).saturating_mul(8))));
        n.saturating_mul((self.f / 8).max(64)).saturating_add(rising).min(all)
    }

    /// Room for blocks of `n` rows; returns the most pairs that can be left.
    pub(super) fn reserve(&self, n: usize, k: Option<usize>, t: &mut Scratch) -> usize {
        t.words.reserve(n * self.d.div_ceil(4));
        t.rows.reserve(n);
        t.limit.reserve(n);
        if let Some(k) = k {
            t.lower.resize_with(n, Vec::new);
            t.lower.iter_mut().for_each(|list| list.reserve(room(k)));
        }
        // One more panel is noted before the number is looked at.
        let most = self.most(n, k) + n * PANEL;
        t.hits.reserve(most);
        if k.is_some() {
            t.kept.reserve(most);
            t.ratios.reserve(n + FIRST);
            t.again.reserve(n);
        }
        most
    }

    /// Takes over the rows `w` and their bias, given for all rows of the matrix. Allocates nothing unless they are more
    /// than ever before.
    ///
    /// # Panics
    /// If the width does not fit.
    pub fn quantise(&mut self, isa: Isa, par: Par, w: Matrix<'_>, bias: &[f32]) {
        assert_eq!(w.d, self.d, "screen: the weights are not [f, d]");
        let q = self.d.div_ceil(4);
        self.f = w.rows.len();
        let n_panels = self.f.div_ceil(PANEL);
        self.panels.resize(n_panels, Panel::EMPTY);
        self.lines.resize(n_panels * q, Line([[0; LANES]; 2]));
        if self.f == 0 || self.d == 0 {
            return;
        }
        let words: &mut [f32] = bytemuck::cast_slice_mut(&mut self.lines);
        let mut lanes = vec![(); par.threads()];
        par.for_items(&mut lanes, &mut self.panels, words, q * PANEL, |(), p, panel, words| {
            let words: &mut [[i32; PANEL]] = bytemuck::cast_slice_mut(words);
            for l in 0..PANEL {
                let at = p * PANEL + l;
                let (half, lane) = (l / LANES, l % LANES);
                if at >= w.rows.len() {
                    panel.bias[half][lane] = f32::NEG_INFINITY;
                    continue;
                }
                let j = w.rows.row(at);
                let row = &w.values[j * w.d..][..w.d];
                let n = dispatch!(isa, _simd => integers(row, |c, word| words[c][l] = word));
                let eps = (w.d.div_ceil(LANES) + 32) as f32 * f32::EPSILON * 0.5;
                panel.start[half][lane] = -128 * n.sum;
                panel.scale[half][lane] = n.scale;
                panel.bias[half][lane] = bias[j];
                panel.alpha[half][lane] = (n.error + eps * (n.norm + n.norm_hat)) * (1.0 + 1.0 / 4096.0);
                panel.beta[half][lane] = n.norm_hat * (1.0 + 1.0 / 4096.0);
                panel.kappa[half][lane] = bias[j].abs() / 1_048_576.0 + 1e-30;
            }
        });
    }

    /// Finds what may reach the limits of `t`, which say what each row of `x`, `(n, d)`, has to reach; with `k` they rise
    /// to what the `k` largest are proven to reach. `below` is taken from pre-activations first, and given for all rows of
    /// the matrix that `latents` picks from. Returns whether it went through: not if more are left than
    /// `most` says, where the full product is no dearer.
    pub(super) fn run(
        &self,
        isa: Isa,
        x: &[f32],
        latents: Pick<'_>,
        below: Option<&[f32]>,
        k: Option<usize>,
        t: &mut Scratch,
    ) -> bool {
        let (n, q) = (x.len() / self.d, self.d.div_ceil(4));
        t.words.resize(n * q, 0);
        t.rows.resize(n, [0.0; 3]);
        dispatch!(isa, _simd => {
            for ((row, words), out) in x.chunks(self.d).zip(t.words.chunks_mut(q)).zip(&mut t.rows) {
                let n = integers(row, |c, word| words[c] = word);
                *out = [n.scale, n.norm, n.error];
                // From signed to unsigned bytes: 128 more, without a carry.
                words.iter_mut().for_each(|w| *w ^= 0x8080_8080_u32 as i32);
            }
        });
        match k {
            Some(k) => self.topk(isa, n, latents, k, t),
            None => self.pass(isa, n, latents, below, None, t),
        }
    }

    /// The passes of top-k over `n` rows. A guess of where limits end spares most of what would be noted while they rise
    /// from 0. Rows for which it was too high have less than `k` lower ends above it: nothing is proven for them, and they
    /// begin again, from 0.
    fn topk(&self, isa: Isa, n: usize, latents: Pick<'_>, k: usize, t: &mut Scratch) -> bool {
        let q = self.d.div_ceil(4);
        t.ratios.clear();
        if *t.guess(self.f, k) == 0.0 && n >= 8 * FIRST {
            t.begin_topk(FIRST, k, 0.0);
            if !self.pass(isa, FIRST, latents, None, Some(k), t) {
                return false;
            }
            t.end_topk(FIRST, k);
            t.learn(self.f, k);
        }
        let guess = *t.guess(self.f, k);
        t.begin_topk(n, k, guess);
        if !self.pass(isa, n, latents, None, Some(k), t) {
            *t.guess(self.f, k) = 0.0;
            return false;
        }
        t.again.clear();
        if guess > 0.0 {
            t.again.extend((0..n as u32).filter(|i| t.lower[*i as usize].len() < k));
        }
        let again = core::mem::take(&mut t.again);
        if !again.is_empty() {
            t.hits.retain(|h| again.binary_search(&h.row).is_err());
        }
        t.end_topk(n, k);
        if !again.is_empty() {
            for (to, from) in again.iter().map(|i| *i as usize).enumerate() {
                t.words.copy_within(from * q..(from + 1) * q, to * q);
                t.rows[to] = t.rows[from];
            }
            let mut kept = core::mem::take(&mut t.kept);
            core::mem::swap(&mut kept, &mut t.hits);
            t.begin_topk(again.len(), k, 0.0);
            let most = self.most(n, Some(k));
            let through = self.pass(isa, again.len(), latents, None, Some(k), t) && kept.len() + t.hits.len() <= most;
            if through {
                t.end_topk(again.len(), k);
                kept.extend(t.hits.iter().map(|h| Hit { row: again[h.row as usize], ..*h }));
            }
            core::mem::swap(&mut kept, &mut t.hits);
            t.kept = kept;
            if !through {
                t.again = again;
                *t.guess(self.f, k) = 0.0;
                return false;
            }
        }
        t.again = again;
        t.learn(self.f, k);
        true
    }

    /// All panels once.
    fn pass(
        &self,
        isa: Isa,
        n: usize,
        latents: Pick<'_>,
        below: Option<&[f32]>,
        k: Option<usize>,
        t: &mut Scratch,
    ) -> bool {
        let q = self.d.div_ceil(4);
        let most = self.most(n, k);
        t.hits.clear();
        for (p, panel) in self.panels.iter().enumerate() {
            let lanes = (1u64 << PANEL.min(self.f - p * PANEL)) - 1;
            let there = [lanes & 0xffff, lanes >> LANES];
            let mut thresholds = [[0.0; LANES]; 2];
            if let Some(below) = below {
                let here = latents.part(p * PANEL..latents.len().min((p + 1) * PANEL));
                for l in 0..here.len() {
                    thresholds[l / LANES][l % LANES] = below[here.row(l)];
                }
            }
            let job = Job {
                lines: &self.lines[p * q..(p + 1) * q],
                panel,
                first: p * PANEL,
                below: &thresholds,
                k,
                n,
                there,
            };
            match isa.0 {
                Inner::Scalar(s) => s.vectorize(
                    #[inline(always)]
                    || job.run::<_, 1>(s, t, madd),
                ),
                #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
                Inner::Avx2(s) => s.vectorize(
                    #[inline(always)]
                    || job.run::<_, 1>(s, t, madd),
                ),
                #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
                Inner::Avx512(s) => s.vectorize(
                    #[inline(always)]
                    || job.run::<_, 6>(s, t, vnni),
                ),
                #[cfg(target_arch = "aarch64")]
                Inner::Neon(s) => s.vectorize(
                    #[inline(always)]
                    || job.run::<_, 1>(s, t, madd),
                ),
            }
            if t.hits.len() > most {
                return false;
            }
        }
        true
    }
}

impl Scratch {
    /// Where the limits of the next rows may begin: a little below those of most rows.
    fn learn(&mut self, f: usize, k: usize) {
        let at = self.ratios.len() / 4;
        let of_most =
            if self.ratios.is_empty() { 0.0 } else { 0.95 * *self.ratios.select_nth_unstable_by(at, f32::total_cmp).1 };
        *self.guess(f, k) = if of_most.is_finite() { of_most } else { 0.0 };
    }

    /// The guess for `k` of `f` latents; 0 where there is none.
    fn guess(&mut self, f: usize, k: usize) -> &mut f32 {
        if (self.guesses[0].0, self.guesses[0].1) != (f, k) {
            self.guesses.swap(0, 1);
        }
        if (self.guesses[0].0, self.guesses[0].1) != (f, k) {
            self.guesses[0] = (f, k, 0.0);
        }
        &mut self.guesses[0].2
    }

    /// Limits of `n` rows from `guess` on.
    fn begin_topk(&mut self, n: usize, k: usize, guess: f32) {
        if self.lower.len() < n {
            self.lower.resize_with(n, Vec::new);
        }
        for lower in &mut self.lower[..n] {
            lower.clear();
            lower.reserve(room(k));
        }
        for (limit, [_, norm, _]) in self.limit.iter_mut().zip(&self.rows) {
            let begin = guess * norm;
            *limit = if begin.is_finite() { begin } else { 0.0 };
        }
    }

    /// Raises the limits as far as the lower ends prove, and drops what lies below them by now.
    fn end_topk(&mut self, n: usize, k: usize) {
        for ((lower, limit), [_, norm, _]) in self.lower[..n].iter_mut().zip(&mut self.limit).zip(&self.rows) {
            if lower.len() >= k {
                *limit = *lower.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a)).1;
                self.ratios.push(if *norm > 0.0 { *limit / norm } else { 0.0 });
            }
        }
        let limit = &self.limit;
        self.hits.retain(|h| h.upper.is_nan() || h.upper >= limit[h.row as usize]);
    }
}

/// Lower ends that a row collects before they are cut to the `k` largest.
fn room(k: usize) -> usize {
    k.saturating_add(k.max(64))
}

/// A row in 8 bits.
struct Integers {
    scale: f32,
    /// Sum of the integers.
    sum: i32,
    /// Upper bounds of the norms of the row, of the integers times the scale, and of their difference.
    norm: f32,
    norm_hat: f32,
    error: f32,
}

/// Rounds a row to integers of at most 127 in size, four of them a word, which `put(c, word)` takes.
#[inline(always)]
fn integers(row: &[f32], mut put: impl FnMut(usize, i32)) -> Integers {
    let mut most = [0.0f32; LANES];
    let (blocks, tail) = row.as_chunks::<LANES>();
    for block in blocks {
        for l in 0..LANES {
            most[l] = most[l].max(block[l].abs());
        }
    }
    let largest = most.iter().chain(tail).fold(0.0f32, |m, v| m.max(v.abs()));
    let root_d = libm::sqrtf(row.len() as f32);
    // Squares must stay in the range of normal numbers; rows outside of it are left to the crude bounds.
    if !(1e-15..1e15).contains(&largest) {
        for c in 0..row.len().div_ceil(4) {
            put(c, 0);
        }
        let norm = match largest {
            _ if row.iter().any(|v| v.is_nan()) => f32::NAN,
            0.0 => 0.0,
            _ => largest * root_d * UP + f32::MIN_POSITIVE,
        };
        return Integers { scale: 0.0, sum: 0, norm, norm_hat: 0.0, error: norm };
    }
    let (scale, inverse) = (largest / MOST, MOST / largest);
    let mut parts = [[0.0f32; 3]; 4];
    let mut sum = 0;
    let mut word = |c: usize, values: [f32; 4]| {
        let mut bytes = [0; 4];
        for (l, v) in values.into_iter().enumerate() {
            // Adding and taking away 1.5 * 2^23 rounds to the nearest integer, ties to even.
            let rounded = (v * inverse + 12_582_912.0) - 12_582_912.0;
            let hat = rounded * scale;
            let miss = v - hat;
            parts[l][0] += v * v;
            parts[l][1] += hat * hat;
            parts[l][2] += miss * miss;
            let integer = rounded as i32;
            sum += integer;
            bytes[l] = integer as i8 as u8;
        }
        put(c, i32::from_ne_bytes(bytes));
    };
    let (fours, rest) = row.as_chunks::<4>();
    for (c, four) in fours.iter().enumerate() {
        word(c, *four);
    }
    if !rest.is_empty() {
        let mut four = [0.0; 4];
        four[..rest.len()].copy_from_slice(rest);
        word(fours.len(), four);
    }
    let norm = |i: usize| libm::sqrtf((parts[0][i] + parts[1][i]) + (parts[2][i] + parts[3][i])) * UP;
    // `hat` and `miss` are rounded once each, by 2^-24 of a value of at most `largest`; squares of less than 1e-38 are lost.
    let error = norm(2) + root_d * (largest * (2.0 * f32::EPSILON) + 2e-19);
    Integers { scale, sum, norm: norm(0), norm_hat: norm(1), error }
}

/// One panel over all rows.
struct Job<'a> {
    lines: &'a [Line],
    panel: &'a Panel,
    first: usize,
    /// What is taken from the pre-activation of each latent: thresholds of their own.
    below: &'a [[f32; LANES]; 2],
    k: Option<usize>,
    n: usize,
    /// The lanes that have a latent, a bit each.
    there: [u64; 2],
}

impl Job<'_> {
    #[inline(always)]
    fn run<S: Simd, const TILE: usize>(
        &self,
        simd: S,
        t: &mut Scratch,
        dot: impl Fn(S, i32x16<S>, i32, &[i32; LANES]) -> i32x16<S> + Copy,
    ) {
        let mut i = 0;
        while i + TILE <= self.n {
            self.tile::<S, TILE>(simd, i, t, dot);
            i += TILE;
        }
        while TILE > 1 && i < self.n {
            self.tile::<S, 1>(simd, i, t, dot);
            i += 1;
        }
    }

    #[inline(always)]
    fn tile<S: Simd, const R: usize>(
        &self,
        simd: S,
        first: usize,
        t: &mut Scratch,
        dot: impl Fn(S, i32x16<S>, i32, &[i32; LANES]) -> i32x16<S> + Copy,
    ) {
        let q = self.lines.len();
        let mut words = [&[][..]; R];
        for r in 0..R {
            words[r] = &t.words[(first + r) * q..][..q];
        }
        let mut acc = [[i32x16::splat(simd, 0); 2]; R];
        for r in 0..R {
            for v in 0..2 {
                acc[r][v] = i32x16::load_array_ref(simd, &self.panel.start[v]);
            }
        }
        for c in 0..q {
            let line = &self.lines[c].0;
            for r in 0..R {
                let word = words[r][c];
                for v in 0..2 {
                    acc[r][v] = dot(simd, acc[r][v], word, &line[v]);
                }
            }
        }
        let mut sums = [[[0i32; LANES]; 2]; R];
        for r in 0..R {
            for v in 0..2 {
                acc[r][v].store_array(&mut sums[r][v]);
            }
        }
        for v in 0..2 {
            let load = |a: &[[f32; LANES]; 2]| f32x16::load_array_ref(simd, &a[v]);
            let p = self.panel;
            let (scale, alpha, beta, kappa) = (load(&p.scale), load(&p.alpha), load(&p.beta), load(&p.kappa));
            let bias = load(&p.bias) - load(self.below);
            let kappa = load(self.below).abs().mul_add_precise(f32x16::splat(simd, 1.0 / 1_048_576.0), kappa);
            for r in 0..R {
                let [s, norm, error] = t.rows[first + r].map(|x| f32x16::splat(simd, x));
                let sum: f32x16<S> = f32x16::float_from(i32x16::load_array_ref(simd, &sums[r][v]));
                let a = (sum * scale).mul_add_precise(s, bias);
                let e = alpha.mul_add_precise(norm, beta.mul_add_precise(error, kappa));
                let upper = a + e;
                // Not "greater": NaN must stay.
                let limit = t.limit[first + r];
                let out = if self.k.is_some() {
                    upper.simd_lt(f32x16::splat(simd, limit)) | upper.simd_le(f32x16::splat(simd, 0.0))
                } else {
                    upper.simd_le(f32x16::splat(simd, limit))
                };
                let bits = !out.to_bitmask() & self.there[v];
                if bits != 0 {
                    let (upper, lower): ([f32; LANES], [f32; LANES]) = (upper.into(), (a - e).into());
                    self.note(first + r, v, bits as u32, &upper, &lower, t);
                }
            }
        }
    }

    /// Notes the lanes `bits` of a row, and raises its limit.
    #[inline(never)]
    fn note(&self, row: usize, v: usize, mut bits: u32, upper: &[f32; LANES], lower: &[f32; LANES], t: &mut Scratch) {
        while bits != 0 {
            let lane = bits.trailing_zeros() as usize % LANES;
            bits &= bits - 1;
            let at = (self.first + v * LANES + lane) as u32;
            t.hits.push(Hit { row: row as u32, at, upper: upper[lane] });
            let Some(k) = self.k else { continue };
            if lower[lane] > t.limit[row] {
                let list = &mut t.lower[row];
                list.push(lower[lane]);
                if list.len() == room(k) {
                    list.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a));
                    list.truncate(k);
                    t.limit[row] = list[k - 1];
                }
            }
        }
    }
}

/// `acc_l += sum_b x_b w_lb` of four bytes, unsigned by signed.
#[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
#[inline(always)]
fn vnni(
    simd: fearless_simd::x86::Avx512,
    acc: i32x16<fearless_simd::x86::Avx512>,
    x: i32,
    w: &[i32; LANES],
) -> i32x16<fearless_simd::x86::Avx512> {
    #[cfg(target_arch = "x86")]
    use core::arch::x86::{__m512i, _mm512_dpbusd_epi32};
    #[cfg(target_arch = "x86_64")]
    use core::arch::x86_64::{__m512i, _mm512_dpbusd_epi32};
    fearless_simd::kernel!(
        #[inline(always)]
        fn dpbusd(_token: Avx512, acc: __m512i, x: __m512i, w: __m512i) -> __m512i {
            _mm512_dpbusd_epi32(acc, x, w)
        }
    );
    let w = i32x16::load_array_ref(simd, w);
    dpbusd(simd, acc.into(), i32x16::splat(simd, x).into(), w.into()).simd_into(simd)
}

/// [`vnni`] in plain integers.
#[inline(always)]
fn madd<S: Simd>(simd: S, acc: i32x16<S>, x: i32, w: &[i32; LANES]) -> i32x16<S> {
    let x = x.to_ne_bytes().map(i32::from);
    let mut out: [i32; LANES] = acc.into();
    for l in 0..LANES {
        let w = w[l].to_ne_bytes();
        for b in 0..4 {
            out[l] += x[b] * i32::from(w[b] as i8);
        }
    }
    i32x16::load_array_ref(simd, &out)
}

/// The upper and the lower end of every pair of `x`, `(n, d)`, and a latent, `(n, f)`: the bound of this module, for tests.
#[must_use]
pub fn bounds(screen: &Screen, isa: Isa, x: &[f32]) -> Vec<[f32; 2]> {
    let mut out = Vec::new();
    let mut words = vec![0; screen.d.div_ceil(4)];
    for row in x.chunks(screen.d) {
        let r = dispatch!(isa, _simd => integers(row, |c, word| words[c] = word ^ 0x8080_8080_u32 as i32));
        for at in 0..screen.f {
            let (panel, half, lane) = (&screen.panels[at / PANEL], at % PANEL / LANES, at % LANES);
            let lines = &screen.lines[at / PANEL * words.len()..];
            let mut sum = panel.start[half][lane];
            for (word, line) in words.iter().zip(lines) {
                for (x, w) in word.to_ne_bytes().into_iter().zip(line.0[half][lane].to_ne_bytes()) {
                    sum += i32::from(x) * i32::from(w as i8);
                }
            }
            let a = libm::fmaf(sum as f32 * panel.scale[half][lane], r.scale, panel.bias[half][lane]);
            let e = libm::fmaf(panel.beta[half][lane], r.error, panel.kappa[half][lane]);
            let e = libm::fmaf(panel.alpha[half][lane], r.norm, e);
            out.push([a + e, a - e]);
        }
    }
    out
}
