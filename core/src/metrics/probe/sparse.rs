//! Probes on a few latents.

use alloc::vec;
use alloc::vec::Vec;
use core::iter::repeat_n;

use super::logistic::{self, Settings};
use super::{Answers, Binary, Labelled, check_rows, mean_difference};
use crate::error::At;
use crate::model::CodesView;
use crate::par::Par;
use crate::{Error, Result};

/// The numbers of latents that are probed.
pub const KS: [usize; 5] = [1, 2, 5, 10, 20];

/// The result of a probe on `k` latents.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct SparseProbe {
    /// Latents asked for.
    pub k: usize,
    /// The latents, those of the largest difference first; fewer than `k` if fewer tell the classes apart at all.
    pub latents: Vec<u32>,
    /// Accuracy on the test rows. 0 to 1, higher is better; chance is 1/2 on balanced rows.
    pub accuracy: f64,
    /// `2 tp / (2 tp + fp + fn)` on the test rows. 0 to 1, higher is better; NaN if nothing is positive or called so.
    pub f1: f64,
    /// Whether the fit converged.
    pub converged: bool,
}

/// The result of a probe on the rows themselves, which bounds what a probe on codes can do.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct DenseProbe {
    /// As in [`SparseProbe`].
    pub accuracy: f64,
    /// As in [`SparseProbe`].
    pub f1: f64,
    /// As in [`SparseProbe`].
    pub converged: bool,
}

/// Returns the latents in the order of `|mean_pos - mean_neg|`, largest first, ties by index; latents without a
/// difference are left out.
pub fn ranked(difference: &[f64]) -> Vec<u32> {
    let mut order: Vec<u32> = (0..difference.len() as u32).filter(|&j| difference[j as usize].abs() > 0.0).collect();
    let size = |j: u32| difference[j as usize].abs();
    order.sort_by(|&a, &b| size(b).total_cmp(&size(a)).then(a.cmp(&b)));
    order
}

/// Fits and tests a probe for each `k` of `ks`: a [`logistic::fit`] on only the `k` latents that differ most between
/// the labels of the training rows.
///
/// # Errors
/// As [`logistic::fit`].
pub fn sparse_probes(
    par: Par,
    codes: &CodesView<'_>,
    task: &Binary,
    ks: &[usize],
    settings: &Settings,
) -> Result<Vec<SparseProbe>> {
    check_rows(&task.test, codes.tokens())?;
    let order = ranked(&mean_difference(codes, &task.train)?);
    par.map(ks.len(), |i| {
        let latents = &order[..ks[i].min(order.len())];
        let (answers, converged) = on_latents(codes, latents, task, settings)?;
        Ok(SparseProbe {
            k: ks[i],
            latents: latents.to_vec(),
            accuracy: answers.accuracy(),
            f1: answers.f1(),
            converged,
        })
    })
    .into_iter()
    .collect()
}

/// Fits a probe on `latents`: returns its confusion matrix on the test rows, and whether its fit converged. Without
/// latents, every row is predicted to have the more frequent label of the training rows, positive in a tie.
///
/// # Errors
/// As [`logistic::fit`], for the test rows too.
pub fn on_latents(
    codes: &CodesView<'_>,
    latents: &[u32],
    task: &Binary,
    settings: &Settings,
) -> Result<(Answers, bool)> {
    check_rows(&task.train, codes.tokens())?;
    check_rows(&task.test, codes.tokens())?;
    if latents.is_empty() {
        let positive = 2 * task.train.positives() >= task.train.len();
        return Ok((Answers::of(task.test.label.iter().map(|l| (*l, positive))), true));
    }
    let probe = fit_latents(codes, latents, &task.train, settings)?;
    let columns = Columns::new(codes.latents(), latents)?;
    let (x, on, times) = columns.gather(codes, &task.test)?;
    let called = x.chunks_exact(latents.len()).map(|x| probe.margin(x) > 0.0);
    let answers = on.label.iter().zip(called).zip(&times).flat_map(|((l, c), n)| repeat_n((*l, c), *n as usize));
    Ok((Answers::of(answers), probe.converged))
}

/// Fits the probe of [`on_latents`], whose weights are in the order of `latents`.
///
/// # Errors
/// As [`logistic::fit`]; [`Error::Shape`] without latents.
pub fn fit_latents(
    codes: &CodesView<'_>,
    latents: &[u32],
    train: &Labelled,
    settings: &Settings,
) -> Result<logistic::Logistic> {
    check_rows(train, codes.tokens())?;
    let (x, on, times) = Columns::new(codes.latents(), latents)?.gather(codes, train)?;
    logistic::fit_times(&x, latents.len(), &on, times, settings)
}

/// Fits and tests a probe on all columns of `x`, `[n, d]`.
///
/// # Errors
/// As [`logistic::fit`].
pub fn dense_probe(
    x: &[f32],
    d: usize,
    task: &Binary,
    settings: &Settings,
) -> Result<(logistic::Logistic, DenseProbe)> {
    let probe = logistic::fit(x, d, &task.train, settings)?;
    check_rows(&task.test, x.len() / d)?;
    let called = task.test.row.iter().map(|&r| probe.margin(&x[r as usize * d..][..d]) > 0.0);
    let answers = Answers::of(task.test.label.iter().copied().zip(called));
    let found = DenseProbe { accuracy: answers.accuracy(), f1: answers.f1(), converged: probe.converged };
    Ok((probe, found))
}

/// The columns of a dense matrix of some latents.
struct Columns {
    /// The column of each latent; `u32::MAX` for the others.
    column: Vec<u32>,
    width: usize,
}

impl Columns {
    fn new(len: usize, latents: &[u32]) -> Result<Self> {
        let mut column = vec![u32::MAX; len];
        for (c, &j) in latents.iter().enumerate() {
            match column.get_mut(j as usize) {
                Some(column) => *column = c as u32,
                None => return Err(Error::Index { what: "latents of a probe", index: j as usize, len }),
            }
        }
        Ok(Self { column, width: latents.len() })
    }

    /// Returns the rows of `on` as `[rows, width]`, their labels, and the multiplicity of each. Most rows are those on
    /// which no chosen latent fires: they become one row of zeros per label.
    fn gather(&self, codes: &CodesView<'_>, on: &Labelled) -> Result<(Vec<f32>, Labelled, Vec<f64>)> {
        let (mut x, mut kept, mut times) = (Vec::new(), Labelled::default(), Vec::new());
        let mut silent = [0u32; 2];
        let mut push = |x: &mut Vec<f32>, label, n| {
            kept.row.push((x.len() / self.width) as u32);
            kept.label.push(label);
            times.push(f64::from(n));
            x.resize(x.len() + self.width, 0.0);
        };
        for (&row, &label) in on.row.iter().zip(&on.label) {
            let start = x.len();
            for (j, z) in codes.active(row as usize) {
                let c = self.column[j];
                if c != u32::MAX {
                    if z.is_infinite() {
                        return Err(Error::NotFinite {
                            what: "a code of the probe".into(),
                            at: At::Row(u64::from(row)),
                        });
                    }
                    if x.len() == start {
                        push(&mut x, label, 1);
                    }
                    x[start + c as usize] = z;
                }
            }
            silent[usize::from(label)] += u32::from(x.len() == start);
        }
        for (label, n) in [false, true].into_iter().zip(silent).filter(|(_, n)| *n > 0) {
            push(&mut x, label, n);
        }
        Ok((x, kept, times))
    }
}
