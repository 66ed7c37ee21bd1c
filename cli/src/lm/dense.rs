//! Matrix products, and causal attention.
//!
//! Products by `matrixmultiply`, which `ndarray` calls for `f32`: on one thread it measured 65 to 77 GFLOP/s at
//! (512, 128) times (128, 512) where the `gemm` of candle gave 30 to 36, its AVX-512 kernels included. Attention by
//! loops of our own, which do only the half that is not masked: at heads of width 32 a general product spends most of
//! its time on packing. A row is the same bits in any company.

use ndarray::linalg::general_mat_mul;
use ndarray::{ArrayView2, ArrayViewMut2};

use super::ops;

/// `x w`, of `x` with rows of `n_in` and `w` of shape (n_in, n_out).
///
/// # Panics
/// If either is not a whole number of rows.
pub fn matmul(x: &[f32], w: &[f32], n_in: usize, n_out: usize) -> Vec<f32> {
    let n = x.len() / n_in;
    let mut out = vec![0.0; n * n_out];
    general_mat_mul(1.0, &view(x, n, n_in), &view(w, n_in, n_out), 0.0, &mut view_mut(&mut out, n, n_out));
    out
}

/// Causal attention in windows of `t` tokens, with heads of width `dh`.
///
/// | argument | shape | layout |
/// |---|---|---|
/// | `qkv` | `[b * t, 3, d / dh, dh]` | row-major: queries, keys and values of each token |
/// | result | `[b * t, d / dh, dh]` | row-major |
///
/// `scale` is on the scores, see [`ops::causal_softmax`].
pub fn attention(qkv: &[f32], t: usize, d: usize, dh: usize, scale: f32) -> Vec<f32> {
    let mut out = vec![0.0; qkv.len() / 3];
    let mut scores = vec![0.0; t * t];
    let mut keys = vec![0.0; dh * t];
    for (window, out) in qkv.chunks_exact(t * 3 * d).zip(out.chunks_exact_mut(t * d)) {
        for at in (0..d).step_by(dh) {
            for (j, row) in window.chunks_exact(3 * d).enumerate() {
                for (c, k) in row[d + at..][..dh].iter().enumerate() {
                    keys[c * t + j] = *k;
                }
            }
            ops::causal_scores(&window[at..], 3 * d, dh, &keys, t, &mut scores);
            ops::causal_softmax(&mut scores, t, scale);
            ops::causal_mix(&scores, t, &window[2 * d + at..], 3 * d, dh, &mut out[at..], d);
        }
    }
    out
}

fn view(x: &[f32], rows: usize, cols: usize) -> ArrayView2<'_, f32> {
    ArrayView2::from_shape((rows, cols), x).expect("whole rows")
}

fn view_mut(x: &mut [f32], rows: usize, cols: usize) -> ArrayViewMut2<'_, f32> {
    ArrayViewMut2::from_shape((rows, cols), x).expect("whole rows")
}
