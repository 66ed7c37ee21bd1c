//! The content of `ablation.json`: `strata ablate` writes it, `strata report` reads it.
//!
//! Metrics are those of the `eval.json` of each run. An undefined one is null in the file and `None` here.

pub mod metric;

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Values of metrics by their key in [`metric::METRICS`].
pub type Metrics = BTreeMap<String, Option<f64>>;

/// The whole file.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Ablation {
    /// Name of the dump that every run was trained on.
    #[serde(default)]
    pub dump: String,
    /// The tables.
    pub suites: Vec<SuiteReport>,
}

/// One table.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct SuiteReport {
    /// Name of the suite.
    pub name: String,
    /// Name of the row that the others are compared with.
    pub base: String,
    /// The rows, in order.
    pub rows: Vec<RowReport>,
}

/// One row of a table: the same settings, run with several seeds.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct RowReport {
    /// Name of the row.
    pub name: String,
    /// Whether it is one of the reference rows of every table.
    pub reference: bool,
    /// Settings in which it differs from those that all rows share, as `key=value`.
    pub set: Vec<String>,
    /// One run per seed.
    pub runs: Vec<RunReport>,
    /// `mean_s m_s` over the runs in which the metric is defined.
    pub mean: Metrics,
    /// The standard deviation of each metric over those runs (divisor `n - 1`); undefined for one run.
    pub sd: Metrics,
    /// Each metric against the base row; empty for the base row.
    pub difference: BTreeMap<String, Difference>,
}

/// One run.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct RunReport {
    /// Seed of the run.
    pub seed: u64,
    /// Directory of the run, relative to that of the ablation.
    pub dir: String,
    /// Metrics of the run.
    pub metrics: Metrics,
}

/// A difference from the base row, paired by seed: effects that the seeds share (order of rows, initial weights)
/// cancel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Difference {
    /// `mean_s (m_s - base_s)` over the seeds in which both are defined.
    pub mean: Option<f64>,
    /// The 2.5 % quantile of that mean over 1,000 resamples of the seeds with replacement
    /// ([`strata_core::metrics::bootstrap::ratio`]). Undefined for one seed. With three seeds the interval spans their
    /// extremes at most, so read it as their scatter.
    pub low: Option<f64>,
    /// The 97.5 % quantile.
    pub high: Option<f64>,
    /// Number of seeds.
    pub pairs: usize,
}
