//! Logistic regression, fitted to convergence by a truncated Newton method. The function is strongly convex, so that
//! the result is unique.

use alloc::vec;
use alloc::vec::Vec;

use super::Labelled;
use crate::error::At;
use crate::kernel::{Isa, wide};
use crate::{Error, Result};

/// Most steps of Newton's method; some ten are typical.
const MAX_STEPS: usize = 100;
/// Most products with the Hessian per step.
const MAX_PRODUCTS: usize = 500;
/// A step is accepted if the objective falls by this part of what its slope predicts (Armijo).
const ARMIJO: f64 = 1e-4;

/// Settings of a fit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// Weight of the examples against the penalty: scikit-learn's `C`.
    pub c: f64,
    /// Weigh each example by `n / (2 n_of_its_class)`, so that both classes weigh the same.
    pub balanced: bool,
    /// Converged if no entry of the gradient, in units of the standard deviation of its column, is over `tolerance`
    /// times the summed weights of the examples.
    pub tolerance: f64,
}

impl Default for Settings {
    fn default() -> Self {
        Self { c: 1.0, balanced: false, tolerance: 1e-9 }
    }
}

/// A fitted probe: positive where `w . x + b > 0`.
#[derive(Clone, Debug, PartialEq)]
pub struct Logistic {
    /// `w`.
    pub weight: Vec<f64>,
    /// `b`.
    pub bias: f64,
    /// Steps of Newton's method.
    pub steps: usize,
    /// Whether the tolerance was reached.
    pub converged: bool,
}

impl Logistic {
    /// Returns `w . x + b`.
    ///
    /// # Panics
    /// If `x` is not as long as `w`.
    pub fn margin(&self, x: &[f32]) -> f64 {
        dot(x, &self.weight) + self.bias
    }
}

/// Minimises `||w||^2 / 2 + C sum_i s_i ln(1 + exp(-y_i (w . x_i + b)))` over `w` and `b`, `y_i = +-1`, `s_i` the
/// weights of [`Settings::balanced`], else 1. `b` is not penalised.
///
/// | argument | shape | layout |
/// |---|---|---|
/// | `x` | `[n, width]` | row-major, finite |
/// | `on` | | rows of `x` with their labels |
///
/// Everything in `f64`, in the order of the rows of `on`, in the caller's thread: the same bits everywhere. Columns are
/// centred and scaled inside, which changes neither the function nor its minimum.
/// Cost: one pass over the rows per product with the Hessian, some 50 to 300 in all; memory `O(n + width)`.
///
/// # Errors
/// [`Error::Shape`] where sizes disagree or if a class has no example, [`Error::Index`] for a row out of range,
/// [`Error::Config`] for a `c` that is not positive, [`Error::NotFinite`] (with the row).
pub fn fit(x: &[f32], width: usize, on: &Labelled, settings: &Settings) -> Result<Logistic> {
    fit_times(x, width, on, vec![1.0; on.len()], settings)
}

/// Fits as [`fit`] does, where example `i` counts `times[i]` times: equal rows need to be given only once.
///
/// # Errors
/// As [`fit`].
///
/// # Panics
/// If `times` has another length than `on`.
pub(super) fn fit_times(
    x: &[f32],
    width: usize,
    on: &Labelled,
    times: Vec<f64>,
    settings: &Settings,
) -> Result<Logistic> {
    assert_eq!(times.len(), on.len(), "a multiplicity for each example");
    let n_rows = x.len().checked_div(width).unwrap_or(0);
    if width == 0 || n_rows * width != x.len() {
        return Err(Error::Shape { what: "numbers of a row of a probe", expected: width, got: x.len() });
    }
    super::check_rows(on, n_rows)?;
    if !(settings.c > 0.0 && settings.c.is_finite()) {
        return Err(Error::config("c", alloc::format!("expected more than 0, found {}", settings.c)));
    }
    let positives = on.positives();
    for (what, got) in
        [("positive examples of a probe", positives), ("negative examples of a probe", on.len() - positives)]
    {
        if got == 0 {
            return Err(Error::Shape { what, expected: 1, got });
        }
    }
    Problem::new(x, width, on, times, settings)?.solve(settings)
}

/// The function in centred and scaled columns: `v_j = w_j scale_j`, `t_i = v . (x_i - mean) / scale + b`.
struct Problem<'a> {
    isa: Isa,
    x: &'a [f32],
    width: usize,
    on: &'a Labelled,
    /// The multiplicity of each example.
    times: Vec<f64>,
    mean: Vec<f64>,
    scale: Vec<f64>,
    /// `C s_i` of a negative and of a positive example.
    weight: [f64; 2],
}

/// `f64` coefficients of the columns, and of the intercept last.
type Coefficients = Vec<f64>;

impl<'a> Problem<'a> {
    fn new(x: &'a [f32], width: usize, on: &'a Labelled, times: Vec<f64>, settings: &Settings) -> Result<Self> {
        let n: f64 = times.iter().sum();
        let positives: f64 = times.iter().zip(&on.label).filter(|(_, l)| **l).map(|(t, _)| t).sum();
        let weight = match settings.balanced {
            true => [n / (2.0 * (n - positives)), n / (2.0 * positives)].map(|s| s * settings.c),
            false => [settings.c; 2],
        };
        let isa = Isa::default();
        let zeros = || vec![0.0; width];
        let mut p = Self { isa, x, width, on, times, mean: zeros(), scale: zeros(), weight };
        let (mut mean, mut scale) = (zeros(), zeros());
        for (&row, times) in on.row.iter().zip(&p.times) {
            let row_values = p.row(row);
            if row_values.iter().any(|v| !v.is_finite()) {
                return Err(Error::NotFinite { what: "an input of the probe".into(), at: At::Row(u64::from(row)) });
            }
            wide::add_scaled(isa, *times, row_values, &mut mean);
        }
        mean.iter_mut().for_each(|m| *m /= n);
        for (&row, times) in on.row.iter().zip(&p.times) {
            wide::add_squares(isa, *times, p.row(row), &mean, &mut scale);
        }
        // A smaller value is the rounding error of a constant column.
        scale.iter_mut().zip(&mean).for_each(|(s, m)| {
            let sd = libm::sqrt(*s / n);
            *s = if sd > 1e-12 * m.abs() { sd } else { 0.0 };
        });
        (p.mean, p.scale) = (mean, scale);
        Ok(p)
    }

    fn row(&self, row: u32) -> &'a [f32] {
        &self.x[row as usize * self.width..][..self.width]
    }

    /// Returns `w` and `b` for raw columns such that `w . x + b = v . (x - mean) / scale + v_last`.
    fn raw(&self, v: &[f64]) -> (Vec<f64>, f64) {
        let w: Vec<f64> = v.iter().zip(&self.scale).map(|(v, s)| if *s > 0.0 { v / s } else { 0.0 }).collect();
        let shift: f64 = w.iter().zip(&self.mean).map(|(w, m)| w * m).sum();
        (w, v[self.width] - shift)
    }

    /// Returns `t_i` of every example.
    fn margins(&self, v: &[f64]) -> Vec<f64> {
        let (w, b) = self.raw(v);
        self.on.row.iter().map(|&row| wide::dot_wide(self.isa, self.row(row), &w) + b).collect()
    }

    /// Returns `sum_i a_i (x_i - mean) / scale`, and `sum_i a_i` last, for `a_i = f(i, x_i)`.
    fn pull(&self, f: impl Fn(usize, &[f32]) -> f64) -> Coefficients {
        let mut out = vec![0.0; self.width + 1];
        let (columns, total) = out.split_at_mut(self.width);
        for (i, &row) in self.on.row.iter().enumerate() {
            let x = self.row(row);
            let a = f(i, x);
            wide::add_scaled(self.isa, a, x, columns);
            total[0] += a;
        }
        for ((o, m), s) in columns.iter_mut().zip(&self.mean).zip(&self.scale) {
            *o = if *s > 0.0 { (*o - m * total[0]) / s } else { 0.0 };
        }
        out
    }

    /// Returns the penalty of a scaled column: `1 / scale^2`.
    fn ridge(&self, j: usize) -> f64 {
        let s = self.scale[j];
        if s > 0.0 { 1.0 / (s * s) } else { 1.0 }
    }

    /// Returns `C s_i` of every example, times its multiplicity.
    fn weights(&self) -> impl Iterator<Item = f64> + '_ {
        self.on.label.iter().zip(&self.times).map(|(&label, times)| times * self.weight[usize::from(label)])
    }

    /// Returns the value of the function at `v`, given the margins `t` there.
    fn objective(&self, v: &[f64], t: impl Iterator<Item = f64>) -> f64 {
        let penalty: f64 = (0..self.width).map(|j| v[j] * v[j] * self.ridge(j)).sum();
        let loss: f64 = t
            .zip(self.weights().zip(&self.on.label))
            .map(|(t, (weight, &label))| weight * softplus(if label { -t } else { t }))
            .sum();
        penalty / 2.0 + loss
    }

    /// Minimises the function.
    fn solve(&self, settings: &Settings) -> Result<Logistic> {
        let n = self.on.len();
        let total: f64 = self.weights().sum();
        let mut v = vec![0.0; self.width + 1];
        let positive: f64 = self.weights().zip(&self.on.label).filter(|(_, l)| **l).map(|(w, _)| w).sum();
        v[self.width] = libm::log(positive / (total - positive));
        let (mut steps, mut converged, mut first) = (0, false, None);
        let (mut curvature, mut slope) = (vec![0.0; n], vec![0.0; n]);
        while steps < MAX_STEPS {
            let t = self.margins(&v);
            for (i, ((&t, s), &label)) in t.iter().zip(self.weights()).zip(&self.on.label).enumerate() {
                let (p, q) = sigmoids(t);
                slope[i] = s * if label { -q } else { p };
                curvature[i] = s * p * q;
            }
            let mut gradient = self.pull(|i, _| slope[i]);
            (0..self.width).for_each(|j| gradient[j] += v[j] * self.ridge(j));
            let largest = gradient.iter().fold(0.0f64, |m, g| m.max(g.abs()));
            if largest <= settings.tolerance * total {
                converged = true;
                break;
            }
            let norm = norm(&gradient);
            let force = (norm / *first.get_or_insert(norm)).min(0.1);
            let step = self.newton(&gradient, &curvature, force);
            if !self.descend(&mut v, &t, &gradient, &step) {
                break;
            }
            steps += 1;
        }
        let (weight, bias) = self.raw(&v);
        if !bias.is_finite() || weight.iter().any(|w| !w.is_finite()) {
            return Err(Error::NotFinite { what: "a weight of the probe".into(), at: At::Iteration(steps as u64) });
        }
        Ok(Logistic { weight, bias, steps, converged })
    }

    /// Returns about `-H^-1 gradient`, by conjugate gradients preconditioned with the diagonal of `H`, stopped when the
    /// residual is `force` times the gradient.
    fn newton(&self, gradient: &[f64], curvature: &[f64], force: f64) -> Coefficients {
        let mut diagonal = vec![0.0; self.width + 1];
        for (i, &row) in self.on.row.iter().enumerate() {
            wide::add_squares(self.isa, curvature[i], self.row(row), &self.mean, &mut diagonal[..self.width]);
            diagonal[self.width] += curvature[i];
        }
        for j in 0..self.width {
            let s = self.scale[j];
            diagonal[j] = self.ridge(j) + if s > 0.0 { diagonal[j] / (s * s) } else { 0.0 };
        }
        diagonal[self.width] = diagonal[self.width].max(f64::MIN_POSITIVE);
        let mut step = vec![0.0; gradient.len()];
        let mut residual: Vec<f64> = gradient.iter().map(|g| -g).collect();
        let scaled = |r: &[f64]| -> Vec<f64> { r.iter().zip(&diagonal).map(|(r, d)| r / d).collect() };
        let mut z = scaled(&residual);
        let mut direction = z.clone();
        let mut along = inner(&residual, &z);
        let wanted = force * force * along;
        for _ in 0..MAX_PRODUCTS {
            let (w, b) = self.raw(&direction);
            let mut product = self.pull(|i, x| curvature[i] * (wide::dot_wide(self.isa, x, &w) + b));
            (0..self.width).for_each(|j| product[j] += direction[j] * self.ridge(j));
            let bend = inner(&direction, &product);
            if bend <= 0.0 {
                break;
            }
            let length = along / bend;
            step.iter_mut().zip(&direction).for_each(|(s, d)| *s += length * d);
            residual.iter_mut().zip(&product).for_each(|(r, p)| *r -= length * p);
            z = scaled(&residual);
            let next = inner(&residual, &z);
            if next <= wanted {
                break;
            }
            direction.iter_mut().zip(&z).for_each(|(d, z)| *d = z + next / along * *d);
            along = next;
        }
        step
    }

    /// Moves along `step` as far as the objective falls; returns whether it moved.
    fn descend(&self, v: &mut Coefficients, t: &[f64], gradient: &[f64], step: &[f64]) -> bool {
        let along = self.margins(step);
        let slope = inner(gradient, step);
        let before = self.objective(v, t.iter().copied());
        let mut length = 1.0;
        for _ in 0..40 {
            let next: Coefficients = v.iter().zip(step).map(|(v, s)| v + length * s).collect();
            let after = self.objective(&next, t.iter().zip(&along).map(|(t, a)| t + length * a));
            // Near the minimum the decrease is below the rounding error of the sums.
            if after <= before + ARMIJO * length * slope + 1e-14 * before.abs() {
                *v = next;
                return true;
            }
            length /= 2.0;
        }
        false
    }
}

/// Returns `ln(1 + e^t)`.
fn softplus(t: f64) -> f64 {
    t.max(0.0) + libm::log1p(libm::exp(-t.abs()))
}

/// Returns `1 / (1 + e^-t)` and `1 / (1 + e^t)`; neither is computed as 1 minus the other, which would lose its digits.
fn sigmoids(t: f64) -> (f64, f64) {
    let e = libm::exp(-t.abs());
    let (large, small) = (1.0 / (1.0 + e), e / (1.0 + e));
    if t < 0.0 { (small, large) } else { (large, small) }
}

fn inner(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn norm(a: &[f64]) -> f64 {
    libm::sqrt(inner(a, a))
}

/// Returns `x . v`.
pub(crate) fn dot(x: &[f32], v: &[f64]) -> f64 {
    wide::dot_wide(Isa::default(), x, v)
}
