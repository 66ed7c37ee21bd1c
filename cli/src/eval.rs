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
use std::io::Write;
use strata_core::metrics::composition::{Composition, CompositionReport, Errors};
use strata_core::metrics::fidelity::{Fidelity, FidelityReport};
use strata_core::metrics::recovery::Recovery;
use strata_core::metrics::sparsity::{Sparsity, SparsityReport};
use strata_core::{Codes, Encoder, Isa, Par};

pub mod classes;
pub mod latents;
pub mod meta;
pub mod sample;

/// Rows of a batch of the metrics that are defined over batches.
const BATCH: usize = 1024;
/// Batches that are encoded together.
const TOGETHER: usize = 16;

/// What to evaluate on what.
pub struct Job<'a> {
    /// The run.
    pub run: &'a Run,
    /// The rows.
    pub dump: &'a Dump,
    /// Every row, not only those that training held out.
    pub all: bool,
    /// The language model to splice into.
    pub splice: Option<&'a Lm>,
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
    /// Activation sparsity of level 1.
    pub level1: SparsityReport,
    /// Activation sparsity of level 2; none for a flat model.
    pub level2: Option<SparsityReport>,
    /// How the levels hang together, with a row a child and a row a parent; none without families.
    pub composition: Option<CompositionReport>,
    /// How much of the dump's truth was found, on the last of the rows; none for a dump without one.
    pub recovery: Option<Recovery>,
    /// What the reconstructions cost the language model, where it was asked for.
    pub splice: Option<SpliceReport>,
}

/// Evaluates, and writes `RUN/eval.json`.
///
/// # Errors
/// If the widths differ, a row is not finite, or the dump does not hold what splicing needs.
pub fn eval(job: &Job<'_>, console: &mut Console<'_>) -> Result<Evaluation> {
    let Job { run, dump, isa, .. } = job;
    run.check_width(dump)?;
    let (start, end) = rows_of(job)?;
    let encoder = run.encoder(*isa)?;
    let arch = run.model.arch;
    let mut fidelity = Fidelity::new(arch.d);
    let mut level1 = Sparsity::new(arch.f1);
    let mut level2 = (arch.f2 > 0).then(|| Sparsity::new(arch.f2));
    let mut composition =
        if run.model.parents.is_empty() { None } else { Some(Composition::new(arch.f1, &run.model.parents)?) };
    let world = truth::open(dump)?;
    let first_scored = world.as_ref().map_or(end, |w| truth::first_scored(w, start, end, BATCH as u64));
    let mut scored = [Codes::new(), Codes::new()];
    let bar = console.bar("measuring", end - start, "tokens");
    each_batch(&encoder, dump, start, end, |batch| {
        fidelity.merge(&batch.fidelity);
        let [codes1, codes2] = &batch.codes;
        level1.add(&codes1.view(arch.f1)?)?;
        if let Some(level2) = &mut level2 {
            level2.add(&codes2.view(arch.f2)?)?;
        }
        if let Some(composition) = &mut composition {
            let errors = Errors { error: &batch.error, decoder2: encoder.decoder2(), d: arch.d };
            composition.add(&codes1.view(arch.f1)?, &codes2.view(arch.f2)?, Some(errors))?;
        }
        if batch.start >= first_scored {
            scored[0].append(codes1);
            scored[1].append(codes2);
        }
        bar.inc(codes1.n() as u64);
        Ok(())
    })?;
    bar.finish_and_clear();
    let splice = job.splice.map(|lm| splice_rows(job, &encoder, lm, start, end, console)).transpose()?;
    let found = Evaluation {
        dump: dump.name().to_owned(),
        rows: [start, end - start],
        fidelity: fidelity.report(),
        level1: level1.report(),
        level2: level2.as_ref().map(Sparsity::report),
        composition: composition.as_ref().map(Composition::report),
        recovery: world
            .map(|world| truth::score(&world, &encoder, first_scored, &scored[0], &scored[1]))
            .transpose()?,
        splice,
    };
    let path = run.dir.join("eval.json");
    write_atomic(&path, format!("{}\n", serde_json::to_string_pretty(&found)?).as_bytes())?;
    console.note(format!("every metric is in {}", path.display()));
    Ok(found)
}

/// The rows that training held out by the settings of the run; every row with `all`, or where it held out none.
fn rows_of(job: &Job<'_>) -> Result<(u64, u64)> {
    let n = job.dump.n_rows();
    if n == 0 {
        bail!("{} has no rows", job.dump.name());
    }
    let path = job.run.dir.join("config.toml");
    if job.all || !path.exists() {
        return Ok((0, n));
    }
    let text = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let config = settings::parse(&text, &path.display().to_string())?;
    let (start, end) = feed::split(job.dump, config.data.holdout);
    Ok(if start < end { (start, end) } else { (0, n) })
}

/// One batch of rows, encoded and decoded.
pub(crate) struct Batch {
    /// Its first row in the dump.
    pub start: u64,
    /// Codes of both levels.
    pub codes: [Codes; 2],
    /// `x_hat2 - x`.
    pub error: Vec<f32>,
    /// Its sums.
    pub fidelity: Fidelity,
}

/// Encodes and decodes rows `start..end` in batches, in parallel, and hands them over in order.
pub(crate) fn each_batch(
    encoder: &Encoder,
    dump: &Dump,
    start: u64,
    end: u64,
    mut f: impl FnMut(&Batch) -> Result<()>,
) -> Result<()> {
    let d = dump.d();
    let batches: Vec<u64> = (start..end).step_by(BATCH).collect();
    for some in batches.chunks(TOGETHER) {
        let made = Par::Rayon.map(some.len(), |i| -> Result<Batch> {
            let start = some[i];
            let n = (end - start).min(BATCH as u64) as usize;
            let mut x = vec![0.0; n * d];
            dump.read_range(start, n, &mut x)?;
            let mut codes = [Codes::new(), Codes::new()];
            let [codes1, codes2] = &mut codes;
            encoder.encode_par(Par::Seq, &x, codes1, codes2)?;
            let (mut hat1, mut hat2) = (vec![0.0; n * d], vec![0.0; n * d]);
            encoder.decode(codes1, codes2, &mut hat1, &mut hat2)?;
            let mut fidelity = Fidelity::new(d);
            fidelity.add(&x, &hat1, &hat2)?;
            hat2.iter_mut().zip(&x).for_each(|(e, x)| *e -= x);
            Ok(Batch { start, codes, error: hat2, fidelity })
        });
        for batch in made {
            f(&batch?)?;
        }
        check_interrupt()?;
    }
    Ok(())
}

/// Splices the reconstructions of the rows' tokens back into the model they came from.
fn splice_rows(
    job: &Job<'_>,
    encoder: &Encoder,
    lm: &Lm,
    start: u64,
    end: u64,
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
    if lm.config().n_embd != dump.d() {
        bail!("{} has rows of width {}, and {} has width {}", dump.name(), dump.d(), lm.name(), lm.config().n_embd);
    }
    let first = (start as usize).next_multiple_of(context);
    let ids = tokens.get(first..end as usize).filter(|ids| ids.len() >= context);
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

/// The table that a person reads.
///
/// # Errors
/// If `out` cannot be written to.
pub fn print(e: &Evaluation, out: &mut dyn Write) -> std::io::Result<()> {
    let f = &e.fidelity;
    writeln!(out, "{} rows of {} from row {}", e.rows[1], e.dump, e.rows[0])?;
    writeln!(out)?;
    writeln!(out, "{:<34}{:>10}{:>10}", "", "level 1", "level 2")?;
    let two = e.level2.is_some();
    let mut line = |name: &str, a: f64, b: Option<f64>, digits: usize| {
        let b = b.filter(|_| two).map_or_else(|| "-".into(), |b| number(b, digits));
        writeln!(out, "{name:<34}{:>10}{b:>10}", number(a, digits))
    };
    line("fraction of variance unexplained", f.level1.fvu, Some(f.level2.fvu), 4)?;
    line("cosine with the activations", f.level1.cosine, Some(f.level2.cosine), 4)?;
    line("norm of reconstruction / of row", f.level1.norm_ratio, Some(f.level2.norm_ratio), 4)?;
    let second = |get: fn(&SparsityReport) -> f64| e.level2.as_ref().map(get);
    line("latents that fire (L0)", e.level1.l0_mean, second(|s| s.l0_mean), 2)?;
    line("latents", e.level1.latents as f64, second(|s| s.latents as f64), 0)?;
    line("dead, share", e.level1.dead, second(|s| s.dead), 4)?;
    line("density of the median latent", e.level1.median_density, second(|s| s.median_density), 5)?;
    if let Some(s) = &e.splice {
        line("cross-entropy, nats", s.level1, Some(s.level2), 4)?;
        line("cross-entropy recovered", s.recovered1, Some(s.recovered2), 4)?;
        writeln!(out, "{:<34}{:>10}{:>10}", "  clean / mean-ablated", number(s.clean, 4), number(s.mean_ablated, 4))?;
    }
    if let Some(c) = &e.composition {
        writeln!(out)?;
        for (name, value, digits) in [
            ("P(parent | child)", c.containment, 4),
            ("median lift of an edge", c.median_lift, 1),
            ("edges with P > .8 and lift > 2", c.real_edges, 4),
            ("P(some child | parent)", c.coverage, 4),
            ("P(one child | some child)", c.exclusivity, 4),
            ("children under ROOT", c.root_children as f64, 0),
        ] {
            writeln!(out, "{name:<34}{:>10}", number(value, digits))?;
        }
    }
    if let Some(r) = &e.recovery {
        writeln!(out)?;
        for (name, value) in [
            ("true features: cosine (MCC)", r.mcc),
            ("true features: firing F1", r.f1),
            ("true edges found", r.edge_recall),
            ("edges that are true", r.edge_precision),
            ("true roots in level 1", r.root_in_level1),
            ("true children in level 2", r.leaf_in_level2),
            ("roots absorbed by their children", r.absorption),
        ] {
            writeln!(out, "{name:<34}{:>10}", number(value, 4))?;
        }
    }
    Ok(())
}

fn number(value: f64, digits: usize) -> String {
    if value.is_finite() { format!("{value:.digits$}") } else { "undefined".into() }
}
