//! The part of a dictionary that one process owns.

use super::comm::{Comm, Solo, owned};
use super::counts::row_width;
use crate::config::{Config, ModelKind};
use crate::error::{Error, Result};
use crate::gate::Families;
use crate::model::{Arch, ParamSpec, Params};
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Range;

/// A shard: a contiguous range of the latents of each level. Within a shard latents are counted from its first one.
#[derive(Clone, Debug)]
pub(super) struct Shard {
    /// The exchange with the other shards.
    pub comm: Arc<dyn Comm>,
    /// Numbers of latents of the whole dictionary.
    pub latents: [usize; 2],
    /// The latents of this shard, per level.
    own: [[usize; 2]; 2],
}

impl Shard {
    /// Returns the shard of this process of a dictionary.
    ///
    /// # Errors
    /// [`Error::Config`] for settings that are not trained over more than one shard.
    pub fn new(comm: Arc<dyn Comm>, config: &Config, arch: &Arch) -> Result<Self> {
        if !comm.is_solo() {
            check(config, comm.size())?;
        }
        Ok(Self::of(comm, arch))
    }

    /// Returns the only shard of a dictionary.
    pub fn solo(arch: &Arch) -> Self {
        Self::of(Arc::new(Solo), arch)
    }

    fn of(comm: Arc<dyn Comm>, arch: &Arch) -> Self {
        let latents = arch.latents();
        let own = latents.map(|f| {
            let own = owned(f, comm.rank(), comm.size());
            [own.start, own.end]
        });
        Self { comm, latents, own }
    }

    /// Returns whether the dictionary has one shard.
    pub fn is_solo(&self) -> bool {
        self.comm.is_solo()
    }

    /// Returns the latents of a level that this shard owns.
    pub fn own(&self, level: usize) -> Range<usize> {
        let [start, end] = self.own[level];
        start..end
    }

    /// Returns the number of this shard's first latent of a level.
    pub fn first(&self, level: usize) -> u32 {
        self.own[level][0] as u32
    }

    /// Returns the architecture of this shard, with its own numbers of latents.
    pub fn arch(&self, whole: &Arch) -> Arch {
        let mut arch = *whole;
        (0..2).for_each(|l| arch.level[l].latents = self.own(l).len());
        arch
    }

    /// Returns the shapes of this shard's tensors.
    pub fn specs(&self, whole: &Arch) -> Params<ParamSpec> {
        whole.specs().map(|spec| match spec.level.filter(|_| spec.per_latent) {
            Some(level) => ParamSpec { rows: self.own(level).len(), ..*spec },
            None => *spec,
        })
    }

    /// Writes those of some latents of a level, ascending, that are of this shard to `out`, counted from its first one.
    pub fn own_of(&self, level: usize, latents: &[u32], out: &mut Vec<u32>) {
        let [first, end] = self.own[level].map(|j| j as u32);
        let from = latents.partition_point(|j| *j < first);
        let to = latents.partition_point(|j| *j < end);
        out.clear();
        out.extend(latents[from..to].iter().map(|j| j - first));
    }

    /// Returns the families of this shard's children; their parents may be of any shard.
    pub fn families(&self, all: &Families) -> Families {
        Families::new(all.parents()[self.own(1)].to_vec(), self.latents[0])
    }
}

/// Refuses settings that are not trained over shards.
fn check(config: &Config, size: usize) -> Result<()> {
    let refuse = |key: &str, found: &str| {
        let why = format!(
            "expected a setting that is trained over ranks, found {found} with {size} ranks: train it in one process"
        );
        Err(Error::config(key, why))
    };
    if config.model == ModelKind::Seed {
        return refuse("model", "seed");
    }
    if config.level2.latents > 0 {
        if !config.source.is_parallel() {
            return refuse("source", config.source.name());
        }
        if config.decoder.is_composed() {
            return refuse("decoder", config.decoder.name());
        }
        if config.gate.kind.has_weights() {
            return refuse("gate.kind", config.gate.kind.name());
        }
        if !config.loss.consistency.is_over_shards() {
            return refuse("loss.consistency", config.loss.consistency.name());
        }
    }
    if config.train.prune > 0.0 {
        return refuse("train.prune", &format!("{}", config.train.prune));
    }
    for (key, level) in [("level1.prune", &config.level1), ("level2.prune", &config.level2)] {
        if level.latents > 0 && level.prune > 0.0 {
            return refuse(key, &format!("{}", level.prune));
        }
    }
    Ok(())
}

/// Returns the arrays of a [`State`](super::State) of which each rank has the rows of its own latents, with the level (0
/// or 1) of the latents and the width of a row; the other arrays are the same on all ranks. `target` is the width of the rows
/// that a transcoder reconstructs.
pub fn sharded_arrays(config: &Config, d: usize, target: Option<usize>) -> BTreeMap<String, (usize, usize)> {
    let arch = Arch::with_target(config, d, target);
    let mut arrays = BTreeMap::new();
    for (name, spec) in arch.specs().tensors() {
        if let Some(level) = spec.level.filter(|_| spec.per_latent) {
            for of in ["params", "adam.m", "adam.v"] {
                arrays.insert(format!("{of}.{name}"), (level, spec.width));
            }
        }
    }
    for level in 0..2 {
        arrays.insert(format!("adam.norm.{}", level + 1), (level, 1));
    }
    arrays.insert("cofire.both".into(), (1, row_width(arch.level[0].latents)));
    arrays
}
