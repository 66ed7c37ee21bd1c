//! A training step on a device, with the bits of [`Objective`](super::step::Objective) and [`Adam`].
//!
//! Parameters, gradients and moments lie there, and so do all lists of a step, its sums, and the counts of which latents fire together.
//! A step is queued as a whole ([`run`]): the host waits for it once, at its end, and reads what it has come to, and the codes. It has a
//! copy of parameters and moments only after [`OnDevice::fetch`]. Where it has one shard of a dictionary it also waits where the shards
//! meet ([`shards`]).

mod backward;
mod collect;
mod count;
mod given;
mod level;
mod newest;
mod out;
mod refused;
mod run;
mod select;
mod shards;

pub(super) use given::Given;

use super::cofire::Cofire;
use super::l0::limits;
use super::shard::Shard;
use super::step::{self, Adam};
use crate::activation::Activation;
use crate::config::Config;
use crate::device::kernels::{WEIGHED, Weights, width};
use crate::device::lists::FamiliesOn;
use crate::device::packing::{Packed, Packing};
use crate::device::search::{Work, is_screened};
use crate::device::{Buffer, Device, Slot};
use crate::error::Result;
use crate::gate::Families;
use crate::model::{Arch, LevelParams, ParamSpec, Params, Tensor};
use crate::normalise::Normalisation;
use alloc::vec::Vec;
use count::Counts;
use level::{BySlots, Level, Own};
use newest::Newest;
use out::Out;
use select::SelectionSlots;
use shards::Over;

/// Rows whose sums of squares are added first, as on the CPU.
const CHUNK: usize = crate::model::CHUNK;

/// Numbers of a vector that one block of threads updates.
const VECTOR: usize = 1024;

/// Bytes per parameter: itself, its gradient, two moments, and its copy in 8 bits.
const BYTES: usize = 17;

/// A model that is trained on a device.
#[derive(Debug)]
pub(super) struct OnDevice {
    device: Device,
    config: Config,
    /// The architecture of this shard.
    arch: Arch,
    over: Over,
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
    out: Out,
    counts: Option<Counts>,
    bias: BiasSlots,
    /// The entries of each level by latent.
    by: [BySlots; 2],
    work: Work,
    packing: Packing,
    packed: Packed,
    /// Rows of the last batch.
    n: usize,
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
    /// Norms that its rows would have if they were unconstrained: see `train.row_norm`.
    norms: Option<Buffer<f32>>,
    squares: Buffer<f64>,
}

#[derive(Debug, Default)]
struct RowSlots {
    raw: Slot<u8>,
    /// What is taken from raw rows, and their factor; without it there were none yet.
    affine: Option<(Buffer<f32>, f32)>,
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
    /// Copies parameters and moments of a shard to a device; `whole` is the architecture of all shards.
    pub fn new(
        device: &Device,
        config: &Config,
        (whole, shard): (&Arch, &Shard),
        params: &Params,
        adam: &Adam,
    ) -> Result<Self> {
        refused::check(config, whole)?;
        let arch = &shard.arch(whole);
        // Which latents fire together is counted by the hosts of several shards.
        let counts = if shard.is_solo() { count::bytes(arch) } else { 0 };
        let needed = BYTES * params.len() + bytes_of_rows(config, whole) + counts;
        device.check_memory("this training", needed)?;
        let mut tensors = Vec::new();
        let specs = shard.specs(whole);
        let all = specs.tensors().map(|(name, spec)| (name, *spec));
        let moments = adam.m.tensors().into_iter().zip(adam.v.tensors());
        for (((name, spec), (_, p)), ((_, m), (_, v))) in all.into_iter().zip(params.tensors()).zip(moments) {
            // A shard may have no rows of a tensor.
            if spec.width == 0 {
                continue;
            }
            let (p, m, v) = (device.upload(p)?, device.upload(m)?, device.upload(v)?);
            let blocks = spec.len().div_ceil(step::adam::rows_of_block(spec.width) * spec.width);
            let norms =
                spec.level.filter(|_| spec.unit_rows).map(|l| &adam.norms[l][..]).filter(|norms| !norms.is_empty());
            let norms = norms.map(|norms| device.upload(norms)).transpose()?;
            tensors.push(Learned {
                name,
                spec,
                p,
                m,
                v,
                norms,
                g: device.alloc(spec.len())?,
                squares: device.alloc(blocks)?,
            });
        }
        let mut levels = Vec::new();
        for l in 0..whole.n_levels() {
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
            over: Over::new(shard.clone()),
            tensors,
            levels,
            changed: None,
            families: None,
            anew: Vec::new(),
            newest: Newest::Both,
            rows: RowSlots::default(),
            source: SourceSlots::default(),
            selection: SelectionSlots::default(),
            out: Out::new(device)?,
            counts: None,
            bias: BiasSlots::default(),
            by: Default::default(),
            work: Work::default(),
            packing: Packing::default(),
            packed: Packed::default(),
            n: 0,
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

    /// Returns whether this is one of several shards.
    pub fn is_shard(&self) -> bool {
        !self.over.is_solo()
    }

    /// Counts the last step in `cofire`: see [`Counts::add`].
    pub fn count(&mut self, cofire: &mut Cofire, decay: f64, steps: u64) -> Result<()> {
        self.flush_counts()?;
        if self.counts.is_none() {
            self.counts = Some(Counts::new(&self.device, cofire)?);
        }
        self.counts.as_mut().map_or(Ok(()), |counts| counts.add(cofire, self.n, decay, steps))
    }

    fn flush_counts(&mut self) -> Result<()> {
        let Self { device, arch, levels, by, counts, n, .. } = self;
        counts.as_mut().map_or(Ok(()), |counts| counts.flush(device, arch, levels, &by[0], *n))
    }

    /// Copies the counts to the host.
    pub fn fetch_counts(&mut self, cofire: &mut Cofire) -> Result<()> {
        self.flush_counts()?;
        self.counts.as_mut().map_or(Ok(()), |counts| counts.fetch(cofire))
    }

    /// Says that the host has changed the counts.
    pub fn counts_changed(&mut self) {
        self.counts.as_mut().into_iter().for_each(Counts::changed);
    }

    /// Returns whether the host has the counts as they are.
    pub fn has_fetched_counts(&self) -> bool {
        self.counts.as_ref().is_none_or(Counts::is_fetched)
    }

    /// Says how raw rows are normalised, which may come from then on.
    pub fn set_normalisation(&mut self, by: &Normalisation) -> Result<()> {
        self.rows.affine = Some((self.device.upload(&by.mean)?, by.scale));
        Ok(())
    }

    /// Copies parameters and moments to the host.
    pub fn fetch(&mut self, params: &mut Params, adam: &mut Adam) -> Result<()> {
        self.start_anew()?;
        if self.newest != Newest::Device {
            return Ok(());
        }
        let moments = adam.m.tensors_mut().into_iter().zip(adam.v.tensors_mut());
        for ((name, p), ((_, m), (_, v))) in params.tensors_mut().into_iter().zip(moments) {
            let Some(tensor) = self.tensors.iter().find(|tensor| tensor.name == name) else { continue };
            tensor.p.all().get(p)?;
            tensor.m.all().get(m)?;
            tensor.v.all().get(v)?;
            if let (Some(norms), Some(l)) = (&tensor.norms, tensor.spec.level) {
                norms.all().get(&mut adam.norms[l])?;
            }
        }
        self.newest = Newest::Both;
        Ok(())
    }

    /// Copies what the last level left over of the last batch to the host.
    pub fn fetch_rows(&mut self) -> Result<()> {
        if let Some(level) = self.levels.last() {
            self.left.resize(self.n * self.arch.d, 0.0);
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
        // Copies first: they would wait for what is started.
        for copies in [true, false] {
            for (level, j, rows) in &self.anew {
                for (at, new) in [&rows.w_enc, &rows.b_enc, &rows.w_dec].into_iter().enumerate() {
                    let Learned { p, m, v, norms, .. } = &self.tensors[encoder(&self.tensors, *level) + at];
                    let row = j * new.len()..(j + 1) * new.len();
                    if copies {
                        p.part(row).put(new)?;
                        if let Some(norms) = norms {
                            norms.part(*j..j + 1).put(&[self.config.train.row_norm as f32])?;
                        }
                    } else {
                        m.part(row.clone()).zero()?;
                        v.part(row).zero()?;
                    }
                }
            }
        }
        self.anew.clear();
        Ok(())
    }

    /// Returns the tensors that learn.
    fn learning(&self, fixed: Option<usize>) -> impl Iterator<Item = &Learned> {
        self.tensors.iter().filter(move |tensor| fixed.is_none() || tensor.spec.level != fixed)
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
