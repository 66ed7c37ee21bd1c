//! The skip connection of a transcoder: it reconstructs a part of each row linearly, which leaves the rest to the
//! codes.
//!
//! ```text
//! forward   y -= W_skip x
//! backward  dW_skip = sum_b (dYh1 + dYh2)_b x_b^T
//! ```

use super::inputs::Inputs;
use super::layout::Layout;
use super::terms::Terms;
use super::workspace::{Batch, Lane};
use crate::kernel::{Isa, dense, reduce, sparse};
use crate::model::Arch;
use alloc::vec;
use alloc::vec::Vec;

/// Rows of `W_skip` per block; a block is summed by one thread.
const BLOCK: usize = 4;

/// Scratch of the gradient.
#[derive(Clone, Debug)]
pub(super) struct Scratch {
    /// `0, 1, 2, ...` for every row of the batch.
    rows: Vec<u32>,
    parts: Vec<Part>,
}

/// Scratch of one row of `W_skip`.
#[derive(Clone, Debug)]
struct Part {
    /// `(n)`: one column of the gradient with respect to a reconstruction.
    column: Vec<f32>,
    /// `(d)`: the part of the gradient that comes through level 2.
    through: Vec<f32>,
}

impl Scratch {
    /// Allocates the scratch for an architecture and `n_threads` threads; it is empty without a skip connection.
    pub fn new(arch: &Arch, n_threads: usize) -> Self {
        let part = Part { column: Vec::new(), through: vec![0.0; if arch.n_levels() == 2 { arch.d } else { 0 }] };
        Self { rows: Vec::new(), parts: vec![part; if arch.variant.skip { n_threads } else { 0 }] }
    }
}

/// Subtracts `W_skip x` from the vectors `y` of a chunk; does nothing without a skip connection.
pub(super) fn subtract(isa: Isa, layout: &Layout, w_skip: &[f32], lane: &mut Lane, buffer: &mut [f32]) {
    if w_skip.is_empty() {
        return;
    }
    let (d, d_out, stride) = (layout.d, layout.d_out, layout.stride);
    let n = buffer.len() / stride;
    let Lane { forward, skip, .. } = lane;
    for (x, row) in forward.xt.chunks_mut(d).zip(buffer.chunks(stride)) {
        x.copy_from_slice(&row[..d]);
    }
    let skip = &mut skip[..n * d_out];
    dense::affine(isa, &forward.xt[..n * d], w_skip, d, None, skip);
    for (row, skip) in buffer.chunks_mut(stride).zip(skip.chunks(d_out)) {
        reduce::axpy(isa, -1.0, skip, &mut row[layout.y()]);
    }
}

/// Writes the gradient of `W_skip`, `(d_out, d)`. Row `i` is one chain of additions over the rows of the batch for each
/// of the two reconstructions; the two parts are mixed as `train.balance` says.
pub(super) fn gradient(inputs: &Inputs<'_>, terms: &Terms<'_>, batch: &Batch, scratch: &mut Scratch, grad: &mut [f32]) {
    let Inputs { compute, config, .. } = *inputs;
    let Layout { d, d_out, stride, r1, r2, .. } = batch.layout;
    let Scratch { rows, parts } = scratch;
    rows.clear();
    rows.extend(0..batch.n as u32);
    let rows = &rows[..];
    compute.par.for_rows_in(parts, d_out, BLOCK, [grad], [d], |part, first, [grad]| {
        let Part { column, through } = part;
        for (i, grad) in grad.chunks_mut(d).enumerate() {
            let mut sum = |level: usize, start: usize, out: &mut [f32]| {
                let residual = |b: &u32| batch.rows[*b as usize * stride + start + first + i];
                column.clear();
                column.extend(rows.iter().map(|b| -terms.recon[level] * residual(b)));
                out.fill(0.0);
                sparse::accumulate_strided(compute.isa, rows, column, &batch.rows, stride, out);
            };
            sum(0, r1, grad);
            if inputs.two() {
                sum(1, r2, through);
                config.train.balance.mix(compute.isa, grad, through);
            }
        }
    });
}
