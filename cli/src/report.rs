//! `strata report`: a run, two runs, or an ablation, as one HTML file that opens offline and loads nothing from the
//! network.
//!
//! The words, tables and plots of the page are made here; [`report/atlas.rs`](atlas) packs the latents, and the scripts
//! in `cli/templates/report` draw the map and the page of a latent from them. A policy in the page forbids every
//! request.

use crate::ablation::Ablation;
use crate::files::{directory_name, io_error, write_atomic};
use anyhow::{Context, Result, anyhow, bail, ensure};
use askama::Template;
use std::fs;
use std::path::{Path, PathBuf};

mod ablation;
mod alike;
mod atlas;
mod charts;
mod docs;
mod embed;
mod facts;
mod frame;
mod headline;
pub mod labels;
mod live;
mod metrics;
pub(crate) mod number;
mod pair;
mod run;
mod script;
mod sentence;
mod source;
mod tables;
mod words;

use ablation::Question;
use frame::Frame;
use live::Live;
use run::Loaded;
use source::read;

/// The input and output of a report.
#[derive(Clone, Debug, Default)]
pub struct Job<'a> {
    /// A run or an ablation, or two runs.
    pub from: &'a [PathBuf],
    /// The file to write: `report.html` in the first directory where none is named.
    pub out: Option<&'a Path>,
    /// The title, in place of the name of the directory.
    pub title: Option<&'a str>,
    /// The file of labels, in place of `labels.json` in the run.
    pub labels: Option<&'a Path>,
    /// Whether the page computes: it has the model of the run, and encodes what its reader types.
    pub live: bool,
}

/// The page that was written.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Written {
    /// Its path.
    pub report: PathBuf,
    /// Its size.
    pub bytes: u64,
}

#[derive(Template)]
#[template(path = "ablation.html")]
struct AblationPage {
    frame: Frame,
    summary: String,
    seeds: Option<String>,
    questions: Vec<Question>,
}

/// What a directory contains.
enum Kind {
    Run,
    Ablation,
}

/// Writes the report.
///
/// # Errors
/// One sentence if a directory is neither run nor ablation, if more than two are named or two that are not both runs,
/// or if a file of it cannot be read.
pub fn report(job: &Job<'_>) -> Result<Written> {
    ensure!(
        !job.live || job.from.len() == 1,
        "--live: a page computes with one run, found {} directories",
        job.from.len()
    );
    let found = job.from.iter().map(|from| kind_of(from)).collect::<Result<Vec<_>>>()?;
    let (html, dir) = match &found[..] {
        [(Kind::Ablation, dir)] => {
            ensure!(job.labels.is_none(), "--labels: an ablation has no latents to label; name one of its runs");
            ensure!(!job.live, "--live: an ablation has no model to compute with; name one of its runs");
            (ablation_page(dir, job.title)?, dir)
        }
        [(Kind::Run, dir)] => {
            let live = job.live.then(|| Live::of(dir)).transpose()?;
            (run::page(&Loaded::read(dir, job.labels, "")?, job.title, live)?, dir)
        }
        [(Kind::Run, a), (Kind::Run, b)] => {
            ensure!(
                job.labels.is_none(),
                "--labels: two runs have two files of labels; each is read from {}",
                labels::FILE
            );
            let (a_run, b_run) = (Loaded::read(a, None, "")?, Loaded::read(b, None, "-2")?);
            (pair::page([&a_run, &b_run], job.title)?, a)
        }
        [_, _] => bail!("expected two runs: an ablation compares its own runs, and has a report of its own"),
        more => bail!("expected one directory or two, found {}: `strata ablate` compares more runs", more.len()),
    };
    let name = match &found[..] {
        [_, (_, other)] => format!("report-with-{}.html", directory_name(other)),
        _ => "report.html".into(),
    };
    // What was found of a model of another tool may lie beside it, if the user wanted that of `strata eval`.
    let is_own = ["config.toml", "metrics.jsonl", "sae", "ablation.json"].iter().any(|name| dir.join(name).exists());
    ensure!(
        job.out.is_some() || is_own || !holds_weights(dir),
        "nothing is written into {}, which holds a model of another tool: name the page with --out",
        dir.display()
    );
    let out = job.out.map_or_else(|| dir.join(name), Path::to_owned);
    write_atomic(&out, html.as_bytes())?;
    Ok(Written { report: out, bytes: html.len() as u64 })
}

/// Returns the content of a directory, and the directory of the run where its `sae` was named.
fn kind_of(from: &Path) -> Result<(Kind, PathBuf)> {
    if let Err(error) = fs::metadata(from) {
        return Err(io_error("reading", from, &error));
    }
    let has = |name: &str| from.join(name).exists();
    let is_sae = has("cfg.json") && from.file_name().is_some_and(|n| n == "sae");
    if has("ablation.json") {
        Ok((Kind::Ablation, from.to_owned()))
    } else if is_sae {
        Ok((Kind::Run, from.parent().unwrap_or(from).to_owned()))
    } else if ["config.toml", "eval.json", "metrics.jsonl", "sae"].iter().any(|name| has(name)) {
        Ok((Kind::Run, from.to_owned()))
    } else {
        let shown = from.display();
        if from.is_file() || holds_weights(from) {
            bail!(
                "{shown} is neither a run nor an ablation; if it is a model of another tool, evaluate it with `strata eval {shown} \
                 --dump DUMP --out DIR`, and show what was found with `strata report DIR`"
            );
        }
        bail!("{shown} is neither a run nor an ablation: expected config.toml or ablation.json in it")
    }
}

/// Returns whether there are files of weights of any tool in a directory.
fn holds_weights(dir: &Path) -> bool {
    let is_one = |path: PathBuf| {
        let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
        matches!(ending, "safetensors" | "npz" | "pt" | "pth")
    };
    fs::read_dir(dir).into_iter().flatten().filter_map(Result::ok).any(|entry| is_one(entry.path()))
}

fn ablation_page(dir: &Path, title: Option<&str>) -> Result<String> {
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
        frame: Frame::new(title.map_or_else(|| directory_name(dir), str::to_owned), plots)?,
        summary,
        seeds: sentence::of_seeds(&found.suites),
        questions,
    };
    page.render().context("writing the report")
}
