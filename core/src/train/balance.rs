//! Weights of the two reconstructions where `train.balance` learns them.

use super::accumulate::RowNorms;
use super::state::{Saved, State};
use crate::config::{Balance, LossConfig};
use crate::error::Result;

/// Steps between updates of `norm`.
const EVERY: u64 = 10;

/// State of the balance between the levels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BalanceState {
    /// The weights now.
    pub w: [f64; 2],
    /// `norm`: smoothed gradient norms.
    pub norm: [f64; 2],
    /// `uncert`: log variances, their first and second moments.
    pub log_var: [[f64; 2]; 3],
}

impl BalanceState {
    /// Starts at the weights of the settings.
    pub fn new(loss: &LossConfig) -> Self {
        let w = [loss.w1, loss.w2];
        // `w = e^-eta / 2` reproduces the settings; a weight of 0 starts at a tiny one.
        let eta = w.map(|w| -libm::log((2.0 * w).max(1e-6)));
        Self { w, norm: [0.0; 2], log_var: [eta, [0.0; 2], [0.0; 2]] }
    }

    /// Takes in a step.
    ///
    /// - `norm`, every 10 steps: `w1 <- clip(w1 (rho w2 n2 / (w1 n1))^.1, .1, 10)` with smoothed norms `n` of the
    ///   unweighted losses' gradients on `D1`, and `w2 = 1`: at rest `w1 n1 = rho w2 n2`. (Without the weights in the
    ///   ratio there is no rest: `w1` would run into its limit.)
    /// - `uncert`: `L = sum_l e^-eta_l l_l / 2 + eta_l / 2`, Adam on `eta` at the rate of the weights.
    pub fn update(&mut self, balance: Balance, ratio: f64, norms: &RowNorms, fvu: [f64; 2], lr: f64, step: u64) {
        match balance {
            Balance::Sum | Balance::Own | Balance::Pcgrad => {}
            Balance::Norm => {
                let seen = [norms.own, norms.through];
                for (n, s) in self.norm.iter_mut().zip(seen) {
                    *n = if step == 0 { s } else { 0.9 * *n + 0.1 * s };
                }
                if step % EVERY == EVERY - 1 && self.norm[0] > 0.0 && self.norm[1] > 0.0 {
                    self.w[1] = 1.0;
                    let gap = ratio * self.norm[1] / (self.w[0] * self.norm[0]);
                    self.w[0] = (self.w[0] * libm::pow(gap, 0.1)).clamp(0.1, 10.0);
                }
            }
            Balance::Uncert => {
                let [eta, m, v] = &mut self.log_var;
                let t = step as f64 + 1.0;
                for l in 0..2 {
                    let grad = 0.5 - 0.5 * libm::exp(-eta[l]) * fvu[l];
                    m[l] = 0.9 * m[l] + 0.1 * grad;
                    v[l] = 0.999 * v[l] + 0.001 * grad * grad;
                    let (mh, vh) = (m[l] / (1.0 - libm::pow(0.9, t)), v[l] / (1.0 - libm::pow(0.999, t)));
                    eta[l] -= lr * mh / (libm::sqrt(vh) + 1e-8);
                    self.w[l] = 0.5 * libm::exp(-eta[l]);
                }
            }
        }
    }

    /// The part of the loss that belongs to the weights: `eta / 2` a level for `uncert`.
    pub fn own_loss(&self, balance: Balance) -> f64 {
        if balance == Balance::Uncert { 0.5 * (self.log_var[0][0] + self.log_var[0][1]) } else { 0.0 }
    }
}

impl Saved for BalanceState {
    fn save(&self, name: &str, state: &mut State) {
        let Self { w, norm, log_var: [eta, m, v] } = self;
        state.push_f64(name, &[w, norm, eta, m, v].map(|pair| *pair).concat());
    }

    fn load(&mut self, name: &str, state: &mut State) -> Result<()> {
        let Self { w, norm, log_var: [eta, m, v] } = self;
        for pair in [w, norm, eta, m, v] {
            pair.copy_from_slice(&state.next_f64(name, 2)?);
        }
        Ok(())
    }
}
