//! The rule of the rows that a model was trained on.
//!
//! The first token of a sequence, and a few others, have rows with up to hundreds of times the norm of all others. They
//! have nearly all of the variance and almost no information, so that training leaves them out. An evaluation that
//! includes them measures little else, so that the rule is saved with the model, in `cfg.json`.
//!
//! A model encodes and decodes any finite row. It has learned nothing about rows that the rule leaves out: expect many
//! latents to fire there, with values in proportion to the norm, and a reconstruction that may be worse than the mean
//! row.

use crate::kernel::{Isa, reduce};
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// The rows that training leaves out, as raw rows of a dump. The default leaves out none.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RowRule {
    /// Rows with a larger norm are left out: `data.outlier` times the median norm of the rows that were trained on.
    pub norm_limit: Option<f32>,
    /// Rows at the start of every sequence.
    pub skip_first: u64,
    /// Rows of these token ids, ascending.
    pub skip_tokens: Vec<u32>,
}

impl RowRule {
    /// Returns whether `||row||` is over the limit; the norm is that of [`reduce::sum_squares`], on every instruction set.
    pub fn is_over(&self, isa: Isa, row: &[f32]) -> bool {
        self.norm_limit.is_some_and(|limit| is_over(isa, row, limit))
    }

    /// Returns whether the rule leaves out no row.
    pub fn keeps_all(&self) -> bool {
        self.norm_limit.is_none() && self.skip_first == 0 && self.skip_tokens.is_empty()
    }
}

/// Returns whether `||row|| > limit`. A norm beyond the range of f32 is over every finite limit.
pub(crate) fn is_over(isa: Isa, row: &[f32], limit: f32) -> bool {
    libm::sqrtf(reduce::sum_squares(isa, row)) > limit
}
