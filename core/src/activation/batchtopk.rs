//! Training: `z = u` at the `k n` largest positive `u` of a batch of `n` rows. Inference: `z = u 1[u > tau]` with a
//! threshold that training tracks (Bussmann et al. 2024). `dz/du = 1` where `z > 0`. A penalty, where one is set, is
//! the L1 norm of the latents, weighted by decoder norms.

use super::kind::{Candidacy, Kind};
use crate::kernel::fire::Limit;

/// Candidates of a row for the first floor, besides twice the number that the row is to keep.
const FIRST: usize = 8;

/// The activation of this module.
#[derive(Clone, Copy, Debug)]
pub(super) struct Batchtopk {
    pub k: f64,
    pub tau: f32,
}

impl Kind for Batchtopk {
    const LIMIT_DECIDES: bool = true;

    fn limit(&self) -> Limit<'_> {
        Limit::Above(self.tau)
    }

    /// The selection runs over the whole batch, so a row offers all pre-activations that may be among its largest:
    /// those above a floor that follows the cut of the last batch, or some of the largest of the row where there was no
    /// batch yet.
    fn candidates<'b>(&'b self, by: &Candidacy<'b>) -> Limit<'b> {
        match by.floor {
            Some(floor) => Limit::Above(floor),
            None => Limit::Topk(FIRST + 2 * libm::ceil(self.k) as usize),
        }
    }
}
