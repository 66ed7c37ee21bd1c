//! The start of a training: locks the run directory, and finds the state to continue from.

use super::job::Job;
use crate::checkpoint::{self, Loaded, Part};
use crate::console::Console;
use crate::files::{Claim, io_error, read, remove_leftovers, words, write_atomic};
use crate::ranks;
use crate::settings;
use anyhow::{Result, anyhow, bail, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use strata_core::Config;
use strata_core::train::{Array, State, agree};

/// A locked run directory, with all decisions that depend on its content.
pub(super) struct Start {
    /// The checkpoint to continue from; none for a new training.
    pub(super) saved: Option<State>,
    /// Whether all steps were taken and only the model is missing.
    pub(super) model_alone: bool,
    /// Identification of the run in its checkpoints.
    pub(super) origin: Origin,
    /// The lock of the run; none for a rank that writes no files of its own.
    claim: Option<Claim>,
    /// The directory and the step of the checkpoint.
    checkpoint: Option<(bool, u64)>,
    damaged: Vec<(PathBuf, String)>,
    checkpoints: PathBuf,
}

/// Copies the settings that a resumed run may be given anew: the number of steps, and pruning, which acts on the model that
/// is written after the last one.
pub(super) fn take_what_may_change(to: &mut Config, from: &Config) {
    to.train.steps = from.train.steps;
    (to.level1.prune, to.level2.prune) = (from.level1.prune, from.level2.prune);
}

/// Returns whether the model of a finished run is pruned otherwise than the settings ask for.
fn is_pruned_otherwise(run: &Path, config: &Config) -> Result<bool> {
    let path = run.join("config.toml");
    let Some(text) = read::optional_text(&path, read::SMALL)? else { return Ok(false) };
    let own = settings::parse(&text, &path.display().to_string())?;
    Ok([own.level1.prune, own.level2.prune] != [config.level1.prune, config.level2.prune])
}

/// Returns the steps after which the model of a run was saved.
fn steps_of_model(run: &Path) -> Option<u64> {
    let bytes = read::bytes(&run.join("sae/cfg.json"), read::SMALL).ok()?;
    serde_json::from_slice::<serde_json::Value>(&bytes).ok()?["origin"]["steps"].as_u64()
}

/// Locks the run directory, making it if it does not exist, and reads the checkpoint; `None` if the run is finished.
///
/// The directory is locked before anything in it is read, so that of two processes one is refused, whatever they find.
/// A directory that was made here is removed again if nothing is put into it.
///
/// # Errors
/// One sentence if another process uses the run, it exists already, or it belongs to other settings or rows.
fn start(job: &Job<'_>, n_train: u64, part: &Part, console: &mut Console<'_>) -> Result<Option<Start>> {
    let run = job.run;
    let claim = Claim::new(run)?;
    let checkpoints = run.join("checkpoints");
    if !job.resume && !is_vacant(run)? {
        return Err(exists_already(run));
    }
    let origin = origin_of(job, n_train)?;
    let mut start = Start {
        saved: None,
        model_alone: false,
        origin,
        claim: Some(claim),
        checkpoint: None,
        damaged: Vec::new(),
        checkpoints,
    };
    if !job.resume {
        return Ok(Some(start));
    }
    let has_info = run.join("final_info.json").exists();
    let has_model = ["cfg.json", "sae_weights.safetensors"].iter().all(|n| run.join("sae").join(n).exists());
    let loaded = match checkpoint::load_newest(&start.checkpoints, part) {
        // A finished run is complete.
        Err(error) if has_info && has_model => {
            console.note(words::sentence(&error));
            None
        }
        loaded => loaded?,
    };
    let steps = job.config.train.steps;
    let Some(Loaded { step, mut state, damaged }) = loaded else {
        if has_info && has_model {
            if let Some(taken) = steps_of_model(run).filter(|taken| *taken != steps) {
                bail!(
                    "{} is finished after {taken} steps, and there is no whole checkpoint to continue from to {steps}: \
                     train it again into another --out",
                    run.display()
                );
            }
            if is_pruned_otherwise(run, &job.config)? {
                bail!(
                    "{} is finished with another `prune`, and there is no whole checkpoint to set its thresholds from: train \
                     it again into another --out",
                    run.display()
                );
            }
            console.note(format!("{} is finished already", run.display()));
            return Ok(None);
        }
        if has_info {
            bail!(
                "{} is finished, but its model is gone, and there is no checkpoint to make it from: train it again into \
                 another --out",
                run.display()
            );
        }
        if let Some(from) = job.from {
            let (step, state) = begun(from, job, part, &start.origin)?;
            (start.saved, start.checkpoint) = (Some(state), Some((true, step)));
        } else {
            console.note(format!("{} has no checkpoint: starting at the first step", run.display()));
        }
        return Ok(Some(start));
    };
    let before = check_origin(&mut state, job, &start.origin)?;
    if step > steps {
        bail!("{} has taken {step} steps: `train.steps`: expected at least {step}, found {steps}", run.display());
    }
    if has_info && step == steps {
        if is_pruned_otherwise(run, &job.config)? {
            let Config { level1, level2, .. } = &job.config;
            console.note(format!(
                "{} is finished: setting its thresholds again, for `level1.prune` {} and `level2.prune` {}",
                run.display(),
                level1.prune,
                level2.prune
            ));
        } else if has_model {
            console.note(format!("{} is finished already", run.display()));
            return Ok(None);
        } else {
            console
                .note(format!("{} is finished, but its model is gone: making it from the checkpoint", run.display()));
            start.model_alone = true;
        }
    }
    for (_, what) in &damaged {
        console.note(format!("{what}; continuing from step {step} instead"));
    }
    if before.train.steps != steps {
        console.note(longer(&before, &job.config, step));
    }
    (start.saved, start.damaged, start.checkpoint) = (Some(state), damaged, Some((false, step)));
    Ok(Some(start))
}

impl Start {
    /// Decides how the training starts, for all ranks: the first one locks the run and reads its directory, and tells the
    /// others; `None` if the run is finished. `part` is what this rank reads of a checkpoint.
    ///
    /// # Errors
    /// As [`start`]; if ranks differ in their program, settings or rows, or one has ended.
    pub(super) fn together(
        job: &Job<'_>,
        n_train: u64,
        part: &Part,
        console: &mut Console<'_>,
    ) -> Result<Option<Self>> {
        let comm = &*job.comm;
        if comm.is_solo() {
            return start(job, n_train, part, console);
        }
        // Where the first rank reads for all, only it can tell the rows.
        let compared = if job.read_all { origin_of(job, n_train)? } else { named_origin_of(job, n_train)? };
        let what: Vec<&str> = compared.iter().map(|(_, text)| &**text).collect();
        ranks::check_alike(comm, &what.join("\n"))?;
        let mut decision = Vec::new();
        if job.is_first() {
            let found = start(job, n_train, part, console)?;
            if let Some(Self { checkpoint, model_alone, .. }) = &found {
                let (is_begun, step) = checkpoint.unwrap_or_default();
                decision = vec![u8::from(*model_alone), u8::from(checkpoint.is_some()), u8::from(is_begun)];
                decision.extend(step.to_le_bytes());
            }
            comm.broadcast(&mut decision)?;
            return Ok(found);
        }
        comm.broadcast(&mut decision)?;
        let Some((flags, step)) = decision.split_at_checked(3) else { return Ok(None) };
        let checkpoints = job.run.join("checkpoints");
        let mut saved = None;
        if flags[1] > 0 {
            let step = u64::from_le_bytes(step.try_into().unwrap_or_default());
            let from = job.from.filter(|_| flags[2] > 0).unwrap_or(&checkpoints);
            let mut state = checkpoint::load_part(from, step, part)?;
            // The first rank has compared them.
            compared.iter().for_each(|(name, _)| drop(state.0.remove(*name)));
            ensure!(!state.0.is_empty(), "the checkpoint of step {step} is empty");
            saved = Some(state);
        }
        let model_alone = flags[0] > 0;
        Ok(Some(Self {
            saved,
            model_alone,
            origin: compared,
            claim: None,
            checkpoint: None,
            damaged: Vec::new(),
            checkpoints,
        }))
    }

    /// Prepares the directory once it is certain that training will start: a training that is refused leaves a run
    /// unchanged, and no new run behind.
    ///
    /// # Errors
    /// One sentence with the file that cannot be written or removed.
    pub(super) fn commit(&mut self, run: &Path, config: &Config) -> Result<()> {
        let Some(claim) = &mut self.claim else { return Ok(()) };
        claim.keep();
        [run, self.checkpoints.as_path(), &run.join("sae")].into_iter().try_for_each(remove_leftovers)?;
        checkpoint::discard(&self.checkpoints, &self.damaged)?;
        checkpoint::prune(&self.checkpoints)?;
        if self.model_alone {
            return Ok(());
        }
        let (path, text) = (run.join("config.toml"), settings::to_toml(config)?);
        if fs::read(&path).ok().as_deref() != Some(text.as_bytes()) {
            write_atomic(&path, text.as_bytes())?;
        }
        // The summary of a run that is trained further says that it is finished, which is no longer true.
        let info = run.join("final_info.json");
        if info.exists() {
            fs::remove_file(&info).map_err(|e| io_error("removing", &info, &e))?;
        }
        Ok(())
    }
}

/// Returns the newest checkpoint in `from` and its step, of a run whose settings may differ from those of the job.
fn begun(from: &Path, job: &Job<'_>, part: &Part, origin: &Origin) -> Result<(u64, State)> {
    let Some(Loaded { step, mut state, .. }) = checkpoint::load_newest(from, part)? else {
        bail!("{} holds no checkpoint to begin with", from.display());
    };
    for (name, text) in origin.iter().filter(|(name, _)| *name == "config") {
        state.put(*name, Array::U64(text.bytes().map(u64::from).collect()));
    }
    check_origin(&mut state, job, origin)?;
    Ok((step, state))
}

/// Returns whether `run` contains only leftovers.
fn is_vacant(run: &Path) -> Result<bool> {
    let entries = fs::read_dir(run).map_err(|e| io_error("reading", run, &e))?;
    Ok(entries.filter_map(Result::ok).all(|e| {
        let name = e.file_name();
        let name = name.to_string_lossy();
        name.starts_with('.') && name.ends_with(".strata.tmp")
    }))
}

pub(super) fn exists_already(run: &Path) -> anyhow::Error {
    anyhow!("{} exists already: pass --resume to continue it, or choose another --out", run.display())
}

/// Returns the sentence about a run that is continued to another number of steps, after `taken` steps.
fn longer(before: &Config, now: &Config, taken: u64) -> String {
    let (from, to) = (before.train.steps, now.train.steps);
    if agree(before, now, taken) {
        return format!("training to {to} steps instead of {from}: the result is that of {to} steps from the start");
    }
    format!(
        "training to {to} steps instead of {from}: the result differs from that of {to} steps from the start, since \
         settings of the {taken} steps that were taken (learning rate, annealing, start of the gate) depend on \
         `train.steps`"
    )
}

/// Identification of settings and rows in a checkpoint: texts, stored as the numbers of their bytes.
type Origin = [(&'static str, String); 3];

fn origin_of(job: &Job<'_>, n_train: u64) -> Result<Origin> {
    let mut content = job.dump.content()?;
    if let Some(target) = job.target {
        content = format!("{content} to {}", target.content()?);
    }
    let [dump, _, config] = named_origin_of(job, n_train)?;
    Ok([dump, (CONTENT, content), config])
}

/// The part of [`origin_of`] for which the rows are not read.
fn named_origin_of(job: &Job<'_>, n_train: u64) -> Result<Origin> {
    // Where rows are held out depends on the sequences, which the fingerprint does not include.
    let mut dump = format!("{} {n_train}", job.dump.fingerprint());
    if let Some(target) = job.target {
        dump = format!("{dump} to {}", target.fingerprint());
    }
    Ok([("dump", dump), (CONTENT, String::new()), ("config", settings::to_toml(&job.config)?)])
}

/// The hash of the rows; checkpoints of earlier versions do not have it.
const CONTENT: &str = "content";

/// Returns the settings of the checkpoint, which may differ from those of the job only in what may change.
///
/// # Errors
/// One sentence with the difference.
fn check_origin(state: &mut State, job: &Job<'_>, origin: &Origin) -> Result<Config> {
    let run = job.run.display();
    let mut before = job.config.clone();
    for (name, expected) in origin {
        let name = *name;
        let saved = match state.0.remove(name) {
            Some(Array::U64(saved)) => saved,
            None if name == CONTENT => continue,
            _ => bail!("the checkpoint of {run} does not say its {name}"),
        };
        let saved = String::from_utf8(saved.into_iter().map(|b| b as u8).collect())?;
        if saved == *expected {
            continue;
        }
        if name == "dump" {
            let of_target = job.target.map(|target| format!(" with the targets {}", target.name())).unwrap_or_default();
            bail!("{run} was trained on another dump than {}{of_target}: expected the same rows", job.dump.name());
        }
        if name == CONTENT {
            bail!(
                "rows of {} have changed since {run} was trained on them: expected the same rows; to train on these, \
                 choose another --out",
                job.dump.name()
            );
        }
        before = settings::parse(&saved, "the checkpoint")?;
        let mut compared = before.clone();
        take_what_may_change(&mut compared, &job.config);
        if let Some((key, saved, found)) = settings::difference(&compared, &job.config)? {
            bail!("{run} was trained with other settings: `{key}`: expected {saved}, found {found} in its config.toml");
        }
    }
    Ok(before)
}
