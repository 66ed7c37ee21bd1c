//! A training step on a device, with the bits of [`Objective`](super::step::Objective) and [`Adam`].
//!
//! Parameters, gradients and moments lie there, and so do all lists of a step; the host reads how many candidates there are, sums
//! of squares per row, the codes, and the statistics of gradients, and adds these in f64 in the order of the CPU. It has a copy of
//! parameters and moments only after [`OnDevice::fetch`].

mod backward;
mod collect;
mod level;
mod refused;
mod select;

use super::l0::limits;
use super::observed::{Losses, Observed};
use super::step::{self, Adam, StepSettings};
use crate::activation::Activation;
use crate::config::Config;
use crate::device::kernels::{self, WEIGHED, Weights, width};
use crate::device::lists::FamiliesOn;
use crate::device::packing::{Packed, Packing};
use crate::device::search::{Work, is_screened};
use crate::device::training;
use crate::device::{Buffer, Device, Slot};
use crate::error::{At, Error, Result};
use crate::gate::Families;
use crate::model::{Arch, LevelParams, ParamSpec, Params, Tensor};
use alloc::format;
use alloc::vec::Vec;
use level::{BySlots, Level, Own};
use select::SelectionSlots;

/// Rows whose sums of squares are added first, as on the CPU.
const CHUNK: usize = crate::model::CHUNK;

/// Numbers of a vector that one block of threads updates.
const VECTOR: usize = 1024;

/// Bytes per parameter: itself, its gradient, two moments, and its copy in 8 bits.
const BYTES: usize = 17;

/// Where the newest parameters and moments are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Newest {
    Device,
    Both,
    Host,
}

/// A model that is trained on a device.
#[derive(Debug)]
pub(super) struct OnDevice {
    device: Device,
    config: Config,
    arch: Arch,
    /// `b_dec`, then encoder, biases and decoder of each level.
    tensors: Vec<Learned>,
    levels: Vec<Level>,
    /// The families that the next step reads, if they are others than those of the last.
    changed: Option<Families>,
    families: Option<FamiliesOn>,
    /// Latents that start anew before the next step.
    anew: Vec<(usize, usize, LevelParams<Vec<f32>>)>,
    newest: Newest,
    rows: RowSlots,
    /// The rows that level 2 reads, where these are not those of level 1, in 8 bits; and the gradient of these rows.
    source: SourceSlots,
    selection: SelectionSlots,
    bias: BiasSlots,
    /// The entries of each level by latent.
    by: [BySlots; 2],
    work: Work,
    packing: Packing,
    packed: Packed,
    /// `(n, d)`: what the last level left over of the last batch, if it was asked for.
    left: Vec<f32>,
}

/// A tensor with its gradient and moments.
#[derive(Debug)]
struct Learned {
    name: &'static str,
    spec: ParamSpec,
    p: Buffer<f32>,
    g: Buffer<f32>,
    m: Buffer<f32>,
    v: Buffer<f32>,
    squares: Buffer<f64>,
}

#[derive(Debug, Default)]
struct RowSlots {
    raw: Slot<f32>,
    xt: Slot<f32>,
    bytes: Slot<i8>,
    rounded: Slot<f32>,
    active: Slot<u32>,
}

#[derive(Debug, Default)]
struct SourceSlots {
    bytes: Slot<i8>,
    rounded: Slot<f32>,
    ds: Slot<f32>,
    contain: Slot<f64>,
}

#[derive(Debug, Default)]
struct BiasSlots {
    columns: Slot<f32>,
    sums: Slot<f32>,
    through: Slot<f32>,
    through2: Slot<f32>,
    stats: Slot<f32>,
}

/// Returns the place of the encoder of a level in `tensors`; its biases, its decoder and its activation's parameters follow.
fn encoder(tensors: &[Learned], level: usize) -> usize {
    if level == 0 { 1 } else { tensors.partition_point(|tensor| tensor.spec.level == Some(0)) }
}

impl OnDevice {
    /// Copies parameters and moments to a device.
    pub fn new(device: &Device, config: &Config, arch: &Arch, params: &Params, adam: &Adam) -> Result<Self> {
        refused::check(config, arch)?;
        device.check_memory("this training", BYTES * params.len() + bytes_of_rows(config, arch))?;
        let mut tensors = Vec::new();
        let all = arch.specs().tensors().map(|(name, spec)| (name, *spec));
        let moments = adam.m.tensors().into_iter().zip(adam.v.tensors());
        for (((name, spec), (_, p)), ((_, m), (_, v))) in all.into_iter().zip(params.tensors()).zip(moments) {
            if spec.is_empty() {
                continue;
            }
            let (p, m, v) = (device.upload(p)?, device.upload(m)?, device.upload(v)?);
            let blocks = spec.len().div_ceil(step::adam::rows_of_block(spec.width) * spec.width);
            tensors.push(Learned { name, spec, p, m, v, g: device.alloc(spec.len())?, squares: device.alloc(blocks)? });
        }
        let mut levels = Vec::new();
        for l in 0..arch.n_levels() {
            let (f, d) = (arch.level[l].latents, arch.d);
            let mut level = Level::default();
            if is_screened(f, d) {
                level.bytes = Some((device.alloc(f * width(d))?, device.alloc(f * WEIGHED)?));
            }
            levels.push(level);
        }
        Ok(Self {
            device: device.clone(),
            config: config.clone(),
            arch: *arch,
            tensors,
            levels,
            changed: None,
            families: None,
            anew: Vec::new(),
            newest: Newest::Both,
            rows: RowSlots::default(),
            source: SourceSlots::default(),
            selection: SelectionSlots::default(),
            bias: BiasSlots::default(),
            by: Default::default(),
            work: Work::default(),
            packing: Packing::default(),
            packed: Packed::default(),
            left: Vec::new(),
        })
    }

    /// Puts other families behind the gate.
    pub fn set_families(&mut self, families: &Families) {
        self.changed = Some(families.clone());
    }

    /// Starts a latent anew before the next step, with moments of zero.
    pub fn set_latent(&mut self, level: usize, j: usize, encoder: &[f32], bias: f32, decoder: &[f32]) {
        let rows = LevelParams {
            w_enc: encoder.into(),
            b_enc: [bias].into(),
            w_dec: decoder.into(),
            ..LevelParams::default()
        };
        self.anew.push((level, j, rows));
        self.newest = Newest::Device;
    }

    /// Raises what decides which latents of a level fire: see [`Activation::raise`].
    pub fn raise_limits(&mut self, level: usize, activation: Activation, by: f64, unit: f64) -> Result<()> {
        let first = encoder(&self.tensors, level);
        let b_enc = self.tensors[first + 1].p.all().to_vec()?.into();
        let mut params = LevelParams::<Tensor> { b_enc, ..LevelParams::default() };
        for (i, &parameter) in activation.parameters().iter().enumerate() {
            *params.parameter_mut(parameter) = self.tensors[first + 3 + i].p.all().to_vec()?.into();
        }
        activation.raise(by, unit, limits(&mut params));
        self.tensors[first + 1].p.all().put(&params.b_enc)?;
        for (i, &parameter) in activation.parameters().iter().enumerate() {
            self.tensors[first + 3 + i].p.all().put(params.parameter_mut(parameter))?;
        }
        self.newest = Newest::Device;
        Ok(())
    }

    /// Says that the host has other parameters now, which the next step reads.
    pub fn replaced(&mut self) {
        self.newest = Newest::Host;
    }

    /// Returns whether the host has the parameters and moments as they are.
    pub fn is_fetched(&self) -> bool {
        self.newest != Newest::Device
    }

    /// Copies parameters and moments to the host.
    pub fn fetch(&mut self, params: &mut Params, adam: &mut Adam) -> Result<()> {
        self.start_anew()?;
        if self.newest != Newest::Device {
            return Ok(());
        }
        let mut all = self.tensors.iter();
        let specs = self.arch.specs().tensors().map(|(_, spec)| spec.is_empty());
        let moments = adam.m.tensors_mut().into_iter().zip(adam.v.tensors_mut());
        for ((empty, (_, p)), ((_, m), (_, v))) in specs.into_iter().zip(params.tensors_mut()).zip(moments) {
            let Some(tensor) = (if empty { None } else { all.next() }) else { continue };
            tensor.p.all().get(p)?;
            tensor.m.all().get(m)?;
            tensor.v.all().get(v)?;
        }
        self.newest = Newest::Both;
        Ok(())
    }

    /// Copies what the last level left over of the last batch to the host.
    pub fn fetch_rows(&mut self) -> Result<()> {
        if let Some(level) = self.levels.last() {
            let n = self.packed.offsets.len().saturating_sub(1);
            self.left.resize(n * self.arch.d, 0.0);
            level.r.of(self.left.len()).get(&mut self.left)?;
        }
        Ok(())
    }

    /// Returns what the last level left over of a row; empty unless it was fetched.
    pub fn residual(&self, row: usize) -> &[f32] {
        let d = self.arch.d;
        self.left.get(row * d..(row + 1) * d).unwrap_or(&[])
    }

    fn start_anew(&mut self) -> Result<()> {
        for (level, j, rows) in self.anew.drain(..) {
            for (at, new) in [&rows.w_enc, &rows.b_enc, &rows.w_dec].into_iter().enumerate() {
                let Learned { p, m, v, .. } = &self.tensors[encoder(&self.tensors, level) + at];
                let row = j * new.len()..(j + 1) * new.len();
                p.part(row.clone()).put(new)?;
                m.part(row.clone()).zero()?;
                v.part(row).zero()?;
            }
        }
        Ok(())
    }

    /// Takes one step on normalised rows, and writes what it has seen. `params` are read only where the host has newer ones.
    pub fn step(
        &mut self,
        x: &[f32],
        settings: &StepSettings,
        params: &Params,
        floors: &mut [Option<f32>; 2],
        adam: &mut Adam,
        observed: &mut Observed,
    ) -> Result<()> {
        let (n, d) = (x.len() / self.arch.d, self.arch.d);
        assert!(n > 0 && x.len() == n * d, "{} numbers are no whole number of rows of {d}", x.len());
        // What level 2 reads changes in the course of a training.
        self.arch.source = settings.source;
        self.begin(settings, params, n)?;
        let Self { device, rows, tensors, .. } = self;
        let raw = rows.raw.room(device, n * d)?;
        raw.put(x)?;
        kernels::rows_in(raw, Some(tensors[0].p.all()), d, rows.xt.room(device, n * d)?)?;
        let mut losses = Losses::default();
        observed.ungated.clear();
        observed.codes[1].clear();
        for l in 0..self.arch.n_levels() {
            self.round(l, n)?;
            (losses.selected_min[l], losses.above_tau[l]) = self.collect(l, n, settings, &mut floors[l], observed)?;
            self.decode(l, n, settings, observed, &mut losses)?;
        }
        if self.arch.n_levels() == 1 {
            losses.fvu[1] = losses.fvu[0];
        }
        if !settings.observe_ungated || self.arch.n_levels() < 2 {
            (0..n).for_each(|_| observed.ungated.end_row());
        }
        self.settle(n)?;
        self.backward(n, settings, &mut losses)?;
        step::check(&losses)?;
        let norm = self.project(adam, settings.fixed_level)?;
        let update = adam.next_step(settings.lr, norm);
        for Learned { spec, p, g, m, v, .. } in self.learning(settings.fixed_level) {
            let width = if spec.width > 1 { spec.width } else { VECTOR };
            let kept = [spec.unit_rows, spec.nonnegative];
            training::adam_rows(&update, width, kept, g.all(), [p.all(), m.all(), v.all()])?;
        }
        self.newest = Newest::Device;
        (observed.losses, observed.grad_norm) = (losses, norm);
        Ok(())
    }

    /// Returns the tensors that learn.
    fn learning(&self, fixed: Option<usize>) -> impl Iterator<Item = &Learned> {
        self.tensors.iter().filter(move |tensor| fixed.is_none() || tensor.spec.level != fixed)
    }

    /// Brings what the host has changed to the device.
    fn begin(&mut self, settings: &StepSettings, params: &Params, n: usize) -> Result<()> {
        if self.newest == Newest::Host {
            let specs = self.arch.specs().tensors().map(|(_, spec)| spec.is_empty());
            let there = specs.into_iter().zip(params.tensors()).filter(|(empty, _)| !empty);
            for (tensor, (_, (_, p))) in self.tensors.iter().zip(there) {
                tensor.p.all().put(p)?;
            }
        }
        self.start_anew()?;
        let reads_families = settings.gate.has_families() || self.config.loss.consistency.needs().families;
        if let Some(families) = self.changed.take_if(|_| reads_families && self.levels.len() > 1) {
            self.families = Some(FamiliesOn::new(&self.device, &families)?);
        }
        let Self { device, config, arch, tensors, levels, .. } = self;
        for (l, level) in levels.iter_mut().enumerate() {
            level.numbers.update(device, config, (l, arch.level[l]), settings, own(tensors, l), n)?;
        }
        self.left.clear();
        Ok(())
    }

    /// Takes from the gradients of unit rows their part along the row, and returns the norm of the whole gradient.
    fn project(&self, adam: &Adam, fixed: Option<usize>) -> Result<f64> {
        for Learned { spec, p, g, squares, .. } in self.learning(fixed) {
            if spec.unit_rows {
                training::project_rows(p.all(), spec.width, g.all())?;
            }
            let block = step::adam::rows_of_block(spec.width) * spec.width;
            training::square_sums(g.all(), block, spec.width.max(64), squares.all())?;
        }
        let mut all = 0.0f64;
        for Learned { name, spec, squares, .. } in self.learning(fixed) {
            let sum = step::adam::sum_of_blocks(&squares.all().to_vec()?, spec.width);
            if !sum.is_finite() {
                return Err(Error::NotFinite { what: format!("the gradient of {name}"), at: At::Step(adam.t) });
            }
            all += sum;
        }
        Ok(libm::sqrt(all))
    }
}

/// Returns the encoder of a level.
fn weights(tensors: &[Learned], l: usize, d: usize) -> Weights<'_> {
    let first = encoder(tensors, l);
    Weights { w: tensors[first].p.all(), bias: tensors[first + 1].p.all(), d }
}

/// Returns the tensors of a level that its activation and its decoder read.
fn own(tensors: &[Learned], l: usize) -> Own<'_> {
    let first = encoder(tensors, l);
    let of = |at: usize| tensors.get(first + at).filter(|tensor| tensor.spec.level == Some(l)).map(|t| t.p.all());
    Own { first: of(3), second: of(4), decoder: tensors[first + 2].p.all() }
}

/// Returns about how many bytes the rows and the lists of a step take: what level 1 and level 2 leave over and what AuxK lacks, and
/// of each latent that is kept its places in the lists by row and by latent.
fn bytes_of_rows(config: &Config, arch: &Arch) -> usize {
    let (rows, levels) = (config.train.batch, arch.n_levels());
    let kept: usize = (0..levels).map(|l| 4 * libm::ceil(arch.level[l].k) as usize + 256).sum();
    rows * (4 * arch.d * (3 + 2 * levels) + 60 * kept)
}

/// Adds numbers in f64, in order.
fn ordered(numbers: &[f32], value: impl Fn(f32) -> f64) -> f64 {
    let mut sum = 0.0;
    numbers.iter().for_each(|v| sum += value(*v));
    sum
}
