//! Controllers of L0: a PI controller on `ln lambda` for penalised activations, a tracked threshold for batch-top-k.

use super::state::{Saved, State};
use crate::error::Result;

/// Lowest and highest weight of a penalty.
const LAMBDA: [f64; 2] = [1e-6, 10.0];

/// PI control of `ln lambda` in velocity form:
///
/// ```text
/// y <- .9 y + .1 ln(L0 / L0*),  ln lambda += clip(Kp (y - y_prev) + Ki y, +-.05),  lambda in [1e-6, 10]
/// ```
///
/// The plant is `ln L0 = c - gamma ln lambda` with lag `tau`; cancelling its pole gives `Ki = 1 / (gamma Tc)` and
/// `Kp = tau / (gamma Tc)`, with `gamma = 1`, `tau = 100`, `Tc = 150` steps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LambdaControl {
    /// The weight now.
    pub lambda: f64,
    /// Smoothed log ratio.
    pub y: f64,
}

impl LambdaControl {
    /// Integral gain a step.
    pub const KI: f64 = 1.0 / 150.0;
    /// Proportional gain.
    pub const KP: f64 = 100.0 / 150.0;

    /// Starts at `lambda`, or at 1e-3 where the settings give none.
    pub fn new(lambda: f64) -> Self {
        Self { lambda: if lambda > 0.0 { lambda } else { 1e-3 }, y: 0.0 }
    }

    /// Takes in the L0 of a step. With `hold` only the smoothing goes on: during warm-up, and at the end, so that the
    /// last tenth of the training sees one model.
    pub fn update(&mut self, l0: f64, target: f64, hold: bool) {
        let error = libm::log((l0 / target).max(1e-2));
        let before = self.y;
        self.y = 0.9 * self.y + 0.1 * error;
        if !hold {
            let step = (Self::KP * (self.y - before) + Self::KI * self.y).clamp(-0.05, 0.05);
            self.lambda = (self.lambda * libm::exp(step)).clamp(LAMBDA[0], LAMBDA[1]);
        }
    }
}

/// The inference threshold of batch-top-k, tracked so that it lets `k` latents a row through:
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

impl Saved for LambdaControl {
    fn save(&self, name: &str, state: &mut State) {
        let Self { lambda, y } = self;
        state.push_f64(name, &[*lambda, *y]);
    }

    fn load(&mut self, name: &str, state: &mut State) -> Result<()> {
        let numbers = state.next_f64(name, 2)?;
        (self.lambda, self.y) = (numbers[0], numbers[1]);
        Ok(())
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
