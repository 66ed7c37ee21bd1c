//! Which latents fire, on a device: candidates, AuxK's picks, ungated pre-activations, codes and residuals.

use super::super::step::{self, StepSettings};
use super::level::Level;
use super::out::{CHILDREN, OPEN};
use super::shards::Over;
use super::{CHUNK, Learned, OnDevice, RowSlots, SourceSlots, encoder, own, weights};
use crate::activation::{Candidacy, Rule, Selection};
use crate::config::Config;
use crate::device::Part;
use crate::device::kernels::{self, Bytes, ROUNDED, Weights, width};
use crate::device::lists::{FamiliesOn, Gate, ListSlots};
use crate::device::search::{Guess, Limit, Needs, Search, Work};
use crate::device::selection::{LEAST, list_least};
use crate::device::sums;
use crate::device::training::{self, parent_values};
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
                    largest_of = Some((families, one.firing(n)));
                }
                Reads::ActiveParents { largest_only: false } => {
                    let words = families.n_parents().div_ceil(32);
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
        if let (Some(one), Some(families), Reads::ActiveParents { largest_only: false }) =
            (one, families, settings.gate.reads())
        {
            let words = families.n_parents().div_ceil(32);
            kernels::mark_active(one.firing(n), words, rows.active.room(device, n * words)?)?;
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
        let mut now = floor.unwrap_or(0.0);
        loop {
            for l in group.clone() {
                self.candidates(l, n, settings, now)?;
            }
            // One process finds out at the end of the step.
            if !is_batch || self.over.is_solo() || now <= 0.0 || self.found(group, n)? >= keep(group, n, settings) {
                break;
            }
            now = step::lower_floor(now);
            *floor = Some(now);
        }
        if is_batch {
            let Self { device, over, selection, out, levels, .. } = self;
            let (cut, levels) = ([out.cut(group.start), out.bad()], &mut levels[group.clone()]);
            let kept = (keep(group, n, settings), now > 0.0);
            selection.run((device, over.comm()), levels, (n, settings.tau[group.start]), kept, cut)?;
        }
        for l in group.clone() {
            self.join(l, n, settings)?;
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

    /// Returns how many candidates of some levels there are, of all shards.
    fn found(&self, group: &Range<usize>, n: usize) -> Result<usize> {
        let mut own = 0;
        for level in &self.levels[group.clone()] {
            let counts = level.candidates.of(n, level.room).count.to_vec()?;
            own += counts.iter().map(|count| *count as usize).sum::<usize>();
        }
        self.over.total(own)
    }

    /// Makes what fires at a level known to all shards, where there are several; without a selection over the batch it is found here.
    fn join(&mut self, l: usize, n: usize, settings: &StepSettings) -> Result<()> {
        let Self { device, arch, over, levels, out, .. } = self;
        if over.is_solo() {
            return Ok(());
        }
        let is_by_row = arch.level[l].activation.selection() == Selection::Row;
        let k = match rule(arch, settings, l).limit() {
            fire::Limit::Topk(k) if is_by_row => Some(k),
            _ => None,
        };
        let least = over.join(device, l, n, k, &mut levels[l])?;
        if is_by_row {
            let bits = if least.is_finite() { least.to_bits() } else { u32::MAX };
            out.cut(l).part(LEAST..LEAST + 1).put(&[bits])?;
        }
        out.codes(l, 0).total.put(&[over.codes[l].index.len() as u32])
    }

    /// Returns the floor of the first batch, from its first rows, for which the host waits for the device.
    fn first_floor(&mut self, group: &Range<usize>, n: usize, settings: &StepSettings) -> Result<f32> {
        let Self { device, arch, over, tensors, levels, families, rows, source, work, packing, packed, .. } = self;
        let (few, mut values) = (n.min(CHUNK), Vec::new());
        for l in group.clone() {
            let (before, level) = levels.split_at_mut(l);
            let Level { bytes, guesses, .. } = &mut level[0];
            let one = before.last();
            let sight = Sight { arch, tensors, rows, source, families: families.as_ref(), one, settings, n };
            let limit = on_device(rule(arch, settings, l).candidates(&Candidacy { floor: None, band: &[] }), None);
            let search = Search { limit, ..sight.search(l, bytes.as_ref()) }.only(0, few);
            if !over.is_solo() {
                values.append(&mut over.find_values(device, &search, &mut guesses[1], work)?);
                continue;
            }
            let mut lists = ListSlots::default();
            let room = search.run(&mut guesses[1], work, &mut lists)?;
            packing.download(lists.of(few, room), packed)?;
            values.append(&mut packed.value);
        }
        Ok(step::first_floor(&mut values, settings.k[group.clone()].iter().sum(), few))
    }

    /// Queues the search for the candidates of a level; without a selection over the batch these are what fires.
    fn candidates(&mut self, l: usize, n: usize, settings: &StepSettings, floor: f32) -> Result<()> {
        let Self { device, arch, over, tensors, levels, families, rows, source, selection, work, out, .. } = self;
        let (before, level) = levels.split_at_mut(l);
        let Level { bytes, guesses, numbers, candidates, kept, room, z, least, .. } = &mut level[0];
        let one = before.last();
        let sight = Sight { arch, tensors, rows, source, families: families.as_ref(), one, settings, n };
        let search = sight.search(l, bytes.as_ref());
        let (guess, ask) = (&mut guesses[0], (out.needs(l), least.room(device, n)?));
        let (rule, tau) = (rule(arch, settings, l), settings.tau[l]);
        match arch.level[l].activation.selection() {
            Selection::Each => {
                let band = numbers.has_thresholds().then(|| numbers.band.of(arch.level[l].latents));
                let limit = on_device(rule.candidates(&Candidacy { floor: None, band: &[] }), band);
                let values = numbers.values(own(tensors, l));
                let to = if values.is_some() { &mut *candidates } else { &mut *kept };
                *room = find(over, Search { limit, ..search }, guess, work, to, ask)?;
                if let Some(values) = values {
                    let (z, kept) = (z.room(device, n * *room)?, kept.room(device, n, *room)?);
                    kernels::activate(values, false, candidates.of(n, *room), Some(z), kept)?;
                }
            }
            Selection::Row => {
                let search = Search { limit: on_device(rule.limit(), None), ..search };
                let cut = out.cut(l);
                selection.start(device, 0, cut)?;
                if over.is_solo() {
                    search.prepare(guess, work)?;
                }
                *room = find(over, search, guess, work, kept, ask)?;
                if over.is_solo() {
                    list_least(kept.of(n, *room), cut.part(LEAST..LEAST + 1))?;
                }
            }
            Selection::Batch => {
                let floor = Some(if tau > 0.0 { floor.min(tau) } else { floor });
                let bar = rule.candidates(&Candidacy { floor, band: &[] }).one();
                *room = find(over, Search { limit: Limit::Above(bar), ..search }, guess, work, candidates, ask)?;
            }
        }
        Ok(())
    }

    /// Queues the search for AuxK's picks at a level.
    fn picks(&mut self, l: usize, n: usize, settings: &StepSettings) -> Result<()> {
        let Self { device, config, arch, over, tensors, levels, families, rows, source, work, out, .. } = self;
        let (before, level) = levels.split_at_mut(l);
        let Level { bytes, aux, open, .. } = &mut level[0];
        let (d, dead) = (arch.d, aux.n_dead);
        aux.room = None;
        if !acts(config, settings, l) {
            return Ok(());
        }
        let one = before.last();
        let sight = Sight { arch, tensors, rows, source, families: families.as_ref(), one, settings, n };
        let search = Search { screen: None, ..sight.search(l, bytes.as_ref()) };
        let (k, places) = (step::k_aux(config, arch), aux.dead.of(dead));
        let least = aux.least.room(device, n)?;
        let ask = (out.needs(CHILDREN), least);
        if search.largest_of.is_some() {
            // Dead latents compete with the other children of their parents before they compete with each other.
            let room = find(over, search, &mut aux.guess, work, &mut aux.found, ask)?;
            let few = open.raw.room(device, n, room)?;
            kernels::keep_dead(places, aux.found.of(n, room), few)?;
            let picks = aux.picks.room(device, n, k.min(dead))?;
            kernels::keep_largest(k.min(dead), few, least, picks)?;
            aux.room = Some(over.pick(device, k, &mut aux.picks, (n, k.min(dead)))?);
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
        let room = find(over, search, &mut aux.guess, work, &mut aux.picks, ask)?;
        aux.room = Some(over.pick(device, k, &mut aux.picks, (n, room))?);
        Ok(())
    }

    /// Queues the search for the ungated pre-activations of level 2, where something reads them.
    fn ungated(&mut self, n: usize, settings: &StepSettings) -> Result<()> {
        let Self { device, config, arch, over, tensors, levels, rows, source, work, out, .. } = self;
        let contains = config.loss.consistency.needs().ungated;
        if !settings.observe_ungated && !contains {
            return Ok(());
        }
        let [one, two] = &mut levels[..] else { return Ok(()) };
        let Level { bytes, guesses, numbers, least, open, .. } = two;
        let (own, one) = (own(tensors, 1), Some(&*one));
        let sight = Sight { arch, tensors, rows, source, families: None, one, settings, n };
        let limit = on_device(rule(arch, settings, 1).ungated(settings.tau[1]).limit(), own.first);
        let search = Search { limit, ..sight.search(1, bytes.as_ref()) };
        let (guess, ask) = (&mut guesses[2], (out.needs(OPEN), least.of(n)));
        if let Some(values) = numbers.values(own) {
            // Some of what reaches the limit may still not fire.
            open.room = find(over, search, guess, work, &mut open.raw, ask)?;
            let lists = open.lists.room(device, n, open.room)?;
            kernels::activate(values, true, open.raw.of(n, open.room), None, lists)?;
        } else {
            open.room = find(over, search, guess, work, &mut open.lists, ask)?;
        }
        if !over.is_solo() {
            return over.share_open(device, n, contains, two);
        }
        if settings.observe_ungated {
            let offsets = open.offsets.room(device, n + 1)?;
            kernels::scan(open.lists.of(n, open.room).count, offsets, None, Some(out.ungated()))?;
        }
        Ok(())
    }

    /// Queues the residual of a level, what follows from it, and its codes one row behind the other.
    fn decode(&mut self, l: usize, n: usize, settings: &StepSettings) -> Result<()> {
        let Self { device, config, arch, over, tensors, levels, rows, out, .. } = self;
        let d = arch.d;
        let (before, level) = levels.split_at_mut(l);
        let (level, decoder) = (&mut level[0], tensors[encoder(tensors, l) + 2].p.all());
        let from = before.last().filter(|_| arch.decoder.is_cumulative()).map(|one| one.r.of(n * d));
        let kept = level.kept.of(n, level.room);
        let r = level.r.room(device, n * d)?;
        let from = from.unwrap_or(rows.xt.of(n * d));
        if over.is_solo() {
            sums::leave_over(from, decoder, d, kept, r)?;
        } else {
            let sum = over.running_sum(device, "sums", (n, d), |rows, before, out| {
                sums::add_over(before, decoder, d, kept.rows(rows.start, rows.len()), out)
            })?;
            sums::take_from(from, sum, d, r)?;
        }
        let squares = level.squares.room(device, n)?;
        training::row_squares(r, d, false, squares)?;
        let variance = n as f64 * f64::from(settings.variance);
        out.sum(device, Terms::Times(squares, 1.0), CHUNK, variance, FVU + l)?;
        if level.aux.room.is_some() {
            let share = (settings.dead[l].len() as f64 / step::k_aux(config, arch) as f64).min(1.0);
            let by = [config.loss.aux, share, 1.0 / variance];
            crate::device::verdict::aux_weight(out.number(FVU + l), by, out.weight(l))?;
        }
        if !over.is_solo() {
            return Ok(());
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
        let Self { device, config, arch, over, tensors, levels, rows, families, .. } = self;
        let (d, f1) = (arch.d, arch.level[0].latents);
        let contains = levels.len() > 1 && config.loss.consistency.needs().ungated;
        let more = levels.last().filter(|_| contains).map_or(0, |level| level.open.reach());
        for (l, level) in levels.iter_mut().enumerate() {
            level.settle(device, n, if l == 0 { more.min(f1) } else { more })?;
        }
        let [one, two] = &mut levels[..] else { return Ok(()) };
        if let Some(families) = families.as_ref().filter(|_| contains) {
            two.open.places(device, n)?;
            let (open, parents) = (two.open.of(n), over.own_parents().unwrap_or(families.parents.all()));
            training::add_children(two.entries(n), two.first(n), two.open.children(n))?;
            let of = weights(tensors, 0, d);
            training::add_parents(rows.xt.of(n * d), of, parents, one.entries(n), one.first(n), open)?;
            if let Some(known) = open.known {
                parent_values(open, one.entries(n), known)?;
                over.share_parents(open.lists.room, known)?;
            }
        }
        Ok(())
    }
}

/// Starts a search that one process queues, which says what it has lacked in `ask`; what several shards find they exchange next, so
/// that it is there then. Returns the room of the lists.
fn find(
    over: &mut Over,
    search: Search<'_>,
    guess: &mut Guess,
    work: &mut Work,
    out: &mut ListSlots,
    (needs, least): (Needs<'_>, Part<'_, f32>),
) -> Result<usize> {
    if over.is_solo() {
        return search.queue(guess, work, out, needs, least);
    }
    over.find(least.device(), &search, guess, work, out)
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
