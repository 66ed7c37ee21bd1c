//! Types of stored weights: `f32`, or fewer bytes that are widened during multiplication.
//!
//! A product with stored weights has the bits of the same product with [`Weight::widen`] of each in `f32`.

use alloc::vec::Vec;

use fearless_simd::prelude::*;
use half::bf16;

use super::{LANES, Vector, load};

/// A stored weight.
pub trait Weight: Copy + Default + Send + Sync {
    /// Returns its value; `scale` is that of its row, where rows have one.
    fn widen(self, scale: f32) -> f32;

    /// Returns sixteen values, each that of [`Weight::widen`].
    #[inline(always)]
    fn load<S: Simd>(simd: S, a: &[Self; LANES], scale: f32) -> Vector<S> {
        let mut out = [0.0; LANES];
        for l in 0..LANES {
            out[l] = a[l].widen(scale);
        }
        load(simd, &out)
    }
}

impl Weight for f32 {
    #[inline(always)]
    fn widen(self, _scale: f32) -> f32 {
        self
    }

    #[inline(always)]
    fn load<S: Simd>(simd: S, a: &[Self; LANES], _scale: f32) -> Vector<S> {
        load(simd, a)
    }
}

/// The upper half of an `f32`.
impl Weight for bf16 {
    #[inline(always)]
    fn widen(self, _scale: f32) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }
}

/// A multiple of the scale of the row.
impl Weight for i8 {
    #[inline(always)]
    fn widen(self, scale: f32) -> f32 {
        f32::from(self) * scale
    }
}

/// Rounds to the nearest, ties to even.
#[must_use]
pub fn to_bf16(w: &[f32]) -> Vec<bf16> {
    w.iter().map(|w| bf16::from_f32(*w)).collect()
}

/// Rounds rows of `d` to the nearest multiples, at most 127 in size, of a scale for each: `max |w| / 127`. Returns the
/// multiples `(f, d)` and the scales `(f)`.
///
/// # Panics
/// If `w` is not a whole number of rows.
#[must_use]
pub fn to_int8(w: &[f32], d: usize) -> (Vec<i8>, Vec<f32>) {
    assert!(d > 0 && w.len().is_multiple_of(d), "to_int8: no whole number of rows");
    let (mut q, mut scales) = (Vec::with_capacity(w.len()), Vec::with_capacity(w.len() / d));
    for row in w.chunks_exact(d) {
        let largest = row.iter().fold(0.0f32, |m, w| m.max(w.abs()));
        let scale = largest / 127.0;
        q.extend(row.iter().map(|w| if scale > 0.0 { libm::rintf(w / scale).clamp(-127.0, 127.0) as i8 } else { 0 }));
        scales.push(scale);
    }
    (q, scales)
}
