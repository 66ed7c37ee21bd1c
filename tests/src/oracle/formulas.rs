//! The formulas of one row, vector or matrix that the terms of the loss are made of.

use ndarray::{ArrayView1, Axis};

use super::M;

/// The integral of the rectangular kernel of width 1: 0 below -1/2, 1 above 1/2.
pub(super) fn kernel_integral(v: f64) -> f64 {
    (v + 0.5).clamp(0.0, 1.0)
}

pub(super) fn sigmoid(g: f64) -> f64 {
    1.0 / (1.0 + (-g).exp())
}

pub(super) fn squares(m: &M) -> f64 {
    m.iter().map(|v| v * v).sum()
}

pub(super) fn norm(v: ArrayView1<'_, f64>) -> f64 {
    v.dot(&v).sqrt()
}

/// Returns 1 at the `k` largest positive numbers of `u` and 0 elsewhere. `u` may have minus infinity. `nearest` becomes
/// the smallest distance from a different selection.
pub(super) fn largest(u: &[f64], k: usize, nearest: &mut f64) -> Vec<f64> {
    let mut order: Vec<usize> = (0..u.len()).collect();
    order.sort_by(|&a, &b| u[b].total_cmp(&u[a]));
    let mut mask = vec![0.0; u.len()];
    for (rank, &i) in order.iter().enumerate() {
        if rank < k {
            *nearest = nearest.min(u[i].abs());
            mask[i] = f64::from(u8::from(u[i] > 0.0));
        }
    }
    if k > 0 && k < u.len() && u[order[k - 1]] > 0.0 {
        *nearest = nearest.min(u[order[k - 1]] - u[order[k]]);
    }
    mask
}

/// Returns `max(u, 0)`, with the signs taken from `u0`, where the gate is open; 0 elsewhere.
pub(super) fn positive(u: &M, u0: &M, allowed: Option<&M>) -> M {
    let sign = u0.mapv(|v| f64::from(u8::from(v > 0.0)));
    match allowed {
        Some(a) => u * &sign * a,
        None => u * &sign,
    }
}

/// Returns the sum of two gradients of a row, given the first and their sum, after the component of the second that
/// opposes the first is removed (PCGrad).
pub(super) fn surgery(own: &[f64], all: &[f64]) -> Vec<f64> {
    let through: Vec<f64> = own.iter().zip(all).map(|(o, a)| a - o).collect();
    let dot: f64 = own.iter().zip(&through).map(|(o, t)| o * t).sum();
    let square: f64 = own.iter().map(|o| o * o).sum();
    let away = if dot < 0.0 && square > 0.0 { dot / square } else { 0.0 };
    own.iter().zip(&through).map(|(o, t)| o + t - away * o).collect()
}

/// Returns the mean over all pairs of latents of both levels of the cosine of their activations over the batch.
pub(super) fn mean_cosine(h1: &M, h2: &M) -> f64 {
    const E: f64 = 1e-6;
    let mut sum = 0.0;
    for a in h1.axis_iter(Axis(1)) {
        for b in h2.axis_iter(Axis(1)) {
            sum += a.dot(&b) / ((a.dot(&a) + E).sqrt() * (b.dot(&b) + E).sqrt());
        }
    }
    sum / (h1.ncols() * h2.ncols()) as f64
}
