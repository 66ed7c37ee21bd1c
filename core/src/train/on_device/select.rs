//! The selection over a batch on a device, from one level or from two that share a budget.

use super::OnDevice;
use crate::device::kernels;
use crate::device::lists::Lists;
use crate::device::selection::{count_ties, cut_pass, keep_cut, start_cut};
use crate::device::{Device, Part, Slot};
use crate::error::Result;
use alloc::vec::Vec;
use core::ops::Range;

/// Working memory.
#[derive(Debug, Default)]
pub(super) struct SelectionSlots {
    bins: Slot<u32>,
    ties: Slot<u32>,
    before: Slot<u32>,
}

impl SelectionSlots {
    /// Returns empty bins beside a selection of so many values.
    pub fn start(&mut self, device: &Device, wanted: usize, cut: Part<'_, u32>) -> Result<Part<'_, u32>> {
        let bins = self.bins.room(device, 256)?;
        start_cut(wanted, cut, bins)?;
        Ok(bins)
    }
}

impl OnDevice {
    /// Keeps the `keep` largest candidates of the levels; `above` says that there may be more than were collected.
    pub(super) fn select(&mut self, levels: &Range<usize>, n: usize, tau: f32, keep: usize, above: bool) -> Result<()> {
        let Self { device, selection, out, levels: all, .. } = self;
        let (group, of) = (&mut all[levels.clone()], levels.len());
        let (cut, bad) = (out.cut(levels.start), out.bad());
        for level in &mut *group {
            level.kept.room(device, n, level.room)?;
        }
        let lists: Vec<Lists<'_>> = group.iter().map(|level| level.candidates.of(n, level.room)).collect();
        let bins = selection.start(device, keep, cut)?;
        for shift in [24, 16, 8, 0] {
            cut_pass(tau, &lists, (shift, above), [cut, bins, bad])?;
        }
        let ties = selection.ties.room(device, n * of)?;
        ties.zero()?;
        for (l, lists) in lists.iter().enumerate() {
            count_ties((l, of), *lists, cut, ties)?;
        }
        let before = selection.before.room(device, n * of + 1)?;
        kernels::scan(ties, before, None, None)?;
        for (l, level) in group.iter().enumerate() {
            keep_cut((l, of), lists[l], cut, before, level.kept.of(n, level.room))?;
        }
        Ok(())
    }
}
