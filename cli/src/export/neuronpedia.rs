//! Feature dashboards as SAEDashboard writes them for Neuronpedia: `level1/batch-0.json` and so on, with 128 latents
//! per file, likewise `level2`.
//!
//! These fields are written, over all rows of the dump:
//!
//! - `frac_nonzero`: the share of rows on which the latent fires;
//! - `freq_hist_data_bar_values`, `_heights`: its activations above 0 in 50 equal bars from the smallest to the largest,
//!   the middle of each bar and the count in it;
//! - `activations`: contexts in which it fires, with the surrounding tokens and activations (28 rows before and 12 after, of
//!   the same sequence). First the strongest, at most one per sequence, with `bin_min` and `bin_contains` -1; then, for each
//!   fifth of the range from 0 to the largest activation, the highest first, five random contexts (only rows on which the
//!   latent fires, while SAEDashboard also takes others) with the ends of the fifth and the share of all rows in it. As in
//!   SAEDashboard, rows on which it does not fire count in the share of the lowest fifth;
//! - `correlated_features_*`: the three latents of the level with the largest correlations above 0 (among all latents of the
//!   level, or among groups of consecutive ones where all pairs would need more than 256 MiB; SAEDashboard searches the 128 of
//!   a file), `correlated_neurons_*` the same of the dimensions of the rows (unless they would need more than 512 MiB, and not
//!   for a transcoder); `_l1` are the cosines, as in SAEDashboard;
//! - `neuron_alignment_*`: the three largest numbers of the decoder direction, and their shares of the sum of its sizes;
//! - `vector`: the decoder direction;
//! - `pos_str`, `pos_values`, `neg_str`, `neg_values`: the tokens whose logits an activation of 1 raises and lowers most,
//!   from `RUN/latents.jsonl`; empty until `strata eval` has written it with a language model.
//!
//! Fields that need a live language model are empty: `logits_hist_*` (the effect on every logit; `latents.jsonl` has
//! the largest) and `decoder_weights_dist` (the heads of an attention layer); attribution (`dfa_*`) is left out.
//! `layer` is the number in the hook point, and 0 where it has none, with a sentence about it; `n_tokens_in_prompt` is
//! the length of the longest sequence; `model_id` is empty where nothing names the model.
//!
//! Memory: at most 12 kB per latent and the sums of the correlations, `latents.jsonl` as a whole while it is read (some
//! 40 kB per latent), and blocks of rows (see `each_group`); it does not grow with the rows.

use super::correlations::{Correlated, Correlations};
use super::groups::Groups;
use super::histogram::Histograms;
use super::job::{Exported, Job, lacks, tokens};
use crate::console::{Console, check_interrupt};
use crate::dump::Dump;
use crate::eval::batches::{Sequences, each_group};
use crate::eval::latents::{self, LatentRecord};
use crate::eval::strongest::{Place, Seen, Strongest};
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

use strata_core::format::weights::layer_of;
use strata_core::train::Solo;
use strata_core::{Codes, Encoder};

/// Latents per file, as in SAEDashboard.
const FEATURES: usize = 128;
/// Rows around a context.
const REACH: Reach = Reach { before: 28, after: 12 };

/// One file, with SAEDashboard's names and order.
#[derive(Serialize)]
struct Batch<'a> {
    model_id: &'a str,
    layer: u64,
    sae_set: &'a str,
    sae_id_suffix: &'a str,
    features: Vec<Feature<'a>>,
}

#[derive(Serialize)]
struct Feature<'a> {
    feature_index: u32,
    #[serde(flatten)]
    unknown: Unknown,
    neuron_alignment_indices: Vec<usize>,
    neuron_alignment_values: Vec<f32>,
    neuron_alignment_l1: Vec<f64>,
    correlated_neurons_indices: Vec<u32>,
    correlated_neurons_l1: Vec<f64>,
    correlated_neurons_pearson: Vec<f64>,
    correlated_features_indices: Vec<u32>,
    correlated_features_l1: Vec<f64>,
    correlated_features_pearson: Vec<f64>,
    neg_str: Vec<&'a str>,
    neg_values: Vec<f64>,
    pos_str: Vec<&'a str>,
    pos_values: Vec<f64>,
    frac_nonzero: f64,
    freq_hist_data_bar_values: Vec<f32>,
    freq_hist_data_bar_heights: Vec<u64>,
    n_prompts_total: u64,
    n_tokens_in_prompt: u64,
    dataset: &'a str,
    activations: Vec<Activation>,
    vector: &'a [f32],
}

/// Fields that cannot be filled; they are always written, empty, since readers expect them.
#[derive(Default, Serialize)]
struct Unknown {
    logits_hist_data_bar_heights: [f32; 0],
    logits_hist_data_bar_values: [f32; 0],
    decoder_weights_dist: [f32; 0],
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
    groups: Groups,
    correlations: Correlations,
}

impl Level {
    /// Returns an empty level of `latents` latents on rows of width `d`; 0 where the rows are not known.
    fn new(level: usize, latents: usize, d: usize) -> Self {
        Self {
            strongest: Strongest::new(level, latents, REACH),
            histograms: Histograms::new(latents),
            groups: Groups::new(level, REACH, std::iter::empty()),
            correlations: Correlations::new(latents, d),
        }
    }
}

/// Dimensions of a decoder direction that are named, as in SAEDashboard.
const ALIGNED: usize = 3;

/// Writes and finishes `out`.
///
/// # Errors
/// As [`super::export`]; if `RUN/latents.jsonl` belongs to another model.
pub fn write(job: &Job<'_>, mut out: PendingDirectory, console: &mut Console<'_>) -> Result<Exported> {
    let Job { run, dump, isa, .. } = job;
    let tokens = tokens(dump)?;
    ensure!(Sequences::new(dump).known(), lacks(dump, "the starts of its sequences"));
    let encoder = run.encoder(*isa)?;
    // Rows of a hundred times the norm would be the strongest contexts of most latents, and have most of the correlations.
    let filter = RowFilter::of_model(dump, &run.origin.left_out, *isa)?;
    let [f1, f2] = encoder.model().arch.latents();
    let logits = logits_of(run, f1, f2)?;
    if logits.iter().all(|l| l.promotes.is_empty()) {
        console.note(format!(
            "{} has no effects on logits, so that the export has none: `strata eval` computes them with a language model",
            run.dir.join("latents.jsonl").display()
        ));
    }
    let layer = layer_of(job.hook());
    if layer.is_none() {
        let hook =
            job.hook().map_or_else(|| "the dump has no hook point".into(), |hook| format!("`{hook}` has no number"));
        console.note(format!(
            "{hook}: the files have layer 0; name another hook point with --hook, as in blocks.3.hook_resid_post"
        ));
    }
    let bar = console.bar("exporting", 2 * dump.n_rows(), "tokens");
    let (levels, rows) = passes(&encoder, dump, &filter, &bar)?;
    for (level, number) in levels.iter().zip(1..).filter(|(level, _)| !level.strongest.latents.is_empty()) {
        let (correlations, f) = (&level.correlations, level.strongest.latents.len());
        if correlations.width() < f {
            let width = correlations.width();
            console.note(format!(
                "level {number}: correlated latents are searched in groups of {width} of the {f} latents"
            ));
        }
        if !correlations.has_columns() {
            console.note(format!(
                "level {number}: correlations with the dimensions of the rows are left out, since they are too many or the rows are not known"
            ));
        }
    }
    let set = run.dir.canonicalize().ok().and_then(|d| Some(d.file_name()?.to_string_lossy().into_owned()));
    let set = set.unwrap_or_else(|| "strata".into());
    let files = Files {
        dump,
        rows,
        out: job.out,
        tokens,
        set: &set,
        model: job.model().unwrap_or_default(),
        layer: layer.unwrap_or(0),
        longest: longest(dump),
        prompts: Sequences::new(dump).count(0, dump.n_rows()),
    };
    let mut directories = Vec::new();
    let (logits1, logits2) = logits.split_at(logits.len().min(f1));
    for ((level, logits), name) in levels.iter().zip([logits1, logits2]).zip(["level1", "level2"]) {
        if level.strongest.latents.is_empty() {
            continue;
        }
        let arch = &encoder.model().arch;
        let decoder = if name == "level1" { &encoder.model().params.level[0].w_dec } else { encoder.decoder2() };
        let decoder = Decoder { rows: decoder, d: arch.d_out() };
        files.write(level, logits, decoder, name, &out.directory(name)?)?;
        directories.push(name.to_owned());
    }
    out.finish()?;
    bar.finish_and_clear();
    let entries = levels.map(|l| l.strongest.latents.iter().map(|seen| seen.fires).sum());
    Ok(Exported { format: "neuronpedia", rows, left_out: dump.n_rows() - rows, entries, directories })
}

/// Reads the rows that `filter` keeps twice, and returns their number: first for the strongest contexts, the range of the bars and the correlations, then for the
/// counts and the groups.
fn passes(encoder: &Encoder, dump: &Dump, filter: &RowFilter<'_>, bar: &ProgressBar) -> Result<([Level; 2], u64)> {
    let [f1, f2] = encoder.model().arch.latents();
    // The rows that a transcoder reconstructs are not known.
    let d = if encoder.model().arch.variant.target.is_some() { 0 } else { dump.d() };
    let mut levels = [Level::new(0, f1, d), Level::new(1, f2, d)];
    let (mut kept, all) = (0, (0, dump.n_rows()));
    each_group(encoder, dump.into(), filter, Unit::ONE, all, &Solo, |batches| {
        let [level1, level2] = &mut levels;
        let add = |level: &mut Level, at: usize| -> Result<()> {
            for batch in batches {
                level.strongest.add(batch, None)?;
                each_activation(&batch.codes[at], |latent, value| level.histograms.widen(latent, value));
                level.correlations.add(&batch.codes[at], &batch.x)?;
            }
            Ok(())
        };
        let (one, two) = rayon::join(|| add(level1, 0), || add(level2, 1));
        one.and(two)?;
        kept += batches.iter().map(|b| b.n() as u64).sum::<u64>();
        bar.inc(batches.iter().map(|b| b.n() as u64).sum());
        Ok(())
    })?;
    for (at, level) in levels.iter_mut().enumerate() {
        let largest = |seen: &Seen| seen.places.first().map_or(0.0, |place| place.value);
        level.groups = Groups::new(at, REACH, level.strongest.latents.iter().map(largest));
    }
    each_group(encoder, dump.into(), filter, Unit::ONE, all, &Solo, |batches| {
        for batch in batches {
            for (level, codes) in levels.iter_mut().zip(&batch.codes) {
                each_activation(codes, |latent, value| level.histograms.count(latent, value));
                level.groups.add(batch)?;
            }
        }
        bar.inc(batches.iter().map(|b| b.n() as u64).sum());
        Ok(())
    })?;
    Ok((levels, kept))
}

/// Calls `f` with every latent that fires and its activation, in the order of the rows.
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

/// Returns the number of rows of the longest sequence.
fn longest(dump: &Dump) -> u64 {
    let n = dump.n_rows();
    match dump.sequence_starts() {
        Some(starts) => {
            starts.iter().zip(starts.iter().skip(1).chain([&n])).map(|(from, to)| to - from).max().unwrap_or(n)
        }
        None => dump.context().map_or(n, |context| n.min(context as u64)),
    }
}

/// Decoder directions of a level, `(f, d)`.
#[derive(Clone, Copy)]
struct Decoder<'a> {
    rows: &'a [f32],
    d: usize,
}

/// Fields that the files of both levels share.
struct Files<'a> {
    dump: &'a Dump,
    /// Rows that are exported.
    rows: u64,
    out: &'a Path,
    tokens: &'a [u32],
    set: &'a str,
    model: &'a str,
    layer: u64,
    longest: u64,
    prompts: u64,
}

impl Files<'_> {
    /// Writes the files of a level; `logits` are none or as many as there are latents.
    fn write(
        &self,
        level: &Level,
        logits: &[Logits],
        decoder: Decoder<'_>,
        name: &str,
        directory: &Path,
    ) -> Result<()> {
        let latents: Vec<usize> = (0..level.strongest.latents.len()).collect();
        for (i, some) in latents.chunks(FEATURES).enumerate() {
            check_interrupt()?;
            let batch = Batch {
                model_id: self.model,
                layer: self.layer,
                sae_set: self.set,
                sae_id_suffix: name,
                features: some.iter().map(|j| self.feature(*j, level, decoder, logits.get(*j))).collect(),
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

    fn feature<'a>(&'a self, j: usize, level: &Level, decoder: Decoder<'a>, logits: Option<&'a Logits>) -> Feature<'a> {
        let vector = &decoder.rows[j * decoder.d..(j + 1) * decoder.d];
        let mut aligned: Vec<usize> = (0..decoder.d).collect();
        aligned.sort_by(|a, b| vector[*b].total_cmp(&vector[*a]).then(a.cmp(b)));
        aligned.truncate(ALIGNED);
        let size: f64 = vector.iter().map(|v| f64::from(v.abs())).sum();
        let share = |i: &usize| if size > 0.0 { f64::from(vector[*i].abs()) / size } else { 0.0 };
        let (neurons, features) = (level.correlations.columns(j), level.correlations.latents(j));
        let Correlated { indices, cosine, pearson } = neurons;
        let n_rows = self.rows as f64;
        let seen = &level.strongest.latents[j];
        let (values, heights) = level.histograms.bars(j);
        let (promotes, suppresses) = logits.map_or((&[][..], &[][..]), |l| (&l.promotes, &l.suppresses));
        let strings = |list: &'a [(String, f64)]| list.iter().map(|(token, _)| token.as_str()).collect();
        let numbers = |list: &[(String, f64)]| list.iter().map(|(_, effect)| *effect).collect();
        let max = seen.places.first().map_or(0.0, |p| p.value);
        Feature {
            feature_index: j as u32,
            unknown: Unknown::default(),
            neuron_alignment_values: aligned.iter().map(|i| vector[*i]).collect(),
            neuron_alignment_l1: aligned.iter().map(share).collect(),
            neuron_alignment_indices: aligned,
            correlated_neurons_indices: indices,
            correlated_neurons_l1: cosine,
            correlated_neurons_pearson: pearson,
            correlated_features_indices: features.indices,
            correlated_features_l1: features.cosine,
            correlated_features_pearson: features.pearson,
            neg_str: strings(suppresses),
            neg_values: numbers(suppresses),
            pos_str: strings(promotes),
            pos_values: numbers(promotes),
            frac_nonzero: seen.fires as f64 / n_rows,
            freq_hist_data_bar_values: values,
            freq_hist_data_bar_heights: heights,
            n_prompts_total: self.prompts,
            n_tokens_in_prompt: self.longest,
            dataset: self.dump.name(),
            activations: {
                let strongest = seen.places.iter().map(|p| self.activation(p, [-1.0, max, -1.0]));
                let silent = |lower: f32| if lower > 0.0 { 0 } else { self.rows - seen.fires };
                let groups = level.groups.of(j).flat_map(|group| {
                    let share = (group.rows + silent(group.lower)) as f64 / n_rows;
                    let bins = [group.lower, group.upper, share as f32];
                    group.places().into_iter().map(move |p| self.activation(p, bins))
                });
                strongest.chain(groups).collect()
            },
            vector,
        }
    }

    fn activation(&self, place: &Place, [bin_min, bin_max, bin_contains]: [f32; 3]) -> Activation {
        let first = place.window.first as usize;
        let text = |t: u32| match self.dump.vocab().and_then(|v| v.get(t as usize)) {
            Some(text) => text.clone(),
            None => format!("<{t}>"),
        };
        Activation {
            bin_min,
            bin_max,
            bin_contains,
            tokens: self.tokens[first..first + place.window.length].iter().map(|t| text(*t)).collect(),
            values: place.window.dense(),
            qualifying_token_index: (place.row - place.window.first) as usize,
        }
    }
}
