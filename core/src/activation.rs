//! Activations: which latents of a row fire, their value, and the gradient. Forward and backward side by side.
//!
//! | name | latents of a row, `u` its pre-activations | `dz/du` where `z > 0` | parameters |
//! |---|---|---|---|
//! | relu | `max(u, 0)` | 1 | |
//! | topk | `u` at the `k` largest positive `u` | 1 | |
//! | batchtopk | training: `u` at the `k n` largest positive `u` of the batch; inference: `u 1[u > tau]` | 1 | `tau` |
//! | jumprelu | `u 1[u > theta]` | 1 | `theta`, by a straight-through kernel |
//! | gated | `1[u > 0] max(e^r u + b, 0)` | `e^r` | `r`, `b` |
//!
//! Thresholds are strict. The selection itself has no gradient.

use crate::choice::choices;
use crate::kernel::fire::Limit;
use crate::kernel::{Isa, select};
use alloc::vec::Vec;

choices! {
    /// How pre-activations become latents.
    Activation {
        /// `z = max(u, 0)`, sparse through the L1 penalty.
        Relu = "relu",
        /// The `k` largest positive pre-activations of each row (Gao et al. 2024).
        Topk = "topk",
        /// The `k n` largest positive pre-activations of a batch of `n` rows; a tracked threshold at inference (Bussmann et al. 2024).
        Batchtopk = "batchtopk",
        /// `z = u 1[u > theta]` with a threshold per latent (Rajamanoharan et al. 2024).
        Jumprelu = "jumprelu",
        /// `z = 1[u > 0] max(e^r u + b_mag, 0)`: a tied Gated SAE (Rajamanoharan et al. 2024).
        Gated = "gated",
    }
}

/// How many latents of a level may be active, and who competes with whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Selection {
    /// Each latent stands for itself; a penalty makes the level sparse.
    Each,
    /// The largest `k` of each row.
    Row,
    /// The largest `k n` of a batch of `n` rows; a tracked threshold at inference.
    Batch,
}

/// A tensor of one number per latent that belongs to an activation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parameter {
    /// `theta` of `jumprelu`.
    Threshold,
    /// `r`, the logarithm of the slope of `gated`.
    RMag,
    /// `b`, the offset of `gated`.
    BMag,
}

impl Activation {
    /// Returns the parameters that are trained with the activation.
    pub const fn parameters(self) -> &'static [Parameter] {
        match self {
            Self::Relu | Self::Topk | Self::Batchtopk => &[],
            Self::Jumprelu => &[Parameter::Threshold],
            Self::Gated => &[Parameter::RMag, Parameter::BMag],
        }
    }

    /// Returns which pre-activations compete in training.
    pub const fn selection(self) -> Selection {
        match self {
            Self::Relu | Self::Jumprelu | Self::Gated => Selection::Each,
            Self::Topk => Selection::Row,
            Self::Batchtopk => Selection::Batch,
        }
    }

    /// Returns whether a penalty, and not a count, makes the level sparse.
    pub const fn is_penalised(self) -> bool {
        matches!(self.selection(), Selection::Each)
    }

    /// Returns whether a threshold that training tracks decides at inference.
    pub const fn has_tau(self) -> bool {
        matches!(self.selection(), Selection::Batch)
    }

    /// Returns whether `k` is a whole number of latents, at least 1.
    pub const fn has_whole_k(self) -> bool {
        matches!(self.selection(), Selection::Row)
    }
}

/// Which entries of a row fire, as a rule that needs this row alone.
#[derive(Clone, Copy, Debug)]
pub enum Rule<'a> {
    /// `u > t`.
    Above(f32),
    /// The `k` largest positive ones, ties to the lower index.
    Topk(usize),
    /// `u_j > t_j`.
    AboveEach(&'a [f32]),
    /// `u > 0` and `e^r u + b > 0`.
    Gated {
        /// Logarithms of the slopes, `(f)`.
        r_mag: &'a [f32],
        /// Offsets, `(f)`.
        b_mag: &'a [f32],
    },
}

impl Rule<'_> {
    /// What a pre-activation must reach at least: exactly the rule, but for a gated level, where [`Rule::keep`] decides.
    pub fn limit(&self) -> Limit<'_> {
        match *self {
            Self::Above(t) => Limit::Above(t),
            Self::Topk(k) => Limit::Topk(k),
            Self::AboveEach(t) => Limit::AboveEach(t),
            Self::Gated { .. } => Limit::Above(0.0),
        }
    }

    /// Appends those that fire of the latents `from`, pre-activations `u`, that have reached the limit of a row.
    pub fn keep(&self, from: &[u32], u: &[f32], index: &mut Vec<u32>, value: &mut Vec<f32>) {
        let Self::Gated { r_mag, b_mag } = self else {
            index.extend_from_slice(from);
            value.extend_from_slice(u);
            return;
        };
        for (&j, &u) in from.iter().zip(u) {
            let z = gated(u, r_mag[j as usize], b_mag[j as usize]);
            if z > 0.0 {
                index.push(j);
                value.push(z);
            }
        }
    }

    /// Appends the latents of one row that fire: their indices, ascending, and their values `z`.
    pub fn fire(&self, isa: Isa, u: &[f32], index: &mut Vec<u32>, value: &mut Vec<f32>) {
        match *self {
            Self::Above(t) => select::above(isa, u, t, index, value),
            Self::Topk(k) => select::topk_row(isa, u, k, index, value),
            Self::AboveEach(t) => select::above_each(isa, u, t, index, value),
            Self::Gated { r_mag, b_mag } => {
                let first = index.len();
                select::above(isa, u, 0.0, index, value);
                let mut kept = first;
                for at in first..index.len() {
                    let j = index[at] as usize;
                    let z = gated(value[at], r_mag[j], b_mag[j]);
                    if z > 0.0 {
                        (index[kept], value[kept]) = (index[at], z);
                        kept += 1;
                    }
                }
                index.truncate(kept);
                value.truncate(kept);
            }
        }
    }
}

/// `z = 1[u > 0] max(e^r u + b, 0)`.
pub fn gated(u: f32, r: f32, b: f32) -> f32 {
    if u > 0.0 { (libm::expf(r) * u + b).max(0.0) } else { 0.0 }
}

/// Gradient of [`gated`] where it is positive: `(dz/du, dz/dr, dz/db) = (e^r, e^r u, 1)`.
pub fn gated_backward(u: f32, r: f32) -> (f32, f32, f32) {
    let slope = libm::expf(r);
    (slope, slope * u, 1.0)
}

/// Straight-through kernel of the jumprelu threshold: `K((u - theta) / eps) = 1[|u - theta| < eps / 2]`.
///
/// Fed with the PRE-activation: entries just below the threshold count as much as those just above (Rajamanoharan et
/// al. 2024; a kernel that sees only active latents halves the gradient).
pub fn jump_kernel(u: f32, theta: f32, bandwidth: f32) -> bool {
    let v = u - theta;
    v < 0.5 * bandwidth && v > -0.5 * bandwidth
}

/// `dL/dtheta` of one entry: `-(theta / eps) K dL/dz - (lambda / (n eps)) K`, with `penalty = lambda / n`.
pub fn jump_threshold_backward(u: f32, theta: f32, bandwidth: f32, grad_z: f32, penalty: f32) -> f32 {
    if jump_kernel(u, theta, bandwidth) { -(theta * grad_z + penalty) / bandwidth } else { 0.0 }
}
