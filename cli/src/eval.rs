//! `strata eval`: what a run does on rows that it never saw. One pass, memory that does not grow with the rows.

use crate::commands::layer_of;
use crate::console::{Console, check_interrupt};
use crate::dump::Dump;
use crate::feed;
use crate::files::write_atomic;
use crate::lm::Lm;
use crate::run::Run;
use crate::settings;
use crate::splice::{SpliceReport, splice};
use crate::truth;
use anyhow::{Context, Result, bail};
use serde::Serialize;
use std::ops::Range;
use strata_core::metrics::bootstrap::{self, Interval, Resamples};
use strata_core::metrics::composition::CompositionReport;
use strata_core::metrics::fidelity::FidelityReport;
use strata_core::metrics::recovery::Recovery;
use strata_core::metrics::similarity::SimilarityReport;
use strata_core::metrics::sparsity::SparsityReport;
use strata_core::metrics::stability::StabilityReport;
use strata_core::{Codes, Encoder, Isa, Par};

mod batches;
mod collect;
mod families;
pub mod latents;
mod strongest;
mod table;
mod words;

pub use families::{Coherence, Dictionaries};
pub use table::print;

use collect::{Collector, TERMS};
use latents::LatentRecord;

/// What to evaluate on what.
pub struct Job<'a> {
    /// The run.
    pub run: &'a Run,
    /// The rows.
    pub dump: &'a Dump,
    /// Every row, not only those that training held out.
    pub all: bool,
    /// The language model that the rows come from, for what latents do to its logits.
    pub lm: Option<&'a Lm>,
    /// Put the reconstructions back into it.
    pub splice: bool,
    /// Another run to compare with, such as another seed.
    pub against: Option<&'a Run>,
    /// Instruction set.
    pub isa: Isa,
}

/// `eval.json`. NaN is written as null: see each metric for when it is undefined.
#[derive(Clone, Debug, Serialize)]
pub struct Evaluation {
    /// The dump.
    pub dump: String,
    /// First row that was evaluated, and how many were.
    pub rows: [u64; 2],
    /// Reconstruction, both levels.
    pub fidelity: FidelityReport,
    /// How sure the headline is.
    pub intervals: Intervals,
    /// Activation sparsity of level 1.
    pub level1: SparsityReport,
    /// Activation sparsity of level 2; none for a flat model.
    pub level2: Option<SparsityReport>,
    /// How the levels hang together, with a row a child and a row a parent; none without families.
    pub composition: Option<CompositionReport>,
    /// Whether families are clusters; none without families.
    pub coherence: Option<Coherence>,
    /// Whether children mean something like their parents; none without families.
    pub similarity: Option<SimilarityReport>,
    /// The decoders by themselves.
    pub dictionaries: Dictionaries,
    /// How far another run agrees, where one was named.
    pub stability: Option<StabilityReport>,
    /// How much of the dump's truth was found, on the last of the rows; none for a dump without one.
    pub recovery: Option<Recovery>,
    /// What the reconstructions cost the language model, where it was asked for.
    pub splice: Option<SpliceReport>,
}

/// Intervals of 95 % by a bootstrap over 32 blocks of sequences, as tokens of one sequence depend on each other.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Intervals {
    /// Of `fidelity.level1.fvu`.
    pub fvu1: Interval,
    /// Of `fidelity.level2.fvu`.
    pub fvu2: Interval,
    /// Of `fidelity.gain`.
    pub gain: Interval,
    /// Of `level1.l0_mean`.
    pub l0_1: Interval,
    /// Of `level2.l0_mean`.
    pub l0_2: Interval,
}

/// An evaluation, and what is known of each latent.
pub struct Found {
    /// `eval.json`.
    pub evaluation: Evaluation,
    /// `latents.jsonl`.
    pub latents: Vec<LatentRecord>,
}

/// Evaluates, and writes `RUN/eval.json` and `RUN/latents.jsonl`.
///
/// # Errors
/// If the widths differ, a row is not finite, or the dump does not hold what splicing needs.
pub fn eval(job: &Job<'_>, console: &mut Console<'_>) -> Result<Found> {
    let Job { run, dump, isa, .. } = job;
    run.check_width(dump)?;
    if let Some(lm) = job.lm.filter(|lm| lm.config().n_embd != dump.d()) {
        bail!("{} has rows of width {}, and {} has width {}", dump.name(), dump.d(), lm.name(), lm.config().n_embd);
    }
    let other = job.against.map(|other| -> Result<Encoder> {
        other.check_width(dump)?;
        other.encoder(*isa)
    });
    let other = other.transpose()?;
    let rows = rows_of(job)?;
    let encoder = run.encoder(*isa)?;
    let (f1, f2) = (encoder.model().arch.f1, encoder.model().arch.f2);
    let world = truth::open(dump)?;
    let first_scored = world.as_ref().map_or(rows.end, |w| truth::first_scored(w, rows.start, rows.end));
    let mut seen = Collector::new(&encoder, dump, rows.clone(), first_scored)?;
    let bar = console.bar("measuring", rows.end - rows.start, "tokens");
    let mut jobs = seen.jobs();
    batches::each_group(&encoder, dump, rows.start, rows.end, |some| {
        collect::take_in(&mut jobs, some)?;
        bar.inc(some.iter().map(|b| b.n() as u64).sum());
        Ok(())
    })?;
    drop(jobs);
    bar.finish_and_clear();
    let splice = job.lm.filter(|_| job.splice).map(|lm| splice_rows(job, &encoder, lm, &rows, console)).transpose()?;
    let spinner = console.spinner("comparing families, neighbours and nulls");
    let unembedding = job.lm.map(Lm::unembedding).transpose()?;
    let text = seen.text.as_ref();
    let fidelity = seen.fidelity.report();
    let composition = seen.tree.as_ref().map(|t| t.composition.report());
    let fires2 = seen.level2.as_ref().map_or(&[][..], |l| l.fires());
    let similar = || families::similarity(&encoder, text, (seen.level1.fires(), fires2), unembedding.as_deref());
    let latents = latents::records(&latents::Sources {
        encoder: &encoder,
        dump,
        seen: &seen,
        composition: composition.as_ref(),
        sse2: fidelity.level2.mse * fidelity.tokens as f64,
        unembedding: unembedding.as_deref(),
    })?;
    let [scored1, scored2] = &seen.scored;
    let evaluation = Evaluation {
        dump: dump.name().to_owned(),
        rows: [rows.start, rows.end - rows.start],
        intervals: intervals(&seen, encoder.model().arch.d)?,
        level1: seen.level1.report(),
        level2: seen.level2.as_ref().map(|l| l.report()),
        coherence: seen.tree.as_ref().map(|t| families::coherence(&encoder, t, text)).transpose()?,
        similarity: composition.as_ref().map(|_| similar()).transpose()?,
        dictionaries: families::dictionaries(&encoder)?,
        stability: other.map(|other| families::stability(&encoder, &other)).transpose()?,
        recovery: world.map(|w| truth::score(&w, &encoder, first_scored, scored1, scored2)).transpose()?,
        composition,
        fidelity,
        splice,
    };
    spinner.finish_and_clear();
    debug_assert_eq!(latents.len(), f1 + f2);
    latents::write(&latents, &run.dir.join("latents.jsonl"))?;
    let path = run.dir.join("eval.json");
    write_atomic(&path, format!("{}\n", serde_json::to_string_pretty(&evaluation)?).as_bytes())?;
    console.note(format!("every metric is in {}", path.display()));
    Ok(Found { evaluation, latents })
}

fn intervals(seen: &Collector<'_>, d: usize) -> Result<Intervals> {
    let sums = seen.sums.values();
    let of = |statistic: fn(&[f64]) -> f64| bootstrap::interval(&sums, TERMS + d, Resamples::default(), statistic);
    // `||x||^2 - N ||mean x||^2`
    fn spread(s: &[f64]) -> f64 {
        let mean: f64 = s[TERMS..].iter().map(|x| x * x).sum::<f64>() / s[0];
        if s[5] - mean > 0.0 { s[5] - mean } else { f64::NAN }
    }
    Ok(Intervals {
        fvu1: of(|s| s[1] / spread(s))?,
        fvu2: of(|s| s[2] / spread(s))?,
        gain: of(|s| (s[1] - s[2]) / s[1])?,
        l0_1: of(|s| s[3] / s[0])?,
        l0_2: of(|s| s[4] / s[0])?,
    })
}

/// The rows that training held out by the settings of the run; every row with `all`, or where it held out none.
fn rows_of(job: &Job<'_>) -> Result<Range<u64>> {
    let n = job.dump.n_rows();
    if n == 0 {
        bail!("{} has no rows", job.dump.name());
    }
    let path = job.run.dir.join("config.toml");
    if job.all || !path.exists() {
        return Ok(0..n);
    }
    let text = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let config = settings::parse(&text, &path.display().to_string())?;
    let (start, end) = feed::split(job.dump, config.data.holdout);
    Ok(if start < end { start..end } else { 0..n })
}

/// Splices the reconstructions of the rows' tokens back into the model they came from.
fn splice_rows(
    job: &Job<'_>,
    encoder: &Encoder,
    lm: &Lm,
    rows: &Range<u64>,
    console: &mut Console<'_>,
) -> Result<SpliceReport> {
    let dump = job.dump;
    let need = |what: &str| {
        anyhow::anyhow!(
            "--splice needs a dump that says {what}, and {} does not: capture it with `strata capture`",
            dump.name()
        )
    };
    let tokens = dump.tokens().ok_or_else(|| need("its tokens"))?;
    let context = dump.context().ok_or_else(|| need("the length of its sequences"))?;
    let hook = dump.hook().ok_or_else(|| need("where its rows were taken"))?;
    let layer = layer_of(hook).ok_or_else(|| need("the block its rows were taken after"))?;
    let first = (rows.start as usize).next_multiple_of(context);
    let ids = tokens.get(first..rows.end as usize).filter(|ids| ids.len() >= context);
    let Some(ids) = ids else { bail!("the rows that are evaluated hold no whole sequence of {context} tokens") };
    let sample = feed::sample(dump, dump.n_rows(), 1 << 16)?;
    let d = dump.d();
    let mut mean = vec![0.0f64; d];
    sample.chunks(d).for_each(|row| mean.iter_mut().zip(row).for_each(|(m, x)| *m += f64::from(*x)));
    let n = (sample.len() / d).max(1) as f64;
    let mean: Vec<f32> = mean.iter().map(|m| (m / n) as f32).collect();
    let spinner = console.bar("splicing", ids.len() as u64, "tokens");
    let report = splice(
        lm,
        layer,
        ids,
        context,
        |x, hat1, hat2| {
            check_interrupt()?;
            let (mut codes1, mut codes2) = (Codes::new(), Codes::new());
            encoder.encode_par(Par::Seq, x, &mut codes1, &mut codes2)?;
            encoder.decode(&codes1, &codes2, hat1, hat2)?;
            spinner.inc((x.len() / d) as u64);
            Ok(())
        },
        &mean,
    )?;
    spinner.finish_and_clear();
    Ok(report)
}
