//! The optimiser's step and the unit norm of the decoder's rows.

use fearless_simd::prelude::*;

use super::reduce::{axpy, dot, sum_squares};
use super::{Isa, LANES, Vector, fma, load, load_part, store_part};

/// The numbers of one step of Adam (Kingma and Ba, algorithm 1), bias corrections folded in.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamStep {
    /// The learning rate over `1 - beta1^t`.
    pub lr: f32,
    /// The decay of the first moment.
    pub beta1: f32,
    /// The decay of the second moment.
    pub beta2: f32,
    /// Added to the root of the second moment.
    pub eps: f32,
    /// `1 / (1 - beta2^t)`.
    pub correction2: f32,
    /// The factor of the gradient (clipping).
    pub grad_scale: f32,
}

/// One step of Adam: `p -= lr * m / (sqrt(v * correction2) + eps)` after the moments `m`, `v` took in `grad`.
///
/// | argument | shape | layout |
/// |---|---|---|
/// | `grad` | `[len]` | |
/// | `p`, `m`, `v` | `[len]` | updated in place |
///
/// With `g = grad * grad_scale`: `m = fma(beta1, m, (1 - beta1) * g)`, `v = fma(beta2, v, ((1 - beta2) * g) * g)`,
/// `p = p - (lr * m) / (sqrt(v * correction2) + eps)`. Element-wise: the same bits on every [`Isa`].
/// Cost: reads 16 and writes 12 bytes per element; bandwidth-bound.
///
/// # Panics
/// If the lengths differ.
pub fn adam(isa: Isa, step: &AdamStep, grad: &[f32], p: &mut [f32], m: &mut [f32], v: &mut [f32]) {
    let len = grad.len();
    assert!(p.len() == len && m.len() == len && v.len() == len, "adam: the lengths differ");
    dispatch!(isa, simd => adam_body(simd, step, grad, p, m, v));
}

/// The numbers of [`AdamStep`] in every lane.
struct Splat<S: Simd> {
    lr: Vector<S>,
    eps: Vector<S>,
    correction2: Vector<S>,
    beta1: Vector<S>,
    rest1: Vector<S>,
    beta2: Vector<S>,
    rest2: Vector<S>,
    grad_scale: Vector<S>,
}

impl<S: Simd> Splat<S> {
    /// Returns the new parameters and moments.
    #[inline(always)]
    fn update(&self, g: Vector<S>, p: Vector<S>, m: Vector<S>, v: Vector<S>) -> (Vector<S>, Vector<S>, Vector<S>) {
        let g = g * self.grad_scale;
        let m = fma(self.beta1, m, self.rest1 * g);
        let v = fma(self.beta2, v, (self.rest2 * g) * g);
        (p - (self.lr * m) / ((v * self.correction2).sqrt() + self.eps), m, v)
    }
}

#[inline(always)]
fn adam_body<S: Simd>(simd: S, step: &AdamStep, grad: &[f32], p: &mut [f32], m: &mut [f32], v: &mut [f32]) {
    let k = Splat {
        lr: Vector::splat(simd, step.lr),
        eps: Vector::splat(simd, step.eps),
        correction2: Vector::splat(simd, step.correction2),
        beta1: Vector::splat(simd, step.beta1),
        rest1: Vector::splat(simd, 1.0 - step.beta1),
        beta2: Vector::splat(simd, step.beta2),
        rest2: Vector::splat(simd, 1.0 - step.beta2),
        grad_scale: Vector::splat(simd, step.grad_scale),
    };
    let (grad, grad_tail) = grad.as_chunks::<LANES>();
    let (p, p_tail) = p.as_chunks_mut::<LANES>();
    let (m, m_tail) = m.as_chunks_mut::<LANES>();
    let (v, v_tail) = v.as_chunks_mut::<LANES>();
    for (((g, p), m), v) in grad.iter().zip(p).zip(m).zip(v) {
        let (p1, m1, v1) = k.update(load(simd, g), load(simd, p), load(simd, m), load(simd, v));
        p1.store_array(p);
        m1.store_array(m);
        v1.store_array(v);
    }
    if !grad_tail.is_empty() {
        let (g, p) = (load_part(simd, grad_tail), load_part(simd, p_tail));
        let (p1, m1, v1) = k.update(g, p, load_part(simd, m_tail), load_part(simd, v_tail));
        store_part(p1, p_tail);
        store_part(m1, m_tail);
        store_part(v1, v_tail);
    }
}

/// `grad -= (grad . row) * row`: removes from `grad` the component that would change the norm of the unit vector `row`.
///
/// The product is [`dot`], the subtraction [`axpy`] with its negative.
///
/// # Panics
/// If the lengths differ.
pub fn project_out(isa: Isa, row: &[f32], grad: &mut [f32]) {
    let along = dot(isa, grad, row);
    axpy(isa, -along, row, grad);
}

/// `row /= ||row||`: one division per element, by the root of [`sum_squares`].
///
/// A row whose sum of squares is zero (such as a zero row) is not changed.
pub fn normalise(isa: Isa, row: &mut [f32]) {
    let norm = libm::sqrtf(sum_squares(isa, row));
    if norm == 0.0 {
        return;
    }
    dispatch!(isa, _simd => {
        for x in row.iter_mut() {
            *x /= norm;
        }
    })
}
