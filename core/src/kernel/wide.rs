//! Sums of rows of `f32` in `f64`, for metrics: sixteen chains, chain `l` over the terms `l, l + 16, ...`, and the fixed tree
//! over them. Terms and sums are rounded once each, so the bits are the same on every instruction set.

use alloc::vec::Vec;

use super::{Isa, LANES};

/// `sum_c f(a_c, b_c)`.
#[inline(always)]
fn sum<A: Copy, B: Copy>(a: &[A], b: &[B], f: impl Fn(A, B) -> f64 + Copy) -> f64 {
    let mut sums = [0.0f64; LANES];
    let (a, a_rest) = a.as_chunks::<LANES>();
    let (b, b_rest) = b.as_chunks::<LANES>();
    for (a, b) in a.iter().zip(b) {
        for l in 0..LANES {
            sums[l] += f(a[l], b[l]);
        }
    }
    for (sum, (a, b)) in sums.iter_mut().zip(a_rest.iter().zip(b_rest)) {
        *sum += f(*a, *b);
    }
    let mut half = LANES / 2;
    while half > 0 {
        for l in 0..half {
            sums[l] += sums[l + half];
        }
        half /= 2;
    }
    sums[0]
}

#[inline(always)]
fn square(x: f64) -> f64 {
    x * x
}

/// `a . b`.
///
/// # Panics
/// If the lengths differ.
#[must_use]
pub fn dot(isa: Isa, a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len(), "wide::dot: lengths");
    dispatch!(isa, _simd => sum(a, b, #[inline(always)] |a, b| f64::from(a) * f64::from(b)))
}

/// `a . v` of a row and a vector in `f64`.
///
/// # Panics
/// If the lengths differ.
#[must_use]
pub fn dot_wide(isa: Isa, a: &[f32], v: &[f64]) -> f64 {
    assert_eq!(a.len(), v.len(), "wide::dot_wide: lengths");
    dispatch!(isa, _simd => sum(a, v, #[inline(always)] |a, v| f64::from(a) * v))
}

/// `a . b` of vectors in `f64`.
///
/// # Panics
/// If the lengths differ.
#[must_use]
pub fn dot64(isa: Isa, a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len(), "wide::dot64: lengths");
    dispatch!(isa, _simd => sum(a, b, #[inline(always)] |a, b| a * b))
}

/// `v_c -= w a_c`, of vectors in `f64`.
///
/// # Panics
/// If the lengths differ.
pub fn subtract64(isa: Isa, w: f64, a: &[f64], v: &mut [f64]) {
    assert_eq!(a.len(), v.len(), "wide::subtract64: lengths");
    dispatch!(isa, _simd => v.iter_mut().zip(a).for_each(#[inline(always)] |(v, a)| *v -= w * a));
}

/// `||a||^2`.
#[must_use]
pub fn sum_squares(isa: Isa, a: &[f32]) -> f64 {
    dispatch!(isa, _simd => sum(a, a, #[inline(always)] |a, _| square(f64::from(a))))
}

/// `||a - b||^2`, of differences in `f64`.
///
/// # Panics
/// If the lengths differ.
#[must_use]
pub fn distance(isa: Isa, a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len(), "wide::distance: lengths");
    dispatch!(isa, _simd => sum(a, b, #[inline(always)] |a, b| square(f64::from(a) - f64::from(b))))
}

/// `||a - mean||^2`.
///
/// # Panics
/// If the lengths differ.
#[must_use]
pub fn distance_to(isa: Isa, a: &[f32], mean: &[f64]) -> f64 {
    assert_eq!(a.len(), mean.len(), "wide::distance_to: lengths");
    dispatch!(isa, _simd => sum(a, mean, #[inline(always)] |a, m| square(f64::from(a) - m)))
}

/// `||(a - b) - mean||^2`. `t` is scratch for the differences.
///
/// # Panics
/// If the lengths differ.
#[must_use]
pub fn spread(isa: Isa, a: &[f32], b: &[f32], mean: &[f64], t: &mut Vec<f64>) -> f64 {
    assert!(a.len() == b.len() && a.len() == mean.len(), "wide::spread: lengths");
    dispatch!(isa, _simd => {
        t.clear();
        t.extend(a.iter().zip(b).map(#[inline(always)] |(a, b)| f64::from(*a) - f64::from(*b)));
        sum(t, mean, #[inline(always)] |e, m| square(e - m))
    })
}

/// `sums_c += a_c`.
///
/// # Panics
/// If the lengths differ.
pub fn add(isa: Isa, a: &[f32], sums: &mut [f64]) {
    assert_eq!(a.len(), sums.len(), "wide::add: lengths");
    dispatch!(isa, _simd => sums.iter_mut().zip(a).for_each(#[inline(always)] |(sum, a)| *sum += f64::from(*a)));
}

/// `sums_c += w a_c`.
///
/// # Panics
/// If the lengths differ.
pub fn add_scaled(isa: Isa, w: f64, a: &[f32], sums: &mut [f64]) {
    assert_eq!(a.len(), sums.len(), "wide::add_scaled: lengths");
    dispatch!(isa, _simd => sums.iter_mut().zip(a).for_each(#[inline(always)] |(sum, a)| *sum += w * f64::from(*a)));
}

/// `sums_c += w (a_c - mean_c)^2`.
///
/// # Panics
/// If the lengths differ.
pub fn add_squares(isa: Isa, w: f64, a: &[f32], mean: &[f64], sums: &mut [f64]) {
    assert!(a.len() == mean.len() && a.len() == sums.len(), "wide::add_squares: lengths");
    dispatch!(isa, _simd => {
        let pairs = a.iter().zip(mean);
        sums.iter_mut().zip(pairs).for_each(#[inline(always)] |(sum, (a, m))| *sum += w * square(f64::from(*a) - m));
    });
}

/// `sums_c += a_c - b_c`, of differences in `f64`.
///
/// # Panics
/// If the lengths differ.
pub fn add_difference(isa: Isa, a: &[f32], b: &[f32], sums: &mut [f64]) {
    assert!(a.len() == b.len() && a.len() == sums.len(), "wide::add_difference: lengths");
    dispatch!(isa, _simd => {
        let pairs = a.iter().zip(b);
        sums.iter_mut().zip(pairs).for_each(#[inline(always)] |(sum, (a, b))| *sum += f64::from(*a) - f64::from(*b));
    });
}

/// `sums_c += q_c` of whole numbers.
///
/// # Panics
/// If the lengths differ.
pub fn add_integers(isa: Isa, q: &[i32], sums: &mut [i64]) {
    assert_eq!(q.len(), sums.len(), "wide::add_integers: lengths");
    dispatch!(isa, _simd => sums.iter_mut().zip(q).for_each(#[inline(always)] |(sum, q)| *sum += i64::from(*q)));
}

/// `q_c = round(scale x_c)`, halves away from 0; beyond the range of `i32` the nearest end of it.
///
/// # Panics
/// If the lengths differ.
pub fn round(isa: Isa, x: &[f32], scale: f64, q: &mut [i32]) {
    assert_eq!(q.len(), x.len(), "wide::round: lengths");
    dispatch!(isa, _simd => q.iter_mut().zip(x).for_each(#[inline(always)] |(q, x)| {
        let y = f64::from(*x) * scale;
        *q = (y + 0.5f64.copysign(y)) as i32;
    }));
}
