//! Sparse probing as sae-probes does it (Kantamneni et al. 2025, arXiv 2502.16681): the area under the ROC curve of a
//! logistic regression on the `k` latents that differ most between the labels, with plenty of balanced examples, with
//! few, and with unequal numbers of the two labels.
//!
//! The definitions are those of sae-probes, with these differences: the split is by blocks of consecutive sequences;
//! each latent is divided by its mean over the training rows on which it fires before the fit too, not only to rank it,
//! so that no score depends on the unit of the activations; below [`FOLDS`] examples of a label there are as many folds
//! as examples, where sae-probes leaves out pairs; and a probe is fitted to convergence.

use alloc::vec;
use alloc::vec::Vec;

use super::super::similarity::auc;
use super::logistic::{self, Settings};
use super::sparse::ranked;
use super::{Labelled, STREAM, check_rows, draw};
use crate::Result;
use crate::model::CodesView;
use crate::rng::Philox;

/// The numbers of latents that are probed with plenty of examples.
pub const KS: [usize; 6] = [1, 2, 5, 16, 64, 128];
/// The number of latents that is probed in the other settings.
pub const K: usize = 16;
/// Training rows with plenty of examples, and with unequal numbers of the labels.
pub const TRAIN: usize = 1024;
/// Rows that are tested on, at most.
pub const TEST: usize = 1024;
/// Training rows of the scarce setting.
pub const SCARCE: [usize; 4] = [4, 16, 64, 256];
/// Shares of positive rows of the unbalanced setting, of training and test.
pub const SHARES: [f64; 4] = [0.05, 0.2, 0.8, 0.95];
/// Number of folds for choosing the penalty, with fewer than [`WHOLE`] training rows.
pub const FOLDS: usize = 6;
/// With at least this many training rows, the penalty is chosen on the last fifth of them, at most 100 rows.
pub const WHOLE: usize = 128;
/// Number of values of `C` that are tried, from `1e5` down to `1e-5`.
const PENALTIES: usize = 10;

/// How many examples there are, and of which labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Setting {
    /// Balanced, up to [`TRAIN`].
    Normal,
    /// Balanced, few.
    Scarce,
    /// Many, with unequal numbers of the two labels, in training and test.
    Unbalanced,
}

/// Areas under the ROC curve of one setting: 0 to 1, higher is better, 1/2 is chance; NaN where there are not enough
/// examples, or where it was not asked for.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct AucPoint {
    /// Which setting.
    pub setting: Setting,
    /// Latents asked for.
    pub k: usize,
    /// Training rows; a mean where it is one over classes.
    pub train: f64,
    /// Share of training and of test rows that is positive.
    pub positive: f64,
    /// Area of a probe on the rows themselves.
    pub rows: f64,
    /// Area of a probe on `k` latents of level 1. In the normal setting only.
    pub level1: f64,
    /// Area of a probe on `k` latents of level 2. In the normal setting only.
    pub level2: f64,
    /// Area of a probe on `k` latents of both levels.
    pub both: f64,
}

/// Computes the points of all settings for one class, always the same in the same order. `x` is `[n, d]`, row-major;
/// `codes` are those of level 1, of level 2 (with no latents for a flat model) and of both.
///
/// # Errors
/// As [`probe`].
pub fn points(x: &[f32], d: usize, codes: &[CodesView<'_>; 3], rows: &Candidates) -> Result<Vec<AucPoint>> {
    let area = |features: Features<'_>, on: Option<&Examples>| -> Result<f64> {
        on.map_or(Ok(f64::NAN), |on| Ok(probe(features, on)?.auc))
    };
    let mut out = Vec::new();
    let plenty = rows.plenty();
    let of_rows = area(Features::Rows(x, d), plenty.as_ref())?;
    for k in KS {
        let on = plenty.as_ref();
        out.push(AucPoint {
            setting: Setting::Normal,
            k,
            train: on.map_or(f64::NAN, |on| on.train.len() as f64),
            positive: 0.5,
            rows: of_rows,
            level1: area(Features::Latents(codes[0], k), on)?,
            level2: if codes[1].latents() > 0 { area(Features::Latents(codes[1], k), on)? } else { f64::NAN },
            both: area(Features::Latents(codes[2], k), on)?,
        });
    }
    let scarce = SCARCE.map(|n| (Setting::Scarce, n, 0.5));
    let unbalanced = SHARES.map(|share| (Setting::Unbalanced, TRAIN, share));
    for (setting, n, positive) in scarce.into_iter().chain(unbalanced) {
        let on = match setting {
            Setting::Unbalanced => rows.examples(rows.most(n, positive), positive),
            _ => rows.examples(n, positive),
        };
        out.push(AucPoint {
            setting,
            k: K,
            train: on.as_ref().map_or(f64::NAN, |on| on.train.len() as f64),
            positive,
            rows: area(Features::Rows(x, d), on.as_ref())?,
            level1: f64::NAN,
            level2: f64::NAN,
            both: area(Features::Latents(codes[2], K), on.as_ref())?,
        });
    }
    Ok(out)
}

/// Returns the mean of each point over the classes for which it is defined.
pub fn mean(classes: &[Vec<AucPoint>]) -> Vec<AucPoint> {
    let first = classes.first().map_or(&[][..], Vec::as_slice);
    let of = |i: usize, get: fn(&AucPoint) -> f64| super::super::defined_mean(classes.iter().map(|c| get(&c[i])));
    let mean = |(i, p): (usize, &AucPoint)| AucPoint {
        train: of(i, |p| p.train),
        rows: of(i, |p| p.rows),
        level1: of(i, |p| p.level1),
        level2: of(i, |p| p.level2),
        both: of(i, |p| p.both),
        ..*p
    };
    first.iter().enumerate().map(mean).collect()
}

/// The features that a probe reads.
#[derive(Clone, Copy, Debug)]
pub enum Features<'a> {
    /// The `k` latents of these codes that differ most.
    Latents(CodesView<'a>, usize),
    /// All numbers of the rows, `[n, d]` row-major.
    Rows(&'a [f32], usize),
}

/// The rows of a class and of all others, on either side of the split, in a random order.
#[derive(Clone, Debug)]
pub struct Candidates {
    /// Training rows: those of the other classes, then those of the class.
    pub train: [Vec<u32>; 2],
    /// Test rows, likewise.
    pub test: [Vec<u32>; 2],
}

impl Candidates {
    /// Returns the candidates for telling class `class` from all others; arguments as of
    /// [`super::Binary::one_against_rest`].
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn one_against_rest(of: &[Option<u32>], class: u32, is_test: &[bool], seed: u64) -> Self {
        assert_eq!(of.len(), is_test.len(), "a side of the split for each row");
        let mut rng = Philox::new(seed, STREAM + (1 << 31) + u64::from(class));
        let mut side = |test: bool| {
            [false, true].map(|positive| {
                let rows: Vec<u32> = (0..of.len() as u32)
                    .filter(|i| {
                        is_test[*i as usize] == test && of[*i as usize].is_some_and(|c| (c == class) == positive)
                    })
                    .collect();
                let n = rows.len();
                draw(rows, n, &mut rng)
            })
        };
        Self { train: side(false), test: side(true) }
    }

    /// Returns about `n` training rows, a share `positive` of them of the class, and at most [`TEST`] test rows of the
    /// same shares; none if there are not enough candidates.
    pub fn examples(&self, n: usize, positive: f64) -> Option<Examples> {
        let of = |rows: &[Vec<u32>; 2], n: usize| -> Option<Labelled> {
            let ones = libm::ceil(positive * n as f64) as usize;
            let zeros = n.checked_sub(ones)?;
            if ones == 0 || zeros == 0 || ones > rows[1].len() || zeros > rows[0].len() {
                return None;
            }
            // The two labels are spread evenly, so that every part of the rows that is held back has both.
            let mut at = [0usize; 2];
            let (mut row, mut label) = (Vec::with_capacity(n), Vec::with_capacity(n));
            for i in 0..n {
                let is_positive = (i + 1) * ones / n > i * ones / n;
                let kind = usize::from(is_positive);
                row.push(rows[kind][at[kind]]);
                label.push(is_positive);
                at[kind] += 1;
            }
            Some(Labelled { row, label })
        };
        // As many test rows as the candidates allow. Rounding may ask for one positive row too many, so up to two rows
        // fewer are tried too.
        let [zeros, ones] = [self.test[0].len() as f64, self.test[1].len() as f64];
        let most = (ones / positive).min(zeros / (1.0 - positive)).min(TEST as f64) as usize;
        let fitting = |rows, n: usize| (0..3).find_map(|less| of(rows, n.checked_sub(less)?));
        Some(Examples { train: fitting(&self.train, n)?, test: fitting(&self.test, most)? })
    }

    /// Returns the largest number of training rows, up to `n`, of which a share `positive` can be of the class.
    fn most(&self, n: usize, positive: f64) -> usize {
        let [zeros, ones] = [self.train[0].len() as f64, self.train[1].len() as f64];
        (ones / positive).min(zeros / (1.0 - positive)).min(n as f64) as usize
    }

    /// Returns balanced examples, as many as there are up to [`TRAIN`]; none with fewer than four.
    pub fn plenty(&self) -> Option<Examples> {
        let n = (2 * self.train[0].len().min(self.train[1].len())).min(TRAIN);
        if n < 4 { None } else { self.examples(n, 0.5) }
    }
}

/// Rows to fit on and to test on.
#[derive(Clone, Debug, PartialEq)]
pub struct Examples {
    /// Rows to fit on.
    pub train: Labelled,
    /// Rows to test on.
    pub test: Labelled,
}

/// The result of a probe.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct AucProbe {
    /// Latents asked for; 0 for the rows themselves.
    pub k: usize,
    /// Training rows.
    pub train: usize,
    /// Share of the pairs of a positive and a negative test row in which the positive one has the larger margin; ties
    /// count half. 0 to 1, higher is better, 1/2 is chance.
    pub auc: f64,
    /// The penalty that was chosen: scikit-learn's `C`.
    pub c: f64,
    /// Whether the last fit converged.
    pub converged: bool,
}

/// Fits and tests a probe.
///
/// # Errors
/// As [`logistic::fit`].
pub fn probe(features: Features<'_>, on: &Examples) -> Result<AucProbe> {
    let (k, train, test, width) = match features {
        Features::Rows(x, d) => {
            check_rows(&on.train, x.len() / d.max(1))?;
            check_rows(&on.test, x.len() / d.max(1))?;
            let of = |rows: &[u32]| -> Vec<f32> {
                rows.iter().flat_map(|r| x[*r as usize * d..][..d].iter().copied()).collect()
            };
            let (mut train, mut test) = (of(&on.train.row), of(&on.test.row));
            // One unit for all columns: the root of the mean square of the training rows.
            let square: f64 = train.iter().map(|v| f64::from(*v) * f64::from(*v)).sum();
            let unit = libm::sqrt(square / train.len() as f64);
            scale(&mut train, &mut test, unit);
            (0, train, test, d)
        }
        Features::Latents(codes, k) => {
            let (chosen, means) = chosen(&codes, &on.train, k)?;
            check_rows(&on.test, codes.tokens())?;
            if chosen.is_empty() {
                return Ok(AucProbe { k, train: on.train.len(), auc: 0.5, c: f64::NAN, converged: true });
            }
            let of = |rows: &[u32]| gather(&codes, rows, &chosen, &means);
            (k, of(&on.train.row), of(&on.test.row), chosen.len())
        }
    };
    let c = penalty(&train, width, &on.train)?;
    let all = Labelled { row: (0..on.train.len() as u32).collect(), label: on.train.label.clone() };
    let fitted = logistic::fit(&train, width, &all, &settings(c))?;
    let auc = area(&fitted, &test, width, 0..on.test.len(), &on.test.label);
    Ok(AucProbe { k, train: on.train.len(), auc, c, converged: fitted.converged })
}

/// Returns the settings of a fit. Only the ranks of the margins matter, so that a loose tolerance is enough.
fn settings(c: f64) -> Settings {
    Settings { c, tolerance: 1e-6, ..Settings::default() }
}

/// Divides all numbers by `by`, unless it is 0.
fn scale(train: &mut [f32], test: &mut [f32], by: f64) {
    if by > 0.0 {
        train.iter_mut().chain(test).for_each(|v| *v = (f64::from(*v) / by) as f32);
    }
}

/// Returns the `k` latents whose means over positive and negative rows differ most, in units of their mean over the
/// rows on which they fire, and those means.
fn chosen(codes: &CodesView<'_>, on: &Labelled, k: usize) -> Result<(Vec<u32>, Vec<f64>)> {
    let mut difference = super::mean_difference(codes, on)?;
    let (mut sum, mut n) = (vec![0.0f64; codes.latents()], vec![0u32; codes.latents()]);
    for &row in &on.row {
        for (j, z) in codes.active(row as usize) {
            (sum[j], n[j]) = (sum[j] + f64::from(z), n[j] + 1);
        }
    }
    let mean: Vec<f64> = sum.iter().zip(&n).map(|(s, n)| s / f64::from(*n)).collect();
    difference.iter_mut().zip(&mean).for_each(|(d, m)| *d = if *m > 0.0 { *d / m } else { 0.0 });
    let mut order = ranked(&difference);
    order.truncate(k);
    let means = order.iter().map(|j| mean[*j as usize]).collect();
    Ok((order, means))
}

/// Returns the codes of `latents` on `rows`, divided by `means`, as `[rows, latents]`.
fn gather(codes: &CodesView<'_>, rows: &[u32], latents: &[u32], means: &[f64]) -> Vec<f32> {
    let mut column = vec![usize::MAX; codes.latents()];
    latents.iter().enumerate().for_each(|(c, j)| column[*j as usize] = c);
    let mut x = vec![0.0; rows.len() * latents.len()];
    for (&row, x) in rows.iter().zip(x.chunks_exact_mut(latents.len().max(1))) {
        for (j, z) in codes.active(row as usize).filter(|(j, _)| column[*j] != usize::MAX) {
            x[column[j]] = (f64::from(z) / means[column[j]]) as f32;
        }
    }
    x
}

/// Returns the `C` of the largest mean area on rows that are held back; the larger `C` on ties, and 1 if there are too
/// few rows to hold any back.
fn penalty(x: &[f32], width: usize, on: &Labelled) -> Result<f64> {
    let n = on.len();
    let rarer = on.positives().min(n - on.positives());
    let last = n - (n / 5).min(100);
    let folds = if n >= WHOLE { 1 } else { FOLDS.min(rarer) };
    let held = (0..folds).map(|f| if n >= WHOLE { last..n } else { f * n / folds..(f + 1) * n / folds });
    let both = |rows: &mut dyn Iterator<Item = usize>| {
        let mut seen = [false; 2];
        rows.for_each(|i| seen[usize::from(on.label[i])] = true);
        seen == [true; 2]
    };
    let folds: Vec<_> =
        held.filter(|held| both(&mut held.clone()) && both(&mut (0..n).filter(|i| !held.contains(i)))).collect();
    if folds.is_empty() || rarer < 2 {
        return Ok(1.0);
    }
    let mut best = (f64::NEG_INFINITY, 1.0);
    for step in 0..PENALTIES {
        let c = libm::pow(10.0, 5.0 - 10.0 * step as f64 / (PENALTIES - 1) as f64);
        let mut total = 0.0;
        for held in &folds {
            let rows: Vec<u32> = (0..n as u32).filter(|i| !held.contains(&(*i as usize))).collect();
            let label = rows.iter().map(|i| on.label[*i as usize]).collect();
            let fitted = logistic::fit(x, width, &Labelled { row: rows, label }, &settings(c))?;
            total += area(&fitted, x, width, held.clone(), &on.label);
        }
        if total > best.0 {
            best = (total, c);
        }
    }
    Ok(best.1)
}

/// Returns the area under the ROC curve of a probe on rows `rows` of `x`, whose labels are `label[row]`.
fn area(probe: &logistic::Logistic, x: &[f32], width: usize, rows: core::ops::Range<usize>, label: &[bool]) -> f64 {
    let margins = |positive: bool| -> Vec<f64> {
        let of = rows.clone().filter(|i| label[*i] == positive);
        of.map(|i| probe.margin(&x[i * width..(i + 1) * width])).collect()
    };
    auc(&margins(true), &margins(false)).auc
}
