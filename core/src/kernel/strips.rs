//! Products of single rows with single groups of sixteen weights: what a gate leaves of a dense product.

use alloc::vec;
use alloc::vec::Vec;

use fearless_simd::prelude::*;

use super::isa::Inner;
use super::{Isa, LANES, Vector, fma, load};

/// Rows of the weights in one strip.
pub const STRIP: usize = LANES;

/// The values of one column of the weights for the rows of a strip: a cache line.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
struct Line([f32; LANES]);

/// Weights in strips of sixteen rows, each strip in the order in which [`affine`] reads it: for each column the sixteen
/// values side by side.
#[derive(Clone, Debug, Default)]
pub struct Strips {
    d: usize,
    lines: Vec<Line>,
}

/// Which row meets which strip.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pair {
    /// The row of `x`.
    pub row: u32,
    /// The strip.
    pub strip: u32,
}

impl Strips {
    /// The rows `rows` of the weights `w`, row-major `[.., d]`, sixteen a strip; zero in place of `None`.
    ///
    /// # Panics
    /// If there is no such row, or the last strip is not whole.
    pub fn new(w: &[f32], d: usize, rows: &[Option<u32>]) -> Self {
        assert!(rows.len().is_multiple_of(STRIP), "strips: the last one is not whole");
        let mut lines = vec![Line([0.0; LANES]); rows.len() / STRIP * d];
        for (s, rows) in rows.chunks_exact(STRIP).enumerate() {
            for (lane, row) in rows.iter().enumerate().filter_map(|(lane, row)| Some((lane, (*row)? as usize))) {
                let lines = &mut lines[s * d..(s + 1) * d];
                lines.iter_mut().zip(&w[row * d..(row + 1) * d]).for_each(|(line, w)| line.0[lane] = *w);
            }
        }
        Self { d, lines }
    }
}

/// `out[p, l] = bias[16 s + l] + sum_c x[i, c] * w[16 s + l, c]` for the pair `p` of row `i` and strip `s`.
///
/// | argument | shape | layout |
/// |---|---|---|
/// | `x` | `[n, d]` | row-major |
/// | `w` | `[16 n_strips, d]` | strips |
/// | `bias` | `[16 n_strips]` | |
/// | `out` | `[pairs, 16]` | row-major; written, never read |
///
/// Each element is one chain of fused multiply-adds that starts at its bias, in the order of `c`: the bits of
/// [`dense::affine`](super::dense::affine), on every [`Isa`].
/// Cost: `32 d` operations and `64 d` bytes of weights a pair; a strip that comes in several pairs one after the other
/// is read once.
///
/// # Panics
/// If the lengths do not fit, or there is no such row or strip.
pub fn affine(isa: Isa, x: &[f32], w: &Strips, bias: &[f32], pairs: &[Pair], out: &mut [f32]) {
    assert_eq!(out.len(), pairs.len() * STRIP, "strips: out is not [pairs, 16]");
    match isa.0 {
        Inner::Scalar(s) => scalar(s, x, w, bias, pairs, out),
        #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
        Inner::Avx2(s) => avx2(s, x, w, bias, pairs, out),
        #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
        Inner::Avx512(s) => avx512(s, x, w, bias, pairs, out),
        #[cfg(target_arch = "aarch64")]
        Inner::Neon(s) => neon(s, x, w, bias, pairs, out),
    }
}

/// Defines the loop over the pairs for one instruction set: as many at once as there are registers for, so that the sums
/// of one hide the latency of the others.
macro_rules! pair_loop {
    ($name:ident, $token:ty, $most:literal: $($pairs:literal)*) => {
        fn $name(simd: $token, x: &[f32], w: &Strips, bias: &[f32], pairs: &[Pair], out: &mut [f32]) {
            for (pairs, out) in pairs.chunks($most).zip(out.chunks_mut($most * STRIP)) {
                match pairs.len() {
                    $($pairs => simd.vectorize(#[inline(always)] || tile::<_, $pairs>(simd, x, w, bias, pairs, out)),)*
                    _ => unreachable!("more pairs than the most"),
                }
            }
        }
    };
}

pair_loop!(scalar, fearless_simd::Fallback, 1: 1);
#[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
pair_loop!(avx2, fearless_simd::x86::Avx2, 4: 1 2 3 4);
#[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
pair_loop!(avx512, fearless_simd::x86::Avx512, 8: 1 2 3 4 5 6 7 8);
#[cfg(target_arch = "aarch64")]
pair_loop!(neon, fearless_simd::aarch64::Neon, 4: 1 2 3 4);

/// `P` pairs, all sums in registers.
#[inline(always)]
fn tile<S: Simd, const P: usize>(simd: S, x: &[f32], w: &Strips, bias: &[f32], pairs: &[Pair], out: &mut [f32]) {
    let d = w.d;
    let (mut rows, mut lines) = ([&[][..]; P], [&[][..]; P]);
    let mut acc = [Vector::splat(simd, 0.0); P];
    for p in 0..P {
        let (i, s) = (pairs[p].row as usize, pairs[p].strip as usize);
        rows[p] = &x[i * d..][..d];
        lines[p] = &w.lines[s * d..][..d];
        let start: &[f32; LANES] = bias[s * STRIP..][..STRIP].try_into().expect("sixteen");
        acc[p] = load(simd, start);
    }
    for c in 0..d {
        for p in 0..P {
            acc[p] = fma(Vector::splat(simd, rows[p][c]), load(simd, &lines[p][c].0), acc[p]);
        }
    }
    for (acc, out) in acc.into_iter().zip(out.chunks_exact_mut(STRIP)) {
        let sums: [f32; LANES] = acc.into();
        out.copy_from_slice(&sums);
    }
}
