//! Stage 4: gradients of the parameters, by latent.
//!
//! ```text
//! dW_j = sum_b du_bj s_b      dD_j = -c sum_b z_bj r_b + sum_b v_bj e_b      db_j = sum_b du_bj
//! ```
//!
//! Each latent's row is one chain over its entries in row order, and latents are independent: no partial sums, so the
//! bits do not depend on threads. Level 1's rows are made in two parts, `g1` from its own terms and `g2` through level
//! 2, and mixed as `train.balance` says.

use super::entries::ByLatent;
use super::forward::code_row;
use super::objective::{self, CHUNK, Chunk, Objective, StepSettings, slot};
use super::observed::Losses;
use crate::activation::{Activation, Parameter};
use crate::balance::{Balance, RowNorms};
use crate::config::Config;
use crate::entry::CodeRow;
use crate::gate::Families;
use crate::kernel::{Isa, dense, reduce, sparse};
use crate::loss::Term;
use crate::model::{Arch, LevelParams, Params};
use alloc::vec;
use alloc::vec::Vec;

/// Latents that are summed together by one thread.
const BLOCK: usize = 16;

/// Number of latents whose terms are summed first where a sum runs over all latents of a level; the sums of these groups
/// are then added in index order. Groups are independent: they run in parallel, and a dictionary that is split at
/// multiples of this number has the same sums.
pub(super) const GROUP: usize = 256;

/// Least norm that a decoder row is divided by: the penalty on a row of zeros has no direction.
const TINY: f32 = 1e-12;

/// Scratch of one latent's gradient.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    /// `(d)`: what comes through level 2.
    w: Vec<f32>,
    /// `(d)`.
    dec: Vec<f32>,
    /// `(f2)`, `comp` only: a column of `E2`.
    column: Vec<f32>,
    /// For the consistency loss.
    miss: Vec<f32>,
}

impl Part {
    /// For a model of these settings.
    pub(crate) fn new(arch: &Arch, config: &Config) -> Self {
        let comp = arch.level[1].latents > 0 && arch.decoder.is_composed();
        let miss = config.loss.consistency.scratch_width(arch.d, arch.level[0].latents);
        let through = if arch.level[1].latents > 0 { arch.d } else { 0 };
        let column = if comp { arch.level[1].latents } else { 0 };
        Self { w: vec![0.0; through], dec: vec![0.0; through], column: vec![0.0; column], miss: vec![0.0; miss] }
    }
}

/// Columns of the table of per-latent statistics: squares of both parts on `D1`, and their product.
const STATS: usize = 3;

/// Shared by the stages below.
struct Job<'a> {
    isa: Isa,
    d: usize,
    slots: usize,
    rows: &'a [f32],
    chunks: &'a [Chunk],
    params: &'a Params,
    recon: [f32; 2],
    penalty: [f32; 2],
    norms: [&'a [f32]; 2],
    /// Whether AuxK acts, a level: only then are its slots of the row buffer filled.
    aux: [bool; 2],
    balance: Balance,
    term: Term<'a>,
}

impl Job<'_> {
    /// Row buffer seen from a slot: place `at` of an entry is then its row's vector in that slot.
    fn slot(&self, s: usize) -> &[f32] {
        &self.rows[s * self.d..]
    }

    /// `out += sum_e coef_e * slot_s(row_e)`.
    fn gather(&self, list: &ByLatent, j: usize, coef: &[f32], s: usize, out: &mut [f32]) {
        let range = list.latent(j);
        sparse::accumulate_rows(self.isa, &list.at[range.clone()], &coef[range], self.slot(s), self.d, out);
    }

    /// Returns the entries of latent `j`, in row order: its value, and the codes of both levels on that row.
    fn codes<'l>(&'l self, list: &'l ByLatent, j: usize) -> impl Iterator<Item = (f32, [CodeRow<'l>; 2])> {
        list.latent(j).map(move |at| {
            let (chunk, row) = self.find(list.at[at]);
            (list.z[at], [0, 1].map(|l| code_row(&chunk.level[l], row)))
        })
    }

    /// The chunk and the row in it of a place.
    fn find(&self, at: u32) -> (&Chunk, usize) {
        let b = at as usize / self.slots;
        (&self.chunks[b / CHUNK], b % CHUNK)
    }
}

/// Writes every gradient, and the balance statistics.
pub(super) fn run(
    o: &mut Objective,
    params: &Params,
    families: &Families,
    settings: &StepSettings,
    grads: &mut Params,
    losses: &mut Losses,
) {
    let n = o.n as f64;
    let two = o.n_levels() == 2;
    let unit = 1.0 / (n * f64::from(settings.variance));
    let mut by_latent = core::mem::take(&mut o.by_latent);
    let f = o.arch.latents();
    for (l, list) in by_latent.iter_mut().enumerate().take(o.n_levels()) {
        list.fill(f[l], CHUNK, o.slots, o.kept(l, settings, losses), o.chunks.iter().map(|c| &c.level[l]));
    }
    let mut grad_composed = core::mem::take(&mut o.grad_composed);
    let mut through2 = core::mem::take(&mut o.through2);
    let mut stats = core::mem::take(&mut o.stats);
    let mut parts = core::mem::take(&mut o.parts);
    stats.resize(o.arch.level[0].latents * STATS, 0.0);
    let job = Job {
        isa: o.compute.isa,
        d: o.arch.d,
        slots: o.slots,
        rows: &o.rows,
        chunks: &o.chunks,
        params,
        recon: [0, 1].map(|l| (2.0 * f64::from(settings.w[l]) * unit) as f32),
        penalty: [0, 1].map(|l| (f64::from(settings.lambda[l]) / n) as f32),
        norms: [&o.norms[0], &o.norms[1]],
        aux: [0, 1].map(|l| super::backward::aux_weight(o, settings, losses, l) > 0.0),
        balance: o.config.train.balance,
        term: objective::term(&o.config, o.compute.isa, o.n, settings.variance, params, families, &o.seed_cos),
    };
    losses.consistency += job.term.value();
    if two {
        level2(o, &job, &by_latent[1], grads, &mut grad_composed, &mut parts);
    }
    level1(o, &job, &by_latent[0], &grad_composed, grads, &mut through2, &mut stats, &mut parts);
    if two && !grads.gate.w.is_empty() {
        soft_gate(o, &job, &by_latent[0], grads);
    }
    let mut scratch = (core::mem::take(&mut o.bias), core::mem::take(&mut o.minus), core::mem::take(&mut o.groups));
    bias(o, &job, grads, &through2, &mut scratch.0, (&mut scratch.1, &mut scratch.2));
    losses.balance = row_norms(&stats, settings, job.recon);
    (o.bias, o.minus, o.groups) = scratch;
    o.by_latent = by_latent;
    o.grad_composed = grad_composed;
    o.through2 = through2;
    o.stats = stats;
    o.parts = parts;
}

/// Encoder, decoder, bias and activation parameters of level 2, and the soft gate's bias.
fn level2(
    o: &Objective,
    job: &Job<'_>,
    list: &ByLatent,
    grads: &mut Params,
    grad_composed: &mut [f32],
    parts: &mut [Part],
) {
    let (d, f2) = (job.d, o.arch.level[1].latents);
    let comp = o.arch.decoder.is_composed();
    let width = o.arch.source_width();
    let penalty = if comp { 0.0 } else { job.penalty[1] };
    let LevelParams { w_enc, b_enc, w_dec, threshold: theta, r_mag, b_mag, .. } = &mut grads.level[1];
    let gate_b = &mut grads.gate.b;
    let decoder: &mut [f32] = if comp { grad_composed } else { w_dec };
    let p = [theta.len(), r_mag.len(), b_mag.len(), gate_b.len()].map(|n| usize::from(n > 0));
    let arrays = [&mut w_enc[..], decoder, b_enc, theta, r_mag, b_mag, gate_b];
    let widths_of = [width, d, 1, p[0], p[1], p[2], p[3]];
    o.compute.par.for_rows_in(parts, f2, BLOCK, arrays, widths_of, |part, first, [w, dec, b, theta, r, bm, c]| {
        for (i, dec) in dec.chunks_mut(d).enumerate() {
            let j = first + i;
            let range = list.latent(j);
            dec.fill(0.0);
            job.gather(list, j, &list.z, slot::R2, dec);
            reduce::scale(job.isa, -job.recon[1], dec);
            if job.aux[1] {
                job.gather(list, j, &list.v, slot::E2, dec);
            }
            if penalty != 0.0 && o.arch.level[1].activation.penalises_decoder_norms() {
                let sum = reduce::sum(job.isa, &list.z[range.clone()]);
                reduce::axpy(
                    job.isa,
                    penalty * sum / job.norms[1][j].max(TINY),
                    &job.params.level[1].w_dec[j * d..][..d],
                    dec,
                );
            }
            if !comp {
                job.term.add_decoder_row(1, j, job.codes(list, j), &mut part.miss, dec);
            }
            let w = &mut w[i * width..][..width];
            w.fill(0.0);
            let (at, grad) = (&list.at[range.clone()], &list.grad[0][range.clone()]);
            let z1 = |at: u32| {
                let (chunk, row) = job.find(at);
                code_row(&chunk.level[0], row)
            };
            o.arch.source.add_encoder_row(job.isa, at, grad, [job.slot(slot::XT), job.slot(slot::R1)], d, z1, w);
            b[i] = reduce::sum(job.isa, &list.grad[0][range.clone()]);
            write_sums(job.isa, list, range, i, o.arch.level[1].activation, [theta, r, bm]);
            if !c.is_empty() {
                c[i] = reduce::sum(job.isa, &list.grad_g[list.latent(j)]);
            }
        }
    });
    if comp {
        composition(o, job, list, o.arch.level[0].latents, grad_composed, w_dec, parts);
    }
}

/// `dE2 = dC2 D1^T`, the penalty on rows of `E2`, and the latent consistency.
fn composition(
    o: &Objective,
    job: &Job<'_>,
    list: &ByLatent,
    f1: usize,
    grad_composed: &[f32],
    grad: &mut [f32],
    parts: &mut [Part],
) {
    let d = job.d;
    let e2 = &job.params.level[1].w_dec;
    o.compute.par.for_rows_in(parts, o.arch.level[1].latents, BLOCK, [grad], [f1], |part, first, [grad]| {
        let n = grad.len() / f1;
        dense::affine(job.isa, &grad_composed[first * d..(first + n) * d], &job.params.level[0].w_dec, d, None, grad);
        for (i, grad) in grad.chunks_mut(f1).enumerate() {
            let j = first + i;
            if job.penalty[1] != 0.0 && o.arch.level[1].activation.penalises_decoder_norms() {
                let sum = reduce::sum(job.isa, &list.z[list.latent(j)]);
                reduce::axpy(job.isa, job.penalty[1] * sum / job.norms[1][j].max(TINY), &e2[j * f1..][..f1], grad);
            }
            job.term.add_decoder_row(1, j, job.codes(list, j), &mut part.miss, grad);
        }
    });
}

/// Encoder, decoder, bias and activation parameters of level 1.
fn level1(
    o: &Objective,
    job: &Job<'_>,
    list: &ByLatent,
    grad_composed: &[f32],
    grads: &mut Params,
    through2: &mut [f32],
    stats: &mut [f32],
    parts: &mut [Part],
) {
    let (d, f1) = (job.d, o.arch.level[0].latents);
    let two = o.n_levels() == 2;
    let comp = two && o.arch.decoder.is_composed();
    let through_residual = two && o.arch.source.reaches_decoder1(o.config.source_detach);
    let LevelParams { w_enc, b_enc, w_dec, threshold: theta, r_mag, b_mag, .. } = &mut grads.level[0];
    let p = [theta.len(), r_mag.len(), b_mag.len()].map(|n| usize::from(n > 0));
    let arrays = [&mut w_enc[..], w_dec, b_enc, theta, r_mag, b_mag, through2, stats];
    let widths = [d, d, 1, p[0], p[1], p[2], 1, STATS];
    let children = &o.all[..if comp { o.arch.level[1].latents } else { 0 }];
    o.compute.par.for_rows_in(parts, f1, BLOCK, arrays, widths, |part, first, [w, dec, b, theta, r, bm, b2, stats]| {
        let Part { w: w2, dec: dec2, column, miss } = part;
        for i in 0..b.len() {
            let j = first + i;
            let range = list.latent(j);
            let dec = &mut dec[i * d..][..d];
            dec.fill(0.0);
            job.gather(list, j, &list.z, slot::R1, dec);
            reduce::scale(job.isa, -job.recon[0], dec);
            dec2.fill(0.0);
            if two && o.arch.decoder.is_cumulative() {
                job.gather(list, j, &list.z, slot::R2, dec2);
                reduce::scale(job.isa, -job.recon[1], dec2);
            }
            if comp {
                // D1 takes part in x_hat2 through C2 = E2 D1: dD1 += E2^T dC2.
                for (c, row) in column.iter_mut().zip(job.params.level[1].w_dec.chunks(f1)) {
                    *c = row[j];
                }
                sparse::accumulate_rows(job.isa, children, column, grad_composed, d, dec2);
            }
            stats[i * STATS] = reduce::sum_squares(job.isa, dec);
            if two {
                stats[i * STATS + 1] = reduce::sum_squares(job.isa, dec2);
                stats[i * STATS + 2] = reduce::dot(job.isa, dec, dec2);
            }
            if through_residual {
                reduce::scale(job.isa, -1.0, dec2);
                job.gather(list, j, &list.z, slot::DS, dec2);
                reduce::scale(job.isa, -1.0, dec2);
            }
            if job.aux[0] {
                job.gather(list, j, &list.v, slot::e1(two), dec);
            }
            if job.penalty[0] != 0.0 && o.arch.level[0].activation.penalises_decoder_norms() {
                let sum = reduce::sum(job.isa, &list.z[range.clone()]);
                reduce::axpy(
                    job.isa,
                    job.penalty[0] * sum / job.norms[0][j].max(TINY),
                    &job.params.level[0].w_dec[j * d..][..d],
                    dec,
                );
            }
            if two {
                job.term.add_decoder_row(0, j, job.codes(list, j), miss, dec);
                job.balance.mix(job.isa, dec, dec2);
            }

            let w = &mut w[i * d..][..d];
            w.fill(0.0);
            job.gather(list, j, &list.grad[0], slot::XT, w);
            b[i] = reduce::sum(job.isa, &list.grad[0][range.clone()]);
            if two {
                w2.fill(0.0);
                job.gather(list, j, &list.grad[1], slot::XT, w2);
                job.balance.mix(job.isa, w, w2);
                b2[i] = reduce::sum(job.isa, &list.grad[1][range.clone()]);
            }
            write_sums(job.isa, list, range, i, o.arch.level[0].activation, [theta, r, bm]);
        }
    });
}

/// Writes the gradients of the activation's own parameters of latent `i` of a block: `theta`, `r` and `b` are rows of one
/// number each, empty where the activation has no such parameter.
fn write_sums(
    isa: Isa,
    list: &ByLatent,
    range: core::ops::Range<usize>,
    i: usize,
    activation: Activation,
    [theta, r, b]: [&mut [f32]; 3],
) {
    for (parameter, grad) in activation.parameters().iter().zip(&list.grad_p) {
        let to = match parameter {
            Parameter::Threshold => &mut theta[i],
            Parameter::RMag => &mut r[i],
            Parameter::BMag => &mut b[i],
        };
        *to = reduce::sum(isa, &grad[range.clone()]);
    }
}

/// `dG_ij = sum_b z1_bi dg_bj`, by parent.
fn soft_gate(o: &Objective, job: &Job<'_>, list: &ByLatent, grads: &mut Params) {
    let f2 = o.arch.level[1].latents;
    o.compute.par.for_rows(o.arch.level[0].latents, BLOCK, [&mut grads.gate.w], [f2], |first, [grad]| {
        for (i, grad) in grad.chunks_mut(f2).enumerate() {
            grad.fill(0.0);
            for at in list.latent(first + i) {
                let z = list.z[at];
                if z > 0.0 {
                    let (chunk, row) = job.find(list.at[at]);
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

/// `db_dec = sum_b (dXh1 + dXh2) - sum_j db_j W_j` over both encoders.
///
/// The second sum is one chain per group of [`GROUP`] latents, which starts at 0; the groups are added in index order. One
/// chain over all latents would leave a single thread to run it, or to pass it on from shard to shard.
fn bias(
    o: &Objective,
    job: &Job<'_>,
    grads: &mut Params,
    through2: &[f32],
    g: &mut [Vec<f32>; 2],
    (minus, groups): (&mut Vec<f32>, &mut Vec<f32>),
) {
    let d = job.d;
    let two = o.n_levels() == 2;
    for (l, g) in g.iter_mut().enumerate() {
        g.fill(0.0);
        for chunk in &o.chunks {
            reduce::axpy(job.isa, 1.0, &chunk.columns[l], g);
        }
        reduce::scale(job.isa, -job.recon[l], g);
    }
    let [g1, g2] = g;
    let mut take_out = |biases: &[f32], w: &[f32], g: &mut [f32]| {
        minus.clear();
        minus.extend(biases.iter().map(|b| -b));
        let n_groups = biases.len().div_ceil(GROUP);
        groups.clear();
        groups.resize(n_groups * d, 0.0);
        let minus = &minus[..];
        o.compute.par.for_rows(n_groups, 1, [&mut groups[..]], [d], |group, [sum]| {
            let latents = group * GROUP..((group + 1) * GROUP).min(minus.len());
            sparse::accumulate_rows(job.isa, &o.all[latents.clone()], &minus[latents], w, d, sum);
        });
        groups.chunks(d).for_each(|sum| reduce::axpy(job.isa, 1.0, sum, g));
    };
    take_out(&grads.level[0].b_enc, &job.params.level[0].w_enc, g1);
    if two {
        take_out(through2, &job.params.level[0].w_enc, g2);
        if o.arch.source.is_activations() {
            take_out(&grads.level[1].b_enc, &job.params.level[1].w_enc, g2);
        }
        job.balance.mix(job.isa, g1, g2);
    }
    grads.b_dec.copy_from_slice(g1);
    // The encoder biases of level 1 are mixed only now: the two parts were needed apart.
    if two && !o.own() {
        for (b, &b2) in grads.level[0].b_enc.iter_mut().zip(through2) {
            *b += b2;
        }
    }
}

fn row_norms(stats: &[f32], settings: &StepSettings, recon: [f32; 2]) -> RowNorms {
    let mut sums = [0.0f64; STATS];
    for latents in stats.chunks(GROUP * STATS) {
        let mut group = [0.0f64; STATS];
        for row in latents.chunks(STATS) {
            group.iter_mut().zip(row).for_each(|(s, v)| *s += f64::from(*v));
        }
        sums.iter_mut().zip(group).for_each(|(s, v)| *s += v);
    }
    let weight = |l: usize| if recon[l] > 0.0 { f64::from(settings.w[l]) } else { 1.0 };
    let (own, through) = (libm::sqrt(sums[0]), libm::sqrt(sums[1]));
    let cosine = if own > 0.0 && through > 0.0 { sums[2] / (own * through) } else { 0.0 };
    RowNorms { own: own / weight(0), through: through / weight(1), cosine }
}
