//! `strata ablate`: many runs on one dump, compared seed by seed.
//!
//! Every run is made by `strata train` and `strata eval` from its settings, in a directory of its own:
//! `DIR/runs/HASH/seed-S` (`DIR/run_I` for the suite `experiment`). HASH is a hash of settings and dump, so that rows
//! with equal settings share their runs, and finished runs are not repeated. `DIR/ablation.json` and `DIR/ablation.csv`
//! have every metric of every run; the former also has means and paired differences. `DIR/report.html` shows them.
//!
//! Over several ranks each makes some of the runs, and the first compares them.

mod compare;
mod plan;
mod suites;
mod sweep;

use crate::INTERRUPTED;
use crate::args;
use crate::checkpoint::sha256;
use crate::console::Console;
use crate::control;
use crate::dump::Dump;
use crate::eval;
use crate::files::{read, write_atomic};
use crate::ranks;
use crate::report;
use crate::run::Run;
use crate::settings;
use crate::settings::preset;
use crate::train::{self, End};
use anyhow::{Context, Result, bail};
use plan::{Row, Suite};
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Instant;
use strata_core::train::{Comm, Solo};
use strata_core::{Config, Device, Isa};

/// Most seeds of a row.
const MOST_SEEDS: u64 = 10_000;

/// Where runs are computed.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    /// Instruction set.
    pub isa: Isa,
    /// The GPU.
    pub device: Option<&'a Device>,
}

/// One run.
struct Job {
    config: Config,
    dir: PathBuf,
    name: String,
    /// The run with another seed that it is compared with, where there is one.
    other: Option<PathBuf>,
}

/// Makes the runs that are missing, and compares all of them; returns the exit code.
///
/// # Errors
/// One sentence for settings that cannot be run, or the error of the first run that failed. Finished runs are kept.
pub fn ablate(
    args: &args::Ablate,
    dump: &Dump,
    place: Place<'_>,
    comm: &dyn Comm,
    console: &mut Console<'_>,
) -> Result<u8> {
    let experiment = args.suite.contains(&args::SuiteName::Experiment);
    let seeds = args.seeds.unwrap_or(if experiment { 1 } else { 3 });
    if !(1..=MOST_SEEDS).contains(&seeds) {
        bail!("--seeds: expected 1 to {MOST_SEEDS}, found {seeds}");
    }
    if experiment && (seeds > 1 || args.suite.len() > 1) {
        bail!("--suite experiment leaves one run in each run_i: expected one seed and no other suite");
    }
    let (base, own) = sweep::read(preset::base(args.preset)?, args.config.as_deref(), &args.sets)?;
    let mut suites = Vec::from_iter(own);
    for &name in &args.suite {
        suites.extend(suites::built_in(name, &base)?);
    }
    if suites.is_empty() {
        bail!("nothing to run: name a --suite, or give a --config with `[[run]]` or `[grid]`");
    }
    let fingerprint = dump.fingerprint();
    let dir_of = |suite: &Suite, row: &Row, seed: u64| -> Result<PathBuf> {
        if suite.name == suites::EXPERIMENT {
            // The name is `run_1 (title)`.
            return Ok(PathBuf::from(row.name.split(' ').next().unwrap_or(&row.name)));
        }
        let any_seed = Config { seed: 0, ..row.config.clone() };
        let hash = sha256(format!("{fingerprint}\n{}", settings::to_toml(&any_seed)?).as_bytes());
        Ok(Path::new("runs").join(&hash[..12]).join(format!("seed-{seed}")))
    };
    let mut planned = BTreeSet::new();
    let mut jobs = Vec::new();
    for suite in &suites {
        for row in &suite.rows {
            row.config.validate(dump.d()).with_context(|| format!("{}, {}", suite.name, row.name))?;
            // The range is that of integers in TOML.
            if row.config.seed > i64::MAX as u64 - seeds {
                bail!(
                    "`seed`: expected at most {} for {seeds} seeds, found {}",
                    i64::MAX as u64 - seeds,
                    row.config.seed
                );
            }
            for seed in seeds_of(row, seeds) {
                let dir = args.out.join(dir_of(suite, row, seed)?);
                let config = Config { seed, ..row.config.clone() };
                let name = format!("{}: {}, seed {seed}", suite.name, row.name);
                if planned.insert(dir.clone()) {
                    let next = seeds_of(row, seeds).find(|s| *s > seed).or_else(|| seeds_of(row, seeds).next());
                    let other = next.filter(|s| *s != seed).map(|s| dir_of(suite, row, s)).transpose()?;
                    jobs.push(Job { config, dir, name, other: other.map(|o| args.out.join(o)) });
                }
            }
        }
    }
    let planned: Vec<String> = jobs.iter().map(|job| job.dir.display().to_string()).collect();
    ranks::check_alike(comm, &planned.join("\n"))?;
    // The first rank says which runs are missing, since another one may find some that have been made meanwhile.
    let mut missing = Vec::new();
    if comm.rank() == 0 {
        missing = jobs.iter().map(|job| Ok(u8::from(!is_finished(job, dump)?))).collect::<Result<_>>()?;
    }
    comm.broadcast(&mut missing)?;
    let pending: Vec<&Job> = jobs.iter().zip(missing).filter(|(_, missing)| *missing > 0).map(|(job, _)| job).collect();
    let own: Vec<&Job> = pending.iter().copied().skip(comm.rank()).step_by(comm.size()).collect();
    let there = jobs.len() - pending.len();
    if there > 0 {
        console.note(format!("{there} of {} runs are there already", jobs.len()));
    }
    // Runs are compared with those of other seeds, so all are trained before any is evaluated.
    for (what, task) in [("training", train_one as Task), ("evaluating", eval_one)] {
        let interrupted = run_all(&own, what, |job| task(job, dump, place), console)?;
        if ranks::any(comm, interrupted)? {
            writeln!(console.err, "interrupted: the same command continues where it stopped")?;
            return Ok(INTERRUPTED);
        }
    }
    if comm.rank() > 0 {
        return Ok(0);
    }
    if experiment {
        summarise(&args.out, &jobs)?;
    }
    let compared = compare::report(dump.name(), &args.out, &base, &suites, |suite, row| {
        seeds_of(row, seeds).map(|seed| Ok((seed, dir_of(suite, row, seed)?))).collect()
    })?;
    write_atomic(
        &args.out.join("ablation.json"),
        format!("{}\n", serde_json::to_string_pretty(&compared)?).as_bytes(),
    )?;
    write_atomic(&args.out.join("ablation.csv"), compare::csv(&compared).as_bytes())?;
    if console.json {
        console.json_pretty(&compared)?;
    } else {
        compare::print(&compared, &mut console.out)?;
    }
    let page = report::report(&report::Job { from: std::slice::from_ref(&args.out), ..report::Job::default() })?.report;
    console.note(format!("every metric of every run is in {}", args.out.join("ablation.json").display()));
    console.note(format!("open {} in a browser", page.display()));
    Ok(0)
}

fn seeds_of(row: &Row, n: u64) -> impl Iterator<Item = u64> + use<> {
    let first = row.config.seed;
    (0..n).map(move |s| first + s)
}

/// Trains or evaluates one run.
type Task = fn(&Job, &Dump, Place<'_>) -> Result<End>;

/// Runs `task` for every job; returns whether it was interrupted.
///
/// Jobs are distributed over as many workers as there are threads, each with a thread pool of its own; with more jobs
/// than threads every pool has one thread. No result depends on that.
fn run_all(
    pending: &[&Job],
    what: &str,
    task: impl Fn(&Job) -> Result<End> + Sync,
    console: &mut Console<'_>,
) -> Result<bool> {
    if pending.is_empty() {
        return Ok(false);
    }
    let threads = rayon::current_num_threads();
    let workers = threads.min(pending.len());
    let bar = console.bar(what, pending.len() as u64, "runs");
    bar.tick();
    let started = Instant::now();
    let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let (done, finished) = mpsc::channel::<(&Job, Result<End>)>();
    let mut failed = None;
    let mut interrupted = false;
    std::thread::scope(|scope| -> Result<()> {
        for w in 0..workers {
            let own = threads / workers + usize::from(w < threads % workers);
            let pool = rayon::ThreadPoolBuilder::new().num_threads(own).build().context("starting threads")?;
            let (done, next, stop, task) = (done.clone(), &next, &stop, &task);
            let work = move || {
                while !stop.load(Ordering::SeqCst) {
                    let Some(&job) = pending.get(next.fetch_add(1, Ordering::SeqCst)) else { break };
                    let end = pool.install(|| task(job));
                    if !matches!(end, Ok(End::Done)) {
                        stop.store(true, Ordering::SeqCst);
                    }
                    // The receiver outlives the scope.
                    let _ = done.send((job, end));
                }
            };
            std::thread::Builder::new().spawn_scoped(scope, work).context("starting a thread")?;
        }
        drop(done);
        for (n, (job, end)) in finished.iter().enumerate() {
            match end {
                Ok(End::Done) => {
                    bar.inc(1);
                    let left = started.elapsed().as_secs_f64() / (n + 1) as f64 * (pending.len() - n - 1) as f64;
                    let line = format!("{what} {}/{} {}; about {left:.0} s left", n + 1, pending.len(), job.name);
                    bar.suspend(|| console.note(line));
                }
                Ok(End::Interrupted(_)) => interrupted = true,
                Err(error) => failed = failed.take().or(Some(error.context(job.name.clone()))),
            }
        }
        Ok(())
    })?;
    bar.finish_and_clear();
    if let Some(error) = failed {
        return Err(error);
    }
    Ok(interrupted)
}

/// Returns whether a run was trained and evaluated on this dump, with these settings, and against another seed where
/// there is one.
fn is_finished(job: &Job, dump: &Dump) -> Result<bool> {
    let path = job.dir.join("config.toml");
    if let Some(text) = read::optional_text(&path, read::SMALL)?
        && settings::parse(&text, &path.display().to_string())? != job.config
    {
        bail!("{} holds a run with other settings: choose another --out, or remove it", job.dir.display());
    }
    if !job.dir.join("final_info.json").exists() || !job.dir.join("eval.json").exists() {
        return Ok(false);
    }
    let eval = read_json(&job.dir.join("eval.json"))?;
    match eval["dump"].as_str() {
        Some(name) if name == dump.name() => Ok(job.other.is_none() || !eval["stability"].is_null()),
        _ => bail!("{} holds a run on another dump: choose another --out, or remove it", job.dir.display()),
    }
}

/// Trains what has not been trained, and the control where it costs little.
fn train_one(job: &Job, dump: &Dump, place: Place<'_>) -> Result<End> {
    let console = &mut Console { out: &mut io::sink(), err: &mut io::sink(), quiet: true, json: false, watch: None };
    fs::create_dir_all(&job.dir).with_context(|| format!("making {}", job.dir.display()))?;
    let (Place { isa, device }, config, run) = (place, job.config.clone(), &job.dir);
    let comm = Arc::new(Solo);
    let train = train::Job {
        dump,
        target: None,
        run,
        config,
        resume: true,
        from: None,
        isa,
        device,
        verify: 0,
        comm,
        read_all: true,
    };
    // This is the last file that a training writes.
    if !job.dir.join("final_info.json").exists()
        && let End::Interrupted(step) = train::train(&train, console)?
    {
        return Ok(End::Interrupted(step));
    }
    if control::is_cheap(&job.config) { train::train_control(&train, console) } else { Ok(End::Done) }
}

/// Evaluates a run, against another seed where there is one.
fn eval_one(job: &Job, dump: &Dump, place: Place<'_>) -> Result<End> {
    let console = &mut Console { out: &mut io::sink(), err: &mut io::sink(), quiet: true, json: false, watch: None };
    let run = Run::open(&job.dir)?;
    let against = job.other.as_deref().map(Run::open).transpose()?;
    let against = against.as_ref();
    let (Place { isa, device }, target, lm, out) = (place, None, None, None);
    let comm = &Solo;
    let job = eval::Job { run: &run, dump, target, all: false, lm, splice: None, against, out, isa, device, comm };
    eval::eval(&job, console)?;
    Ok(End::Done)
}

/// Writes `DIR/final_info.json` of the suite `experiment`, for programs that look in `--out-dir` itself: the `means` of
/// each run, under the name of its row.
fn summarise(out: &Path, jobs: &[Job]) -> Result<()> {
    let mut all = serde_json::Map::new();
    for job in jobs {
        let info = read_json(&job.dir.join("final_info.json"))?;
        let (_, row) = job.name.split_once(": ").unwrap_or_default();
        let row = row.rsplit_once(", seed ").map_or(row, |(row, _)| row);
        for (_, means) in info.as_object().into_iter().flatten() {
            all.insert(row.to_owned(), means.clone());
        }
    }
    let text = serde_json::to_string_pretty(&all)?;
    write_atomic(&out.join("final_info.json"), format!("{text}\n").as_bytes())
}

fn read_json(path: &Path) -> Result<serde_json::Value> {
    read::json(path, read::SMALL)
}
