//! `strata train`: from a dump to a run directory.

use crate::checkpoint;
use crate::console::{self, Console};
use crate::dump::Dump;
use crate::feed::{self, Feed};
use crate::files::write_atomic;
use crate::heldout::{self, HeldOut};
use crate::settings;
use anyhow::{Context, Result, bail};
use serde_json::json;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;
use strata_core::format::weights::{self, Origin};
use strata_core::normalise::Normalisation;
use strata_core::train::{Array, State, StepReport, Trainer};
use strata_core::{Config, Isa, Par};

/// Rows on which the held-out loss is measured during training.
const WATCHED_ROWS: u64 = 4096;
/// Times that it is.
const WATCHES: u64 = 10;

/// What to train, and where it goes.
pub struct Job<'a> {
    /// Rows.
    pub dump: &'a Dump,
    /// The run directory.
    pub run: &'a Path,
    /// Settings: those of the run when it is resumed.
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
        if settings::load(own.clone(), file, sets, seed)? != own {
            bail!(
                "{} goes on with its own settings ({}); leave --config, --set and --seed out, or start another run",
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
    let checkpoints = run.join("checkpoints");
    if run.exists() && !resume {
        let empty = fs::read_dir(run).with_context(|| format!("reading {}", run.display()))?.next().is_none();
        if !empty {
            bail!("{} exists already: pass --resume to go on with it, or choose another --out", run.display());
        }
    }
    fs::create_dir_all(run).with_context(|| format!("making {}", run.display()))?;
    write_atomic(&run.join("config.toml"), settings::to_toml(config)?.as_bytes())?;

    let (n_train, n_rows) = feed::split(dump, config.data.holdout);
    if n_train == 0 {
        bail!("{} has {n_rows} rows, and `data.holdout` leaves none to train on", dump.name());
    }
    let saved = if *resume { checkpoint::load_newest(&checkpoints)? } else { None };
    let mut feed = Feed::new(dump, n_train, &config.data, config.seed, *isa);
    let mut trainer = match saved {
        Some((_, mut state)) => {
            check_dump(&mut state, dump, run)?;
            feed.cursor = state.take_u64("cursor", 1)?[0];
            Trainer::restore(config, dump.d(), &mut state, *isa, Par::Rayon)
                .with_context(|| format!("resuming {}", run.display()))?
        }
        None => {
            let rows = feed::sample(dump, n_train, config.data.stats_rows)?;
            let normalisation =
                Normalisation::measure(*isa, &rows, dump.d(), &config.data).with_context(|| dump.name().to_owned())?;
            let mut sample: Vec<f32> =
                rows.chunks(dump.d()).filter(|r| normalisation.keeps(*isa, r)).take(256).flatten().copied().collect();
            normalisation.apply(&mut sample);
            Trainer::new(config, normalisation, &sample, *isa, Par::Rayon)?
        }
    };
    let first_step = trainer.step_count();
    let mut log = Log::open(run, first_step)?;
    let held_out = HeldOut::watched(dump, n_train, n_rows, WATCHED_ROWS);

    console::listen_for_interrupt();
    let steps = config.train.steps;
    let batch = config.train.batch as u64;
    let bar = console.bar("training", steps * batch, "tokens");
    bar.set_position(first_step * batch);
    let started = Instant::now();
    let mut x = vec![0.0f32; config.train.batch * dump.d()];
    let mut mark = (Instant::now(), first_step);
    let save = |trainer: &Trainer, feed: &Feed<'_>| -> Result<()> {
        let mut state = trainer.state();
        state.put("cursor", Array::U64(vec![feed.cursor]));
        state.put("dump", Array::U64(fingerprint(dump)));
        checkpoint::save(&checkpoints, trainer.step_count(), &state)
    };
    while trainer.step_count() < steps {
        feed.next(trainer.normalisation(), &mut x)?;
        let report = trainer.step(&x)?;
        let taken = trainer.step_count();
        bar.set_position(taken * batch);
        let last = taken == steps;
        if report.step % config.train.log_every == 0 || last {
            let elapsed = mark.0.elapsed().as_secs_f64();
            let speed = (taken - mark.1) as f64 * batch as f64 / elapsed.max(1e-9);
            mark = (Instant::now(), taken);
            let watch = last
                || (report.step
                    % (steps / WATCHES).max(config.train.log_every).next_multiple_of(config.train.log_every)
                    == 0);
            let fvu = if watch { Some(held_out.fvu(dump, &trainer, *isa)?) } else { None };
            bar.set_message(format!("FVU {:.3} {:.3}", report.losses.fvu[0], report.losses.fvu[1]));
            log.line(&report, taken * batch, speed, fvu)?;
        }
        let due = config.train.checkpoint_every > 0 && taken.is_multiple_of(config.train.checkpoint_every);
        if (due || last) && !last {
            save(&trainer, &feed)?;
        }
        if !last && console::interrupted() {
            save(&trainer, &feed)?;
            bar.abandon();
            return Ok(End::Interrupted(taken));
        }
    }
    bar.finish_and_clear();
    save(&trainer, &feed)?;
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
    write_model(run, &trainer.model(), &origin)?;
    let speed = heldout::encode_speed(dump, n_train, n_rows, run, *isa)?;
    let info = json!({ dump.name(): { "means": {
        "final_train_loss_mean": log.last_loss,
        "best_val_loss_mean": log.best_held_out,
        "total_train_time_mean": seconds,
        "avg_inference_tokens_per_second_mean": speed,
        "fvu1_mean": log.last_fvu[0],
        "fvu2_mean": log.last_fvu[1],
        "l0_1_mean": log.last_l0[0],
        "l0_2_mean": log.last_l0[1],
        "dead1_mean": log.last_dead[0],
        "dead2_mean": log.last_dead[1],
    }}});
    write_atomic(&run.join("final_info.json"), format!("{:#}\n", info).as_bytes())?;
    console.note(format!(
        "trained {steps} steps of {batch} tokens in {seconds:.1} s ({:.0} tokens/s)",
        (steps - first_step) as f64 * batch as f64 / seconds.max(1e-9)
    ));
    Ok(End::Done)
}

/// Writes `RUN/sae`.
fn write_model(run: &Path, model: &strata_core::Model, origin: &Origin) -> Result<()> {
    let dir = run.join("sae");
    fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
    write_atomic(&dir.join("sae_weights.safetensors"), &weights::write_weights(model)?)?;
    write_atomic(&dir.join("cfg.json"), &weights::write_cfg(&model.arch, origin))
}

/// The dump's fingerprint as numbers of a checkpoint.
fn fingerprint(dump: &Dump) -> Vec<u64> {
    dump.fingerprint().bytes().map(u64::from).collect()
}

fn check_dump(state: &mut State, dump: &Dump, run: &Path) -> Result<()> {
    match state.0.remove("dump") {
        Some(Array::U64(saved)) if saved == fingerprint(dump) => Ok(()),
        Some(_) => bail!("{} was trained on another dump than {}: expected the same rows", run.display(), dump.name()),
        None => bail!("the checkpoint of {} names no dump", run.display()),
    }
}

/// `metrics.jsonl`, and what the summary needs of it.
struct Log {
    path: PathBuf,
    text: String,
    last_loss: f64,
    best_held_out: Option<f64>,
    last_fvu: [f64; 2],
    last_l0: [f64; 2],
    last_dead: [usize; 2],
}

impl Log {
    /// Keeps the lines of the steps that a resumed run has behind it.
    fn open(run: &Path, first_step: u64) -> Result<Self> {
        let path = run.join("metrics.jsonl");
        let mut log = Self {
            path,
            text: String::new(),
            last_loss: f64::NAN,
            best_held_out: None,
            last_fvu: [f64::NAN; 2],
            last_l0: [0.0; 2],
            last_dead: [0; 2],
        };
        if first_step > 0 && log.path.exists() {
            let text = fs::read_to_string(&log.path).with_context(|| format!("reading {}", log.path.display()))?;
            for line in text.lines() {
                let Ok(value) = serde_json::from_str::<serde_json::Value>(line) else { continue };
                if value["step"].as_u64().is_some_and(|s| s < first_step) {
                    log.text.push_str(line);
                    log.text.push('\n');
                    if let Some(fvu) = value["held_out_fvu"][1].as_f64() {
                        log.best_held_out = Some(log.best_held_out.map_or(fvu, |b| b.min(fvu)));
                    }
                }
            }
        }
        write_atomic(&log.path, log.text.as_bytes())?;
        Ok(log)
    }

    fn line(&mut self, r: &StepReport, tokens: u64, tokens_per_s: f64, held_out: Option<[f64; 2]>) -> Result<()> {
        let l = &r.losses;
        let line = json!({
            "step": r.step, "tokens": tokens, "loss": l.total, "fvu": l.fvu, "l0": l.l0, "dead": r.dead,
            "sparsity": l.sparsity, "consistency": l.consistency, "aux": l.aux, "gated_aux": l.gated,
            "lr": r.lr, "lambda": r.lambda, "k": r.k, "tau": r.tau, "w": r.w, "grad_norm": r.grad_norm,
            "balance": { "n1": l.balance.own, "n2": l.balance.through, "cosine": l.balance.cosine },
            "gate_on": r.gate_on, "moved": r.moved[0], "reseeded": r.moved[1],
            "tokens_per_s": tokens_per_s, "held_out_fvu": held_out,
        });
        self.last_loss = l.total;
        self.last_fvu = l.fvu;
        self.last_l0 = l.l0;
        self.last_dead = r.dead;
        if let Some([_, fvu]) = held_out {
            self.best_held_out = Some(self.best_held_out.map_or(fvu, |b| b.min(fvu)));
        }
        use std::io::Write;
        let mut file = fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(&self.path)
            .with_context(|| format!("opening {}", self.path.display()))?;
        writeln!(file, "{line}").with_context(|| format!("writing {}", self.path.display()))
    }
}
