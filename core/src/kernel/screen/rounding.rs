//! Rounds a row to 8 bits, with a bound of the error.

use fearless_simd::prelude::*;

use crate::kernel::{LANES, Vector, load};

/// 1.5 * 2^23.
const SHIFT: f32 = 12_582_912.0;
/// Half-width of the range of the integers.
const MOST: f32 = 127.0;
/// A factor of norms that makes them upper bounds: it covers sums of up to 2^13 terms per chain.
const UP: f32 = 1.0005;

/// A row in 8 bits.
pub(super) struct Integers {
    pub scale: f32,
    /// Sum of the integers.
    pub sum: i32,
    /// Upper bounds of the norms of the row, of the integers times the scale, and of their difference.
    pub norm: f32,
    pub norm_hat: f32,
    pub error: f32,
}

/// Rotates a row by an orthogonal matrix whose entries have one size, so that no number stands out: `out = H x`.
///
/// `H` is Hadamard's matrix with its rows in some order, of size `p` = 32 2^j, applied to each `p` consecutive numbers,
/// where 32 2^j is the largest such divisor of the number of elements in whole pairs of vectors; the rest stays.
/// Returns a bound of `|out - H x| / |out|`: each of the `5 + j` stages rounds once, and so do the factor `1 / sqrt(p)`
/// and the product with it.
#[inline(always)]
pub(super) fn mix<S: Simd>(simd: S, row: &[f32], out: &mut [f32]) -> f32 {
    let (pairs, rest) = row.as_chunks::<{ 2 * LANES }>();
    let (outs, out_rest) = out[..row.len()].as_chunks_mut::<{ 2 * LANES }>();
    out_rest.copy_from_slice(rest);
    if pairs.is_empty() {
        return 0.0;
    }
    let stages = pairs.len().trailing_zeros();
    let factor = Vector::splat(simd, 1.0 / libm::sqrtf(((2 * LANES) << stages) as f32));
    for (pair, out) in pairs.iter().zip(outs.iter_mut()) {
        let [a, b] = pair.as_chunks::<LANES>().0 else { unreachable!("two vectors") };
        let (mut a, mut b) = (load(simd, a) * factor, load(simd, b) * factor);
        for _ in 0..5 {
            let (even, odd) = (a.unzip_low(b), a.unzip_high(b));
            (a, b) = (even + odd, even - odd);
        }
        let [to_a, to_b] = out.as_chunks_mut::<LANES>().0 else { unreachable!("two vectors") };
        a.store_array(to_a);
        b.store_array(to_b);
    }
    for h in (0..stages).map(|s| 1 << s) {
        for both in outs.chunks_exact_mut(2 * h) {
            let (low, high) = both.split_at_mut(h);
            for (a, b) in low.iter_mut().zip(high) {
                for l in 0..2 * LANES {
                    (a[l], b[l]) = (a[l] + b[l], a[l] - b[l]);
                }
            }
        }
    }
    (stages + 9) as f32 * f32::EPSILON
}

/// Rounds a row to integers of at most 127 in size, four per word, which `put(c, word)` receives. `off` is the relative
/// error that the row already has.
#[inline(always)]
pub(super) fn integers(row: &[f32], off: f32, mut put: impl FnMut(usize, i32)) -> Integers {
    let mut most = [0.0f32; LANES];
    let (blocks, tail) = row.as_chunks::<LANES>();
    for block in blocks {
        for l in 0..LANES {
            most[l] = most[l].max(block[l].abs());
        }
    }
    let largest = most.iter().chain(tail).fold(0.0f32, |m, v| m.max(v.abs()));
    let root_d = libm::sqrtf(row.len() as f32);
    // Squares must stay in the range of normal numbers; other rows get the crude bounds.
    if !(1e-15..1e15).contains(&largest) {
        for c in 0..row.len().div_ceil(4) {
            put(c, 0);
        }
        // A rotated row of zeros need not have been zero: the loss of the rotation is far below the smallest normal
        // number.
        let is_nan = row.iter().any(|v| v.is_nan());
        let norm = if is_nan { f32::NAN } else { largest * root_d * UP + f32::MIN_POSITIVE };
        return Integers { scale: 0.0, sum: 0, norm, norm_hat: 0.0, error: norm };
    }
    let (scale, inverse) = (largest / MOST, MOST / largest);
    let mut parts = [[0.0f32; LANES]; 3];
    let mut sums = [0i32; LANES];
    let mut round = |values: &[f32; LANES]| {
        let mut bytes = [0; LANES];
        for l in 0..LANES {
            let v = values[l];
            // Adding 1.5 * 2^23 rounds to the nearest integer, ties to even, and leaves it in the last bits.
            let shifted = v * inverse + SHIFT;
            let rounded = shifted - SHIFT;
            let hat = rounded * scale;
            let miss = v - hat;
            parts[0][l] += v * v;
            parts[1][l] += hat * hat;
            parts[2][l] += miss * miss;
            let integer = (shifted.to_bits() as i32).wrapping_sub(SHIFT.to_bits() as i32);
            sums[l] = integer.wrapping_add(sums[l]);
            bytes[l] = integer as u8;
        }
        bytes
    };
    for (b, block) in blocks.iter().enumerate() {
        let bytes = round(block);
        for (w, word) in bytes.as_chunks::<4>().0.iter().enumerate() {
            put(b * (LANES / 4) + w, i32::from_ne_bytes(*word));
        }
    }
    if !tail.is_empty() {
        let mut block = [0.0; LANES];
        block[..tail.len()].copy_from_slice(tail);
        let bytes = round(&block);
        for (w, word) in bytes.as_chunks::<4>().0[..tail.len().div_ceil(4)].iter().enumerate() {
            put(blocks.len() * (LANES / 4) + w, i32::from_ne_bytes(*word));
        }
    }
    let norm = |i: usize| libm::sqrtf(parts[i].iter().sum::<f32>()) * UP;
    // `hat` and `miss` are rounded once each, by 2^-24 of a value of at most `largest`; squares of less than 1e-38 are lost.
    let error = norm(2) + root_d * (largest * (2.0 * f32::EPSILON) + 2e-19) + off * norm(0);
    Integers { scale, sum: sums.into_iter().fold(0, i32::wrapping_add), norm: norm(0), norm_hat: norm(1), error }
}
