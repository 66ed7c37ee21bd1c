//! Products with a few rows of a table: what decoding, and the gradients of sparse codes, are made of.

use fearless_simd::prelude::*;

use super::isa::Inner;
use super::reduce::dot_body;
use super::{Isa, LANES, Vector, fma, load, load_part, store_part};

/// `out[c] += sum_e coef[e] * rows[index[e], c]`.
///
/// | argument | shape | layout |
/// |---|---|---|
/// | `index`, `coef` | `[e]` | `index < m`, any order, repeats allowed |
/// | `rows` | `[m, d]` | row-major |
/// | `out` | `[d]` | accumulated into |
///
/// Each column is one chain of fused multiply-adds that starts at `out[c]`, in the order of `e`: the same bits on every
/// [`Isa`]. Cost: reads `e * d` weights once; bandwidth-bound unless they are in the cache.
///
/// # Panics
/// If the lengths do not fit, or an index lies outside of `rows`.
pub fn accumulate_rows(isa: Isa, index: &[u32], coef: &[f32], rows: &[f32], d: usize, out: &mut [f32]) {
    assert_eq!(index.len(), coef.len(), "accumulate_rows: indices and coefficients differ in number");
    assert_eq!(out.len(), d, "accumulate_rows: out is not one row");
    match isa.0 {
        Inner::Scalar(s) => s.vectorize(
            #[inline(always)]
            || accumulate_body::<_, 1>(s, index, coef, rows, d, out),
        ),
        #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
        Inner::Avx2(s) => s.vectorize(
            #[inline(always)]
            || accumulate_body::<_, 4>(s, index, coef, rows, d, out),
        ),
        #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
        Inner::Avx512(s) => s.vectorize(
            #[inline(always)]
            || accumulate_body::<_, 16>(s, index, coef, rows, d, out),
        ),
        #[cfg(target_arch = "aarch64")]
        Inner::Neon(s) => s.vectorize(
            #[inline(always)]
            || accumulate_body::<_, 4>(s, index, coef, rows, d, out),
        ),
    }
}

#[inline(always)]
fn accumulate_body<S: Simd, const B: usize>(
    simd: S,
    index: &[u32],
    coef: &[f32],
    rows: &[f32],
    d: usize,
    out: &mut [f32],
) {
    let (vectors, tail) = out.as_chunks_mut::<LANES>();
    let (blocks, rest) = vectors.as_chunks_mut::<B>();
    let mut column = 0;
    for block in blocks {
        accumulate_block(simd, index, coef, rows, d, column, block);
        column += B * LANES;
    }
    let (blocks, rest) = rest.as_chunks_mut::<4>();
    for block in blocks {
        accumulate_block(simd, index, coef, rows, d, column, block);
        column += 4 * LANES;
    }
    for vector in rest {
        accumulate_block(simd, index, coef, rows, d, column, core::array::from_mut(vector));
        column += LANES;
    }
    if !tail.is_empty() {
        let mut acc = load_part(simd, tail);
        for (&i, &k) in index.iter().zip(coef) {
            let row = &rows[i as usize * d + column..][..tail.len()];
            acc = fma(Vector::splat(simd, k), load_part(simd, row), acc);
        }
        store_part(acc, tail);
    }
}

/// The chains of `B` vectors of columns from `column` on, kept in registers.
#[inline(always)]
fn accumulate_block<S: Simd, const B: usize>(
    simd: S,
    index: &[u32],
    coef: &[f32],
    rows: &[f32],
    d: usize,
    column: usize,
    out: &mut [[f32; LANES]; B],
) {
    let mut acc = [Vector::splat(simd, 0.0); B];
    for b in 0..B {
        acc[b] = load(simd, &out[b]);
    }
    for (&i, &k) in index.iter().zip(coef) {
        let row = &rows[i as usize * d + column..][..B * LANES];
        let row = row.as_chunks::<LANES>().0;
        let k = Vector::splat(simd, k);
        for b in 0..B {
            acc[b] = fma(k, load(simd, &row[b]), acc[b]);
        }
    }
    for b in 0..B {
        acc[b].store_array(&mut out[b]);
    }
}

/// `out[e] = rows[index[e], :] . v`, with the bits of [`dot`](super::reduce::dot).
///
/// | argument | shape | layout |
/// |---|---|---|
/// | `index` | `[e]` | `index < m` |
/// | `rows` | `[m, d]` | row-major |
/// | `v` | `[d]` | |
/// | `out` | `[e]` | written, never read |
///
/// Cost: reads `e * d` weights once; bandwidth-bound unless they are in the cache.
///
/// # Panics
/// If the lengths do not fit, or an index lies outside of `rows`.
pub fn dot_rows(isa: Isa, index: &[u32], rows: &[f32], d: usize, v: &[f32], out: &mut [f32]) {
    assert_eq!(index.len(), out.len(), "dot_rows: indices and outputs differ in number");
    assert_eq!(v.len(), d, "dot_rows: v is not one row");
    dispatch!(isa, simd => {
        for (&i, o) in index.iter().zip(out.iter_mut()) {
            *o = dot_body(simd, &rows[i as usize * d..][..d], v);
        }
    })
}
