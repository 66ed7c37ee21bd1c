//! One training run: owns the weights and everything that is carried from step to step.

use super::cofire::Cofire;
use super::controller::{LambdaControl, ThresholdTracker};
use super::init;
use super::objective::{Knobs, Losses, Objective};
use super::optim::{Adam, keep_near};
use super::revive::{Silence, reseed};
use super::schedule::{annealed_k, annealed_w1, learning_rate};
use super::seed_objective::SeedObjective;
use super::state::{Array, State};
use crate::activation::Selection;
use crate::balance::BalanceState;
use crate::config::{Budget, Config, GateKind, ModelKind, Parents, Source};
use crate::error::{At, Error, Result};
use crate::gate::{Families, ROOT};
use crate::kernel::Isa;
use crate::model::{Arch, Codes, Encoder, Model, Params};
use crate::normalise::Normalisation;
use crate::par::Par;
use crate::rng::Philox;
use alloc::boxed::Box;
use alloc::format;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

/// Rows whose codes are held at a time when thresholds are set anew.
const CALIBRATED: usize = 2048;

/// Of so many steps behind a hard gate one counts which parents and children fire together.
const DRIVES_EVERY: u64 = 16;

/// Stream of the generator of families and revivals.
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
    /// Latents a row that top-k activations kept.
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
    /// Children that changed their parent, and dead ones that were set anew.
    pub moved: [usize; 2],
}

enum Engine {
    Tree(Box<Objective>),
    Seed(Box<SeedObjective>),
}

/// A training run.
pub struct Trainer {
    config: Config,
    arch: Arch,
    isa: Isa,
    par: Par,
    engine: Engine,
    normalisation: Normalisation,
    params: Params,
    grads: Params,
    optimiser: Adam,
    /// The decoder directions at the start, of which [`Freeze::SoftDecoder`](crate::freeze::Freeze::SoftDecoder) keeps them
    /// near; else empty. A function of the seed, so that no checkpoint holds them.
    anchor: [Vec<f32>; 2],
    parents: Vec<u32>,
    families: Families,
    cofire: Option<Cofire>,
    silence: [Silence; 2],
    lambda: [LambdaControl; 2],
    tracker: [ThresholdTracker; 2],
    balance: BalanceState,
    knobs: Knobs,
    rng: Philox,
    step: u64,
}

impl Trainer {
    /// A run before its first step. `sample` are some normalised rows, for thresholds.
    ///
    /// # Errors
    /// What [`Config::validate`] finds.
    pub fn new(config: &Config, normalisation: Normalisation, sample: &[f32], isa: Isa, par: Par) -> Result<Self> {
        let d = normalisation.mean.len();
        config.validate(d)?;
        let arch = Arch::new(config, d);
        let params = init::initial(config, &arch, isa, par, &normalisation.centre, sample);
        let engine = match config.model {
            ModelKind::Tree => Engine::Tree(Box::new(Objective::new(config, d, isa, par)?)),
            ModelKind::Seed => Engine::Seed(Box::new(SeedObjective::new(config, d, isa, par))),
        };
        let hard = arch.gate.has_families() && arch.level[1].latents > 0;
        let mut rng = Philox::new(config.seed, STREAM);
        let mut parents = vec![ROOT; if hard { arch.level[1].latents } else { 0 }];
        if config.gate.parents == Parents::Random {
            parents.iter_mut().for_each(|p| *p = rng.below(arch.level[0].latents as u64) as u32);
        }
        Ok(Self {
            engine,
            grads: params.zeros_like(),
            anchor: params
                .level
                .each_ref()
                .map(|level| if config.train.freeze.anchors_decoders() { level.w_dec.to_vec() } else { Vec::new() }),
            optimiser: Adam::new(&arch, &config.train, &params),
            families: families(&parents, &arch),
            parents,
            cofire: hard.then(|| Cofire::new(arch.level[0].latents, arch.level[1].latents)),
            silence: [Silence::new(arch.level[0].latents), Silence::new(arch.level[1].latents)],
            lambda: [LambdaControl::new(config.level1.lambda), LambdaControl::new(config.level2.lambda)],
            tracker: [ThresholdTracker::default(); 2],
            balance: BalanceState::new([config.loss.w1, config.loss.w2]),
            knobs: Knobs {
                k: [config.level1.k, config.level2.k],
                lambda: [0.0; 2],
                w: [config.loss.w1 as f32, config.loss.w2 as f32],
                gate: GateKind::None,
                source: arch.source,
                variance: normalisation.variance,
                tau: [0.0; 2],
                collect_drives: false,
                dead: [Vec::new(), Vec::new()],
            },
            rng,
            step: 0,
            config: config.clone(),
            arch,
            isa,
            par,
            normalisation,
            params,
        })
    }

    /// Steps taken.
    pub fn step_count(&self) -> u64 {
        self.step
    }

    /// The settings.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// What raw rows go through first.
    pub fn normalisation(&self) -> &Normalisation {
        &self.normalisation
    }

    /// Takes one step on `x`, `(n, d)` normalised rows.
    ///
    /// Allocates nothing once the sizes of its lists are known, a few steps after the first or after [`Trainer::rest`]; but
    /// where families are assigned or dead children set anew, and what rayon needs for its own jobs.
    ///
    /// # Errors
    /// [`Error::NotFinite`] naming the step and the loss term or the tensor; the weights are then as before the step.
    pub fn step(&mut self, x: &[f32]) -> Result<StepReport> {
        let train = self.config.train.clone();
        let done = self.step as f64 / train.steps as f64;
        let lr = learning_rate(&train, self.step);
        let mut report = StepReport { step: self.step, lr, ..StepReport::default() };
        self.turn_knobs(done);
        let moved = self.grow_families(done)?;
        let at = |e: Error, step: u64| match e {
            Error::NotFinite { what, .. } => Error::NotFinite { what, at: At::Step(step) },
            other => other,
        };
        let losses = match &mut self.engine {
            Engine::Tree(o) => o.loss_and_gradient(&self.params, &self.families, &self.knobs, x, &mut self.grads),
            Engine::Seed(o) => o.loss_and_gradient(&self.params, self.knobs.variance, x, &mut self.grads),
        };
        let mut losses = losses.map_err(|e| at(e, self.step))?;
        losses.total += self.balance.own_loss(train.balance);
        report.grad_norm = self
            .optimiser
            .update(self.isa, self.par, &self.arch, &train, lr, self.fixed(done), &mut self.params, &mut self.grads)
            .map_err(|e| at(e, self.step))?;
        let levels = self.params.level.iter_mut().zip(self.arch.specs().level);
        for ((level, spec), start) in levels.zip(&self.anchor).filter(|(_, start)| !start.is_empty()) {
            keep_near(self.isa, self.par, start, spec.w_dec.width, &mut level.w_dec);
        }
        report.losses = losses;
        report.k = self.knobs.k;
        report.w = self.knobs.w.map(f64::from);
        report.lambda = self.knobs.lambda.map(f64::from);
        report.dead = [self.knobs.dead[0].len(), self.knobs.dead[1].len()];
        report.gate_on = self.knobs.gate.has_families();
        self.take_in(&losses, done, lr);
        report.tau = [self.tracker[0].tau, self.tracker[1].tau];
        report.moved = [moved, self.revive(done)];
        self.step += 1;
        Ok(report)
    }

    /// Sets what this step is run with.
    fn turn_knobs(&mut self, done: f64) {
        for l in 0..2 {
            let level = self.config.level(l);
            self.knobs.k[l] = annealed_k(level, &self.config.train, self.step);
            let is_penalised = self.arch.level[l].activation.is_penalised();
            let controlled = is_penalised && level.control && self.config.model == ModelKind::Tree;
            self.knobs.lambda[l] = if controlled { self.lambda[l].lambda as f32 } else { level.lambda as f32 };
            self.knobs.w[l] = self.balance.w[l] as f32;
            self.knobs.tau[l] = self.tracker[l].tau;
            self.silence[l].dead(self.config.revive.dead_after, &mut self.knobs.dead[l]);
        }
        let gate = self.config.gate.kind;
        self.knobs.gate = if gate.has_families() && done < self.config.gate.start { GateKind::None } else { gate };
        let falls = self.knobs.gate.has_families()
            && self.arch.level[1].latents > 0
            && !self.arch.level[0].activation.is_penalised();
        if let Some(w1) = annealed_w1(&self.config.loss, self.config.train.balance, done).filter(|_| falls) {
            self.knobs.w[0] = w1 as f32;
        }
        self.knobs.source = self.source_at(done);
        let counts = self.cofire.is_some() && done < self.config.gate.freeze.max(self.config.gate.start);
        // Before the first threshold every positive drive would count as firing.
        let tracked = self.arch.level[1].activation.selection() != Selection::Each;
        let known = !tracked || self.tracker[1].tau > 0.0;
        self.knobs.collect_drives = counts && known && self.step.is_multiple_of(self.drives_every());
    }

    /// Steps a count of co-firing: behind a hard gate the drives of all children are dear.
    fn drives_every(&self) -> u64 {
        if self.knobs.gate.has_families() { DRIVES_EVERY } else { 1 }
    }

    /// What level 2 reads when a share `done` of the steps is behind.
    fn source_at(&self, done: f64) -> Source {
        let first = self.arch.source.before_switch().filter(|_| done < self.config.source_start);
        first.unwrap_or(self.arch.source)
    }

    /// Returns the level that no longer learns: level 1, once level 2 has switched from `x` to its residual.
    fn fixed(&self, done: f64) -> Option<usize> {
        let switched = self.arch.source.before_switch().is_some()
            && self.arch.n_levels() == 2
            && self.config.source_start > 0.0
            && done >= self.config.source_start;
        switched.then_some(0)
    }

    /// Whether the next step is the first behind a hard gate that was open before: a run and its control have everything
    /// up to here in common.
    pub fn gate_starts(&self) -> bool {
        self.step > 0 && self.arch.gate.has_families() && self.arch.n_levels() == 2 && self.gate_starts_at(self.step)
    }

    /// Whether `step` is the first that has `gate.start` of the steps behind it.
    fn gate_starts_at(&self, step: u64) -> bool {
        let (start, steps) = (self.config.gate.start, self.config.train.steps as f64);
        step as f64 / steps >= start && (step == 0 || ((step - 1) as f64 / steps) < start)
    }

    /// Assigns families on the step on which a hard gate starts, and re-assigns them from time to time.
    fn grow_families(&mut self, done: f64) -> Result<usize> {
        let gate = &self.config.gate;
        let Some(cofire) = &self.cofire else { return Ok(0) };
        if !self.knobs.gate.has_families() {
            return Ok(0);
        }
        let first = self.gate_starts_at(self.step);
        let again = gate.reassign_every > 0 && self.step.is_multiple_of(gate.reassign_every) && done < gate.freeze;
        let moved = if first && (gate.parents == Parents::Cofire || gate.shuffle) {
            if gate.parents == Parents::Cofire {
                self.parents = cofire.assign(gate, &mut self.rng);
            }
            if gate.shuffle {
                shuffle(&mut self.parents, &mut self.rng);
            }
            self.parents.len()
        } else if again && gate.parents == Parents::Cofire && !gate.shuffle {
            cofire.reassign(gate, &mut self.parents, &mut self.rng)
        } else {
            return Ok(0);
        };
        self.families = families(&self.parents, &self.arch);
        Ok(moved)
    }

    /// Updates controllers and statistics with what the step saw.
    fn take_in(&mut self, losses: &Losses, done: f64, lr: f64) {
        let every = self.drives_every();
        let Engine::Tree(o) = &self.engine else { return };
        let hold = done < self.config.train.warmup || done >= 0.9;
        for l in 0..self.arch.n_levels() {
            let (level, activation) = (self.config.level(l), self.arch.level[l].activation);
            if activation.is_penalised() && level.control {
                self.lambda[l].update(losses.l0[l], level.k, hold);
            }
            match activation.selection() {
                Selection::Batch => {
                    // Levels that share a budget see the same counts, so that their thresholds stay one.
                    let shared = self.config.budget == Budget::Shared;
                    let k = if shared { self.knobs.k.iter().sum() } else { self.knobs.k[l] };
                    let wanted = k * o.n() as f64;
                    self.tracker[l].update(losses.above_tau[l], wanted, losses.selected_min[l], done);
                }
                Selection::Row => self.tracker[l].smooth(losses.selected_min[l]),
                Selection::Each => {}
            }
            self.silence[l].update(o, l);
        }
        let train = &self.config.train;
        self.balance.update(train.balance, train.balance_ratio, &losses.balance, losses.fvu, lr, self.step);
        if self.knobs.collect_drives
            && let Some(cofire) = &mut self.cofire
        {
            cofire.update(self.par, o, self.config.gate.decay, every);
        }
    }

    /// Sets dead children anew, when families are re-assigned.
    fn revive(&mut self, done: f64) -> usize {
        let (gate, revive) = (&self.config.gate, &self.config.revive);
        let (Engine::Tree(o), Some(cofire)) = (&self.engine, &mut self.cofire) else { return 0 };
        if !revive.reseed
            || !self.config.train.freeze.may_reseed()
            || !self.knobs.gate.has_families()
            || gate.reassign_every == 0
            || !self.step.is_multiple_of(gate.reassign_every)
            || done >= gate.freeze
        {
            return 0;
        }
        let mut dead = Vec::new();
        self.silence[1].dead(revive.dead_after, &mut dead);
        let set = reseed(
            o,
            cofire,
            &mut self.silence[1],
            &dead,
            &mut self.parents,
            &mut self.params,
            &mut self.optimiser,
            &self.config.train,
            &mut self.rng,
        );
        if set > 0 {
            self.families = families(&self.parents, &self.arch);
        }
        set
    }

    /// Lets go of the memory that only a step needs; the next step takes it again.
    pub fn rest(&mut self) {
        if let Engine::Tree(o) = &mut self.engine {
            o.rest();
        }
    }

    /// Sets the thresholds of batch-top-k anew: on `x`, `(n, d)` normalised rows, each level then fires as often as it
    /// was asked to, `round(k n)` times, up to ties and to what is positive at all. Level 1 comes first, since level 2
    /// depends on it; of levels that share a budget, both together. For the end of the training: the tracked threshold
    /// follows a model that still moves, and after the gate's and the residual's last changes it is behind.
    ///
    /// Time: each level once over `x`, dense.
    ///
    /// # Errors
    /// What [`Encoder::encode`] finds.
    pub fn calibrate(&mut self, x: &[f32]) -> Result<()> {
        let n = x.len() / self.arch.d;
        let (k1, k2) = (self.config.level1.k, self.config.level2.k);
        let shared = self.config.budget == Budget::Shared;
        if self.config.model == ModelKind::Seed || n == 0 {
            return Ok(());
        }
        for level in 0..self.arch.n_levels() {
            if !self.arch.level[level].activation.has_tau() || self.tracker[level].tau <= 0.0 {
                continue;
            }
            let k = if shared { k1 + k2 } else { [k1, k2][level] };
            let wanted = libm::round(k * n as f64) as usize;
            // Every positive pre-activation is too many to keep: far below the threshold nothing is looked for at first.
            let mut above = Vec::new();
            for share in [0.8, 0.5, 0.0] {
                let floor = share * self.tracker[level].tau;
                let mut model = self.model_unfolded();
                model.tau[level] = floor;
                if shared {
                    model.tau = [floor; 2];
                }
                let encoder = Encoder::new(Arc::new(model), self.isa, self.par)?;
                above.clear();
                for x in x.chunks(CALIBRATED * self.arch.d) {
                    let mut codes = [Codes::new(), Codes::new()];
                    let [codes1, codes2] = &mut codes;
                    encoder.encode_par(self.par, x, codes1, codes2)?;
                    let levels = if shared { 0..2 } else { level..level + 1 };
                    codes[levels].iter().for_each(|codes| above.extend_from_slice(&codes.value));
                }
                if above.len() > wanted {
                    break;
                }
            }
            // The threshold is strict: the largest value that must not pass.
            let tau = if above.len() > wanted {
                *above.select_nth_unstable_by(wanted, |a, b| b.total_cmp(a)).1
            } else {
                f32::MIN_POSITIVE
            };
            if shared {
                self.tracker.iter_mut().for_each(|t| t.tau = tau);
                break;
            }
            self.tracker[level].tau = tau;
        }
        Ok(())
    }

    /// The model as it stands, with the normalisation folded in: it reads raw rows.
    ///
    /// A hard gate that has not started is saved as no gate.
    pub fn model(&self) -> Model {
        let mut model = self.model_unfolded();
        self.normalisation.fold(self.isa, &mut model);
        model
    }

    /// The model that reads normalised rows.
    pub fn model_unfolded(&self) -> Model {
        let mut arch = self.arch;
        let started =
            self.step > 0 && ((self.step - 1) as f64 / self.config.train.steps as f64) >= self.config.gate.start;
        if arch.gate.has_families() && (!started || arch.level[1].latents == 0) {
            arch.gate = GateKind::None;
        }
        // As in the last step, whose weights these are.
        arch.source = self.source_at(self.step.saturating_sub(1) as f64 / self.config.train.steps as f64);
        let parents = if arch.gate.has_families() { self.parents.clone() } else { Vec::new() };
        Model { arch, params: self.params.clone(), parents, tau: [self.tracker[0].tau, self.tracker[1].tau] }
    }

    /// Everything that is needed to go on to the same bits.
    pub fn state(&self) -> State {
        let mut s = State::default();
        for (what, params) in [("params", &self.params), ("adam.m", &self.optimiser.m), ("adam.v", &self.optimiser.v)] {
            for (name, tensor) in params.tensors() {
                s.put(format!("{what}.{name}"), Array::F32(tensor.clone()));
            }
        }
        let n = &self.normalisation;
        s.put("normalisation.mean", Array::F32(n.mean.clone().into()));
        s.put("normalisation.centre", Array::F32(n.centre.clone().into()));
        s.put("normalisation.scalars", Array::F32(vec![n.scale, n.variance, n.norm_limit].into()));
        s.put("parents", Array::U32(self.parents.clone()));
        if let Some(c) = &self.cofire {
            s.put("cofire.parent", Array::F64(c.parent.clone()));
            s.put("cofire.child", Array::F64(c.child.clone()));
            s.put("cofire.both", Array::U16(c.both.numbers().clone()));
            s.put("cofire.energy", Array::F64(c.energy.clone()));
            s.put("cofire.tokens", Array::F64(c.tokens.to_vec()));
        }
        for l in 0..2 {
            s.put(format!("silence.{}", l + 1), Array::U64(self.silence[l].since.clone()));
        }
        for (l, norms) in self.optimiser.norms.iter().enumerate().filter(|(_, norms)| !norms.is_empty()) {
            s.put(format!("adam.norm.{}", l + 1), Array::F32(norms.clone().into()));
        }
        let floors = match &self.engine {
            Engine::Tree(o) => o.floor.map(|f| f.unwrap_or(-1.0)),
            Engine::Seed(_) => [-1.0; 2],
        };
        s.put("thresholds", Array::F32(vec![self.tracker[0].tau, self.tracker[1].tau, floors[0], floors[1]].into()));
        s.put("lambda", Array::F64(self.lambda.iter().flat_map(|c| [c.lambda, c.y]).collect()));
        let b = &self.balance;
        s.put("balance", Array::F64([b.w, b.norm, b.log_var[0], b.log_var[1], b.log_var[2]].concat()));
        s.put("clock", Array::U64(vec![self.step, self.optimiser.t, self.rng.position()]));
        s
    }

    /// A run that goes on from `state`, which is consumed array by array.
    ///
    /// # Errors
    /// What [`Config::validate`] finds, and [`Error::Format`] for an array that is missing or of the wrong size: the
    /// state of another configuration.
    pub fn restore(config: &Config, d: usize, state: &mut State, isa: Isa, par: Par) -> Result<Self> {
        let scalars = state.take_f32("normalisation.scalars", 3)?;
        let normalisation = Normalisation {
            mean: state.take_f32("normalisation.mean", d)?.to_vec(),
            centre: state.take_f32("normalisation.centre", d)?.to_vec(),
            scale: scalars[0],
            variance: scalars[1],
            norm_limit: scalars[2],
            row_norm: config.data.row_norm,
        };
        let mut t = Self::new(config, normalisation, &[], isa, par)?;
        let Adam { m, v, .. } = &mut t.optimiser;
        for (what, params) in [("params", &mut t.params), ("adam.m", m), ("adam.v", v)] {
            for (name, tensor) in params.tensors_mut() {
                *tensor = state.take_f32(&format!("{what}.{name}"), tensor.len())?;
            }
        }
        t.parents = state.take_u32("parents", t.parents.len())?;
        if let Some(&p) = t.parents.iter().find(|&&p| p != ROOT && p as usize >= t.arch.level[0].latents) {
            return Err(Error::Index {
                what: "parent of the checkpoint",
                index: p as usize,
                len: t.arch.level[0].latents,
            });
        }
        t.families = families(&t.parents, &t.arch);
        if let Some(c) = &mut t.cofire {
            c.parent = state.take_f64("cofire.parent", c.parent.len())?;
            c.child = state.take_f64("cofire.child", c.child.len())?;
            c.both.set_numbers(state.take_u16("cofire.both", c.both.numbers().len())?);
            c.energy = state.take_f64("cofire.energy", c.energy.len())?;
            c.tokens.copy_from_slice(&state.take_f64("cofire.tokens", 3)?);
        }
        for l in 0..2 {
            t.silence[l].since = state.take_u64(&format!("silence.{}", l + 1), t.silence[l].since.len())?;
        }
        for (l, norms) in t.optimiser.norms.iter_mut().enumerate().filter(|(_, norms)| !norms.is_empty()) {
            let saved = state.take_f32(&format!("adam.norm.{}", l + 1), norms.len())?;
            norms.copy_from_slice(&saved);
        }
        let thresholds = state.take_f32("thresholds", 4)?;
        for l in 0..2 {
            t.tracker[l].tau = thresholds[l];
        }
        if let Engine::Tree(o) = &mut t.engine {
            o.floor = [thresholds[2], thresholds[3]].map(|f| (f >= 0.0).then_some(f));
        }
        let lambda = state.take_f64("lambda", 4)?;
        for l in 0..2 {
            t.lambda[l] = LambdaControl { lambda: lambda[2 * l], y: lambda[2 * l + 1] };
        }
        let b = state.take_f64("balance", 10)?;
        t.balance =
            BalanceState { w: [b[0], b[1]], norm: [b[2], b[3]], log_var: [[b[4], b[5]], [b[6], b[7]], [b[8], b[9]]] };
        let clock = state.take_u64("clock", 3)?;
        t.step = clock[0];
        t.optimiser.t = clock[1];
        t.rng.seek(clock[2]);
        Ok(t)
    }
}

/// Permutes the parents of the children that have one.
fn shuffle(parents: &mut [u32], rng: &mut Philox) {
    let mut drawn: Vec<u32> = parents.iter().copied().filter(|p| *p != ROOT).collect();
    rng.shuffle(&mut drawn);
    parents.iter_mut().filter(|p| **p != ROOT).zip(drawn).for_each(|(p, drawn)| *p = drawn);
}

/// The families that a hard gate reads; everybody under ROOT without one.
fn families(parents: &[u32], arch: &Arch) -> Families {
    if parents.is_empty() {
        Families::all_root(arch.level[0].latents, arch.level[1].latents)
    } else {
        Families::new(parents.to_vec(), arch.level[0].latents)
    }
}
