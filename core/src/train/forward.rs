//! Stages 1 and 2: both levels forward, selection over the batch, residuals.

use super::entries::{Entries, List};
use super::objective::{CHUNK, Chunk, Knobs, Lane, Losses, Objective, slot};
use crate::activation;
use crate::config::{Activation, Budget, Consistency, Decoder, GateKind};
use crate::gate::Families;
use crate::kernel::{Isa, reduce, select, sparse};
use crate::model::{CodeRow, Id, Params, Weights};
use alloc::vec::Vec;
use core::ops::Range;

/// How a level is read, for one call.
#[derive(Clone, Copy)]
struct LevelRule<'a> {
    activation: Activation,
    k: f64,
    floor: f32,
    r_mag: &'a [f32],
    b_mag: &'a [f32],
    theta: &'a [f32],
}

/// Runs both levels: afterwards every chunk holds its entries, and the row buffer `xt`, `r1`, `r2`.
pub(super) fn run(
    o: &mut Objective,
    params: &Params,
    families: &Families,
    knobs: &Knobs,
    x: &[f32],
    losses: &mut Losses,
) {
    let two = o.n_levels() == 2;
    let shared = o.config.budget == Budget::Shared;
    let mut first = 0;
    while first < o.n_levels() {
        // Levels that share a budget are chosen from together; their settings say that level 2 does not read level 1.
        let levels = &(first..if shared { 2 } else { first + 1 });
        let batchtopk = [o.arch.activation1, o.arch.activation2][first] == Activation::Batchtopk;
        if batchtopk && o.floor[first].is_none() {
            let floor = first_floor(o, params, families, knobs, x, levels);
            o.floor[levels.clone()].fill(Some(floor));
        }
        loop {
            for level in levels.clone() {
                collect(o, params, families, knobs, x, level, usize::MAX);
            }
            if !batchtopk || !lower_floor(o, knobs, levels) {
                break;
            }
        }
        choose(o, knobs, levels, losses);
        first = levels.end;
    }
    finish(o, params, knobs, two, shared);
}

/// A floor for the first batch, from its first chunk: half of that chunk's own cut.
fn first_floor(
    o: &mut Objective,
    params: &Params,
    families: &Families,
    knobs: &Knobs,
    x: &[f32],
    levels: &Range<usize>,
) -> f32 {
    o.floor[levels.clone()].fill(Some(0.0));
    for level in levels.clone() {
        collect(o, params, families, knobs, x, level, 1);
    }
    o.values.clear();
    for level in levels.clone() {
        o.values.extend_from_slice(&o.chunks[0].candidates[level].u);
    }
    let rows = o.n.min(CHUNK) as f64;
    let want = libm::ceil(budget(knobs, levels) * rows) as usize;
    if o.values.len() < want { 0.0 } else { 0.5 * select::kth_largest(&mut o.values, want.max(1)) }
}

/// Whether too few candidates lie above the floor while there may be more below: lowers it then.
fn lower_floor(o: &mut Objective, knobs: &Knobs, levels: &Range<usize>) -> bool {
    let found: usize = o.chunks.iter().flat_map(|c| &c.candidates[levels.clone()]).map(|list| list.u.len()).sum();
    let floor = o.floor[levels.start].unwrap_or(0.0);
    if found >= keep_of(budget(knobs, levels), o.n) || floor <= 0.0 {
        return false;
    }
    o.floor[levels.clone()].fill(Some(if floor < 1e-6 { 0.0 } else { 0.25 * floor }));
    true
}

/// Latents a row that the levels may have between them.
fn budget(knobs: &Knobs, levels: &Range<usize>) -> f64 {
    knobs.k[levels.clone()].iter().sum()
}

/// Entries that `batchtopk` keeps of `n` rows.
fn keep_of(k: f64, n: usize) -> usize {
    (libm::round(k * n as f64) as usize).max(1)
}

/// Scans the rows of the first `n_chunks` chunks: candidates, AuxK's picks and ungated drives of one level.
fn collect(
    o: &mut Objective,
    params: &Params,
    families: &Families,
    knobs: &Knobs,
    x: &[f32],
    level: usize,
    n_chunks: usize,
) {
    let (d, slots, isa) = (o.arch.d, o.slots, o.isa);
    let arch = o.arch;
    let weights = Weights { arch: &arch, params, packed1: &o.packed[0], families, gate: knobs.gate };
    let packed2 = &o.packed[1];
    let config = &o.config;
    let rules = [0, 1].map(|l| level_rule(l, &arch, params, knobs, o.floor[l].unwrap_or(0.0)));
    let k_aux = if config.revive.k_aux > 0 { config.revive.k_aux } else { (d / 2).max(1) };
    let aux = config.loss.aux > 0.0 && !knobs.dead[level].is_empty();
    let drives = level == 1 && (knobs.collect_drives || config.loss.consistency == Consistency::Contain);
    let used = o.chunks.len().min(n_chunks);
    let width = CHUNK * slots * d;
    let rows = &mut o.rows[..];
    let end = rows.len().min(used * width);
    o.par.for_items(&mut o.lanes, &mut o.chunks[..used], &mut rows[..end], width, |lane, c, chunk, buffer| {
        let n = buffer.len() / (slots * d);
        if level == 0 {
            let first = c * CHUNK * d;
            for i in 0..n {
                let row = &mut buffer[(i * slots + slot::XT) * d..][..d];
                reduce::sub_into(isa, &x[first + i * d..first + (i + 1) * d], &params[Id::BDec], row);
            }
        }
        for i in 0..n {
            lane.forward.xt[i * d..(i + 1) * d].copy_from_slice(&buffer[(i * slots + slot::XT) * d..][..d]);
        }
        if level == 0 {
            weights.drive1(isa, 0..n, &mut lane.forward);
        } else {
            settle(&rules[0], chunk, 0, lane, None);
            let entries = &chunk.level[0];
            weights.source(isa, n, |i| code_row(entries, i), &mut lane.forward);
            weights.drive2(isa, packed2, 0..n, &mut lane.forward);
        }
        chunk.candidates[level].clear();
        chunk.aux[level].clear();
        if level == 1 {
            chunk.drives.clear();
        }
        for i in 0..n {
            let Lane { forward, u_dead, picked, bands, .. } = lane;
            let (f, soft) = if level == 0 { (arch.f1, false) } else { (arch.f2, knobs.gate.is_soft()) };
            if drives {
                let a = &forward.a2[i * f..(i + 1) * f];
                collect_drives(isa, &rules[1], knobs.tau[1], a, &mut chunk.drives);
                chunk.drives.end_row(None);
            }
            let u: &[f32] = if level == 0 {
                &forward.u1[i * f..(i + 1) * f]
            } else {
                weights.gate_row(isa, i, code_row(&chunk.level[0], i), forward);
                if knobs.gate == GateKind::None { &forward.a2[i * f..(i + 1) * f] } else { &forward.u2 }
            };
            let a_and_g = || (&forward.a2[i * f..(i + 1) * f], &forward.g2[..]);
            let list = &mut chunk.candidates[level];
            candidates(isa, &rules[level], &bands[level], u, list);
            list.end_row(soft.then(a_and_g));
            if aux {
                let list = &mut chunk.aux[level];
                pick_dead(isa, &knobs.dead[level], k_aux, u, u_dead, picked, list);
                list.end_row(soft.then(a_and_g));
            }
        }
    });
}

/// The latents of a row that its activation may let fire.
fn candidates(isa: Isa, rule: &LevelRule<'_>, band: &[f32], u: &[f32], list: &mut List) {
    match rule.activation {
        Activation::Relu | Activation::Gated => select::above(isa, u, 0.0, &mut list.index, &mut list.u),
        Activation::Topk => select::topk_row(isa, u, rule.k as usize, &mut list.index, &mut list.u),
        Activation::Batchtopk => select::above(isa, u, rule.floor, &mut list.index, &mut list.u),
        Activation::Jumprelu => select::above_each(isa, u, band, &mut list.index, &mut list.u),
    }
}

/// Ungated drives that would fire.
fn collect_drives(isa: Isa, rule: &LevelRule<'_>, threshold: f32, a: &[f32], list: &mut List) {
    match rule.activation {
        Activation::Relu => select::above(isa, a, 0.0, &mut list.index, &mut list.u),
        Activation::Topk | Activation::Batchtopk => {
            select::above(isa, a, threshold.max(0.0), &mut list.index, &mut list.u)
        }
        Activation::Jumprelu => select::above_each(isa, a, rule.theta, &mut list.index, &mut list.u),
        Activation::Gated => {
            let first = list.index.len();
            select::above(isa, a, 0.0, &mut list.index, &mut list.u);
            let mut kept = first;
            for e in first..list.index.len() {
                let j = list.index[e] as usize;
                if activation::gated(list.u[e], rule.r_mag[j], rule.b_mag[j]) > 0.0 {
                    list.index[kept] = list.index[e];
                    list.u[kept] = list.u[e];
                    kept += 1;
                }
            }
            list.index.truncate(kept);
            list.u.truncate(kept);
        }
    }
}

/// The `k_aux` largest positive pre-activations among the dead latents of a row.
fn pick_dead(
    isa: Isa,
    dead: &[u32],
    k_aux: usize,
    u: &[f32],
    u_dead: &mut Vec<f32>,
    picked: &mut List,
    list: &mut List,
) {
    u_dead.clear();
    u_dead.extend(dead.iter().map(|&j| u[j as usize]));
    picked.clear();
    select::topk_row(isa, u_dead, k_aux, &mut picked.index, &mut picked.u);
    for (&i, &v) in picked.index.iter().zip(&picked.u) {
        list.index.push(dead[i as usize]);
        list.u.push(v);
    }
}

/// Decides over the batch which candidates of the levels are kept, and notes the smallest one that is.
///
/// Ties go to the lower chunk, then to the lower level, row and latent.
fn choose(o: &mut Objective, knobs: &Knobs, levels: &Range<usize>, losses: &mut Losses) {
    let first = levels.start;
    let activation = [o.arch.activation1, o.arch.activation2][first];
    let values = &mut o.values;
    if activation == Activation::Topk {
        let least = o.chunks.iter().flat_map(|c| c.candidates[first].u.iter().copied()).fold(f32::INFINITY, f32::min);
        losses.selected_min[first] = if least.is_finite() { least } else { 0.0 };
    }
    if activation != Activation::Batchtopk {
        return;
    }
    values.clear();
    for list in o.chunks.iter().flat_map(|c| &c.candidates[levels.clone()]) {
        values.extend_from_slice(&list.u);
    }
    let above = values.iter().filter(|v| **v > knobs.tau[first]).count();
    let keep = keep_of(budget(knobs, levels), o.n);
    let mut cut = f32::NEG_INFINITY;
    let mut ties = usize::MAX;
    if values.len() > keep {
        cut = select::kth_largest(values, keep);
        ties = keep - values.iter().filter(|v| **v > cut).count();
    }
    let least = if values.len() > keep { cut } else { values.iter().copied().fold(f32::INFINITY, f32::min) };
    for list in o.chunks.iter_mut().flat_map(|c| &mut c.candidates[levels.clone()]) {
        let equal = list.u.iter().filter(|v| **v == cut).count().min(ties);
        ties -= equal;
        list_keep(list, cut, equal);
    }
    let least = if least.is_finite() { least } else { 0.0 };
    // Where everything positive was kept, the next batch is scanned from 0 at once.
    let floor = if o.values.len() > keep { 0.5 * least } else { 0.0 };
    o.floor[levels.clone()].fill(Some(floor));
    losses.selected_min[levels.clone()].fill(least);
    losses.above_tau[levels.clone()].fill(above);
}

/// Keeps the candidates above the cut, and the first `ties` of those that equal it.
fn list_keep(list: &mut List, cut: f32, mut ties: usize) {
    let mut kept = 0;
    let mut start = 0;
    for i in 0..list.offsets.len() - 1 {
        let end = list.offsets[i + 1] as usize;
        for at in start..end {
            let u = list.u[at];
            let keep = u > cut || (u == cut && ties > 0);
            if keep {
                if u == cut {
                    ties -= 1;
                }
                list.index[kept] = list.index[at];
                list.u[kept] = u;
                if !list.a.is_empty() {
                    list.a[kept] = list.a[at];
                    list.g[kept] = list.g[at];
                }
                kept += 1;
            }
        }
        start = end;
        list.offsets[i + 1] = kept as u32;
    }
    list.index.truncate(kept);
    list.u.truncate(kept);
    if !list.a.is_empty() {
        list.a.truncate(kept);
        list.g.truncate(kept);
    }
}

/// Turns the candidates of a level into entries: values, AuxK's picks, and with `drives` every charged drive.
fn settle(
    rule: &LevelRule<'_>,
    chunk: &mut Chunk,
    level: usize,
    lane: &mut Lane,
    drives: Option<&dyn Fn(usize, usize) -> f32>,
) {
    let entries = &mut chunk.level[level];
    let list = &chunk.candidates[level];
    let aux = &chunk.aux[level];
    let place = &mut lane.place[level];
    entries.clear();
    let mut fired = 0;
    for i in 0..list.offsets.len() - 1 {
        for at in list.row(i) {
            let (j, u) = (list.index[at] as usize, list.u[at]);
            let z = match rule.activation {
                Activation::Relu | Activation::Topk | Activation::Batchtopk => u,
                Activation::Jumprelu => {
                    if u > rule.theta[j] {
                        u
                    } else {
                        0.0
                    }
                }
                Activation::Gated => activation::gated(u, rule.r_mag[j], rule.b_mag[j]),
            };
            let z = z.max(0.0);
            fired += u64::from(z > 0.0);
            let (a, g) = list.soft(at);
            place[j] = entries.count() as u32;
            entries.push(j as u32, u, z, 0.0, a, g);
        }
        if aux.offsets.len() > 1 {
            for at in aux.row(i) {
                let j = aux.index[at];
                match place[j as usize] {
                    u32::MAX => {
                        let (a, g) = aux.soft(at);
                        place[j as usize] = entries.count() as u32;
                        entries.push(j, aux.u[at], 0.0, aux.u[at], a, g);
                    }
                    e => entries.v[e as usize] = aux.u[at],
                }
            }
        }
        if let Some(charged) = drives {
            for at in chunk.drives.row(i) {
                let j = chunk.drives.index[at];
                if place[j as usize] == u32::MAX {
                    place[j as usize] = entries.count() as u32;
                    entries.push(j, charged(i, at), 0.0, 0.0, chunk.drives.u[at], 0.0);
                }
            }
        }
        entries.end_row();
        for at in entries.row(i) {
            place[entries.index[at] as usize] = u32::MAX;
        }
    }
    chunk.sums.fired[level] = fired;
}

/// The entries of a row that stand in for its code: silent ones have the value 0.
pub(super) fn code_row(entries: &Entries, i: usize) -> CodeRow<'_> {
    let range = entries.row(i);
    CodeRow { index: &entries.index[range.clone()], value: &entries.z[range] }
}

/// Settles the last level, or both that share a budget, and writes the residuals `r1`, `r2` and their sums of squares.
fn finish(o: &mut Objective, params: &Params, knobs: &Knobs, two: bool, shared: bool) {
    let (d, slots, isa) = (o.arch.d, o.slots, o.isa);
    let arch = o.arch;
    let decoder2: &[f32] = if o.composed.is_empty() { &params[Id::WDec2] } else { &o.composed };
    let rules = [0, 1].map(|l| level_rule(l, &arch, params, knobs, 0.0));
    let contain = two && o.config.loss.consistency == Consistency::Contain;
    o.par.for_items(&mut o.lanes, &mut o.chunks, &mut o.rows, CHUNK * slots * d, |lane, _, chunk, buffer| {
        if shared {
            // What level 2 saw of it were all its candidates: level 2 had to be scanned before the choice.
            settle(&rules[0], chunk, 0, lane, None);
        }
        if two {
            // A masked drive has no pre-activation of its own; it never fires, so any value below 0 will do.
            let silent: &dyn Fn(usize, usize) -> f32 = &|_, _| f32::NEG_INFINITY;
            settle(&rules[1], chunk, 1, lane, contain.then_some(silent));
        } else {
            settle(&rules[0], chunk, 0, lane, None);
        }
        chunk.sums.squares = [0.0; 2];
        for column in &mut chunk.columns {
            column.clear();
            column.resize(d, 0.0);
        }
        for (i, row) in buffer.chunks_mut(slots * d).enumerate() {
            let (xt, rest) = row.split_at_mut(d);
            let (r1, rest) = rest.split_at_mut(d);
            let r2 = &mut rest[..d];
            residual(isa, xt, code_row(&chunk.level[0], i), &params[Id::WDec1], r1);
            chunk.sums.squares[0] += f64::from(reduce::sum_squares(isa, r1));
            reduce::axpy(isa, 1.0, r1, &mut chunk.columns[0]);
            if two {
                let from = if arch.decoder == Decoder::Cum { r1 } else { xt };
                residual(isa, from, code_row(&chunk.level[1], i), decoder2, r2);
                chunk.sums.squares[1] += f64::from(reduce::sum_squares(isa, r2));
                reduce::axpy(isa, 1.0, r2, &mut chunk.columns[1]);
            }
        }
    });
}

/// `out = from - z D`.
fn residual(isa: Isa, from: &[f32], code: CodeRow<'_>, decoder: &[f32], out: &mut [f32]) {
    out.fill(0.0);
    sparse::accumulate_rows(isa, code.index, code.value, decoder, out.len(), out);
    for (o, &x) in out.iter_mut().zip(from) {
        *o = x - *o;
    }
}

fn level_rule<'a>(
    level: usize,
    arch: &crate::model::Arch,
    params: &'a Params,
    knobs: &Knobs,
    floor: f32,
) -> LevelRule<'a> {
    let (activation, theta, r, b) = match level {
        0 => (arch.activation1, Id::Threshold1, Id::RMag1, Id::BMag1),
        _ => (arch.activation2, Id::Threshold2, Id::RMag2, Id::BMag2),
    };
    LevelRule { activation, k: knobs.k[level], floor, r_mag: &params[r], b_mag: &params[b], theta: &params[theta] }
}
