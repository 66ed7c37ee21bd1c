//! `z = u` at the `k` largest positive `u` of a row, ties to the lower latent; `dz/du = 1` there (Gao et al. 2024). A
//! penalty, where one is set, is the L1 norm of the latents, weighted by decoder norms.

use super::kind::{Auxiliary, Backward, Candidacy, Kind, pass_through, penalise_l1};
use crate::entry::EntryRow;
use crate::kernel::fire::Limit;

/// The activation of this module.
#[derive(Clone, Copy, Debug)]
pub(super) struct Topk {
    pub k: usize,
}

impl Kind for Topk {
    const LIMIT_DECIDES: bool = true;

    fn limit(&self) -> Limit<'_> {
        Limit::Topk(self.k)
    }

    fn candidates<'b>(&'b self, _: &Candidacy<'b>) -> Limit<'b> {
        Limit::Topk(self.k)
    }

    fn value(&self, _: usize, u: f32) -> f32 {
        u
    }

    fn backward(&self, _: &Backward, row: &mut EntryRow<'_>) {
        pass_through(row);
    }

    fn penalise(&self, penalty: f32, norms: &[f32], row: &mut EntryRow<'_>, sum: &mut f64) {
        penalise_l1(penalty, norms, row, sum);
    }

    fn auxiliary(&self, _: Auxiliary<'_>, _: &mut EntryRow<'_>) -> f64 {
        0.0
    }
}
