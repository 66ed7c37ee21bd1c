//! The engine does the arithmetic of training: it owns parameters, gradients and moments, takes steps, and reports what
//! it observed in each.
//!
//! Everything around it (schedules, controllers, families, revival) only reads [`Observed`] and writes
//! [`StepSettings`], so that it does not depend on where the arithmetic is done.

use super::batch::BatchRows;
use super::cofire::Cofire;
use super::comm::{Comm, Solo};
use super::l0::limits;
use super::observed::Observed;
use super::on_device::{Given, OnDevice};
use super::seed_objective::SeedObjective;
use super::shard::Shard;
use super::state::{Saved, State};
use super::step::adam::{Adam, keep_near};
use super::step::{Objective, StepSettings};
use crate::activation::Activation;
use crate::compute::Compute;
use crate::config::{Config, ModelKind};
use crate::cuda;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::gate::Families;
use crate::model::{Arch, ParamSpec, Params};
use crate::normalise::Normalisation;
use crate::rows::Rows;
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;

/// The loss of a model and its gradient.
enum Model {
    Tree(Box<Objective>),
    Seed(Box<SeedObjective>),
}

/// The rows of one latent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LatentRows<'a> {
    /// Encoder row.
    pub encoder: &'a [f32],
    /// Encoder bias.
    pub bias: f32,
    /// Decoder row.
    pub decoder: &'a [f32],
}

/// An engine on the CPU, or on a device where [`Engine::on`] has put it.
///
/// It may own a shard of the latents only; latents are numbered as in the whole dictionary all the same.
pub struct Engine {
    config: Config,
    arch: Arch,
    shard: Shard,
    device: Option<Box<OnDevice>>,
    specs: Params<ParamSpec>,
    compute: Compute,
    model: Model,
    families: Families,
    params: Params,
    grads: Params,
    optimiser: Adam,
    /// The initial decoder directions of each level, to which
    /// [`Freeze::SoftDecoder`](crate::freeze::Freeze::SoftDecoder) keeps the decoder rows close; else empty. They
    /// follow from the seed, so that no checkpoint holds them.
    anchor: [Vec<f32>; 2],
    observed: Observed,
    transcodes: bool,
}

impl Engine {
    /// Starts from `params`, with moments of zero and every child under ROOT.
    ///
    /// # Errors
    /// What [`Config::validate`] finds.
    pub fn new(config: &Config, d: usize, params: Params, compute: Compute) -> Result<Self> {
        Self::with_target(config, d, None, params, compute)
    }

    /// [`Engine::new`] for a model that reconstructs rows of the width `target`: a transcoder.
    ///
    /// # Errors
    /// What [`Config::validate_rows`] finds.
    pub fn with_target(
        config: &Config,
        d: usize,
        target: Option<usize>,
        params: Params,
        compute: Compute,
    ) -> Result<Self> {
        Self::over(config, d, target, params, compute, Arc::new(Solo))
    }

    /// [`Engine::with_target`] for one shard of a dictionary; `params` are those of the shard.
    ///
    /// # Errors
    /// What [`Config::validate_rows`] finds; [`Error::Config`](crate::Error::Config) for settings that are not trained over
    /// several shards.
    pub(super) fn over(
        config: &Config,
        d: usize,
        target: Option<usize>,
        params: Params,
        compute: Compute,
        comm: Arc<dyn Comm>,
    ) -> Result<Self> {
        let arch = Arch::with_target(config, d, target);
        let shard = Shard::new(comm, config, &arch)?;
        let specs = shard.specs(&arch);
        let model = match config.model {
            ModelKind::Tree => Model::Tree(Box::new(Objective::sharded(config, d, target, compute, shard.clone())?)),
            ModelKind::Seed => Model::Seed(Box::new(SeedObjective::new(config, d, compute))),
        };
        let mut engine = Self {
            config: config.clone(),
            arch,
            shard,
            device: None,
            compute,
            model,
            families: Families::default(),
            grads: params.zeros_like(),
            optimiser: Adam::of_shapes(specs.clone(), &config.train, &params),
            anchor: params
                .level
                .each_ref()
                .map(|level| if config.train.freeze.anchors_decoders() { level.w_dec.to_vec() } else { Vec::new() }),
            params,
            observed: Observed::default(),
            transcodes: target.is_some(),
            specs,
        };
        engine.set_families(Families::all_root(arch.level[0].latents, arch.level[1].latents));
        Ok(engine)
    }

    /// Returns the shard of this engine.
    pub(super) fn shard(&self) -> &Shard {
        &self.shard
    }

    /// Computes on a device from now on, to the same bits, also from raw rows ([`Engine::step_raw`]): parameters and moments are copied there. The host's copies are as
    /// before the first step from then on, until [`Engine::fetch`].
    ///
    /// # Errors
    /// [`Error::Device`] for settings that are not trained on devices or a model that does not fit, and whatever the driver
    /// reports; [`Error::NotBuilt`] in a build without the feature `cuda`.
    pub fn on(mut self, device: &Device, normalisation: &Normalisation) -> Result<Self> {
        if !cuda::BUILT {
            return Err(Error::NotBuilt { feature: "cuda" });
        }
        let mut on = OnDevice::new(device, &self.config, (&self.arch, &self.shard), &self.params, &self.optimiser)?;
        on.set_families(&self.families);
        on.set_normalisation(normalisation)?;
        self.device = Some(Box::new(on));
        Ok(self)
    }

    /// Copies parameters and moments from the device, where there is one: before what reads them.
    ///
    /// # Errors
    /// Whatever the driver reports.
    pub fn fetch(&mut self) -> Result<()> {
        self.device.as_mut().map_or(Ok(()), |on| on.fetch(&mut self.params, &mut self.optimiser))
    }

    /// Copies the residuals of the last batch from the device, where there is one: before [`Engine::residual`].
    ///
    /// # Errors
    /// Whatever the driver reports.
    pub fn fetch_rows(&mut self) -> Result<()> {
        self.device.as_mut().map_or(Ok(()), |on| on.fetch_rows())
    }

    /// # Panics
    /// If the host's parameters and moments are not those of the device.
    #[track_caller]
    fn assert_fetched(&self) {
        assert!(
            self.device.as_ref().is_none_or(|on| on.is_fetched()),
            "the parameters are on the device: fetch them first"
        );
    }

    /// Takes one step on normalised rows, and returns what it observed.
    ///
    /// # Errors
    /// [`Error::NotFinite`](crate::Error::NotFinite) naming the term of the loss or the tensor of the gradient; the
    /// weights are then unchanged.
    pub fn step<'b>(&mut self, rows: impl Into<BatchRows<'b>>, settings: &StepSettings) -> Result<&Observed> {
        let rows = rows.into();
        if self.is_on_device() {
            return self.step_on_device(Given::Normalised(rows.x), settings);
        }
        let Self { specs, shard, compute, model, families, params, grads, optimiser, anchor, observed, .. } = self;
        observed.losses = match model {
            Model::Tree(o) => o.loss_and_gradient(params, families, settings, rows, grads)?,
            Model::Seed(o) => o.loss_and_gradient(params, settings.variance, rows.x, grads)?,
        };
        observed.grad_norm =
            optimiser.update(*compute, &*shard.comm, settings.lr, settings.fixed_level, params, grads)?;
        let levels = params.level.iter_mut().zip(&specs.level);
        for ((level, spec), start) in levels.zip(anchor).filter(|(_, start)| !start.is_empty()) {
            keep_near(*compute, start, spec.w_dec.width, &mut level.w_dec);
        }
        if let Model::Tree(o) = model {
            o.observe(observed);
        }
        Ok(observed)
    }

    /// Returns whether steps are computed on a device. A build without devices has no code for them.
    pub(super) fn is_on_device(&self) -> bool {
        cuda::BUILT && self.device.is_some()
    }

    /// [`Engine::step`] on raw rows one behind the other, for an engine on a device: it normalises them.
    pub(super) fn step_raw(&mut self, rows: Rows<'_>, settings: &StepSettings) -> Result<&Observed> {
        let bytes = rows.contiguous().ok_or(Error::Shape {
            what: "bytes from row to row",
            expected: rows.d() * rows.dtype().size_bytes(),
            got: rows.stride_bytes(),
        })?;
        self.step_on_device(Given::Raw(bytes, rows.dtype()), settings)
    }

    fn step_on_device(&mut self, rows: Given<'_>, settings: &StepSettings) -> Result<&Observed> {
        let Self { model, params, optimiser, observed, device, .. } = self;
        if let (Some(on), Model::Tree(o)) = (device.as_mut().filter(|_| cuda::BUILT), model) {
            let mut floors = o.floors();
            let done = on.step(rows, settings, params, &mut floors, optimiser, observed);
            o.set_floors(floors);
            done?;
        }
        Ok(&*observed)
    }

    /// Counts in `cofire` which latents fired together in the last step: [`Cofire::update`]. On a device that has the whole dictionary
    /// the counts stay there until [`Engine::fetch_counts`]; those of several shards are made by the hosts, which know what fires.
    pub(super) fn count(&mut self, cofire: &mut Cofire, decay: f64, steps: u64) -> Result<()> {
        match &mut self.device {
            Some(on) if !on.is_shard() => on.count(cofire, decay, steps),
            _ => {
                cofire.update(self.compute.par, &self.observed, decay, steps);
                Ok(())
            }
        }
    }

    /// Copies the counts of which latents fire together from the device, where there is one: before what reads them.
    pub(super) fn fetch_counts(&mut self, cofire: &mut Cofire) -> Result<()> {
        self.device.as_mut().map_or(Ok(()), |on| on.fetch_counts(cofire))
    }

    /// Says that the counts were changed, after [`Engine::fetch_counts`].
    pub(super) fn counts_changed(&mut self) {
        if let Some(on) = &mut self.device {
            on.counts_changed();
        }
    }

    /// Returns what the last step observed.
    pub fn observed(&self) -> &Observed {
        &self.observed
    }

    /// Replaces the families that the gate reads.
    pub fn set_families(&mut self, families: Families) {
        if let Some(on) = &mut self.device {
            on.set_families(&families);
        }
        if let Model::Tree(o) = &mut self.model {
            o.set_families(&families);
        }
        self.families = families;
    }

    /// Returns the rows of latent `j` of a level (0 or 1).
    ///
    /// # Panics
    /// If it has not been fetched from its device, or is of another shard.
    pub fn latent(&self, level: usize, j: usize) -> LatentRows<'_> {
        self.assert_fetched();
        assert!(self.shard.own(level).contains(&j), "latent {j} is of another shard");
        let j = j - self.shard.own(level).start;
        let (tensors, specs) = (&self.params.level[level], &self.specs.level[level]);
        let row = |width: usize| j * width..(j + 1) * width;
        LatentRows {
            encoder: &tensors.w_enc[row(specs.w_enc.width)],
            bias: tensors.b_enc[j],
            decoder: &tensors.w_dec[row(specs.w_dec.width)],
        }
    }

    /// Replaces the rows of latent `j` of a level (0 or 1), and sets their moments to zero; does nothing for a latent of
    /// another shard.
    ///
    /// # Panics
    /// If a row has a wrong width.
    pub fn set_latent(&mut self, level: usize, j: usize, rows: LatentRows<'_>) {
        if !self.shard.own(level).contains(&j) {
            return;
        }
        let j = j - self.shard.own(level).start;
        if let Some(on) = &mut self.device {
            on.set_latent(level, j, rows.encoder, rows.bias, rows.decoder);
        }
        let (tensors, specs) = (&mut self.params.level[level], &self.specs.level[level]);
        let row = |width: usize| j * width..(j + 1) * width;
        tensors.w_enc[row(specs.w_enc.width)].copy_from_slice(rows.encoder);
        tensors.b_enc[j] = rows.bias;
        tensors.w_dec[row(specs.w_dec.width)].copy_from_slice(rows.decoder);
        self.optimiser.reset_latent(level, j);
    }

    /// Raises, for all latents of a level (0 or 1) alike, what a pre-activation must reach to fire:
    /// [`Activation::raise`].
    ///
    /// # Errors
    /// Whatever the driver of a device reports.
    pub(super) fn raise_limits(&mut self, level: usize, activation: Activation, by: f64, unit: f64) -> Result<()> {
        if let Some(on) = &mut self.device {
            return on.raise_limits(level, activation, by, unit);
        }
        activation.raise(by, unit, limits(&mut self.params.level[level]));
        Ok(())
    }

    /// Returns the residual of a row of the last batch, `(d_out)`: `y - y_hat2`, or `y - y_hat1` for a flat model.
    /// Empty for the seed model.
    pub fn residual(&self, row: usize) -> &[f32] {
        if let Some(on) = &self.device {
            return on.residual(row);
        }
        match &self.model {
            Model::Tree(o) => o.residual(row),
            Model::Seed(_) => &[],
        }
    }

    /// Returns the norm that encoder rows begin with.
    pub(super) fn encoder_norm(&self) -> f32 {
        self.config.train.encoder_norm as f32
    }

    /// Returns whether the model is a transcoder, which reconstructs other rows than it reads.
    pub fn transcodes(&self) -> bool {
        self.transcodes
    }

    /// Returns a row of the last batch as the encoder of level 1 reads it, `(d)`. Empty for the seed model.
    pub fn input(&self, row: usize) -> &[f32] {
        match &self.model {
            Model::Tree(o) => o.input(row),
            Model::Seed(_) => &[],
        }
    }

    /// Replaces the parameters by others of the same architecture, and keeps the moments.
    pub fn upload(&mut self, params: Params) {
        self.assert_fetched();
        self.params = params;
        if let Some(on) = &mut self.device {
            on.replaced();
        }
    }

    /// Returns the parameters, of this shard.
    ///
    /// # Panics
    /// If they have not been fetched from the device.
    pub fn download(&self) -> Params {
        self.assert_fetched();
        // Tensors are shared until the next step changes them.
        self.params.clone()
    }

    /// Frees the memory that only a step needs; the next step allocates it again.
    pub fn rest(&mut self) {
        if let Model::Tree(o) = &mut self.model {
            o.rest();
            self.observed = Observed::default();
        }
    }
}

impl Saved for Engine {
    fn save(&self, _: &str, state: &mut State) {
        self.assert_fetched();
        let has_counts = self.device.as_ref().is_none_or(|on| on.has_fetched_counts());
        assert!(has_counts, "the counts are on the device: fetch them first");
        // The next step overwrites gradients and observations; settings come from the configuration, families from the
        // trainer. The device is no part of the state.
        let Self {
            config: _,
            arch: _,
            shard: _,
            device: _,
            specs: _,
            compute: _,
            model,
            families: _,
            params,
            grads: _,
            optimiser,
            anchor: _,
            observed: _,
            transcodes: _,
        } = self;
        params.save("params", state);
        optimiser.save("adam", state);
        let floors = match model {
            Model::Tree(o) => o.floors().map(|f| f.unwrap_or(-1.0)),
            Model::Seed(_) => [-1.0; 2],
        };
        state.push_f32("thresholds", &floors);
    }

    fn load(&mut self, _: &str, state: &mut State) -> Result<()> {
        self.params.load("params", state)?;
        self.optimiser.load("adam", state)?;
        assert!(self.device.is_none(), "a state is loaded before the engine goes to a device");
        let floors = state.next_f32("thresholds", 2)?;
        if let Model::Tree(o) = &mut self.model {
            o.set_floors([floors[0], floors[1]].map(|f| (f >= 0.0).then_some(f)));
        }
        Ok(())
    }
}
