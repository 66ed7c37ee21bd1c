//! What a step observed: the only thing that controllers, statistics and families read of it.

use crate::balance::RowNorms;
use alloc::vec::Vec;
use core::ops::Range;

/// Sparse rows in CSR form: the entries of each row of a batch, latents ascending.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SparseRows {
    /// Index of the first entry of each row, then the number of entries: `rows + 1` numbers, or none before the first
    /// step.
    pub offsets: Vec<u32>,
    /// Latents.
    pub index: Vec<u32>,
    /// Values.
    pub value: Vec<f32>,
}

impl SparseRows {
    /// Removes all rows, and keeps the memory.
    pub fn clear(&mut self) {
        self.offsets.clear();
        self.offsets.push(0);
        self.index.clear();
        self.value.clear();
    }

    /// Appends an entry to the row that is being built.
    pub fn push(&mut self, index: u32, value: f32) {
        self.index.push(index);
        self.value.push(value);
    }

    /// Ends a row.
    pub fn end_row(&mut self) {
        self.offsets.push(self.index.len() as u32);
    }

    /// Returns the number of rows.
    pub fn n_rows(&self) -> usize {
        self.offsets.len().saturating_sub(1)
    }

    /// Returns the entries of row `i`.
    pub fn row(&self, i: usize) -> Range<usize> {
        self.offsets[i] as usize..self.offsets[i + 1] as usize
    }
}

/// The value of every term of the loss, weighted as in the total (but for `fvu`), and counts of the forward pass.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Losses {
    /// The whole loss.
    pub total: f64,
    /// Fraction of variance unexplained, per level.
    pub fvu: [f64; 2],
    /// Sparsity penalty, per level.
    pub sparsity: [f64; 2],
    /// Consistency loss.
    pub consistency: f64,
    /// AuxK, per level.
    pub aux: [f64; 2],
    /// Auxiliary reconstruction of gated levels.
    pub gated: [f64; 2],
    /// Mean number of latents that fire, per level.
    pub l0: [f64; 2],
    /// The smallest selected pre-activation of `topk` and `batchtopk`, per level; 0 if nothing was selected. Levels
    /// that share a budget have the same number, over both.
    pub selected_min: [f32; 2],
    /// `batchtopk`: number of pre-activations of the batch above the tracked threshold, per level. Levels that share a
    /// budget have the same number, over both.
    pub above_tau: [usize; 2],
    /// Norms of the gradients of the two reconstructions with respect to `D1`, unweighted, and their cosine.
    pub balance: RowNorms,
}

/// What a step observed; the trainer reads nothing else of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observed {
    /// Terms of the loss, and counts of the forward pass.
    pub losses: Losses,
    /// Norm of the gradient before clipping.
    pub grad_norm: f64,
    /// Latents that fire, per level, with their activations. Without rows for the seed model.
    pub codes: [SparseRows; 2],
    /// Ungated pre-activations of level 2 above their threshold. Rows are empty unless the step was asked for them.
    pub ungated: SparseRows,
    /// `|x - x_hat2|^2` of each row; `|x - x_hat1|^2` for a flat model.
    pub energy: Vec<f32>,
}

impl Observed {
    /// Returns the number of rows of the batch.
    pub fn n(&self) -> usize {
        self.energy.len()
    }
}
