//! `z = max(u, 0)`, `dz/du = 1[u > 0]`. The penalty is the L1 norm of the latents, weighted by decoder norms.

use super::kind::{Candidacy, Kind};
use crate::kernel::fire::Limit;

/// The activation of this module.
#[derive(Clone, Copy, Debug)]
pub(super) struct Relu;

/// `b_enc <- b_enc - by unit`.
pub(super) fn raise(by: f64, unit: f64, bias: &mut [f32]) {
    let shift = (by * unit) as f32;
    bias.iter_mut().for_each(|b| *b -= shift);
}

impl Kind for Relu {
    const LIMIT_DECIDES: bool = true;

    fn limit(&self) -> Limit<'_> {
        Limit::Above(0.0)
    }

    fn candidates<'b>(&'b self, _: &Candidacy<'b>) -> Limit<'b> {
        Limit::Above(0.0)
    }
}
