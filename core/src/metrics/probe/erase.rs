//! What removing latents does to probes: spurious correlation removal (SCR) and targeted probe perturbation (TPP).
//!
//! The effect of latent `j` on a probe `w` is `e_j = Delta_j (w . D_j)`, `Delta_j = mean_pos z_j - mean_neg z_j` over
//! the probe's training rows. The `n` latents of the largest effect are removed and the error of the SAE is kept: `x' =
//! x - sum_j z_j D_j`, so that `w . x' + b = w . x + b - sum_j z_j (w . D_j)`. The sum is linear, so pooled rows and
//! pooled codes give what pooling after the removal would.
//!
//! The formulas are SAEBench's, with these differences: probes are fitted to convergence; and only latents with an
//! effect above 0 are removed (SAEBench continues, where fewer than `n` have one, with latents of no effect in an
//! unspecified order). The number of removed latents is reported.

use alloc::vec;
use alloc::vec::Vec;

use super::logistic::{Logistic, Settings, dot, fit};
use super::{Answers, Binary, Labelled, check_rows, mean_difference};
use crate::model::CodesView;
use crate::par::Par;
use crate::{Error, Result};

/// The numbers of latents to remove.
pub const NS: [usize; 7] = [2, 5, 10, 20, 50, 100, 500];
/// A bias whose cost in accuracy is below this many of its standard errors does not count: there is nothing to remove.
const STANDARD_ERRORS: f64 = 2.0;

/// Rows, or pooled rows, with their codes and the directions of the latents.
#[derive(Clone, Copy, Debug)]
pub struct Examples<'a> {
    /// `[n, d]` row-major.
    pub x: &'a [f32],
    /// Width of a row, not 0.
    pub d: usize,
    /// `n` rows over the latents of `decoder`.
    pub codes: CodesView<'a>,
    /// `[latents, d]` row-major: the reconstruction is a bias plus `sum_j z_j decoder_j`.
    pub decoder: &'a [f32],
}

impl Examples<'_> {
    /// Checks that the sizes agree.
    fn check(&self) -> Result<()> {
        for (what, expected, got) in [
            ("numbers of the rows", self.codes.tokens() * self.d, self.x.len()),
            ("decoder of the latents", self.codes.latents() * self.d, self.decoder.len()),
            ("numbers per row", self.d.max(1), self.d),
        ] {
            if expected != got {
                return Err(Error::Shape { what, expected, got });
            }
        }
        Ok(())
    }

    /// Returns `w . D_j` of every latent.
    fn reach(&self, probe: &Logistic) -> Vec<f64> {
        self.decoder.chunks_exact(self.d).map(|row| dot(row, &probe.weight)).collect()
    }

    /// Returns what a probe predicts for each row of `on`, without the latents that `removed` marks.
    fn called(&self, probe: &Logistic, reach: &[f64], on: &Labelled, removed: &[bool]) -> Vec<bool> {
        let called = on.row.iter().map(|&r| {
            let r = r as usize;
            let gone: f64 =
                self.codes.active(r).filter(|(j, _)| removed[*j]).map(|(j, z)| f64::from(z) * reach[j]).sum();
            probe.margin(&self.x[r * self.d..][..self.d]) - gone > 0.0
        });
        called.collect()
    }

    /// Returns the accuracy of a probe on `on`, without the latents that `removed` marks.
    fn accuracy(&self, probe: &Logistic, reach: &[f64], on: &Labelled, removed: &[bool]) -> f64 {
        let called = self.called(probe, reach, on, removed);
        Answers::of(on.label.iter().copied().zip(called)).accuracy()
    }
}

/// A fitted probe of a task.
struct Fitted {
    probe: Logistic,
    /// `w . D_j` of every latent.
    reach: Vec<f64>,
    /// The latents with an effect on the probe, those of the largest effect first.
    order: Vec<u32>,
}

impl Fitted {
    /// Fits a probe. The effect of a latent is `max(Delta, 0) (w . D)` if `signed` (TPP), else `|Delta (w . D)|` (SCR).
    fn new(ex: &Examples<'_>, on: &Labelled, signed: bool, settings: &Settings) -> Result<Self> {
        let probe = fit(ex.x, ex.d, on, settings)?;
        let reach = ex.reach(&probe);
        let effect: Vec<f64> = mean_difference(&ex.codes, on)?
            .iter()
            .zip(&reach)
            .map(|(delta, reach)| if signed { delta.max(0.0) * reach } else { (delta * reach).abs() })
            .collect();
        let mut order: Vec<u32> = (0..effect.len() as u32).filter(|&j| effect[j as usize] > 0.0).collect();
        order.sort_by(|&a, &b| effect[b as usize].total_cmp(&effect[a as usize]).then(a.cmp(&b)));
        Ok(Self { probe, reach, order })
    }

    /// Marks the `n` latents of the largest effect.
    fn removed(&self, n: usize) -> Vec<bool> {
        let mut removed = vec![false; self.reach.len()];
        self.order.iter().take(n).for_each(|&j| removed[j as usize] = true);
        removed
    }
}

/// Targeted probe perturbation with `n` latents per class.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Tpp {
    /// Latents asked for.
    pub n: usize,
    /// Mean number removed: at most `n`.
    pub removed: f64,
    /// `intended - unintended`. -1 to 1, higher is better, 0: the latents of a class are those of all.
    pub tpp: f64,
    /// Mean over classes of the accuracy that a class's probe loses when the class's latents are removed.
    pub intended: f64,
    /// Mean over ordered pairs of classes of what the probe of the one loses when the latents of the other are removed.
    pub unintended: f64,
}

/// The report of TPP.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct TppReport {
    /// Accuracy of each class's probe on its test rows.
    pub accuracy: Vec<f64>,
    /// Whether all probes converged.
    pub converged: bool,
    /// One for each number of latents.
    pub points: Vec<Tpp>,
}

/// Computes targeted probe perturbation over the classes `tasks`, at least two, each against the rest.
///
/// Cost: one fit per class; `classes * latents * d` for the effects; `classes^2` passes over the codes of the test rows
/// for each of `ns`.
///
/// # Errors
/// [`Error::Shape`] for fewer than two classes or sizes that disagree, and as [`fit`].
pub fn tpp(par: Par, ex: &Examples<'_>, tasks: &[Binary], ns: &[usize], settings: &Settings) -> Result<TppReport> {
    ex.check()?;
    if tasks.len() < 2 {
        return Err(Error::Shape { what: "classes of TPP", expected: 2, got: tasks.len() });
    }
    for task in tasks {
        check_rows(&task.test, ex.codes.tokens())?;
    }
    let fitted = par.map(tasks.len(), |c| Fitted::new(ex, &tasks[c].train, true, settings));
    let fitted: Vec<Fitted> = fitted.into_iter().collect::<Result<_>>()?;
    let after = |c: usize, removed: &[bool]| {
        let f = &fitted[c];
        ex.accuracy(&f.probe, &f.reach, &tasks[c].test, removed)
    };
    let none = vec![false; ex.codes.latents()];
    let accuracy = par.map(tasks.len(), |c| after(c, &none));
    let classes = tasks.len() as f64;
    let points = ns.iter().map(|&n| {
        let losses = par.map(tasks.len(), |ablated| {
            let removed = fitted[ablated].removed(n);
            (0..tasks.len()).map(|c| accuracy[c] - after(c, &removed)).collect::<Vec<f64>>()
        });
        let (mut intended, mut unintended) = (0.0, 0.0);
        for (ablated, losses) in losses.iter().enumerate() {
            for (c, loss) in losses.iter().enumerate() {
                *if c == ablated { &mut intended } else { &mut unintended } += loss;
            }
        }
        intended /= classes;
        unintended /= classes * (classes - 1.0);
        let removed = fitted.iter().map(|f| f.order.len().min(n) as f64).sum::<f64>() / classes;
        Tpp { n, removed, tpp: intended - unintended, intended, unintended }
    });
    let points = points.collect();
    Ok(TppReport { converged: fitted.iter().all(|f| f.probe.converged), accuracy, points })
}

/// Two binary attributes of one set of rows, `a` and `b`, which go together in the biased training rows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ScrTasks {
    /// `a`, with `b` balanced.
    pub a: Binary,
    /// `b`, with `a` balanced.
    pub b: Binary,
    /// Rows with both (positive) and with neither: a probe on them cannot tell which attribute it follows.
    pub biased: Labelled,
}

/// Spurious correlation removal with `n` latents.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Scr {
    /// Latents asked for.
    pub n: usize,
    /// Number removed in either direction: at most `n`.
    pub removed: [usize; 2],
    /// Of `a` and `b` below, the one on whose attribute the biased probe is less accurate (`a` in a tie). Up to 1,
    /// higher is better: 0: nothing is gained, 1: as good as a probe without bias. NaN where that one is.
    pub scr: f64,
    /// `(acc' - acc) / (clean - acc)`: `acc` the biased probe on `a`'s test rows, `acc'` without the latents of `b`,
    /// `clean` the probe of `a`. NaN where the bias costs nothing: `clean - acc` is not over two standard errors of it,
    /// from the test rows that only one of the two probes calls rightly.
    pub a: f64,
    /// The same with `a` and `b` exchanged.
    pub b: f64,
}

/// The report of SCR.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct ScrReport {
    /// Accuracy of the clean probes of `a` and `b` on their test rows.
    pub clean: [f64; 2],
    /// Accuracy of the biased probe on the same rows.
    pub biased: [f64; 2],
    /// Whether all probes converged.
    pub converged: bool,
    /// One for each number of latents.
    pub points: Vec<Scr>,
}

/// Computes spurious correlation removal.
///
/// # Errors
/// [`Error::Shape`] for sizes that disagree, and as [`fit`].
pub fn scr(par: Par, ex: &Examples<'_>, tasks: &ScrTasks, ns: &[usize], settings: &Settings) -> Result<ScrReport> {
    ex.check()?;
    let sets = [&tasks.a.train, &tasks.b.train, &tasks.biased];
    let fitted = par.map(3, |i| Fitted::new(ex, sets[i], false, settings));
    let fitted: Vec<Fitted> = fitted.into_iter().collect::<Result<_>>()?;
    let tests = [&tasks.a.test, &tasks.b.test];
    for test in tests {
        check_rows(test, ex.codes.tokens())?;
    }
    let none = vec![false; ex.codes.latents()];
    let clean = [0, 1].map(|i| ex.accuracy(&fitted[i].probe, &fitted[i].reach, tests[i], &none));
    // Whether the bias costs accuracy beyond chance, from the rows that exactly one of the two probes predicts
    // correctly.
    let costs = [0, 1].map(|i| {
        let [own, other] = [i, 2].map(|f| ex.called(&fitted[f].probe, &fitted[f].reach, tests[i], &none));
        let right = tests[i].label.iter().zip(own.iter().zip(&other));
        let difference = |(l, (own, other)): (&bool, (&bool, &bool))| f64::from(own == l) - f64::from(other == l);
        let (n, sum, squares) = right.map(difference).fold((0.0, 0.0, 0.0), |(n, s, q), v| (n + 1.0, s + v, q + v * v));
        let mean: f64 = sum / n;
        mean > STANDARD_ERRORS * libm::sqrt((squares / n - mean * mean) / n)
    });
    let of_biased = |i: usize, removed: &[bool]| ex.accuracy(&fitted[2].probe, &fitted[2].reach, tests[i], removed);
    let biased = [0, 1].map(|i| of_biased(i, &none));
    let points = par.map(ns.len(), |k| {
        let n = ns[k];
        // On the rows of `a` the latents of `b` are removed, and vice versa.
        let score = |i: usize| {
            let lost = clean[i] - biased[i];
            let after = of_biased(i, &fitted[1 - i].removed(n));
            if costs[i] { (after - biased[i]) / lost } else { f64::NAN }
        };
        let [a, b] = [score(0), score(1)];
        let removed = [1, 0].map(|i| fitted[i].order.len().min(n));
        Scr { n, removed, scr: if biased[0] <= biased[1] { a } else { b }, a, b }
    });
    Ok(ScrReport { clean, biased, converged: fitted.iter().all(|f| f.probe.converged), points })
}
