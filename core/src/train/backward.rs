//! Stage 3: from the residuals of each row back to the pre-activations of its entries.
//!
//! ```text
//! dXh_l = (2 w_l / (n nu)) E_l = -c_l r_l
//! dZ1 = dXh1 D1^T (+ dXh2 D1^T for cum)        dZ2 = dXh2 D2^T        at the entries of the row only
//! act2, gate, source of level 2 add to dZ1;  act1 ends the chain at dU1
//! ```
//!
//! Level 1's gradient is kept in two parts: its own terms, and what comes through level 2, so that the balance between
//! the levels can be chosen later ([`Balance`](crate::config::Balance)).

use super::objective::{self, CHUNK, Chunk, Lane, Objective, StepSettings, slot};
use super::observed::Losses;
use crate::activation::{self, Auxiliary, Rule};
use crate::decoder::Decoder;
use crate::entry::{CodeRow, EntryRow};
use crate::gate::{self, Families, GateKind};
use crate::kernel::{Isa, reduce, sparse};
use crate::loss::Term;
use crate::model::Params;
use crate::source::{self, Source};
use alloc::vec::Vec;

/// The factors of one call.
pub(super) struct Factors<'a> {
    pub isa: Isa,
    pub d: usize,
    pub f: [usize; 2],
    /// `2 w_l / (n nu)`.
    pub recon: [f32; 2],
    /// `2 alpha_l / (n nu)`, where AuxK acts.
    pub aux: [f32; 2],
    /// `2 wg / (n nu)`.
    pub gated: f32,
    /// `lambda_l / n`.
    pub penalty: [f32; 2],
    pub rules: [Rule<'a>; 2],
    /// Widths of the straight-through kernels.
    pub bandwidth: [f32; 2],
    pub params: &'a Params,
    pub families: &'a Families,
    pub gate: GateKind,
    pub decoder: Decoder,
    pub source: Source,
    pub detach: bool,
    pub two: bool,
    pub own: bool,
    /// The consistency loss.
    pub term: Term<'a>,
    /// Whether it needs ungated pre-activations of level 2, and entries of their parents.
    pub drives: bool,
    pub decoder2: &'a [f32],
    pub norms: [&'a [f32]; 2],
}

/// Fills the gradients of every entry, AuxK's `e1`, `e2`, `dL/dS`, and the partial sums of the loss.
pub(super) fn run(o: &mut Objective, params: &Params, families: &Families, settings: &StepSettings, losses: &Losses) {
    let (d, slots) = (o.arch.d, o.slots);
    let n = o.n as f64;
    let unit = 1.0 / (n * f64::from(settings.variance));
    let config = &o.config;
    let aux = [0, 1].map(|l| aux_weight(o, settings, losses, l));
    let f = Factors {
        isa: o.compute.isa,
        d,
        f: o.arch.latents(),
        recon: [0, 1].map(|l| (2.0 * f64::from(settings.w[l]) * unit) as f32),
        aux: aux.map(|a| (2.0 * a * unit) as f32),
        gated: (2.0 * config.loss.gated_aux * unit) as f32,
        penalty: [0, 1].map(|l| (f64::from(settings.lambda[l]) / n) as f32),
        rules: [0, 1].map(|l| super::forward::level_rule(l, &o.arch, params, settings)),
        bandwidth: [0, 1].map(|l| config.level(l).bandwidth as f32),
        params,
        families,
        gate: settings.gate,
        decoder: o.arch.decoder,
        source: o.arch.source,
        detach: config.source_detach,
        two: o.arch.level[1].latents > 0,
        own: o.own(),
        term: objective::term(&o.config, o.compute.isa, o.n, settings.variance, params, families, &o.seed_cos),
        drives: o.arch.n_levels() == 2 && config.loss.consistency.needs().drives,
        decoder2: if o.composed.is_empty() { &params.level[1].w_dec } else { &o.composed },
        norms: [&o.norms[0], &o.norms[1]],
    };
    let kept = [0, 1].map(|l| o.kept(l, settings, losses));
    o.compute.par.for_items(&mut o.lanes, &mut o.chunks, &mut o.rows, CHUNK * slots * d, |lane, c, chunk, buffer| {
        chunk.sums = objective::Sums { squares: chunk.sums.squares, fired: chunk.sums.fired, ..Default::default() };
        if f.drives {
            add_parents(&f, chunk, lane, buffer, slots);
        }
        for (l, e) in chunk.level.iter_mut().enumerate() {
            e.grad.exchange(&mut lane.spare[l], kept[l]);
            e.grad.zero(e.index.len());
        }
        for (i, row) in buffer.chunks_mut(slots * d).enumerate() {
            if f.two {
                level2(&f, chunk, lane, c * CHUNK + i, i, row);
            }
            level1(&f, chunk, lane, c * CHUNK + i, i, row);
        }
        for (l, e) in chunk.level.iter_mut().enumerate() {
            e.grad.exchange(&mut lane.spare[l], kept[l]);
        }
    });
}

/// `alpha_l = aux / l_l * min(n_dead / k_aux, 1)`; 0 where nothing is dead or nothing is left to explain.
pub(super) fn aux_weight(o: &Objective, settings: &StepSettings, losses: &Losses, level: usize) -> f64 {
    let revive = &o.config.revive;
    let dead = settings.dead[level].len();
    if dead == 0 || losses.fvu[level].is_nan() || losses.fvu[level] <= 0.0 || level >= o.n_levels() {
        return 0.0;
    }
    let k_aux = if revive.k_aux > 0 { revive.k_aux } else { (o.arch.d / 2).max(1) };
    o.config.loss.aux / losses.fvu[level] * (dead as f64 / k_aux as f64).min(1.0)
}

/// Gives an entry, with its pre-activation, to every silent parent of a child in `drives`: a consistency loss that needs
/// ungated pre-activations penalises both sides.
fn add_parents(f: &Factors<'_>, chunk: &mut Chunk, lane: &mut Lane, buffer: &[f32], slots: usize) {
    let Chunk { level: [e1, _], aux: [aux, _], drives, .. } = chunk;
    let Lane { place: [place, _], old, .. } = lane;
    old.copy_from(e1);
    e1.clear();
    let lit = aux.offsets.len() > 1;
    for (i, row) in buffer.chunks(slots * f.d).enumerate() {
        for at in old.row(i) {
            place[old.index[at] as usize] = e1.count() as u32;
            e1.push(old.index[at], old.u[at], old.z[at], None);
            if lit {
                e1.v.push(old.v[at]);
            }
        }
        for at in drives.row(i) {
            let p = f.families.parents()[drives.index[at] as usize];
            if p != gate::ROOT && place[p as usize] == u32::MAX {
                let p = p as usize;
                let u = reduce::dot(f.isa, &f.params.level[0].w_enc[p * f.d..(p + 1) * f.d], &row[..f.d])
                    + f.params.level[0].b_enc[p];
                place[p] = e1.count() as u32;
                e1.push(p as u32, u, 0.0, None);
                if lit {
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

fn level2(f: &Factors<'_>, chunk: &mut Chunk, lane: &mut Lane, b: usize, i: usize, row: &mut [f32]) {
    let d = f.d;
    let (head, tail) = row.split_at_mut(slot::e1(true) * d);
    let (xt, r1, r2) = (&head[..d], &head[d..2 * d], &head[2 * d..]);
    let Chunk { level: [e1, e2], aux: [_, picks], sums, drives, .. } = chunk;
    let (mut one, mut two) = (e1.row_mut(i), e2.row_mut(i));

    reconstruction(f.isa, f.recon[1], two.index, f.decoder2, r2, two.grad_z[0], &mut lane.row);
    f.rules[1].penalise(f.penalty[1], f.norms[1], &mut two, &mut sums.sparsity[1]);
    f.term.add_level(1, b, &mut two);
    sums.consistency += f.term.add_rows([&mut one, &mut two], lane.loss());
    if f.aux[1] > 0.0 {
        sums.aux[1] += aux_row(f, 1, &mut two, picks.code(i), r2, f.decoder2, &mut tail[d..2 * d], &mut lane.row);
    }
    let base = if f.decoder.is_cumulative() { r1 } else { xt };
    sums.gated[1] += f.rules[1].auxiliary(auxiliary(f, base, f.decoder2, lane), &mut two);
    f.rules[1].backward(&activation_of(f, 1), &mut two);
    f.gate.backward(two.a, two.g, two.grad_u[0], two.grad_a, two.grad_g);
    if f.drives {
        sums.consistency += f.term.add_drives(drives.code(i), [&mut one, &mut two], lane.loss());
    }
    // What flows on into level 1.
    if f.gate.has_weights() {
        gate::soft_backward(&f.params.gate.w, f.f[1], &mut one, &two);
    }
    let by = source::Backward {
        isa: f.isa,
        w2: &f.params.level[1].w_enc,
        d1: &f.params.level[0].w_dec,
        f1: f.f[0],
        detach: f.detach,
        grad_s: if f.source.reaches_decoder1(f.detach) { &mut tail[2 * d..3 * d] } else { &mut [] },
        row: &mut lane.row,
    };
    f.source.backward(by, &mut one, &two);
}

fn level1(f: &Factors<'_>, chunk: &mut Chunk, lane: &mut Lane, b: usize, i: usize, row: &mut [f32]) {
    let d = f.d;
    let (head, tail) = row.split_at_mut(slot::e1(f.two) * d);
    let (xt, r1, r2) = (&head[..d], &head[d..2 * d], &head[2 * d..]);
    let Chunk { level: [e1, _], aux: [picks, _], sums, .. } = chunk;
    let mut one = e1.row_mut(i);
    let decoder = &f.params.level[0].w_dec;

    reconstruction(f.isa, f.recon[0], one.index, decoder, r1, one.grad_z[0], &mut lane.row);
    if f.two && f.decoder.is_cumulative() {
        reconstruction(f.isa, f.recon[1], one.index, decoder, r2, one.grad_z[1], &mut lane.row);
    }
    f.rules[0].penalise(f.penalty[0], f.norms[0], &mut one, &mut sums.sparsity[0]);
    f.term.add_level(0, b, &mut one);
    if f.aux[0] > 0.0 {
        sums.aux[0] += aux_row(f, 0, &mut one, picks.code(i), r1, decoder, &mut tail[..d], &mut lane.row);
    }
    sums.gated[0] += f.rules[0].auxiliary(auxiliary(f, xt, decoder, lane), &mut one);
    f.rules[0].backward(&activation_of(f, 0), &mut one);
}

/// Adds `dz_j -= c r . D_j` to the entries of a row: the gradient of a reconstruction with the residual `r`.
fn reconstruction(
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

/// Returns what the backward pass of a level's activation needs.
fn activation_of(f: &Factors<'_>, level: usize) -> activation::Backward {
    activation::Backward { own: f.own, penalty: f.penalty[level], bandwidth: f.bandwidth[level] }
}

/// Returns what the auxiliary reconstruction of `base` by an activation reads and works in.
fn auxiliary<'a>(f: &Factors<'_>, base: &'a [f32], decoder: &'a [f32], lane: &'a mut Lane) -> Auxiliary<'a> {
    let Lane { vector, row, row2: magnitude, .. } = lane;
    Auxiliary { isa: f.isa, weight: f.gated, base, decoder, vector, row, magnitude }
}

/// Computes AuxK of one row: `e = (2 alpha / (n nu)) (v D - r)`, `du += (e D^T) 1[v > 0]`. Returns
/// `alpha / (n nu) |v D - r|^2`.
///
/// `picks` are the selected latents of the row, ascending, which is the order of the sum `v D`; among the entries,
/// selected latents that also fire come first.
fn aux_row(
    f: &Factors<'_>,
    l: usize,
    entries: &mut EntryRow<'_>,
    picks: CodeRow<'_>,
    r: &[f32],
    decoder: &[f32],
    out: &mut [f32],
    dots: &mut Vec<f32>,
) -> f64 {
    out.fill(0.0);
    sparse::accumulate_rows(f.isa, picks.index, picks.value, decoder, f.d, out);
    for (o, r) in out.iter_mut().zip(r) {
        *o -= r;
    }
    let value = 0.5 * f64::from(f.aux[l]) * f64::from(reduce::sum_squares(f.isa, out));
    reduce::scale(f.isa, f.aux[l], out);
    dots.resize(entries.index.len(), 0.0);
    sparse::dot_rows(f.isa, entries.index, decoder, f.d, out, dots);
    for (at, dot) in dots.iter().enumerate() {
        if entries.v[at] > 0.0 {
            entries.grad_u[0][at] += dot;
        }
    }
    value
}
