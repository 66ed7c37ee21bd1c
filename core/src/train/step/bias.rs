//! The gradient of the decoder bias, to which every row and every latent of both encoders contribute.
//!
//! ```text
//! db_dec = sum_b (dXh1 + dXh2) - sum_j db_j W_j        over both encoders
//! ```
//!
//! The second sum is there because encoders read `x - b_dec`; a transcoder reads `x`, and has only the first.
//!
//! The second sum is one chain of additions per group of [`GROUP`] latents, which starts at 0; the groups are added in
//! index order. One chain over all latents could not run in parallel, nor over the shards of a dictionary.

use super::inputs::Inputs;
use super::terms::Terms;
use super::workspace::Chunk;
use crate::compute::Compute;
use crate::error::Result;
use crate::kernel::{reduce, sparse};
use crate::model::Params;
use crate::train::comm::{Comm, GROUP};
use alloc::vec;
use alloc::vec::Vec;

/// Scratch of the sums.
#[derive(Clone, Debug)]
pub(super) struct Scratch {
    /// `(d_out)` each: the gradient through level 1's own terms, and that through level 2.
    parts: [Vec<f32>; 2],
    groups: Groups,
}

/// Sums over groups of latents.
#[derive(Clone, Debug, Default)]
struct Groups {
    /// Negated gradients of the encoder biases of a level.
    minus: Vec<f32>,
    /// `(groups, d)`: the sum of each group.
    sums: Vec<f32>,
}

impl Scratch {
    /// Allocates the scratch for reconstructions of width `d`.
    pub fn new(d: usize) -> Self {
        Self { parts: [vec![0.0; d], vec![0.0; d]], groups: Groups::default() }
    }
}

/// What the sums read beside the gradients of the encoder biases.
#[derive(Clone, Copy)]
pub(super) struct Sources<'a> {
    /// `0, 1, 2, ...` for every latent of the wider level.
    pub all: &'a [u32],
    /// `(f1)`: the part of the gradient of level 1's encoder biases that comes through level 2.
    pub through2: &'a [f32],
}

/// Writes the gradient of the decoder bias, and then adds the two parts of the gradient of level 1's encoder biases,
/// which are needed apart until then.
///
/// # Errors
/// What the exchange with other shards finds.
pub(super) fn run(
    inputs: &Inputs<'_>,
    terms: &Terms<'_>,
    chunks: &[Chunk],
    sources: Sources<'_>,
    scratch: &mut Scratch,
    grads: &mut Params,
) -> Result<()> {
    let Inputs { compute, arch, config, params, shard, .. } = *inputs;
    let comm = &*shard.comm;
    let Scratch { parts, groups } = scratch;
    let Sources { all, through2 } = sources;
    comm.stage("bias");
    for (l, part) in parts.iter_mut().enumerate() {
        part.fill(0.0);
        for chunk in chunks {
            reduce::axpy(compute.isa, 1.0, &chunk.columns[l], part);
        }
        reduce::scale(compute.isa, -terms.recon[l], part);
    }
    let [own, through] = parts;
    if !arch.variant.raw_input {
        groups.subtract(compute, comm, all, &grads.level[0].b_enc, &params.level[0].w_enc, own)?;
        if inputs.two() {
            groups.subtract(compute, comm, all, through2, &params.level[0].w_enc, through)?;
            if arch.source.is_activations() {
                groups.subtract(compute, comm, all, &grads.level[1].b_enc, &params.level[1].w_enc, through)?;
            }
        }
    }
    if inputs.two() {
        config.train.balance.mix(compute.isa, own, through);
    }
    grads.b_dec.copy_from_slice(own);
    if inputs.two() && !inputs.drops_through() {
        for (b, &b2) in grads.level[0].b_enc.iter_mut().zip(through2) {
            *b += b2;
        }
    }
    Ok(())
}

impl Groups {
    /// Computes `out -= sum_j grad_j w_j`, with `grad`, `(f)`, the gradients of the encoder biases of a level, and `w`,
    /// `(f, d)`, its encoder rows.
    fn subtract(
        &mut self,
        compute: Compute,
        comm: &dyn Comm,
        all: &[u32],
        grad: &[f32],
        w: &[f32],
        out: &mut [f32],
    ) -> Result<()> {
        let (Self { minus, sums }, Compute { isa, par }, d) = (self, compute, out.len());
        minus.clear();
        minus.extend(grad.iter().map(|b| -b));
        let n_groups = grad.len().div_ceil(GROUP);
        sums.clear();
        sums.resize(n_groups * d, 0.0);
        let minus = &minus[..];
        par.for_rows(n_groups, 1, [&mut sums[..]], [d], |group, [sum]| {
            let latents = group * GROUP..((group + 1) * GROUP).min(minus.len());
            sparse::accumulate_rows(isa, &all[latents.clone()], &minus[latents], w, d, sum);
        });
        comm.all_gather(sums)?;
        sums.chunks(d).for_each(|sum| reduce::axpy(isa, 1.0, sum, out));
        Ok(())
    }
}
