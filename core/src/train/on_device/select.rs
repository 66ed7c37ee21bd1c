//! The selection over a batch on a device, from one level or from two that share a budget.

use super::super::comm::Comm;
use super::level::Level;
use super::shards::{add_bins, add_ties};
use crate::device::kernels;
use crate::device::lists::Lists;
use crate::device::selection::{count_ties, cut_count, cut_pick, keep_cut, start_cut};
use crate::device::{Device, Part, Slot};
use crate::error::Result;
use alloc::vec::Vec;

/// Working memory.
#[derive(Debug, Default)]
pub(super) struct SelectionSlots {
    bins: Slot<u32>,
    ties: Slot<u32>,
    before: Slot<u32>,
}

impl SelectionSlots {
    /// Starts a selection of so many values with empty bins.
    pub fn start(&mut self, device: &Device, wanted: usize, cut: Part<'_, u32>) -> Result<()> {
        start_cut(wanted, cut, self.bins.room(device, 256)?)
    }

    /// Keeps the `keep` largest candidates of some levels of all shards, whose selection is `cut`; `above` says that there may be more
    /// than were collected, so that `bad` says if too few were.
    pub fn run(
        &mut self,
        (device, comm): (&Device, &dyn Comm),
        levels: &mut [Level],
        (n, tau): (usize, f32),
        (keep, above): (usize, bool),
        [cut, bad]: [Part<'_, u32>; 2],
    ) -> Result<()> {
        let of = levels.len();
        for level in &mut *levels {
            level.kept.room(device, n, level.room)?;
        }
        let lists: Vec<Lists<'_>> = levels.iter().map(|level| level.candidates.of(n, level.room)).collect();
        self.start(device, keep, cut)?;
        let bins = self.bins.of(256);
        for shift in [24, 16, 8, 0] {
            cut_count(tau, &lists, shift, cut, bins)?;
            if !comm.is_solo() {
                add_bins(comm, shift == 24, cut, bins)?;
            }
            cut_pick((shift, above), [cut, bins, bad])?;
        }
        let ties = self.ties.room(device, n * of)?;
        ties.zero()?;
        for (l, lists) in lists.iter().enumerate() {
            count_ties((l, of), *lists, cut, ties)?;
        }
        let before = self.before.room(device, n * of + 1)?;
        match comm.is_solo() {
            true => kernels::scan(ties, before, None, None)?,
            false => add_ties(comm, ties, before)?,
        }
        for (l, level) in levels.iter().enumerate() {
            keep_cut((l, of), lists[l], cut, before, level.kept.of(n, level.room))?;
        }
        Ok(())
    }
}
