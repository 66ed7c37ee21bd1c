//! `strata train`: trains on a dump and writes a run directory.

mod job;
mod model;
mod start;

pub use job::{End, Job};

use crate::checkpoint;
use crate::console::{self, Console, Orderly};
use crate::control;
use crate::dump::Dump;
use crate::feed::{self, Feed, Given, Reader};
use crate::files::{io_error, read, write_atomic};
use crate::health::{self, Asked};
use crate::heldout::{self, HeldOut, Watched};
use crate::memory;
use crate::ranks::{self, Reading};
use crate::row_filter::RowFilter;
use crate::settings;
use crate::settings::preset::{self, Preset};
use crate::sources;
use crate::usage::Usage;
use anyhow::{Context, Result, bail, ensure};
use model::{write_model, write_model_over};
use serde_json::{Value, json};
use start::{Start, exists_already};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;
use strata_core::config::{DataConfig, LevelConfig};
use strata_core::format::weights::Origin;
use strata_core::normalise::Normalisation;
use strata_core::train::{Array, Difference, State, StepReport, Trainer};
use strata_core::{Compute, Config, Isa, Par};

/// Rows on which the held-out loss is measured during training.
const WATCHED_ROWS: u64 = 4096;
/// Number of times that it is measured.
const WATCHES: u64 = 10;

/// Rows on which the thresholds are set at the end, and most numbers that they may have: 16 MiB.
const CALIBRATION_ROWS: usize = 1 << 15;
const CALIBRATION_NUMBERS: usize = 1 << 22;

/// Returns the settings for `strata train`: those of the run when it is resumed, otherwise from defaults or a preset, file
/// and flags. A resumed run may be given another number of steps, and another pruning, which no step depends on.
///
/// # Errors
/// As [`settings::load`]; if there is no run to resume; and if a resumed run is given settings that differ from its own.
pub fn settings_of(
    run: &Path,
    resume: bool,
    preset: Option<Preset>,
    file: Option<&Path>,
    sets: &[String],
    seed: Option<u64>,
) -> Result<Config> {
    let path = run.join("config.toml");
    if !resume {
        return settings::load(preset::base(preset)?, file, sets, seed);
    }
    ensure!(preset.is_none(), "--preset: {} continues with its own settings: leave it out", run.display());
    let Some(text) = read::optional_text(&path, read::SMALL)? else {
        let (run, what) =
            (run.display(), if run.exists() { "is no run: expected config.toml in it" } else { "does not exist" });
        bail!("--resume: {run} {what}; leave --resume out to start a training there");
    };
    let mut own = settings::parse(&text, &path.display().to_string())?;
    let asked = settings::load(own.clone(), file, sets, seed)?;
    start::take_what_may_change(&mut own, &asked);
    if let Some((key, own, asked)) = settings::difference(&own, &asked)? {
        bail!(
            "{} continues with its own settings: `{key}`: expected {own} by {}, found {asked}",
            run.display(),
            path.display()
        );
    }
    Ok(own)
}

/// Trains, or continues a training.
///
/// # Errors
/// One sentence for anything in the settings, the dump or the run directory that does not fit, a full disk, or a loss
/// that is not finite. Existing files of the run are kept.
pub fn train(job: &Job<'_>, console: &mut Console<'_>) -> Result<End> {
    let Job { dump, target, run, config, resume, isa, device, verify, comm, .. } = job;
    let (is_first, solo) = (job.is_first(), comm.is_solo());
    let reading = &Reading::new(comm.clone(), job.read_all);
    let d_out = target.map(Dump::d);
    config.validate_rows(dump.d(), d_out)?;
    check_memory(config, dump.d(), d_out, comm.size())?;
    if *verify > 0 && !solo {
        bail!("--verify: expected one process, found {} ranks: one of them has no whole step to repeat", comm.size());
    }
    if let Some(target) = target.filter(|target| target.n_rows() != dump.n_rows()) {
        let (name, n, other, found) = (dump.name(), dump.n_rows(), target.name(), target.n_rows());
        bail!("--target: expected a row for each of the {n} rows of {name}, found {found} rows in {other}");
    }
    let (n_train, n_rows) = feed::split(dump, config.data.holdout);
    if n_train == 0 {
        bail!("{} has {n_rows} rows, and `data.holdout` leaves none to train on", dump.name());
    }
    if !resume && run.is_file() {
        return Err(exists_already(run));
    }
    let part = &checkpoint::Part::new(config, dump.d(), d_out, &**comm);
    let Some(mut start) = Start::together(job, n_train, part, console)? else { return Ok(End::Done) };
    let mut cursor = 0;
    let mut filter = RowFilter::of_settings(dump, &config.data, *isa)?;
    let mut drawn = None;
    let mut trainer = match start.saved.take() {
        Some(mut state) => {
            cursor = state.take_u64("cursor", 1)?[0];
            Trainer::restore_over(config, dump.d(), &mut state, Compute::new(*isa, Par::Rayon), comm.clone())
                .with_context(|| format!("resuming {}", run.display()))?
        }
        None => {
            let spinner = console.spinner("measuring the rows");
            let measured = reading.value(|| measure(job, &filter, n_train))?;
            drawn = Some(measured.drawn);
            let [normalisation, of_target] =
                [Some(measured.rows), measured.targets].map(|of| of.map(|measured| normalisation_of(measured, config)));
            let Some(normalisation) = normalisation else { bail!("{} was not measured", dump.name()) };
            let compute = Compute::new(*isa, Par::Rayon);
            let trainer = Trainer::over(config, normalisation, of_target, &measured.sample, compute, comm.clone())?;
            spinner.finish_and_clear();
            trainer
        }
    };

    // What is not trained there is refused before the run exists.
    if let Some(device) = device {
        trainer = trainer.on(device)?;
    }
    filter.set_limit(trainer.normalisation().norm_limit);
    if let Some((left_out, of)) = drawn.filter(|(left_out, _)| *left_out > 0) {
        console.note(leaves_out(&filter, config, left_out, of));
    }

    start.commit(run, config)?;
    if is_first {
        sources::remember(run, dump.source(), target.map(Dump::source))?;
    }
    let checkpoints = run.join("checkpoints");
    let first_step = trainer.step_count();
    let mut log = Log::open(is_first.then_some(run), first_step, health::asked_in_all(config))?;
    let held_out = HeldOut::watched(n_train, n_rows, WATCHED_ROWS);
    let mut watched = None;

    let steps = config.train.steps;
    let batch = config.train.batch as u64;
    let bar = console.bar_from("training", first_step * batch, steps * batch, "tokens");
    let started = Instant::now();
    // Before the last step an interrupt ends the training with a checkpoint, and the process waits for it.
    let orderly = Orderly::begin();
    let mut mark = (Instant::now(), first_step);
    let is_sent = !solo && !job.read_all;
    let normalisation = trainer.normalisation().clone();
    // Ranks send each other rows that are normalised.
    let mut reader =
        Reader::new(dump, n_train, config, &filter, normalisation, cursor)?.raw(trainer.reads_raw() && !is_sent);
    if is_sent {
        reader = reader.sent_to_others(comm.clone());
    }
    if let (Some(target), Some(normalisation)) = (target, trainer.target()) {
        reader = reader.with_target(target, normalisation.clone());
    }
    let state_of = |trainer: &mut Trainer, feed: &Feed<'_>| -> Result<State> {
        trainer.fetch()?;
        let mut state = trainer.state();
        state.put("cursor", Array::U64(vec![feed.cursor()]));
        for (name, text) in &start.origin {
            state.put(*name, Array::U64(text.bytes().map(u64::from).collect()));
        }
        Ok(state)
    };
    let calibrate = |trainer: &mut Trainer| -> Result<()> {
        let levels = [&config.level1, &config.level2];
        let is_set = |l: &LevelConfig| l.activation.has_tau() || (l.activation.is_penalised() && l.control);
        if levels.iter().any(|l| l.latents > 0 && is_set(l)) {
            trainer.calibrate(&reading.value(|| calibration_rows(dump, n_train, trainer, &filter))?)?;
        }
        Ok(())
    };
    // A run that is resumed after its last step still needs its thresholds set.
    if first_step == steps {
        calibrate(&mut trainer)?;
    }
    let take_steps = |feed: &mut Feed<'_>| -> Result<End> {
        while trainer.step_count() < steps {
            // The checkpoint from which a control starts.
            if trainer.gate_starts() && !config.gate.shuffle {
                let state = state_of(&mut trainer, feed)?;
                checkpoint::save_over(&gate_checkpoint(run), trainer.step_count(), &state, part, &**comm)?;
            }
            let rows = feed.next_given()?;
            let report = if *verify > 0 && trainer.step_count().is_multiple_of(*verify) {
                verified_step(&mut trainer, config, rows, *isa)?
            } else {
                rows.step(&mut trainer)?
            };
            cursor = feed.cursor();
            let taken = trainer.step_count();
            bar.set_position(taken * batch);
            let last = taken == steps;
            let line = report.step % config.train.log_every == 0 || last;
            let watch = last
                || (line
                    && report.step
                        % (steps / WATCHES).max(config.train.log_every).next_multiple_of(config.train.log_every)
                        == 0);
            if watch {
                // Memory that only a step needs is freed for the rows and the encoder of the held-out loss, and of the
                // thresholds.
                trainer.rest();
            }
            // The last checkpoint has the thresholds that the training tracked, not those that are set for the model: a
            // run that is trained further then continues as if it had not ended here.
            let unfinished = last.then(|| state_of(&mut trainer, feed)).transpose()?;
            if last {
                feed.release();
                calibrate(&mut trainer)?;
            }
            if line {
                let elapsed = mark.0.elapsed().as_secs_f64();
                let speed = (taken - mark.1) as f64 * batch as f64 / elapsed.max(1e-9);
                let mut found = None;
                if watch {
                    trainer.fetch()?;
                    found = Some(held_out.watch(dump, *target, &trainer, &filter, reading)?);
                }
                bar.set_message(format!("FVU {:.3} {:.3}", report.losses.fvu[0], report.losses.fvu[1]));
                log.line(&report, taken * batch, speed, started.elapsed().as_secs_f64(), found.as_ref())?;
                watched = found.or(watched.take());
                // The next speed is to be that of steps alone.
                mark = (Instant::now(), taken);
            }
            let due = config.train.checkpoint_every > 0 && taken.is_multiple_of(config.train.checkpoint_every);
            let stop = !last && ranks::any(&**comm, console::interrupted())?;
            if due || stop || last {
                let state = unfinished.map_or_else(|| state_of(&mut trainer, feed), Ok)?;
                checkpoint::save_over(&checkpoints, taken, &state, part, &**comm)?;
            }
            if stop {
                return Ok(End::Interrupted(taken));
            }
        }
        Ok(End::Done)
    };
    let end = reader.ahead(config.train.batch, steps.saturating_sub(first_step), take_steps)?;
    bar.finish_and_clear();
    drop(orderly);
    if end != End::Done {
        return Ok(end);
    }
    trainer.fetch()?;
    // A run that is resumed after its last step has no held-out loss yet.
    let watched = match watched {
        Some(found) => found,
        None => held_out.watch(dump, *target, &trainer, &filter, reading)?,
    };
    let seconds = started.elapsed().as_secs_f64();
    let passes = cursor as f64 / n_train as f64;
    let origin = Origin {
        model: dump.model().map(str::to_owned),
        hook: dump.hook().map(str::to_owned),
        context: dump.context().map(|c| c as u64),
        dump: Some(dump.name().to_owned()),
        steps,
        rows: steps * batch,
        seed: config.seed,
        passes: Some(passes),
        left_out: filter.rule().clone(),
    };
    // The optimiser's memory is freed before the model is written.
    let model = trainer.model();
    drop(trainer);
    if solo {
        write_model(run, &model, &origin)?;
    } else {
        write_model_over(run, &model, &origin, &**comm)?;
    }
    drop(model);
    if start.model_alone || !is_first {
        return Ok(End::Done);
    }
    // The model of several ranks may be larger than what one of them can hold.
    let speed = if solo { Some(heldout::encode_speed(dump, n_train, n_rows, run, *isa)?) } else { None };
    let mut means = json!({
        "final_train_loss_mean": log.last["loss"],
        "best_val_loss_mean": log.best_held_out,
        "total_train_time_mean": log.seconds,
        "avg_inference_tokens_per_second_mean": speed,
        "fvu1_mean": log.last["fvu"][0],
        "fvu2_mean": log.last["fvu"][1],
        "l0_1_mean": log.last["l0"][0],
        "l0_2_mean": log.last["l0"][1],
        "dead1_mean": log.last["dead"][0],
        "dead2_mean": log.last["dead"][1],
    });
    // Known on Linux only.
    if let (Some(cpu_s), Some(bytes)) = (log.cpu_seconds(), Usage::now().peak_resident_bytes) {
        means["cpu_seconds_mean"] = json!(cpu_s);
        means["peak_resident_bytes_mean"] = json!(bytes);
    }
    let left_out = cursor - steps * batch;
    let warnings = health::of_training(&health::Training {
        config,
        held_out: &watched,
        is_held_out: n_rows > n_train,
        best_fvu: log.best_at_target,
        dead: log.last["dead"].as_array().map(|dead| [0, 1].map(|l| dead[l].as_u64().unwrap_or(0))),
        passes,
        n_train,
        unfilled: health::unfilled(dump)?,
    });
    let asked_l0 = if let Asked::Each(asked) = health::asked(config) { Some(asked) } else { None };
    // Rows in the order of use: those of a second pass count twice.
    let rows = json!({
        "trained_on": n_train, "held_out": n_rows - n_train, "passes": passes, "met": cursor,
        "left_out": left_out, "rule": filter.rule(),
    });
    let info = json!({ dump.name(): {
        "means": means, "rows": rows, "asked_l0": asked_l0, "held_out": watched,
        "warnings": warnings,
    } });
    write_atomic(&run.join("final_info.json"), format!("{info:#}\n").as_bytes())?;
    let taken = steps - first_step;
    console.note(format!(
        "trained {taken} steps of {batch} tokens in {seconds:.1} s ({:.0} tokens/s)",
        taken as f64 * batch as f64 / seconds.max(1e-9)
    ));
    if left_out > 0 {
        console
            .note(format!("left out {left_out} of the {cursor} rows read in {passes:.1} passes over {n_train} rows"));
    }
    console.note(of_held_out(&watched, config, n_rows > n_train));
    warnings.iter().for_each(|warning| console.warn(warning));
    drop(start);
    Ok(End::Done)
}

/// Returns the directory of the checkpoint of the step before the gate of a run starts.
fn gate_checkpoint(run: &Path) -> PathBuf {
    run.join("checkpoints").join("gate")
}

/// Trains the control of a finished run, `RUN/control`: the same settings and seed, with the parents permuted at random
/// when the gate starts. It starts from the run's own checkpoint of that step. A run whose gate acts from the first
/// step has none, and its control also starts there. A control that was begun is continued.
///
/// # Errors
/// One sentence if the run has no families to control or no such checkpoint, and as [`train`].
pub fn train_control(job: &Job<'_>, console: &mut Console<'_>) -> Result<End> {
    let Some(config) = control::settings_of(&job.config) else {
        bail!(
            "a control has random families behind a hard gate, and the settings of {} have none to replace: expected \
             `gate.kind` of `hard` or `group-top1`, two levels and `gate.shuffle = false`",
            job.run.display()
        );
    };
    let run = control::dir_of(job.run);
    let from = gate_checkpoint(job.run);
    let begins = job.config.gate.start > 0.0;
    if begins && !run.exists() && checkpoint::list(&from)?.is_empty() {
        bail!(
            "{} has no checkpoint of the step at which its gate started ({}): train it again with --control",
            job.run.display(),
            from.display()
        );
    }
    let &Job { dump, target, isa, device, verify, ref comm, read_all, .. } = job;
    let (from, comm) = (begins.then_some(&*from), comm.clone());
    train(&Job { dump, target, run: &run, config, resume: true, from, isa, device, verify, comm, read_all }, console)
}

/// Takes a step, and the same one on the CPU from the same state.
///
/// # Errors
/// If a bit of the two states differs, naming the first.
fn verified_step(trainer: &mut Trainer, config: &Config, rows: Given<'_>, isa: Isa) -> Result<StepReport> {
    trainer.fetch()?;
    let d = trainer.normalisation().mean.len();
    let mut twin = Trainer::restore(config, d, &mut trainer.state(), Compute::new(isa, Par::Rayon))?;
    let (step, expected) = (trainer.step_count(), rows.step(&mut twin)?);
    let report = rows.step(trainer)?;
    trainer.fetch()?;
    if let Some(Difference { name, index, words }) = trainer.state().difference(&twin.state()) {
        let [found, wanted] = words.map(|word| word.map_or("nothing".into(), |word| format!("{word:08x}")));
        bail!("--verify: after step {step}, number {index} of `{name}` is {found}, and {wanted} on the CPU");
    }
    if report != expected {
        bail!("--verify: step {step} reports {report:?}, and on the CPU {expected:?}");
    }
    Ok(report)
}

/// What is measured of a sample of the rows before the first step.
#[derive(serde::Serialize, serde::Deserialize)]
struct Measured {
    rows: Numbers,
    /// Of the rows that a transcoder reconstructs.
    targets: Option<Numbers>,
    /// The first rows of the sample that are kept, normalised.
    sample: Vec<f32>,
    /// Rows of the sample that are left out, and all of them.
    drawn: (u64, u64),
}

/// The fields of a [`Normalisation`] that are measured: mean, scale, centre, variance, limit of the norm.
type Numbers = (Vec<f32>, f32, Vec<f32>, f32, f32);

fn measure(job: &Job<'_>, filter: &RowFilter<'_>, n_train: u64) -> Result<Measured> {
    let &Job { dump, target, ref config, isa, .. } = job;
    let found = feed::sample(dump, filter, n_train, config.data.stats_rows)?;
    let normalisation =
        Normalisation::measure(isa, &found.rows, dump.d(), &config.data).with_context(|| dump.name().to_owned())?;
    let kept = || found.rows.chunks(dump.d()).filter(|r| normalisation.keeps(isa, r));
    let n = (found.rows.len() / dump.d()) as u64;
    let over = n - kept().count() as u64;
    let drawn = (found.left_out.total() + over, found.left_out.named + n);
    let mut sample: Vec<f32> = kept().take(256).flatten().copied().collect();
    let targets = target.map(|target| measure_target(target, &found, &normalisation, config, isa)).transpose()?;
    normalisation.apply(&mut sample);
    let numbers = |Normalisation { mean, scale, centre, variance, norm_limit, row_norm: _ }| {
        (mean, scale, centre, variance, norm_limit)
    };
    Ok(Measured { rows: numbers(normalisation), targets: targets.map(numbers), sample, drawn })
}

fn normalisation_of((mean, scale, centre, variance, norm_limit): Numbers, config: &Config) -> Normalisation {
    Normalisation { mean, scale, centre, variance, norm_limit, row_norm: config.data.row_norm }
}

/// Measures the rows of `target` that belong to the rows of a sample which training keeps: in their own unit, without a limit on
/// their norms.
fn measure_target(
    target: &Dump,
    sample: &feed::Sample,
    normalisation: &Normalisation,
    config: &Config,
    isa: Isa,
) -> Result<Normalisation> {
    let rows = sample.ids.iter().zip(sample.rows.chunks(normalisation.mean.len()));
    let ids: Vec<u64> = rows.filter(|(_, row)| normalisation.keeps(isa, row)).map(|(id, _)| *id).collect();
    let mut rows = vec![0.0; ids.len() * target.d()];
    target.read_rows(&ids, &mut rows)?;
    let data = DataConfig { outlier: 0.0, ..config.data.clone() };
    Normalisation::measure(isa, &rows, target.d(), &data).with_context(|| target.name().to_owned())
}

/// Returns the sentence about the rows that a training will leave out, `left_out` of a sample of `of` rows.
fn leaves_out(filter: &RowFilter<'_>, config: &Config, left_out: u64, of: u64) -> String {
    let mut which = Vec::new();
    if let Some(limit) = filter.rule().norm_limit {
        which.push(format!("a norm over {limit:.3}, {} times the median (`data.outlier`)", config.data.outlier));
    }
    if config.data.skip_first > 0 {
        which.push(format!("one of the first {} positions of a sequence", config.data.skip_first));
    }
    if !filter.rule().skip_tokens.is_empty() {
        let by_name = !config.data.skip_tokens.is_empty();
        which.push(match (config.data.skip_special, by_name) {
            (true, true) => "a token of `data.skip_special` or `data.skip_tokens`".into(),
            (true, false) => "a token of `data.skip_special`".into(),
            (false, _) => "a token of `data.skip_tokens`".into(),
        });
    }
    let share = 100.0 * left_out as f64 / of as f64;
    format!("leaving out about {share:.2} % of the rows: those with {}", which.join(", or with "))
}

/// Returns the sentence about what the held-out rows say.
fn of_held_out(w: &Watched, config: &Config, is_held_out: bool) -> String {
    let levels = if config.level2.latents > 0 { 2 } else { 1 };
    let list = |of: &dyn Fn(usize) -> String| (0..levels).map(of).collect::<Vec<_>>().join(" and ");
    let asked = match health::asked(config) {
        Asked::Each(asked) => format!(" of {} asked for", list(&|l| asked[l].to_string())),
        Asked::Together(asked) => format!(" of {asked} asked for together"),
        Asked::Nothing => String::new(),
    };
    let rows = if is_held_out { "held-out rows" } else { "rows of the training (none were held out)" };
    if w.rows == 0 {
        return format!("on 0 {rows}: nothing to score");
    }
    format!(
        "on {} {rows}: FVU {}, L0 {}{asked}, {} of the latents silent",
        w.rows,
        list(&|l| if w.fvu[l].is_nan() { "undefined".into() } else { format!("{:.4}", w.fvu[l]) }),
        list(&|l| format!("{:.2}", w.l0[l])),
        list(&|l| format!("{:.1} %", 100.0 * w.dead[l])),
    )
}

/// Returns normalised training rows for the thresholds at the end: always the same ones.
fn calibration_rows(dump: &Dump, n_train: u64, trainer: &Trainer, filter: &RowFilter<'_>) -> Result<Vec<f32>> {
    let most = CALIBRATION_ROWS.min(CALIBRATION_NUMBERS / dump.d()).max(1);
    let mut rows = feed::sample(dump, filter, n_train, most)?.rows;
    trainer.normalisation().apply(&mut rows);
    Ok(rows)
}

/// Refuses sizes that do not fit into memory, before anything large is allocated.
fn check_memory(config: &Config, d: usize, target: Option<usize>, ranks: usize) -> Result<()> {
    let (f1, f2, batch) = (config.level1.latents as u128, config.level2.latents as u128, config.train.batch as u128);
    let (both, skip) = (d + target.unwrap_or(d), if config.skip { d * target.unwrap_or(0) } else { 0 });
    // Weights, gradients and two moments of the encoders, decoders and the skip connection; co-activation counts; the rows
    // of a step.
    let of_latents = 16 * both as u128 * (f1 + f2) + 2 * f1 * f2;
    let bytes = of_latents / ranks as u128 + 4 * (4 * skip as u128 + batch * d as u128);
    memory::check(bytes, || {
        format!(
            "`level1.latents`, `level2.latents`, `train.batch`: {f1}, {f2} and {batch}, for rows of width {d}, need"
        )
    })
}

/// `metrics.jsonl`, and the values of it that the summary needs.
struct Log {
    /// None for a rank that writes no files.
    path: Option<PathBuf>,
    /// The newest line.
    last: Value,
    best_held_out: Option<f64>,
    /// The L0 of all levels that the settings ask for.
    asked_l0: f64,
    /// The lowest held-out FVU of the steps at which L0 had come down to [`Log::asked_l0`]: with more latents per row FVU
    /// is lower, and its rise afterwards is no fault.
    best_at_target: Option<f64>,
    /// Seconds of training, including those before the run was resumed.
    seconds: f64,
    seconds_before: f64,
    /// Seconds of processor time before the run was resumed, and of this process before it trained.
    cpu_seconds_before: f64,
    cpu_seconds_at_start: f64,
}

impl Log {
    /// Keeps the lines of the steps that a resumed run has taken.
    ///
    /// Without a run the lines are kept in memory only: one rank of a training writes them.
    fn open(run: Option<&Path>, first_step: u64, asked_l0: f64) -> Result<Self> {
        let path = run.map(|run| run.join("metrics.jsonl"));
        let mut log = Self {
            path,
            last: Value::Null,
            best_held_out: None,
            asked_l0,
            best_at_target: None,
            seconds: 0.0,
            seconds_before: 0.0,
            cpu_seconds_before: 0.0,
            cpu_seconds_at_start: Usage::now().cpu_s.unwrap_or(0.0),
        };
        let mut kept = String::new();
        let Some(path) = log.path.clone() else { return Ok(log) };
        if first_step > 0 && path.exists() {
            let text = read::bytes(&path, read::LARGE)?;
            for line in String::from_utf8_lossy(&text).lines() {
                // A line that was cut short when the process ended belongs to a step that is taken again.
                let Ok(value) = serde_json::from_str::<Value>(line) else { continue };
                if value["step"].as_u64().is_some_and(|s| s < first_step) {
                    kept.push_str(line);
                    kept.push('\n');
                    log.take_in(value);
                }
            }
        }
        log.seconds_before = log.seconds;
        log.cpu_seconds_before = log.last["cpu_seconds"].as_f64().unwrap_or(0.0);
        write_atomic(&path, kept.as_bytes())?;
        Ok(log)
    }

    fn take_in(&mut self, line: Value) {
        if let Some(fvu) = line["held_out_fvu"][1].as_f64() {
            let least = |best: Option<f64>| Some(best.map_or(fvu, |b| b.min(fvu)));
            self.best_held_out = least(self.best_held_out);
            let l0: f64 = [0, 1].iter().filter_map(|l| line["l0"][*l].as_f64()).sum();
            if l0 <= (1.0 + health::L0_TOLERANCE) * self.asked_l0 {
                self.best_at_target = least(self.best_at_target);
            }
        }
        self.seconds = line["seconds"].as_f64().unwrap_or(self.seconds);
        self.last = line;
    }

    /// Returns the seconds of processor time, including those before the run was resumed.
    fn cpu_seconds(&self) -> Option<f64> {
        Usage::now().cpu_s.map(|s| self.cpu_seconds_before + s - self.cpu_seconds_at_start)
    }

    fn line(
        &mut self,
        r: &StepReport,
        tokens: u64,
        speed: f64,
        seconds: f64,
        held_out: Option<&Watched>,
    ) -> Result<()> {
        let l = &r.losses;
        let line = json!({
            "step": r.step, "tokens": tokens, "loss": l.total, "fvu": l.fvu, "l0": l.l0, "dead": r.dead,
            "sparsity": l.sparsity, "consistency": l.consistency, "aux": l.aux, "gated_aux": l.gated,
            "lr": r.lr, "lambda": r.lambda, "k": r.k, "tau": r.tau, "w": r.w, "grad_norm": r.grad_norm,
            "balance": { "n1": l.balance.own, "n2": l.balance.through, "cosine": l.balance.cosine },
            "gate_on": r.gate_on, "moved": r.moved[0], "reseeded": r.moved[1],
            "tokens_per_s": speed, "seconds": self.seconds_before + seconds,
            "held_out_fvu": held_out.map(|w| w.fvu), "held_out_fvu_of_all": held_out.map(|w| w.fvu_of_all),
            "held_out_left_out": held_out.map(|w| w.left_out.total()),
            "cpu_seconds": self.cpu_seconds(), "peak_resident_bytes": Usage::now().peak_resident_bytes,
        });
        let text = format!("{line}\n");
        // The number is read back as a resumed run reads it: the parser may be off by the last bit.
        self.take_in(serde_json::from_str(&text)?);
        let Some(path) = &self.path else { return Ok(()) };
        let append = || {
            let mut file = fs::OpenOptions::new().append(true).create(true).open(path)?;
            let before = file.metadata()?.len();
            file.write_all(text.as_bytes()).inspect_err(|_| {
                // No half of a line remains.
                let _ = file.set_len(before);
            })
        };
        append().map_err(|e| io_error("writing", path, &e))
    }
}
