//! Tables of runs: means over seeds, and differences to a base row, paired by seed.

use super::plan::{Row, Suite};
use crate::ablation::metric::{METRICS, Metric};
use crate::ablation::{Ablation, Difference, RowReport, RunReport, SuiteReport};
use crate::files::read;
use crate::settings;
use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use strata_core::Config;
use strata_core::metrics::bootstrap::{self, Resamples};
use toml::Value;

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
) -> Result<Ablation> {
    let mut found = Vec::new();
    for suite in suites {
        let mut rows = Vec::new();
        for row in &suite.rows {
            let mut runs = Vec::new();
            for (seed, dir) in runs_of(suite, row)? {
                let eval: serde_json::Value = read::json(&out.join(&dir).join("eval.json"), read::SMALL)?;
                let metric = |at: &str| eval.pointer(at).and_then(serde_json::Value::as_f64).filter(|v| v.is_finite());
                let metrics = METRICS.map(|m| (m.key.into(), metric(m.at))).into();
                runs.push(RunReport { seed, metrics, dir: dir.display().to_string() });
            }
            rows.push(RowReport {
                name: row.name.clone(),
                reference: row.is_reference,
                set: changes(shared, &row.config)?,
                mean: METRICS.map(|m| (m.key.into(), mean(runs.iter().map(|r| r.metrics[m.key])))).into(),
                sd: METRICS.map(|m| (m.key.into(), deviation(runs.iter().map(|r| r.metrics[m.key])))).into(),
                difference: BTreeMap::new(),
                runs,
            });
        }
        let base = rows[suite.base].clone();
        for (i, row) in rows.iter_mut().enumerate() {
            if i != suite.base {
                row.difference = METRICS.map(|m| (m.key.into(), difference(row, &base, m.key))).into();
            }
        }
        found.push(SuiteReport { name: suite.name.clone(), base: base.name, rows });
    }
    Ok(Ablation { dump: dump.to_owned(), suites: found })
}

fn mean(values: impl Iterator<Item = Option<f64>>) -> Option<f64> {
    let defined: Vec<f64> = values.flatten().collect();
    Some(defined.iter().sum::<f64>() / defined.len() as f64).filter(|mean| mean.is_finite())
}

/// Returns the standard deviation of the defined values; `None` for fewer than two.
fn deviation(values: impl Iterator<Item = Option<f64>>) -> Option<f64> {
    let defined: Vec<f64> = values.flatten().collect();
    let centre = mean(defined.iter().copied().map(Some))?;
    let squares: f64 = defined.iter().map(|v| (v - centre).powi(2)).sum();
    (defined.len() > 1).then(|| (squares / (defined.len() - 1) as f64).sqrt())
}

fn difference(row: &RowReport, base: &RowReport, name: &str) -> Difference {
    let pairs = row.runs.iter().zip(&base.runs).filter_map(|(a, b)| Some(a.metrics[name]? - b.metrics[name]?));
    paired(&pairs.filter(|d| d.is_finite()).collect::<Vec<_>>())
}

/// Returns the mean of `differences` and its bootstrap interval.
fn paired(differences: &[f64]) -> Difference {
    let pairs = differences.len();
    let rows: Vec<f64> = differences.iter().flat_map(|d| [*d, 1.0]).collect();
    let finite = |value: f64| Some(value).filter(|v| v.is_finite());
    match bootstrap::ratio(&rows, Resamples::default()) {
        Ok(i) if pairs > 1 => Difference { mean: finite(i.value), low: finite(i.low), high: finite(i.high), pairs },
        Ok(i) => Difference { mean: finite(i.value), low: None, high: None, pairs },
        Err(_) => Difference { pairs, ..Difference::default() },
    }
}

/// Returns the settings of `config` that differ from those of `shared`, except the seed.
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

/// Returns `ablation.csv`: one line per run and suite, with undefined metrics empty.
pub fn csv(report: &Ablation) -> String {
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
                let dir = quoted(&run.dir);
                // Writing to a string cannot fail.
                let _ = write!(text, "{},{},{},{},{dir}", suite.name, quoted(&row.name), row.reference, run.seed);
                for m in METRICS {
                    let _ = match run.metrics[m.key] {
                        Some(value) => write!(text, ",{value}"),
                        None => write!(text, ","),
                    };
                }
                text.push('\n');
            }
        }
    }
    text
}

/// Prints the tables.
///
/// # Errors
/// If `out` cannot be written to.
pub fn print(report: &Ablation, out: &mut dyn Write) -> io::Result<()> {
    for (i, suite) in report.suites.iter().enumerate() {
        if i > 0 {
            writeln!(out)?;
        }
        let defined = |name: &str| suite.rows.iter().any(|r| r.mean[name].is_some());
        let shown = || METRICS.iter().filter(|m| defined(m.key)).filter_map(|m| Some((m, m.short?)));
        // A column is as wide as its widest cell: the mean with the deviation over seeds.
        let cell = |row: &RowReport, metric: &Metric| {
            let digits = metric.digits;
            match (row.mean[metric.key], row.sd[metric.key]) {
                (None, _) => String::from("-"),
                (Some(value), None) => format!("{value:.digits$}"),
                (Some(value), Some(sd)) => format!("{value:.digits$} \u{b1}{sd:.digits$}"),
            }
        };
        let columns: Vec<(&Metric, &str, usize)> = shown()
            .map(|(m, title)| {
                let cells = suite.rows.iter().map(|r| cell(r, m).chars().count());
                (m, title, 2 + cells.chain([title.chars().count()]).max().unwrap_or(0))
            })
            .collect();
        let width = suite.rows.iter().map(|r| r.name.chars().count() + 2).max().unwrap_or(0).max(suite.name.len() + 2);
        write!(out, "{:<width$}", suite.name)?;
        for &(_, title, wide) in &columns {
            write!(out, "{title:>wide$}")?;
        }
        writeln!(out, "  FVU2 minus that of {} [95 %]", suite.base)?;
        for row in &suite.rows {
            write!(out, "{:<width$}", format!("{}{}", row.name, if row.reference { " *" } else { "" }))?;
            for &(metric, _, wide) in &columns {
                write!(out, "{:>wide$}", cell(row, metric))?;
            }
            match row.difference.get("fvu2") {
                Some(Difference { mean: Some(mean), low: Some(low), high: Some(high), .. }) => {
                    writeln!(out, "  {mean:+.4} [{low:+.4}, {high:+.4}]")?;
                }
                Some(Difference { mean: Some(mean), .. }) => writeln!(out, "  {mean:+.4}")?,
                _ => writeln!(out)?,
            }
        }
    }
    let references: Vec<&RowReport> = report.suites.iter().flat_map(|s| &s.rows).filter(|r| r.reference).collect();
    if report.suites.iter().flat_map(|s| &s.rows).any(|r| r.runs.len() > 1) {
        writeln!(out, "\u{b1}: the standard deviation over seeds")?;
    }
    if !references.is_empty() {
        writeln!(out, "* a reference row: the same budget and number of latents")?;
    }
    if references.iter().any(|r| r.set.iter().any(|s| s == "model=\"seed\"")) {
        writeln!(out, "  but nothing controls the L0 of the seed model")?;
    }
    Ok(())
}
