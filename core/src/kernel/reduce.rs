//! Sums over a vector, and the element-wise kernels beside them.
//!
//! All sums have one order: element `c` joins chain `c mod 64` (four accumulators of sixteen lanes), the input being
//! padded with zeros to a multiple of sixteen; then `(A0 + A1) + (A2 + A3)`, and the upper half of the lanes is added to
//! the lower one until one is left. [`scalar::dot`](super::scalar::dot) says the same in plain loops.

use fearless_simd::prelude::*;

use super::{Isa, LANES, Vector, fma, load, load_part, store_part, tree};

/// Folds `step` over the elements in the order of this module.
#[inline(always)]
fn fold<S: Simd>(simd: S, a: &[f32], step: impl Fn(Vector<S>, Vector<S>) -> Vector<S>) -> f32 {
    fold2(
        simd,
        a,
        a,
        #[inline(always)]
        |acc, x, _| step(acc, x),
    )
}

/// Folds `step` over the pairs of elements in the order of this module.
#[inline(always)]
fn fold2<S: Simd>(simd: S, a: &[f32], b: &[f32], step: impl Fn(Vector<S>, Vector<S>, Vector<S>) -> Vector<S>) -> f32 {
    fold_rows(simd, [a], b, step)[0]
}

/// Computes [`fold2`] of each of `R` rows with `b` at the same time.
#[inline(always)]
fn fold_rows<S: Simd, const R: usize>(
    simd: S,
    rows: [&[f32]; R],
    b: &[f32],
    step: impl Fn(Vector<S>, Vector<S>, Vector<S>) -> Vector<S>,
) -> [f32; R] {
    let (b_vectors, b_tail) = b.as_chunks::<LANES>();
    let (blocks, rest) = (b_vectors.len() / 4, b_vectors.len() % 4);
    let mut a = [&[][..]; R];
    for r in 0..R {
        a[r] = rows[r][..b.len()].as_chunks::<LANES>().0;
    }
    let mut acc = [[Vector::splat(simd, 0.0); 4]; R];
    let mut at = 0;
    for _ in 0..blocks {
        for j in 0..4 {
            let y = load(simd, &b_vectors[at + j]);
            for r in 0..R {
                acc[r][j] = step(acc[r][j], load(simd, &a[r][at + j]), y);
            }
        }
        at += 4;
    }
    for j in 0..3 {
        if j < rest {
            let y = load(simd, &b_vectors[at + j]);
            for r in 0..R {
                acc[r][j] = step(acc[r][j], load(simd, &a[r][at + j]), y);
            }
        }
    }
    if !b_tail.is_empty() {
        let y = load_part(simd, b_tail);
        for j in 0..4 {
            if j == rest {
                for r in 0..R {
                    let x = load_part(simd, &rows[r][b.len() - b_tail.len()..b.len()]);
                    acc[r][j] = step(acc[r][j], x, y);
                }
            }
        }
    }
    let mut out = [0.0; R];
    for r in 0..R {
        let [s0, s1, s2, s3] = acc[r];
        out[r] = tree((s0 + s1) + (s2 + s3));
    }
    out
}

/// `y[c] = op(x[c], y[c])`, sixteen at a time.
#[inline(always)]
pub(super) fn zip_into<S: Simd>(simd: S, x: &[f32], y: &mut [f32], op: impl Fn(Vector<S>, Vector<S>) -> Vector<S>) {
    let (x, x_tail) = x.as_chunks::<LANES>();
    let (y, y_tail) = y.as_chunks_mut::<LANES>();
    for (x, y) in x.iter().zip(y) {
        op(load(simd, x), load(simd, y)).store_array(y);
    }
    if !x_tail.is_empty() {
        store_part(op(load_part(simd, x_tail), load_part(simd, y_tail)), y_tail);
    }
}

/// Computes [`dot`] of each of `R` rows with `v`.
#[inline(always)]
pub(super) fn dots<S: Simd, const R: usize>(simd: S, rows: [&[f32]; R], v: &[f32]) -> [f32; R] {
    fold_rows(
        simd,
        rows,
        v,
        #[inline(always)]
        |acc, x, y| fma(x, y, acc),
    )
}

/// `sum_c a[c] * b[c]`, in the order of this module: the same bits on every [`Isa`].
///
/// # Panics
/// If the lengths differ.
pub fn dot(isa: Isa, a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len(), "dot: the lengths differ");
    dispatch!(isa, simd => dots(simd, [a], b)[0])
}

/// `sum_c a[c]^2`, in the order of this module: the bits of `dot(a, a)`.
pub fn sum_squares(isa: Isa, a: &[f32]) -> f32 {
    dispatch!(isa, simd => fold(simd, a, #[inline(always)] |acc, x| fma(x, x, acc)))
}

/// `sum_c a[c]`, in the order of this module.
pub fn sum(isa: Isa, a: &[f32]) -> f32 {
    dispatch!(isa, simd => fold(simd, a, #[inline(always)] |acc, x| acc + x))
}

/// `sum_c (a[c] - b[c])^2`, in the order of this module; each difference is rounded before it is squared.
///
/// # Panics
/// If the lengths differ.
pub fn sum_squares_diff(isa: Isa, a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len(), "sum_squares_diff: the lengths differ");
    dispatch!(isa, simd => fold2(simd, a, b, #[inline(always)] |acc, x, y| { let t = x - y; fma(t, t, acc) }))
}

/// `y[c] = alpha * x[c] + y[c]`, with one rounding.
///
/// # Panics
/// If the lengths differ.
pub fn axpy(isa: Isa, alpha: f32, x: &[f32], y: &mut [f32]) {
    assert_eq!(x.len(), y.len(), "axpy: the lengths differ");
    dispatch!(isa, simd => {
        let alpha = Vector::splat(simd, alpha);
        zip_into(simd, x, y, #[inline(always)] |x, y| fma(alpha, x, y))
    })
}

/// `out[c] = a[c] - b[c]`; `out` is written, never read.
///
/// # Panics
/// If the lengths differ.
pub fn sub_into(isa: Isa, a: &[f32], b: &[f32], out: &mut [f32]) {
    assert!(a.len() == b.len() && a.len() == out.len(), "sub_into: the lengths differ");
    dispatch!(isa, _simd => {
        for ((o, a), b) in out.iter_mut().zip(a).zip(b) {
            *o = a - b;
        }
    })
}

/// `y[c] = alpha * y[c]`.
pub fn scale(isa: Isa, alpha: f32, y: &mut [f32]) {
    dispatch!(isa, _simd => {
        for y in y.iter_mut() {
            *y *= alpha;
        }
    })
}

/// Returns whether no element is NaN or infinite. It reads all elements: meant for tensors that are almost always
/// finite.
pub fn all_finite(isa: Isa, a: &[f32]) -> bool {
    const EXPONENT: u32 = 0x7f80_0000;
    dispatch!(isa, _simd => a.iter().fold(0, |bad, x| bad | u32::from(x.to_bits() & EXPONENT == EXPONENT)) == 0)
}
