//! `strata eval`: measures a run on the rows that training held out (on all rows if it held out none), in one pass,
//! with memory that does not grow with the rows.

use crate::console::{Console, check_interrupt};
use crate::dump::Dump;
use crate::feed;
use crate::files::{MadeDirectories, check_writable, directory_name, read, write_atomic};
use crate::health::{self, Asked, Evaluated};
use crate::lm::Lm;
use crate::probe::{NamedAbsorption, character_absorption, description_length};
use crate::ranks;
use crate::row_filter::{LeftOut, RowFilter};
use crate::run::Run;
use crate::settings;
use crate::splice::{self, SpliceReport, splice};
use crate::truth;
use anyhow::{Result, anyhow, bail, ensure};
use serde::Serialize;
use std::num::NonZeroU64;
use std::ops::Range;
use std::path::Path;
use strata_core::metrics::absorption::SAMPLE;
use strata_core::metrics::attribution::{AttributionReport, PathReport};
use strata_core::metrics::composition::{CompositionNull, CompositionReport, GatedReport};
use strata_core::metrics::condition::ConditionReport;
use strata_core::metrics::fidelity::FidelityReport;
use strata_core::metrics::hierarchy::HierarchyReport;
use strata_core::metrics::leak::LeakReport;
use strata_core::metrics::patterns::across::AcrossReport;
use strata_core::metrics::patterns::{PatternReport, Patterns};
use strata_core::metrics::probe::mdl::MdlReport;
use strata_core::metrics::recovery::Recovery;
use strata_core::metrics::similarity::SimilarityReport;
use strata_core::metrics::sparsity::SparsityReport;
use strata_core::metrics::stability::StabilityReport;
use strata_core::metrics::structure::StructureReport;
use strata_core::model::TopkBy;
use strata_core::train::Comm;
use strata_core::{Codes, Config, Device, Encoder, Isa, Par};

pub mod bars;
pub(crate) mod batches;
pub mod classes;
mod collect;
pub mod control;
mod families;
mod intervals;
pub mod latents;
pub mod meta;
pub mod sample;
pub(crate) mod strongest;
mod table;
pub mod texts;
pub(crate) mod unit;
pub mod verdict;
pub(crate) mod window;
mod words;

pub use families::Coherence;
pub use intervals::Intervals;
pub use table::print;

use batches::Pair;
use collect::{Collector, Tree};
use control::ControlReport;
use families::DRAWS;
use intervals::intervals;
use latents::LatentRecord;
use meta::{Meta, meta_sae};
use sample::Sampled;
use verdict::Verdict;

/// Seed of the random choices of an evaluation.
const SEED: u64 = 0;

/// A run, a dump, and what to evaluate.
pub struct Job<'a> {
    /// The run.
    pub run: &'a Run,
    /// The dump.
    pub dump: &'a Dump,
    /// The rows that a transcoder should reconstruct.
    pub target: Option<&'a Dump>,
    /// Evaluate every row, not only those that training held out.
    pub all: bool,
    /// The language model that the rows come from, for the effects of latents on its logits.
    pub lm: Option<&'a Lm>,
    /// Splice the reconstructions into the language model, in at most so many tokens.
    pub splice: Option<NonZeroU64>,
    /// Another run to compare with, for instance with another seed.
    pub against: Option<&'a Run>,
    /// The directory for the files, made if it does not exist; by default that of the run.
    pub out: Option<&'a Path>,
    /// Instruction set.
    pub isa: Isa,
    /// The GPU to encode on.
    pub device: Option<&'a Device>,
    /// The ranks, each of which measures some of the rows; the first one has the result.
    pub comm: &'a dyn Comm,
}

/// `eval.json`. NaN is written as null: see each metric for when it is undefined.
#[derive(Clone, Debug, Serialize)]
pub struct Evaluation {
    /// The dump.
    pub dump: String,
    /// First row that was evaluated, and number of rows.
    pub rows: [u64; 2],
    /// Whether training held them out, by the settings of the run.
    pub held_out: bool,
    /// Number of passes of training over its rows, if the model tells it.
    pub passes: Option<f64>,
    /// Rows that are left out of every score, since training left them out.
    pub left_out: LeftOutReport,
    /// Target L0 of each level in the settings; none if they are not known or have no target per level.
    pub asked_l0: Option<[f64; 2]>,
    /// What is wrong, one sentence each.
    pub warnings: Vec<String>,
    /// Reconstruction, both levels.
    pub fidelity: FidelityReport,
    /// Intervals of the headline scores.
    pub intervals: Intervals,
    /// Activation sparsity of level 1.
    pub level1: SparsityReport,
    /// Activation sparsity of level 2; none for a flat model.
    pub level2: Option<SparsityReport>,
    /// Where latents fire: positions in a sequence, kinds of tokens, runs; none for a dump without starts of sequences.
    pub patterns: Option<PlacesReport>,
    /// Whether the hierarchy is real, by a rule that is part of it.
    pub verdict: Verdict,
    /// The relation of the levels where children fire without the gate, with an entry for each child and parent; none
    /// without families.
    pub composition: Option<CompositionReport>,
    /// The same relation for random families of the same sizes and densities.
    pub composition_null: Option<CompositionNull>,
    /// The scores of the families behind the gate; none without families.
    pub gated: Option<GatedReport>,
    /// The scores of the control, the same training with random parents; none where the run has no control.
    pub control: Option<ControlReport>,
    /// Correlation of the numbers of active latents of the levels; none without families.
    pub across: Option<AcrossReport>,
    /// Firings that the gate removes; none without families.
    pub leak: Option<LeakReport>,
    /// Shares of the subtrees in the reconstruction of a row; none without families.
    pub attribution: Option<AttributionReport>,
    /// The paths from children to parents; only for composing decoders.
    pub paths: Option<PathReport>,
    /// Whether the rows on which a child fires contain the directions of its parent and of itself; none without
    /// families.
    pub condition: Option<ConditionReport>,
    /// The hierarchy score of Tree SAE.
    pub hierarchy: Option<HierarchyReport>,
    /// Whether families are clusters; none without families.
    pub coherence: Option<Coherence>,
    /// Whether children resemble their parents; none without families.
    pub similarity: Option<SimilarityReport>,
    /// The structure of the decoders, of each level and between the levels.
    pub structure: StructureReport,
    /// A sparse autoencoder of the directions of level 2; none where there are few.
    pub meta: Option<Meta>,
    /// Bits to describe the codes of each level, on a sample of the rows; none for a level that never fires.
    pub description_length: [Option<MdlReport>; 2],
    /// Absorption: classes of tokens on which latents fail to fire because others fire in their place, on the same
    /// sample; empty for a dump without tokens and their texts.
    pub absorption: Vec<NamedAbsorption>,
    /// The name of the other run that was compared with; none where none was named.
    pub against: Option<String>,
    /// Agreement with another run, where one was named.
    pub stability: Option<StabilityReport>,
    /// How much of the dump's truth was found, on its last rows; none for a dump without one.
    pub recovery: Option<Recovery>,
    /// The cost of the reconstructions in the cross-entropy of the language model, where it was asked for.
    pub splice: Option<SpliceReport>,
}

/// The rows that training left out, and the FVU with them.
#[derive(Clone, Debug, Serialize)]
pub struct LeftOutReport {
    /// Norms over this are left out; none where every norm is kept.
    pub norm_limit: Option<f64>,
    /// Rows over the limit.
    pub over_limit: u64,
    /// Rows that are left out by their position or token.
    pub named: u64,
    /// FVU of each level on all rows, those that are left out included.
    pub fvu_of_all: [f64; 2],
}

/// Where the latents of both levels fire.
#[derive(Clone, Debug, Serialize)]
pub struct PlacesReport {
    /// Names of the kinds of tokens, by number; empty where the dump has no texts.
    pub classes: Vec<String>,
    /// Level 1.
    pub level1: PatternReport,
    /// Level 2; none for a flat model.
    pub level2: Option<PatternReport>,
}

/// An evaluation, with a record of each latent.
pub struct Found {
    /// The content of `eval.json`.
    pub evaluation: Evaluation,
    /// The content of `latents.jsonl`.
    pub latents: Vec<LatentRecord>,
    /// Whether no score is meaningful; the last of the warnings says why.
    pub is_meaningless: bool,
}

/// Evaluates, and writes `eval.json` and `latents.jsonl` into the directory of the job or of the run. The result is that of the
/// first rank; none on the others.
///
/// # Errors
/// As [`find_and_write`]; or if a file cannot be written.
pub fn eval(job: &Job<'_>, console: &mut Console<'_>) -> Result<Option<Found>> {
    let Some((found, written)) = find_and_write(job, console)? else { return Ok(None) };
    written.map(|()| Some(found))
}

/// Evaluates, and returns the result together with the error of writing it, if there was one. Before anything is
/// measured it checks that files can be made in the directory. Of several ranks only the first has a result and writes it.
///
/// # Errors
/// If the directory is not one or cannot be written into, the widths differ, a row is not finite, or the dump lacks
/// what splicing needs.
pub fn find_and_write(job: &Job<'_>, console: &mut Console<'_>) -> Result<Option<(Found, Result<()>)>> {
    if job.comm.rank() > 0 {
        find(job, console)?;
        return Ok(None);
    }
    let dir = job.run.output(job.out)?;
    let mut made = MadeDirectories::all(dir)?;
    let writable = check_writable(dir);
    writable.map_err(|e| if job.out.is_none() { anyhow!("{e}; name another directory with --out") } else { e })?;
    let Some(found) = find(job, console)? else { return Ok(None) };
    let written = write(&found, dir);
    if written.is_ok() {
        made.keep();
        console.note(format!("every metric is in {}", dir.join("eval.json").display()));
    }
    Ok(Some((found, written)))
}

fn write(found: &Found, dir: &Path) -> Result<()> {
    latents::write(&found.latents, &dir.join("latents.jsonl"))?;
    let text = serde_json::to_string_pretty(&found.evaluation)?;
    write_atomic(&dir.join("eval.json"), format!("{text}\n").as_bytes())
}

/// Evaluates without writing. None on all ranks but the first.
fn find(job: &Job<'_>, console: &mut Console<'_>) -> Result<Option<Found>> {
    let Job { run, dump, isa, device, comm, .. } = job;
    run.check_width(dump)?;
    run.check_target(dump, job.target)?;
    let pair = Pair { input: dump, target: job.target };
    if run.model.arch.variant.topk_by == TopkBy::Absolute {
        console.note("latents of this model may be below 0: metrics of activity use their absolute value");
    }
    ensure!(
        job.splice.is_none() || run.model.arch.variant.target.is_none(),
        "--splice replaces a row by its reconstruction, and a transcoder reconstructs another row than it reads"
    );
    let read = pair.reconstructed();
    if let Some(lm) = job.lm {
        // Some hook points have another width than the residual stream.
        let hook = dump.hook().and_then(|name| lm.hook(name).ok());
        let width = hook.map_or(lm.config().d, |hook| lm.width(hook));
        if width != read.d() {
            bail!("{} has rows of width {}, and {} has width {width}", read.name(), read.d(), lm.name());
        }
    }
    let other = job.against.map(|other| -> Result<Encoder> {
        other.check_width(dump)?;
        other.encoder_on(*isa, *device)
    });
    let other = other.transpose()?;
    let control = crate::control::of(run)?;
    let (rows, held_out, config) = rows_of(job)?;
    ranks::check_alike(*comm, &format!("{} {} {rows:?} {}", run.hash, dump.fingerprint(), control.is_some()))?;
    let filter = RowFilter::of_model(dump, &run.origin.left_out, *isa)?;
    let encoder = run.encoder_on(*isa, *device)?;
    let (f1, f2) = (encoder.model().arch.level[0].latents, encoder.model().arch.level[1].latents);
    let world = truth::open(dump)?;
    let first_scored = world.as_ref().map_or(rows.end, |w| truth::first_scored(w, rows.start, rows.end));
    let mut seen = Collector::new(&encoder, pair, &filter, rows.clone(), first_scored)?;
    if seen.tree.is_none() && !encoder.model().parents.is_empty() {
        console.note(format!(
            "{f1} x {f2} pairs of latents are too many to count: no metric between the levels is measured"
        ));
    }
    let unit = seen.unit;
    let bar = console.bar("measuring", rows.end - rows.start, "tokens");
    let mut jobs = seen.jobs();
    batches::each_group(&encoder, pair, &filter, unit, (rows.start, rows.end), *comm, |some| {
        jobs.take_in(*comm, some)?;
        bar.inc(some.iter().map(|b| b.n() as u64 + b.left_out.total()).sum());
        Ok(())
    })?;
    drop(jobs);
    bar.finish_and_clear();
    seen.merge(*comm)?;
    let of_control = control::Rows { pair, rows: &rows, own: &seen, filter: &filter, comm: *comm };
    let control = control.as_ref().map(|c| control::measure(c, &of_control, *isa, console)).transpose()?.flatten();
    // What follows reads weights and sums, and a sample of the rows.
    if comm.rank() > 0 {
        return Ok(None);
    }
    let splice = job
        .lm
        .zip(job.splice)
        .map(|(lm, most)| splice_rows(job, &encoder, lm, most, &filter, &rows, console))
        .transpose()?;
    let spinner = console.spinner("comparing families, neighbours and nulls");
    // Only directions of the width of the residual stream have effects on logits.
    let streams = job.lm.filter(|lm| lm.config().d == read.d());
    let unembedding = streams.map(Lm::unembedding).transpose()?;
    let text = seen.text.as_ref();
    let mut fidelity = seen.fidelity.report();
    let composition = seen.tree.as_ref().map(|t| t.composition.report());
    let mut gated = seen.tree.as_ref().map(|t| t.gated.gated());
    let similar = |t: &Tree| families::similarity(&encoder, text, t.composition.fires(), unembedding.as_deref());
    let latents = latents::records(&latents::Sources {
        encoder: &encoder,
        dump,
        seen: &seen,
        composition: composition.as_ref(),
        gated: gated.as_ref(),
        sse2: fidelity.level2.mse * fidelity.tokens as f64,
        unembedding: unembedding.as_deref(),
    })?;
    // From here on numbers are in units of the activations.
    for level in [&mut fidelity.level1, &mut fidelity.level2] {
        level.mse = unit.up_squared(level.mse);
    }
    gated.iter_mut().flat_map(|g| &mut g.child).for_each(|child| child.gain = unit.up_squared(child.gain));
    let places = |patterns: &Patterns| {
        let mut report = patterns.report();
        report.latent.iter_mut().for_each(|l| l.value_mean = unit.up(l.value_mean));
        report
    };
    let [scored1, scored2] = &seen.scored;
    let sampled = Sampled::rows(&encoder, pair, &filter, (rows.start, rows.end), SAMPLE, true, SEED)?;
    let views = sampled.views(&encoder)?;
    // These run in parallel, since some of them cannot use all threads.
    let tree = seen.tree.as_ref();
    let ((of_families, structure), (of_sample, (meta, hierarchy))) = rayon::join(
        || {
            let of_families = || -> Result<_> {
                Ok((
                    tree.map(|t| t.composition.null(Par::Rayon, DRAWS)),
                    tree.map(|t| families::condition(&encoder, t)).transpose()?,
                    tree.map(|t| families::coherence(&encoder, t, text)).transpose()?,
                    tree.map(similar).transpose()?,
                ))
            };
            rayon::join(of_families, || families::structure(&encoder, tree))
        },
        || {
            let of_sample = || -> Result<_> {
                let lengths = [description_length(&views[0], &sampled)?, description_length(&views[1], &sampled)?];
                Ok((lengths, character_absorption(dump, &encoder, &sampled, SEED)?))
            };
            let meta = || meta_sae(encoder.decoder2(), encoder.model().arch.d_out(), SEED, *isa);
            rayon::join(of_sample, || rayon::join(meta, || families::hierarchy(&encoder, &sampled, SEED)))
        },
    );
    let (composition_null, condition, coherence, similarity) = of_families?;
    let (description_length, absorption) = of_sample?;
    let (level1, level2) = (seen.level1.report(), seen.level2.as_ref().map(|l| l.report()));
    let asked = config.as_ref().map_or(Asked::Nothing, health::asked);
    let asked_l0 = if let Asked::Each(asked) = asked { Some(asked) } else { None };
    let (warnings, is_meaningless) = health::of_evaluation(&Evaluated {
        rows: fidelity.tokens,
        vary: !fidelity.level1.fvu.is_nan(),
        fvu: [fidelity.level1.fvu, fidelity.level2.fvu],
        l0: [level1.l0_mean, level2.as_ref().map_or(f64::NAN, |l| l.l0_mean)],
        dead: [level1.dead, level2.as_ref().map_or(f64::NAN, |l| l.dead)],
        latents: [f1, f2],
        asked,
        unfilled: health::unfilled(dump)?,
    });
    let stability = other.map(|other| families::stability(&encoder, &other)).transpose()?;
    let intervals = intervals(&seen, encoder.model().arch.d_out())?;
    let verdict = verdict::of(&verdict::Evidence {
        two_levels: f2 > 0,
        composition: composition.as_ref(),
        null: composition_null.as_ref(),
        intervals: &intervals,
        control: control.as_ref(),
        stability: stability.as_ref(),
        seeds: job.against.map(|other| verdict::seeds(run, other)).transpose()?,
        trained: verdict::trained(run)?,
    });
    let LeftOut { over_limit, named } = seen.left_out;
    let of_all = seen.fidelity_of_all.as_ref().map(|all| all.report());
    let evaluation = Evaluation {
        dump: dump.name().to_owned(),
        rows: [rows.start, rows.end - rows.start],
        held_out,
        passes: run.origin.passes,
        left_out: LeftOutReport {
            norm_limit: filter.rule().norm_limit.map(f64::from),
            over_limit,
            named,
            fvu_of_all: of_all.map_or([f64::NAN; 2], |all| [all.level1.fvu, all.level2.fvu]),
        },
        asked_l0,
        warnings,
        intervals,
        verdict,
        gated,
        control,
        level1,
        level2,
        patterns: seen.places.as_ref().map(|p| PlacesReport {
            classes: p.classes.iter().flat_map(|c| c.names()).map(|n| (*n).to_owned()).collect(),
            level1: places(&p.level1),
            level2: (f2 > 0).then(|| places(&p.level2)),
        }),
        composition_null,
        across: seen.tree.as_ref().map(|t| t.across.report()),
        leak: seen.tree.as_ref().map(|t| t.leak.report()),
        attribution: seen.tree.as_ref().map(|t| t.attribution.report()),
        paths: families::paths(&encoder)?,
        condition,
        hierarchy: hierarchy?,
        coherence,
        similarity,
        structure: structure?,
        meta: meta?,
        description_length,
        absorption,
        against: job.against.map(|other| directory_name(&other.dir)),
        stability,
        recovery: world.map(|w| truth::score(&w, &encoder, &seen.scored_rows, scored1, scored2)).transpose()?,
        composition,
        fidelity,
        splice,
    };
    spinner.finish_and_clear();
    debug_assert_eq!(latents.len(), f1 + f2, "one record per latent of both levels");
    check_interrupt()?;
    evaluation.warnings.iter().for_each(|warning| console.warn(warning));
    Ok(Some(Found { evaluation, latents, is_meaningless }))
}

/// Returns the rows that training held out by the settings of the run, whether it held out any, and those settings;
/// every row with `all`, or where none were held out.
fn rows_of(job: &Job<'_>) -> Result<(Range<u64>, bool, Option<Config>)> {
    let n = job.dump.n_rows();
    if n == 0 {
        bail!("{} has no rows", job.dump.name());
    }
    let path = job.run.dir.join("config.toml");
    let Some(text) = read::optional_text(&path, read::SMALL)? else { return Ok((0..n, false, None)) };
    let config = settings::parse(&text, &path.display().to_string())?;
    let (start, end) = feed::split(job.dump, config.data.holdout);
    Ok(if start < end && !job.all { (start..end, true, Some(config)) } else { (0..n, false, Some(config)) })
}

/// Returns the windows at even distances that together have at most `most` rows, or the first of them alone.
fn spread(windows: Vec<Range<u64>>, most: u64) -> Vec<Range<u64>> {
    let rows = |of: &[Range<u64>]| of.iter().map(|w| w.end - w.start).sum::<u64>();
    let evenly = |n: usize| -> Vec<Range<u64>> { (0..n).map(|i| windows[i * windows.len() / n].clone()).collect() };
    // Lengths differ, so the number that fits is found by trial, from the one that fits on average downwards.
    let mut n = windows.len();
    while n > 1 {
        let chosen = evenly(n);
        let found = rows(&chosen);
        if found <= most {
            return chosen;
        }
        n = (n - 1).min(((n as u64).saturating_mul(most) / found) as usize).max(1);
    }
    evenly(n.min(windows.len()))
}

/// Splices the reconstructions of the rows into the language model that they come from: of whole sequences, as many as
/// hold no more than `most` tokens (but one at least), spread evenly over `rows`.
fn splice_rows(
    job: &Job<'_>,
    encoder: &Encoder,
    lm: &Lm,
    most: NonZeroU64,
    filter: &RowFilter<'_>,
    rows: &Range<u64>,
    console: &mut Console<'_>,
) -> Result<SpliceReport> {
    let dump = job.dump;
    let need = |what: &str| {
        anyhow!("--splice needs a dump that has {what}, and {} does not: capture it with `strata capture`", dump.name())
    };
    let tokens = dump.tokens().ok_or_else(|| need("its tokens"))?;
    let starts = dump.sequence_starts().ok_or_else(|| need("the starts of its sequences"))?;
    let hook = lm.hook(dump.hook().ok_or_else(|| need("the hook point of its rows"))?)?;
    // Whole sequences with something to predict.
    let ends = starts.iter().skip(1).copied().chain([dump.n_rows()]);
    let whole = starts.iter().copied().zip(ends).filter(|(from, to)| *from >= rows.start && *to <= rows.end);
    let windows: Vec<Range<u64>> = whole.map(|(from, to)| from..to).filter(|w| w.end - w.start > 1).collect();
    let windows = spread(windows, most.get());
    let Some(first) = windows.first() else {
        bail!("the rows that are evaluated hold no whole sequence of two tokens or more");
    };
    // Sequences of one token lie between the others.
    let lengths: Vec<usize> = windows.iter().map(|w| (w.end - w.start) as usize).collect();
    let places: Vec<u64> = windows.iter().cloned().flatten().collect();
    let ids: Vec<u32> = places.iter().map(|row| tokens[*row as usize]).collect();
    splice::check_window(lm, hook, dump, first.start, &ids[..lengths[0]])?;
    let sample = feed::sample(dump, filter, dump.n_rows(), 1 << 16)?.rows;
    let d = dump.d();
    let mut mean = vec![0.0f64; d];
    sample.chunks(d).for_each(|row| mean.iter_mut().zip(row).for_each(|(m, x)| *m += f64::from(*x)));
    let n = (sample.len() / d).max(1) as f64;
    let mean: Vec<f32> = mean.iter().map(|m| (m / n) as f32).collect();
    let spinner = console.bar("splicing", ids.len() as u64, "tokens");
    let report = splice(
        lm,
        hook,
        &ids,
        &lengths,
        |x, hat1, hat2| {
            check_interrupt()?;
            let (mut codes1, mut codes2) = (Codes::new(), Codes::new());
            encoder.encode_par(Par::Seq, x, &mut codes1, &mut codes2)?;
            encoder.decode_of(x, &codes1, &codes2, hat1, hat2)?;
            spinner.inc((x.len() / d) as u64);
            Ok(())
        },
        &mean,
        |i, x| filter.reason(places[i], x).is_some(),
    )?;
    spinner.finish_and_clear();
    Ok(report)
}
