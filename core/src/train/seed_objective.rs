//! Loss and gradient of the seed model, computed densely, as the original design did: see [`crate::model::seed`] for
//! the equations.

use super::observed::Losses;
use crate::compute::Compute;
use crate::config::Config;
use crate::error::{At, Error, Result};
use crate::kernel::dense::transposed;
use crate::kernel::{dense, reduce, sparse};
use crate::model::{Arch, LevelParams, Params};
use alloc::vec;
use alloc::vec::Vec;

/// Rows and latents that one thread handles together.
const BLOCK: usize = 64;

/// Added to squared column norms, so that a latent that never fires has a norm to divide by.
const E: f32 = 1e-6;

/// The loss of the seed model: sizes and weights.
#[derive(Clone, Debug)]
pub struct SeedObjective {
    arch: Arch,
    lambda: [f32; 2],
    consistency: f32,
    compute: Compute,
}

/// What one gated layer computes on a batch, `(n, f)` each.
struct Layer {
    /// Pre-activations.
    a: Vec<f32>,
    /// Gates; empty without a gate.
    s: Vec<f32>,
    /// Outputs.
    h: Vec<f32>,
}

impl SeedObjective {
    /// Prepares the loss for the settings of `config` and rows of width `d`.
    pub fn new(config: &Config, d: usize, compute: Compute) -> Self {
        let weight = config.loss.consistency.seed_weight(config.loss.consistency_weight) as f32;
        Self {
            arch: Arch::new(config, d),
            lambda: [config.level1.lambda as f32, config.level2.lambda as f32],
            consistency: weight,
            compute,
        }
    }

    /// Computes loss and gradient on `x`, `(n, d)`: `grads` is written, never read. `fvu` of the result is that of
    /// level 1 alone, `h1 D1 + b_dec`, and that of `x_hat`.
    ///
    /// # Errors
    /// [`Error::NotFinite`] if the loss is not finite.
    pub fn loss_and_gradient(&self, p: &Params, variance: f32, x: &[f32], grads: &mut Params) -> Result<Losses> {
        let Arch { d, .. } = self.arch;
        let [f1, f2] = self.arch.latents();
        let n = x.len() / d;
        let l1 = self.layer(&p.level[0], x, d);
        let l2 = self.layer(&p.level[1], &l1.h, f1);
        let e2t = transposed(&p.level[1].w_dec, f2, f1);
        let y = self.product(&l2.h, &e2t, f2, Some(&p.b_dec2));
        let d1t = transposed(&p.level[0].w_dec, f1, d);
        let mut error = self.product(&y, &d1t, f1, Some(&p.b_dec));
        error.iter_mut().zip(x).for_each(|(e, x)| *e -= x);
        let mut error1 = self.product(&l1.h, &d1t, f1, Some(&p.b_dec));
        error1.iter_mut().zip(x).for_each(|(e, x)| *e -= x);

        let mut losses = Losses::default();
        let squares = self.squares(&error);
        let per_variance = 1.0 / (n as f64 * f64::from(variance));
        losses.fvu = [self.squares(&error1) * per_variance, squares * per_variance];
        losses.l0 = [&l1, &l2].map(|l| l.h.iter().filter(|h| **h > 0.0).count() as f64 / n as f64);
        losses.sparsity = [0, 1].map(|l| {
            let h = if l == 0 { &l1.h } else { &l2.h };
            f64::from(self.lambda[l]) / n as f64
                * h.chunks(1 << 10).map(|c| f64::from(reduce::sum(self.compute.isa, c))).sum::<f64>()
        });
        losses.total = squares / (n * d) as f64 + losses.sparsity[0] + losses.sparsity[1];

        reduce::scale(self.compute.isa, 2.0 / (n * d) as f32, &mut error);
        self.outer(&y, f1, &error, d, &mut grads.level[0].w_dec);
        self.columns(&error, d, &mut grads.b_dec);
        let dy = self.product(&error, &p.level[0].w_dec, d, None);
        self.outer(&l2.h, f2, &dy, f1, &mut grads.level[1].w_dec);
        self.columns(&dy, f1, &mut grads.b_dec2);
        let mut dh2 = self.product(&dy, &p.level[1].w_dec, f1, None);
        dh2.iter_mut().for_each(|g| *g += self.lambda[1] / n as f32);
        let mut dh1 = vec![self.lambda[0] / n as f32; n * f1];
        if self.consistency != 0.0 {
            losses.consistency = self.consistency(&l1.h, &l2.h, n, &mut dh1, &mut dh2);
            losses.total += losses.consistency;
        }
        let (da2, dg2) = self.layer_backward(&l2, &dh2);
        self.layer_gradients(&da2, &dg2, f2, &l1.h, f1, &mut grads.level[1]);
        for (grad, w) in [(&da2, &p.level[1].w_enc), (&dg2, &p.level[1].gate_w)] {
            if !grad.is_empty() {
                let back = self.product(grad, &transposed(w, f2, f1), f2, None);
                dh1.iter_mut().zip(&back).for_each(|(g, b)| *g += b);
            }
        }
        let (da1, dg1) = self.layer_backward(&l1, &dh1);
        self.layer_gradients(&da1, &dg1, f1, x, d, &mut grads.level[0]);
        if losses.total.is_finite() {
            Ok(losses)
        } else {
            Err(Error::NotFinite { what: "the loss of the seed".into(), at: At::Step(0) })
        }
    }

    /// Computes a layer, `h = max(a s, 0)` for a multiplicative gate: [`GateKind::seed`](crate::config::GateKind) has
    /// the others.
    fn layer(&self, p: &LevelParams, x: &[f32], width: usize) -> Layer {
        let a = self.product(x, &p.w_enc, width, Some(&p.b_enc));
        let mut s = Vec::new();
        if self.arch.gate.has_weights() {
            s = self.product(x, &p.gate_w, width, Some(&p.gate_b));
        }
        let mut h = vec![0.0; a.len()];
        for i in 0..a.len() {
            let (u, gate) = self.arch.gate.seed(a[i], s.get(i).copied().unwrap_or(0.0));
            h[i] = u.max(0.0);
            if let Some(s) = s.get_mut(i) {
                *s = gate;
            }
        }
        Layer { a, s, h }
    }

    /// Returns `(da, dg)`, the gradients of pre-activations and gate inputs, from `dh`; `dg` is empty without a gate.
    fn layer_backward(&self, layer: &Layer, dh: &[f32]) -> (Vec<f32>, Vec<f32>) {
        let mut da = vec![0.0; dh.len()];
        let mut dg = vec![0.0; layer.s.len()];
        for i in 0..dh.len() {
            let du = if layer.h[i] > 0.0 { dh[i] } else { 0.0 };
            let (grad_a, grad_g) = self.arch.gate.seed_backward(layer.a[i], layer.s.get(i).copied().unwrap_or(0.0), du);
            da[i] = grad_a;
            if let Some(dg) = dg.get_mut(i) {
                *dg = grad_g;
            }
        }
        (da, dg)
    }

    /// Writes the gradients of the weights and biases of a layer with input `x`, `(n, width)`.
    fn layer_gradients(&self, da: &[f32], dg: &[f32], f: usize, x: &[f32], width: usize, grads: &mut LevelParams) {
        self.outer(da, f, x, width, &mut grads.w_enc);
        self.columns(da, f, &mut grads.b_enc);
        if !dg.is_empty() {
            self.outer(dg, f, x, width, &mut grads.gate_w);
            self.columns(dg, f, &mut grads.gate_b);
        }
    }

    /// Returns `wc mean_ij cos(h1_i, h2_j)`, by the factorisation of [`crate::loss::seed_cos`], and adds its gradient.
    fn consistency(&self, h1: &[f32], h2: &[f32], n: usize, dh1: &mut [f32], dh2: &mut [f32]) -> f64 {
        let sizes = [self.arch.level[0].latents, self.arch.level[1].latents];
        let scale = self.consistency / (sizes[0] as f32 * sizes[1] as f32);
        let hs = [h1, h2];
        let norms = [0, 1].map(|l| {
            let mut norm = vec![0.0f32; sizes[l]];
            hs[l].chunks(sizes[l]).for_each(|row| norm.iter_mut().zip(row).for_each(|(n, h)| *n += h * h));
            norm.iter_mut().for_each(|v| *v = libm::sqrtf(*v + E));
            norm
        });
        let sums = [0, 1].map(|l| {
            let rows = hs[l].chunks(sizes[l]);
            rows.map(|row| row.iter().zip(&norms[l]).map(|(h, n)| h / n).sum::<f32>()).collect::<Vec<_>>()
        });
        for (l, dh) in [dh1, dh2].into_iter().enumerate() {
            let (target, norm, f) = (&sums[1 - l], &norms[l], sizes[l]);
            let mut along = vec![0.0f32; f];
            for (row, t) in hs[l].chunks(f).zip(target) {
                along.iter_mut().zip(row).zip(norm).for_each(|((a, h), n)| *a += h / n * t);
            }
            for b in 0..n {
                for j in 0..f {
                    dh[b * f + j] += scale * (target[b] - hs[l][b * f + j] / norm[j] * along[j]) / norm[j];
                }
            }
        }
        f64::from(scale) * sums[0].iter().zip(&sums[1]).map(|(p, q)| f64::from(*p) * f64::from(*q)).sum::<f64>()
    }

    /// Returns `x W^T + bias`, `(n, f)`.
    fn product(&self, x: &[f32], w: &[f32], d: usize, bias: Option<&[f32]>) -> Vec<f32> {
        let (n, f) = (x.len() / d, w.len() / d);
        let mut out = vec![0.0; n * f];
        self.compute.par.for_rows(n, BLOCK, [&mut out], [f], |first, [out]| {
            let rows = out.len() / f;
            dense::affine(self.compute.isa, &x[first * d..(first + rows) * d], w, d, bias, out);
        });
        out
    }

    /// Writes `grad_j = sum_b coef_bj x_b`, `(f, width)`.
    fn outer(&self, coef: &[f32], f: usize, x: &[f32], width: usize, grad: &mut [f32]) {
        let n = coef.len() / f;
        let index: Vec<u32> = (0..n as u32).collect();
        self.compute.par.for_rows(f, BLOCK, [grad], [width], |first, [grad]| {
            let mut column = vec![0.0; n];
            for (i, row) in grad.chunks_mut(width).enumerate() {
                column.iter_mut().zip(coef.chunks(f)).for_each(|(c, r)| *c = r[first + i]);
                row.fill(0.0);
                sparse::accumulate_rows(self.compute.isa, &index, &column, x, width, row);
            }
        });
    }

    /// Writes `grad_j = sum_b coef_bj`.
    fn columns(&self, coef: &[f32], f: usize, grad: &mut [f32]) {
        grad.fill(0.0);
        coef.chunks(f).for_each(|row| reduce::axpy(self.compute.isa, 1.0, row, grad));
    }

    /// Returns the sum of squares of `rows`, `(n, d)`.
    fn squares(&self, rows: &[f32]) -> f64 {
        rows.chunks(self.arch.d).map(|r| f64::from(reduce::sum_squares(self.compute.isa, r))).sum()
    }
}
