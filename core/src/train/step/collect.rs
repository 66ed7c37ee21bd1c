//! Collects candidates: the latents of each row that may be kept, before a selection over the batch decides.

use super::auxk;
use super::derived::Derived;
use super::entries::List;
use super::exchange;
use super::inputs::Inputs;
use super::select::Settle;
use super::workspace::{Batch, CHUNK, Chunk, Lane, Shared};
use crate::activation::{self, Candidacy, Rule};
use crate::config::Budget;
use crate::entry::CodeRow;
use crate::error::Result;
use crate::gate::{ROOT, Reads};
use crate::kernel::dense::Matrix;
use crate::kernel::fire::{Limit, RowLists, Search, fire};
use crate::kernel::{Isa, Screen, reduce};
use crate::model::{Behind, Hierarchy, Order, Scratch, Weights};

/// Encodes the rows of the first `n_chunks` chunks at one level: writes its candidates, what AuxK selects, and for
/// level 2 the ungated pre-activations. Level 1 first writes the rows that it reads; level 2 first turns the candidates
/// of level 1 into entries, which its gate and its source read. `floors` is what a candidate of a selection over the
/// batch must exceed.
///
/// # Errors
/// What the exchange with other shards finds.
pub(super) fn run(
    inputs: &Inputs<'_>,
    derived: &Derived,
    floors: [Option<f32>; 2],
    level: usize,
    n_chunks: usize,
    batch: &mut Batch,
    lanes: &mut [Lane],
) -> Result<()> {
    let Inputs { compute, arch, params, families, settings, shard, x, .. } = *inputs;
    let (d, stride, isa) = (arch.d, batch.layout.stride, compute.isa);
    let solo = shard.is_solo();
    let scan = Scan {
        isa,
        weights: Weights { arch, params, families, gate: settings.gate },
        rules: [0, 1].map(|l| inputs.rule(l)),
        floors,
        bands: [&derived.bands[0], &derived.bands[1]],
        screens: [derived.screens[0].as_ref(), derived.screens[1].as_ref()],
        order: &derived.order,
        dead: auxk::Selection::new(inputs),
        ungated: inputs.rule(1).ungated(settings.tau[1]),
        with_ungated: inputs.needs_ungated(),
        solo,
    };
    let level1 = Settle { rule: scan.rules[0], level: 0, is_soft: false, with_ungated: false };
    let used = batch.chunks.len().min(n_chunks);
    let width = CHUNK * stride;
    let end = batch.rows.len().min(used * width);
    let (chunks, rows) = (&mut batch.chunks[..used], &mut batch.rows[..end]);
    if level == 1 && !solo {
        compute.par.for_items(lanes, chunks, &mut [], 0, |lane, _, chunk, _| level1.run(chunk, lane));
        // With a shared budget these are all candidates, and level 2 does not read level 1.
        if inputs.config.budget != Budget::Shared {
            exchange::firing(shard, 0, chunks)?;
        }
        if scan.ranks_families() {
            compute.par.for_items(lanes, chunks, rows, width, |lane, _, chunk, buffer| {
                scan.rank_families(stride, chunk, lane, buffer);
            });
            shard.comm.stage("families");
            exchange::families(shard, chunks)?;
        }
    }
    compute.par.for_items(lanes, chunks, rows, width, |lane, c, chunk, buffer| {
        let n = buffer.len() / stride;
        if level == 0 {
            let first = c * CHUNK * d;
            for i in 0..n {
                let (row, x) = (&mut buffer[i * stride..][..d], &x[first + i * d..first + (i + 1) * d]);
                if arch.variant.raw_input {
                    row.copy_from_slice(x);
                } else {
                    reduce::sub_into(isa, x, &params.b_dec, row);
                }
            }
        }
        for i in 0..n {
            lane.forward.xt[i * d..(i + 1) * d].copy_from_slice(&buffer[i * stride..][..d]);
        }
        chunk.candidates[level].clear();
        chunk.aux[level].clear();
        if level == 0 {
            scan.level1(n, chunk, lane);
            return;
        }
        chunk.ungated.clear();
        if solo {
            level1.run(chunk, lane);
        }
        let entries = &chunk.level[0];
        scan.weights.source(isa, n, |i| entries.code(i), &mut lane.forward);
        if settings.gate.is_dense_in_training() {
            scan.level2_dense(n, chunk, lane);
        } else {
            scan.level2(n, chunk, lane);
        }
    });
    if solo {
        return Ok(());
    }
    if let Limit::Topk(k) = scan.candidates(level) {
        shard.comm.stage("selection");
        exchange::keep_largest(shard, k, chunks, |chunk| &mut chunk.candidates[level])?;
    }
    if scan.dead.acts(level) {
        shard.comm.stage("auxk");
        exchange::keep_largest(shard, scan.dead.k_aux(), chunks, |chunk| &mut chunk.aux[level])?;
    }
    if level == 1 && scan.with_ungated {
        let own = |chunk: &Chunk, i: usize, push: &mut dyn FnMut(u32, f32)| {
            let CodeRow { index, value } = chunk.ungated.code(i);
            index.iter().zip(value).for_each(|(j, u)| push(*j, *u));
        };
        shard.comm.stage("ungated");
        exchange::codes(shard, 1, chunks, own, |chunk| &mut chunk.shared.ungated)?;
    }
    Ok(())
}

/// What the encoding of every chunk reads.
struct Scan<'a> {
    isa: Isa,
    weights: Weights<'a>,
    rules: [Rule<'a>; 2],
    /// What a candidate of a selection over the batch must exceed, per level; none before the first step.
    floors: [Option<f32>; 2],
    bands: [&'a [f32]; 2],
    screens: [Option<&'a Screen>; 2],
    order: &'a Order,
    dead: auxk::Selection<'a>,
    /// The rule by which ungated pre-activations of level 2 count as firing.
    ungated: Rule<'a>,
    /// Whether the ungated pre-activations of level 2 are asked for.
    with_ungated: bool,
    /// Whether there is one shard.
    solo: bool,
}

impl Scan<'_> {
    /// Returns what a pre-activation of a level (0 or 1) must reach to become a candidate.
    fn candidates(&self, level: usize) -> Limit<'_> {
        self.rules[level].candidates(&Candidacy { floor: self.floors[level], band: self.bands[level] })
    }

    /// Returns whether only the largest child of a family can fire.
    fn ranks_families(&self) -> bool {
        matches!(self.weights.gate.reads(), Reads::ActiveParents { largest_only: true })
    }

    /// Writes the largest pre-activation of this shard's children of each active parent.
    fn rank_families(&self, stride: usize, chunk: &mut Chunk, lane: &mut Lane, buffer: &[f32]) {
        let Weights { arch, families, .. } = self.weights;
        let (d, f) = (arch.d, arch.level[1].latents);
        let n = chunk.n_rows;
        for (i, row) in buffer.chunks(stride).enumerate() {
            lane.forward.s[i * d..(i + 1) * d].copy_from_slice(&row[..d]);
        }
        self.weights.ungated2(self.isa, 0..n, &mut lane.forward);
        let Shared { codes: [codes, _], families: (largest, _), .. } = &mut chunk.shared;
        largest.clear();
        for i in 0..n {
            let a = &lane.forward.a2[i * f..(i + 1) * f];
            largest.extend(
                codes
                    .code(i)
                    .active()
                    .map(|p| families.children(p).iter().map(|j| a[*j as usize]).fold(f32::NEG_INFINITY, f32::max)),
            );
        }
    }

    /// Writes candidates and AuxK's selection of level 1.
    fn level1(&self, n: usize, chunk: &mut Chunk, lane: &mut Lane) {
        let Weights { arch, params, .. } = self.weights;
        let Scratch { xt, fire: t, lists, .. } = &mut lane.forward;
        let search = Search {
            x: &xt[..n * arch.d],
            w: Matrix::all(&params.level[0].w_enc, arch.d),
            bias: &params.level[0].b_enc,
            limit: self.candidates(0),
        };
        fire(self.isa, search, self.screens[0], t, lists);
        copy(lists, &mut chunk.candidates[0]);
        self.dead.rows(0, search, |_, _| true, &mut lane.dead, &mut chunk.aux[0]);
    }

    /// Writes candidates, AuxK's selection and ungated pre-activations of level 2 without a gate, or behind a hard one.
    fn level2(&self, n: usize, chunk: &mut Chunk, lane: &mut Lane) {
        let Weights { arch, params, families, gate } = self.weights;
        if arch.level[1].latents == 0 {
            self.no_children(n, chunk);
            return;
        }
        let width = arch.source_width();
        let Scratch { s, fire: t, lists, hierarchy, .. } = &mut lane.forward;
        let search = Search {
            x: &s[..n * width],
            w: Matrix::all(&params.level[1].w_enc, width),
            bias: &params.level[1].b_enc,
            limit: self.candidates(1),
        };
        let Chunk { level: [entries, _], candidates: [_, candidates], aux: [_, aux], ungated, shared, .. } = chunk;
        // The parents of a shard's children may be latents of another one.
        let active = |i: usize| if self.solo { entries.code(i) } else { shared.codes[0].code(i) }.active();
        let slots = &mut lane.slots[0];
        // Whether the hard gate is open for a child of a row whose active parents are marked in `slots`.
        let open = |slots: &[u32], j: u32| {
            let p = families.parents()[j as usize];
            p == ROOT || slots[p as usize] != u32::MAX
        };
        let hard = gate.has_families();
        let one_pass = match (search.limit, self.ungated.limit()) {
            (Limit::Above(floor), Limit::Above(tau)) if self.with_ungated => Some((floor, tau)),
            _ => None,
        };
        if let Some((floor, tau)) = one_pass {
            // Candidates and ungated pre-activations are both above a limit: one pass with the lower limit finds both.
            fire(self.isa, Search { limit: Limit::Above(tau.min(floor)), ..search }, self.screens[1], t, lists);
            for i in 0..n {
                let (index, u) = lists.row(i);
                let first = ungated.index.len();
                active(i).for_each(|p| slots[p as usize] = 0);
                for (&j, &u) in index.iter().zip(u) {
                    if u > floor && (!hard || open(slots, j)) {
                        candidates.index.push(j);
                        candidates.u.push(u);
                    }
                    if u > tau {
                        ungated.index.push(j);
                        ungated.u.push(u);
                    }
                }
                active(i).for_each(|p| slots[p as usize] = u32::MAX);
                self.ungated.drop_silent(first, &mut ungated.index, &mut ungated.u);
                candidates.end_row(None);
                ungated.end_row(None);
            }
        } else {
            if hard {
                // `Derived` orders the screen by families only if ungated pre-activations are not asked for.
                let ordered = !self.with_ungated && self.order.pays();
                let Search { x, w, bias, limit } = search;
                let behind = Behind { s: x, limit, active, rounded: false };
                Hierarchy {
                    w,
                    bias,
                    families,
                    screen: self.screens[1].filter(|_| ordered).map(|screen| (screen, self.order)),
                    largest_only: false,
                }
                .run(self.isa, behind, t, hierarchy, |_, index, u| {
                    candidates.index.extend_from_slice(index);
                    candidates.u.extend_from_slice(u);
                    candidates.end_row(None);
                });
            } else {
                fire(self.isa, search, self.screens[1], t, lists);
                copy(lists, candidates);
            }
            if self.with_ungated {
                fire(self.isa, Search { limit: self.ungated.limit(), ..search }, self.screens[1], t, lists);
                for i in 0..lists.n() {
                    let first = ungated.index.len();
                    let (index, u) = lists.row(i);
                    ungated.index.extend_from_slice(index);
                    ungated.u.extend_from_slice(u);
                    self.ungated.drop_silent(first, &mut ungated.index, &mut ungated.u);
                    ungated.end_row(None);
                }
            }
        }
        if !hard {
            self.dead.rows(1, search, |_, _| true, &mut lane.dead, aux);
            return;
        }
        // The row whose active parents are marked in `slots`.
        let mut marked = usize::MAX;
        let is_open = |i: usize, j: u32| {
            if marked != i {
                if marked < n {
                    active(marked).for_each(|p| slots[p as usize] = u32::MAX);
                }
                active(i).for_each(|p| slots[p as usize] = 0);
                marked = i;
            }
            open(slots, j)
        };
        self.dead.rows(1, search, is_open, &mut lane.dead, aux);
        slots.fill(u32::MAX);
    }

    /// Writes empty rows for a shard that owns no latents of level 2.
    fn no_children(&self, n: usize, chunk: &mut Chunk) {
        for _ in 0..n {
            chunk.candidates[1].end_row(None);
            if self.with_ungated {
                chunk.ungated.end_row(None);
            }
            if self.dead.acts(1) {
                chunk.aux[1].end_row(None);
            }
        }
    }

    /// Writes what [`Scan::level2`] writes, for a gate that reads every ungated pre-activation of a row.
    fn level2_dense(&self, n: usize, chunk: &mut Chunk, lane: &mut Lane) {
        let f = self.weights.arch.level[1].latents;
        if f == 0 {
            self.no_children(n, chunk);
            return;
        }
        let soft = self.weights.gate.has_weights();
        self.weights.ungated2(self.isa, 0..n, &mut lane.forward);
        for i in 0..n {
            let Lane { forward, dead, .. } = lane;
            if self.with_ungated {
                let (a, ungated) = (&forward.a2[i * f..(i + 1) * f], &mut chunk.ungated);
                let first = ungated.index.len();
                activation::select_row(self.isa, self.ungated.limit(), a, &mut ungated.index, &mut ungated.u);
                self.ungated.drop_silent(first, &mut ungated.index, &mut ungated.u);
                ungated.end_row(None);
            }
            let code = if self.solo { chunk.level[0].code(i) } else { chunk.shared.codes[0].code(i) };
            self.weights.gate_row(self.isa, i, code, forward);
            if !self.solo {
                // The largest child of another shard keeps those of this one from firing.
                let won = &chunk.shared.families.1[chunk.shared.codes[0].row(i)];
                for (p, _) in code.active().zip(won).filter(|(_, won)| !**won) {
                    let children = self.weights.families.children(p);
                    children.iter().for_each(|j| forward.u2[*j as usize] = f32::NEG_INFINITY);
                }
            }
            // The scratch is as wide as the whole level.
            let u = &forward.u2[..f];
            let a_and_g = || (&forward.a2[i * f..(i + 1) * f], &forward.g2[..]);
            let list = &mut chunk.candidates[1];
            activation::select_row(self.isa, self.candidates(1), u, &mut list.index, &mut list.u);
            list.end_row(soft.then(a_and_g));
            if self.dead.acts(1) {
                let list = &mut chunk.aux[1];
                self.dead.row(1, u, dead, list);
                list.end_row(soft.then(a_and_g));
            }
        }
    }
}

/// Appends the latents found on every row.
fn copy(lists: &RowLists, list: &mut List) {
    for i in 0..lists.n() {
        let (index, u) = lists.row(i);
        list.index.extend_from_slice(index);
        list.u.extend_from_slice(u);
        list.end_row(None);
    }
}
