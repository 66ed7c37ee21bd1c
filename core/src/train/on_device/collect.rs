//! Which latents fire, on a device: candidates, AuxK's picks, ungated pre-activations, codes and residuals.

use super::super::step::{self, StepSettings};
use super::level::Level;
use super::out::{CHILDREN, OPEN};
use super::{CHUNK, Learned, OnDevice, RowSlots, SourceSlots, encoder, own, weights};
use crate::activation::{Candidacy, Rule, Selection};
use crate::config::Config;
use crate::device::Part;
use crate::device::kernels::{self, Bytes, ROUNDED, Weights, width};
use crate::device::lists::{FamiliesOn, Gate, ListSlots};
use crate::device::search::{Limit, Search};
use crate::device::selection::list_least;
use crate::device::training;
use crate::device::verdict::{FVU, Terms};
use crate::error::Result;
use crate::gate::Reads;
use crate::kernel::fire;
use crate::model::Arch;
use alloc::vec::Vec;
use core::ops::Range;

/// Returns a limit of the CPU as one of a device; `each` are the limits of the latents, where each has its own.
fn on_device<'a>(limit: fire::Limit<'_>, each: Option<Part<'a, f32>>) -> Limit<'a> {
    match (limit, each) {
        (fire::Limit::Topk(k), _) => Limit::Topk(k),
        (fire::Limit::AboveEach(_), Some(each)) => Limit::Each(each),
        (limit, _) => Limit::Above(limit.one()),
    }
}

/// What a level reads.
struct Sight<'a> {
    arch: &'a Arch,
    tensors: &'a [Learned],
    rows: &'a RowSlots,
    source: &'a SourceSlots,
    families: Option<&'a FamiliesOn>,
    /// Level 1, for level 2.
    one: Option<&'a Level>,
    settings: &'a StepSettings,
    n: usize,
}

impl<'a> Sight<'a> {
    /// Returns the search of a level, whose encoder is `bytes` in 8 bits, for everything above 0.
    fn search(
        &self,
        l: usize,
        bytes: Option<&'a (crate::device::Buffer<i8>, crate::device::Buffer<f32>)>,
    ) -> Search<'a> {
        let Self { arch, tensors, rows, source, families, one, settings, n } = *self;
        let d = arch.d;
        let (x, own, known) = match one.filter(|_| !arch.source.is_parallel()) {
            Some(one) => (one.r.of(n * d), &source.bytes, &source.rounded),
            None => (rows.xt.of(n * d), &rows.bytes, &rows.rounded),
        };
        let screen = bytes.map(|(weights, of_weights)| {
            let own = Bytes { bytes: own.of(n * width(d)), known: known.of(n * ROUNDED) };
            [own, Bytes { bytes: weights.all(), known: of_weights.all() }]
        });
        let (mut gate, mut largest_of) = (None, None);
        if let (Some(families), Some(one)) = (families, one) {
            match settings.gate.reads() {
                Reads::ActiveParents { largest_only: true } => {
                    largest_of = Some((families, one.kept.of(n, one.room)));
                }
                Reads::ActiveParents { largest_only: false } => {
                    let words = arch.level[0].latents.div_ceil(32);
                    gate = Some(Gate { parents: families.parents.all(), active: rows.active.of(n * words), words });
                }
                Reads::Nothing | Reads::AllPreActivations => {}
            }
        }
        Search { x, weights: weights(tensors, l, d), screen, limit: Limit::Above(0.0), gate, largest_of }
    }
}

/// Returns the rule of a level in a step.
fn rule(arch: &Arch, settings: &StepSettings, l: usize) -> Rule<'static> {
    Rule::new(arch.level[l].activation, settings.k[l], settings.tau[l], Default::default())
}

impl OnDevice {
    /// Rounds what a level reads and its encoder to 8 bits, where it is screened, and marks the parents that a gate reads.
    fn round(&mut self, l: usize, n: usize, settings: &StepSettings) -> Result<()> {
        let Self { device, arch, tensors, levels, rows, source, families, .. } = self;
        let d = arch.d;
        let (before, level) = levels.split_at(l);
        let one = before.last();
        if let (Some(one), Some(_), Reads::ActiveParents { largest_only: false }) =
            (one, families, settings.gate.reads())
        {
            let words = arch.level[0].latents.div_ceil(32);
            kernels::mark_active(one.kept.of(n, one.room), words, rows.active.room(device, n * words)?)?;
        }
        let Some((bytes, known)) = &level[0].bytes else { return Ok(()) };
        let band = own(tensors, l).first.filter(|_| level[0].numbers.has_thresholds());
        let band = band.map(|thresholds| level[0].numbers.band.of(thresholds.len()));
        kernels::round_weights(weights(tensors, l, d), band, Bytes { bytes: bytes.all(), known: known.all() })?;
        let (bytes, known) = (n * width(d), n * ROUNDED);
        match one.filter(|_| !arch.source.is_parallel()) {
            Some(one) => {
                let rounded =
                    Bytes { bytes: source.bytes.room(device, bytes)?, known: source.rounded.room(device, known)? };
                kernels::round_rows(one.r.of(n * d), d, rounded)
            }
            None => {
                let rounded =
                    Bytes { bytes: rows.bytes.room(device, bytes)?, known: rows.rounded.room(device, known)? };
                kernels::round_rows(rows.xt.of(n * d), d, rounded)
            }
        }
    }

    /// Queues all that finds what fires at some levels, which are selected from together, and their residuals. `floor` is the lower
    /// bound of candidates for a selection over the batch.
    pub(super) fn forward(
        &mut self,
        group: &Range<usize>,
        n: usize,
        settings: &StepSettings,
        floor: &mut Option<f32>,
    ) -> Result<()> {
        for l in group.clone() {
            self.round(l, n, settings)?;
        }
        let is_batch = self.arch.level[group.start].activation.selection() == Selection::Batch;
        if is_batch && floor.is_none() {
            *floor = Some(self.first_floor(group, n, settings)?);
        }
        let now = floor.unwrap_or(0.0);
        for l in group.clone() {
            self.candidates(l, n, settings, now)?;
        }
        if is_batch {
            let Self { device, selection, out, levels, .. } = self;
            let (cut, levels) = ([out.cut(group.start), out.bad()], &mut levels[group.clone()]);
            let kept = (keep(group, n, settings), now > 0.0);
            selection.run(device, levels, (n, settings.tau[group.start]), kept, cut)?;
        }
        for l in group.clone() {
            self.picks(l, n, settings)?;
            if l == 1 {
                self.ungated(n, settings)?;
            }
            self.decode(l, n, settings)?;
        }
        Ok(())
    }

    /// Returns the floor of the first batch, from its first rows, for which the host waits for the device.
    fn first_floor(&mut self, group: &Range<usize>, n: usize, settings: &StepSettings) -> Result<f32> {
        let Self { arch, tensors, levels, families, rows, source, work, packing, packed, .. } = self;
        let (few, mut values) = (n.min(CHUNK), Vec::new());
        for l in group.clone() {
            let (before, level) = levels.split_at_mut(l);
            let Level { bytes, guesses, .. } = &mut level[0];
            let one = before.last();
            let sight = Sight { arch, tensors, rows, source, families: families.as_ref(), one, settings, n };
            let limit = on_device(rule(arch, settings, l).candidates(&Candidacy { floor: None, band: &[] }), None);
            let search = Search { limit, ..sight.search(l, bytes.as_ref()) }.only(0, few);
            let mut lists = ListSlots::default();
            let room = search.run(&mut guesses[1], work, &mut lists)?;
            packing.download(lists.of(few, room), packed)?;
            values.append(&mut packed.value);
        }
        Ok(step::first_floor(&mut values, settings.k[group.clone()].iter().sum(), few))
    }

    /// Queues the search for the candidates of a level; without a selection over the batch these are what fires.
    fn candidates(&mut self, l: usize, n: usize, settings: &StepSettings, floor: f32) -> Result<()> {
        let Self { device, arch, tensors, levels, families, rows, source, selection, work, out, .. } = self;
        let (before, level) = levels.split_at_mut(l);
        let Level { bytes, guesses, numbers, candidates, kept, room, z, least, .. } = &mut level[0];
        let one = before.last();
        let sight = Sight { arch, tensors, rows, source, families: families.as_ref(), one, settings, n };
        let search = sight.search(l, bytes.as_ref());
        let (guess, least, needs) = (&mut guesses[0], least.room(device, n)?, out.needs(l));
        let (rule, tau) = (rule(arch, settings, l), settings.tau[l]);
        match arch.level[l].activation.selection() {
            Selection::Each => {
                let band = numbers.has_thresholds().then(|| numbers.band.of(arch.level[l].latents));
                let limit = on_device(rule.candidates(&Candidacy { floor: None, band: &[] }), band);
                let values = numbers.values(own(tensors, l));
                let to = if values.is_some() { &mut *candidates } else { &mut *kept };
                *room = Search { limit, ..search }.queue(guess, work, to, needs, least)?;
                if let Some(values) = values {
                    let (z, kept) = (z.room(device, n * *room)?, kept.room(device, n, *room)?);
                    kernels::activate(values, false, candidates.of(n, *room), Some(z), kept)?;
                }
            }
            Selection::Row => {
                let search = Search { limit: on_device(rule.limit(), None), ..search };
                search.prepare(guess, work)?;
                *room = search.queue(guess, work, kept, needs, least)?;
                let cut = out.cut(l);
                selection.start(device, 0, cut)?;
                list_least(kept.of(n, *room), cut.part(4..5))?;
            }
            Selection::Batch => {
                let floor = Some(if tau > 0.0 { floor.min(tau) } else { floor });
                let bar = rule.candidates(&Candidacy { floor, band: &[] }).one();
                *room = Search { limit: Limit::Above(bar), ..search }.queue(guess, work, candidates, needs, least)?;
            }
        }
        Ok(())
    }

    /// Queues the search for AuxK's picks at a level.
    fn picks(&mut self, l: usize, n: usize, settings: &StepSettings) -> Result<()> {
        let Self { device, config, arch, tensors, levels, families, rows, source, work, out, .. } = self;
        let (d, dead) = (arch.d, settings.dead[l].len());
        let (before, level) = levels.split_at_mut(l);
        let Level { bytes, aux, open, .. } = &mut level[0];
        aux.room = None;
        if !acts(config, settings, l) {
            return Ok(());
        }
        let one = before.last();
        let sight = Sight { arch, tensors, rows, source, families: families.as_ref(), one, settings, n };
        let search = Search { screen: None, ..sight.search(l, bytes.as_ref()) };
        let (k, places, needs) = (step::k_aux(config, arch), aux.dead.of(dead), out.needs(CHILDREN));
        let least = aux.least.room(device, n)?;
        if search.largest_of.is_some() {
            // Dead latents compete with the other children of their parents before they compete with each other.
            let room = search.queue(&mut aux.guess, work, &mut aux.found, needs, least)?;
            let few = open.raw.room(device, n, room)?;
            kernels::keep_dead(places, aux.found.of(n, room), few)?;
            let picks = aux.picks.room(device, n, k.min(dead))?;
            kernels::keep_largest(k.min(dead), few, least, picks)?;
            aux.room = Some(picks.room);
            return Ok(());
        }
        let all = search.weights;
        let w = aux.w.room(device, dead * d)?;
        kernels::gather_rows(places, all.w, d, w)?;
        let bias = aux.bias.room(device, dead)?;
        kernels::gather_rows(places, all.bias, 1, bias)?;
        let mut gate = search.gate;
        if let Some(gate) = &mut gate {
            let parents = aux.parents.room(device, dead)?;
            kernels::gather_words(places, gate.parents, 1, parents)?;
            gate.parents = parents;
        }
        let search = Search { weights: Weights { w, bias, d }, limit: Limit::Topk(k), gate, ..search };
        aux.room = Some(search.queue(&mut aux.guess, work, &mut aux.picks, needs, least)?);
        Ok(())
    }

    /// Queues the search for the ungated pre-activations of level 2, where something reads them.
    fn ungated(&mut self, n: usize, settings: &StepSettings) -> Result<()> {
        let Self { device, config, arch, tensors, levels, rows, source, work, out, .. } = self;
        if !settings.observe_ungated && !config.loss.consistency.needs().ungated {
            return Ok(());
        }
        let [one, two] = &mut levels[..] else { return Ok(()) };
        let Level { bytes, guesses, numbers, least, open, .. } = two;
        let (own, one) = (own(tensors, 1), Some(&*one));
        let sight = Sight { arch, tensors, rows, source, families: None, one, settings, n };
        let limit = on_device(rule(arch, settings, 1).ungated(settings.tau[1]).limit(), own.first);
        let search = Search { limit, ..sight.search(1, bytes.as_ref()) };
        let (guess, needs, least) = (&mut guesses[2], out.needs(OPEN), least.of(n));
        if let Some(values) = numbers.values(own) {
            // Some of what reaches the limit may still not fire.
            open.room = search.queue(guess, work, &mut open.raw, needs, least)?;
            let lists = open.lists.room(device, n, open.room)?;
            kernels::activate(values, true, open.raw.of(n, open.room), None, lists)?;
        } else {
            open.room = search.queue(guess, work, &mut open.lists, needs, least)?;
        }
        if settings.observe_ungated {
            let offsets = open.offsets.room(device, n + 1)?;
            kernels::scan(open.lists.of(n, open.room).count, offsets, None, Some(out.ungated()))?;
        }
        Ok(())
    }

    /// Queues the residual of a level, what follows from it, and its codes one row behind the other.
    fn decode(&mut self, l: usize, n: usize, settings: &StepSettings) -> Result<()> {
        let Self { device, config, arch, tensors, levels, rows, out, .. } = self;
        let d = arch.d;
        let (before, level) = levels.split_at_mut(l);
        let (level, decoder) = (&mut level[0], tensors[encoder(tensors, l) + 2].p.all());
        let from = before.last().filter(|_| arch.decoder.is_cumulative()).map(|one| one.r.of(n * d));
        let kept = level.kept.of(n, level.room);
        let r = level.r.room(device, n * d)?;
        kernels::leave_over(from.unwrap_or(rows.xt.of(n * d)), decoder, d, kept, r)?;
        let squares = level.squares.room(device, n)?;
        training::row_squares(r, d, false, squares)?;
        let variance = n as f64 * f64::from(settings.variance);
        out.sum(device, Terms::Times(squares, 1.0), CHUNK, variance, FVU + l)?;
        if level.aux.room.is_some() {
            let share = (settings.dead[l].len() as f64 / step::k_aux(config, arch) as f64).min(1.0);
            let by = [config.loss.aux, share, 1.0 / variance];
            crate::device::verdict::aux_weight(out.number(FVU + l), by, out.weight(l))?;
        }
        let codes = &mut level.codes;
        codes.most = codes.most.max(n * FEW);
        let offsets = codes.offsets.room(device, n + 1)?;
        kernels::scan(kept.count, offsets, None, Some(out.codes(l, codes.most)))?;
        let (index, value) = (codes.index.room(device, codes.most)?, codes.value.room(device, codes.most)?);
        kernels::pack_rows(kept, offsets, index, value)
    }

    /// Makes the entries of the rows: what may have a gradient.
    pub(super) fn settle(&mut self, n: usize) -> Result<()> {
        let Self { device, config, arch, tensors, levels, rows, families, .. } = self;
        let (d, f1) = (arch.d, arch.level[0].latents);
        let contains = levels.len() > 1 && config.loss.consistency.needs().ungated;
        let more = levels.last().filter(|_| contains).map_or(0, |level| level.open.room);
        for (l, level) in levels.iter_mut().enumerate() {
            level.settle(device, n, if l == 0 { more.min(f1) } else { more })?;
        }
        let [one, two] = &mut levels[..] else { return Ok(()) };
        if let Some(families) = families.as_ref().filter(|_| contains) {
            let all = n * two.open.room;
            two.open.child_at.room(device, all)?;
            two.open.parent_at.room(device, all)?;
            let (open, parents) = (two.open.of(n), families.parents.all());
            training::add_children(two.entries(n), two.first(n), open)?;
            let of = weights(tensors, 0, d);
            training::add_parents(rows.xt.of(n * d), of, parents, one.entries(n), one.first(n), open)?;
        }
        Ok(())
    }
}

/// Codes and entries per row that there is room for at first.
pub(super) const FEW: usize = 16;

/// Returns how many candidates of the levels a selection over the batch keeps.
pub(super) fn keep(group: &Range<usize>, n: usize, settings: &StepSettings) -> usize {
    step::keep_of(settings.k[group.clone()].iter().sum(), n)
}

/// Returns whether AuxK acts at a level in a step.
pub(super) fn acts(config: &Config, settings: &StepSettings, l: usize) -> bool {
    config.loss.aux > 0.0 && !settings.dead[l].is_empty()
}
