//! The inputs of a step, which every stage reads.

use super::settings::StepSettings;
use crate::activation::Rule;
use crate::compute::Compute;
use crate::config::Config;
use crate::gate::Families;
use crate::model::{Arch, Params};
use crate::train::shard::Shard;

/// The inputs of a step.
#[derive(Clone, Copy)]
pub(super) struct Inputs<'a> {
    pub compute: Compute,
    /// The architecture of this shard; its source is that of this step.
    pub arch: &'a Arch,
    /// The architecture of all shards.
    pub whole: &'a Arch,
    pub shard: &'a Shard,
    pub config: &'a Config,
    pub settings: &'a StepSettings,
    pub params: &'a Params,
    /// The families of this shard's children.
    pub families: &'a Families,
    /// The families of all children.
    pub all_families: &'a Families,
    /// The dead latents of this shard, per level.
    pub dead: [&'a [u32]; 2],
    /// `(n, d)`: normalised rows.
    pub x: &'a [f32],
    /// `(n, d_out)`: normalised rows that a transcoder should reconstruct; empty for an autoencoder.
    pub y: &'a [f32],
}

impl<'a> Inputs<'a> {
    /// Returns the number of rows.
    pub fn n(&self) -> usize {
        self.x.len() / self.arch.d
    }

    /// Returns whether there are two levels.
    pub fn two(&self) -> bool {
        self.n_levels() == 2
    }

    /// Returns the number of levels.
    pub fn n_levels(&self) -> usize {
        self.whole.n_levels()
    }

    /// Returns `1 / (n nu)`: losses are in units of the fraction of variance unexplained.
    pub fn unit(&self) -> f64 {
        1.0 / (self.n() as f64 * f64::from(self.settings.variance))
    }

    /// Returns the activation of a level (0 or 1) with its sparsity, threshold and parameters in this step.
    pub fn rule(&self, level: usize) -> Rule<'a> {
        let Self { settings, params, .. } = *self;
        let activation = self.arch.level[level].activation;
        Rule::new(activation, settings.k[level], settings.tau[level], params.level[level].activation())
    }

    /// Returns whether the consistency loss needs the ungated pre-activations of level 2, with entries for their
    /// parents.
    pub fn loss_needs_ungated(&self) -> bool {
        self.two() && self.config.loss.consistency.needs().ungated
    }

    /// Returns whether the ungated pre-activations of level 2 are asked for, by the co-firing statistics or by the
    /// loss.
    pub fn needs_ungated(&self) -> bool {
        self.settings.observe_ungated || self.config.loss.consistency.needs().ungated
    }

    /// Returns whether the part of the gradient that reaches level 1 through level 2 is dropped.
    pub fn drops_through(&self) -> bool {
        self.config.train.balance.drops_through()
    }
}
