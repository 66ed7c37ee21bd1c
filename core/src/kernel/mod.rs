//! The kernels: dense products, sparse accumulations, reductions, selections and the optimiser's step.
//!
//! Every kernel is written once, over sixteen lanes of `f32`, and compiled for each instruction set of [`Isa`]. All
//! sums are chains of fused multiply-adds in an order that is part of the function's contract, so **the bits of every
//! result are the same on every instruction set**, the scalar one included; only NaN payloads are unspecified. The
//! kernels run in the caller's thread; callers split the work by rows.

use fearless_simd::{SimdSplit, f32x16, prelude::*};

#[macro_use]
mod isa;
pub mod adam;
pub mod aligned;
pub mod dense;
pub mod fire;
pub mod reduce;
pub mod scalar;
pub mod screen;
pub mod select;
pub mod sparse;
pub mod weight;
pub mod wide;

pub use isa::Isa;
pub use screen::Screen;

/// The lanes of every vector on every instruction set: they fix the order of the sums.
pub(crate) const LANES: usize = 16;

type Vector<S> = f32x16<S>;

/// Loads sixteen values.
#[inline(always)]
fn load<S: Simd>(simd: S, a: &[f32; LANES]) -> Vector<S> {
    Vector::load_array_ref(simd, a)
}

/// Loads fewer than sixteen values; the other lanes are zero.
#[inline(always)]
fn load_part<S: Simd>(simd: S, a: &[f32]) -> Vector<S> {
    let mut padded = [0.0; LANES];
    padded[..a.len()].copy_from_slice(a);
    load(simd, &padded)
}

/// Stores the first `out.len()` of the lanes.
#[inline(always)]
fn store_part<S: Simd>(v: Vector<S>, out: &mut [f32]) {
    let lanes: [f32; LANES] = v.into();
    out.copy_from_slice(&lanes[..out.len()]);
}

/// Returns `a * b + c` with one rounding.
#[inline(always)]
fn fma<S: Simd>(a: Vector<S>, b: Vector<S>, c: Vector<S>) -> Vector<S> {
    a.mul_add_precise(b, c)
}

/// Adds the sixteen lanes by a fixed tree: halves are added until one value is left.
#[inline(always)]
fn tree<S: Simd>(v: Vector<S>) -> f32 {
    let (lo, hi) = v.split();
    let (lo, hi) = (lo + hi).split();
    let quad: [f32; 4] = (lo + hi).into();
    (quad[0] + quad[2]) + (quad[1] + quad[3])
}
