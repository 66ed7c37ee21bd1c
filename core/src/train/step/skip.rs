//! The skip connection of a transcoder: what it takes out of the rows that codes have to reconstruct, and its gradient.
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

/// Rows of the connection that are summed together by one thread.
const BLOCK: usize = 4;

/// What the gradient works in.
#[derive(Clone, Debug)]
pub(super) struct Scratch {
    /// `0, 1, 2, ...` for every row of the batch.
    rows: Vec<u32>,
    parts: Vec<Part>,
}

/// Scratch of one row of the connection.
#[derive(Clone, Debug)]
struct Part {
    /// `(n)`: one column of the gradients of a reconstruction.
    column: Vec<f32>,
    /// `(d)`: what comes through level 2.
    through: Vec<f32>,
}

impl Scratch {
    /// Makes room for models of an architecture and so many threads; none without a connection.
    pub fn new(arch: &Arch, n_threads: usize) -> Self {
        let part = Part { column: Vec::new(), through: vec![0.0; if arch.n_levels() == 2 { arch.d } else { 0 }] };
        Self { rows: Vec::new(), parts: vec![part; if arch.variant.skip { n_threads } else { 0 }] }
    }
}

/// Takes `W_skip x` out of the rows `y` of a chunk; nothing without a connection.
pub(super) fn take_out(isa: Isa, layout: &Layout, w_skip: &[f32], lane: &mut Lane, buffer: &mut [f32]) {
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

/// Writes the gradient of the connection, `(d_out, d)`. Row `i` is one chain over the rows of the batch for each of the two
/// reconstructions, which are mixed as `train.balance` says.
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
