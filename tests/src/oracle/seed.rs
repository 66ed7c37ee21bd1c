//! The loss of the seed model and its gradient: dense, in f64.

use super::{H, M, Tensors, mean_cosine, sigmoid, squares};
use strata_core::config::{Config, Consistency, GateKind};
use strata_core::model::{Arch, NAMES};

/// The seed model on one batch.
#[derive(Clone, Debug)]
pub struct Seed {
    /// Settings.
    pub config: Config,
    /// Architecture.
    pub arch: Arch,
    /// The rows.
    pub x: M,
}

impl Seed {
    /// Returns the latents of a level that reads `x`, `(n, f)`; `names` are the tensors of its encoder and of its gate.
    fn layer(&self, p: &Tensors, names: [&str; 4], x: &M, f: usize, nearest: &mut f64) -> M {
        let a = x.dot(&p.matrix(names[0], f).t()) + p.vector(names[1]);
        let s = || (x.dot(&p.matrix(names[2], f).t()) + p.vector(names[3])).mapv(sigmoid);
        let u = match self.arch.gate {
            GateKind::Mul => a * s(),
            GateKind::Add => a + s(),
            _ => a,
        };
        *nearest = u.iter().fold(*nearest, |m, v| m.min(v.abs()));
        u.mapv(|v| v.max(0.0))
    }

    /// Returns the squared error, the sparsity of both levels and the consistency loss; and the distance of the
    /// pre-activation that is nearest to 0, where the loss has no derivative.
    pub fn terms(&self, p: &Tensors) -> ([f64; 4], f64) {
        let [f1, f2] = self.arch.latents();
        let n = self.x.nrows() as f64;
        let mut nearest = f64::INFINITY;
        let h1 = self.layer(
            p,
            ["level1.w_enc", "level1.b_enc", "level1.gate_w", "level1.gate_b"],
            &self.x,
            f1,
            &mut nearest,
        );
        let h2 =
            self.layer(p, ["level2.w_enc", "level2.b_enc", "level2.gate_w", "level2.gate_b"], &h1, f2, &mut nearest);
        let y = h2.dot(&p.matrix("level2.w_dec", f2)) + p.vector("level2.b_dec");
        let hat = y.dot(&p.matrix("level1.w_dec", f1)) + p.vector("b_dec");
        let mse = squares(&(&hat - &self.x)) / self.x.len() as f64;
        let weight = if self.config.loss.consistency == Consistency::SeedCos {
            self.config.loss.consistency_weight
        } else {
            0.0
        };
        let terms = [
            mse,
            self.config.level1.lambda * h1.sum() / n,
            self.config.level2.lambda * h2.sum() / n,
            weight * mean_cosine(&h1, &h2),
        ];
        (terms, nearest)
    }

    /// Returns the gradient of every tensor by central differences.
    pub fn gradient(&self, p: &Tensors) -> Vec<Vec<f64>> {
        let mut p = p.clone();
        (0..NAMES.len())
            .map(|id| {
                (0..p.0[id].len())
                    .map(|i| {
                        let value = p.0[id][i];
                        let [high, low] = [value + H, value - H].map(|v| {
                            p.0[id][i] = v;
                            self.terms(&p).0.iter().sum::<f64>()
                        });
                        p.0[id][i] = value;
                        (high - low) / (2.0 * H)
                    })
                    .collect()
            })
            .collect()
    }
}
