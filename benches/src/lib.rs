//! What the benches share: shapes, inputs, and the limit that a kernel is held against.

pub mod random;

use fearless_simd::{Level, Simd, SimdBase, SimdFloat, dispatch, f32x16};
use strata_core::Philox;

/// `out[i, j] = sum_c x[i, c] * w[j, c]` by matrixmultiply, a peer of the dense kernel: `x` is `[n, d]`, `w` `[f, d]`,
/// `out` `[n, f]`, all row-major.
///
/// # Panics
/// If the lengths do not fit.
#[allow(unsafe_code, reason = "matrixmultiply takes pointers")]
pub fn peer_product(x: &[f32], w: &[f32], shape: Shape, out: &mut [f32]) {
    let Shape { n, d, f } = shape;
    assert_eq!([x.len(), w.len(), out.len()], [n * d, f * d, n * f], "lengths of x, w and out");
    // SAFETY: the strides walk `[n, d]`, `[d, f]` and `[n, f]`, whose lengths were checked, and `out` is borrowed
    // mutably.
    unsafe {
        matrixmultiply::sgemm(
            n,
            d,
            f,
            1.0,
            x.as_ptr(),
            d as isize,
            1,
            w.as_ptr(),
            1,
            d as isize,
            0.0,
            out.as_mut_ptr(),
            f as isize,
            1,
        );
    }
}

/// Sizes of one measurement: rows, width of a row, latents.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Rows.
    pub n: usize,
    /// Width of a row.
    pub d: usize,
    /// Latents.
    pub f: usize,
}

impl Shape {
    /// For the names of benches.
    pub fn name(&self) -> String {
        format!("n={} d={} f={}", self.n, self.d, self.f)
    }

    /// Fused multiply-adds of the dense product, two operations each.
    pub fn flops(&self) -> u64 {
        2 * (self.n * self.d * self.f) as u64
    }
}

/// Shapes that a user meets: the embedded model, MiniLM, a small decoder.
pub const SHAPES: [Shape; 3] =
    [Shape { n: 64, d: 128, f: 2048 }, Shape { n: 64, d: 384, f: 12288 }, Shape { n: 64, d: 768, f: 24576 }];

/// `len` numbers of a normal distribution.
pub fn normal(len: usize, stream: u64) -> Vec<f32> {
    let mut rng = Philox::new(7, stream);
    (0..len).map(|_| rng.normal_f32()).collect()
}

/// Fused multiply-adds a call of [`fma_peak`] makes, two operations each.
pub const PEAK_FLOPS: u64 = 2 * 16 * 24 * 4096;

/// Fused multiply-adds in registers alone: the limit of the dense kernel.
pub fn fma_peak(level: Level) -> f32 {
    dispatch!(level, simd => peak(simd))
}

#[inline(always)]
fn peak<S: Simd>(simd: S) -> f32 {
    let mut acc = [f32x16::splat(simd, 0.5); 24];
    let (a, b) = (f32x16::splat(simd, core::hint::black_box(0.999)), f32x16::splat(simd, core::hint::black_box(1e-3)));
    for _ in 0..4096 {
        for x in &mut acc {
            *x = x.mul_add(a, b);
        }
    }
    let mut sum = f32x16::splat(simd, 0.0);
    for x in acc {
        sum += x;
    }
    sum.as_slice().iter().sum()
}

/// Seconds of processor time of this process, if `/proc` has it.
pub fn cpu_s() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let mut fields = stat.get(stat.rfind(')')? + 1..)?.split_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<u64>().ok();
    // Linux counts a hundred ticks per second on every architecture.
    Some((ticks()? + ticks()?) as f64 / 100.0)
}
