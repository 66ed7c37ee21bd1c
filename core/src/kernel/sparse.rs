//! Products with a few rows of a table, as in decoding and in the gradients of sparse codes.

use fearless_simd::prelude::*;

use super::isa::Inner;
use super::reduce::dots;
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
    assert_eq!(out.len(), d, "accumulate_rows: out is not one row");
    accumulate_strided(isa, index, coef, rows, d, out);
}

/// [`accumulate_rows`] of rows that begin `stride` numbers apart: `out[c] += sum_e coef[e] * rows[index[e] * stride + c]`.
///
/// # Panics
/// As [`accumulate_rows`].
pub fn accumulate_strided(isa: Isa, index: &[u32], coef: &[f32], rows: &[f32], stride: usize, out: &mut [f32]) {
    assert_eq!(index.len(), coef.len(), "accumulate_rows: indices and coefficients differ in number");
    dispatch!(isa, simd => accumulate_body(simd, index, coef, rows, stride, out));
}

/// Several rows are processed at a time: each is read sequentially, as prefetchers expect, and `out` is read and
/// written once for all of them.
#[inline(always)]
fn accumulate_body<S: Simd>(simd: S, index: &[u32], coef: &[f32], rows: &[f32], stride: usize, out: &mut [f32]) {
    if out.len() == 4 * LANES {
        // The whole of `out` stays in registers.
        let (block, _) = out.as_chunks_mut::<LANES>();
        if let Some(block) = block.first_chunk_mut::<4>() {
            accumulate_block(simd, index, coef, rows, stride, block);
        }
        return;
    }
    let (index8, index) = index.as_chunks::<8>();
    let (coef8, coef) = coef.as_chunks::<8>();
    for (i, k) in index8.iter().zip(coef8) {
        accumulate_group(simd, i, k, rows, stride, out);
    }
    let (index4, index) = index.as_chunks::<4>();
    let (coef4, coef) = coef.as_chunks::<4>();
    for (i, k) in index4.iter().zip(coef4) {
        accumulate_group(simd, i, k, rows, stride, out);
    }
    for (i, k) in index.iter().zip(coef) {
        accumulate_group(simd, &[*i], &[*k], rows, stride, out);
    }
}

/// Adds `E` entries to all chains.
#[inline(always)]
fn accumulate_group<S: Simd, const E: usize>(
    simd: S,
    index: &[u32; E],
    coef: &[f32; E],
    rows: &[f32],
    stride: usize,
    out: &mut [f32],
) {
    let d = out.len();
    let mut row = [&[][..]; E];
    let mut k = [Vector::splat(simd, 0.0); E];
    for e in 0..E {
        row[e] = &rows[index[e] as usize * stride..][..d];
        k[e] = Vector::splat(simd, coef[e]);
    }
    let (vectors, tail) = out.as_chunks_mut::<LANES>();
    for (b, out) in vectors.iter_mut().enumerate() {
        let mut acc = load(simd, out);
        for e in 0..E {
            acc = fma(k[e], load(simd, &row[e].as_chunks::<LANES>().0[b]), acc);
        }
        acc.store_array(out);
    }
    if !tail.is_empty() {
        let mut acc = load_part(simd, tail);
        for e in 0..E {
            acc = fma(k[e], load_part(simd, &row[e][d - tail.len()..]), acc);
        }
        store_part(acc, tail);
    }
}

/// Computes all chains of a row of `B` vectors.
#[inline(always)]
fn accumulate_block<S: Simd, const B: usize>(
    simd: S,
    index: &[u32],
    coef: &[f32],
    rows: &[f32],
    stride: usize,
    out: &mut [[f32; LANES]; B],
) {
    let mut acc = [Vector::splat(simd, 0.0); B];
    for b in 0..B {
        acc[b] = load(simd, &out[b]);
    }
    for (&i, &k) in index.iter().zip(coef) {
        let (row, _) = rows[i as usize * stride..][..B * LANES].as_chunks::<LANES>();
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
    // Process as many rows at a time as the registers can hold sums of.
    match isa.used() {
        Inner::Scalar(s) => s.vectorize(
            #[inline(always)]
            || dot_rows_body::<_, 1>(s, index, rows, v, out),
        ),
        #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
        Inner::Avx2(s) => s.vectorize(
            #[inline(always)]
            || dot_rows_body::<_, 1>(s, index, rows, v, out),
        ),
        #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
        Inner::Avx512(s) => s.vectorize(
            #[inline(always)]
            || dot_rows_body::<_, 4>(s, index, rows, v, out),
        ),
        #[cfg(target_arch = "aarch64")]
        Inner::Neon(s) => s.vectorize(
            #[inline(always)]
            || dot_rows_body::<_, 1>(s, index, rows, v, out),
        ),
    }
}

#[inline(always)]
fn dot_rows_body<S: Simd, const R: usize>(simd: S, index: &[u32], rows: &[f32], v: &[f32], out: &mut [f32]) {
    let d = v.len();
    let (groups, index) = index.as_chunks::<R>();
    let (out_groups, out) = out.as_chunks_mut::<R>();
    for (group, o) in groups.iter().zip(out_groups) {
        let mut row = [&[][..]; R];
        for r in 0..R {
            row[r] = &rows[group[r] as usize * d..][..d];
        }
        *o = dots(simd, row, v);
    }
    for (&i, o) in index.iter().zip(out) {
        [*o] = dots(simd, [&rows[i as usize * d..][..d]], v);
    }
}
