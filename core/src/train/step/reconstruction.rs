//! The two reconstructions: the residuals of each row, and the gradient of the reconstruction losses with respect to
//! the codes.
//!
//! `y` is what the codes should reconstruct: `x - b_dec` for an autoencoder, `y - b_dec - W_skip x` for a transcoder.
//!
//! ```text
//! forward   r1 = y - z1 D1,  r2 = (r1 for cum, else y) - z2 D2        dXh_l = (2 w_l / (n nu)) E_l = -c_l r_l
//! backward  dZ1 = dXh1 D1^T (+ dXh2 D1^T for cum),  dZ2 = dXh2 D2^T     at the entries of the row only
//! ```

use super::derived::Derived;
use super::entries::Entries;
use super::exchange;
use super::inputs::Inputs;
use super::layout::Layout;
use super::select::Settle;
use super::skip;
use super::workspace::{Batch, CHUNK, Chunk, Lane};
use crate::entry::CodeRow;
use crate::error::Result;
use crate::kernel::{Isa, reduce, sparse};
use alloc::vec::Vec;

/// Turns the candidates of the last level (of both, if `shared`) into entries, and writes the residuals `r1` and `r2`
/// of every row, their sums of squares, and their column sums per chunk.
///
/// # Errors
/// What the exchange with other shards finds.
pub(super) fn forward(
    inputs: &Inputs<'_>,
    derived: &Derived,
    shared: bool,
    batch: &mut Batch,
    lanes: &mut [Lane],
) -> Result<()> {
    let Inputs { compute, settings, shard, params, y, .. } = *inputs;
    let (layout, isa, two) = (batch.layout, compute.isa, inputs.two());
    let d = layout.d_out;
    let decoder2 = derived.decoder2(params);
    let decoders = [&params.level[0].w_dec[..], decoder2];
    let solo = shard.is_solo();
    let level1 = Settle { rule: inputs.rule(0), level: 0, is_soft: false, with_ungated: false };
    let level2 = Settle {
        rule: inputs.rule(1),
        level: 1,
        is_soft: settings.gate.has_weights(),
        with_ungated: inputs.loss_needs_ungated(),
    };
    compute.par.for_items(
        lanes,
        &mut batch.chunks,
        &mut batch.rows,
        CHUNK * layout.stride,
        |lane, c, chunk, buffer| {
            if layout.has_y() {
                let rows = buffer.chunks_mut(layout.stride).zip(y[c * CHUNK * d..].chunks(d));
                rows.for_each(|(row, y)| reduce::sub_into(isa, y, &params.b_dec, &mut row[layout.y()]));
                skip::subtract(isa, &layout, &params.w_skip, lane, buffer);
            }
            if shared || !two {
                // With a shared budget the selection came after level 2 was collected, for which level 1 had all of its
                // candidates as entries: they are replaced by those that were kept.
                level1.run(chunk, lane);
            }
            if two {
                level2.run(chunk, lane);
            }
            if solo {
                buffer.chunks_mut(layout.stride).for_each(|row| row[layout.sums(two)].fill(0.0));
                add_codes(isa, &layout, decoders, chunk, lane, buffer);
                residuals(inputs, &layout, chunk, buffer);
            }
        },
    );
    if solo {
        return Ok(());
    }
    // Otherwise level 2 has needed the codes of level 1 already.
    let first = usize::from(two && !shared);
    for level in first..inputs.n_levels() {
        exchange::firing(shard, level, &mut batch.chunks)?;
    }
    shard.comm.stage("sums");
    let Batch { rows, chunks, .. } = batch;
    let sums = layout.sums(two);
    exchange::running_sum(inputs, chunks, rows, layout.stride, sums, lanes, |chunk, lane, buffer| {
        add_codes(isa, &layout, decoders, chunk, lane, buffer);
    })?;
    compute.par.for_items(lanes, chunks, rows, CHUNK * layout.stride, |_, _, chunk, buffer| {
        residuals(inputs, &layout, chunk, buffer);
    });
    Ok(())
}

/// Adds the codes of a chunk, decoded, to the vectors that become its residuals: `z1 D1` to `r1`, and `z2 D2` to `r2`.
fn add_codes(isa: Isa, layout: &Layout, decoders: [&[f32]; 2], chunk: &Chunk, lane: &mut Lane, buffer: &mut [f32]) {
    let d = layout.d_out;
    for (i, row) in buffer.chunks_mut(layout.stride).enumerate() {
        for ((entries, decoder), out) in chunk.level.iter().zip(decoders).zip([layout.r1, layout.r2]) {
            if entries.n_rows() > 0 {
                let CodeRow { index, value } = firing(entries, i, lane);
                sparse::accumulate_rows(isa, index, value, decoder, d, &mut row[out..out + d]);
            }
        }
    }
}

/// Computes the residuals of a chunk from its decoded codes, which stand in their place: `r1 = y - z1 D1`, and `r2` from
/// `r1` or `y` alike. Writes their sums of squares and their column sums.
fn residuals(inputs: &Inputs<'_>, layout: &Layout, chunk: &mut Chunk, buffer: &mut [f32]) {
    let (isa, d) = (inputs.compute.isa, layout.d_out);
    chunk.sums.squares = [0.0; 2];
    chunk.energy.clear();
    for column in &mut chunk.columns {
        column.clear();
        column.resize(d, 0.0);
    }
    for row in buffer.chunks_mut(layout.stride) {
        let (head, rest) = row.split_at_mut(layout.r1);
        let (r1, rest) = rest.split_at_mut(d);
        let y = &head[layout.y()];
        subtract_from(y, r1);
        let mut square = reduce::sum_squares(isa, r1);
        chunk.sums.squares[0] += f64::from(square);
        reduce::axpy(isa, 1.0, r1, &mut chunk.columns[0]);
        if inputs.two() {
            let from = if inputs.arch.decoder.is_cumulative() { r1 } else { y };
            let r2 = &mut rest[..d];
            subtract_from(from, r2);
            square = reduce::sum_squares(isa, r2);
            chunk.sums.squares[1] += f64::from(square);
            reduce::axpy(isa, 1.0, r2, &mut chunk.columns[1]);
        }
        chunk.energy.push(square);
    }
}

/// Computes `dz_j -= c (r . D_j)` for the entries of a row: the gradient of a reconstruction with the residual `r`.
pub(super) fn backward(
    isa: Isa,
    c: f32,
    index: &[u32],
    decoder: &[f32],
    r: &[f32],
    grad_z: &mut [f32],
    dots: &mut Vec<f32>,
) {
    dots.resize(index.len(), 0.0);
    sparse::dot_rows(isa, index, decoder, r.len(), r, dots);
    for (grad, dot) in grad_z.iter_mut().zip(dots.iter()) {
        *grad -= c * dot;
    }
}

/// Returns the entries of a row that fire, ascending: what is decoded.
///
/// Silent entries are left out rather than multiplied by 0, so that the sum runs over ascending latents, which the
/// shards of a dictionary can compute one after the other.
fn firing<'a>(entries: &'a Entries, i: usize, lane: &'a mut Lane) -> CodeRow<'a> {
    let code = entries.code(i);
    if code.value.iter().all(|z| *z > 0.0) {
        return code;
    }
    let Lane { fires: index, row: value, .. } = lane;
    index.clear();
    value.clear();
    for (&j, &z) in code.index.iter().zip(code.value).filter(|(_, z)| **z > 0.0) {
        index.push(j);
        value.push(z);
    }
    CodeRow { index, value }
}

/// Computes `out = from - out`.
fn subtract_from(from: &[f32], out: &mut [f32]) {
    for (o, &x) in out.iter_mut().zip(from) {
        *o = x - *o;
    }
}
