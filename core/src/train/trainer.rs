//! One training run: schedules, controllers, families and revival around the engine, which does the arithmetic of a
//! step.

use super::batch::BatchRows;
use super::calibrate;
use super::cofire::Cofire;
use super::comm::{Comm, Solo};
use super::controller::{Surplus, ThresholdTracker};
use super::engine::Engine;
use super::inference::Inference;
use super::init;
use super::l0::L0Control;
use super::observed::Losses;
use super::revive::{Silence, reseed};
use super::schedule::{annealed_k, annealed_w1, learning_rate};
use super::shard::Shard;
use super::state::{Array, Saved, State};
use super::step::StepSettings;
use crate::activation::Selection;
use crate::balance::BalanceState;
use crate::compute::Compute;
use crate::config::{Budget, Config, GateKind, ModelKind, Parents, RowNorm, Source};
use crate::device::Device;
use crate::error::{At, Error, Result};
use crate::gate::{Families, ROOT};
use crate::model::{Arch, Model};
use crate::normalise::Normalisation;
use crate::rng::Philox;
use crate::rows::Rows;
use alloc::format;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

/// Behind a hard gate, co-firing is counted in one of this many steps.
const COUNT_EVERY: u64 = 16;

/// Stream of the random generator for families and reseeding.
const STREAM: u64 = 2;

/// What a step reports.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct StepReport {
    /// The step, from 0.
    pub step: u64,
    /// Every term of the loss, L0 and FVU.
    pub losses: Losses,
    /// Learning rate.
    pub lr: f64,
    /// Weights of the sparsity penalties.
    pub lambda: [f64; 2],
    /// Target number of active latents per row.
    pub k: [f64; 2],
    /// Tracked thresholds.
    pub tau: [f32; 2],
    /// Weights of the two reconstructions.
    pub w: [f64; 2],
    /// Dead latents.
    pub dead: [usize; 2],
    /// Norm of the gradient before clipping.
    pub grad_norm: f64,
    /// Whether a hard gate acts.
    pub gate_on: bool,
    /// Number of children that changed their parent, and of dead children that were reseeded.
    pub moved: [usize; 2],
}

/// A training run.
pub struct Trainer {
    config: Config,
    arch: Arch,
    compute: Compute,
    engine: Engine,
    normalisation: Normalisation,
    /// The normalisation of the rows that a transcoder reconstructs.
    target: Option<Normalisation>,
    /// The parent of each child, or ROOT; empty without a hard gate.
    parents: Vec<u32>,
    /// Co-firing statistics; none without a hard gate.
    cofire: Option<Cofire>,
    /// Rows since each latent fired, per level.
    silence: [Silence; 2],
    /// The controllers of penalised activations, per level.
    control: [L0Control; 2],
    /// The tracked thresholds of `topk` and `batchtopk`, per level.
    tracker: [ThresholdTracker; 2],
    /// What the levels select before pruning; none where no step prunes.
    surplus: Option<[Surplus; 2]>,
    balance: BalanceState,
    /// The settings of the next step.
    settings: StepSettings,
    rng: Philox,
    /// Number of steps taken.
    step: u64,
}

impl Trainer {
    /// Returns a run before its first step. `sample` are normalised rows, `(n, d)`, for the initial thresholds of
    /// `jumprelu`; it may be empty.
    ///
    /// # Errors
    /// What [`Config::validate`] finds.
    pub fn new(config: &Config, normalisation: Normalisation, sample: &[f32], compute: Compute) -> Result<Self> {
        Self::with_target(config, normalisation, None, sample, compute)
    }

    /// Returns a run before its first step, for a transcoder if there is a `target`: the normalisation of the rows that
    /// it reconstructs.
    ///
    /// # Errors
    /// What [`Config::validate_rows`] finds.
    pub fn with_target(
        config: &Config,
        normalisation: Normalisation,
        target: Option<Normalisation>,
        sample: &[f32],
        compute: Compute,
    ) -> Result<Self> {
        Self::over(config, normalisation, target, sample, compute, Arc::new(Solo))
    }

    /// [`Trainer::with_target`] over several ranks, each of which trains a shard of the dictionary ([`comm`](super::comm)) on
    /// the same rows: the run has the bits of one process.
    ///
    /// # Errors
    /// As [`Trainer::with_target`]; [`Error::Config`] for settings that are not trained over ranks; [`Error::Rank`] where
    /// another rank cannot be reached.
    pub fn over(
        config: &Config,
        normalisation: Normalisation,
        target: Option<Normalisation>,
        sample: &[f32],
        compute: Compute,
        comm: Arc<dyn Comm>,
    ) -> Result<Self> {
        let d = normalisation.mean.len();
        let d_out = target.as_ref().map(|target| target.mean.len());
        config.validate_rows(d, d_out)?;
        let arch = Arch::with_target(config, d, d_out);
        let reconstructed = target.as_ref().unwrap_or(&normalisation);
        let variance = reconstructed.variance;
        let shard = Shard::new(comm.clone(), config, &arch)?;
        let params = init::initial(config, &arch, &shard, compute, &reconstructed.centre, sample)?;
        let hard = arch.gate.has_families() && arch.level[1].latents > 0;
        let mut rng = Philox::new(config.seed, STREAM);
        let mut parents = vec![ROOT; if hard { arch.level[1].latents } else { 0 }];
        if config.gate.parents == Parents::Random {
            parents.iter_mut().for_each(|p| *p = rng.below(arch.level[0].latents as u64) as u32);
        }
        let mut engine = Engine::over(config, d, d_out, params, compute, comm)?;
        engine.set_families(families(&parents, &arch));
        Ok(Self {
            engine,
            parents,
            cofire: hard.then(|| Cofire::of_shard(arch.level[0].latents, arch.level[1].latents, shard.own(1))),
            silence: [Silence::new(arch.level[0].latents), Silence::new(arch.level[1].latents)],
            control: [L0Control::new(config.level1.lambda), L0Control::new(config.level2.lambda)],
            tracker: [ThresholdTracker::default(); 2],
            surplus: (config.train.prune > 0.0).then(Default::default),
            balance: BalanceState::new([config.loss.w1, config.loss.w2]),
            settings: StepSettings {
                lr: 0.0,
                fixed_level: None,
                k: [config.level1.k, config.level2.k],
                surplus: [1.0; 2],
                lambda: [0.0; 2],
                w: [config.loss.w1 as f32, config.loss.w2 as f32],
                gate: GateKind::None,
                source: arch.source,
                variance,
                tau: [0.0; 2],
                observe_ungated: false,
                dead: [Vec::new(), Vec::new()],
            },
            rng,
            step: 0,
            config: config.clone(),
            arch,
            compute,
            normalisation,
            target,
        })
    }

    /// Computes steps on a device from now on, to the same bits. Call [`Trainer::fetch`] before what
    /// reads the weights: [`Trainer::state`], [`Trainer::model`], [`Trainer::model_unfolded`].
    ///
    /// # Errors
    /// As [`Engine::on`].
    pub fn on(mut self, device: &Device) -> Result<Self> {
        self.engine = self.engine.on(device, &self.normalisation)?;
        Ok(self)
    }

    /// Copies weights, moments and counts from the device, where there is one.
    ///
    /// # Errors
    /// Whatever the driver reports.
    pub fn fetch(&mut self) -> Result<()> {
        if let Some(cofire) = &mut self.cofire {
            self.engine.fetch_counts(cofire)?;
        }
        self.engine.fetch()
    }

    /// Returns whether raw rows cross to a device as they lie: [`Trainer::step_raw`] then reads them there.
    pub fn reads_raw(&self) -> bool {
        self.engine.is_on_device() && self.normalisation.row_norm == RowNorm::None
    }

    /// Returns the number of steps taken.
    pub fn step_count(&self) -> u64 {
        self.step
    }

    /// Returns the settings.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Returns the normalisation of the rows that are read.
    pub fn normalisation(&self) -> &Normalisation {
        &self.normalisation
    }

    /// Returns the normalisation of the rows that a transcoder reconstructs; none for an autoencoder.
    pub fn target(&self) -> Option<&Normalisation> {
        self.target.as_ref()
    }

    /// Takes one step on normalised rows: `x`, `(n, d)`, or the rows `x` and `y` of a transcoder.
    ///
    /// Allocates nothing once its buffers have grown, a few steps after the first or after [`Trainer::rest`], except
    /// where families are assigned, where dead children are reseeded, and for rayon's own jobs.
    ///
    /// # Errors
    /// [`Error::NotFinite`] naming the step and the loss term or the tensor; the weights are then unchanged.
    pub fn step<'b>(&mut self, rows: impl Into<BatchRows<'b>>) -> Result<StepReport> {
        let rows = rows.into();
        self.step_with(|engine, settings| engine.step(rows, settings).map(|_| ()))
    }

    /// [`Trainer::step`] of an autoencoder on raw rows: they are normalised on the device where there is one ([`Trainer::reads_raw`]),
    /// and else here.
    ///
    /// # Errors
    /// As [`Trainer::step`]; [`Error::Shape`] for rows that do not follow each other without gaps, on a device.
    ///
    /// # Panics
    /// If they have another width.
    pub fn step_raw(&mut self, rows: Rows<'_>) -> Result<StepReport> {
        assert_eq!(rows.d(), self.arch.d, "the width of the rows");
        if self.reads_raw() {
            return self.step_with(|engine, settings| engine.step_raw(rows, settings).map(|_| ()));
        }
        let mut x = vec![0.0; rows.n() * rows.d()];
        rows.widen(0..rows.n(), &mut x);
        self.normalisation.apply(&mut x);
        self.step(&x)
    }

    fn step_with(&mut self, take: impl FnOnce(&mut Engine, &StepSettings) -> Result<()>) -> Result<StepReport> {
        let done = self.step as f64 / self.config.train.steps as f64;
        self.set_up_step(done);
        let assigned = self.update_families(done)?;
        take(&mut self.engine, &self.settings).map_err(|e| match e {
            Error::NotFinite { what, .. } => Error::NotFinite { what, at: At::Step(self.step) },
            other => other,
        })?;
        let seen = self.engine.observed();
        let mut report = StepReport {
            step: self.step,
            losses: seen.losses,
            grad_norm: seen.grad_norm,
            lr: self.settings.lr,
            k: self.settings.k,
            w: self.settings.w.map(f64::from),
            lambda: self.settings.lambda.map(f64::from),
            dead: [self.settings.dead[0].len(), self.settings.dead[1].len()],
            gate_on: self.settings.gate.has_families(),
            ..StepReport::default()
        };
        report.losses.total += self.balance.own_loss(self.config.train.balance);
        self.take_in(done)?;
        report.tau = [self.tracker[0].tau, self.tracker[1].tau];
        report.moved = [assigned, self.revive(done)?];
        self.step += 1;
        Ok(report)
    }

    /// Writes the settings of this step; `done` is the share of the steps behind.
    fn set_up_step(&mut self, done: f64) {
        for l in 0..2 {
            let level = self.config.level(l);
            self.settings.k[l] = annealed_k(&self.config, l, self.step);
            let is_penalised = self.arch.level[l].activation.is_penalised();
            let controlled = is_penalised && level.control && self.config.model == ModelKind::Tree;
            self.settings.lambda[l] = if controlled { self.control[l].lambda as f32 } else { level.lambda as f32 };
            self.settings.w[l] = self.balance.w[l] as f32;
            self.settings.tau[l] = self.tracker[l].tau;
            self.settings.surplus[l] = self.surplus.map_or(1.0, |surplus| surplus[l].0);
            self.silence[l].dead(self.config.revive.dead_after, &mut self.settings.dead[l]);
        }
        self.settings.lr = learning_rate(&self.config, self.step);
        self.settings.fixed_level = self.fixed_level(done);
        let gate = self.config.gate.kind;
        self.settings.gate = if gate.has_families() && done < self.config.gate.start { GateKind::None } else { gate };
        let falls = self.settings.gate.has_families()
            && self.arch.level[1].latents > 0
            && !self.arch.level[0].activation.is_penalised();
        if let Some(w1) = annealed_w1(&self.config.loss, self.config.train.balance, done).filter(|_| falls) {
            self.settings.w[0] = w1 as f32;
        }
        self.settings.source = self.source_at(done);
        let counts = self.cofire.is_some() && done < self.config.gate.freeze.max(self.config.gate.start);
        // Before the first threshold every positive pre-activation would count as firing.
        let tracked = self.arch.level[1].activation.selection() != Selection::Each;
        let known = !tracked || self.tracker[1].tau > 0.0;
        self.settings.observe_ungated = counts && known && self.step.is_multiple_of(self.count_every());
    }

    /// Returns the number of steps from one count of co-firing to the next. Behind a hard gate they are counted rarely,
    /// because computing the ungated pre-activations of all children costs more than the rest of the step.
    fn count_every(&self) -> u64 {
        if self.settings.gate.has_families() { COUNT_EVERY } else { 1 }
    }

    /// Returns what level 2 reads when a share `done` of the steps is behind.
    fn source_at(&self, done: f64) -> Source {
        let first = self.arch.source.before_switch().filter(|_| done < self.config.source_start);
        first.unwrap_or(self.arch.source)
    }

    /// Returns the level that no longer learns: level 1, once level 2 has switched from `x` to its residual.
    fn fixed_level(&self, done: f64) -> Option<usize> {
        let switched = self.arch.source.before_switch().is_some()
            && self.arch.n_levels() == 2
            && self.config.source_start > 0.0
            && done >= self.config.source_start;
        switched.then_some(0)
    }

    /// Returns whether the next step is the first behind a hard gate, after steps without it. A run and its control
    /// with shuffled families have everything up to here in common.
    pub fn gate_starts(&self) -> bool {
        self.step > 0 && self.arch.gate.has_families() && self.arch.n_levels() == 2 && self.gate_starts_at(self.step)
    }

    /// Returns whether `step` is the first that has a share `gate.start` of the steps behind it.
    fn gate_starts_at(&self, step: u64) -> bool {
        let (start, steps) = (self.config.gate.start, self.config.train.steps as f64);
        step as f64 / steps >= start && (step == 0 || ((step - 1) as f64 / steps) < start)
    }

    /// Assigns families in the step in which a hard gate starts, and re-assigns them every `gate.reassign_every` steps.
    /// Returns the number of children that were assigned or moved.
    fn update_families(&mut self, done: f64) -> Result<usize> {
        let (gate, first) = (&self.config.gate, self.gate_starts_at(self.step));
        let comm = self.engine.shard().comm.clone();
        let Some(cofire) = &mut self.cofire else { return Ok(0) };
        if !self.settings.gate.has_families() {
            return Ok(0);
        }
        let again = gate.reassign_every > 0 && self.step.is_multiple_of(gate.reassign_every) && done < gate.freeze;
        if (first || again) && gate.parents == Parents::Cofire {
            self.engine.fetch_counts(cofire)?;
        }
        let moved = if first && (gate.parents == Parents::Cofire || gate.shuffle) {
            if gate.parents == Parents::Cofire {
                self.parents = cofire.assign_over(&*comm, gate, &mut self.rng)?;
            }
            if gate.shuffle {
                shuffle(&mut self.parents, &mut self.rng);
            }
            self.parents.len()
        } else if again && gate.parents == Parents::Cofire && !gate.shuffle {
            cofire.reassign_over(&*comm, gate, &mut self.parents, &mut self.rng)?
        } else {
            return Ok(0);
        };
        self.engine.set_families(families(&self.parents, &self.arch));
        Ok(moved)
    }

    /// Updates controllers and statistics with what the step observed.
    fn take_in(&mut self, done: f64) -> Result<()> {
        if self.config.model == ModelKind::Seed {
            return Ok(());
        }
        let seen = self.engine.observed();
        let losses = &seen.losses;
        let mut raised = [None; 2];
        let hold = done < self.config.train.warmup || done >= 0.9;
        for l in 0..self.arch.n_levels() {
            let (level, activation) = (self.config.level(l), self.arch.level[l].activation);
            // The limits of a level that no longer learns stay, as its weights do.
            if activation.is_penalised() && level.control && self.settings.fixed_level != Some(l) {
                let control = &mut self.control[l];
                control.see(&seen.codes[l].value);
                let by = control.update(losses.l0[l], self.settings.k[l], self.settings.lr, hold);
                raised[l] = Some((by, control.unit));
            }
            match activation.selection() {
                Selection::Batch => {
                    // Levels that share a budget see the same counts, so that their thresholds stay one.
                    let shared = self.config.budget == Budget::Shared;
                    let k = if shared { self.settings.k.iter().sum() } else { self.settings.k[l] };
                    let wanted = k * seen.n() as f64;
                    self.tracker[l].update(losses.above_tau[l], wanted, losses.selected_min[l], done);
                    if let Some(surplus) = &mut self.surplus {
                        let l0 = if shared { losses.l0.iter().sum() } else { losses.l0[l] };
                        surplus[l].update(l0, k);
                    }
                }
                Selection::Row => self.tracker[l].smooth(losses.selected_min[l]),
                Selection::Each => {}
            }
            self.silence[l].update(&seen.codes[l]);
        }
        let train = &self.config.train;
        self.balance.update(
            train.balance,
            train.balance_ratio,
            &losses.balance,
            losses.fvu,
            self.settings.lr,
            self.step,
        );
        let every = self.count_every();
        if self.settings.observe_ungated
            && let Some(cofire) = &mut self.cofire
        {
            self.engine.count(cofire, self.config.gate.decay, every)?;
        }
        for (l, raised) in raised.into_iter().enumerate() {
            if let Some((by, unit)) = raised {
                self.engine.raise_limits(l, self.arch.level[l].activation, by, unit)?;
            }
        }
        Ok(())
    }

    /// Reseeds dead children, in the steps in which families are re-assigned. Returns how many.
    fn revive(&mut self, done: f64) -> Result<usize> {
        let (gate, revive) = (&self.config.gate, &self.config.revive);
        // A child needs a decoder direction of its own, and an encoder that reads activations.
        let can_point = !self.arch.decoder.is_composed() && self.settings.source.is_activations();
        let Some(cofire) = self.cofire.as_mut().filter(|_| can_point) else { return Ok(0) };
        if !revive.reseed
            || !self.config.train.freeze.may_reseed()
            || !self.settings.gate.has_families()
            || gate.reassign_every == 0
            || !self.step.is_multiple_of(gate.reassign_every)
            || done >= gate.freeze
        {
            return Ok(0);
        }
        let mut dead = Vec::new();
        self.silence[1].dead(revive.dead_after, &mut dead);
        if dead.is_empty() {
            return Ok(0);
        }
        self.engine.fetch_rows()?;
        self.engine.fetch_counts(cofire)?;
        let (parents, rng, isa) = (&mut self.parents, &mut self.rng, self.compute.isa);
        let silence = &mut self.silence[1];
        let set = reseed(&mut self.engine, isa, cofire, silence, parents, &dead, rng);
        if set > 0 {
            self.engine.counts_changed();
            self.engine.set_families(families(&self.parents, &self.arch));
        }
        Ok(set)
    }

    /// Frees the memory that only a step needs; the next step allocates it again.
    pub fn rest(&mut self) {
        self.engine.rest();
    }

    /// Sets what decides how often the levels fire anew: on `x`, `(n, d)` normalised rows, each level then fires as
    /// often as it was asked to, `round(k n)` times. The threshold of batch-top-k does so up to ties and to what is
    /// positive at all; the thresholds of `jumprelu` and the biases of `relu` and `gated`, which move together and
    /// where L0 is held, do so to within a hundredth. Level 1 comes first, since level 2 depends on it; of levels that
    /// share a budget, both together. For the end of the training: what is tracked follows a model that still moves,
    /// and after the gate's and the residual's last changes it is behind.
    ///
    /// Time: each level once over `x`, dense, or a few times where limits have to move.
    ///
    /// # Errors
    /// What [`Encoder::encode`](crate::Encoder::encode) finds.
    pub fn calibrate(&mut self, x: &[f32]) -> Result<()> {
        if self.config.model == ModelKind::Tree {
            self.engine.fetch()?;
            let mut model = self.model_unfolded();
            calibrate::levels(&self.config, self.engine.shard(), &mut model, x, self.compute)?;
            self.tracker.iter_mut().zip(model.tau).for_each(|(tracker, tau)| tracker.tau = tau);
            self.engine.upload(model.params);
        }
        Ok(())
    }

    /// Returns the model after the steps so far, with the normalisation folded in: it reads raw rows. Over several ranks it has
    /// this rank's rows of the tensors that are per latent; the rows of all ranks, in their order, are the model.
    ///
    /// A hard gate that has not started yet is left out of the model.
    ///
    /// # Panics
    /// If the weights have not been fetched from the device.
    pub fn model(&self) -> Model {
        let mut model = self.model_unfolded();
        match &self.target {
            None => self.normalisation.fold(self.compute.isa, &mut model),
            Some(target) => self.normalisation.fold_into(target, self.compute.isa, &mut model),
        }
        model
    }

    /// Returns the model after the steps so far, without the normalisation: it reads normalised rows.
    ///
    /// # Panics
    /// As [`Trainer::model`].
    pub fn model_unfolded(&self) -> Model {
        let mut arch = self.arch;
        let started =
            self.step > 0 && ((self.step - 1) as f64 / self.config.train.steps as f64) >= self.config.gate.start;
        if arch.gate.has_families() && (!started || arch.level[1].latents == 0) {
            arch.gate = GateKind::None;
        }
        // The weights were trained with the source of the last step.
        arch.source = self.source_at(self.step.saturating_sub(1) as f64 / self.config.train.steps as f64);
        let parents = if arch.gate.has_families() { self.parents.clone() } else { Vec::new() };
        Model { arch, params: self.engine.download(), parents, tau: [self.tracker[0].tau, self.tracker[1].tau] }
    }

    /// Returns the model after the steps so far, without the normalisation, made ready to encode over all ranks.
    ///
    /// # Errors
    /// What [`Encoder::new`](crate::Encoder::new) finds.
    ///
    /// # Panics
    /// As [`Trainer::model`].
    pub fn inference(&self) -> Result<Inference> {
        let model = self.model_unfolded();
        let levels = 0..model.arch.n_levels();
        Inference::new(self.engine.shard(), model, levels, self.compute)
    }

    /// Returns all that is needed to continue the run to the same bits, on any device, for [`Trainer::restore`].
    ///
    /// # Panics
    /// As [`Trainer::model`].
    pub fn state(&self) -> State {
        // The configuration is saved beside the state; the settings of a step are computed before each.
        let Self {
            config: _,
            arch: _,
            compute: _,
            engine,
            normalisation,
            target,
            parents,
            cofire,
            silence,
            control,
            tracker,
            surplus,
            balance,
            settings: _,
            rng,
            step,
        } = self;
        let mut state = State::default();
        let s = &mut state;
        normalisation.save("normalisation", s);
        if let Some(target) = target {
            target.save("target", s);
        }
        s.push_u64("clock", &[*step]);
        s.put("parents", Array::U32(parents.clone()));
        if let Some(cofire) = cofire {
            cofire.save("cofire", s);
        }
        for l in 0..2 {
            silence[l].save(&format!("silence.{}", l + 1), s);
            control[l].save("l0", s);
            tracker[l].save("thresholds", s);
            if let Some(surplus) = surplus {
                surplus[l].save("surplus", s);
            }
        }
        balance.save("balance", s);
        engine.save("engine", s);
        rng.save("clock", s);
        state
    }

    /// Returns the run that was saved in `state`, whose arrays are removed as they are read.
    ///
    /// # Errors
    /// What [`Config::validate`] finds; [`Error::Format`] for an array that is missing or of the wrong size, as in the
    /// state of another configuration; [`Error::Index`] for a parent that does not exist.
    pub fn restore(config: &Config, d: usize, state: &mut State, compute: Compute) -> Result<Self> {
        Self::restore_over(config, d, state, compute, Arc::new(Solo))
    }

    /// [`Trainer::restore`] over several ranks. `state` has the rows of this rank of the arrays that
    /// [`sharded_arrays`](super::sharded_arrays) names, whatever number of ranks has saved them, and all of the others.
    ///
    /// # Errors
    /// As [`Trainer::restore`] and [`Trainer::over`].
    pub fn restore_over(
        config: &Config,
        d: usize,
        state: &mut State,
        compute: Compute,
        comm: Arc<dyn Comm>,
    ) -> Result<Self> {
        let mut normalisation = Normalisation::identity(d, config.data.row_norm);
        normalisation.load("normalisation", state)?;
        // Only the state of a transcoder has a target; its length is the width of the rows to reconstruct.
        let mut target = match state.0.get("target.mean") {
            Some(Array::F32(mean)) => Some(Normalisation::identity(mean.len(), RowNorm::None)),
            _ => None,
        };
        if let Some(target) = &mut target {
            target.load("target", state)?;
        }
        let mut t = Self::over(config, normalisation, target, &[], compute, comm)?;
        t.step = state.next_u64("clock", 1)?[0];
        t.parents = state.take_u32("parents", t.parents.len())?;
        let n_parents = t.arch.level[0].latents;
        if let Some(&p) = t.parents.iter().find(|&&p| p != ROOT && p as usize >= n_parents) {
            return Err(Error::Index { what: "parent of the checkpoint", index: p as usize, len: n_parents });
        }
        t.engine.set_families(families(&t.parents, &t.arch));
        if let Some(cofire) = &mut t.cofire {
            cofire.load("cofire", state)?;
        }
        for l in 0..2 {
            t.silence[l].load(&format!("silence.{}", l + 1), state)?;
            t.control[l].load("l0", state)?;
            t.tracker[l].load("thresholds", state)?;
            if let Some(surplus) = &mut t.surplus {
                surplus[l].load("surplus", state)?;
            }
        }
        t.balance.load("balance", state)?;
        t.engine.load("engine", state)?;
        t.rng.load("clock", state)?;
        state.expect_spent(&["clock", "l0", "thresholds", "surplus", "balance"])?;
        Ok(t)
    }
}

/// Permutes parents at random among the children that have one.
fn shuffle(parents: &mut [u32], rng: &mut Philox) {
    let mut drawn: Vec<u32> = parents.iter().copied().filter(|p| *p != ROOT).collect();
    rng.shuffle(&mut drawn);
    parents.iter_mut().filter(|p| **p != ROOT).zip(drawn).for_each(|(p, drawn)| *p = drawn);
}

/// Returns the families for the gate; without a hard gate, all children are of ROOT.
fn families(parents: &[u32], arch: &Arch) -> Families {
    if parents.is_empty() {
        Families::all_root(arch.level[0].latents, arch.level[1].latents)
    } else {
        Families::new(parents.to_vec(), arch.level[0].latents)
    }
}
