//! Which latents fire, on a device: candidates, the selection over the batch, AuxK's picks, and ungated pre-activations.

use super::super::observed::{Losses, Observed};
use super::super::step::{self, StepSettings};
use super::{CHUNK, OnDevice, encoder, ordered, own, weights};
use crate::activation::{Candidacy, Rule, Selection};
use crate::device::Part;
use crate::device::kernels::{self, Bytes, ROUNDED, Weights, width};
use crate::device::lists::{Gate, ListSlots};
use crate::device::search::{Guess, Limit, Search};
use crate::device::training;
use crate::error::Result;
use crate::gate::Reads;
use crate::kernel::fire;

/// Returns a limit of the CPU as one of a device; `each` are the limits of the latents, where each has its own.
fn on_device<'a>(limit: fire::Limit<'_>, each: Option<Part<'a, f32>>) -> Limit<'a> {
    match (limit, each) {
        (fire::Limit::Topk(k), _) => Limit::Topk(k),
        (fire::Limit::AboveEach(_), Some(each)) => Limit::Each(each),
        (limit, _) => Limit::Above(limit.one()),
    }
}

impl OnDevice {
    /// Rounds what a level reads and its encoder to 8 bits, where it is screened.
    pub(super) fn round(&mut self, l: usize, n: usize) -> Result<()> {
        let Self { device, arch, tensors, levels, rows, source, .. } = self;
        let d = arch.d;
        let (before, level) = levels.split_at(l);
        let Some((bytes, known)) = &level[0].bytes else { return Ok(()) };
        let band = own(tensors, l).first.filter(|_| level[0].numbers.has_thresholds());
        let band = band.map(|thresholds| level[0].numbers.band.of(thresholds.len()));
        kernels::round_weights(weights(tensors, l, d), band, Bytes { bytes: bytes.all(), known: known.all() })?;
        let (bytes, known) = (n * width(d), n * ROUNDED);
        match before.last().filter(|_| !arch.source.is_parallel()) {
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

    /// Finds what fires at a level, the picks of AuxK, and ungated pre-activations; returns the smallest selected
    /// pre-activation and how many lie above the tracked threshold.
    pub(super) fn collect(
        &mut self,
        l: usize,
        n: usize,
        settings: &StepSettings,
        floor: &mut Option<f32>,
        observed: &mut Observed,
    ) -> Result<(f32, usize)> {
        let Self { device, config, arch, tensors, levels, families, rows, source, selection, work, .. } = self;
        let (packing, packed) = (&mut self.packing, &mut self.packed);
        let (d, f) = (arch.d, arch.level[l].latents);
        let (before, level) = levels.split_at_mut(l);
        let level = &mut level[0];
        let one = before.last();
        let (x, bytes, rounded) = match one.filter(|_| !arch.source.is_parallel()) {
            Some(one) => (one.r.of(n * d), &source.bytes, &source.rounded),
            None => (rows.xt.of(n * d), &rows.bytes, &rows.rounded),
        };
        let screen = level.bytes.as_ref().map(|(weights, known)| {
            let own = Bytes { bytes: bytes.of(n * width(d)), known: rounded.of(n * ROUNDED) };
            [own, Bytes { bytes: weights.all(), known: known.all() }]
        });
        let (mut gate, mut largest_of) = (None, None);
        if let (Some(families), Some(one)) = (families.as_ref(), one) {
            match settings.gate.reads() {
                Reads::ActiveParents { largest_only: true } => {
                    largest_of = Some((families, one.kept.of(n, one.room)));
                }
                Reads::ActiveParents { largest_only: false } => {
                    let words = arch.level[0].latents.div_ceil(32);
                    let active = rows.active.room(device, n * words)?;
                    kernels::mark_active(one.kept.of(n, one.room), words, active)?;
                    gate = Some(Gate { parents: families.parents.all(), active, words });
                }
                Reads::Nothing | Reads::AllPreActivations => {}
            }
        }
        let search = |limit| Search { x, weights: weights(tensors, l, d), screen, limit, gate, largest_of };
        let (k, tau, own) = (settings.k[l], settings.tau[l], own(tensors, l));
        let [guess, first_guess, open_guess] = &mut level.guesses;
        let rule = Rule::new(arch.level[l].activation, k, tau, Default::default());
        let candidates = |floor| rule.candidates(&Candidacy { floor, band: &[] });
        let values = level.numbers.values(own);
        let chosen = match arch.level[l].activation.selection() {
            Selection::Each => {
                let band = level.numbers.has_thresholds().then(|| level.numbers.band.of(f));
                let limit = on_device(candidates(None), band);
                let to = if values.is_some() { &mut level.candidates } else { &mut level.kept };
                level.room = search(limit).run(guess, work, to)?;
                if let Some(values) = values {
                    let z = level.z.room(device, n * level.room)?;
                    let kept = level.kept.room(device, n, level.room)?;
                    kernels::activate(values, false, level.candidates.of(n, level.room), Some(z), kept)?;
                }
                (0.0, 0)
            }
            Selection::Row => {
                level.room = search(on_device(rule.limit(), None)).run(guess, work, &mut level.kept)?;
                let least = selection.least.room(device, 1)?;
                least.put(&[u32::MAX])?;
                training::list_least(level.kept.of(n, level.room), least)?;
                let least = least.to_vec()?[0];
                (if least < u32::MAX { f32::from_bits(least) } else { 0.0 }, 0)
            }
            Selection::Batch => {
                if floor.is_none() {
                    let few = n.min(CHUNK);
                    let mut values = ListSlots::default();
                    let limit = on_device(candidates(None), None);
                    let room = search(limit).only(0, few).run(first_guess, work, &mut values)?;
                    packing.download(values.of(few, room), packed)?;
                    *floor = Some(step::first_floor(&mut packed.value, k, few));
                }
                let keep = step::keep_of(k, n);
                loop {
                    let now = floor.unwrap_or(0.0);
                    let bar = candidates(Some(if tau > 0.0 { now.min(tau) } else { now })).one();
                    level.room = search(Limit::Above(bar)).run(guess, work, &mut level.candidates)?;
                    let found: u64 =
                        level.candidates.of(n, level.room).count.to_vec()?.into_iter().map(u64::from).sum();
                    if found >= keep as u64 || now <= 0.0 {
                        break;
                    }
                    *floor = Some(step::lower_floor(now));
                }
                let found = level.candidates.of(n, level.room);
                let kept = level.kept.room(device, n, level.room)?;
                let [bits, _, above, n_found, least] = selection.run(device, found, tau, keep, kept)?;
                let cut = n_found as usize > keep;
                let least = if cut {
                    f32::from_bits(bits)
                } else if n_found > 0 {
                    f32::from_bits(least)
                } else {
                    0.0
                };
                *floor = Some(step::next_floor(cut, least));
                (least, above as usize)
            }
        };
        level.aux.room = None;
        let dead = &settings.dead[l];
        if config.loss.aux > 0.0 && !dead.is_empty() {
            let aux = &mut level.aux;
            aux.n_dead = dead.len();
            let places = aux.dead.room(device, dead.len())?;
            places.put(dead)?;
            let k = step::k_aux(config, arch);
            if largest_of.is_some() {
                // Dead latents compete with the other children of their parents before they compete with each other.
                let all = Search { screen: None, ..search(Limit::Above(0.0)) };
                let room = all.run(&mut Guess::default(), work, &mut aux.found)?;
                let few = level.open.raw.room(device, n, room)?;
                kernels::keep_dead(places, aux.found.of(n, room), few)?;
                let k = k.min(dead.len());
                let (least, picks) = (aux.least.room(device, n)?, aux.picks.room(device, n, k)?);
                kernels::keep_largest(k, few, least, picks)?;
                aux.room = Some(picks.room);
            } else {
                let all = weights(tensors, l, d);
                let w = aux.w.room(device, dead.len() * d)?;
                kernels::gather_rows(places, all.w, d, w)?;
                let bias = aux.bias.room(device, dead.len())?;
                kernels::gather_rows(places, all.bias, 1, bias)?;
                let mut gate = gate;
                if let Some(gate) = &mut gate {
                    let parents = aux.parents.room(device, dead.len())?;
                    kernels::gather_words(places, gate.parents, 1, parents)?;
                    gate.parents = parents;
                }
                let (limit, weights) = (Limit::Topk(k), Weights { w, bias, d });
                let search = Search { x, weights, screen: None, limit, gate, largest_of: None };
                aux.room = Some(search.run(&mut Guess::default(), work, &mut aux.picks)?);
            }
        }
        let contains = config.loss.consistency.needs().ungated;
        if l == 1 && (settings.observe_ungated || contains) {
            let limit = on_device(rule.ungated(tau).limit(), own.first);
            let open = Search { gate: None, largest_of: None, ..search(limit) };
            let slots = &mut level.open;
            if let Some(values) = values {
                // Some of what reaches the limit may still not fire.
                slots.room = open.run(open_guess, work, &mut slots.raw)?;
                let out = slots.lists.room(device, n, slots.room)?;
                kernels::activate(values, true, slots.raw.of(n, slots.room), None, out)?;
            } else {
                slots.room = open.run(open_guess, work, &mut slots.lists)?;
            }
            if settings.observe_ungated {
                packing.download(slots.lists.of(n, slots.room), packed)?;
                observed.ungated.offsets.clone_from(&packed.offsets);
                observed.ungated.index.clone_from(&packed.index);
                observed.ungated.value.clone_from(&packed.value);
            }
        }
        Ok(chosen)
    }

    /// Writes the residual of a level, and takes what the host sees of the codes and of it.
    pub(super) fn decode(
        &mut self,
        l: usize,
        n: usize,
        settings: &StepSettings,
        observed: &mut Observed,
        losses: &mut Losses,
    ) -> Result<()> {
        let Self { device, arch, tensors, levels, rows, packing, packed, .. } = self;
        let d = arch.d;
        let (before, level) = levels.split_at_mut(l);
        let (level, decoder) = (&mut level[0], tensors[encoder(tensors, l) + 2].p.all());
        let from = before.last().filter(|_| arch.decoder.is_cumulative()).map(|one| one.r.of(n * d));
        let kept = level.kept.of(n, level.room);
        let r = level.r.room(device, n * d)?;
        kernels::leave_over(from.unwrap_or(rows.xt.of(n * d)), decoder, d, kept, r)?;
        training::row_squares(r, d, false, level.squares.room(device, n)?)?;
        packing.download(kept, packed)?;
        let codes = &mut observed.codes[l];
        codes.offsets.clone_from(&packed.offsets);
        codes.index.clone_from(&packed.index);
        codes.value.clone_from(&packed.value);
        observed.energy.resize(n, 0.0);
        level.squares.of(n).get(&mut observed.energy)?;
        let squares: f64 = observed.energy.chunks(CHUNK).map(|chunk| ordered(chunk, f64::from)).sum();
        losses.fvu[l] = squares / (n as f64 * f64::from(settings.variance));
        losses.l0[l] = codes.index.len() as f64 / n as f64;
        Ok(())
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
