//! What a transformer does between its matrix products, on rows of `f32`.
//!
//! candle's own versions call `expf` and `tanhf` an element, and took most of a forward pass. These are plain loops
//! without calls or branches, compiled once for each SIMD level. Rust never contracts `a * b + c`, and sums run in a
//! fixed number of lanes, so every level gives the same bits.

use fearless_simd::prelude::*;
use fearless_simd::{Level, dispatch, f32x16};

/// Lanes of a sum: two registers of the widest level.
const LANES: usize = 32;

/// `x[i, :] += b`
pub fn add_bias(x: &mut [f32], b: &[f32]) {
    dispatch!(Level::new(), _simd => add_bias_body(x, b));
}

/// `x[i, :] = relu(x[i, :] + b)`
pub fn relu_bias(x: &mut [f32], b: &[f32]) {
    dispatch!(Level::new(), _simd => relu_bias_body(x, b));
}

/// `x[i, :] = gelu_new(x[i, :] + b)`, see [`super::config::Activation::GeluNew`].
pub fn gelu_new_bias(x: &mut [f32], b: &[f32]) {
    dispatch!(Level::new(), _simd => gelu_new_bias_body(x, b));
}

/// `x[i, :] += y[i, :] + b`
pub fn add_rows_bias(x: &mut [f32], y: &[f32], b: &[f32]) {
    dispatch!(Level::new(), _simd => add_rows_bias_body(x, y, b));
}

/// `out[i, :] = (x[i, :] - mean) / sqrt(var + eps) * gain + bias`, mean and variance of row `i`, in two passes.
pub fn layer_norm(x: &[f32], gain: &[f32], bias: &[f32], eps: f32, out: &mut [f32]) {
    dispatch!(Level::new(), _simd => layer_norm_body(x, gain, bias, eps, out));
}

/// Softmax of `scale * s` in place, for attention scores `s` of shape (.., t, t): row `i` of each matrix is over its
/// first `i + 1` columns, and the others become zero.
pub fn causal_softmax(s: &mut [f32], t: usize, scale: f32) {
    dispatch!(Level::new(), _simd => causal_softmax_body(s, t, scale));
}

/// `out[i, j] = sum_c a[i, c] * b[c, j]` for `j <= i` only, with `a`, `b` and `out` of shapes (t, n_in), (n_in, n_out) and
/// (t, n_out), and rows `a_stride`, `n_out` and `n_out` apart. Some later columns are written as well, others are not.
/// Of the other half a general product would compute everything.
pub fn causal_scores(a: &[f32], a_stride: usize, n_in: usize, b: &[f32], t: usize, out: &mut [f32]) {
    dispatch!(Level::new(), simd => causal_scores_body(simd, a, a_stride, n_in, b, t, out));
}

/// `out[i, c] = sum_j p[i, j] * v[j, c]` over `j <= i`, with `p` of shape (t, t), and rows of `v` and `out` of width `n`
/// that are `v_stride` and `out_stride` apart.
pub fn causal_mix(p: &[f32], t: usize, v: &[f32], v_stride: usize, n: usize, out: &mut [f32], out_stride: usize) {
    dispatch!(Level::new(), simd => causal_mix_body(simd, p, t, v, v_stride, n, out, out_stride));
}

/// `log(sum(exp(row)))`
pub fn log_sum_exp(row: &[f32]) -> f64 {
    dispatch!(Level::new(), _simd => log_sum_exp_body(row))
}

#[inline(always)]
fn add_bias_body(x: &mut [f32], b: &[f32]) {
    for row in x.chunks_exact_mut(b.len()) {
        row.iter_mut().zip(b).for_each(|(x, b)| *x += b);
    }
}

#[inline(always)]
fn relu_bias_body(x: &mut [f32], b: &[f32]) {
    for row in x.chunks_exact_mut(b.len()) {
        row.iter_mut().zip(b).for_each(|(x, b)| {
            let v = *x + b;
            // Written so that NaN stays NaN, which `max` would hide.
            *x = if v < 0.0 { 0.0 } else { v };
        });
    }
}

#[inline(always)]
fn gelu_new_bias_body(x: &mut [f32], b: &[f32]) {
    // 1/2 (1 + tanh(u)) = 1 / (1 + exp(-2u)), with u = sqrt(2/pi) (v + 0.044715 v^3).
    const A: f32 = -1.595_769_2;
    for row in x.chunks_exact_mut(b.len()) {
        row.iter_mut().zip(b).for_each(|(x, b)| {
            let v = *x + b;
            *x = v / (1.0 + exp(A * (v + 0.044_715 * v * v * v)));
        });
    }
}

#[inline(always)]
fn add_rows_bias_body(x: &mut [f32], y: &[f32], b: &[f32]) {
    for (row, y) in x.chunks_exact_mut(b.len()).zip(y.chunks_exact(b.len())) {
        row.iter_mut().zip(y).zip(b).for_each(|((x, y), b)| *x += y + b);
    }
}

#[inline(always)]
fn layer_norm_body(x: &[f32], gain: &[f32], bias: &[f32], eps: f32, out: &mut [f32]) {
    let d = gain.len();
    for (x, out) in x.chunks_exact(d).zip(out.chunks_exact_mut(d)) {
        let mean = sum(x, |v| v) / d as f32;
        let var = sum(x, |v| (v - mean) * (v - mean)) / d as f32;
        let r = 1.0 / (var + eps).sqrt();
        for (((out, x), g), b) in out.iter_mut().zip(x).zip(gain).zip(bias) {
            *out = (x - mean) * r * g + b;
        }
    }
}

#[inline(always)]
fn causal_softmax_body(s: &mut [f32], t: usize, scale: f32) {
    for (i, row) in s.chunks_exact_mut(t).enumerate() {
        let (row, future) = row.split_at_mut(i % t + 1);
        let top = scale * max(row, scale < 0.0);
        row.iter_mut().for_each(|v| *v = exp(*v * scale - top));
        let r = 1.0 / sum(row, |v| v);
        row.iter_mut().for_each(|v| *v *= r);
        future.fill(0.0);
    }
}

#[inline(always)]
fn causal_scores_body<S: Simd>(simd: S, a: &[f32], a_stride: usize, n_in: usize, b: &[f32], t: usize, out: &mut [f32]) {
    for i in 0..t {
        let a = &a[i * a_stride..][..n_in];
        for from in (0..=i).step_by(LANES) {
            let to = t.min(from + LANES);
            weighted_rows(simd, a, &b[from..], t, &mut out[i * t + from..i * t + to]);
        }
    }
}

#[inline(always)]
fn causal_mix_body<S: Simd>(
    simd: S,
    p: &[f32],
    t: usize,
    v: &[f32],
    v_stride: usize,
    n: usize,
    out: &mut [f32],
    out_stride: usize,
) {
    for i in 0..t {
        let p = &p[i * t..][..i + 1];
        for from in (0..n).step_by(LANES) {
            let to = n.min(from + LANES);
            weighted_rows(simd, p, &v[from..], v_stride, &mut out[i * out_stride + from..i * out_stride + to]);
        }
    }
}

/// `out[c] = sum_j weights[j] * rows[j * stride + c]`, for at most [`LANES`] columns, which stay in registers.
#[inline(always)]
fn weighted_rows<S: Simd>(simd: S, weights: &[f32], rows: &[f32], stride: usize, out: &mut [f32]) {
    if let Ok(out) = <&mut [f32; LANES]>::try_from(&mut *out) {
        let (mut lo, mut hi) = (f32x16::splat(simd, 0.0), f32x16::splat(simd, 0.0));
        for (w, row) in weights.iter().zip(rows.chunks(stride)) {
            let w = f32x16::splat(simd, *w);
            lo += w * f32x16::from_slice(simd, &row[..16]);
            hi += w * f32x16::from_slice(simd, &row[16..32]);
        }
        lo.store_slice(&mut out[..16]);
        hi.store_slice(&mut out[16..]);
    } else {
        out.fill(0.0);
        for (w, row) in weights.iter().zip(rows.chunks(stride)) {
            for (out, v) in out.iter_mut().zip(row) {
                *out += w * v;
            }
        }
    }
}

#[inline(always)]
fn log_sum_exp_body(row: &[f32]) -> f64 {
    let top = max(row, false);
    // Parts short enough for f32, combined in f64: a vocabulary has tens of thousands of entries.
    let total: f64 = row.chunks(1024).map(|part| f64::from(sum(part, |v| exp(v - top)))).sum();
    f64::from(top) + total.ln()
}

/// `sum(f(v))` in [`LANES`] partial sums, combined by halves.
#[inline(always)]
fn sum(x: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut acc = [0.0; LANES];
    let (body, tail) = x.as_chunks::<LANES>();
    for part in body {
        for (a, v) in acc.iter_mut().zip(part) {
            *a += f(*v);
        }
    }
    for (a, v) in acc.iter_mut().zip(tail) {
        *a += f(*v);
    }
    let mut n = LANES / 2;
    while n > 0 {
        for i in 0..n {
            acc[i] += acc[i + n];
        }
        n /= 2;
    }
    acc[0]
}

/// The largest element, or the smallest if `least`; a NaN may be passed over, and then shows in what follows.
#[inline(always)]
fn max(x: &[f32], least: bool) -> f32 {
    let sign = if least { -1.0 } else { 1.0 };
    let mut acc = [f32::NEG_INFINITY; LANES];
    let (body, tail) = x.as_chunks::<LANES>();
    for part in body {
        for (a, v) in acc.iter_mut().zip(part) {
            let v = *v * sign;
            *a = if v > *a { v } else { *a };
        }
    }
    tail.iter().fold(acc.iter().fold(f32::NEG_INFINITY, |a, v| a.max(*v)), |a, v| a.max(*v * sign)) * sign
}

/// `e^x` within 2 ULP, without a branch. Below -87 it stays at `e^-87` (1.6e-38), above 88 at `e^88`; NaN stays NaN.
///
/// `x = n ln 2 + r` with `|r| <= ln 2 / 2`; `e^r` is the polynomial of Cephes `expf`, and `2^n` is made from its bits.
#[inline(always)]
fn exp(x: f32) -> f32 {
    // Adding 1.5 * 2^23 rounds to a whole number, and leaves it in the low bits.
    const ROUND: f32 = 12_582_912.0;
    // ln 2 in two parts; the first has so few bits that `n` times it is exact.
    const LN2_HI: f32 = 355.0 / 512.0;
    const LN2_LO: f32 = -2.121_944_4e-4;
    let x = if x < -87.0 { -87.0 } else { x };
    let x = if x > 88.0 { 88.0 } else { x };
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = x - n * LN2_HI - n * LN2_LO;
    let mut p = 1.987_569_1e-4;
    p = p * r + 1.398_199_9e-3;
    p = p * r + 8.333_452e-3;
    p = p * r + 4.166_579_6e-2;
    p = p * r + 1.666_666_5e-1;
    p = p * r + 0.5;
    let e = p * r * r + r + 1.0;
    let power = f32::from_bits(shifted.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127).wrapping_shl(23));
    e * power
}

#[cfg(test)]
mod tests {
    use super::exp;

    #[test]
    fn exp_is_within_two_ulp() {
        for i in -86_990..87_990 {
            let x = i as f32 * 1e-3;
            let want = f64::from(x).exp();
            let ulp = f64::from(f32::from_bits((want as f32).to_bits() + 1)) - f64::from(want as f32);
            let off = (f64::from(exp(x)) - want).abs() / ulp;
            assert!(off <= 2.0, "exp({x}) is {off} ulp off");
        }
        assert_eq!(exp(0.0), 1.0);
        assert!(exp(f32::NAN).is_nan());
        assert!(exp(f32::NEG_INFINITY) < 2e-38 && exp(f32::INFINITY).is_finite());
    }
}
