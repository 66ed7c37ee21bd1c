//! How the gradients of the two reconstructions are mixed: every decision about a [`Balance`].

use crate::choice::choices;
use crate::kernel::{Isa, reduce};

choices! {
    /// How the gradients of the two reconstructions are mixed on the parameters that both reach.
    Balance {
        /// Their sum.
        Sum = "sum",
        /// Level 1 sees its own reconstruction only.
        Own = "own",
        /// Weights that keep the gradient norms at a fixed ratio (GradNorm without second order).
        Norm = "norm",
        /// The part of level 2's gradient that opposes level 1's is removed, row by row (PCGrad).
        Pcgrad = "pcgrad",
        /// Weights learned as uncertainties (Kendall et al. 2018).
        Uncert = "uncert",
    }
}

impl Balance {
    /// Returns whether the weights of the two reconstructions are learned, so that no schedule may move them.
    pub const fn is_learned(self) -> bool {
        match self {
            Self::Sum | Self::Own | Self::Pcgrad => false,
            Self::Norm | Self::Uncert => true,
        }
    }

    /// Returns whether the part of the gradient that reaches level 1 through level 2 is dropped.
    pub const fn drops_through(self) -> bool {
        match self {
            Self::Own => true,
            Self::Sum | Self::Norm | Self::Pcgrad | Self::Uncert => false,
        }
    }

    /// Returns whether a part of level 2's gradient is removed, row by row.
    pub(crate) const fn projects(self) -> bool {
        match self {
            Self::Pcgrad => true,
            Self::Sum | Self::Own | Self::Norm | Self::Uncert => false,
        }
    }

    /// Mixes two parts of a gradient row, `g <- g1 + g2`, as the balance says; `g2` keeps the part that was added.
    ///
    /// `own` drops `g2`; `pcgrad` removes from `g2` its component along `g1` where the two oppose each other. Parameters of
    /// one number per latent have no direction to remove: under `pcgrad` their two parts are added.
    pub(crate) fn mix(self, isa: Isa, g1: &mut [f32], g2: &mut [f32]) {
        match self {
            Self::Own => g2.fill(0.0),
            Self::Pcgrad => {
                let dot = reduce::dot(isa, g1, g2);
                let norm = reduce::sum_squares(isa, g1);
                if dot < 0.0 && norm > 0.0 {
                    reduce::axpy(isa, -dot / norm, g1, g2);
                }
            }
            Self::Sum | Self::Norm | Self::Uncert => {}
        }
        reduce::axpy(isa, 1.0, g2, g1);
    }
}

/// Statistics of the two gradients on `D1`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct RowNorms {
    /// `|grad_D1 l1|`, without its weight.
    pub own: f64,
    /// `|grad_D1 l2|`, without its weight.
    pub through: f64,
    /// Their cosine; 0 where one of them is zero.
    pub cosine: f64,
}

/// Steps between updates of `norm`.
const EVERY: u64 = 10;

/// State of the balance between the levels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct BalanceState {
    /// The current weights.
    pub w: [f64; 2],
    /// `norm`: smoothed gradient norms.
    pub norm: [f64; 2],
    /// `uncert`: log variances, their first and second moments.
    pub log_var: [[f64; 2]; 3],
}

impl BalanceState {
    /// Starts at the weights `w` of the settings.
    pub fn new(w: [f64; 2]) -> Self {
        // `w = e^-eta / 2` reproduces the settings; a weight of 0 starts at a tiny one.
        let eta = w.map(|w| -libm::log((2.0 * w).max(1e-6)));
        Self { w, norm: [0.0; 2], log_var: [eta, [0.0; 2], [0.0; 2]] }
    }

    /// Updates the weights after a step.
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

    /// Returns the part of the loss that belongs to the weights: `eta / 2` per level for `uncert`.
    pub fn own_loss(&self, balance: Balance) -> f64 {
        match balance {
            Balance::Uncert => 0.5 * (self.log_var[0][0] + self.log_var[0][1]),
            Balance::Sum | Balance::Own | Balance::Norm | Balance::Pcgrad => 0.0,
        }
    }
}
