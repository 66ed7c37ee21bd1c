//! The tracked inference threshold of batch-top-k, and the surplus that a step selects before it prunes. The controller of the L0 of penalised activations is
//! [`L0Control`](super::l0::L0Control).

use super::state::{Saved, State};
use crate::error::Result;

/// The inference threshold of batch-top-k, tracked so that `k` latents per row exceed it:
///
/// ```text
/// ln tau += eta clip(n_above / (k n) - 1, +-.5),   eta .1 in the first half of the training, .03 after
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ThresholdTracker {
    /// The threshold; 0 before the first step.
    pub tau: f32,
}

impl ThresholdTracker {
    /// Moves the threshold after a step in which `above` pre-activations exceeded it where `wanted` should have.
    /// `selected_min`, the smallest selected pre-activation, is where the threshold starts; `done` is the share of the
    /// steps behind.
    pub fn update(&mut self, above: usize, wanted: f64, selected_min: f32, done: f64) {
        if self.tau <= 0.0 {
            self.tau = selected_min;
            return;
        }
        let eta = if done < 0.5 { 0.1 } else { 0.03 };
        let excess = (above as f64 / wanted - 1.0).clamp(-0.5, 0.5);
        self.tau = (f64::from(self.tau) * libm::exp(eta * excess)).max(1e-12) as f32;
    }

    /// Moves the threshold of `topk` towards the smallest selected pre-activation of the batch. `topk` selects per row
    /// and needs no threshold; this one only says which ungated pre-activations count as firing.
    pub fn smooth(&mut self, selected_min: f32) {
        self.tau = if self.tau <= 0.0 { selected_min } else { self.tau + 0.01 * (selected_min - self.tau) };
    }
}

impl Saved for ThresholdTracker {
    fn save(&self, name: &str, state: &mut State) {
        let Self { tau } = self;
        state.push_f32(name, &[*tau]);
    }

    fn load(&mut self, name: &str, state: &mut State) -> Result<()> {
        self.tau = state.next_f32(name, 1)?[0];
        Ok(())
    }
}

/// How many times `k` latents a step selects before pruning, moved so that `k` of them stay:
///
/// ```text
/// surplus = clip(surplus sqrt(k / L0), 1, 4)
/// ```
///
/// Without it, pruning takes latents away, those that stay grow, the smallest selected one with them, and in the end nearly all are
/// pruned.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Surplus(pub f64);

impl Default for Surplus {
    fn default() -> Self {
        Self(1.25)
    }
}

impl Surplus {
    /// Moves the surplus after a step in which `l0` latents per row stayed where `k` should have.
    pub fn update(&mut self, l0: f64, k: f64) {
        self.0 = (self.0 * libm::sqrt(k / l0.max(0.01 * k))).clamp(1.0, 4.0);
    }
}

impl Saved for Surplus {
    fn save(&self, name: &str, state: &mut State) {
        state.push_f64(name, &[self.0]);
    }

    fn load(&mut self, name: &str, state: &mut State) -> Result<()> {
        self.0 = state.next_f64(name, 1)?[0];
        Ok(())
    }
}
