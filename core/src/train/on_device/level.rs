//! Working memory of one level on a device, and the gradients of its entries.

use crate::device::kernels;
use crate::device::lists::{ListSlots, Lists};
use crate::device::search::Guess;
use crate::device::training::{self, ByLatent, Entries};
use crate::device::{Buffer, Device, Part, Slot};
use crate::error::Result;

/// Working memory of one level.
#[derive(Debug, Default)]
pub(super) struct Level {
    /// The encoder in 8 bits, where that pays.
    pub bytes: Option<(Buffer<i8>, Buffer<f32>)>,
    /// For candidates, for the first floor, and without the gate.
    pub guesses: [Guess; 3],
    pub candidates: ListSlots,
    /// What fires, with `room` places per row.
    pub kept: ListSlots,
    pub room: usize,
    pub open: ListSlots,
    pub aux: Aux,
    pub r: Slot<f32>,
    pub squares: Slot<f32>,
    pub du: Slot<f32>,
    pub through: Slot<f32>,
    pub by: BySlots,
}

/// AuxK of one level.
#[derive(Debug, Default)]
pub(super) struct Aux {
    /// Whether it acts in this step, and how many places a row of picks has.
    pub room: Option<usize>,
    pub dead: Slot<u32>,
    pub w: Slot<f32>,
    pub bias: Slot<f32>,
    pub parents: Slot<u32>,
    pub picks: ListSlots,
    pub picked: Slot<u32>,
    pub settled: ListSlots,
    pub v: Slot<f32>,
    pub e: Slot<f32>,
    pub squares: Slot<f32>,
}

/// Entries by latent.
#[derive(Debug, Default)]
pub(super) struct BySlots {
    counts: Slot<u32>,
    offsets: Slot<u32>,
    next: Slot<u32>,
    row_at: Slot<u32>,
    entry_at: Slot<u32>,
    rows: Slot<u32>,
    z: Slot<f32>,
    v: Slot<f32>,
    g0: Slot<f32>,
    g1: Slot<f32>,
}

impl Aux {
    /// Returns whether it has picked latents, and with a weight.
    pub fn acts(&self, weight: f32) -> bool {
        self.room.is_some() && weight > 0.0
    }

    /// Returns the entries of the rows of a level of which `kept` fire, with `room` places per row.
    pub fn entries<'a>(&'a self, kept: &'a ListSlots, room: usize, n: usize) -> Entries<'a> {
        match self.room {
            Some(picks) => {
                let room = room + picks;
                Entries { lists: self.settled.of(n, room), v: Some(self.v.of(n * room)) }
            }
            None => Entries { lists: kept.of(n, room), v: None },
        }
    }
}

impl Level {
    /// Writes AuxK's `e` where it acts, and `dL/du` of the entries through the level's own terms.
    pub fn entry_gradients(
        &mut self,
        device: &Device,
        n: usize,
        d: usize,
        decoder: Part<'_, f32>,
        recon: f32,
        aux_weight: f32,
    ) -> Result<()> {
        let Self { aux, kept, room, r, du, .. } = self;
        let r = r.of(n * d);
        let acts = aux.acts(aux_weight);
        if let Some(room) = aux.room.filter(|_| acts) {
            aux.e.room(device, n * d)?;
            aux.squares.room(device, n)?;
            let picks = Lists { index: aux.picked.of(n * room), ..aux.picks.of(n, room) };
            training::aux_rows(r, decoder, aux_weight, d, picks, aux.e.of(n * d), aux.squares.of(n))?;
        }
        let e = if acts { Some(aux.e.of(n * d)) } else { None };
        let entries = aux.entries(kept, *room, n);
        let du = du.room(device, n * entries.lists.room)?;
        training::entry_gradients(r, e, decoder, recon, d, entries, du)
    }

    /// Writes the part of `dL/du` that comes through level 2: 0 where its reconstruction does not add to that of level 1.
    pub fn through_gradients(
        &mut self,
        device: &Device,
        n: usize,
        d: usize,
        decoder: Part<'_, f32>,
        r2: Option<Part<'_, f32>>,
        recon: f32,
    ) -> Result<()> {
        let Self { aux, kept, room, through, .. } = self;
        let entries = aux.entries(kept, *room, n);
        let through = through.room(device, n * entries.lists.room)?;
        match r2 {
            Some(r2) => training::entry_gradients(r2, None, decoder, recon, d, entries, through),
            None => through.zero(),
        }
    }
}

impl BySlots {
    /// Transposes the entries of a level of `f` latents with their gradients, and with the values of AuxK where it acts.
    pub fn transpose(
        &mut self,
        device: &Device,
        f: usize,
        entries: Entries<'_>,
        du: &Slot<f32>,
        through: Option<&Slot<f32>>,
        with_aux: bool,
    ) -> Result<ByLatent<'_>> {
        let all = entries.lists.n() * entries.lists.room;
        let counts = self.counts.room(device, f)?;
        counts.zero()?;
        training::count_latents(entries.lists, counts)?;
        let (offsets, next) = (self.offsets.room(device, f + 1)?, self.next.room(device, f)?);
        kernels::scan(counts, offsets, Some(next))?;
        let m = offsets.part(f..f + 1).to_vec()?[0] as usize;
        let placed = (self.row_at.room(device, m)?, self.entry_at.room(device, m)?);
        training::place_entries(entries.lists, next, placed.0, placed.1)?;
        let v = if with_aux { Some(self.v.room(device, m)?) } else { None };
        let g1 = if through.is_some() { Some(self.g1.room(device, m)?) } else { None };
        let (rows, z, g0) = (self.rows.room(device, m)?, self.z.room(device, m)?, self.g0.room(device, m)?);
        let list = ByLatent { offsets, rows, z, v, g0, g1 };
        training::order_entries(entries, placed, du.of(all), through.map(|through| through.of(all)), list)?;
        Ok(list)
    }
}
