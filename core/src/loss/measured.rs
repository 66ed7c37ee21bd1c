//! The gradient of [`seed_cos`](super::seed_cos) for the entries of one row, once the sums over the batch are known.

use super::inputs::{Inputs, Weights};
use super::seed_cos::SeedCos;
use crate::entry::EntryRow;

/// The `seed-cos` loss with the sums of one batch.
#[derive(Clone, Copy)]
pub(crate) struct Measured<'a> {
    batch: &'a SeedCos,
    /// `wc / (f1 f2)`.
    scale: f32,
}

impl<'a> Measured<'a> {
    pub fn new(weights: &Weights, inputs: Inputs<'a>) -> Self {
        let batch = inputs.seed_cos;
        let [f1, f2] = batch.latents().map(|f| f as f32);
        Self { batch, scale: weights.weight as f32 / (f1 * f2) }
    }

    /// Adds the gradient of the entries of a level (0 or 1) on row `b` of the batch.
    pub fn add_level(&self, level: usize, b: usize, row: &mut EntryRow<'_>) {
        for (at, &j) in row.index.iter().enumerate() {
            row.grad_z[0][at] += self.scale * self.batch.grad(level, j as usize, b, row.z[at]);
        }
    }
}
