//! `z = u` at the `k` largest positive `u` of a row, ties to the lower latent; `dz/du = 1` there (Gao et al. 2024). A
//! penalty, where one is set, is the L1 norm of the latents, weighted by decoder norms.

use super::kind::{Candidacy, Kind};
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
}
