//! `z = u 1[u > theta]`, `dz/du = 1[u > theta]`, with a threshold per latent (Rajamanoharan et al. 2024). The penalty
//! is `lambda/n sum 1[z > 0]`.
//!
//! The step at the threshold has no gradient. A straight-through kernel `K(v) = 1[|v| < 1/2]` of width `eps` replaces
//! it:
//!
//! ```text
//! dL/dtheta = -(theta / eps) K((u - theta) / eps) dL/dz - (lambda / (n eps)) K((u - theta) / eps)
//! ```
//!
//! The kernel is applied to the pre-activation: entries just below the threshold count as much as those just above,
//! since a kernel that sees only active latents halves the gradient. So candidates reach down to `theta - eps / 2`.

use super::kind::{Backward, Candidacy, Kind, pass_through};
use crate::entry::EntryRow;
use crate::kernel::fire::Limit;
use alloc::vec::Vec;

/// The activation of this module.
#[derive(Clone, Copy, Debug)]
pub(super) struct Jumprelu<'a> {
    /// `(f)`.
    pub threshold: &'a [f32],
}

impl Jumprelu<'_> {
    /// Writes the lower ends of the bands of the straight-through kernel, `theta - eps / 2`.
    pub fn bands(&self, bandwidth: f32, band: &mut Vec<f32>) {
        let half = 0.5 * bandwidth;
        band.clear();
        band.extend(self.threshold.iter().map(|t| t - half));
    }
}

/// A threshold moves as one of this share of the unit does where it is smaller.
const LEAST: f32 = 0.5;

/// `theta <- theta + s` with `s = (e^by - 1) max(theta, unit / 2)`. A threshold cannot fall below 0: the bias rises by
/// the rest.
pub(super) fn raise(by: f64, unit: f64, threshold: &mut [f32], bias: &mut [f32]) {
    let (growth, least) = (libm::expm1(by) as f32, LEAST * unit as f32);
    for (t, bias) in threshold.iter_mut().zip(bias) {
        let raised = *t + growth * t.max(least);
        *t = raised.max(0.0);
        *bias += *t - raised;
    }
}

impl Kind for Jumprelu<'_> {
    const LIMIT_DECIDES: bool = true;

    fn limit(&self) -> Limit<'_> {
        Limit::AboveEach(self.threshold)
    }

    fn candidates<'b>(&'b self, by: &Candidacy<'b>) -> Limit<'b> {
        Limit::AboveEach(by.band)
    }

    fn value(&self, j: usize, u: f32) -> f32 {
        if u > self.threshold[j] { u } else { 0.0 }
    }

    fn backward(&self, by: &Backward, row: &mut EntryRow<'_>) {
        pass_through(row);
        for at in 0..row.z.len() {
            let [own, through] = [row.grad_z[0][at], row.grad_z[1][at]];
            let seen = if by.own { own } else { own + through };
            let theta = self.threshold[row.index[at] as usize];
            row.grad_p[0][at] = threshold_backward(row.u[at], theta, by.bandwidth, seen, by.penalty);
        }
    }

    fn penalise(&self, penalty: f32, _: &[f32], row: &mut EntryRow<'_>, mut add: impl FnMut(f64)) {
        row.z.iter().filter(|z| **z > 0.0).for_each(|_| add(f64::from(penalty)));
    }
}

/// `dL/dtheta` of one entry, with `penalty = lambda / n`.
fn threshold_backward(u: f32, theta: f32, bandwidth: f32, grad_z: f32, penalty: f32) -> f32 {
    let v = u - theta;
    let is_inside = v < 0.5 * bandwidth && v > -0.5 * bandwidth;
    if is_inside { -(theta * grad_z + penalty) / bandwidth } else { 0.0 }
}
