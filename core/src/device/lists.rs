//! Lists of entries per row on a device, in rows of one size.

use super::{Buffer, Device, Part, Slot};
use crate::error::Result;
use crate::gate::{Families, ROOT};
use alloc::vec::Vec;

/// Lists of `n` rows: row `i` has `count[i]` entries, from number `i * room` of `index` and `value` on.
#[derive(Clone, Copy)]
pub(crate) struct Lists<'a> {
    /// Places of a row.
    pub room: usize,
    /// `(n)`.
    pub count: Part<'a, u32>,
    /// `(n, room)`.
    pub index: Part<'a, u32>,
    /// `(n, room)`.
    pub value: Part<'a, f32>,
}

impl<'a> Lists<'a> {
    /// Returns the number of rows.
    pub fn n(&self) -> usize {
        self.count.len()
    }

    /// Returns the lists of `n` rows from row `first` on.
    pub fn rows(&self, first: usize, n: usize) -> Self {
        let (entries, end) = (first * self.room..(first + n) * self.room, first + n);
        Self {
            count: self.count.part(first..end),
            index: self.index.part(entries.clone()),
            value: self.value.part(entries),
            ..*self
        }
    }
}

/// Memory of lists.
#[derive(Debug, Default)]
pub(crate) struct ListSlots {
    count: Slot<u32>,
    index: Slot<u32>,
    value: Slot<f32>,
}

impl ListSlots {
    /// Returns lists of `n` rows with any content.
    pub fn room(&mut self, device: &Device, n: usize, room: usize) -> Result<Lists<'_>> {
        self.count.room(device, n)?;
        self.index.room(device, n * room)?;
        self.value.room(device, n * room)?;
        Ok(self.of(n, room))
    }

    /// Returns the lists that are there, of `n` rows with `room` places.
    pub fn of(&self, n: usize, room: usize) -> Lists<'_> {
        Lists { room, count: self.count.of(n), index: self.index.of(n * room), value: self.value.of(n * room) }
    }
}

/// Families on a device.
#[derive(Debug)]
pub(crate) struct FamiliesOn {
    /// `(f2)`: the parent of each child.
    pub parents: Buffer<u32>,
    /// `(f1 + 2)`: the first child of each parent in `children`; those of ROOT come last.
    pub offsets: Buffer<u32>,
    /// `(f2)`.
    pub children: Buffer<u32>,
}

impl FamiliesOn {
    /// Returns the number of parents.
    pub fn n_parents(&self) -> usize {
        self.offsets.len() - 2
    }

    /// Copies families to a device.
    pub fn new(device: &Device, families: &Families) -> Result<Self> {
        let (mut offsets, mut children) = (Vec::new(), Vec::new());
        for p in (0..families.n_parents()).chain([ROOT]) {
            offsets.push(children.len() as u32);
            children.extend_from_slice(families.children(p));
        }
        offsets.push(children.len() as u32);
        Ok(Self {
            parents: device.upload(families.parents())?,
            offsets: device.upload(&offsets)?,
            children: device.upload(&children)?,
        })
    }
}

/// A gate that is open where a parent is active.
#[derive(Clone, Copy)]
pub(crate) struct Gate<'a> {
    /// `(f2)`.
    pub parents: Part<'a, u32>,
    /// `(n, words)`: a bit per parent.
    pub active: Part<'a, u32>,
    /// Words of a row.
    pub words: usize,
}

impl Gate<'_> {
    /// Returns the gate of `n` rows from row `first` on.
    pub fn rows(&self, first: usize, n: usize) -> Self {
        Self { active: self.active.part(first * self.words..(first + n) * self.words), ..*self }
    }
}
