//! A step, queued as a whole: the device decides whether it counts, and the host waits for it once, at its end.
//!
//! Lists have room for what earlier steps needed, and the floor of a selection over the batch is that of the CPU. Where one of them
//! does not do, the device says so and updates nothing; the host then gives what was lacking and queues the step again.

use super::super::observed::{Losses, Observed};
use super::super::step::{self, Adam, StepSettings};
use super::collect::{acts, keep};
use super::given::Given;
use super::newest::Newest;
use super::out::{CHILDREN, OPEN, Said};
use super::{Learned, OnDevice, VECTOR, own};
use crate::activation::Selection;
use crate::config::Budget;
use crate::device::kernels::{self, ROUNDED};
use crate::device::lists::FamiliesOn;
use crate::device::training;
use crate::device::verdict::{AUX, CONSISTENCY, FLOOR_TOO_HIGH, FVU, GATED, NORM, SPARSITY, SQUARES, Terms, verdict};
use crate::error::{At, Error, Result};
use crate::model::Params;
use alloc::format;
use alloc::vec::Vec;
use core::ops::Range;

impl OnDevice {
    /// Takes one step, and writes what it has seen. `params` are read only where the host has newer ones.
    pub fn step(
        &mut self,
        x: Given<'_>,
        settings: &StepSettings,
        params: &Params,
        floors: &mut [Option<f32>; 2],
        adam: &mut Adam,
        observed: &mut Observed,
    ) -> Result<()> {
        let row = self.arch.d * x.dtype().size_bytes();
        let n = x.bytes().len() / row;
        assert!(n > 0 && x.bytes().len() == n * row, "{} bytes are no whole number of rows", x.bytes().len());
        // What level 2 reads changes in the course of a training.
        self.arch.source = settings.source;
        self.begin(x, settings, params, n)?;
        let groups = self.groups();
        let said = loop {
            self.queue(x, settings, &groups, n, floors, adam)?;
            let said = self.out.read()?;
            if said.bad() == 0 || !self.lacks(&said, settings, &groups, n, floors) {
                break said;
            }
            adam.t -= 1;
        };
        let losses = self.losses(&said, settings, &groups, n, floors)?;
        let failed = step::check(&losses).err().or_else(|| self.not_finite(&said, settings, adam.t - 1));
        if let Some(why) = failed {
            adam.t -= 1;
            return Err(why);
        }
        assert!(said.is_ok(), "the device has left a step out for no reason");
        self.newest = Newest::Device;
        (observed.losses, observed.grad_norm) = (losses, said.numbers[NORM]);
        self.observe(&said, n, observed)
    }

    /// Returns the levels that are selected from together.
    fn groups(&self) -> Vec<Range<usize>> {
        let levels = self.levels.len();
        if levels == 2 && self.config.budget == Budget::Shared {
            return core::iter::once(0..2).collect();
        }
        (0..levels).map(|l| l..l + 1).collect()
    }

    /// Brings what the host has changed to the device. All copies come first, since they wait for what was started before.
    fn begin(&mut self, x: Given<'_>, settings: &StepSettings, params: &Params, n: usize) -> Result<()> {
        if self.newest == Newest::Host {
            for (name, p) in params.tensors() {
                let Some(tensor) = self.tensors.iter().find(|tensor| tensor.name == name) else { continue };
                tensor.p.all().put(p)?;
            }
        }
        let reads_families = settings.gate.has_families() || self.config.loss.consistency.needs().families;
        if let Some(families) = self.changed.take_if(|_| reads_families && self.levels.len() > 1) {
            self.families = Some(FamiliesOn::new(&self.device, &self.over.set_families(&self.device, &families)?)?);
        }
        self.rows.raw.room(&self.device, x.bytes().len())?.put(x.bytes())?;
        let Self { device, config, arch, over, tensors, levels, .. } = self;
        over.open = None;
        let mut dead = Vec::new();
        for (l, level) in levels.iter_mut().enumerate() {
            if acts(config, settings, l) {
                over.shard.own_of(l, &settings.dead[l], &mut dead);
                level.aux.n_dead = dead.len();
                level.aux.dead.room(device, dead.len())?.put(&dead)?;
            }
            level.open.all_room = None;
            level.numbers.update(device, config, (l, arch.level[l]), settings, own(tensors, l), n)?;
        }
        self.start_anew()?;
        self.flush_counts()?;
        let Self { device, tensors, levels, .. } = self;
        for (l, level) in levels.iter_mut().enumerate() {
            level.numbers.measure(device, own(tensors, l))?;
        }
        self.left.clear();
        self.n = n;
        Ok(())
    }

    /// Starts everything of a step.
    fn queue(
        &mut self,
        x: Given<'_>,
        settings: &StepSettings,
        groups: &[Range<usize>],
        n: usize,
        floors: &mut [Option<f32>; 2],
        adam: &mut Adam,
    ) -> Result<()> {
        self.out.begin()?;
        let d = self.arch.d;
        let Self { device, rows, tensors, .. } = self;
        let affine = rows.affine.as_ref().filter(|_| matches!(x, Given::Raw(..)));
        let affine = affine.map(|(mean, scale)| (mean.all(), *scale));
        let raw = rows.raw.of(x.bytes().len());
        kernels::rows_in((raw, x.dtype()), affine, Some(tensors[0].p.all()), d, rows.xt.room(device, n * d)?)?;
        for group in groups {
            let mut floor = floors[group.start];
            self.forward(group, n, settings, &mut floor)?;
            floors[group.clone()].fill(floor);
        }
        self.settle(n)?;
        self.backward(n, settings)?;
        let clip = self.config.train.clip;
        let update = adam.next_step(settings.lr, 0.0);
        let (fixed, mut learns) = (settings.fixed_level, 0);
        let Self { device, over, tensors, out, .. } = self;
        for Learned { spec, p, g, squares, .. } in
            tensors.iter().filter(|tensor| fixed.is_none() || tensor.spec.level != fixed)
        {
            if spec.unit_rows {
                training::project_rows(p.all(), spec.width, g.all())?;
            }
            let rows = step::adam::rows_of_block(spec.width);
            training::square_sums(g.all(), rows * spec.width, spec.width.max(64), squares.all())?;
            if over.is_solo() || !spec.per_latent {
                out.sum(device, Terms::Wide(squares.all()), step::adam::GROUP / rows, 1.0, SQUARES + learns)?;
            } else {
                out.number(SQUARES + learns).put(&[over.squares(squares.all(), rows)?])?;
            }
            learns += 1;
        }
        verdict(learns, clip, out.bad(), out.numbers(), out.clip(), out.ok())?;
        for Learned { spec, p, g, m, v, norms, .. } in self.learning(fixed) {
            let width = if spec.width > 1 { spec.width } else { VECTOR };
            let kept = [spec.unit_rows, spec.nonnegative];
            let by = (self.out.clip(), self.out.ok());
            let norms = norms.as_ref().map(|norms| norms.all());
            training::adam_rows(&update, by, width, kept, g.all(), [p.all(), m.all(), v.all()], norms)?;
        }
        Ok(())
    }

    /// Returns whether a step has lacked something, which is there from then on: the first thing only, since what comes after it read
    /// lists that were not complete. Floors fall as on the CPU.
    fn lacks(
        &mut self,
        said: &Said,
        settings: &StepSettings,
        groups: &[Range<usize>],
        n: usize,
        floors: &mut [Option<f32>; 2],
    ) -> bool {
        let more = |total: usize, most: &mut usize| {
            let lacks = total > *most;
            *most = if lacks { total + total / 4 } else { *most };
            lacks
        };
        let latents = self.arch.latents();
        for group in groups {
            for l in group.clone() {
                if self.levels[l].guesses[0].lacks(said.found(l), n, latents[l]) {
                    return true;
                }
            }
            let cut = said.cut(group.start);
            let floor = floors[group.start].unwrap_or(0.0);
            let selects = self.arch.level[group.start].activation.selection() == Selection::Batch;
            let too_few = selects && floor > 0.0 && (cut[3] as usize) < keep(group, n, settings);
            if too_few && said.bad() & FLOOR_TOO_HIGH > 0 {
                floors[group.clone()].fill(Some(step::lower_floor(floor)));
                return true;
            }
        }
        let Some(last) = self.levels.last_mut() else { return false };
        let f = latents[groups.last().map_or(0, |group| group.end - 1)];
        if last.guesses[2].lacks(said.found(OPEN), n, f) || last.aux.guess.lacks(said.found(CHILDREN), n, f) {
            return true;
        }
        let mut lacks = false;
        for (l, level) in self.levels.iter_mut().enumerate() {
            lacks |= more(said.codes(l), &mut level.codes.most);
            lacks |= more(said.entries(l), &mut level.most);
        }
        lacks
    }

    /// Returns the losses of a step, and sets the floors of the next.
    fn losses(
        &self,
        said: &Said,
        settings: &StepSettings,
        groups: &[Range<usize>],
        n: usize,
        floors: &mut [Option<f32>; 2],
    ) -> Result<Losses> {
        let (arch, mut losses) = (&self.arch, Losses::default());
        let two = |at: usize| [said.numbers[at], said.numbers[at + 1]];
        (losses.fvu, losses.sparsity, losses.aux, losses.gated) = (two(FVU), two(SPARSITY), two(AUX), two(GATED));
        losses.consistency = said.numbers[CONSISTENCY];
        if self.levels.len() == 1 {
            losses.fvu[1] = losses.fvu[0];
        }
        for group in groups {
            let &[bits, _, above, found, least] = said.cut(group.start) else { continue };
            let value = |bits: u32| if bits < u32::MAX { f32::from_bits(bits) } else { 0.0 };
            let (mut smallest, mut above_tau) = (0.0, 0);
            match arch.level[group.start].activation.selection() {
                Selection::Each => {}
                Selection::Row => smallest = value(least),
                Selection::Batch => {
                    let cut = found as usize > keep(group, n, settings);
                    smallest = if cut { value(bits) } else { value(least) };
                    above_tau = above as usize;
                    floors[group.clone()].fill(Some(step::next_floor(cut, smallest)));
                }
            }
            losses.selected_min[group.clone()].fill(smallest);
            losses.above_tau[group.clone()].fill(above_tau);
        }
        for l in 0..self.levels.len() {
            losses.l0[l] = said.codes(l) as f64 / n as f64;
        }
        let unit = 1.0 / (n as f64 * f64::from(settings.variance));
        let recon = [0, 1].map(|l| (2.0 * f64::from(settings.w[l]) * unit) as f32);
        let stats = self.bias.stats.of(3 * arch.latents()[0]).to_vec()?;
        losses.balance = step::row_norms(self.over.comm(), &stats, settings.w, recon)?;
        step::add_up(settings.w, self.levels.len(), &mut losses);
        Ok(losses)
    }

    /// Returns the error of the first gradient that is not finite.
    fn not_finite(&self, said: &Said, settings: &StepSettings, at: u64) -> Option<Error> {
        let all = self.learning(settings.fixed_level).zip(&said.numbers[SQUARES..]);
        let wrong = all.filter(|(_, squares)| !squares.is_finite()).map(|(tensor, _)| tensor.name).next()?;
        Some(Error::NotFinite { what: format!("the gradient of {wrong}"), at: At::Step(at) })
    }

    /// Copies the codes of a step, and learns from it what the next one needs.
    fn observe(&mut self, said: &Said, n: usize, observed: &mut Observed) -> Result<()> {
        let Self { arch, over, levels, rows, source, .. } = self;
        observed.energy.resize(n, 0.0);
        levels.last().map_or(Ok(()), |level| level.squares.of(n).get(&mut observed.energy))?;
        observed.codes[1].clear();
        if !over.is_solo() {
            over.observe(n, &mut observed.codes[..levels.len()], &mut observed.ungated);
            return Ok(());
        }
        observed.ungated.clear();
        (0..n).for_each(|_| observed.ungated.end_row());
        for (l, level) in levels.iter_mut().enumerate() {
            let (codes, total) = (&mut observed.codes[l], said.codes(l));
            codes.offsets.resize(n + 1, 0);
            codes.index.resize(total, 0);
            codes.value.resize(total, 0.0);
            level.codes.offsets.of(n + 1).get(&mut codes.offsets)?;
            level.codes.index.of(total).get(&mut codes.index)?;
            level.codes.value.of(total).get(&mut codes.value)?;
            level.open.total = said.ungated();
            if level.bytes.is_some() && arch.level[l].activation.selection() == Selection::Row {
                let known = if l == 1 && !arch.source.is_parallel() { &source.rounded } else { &rows.rounded };
                level.guesses[0].learn_from(known.of(n * ROUNDED), level.least.of(n))?;
            }
        }
        Ok(())
    }
}
