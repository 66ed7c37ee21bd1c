//! Products of rows with weights in their stored layout: nothing is repacked.
//!
//! Every product `w . x` of this module has one order, [`scalar::product`](super::scalar::product): element `c` joins chain
//! `c mod 16`, the chains are added as a fixed tree, the bias last. It does not depend on what else is computed beside it,
//! so that a single pair, the children of one parent and the whole dictionary give the same bits.

use core::ops::Range;

use fearless_simd::{SimdCombine, SimdSplit, prelude::*};

use super::isa::Inner;
use super::weight::Weight;
use super::{Isa, LANES, Vector, fma, load, load_part};

/// Number of values of `x` that fit into a cache of the second level: 256 KiB.
pub(super) const X_GROUP: usize = 1 << 16;
/// Size of the weights that fit into a cache of the last level: 2 MiB.
const W_GROUP: usize = 1 << 19;

/// The rows of a matrix that take part, in their order.
#[derive(Clone, Copy, Debug)]
pub enum Pick<'a> {
    /// Consecutive rows.
    Range(usize, usize),
    /// A list of rows, in this order.
    List(&'a [u32]),
}

impl<'a> Pick<'a> {
    /// Returns the number of rows.
    #[must_use]
    pub fn len(self) -> usize {
        match self {
            Self::Range(start, end) => end - start,
            Self::List(rows) => rows.len(),
        }
    }

    /// Returns whether there are none.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// Returns the row at index `at`.
    ///
    /// # Panics
    /// If a list has no such index.
    #[inline(always)]
    #[must_use]
    pub fn row(self, at: usize) -> usize {
        match self {
            Self::Range(start, _) => start + at,
            Self::List(rows) => rows[at] as usize,
        }
    }

    /// Returns the rows at the indices `range`.
    #[inline(always)]
    #[must_use]
    pub fn part(self, range: Range<usize>) -> Self {
        match self {
            Self::Range(start, _) => Self::Range(start + range.start, start + range.end),
            Self::List(rows) => Self::List(&rows[range]),
        }
    }
}

/// Rows of a row-major matrix `[.., d]`.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a, W = f32> {
    /// The values.
    pub values: &'a [W],
    /// The scale of each row; empty where rows have none.
    pub scales: &'a [f32],
    /// Width of a row.
    pub d: usize,
    /// The rows that take part.
    pub rows: Pick<'a>,
}

impl<'a, W> Matrix<'a, W> {
    /// Makes a matrix of all rows of `values`, which have no scales.
    ///
    /// # Panics
    /// If they are not a whole number of rows of `d`, or `d` is 0.
    #[must_use]
    pub fn all(values: &'a [W], d: usize) -> Self {
        Self::scaled(values, &[], d)
    }

    /// Makes a matrix of all rows of `values`, with their scales.
    ///
    /// # Panics
    /// As [`Matrix::all`], or if there are scales, but not one for each row.
    #[must_use]
    pub fn scaled(values: &'a [W], scales: &'a [f32], d: usize) -> Self {
        let n = values.len() / d;
        assert_eq!(values.len(), n * d, "dense: no whole number of rows");
        assert!(scales.is_empty() || scales.len() == n, "dense: {} scales of {n} rows", scales.len());
        Self { values, scales, d, rows: Pick::Range(0, n) }
    }

    /// Returns the matrix with only the rows `rows`.
    #[inline(always)]
    #[must_use]
    pub fn only(self, rows: Pick<'a>) -> Self {
        Self { rows, ..self }
    }

    #[inline(always)]
    fn row(&self, at: usize) -> &'a [W] {
        self.of(self.rows.row(at)).0
    }

    /// Returns row `j` of the whole matrix, and its scale.
    #[inline(always)]
    pub(crate) fn of(&self, j: usize) -> (&'a [W], f32) {
        (&self.values[j * self.d..][..self.d], if self.scales.is_empty() { 1.0 } else { self.scales[j] })
    }
}

/// `out[i, j] = bias[j] + sum_c x[i, c] * w[j, c]`.
///
/// | argument | shape | layout |
/// |---|---|---|
/// | `x` | `[n, d]` | row-major |
/// | `w` | `[f, d]` | row-major |
/// | `bias` | `[f]` | nothing is added if `None` |
/// | `out` | `[n, f]` | row-major; written, never read |
///
/// In the order of this module: the same bits on every [`Isa`], for every `n` and every split of rows and latents.
/// Cost: `2 n d f` operations in the caller's thread; compute-bound from `n` = 16 or so.
///
/// # Panics
/// If the lengths do not fit.
pub fn affine(isa: Isa, x: &[f32], w: &[f32], d: usize, bias: Option<&[f32]>, out: &mut [f32]) {
    product(isa, Matrix::all(x, d), Matrix::all(w, d), bias, out);
}

/// [`affine`] of the rows that `x` and `w` pick: `out[i, j] = bias[w_j] + x_i . w_j`, `[x.rows.len(), w.rows.len()]`.
/// The bias is that of all rows of the weights.
///
/// # Panics
/// If the lengths do not fit, or there is no such row.
pub fn product<W: Weight>(isa: Isa, x: Matrix<'_>, w: Matrix<'_, W>, bias: Option<&[f32]>, out: &mut [f32]) {
    assert_eq!(x.d, w.d, "product: rows of different widths");
    let (n, f, d) = (x.rows.len(), w.rows.len(), w.d);
    assert_eq!(out.len(), n * f, "product: out is not [n, f]");
    // Weights are processed in groups that stay in the last level of cache while all rows use them, and rows in groups
    // that stay in the second level while all weights of a group use them.
    let n_rows = (X_GROUP / d).max(1).next_multiple_of(12);
    let n_latents = (W_GROUP / d).max(1).next_multiple_of(24);
    for j in (0..f).step_by(n_latents) {
        for i in (0..n).step_by(n_rows) {
            let block = Block { x, w, bias, rows: i..n.min(i + n_rows), latents: j..f.min(j + n_latents), stride: f };
            match isa.used() {
                Inner::Scalar(s) => block_scalar(s, &block, out),
                #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
                Inner::Avx2(s) => block_avx2(s, &block, out),
                #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
                Inner::Avx512(s) => block_avx512(s, &block, out),
                #[cfg(target_arch = "aarch64")]
                Inner::Neon(s) => block_neon(s, &block, out),
            }
        }
    }
}

/// Indices of the rows and weights that are multiplied, and the positions of the products.
struct Block<'a, W> {
    x: Matrix<'a>,
    w: Matrix<'a, W>,
    bias: Option<&'a [f32]>,
    rows: Range<usize>,
    latents: Range<usize>,
    stride: usize,
}

/// Defines the loops over a block for one instruction set: tiles of up to the listed numbers of rows, by `$c` latents.
/// A tile of fewer latents repeats its last one.
macro_rules! block_loop {
    ($name:ident, $token:ty, $c:literal, $max:literal: $($rows:literal)*) => {
        fn $name<W: Weight>(simd: $token, b: &Block<'_, W>, out: &mut [f32]) {
            simd.vectorize(#[inline(always)] || {
                for j in b.latents.clone().step_by($c) {
                    let width = $c.min(b.latents.end - j);
                    let (mut w, mut scales) = ([&[][..]; $c], [1.0; $c]);
                    // Adding -0 changes nothing, not even the sign of a zero.
                    let mut bias = [-0.0; LANES];
                    for c in 0..$c {
                        let at = j + c.min(width - 1);
                        (w[c], scales[c]) = b.w.of(b.w.rows.row(at));
                        if let Some(all) = b.bias {
                            bias[c] = all[b.w.rows.row(at)];
                        }
                    }
                    let mut i = b.rows.start;
                    while i < b.rows.end {
                        let rows = $max.min(b.rows.end - i);
                        match rows {
                            $($rows => {
                                let mut x = [&[][..]; $rows];
                                for r in 0..$rows {
                                    x[r] = b.x.row(i + r);
                                }
                                let sums = tile::<_, W, $rows, $c>(simd, x, w, scales, &bias);
                                for r in 0..$rows {
                                    let out = &mut out[(i + r) * b.stride + j..];
                                    if width == $c {
                                        out[..$c].copy_from_slice(&sums[r][..$c]);
                                    } else {
                                        out[..width].copy_from_slice(&sums[r][..width]);
                                    }
                                }
                            })*
                            _ => unreachable!("a tile of more than the most rows"),
                        }
                        i += rows;
                    }
                }
            });
        }
    };
}

block_loop!(block_scalar, fearless_simd::Fallback, 1, 1: 1);
#[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
block_loop!(block_avx2, fearless_simd::x86::Avx2, 3, 2: 1 2);
#[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
block_loop!(block_avx512, fearless_simd::x86::Avx512, 8, 3: 1 2 3);
#[cfg(target_arch = "aarch64")]
block_loop!(block_neon, fearless_simd::aarch64::Neon, 3, 2: 1 2);

/// Multiplies `R` rows by `C` weights, with all sums in registers.
#[inline(always)]
fn tile<S: Simd, W: Weight, const R: usize, const C: usize>(
    simd: S,
    x: [&[f32]; R],
    w: [&[W]; C],
    scales: [f32; C],
    bias: &[f32; LANES],
) -> [[f32; LANES]; R] {
    let d = w[0].len();
    let (vectors, tail) = (d / LANES, d % LANES);
    let (mut xv, mut wv) = ([&[][..]; R], [&[][..]; C]);
    for r in 0..R {
        xv[r] = &x[r][..d].as_chunks::<LANES>().0[..vectors];
    }
    for c in 0..C {
        wv[c] = &w[c][..d].as_chunks::<LANES>().0[..vectors];
    }
    let mut acc = [[Vector::splat(simd, 0.0); C]; R];
    for k in 0..vectors {
        let mut rows = [Vector::splat(simd, 0.0); R];
        for r in 0..R {
            rows[r] = load(simd, &xv[r][k]);
        }
        for c in 0..C {
            let weight = W::load(simd, &wv[c][k], scales[c]);
            for r in 0..R {
                acc[r][c] = fma(rows[r], weight, acc[r][c]);
            }
        }
    }
    if tail > 0 {
        for c in 0..C {
            let weight = load_tail(simd, &w[c][d - tail..], scales[c]);
            for r in 0..R {
                acc[r][c] = fma(load_part(simd, &x[r][d - tail..d]), weight, acc[r][c]);
            }
        }
    }
    let bias = load(simd, bias);
    let mut out = [[0.0; LANES]; R];
    for r in 0..R {
        (sums(simd, acc[r]) + bias).store_array(&mut out[r]);
    }
    out
}

/// Loads fewer than sixteen weights; the other lanes are zero.
#[inline(always)]
fn load_tail<S: Simd, W: Weight>(simd: S, a: &[W], scale: f32) -> Vector<S> {
    let mut padded = [W::default(); LANES];
    padded[..a.len()].copy_from_slice(a);
    W::load(simd, &padded, scale)
}

/// Returns the sums of up to eight vectors, each by the tree of [`scalar::product`](super::scalar::product), in the
/// first lanes.
#[inline(always)]
fn sums<S: Simd, const C: usize>(simd: S, v: [Vector<S>; C]) -> Vector<S> {
    const { assert!(C <= 8, "a vector has eight lanes to hold the sums") };
    let mut a = [Vector::splat(simd, 0.0); 8];
    for c in 0..8 {
        a[c] = v[if c < C { c } else { C - 1 }];
    }
    // Halves of sixteen lanes: [A8 | B8].
    let mut b = [Vector::splat(simd, 0.0); 4];
    for c in 0..4 {
        if 2 * c < C {
            b[c] = halve(a[2 * c], a[2 * c + 1]);
        }
    }
    let (lo, hi) = (neighbours(b[0], b[1]), if C > 4 { neighbours(b[2], b[3]) } else { b[0] });
    // Four lanes, then two of each: [A2 B2 .. H2].
    let eights = neighbours(lo, if C > 4 { hi } else { lo });
    neighbours(eights, eights)
}

/// Adds the upper half of the lanes to the lower one, for two vectors: `[a | b]`.
#[inline(always)]
fn halve<S: Simd>(a: Vector<S>, b: Vector<S>) -> Vector<S> {
    let ((a_lo, a_hi), (b_lo, b_hi)) = (a.split(), b.split());
    a_lo.combine(b_lo) + a_hi.combine(b_hi)
}

/// Adds neighbouring lanes: those of `a`, then those of `b`.
#[inline(always)]
fn neighbours<S: Simd>(a: Vector<S>, b: Vector<S>) -> Vector<S> {
    a.unzip_low(b) + a.unzip_high(b)
}

/// A row and a latent to multiply.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pair {
    /// The row of `x`.
    pub row: u32,
    /// The row of the weights.
    pub latent: u32,
}

/// `out[p] = bias[latent_p] + x[row_p] . w[latent_p]`, with the bits of [`affine`].
///
/// | argument | shape | layout |
/// |---|---|---|
/// | `x` | `[n, d]` | row-major |
/// | `w` | `[f, d]` | all rows count, whatever the selection |
/// | `bias` | `[f]` | |
/// | `pairs`, `out` | `[pairs]` | `out` is written, never read |
///
/// Cost: `2 d` operations and `8 d` bytes per pair (of `f32`); the bytes of `w` only once per latent where the pairs of
/// a latent are adjacent.
///
/// # Panics
/// If the lengths do not fit, or there is no such row or latent.
pub fn pairs<W: Weight>(isa: Isa, x: &[f32], w: Matrix<'_, W>, bias: &[f32], pairs: &[Pair], out: &mut [f32]) {
    assert_eq!(pairs.len(), out.len(), "pairs: pairs and outputs differ in number");
    let all = Pairs { x, w, bias };
    match isa.used() {
        Inner::Scalar(s) => s.vectorize(
            #[inline(always)]
            || all.run::<_, 1>(s, pairs, out),
        ),
        #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
        Inner::Avx2(s) => s.vectorize(
            #[inline(always)]
            || all.run::<_, 4>(s, pairs, out),
        ),
        #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
        Inner::Avx512(s) => s.vectorize(
            #[inline(always)]
            || all.run::<_, 4>(s, pairs, out),
        ),
        #[cfg(target_arch = "aarch64")]
        Inner::Neon(s) => s.vectorize(
            #[inline(always)]
            || all.run::<_, 4>(s, pairs, out),
        ),
    }
}

struct Pairs<'a, W> {
    x: &'a [f32],
    w: Matrix<'a, W>,
    bias: &'a [f32],
}

impl<W: Weight> Pairs<'_, W> {
    /// Computes `P` pairs at a time, so that the sums of one hide the latency of the others.
    #[inline(always)]
    fn run<S: Simd, const P: usize>(&self, simd: S, pairs: &[Pair], out: &mut [f32]) {
        let (groups, rest) = pairs.as_chunks::<P>();
        let (outs, out_rest) = out.as_chunks_mut::<P>();
        for (pairs, out) in groups.iter().zip(outs) {
            *out = self.group(simd, pairs);
        }
        for (pair, out) in rest.iter().zip(out_rest) {
            [*out] = self.group(simd, &[*pair]);
        }
    }

    #[inline(always)]
    fn group<S: Simd, const P: usize>(&self, simd: S, pairs: &[Pair; P]) -> [f32; P] {
        let d = self.w.d;
        let vectors = d / LANES;
        let (mut x, mut w, mut scales) = ([&[][..]; P], [&[][..]; P], [1.0; P]);
        let (mut xv, mut wv) = ([&[][..]; P], [&[][..]; P]);
        for p in 0..P {
            x[p] = &self.x[pairs[p].row as usize * d..][..d];
            (w[p], scales[p]) = self.w.of(pairs[p].latent as usize);
            xv[p] = &x[p].as_chunks::<LANES>().0[..vectors];
            wv[p] = &w[p].as_chunks::<LANES>().0[..vectors];
        }
        let mut acc = [Vector::splat(simd, 0.0); P];
        for k in 0..vectors {
            for p in 0..P {
                acc[p] = fma(load(simd, &xv[p][k]), W::load(simd, &wv[p][k], scales[p]), acc[p]);
            }
        }
        let tail = vectors * LANES;
        if tail < d {
            for p in 0..P {
                acc[p] = fma(load_part(simd, &x[p][tail..]), load_tail(simd, &w[p][tail..], scales[p]), acc[p]);
            }
        }
        let mut bias = [0.0; LANES];
        for p in 0..P {
            bias[p] = self.bias[pairs[p].latent as usize];
        }
        let all: [f32; LANES] = (sums(simd, acc) + load(simd, &bias)).into();
        let mut out = [0.0; P];
        out.copy_from_slice(&all[..P]);
        out
    }
}

/// `out[j, i] = a[i, j]` of a matrix `[n, d]`: for weights that are stored transposed.
///
/// # Panics
/// If the length is not `n d`.
#[must_use]
pub fn transposed(a: &[f32], n: usize, d: usize) -> alloc::vec::Vec<f32> {
    assert_eq!(a.len(), n * d, "transposed: not [n, d]");
    let mut out = alloc::vec![0.0; n * d];
    const TILE: usize = 16;
    for j0 in (0..d).step_by(TILE) {
        for i0 in (0..n).step_by(TILE) {
            for j in j0..d.min(j0 + TILE) {
                for i in i0..n.min(i0 + TILE) {
                    out[j * n + i] = a[i * d + j];
                }
            }
        }
    }
    out
}
