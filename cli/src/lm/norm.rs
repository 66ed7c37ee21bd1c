//! Norms of a row.

use candle_core::{Result, Tensor};
use candle_nn::{LayerNorm, Module, ops};

/// A norm over the last dimension.
pub enum Norm {
    /// `(x - mean) / sqrt(variance + eps) * w + b`
    Layer(LayerNorm),
    /// `x / sqrt(mean of squares + eps) * w`
    Rms {
        /// `w`
        weight: Tensor,
        /// `eps`
        epsilon: f32,
    },
}

impl Norm {
    /// Applies the norm to every row of `x`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Layer(norm) => norm.forward(x),
            Self::Rms { weight, epsilon } => ops::rms_norm(&x.contiguous()?, weight, *epsilon),
        }
    }

    /// Returns the gain of each number.
    pub fn gain(&self) -> &Tensor {
        match self {
            Self::Layer(norm) => norm.weight(),
            Self::Rms { weight, .. } => weight,
        }
    }
}
