//! Gates with weights: `g = z1 G + c`, one number per child, multiplies (as a sigmoid) or adds.

use super::GateKind;
use crate::entry::{CodeRow, EntryRow};
use crate::kernel::{Isa, sparse};

/// `s(g) = 1 / (1 + e^-g)`.
pub fn sigmoid(g: f32) -> f32 {
    1.0 / (1.0 + libm::expf(-g))
}

/// Writes `g = z1 G + c` of one row: `weight` is `G`, `(f1, f2)`; `bias` and `g` are `(f2)`.
pub(crate) fn gate(isa: Isa, z1: CodeRow<'_>, weight: &[f32], bias: &[f32], g: &mut [f32]) {
    g.copy_from_slice(bias);
    sparse::accumulate_rows(isa, z1.index, z1.value, weight, bias.len(), g);
}

/// Adds to `dL/dz1` of a row what flows through the gate: `dz1_i += sum_j dg_j G_ij`, with `weight` as in [`gate`] and `f2`
/// latents of level 2.
pub(crate) fn backward(weight: &[f32], f2: usize, one: &mut EntryRow<'_>, two: &EntryRow<'_>) {
    for (grad, &i) in one.grad_z[1].iter_mut().zip(one.index) {
        let weights = &weight[i as usize * f2..][..f2];
        let mut sum = 0.0f32;
        for (&j, dg) in two.index.iter().zip(two.grad_g.iter()) {
            sum += dg * weights[j as usize];
        }
        *grad += sum;
    }
}

impl GateKind {
    /// Writes `u = a s(g)` (mul) or `u = a + g` (add); a gate without weights leaves `u = a`.
    pub(crate) fn apply(self, a: &[f32], g: &[f32], u: &mut [f32]) {
        match self {
            Self::Mul => {
                for ((u, &a), &g) in u.iter_mut().zip(a).zip(g) {
                    *u = a * sigmoid(g);
                }
            }
            Self::Add => {
                for ((u, &a), &g) in u.iter_mut().zip(a).zip(g) {
                    *u = a + g;
                }
            }
            Self::None | Self::Hard | Self::GroupTop1 => u.copy_from_slice(a),
        }
    }

    /// Writes `da` and `dg` of the entries of a row from their `du`. `a` and `g` are those of the forward pass, empty for a
    /// gate without weights.
    pub(crate) fn backward(self, a: &[f32], g: &[f32], grad_u: &[f32], grad_a: &mut [f32], grad_g: &mut [f32]) {
        match self {
            Self::Mul => {
                for at in 0..grad_u.len() {
                    let s = sigmoid(g[at]);
                    grad_a[at] = grad_u[at] * s;
                    grad_g[at] = grad_u[at] * a[at] * s * (1.0 - s);
                }
            }
            Self::Add => {
                grad_a.copy_from_slice(grad_u);
                grad_g.copy_from_slice(grad_u);
            }
            Self::None | Self::Hard | Self::GroupTop1 => {
                grad_a.copy_from_slice(grad_u);
                grad_g.fill(0.0);
            }
        }
    }
}
