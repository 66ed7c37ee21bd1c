//! The run and the dump of a command: from the flags, or from the run itself.

use std::fs;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};

use crate::args::{ModelArgs, SourceArgs, Subject};
use crate::console::Console;
use crate::dump::{Dump, RawSpec, Source};
use crate::files::{io_error, read, write_atomic};
use crate::run::Run;

/// The file of a run that names the files of its dump. It is of use on this machine only.
pub const FILE: &str = "source.json";

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
    run.notes.iter().for_each(|note| console.note(format!("{}: {note}", path.display())));
    Ok(run)
}

/// Opens a run as [`open_run`] does, and its dump; without `--dump` the one that the run was trained on.
///
/// # Errors
/// One sentence: what to type, or why it cannot be opened.
pub fn open(subject: &Subject, command: &str, console: &mut Console<'_>) -> Result<(Run, Dump)> {
    let run = open_run(subject, command, console)?;
    let dump = named(subject, command)?.1;
    if !dump.is_empty() {
        return Ok((run, with_flags(Source::new(dump), &subject.source).open()?));
    }
    let shown = run.dir.display().to_string();
    let Some(source) = recall(&run.dir)? else {
        bail!("{shown} does not say what it was trained on: type `strata {command} {shown} --dump PATH`");
    };
    let dump = with_flags(source, &subject.source).open();
    let dump = dump.with_context(|| format!("the dump that {shown} was trained on (name another with --dump)"));
    Ok((run, dump?))
}

/// Writes the source of the rows of `run`, unless the same is there already.
///
/// # Errors
/// If it cannot be written.
pub fn remember(run: &Path, source: &Source) -> Result<()> {
    let path = run.join(FILE);
    if path.exists() {
        return Ok(());
    }
    let base = fs::canonicalize(run).map_err(|e| io_error("reading", run, &e))?;
    let relative = source.map_paths(|p| fs::canonicalize(p).map_or_else(|_| p.to_owned(), |p| relative(&base, &p)));
    write_atomic(&path, &[serde_json::to_vec_pretty(&relative)?, b"\n".to_vec()].concat())
}

/// Returns the source of the rows of `run`, if it is known.
fn recall(run: &Path) -> Result<Option<Source>> {
    let path = run.join(FILE);
    if !path.exists() {
        return Ok(None);
    }
    let bytes = read::bytes(&path, read::SMALL)?;
    let source: Source = serde_json::from_slice(&bytes)
        .map_err(|e| anyhow!("`{}`: expected the files of a dump: {e}", path.display()))?;
    Ok(Some(source.map_paths(|p| run.join(p))))
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
