//! `strata train`: from a dump to a run directory.

use crate::checkpoint;
use crate::console::{self, Console};
use crate::dump::Dump;
use crate::feed::{self, Feed, Reader};
use crate::files::{self, io_error, write_atomic};
use crate::heldout::{self, HeldOut};
use crate::settings;
use crate::usage::Usage;
use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Value, json};
use std::fs;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;
use strata_core::config::Activation;
use strata_core::format::weights::{self, Origin};
use strata_core::normalise::Normalisation;
use strata_core::train::{Array, State, StepReport, Trainer};
use strata_core::{Compute, Config, Isa, Par};

/// Rows on which the held-out loss is measured during training.
const WATCHED_ROWS: u64 = 4096;
/// Times that it is.
const WATCHES: u64 = 10;

/// Rows on which the thresholds are set at the end, and the most numbers that they may have: 16 MiB.
const CALIBRATION_ROWS: usize = 1 << 15;
const CALIBRATION_NUMBERS: usize = 1 << 22;

/// What to train, and where it goes.
pub struct Job<'a> {
    /// Rows.
    pub dump: &'a Dump,
    /// The run directory.
    pub run: &'a Path,
    /// Settings: those of the run when it is resumed, see [`settings_of`].
    pub config: Config,
    /// Go on where the run stopped.
    pub resume: bool,
    /// Instruction set.
    pub isa: Isa,
}

/// How a training ended.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    /// All steps were taken; the model is in `RUN/sae`.
    Done,
    /// Ctrl-C: a checkpoint was written after this many steps.
    Interrupted(u64),
}

/// Settings for `strata train`: of the run itself when it is resumed, else from defaults, file and flags.
///
/// # Errors
/// As [`settings::load`]; and if a resumed run is given settings that differ from its own.
pub fn settings_of(
    run: &Path,
    resume: bool,
    file: Option<&Path>,
    sets: &[String],
    seed: Option<u64>,
) -> Result<Config> {
    let path = run.join("config.toml");
    if resume && path.exists() {
        let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        let own = settings::parse(&text, &path.display().to_string())?;
        if let Some((key, own, asked)) = settings::difference(&own, &settings::load(own.clone(), file, sets, seed)?)? {
            bail!(
                "{} goes on with its own settings: `{key}`: expected {own} by {}, found {asked}",
                run.display(),
                path.display()
            );
        }
        return Ok(own);
    }
    settings::load(Config::default(), file, sets, seed)
}

/// Trains, or goes on training.
///
/// # Errors
/// One sentence for anything in the settings, the dump or the run directory that does not fit, a full disk, or a loss
/// that is not finite. What the run directory held stays.
pub fn train(job: &Job<'_>, console: &mut Console<'_>) -> Result<End> {
    let Job { dump, run, config, resume, isa } = job;
    config.validate(dump.d())?;
    check_memory(config, dump.d())?;
    let (n_train, n_rows) = feed::split(dump, config.data.holdout);
    if n_train == 0 {
        bail!("{} has {n_rows} rows, and `data.holdout` leaves none to train on", dump.name());
    }
    let checkpoints = run.join("checkpoints");
    let mut lock = if run.exists() { files::lock(run)? } else { None };
    let mut saved = None;
    if *resume {
        saved = checkpoint::load_newest(&checkpoints)?;
        if let Some((_, state)) = &mut saved {
            check_origin(state, job, n_train)?;
        }
        if run.join("final_info.json").exists() {
            console.note(format!("{} is finished already", run.display()));
            return Ok(End::Done);
        }
        if saved.is_none() {
            console.note(format!("{} has no checkpoint: starting at the first step", run.display()));
        }
    } else if run.exists() && fs::read_dir(run).map_err(|e| io_error("reading", run, &e))?.next().is_some() {
        return Err(exists_already(run));
    }
    let mut cursor = 0;
    let mut trainer = match saved {
        Some((_, mut state)) => {
            cursor = state.take_u64("cursor", 1)?[0];
            Trainer::restore(config, dump.d(), &mut state, Compute::new(*isa, Par::Rayon))
                .with_context(|| format!("resuming {}", run.display()))?
        }
        None => {
            let spinner = console.spinner("measuring the rows");
            let rows = feed::sample(dump, n_train, config.data.stats_rows)?;
            let normalisation =
                Normalisation::measure(*isa, &rows, dump.d(), &config.data).with_context(|| dump.name().to_owned())?;
            let mut sample: Vec<f32> =
                rows.chunks(dump.d()).filter(|r| normalisation.keeps(*isa, r)).take(256).flatten().copied().collect();
            drop(rows);
            normalisation.apply(&mut sample);
            let trainer = Trainer::new(config, normalisation, &sample, Compute::new(*isa, Par::Rayon))?;
            spinner.finish_and_clear();
            trainer
        }
    };

    // Nothing was written so far: what cannot be trained leaves no run behind.
    if run.exists() {
        [run, checkpoints.as_path(), &run.join("sae")].into_iter().try_for_each(files::remove_leftovers)?;
        checkpoint::prune(&checkpoints)?;
    } else {
        fs::create_dir_all(files::parent_of(run)).map_err(|e| io_error("making", run, &e))?;
        fs::create_dir(run).map_err(|e| match e.kind() {
            ErrorKind::AlreadyExists => exists_already(run),
            _ => io_error("making", run, &e),
        })?;
        lock = files::lock(run)?;
    }
    if !run.join("config.toml").exists() {
        write_atomic(&run.join("config.toml"), settings::to_toml(config)?.as_bytes())?;
    }
    let first_step = trainer.step_count();
    let mut log = Log::open(run, first_step)?;
    let held_out = HeldOut::watched(dump, n_train, n_rows, WATCHED_ROWS);

    let steps = config.train.steps;
    let batch = config.train.batch as u64;
    let bar = console.bar_from("training", first_step * batch, steps * batch, "tokens");
    let started = Instant::now();
    let mut mark = (Instant::now(), first_step);
    let reader = Reader::new(dump, n_train, config, trainer.normalisation().clone(), cursor, *isa)?;
    let save = |trainer: &Trainer, feed: &Feed<'_>| -> Result<()> {
        let mut state = trainer.state();
        state.put("cursor", Array::U64(vec![feed.cursor()]));
        for (name, text) in origin_of(job, n_train)? {
            state.put(name, Array::U64(text.bytes().map(u64::from).collect()));
        }
        checkpoint::save(&checkpoints, trainer.step_count(), &state)
    };
    let take_steps = |feed: &mut Feed<'_>| -> Result<End> {
        while trainer.step_count() < steps {
            let report = trainer.step(feed.next()?)?;
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
                // What only a step needs makes room for the rows and the encoder of the held-out loss, and of the thresholds.
                trainer.rest();
            }
            if last {
                feed.release();
                let levels = [&config.level1, &config.level2];
                if levels.iter().any(|l| l.latents > 0 && l.activation == Activation::Batchtopk) {
                    trainer.calibrate(&calibration_rows(dump, n_train, &trainer, *isa)?)?;
                }
            }
            if line {
                let elapsed = mark.0.elapsed().as_secs_f64();
                let speed = (taken - mark.1) as f64 * batch as f64 / elapsed.max(1e-9);
                let fvu = if watch { Some(held_out.fvu(dump, &trainer, *isa)?) } else { None };
                bar.set_message(format!("FVU {:.3} {:.3}", report.losses.fvu[0], report.losses.fvu[1]));
                log.line(&report, taken * batch, speed, started.elapsed().as_secs_f64(), fvu)?;
                // The next speed is that of steps alone.
                mark = (Instant::now(), taken);
            }
            let due = config.train.checkpoint_every > 0 && taken.is_multiple_of(config.train.checkpoint_every);
            let stop = !last && console::interrupted();
            if due || stop || last {
                save(&trainer, feed)?;
            }
            if stop {
                return Ok(End::Interrupted(taken));
            }
        }
        Ok(End::Done)
    };
    let end = reader.ahead(config.train.batch, steps.saturating_sub(first_step), take_steps)?;
    bar.finish_and_clear();
    if end != End::Done {
        return Ok(end);
    }
    let seconds = started.elapsed().as_secs_f64();
    let origin = Origin {
        model: dump.model().map(str::to_owned),
        hook: dump.hook().map(str::to_owned),
        context: dump.context().map(|c| c as u64),
        dump: Some(dump.name().to_owned()),
        steps,
        rows: steps * batch,
        seed: config.seed,
    };
    // The optimiser's memory is free before the model is written.
    let model = trainer.model();
    drop(trainer);
    write_model(run, &model, &origin)?;
    drop(model);
    let speed = heldout::encode_speed(dump, n_train, n_rows, run, *isa)?;
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
    // Known on Linux alone.
    if let (Some(cpu_s), Some(bytes)) = (log.cpu_seconds(), Usage::now().peak_resident_bytes) {
        means["cpu_seconds_mean"] = json!(cpu_s);
        means["peak_resident_bytes_mean"] = json!(bytes);
    }
    let info = json!({ dump.name(): { "means": means } });
    write_atomic(&run.join("final_info.json"), format!("{info:#}\n").as_bytes())?;
    let taken = steps - first_step;
    console.note(format!(
        "trained {taken} steps of {batch} tokens in {seconds:.1} s ({:.0} tokens/s)",
        taken as f64 * batch as f64 / seconds.max(1e-9)
    ));
    drop(lock);
    Ok(End::Done)
}

/// Rows of the training, normalised, for the thresholds at its end: always the same ones.
fn calibration_rows(dump: &Dump, n_train: u64, trainer: &Trainer, isa: Isa) -> Result<Vec<f32>> {
    let normalisation = trainer.normalisation();
    let d = dump.d();
    let mut rows = feed::sample(dump, n_train, CALIBRATION_ROWS.min(CALIBRATION_NUMBERS / d).max(1))?;
    let mut kept = 0;
    for i in 0..rows.len() / d {
        if normalisation.keeps(isa, &rows[i * d..(i + 1) * d]) {
            rows.copy_within(i * d..(i + 1) * d, kept * d);
            kept += 1;
        }
    }
    rows.truncate(kept * d);
    normalisation.apply(&mut rows);
    Ok(rows)
}

/// Writes `RUN/sae`.
fn write_model(run: &Path, model: &strata_core::Model, origin: &Origin) -> Result<()> {
    let dir = run.join("sae");
    fs::create_dir_all(&dir).map_err(|e| io_error("making", &dir, &e))?;
    write_atomic(&dir.join("sae_weights.safetensors"), &weights::write_weights(model)?)?;
    write_atomic(&dir.join("cfg.json"), &weights::write_cfg(&model.arch, origin))
}

/// Refuses sizes whose memory the system would not give, before anything is allocated for good.
fn check_memory(config: &Config, d: usize) -> Result<()> {
    let (f1, f2, batch) = (config.level1.latents as u128, config.level2.latents as u128, config.train.batch as u128);
    // Weights, gradients and two moments of the encoders and decoders; co-firing; the rows of a step.
    let bytes = 4 * (4 * 2 * d as u128 * (f1 + f2) + batch * d as u128) + 2 * f1 * f2;
    let is_given = usize::try_from(bytes).is_ok_and(|n| Vec::<u8>::new().try_reserve_exact(n).is_ok());
    if !is_given {
        bail!(
            "`level1.latents`, `level2.latents`, `train.batch`: {f1}, {f2} and {batch} need at least {} GB of memory \
             for rows of width {d}",
            bytes >> 30
        );
    }
    Ok(())
}

fn exists_already(run: &Path) -> anyhow::Error {
    anyhow!("{} exists already: pass --resume to go on with it, or choose another --out", run.display())
}

/// What a checkpoint must go on with: texts, kept as the numbers of their bytes.
fn origin_of(job: &Job<'_>, n_train: u64) -> Result<[(&'static str, String); 2]> {
    // Where rows are held out depends on the sequences, which the fingerprint does not know.
    let dump = format!("{} {n_train}", job.dump.fingerprint());
    Ok([("dump", dump), ("config", settings::to_toml(&job.config)?)])
}

fn check_origin(state: &mut State, job: &Job<'_>, n_train: u64) -> Result<()> {
    let run = job.run.display();
    for (name, expected) in origin_of(job, n_train)? {
        let Some(Array::U64(saved)) = state.0.remove(name) else {
            bail!("the checkpoint of {run} does not say its {name}");
        };
        let saved = String::from_utf8(saved.into_iter().map(|b| b as u8).collect())?;
        if saved == expected {
            continue;
        }
        if name == "dump" {
            bail!("{run} was trained on another dump than {}: expected the same rows", job.dump.name());
        }
        let saved = settings::parse(&saved, "the checkpoint")?;
        if let Some((key, saved, found)) = settings::difference(&saved, &job.config)? {
            bail!("{run} was trained with other settings: `{key}`: expected {saved}, found {found} in its config.toml");
        }
    }
    Ok(())
}

/// `metrics.jsonl`, and what the summary needs of it.
struct Log {
    path: PathBuf,
    /// The newest line.
    last: Value,
    best_held_out: Option<f64>,
    /// Seconds of training, those before the run was resumed included.
    seconds: f64,
    seconds_before: f64,
    /// Of processor time: spent before the run was resumed, and by this process before it trained.
    cpu_seconds_before: f64,
    cpu_seconds_at_start: f64,
}

impl Log {
    /// Keeps the lines of the steps that a resumed run has behind it.
    fn open(run: &Path, first_step: u64) -> Result<Self> {
        let path = run.join("metrics.jsonl");
        let mut log = Self {
            path,
            last: Value::Null,
            best_held_out: None,
            seconds: 0.0,
            seconds_before: 0.0,
            cpu_seconds_before: 0.0,
            cpu_seconds_at_start: Usage::now().cpu_s.unwrap_or(0.0),
        };
        let mut kept = String::new();
        if first_step > 0 && log.path.exists() {
            let text = fs::read(&log.path).map_err(|e| io_error("reading", &log.path, &e))?;
            for line in String::from_utf8_lossy(&text).lines() {
                // A line that the end of the process cut short belongs to a step that is taken again.
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
        write_atomic(&log.path, kept.as_bytes())?;
        Ok(log)
    }

    fn take_in(&mut self, line: Value) {
        if let Some(fvu) = line["held_out_fvu"][1].as_f64() {
            self.best_held_out = Some(self.best_held_out.map_or(fvu, |b| b.min(fvu)));
        }
        self.seconds = line["seconds"].as_f64().unwrap_or(self.seconds);
        self.last = line;
    }

    /// Seconds of processor time, those before the run was resumed included.
    fn cpu_seconds(&self) -> Option<f64> {
        Usage::now().cpu_s.map(|s| self.cpu_seconds_before + s - self.cpu_seconds_at_start)
    }

    fn line(
        &mut self,
        r: &StepReport,
        tokens: u64,
        speed: f64,
        seconds: f64,
        held_out: Option<[f64; 2]>,
    ) -> Result<()> {
        let l = &r.losses;
        let line = json!({
            "step": r.step, "tokens": tokens, "loss": l.total, "fvu": l.fvu, "l0": l.l0, "dead": r.dead,
            "sparsity": l.sparsity, "consistency": l.consistency, "aux": l.aux, "gated_aux": l.gated,
            "lr": r.lr, "lambda": r.lambda, "k": r.k, "tau": r.tau, "w": r.w, "grad_norm": r.grad_norm,
            "balance": { "n1": l.balance.own, "n2": l.balance.through, "cosine": l.balance.cosine },
            "gate_on": r.gate_on, "moved": r.moved[0], "reseeded": r.moved[1],
            "tokens_per_s": speed, "seconds": self.seconds_before + seconds, "held_out_fvu": held_out,
            "cpu_seconds": self.cpu_seconds(), "peak_resident_bytes": Usage::now().peak_resident_bytes,
        });
        let text = format!("{line}\n");
        self.take_in(line);
        let append = || {
            let mut file = fs::OpenOptions::new().append(true).create(true).open(&self.path)?;
            let before = file.metadata()?.len();
            file.write_all(text.as_bytes()).inspect_err(|_| {
                // No half of a line stays.
                let _ = file.set_len(before);
            })
        };
        append().map_err(|e| io_error("writing", &self.path, &e))
    }
}
