//! Stages 1 and 2: both levels forward, selection over the batch, residuals.

use super::entries::{Entries, List};
use super::objective::{CHUNK, Chunk, Lane, Objective, StepSettings, slot};
use super::observed::Losses;
use crate::activation::{self, Candidacy, Rule, Selection};
use crate::config::Budget;
use crate::entry::CodeRow;
use crate::gate::{Families, ROOT};
use crate::kernel::dense::{self, Matrix, Pick};
use crate::kernel::fire::{Limit, RowLists, fire};
use crate::kernel::{Isa, Screen, reduce, select, sparse};
use crate::model::{Arch, Hierarchy, Order, Params, Scratch, Weights};
use alloc::vec::Vec;
use core::ops::Range;

/// The floor of a batch's candidates over the cut of the batch before. Much lower, and more is looked at than is kept;
/// higher, and a batch is too often scanned again.
const NEAR: f32 = 0.85;

/// Runs both levels: afterwards every chunk holds its entries, and the row buffer `xt`, `r1`, `r2`.
pub(super) fn run(
    o: &mut Objective,
    params: &Params,
    families: &Families,
    settings: &StepSettings,
    x: &[f32],
    losses: &mut Losses,
) {
    let two = o.n_levels() == 2;
    let shared = o.config.budget == Budget::Shared;
    let mut first = 0;
    while first < o.n_levels() {
        // Levels that share a budget are chosen from together; their settings say that level 2 does not read level 1.
        let levels = &(first..if shared { 2 } else { first + 1 });
        let over_batch = o.arch.level[first].activation.selection() == Selection::Batch;
        if over_batch && o.floor[first].is_none() {
            let floor = first_floor(o, params, families, settings, x, levels);
            o.floor[levels.clone()].fill(Some(floor));
        }
        loop {
            for level in levels.clone() {
                collect(o, params, families, settings, x, level, usize::MAX);
            }
            if !over_batch || !lower_floor(o, settings, levels) {
                break;
            }
        }
        choose(o, settings, levels, losses);
        first = levels.end;
    }
    finish(o, params, settings, two, shared);
}

/// A floor for the first batch, from its first chunk: a little below the cut of its rows' strongest candidates.
fn first_floor(
    o: &mut Objective,
    params: &Params,
    families: &Families,
    settings: &StepSettings,
    x: &[f32],
    levels: &Range<usize>,
) -> f32 {
    for level in levels.clone() {
        collect(o, params, families, settings, x, level, 1);
    }
    o.values.clear();
    for level in levels.clone() {
        o.values.extend_from_slice(&o.chunks[0].candidates[level].u);
    }
    let rows = o.n.min(CHUNK) as f64;
    let want = libm::ceil(budget(settings, levels) * rows) as usize;
    if o.values.len() < want { 0.0 } else { NEAR * select::kth_largest(&mut o.values, want.max(1)) }
}

/// Whether too few candidates lie above the floor while there may be more below: lowers it then.
fn lower_floor(o: &mut Objective, settings: &StepSettings, levels: &Range<usize>) -> bool {
    let found: usize = o.chunks.iter().flat_map(|c| &c.candidates[levels.clone()]).map(|list| list.u.len()).sum();
    let floor = o.floor[levels.start].unwrap_or(0.0);
    if found >= keep_of(budget(settings, levels), o.n) || floor <= 0.0 {
        return false;
    }
    o.floor[levels.clone()].fill(Some(if floor < 1e-6 { 0.0 } else { 0.5 * floor }));
    true
}

/// Latents a row that the levels may have between them.
fn budget(settings: &StepSettings, levels: &Range<usize>) -> f64 {
    settings.k[levels.clone()].iter().sum()
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
    settings: &StepSettings,
    x: &[f32],
    level: usize,
    n_chunks: usize,
) {
    let (d, slots, isa) = (o.arch.d, o.slots, o.compute.isa);
    let arch = o.arch;
    let config = &o.config;
    let k_aux = if config.revive.k_aux > 0 { config.revive.k_aux } else { (d / 2).max(1) };
    let job = Job {
        isa,
        weights: Weights { arch: &arch, params, families, gate: settings.gate },
        rules: [0, 1].map(|l| level_rule(l, &arch, params, settings)),
        // The tracked threshold counts what is above it, so nothing above it may be left out.
        floors: [0, 1].map(|l| {
            let tau = settings.tau[l];
            o.floor[l].map(|floor| if tau > 0.0 { floor.min(tau) } else { floor })
        }),
        screens: [o.screens[0].as_ref(), o.screens[1].as_ref()],
        order: &o.order,
        dead: [&settings.dead[0], &settings.dead[1]],
        k_aux: if config.loss.aux > 0.0 { k_aux } else { 0 },
        ungated: level_rule(1, &arch, params, settings).ungated(settings.tau[1]),
        drives: o.needs_ungated(settings),
    };
    let used = o.chunks.len().min(n_chunks);
    let width = CHUNK * slots * d;
    let rows = &mut o.rows[..];
    let end = rows.len().min(used * width);
    o.compute.par.for_items(&mut o.lanes, &mut o.chunks[..used], &mut rows[..end], width, |lane, c, chunk, buffer| {
        let n = buffer.len() / (slots * d);
        if level == 0 {
            let first = c * CHUNK * d;
            for i in 0..n {
                let row = &mut buffer[(i * slots + slot::XT) * d..][..d];
                reduce::sub_into(isa, &x[first + i * d..first + (i + 1) * d], &params.b_dec, row);
            }
        }
        for i in 0..n {
            lane.forward.xt[i * d..(i + 1) * d].copy_from_slice(&buffer[(i * slots + slot::XT) * d..][..d]);
        }
        chunk.candidates[level].clear();
        chunk.aux[level].clear();
        if level == 0 {
            job.level1(n, chunk, lane);
            return;
        }
        chunk.drives.clear();
        settle(&job.rules[0], false, chunk, 0, lane, None);
        let entries = &chunk.level[0];
        job.weights.source(isa, n, |i| code_row(entries, i), &mut lane.forward);
        if settings.gate.is_dense_in_training() {
            job.level2_dense(n, chunk, lane);
        } else {
            job.level2(n, chunk, lane);
        }
    });
}

/// What scanning a chunk reads.
struct Job<'a> {
    isa: Isa,
    weights: Weights<'a>,
    rules: [Rule<'a>; 2],
    /// What a candidate of a selection over the batch must exceed, where there is something to go by.
    floors: [Option<f32>; 2],
    screens: [Option<&'a Screen>; 2],
    order: &'a Order,
    dead: [&'a [u32]; 2],
    /// How many dead latents of a row AuxK picks; 0 without it.
    k_aux: usize,
    /// By what ungated pre-activations of level 2 count as firing.
    ungated: Rule<'a>,
    /// Whether the ungated drives of level 2 are asked for.
    drives: bool,
}

impl Job<'_> {
    /// Returns what a pre-activation of a level (0 or 1) must reach to become a candidate.
    fn candidates<'b>(&'b self, level: usize, bands: &'b [Vec<f32>; 2]) -> Limit<'b> {
        self.rules[level].candidates(&Candidacy { floor: self.floors[level], band: &bands[level] })
    }

    /// Candidates and AuxK's picks of level 1.
    fn level1(&self, n: usize, chunk: &mut Chunk, lane: &mut Lane) {
        let Weights { arch, params, .. } = self.weights;
        let Scratch { xt, fire: t, lists, .. } = &mut lane.forward;
        let xt = &xt[..n * arch.d];
        let (w, b) = (Matrix::all(&params.level[0].w_enc, arch.d), &params.level[0].b_enc);
        fire(self.isa, xt, w, b, self.candidates(0, &lane.bands), self.screens[0], t, lists);
        copy(lists, &mut chunk.candidates[0]);
        self.pick_dead(0, xt, w, b, |_, _| true, lane_picks(&mut lane.u_dead, &mut lane.picked), &mut chunk.aux[0]);
    }

    /// Candidates, AuxK's picks and ungated drives of level 2 without a gate, or behind a hard one.
    fn level2(&self, n: usize, chunk: &mut Chunk, lane: &mut Lane) {
        let Weights { arch, params, families, gate } = self.weights;
        let width = arch.source_width();
        let Scratch { s, fire: t, lists, hierarchy, .. } = &mut lane.forward;
        let s = &s[..n * width];
        let (w, b) = (Matrix::all(&params.level[1].w_enc, width), &params.level[1].b_enc);
        let limit = self.candidates(1, &lane.bands);
        let Chunk { level: [entries, _], candidates: [_, candidates], aux: [_, aux], drives, .. } = chunk;
        let active = |i: usize| code_row(entries, i).active();
        let place = &mut lane.place[0];
        // Whether the gate is open for a child, for the parents that `place` marks.
        let open = |place: &[u32], j: u32| {
            let p = families.parents()[j as usize];
            p == ROOT || place[p as usize] != u32::MAX
        };
        let hard = gate.has_families();
        let one_pass = match (limit, self.ungated.limit()) {
            (Limit::Above(floor), Limit::Above(tau)) if self.drives => Some((floor, tau)),
            _ => None,
        };
        if let Some((floor, tau)) = one_pass {
            // One pass down to the lower of the two limits serves both.
            fire(self.isa, s, w, b, Limit::Above(tau.min(floor)), self.screens[1], t, lists);
            for i in 0..n {
                let (index, u) = lists.row(i);
                let first = drives.index.len();
                active(i).for_each(|p| place[p as usize] = 0);
                for (&j, &u) in index.iter().zip(u) {
                    if u > floor && (!hard || open(place, j)) {
                        candidates.index.push(j);
                        candidates.u.push(u);
                    }
                    if u > tau {
                        drives.index.push(j);
                        drives.u.push(u);
                    }
                }
                active(i).for_each(|p| place[p as usize] = u32::MAX);
                self.ungated.drop_silent(first, &mut drives.index, &mut drives.u);
                candidates.end_row(None);
                drives.end_row(None);
            }
        } else {
            // With drives the screen has another order.
            let hierarchy_of = Hierarchy {
                w,
                bias: b,
                families,
                screen: self.screens[1]
                    .filter(|_| !self.drives && self.order.pays())
                    .map(|screen| (screen, self.order)),
                largest_only: false,
            };
            if hard {
                hierarchy_of.run(self.isa, s, n, limit, active, (false, &mut *t), hierarchy, |_, index, u| {
                    candidates.index.extend_from_slice(index);
                    candidates.u.extend_from_slice(u);
                    candidates.end_row(None);
                });
            } else {
                fire(self.isa, s, w, b, limit, self.screens[1], t, lists);
                copy(lists, candidates);
            }
            if self.drives {
                fire(self.isa, s, w, b, self.ungated.limit(), self.screens[1], t, lists);
                for i in 0..lists.n() {
                    let first = drives.index.len();
                    let (index, u) = lists.row(i);
                    drives.index.extend_from_slice(index);
                    drives.u.extend_from_slice(u);
                    self.ungated.drop_silent(first, &mut drives.index, &mut drives.u);
                    drives.end_row(None);
                }
            }
        }
        let picks = lane_picks(&mut lane.u_dead, &mut lane.picked);
        if !hard {
            self.pick_dead(1, s, w, b, |_, _| true, picks, aux);
            return;
        }
        let mut marked = usize::MAX;
        let is_open = |i: usize, j: u32| {
            if marked != i {
                if marked < n {
                    active(marked).for_each(|p| place[p as usize] = u32::MAX);
                }
                active(i).for_each(|p| place[p as usize] = 0);
                marked = i;
            }
            open(place, j)
        };
        self.pick_dead(1, s, w, b, is_open, picks, aux);
        place.fill(u32::MAX);
    }

    /// The same where the gate needs every drive of a row.
    fn level2_dense(&self, n: usize, chunk: &mut Chunk, lane: &mut Lane) {
        let f = self.weights.arch.level[1].latents;
        let soft = self.weights.gate.has_weights();
        self.weights.drive2(self.isa, 0..n, &mut lane.forward);
        for i in 0..n {
            let Lane { forward, u_dead, picked, bands, .. } = lane;
            if self.drives {
                let (a, drives) = (&forward.a2[i * f..(i + 1) * f], &mut chunk.drives);
                let first = drives.index.len();
                activation::select_row(self.isa, self.ungated.limit(), a, &mut drives.index, &mut drives.u);
                self.ungated.drop_silent(first, &mut drives.index, &mut drives.u);
                drives.end_row(None);
            }
            self.weights.gate_row(self.isa, i, code_row(&chunk.level[0], i), forward);
            let u = &forward.u2;
            let a_and_g = || (&forward.a2[i * f..(i + 1) * f], &forward.g2[..]);
            let list = &mut chunk.candidates[1];
            activation::select_row(self.isa, self.candidates(1, bands), u, &mut list.index, &mut list.u);
            list.end_row(soft.then(a_and_g));
            if self.k_aux > 0 && !self.dead[1].is_empty() {
                u_dead.clear();
                u_dead.extend(self.dead[1].iter().map(|&j| u[j as usize]));
                let list = &mut chunk.aux[1];
                largest_dead(self.isa, self.dead[1], self.k_aux, u_dead, picked, list);
                list.end_row(soft.then(a_and_g));
            }
        }
    }

    /// AuxK's picks of every row: the largest positive pre-activations among the dead latents that are `open`.
    fn pick_dead(
        &self,
        level: usize,
        x: &[f32],
        w: Matrix<'_>,
        bias: &[f32],
        mut open: impl FnMut(usize, u32) -> bool,
        (u_dead, picked): (&mut Vec<f32>, &mut List),
        list: &mut List,
    ) {
        let dead = self.dead[level];
        if self.k_aux == 0 || dead.is_empty() {
            return;
        }
        for (b, x) in x.chunks(DEAD_ROWS * w.d).enumerate() {
            let n = x.len() / w.d;
            u_dead.resize(n * dead.len(), 0.0);
            dense::product(self.isa, Matrix::all(x, w.d), w.only(Pick::List(dead)), Some(bias), u_dead);
            for (i, u) in u_dead.chunks_exact_mut(dead.len()).enumerate() {
                for (u, &j) in u.iter_mut().zip(dead) {
                    if !open(b * DEAD_ROWS + i, j) {
                        *u = f32::NEG_INFINITY;
                    }
                }
                largest_dead(self.isa, dead, self.k_aux, u, picked, list);
                list.end_row(None);
            }
        }
    }
}

/// Rows whose dead latents are looked at together.
const DEAD_ROWS: usize = 24;

/// The scratch of [`Job::pick_dead`].
fn lane_picks<'l>(u_dead: &'l mut Vec<f32>, picked: &'l mut List) -> (&'l mut Vec<f32>, &'l mut List) {
    (u_dead, picked)
}

/// Takes over what was found of every row.
fn copy(lists: &RowLists, list: &mut List) {
    for i in 0..lists.n() {
        let (index, u) = lists.row(i);
        list.index.extend_from_slice(index);
        list.u.extend_from_slice(u);
        list.end_row(None);
    }
}

/// The `k_aux` largest positive ones of the pre-activations of the dead latents of a row.
fn largest_dead(isa: Isa, dead: &[u32], k_aux: usize, u_dead: &[f32], picked: &mut List, list: &mut List) {
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
fn choose(o: &mut Objective, settings: &StepSettings, levels: &Range<usize>, losses: &mut Losses) {
    let first = levels.start;
    let selection = o.arch.level[first].activation.selection();
    let values = &mut o.values;
    if selection == Selection::Row {
        let least = o.chunks.iter().flat_map(|c| c.candidates[first].u.iter().copied()).fold(f32::INFINITY, f32::min);
        losses.selected_min[first] = if least.is_finite() { least } else { 0.0 };
    }
    if selection != Selection::Batch {
        return;
    }
    values.clear();
    for list in o.chunks.iter().flat_map(|c| &c.candidates[levels.clone()]) {
        values.extend_from_slice(&list.u);
    }
    let above = values.iter().filter(|v| **v > settings.tau[first]).count();
    let keep = keep_of(budget(settings, levels), o.n);
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
    let floor = if o.values.len() > keep { NEAR * least } else { 0.0 };
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
    rule: &Rule<'_>,
    is_soft: bool,
    chunk: &mut Chunk,
    level: usize,
    lane: &mut Lane,
    drives: Option<&dyn Fn(usize, usize) -> f32>,
) {
    let entries = &mut chunk.level[level];
    let list = &chunk.candidates[level];
    let aux = &chunk.aux[level];
    let (place, z) = (&mut lane.place[level], &mut lane.row);
    rule.values(&list.index, &list.u, z);
    entries.clear();
    let lit = aux.offsets.len() > 1;
    let mut fired = 0;
    for i in 0..list.offsets.len() - 1 {
        for at in list.row(i) {
            let (j, u, z) = (list.index[at] as usize, list.u[at], z[at]);
            fired += u64::from(z > 0.0);
            place[j] = entries.count() as u32;
            entries.push(j as u32, u, z, list.soft(at));
        }
        if lit {
            entries.v.resize(entries.count(), 0.0);
            for at in aux.row(i) {
                let j = aux.index[at];
                match place[j as usize] {
                    u32::MAX => {
                        place[j as usize] = entries.count() as u32;
                        entries.push(j, aux.u[at], 0.0, aux.soft(at));
                        entries.v.push(aux.u[at]);
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
                    let soft = is_soft.then(|| (chunk.drives.u[at], 0.0));
                    entries.push(j, charged(i, at), 0.0, soft);
                }
            }
            if lit {
                entries.v.resize(entries.count(), 0.0);
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

/// The entries of a row that fire, ascending: what is decoded.
///
/// Silent entries are left out and not multiplied by 0, so that the sum runs over ascending latents: the order in which
/// shards of a dictionary can pass it on.
fn firing<'a>(entries: &'a Entries, i: usize, lane: &'a mut Lane) -> CodeRow<'a> {
    let code = code_row(entries, i);
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

/// Settles the last level, or both that share a budget, and writes the residuals `r1`, `r2` and their sums of squares.
fn finish(o: &mut Objective, params: &Params, settings: &StepSettings, two: bool, shared: bool) {
    let (d, slots, isa) = (o.arch.d, o.slots, o.compute.isa);
    let arch = o.arch;
    let decoder2: &[f32] = if o.composed.is_empty() { &params.level[1].w_dec } else { &o.composed };
    let rules = [0, 1].map(|l| level_rule(l, &arch, params, settings));
    let contain = two && o.config.loss.consistency.needs().drives;
    o.compute.par.for_items(&mut o.lanes, &mut o.chunks, &mut o.rows, CHUNK * slots * d, |lane, _, chunk, buffer| {
        if shared {
            // What level 2 saw of it were all its candidates: level 2 had to be scanned before the choice.
            settle(&rules[0], false, chunk, 0, lane, None);
        }
        if two {
            // A masked drive has no pre-activation of its own; it never fires, so any value below 0 will do.
            let silent: &dyn Fn(usize, usize) -> f32 = &|_, _| f32::NEG_INFINITY;
            settle(&rules[1], settings.gate.has_weights(), chunk, 1, lane, contain.then_some(silent));
        } else {
            settle(&rules[0], false, chunk, 0, lane, None);
        }
        chunk.sums.squares = [0.0; 2];
        chunk.energy.clear();
        for column in &mut chunk.columns {
            column.clear();
            column.resize(d, 0.0);
        }
        for (i, row) in buffer.chunks_mut(slots * d).enumerate() {
            let (xt, rest) = row.split_at_mut(d);
            let (r1, rest) = rest.split_at_mut(d);
            residual(isa, xt, firing(&chunk.level[0], i, lane), &params.level[0].w_dec, r1);
            let mut square = reduce::sum_squares(isa, r1);
            chunk.sums.squares[0] += f64::from(square);
            reduce::axpy(isa, 1.0, r1, &mut chunk.columns[0]);
            if two {
                let from = if arch.decoder.is_cumulative() { r1 } else { xt };
                let r2 = &mut rest[..d];
                residual(isa, from, firing(&chunk.level[1], i, lane), decoder2, r2);
                square = reduce::sum_squares(isa, r2);
                chunk.sums.squares[1] += f64::from(square);
                reduce::axpy(isa, 1.0, r2, &mut chunk.columns[1]);
            }
            chunk.energy.push(square);
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

/// Returns the rule of a level (0 or 1) in a step.
pub(super) fn level_rule<'a>(level: usize, arch: &Arch, params: &'a Params, settings: &StepSettings) -> Rule<'a> {
    Rule::new(arch.level[level].activation, settings.k[level], settings.tau[level], params.level[level].activation())
}
