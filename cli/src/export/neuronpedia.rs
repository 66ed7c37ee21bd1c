//! Feature dashboards as SAEDashboard writes them for Neuronpedia: `level1/batch-0.json` and so on, with 128 latents
//! per file, likewise `level2`.
//!
//! These fields are written, over all rows of the dump:
//!
//! - `frac_nonzero`: the share of rows on which the latent fires;
//! - `freq_hist_data_bar_values`, `_heights`: its activations above 0 in 50 equal bars from the smallest to the largest,
//!   the middle of each bar and the count in it;
//! - `activations`: the contexts in which it fires most strongly, at most one per sequence, strongest first, with the
//!   surrounding tokens and activations (28 rows before and 12 after, of the same sequence); all are in the group of
//!   the strongest, which has `bin_min` and `bin_contains` -1;
//! - `pos_str`, `pos_values`, `neg_str`, `neg_values`: the tokens whose logits an activation of 1 raises and lowers most,
//!   from `RUN/latents.jsonl`; empty until `strata eval` has written it with a language model.
//!
//! Some fields are empty, since they need more than activations and tokens: `logits_hist_*` (the effect on every logit;
//! `latents.jsonl` has the largest), `neuron_alignment_*` and `correlated_neurons_*` (a residual stream has no
//! neurons), `correlated_features_*` (activations of all pairs of latents), `decoder_weights_dist` (the heads of an
//! attention layer), `vector` (the weights are in `RUN/sae`). Attribution (`dfa_*`), which needs the model's attention,
//! and groups of weaker activations are left out. `layer` is null where the hook point of the dump has no number,
//! `n_tokens_in_prompt` is null where sequences have several lengths, and `model_id` is empty where the dump has no
//! model.
//!
//! Memory: at most 5 kB per latent, `latents.jsonl` as a whole while it is read (some 20 kB per latent), and blocks of
//! rows (see `each_group`); it does not grow with the rows.

use super::histogram::Histograms;
use super::job::{Exported, Job, lacks, tokens};
use crate::console::{Console, check_interrupt};
use crate::dump::Dump;
use crate::encode::each_block;
use crate::eval::batches::{Sequences, each_group};
use crate::eval::latents::{self, LatentRecord};
use crate::eval::strongest::{Place, Strongest};
use crate::eval::unit::Unit;
use crate::eval::window::Reach;
use crate::files::PendingDirectory;
use crate::files::io_error;
use crate::row_filter::RowFilter;
use crate::run::Run;
use anyhow::{Result, ensure};
use indicatif::ProgressBar;
use serde::Serialize;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use strata_core::{Codes, Encoder};

/// Latents per file, as in SAEDashboard.
const FEATURES: usize = 128;
/// Rows around a place.
const REACH: Reach = Reach { before: 28, after: 12 };

/// One file, with SAEDashboard's names and order.
#[derive(Serialize)]
struct Batch<'a> {
    model_id: &'a str,
    layer: Option<u64>,
    sae_set: &'a str,
    sae_id_suffix: &'a str,
    features: Vec<Feature<'a>>,
}

#[derive(Serialize)]
struct Feature<'a> {
    feature_index: u32,
    #[serde(flatten)]
    unknown: Unknown,
    neg_str: Vec<&'a str>,
    neg_values: Vec<f64>,
    pos_str: Vec<&'a str>,
    pos_values: Vec<f64>,
    frac_nonzero: f64,
    freq_hist_data_bar_values: Vec<f32>,
    freq_hist_data_bar_heights: Vec<u64>,
    n_prompts_total: u64,
    n_tokens_in_prompt: Option<usize>,
    dataset: &'a str,
    activations: Vec<Activation>,
}

/// Fields that need more information: always empty, and always there, since readers expect them.
#[derive(Default, Serialize)]
struct Unknown {
    neuron_alignment_indices: [u32; 0],
    neuron_alignment_values: [f32; 0],
    neuron_alignment_l1: [f32; 0],
    correlated_neurons_indices: [u32; 0],
    correlated_neurons_l1: [f32; 0],
    correlated_neurons_pearson: [f32; 0],
    correlated_features_indices: [u32; 0],
    correlated_features_l1: [f32; 0],
    correlated_features_pearson: [f32; 0],
    logits_hist_data_bar_heights: [f32; 0],
    logits_hist_data_bar_values: [f32; 0],
    decoder_weights_dist: [f32; 0],
    vector: [f32; 0],
}

#[derive(Serialize)]
struct Activation {
    bin_min: f32,
    bin_max: f32,
    bin_contains: f32,
    tokens: Vec<String>,
    values: Vec<f32>,
    qualifying_token_index: usize,
}

/// The statistics of a level from both passes.
struct Level {
    strongest: Strongest<'static>,
    histograms: Histograms,
}

impl Level {
    fn new(level: usize, latents: usize) -> Self {
        Self { strongest: Strongest::new(level, latents, REACH), histograms: Histograms::new(latents) }
    }
}

/// Writes and finishes `out`.
///
/// # Errors
/// As [`super::export`]; if `RUN/latents.jsonl` belongs to another model.
pub fn write(job: &Job<'_>, mut out: PendingDirectory, console: &mut Console<'_>) -> Result<Exported> {
    let Job { run, dump, isa, .. } = job;
    let tokens = tokens(dump)?;
    ensure!(Sequences::new(dump).known(), lacks(dump, "where its sequences begin"));
    let encoder = run.encoder(*isa)?;
    let [f1, f2] = encoder.model().arch.latents();
    let logits = logits_of(run, f1, f2)?;
    if logits.iter().all(|l| l.promotes.is_empty()) {
        console.note(format!(
            "{} does not say what latents do to logits: `strata eval` finds it out; the export goes without",
            run.dir.join("latents.jsonl").display()
        ));
    }
    let bar = console.bar("exporting", 2 * dump.n_rows(), "tokens");
    let levels = passes(&encoder, dump, &bar)?;
    let set = run.dir.canonicalize().ok().and_then(|d| Some(d.file_name()?.to_string_lossy().into_owned()));
    let set = set.unwrap_or_else(|| "strata".into());
    let files = Files {
        dump,
        out: job.out,
        tokens,
        set: &set,
        layer: dump.hook().and_then(|hook| hook.split('.').find_map(|part| part.parse().ok())),
        context: one_length(dump),
        prompts: Sequences::new(dump).count(0, dump.n_rows()),
    };
    let mut directories = Vec::new();
    let (logits1, logits2) = logits.split_at(logits.len().min(f1));
    for ((level, logits), name) in levels.iter().zip([logits1, logits2]).zip(["level1", "level2"]) {
        if level.strongest.latents.is_empty() {
            continue;
        }
        files.write(level, logits, name, &out.directory(name)?)?;
        directories.push(name.to_owned());
    }
    out.finish()?;
    bar.finish_and_clear();
    let entries = levels.map(|l| l.strongest.latents.iter().map(|seen| seen.fires).sum());
    Ok(Exported { format: "neuronpedia", rows: dump.n_rows(), left_out: 0, entries, directories })
}

/// Reads the rows twice: first for the strongest contexts and the range of the bars, then for the counts.
fn passes(encoder: &Encoder, dump: &Dump, bar: &ProgressBar) -> Result<[Level; 2]> {
    let [f1, f2] = encoder.model().arch.latents();
    let mut levels = [Level::new(0, f1), Level::new(1, f2)];
    each_group(encoder, dump.into(), &RowFilter::none(encoder.isa()), Unit::ONE, (0, dump.n_rows()), |batches| {
        let [level1, level2] = &mut levels;
        let add = |level: &mut Level, at: usize| -> Result<()> {
            for batch in batches {
                level.strongest.add(batch, None)?;
                each_activation(&batch.codes[at], |latent, value| level.histograms.widen(latent, value));
            }
            Ok(())
        };
        let (one, two) = rayon::join(|| add(level1, 0), || add(level2, 1));
        one.and(two)?;
        bar.inc(batches.iter().map(|b| b.n() as u64).sum());
        Ok(())
    })?;
    each_block(encoder, dump, |codes| {
        for (level, codes) in levels.iter_mut().zip(codes) {
            each_activation(codes, |latent, value| level.histograms.count(latent, value));
        }
        bar.inc(codes[0].n() as u64);
        Ok(())
    })?;
    Ok(levels)
}

/// Returns every latent that fires on a row, with its activation, in the order of the rows.
fn each_activation(codes: &Codes, mut f: impl FnMut(usize, f32)) {
    codes.index.iter().zip(&codes.value).filter(|(_, z)| **z > 0.0).for_each(|(j, z)| f(*j as usize, *z));
}

/// Tokens whose logits a latent raises and lowers most, with the changes.
struct Logits {
    promotes: Vec<(String, f64)>,
    suppresses: Vec<(String, f64)>,
}

/// Returns those that `strata eval` has computed for all latents; none if it was not run.
fn logits_of(run: &Run, f1: usize, f2: usize) -> Result<Vec<Logits>> {
    let path = run.dir.join("latents.jsonl");
    if !path.exists() {
        return Ok(Vec::new());
    }
    let records = latents::read(&path)?;
    let expected = (0..f1).map(|j| (1, j)).chain((0..f2).map(|j| (2, j)));
    let is_ours = records.iter().map(|r| (r.level, r.latent as usize)).eq(expected);
    ensure!(
        is_ours,
        "`{}`: expected the {f1} and {f2} latents of the model in order, found others: run `strata eval` again",
        path.display()
    );
    Ok(records.into_iter().map(|LatentRecord { promotes, suppresses, .. }| Logits { promotes, suppresses }).collect())
}

/// Returns the rows per sequence, where all sequences have the same number.
fn one_length(dump: &Dump) -> Option<usize> {
    let context = dump.context()?;
    let starts = dump.sequence_starts()?;
    starts.iter().enumerate().all(|(i, start)| *start == (i * context) as u64).then_some(context)
}

/// Fields that the files of both levels share.
struct Files<'a> {
    dump: &'a Dump,
    out: &'a Path,
    tokens: &'a [u32],
    set: &'a str,
    layer: Option<u64>,
    context: Option<usize>,
    prompts: u64,
}

impl Files<'_> {
    /// Writes the files of a level; `logits` is empty or has one entry per latent.
    fn write(&self, level: &Level, logits: &[Logits], name: &str, directory: &Path) -> Result<()> {
        let latents: Vec<usize> = (0..level.strongest.latents.len()).collect();
        for (i, some) in latents.chunks(FEATURES).enumerate() {
            check_interrupt()?;
            let batch = Batch {
                model_id: self.dump.model().unwrap_or_default(),
                layer: self.layer,
                sae_set: self.set,
                sae_id_suffix: name,
                features: some.iter().map(|j| self.feature(*j, level, logits.get(*j))).collect(),
            };
            let file = format!("batch-{i}.json");
            let write = || -> std::io::Result<()> {
                let mut out = BufWriter::new(File::create_new(directory.join(&file))?);
                serde_json::to_writer(&mut out, &batch)?;
                out.write_all(b"\n")?;
                out.into_inner()?.sync_all()
            };
            write().map_err(|e| io_error("writing", &self.out.join(name).join(&file), &e))?;
        }
        Ok(())
    }

    fn feature<'a>(&'a self, j: usize, level: &Level, logits: Option<&'a Logits>) -> Feature<'a> {
        let seen = &level.strongest.latents[j];
        let (values, heights) = level.histograms.bars(j);
        let (promotes, suppresses) = logits.map_or((&[][..], &[][..]), |l| (&l.promotes, &l.suppresses));
        let strings = |list: &'a [(String, f64)]| list.iter().map(|(token, _)| token.as_str()).collect();
        let numbers = |list: &[(String, f64)]| list.iter().map(|(_, effect)| *effect).collect();
        let max = seen.places.first().map_or(0.0, |p| p.value);
        Feature {
            feature_index: j as u32,
            unknown: Unknown::default(),
            neg_str: strings(suppresses),
            neg_values: numbers(suppresses),
            pos_str: strings(promotes),
            pos_values: numbers(promotes),
            frac_nonzero: seen.fires as f64 / self.dump.n_rows() as f64,
            freq_hist_data_bar_values: values,
            freq_hist_data_bar_heights: heights,
            n_prompts_total: self.prompts,
            n_tokens_in_prompt: self.context,
            dataset: self.dump.name(),
            activations: seen.places.iter().map(|p| self.activation(p, max)).collect(),
        }
    }

    fn activation(&self, place: &Place, max: f32) -> Activation {
        let first = place.window.first as usize;
        let text = |t: u32| match self.dump.vocab().and_then(|v| v.get(t as usize)) {
            Some(text) => text.clone(),
            None => format!("<{t}>"),
        };
        Activation {
            bin_min: -1.0,
            bin_max: max,
            bin_contains: -1.0,
            tokens: self.tokens[first..first + place.window.length].iter().map(|t| text(*t)).collect(),
            values: place.window.dense(),
            qualifying_token_index: (place.row - place.window.first) as usize,
        }
    }
}
