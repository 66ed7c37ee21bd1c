//! Backward by row: from the residuals of each row back to the pre-activations of its entries.
//!
//! ```text
//! level 2   reconstruction -> dZ2 -> activation -> dU2 -> gate -> dA2 -> source -> adds to dZ1
//! level 1   reconstruction -> dZ1 -> activation -> dU1
//! ```
//!
//! The gradient of level 1 is kept in two parts, that of its own terms and that which comes through level 2, since
//! [`gradients`](super::gradients) mixes them as [`Balance`](crate::config::Balance) says.

use super::inputs::Inputs;
use super::layout::Layout;
use super::terms::Terms;
use super::workspace::{Addends, Batch, CHUNK, Chunk, Lane, Shared, Sums};
use super::{auxk, exchange, reconstruction};
use crate::activation::{self, Auxiliary};
use crate::entry::EntryRow;
use crate::error::Result;
use crate::gate;
use crate::kernel::{Isa, reduce, sparse};
use crate::loss::Ungated;
use crate::source;
use alloc::vec;

/// Writes the gradients of every entry, the vectors `e1`, `e2` and `ds` of every row, and the partial sums of the loss.
///
/// # Errors
/// What the exchange with other shards finds.
pub(super) fn run(inputs: &Inputs<'_>, terms: &Terms<'_>, batch: &mut Batch, lanes: &mut [Lane]) -> Result<()> {
    let layout = batch.layout;
    let solo = inputs.shard.is_solo();
    let by = &ByRow { inputs, terms, layout, isa: inputs.compute.isa, with_ungated: inputs.loss_needs_ungated(), solo };
    let par = inputs.compute.par;
    if !solo {
        by.sum_over_shards(batch, lanes)?;
    }
    par.for_items(lanes, &mut batch.chunks, &mut batch.rows, CHUNK * layout.stride, |lane, c, chunk, buffer| {
        chunk.sums = Sums { squares: chunk.sums.squares, fired: chunk.sums.fired, ..Sums::default() };
        if by.with_ungated && solo {
            by.add_parents(chunk, lane, buffer);
        }
        chunk.shared.penalty.iter_mut().for_each(|terms| terms.clear());
        for (l, e) in chunk.level.iter_mut().enumerate() {
            e.grad.exchange(&mut lane.spare[l], terms.kept[l]);
            e.grad.zero(e.index.len());
        }
        for (i, row) in buffer.chunks_mut(layout.stride).enumerate() {
            let at = RowIndex { in_chunk: i, in_batch: c * CHUNK + i };
            if inputs.two() {
                by.level2(at, chunk, lane, row);
            }
            by.level1(at, chunk, lane, row);
        }
        for (l, e) in chunk.level.iter_mut().enumerate() {
            e.grad.exchange(&mut lane.spare[l], terms.kept[l]);
        }
    });
    inputs.shard.comm.stage("penalty");
    for level in (0..inputs.n_levels()).filter(|l| !solo && terms.penalty[*l] != 0.0) {
        exchange::add_terms(
            inputs.shard,
            &mut batch.chunks,
            |chunk| &chunk.shared.penalty[level],
            |chunk| &mut chunk.sums.sparsity[level],
        )?;
    }
    Ok(())
}

/// The index of a row.
#[derive(Clone, Copy)]
struct RowIndex {
    in_chunk: usize,
    in_batch: usize,
}

/// What the backward pass of every row reads.
struct ByRow<'a> {
    inputs: &'a Inputs<'a>,
    terms: &'a Terms<'a>,
    layout: Layout,
    isa: Isa,
    /// Whether the consistency loss needs ungated pre-activations of level 2, and entries of their parents.
    with_ungated: bool,
    /// Whether there is one shard.
    solo: bool,
}

impl ByRow<'_> {
    /// Computes, before the rows, what they need of all shards: the pre-activations of silent parents, and the sums of
    /// AuxK and of the auxiliary reconstruction of gated levels.
    fn sum_over_shards(&self, batch: &mut Batch, lanes: &mut [Lane]) -> Result<()> {
        let Self { inputs, terms, layout, isa, .. } = *self;
        let Batch { rows, chunks, .. } = batch;
        let (d, stride) = (layout.d_out, layout.stride);
        if self.with_ungated {
            inputs.compute.par.for_items(lanes, chunks, rows, CHUNK * stride, |lane, _, chunk, buffer| {
                self.add_parents(chunk, lane, buffer);
            });
            inputs.shard.comm.stage("ungated");
            exchange::parents(inputs.shard, inputs.all_families.parents(), chunks)?;
        }
        let decoders = [&inputs.params.level[0].w_dec[..], terms.decoder2];
        for level in 0..inputs.n_levels() {
            let decoder = decoders[level];
            if terms.aux[level] > 0.0 {
                let e = [layout.e1, layout.e2][level];
                inputs.shard.comm.stage("auxk");
                exchange::running_sum(inputs, chunks, rows, stride, e..e + d, lanes, |chunk, _, buffer| {
                    for (i, row) in buffer.chunks_mut(stride).enumerate() {
                        let picks = chunk.aux[level].code(i);
                        sparse::accumulate_rows(isa, picks.index, picks.value, decoder, d, &mut row[e..e + d]);
                    }
                })?;
            }
            if inputs.arch.level[level].activation.has_auxiliary() {
                let mut sums = vec![0.0; inputs.n() * d];
                inputs.shard.comm.stage("gated");
                exchange::running_sum(inputs, chunks, &mut sums, d, 0..d, lanes, |chunk, lane, buffer| {
                    for (i, row) in buffer.chunks_mut(d).enumerate() {
                        let entries = &chunk.level[level];
                        let of = entries.row(i);
                        lane.row.clear();
                        lane.row.extend(entries.u[of.clone()].iter().map(|u| u.max(0.0)));
                        sparse::accumulate_rows(isa, &entries.index[of], &lane.row, decoder, d, row);
                    }
                })?;
                for (chunk, sums) in chunks.iter_mut().zip(sums.chunks(CHUNK * d)) {
                    let own = &mut chunk.shared.gated[level];
                    own.clear();
                    own.extend_from_slice(sums);
                }
            }
        }
        Ok(())
    }

    /// Adds an entry, with its pre-activation, for every silent parent of a child whose ungated pre-activation is above
    /// its threshold, since the containment loss has a gradient for both.
    fn add_parents(&self, chunk: &mut Chunk, lane: &mut Lane, buffer: &[f32]) {
        let Inputs { arch, params, all_families, shard, .. } = *self.inputs;
        let (d, one) = (arch.d, &params.level[0]);
        let Chunk { level: [e1, _], aux: [aux, _], ungated, shared, .. } = chunk;
        let Shared { ungated: of_all, parents: found, .. } = shared;
        let ungated = if self.solo { ungated } else { of_all };
        let (first, own) = (shard.first(0), shard.own(0).len() as u32);
        // A parent as this shard counts it, if it is of this shard.
        let parent = |j: u32| match all_families.parents()[j as usize] {
            gate::ROOT => None,
            p => p.checked_sub(first).filter(|p| *p < own),
        };
        found.clear();
        let Lane { slots: [slots, _], old, .. } = lane;
        old.copy_from(e1);
        e1.clear();
        let has_aux = aux.offsets.len() > 1;
        for (i, row) in buffer.chunks(self.layout.stride).enumerate() {
            for at in old.row(i) {
                slots[old.index[at] as usize] = e1.count() as u32;
                e1.push(old.index[at], old.u[at], old.z[at], None);
                if has_aux {
                    e1.v.push(old.v[at]);
                }
            }
            for at in ungated.row(i) {
                if let Some(p) = parent(ungated.index[at]).filter(|p| slots[*p as usize] == u32::MAX) {
                    let p = p as usize;
                    let u = reduce::dot(self.isa, &one.w_enc[p * d..(p + 1) * d], &row[..d]) + one.b_enc[p];
                    slots[p] = e1.count() as u32;
                    e1.push(p as u32, u, 0.0, None);
                    if has_aux {
                        e1.v.push(0.0);
                    }
                }
            }
            e1.end_row();
            if !self.solo {
                let of = ungated.index[ungated.row(i)].iter();
                found.extend(of.map(|j| parent(*j).map_or(0.0, |p| e1.u[slots[p as usize] as usize])));
            }
            for at in e1.row(i) {
                slots[e1.index[at] as usize] = u32::MAX;
            }
        }
    }

    /// Runs level 2 of one row backward, and adds the gradients that reach level 1 through it.
    fn level2(&self, at: RowIndex, chunk: &mut Chunk, lane: &mut Lane, row: &mut [f32]) {
        let Inputs { arch, config, params, settings, .. } = *self.inputs;
        let (isa, terms, layout) = (self.isa, self.terms, self.layout);
        let d = layout.d_out;
        let decoder2 = terms.decoder2;
        let (head, tail) = row.split_at_mut(layout.e1);
        let (y, r1, r2) = (&head[layout.y()], &head[layout.r1..layout.r2], &head[layout.r2..]);
        let Chunk { level: [e1, e2], aux: [_, picks], sums, ungated, shared, .. } = chunk;
        let i = at.in_chunk;
        let (mut one, mut two) = (e1.row_mut(i), e2.row_mut(i));

        reconstruction::backward(isa, terms.recon[1], two.index, decoder2, r2, two.grad_z[0], &mut lane.row);
        self.penalise(1, &mut two, &mut sums.sparsity[1], &mut shared.penalty[1]);
        terms.consistency.add_level(1, at.in_batch, &mut two);
        sums.consistency += terms.consistency.add_rows([&mut one, &mut two], lane.loss());
        if terms.aux[1] > 0.0 {
            let aux = auxk::Backward { isa, weight: terms.aux[1], decoder: decoder2, is_summed: !self.solo };
            sums.aux[1] += aux.row(&mut two, picks.code(i), r2, &mut tail[d..2 * d], &mut lane.row);
        }
        let base = if arch.decoder.is_cumulative() { r1 } else { y };
        let own = self.auxiliary(base, decoder2, &mut shared.gated[1], i, lane);
        sums.gated[1] += terms.rules[1].auxiliary(own, &mut two);
        terms.rules[1].backward(&self.activation(1), &mut two);
        settings.gate.backward(two.a, two.g, two.grad_u[0], two.grad_a, two.grad_g);
        if self.with_ungated {
            let ungated = if self.solo {
                Ungated { code: ungated.code(i), parents: &[], own: [0, 1].map(|l| 0..arch.level[l].latents as u32) }
            } else {
                let (all, shard) = (&shared.ungated, self.inputs.shard);
                let own = [0, 1].map(|l| shard.first(l)..shard.own(l).end as u32);
                Ungated { code: all.code(i), parents: &shared.parents[all.row(i)], own }
            };
            sums.consistency += terms.consistency.add_ungated(ungated, [&mut one, &mut two], lane.loss());
        }
        // The gate and the source carry the gradient on to level 1.
        if settings.gate.has_weights() {
            gate::soft_backward(&params.gate.w, arch.level[1].latents, &mut one, &two);
        }
        let detach = config.source_detach;
        let by = source::Backward {
            isa,
            w2: &params.level[1].w_enc,
            d1: &params.level[0].w_dec,
            f1: arch.level[0].latents,
            detach,
            grad_s: if arch.source.reaches_decoder1(detach) {
                &mut tail[layout.ds - layout.e1..][..layout.d]
            } else {
                &mut []
            },
            row: &mut lane.row,
        };
        arch.source.backward(by, &mut one, &two);
    }

    /// Runs level 1 of one row backward.
    fn level1(&self, at: RowIndex, chunk: &mut Chunk, lane: &mut Lane, row: &mut [f32]) {
        let Inputs { arch, params, .. } = *self.inputs;
        let (isa, terms, layout, two) = (self.isa, self.terms, self.layout, self.inputs.two());
        let d = layout.d_out;
        let (head, tail) = row.split_at_mut(layout.e1);
        let (y, r1, r2) = (&head[layout.y()], &head[layout.r1..layout.r2], &head[layout.r2..]);
        let Chunk { level: [e1, _], aux: [picks, _], sums, shared, .. } = chunk;
        let i = at.in_chunk;
        let mut one = e1.row_mut(i);
        let decoder = &params.level[0].w_dec;

        reconstruction::backward(isa, terms.recon[0], one.index, decoder, r1, one.grad_z[0], &mut lane.row);
        if two && arch.decoder.is_cumulative() {
            reconstruction::backward(isa, terms.recon[1], one.index, decoder, r2, one.grad_z[1], &mut lane.row);
        }
        self.penalise(0, &mut one, &mut sums.sparsity[0], &mut shared.penalty[0]);
        terms.consistency.add_level(0, at.in_batch, &mut one);
        if terms.aux[0] > 0.0 {
            let aux = auxk::Backward { isa, weight: terms.aux[0], decoder, is_summed: !self.solo };
            sums.aux[0] += aux.row(&mut one, picks.code(i), r1, &mut tail[..d], &mut lane.row);
        }
        let own = self.auxiliary(y, decoder, &mut shared.gated[0], i, lane);
        sums.gated[0] += terms.rules[0].auxiliary(own, &mut one);
        terms.rules[0].backward(&self.activation(0), &mut one);
    }

    /// Adds the sparsity penalty of a row to its entries, and its terms to `sum`, or to `terms` where those of other shards
    /// lie between them.
    fn penalise(&self, level: usize, row: &mut EntryRow<'_>, sum: &mut f64, terms: &mut Addends) {
        let (rule, penalty, norms) = (self.terms.rules[level], self.terms.penalty[level], self.terms.norms[level]);
        if self.solo {
            rule.penalise(penalty, norms, row, |term| *sum += term);
        } else {
            let before = terms.values.len();
            rule.penalise(penalty, norms, row, |term| terms.values.push(term));
            terms.end_row(before);
        }
    }

    /// Returns what the backward pass of a level's activation needs.
    fn activation(&self, level: usize) -> activation::Backward {
        activation::Backward {
            own: self.inputs.drops_through(),
            penalty: self.terms.penalty[level],
            bandwidth: self.terms.bandwidth[level],
        }
    }

    /// Returns the inputs and scratch of the auxiliary reconstruction of `base` that a gated activation has. `summed` has
    /// that of each row of the chunk over all shards, where there are several; the row is number `i`.
    fn auxiliary<'l>(
        &self,
        base: &'l [f32],
        decoder: &'l [f32],
        summed: &'l mut [f32],
        i: usize,
        lane: &'l mut Lane,
    ) -> Auxiliary<'l> {
        let Lane { vector, row, row2: magnitude, .. } = lane;
        let is_summed = !self.solo && !summed.is_empty();
        let vector = if is_summed { &mut summed[i * base.len()..(i + 1) * base.len()] } else { &mut vector[..] };
        Auxiliary { isa: self.isa, weight: self.terms.gated, base, decoder, vector, is_summed, row, magnitude }
    }
}
