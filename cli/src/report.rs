//! `strata report`: a run, or an ablation, as one HTML file that opens anywhere and asks nothing of the network.
//!
//! The words, tables and plots of the page are made here; [`report/atlas.rs`](atlas) packs the latents, and the scripts
//! in `cli/templates` draw the map and the page of a latent from them. A policy in the page forbids every request.

use crate::ablation::Ablation;
use crate::eval::latents;
use crate::files::{self, io_error, write_atomic};
use crate::settings;
use anyhow::{Context, Result, anyhow, bail};
use askama::Template;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use toml::Table;

mod ablation;
mod atlas;
mod charts;
mod docs;
mod embed;
mod facts;
mod headline;
mod metrics;
pub(crate) mod number;
mod sentence;

use ablation::Question;
use atlas::Atlas;
use charts::Chart;
use docs::Docs;
use headline::{Table as HeadTable, Verdict};
use metrics::Group;

const CSS: &str = include_str!("../templates/report.css");
const JS: &str = include_str!("../templates/report.js");

/// What every page has.
struct Frame {
    title: String,
    css: &'static str,
    js: &'static str,
    plotly: String,
    plots: String,
}

impl Frame {
    fn new(title: String, plots: String) -> Result<Self> {
        Ok(Self { title, css: CSS, js: JS, plotly: embed::plotly_script()?, plots })
    }
}

#[derive(Template)]
#[template(path = "run.html")]
struct RunPage {
    frame: Frame,
    summary: String,
    /// What is missing, and how to get it.
    notes: Vec<String>,
    verdicts: Vec<Verdict>,
    tables: Vec<HeadTable>,
    training: Vec<Chart>,
    /// When the gate began to act.
    gate: Option<String>,
    sparsity: Vec<Chart>,
    groups: Vec<Group>,
    settings: Vec<(String, String)>,
    atlas: Option<Atlas>,
}

#[derive(Template)]
#[template(path = "ablation.html")]
struct AblationPage {
    frame: Frame,
    summary: String,
    seeds: Option<String>,
    questions: Vec<Question>,
}

/// Writes the report of `from`, a run or an ablation, to `out`, or into it; returns where it is.
///
/// # Errors
/// One sentence if `from` is neither, or a file of it cannot be read.
pub fn report(from: &Path, out: Option<&Path>) -> Result<PathBuf> {
    if let Err(error) = fs::metadata(from) {
        return Err(io_error("reading", from, &error));
    }
    let has = |name: &str| from.join(name).exists();
    let is_sae = has("cfg.json") && from.file_name().is_some_and(|n| n == "sae");
    let dir = if is_sae { from.parent().unwrap_or(from) } else { from };
    let html = if has("ablation.json") {
        ablation_page(dir)?
    } else if is_sae || ["config.toml", "eval.json", "metrics.jsonl", "sae"].iter().any(|name| has(name)) {
        run_page(dir)?
    } else {
        bail!(
            "{} is no run and no ablation: expected {} or {} in it",
            from.display(),
            Path::new("config.toml").display(),
            Path::new("ablation.json").display()
        );
    };
    let out = out.map_or_else(|| dir.join("report.html"), Path::to_owned);
    write_atomic(&out, html.as_bytes())?;
    Ok(out)
}

/// The last part of its path, wherever that leads.
fn name_of(dir: &Path) -> String {
    let whole = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
    whole.file_name().map_or_else(|| "run".into(), |n| n.to_string_lossy().into_owned())
}

/// The text of a file that may be missing.
fn read(path: &Path) -> Result<Option<String>> {
    files::read::optional_text(path, files::read::LARGE)
}

fn read_json(path: &Path) -> Result<Option<Value>> {
    let Some(text) = read(path)? else { return Ok(None) };
    let value: Value = serde_json::from_str(&text).map_err(|e| anyhow!("reading {}: {e}", path.display()))?;
    if !value.is_object() {
        bail!("reading {}: expected an object", path.display());
    }
    Ok(Some(value))
}

fn run_page(dir: &Path) -> Result<String> {
    let eval = read_json(&dir.join("eval.json"))?;
    let path = dir.join("config.toml");
    let text = read(&path)?;
    let config = text.as_deref().map(|t| settings::parse(t, &path.display().to_string())).transpose()?;
    let lines = training_lines(&dir.join("metrics.jsonl"))?;
    let path = dir.join("latents.jsonl");
    let atlas = if path.exists() { Some(atlas::pack(&latents::read(&path)?)?) } else { None };

    let mut notes = Vec::new();
    // The way to the run stays out of a page that is passed on.
    let own = dir.file_name().map_or_else(|| "RUN".into(), |n| n.to_string_lossy());
    let evaluate = format!("<code>strata eval {}</code>", embed::text(&own));
    match (&eval, &atlas) {
        (None, _) => notes
            .push(format!("This run has not been evaluated yet: {evaluate} measures it, then make this report again.")),
        (Some(_), None) => {
            notes.push(format!("The map and the pages of latents need latents.jsonl: {evaluate} writes it."))
        }
        _ => {}
    }
    if !dir.join("sae").exists() && !lines.is_empty() {
        notes.push("Training has not finished: the curves end where it stands.".into());
    }
    notes.extend(facts::notes(eval.as_ref(), read_json(&dir.join("final_info.json"))?.as_ref()));
    let docs = Docs::load();
    let training = charts::training(&lines);
    let sparsity = eval.as_ref().map(charts::sparsity).unwrap_or_default();
    let plots = charts::json(training.iter().chain(&sparsity))?;
    let mut page = RunPage {
        summary: headline::summary(eval.as_ref(), config.as_ref(), lines.last()),
        frame: Frame::new(name_of(dir), plots)?,
        notes,
        verdicts: Vec::new(),
        tables: Vec::new(),
        gate: gate_of(&lines),
        training,
        sparsity,
        groups: Vec::new(),
        settings: text.as_deref().map(settings_of).transpose()?.unwrap_or_default(),
        atlas,
    };
    if let Some(eval) = &eval {
        page.verdicts = headline::verdicts(eval);
        page.tables = headline::tables(eval, config.as_ref(), &docs);
        page.groups = metrics::tables(eval, &docs);
    }
    page.render().context("writing the report")
}

/// The lines of `metrics.jsonl`; the last is left out if the end of a process cut it short.
fn training_lines(path: &Path) -> Result<Vec<Value>> {
    let text = read(path)?.unwrap_or_default();
    parse_lines(&text).with_context(|| format!("reading {}", path.display()))
}

fn parse_lines(text: &str) -> Result<Vec<Value>> {
    let mut lines = Vec::new();
    for (i, line) in text.lines().enumerate() {
        match serde_json::from_str(line) {
            Ok(value) => lines.push(value),
            // What ends without a line break was never written out.
            Err(_) if i + 1 == text.lines().count() && !text.ends_with('\n') => {}
            Err(e) => bail!("line {}: expected JSON: {e}", i + 1),
        }
    }
    Ok(lines)
}

/// When the gate began to act, if it did so while the run was watched: curves bend there.
fn gate_of(lines: &[Value]) -> Option<String> {
    let from = lines.iter().position(|l| l["gate_on"] == true).filter(|at| *at > 0)?;
    let step = |at: usize| lines[at]["step"].as_f64().map_or_else(String::new, number::show);
    Some(format!("The gate between the levels acts from between step {} and {} on.", step(from - 1), step(from)))
}

fn settings_of(text: &str) -> Result<Vec<(String, String)>> {
    let table: Table = text.parse().context("config.toml")?;
    let mut leaves = Vec::new();
    settings::flatten("", &toml::Value::Table(table), &mut leaves);
    Ok(leaves.into_iter().map(|(key, value)| (key, value.to_string())).collect())
}

fn ablation_page(dir: &Path) -> Result<String> {
    let path = dir.join("ablation.json");
    let text = read(&path)?.unwrap_or_default();
    let found: Ablation = serde_json::from_str(&text).map_err(|e| anyhow!("reading {}: {e}", path.display()))?;
    let questions = ablation::questions(&found);
    let runs: std::collections::BTreeSet<&str> =
        found.suites.iter().flat_map(|s| &s.rows).flat_map(|r| &r.runs).map(|r| r.dir.as_str()).collect();
    let summary = format!(
        "{} on {}, in {}",
        number::count(runs.len() as u64, "run"),
        found.dump,
        number::count(found.suites.len() as u64, "table")
    );
    let plots = charts::json(questions.iter().flat_map(|q| &q.charts))?;
    let page = AblationPage {
        frame: Frame::new(name_of(dir), plots)?,
        summary,
        seeds: sentence::of_seeds(&found.suites),
        questions,
    };
    page.render().context("writing the report")
}

#[cfg(test)]
mod tests {
    use super::parse_lines;

    #[test]
    fn only_the_last_line_may_be_cut_short() {
        let of = |text: &str| parse_lines(text).map(|lines| lines.len());
        assert_eq!(of("").expect("no line"), 0);
        assert_eq!(of("{\"step\":0}\n{\"step\":1}\n").expect("two"), 2);
        assert_eq!(of("{\"step\":0}\n{\"st").expect("one, and one cut short"), 1);
        for (text, line) in [("{\"step\":0}\n{\"st\n{\"step\":2}\n", 2), ("x\n{\"st", 1), ("{\"step\":0}\n{\"st\n", 2)]
        {
            let error = of(text).expect_err("a broken line").to_string();
            assert!(error.starts_with(&format!("line {line}: expected JSON")), "{error}");
        }
    }
}
