//! The selection over a batch on a device.

use crate::device::kernels;
use crate::device::lists::Lists;
use crate::device::training::{self, CUT, cut_start};
use crate::device::{Device, Slot};
use crate::error::Result;

/// Working memory.
#[derive(Debug, Default)]
pub(super) struct SelectionSlots {
    cut: Slot<u32>,
    bins: Slot<u32>,
    ties: Slot<u32>,
    before: Slot<u32>,
    pub least: Slot<u32>,
}

impl SelectionSlots {
    /// Keeps the `keep` largest of all lists, and returns the state at the end.
    pub fn run(
        &mut self,
        device: &Device,
        found: Lists<'_>,
        tau: f32,
        keep: usize,
        kept: Lists<'_>,
    ) -> Result<[u32; CUT]> {
        let n = found.n();
        let cut = self.cut.room(device, CUT)?;
        cut.put(&cut_start(keep))?;
        let bins = self.bins.room(device, 256)?;
        bins.zero()?;
        for shift in [24, 16, 8, 0] {
            training::cut_pass(tau, found, shift, cut, bins)?;
        }
        let ties = self.ties.room(device, n)?;
        ties.zero()?;
        training::count_ties(found, cut, ties)?;
        let before = self.before.room(device, n + 1)?;
        kernels::scan(ties, before, None)?;
        training::keep_cut(found, cut, before, kept)?;
        let mut state = [0; CUT];
        cut.get(&mut state)?;
        Ok(state)
    }
}
