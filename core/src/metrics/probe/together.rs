//! Linear probes of many labels at once: logistic regression by Adam over a number of epochs, as the public code of Tree SAE fits them
//! (Cao et al. 2026, arXiv 2605.07922). [`logistic`](super::logistic) fits few probes, to convergence.

use alloc::vec;
use alloc::vec::Vec;

use crate::compute::Compute;
use crate::kernel::dense::{self, Matrix, Pick};
use crate::kernel::{Isa, sparse};
use crate::rng::Philox;
use crate::{Error, Result};

/// Probes that one thread fits.
const CHUNK: usize = 16;
/// Numbers in the rows of a block, which is added to the gradients of all probes of a thread before the next one is read: 256 KiB, which fit
/// into a cache.
const BLOCK: usize = 1 << 16;
/// The decays of Adam's moments.
const BETAS: [f32; 2] = [0.9, 0.999];
/// What Adam adds to the root of the second moment.
const EPSILON: f32 = 1e-8;
/// The random streams: the order of the rows, and the first weights of each probe.
const STREAM: u64 = 0x746f_6765 << 32;

/// Settings of a fit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// Passes over the rows.
    pub epochs: usize,
    /// Rows per step.
    pub batch: usize,
    /// Learning rate of the first epoch; it falls by the same factor after each, to `end_lr` after the last.
    pub lr: f64,
    /// See above.
    pub end_lr: f64,
    /// Adam's L2 penalty: this times the weight is added to its gradient.
    pub weight_decay: f64,
    /// First weights and intercepts are uniform within this many times `1 / sqrt(d)`.
    pub first: f64,
    /// Seed of the first weights, and of the order of the rows.
    pub seed: u64,
}

/// Those of the public code of Tree SAE.
impl Default for Settings {
    fn default() -> Self {
        Self { epochs: 50, batch: 4096, lr: 0.01, end_lr: 1e-5, weight_decay: 1e-6, first: 1.0, seed: 0 }
    }
}

/// Returns the weights `[probes, d]` of probes that tell the rows of each list from all others: Adam on
/// `mean_i s_i ln(1 + exp(-y_i (w . x_i + b)))`, `y_i = +-1`, `s_i` the number of other rows over that of a list's rows for a row of the
/// list, else 1.
///
/// | argument | shape | layout |
/// |---|---|---|
/// | `x` | `[n, d]` | row-major, finite |
/// | `of` | `[probes]` | of each probe the rows that are positive, ascending; neither none nor all |
///
/// In `f32`; the bits depend neither on threads nor on the instruction set. Cost: `4 n d` operations per probe and epoch; memory of a
/// thread `128 batch + 256 d + 6 n` bytes.
///
/// # Errors
/// [`Error::Shape`] where sizes disagree or a list has no or all rows, [`Error::Index`] for a row out of range.
pub fn fit(compute: Compute, x: &[f32], d: usize, of: &[&[u32]], settings: &Settings) -> Result<Vec<f32>> {
    let n = x.len().checked_div(d).unwrap_or(0);
    if d == 0 || n * d != x.len() || settings.batch == 0 {
        return Err(Error::Shape { what: "numbers of a row of a probe", expected: d.max(1), got: x.len() });
    }
    for rows in of {
        if rows.is_empty() || rows.len() >= n {
            return Err(Error::Shape { what: "positive rows of a probe", expected: n / 2, got: rows.len() });
        }
        if let Some(row) = rows.iter().find(|row| **row as usize >= n) {
            return Err(Error::Index { what: "a positive row of a probe", index: *row as usize, len: n });
        }
    }
    let parts = compute.par.map(of.len().div_ceil(CHUNK), |c| {
        let mut chunk =
            Probes::new(compute.isa, d, n, c * CHUNK, &of[c * CHUNK..of.len().min((c + 1) * CHUNK)], settings);
        let fall = if settings.epochs == 0 {
            1.0
        } else {
            libm::pow(settings.end_lr / settings.lr, 1.0 / settings.epochs as f64)
        };
        let mut lr = settings.lr;
        // One order for all probes, so that the result does not depend on how they are divided.
        let (mut rng, mut order) = (Philox::new(settings.seed, STREAM), (0..n as u32).collect::<Vec<_>>());
        for _ in 0..settings.epochs {
            rng.shuffle(&mut order);
            order.chunks(settings.batch).for_each(|batch| chunk.step(x, batch, lr));
            lr *= fall;
        }
        chunk.weight
    });
    Ok(parts.concat())
}

/// Some of the probes, with Adam's moments.
struct Probes {
    isa: Isa,
    d: usize,
    decay: f32,
    /// `[probes, d]`, and `[probes]` of the intercepts.
    weight: Vec<f32>,
    bias: Vec<f32>,
    /// Moments of the weights and of the intercepts.
    moments: [Vec<f32>; 2],
    bias_moments: [Vec<f32>; 2],
    steps: i32,
    /// `[probes]`: the weight of a positive row.
    positive: Vec<f32>,
    /// `[n]` bits: the probes of which a row is positive.
    is_positive: Vec<u16>,
    /// `[batch, probes]` and `[probes, batch]`: logits, and their gradients.
    logits: Vec<f32>,
    slopes: Vec<f32>,
    gradient: Vec<f32>,
}

impl Probes {
    fn new(isa: Isa, d: usize, n: usize, first: usize, of: &[&[u32]], settings: &Settings) -> Self {
        let m = of.len();
        let bound = (settings.first / libm::sqrt(d as f64)) as f32;
        let (mut weight, mut bias) = (Vec::with_capacity(m * d), Vec::with_capacity(m));
        for probe in first..first + m {
            let mut rng = Philox::new(settings.seed, STREAM + 1 + probe as u64);
            let mut draw = || (2.0 * rng.uniform_f32() - 1.0) * bound;
            weight.extend((0..d).map(|_| draw()));
            bias.push(draw());
        }
        let mut is_positive = vec![0u16; n];
        for (p, rows) in of.iter().enumerate() {
            rows.iter().for_each(|row| is_positive[*row as usize] |= 1 << p);
        }
        let zeros = |n: usize| [vec![0.0; n], vec![0.0; n]];
        Self {
            isa,
            d,
            decay: settings.weight_decay as f32,
            weight,
            bias,
            moments: zeros(m * d),
            bias_moments: zeros(m),
            steps: 0,
            positive: of.iter().map(|rows| ((n - rows.len()) as f64 / rows.len() as f64) as f32).collect(),
            is_positive,
            logits: Vec::new(),
            slopes: Vec::new(),
            gradient: vec![0.0; m * d],
        }
    }

    fn step(&mut self, x: &[f32], batch: &[u32], lr: f64) {
        let (d, m, n) = (self.d, self.bias.len(), batch.len());
        self.logits.resize(n * m, 0.0);
        let rows = Matrix::all(x, d).only(Pick::List(batch));
        dense::product(self.isa, rows, Matrix::all(&self.weight, d), Some(&self.bias), &mut self.logits);
        self.slopes.resize(m * n, 0.0);
        for (i, (logits, row)) in self.logits.chunks_exact(m).zip(batch).enumerate() {
            let bits = self.is_positive[*row as usize];
            for (p, logit) in logits.iter().enumerate() {
                // The share of the other side.
                let (sign, weight) = if bits >> p & 1 == 1 { (-1.0, self.positive[p]) } else { (1.0, 1.0) };
                self.slopes[p * n + i] = sign * weight / (1.0 + libm::expf(-sign * logit)) / n as f32;
            }
        }
        self.gradient.fill(0.0);
        let block = (BLOCK / d).max(1);
        for (b, rows) in batch.chunks(block).enumerate() {
            for (slopes, gradient) in self.slopes.chunks_exact(n).zip(self.gradient.chunks_exact_mut(d)) {
                sparse::accumulate_rows(self.isa, rows, &slopes[b * block..][..rows.len()], x, d, gradient);
            }
        }
        self.steps += 1;
        let [rest1, rest2] = BETAS.map(|beta| 1.0 - libm::pow(f64::from(beta), f64::from(self.steps)));
        let (rate, root) = ((lr / rest1) as f32, libm::sqrt(rest2) as f32);
        let update = |value: &mut f32, gradient: f32, moment1: &mut f32, moment2: &mut f32| {
            let gradient = gradient + self.decay * *value;
            *moment1 = BETAS[0] * *moment1 + (1.0 - BETAS[0]) * gradient;
            *moment2 = BETAS[1] * *moment2 + (1.0 - BETAS[1]) * gradient * gradient;
            *value -= rate * *moment1 / (libm::sqrtf(*moment2) / root + EPSILON);
        };
        let [moment1, moment2] = &mut self.moments;
        for (i, value) in self.weight.iter_mut().enumerate() {
            update(value, self.gradient[i], &mut moment1[i], &mut moment2[i]);
        }
        let [moment1, moment2] = &mut self.bias_moments;
        for (p, value) in self.bias.iter_mut().enumerate() {
            let gradient = self.slopes[p * n..(p + 1) * n].iter().sum();
            update(value, gradient, &mut moment1[p], &mut moment2[p]);
        }
    }
}
