//! `strata probe`: linear probes on the codes of a run, and what removing the latents of a class does to them.
//!
//! It does sparse probing and targeted probe perturbation for every class of the labels, spurious correlation removal
//! where there is a second attribute, description length, and, for the character classes of a dump, absorption. All of
//! it uses one bounded, seeded sample of examples, whose rows and codes are divided by one number so that no score
//! depends on the unit of the activations. Tests use whole blocks of consecutive sequences that were not fitted on.

use crate::console::{Console, check_interrupt};
use crate::dump::Dump;
use crate::escape::escaped;
use crate::eval::batches::Pair;
use crate::eval::classes::TokenClasses;
use crate::eval::sample::{STRETCH, Sampled, both_decoders, dictionary};
use crate::files::write_atomic;
use crate::row_filter::{LeftOut, RowFilter};
use crate::run::Run;
use anyhow::{Context, Result, bail, ensure};
use serde::Serialize;
use std::io::Write;
use std::path::Path;
use strata_core::format::heads as head_file;
use strata_core::metrics::absorption::{ClassAbsorption, OUTSIDE, Scope, Thresholds, absorption};
use strata_core::metrics::probe::erase::{self, Examples, ScrReport, ScrTasks, TppReport};
use strata_core::metrics::probe::logistic::Settings;
use strata_core::metrics::probe::mdl::{Mdl, MdlReport, step_for};
use strata_core::metrics::probe::protocol::{self, AucPoint, Candidates, Setting};
use strata_core::metrics::probe::sparse::{DenseProbe, KS, SparseProbe, dense_probe, sparse_probes};
use strata_core::metrics::probe::{Binary, Labelled};
use strata_core::model::{CodesView, TopkBy};
use strata_core::rng::Philox;
use strata_core::{Encoder, Isa, Par};

pub mod heads;
pub mod labels;

use heads::{Fitted, Save};
use labels::{Labels, Unit};

/// Most examples per label that a probe is fitted on; it is tested on at most a quarter of that.
const EXAMPLES: usize = 2000;
/// A class is probed if there are this many positive and this many negative examples on each side of the split.
const FEWEST: usize = 10;
/// Most classes that are probed: those with the most examples.
const MOST_CLASSES: usize = 50;
/// Share of the variance that the finest bins of the description length add to the error.
const FINEST: f64 = 1e-4;
/// The random stream of the biased rows.
const STREAM: u64 = 0x6269_6173 << 32;

/// The remark that accompanies TPP and SCR wherever they are shown.
pub const UNRELIABLE: &str =
    "TPP and SCR do not rank SAEs reliably (Chanin 2026, arXiv 2605.18229): do not use them as headline scores";

/// A run, a dump, labels and limits.
pub struct Job<'a> {
    /// The run.
    pub run: &'a Run,
    /// The dump.
    pub dump: &'a Dump,
    /// The rows that a transcoder should reconstruct.
    pub target: Option<&'a Dump>,
    /// A file, or [`labels::CHARS`].
    pub labels: &'a Path,
    /// Most examples.
    pub sample: usize,
    /// Seed of the sample, the split and all other random choices.
    pub seed: u64,
    /// The report to write.
    pub out: &'a Path,
    /// The heads to save, if any.
    pub save: Option<Save<'a>>,
    /// Instruction set.
    pub isa: Isa,
}

/// `probe.json`. NaN is written as null: see each metric for when it is undefined.
#[derive(Clone, Debug, Serialize)]
pub struct Probed {
    /// The dump.
    pub dump: String,
    /// The labels.
    pub labels: String,
    /// The unit of an example: a row or a sequence.
    pub unit: Unit,
    /// Number of examples, and number of those that are used for tests.
    pub examples: [usize; 2],
    /// Rows that were drawn and not used, since the training of the model left them out.
    pub rows_left_out: LeftOut,
    /// Sparse probing by the protocol of sae-probes: means over the classes.
    pub auc: Vec<AucPoint>,
    /// Sparse probing, each class against the rest, balanced: chance is an accuracy of 1/2.
    pub classes: Vec<ClassProbes>,
    /// Names of the classes that were left out, since they have too few examples or are beyond the limit.
    pub left_out: Vec<String>,
    /// Targeted probe perturbation, over the classes of `classes`. Not reliable for comparing SAEs: see [`UNRELIABLE`].
    pub tpp: Option<TppReport>,
    /// Spurious correlation removal, where there are attributes. Not reliable either.
    pub scr: Option<ScrReport>,
    /// Description length of level 1 and of level 2; none for a level that never fires. Over rows, not sequences.
    pub mdl: [Option<MdlReport>; 2],
    /// Absorption of the character classes.
    pub absorption: Vec<NamedAbsorption>,
}

/// The probes of one class.
#[derive(Clone, Debug, Serialize)]
pub struct ClassProbes {
    /// The number of the class.
    pub class: u32,
    /// The name of the class.
    pub name: String,
    /// Number of examples of the class in the sample.
    pub examples: usize,
    /// Rows that the probes are fitted on, and rows that they are tested on.
    pub rows: [usize; 2],
    /// Areas under the ROC curve by the protocol of sae-probes.
    pub auc: Vec<AucPoint>,
    /// A probe on the rows themselves, which bounds what can be read from codes.
    pub dense: DenseProbe,
    /// Probes on latents of level 1.
    pub level1: Vec<SparseProbe>,
    /// Probes on latents of level 2; empty for a flat model.
    pub level2: Vec<SparseProbe>,
    /// Probes on latents of both levels.
    pub both: Vec<SparseProbe>,
}

/// Absorption of one class.
#[derive(Clone, Debug, Serialize)]
pub struct NamedAbsorption {
    /// The class.
    pub name: String,
    /// Names of its members, by number.
    pub members: Vec<String>,
    /// Scores, with the scopes of [`Scope::of_levels`].
    pub found: ClassAbsorption,
}

/// Runs all probes and writes the report.
///
/// # Errors
/// If the widths differ, a row is not finite, or the labels do not fit.
pub fn probe(job: &Job<'_>, console: &mut Console<'_>) -> Result<Probed> {
    let Job { run, dump, isa, seed, .. } = *job;
    run.check_width(dump)?;
    run.check_target(dump, job.target)?;
    ensure!(
        run.model.arch.variant.topk_by != TopkBy::Absolute,
        "probes take latents from 0 on, and those of this model (AbsTopK) may be below 0"
    );
    let pair = Pair { input: dump, target: job.target };
    ensure!(job.sample > 0, "--sample: expected at least 1, found 0");
    ensure!(!job.out.is_dir(), "writing `{}`: it is a directory", job.out.display());
    if let Some(save) = &job.save {
        let k = save.latents;
        ensure!(KS.contains(&k), "--head-latents: expected 1, 2, 5, 10 or 20, found {k}");
        ensure!(!save.file.is_dir(), "writing `{}`: it is a directory", save.file.display());
    }
    let labels = Labels::open(job.labels, dump)?;
    let encoder = run.encoder(isa)?;
    let filter = RowFilter::of_model(dump, &run.origin.left_out, isa)?;
    console.note(format!("encoding up to {} {}", job.sample, unit_name(labels.unit)));
    let (sampled, label_of) = match labels.unit {
        Unit::Rows => {
            let sampled = Sampled::rows(&encoder, pair, &filter, (0, dump.n_rows()), job.sample, false, seed)?;
            let rows = sampled.row.clone();
            (sampled, rows)
        }
        Unit::Sequences => {
            let starts = dump.sequence_starts().context("labels per sequence need a dump with sequences")?;
            Sampled::sequences(&encoder, pair, &filter, starts, job.sample, seed)?
        }
    };
    let of = |all: &[Option<u32>]| -> Vec<Option<u32>> { label_of.iter().map(|i| all[*i as usize]).collect() };
    let class = of(&labels.class);
    let decoder = both_decoders(&encoder);
    let (tasks, left_out) = tasks(&class, &sampled.is_test, &labels, seed);
    if tasks.len() < 2 {
        bail!(
            "the labels leave {} class(es) with at least {FEWEST} examples of it and of the others on either side of the split, \
             and probing needs 2: {}",
            tasks.len(),
            match labels.unit {
                // What is split is never a sequence.
                Unit::Rows if dump.sequence_starts().is_none() => format!(
                    "the dump does not say where its sequences begin, so that its rows are split in stretches of {STRETCH}: give --context (1 for \
                     rows that are independent) or --starts, or label more rows"
                ),
                unit => format!("label more {}", unit_name(unit)),
            }
        );
    }
    let settings = Settings::default();
    let views = sampled.views(&encoder)?;
    let flat = encoder.model().arch.level[1].latents == 0;
    let areas = Par::Rayon.map(tasks.len(), |at| -> Result<Vec<AucPoint>> {
        check_interrupt()?;
        let rows = Candidates::one_against_rest(&class, tasks[at].0, &sampled.is_test, seed);
        Ok(protocol::points(&sampled.x, pair.reconstructed().d(), &views, &rows)?)
    });
    let areas = areas.into_iter().collect::<Result<Vec<_>>>()?;
    let bar = console.bar("probing", tasks.len() as u64, "classes");
    let (mut classes, mut on_rows) = (Vec::with_capacity(tasks.len()), Vec::new());
    for ((c, task), auc) in tasks.iter().zip(&areas) {
        let (on_row, dense) = dense_probe(&sampled.x, pair.reconstructed().d(), task, &settings)?;
        on_rows.push(on_row);
        let of = |codes: &CodesView<'_>| sparse_probes(Par::Rayon, codes, task, &KS, &settings);
        classes.push(ClassProbes {
            class: *c,
            name: labels.names[*c as usize].clone(),
            examples: class.iter().filter(|of| **of == Some(*c)).count(),
            rows: [task.train.len(), task.test.len()],
            auc: auc.clone(),
            dense,
            level1: of(&views[0])?,
            level2: if flat { Vec::new() } else { of(&views[1])? },
            both: of(&views[2])?,
        });
        bar.inc(1);
        check_interrupt()?;
    }
    bar.finish_and_clear();
    if let Some(save) = &job.save {
        let fitted = classes.iter().zip(&tasks).zip(&on_rows).map(|((class, (_, task)), on_rows)| {
            let probe = class.both.iter().find(|probe| probe.k == save.latents);
            Fitted { name: &class.name, task, on_rows, latents: probe.map_or(&[], |probe| &probe.latents) }
        });
        let (heads, loose) = heads::heads(&encoder, &sampled, &fitted.collect::<Vec<_>>(), &settings)?;
        write_atomic(save.file, &head_file::write(&heads)?)?;
        console.note(format!("{} heads are in {}", heads.heads.len(), save.file.display()));
        if !loose.is_empty() {
            console.note(format!("the fits of these heads did not converge: {}", loose.join(", ")));
        }
    }
    let examples = examples(&sampled, &encoder, &decoder)?;
    let only: Vec<Binary> = tasks.iter().map(|(_, t)| t.clone()).collect();
    let tpp = Some(erase::tpp(Par::Rayon, &examples, &only, &erase::NS, &settings)?);
    let scr = match &labels.attribute {
        None => None,
        Some(attribute) => {
            let tasks = scr_tasks(&class, &of(attribute), &sampled.is_test, seed)?;
            Some(erase::scr(Par::Rayon, &examples, &tasks, &erase::NS, &settings)?)
        }
    };
    let found = Probed {
        dump: dump.name().to_owned(),
        labels: job.labels.display().to_string(),
        unit: labels.unit,
        examples: [sampled.len(), sampled.is_test.iter().filter(|t| **t).count()],
        rows_left_out: sampled.left_out,
        auc: protocol::mean(&areas),
        classes,
        left_out,
        tpp,
        scr,
        mdl: match labels.unit {
            Unit::Rows => [description_length(&views[0], &sampled)?, description_length(&views[1], &sampled)?],
            Unit::Sequences => [None, None],
        },
        absorption: match job.labels.as_os_str() == labels::CHARS {
            true => character_absorption(dump, &encoder, &sampled, seed)?,
            false => Vec::new(),
        },
    };
    write_atomic(job.out, format!("{}\n", serde_json::to_string_pretty(&found)?).as_bytes())?;
    console.note(format!("every probe is in {}", job.out.display()));
    Ok(found)
}

/// Returns the plural of the unit of an example.
fn unit_name(unit: Unit) -> &'static str {
    match unit {
        Unit::Rows => "rows",
        Unit::Sequences => "sequences",
    }
}

/// Returns a task per class that has enough examples, in order of class, where the most frequent classes have priority;
/// and the names of the others.
fn tasks(class: &[Option<u32>], is_test: &[bool], labels: &Labels, seed: u64) -> (Vec<(u32, Binary)>, Vec<String>) {
    let mut count = vec![0usize; labels.names.len()];
    class.iter().flatten().for_each(|c| count[*c as usize] += 1);
    let mut order: Vec<u32> = (0..count.len() as u32).filter(|c| count[*c as usize] > 0).collect();
    order.sort_by_key(|c| (std::cmp::Reverse(count[*c as usize]), *c));
    let (mut kept, mut left_out) = (Vec::new(), Vec::new());
    for c in order {
        let task = (kept.len() < MOST_CLASSES).then(|| Binary::one_against_rest(class, c, is_test, EXAMPLES, seed));
        match task.filter(|t| t.train.positives() >= FEWEST && t.test.positives() >= FEWEST) {
            Some(task) => kept.push((c, task)),
            None => left_out.push(labels.names[c as usize].clone()),
        }
    }
    kept.sort_by_key(|k| k.0);
    (kept, left_out)
}

/// Returns the dictionary whose sum is the reconstruction: both levels where they add up, otherwise level 2 alone.
fn examples<'a>(sampled: &'a Sampled, encoder: &Encoder, decoder: &'a [f32]) -> Result<Examples<'a>> {
    let arch = encoder.model().arch;
    let [_, level2, both] = sampled.views(encoder)?;
    let alone = arch.level[1].latents > 0 && !arch.decoder.is_cumulative();
    let (codes, decoder) =
        if alone { (level2, &decoder[arch.level[0].latents * arch.d_out()..]) } else { (both, decoder) };
    Ok(Examples { x: &sampled.x, d: arch.d_out(), codes, decoder })
}

/// Returns the two attributes, which must be binary, with as many examples in each of the four cells.
fn scr_tasks(class: &[Option<u32>], attribute: &[Option<u32>], is_test: &[bool], seed: u64) -> Result<ScrTasks> {
    let mut cells: [[Vec<u32>; 4]; 2] = Default::default();
    for (i, (a, b)) in class.iter().zip(attribute).enumerate() {
        match (a, b) {
            (Some(a @ 0..=1), Some(b @ 0..=1)) => {
                cells[usize::from(is_test[i])][(2 * a + b) as usize].push(i as u32);
            }
            (Some(_), Some(_)) => bail!(
                "spurious correlation removal needs labels and attributes of 0 and 1, found {} and {}",
                a.unwrap_or(0),
                b.unwrap_or(0)
            ),
            _ => {}
        }
    }
    let mut tasks = ScrTasks::default();
    for (side, most) in [(0, EXAMPLES), (1, EXAMPLES / 4)] {
        let each = cells[side].iter().map(Vec::len).min().unwrap_or(0).min(most / 2);
        ensure!(
            each >= FEWEST,
            "spurious correlation removal needs {FEWEST} examples of each pair of label and attribute on either side of the \
             split, found {each}"
        );
        let mut rng = Philox::new(seed, STREAM + side as u64);
        for cell in &mut cells[side] {
            rng.shuffle(cell);
        }
        let of = |kinds: &[usize], each: usize, positive: fn(usize) -> bool| {
            let of_kind = |k: usize| cells[side][k].iter().take(each).map(move |r| (*r, positive(k)));
            let mut rows: Vec<(u32, bool)> = kinds.iter().flat_map(|k| of_kind(*k)).collect();
            rows.sort_unstable();
            Labelled { row: rows.iter().map(|r| r.0).collect(), label: rows.iter().map(|r| r.1).collect() }
        };
        let a = of(&[0, 1, 2, 3], each, |cell| cell >= 2);
        let b = of(&[0, 1, 2, 3], each, |cell| cell % 2 == 1);
        if side == 0 {
            let both = cells[0][3].len().min(cells[0][0].len()).min(most);
            tasks.biased = of(&[0, 3], both, |cell| cell == 3);
            (tasks.a.train, tasks.b.train) = (a, b);
        } else {
            (tasks.a.test, tasks.b.test) = (a, b);
        }
    }
    Ok(tasks)
}

/// Returns the description length of a level on a sample; none if it never fires, or if the rows do not vary.
///
/// # Errors
/// If a code is not finite.
pub fn description_length(codes: &CodesView<'_>, sampled: &Sampled) -> Result<Option<MdlReport>> {
    let n = sampled.len();
    let d = sampled.x.len() / n.max(1);
    let on: usize = (0..n).map(|t| codes.active(t).count()).sum();
    if on == 0 {
        return Ok(None);
    }
    let mut mean = vec![0.0f64; d];
    sampled.x.chunks(d).for_each(|row| mean.iter_mut().zip(row).for_each(|(m, x)| *m += f64::from(*x)));
    mean.iter_mut().for_each(|m| *m /= n as f64);
    let squares: f64 =
        sampled.x.chunks(d).flat_map(|row| row.iter().zip(&mean).map(|(x, m)| (f64::from(*x) - m).powi(2))).sum();
    if squares == 0.0 {
        return Ok(None);
    }
    let step = step_for(FINEST, squares / n as f64, on as f64 / n as f64);
    let mut mdl = Mdl::new(codes.latents(), step)?;
    mdl.add(codes)?;
    let mut report = mdl.report();
    for point in &mut report.points {
        point.step *= sampled.scale;
        point.squared_error *= sampled.scale * sampled.scale;
    }
    Ok(Some(report))
}

/// Returns the absorption of every class of tokens of [`TokenClasses::hierarchies`] with enough examples in a sample of
/// rows; none for a dump without tokens or their texts.
///
/// # Errors
/// If Ctrl-C was pressed.
pub fn character_absorption(
    dump: &Dump,
    encoder: &Encoder,
    sampled: &Sampled,
    seed: u64,
) -> Result<Vec<NamedAbsorption>> {
    let (Some(tokens), Some(vocab)) = (dump.tokens(), dump.vocab()) else { return Ok(Vec::new()) };
    let arch = encoder.model().arch;
    let scopes = Scope::of_levels(arch.level[0].latents, arch.level[1].latents, arch.decoder.is_cumulative());
    let thresholds = Thresholds { seed, ..Thresholds::default() };
    let decoder = both_decoders(encoder);
    let dictionary = dictionary(sampled, encoder, &decoder)?;
    let classes = TokenClasses::new(vocab).hierarchies();
    let found = Par::Rayon.map(classes.len(), |c| -> Result<Option<NamedAbsorption>> {
        check_interrupt()?;
        let class = &classes[c];
        let of = |row: &u64| class.member.get(tokens[*row as usize] as usize).copied().unwrap_or(OUTSIDE);
        let member: Vec<u32> = sampled.row.iter().map(of).collect();
        let count = |test: bool, inside: bool| {
            let is = |i: &usize| sampled.is_test[*i] == test && (member[*i] != OUTSIDE) == inside;
            (0..member.len()).filter(is).count()
        };
        if [(false, false), (false, true), (true, false), (true, true)].iter().any(|(t, i)| count(*t, *i) < FEWEST) {
            return Ok(None);
        }
        let found = absorption(Par::Rayon, &dictionary, &member, &sampled.is_test, &scopes, &thresholds)?;
        Ok(Some(NamedAbsorption { name: class.name.clone(), members: class.members.clone(), found }))
    });
    found.into_iter().filter_map(Result::transpose).collect()
}

/// Prints the table.
///
/// # Errors
/// If `out` cannot be written to.
pub fn print(p: &Probed, out: &mut dyn Write) -> std::io::Result<()> {
    writeln!(out, "{} {} of {}, {} to test on", p.examples[0], unit_name(p.unit), p.dump, p.examples[1])?;
    if p.rows_left_out.total() > 0 {
        writeln!(out, "{} rows are left out, as they were in training", p.rows_left_out.total())?;
    }
    writeln!(out)?;
    areas(p, out)?;
    writeln!(out)?;
    writeln!(
        out,
        "area under the ROC curve by class, balanced, from {} latents of level 1, of level 2, of both",
        protocol::K
    )?;
    // The first column is as wide as the longest name.
    let names = p.classes.iter().map(|c| &c.name).chain(p.absorption.iter().map(|a| &a.name));
    let wide = names.map(|name| escaped(name).chars().count()).max().unwrap_or(0).max(16);
    writeln!(out, "{:<wide$} {:>7}{:>9}{:>9}{:>9}{:>9}", "class", "n", "level 1", "level 2", "both", "rows")?;
    for c in &p.classes {
        let Some(at) = c.auc.iter().find(|a| a.setting == Setting::Normal && a.k == protocol::K) else { continue };
        let [one, two, both, rows] = [at.level1, at.level2, at.both, at.rows].map(number);
        writeln!(out, "{:<wide$} {:>7}{one:>9}{two:>9}{both:>9}{rows:>9}", escaped(&c.name), c.examples)?;
    }
    if p.mdl.iter().any(Option::is_some) {
        writeln!(out)?;
        for (level, mdl) in p.mdl.iter().enumerate() {
            if let Some(m) = mdl {
                // Bins of eight times the finest width, whose error is still small.
                let point = &m.points[3];
                writeln!(
                    out,
                    "level {}: {:.1} bits per token, {:.1} to say which latents are on",
                    level + 1,
                    point.bits,
                    m.on_off_bits
                )?;
            }
        }
    }
    if !p.absorption.is_empty() {
        writeln!(out)?;
        writeln!(out, "absorption: share of the class's tokens on which its main latents of level 1 are silent")?;
        writeln!(
            out,
            "{:<wide$} {:>8} {:>7} {:>7} {:>9} {:>9} {:>9} {:>9}",
            "class", "tokens", "main", "F1", "silent", "absorbed", "missed", "fraction"
        )?;
        for a in &p.absorption {
            let s = &a.found.scope[0];
            writeln!(
                out,
                "{:<wide$} {:>8} {:>7} {:>7} {:>9} {:>9} {:>9} {:>9}",
                escaped(&a.name),
                a.found.found,
                s.main.len(),
                number(s.main_f1),
                number(s.silent),
                number(s.absorbed),
                number(s.missed),
                number(s.fraction)
            )?;
        }
    }
    if p.tpp.is_some() || p.scr.is_some() {
        writeln!(out)?;
        writeln!(out, "{UNRELIABLE}; their values are in the file")?;
    }
    Ok(())
}

/// Prints the main table: a line for each setting, means over classes.
fn areas(p: &Probed, out: &mut dyn Write) -> std::io::Result<()> {
    writeln!(
        out,
        "area under the ROC curve (chance .5) of logistic regressions on k latents, mean over {} classes",
        p.classes.len()
    )?;
    writeln!(
        out,
        "{:<12}{:>7}{:>10}{:>6}{:>9}{:>9}{:>9}{:>9}",
        "setting", "train", "positive", "k", "level 1", "level 2", "both", "rows"
    )?;
    for a in &p.auc {
        let setting = match a.setting {
            Setting::Normal => "normal",
            Setting::Scarce => "scarce",
            Setting::Unbalanced => "unbalanced",
        };
        let [one, two, both, rows] = [a.level1, a.level2, a.both, a.rows].map(number);
        let (train, positive) = (format!("{:.0}", a.train), format!("{:.0} %", 100.0 * a.positive));
        writeln!(out, "{setting:<12}{train:>7}{positive:>10}{:>6}{one:>9}{two:>9}{both:>9}{rows:>9}", a.k)?;
    }
    Ok(())
}

fn number(value: f64) -> String {
    match value {
        v if !v.is_finite() => "-".into(),
        v if v >= 1e6 => format!("{v:.1e}"),
        v if v >= 2.0 => format!("{v:.0}"),
        v => format!("{v:.3}"),
    }
}
