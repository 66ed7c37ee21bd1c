//! The settings of one level.

use crate::activation::Activation;
use crate::setting::{ABOVE_ZERO, settings};

settings! {
    /// A level: its latents, its activation and its sparsity.
    LevelConfig {
        /// Number of latents: at least 1 at level 1; 0 at level 2 makes a flat SAE.
        latents: usize = 0, in 0..=u32::MAX as usize - 1;
        /// How pre-activations become latents.
        activation: Activation = Activation::Batchtopk;
        /// Target number of active latents per row (L0), at most `latents`: exact for `topk`, which takes a whole
        /// number, and for `batchtopk`; held by a controller for the others.
        k: f64 = 8.0, in ABOVE_ZERO..=f64::INFINITY;
        /// A long training (`train.long`) starts at `k_start` times `k`, unless nothing holds L0.
        k_start: f64 = 3.0, in 1.0..=1e6;
        /// Share of the steps over which the number of active latents falls linearly to `k`.
        anneal: f64 = 0.3, in 0.0..=1.0;
        /// `relu`, `jumprelu`, `gated`: initial weight of the sparsity penalty, which is a mean over rows.
        lambda: f64 = 0.0, in 0.0..=1e6;
        /// `relu`, `jumprelu`, `gated`: hold L0 at `k`. Each step moves the thresholds or biases towards `k`, and
        /// `lambda` follows them; after the last step the thresholds or biases are set once more.
        control: bool = true;
        /// `jumprelu`: width of the straight-through kernel, in units of the pre-activations.
        bandwidth: f64 = 0.5, in 1e-9..=1e9;
        /// `batchtopk`, `jumprelu`: at inference an active latent stays only if its value by least squares, given all other
        /// latents, exceeds this share of its threshold (leave-one-out pruning). Thresholds are set with it, so that L0 is `k`.
        /// 0: every latent stays.
        prune: f64 = 0.0, in 0.0..=10.0;
    }
}
