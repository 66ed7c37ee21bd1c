//! Watch-lists: the codes of a few latents, without computing the others.
//!
//! Every value has the bits of [`Encoder::encode`]. What has to be computed for that depends on the model:
//!
//! | computed of | where |
//! |---|---|
//! | the listed latents | the activation compares each latent with a threshold of its own (relu, batch-top-k, jumprelu, gated) |
//! | and the parents of listed children | behind a hard gate |
//! | and the siblings of listed children | behind the gate group-top1 |
//! | a whole level | the activation is top-k, the level is pruned, or the model is the seed |
//! | level 1 as a whole | children are listed, and level 2 reads the residual or the latents of level 1, has a soft gate, or is computed as a whole behind a hard gate |
//! | level 2 as a whole | children are listed, and it has a soft gate |
//!
//! [`Watch::computed`] says how many latents that makes, and why. A level of which no latent is needed costs nothing.

use super::plan::Plan;
use super::{Arch, Codes, Encoder, Lanes, Model, Scratch};
use crate::activation::Selection;
use crate::config::ModelKind;
use crate::error::{Error, Result};
use crate::gate::{ROOT, Reads};
use crate::par::Par;
use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

/// The latents of a model whose codes are wanted, with the plan that computes them. Immutable; share it between threads.
#[derive(Clone, Debug)]
pub struct Watch {
    model: Arc<Model>,
    plan: Plan,
    whys: [Option<Why>; 2],
}

/// What of a level is computed for a watch-list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Computed {
    /// Number of latents of which a row may need the pre-activation. Behind a hard gate a row needs those children whose
    /// parents are active.
    pub latents: usize,
    /// Why these are more than the listed ones; none where they are not.
    pub why: Option<Why>,
}

/// Why more latents of a level are computed than those that are listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// Top-k compares all latents of the level.
    Topk,
    /// Pruning compares all active latents of the level.
    Pruning,
    /// Level 2 reads the residual, or all latents, of level 1.
    Source,
    /// The gate reads the parents or the siblings of listed children, or all latents.
    Gate,
    /// The list has so much of the level that computing the whole level through the screen in 8 bits costs less.
    Screen,
    /// The seed model has no way to compute single latents.
    Seed,
    /// A device computes whole levels.
    Device,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Topk => "top-k compares all latents of the level",
            Self::Pruning => "pruning compares all active latents of the level",
            Self::Source => "level 2 reads what level 1 as a whole leaves or finds",
            Self::Gate => "the gate of level 2 reads latents that are not listed",
            Self::Screen => "the list is so long that computing the whole level costs less",
            Self::Seed => "the seed model is computed as a whole",
            Self::Device => "a device computes whole levels",
        })
    }
}

/// The share of a level, as `1 / SCREENED`, from which a screen of the whole level costs less than the listed products.
const SCREENED: usize = 4;

/// Returns a list in ascending order.
fn ascending(level: usize, latents: &[u32], len: usize) -> Result<Vec<u32>> {
    let what = ["watch-list of level 1", "watch-list of level 2"][level];
    if let Some(&j) = latents.iter().find(|j| **j as usize >= len) {
        return Err(Error::Index { what, index: j as usize, len });
    }
    let mut sorted = latents.to_vec();
    sorted.sort_unstable();
    match sorted.windows(2).find(|pair| pair[0] == pair[1]) {
        None => Ok(sorted),
        Some(pair) => Err(Error::config(what, format!("expected each latent once, found {} twice", pair[0]))),
    }
}

/// Returns why a level is computed as a whole if any of its latents is needed, by its own activation.
fn whole(arch: &Arch, level: usize) -> Option<Why> {
    if arch.model == ModelKind::Seed {
        Some(Why::Seed)
    } else if arch.level[level].activation.selection() == Selection::Row {
        Some(Why::Topk)
    } else if arch.variant.prune[level] != 0.0 {
        Some(Why::Pruning)
    } else {
        None
    }
}

impl Encoder {
    /// Makes a watch-list of these latents of level 1 and of level 2, in any order; either may be empty.
    ///
    /// # Errors
    /// [`Error::Index`] for a latent that the level does not have, [`Error::Config`] for one that is listed twice.
    pub fn watch(&self, latents: [&[u32]; 2]) -> Result<Watch> {
        let arch = &self.model.arch;
        let [f1, f2] = arch.latents();
        let kept = [ascending(0, latents[0], f1)?, ascending(1, latents[1], f2)?];
        let [listed1, listed2] = &kept;
        let reads = arch.gate.reads();
        // What of level 2 is computed.
        let (mut computed2, mut why2, mut families) = (Some(listed2.clone()), None, None);
        if !listed2.is_empty() {
            why2 = whole(arch, 1);
            match reads {
                Reads::AllPreActivations => why2 = why2.or(Some(Why::Gate)),
                Reads::ActiveParents { largest_only: true } if why2.is_none() => {
                    let with_siblings = self.with_siblings(listed2);
                    why2 = (with_siblings.len() > listed2.len()).then_some(Why::Gate);
                    families = Some(self.families.only(&with_siblings));
                    computed2 = Some(with_siblings);
                }
                Reads::ActiveParents { largest_only: false } if why2.is_none() => {
                    families = Some(self.families.only(listed2));
                }
                Reads::Nothing if why2.is_none() && self.is_screened(1, listed2) => why2 = Some(Why::Screen),
                _ => {}
            }
            if families.is_none() && why2.is_some() {
                computed2 = None;
            }
        }
        // What of level 1 is computed: what is listed, and what level 2 needs.
        let (mut computed1, mut why1) = (None, None);
        if !listed2.is_empty() {
            if arch.model == ModelKind::Seed {
                why1 = Some(Why::Seed);
            } else if !arch.source.is_parallel() {
                why1 = Some(Why::Source);
            } else if arch.gate.has_weights() || (arch.gate.has_families() && families.is_none()) {
                why1 = Some(Why::Gate);
            } else if arch.variant.prune[1] != 0.0 && arch.decoder.is_cumulative() {
                why1 = Some(Why::Pruning);
            }
        }
        if why1.is_none() {
            let mut needed = listed1.clone();
            if families.is_some() {
                needed.extend(listed2.iter().map(|j| self.families.parents()[*j as usize]).filter(|p| *p != ROOT));
                needed.sort_unstable();
                needed.dedup();
            }
            if !needed.is_empty() {
                why1 = whole(arch, 0).or_else(|| self.is_screened(0, &needed).then_some(Why::Screen));
            }
            let parents = (needed.len() > listed1.len()).then_some(Why::Gate);
            computed1 = why1.is_none().then_some(needed);
            why1 = why1.or(parents);
        }
        if self.device.is_some() {
            (why1, why2) = (Some(Why::Device), if f2 > 0 { Some(Why::Device) } else { None });
            (computed1, computed2, families) = (None, None, None);
        }
        let plan = Plan { computed: [computed1, computed2], families, kept: Some(kept) };
        Ok(Watch { model: self.model.clone(), plan, whys: [why1, why2] })
    }

    /// Returns the children and all others of their families; children without a parent have no family. Ascending.
    fn with_siblings(&self, children: &[u32]) -> Vec<u32> {
        let mut all = Vec::new();
        for &j in children {
            match self.families.parents()[j as usize] {
                ROOT => all.push(j),
                parent => all.extend_from_slice(self.families.children(parent)),
            }
        }
        all.sort_unstable();
        all.dedup();
        all
    }

    /// Returns whether a screen computes the whole level for less than its latents `needed` cost.
    fn is_screened(&self, level: usize, needed: &[u32]) -> bool {
        self.screens[level].is_some() && SCREENED * needed.len() > self.model.arch.level[level].latents
    }

    /// Appends the codes of the listed latents on `x`, `(n, d)`: those entries of [`Encoder::encode`], with their bits.
    ///
    /// # Errors
    /// As [`Encoder::encode`], and [`Error::Config`] for a watch-list of another model.
    pub fn encode_watched(
        &self,
        watch: &Watch,
        x: &[f32],
        scratch: &mut Scratch,
        codes1: &mut Codes,
        codes2: &mut Codes,
    ) -> Result<()> {
        self.encode_planned(self.plan_of(watch)?, x, scratch, [codes1, codes2])
    }

    /// Encodes up to a block of rows and leaves the codes of the listed latents in the scratch: the bits of
    /// [`Encoder::encode_watched`]. Allocates nothing if the scratch is [`Scratch::reserved`].
    ///
    /// # Errors
    /// As [`Encoder::encode_watched`], and [`Error::Shape`] for more rows.
    pub fn encode_watched_block(&self, watch: &Watch, x: &[f32], scratch: &mut Scratch) -> Result<()> {
        self.encode_block_planned(self.plan_of(watch)?, x, scratch)
    }

    /// Encodes `x` as [`Encoder::encode_watched`] does, with blocks of rows spread over the threads of `par`, and leaves the codes
    /// in `lanes`, as [`Encoder::encode_in`] does.
    ///
    /// # Errors
    /// As [`Encoder::encode_watched`]; `lanes` has no codes then.
    pub fn encode_watched_in(&self, watch: &Watch, par: Par, x: &[f32], lanes: &mut Lanes) -> Result<()> {
        lanes.used = 0;
        self.encode_planned_in(self.plan_of(watch)?, par, x, lanes)
    }

    fn plan_of<'w>(&self, watch: &'w Watch) -> Result<&'w Plan> {
        if watch.is_of(self) {
            return Ok(&watch.plan);
        }
        Err(Error::config("watch", "expected a watch-list of this model, found one that was made from another"))
    }

    /// Returns whether another encoder has the same model, in the same memory.
    pub fn has_model_of(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.model, &other.model)
    }
}

impl Watch {
    /// Returns whether it was made from the model of `encoder`, by this encoder or another one of the same model.
    pub fn is_of(&self, encoder: &Encoder) -> bool {
        Arc::ptr_eq(&encoder.model, &self.model)
    }

    /// Returns the listed latents of a level (0 or 1), ascending.
    ///
    /// # Panics
    /// If `level` is neither.
    pub fn latents(&self, level: usize) -> &[u32] {
        self.plan.kept.as_ref().map_or(&[], |kept| &kept[level])
    }

    /// Returns what of each level is computed, and why.
    pub fn computed(&self) -> [Computed; 2] {
        [0, 1].map(|l| {
            let all = self.model.arch.level[l].latents;
            Computed { latents: self.plan.computed[l].as_ref().map_or(all, Vec::len), why: self.whys[l] }
        })
    }

    /// Returns the largest number of listed latents of a level (0 or 1) that can be active on one row.
    ///
    /// # Panics
    /// If `level` is neither.
    pub fn max_active(&self, level: usize) -> usize {
        self.model.max_active(level).min(self.latents(level).len())
    }
}
