//! The run and the dump of a command: from the flags, or from the run itself.

use std::fs;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};

use crate::args::{ModelArgs, SourceArgs, Subject};
use crate::console::Console;
use crate::dump::{Dump, RawSpec, Source};
use crate::files::{io_error, read, write_atomic};
use crate::run::Run;
use serde::{Deserialize, Serialize};

/// The file of a run that names the files of its dump. It is of use on this machine only.
pub const FILE: &str = "source.json";

/// The content of that file.
#[derive(Serialize, Deserialize)]
struct Remembered {
    #[serde(flatten)]
    source: Source,
    /// What a transcoder should reconstruct.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    target: Option<Source>,
}

/// Returns `source` with the information of the flags in place of its own.
pub fn with_flags(source: Source, flags: &SourceArgs) -> Source {
    let raw = match (flags.dtype, flags.dim) {
        (Some(dtype), Some(dim)) => Some(RawSpec { dtype, dim }),
        _ => source.raw,
    };
    let (context, starts) = match (flags.context, &flags.starts) {
        (None, None) => (source.context, source.starts),
        (context, starts) => (context, starts.clone()),
    };
    Source {
        paths: source.paths,
        raw,
        tokens: flags.tokens.clone().or(source.tokens),
        vocab: flags.vocab.clone().or(source.vocab),
        context,
        starts,
        layer: flags.layer.or(source.layer),
    }
}

/// Returns the run and the dump of `strata COMMAND RUN --dump PATH...`, also where RUN comes last.
fn named<'a>(subject: &'a Subject, command: &str) -> Result<(&'a Path, &'a [PathBuf])> {
    match (&subject.run, subject.dump.as_slice()) {
        (Some(run), dump) => Ok((run, dump)),
        // A directory after other paths is not a shard.
        (None, [dump @ .., last]) if !dump.is_empty() && last.is_dir() => Ok((last.as_path(), dump)),
        (None, _) => bail!("the run is missing: type `strata {command} RUN --dump PATH`"),
    }
}

/// Opens the run of `strata COMMAND RUN`, or the model of another tool, and prints what had to be assumed.
///
/// # Errors
/// One sentence: what to type, or why it cannot be opened.
pub fn open_run(subject: &Subject, command: &str, console: &mut Console<'_>) -> Result<Run> {
    open_model(named(subject, command)?.0, &subject.model_args, console)
}

/// Opens a run or a model of another tool, and prints what had to be assumed.
///
/// # Errors
/// As [`Run::open_as`].
pub fn open_model(path: &Path, args: &ModelArgs, console: &mut Console<'_>) -> Result<Run> {
    let run = Run::open_as(path, &args.choices())?;
    run.notes.iter().for_each(|note| console.warn(format!("{}: {note}", path.display())));
    Ok(run)
}

/// Opens a run as [`open_run`] does, and its dump; without `--dump` the one that the run was trained on.
///
/// # Errors
/// One sentence: what to type, or why it cannot be opened.
pub fn open(subject: &Subject, command: &str, console: &mut Console<'_>) -> Result<(Run, Dump)> {
    open_pair(subject, None, command, console).map(|(run, dump, _)| (run, dump))
}

/// [`open`], and the dump of what a transcoder should reconstruct: `target`, or the one that the run remembers beside the dump.
///
/// # Errors
/// One sentence: what to type, or what cannot be opened.
pub fn open_pair(
    subject: &Subject,
    target: Option<&PathBuf>,
    command: &str,
    console: &mut Console<'_>,
) -> Result<(Run, Dump, Option<Dump>)> {
    let named_target =
        || target.map(|p| with_flags(Source::new(std::slice::from_ref(p)), &subject.source).open()).transpose();
    let run = open_run(subject, command, console)?;
    let dump = named(subject, command)?.1;
    if !dump.is_empty() {
        let dump = with_flags(Source::new(dump), &subject.source).open()?;
        return Ok((run, dump, named_target()?));
    }
    let shown = run.dir.display().to_string();
    let Some(Remembered { source, target: remembered }) = recall(&run.dir)? else {
        bail!("{shown} does not say what it was trained on: type `strata {command} {shown} --dump PATH`");
    };
    let dump = with_flags(source, &subject.source).open();
    let dump = dump.with_context(|| format!("the dump that {shown} was trained on (name another with --dump)"));
    let dump = dump?;
    let target = match (named_target()?, remembered) {
        (None, Some(source)) => {
            let target = source.open();
            Some(
                target
                    .with_context(|| format!("what {shown} was trained to reconstruct (name another with --target)"))?,
            )
        }
        (target, _) => target,
    };
    Ok((run, dump, target))
}

/// Writes the source of the rows of `run`, and of its targets, unless the same is there already.
///
/// # Errors
/// If it cannot be written.
pub fn remember(run: &Path, source: &Source, target: Option<&Source>) -> Result<()> {
    let path = run.join(FILE);
    if path.exists() {
        return Ok(());
    }
    let base = fs::canonicalize(run).map_err(|e| io_error("reading", run, &e))?;
    let relative = |p: &Path| fs::canonicalize(p).map_or_else(|_| p.to_owned(), |p| relative(&base, &p));
    let remembered =
        Remembered { source: source.map_paths(relative), target: target.map(|target| target.map_paths(relative)) };
    write_atomic(&path, &[serde_json::to_vec_pretty(&remembered)?, b"\n".to_vec()].concat())
}

/// Returns the source of the rows of `run`, if it is known.
fn recall(run: &Path) -> Result<Option<Remembered>> {
    let path = run.join(FILE);
    if !path.exists() {
        return Ok(None);
    }
    let bytes = read::bytes(&path, read::SMALL)?;
    let Remembered { source, target } = serde_json::from_slice(&bytes)
        .map_err(|e| anyhow!("`{}`: expected the files of a dump: {e}", path.display()))?;
    let from_run = |source: Source| source.map_paths(|p| run.join(p));
    Ok(Some(Remembered { source: from_run(source), target: target.map(from_run) }))
}

/// Returns the relative path from `base` to `path`, both absolute; `path` itself where they share only the root.
fn relative(base: &Path, path: &Path) -> PathBuf {
    let shared = base.components().zip(path.components()).take_while(|(a, b)| a == b).count();
    let names = base.components().take(shared).filter(|c| matches!(c, Component::Normal(_))).count();
    if names == 0 {
        return path.to_owned();
    }
    let up = base.components().skip(shared).map(|_| Component::ParentDir);
    up.chain(path.components().skip(shared)).collect()
}
