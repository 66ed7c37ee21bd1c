//! `(1/n) |sg(z1) - z2 E2|^2`: level 2 predicts the latents of level 1, for `decoder = "comp"`.
//!
//! ```text
//! q = z2 E2,  dq = (2 wc / n) (q - z1),  dz2_j += dq . E2_j,  dE2_j += sum_b z2_bj dq_b
//! ```

use super::inputs::{Inputs, Scratch, Weights};
use crate::entry::{CodeRow, EntryRow};
use crate::kernel::{Isa, reduce, sparse};

/// The latent loss with the numbers of one step.
#[derive(Clone, Copy)]
pub(crate) struct Latent<'a> {
    isa: Isa,
    /// `E2`, `(f2, f1)`.
    e2: &'a [f32],
    /// `wc / n`.
    scale: f32,
    /// `2 wc / n`, the factor for the gradients of `z` and of `E2`. It is rounded to f32 at different points of the
    /// two, and is kept apart so that the bits of trained models stay as they are.
    twice: [f32; 2],
}

impl<'a> Latent<'a> {
    pub fn new(weights: &Weights, inputs: Inputs<'a>) -> Self {
        let (weight, n) = (weights.weight as f32, inputs.n as f32);
        let twice = [2.0 * weight / n, (2.0 * weights.weight / inputs.n as f64) as f32];
        Self { isa: inputs.isa, e2: inputs.d2, scale: weight / n, twice }
    }

    /// Writes `q - z1` of one row, `(f1)`.
    fn miss(&self, [z1, z2]: [CodeRow<'_>; 2], out: &mut [f32]) {
        out.fill(0.0);
        sparse::accumulate_rows(self.isa, z2.index, z2.value, self.e2, out.len(), out);
        for (&i, &z) in z1.index.iter().zip(z1.value) {
            out[i as usize] -= z;
        }
    }

    /// Adds `dq . E2_j` to every entry of level 2 of a row; returns the row's value.
    pub fn add_row(&self, [one, two]: [&mut EntryRow<'_>; 2], scratch: Scratch<'_>) -> f64 {
        let Scratch { vector, row, .. } = scratch;
        self.miss([one.code(), two.code()], vector);
        row.resize(two.index.len(), 0.0);
        sparse::dot_rows(self.isa, two.index, self.e2, vector.len(), vector, row);
        for (grad, dot) in two.grad_z[0].iter_mut().zip(row.iter()) {
            *grad += self.twice[0] * dot;
        }
        f64::from(self.scale) * f64::from(reduce::sum_squares(self.isa, vector))
    }

    /// Adds `sum_b z2_bj dq_b` to row `j` of `E2`. The latents of level 1 get no gradient.
    pub fn add_decoder_row<'e>(
        &self,
        level: usize,
        entries: impl Iterator<Item = (f32, [CodeRow<'e>; 2])>,
        vector: &mut [f32],
        grad: &mut [f32],
    ) {
        if level == 1 {
            for (z, codes) in entries {
                self.miss(codes, vector);
                reduce::axpy(self.isa, self.twice[1] * z, vector, grad);
            }
        }
    }
}
