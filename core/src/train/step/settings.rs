//! The settings of one step.

use crate::gate::GateKind;
use crate::source::Source;
use alloc::vec::Vec;

/// Settings that vary between steps.
#[derive(Clone, Debug, PartialEq)]
pub struct StepSettings {
    /// Learning rate.
    pub lr: f64,
    /// The level (0 or 1) whose tensors are not updated; those of level 1 include `b_dec`.
    pub fixed_level: Option<usize>,
    /// Latents per row that `topk` and `batchtopk` keep, per level.
    pub k: [f64; 2],
    /// How many times `k` latents `batchtopk` selects before pruning, where a step prunes; else 1.
    pub surplus: [f64; 2],
    /// Weight of the sparsity penalty, per level.
    pub lambda: [f32; 2],
    /// Weights of the two reconstructions.
    pub w: [f32; 2],
    /// The gate of this step: a hard gate acts only from `gate.start` on.
    pub gate: GateKind,
    /// What level 2 reads in this step.
    pub source: Source,
    /// Total variance of the rows.
    pub variance: f32,
    /// Tracked thresholds of `topk` and `batchtopk`, per level. An ungated pre-activation of level 2 above the
    /// threshold of its level counts as firing.
    pub tau: [f32; 2],
    /// Whether to observe the ungated pre-activations of level 2, for the co-firing statistics.
    pub observe_ungated: bool,
    /// Dead latents of each level, ascending.
    pub dead: [Vec<u32>; 2],
}
