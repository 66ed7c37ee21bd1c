//! Gradients of the parameters, by latent.
//!
//! ```text
//! dW_j = sum_b du_bj s_b      dD_j = -c sum_b z_bj r_b + sum_b v_bj e_b      db_j = sum_b du_bj
//! ```
//!
//! Here `s` is what the encoder reads, `c = 2 w / (n nu)`, `r` the residual, and `v`, `e` the activations and the
//! gradient of AuxK. Each latent's row is one chain of additions over its entries in row order, and latents are
//! independent; since there are no partial sums, the bits do not depend on threads. The rows of level 1 are summed in
//! two parts, from its own terms and through level 2, and mixed as `train.balance` says. The gradient of the decoder
//! bias is in [`bias`](super::bias).

use super::entries::ByLatent;
use super::inputs::Inputs;
use super::layout::Layout;
use super::terms::Terms;
use super::workspace::{Batch, CHUNK, Chunk};
use super::{bias, skip};
use crate::activation::{Activation, Parameter};
use crate::balance::RowNorms;
use crate::config::Config;
use crate::entry::CodeRow;
use crate::error::Result;
use crate::kernel::{Isa, dense, reduce, sparse};
use crate::model::{Arch, LevelParams, Params};
use crate::source;
use crate::train::comm::{Comm, GROUP};
use alloc::vec;
use alloc::vec::Vec;

/// Latents per block; a block is summed by one thread.
const BLOCK: usize = 16;

/// Parts into which the latents are divided, per thread. There are more parts than threads because latents have very
/// different numbers of entries.
const PARTS: usize = 32;

/// Lower bound of the norms of decoder rows, so that the penalty on a row of zeros has a gradient of 0 and not NaN.
const TINY: f32 = 1e-12;

/// Columns of the table of per-latent statistics: squares of both parts on `D1`, and their product.
const STATS: usize = 3;

/// Scratch of the gradients by latent.
#[derive(Clone, Debug)]
pub(super) struct Workspace {
    /// The entries of each level by latent.
    by_latent: [ByLatent; 2],
    parts: Vec<Part>,
    /// `(f2, d_out)`: gradient of the composed decoder directions; empty unless the decoder is `comp`.
    composed: Vec<f32>,
    /// `(f1)`: the part of the gradient of level 1's encoder biases that comes through level 2.
    through2: Vec<f32>,
    /// `(f1, STATS)`.
    stats: Vec<f32>,
    /// `0, 1, 2, ...` for every latent of the wider level.
    all: Vec<u32>,
    bias: bias::Scratch,
    skip: skip::Scratch,
}

impl Workspace {
    /// Allocates the scratch for a shard of these settings and `n_threads` threads; `whole` is the architecture of all
    /// shards.
    pub fn new(arch: &Arch, whole: &Arch, config: &Config, n_threads: usize) -> Self {
        let [f1, f2] = arch.latents();
        let comp = arch.n_levels() == 2 && arch.decoder.is_composed();
        Self {
            by_latent: Default::default(),
            parts: vec![Part::new(whole, config); PARTS * n_threads],
            composed: vec![0.0; if comp { f2 * arch.d_out() } else { 0 }],
            through2: vec![0.0; f1],
            stats: Vec::new(),
            all: (0..f1.max(f2) as u32).collect(),
            bias: bias::Scratch::new(arch.d_out()),
            skip: skip::Scratch::new(whole, n_threads),
        }
    }

    /// Frees the vectors that grow with the number of entries.
    pub fn rest(&mut self) {
        self.by_latent = Default::default();
    }
}

/// Scratch of one latent's gradient.
#[derive(Clone, Debug)]
struct Part {
    /// `(d)`: the part of an encoder row's gradient that comes through level 2.
    w: Vec<f32>,
    /// `(d_out)`: the part of a decoder row's gradient that comes through level 2.
    dec: Vec<f32>,
    /// `(f2)`, `comp` only: a column of `E2`.
    column: Vec<f32>,
    /// Scratch of the consistency loss.
    miss: Vec<f32>,
}

impl Part {
    fn new(arch: &Arch, config: &Config) -> Self {
        let two = arch.n_levels() == 2;
        let miss = config.loss.consistency.scratch_width(arch.d_out(), arch.level[0].latents);
        let through = |width| if two { width } else { 0 };
        let column = if two && arch.decoder.is_composed() { arch.level[1].latents } else { 0 };
        Self {
            w: vec![0.0; through(arch.d)],
            dec: vec![0.0; through(arch.d_out())],
            column: vec![0.0; column],
            miss: vec![0.0; miss],
        }
    }
}

/// Writes every gradient, and returns the norms of the two parts on `D1`.
///
/// # Errors
/// What the exchange with other shards finds.
pub(super) fn run(
    inputs: &Inputs<'_>,
    terms: &Terms<'_>,
    batch: &Batch,
    workspace: &mut Workspace,
    grads: &mut Params,
) -> Result<RowNorms> {
    let Workspace { by_latent, parts, composed, through2, stats, all, bias, skip } = workspace;
    let two = inputs.two();
    for (l, list) in by_latent.iter_mut().enumerate().take(inputs.n_levels()) {
        let entries = batch.chunks.iter().map(|c| &c.level[l]);
        list.fill(inputs.arch.level[l].latents, CHUNK, terms.kept[l], entries);
    }
    stats.resize(inputs.arch.level[0].latents * STATS, 0.0);
    let by = LatentSums { inputs, terms, batch, isa: inputs.compute.isa, layout: batch.layout, all };
    if two {
        by.level2(&by_latent[1], grads, composed, parts);
    }
    let shared = Shared { composed, through2, stats };
    by.level1(&by_latent[0], grads, shared, parts);
    if two && !grads.gate.w.is_empty() {
        by.soft_gate(&by_latent[0], grads);
    }
    if !grads.w_skip.is_empty() {
        skip::gradient(inputs, terms, batch, skip, &mut grads.w_skip);
    }
    bias::run(inputs, terms, &batch.chunks, bias::Sources { all, through2 }, bias, grads)?;
    row_norms(&*inputs.shard.comm, stats, inputs.settings.w, terms.recon)
}

/// What level 1's gradients read and write beside the parameters.
struct Shared<'a> {
    /// Read: the gradient of the composed directions.
    composed: &'a [f32],
    /// Written: the part of the biases' gradient that comes through level 2.
    through2: &'a mut [f32],
    /// Written: statistics per latent.
    stats: &'a mut [f32],
}

/// What the gradients of every latent read.
struct LatentSums<'a> {
    inputs: &'a Inputs<'a>,
    terms: &'a Terms<'a>,
    batch: &'a Batch,
    isa: Isa,
    layout: Layout,
    all: &'a [u32],
}

impl LatentSums<'_> {
    /// Adds `sum_e coef_e v_e` over the entries `e` of latent `j` to `out`; `v_e` is the vector that begins at number
    /// `first` of the entry's row in the row buffer.
    fn gather(&self, list: &ByLatent, j: usize, coef: &[f32], first: usize, out: &mut [f32]) {
        let (range, rows) = (list.latent(j), &self.batch.rows[first..]);
        sparse::accumulate_strided(self.isa, &list.at[range.clone()], &coef[range], rows, self.layout.stride, out);
    }

    /// Returns the entries of latent `j`, in row order: its value, and the codes of both levels on that row.
    fn codes<'l>(&'l self, list: &'l ByLatent, j: usize) -> impl Iterator<Item = (f32, [CodeRow<'l>; 2])> {
        list.latent(j).map(move |at| {
            let (chunk, row) = self.find(list.at[at]);
            (list.z[at], [0, 1].map(|l| chunk.level[l].code(row)))
        })
    }

    /// Returns the chunk of a row of the batch, and the row in it.
    fn find(&self, at: u32) -> (&Chunk, usize) {
        let b = at as usize;
        (&self.batch.chunks[b / CHUNK], b % CHUNK)
    }

    /// Adds the gradient of a penalty on `z |D_j|` to that of the decoder row `row` of latent `j`.
    fn penalise(&self, level: usize, list: &ByLatent, j: usize, row: &[f32], grad: &mut [f32]) {
        let penalty = self.terms.penalty[level];
        if penalty != 0.0 && self.inputs.arch.level[level].activation.penalises_decoder_norms() {
            let sum = reduce::sum(self.isa, &list.z[list.latent(j)]);
            reduce::axpy(self.isa, penalty * sum / self.terms.norms[level][j].max(TINY), row, grad);
        }
    }

    /// Writes the gradients of level 2's encoder, decoder, bias and activation parameters, and of the soft gate's bias.
    fn level2(&self, list: &ByLatent, grads: &mut Params, composed: &mut [f32], parts: &mut [Part]) {
        let (Inputs { compute, arch, params, .. }, terms) = (*self.inputs, self.terms);
        let (d, isa, f2) = (self.layout.d_out, self.isa, arch.level[1].latents);
        let comp = arch.decoder.is_composed();
        let width = arch.source_width();
        let LevelParams { w_enc, b_enc, w_dec, threshold: theta, r_mag, b_mag, .. } = &mut grads.level[1];
        let gate_b = &mut grads.gate.b;
        let decoder: &mut [f32] = if comp { composed } else { w_dec };
        let p = [theta.len(), r_mag.len(), b_mag.len(), gate_b.len()].map(|n| usize::from(n > 0));
        let arrays = [&mut w_enc[..], decoder, b_enc, theta, r_mag, b_mag, gate_b];
        let widths_of = [width, d, 1, p[0], p[1], p[2], p[3]];
        compute.par.for_rows_in(parts, f2, BLOCK, arrays, widths_of, |part, first, [w, dec, b, theta, r, bm, c]| {
            for (i, dec) in dec.chunks_mut(d).enumerate() {
                let j = first + i;
                let range = list.latent(j);
                dec.fill(0.0);
                self.gather(list, j, &list.z, self.layout.r2, dec);
                reduce::scale(isa, -terms.recon[1], dec);
                if terms.kept[1].aux {
                    self.gather(list, j, &list.v, self.layout.e2, dec);
                }
                if !comp {
                    self.penalise(1, list, j, &params.level[1].w_dec[j * d..][..d], dec);
                    terms.consistency.add_decoder_row(1, j, self.codes(list, j), &mut part.miss, dec);
                }
                let w = &mut w[i * width..][..width];
                w.fill(0.0);
                let by = source::EncoderRow {
                    isa,
                    at: &list.at[range.clone()],
                    grad: &list.grad[0][range.clone()],
                    xt: &self.batch.rows,
                    r1: &self.batch.rows[self.layout.r1..],
                    stride: self.layout.stride,
                };
                let z1 = |at: u32| {
                    let (chunk, row) = self.find(at);
                    chunk.level[0].code(row)
                };
                arch.source.add_encoder_row(by, z1, w);
                b[i] = reduce::sum(isa, &list.grad[0][range]);
                self.write_parameters(list, j, arch.level[1].activation, i, [theta, r, bm]);
                if !c.is_empty() {
                    c[i] = reduce::sum(isa, &list.grad_g[list.latent(j)]);
                }
            }
        });
        if comp {
            self.composition(list, composed, w_dec, parts);
        }
    }

    /// Writes `dE2 = dC2 D1^T`, and adds the gradients of the penalty on the rows of `E2` and of the consistency loss.
    /// `composed` is `dC2`, the gradient of the composed directions.
    fn composition(&self, list: &ByLatent, composed: &[f32], grad: &mut [f32], parts: &mut [Part]) {
        let (Inputs { compute, arch, params, .. }, d) = (*self.inputs, self.layout.d_out);
        let [f1, f2] = arch.latents();
        let e2 = &params.level[1].w_dec;
        compute.par.for_rows_in(parts, f2, BLOCK, [grad], [f1], |part, first, [grad]| {
            let n = grad.len() / f1;
            dense::affine(self.isa, &composed[first * d..(first + n) * d], &params.level[0].w_dec, d, None, grad);
            for (i, grad) in grad.chunks_mut(f1).enumerate() {
                let j = first + i;
                self.penalise(1, list, j, &e2[j * f1..][..f1], grad);
                self.terms.consistency.add_decoder_row(1, j, self.codes(list, j), &mut part.miss, grad);
            }
        });
    }

    /// Writes the gradients of level 1's encoder, decoder, bias and activation parameters.
    fn level1(&self, list: &ByLatent, grads: &mut Params, shared: Shared<'_>, parts: &mut [Part]) {
        let (Inputs { compute, arch, config, params, .. }, terms) = (*self.inputs, self.terms);
        let (d_in, d, isa) = (self.layout.d, self.layout.d_out, self.isa);
        let (f1, two) = (arch.level[0].latents, self.inputs.two());
        let Shared { composed, through2, stats } = shared;
        let balance = config.train.balance;
        let comp = two && arch.decoder.is_composed();
        let through_residual = two && arch.source.reaches_decoder1(config.source_detach);
        let LevelParams { w_enc, b_enc, w_dec, threshold: theta, r_mag, b_mag, .. } = &mut grads.level[0];
        let p = [theta.len(), r_mag.len(), b_mag.len()].map(|n| usize::from(n > 0));
        let arrays = [&mut w_enc[..], w_dec, b_enc, theta, r_mag, b_mag, through2, stats];
        let widths = [d_in, d, 1, p[0], p[1], p[2], 1, STATS];
        let children = &self.all[..if comp { arch.level[1].latents } else { 0 }];
        compute.par.for_rows_in(
            parts,
            f1,
            BLOCK,
            arrays,
            widths,
            |part, first, [w, dec, b, theta, r, bm, b2, stats]| {
                let Part { w: w2, dec: dec2, column, miss } = part;
                for i in 0..b.len() {
                    let j = first + i;
                    let range = list.latent(j);
                    let dec = &mut dec[i * d..][..d];
                    dec.fill(0.0);
                    self.gather(list, j, &list.z, self.layout.r1, dec);
                    reduce::scale(isa, -terms.recon[0], dec);
                    dec2.fill(0.0);
                    if two && arch.decoder.is_cumulative() {
                        self.gather(list, j, &list.z, self.layout.r2, dec2);
                        reduce::scale(isa, -terms.recon[1], dec2);
                    }
                    if comp {
                        // D1 takes part in x_hat2 through C2 = E2 D1: dD1 += E2^T dC2.
                        for (c, row) in column.iter_mut().zip(params.level[1].w_dec.chunks(f1)) {
                            *c = row[j];
                        }
                        sparse::accumulate_rows(isa, children, column, composed, d, dec2);
                    }
                    stats[i * STATS] = reduce::sum_squares(isa, dec);
                    if two {
                        stats[i * STATS + 1] = reduce::sum_squares(isa, dec2);
                        stats[i * STATS + 2] = reduce::dot(isa, dec, dec2);
                    }
                    if through_residual {
                        reduce::scale(isa, -1.0, dec2);
                        self.gather(list, j, &list.z, self.layout.ds, dec2);
                        reduce::scale(isa, -1.0, dec2);
                    }
                    if terms.kept[0].aux {
                        self.gather(list, j, &list.v, self.layout.e1, dec);
                    }
                    self.penalise(0, list, j, &params.level[0].w_dec[j * d..][..d], dec);
                    if two {
                        terms.consistency.add_decoder_row(0, j, self.codes(list, j), miss, dec);
                        balance.mix(isa, dec, dec2);
                    }

                    let w = &mut w[i * d_in..][..d_in];
                    w.fill(0.0);
                    self.gather(list, j, &list.grad[0], 0, w);
                    b[i] = reduce::sum(isa, &list.grad[0][range.clone()]);
                    if two {
                        w2.fill(0.0);
                        self.gather(list, j, &list.grad[1], 0, w2);
                        balance.mix(isa, w, w2);
                        b2[i] = reduce::sum(isa, &list.grad[1][range]);
                    }
                    self.write_parameters(list, j, arch.level[0].activation, i, [theta, r, bm]);
                }
            },
        );
    }

    /// Writes the gradients of the activation's parameters of latent `j`, which is number `i` of its block. `theta`,
    /// `r` and `b` have one number per latent of the block, or none where the activation has no such parameter.
    fn write_parameters(
        &self,
        list: &ByLatent,
        j: usize,
        activation: Activation,
        i: usize,
        [theta, r, b]: [&mut [f32]; 3],
    ) {
        for (parameter, grad) in activation.parameters().iter().zip(&list.grad_p) {
            let to = match parameter {
                Parameter::Threshold => &mut theta[i],
                Parameter::RMag => &mut r[i],
                Parameter::BMag => &mut b[i],
            };
            *to = reduce::sum(self.isa, &grad[list.latent(j)]);
        }
    }

    /// Writes the gradient of the soft gate's weights, `dG_ij = sum_b z1_bi dg_bj`, by parent.
    fn soft_gate(&self, list: &ByLatent, grads: &mut Params) {
        let [f1, f2] = self.inputs.arch.latents();
        self.inputs.compute.par.for_rows(f1, BLOCK, [&mut grads.gate.w], [f2], |first, [grad]| {
            for (i, grad) in grad.chunks_mut(f2).enumerate() {
                grad.fill(0.0);
                for at in list.latent(first + i) {
                    let z = list.z[at];
                    if z > 0.0 {
                        let (chunk, row) = self.find(list.at[at]);
                        let e2 = &chunk.level[1];
                        for at2 in e2.row(row) {
                            let g = &mut grad[e2.index[at2] as usize];
                            *g = libm::fmaf(z, e2.grad.g[at2], *g);
                        }
                    }
                }
            }
        });
    }
}

/// Returns the norms of the two parts of the gradient of `D1`, each divided by the weight `w` of its reconstruction
/// unless that is 0. `stats` are those of this shard.
pub(in crate::train) fn row_norms(comm: &dyn Comm, stats: &[f32], w: [f32; 2], recon: [f32; 2]) -> Result<RowNorms> {
    let groups = stats.chunks(GROUP * STATS).map(|latents| {
        let mut group = [0.0f64; STATS];
        for row in latents.chunks(STATS) {
            group.iter_mut().zip(row).for_each(|(s, v)| *s += f64::from(*v));
        }
        group
    });
    comm.stage("norms");
    let mut sums = [0.0f64; STATS];
    let mut add = |group: [f64; STATS]| sums.iter_mut().zip(group).for_each(|(s, v)| *s += v);
    if comm.is_solo() {
        groups.for_each(&mut add);
    } else {
        comm.gather(&groups.collect::<Vec<_>>())?.into_iter().flatten().for_each(&mut add);
    }
    let weight = |l: usize| if recon[l] > 0.0 { f64::from(w[l]) } else { 1.0 };
    let (own, through) = (libm::sqrt(sums[0]), libm::sqrt(sums[1]));
    let cosine = if own > 0.0 && through > 0.0 { sums[2] / (own * through) } else { 0.0 };
    Ok(RowNorms { own: own / weight(0), through: through / weight(1), cosine })
}
