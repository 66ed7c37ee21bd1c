//! The weights of the loss.

use crate::loss::Consistency;
use crate::setting::settings;

settings! {
    /// Weights of the loss, in units of the fraction of variance unexplained.
    LossConfig {
        /// Weight of the reconstruction of level 1.
        w1: f64 = 1.0, in 0.0..=1e6;
        /// Share of the steps after which `w1` moves linearly, to reach `w1_end` at the last step; 1: never. It moves only
        /// behind a hard gate, because without one a child may absorb its parent where level 1 counts for little, and only
        /// if level 1 is `topk` or `batchtopk`, because against a penalty a smaller weight would mean fewer latents.
        w1_start: f64 = 2.0 / 3.0, in 0.0..=1.0;
        /// Value that `w1` has at the last step, if it moves.
        w1_end: f64 = 0.1, in 0.0..=1e6;
        /// Weight of the reconstruction of level 2.
        w2: f64 = 1.0, in 0.0..=1e6;
        /// Weight of AuxK, the reconstruction of the residual by dead latents, at both levels.
        aux: f64 = 1.0, in 0.0..=1e6;
        /// `gated`: weight of the auxiliary reconstruction through a frozen decoder.
        gated_aux: f64 = 1.0, in 0.0..=1e6;
        /// The loss that ties the levels together.
        consistency: Consistency = Consistency::None;
        /// Weight of the consistency loss.
        consistency_weight: f64 = 1e-3, in -1e6..=1e6;
        /// `contain`: weight of the term that trains the child to fire only where its parent does.
        contain_down: f64 = 1.0, in 0.0..=1e6;
        /// `contain`: weight of the term that trains the parent to fire wherever its child does.
        contain_up: f64 = 1.0, in 0.0..=1e6;
        /// `contain`: the parent's pre-activation from which on the child is not penalised.
        contain_margin: f64 = 0.5, in 1e-6..=1e6;
    }
}
