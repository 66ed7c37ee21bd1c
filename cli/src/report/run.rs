//! The page of one run.

use super::atlas::{self, Atlas};
use super::charts::{self, Chart, Of};
use super::docs::Docs;
use super::frame::Frame;
use super::headline::{self, Verdict};
use super::labels::{self, Label};
use super::live::Live;
use super::metrics::{self, Group};
use super::source::{read, read_json};
use super::tables::{self, Table as HeadTable};
use super::{embed, facts, number};
use crate::eval::latents;
use crate::files::directory_name;
use crate::settings;
use anyhow::{Context, Result, bail};
use askama::Template;
use serde_json::Value;
use std::path::{Path, PathBuf};
use strata_core::Config;
use toml::Table;

#[derive(Template)]
#[template(path = "run.html")]
struct RunPage<'a> {
    frame: Frame,
    summary: String,
    /// What is missing, and how to make it.
    notes: &'a [String],
    verdicts: Vec<Verdict>,
    tables: Vec<HeadTable>,
    training: Vec<Chart>,
    /// The step at which the gate started.
    gate: Option<String>,
    sparsity: Vec<Chart>,
    groups: Vec<Group>,
    settings: Vec<(String, String)>,
    atlases: Vec<&'a Atlas>,
    /// What it computes with, if it does.
    live: Option<Live>,
}

/// The content of a run.
pub struct Loaded {
    /// Its name.
    pub name: String,
    /// `eval.json`.
    pub eval: Option<Value>,
    /// Its settings.
    pub config: Option<Config>,
    /// Its settings, as pairs of a key and a value.
    pub settings: Vec<(String, String)>,
    /// The lines of `metrics.jsonl`.
    pub lines: Vec<Value>,
    /// Its latents.
    pub atlas: Option<Atlas>,
    /// Facts that a reader needs before its numbers, as HTML.
    pub notes: Vec<String>,
}

impl Loaded {
    /// Reads the files of a run; `suffix` is that of its [`Atlas`].
    ///
    /// # Errors
    /// One sentence naming the file that cannot be read.
    pub fn read(dir: &Path, labels: Option<&Path>, suffix: &'static str) -> Result<Self> {
        let eval = read_json(&dir.join("eval.json"))?;
        let path = dir.join("config.toml");
        let text = read(&path)?;
        let config = text.as_deref().map(|t| settings::parse(t, &path.display().to_string())).transpose()?;
        let lines = training_lines(&dir.join("metrics.jsonl"))?;
        let name = directory_name(dir);
        let atlas = latents_of(dir, &name, labels, suffix)?;

        let mut notes = Vec::new();
        // The directories above the run do not appear on a page that may be published.
        let own = dir.file_name().map_or_else(|| "RUN".into(), |n| n.to_string_lossy());
        let evaluate = format!("<code>strata eval {}</code>", embed::text(&own));
        match (&eval, &atlas) {
            (None, _) => notes.push(format!(
                "This run has not been evaluated yet: {evaluate} measures it, then make this report again."
            )),
            (Some(_), None) => {
                notes.push(format!("The map and the pages of latents need latents.jsonl: {evaluate} writes it."))
            }
            _ => {}
        }
        if !dir.join("sae").exists() && !lines.is_empty() {
            notes.push("Training has not finished: the curves end where it stands.".into());
        }
        notes.extend(facts::notes(eval.as_ref(), read_json(&dir.join("final_info.json"))?.as_ref()));
        let settings = text.as_deref().map(settings_of).transpose()?.unwrap_or_default();
        Ok(Self { name, eval, config, settings, lines, atlas, notes })
    }
}

/// Returns the latents of a run with their labels; none where it has no `latents.jsonl`.
fn latents_of(dir: &Path, name: &str, file: Option<&Path>, suffix: &'static str) -> Result<Option<Atlas>> {
    let path = dir.join("latents.jsonl");
    if !path.exists() {
        if let Some(file) = file {
            bail!("--labels {}: the run has no latents.jsonl; `strata eval` writes it", file.display());
        }
        return Ok(None);
    }
    let records = latents::read(&path)?;
    let model = model_of(dir)?;
    let file: PathBuf = file.map_or_else(|| dir.join(labels::FILE), Path::to_owned);
    let is_named = file != dir.join(labels::FILE);
    let of_level = |level: u8| records.iter().filter(|r| r.level == level).count();
    let subject = labels::Subject { latents: [of_level(1), of_level(2)], model: model.as_deref() };
    let labels: Vec<Label> = if is_named || file.exists() { labels::read(&file, &subject)? } else { Vec::new() };
    atlas::pack(&records, &atlas::Subject { name, model: model.as_deref(), labels: &labels }, suffix).map(Some)
}

/// Returns the SHA-256 of the weights from the file beside them; none without it.
fn model_of(dir: &Path) -> Result<Option<String>> {
    let text = read(&dir.join("sae").join("SHA256SUMS"))?.unwrap_or_default();
    let of_weights = |line: &str| line.strip_suffix("sae_weights.safetensors").map(|sum| sum.trim().to_owned());
    Ok(text.lines().find_map(of_weights))
}

/// Renders the page of a run, which computes with `live`.
///
/// # Errors
/// If a part of it cannot be written as JSON.
pub fn page(run: &Loaded, title: Option<&str>, live: Option<Live>) -> Result<String> {
    let docs = Docs::load();
    let (eval, config) = (run.eval.as_ref(), run.config.as_ref());
    let training = charts::training(&[Of { letter: None, data: &run.lines[..] }]);
    let sparsity = eval.map(|data| charts::sparsity(&[Of { letter: None, data }])).unwrap_or_default();
    let plots = charts::json(training.iter().chain(&sparsity))?;
    let frame = Frame::new(title.map_or_else(|| run.name.clone(), str::to_owned), plots)?;
    let packed = run.atlas.as_ref().filter(|_| live.is_some()).map(Atlas::packed);
    let atlas = packed.as_ref().or(run.atlas.as_ref());
    let page = RunPage {
        summary: headline::summary(eval, config, run.lines.last()),
        frame: if live.is_some() { frame.computing() } else { frame },
        live,
        notes: &run.notes,
        verdicts: eval.map(headline::verdicts).unwrap_or_default(),
        tables: eval.map(|eval| tables::tables(eval, config, &docs)).unwrap_or_default(),
        gate: gate_of(&run.lines),
        training,
        sparsity,
        groups: eval.map(|eval| metrics::tables(eval, &docs)).unwrap_or_default(),
        settings: run.settings.clone(),
        atlases: Vec::from_iter(atlas),
    };
    page.render().context("writing the report")
}

/// Returns the lines of `metrics.jsonl`; the last is ignored if it was cut short when the process ended.
fn training_lines(path: &Path) -> Result<Vec<Value>> {
    let text = read(path)?.unwrap_or_default();
    parse_lines(&text).with_context(|| format!("reading {}", path.display()))
}

fn parse_lines(text: &str) -> Result<Vec<Value>> {
    let mut lines = Vec::new();
    for (i, line) in text.lines().enumerate() {
        match serde_json::from_str(line) {
            Ok(value) => lines.push(value),
            // A line without a line break was not written completely.
            Err(_) if i + 1 == text.lines().count() && !text.ends_with('\n') => {}
            Err(e) => bail!("line {}: expected JSON: {e}", i + 1),
        }
    }
    Ok(lines)
}

/// Returns the step at which the gate started, if it did so during the recorded steps: curves bend there.
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
