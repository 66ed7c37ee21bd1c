//! Tables of runs: means over seeds, and differences to a base row, paired by seed.

use super::metric::METRICS;
use super::{Row, Suite, read_json};
use crate::settings;
use anyhow::{Context, Result};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use strata_core::Config;
use strata_core::metrics::bootstrap::{self, Resamples};
use toml::Value;

/// `ablation.json`. Metrics are those of each run's `eval.json`; undefined ones are null.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The dump.
    pub dump: String,
    /// The tables.
    pub suites: Vec<SuiteReport>,
}

/// One table.
#[derive(Clone, Debug, Serialize)]
pub struct SuiteReport {
    /// Its name.
    pub name: String,
    /// The row that the others are compared with.
    pub base: String,
    /// Its rows, in order.
    pub rows: Vec<RowReport>,
}

/// One row.
#[derive(Clone, Debug, Serialize)]
pub struct RowReport {
    /// Its name.
    pub name: String,
    /// Whether it is one of the rows that stand in every table.
    pub reference: bool,
    /// Settings in which it differs from those that all rows share, as `key=value`.
    pub set: Vec<String>,
    /// Its runs, a seed each.
    pub runs: Vec<RunReport>,
    /// `mean_s m_s` over the runs in which the metric is defined.
    pub mean: BTreeMap<&'static str, f64>,
    /// Each metric against the base row; empty for the base row.
    pub difference: BTreeMap<&'static str, Difference>,
}

/// One run.
#[derive(Clone, Debug, Serialize)]
pub struct RunReport {
    /// Its seed.
    pub seed: u64,
    /// Its directory, in that of the ablation.
    pub dir: PathBuf,
    /// Its metrics.
    pub metrics: BTreeMap<&'static str, f64>,
}

/// A difference to the base row, paired by seed: what the seeds have in common (order of rows, initial draws) is out.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Difference {
    /// `mean_s (m_s - base_s)` over the seeds in which both are defined.
    pub mean: f64,
    /// The 2.5 % quantile of that mean over 1,000 resamples of the seeds with replacement ([`bootstrap::ratio`]).
    /// Undefined for one seed; with three it spans their extremes at best, so read it as their scatter.
    pub low: f64,
    /// The 97.5 % quantile.
    pub high: f64,
    /// How many seeds.
    pub pairs: usize,
}

/// Reads the runs of all rows, in their directories in `out`, and compares them.
///
/// # Errors
/// If an `eval.json` cannot be read.
pub fn report(
    dump: &str,
    out: &Path,
    shared: &Config,
    suites: &[Suite],
    runs_of: impl Fn(&Suite, &Row) -> Result<Vec<(u64, PathBuf)>>,
) -> Result<Report> {
    let mut found = Vec::new();
    for suite in suites {
        let mut rows = Vec::new();
        for row in &suite.rows {
            let mut runs = Vec::new();
            for (seed, dir) in runs_of(suite, row)? {
                let eval = read_json(&out.join(&dir).join("eval.json"))?;
                let metric = |at: &str| eval.pointer(at).and_then(serde_json::Value::as_f64).unwrap_or(f64::NAN);
                runs.push(RunReport { seed, metrics: METRICS.map(|m| (m.key, metric(m.at))).into(), dir });
            }
            rows.push(RowReport {
                name: row.name.clone(),
                reference: row.is_reference,
                set: changes(shared, &row.config)?,
                mean: METRICS.map(|m| (m.key, mean(runs.iter().map(|r| r.metrics[m.key])))).into(),
                difference: BTreeMap::new(),
                runs,
            });
        }
        let base = rows[suite.base].clone();
        for (i, row) in rows.iter_mut().enumerate() {
            if i != suite.base {
                row.difference = METRICS.map(|m| (m.key, difference(row, &base, m.key))).into();
            }
        }
        found.push(SuiteReport { name: suite.name.clone(), base: base.name, rows });
    }
    Ok(Report { dump: dump.to_owned(), suites: found })
}

fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let defined: Vec<f64> = values.filter(|v| v.is_finite()).collect();
    defined.iter().sum::<f64>() / defined.len() as f64
}

fn difference(row: &RowReport, base: &RowReport, name: &str) -> Difference {
    let pairs = row.runs.iter().zip(&base.runs).map(|(a, b)| a.metrics[name] - b.metrics[name]);
    paired(&pairs.filter(|d| d.is_finite()).collect::<Vec<_>>())
}

/// The mean of `differences` and its bootstrap interval.
pub fn paired(differences: &[f64]) -> Difference {
    let pairs = differences.len();
    let rows: Vec<f64> = differences.iter().flat_map(|d| [*d, 1.0]).collect();
    match bootstrap::ratio(&rows, Resamples::default()) {
        Ok(i) if pairs > 1 => Difference { mean: i.value, low: i.low, high: i.high, pairs },
        Ok(i) => Difference { mean: i.value, low: f64::NAN, high: f64::NAN, pairs },
        Err(_) => Difference { mean: f64::NAN, low: f64::NAN, high: f64::NAN, pairs },
    }
}

/// Settings of `config` that are not those of `shared`; the seed aside.
fn changes(shared: &Config, config: &Config) -> Result<Vec<String>> {
    let leaves = |config: &Config| -> Result<Vec<(String, Value)>> {
        let mut leaves = Vec::new();
        settings::flatten("", &Value::try_from(config).context("settings as TOML")?, &mut leaves);
        Ok(leaves)
    };
    let (old, new) = (leaves(shared)?, leaves(config)?);
    let changed = new.iter().zip(&old).filter(|((key, v), (_, was))| key != "seed" && v != was);
    Ok(changed.map(|((key, v), _)| format!("{key}={v}")).collect())
}

/// `ablation.csv`: a line a run and suite, undefined metrics left empty.
pub fn csv(report: &Report) -> String {
    let mut text = String::from("suite,row,reference,seed,dir");
    for m in METRICS {
        text.push(',');
        text.push_str(m.key);
    }
    text.push('\n');
    let quoted = |field: &str| format!("\"{}\"", field.replace('"', "\"\""));
    for suite in &report.suites {
        for row in &suite.rows {
            for run in &row.runs {
                let dir = quoted(&run.dir.display().to_string());
                // Writing to a string does not fail.
                let _ = write!(text, "{},{},{},{},{dir}", suite.name, quoted(&row.name), row.reference, run.seed);
                for m in METRICS {
                    let value = run.metrics[m.key];
                    let _ = if value.is_finite() { write!(text, ",{value}") } else { write!(text, ",") };
                }
                text.push('\n');
            }
        }
    }
    text
}

/// The tables that a person reads.
///
/// # Errors
/// If `out` cannot be written to.
pub fn print(report: &Report, out: &mut dyn Write) -> io::Result<()> {
    for (i, suite) in report.suites.iter().enumerate() {
        if i > 0 {
            writeln!(out)?;
        }
        let defined = |name: &str| suite.rows.iter().any(|r| r.mean[name].is_finite());
        let shown = || METRICS.iter().filter(|m| defined(m.key)).filter_map(|m| Some((m, m.short?)));
        let width = suite.rows.iter().map(|r| r.name.chars().count() + 2).max().unwrap_or(0).max(suite.name.len() + 2);
        write!(out, "{:<width$}", suite.name)?;
        for (_, title) in shown() {
            write!(out, "{title:>8}")?;
        }
        writeln!(out, "  FVU2 less that of {} [95 %]", suite.base)?;
        for row in &suite.rows {
            write!(out, "{:<width$}", format!("{}{}", row.name, if row.reference { " *" } else { "" }))?;
            for (metric, _) in shown() {
                let (value, digits) = (row.mean[metric.key], metric.digits);
                let text = if value.is_finite() { format!("{value:.digits$}") } else { "-".into() };
                write!(out, "{text:>8}")?;
            }
            match row.difference.get("fvu2").filter(|d| d.pairs > 0) {
                Some(d) if d.low.is_finite() => writeln!(out, "  {:+.4} [{:+.4}, {:+.4}]", d.mean, d.low, d.high)?,
                Some(d) => writeln!(out, "  {:+.4}", d.mean)?,
                None => writeln!(out)?,
            }
        }
    }
    let references: Vec<&RowReport> = report.suites.iter().flat_map(|s| &s.rows).filter(|r| r.reference).collect();
    if !references.is_empty() {
        writeln!(out, "* a row of reference: the same budget and number of latents")?;
    }
    if references.iter().any(|r| r.set.iter().any(|s| s == "model=\"seed\"")) {
        writeln!(out, "  but nothing holds the L0 of the seed model")?;
    }
    Ok(())
}
