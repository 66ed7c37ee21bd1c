//! A dictionary in shards, each on a device of its own: what the hosts of the devices exchange in a step.
//!
//! It is what the shards of a dictionary exchange on the CPU ([`exchange`](super::super::step)), in the same order, so that the result
//! has the same bits. Numbers cross the bus where shards meet, and the host waits there: for the candidates that compete, for the codes,
//! for the sums over latents, which go on from shard to shard, and for the sums of groups of latents, which each shard adds in the order
//! of latents. Everything between is computed on the devices by the kernels of one process.

use super::super::comm::Comm;
use super::super::inference::{largest_of_families, own_rows};
use super::super::observed::SparseRows;
use super::super::shard::Shard;
use super::super::step::{self, adam};
use super::level::Level;
use crate::device::lists::{ListSlots, Lists};
use crate::device::packing::{Packed, Packing};
use crate::device::search::{Guess, Limit, Search, Work};
use crate::device::selection::{ABOVE, CUT, FOUND, LEAST};
use crate::device::sums::{self, Addends};
use crate::device::training::{Entries, Penalised};
use crate::device::{Buffer, Device, Part, Slot};
use crate::error::{Error, Result};
use crate::gate::{Families, ROOT};
use crate::model::Codes;
use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;

/// Rows whose sums are passed on together. While a shard adds to some, the shards before it add to the next ones.
const ROWS: usize = 256;

/// The exchange with the other shards, with its working memory. One process with all latents has nothing to exchange.
#[derive(Debug)]
pub(super) struct Over {
    pub shard: Shard,
    /// What fires, of all shards, per level.
    pub codes: [Codes; 2],
    /// The ungated pre-activations of level 2 above their threshold, of all shards, in a step that needs them.
    pub open: Option<Codes>,
    /// The parent of each child of all shards.
    parents: Vec<u32>,
    /// The same, as this shard counts its parents; ROOT in place of those of other shards.
    own_parents: Option<Buffer<u32>>,
    packing: Packing,
    packed: Packed,
    before: Slot<f32>,
    after: Slot<f32>,
    sums: Slot<f32>,
    groups: Slot<f32>,
}

/// The state of a sum over the latents of all shards.
struct Running {
    rows: Vec<f32>,
    /// What the device has reported. The exchange goes on with any numbers then, so that no other shard waits for this one.
    done: Result<()>,
}

impl Over {
    /// Returns the exchange of a shard.
    pub fn new(shard: Shard) -> Self {
        Self {
            shard,
            codes: [Codes::new(), Codes::new()],
            open: None,
            parents: Vec::new(),
            own_parents: None,
            packing: Packing::default(),
            packed: Packed::default(),
            before: Slot::default(),
            after: Slot::default(),
            sums: Slot::default(),
            groups: Slot::default(),
        }
    }

    /// Returns whether there is one shard.
    pub fn is_solo(&self) -> bool {
        self.shard.is_solo()
    }

    /// Returns the transport.
    pub fn comm(&self) -> &dyn Comm {
        &*self.shard.comm
    }

    /// Takes in other families of all children, and returns those of this shard's.
    pub fn set_families(&mut self, device: &Device, families: &Families) -> Result<Families> {
        if self.is_solo() {
            return Ok(families.clone());
        }
        let own = self.shard.own(0);
        let of = |p: &u32| if own.contains(&(*p as usize)) { p - own.start as u32 } else { ROOT };
        self.parents = families.parents().to_vec();
        self.own_parents = Some(device.upload(&self.parents.iter().map(of).collect::<Vec<u32>>())?);
        Ok(self.shard.families(families))
    }

    /// Returns the parents of all children, as this shard counts them; none where there is one shard.
    pub fn own_parents(&self) -> Option<Part<'_, u32>> {
        self.own_parents.as_ref().map(Buffer::all)
    }

    /// Returns lists of this shard, whose latents are counted from its first one.
    fn download(&mut self, lists: Lists<'_>) -> Result<Codes> {
        self.packing.download(lists, &mut self.packed)?;
        let Packed { offsets, index, value } = &self.packed;
        let offsets = offsets.iter().map(|at| *at as usize).collect();
        Ok(Codes { offsets, index: index.clone(), value: value.clone() })
    }

    /// Lets the lists of a level compete, as far as they do: keeps those of the `k` largest of each row over all shards where `k` is
    /// given. Returns the smallest value that fires, of all shards.
    pub fn join(&mut self, device: &Device, l: usize, n: usize, k: Option<usize>, level: &mut Level) -> Result<f32> {
        self.comm().stage("selection");
        let own = self.download(level.kept.of(n, level.room))?;
        let all = step::over_shards(&self.shard, l, k, &own)?;
        if k.is_some() {
            level.room = upload(device, &mut level.kept, &own_rows(&self.shard, l, &all))?;
        }
        level.fires.room = Some(upload(device, &mut level.fires.lists, &all)?);
        let least = all.value.iter().copied().fold(f32::INFINITY, f32::min);
        self.codes[l] = all;
        Ok(least)
    }

    /// Writes the lists of all rows that a search finds among the latents of this shard, and returns their room. Where only the largest
    /// child of a family may fire, it is the largest of all shards.
    pub fn find(
        &mut self,
        device: &Device,
        search: &Search<'_>,
        guess: &mut Guess,
        work: &mut Work,
        out: &mut ListSlots,
    ) -> Result<usize> {
        let n = search.x.len() / search.weights.d;
        let is_ranked = search.largest_of.is_some();
        // A child that does not reach its own limit may still keep others from firing.
        let (limit, limits) = match search.limit {
            Limit::Topk(_) if is_ranked => (Limit::Above(0.0), None),
            Limit::Each(limits) if is_ranked => (Limit::Above(f32::NEG_INFINITY), Some(limits)),
            limit => (limit, None),
        };
        let room = if search.weights.f() == 0 {
            out.room(device, n, 0)?.count.zero()?;
            0
        } else {
            Search { limit, ..*search }.run(guess, work, out)?
        };
        if !is_ranked {
            return Ok(room);
        }
        self.comm().stage("families");
        let own = self.download(out.of(n, room))?;
        let all = step::over_shards(&self.shard, 1, None, &own)?;
        let mut own = own_rows(&self.shard, 1, &largest_of_families(&self.parents, &all));
        if let Some(limits) = limits {
            let limits = limits.to_vec()?;
            own = only(&own, |j, u| u > limits[j as usize]);
        }
        upload(device, out, &own)
    }

    /// Returns the values that a search finds, of all shards.
    pub fn find_values(
        &mut self,
        device: &Device,
        search: &Search<'_>,
        guess: &mut Guess,
        work: &mut Work,
    ) -> Result<Vec<f32>> {
        let (n, mut lists) = (search.x.len() / search.weights.d, ListSlots::default());
        let room = self.find(device, search, guess, work, &mut lists)?;
        let own = self.download(lists.of(n, room))?;
        self.comm().stage("selection");
        let mut values = match search.limit {
            Limit::Topk(k) => step::largest_over_shards(&self.shard, k, &own)?.value,
            Limit::Above(_) | Limit::Each(_) => own.value,
        };
        self.comm().all_gather(&mut values)?;
        Ok(values)
    }

    /// Returns the sum of a number of this shard and of those of the others.
    pub fn total(&self, own: usize) -> Result<usize> {
        self.comm().stage("selection");
        Ok(self.comm().gather(&[own as u64])?.iter().flatten().sum::<u64>() as usize)
    }

    /// Keeps the picks of AuxK that are among the `k` largest of each row over all shards, and returns their room.
    pub fn pick(
        &mut self,
        device: &Device,
        k: usize,
        picks: &mut ListSlots,
        (n, room): (usize, usize),
    ) -> Result<usize> {
        if self.is_solo() {
            return Ok(room);
        }
        self.comm().stage("auxk");
        let own = self.download(picks.of(n, room))?;
        let kept = step::largest_over_shards(&self.shard, k, &own)?;
        upload(device, picks, &kept)
    }

    /// Makes the ungated pre-activations of level 2 known to all shards; where `contains` says so, the devices get them too.
    pub fn share_open(&mut self, device: &Device, n: usize, contains: bool, level: &mut Level) -> Result<()> {
        self.comm().stage("ungated");
        let open = &mut level.open;
        let own = self.download(open.lists.of(n, open.room))?;
        let all = step::over_shards(&self.shard, 1, None, &own)?;
        if contains {
            let own = self.shard.own(1);
            let of = |j: &u32| if own.contains(&(*j as usize)) { j - own.start as u32 } else { u32::MAX };
            let children = Codes { index: all.index.iter().map(of).collect(), ..all.clone() };
            open.all_room = Some(upload(device, &mut open.all, &all)?);
            upload(device, &mut open.own, &children)?;
        }
        self.open = Some(all);
        Ok(())
    }

    /// Completes the pre-activations of the parents of all ungated pre-activations, `(n, room)`, from those of this shard's.
    pub fn share_parents(&mut self, room: usize, known: Part<'_, f32>) -> Result<()> {
        let Some(open) = &self.open else { return Ok(()) };
        self.comm().stage("ungated");
        let mut rows = known.to_vec()?;
        let all = |i: usize| i * room..i * room + open.row(i).index.len();
        let own = (0..open.n()).flat_map(|i| rows[all(i)].iter().copied()).collect();
        let mut values = step::parents_over_shards(&self.shard, &self.parents, open, own)?;
        // ROOT always fires: nothing is lacking.
        let of_root = |(_, j): &(&mut f32, &u32)| self.parents[**j as usize] == ROOT;
        values.iter_mut().zip(&open.index).filter(of_root).for_each(|(u, _)| *u = f32::INFINITY);
        for i in 0..open.n() {
            rows[all(i)].copy_from_slice(&values[open.offsets[i]..open.offsets[i + 1]]);
        }
        known.put(&rows)
    }

    /// Returns the sum over the latents of all shards, `(n, d)`: `add` adds the terms of this shard to what the second argument holds
    /// of some rows, and writes the sum to the third.
    pub fn running_sum(
        &mut self,
        device: &Device,
        stage: &'static str,
        (n, d): (usize, usize),
        add: impl Fn(Range<usize>, Part<'_, f32>, Part<'_, f32>) -> Result<()>,
    ) -> Result<Part<'_, f32>> {
        self.comm().stage(stage);
        let rows = |part: usize| part * ROWS..((part + 1) * ROWS).min(n);
        let numbers = |part: usize| rows(part).start * d..rows(part).end * d;
        let Self { shard, before, after, sums, .. } = self;
        let [before, after] = [before.room(device, ROWS.min(n) * d)?, after.room(device, ROWS.min(n) * d)?];
        let mut running = Running { rows: vec![0.0; n * d], done: Ok(()) };
        let comm = &*shard.comm;
        comm.chain(
            n.div_ceil(ROWS),
            &mut running,
            |running, part| {
                if running.done.is_ok() {
                    let now = &mut running.rows[numbers(part)];
                    let (from, to) = (before.part(0..now.len()), after.part(0..now.len()));
                    running.done = from.put(now).and_then(|()| add(rows(part), from, to)).and_then(|()| to.get(now));
                }
            },
            |running, part, out| {
                out.clear();
                out.extend_from_slice(&running.rows[numbers(part)]);
            },
            |running, part, now| {
                let rows = &mut running.rows[numbers(part)];
                match now {
                    Some(now) if now.len() != rows.len() => return Err(short()),
                    Some(now) => rows.copy_from_slice(now),
                    None => rows.fill(0.0),
                }
                Ok(())
            },
        )?;
        running.done?;
        let sums = sums.room(device, n * d)?;
        sums.put(&running.rows)?;
        Ok(sums)
    }

    /// Returns what an auxiliary reconstruction adds up of all shards: the lists of this one, or the sum where there are several.
    pub fn addends<'a>(
        &'a mut self,
        device: &Device,
        stage: &'static str,
        (n, d): (usize, usize),
        lists: Lists<'a>,
        decoder: Part<'_, f32>,
    ) -> Result<Addends<'a>> {
        if self.is_solo() {
            return Ok(Addends::All(lists));
        }
        let add = |rows: Range<usize>, before: Part<'_, f32>, out: Part<'_, f32>| {
            sums::add_aux(before, decoder, d, lists.rows(rows.start, rows.len()), out)
        };
        self.running_sum(device, stage, (n, d), add).map(Addends::Sum)
    }

    /// Returns the sums of the groups of latents of all shards, from those of this shard.
    pub fn groups<'a>(&'a mut self, device: &Device, own: Part<'a, f32>) -> Result<Part<'a, f32>> {
        if self.is_solo() {
            return Ok(own);
        }
        self.comm().stage("bias");
        let mut sums = own.to_vec()?;
        self.comm().all_gather(&mut sums)?;
        let all = self.groups.room(device, sums.len())?;
        all.put(&sums)?;
        Ok(all)
    }

    /// Returns the sum of the squares of a gradient of all shards, from those of the blocks of this one, `rows` rows each.
    pub fn squares(&self, blocks: Part<'_, f64>, rows: usize) -> Result<f64> {
        self.comm().stage("norms");
        let blocks = blocks.to_vec()?;
        let groups = blocks.chunks(adam::GROUP / rows);
        let mut groups = groups.map(|group| group.iter().sum::<f64>()).collect();
        self.comm().all_gather(&mut groups)?;
        Ok(groups.iter().sum())
    }

    /// Returns the penalty on sparsity of a level, of all shards; none without one.
    pub fn penalty(&mut self, n: usize, f: usize, level: &Level) -> Result<Option<f64>> {
        let Some((penalty, of)) = level.penalised(f) else { return Ok(None) };
        self.comm().stage("penalty");
        let Entries { lists, u, .. } = level.entries(n);
        let (lists, norms) = match of {
            Penalised::Norms(norms) => (lists, norms.to_vec()?),
            Penalised::Counts => (lists, Vec::new()),
            Penalised::Pre => (Lists { value: u, ..lists }, Vec::new()),
        };
        let own = only(&self.download(lists)?, |_, value| value > 0.0);
        let term = |(j, value): (&u32, &f32)| {
            f64::from(penalty)
                * match of {
                    Penalised::Norms(_) => f64::from(value * norms[*j as usize]),
                    Penalised::Counts => 1.0,
                    Penalised::Pre => f64::from(*value),
                }
        };
        let terms: Vec<f64> = own.index.iter().zip(&own.value).map(term).collect();
        let counts: Vec<u32> = own.offsets.windows(2).map(|row| (row[1] - row[0]) as u32).collect();
        step::sum_over_shards(&self.shard, &counts, &terms).map(Some)
    }

    /// Writes what fires of all shards, and the ungated pre-activations of a step that has them.
    pub fn observe(&self, n: usize, codes: &mut [SparseRows], ungated: &mut SparseRows) {
        for (to, from) in codes.iter_mut().zip(&self.codes) {
            copy(from, to);
        }
        match &self.open {
            Some(open) => copy(open, ungated),
            None => {
                ungated.clear();
                (0..n).for_each(|_| ungated.end_row());
            }
        }
    }
}

/// Adds the bins of a selection of all shards; in the first of its passes also how many candidates there are.
pub(super) fn add_bins(comm: &dyn Comm, is_first: bool, cut: Part<'_, u32>, bins: Part<'_, u32>) -> Result<()> {
    comm.stage("selection");
    let mut own = bins.to_vec()?;
    let all = own.len();
    if is_first {
        own.extend_from_slice(&cut.to_vec()?);
    }
    let numbers = comm.gather(&own)?;
    if numbers.iter().any(|numbers| numbers.len() != own.len()) {
        return Err(short());
    }
    let sum = |at: usize| numbers.iter().map(|numbers| numbers[at]).sum::<u32>();
    bins.put(&(0..all).map(sum).collect::<Vec<u32>>())?;
    if is_first {
        let mut state = own[all..all + CUT].to_vec();
        (state[ABOVE], state[FOUND]) = (sum(all + ABOVE), sum(all + FOUND));
        state[LEAST] = numbers.iter().map(|numbers| numbers[all + LEAST]).fold(u32::MAX, u32::min);
        cut.put(&state)?;
    }
    Ok(())
}

/// Writes to `before` how many candidates that equal the cut come before each row of each level, `ties` in the order of these, over all
/// shards: within a row those of a shard come before those of the next.
pub(super) fn add_ties(comm: &dyn Comm, ties: Part<'_, u32>, before: Part<'_, u32>) -> Result<()> {
    let all = comm.gather(&ties.to_vec()?)?;
    if all.iter().any(|other| other.len() != ties.len()) {
        return Err(short());
    }
    let (mut sums, mut sum) = (Vec::with_capacity(before.len()), 0);
    for place in 0..ties.len() {
        for (rank, ties) in all.iter().enumerate() {
            if rank == comm.rank() {
                sums.push(sum);
            }
            sum += ties[place];
        }
    }
    sums.push(sum);
    before.put(&sums)
}

/// Copies codes to a device, and returns the room of their lists.
fn upload(device: &Device, to: &mut ListSlots, codes: &Codes) -> Result<usize> {
    let n = codes.n();
    let counts: Vec<u32> = codes.offsets.windows(2).map(|row| (row[1] - row[0]) as u32).collect();
    let room = counts.iter().max().map_or(0, |most| *most as usize);
    let (mut index, mut value) = (vec![0; n * room], vec![0.0; n * room]);
    for i in 0..n {
        let row = codes.row(i);
        index[i * room..][..row.index.len()].copy_from_slice(row.index);
        value[i * room..][..row.index.len()].copy_from_slice(row.value);
    }
    let lists = to.room(device, n, room)?;
    lists.count.put(&counts)?;
    lists.index.put(&index)?;
    lists.value.put(&value)?;
    Ok(room)
}

/// Returns the entries of codes for which `keeps` holds.
fn only(codes: &Codes, keeps: impl Fn(u32, f32) -> bool) -> Codes {
    let mut kept = Codes::new();
    for i in 0..codes.n() {
        let row = codes.row(i);
        for (&j, &value) in row.index.iter().zip(row.value).filter(|(j, value)| keeps(**j, **value)) {
            kept.index.push(j);
            kept.value.push(value);
        }
        kept.end_row();
    }
    kept
}

fn copy(from: &Codes, to: &mut SparseRows) {
    to.clear();
    for i in 0..from.n() {
        let row = from.row(i);
        row.index.iter().zip(row.value).for_each(|(j, value)| to.push(*j, *value));
        to.end_row();
    }
}

fn short() -> Error {
    Error::Rank { what: "a rank sent fewer numbers about the rows of a batch than were expected".into() }
}
