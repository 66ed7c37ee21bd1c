//! Leave-one-out pruning of what a step has selected, by the test of inference
//! ([`model::prune`](crate::model::prune_row)): what the model is trained on is then what it will fire.
//!
//! ```text
//! limit = p theta,   theta: the smallest pre-activation that the batch has selected,   p: `train.prune`
//! ```
//!
//! The gradient is that of the entries that stay: which ones those are has none, as for every selection.

use super::derived::Derived;
use super::inputs::Inputs;
use super::workspace::{Batch, CHUNK, Chunk, Lane};
use crate::kernel::{reduce, sparse};
use crate::model::{Directions, prune_row};

/// Prunes the candidates of a level, each row by itself, where `theta` is the smallest one of the batch. Level 1 comes before level
/// 2, which is pruned against the reconstruction of both where it adds to level 1.
///
/// Cost per row with `k` candidates of which `m` are removed: `(m + 1) k` products of width `d_out`.
pub(super) fn run(
    inputs: &Inputs<'_>,
    derived: &Derived,
    level: usize,
    theta: f32,
    batch: &mut Batch,
    lanes: &mut [Lane],
) {
    let Inputs { compute, arch, config, params, x, y, .. } = *inputs;
    let (isa, d) = (compute.isa, arch.d_out());
    let wanted = if y.is_empty() { x } else { y };
    let decoders = [&params.level[0].w_dec[..], derived.decoder2(params)];
    let directions = Directions { rows: decoders[level], squares: &derived.squares[level] };
    let limit = config.train.prune as f32 * theta;
    let adds = level == 1 && arch.decoder.is_cumulative();
    compute.par.for_items(lanes, &mut batch.chunks, &mut [], 0, |lane, c, chunk, _| {
        let Chunk { candidates: [one, two], .. } = chunk;
        let (list, beside) = if level == 0 { (one, None) } else { (two, adds.then_some(one)) };
        let t = &mut lane.prune;
        t.residual.resize(d, 0.0);
        t.written.resize(d, 0.0);
        let (mut from, mut to) = (0, 0);
        for i in 0..list.n_rows() {
            // The row moves down to the end of those before it.
            let len = list.offsets[i + 1] as usize - from;
            list.index.copy_within(from..from + len, to);
            list.u.copy_within(from..from + len, to);
            from += len;
            let (index, value) = (&mut list.index[to..to + len], &mut list.u[to..to + len]);
            t.written.copy_from_slice(&params.b_dec);
            if let Some(beside) = &beside {
                let row = beside.code(i);
                sparse::accumulate_rows(isa, row.index, row.value, decoders[0], d, &mut t.written);
            }
            sparse::accumulate_rows(isa, index, value, directions.rows, d, &mut t.written);
            reduce::sub_into(isa, &wanted[(c * CHUNK + i) * d..][..d], &t.written, &mut t.residual);
            to += prune_row(isa, directions, |_| limit, (index, value), &mut t.residual, &mut t.product);
            list.offsets[i + 1] = to as u32;
        }
        list.index.truncate(to);
        list.u.truncate(to);
    });
}
