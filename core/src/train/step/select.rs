//! Selection: which candidates of a batch are kept, and the entries that they become.

use super::entries::List;
use super::exchange;
use super::inputs::Inputs;
use super::workspace::{CHUNK, Chunk, Lane};
use crate::activation::{Rule, Selection};
use crate::error::Result;
use crate::kernel::select;
use alloc::vec::Vec;
use core::ops::Range;

/// The floor of the next batch's candidates, as a share of the smallest pre-activation kept in this one. With a lower
/// share more candidates are collected than needed; with a higher one batches must be collected again more often.
const NEAR: f32 = 0.85;

/// Lower bounds of the candidates that are collected for a selection over the batch, carried from step to step.
#[derive(Clone, Debug, Default)]
pub(super) struct Floors {
    /// Per level; none before the first step.
    pub floor: [Option<f32>; 2],
    /// Scratch: the pre-activations of all candidates.
    values: Vec<f32>,
}

/// Counts of a selection, over the levels that were selected from together.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Chosen {
    /// The smallest selected pre-activation; 0 if nothing was selected.
    pub selected_min: f32,
    /// How many pre-activations of the batch are above the tracked threshold.
    pub above_tau: usize,
}

impl Floors {
    /// Frees the scratch.
    pub fn rest(&mut self) {
        self.values = Vec::new();
    }

    /// Returns what a candidate of each level must exceed: the floor, or the tracked threshold if that is lower, since
    /// all pre-activations above it are to be counted.
    pub fn limits(&self, tau: [f32; 2]) -> [Option<f32>; 2] {
        [0, 1].map(|l| self.floor[l].map(|floor| if tau[l] > 0.0 { floor.min(tau[l]) } else { floor }))
    }

    /// Sets the floor of the first batch from the candidates of its first chunk: a little below the smallest one that a
    /// selection over that chunk alone would keep.
    ///
    /// # Errors
    /// What the exchange with other shards finds, as of [`Floors::lower`] and [`Floors::choose`].
    pub fn set_first(&mut self, inputs: &Inputs<'_>, levels: &Range<usize>, chunk: &Chunk) -> Result<()> {
        let values = &mut self.values;
        values.clear();
        for level in levels.clone() {
            values.extend_from_slice(&chunk.candidates[level].u);
        }
        inputs.shard.comm.stage("selection");
        inputs.shard.comm.all_gather(values)?;
        let rows = inputs.n().min(CHUNK);
        let floor = first_floor(values, budget(inputs, levels), rows);
        self.floor[levels.clone()].fill(Some(floor));
        Ok(())
    }

    /// Lowers the floor if fewer candidates lie above it than are to be kept while there may be more below, and returns
    /// whether it did: candidates must then be collected again.
    pub fn lower(&mut self, inputs: &Inputs<'_>, levels: &Range<usize>, chunks: &[Chunk]) -> Result<bool> {
        inputs.shard.comm.stage("selection");
        let found: usize = chunks.iter().flat_map(|c| &c.candidates[levels.clone()]).map(|list| list.u.len()).sum();
        let found = match inputs.shard.is_solo() {
            true => found,
            false => inputs.shard.comm.gather(&[found as u64])?.iter().flatten().sum::<u64>() as usize,
        };
        let floor = self.floor[levels.start].unwrap_or(0.0);
        if found >= keep_of(budget(inputs, levels), inputs.n()) || floor <= 0.0 {
            return Ok(false);
        }
        self.floor[levels.clone()].fill(Some(lower_floor(floor)));
        Ok(true)
    }

    /// Decides which candidates of the levels are kept, drops the others, and sets the floor of the next batch.
    ///
    /// Only a selection over the batch drops any; other activations decided for each row or each pre-activation while
    /// candidates were collected. Ties go to the lower chunk, then to the lower level, row and latent.
    pub fn choose(&mut self, inputs: &Inputs<'_>, levels: &Range<usize>, chunks: &mut [Chunk]) -> Result<Chosen> {
        let first = levels.start;
        inputs.shard.comm.stage("selection");
        match inputs.arch.level[first].activation.selection() {
            Selection::Batch => self.choose_of_batch(inputs, levels, chunks),
            Selection::Row => {
                let all = chunks.iter().flat_map(|c| c.candidates[first].u.iter().copied());
                let mut least = all.fold(f32::INFINITY, f32::min);
                if !inputs.shard.is_solo() {
                    let all = inputs.shard.comm.gather(&[least])?;
                    least = all.into_iter().flatten().fold(f32::INFINITY, f32::min);
                }
                Ok(Chosen { selected_min: if least.is_finite() { least } else { 0.0 }, above_tau: 0 })
            }
            Selection::Each => Ok(Chosen::default()),
        }
    }

    fn choose_of_batch(&mut self, inputs: &Inputs<'_>, levels: &Range<usize>, chunks: &mut [Chunk]) -> Result<Chosen> {
        let values = &mut self.values;
        values.clear();
        for list in chunks.iter().flat_map(|c| &c.candidates[levels.clone()]) {
            values.extend_from_slice(&list.u);
        }
        inputs.shard.comm.all_gather(values)?;
        let above_tau = values.iter().filter(|v| **v > inputs.settings.tau[levels.start]).count();
        let keep = keep_of(budget(inputs, levels), inputs.n());
        let mut cut = f32::NEG_INFINITY;
        let mut ties = usize::MAX;
        if values.len() > keep {
            cut = select::kth_largest(values, keep);
            ties = keep - values.iter().filter(|v| **v > cut).count();
        }
        let least = if values.len() > keep { cut } else { values.iter().copied().fold(f32::INFINITY, f32::min) };
        let lists = || chunks.iter().flat_map(|c| &c.candidates[levels.clone()]);
        // With several shards the ties of each list that are kept are decided together.
        let shared =
            if inputs.shard.is_solo() { None } else { Some(exchange::ties(inputs.shard, cut, ties, lists())?) };
        for (at, list) in chunks.iter_mut().flat_map(|c| &mut c.candidates[levels.clone()]).enumerate() {
            let equal = match &shared {
                Some(kept) => kept[at],
                None => list.u.iter().filter(|v| **v == cut).count().min(ties),
            };
            ties = ties.saturating_sub(equal);
            keep_above(list, cut, equal);
        }
        let least = if least.is_finite() { least } else { 0.0 };
        let floor = next_floor(self.values.len() > keep, least);
        self.floor[levels.clone()].fill(Some(floor));
        Ok(Chosen { selected_min: least, above_tau })
    }
}

/// Returns how many latents per row the levels may select together.
fn budget(inputs: &Inputs<'_>, levels: &Range<usize>) -> f64 {
    levels.clone().map(|l| inputs.settings.k[l] * inputs.settings.surplus[l]).sum()
}

/// Returns the floor of the first batch, from the candidates of its first `rows` rows, of which each keeps `k`: a little
/// below the cut.
pub(in crate::train) fn first_floor(values: &mut [f32], k: f64, rows: usize) -> f32 {
    let want = libm::ceil(k * rows as f64) as usize;
    if values.len() < want { 0.0 } else { NEAR * select::kth_largest(values, want.max(1)) }
}

/// Returns the floor to try after one that left too few candidates.
pub(in crate::train) fn lower_floor(floor: f32) -> f32 {
    if floor < 1e-6 { 0.0 } else { 0.5 * floor }
}

/// Returns the floor of the next batch, from the smallest pre-activation that was kept. If there were too few positive
/// pre-activations, that is likely in the next batch too: it collects them all.
pub(in crate::train) fn next_floor(was_cut: bool, least: f32) -> f32 {
    if was_cut { NEAR * least } else { 0.0 }
}

/// Returns how many candidates a selection over `n` rows keeps.
pub(in crate::train) fn keep_of(k: f64, n: usize) -> usize {
    (libm::round(k * n as f64) as usize).max(1)
}

/// Keeps the candidates above the cut, and the first `ties` of those that equal it.
fn keep_above(list: &mut List, cut: f32, mut ties: usize) {
    let mut kept = 0;
    let mut start = 0;
    for i in 0..list.offsets.len() - 1 {
        let end = list.offsets[i + 1] as usize;
        for at in start..end {
            let u = list.u[at];
            let keep = u > cut || (u == cut && ties > 0);
            if keep {
                if u == cut {
                    ties -= 1;
                }
                list.index[kept] = list.index[at];
                list.u[kept] = u;
                if !list.a.is_empty() {
                    list.a[kept] = list.a[at];
                    list.g[kept] = list.g[at];
                }
                kept += 1;
            }
        }
        start = end;
        list.offsets[i + 1] = kept as u32;
    }
    list.index.truncate(kept);
    list.u.truncate(kept);
    if !list.a.is_empty() {
        list.a.truncate(kept);
        list.g.truncate(kept);
    }
}

/// How the candidates of a level become entries.
#[derive(Clone, Copy)]
pub(super) struct Settle<'a> {
    pub rule: Rule<'a>,
    pub level: usize,
    /// Whether a soft gate acts on the level.
    pub is_soft: bool,
    /// Whether every latent with an ungated pre-activation gets an entry, for the consistency loss.
    pub with_ungated: bool,
}

impl Settle<'_> {
    /// Turns the candidates of a chunk into entries: those that fire with their values, and the silent ones that some
    /// gradient needs.
    pub fn run(&self, chunk: &mut Chunk, lane: &mut Lane) {
        let Self { rule, level, is_soft, with_ungated } = *self;
        let entries = &mut chunk.level[level];
        let list = &chunk.candidates[level];
        let aux = &chunk.aux[level];
        let (slots, z) = (&mut lane.slots[level], &mut lane.row);
        rule.values(&list.index, &list.u, z);
        entries.clear();
        let has_aux = aux.offsets.len() > 1;
        let mut fired = 0;
        for i in 0..list.offsets.len() - 1 {
            for at in list.row(i) {
                let (j, u, z) = (list.index[at] as usize, list.u[at], z[at]);
                fired += u64::from(z > 0.0);
                slots[j] = entries.count() as u32;
                entries.push(j as u32, u, z, list.soft(at));
            }
            if has_aux {
                entries.v.resize(entries.count(), 0.0);
                for at in aux.row(i) {
                    let j = aux.index[at];
                    match slots[j as usize] {
                        u32::MAX => {
                            slots[j as usize] = entries.count() as u32;
                            entries.push(j, aux.u[at], 0.0, aux.soft(at));
                            entries.v.push(aux.u[at]);
                        }
                        e => entries.v[e as usize] = aux.u[at],
                    }
                }
            }
            if with_ungated {
                for at in chunk.ungated.row(i) {
                    let j = chunk.ungated.index[at];
                    if slots[j as usize] == u32::MAX {
                        slots[j as usize] = entries.count() as u32;
                        // A latent behind a closed gate has no pre-activation after the gate. It does not fire, so any
                        // value below 0 will do.
                        entries.push(j, f32::NEG_INFINITY, 0.0, is_soft.then(|| (chunk.ungated.u[at], 0.0)));
                    }
                }
                if has_aux {
                    entries.v.resize(entries.count(), 0.0);
                }
            }
            entries.end_row();
            for at in entries.row(i) {
                slots[entries.index[at] as usize] = u32::MAX;
            }
        }
        chunk.sums.fired[level] = fired;
    }
}
