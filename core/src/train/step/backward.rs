//! Backward by row: from the residuals of each row back to the pre-activations of its entries.
//!
//! ```text
//! dZ1, dZ2 by the reconstructions       act2, gate, source of level 2 add to dZ1       act1 ends the chain at dU1
//! ```
//!
//! Level 1's gradient is kept in two parts: its own terms, and what comes through level 2, so that the balance between
//! the levels can be chosen later ([`Balance`](crate::config::Balance)).

use super::inputs::Inputs;
use super::layout::Layout;
use super::terms::Terms;
use super::workspace::{Batch, CHUNK, Chunk, Lane, Sums};
use super::{auxk, reconstruction};
use crate::activation::{self, Auxiliary};
use crate::gate;
use crate::kernel::{Isa, reduce};
use crate::source;

/// Fills the gradients of every entry, AuxK's `e1`, `e2`, `dL/dS`, and the partial sums of the loss.
pub(super) fn run(inputs: &Inputs<'_>, terms: &Terms<'_>, batch: &mut Batch, lanes: &mut [Lane]) {
    let layout = batch.layout;
    let by = &ByRow { inputs, terms, layout, isa: inputs.compute.isa, with_ungated: inputs.loss_needs_ungated() };
    let par = inputs.compute.par;
    par.for_items(lanes, &mut batch.chunks, &mut batch.rows, CHUNK * layout.stride, |lane, c, chunk, buffer| {
        chunk.sums = Sums { squares: chunk.sums.squares, fired: chunk.sums.fired, ..Sums::default() };
        if by.with_ungated {
            by.add_parents(chunk, lane, buffer);
        }
        for (l, e) in chunk.level.iter_mut().enumerate() {
            e.grad.exchange(&mut lane.spare[l], terms.kept[l]);
            e.grad.zero(e.index.len());
        }
        for (i, row) in buffer.chunks_mut(layout.stride).enumerate() {
            let place = Place { row: i, of_batch: c * CHUNK + i };
            if inputs.two() {
                by.level2(place, chunk, lane, row);
            }
            by.level1(place, chunk, lane, row);
        }
        for (l, e) in chunk.level.iter_mut().enumerate() {
            e.grad.exchange(&mut lane.spare[l], terms.kept[l]);
        }
    });
}

/// Which row is at hand.
#[derive(Clone, Copy)]
struct Place {
    /// Its number in the chunk.
    row: usize,
    /// Its number in the batch.
    of_batch: usize,
}

/// What the rows read.
struct ByRow<'a> {
    inputs: &'a Inputs<'a>,
    terms: &'a Terms<'a>,
    layout: Layout,
    isa: Isa,
    /// Whether the consistency loss needs ungated pre-activations of level 2, and entries of their parents.
    with_ungated: bool,
}

impl ByRow<'_> {
    /// Gives an entry, with its pre-activation, to every silent parent of a child with an ungated pre-activation: a
    /// consistency loss that needs them penalises both sides.
    fn add_parents(&self, chunk: &mut Chunk, lane: &mut Lane, buffer: &[f32]) {
        let Inputs { arch, params, families, .. } = *self.inputs;
        let (d, one) = (arch.d, &params.level[0]);
        let Chunk { level: [e1, _], aux: [aux, _], ungated, .. } = chunk;
        let Lane { place: [place, _], old, .. } = lane;
        old.copy_from(e1);
        e1.clear();
        let has_aux = aux.offsets.len() > 1;
        for (i, row) in buffer.chunks(self.layout.stride).enumerate() {
            for at in old.row(i) {
                place[old.index[at] as usize] = e1.count() as u32;
                e1.push(old.index[at], old.u[at], old.z[at], None);
                if has_aux {
                    e1.v.push(old.v[at]);
                }
            }
            for at in ungated.row(i) {
                let p = families.parents()[ungated.index[at] as usize];
                if p != gate::ROOT && place[p as usize] == u32::MAX {
                    let p = p as usize;
                    let u = reduce::dot(self.isa, &one.w_enc[p * d..(p + 1) * d], &row[..d]) + one.b_enc[p];
                    place[p] = e1.count() as u32;
                    e1.push(p as u32, u, 0.0, None);
                    if has_aux {
                        e1.v.push(0.0);
                    }
                }
            }
            e1.end_row();
            for at in e1.row(i) {
                place[e1.index[at] as usize] = u32::MAX;
            }
        }
    }

    /// Level 2 of one row, and what flows on into level 1.
    fn level2(&self, place: Place, chunk: &mut Chunk, lane: &mut Lane, row: &mut [f32]) {
        let Inputs { arch, config, params, settings, .. } = *self.inputs;
        let (isa, terms, layout) = (self.isa, self.terms, self.layout);
        let d = layout.d_out;
        let decoder2 = terms.decoder2;
        let (head, tail) = row.split_at_mut(layout.e1);
        let (y, r1, r2) = (&head[layout.y()], &head[layout.r1..layout.r2], &head[layout.r2..]);
        let Chunk { level: [e1, e2], aux: [_, picks], sums, ungated, .. } = chunk;
        let i = place.row;
        let (mut one, mut two) = (e1.row_mut(i), e2.row_mut(i));

        reconstruction::backward(isa, terms.recon[1], two.index, decoder2, r2, two.grad_z[0], &mut lane.row);
        terms.rules[1].penalise(terms.penalty[1], terms.norms[1], &mut two, &mut sums.sparsity[1]);
        terms.consistency.add_level(1, place.of_batch, &mut two);
        sums.consistency += terms.consistency.add_rows([&mut one, &mut two], lane.loss());
        if terms.aux[1] > 0.0 {
            let aux = auxk::Backward { isa, weight: terms.aux[1], decoder: decoder2 };
            sums.aux[1] += aux.row(&mut two, picks.code(i), r2, &mut tail[d..2 * d], &mut lane.row);
        }
        let base = if arch.decoder.is_cumulative() { r1 } else { y };
        sums.gated[1] += terms.rules[1].auxiliary(self.auxiliary(base, decoder2, lane), &mut two);
        terms.rules[1].backward(&self.activation(1), &mut two);
        settings.gate.backward(two.a, two.g, two.grad_u[0], two.grad_a, two.grad_g);
        if self.with_ungated {
            sums.consistency += terms.consistency.add_ungated(ungated.code(i), [&mut one, &mut two], lane.loss());
        }
        // What flows on into level 1.
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

    /// Level 1 of one row.
    fn level1(&self, place: Place, chunk: &mut Chunk, lane: &mut Lane, row: &mut [f32]) {
        let Inputs { arch, params, .. } = *self.inputs;
        let (isa, terms, layout, two) = (self.isa, self.terms, self.layout, self.inputs.two());
        let d = layout.d_out;
        let (head, tail) = row.split_at_mut(layout.e1);
        let (y, r1, r2) = (&head[layout.y()], &head[layout.r1..layout.r2], &head[layout.r2..]);
        let Chunk { level: [e1, _], aux: [picks, _], sums, .. } = chunk;
        let i = place.row;
        let mut one = e1.row_mut(i);
        let decoder = &params.level[0].w_dec;

        reconstruction::backward(isa, terms.recon[0], one.index, decoder, r1, one.grad_z[0], &mut lane.row);
        if two && arch.decoder.is_cumulative() {
            reconstruction::backward(isa, terms.recon[1], one.index, decoder, r2, one.grad_z[1], &mut lane.row);
        }
        terms.rules[0].penalise(terms.penalty[0], terms.norms[0], &mut one, &mut sums.sparsity[0]);
        terms.consistency.add_level(0, place.of_batch, &mut one);
        if terms.aux[0] > 0.0 {
            let aux = auxk::Backward { isa, weight: terms.aux[0], decoder };
            sums.aux[0] += aux.row(&mut one, picks.code(i), r1, &mut tail[..d], &mut lane.row);
        }
        sums.gated[0] += terms.rules[0].auxiliary(self.auxiliary(y, decoder, lane), &mut one);
        terms.rules[0].backward(&self.activation(0), &mut one);
    }

    /// Returns what the backward pass of a level's activation needs.
    fn activation(&self, level: usize) -> activation::Backward {
        activation::Backward {
            own: self.inputs.drops_through(),
            penalty: self.terms.penalty[level],
            bandwidth: self.terms.bandwidth[level],
        }
    }

    /// Returns what the auxiliary reconstruction of `base` by an activation reads and works in.
    fn auxiliary<'l>(&self, base: &'l [f32], decoder: &'l [f32], lane: &'l mut Lane) -> Auxiliary<'l> {
        let Lane { vector, row, row2: magnitude, .. } = lane;
        Auxiliary { isa: self.isa, weight: self.terms.gated, base, decoder, vector, row, magnitude }
    }
}
