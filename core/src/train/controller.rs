//! The controller of batch-top-k's L0: a tracked threshold. That of penalised activations is
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
    /// Takes in a step: `above` pre-activations were over the threshold, `wanted` should have been, and the smallest
    /// that was selected is `selected_min`.
    pub fn update(&mut self, above: usize, wanted: f64, selected_min: f32, done: f64) {
        if self.tau <= 0.0 {
            self.tau = selected_min;
            return;
        }
        let eta = if done < 0.5 { 0.1 } else { 0.03 };
        let excess = (above as f64 / wanted - 1.0).clamp(-0.5, 0.5);
        self.tau = (f64::from(self.tau) * libm::exp(eta * excess)).max(1e-12) as f32;
    }

    /// For `topk`, whose candidates are cut a row: the mean of the smallest selected pre-activation.
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
