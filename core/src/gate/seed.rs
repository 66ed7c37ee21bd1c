//! The gates of the seed model, where each level has a gate of its own input: `u = a s(g) | a + s(g) | a`.

use super::{GateKind, sigmoid};

impl GateKind {
    /// Returns `u` of one latent, and `s(g)` (0 without a gate).
    pub(crate) fn seed(self, a: f32, g: f32) -> (f32, f32) {
        match self {
            Self::Mul => {
                let s = sigmoid(g);
                (a * s, s)
            }
            Self::Add => {
                let s = sigmoid(g);
                (a + s, s)
            }
            // The seed model has no families.
            Self::None | Self::Hard | Self::GroupTop1 => (a, 0.0),
        }
    }

    /// Returns `(da, dg)` of one latent from its `du`, with the `a` and `s` of the forward pass.
    pub(crate) fn seed_backward(self, a: f32, s: f32, grad_u: f32) -> (f32, f32) {
        match self {
            Self::Mul => (grad_u * s, grad_u * a * s * (1.0 - s)),
            Self::Add => (grad_u, grad_u * s * (1.0 - s)),
            Self::None | Self::Hard | Self::GroupTop1 => (grad_u, 0.0),
        }
    }
}
