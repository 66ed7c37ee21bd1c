//! Watch-lists of a model.

use crate::failure::Outcome;
use crate::handle::strata_model;
use crate::memory::check_memory;
use crate::params::{
    STRATA_WHY_GATE, STRATA_WHY_LISTED, STRATA_WHY_PRUNING, STRATA_WHY_SCREEN, STRATA_WHY_SEED, STRATA_WHY_SOURCE,
    STRATA_WHY_TOPK, strata_watch_info,
};
use strata_core::model::{Watch, Why};

/// The latents of a model whose codes are wanted. Immutable: any number of threads may use it at the same time.
pub struct strata_watch {
    pub(crate) watch: Watch,
    max_active: [usize; 2],
}

impl strata_watch {
    pub(crate) fn new(model: &strata_model, latents: [&[u32]; 2]) -> Outcome<Self> {
        let [f1, f2] = model.encoder().model().arch.latents();
        // The lists in order, the families of the model, and counts of children.
        check_memory(16_usize.saturating_mul(f1 + f2 + latents[0].len() + latents[1].len()))?;
        let watch = model.encoder().watch(latents)?;
        Ok(Self { max_active: [watch.max_active(0), watch.max_active(1)], watch })
    }

    pub(crate) fn info(&self) -> strata_watch_info {
        let [one, two] = self.watch.computed();
        strata_watch_info {
            struct_size: 0,
            max_active1: self.max_active[0],
            max_active2: self.max_active[1],
            computed1: one.latents,
            computed2: two.latents,
            why1: why(one.why),
            why2: why(two.why),
        }
    }
}

fn why(why: Option<Why>) -> u32 {
    match why {
        // A watch-list is made for the CPU; on a device it costs what encoding costs there.
        None | Some(Why::Device) => STRATA_WHY_LISTED,
        Some(Why::Topk) => STRATA_WHY_TOPK,
        Some(Why::Pruning) => STRATA_WHY_PRUNING,
        Some(Why::Source) => STRATA_WHY_SOURCE,
        Some(Why::Gate) => STRATA_WHY_GATE,
        Some(Why::Screen) => STRATA_WHY_SCREEN,
        Some(Why::Seed) => STRATA_WHY_SEED,
    }
}
