//! Lists on their way to the host.

use super::Slot;
use super::kernels;
use super::lists::Lists;
use crate::error::Result;
use alloc::vec::Vec;

/// Lists that were copied from a device, one behind the other.
#[derive(Clone, Debug, Default)]
pub(crate) struct Packed {
    /// `(n + 1)`.
    pub offsets: Vec<u32>,
    /// Latents.
    pub index: Vec<u32>,
    /// Their numbers.
    pub value: Vec<f32>,
}

/// Memory in which lists are packed.
#[derive(Debug, Default)]
pub(crate) struct Packing {
    offsets: Slot<u32>,
    index: Slot<u32>,
    value: Slot<f32>,
}

impl Packing {
    /// Copies lists from their device; entries of a row keep their order.
    pub fn download(&mut self, lists: Lists<'_>, out: &mut Packed) -> Result<()> {
        let (device, n) = (lists.count.device(), lists.n());
        let offsets = self.offsets.room(device, n + 1)?;
        kernels::scan(lists.count, offsets, None, None)?;
        out.offsets.resize(n + 1, 0);
        offsets.get(&mut out.offsets)?;
        let total = out.offsets[n] as usize;
        let (index, value) = (self.index.room(device, total)?, self.value.room(device, total)?);
        kernels::pack_rows(lists, offsets, index, value)?;
        out.index.resize(total, 0);
        out.value.resize(total, 0.0);
        index.get(&mut out.index)?;
        value.get(&mut out.value)
    }
}
