//! `z = 1[u > 0] max(e^r u + b, 0)`: a Gated SAE whose two encoders share their directions (Rajamanoharan et al. 2024).
//!
//! ```text
//! dz/du = e^r,  dz/dr = e^r u,  dz/db = 1        where z > 0
//! penalty  lambda/n sum relu(u)
//! ```
//!
//! The step of the gate has no gradient. An auxiliary reconstruction from `relu(u)` through a frozen decoder trains it:
//!
//! ```text
//! a = (2 wg / (n nu)) (relu(u) D - base),  du += (a D^T) 1[u > 0],  value = wg / (n nu) |relu(u) D - base|^2
//! ```

use super::kind::{Auxiliary, Backward, Candidacy, Kind};
use crate::entry::EntryRow;
use crate::kernel::fire::Limit;
use crate::kernel::{reduce, sparse};
use alloc::vec::Vec;

/// The activation of this module.
#[derive(Clone, Copy, Debug)]
pub(super) struct Gated<'a> {
    /// `(f)`: logarithms of the slopes.
    pub r_mag: &'a [f32],
    /// `(f)`: offsets.
    pub b_mag: &'a [f32],
}

impl<'a> Gated<'a> {
    /// Returns the slopes `e^r` and the offsets.
    pub fn magnitudes(&self) -> (Vec<f32>, &'a [f32]) {
        (self.r_mag.iter().map(|r| libm::expf(*r)).collect(), self.b_mag)
    }
}

/// `b_enc <- b_enc - s` with `s = by unit`, and `b <- b + e^r s`, so that the magnitudes `e^r u + b` of what fires stay as they
/// are; but only as far as `b >= 0`, where the gate decides. Below that the magnitude decides, and moves with the bias.
pub(super) fn raise(by: f64, unit: f64, bias: &mut [f32], r_mag: &[f32], b_mag: &mut [f32]) {
    let shift = (by * unit) as f32;
    for ((bias, r), b) in bias.iter_mut().zip(r_mag).zip(b_mag) {
        *bias -= shift;
        let moved = *b + libm::expf(*r) * shift;
        *b = if *b >= 0.0 { moved.max(0.0) } else { *b + moved.max(0.0) };
    }
}

impl Kind for Gated<'_> {
    /// A pre-activation above 0 may still have no magnitude.
    const LIMIT_DECIDES: bool = false;

    fn limit(&self) -> Limit<'_> {
        Limit::Above(0.0)
    }

    fn candidates<'b>(&'b self, _: &Candidacy<'b>) -> Limit<'b> {
        Limit::Above(0.0)
    }

    fn value(&self, j: usize, u: f32) -> f32 {
        if u > 0.0 { (libm::expf(self.r_mag[j]) * u + self.b_mag[j]).max(0.0) } else { 0.0 }
    }

    fn backward(&self, by: &Backward, row: &mut EntryRow<'_>) {
        for at in 0..row.z.len() {
            if row.z[at] > 0.0 {
                let [own, through] = [row.grad_z[0][at], row.grad_z[1][at]];
                let seen = if by.own { own } else { own + through };
                let slope = libm::expf(self.r_mag[row.index[at] as usize]);
                row.grad_u[0][at] += own * slope;
                row.grad_u[1][at] += through * slope;
                row.grad_p[0][at] = seen * (slope * row.u[at]);
                row.grad_p[1][at] = seen;
            }
        }
    }

    fn penalise(&self, penalty: f32, _: &[f32], row: &mut EntryRow<'_>, mut add: impl FnMut(f64)) {
        for at in 0..row.u.len() {
            if row.u[at] > 0.0 {
                add(f64::from(penalty) * f64::from(row.u[at]));
                row.grad_u[0][at] += penalty;
            }
        }
    }

    fn auxiliary(&self, by: Auxiliary<'_>, row: &mut EntryRow<'_>) -> f64 {
        let Auxiliary { isa, weight, base, decoder, vector, is_summed, row: dots, magnitude } = by;
        let d = base.len();
        if !is_summed {
            magnitude.clear();
            magnitude.extend(row.u.iter().map(|u| u.max(0.0)));
            vector.fill(0.0);
            sparse::accumulate_rows(isa, row.index, magnitude, decoder, d, vector);
        }
        for (v, b) in vector.iter_mut().zip(base) {
            *v -= b;
        }
        let value = 0.5 * f64::from(weight) * f64::from(reduce::sum_squares(isa, vector));
        dots.resize(row.u.len(), 0.0);
        sparse::dot_rows(isa, row.index, decoder, d, vector, dots);
        for (at, dot) in dots.iter().enumerate() {
            if row.u[at] > 0.0 {
                row.grad_u[0][at] += weight * dot;
            }
        }
        value
    }
}
