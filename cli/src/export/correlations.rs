//! Which latents of a level, and which dimensions of the rows, are active together with each latent.
//!
//! Over all `n` rows, with `x` and `y` the activations of two latents, or of a latent and a dimension:
//!
//! ```text
//! pearson = (n sum xy - sum x sum y) / (sqrt((n sum x^2 - (sum x)^2) (n sum y^2 - (sum y)^2)) + 1e-6)
//! cosine  = sum xy / (sqrt(sum x^2 sum y^2) + 1e-6)
//! ```
//!
//! as `RollingCorrCoef` of SAEDashboard computes them, here with sums in f64, added in the order of the rows.

use anyhow::Result;
use rayon::prelude::*;
use strata_core::Codes;

/// The number of correlated latents and dimensions stored per latent, as in SAEDashboard.
const NAMED: usize = 3;
/// The most bytes the sums over pairs of latents of one level may take.
const PAIR_BYTES: usize = 1 << 28;
/// The smallest group of latents whose pairs are summed: the number of latents in one file of SAEDashboard.
const FEWEST: usize = 128;
/// The most bytes the sums over pairs of a latent and a dimension may take.
const NEURON_BYTES: usize = 1 << 29;

/// The latents or dimensions most correlated with one latent, in descending order: at most [`NAMED`], all with a
/// positive value.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Correlated {
    /// Latents of the level, or dimensions of the rows.
    pub indices: Vec<u32>,
    /// Their cosines.
    pub cosine: Vec<f64>,
    /// Their correlations.
    pub pearson: Vec<f64>,
}

/// First and second moments of several variables.
#[derive(Clone, Debug, Default)]
struct Moments {
    sum: Vec<f64>,
    squares: Vec<f64>,
}

impl Moments {
    fn new(n: usize) -> Self {
        Self { sum: vec![0.0; n], squares: vec![0.0; n] }
    }

    fn add(&mut self, at: usize, value: f64) {
        self.sum[at] += value;
        self.squares[at] += value * value;
    }
}

/// The sums of a level. Memory: at most 256 MiB for pairs of latents or 1 kB per latent, and 512 MiB for dimensions.
pub struct Correlations {
    n: u64,
    latents: Moments,
    /// Latents are paired within groups of this many consecutive ones.
    width: usize,
    /// `(f, width)`: `sum xy` with the later latents of the group.
    pairs: Vec<f64>,
    columns: Moments,
    /// `(f, d)`: `sum xy` with the dimensions of the rows; empty if it would need too much memory.
    products: Vec<f64>,
}

impl Correlations {
    /// Makes empty sums of `f` latents on rows of width `d`, which is 0 if the rows are not known.
    pub fn new(f: usize, d: usize) -> Self {
        let most = PAIR_BYTES / (8 * f.max(1));
        let width = if f <= most { f } else { most.max(FEWEST).min(f) };
        let has_columns = f.saturating_mul(d).saturating_mul(8) <= NEURON_BYTES;
        Self {
            n: 0,
            latents: Moments::new(f),
            width,
            pairs: vec![0.0; f * width],
            columns: Moments::new(if has_columns { d } else { 0 }),
            products: vec![0.0; if has_columns { f * d } else { 0 }],
        }
    }

    /// Returns the number of latents among which the correlated ones are searched.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Returns whether correlations with the dimensions of the rows are measured.
    pub fn has_columns(&self) -> bool {
        !self.products.is_empty()
    }

    /// Adds codes of rows, and the rows `x`, `(n, d)`, if they are known.
    ///
    /// # Errors
    /// The codes of an encoder cause none.
    pub fn add(&mut self, codes: &Codes, x: &[f32]) -> Result<()> {
        let (f, width, d) = (self.latents.sum.len(), self.width, self.columns.sum.len());
        self.n += codes.n() as u64;
        for (&j, &z) in codes.index.iter().zip(&codes.value) {
            self.latents.add(j as usize, f64::from(z));
        }
        let by_latent = codes.view(f)?.by_latent();
        self.pairs.par_chunks_mut(width.max(1)).enumerate().for_each(|(j, sums)| {
            let first = j / width * width;
            for (t, z) in by_latent.tokens(j) {
                let row = codes.row(t);
                let later = row.index.partition_point(|i| *i as usize <= j);
                for (&i, &other) in row.index[later..].iter().zip(&row.value[later..]) {
                    let Some(sum) = sums.get_mut(i as usize - first) else { break };
                    *sum += f64::from(z) * f64::from(other);
                }
            }
        });
        if d > 0 && x.len() == codes.n() * d {
            for row in x.chunks_exact(d) {
                row.iter().enumerate().for_each(|(at, x)| self.columns.add(at, f64::from(*x)));
            }
            self.products.par_chunks_mut(d).enumerate().for_each(|(j, sums)| {
                for (t, z) in by_latent.tokens(j) {
                    let row = &x[t * d..(t + 1) * d];
                    sums.iter_mut().zip(row).for_each(|(sum, x)| *sum += f64::from(z) * f64::from(*x));
                }
            });
        }
        Ok(())
    }

    /// Returns the latents of the level that latent `j` is most correlated with.
    pub fn latents(&self, j: usize) -> Correlated {
        let first = j / self.width * self.width;
        let last = (first + self.width).min(self.latents.sum.len());
        let product = |i: usize| {
            let (low, high) = (i.min(j), i.max(j));
            self.pairs[low * self.width + high - first]
        };
        self.most(j, (first..last).filter(|i| *i != j).map(|i| (i, product(i))), &self.latents)
    }

    /// Returns the dimensions of the rows that latent `j` is most correlated with; none if they are not measured.
    pub fn columns(&self, j: usize) -> Correlated {
        let d = self.columns.sum.len();
        let products = self.products.get(j * d..(j + 1) * d).unwrap_or_default();
        self.most(j, products.iter().copied().enumerate(), &self.columns)
    }

    fn most(&self, j: usize, products: impl Iterator<Item = (usize, f64)>, others: &Moments) -> Correlated {
        let n = self.n as f64;
        let spread = |of: &Moments, i: usize| (n * of.squares[i] - of.sum[i] * of.sum[i]).max(0.0);
        let (sum, squares, own) = (self.latents.sum[j], self.latents.squares[j], spread(&self.latents, j));
        let mut best: Vec<(f64, usize, f64)> = Vec::with_capacity(NAMED + 1);
        for (i, product) in products {
            let pearson = (n * product - sum * others.sum[i]) / ((own * spread(others, i)).sqrt() + 1e-6);
            if pearson <= 0.0 || best.len() == NAMED && pearson <= best[NAMED - 1].0 {
                continue;
            }
            let at = best.partition_point(|(other, ..)| *other >= pearson);
            best.insert(at, (pearson, i, product / ((squares * others.squares[i]).sqrt() + 1e-6)));
            best.truncate(NAMED);
        }
        Correlated {
            indices: best.iter().map(|(_, i, _)| *i as u32).collect(),
            cosine: best.iter().map(|(.., cosine)| *cosine).collect(),
            pearson: best.iter().map(|(pearson, ..)| *pearson).collect(),
        }
    }
}
