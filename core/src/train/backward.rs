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

use super::entries::{Entries, List};
use super::forward::code_row;
use super::objective::{CHUNK, Chunk, Lane, Losses, Objective, StepSettings, slot};
use crate::activation;
use crate::config::{Activation, Consistency, Decoder, GateKind, LevelConfig, Source};
use crate::gate::{self, Families};
use crate::kernel::{Isa, reduce, sparse};
use crate::loss::seed_cos::SeedCos;
use crate::loss::{containment, latent, structural};
use crate::model::Params;

/// The factors of one call.
pub(super) struct Factors<'a> {
    pub isa: Isa,
    pub d: usize,
    pub f: [usize; 2],
    pub n: f32,
    /// `2 w_l / (n nu)`.
    pub recon: [f32; 2],
    /// `2 alpha_l / (n nu)`, where AuxK acts.
    pub aux: [f32; 2],
    /// `2 wg / (n nu)`.
    pub gated: f32,
    /// `lambda_l / n`.
    pub penalty: [f32; 2],
    /// `1 / (n nu)`.
    pub unit: f32,
    pub activation: [Activation; 2],
    pub levels: [&'a LevelConfig; 2],
    pub params: &'a Params,
    pub families: &'a Families,
    pub gate: GateKind,
    pub decoder: Decoder,
    pub source: Source,
    pub detach: bool,
    pub two: bool,
    pub own: bool,
    pub consistency: Consistency,
    /// Weight of the consistency loss.
    pub weight: f32,
    pub contain: containment::Weights,
    pub decoder2: &'a [f32],
    pub norms: [&'a [f32]; 2],
    pub seed_cos: &'a SeedCos,
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
        n: n as f32,
        recon: [0, 1].map(|l| (2.0 * f64::from(settings.w[l]) * unit) as f32),
        aux: aux.map(|a| (2.0 * a * unit) as f32),
        gated: (2.0 * config.loss.gated_aux * unit) as f32,
        penalty: [0, 1].map(|l| (f64::from(settings.lambda[l]) / n) as f32),
        unit: unit as f32,
        activation: o.arch.level.map(|level| level.activation),
        levels: [&config.level1, &config.level2],
        params,
        families,
        gate: settings.gate,
        decoder: o.arch.decoder,
        source: o.arch.source,
        detach: config.source_detach,
        two: o.arch.level[1].latents > 0,
        own: o.own(),
        consistency: config.loss.consistency,
        weight: config.loss.consistency_weight as f32,
        contain: containment::Weights {
            down: config.loss.contain_down as f32,
            up: config.loss.contain_up as f32,
            margin: config.loss.contain_margin as f32,
        },
        decoder2: if o.composed.is_empty() { &params.level[1].w_dec } else { &o.composed },
        norms: [&o.norms[0], &o.norms[1]],
        seed_cos: &o.seed_cos,
    };
    let kept = [0, 1].map(|l| o.kept(l, settings, losses));
    o.compute.par.for_items(&mut o.lanes, &mut o.chunks, &mut o.rows, CHUNK * slots * d, |lane, c, chunk, buffer| {
        chunk.sums =
            super::objective::Sums { squares: chunk.sums.squares, fired: chunk.sums.fired, ..Default::default() };
        if f.consistency == Consistency::Contain && f.two {
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

/// Containment charges parents that do not fire: gives each an entry, with its pre-activation.
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
    let Chunk { level: [e1, e2], aux: [_, aux2], sums, drives, .. } = chunk;
    let range = e2.row(i);

    lane.row.resize(range.len(), 0.0);
    sparse::dot_rows(f.isa, &e2.index[range.clone()], f.decoder2, d, r2, &mut lane.row);
    for (at, dot) in range.clone().zip(&lane.row) {
        e2.grad.z[0][at] -= f.recon[1] * dot;
    }
    penalise(f, 1, e2, range.clone(), sums);
    match f.consistency {
        Consistency::SeedCos => seed_cos(f, 1, e2, range.clone(), b),
        Consistency::Struct => {
            sums.consistency += f64::from(f.weight * f.unit)
                * structural::row(f.isa, f.params, f.families, f.d, i, e1, e2, 2.0 * f.weight * f.unit, lane);
        }
        Consistency::Latent => {
            let value = latent::row(
                f.isa,
                &f.params.level[1].w_dec,
                f.f[0],
                code_row(e1, i),
                e2,
                range.clone(),
                2.0 * f.weight / f.n,
                lane,
            );
            sums.consistency += f64::from(f.weight / f.n) * value;
        }
        _ => {}
    }
    if f.aux[1] > 0.0 {
        sums.aux[1] += aux_row(f, 1, e2, aux2, i, r2, f.decoder2, &mut tail[d..2 * d], lane);
    }
    if f.activation[1] == Activation::Gated {
        let base = if f.decoder.is_cumulative() { r1 } else { xt };
        sums.gated[1] += gated_row(f, 1, e2, range.clone(), base, f.decoder2, lane);
    }
    activation_backward(f, 1, e2, range.clone());
    for at in range.clone() {
        let grad_u = e2.grad.u[0][at];
        (e2.grad.a[at], e2.grad.g[at]) = match f.gate {
            GateKind::Mul => gate::mul_backward(e2.a[at], e2.g[at], grad_u),
            GateKind::Add => (grad_u, grad_u),
            GateKind::None | GateKind::Hard | GateKind::GroupTop1 => (grad_u, 0.0),
        };
    }
    if f.consistency == Consistency::Contain {
        sums.consistency += f64::from(f.weight / f.n)
            * containment::row(f.families, &f.contain, drives, i, e1, e2, f.weight / f.n, &mut lane.place);
    }
    // What flows on into level 1.
    let range1 = e1.row(i);
    if f.gate.has_weights() {
        let weight = &f.params.gate.w;
        for at1 in range1.clone() {
            let g_row = &weight[e1.index[at1] as usize * f.f[1]..][..f.f[1]];
            let mut sum = 0.0f32;
            for at in range.clone() {
                sum += e2.grad.g[at] * g_row[e2.index[at] as usize];
            }
            e1.grad.z[1][at1] += sum;
        }
    }
    match f.source {
        Source::X => {}
        Source::Res if f.detach => {}
        Source::Res => {
            let ds = &mut tail[2 * d..3 * d];
            ds.fill(0.0);
            sparse::accumulate_rows(
                f.isa,
                &e2.index[range.clone()],
                &e2.grad.a[range],
                &f.params.level[1].w_enc,
                d,
                ds,
            );
            lane.row.resize(range1.len(), 0.0);
            sparse::dot_rows(f.isa, &e1.index[range1.clone()], &f.params.level[0].w_dec, d, ds, &mut lane.row);
            for (at1, dot) in range1.zip(&lane.row) {
                e1.grad.z[1][at1] -= dot;
            }
        }
        Source::Z1 => {
            for at1 in range1 {
                let mut sum = 0.0f32;
                for at in range.clone() {
                    sum += e2.grad.a[at]
                        * f.params.level[1].w_enc[e2.index[at] as usize * f.f[0] + e1.index[at1] as usize];
                }
                e1.grad.z[1][at1] += sum;
            }
        }
    }
}

fn level1(f: &Factors<'_>, chunk: &mut Chunk, lane: &mut Lane, b: usize, i: usize, row: &mut [f32]) {
    let d = f.d;
    let (head, tail) = row.split_at_mut(slot::e1(f.two) * d);
    let (xt, r1, r2) = (&head[..d], &head[d..2 * d], &head[2 * d..]);
    let Chunk { level: [e1, _], aux: [aux1, _], sums, .. } = chunk;
    let range = e1.row(i);
    let decoder = &f.params.level[0].w_dec;

    lane.row.resize(range.len(), 0.0);
    sparse::dot_rows(f.isa, &e1.index[range.clone()], decoder, d, r1, &mut lane.row);
    for (at, dot) in range.clone().zip(&lane.row) {
        e1.grad.z[0][at] -= f.recon[0] * dot;
    }
    if f.two && f.decoder.is_cumulative() {
        sparse::dot_rows(f.isa, &e1.index[range.clone()], decoder, d, r2, &mut lane.row);
        for (at, dot) in range.clone().zip(&lane.row) {
            e1.grad.z[1][at] -= f.recon[1] * dot;
        }
    }
    penalise(f, 0, e1, range.clone(), sums);
    if f.consistency == Consistency::SeedCos {
        seed_cos(f, 0, e1, range.clone(), b);
    }
    if f.aux[0] > 0.0 {
        sums.aux[0] += aux_row(f, 0, e1, aux1, i, r1, decoder, &mut tail[..d], lane);
    }
    if f.activation[0] == Activation::Gated {
        sums.gated[0] += gated_row(f, 0, e1, range.clone(), xt, decoder, lane);
    }
    activation_backward(f, 0, e1, range);
}

/// Sparsity: `lambda/n sum z |D_j|` (relu, topk, batchtopk), `lambda/n sum 1[z > 0]` (jumprelu), `lambda/n sum relu(u)` (gated).
fn penalise(
    f: &Factors<'_>,
    l: usize,
    e: &mut Entries,
    range: core::ops::Range<usize>,
    sums: &mut super::objective::Sums,
) {
    let penalty = f.penalty[l];
    if penalty == 0.0 {
        return;
    }
    for at in range {
        match f.activation[l] {
            Activation::Relu | Activation::Topk | Activation::Batchtopk => {
                let norm = f.norms[l][e.index[at] as usize];
                if e.z[at] > 0.0 {
                    sums.sparsity[l] += f64::from(penalty) * f64::from(e.z[at] * norm);
                    e.grad.z[0][at] += penalty * norm;
                }
            }
            Activation::Jumprelu => sums.sparsity[l] += if e.z[at] > 0.0 { f64::from(penalty) } else { 0.0 },
            Activation::Gated => {
                if e.u[at] > 0.0 {
                    sums.sparsity[l] += f64::from(penalty) * f64::from(e.u[at]);
                    e.grad.u[0][at] += penalty;
                }
            }
        }
    }
}

fn seed_cos(f: &Factors<'_>, l: usize, e: &mut Entries, range: core::ops::Range<usize>, b: usize) {
    let scale = f.weight / (f.f[0] as f32 * f.f[1] as f32);
    for at in range {
        e.grad.z[0][at] += scale * f.seed_cos.grad(l, e.index[at] as usize, b, e.z[at]);
    }
}

/// Computes AuxK of one row: `e = (2 alpha / (n nu)) (v D - r)`, `du += (e D^T) 1[v > 0]`. Returns
/// `alpha / (n nu) |v D - r|^2`.
///
/// `picks` holds the selected latents of every row, ascending, which is the order of the sum `v D`; among the entries,
/// selected latents that also fire come first.
fn aux_row(
    f: &Factors<'_>,
    l: usize,
    e: &mut Entries,
    picks: &List,
    i: usize,
    r: &[f32],
    decoder: &[f32],
    out: &mut [f32],
    lane: &mut Lane,
) -> f64 {
    out.fill(0.0);
    let picked = picks.row(i);
    sparse::accumulate_rows(f.isa, &picks.index[picked.clone()], &picks.u[picked], decoder, f.d, out);
    for (o, r) in out.iter_mut().zip(r) {
        *o -= r;
    }
    let value = 0.5 * f64::from(f.aux[l]) * f64::from(reduce::sum_squares(f.isa, out));
    reduce::scale(f.isa, f.aux[l], out);
    let range = e.row(i);
    lane.row.resize(range.len(), 0.0);
    sparse::dot_rows(f.isa, &e.index[range.clone()], decoder, f.d, out, &mut lane.row);
    for (at, dot) in range.zip(&lane.row) {
        if e.v[at] > 0.0 {
            e.grad.u[0][at] += dot;
        }
    }
    value
}

/// Auxiliary reconstruction of a gated level through a frozen decoder:
/// `a = (2 wg / (n nu)) (relu(u) D - base)`, `du += (a D^T) 1[u > 0]`. Returns `wg / (n nu) |relu(u) D - base|^2`.
fn gated_row(
    f: &Factors<'_>,
    l: usize,
    e: &mut Entries,
    range: core::ops::Range<usize>,
    base: &[f32],
    decoder: &[f32],
    lane: &mut Lane,
) -> f64 {
    let _ = l;
    let Lane { row, row2, vector: [v, _], .. } = lane;
    let index = &e.index[range.clone()];
    row2.clear();
    row2.extend(e.u[range.clone()].iter().map(|u| u.max(0.0)));
    v.fill(0.0);
    sparse::accumulate_rows(f.isa, index, row2, decoder, f.d, v);
    for (v, b) in v.iter_mut().zip(base) {
        *v -= b;
    }
    let value = 0.5 * f64::from(f.gated) * f64::from(reduce::sum_squares(f.isa, v));
    row.resize(range.len(), 0.0);
    sparse::dot_rows(f.isa, index, decoder, f.d, v, row);
    for (at, dot) in range.zip(row.iter()) {
        if e.u[at] > 0.0 {
            e.grad.u[0][at] += f.gated * dot;
        }
    }
    value
}

/// From `dL/dz` to `dL/du`, and to the activation's own parameters.
fn activation_backward(f: &Factors<'_>, l: usize, e: &mut Entries, range: core::ops::Range<usize>) {
    let params = &f.params.level[l];
    for at in range {
        let j = e.index[at] as usize;
        let fires = e.z[at] > 0.0;
        let [own, through] = [e.grad.z[0][at], e.grad.z[1][at]];
        let seen = if f.own { own } else { own + through };
        match f.activation[l] {
            Activation::Relu | Activation::Topk | Activation::Batchtopk => {
                if fires {
                    e.grad.u[0][at] += own;
                    e.grad.u[1][at] += through;
                }
            }
            Activation::Jumprelu => {
                if fires {
                    e.grad.u[0][at] += own;
                    e.grad.u[1][at] += through;
                }
                let bandwidth = f.levels[l].bandwidth as f32;
                e.grad.p[0][at] =
                    activation::jump_threshold_backward(e.u[at], params.threshold[j], bandwidth, seen, f.penalty[l]);
            }
            Activation::Gated => {
                if fires {
                    let (du, dr, db) = activation::gated_backward(e.u[at], params.r_mag[j]);
                    e.grad.u[0][at] += own * du;
                    e.grad.u[1][at] += through * du;
                    e.grad.p[0][at] = seen * dr;
                    e.grad.p[1][at] = seen * db;
                }
            }
        }
    }
}
