//! From the words that were typed to [`Cli`], with the run behind the dump if it was typed there.

use crate::args::Cli;
use clap::Parser;
use clap::error::ErrorKind;
use std::ffi::{OsStr, OsString};
use std::path::Path;

/// Commands of a run and a dump.
const OF_A_RUN: [&str; 4] = ["eval", "probe", "encode", "export"];

/// Reads the command line, the program's name first.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn parse(args: &[OsString]) -> Result<Cli, clap::Error> {
    let error = match Cli::try_parse_from(args) {
        Err(error) if error.kind() == ErrorKind::MissingRequiredArgument => error,
        parsed => return parsed,
    };
    // `--dump` takes every path after it, as a dump may be several files: `eval --dump A RUN` has no run then.
    let Some(ordered) = run_first(args) else { return Err(error) };
    Cli::try_parse_from(ordered).map_err(|_| error)
}

/// The words with the last path of `--dump` before it, if that is a run.
fn run_first(args: &[OsString]) -> Option<Vec<OsString>> {
    let command = args.iter().position(|a| OF_A_RUN.iter().any(|c| a == OsStr::new(c)))?;
    let dump = args.iter().position(|a| a == OsStr::new("--dump")).filter(|at| *at > command)?;
    let n = args[dump + 1..].iter().take_while(|a| !a.to_string_lossy().starts_with('-')).count();
    if n < 2 || !is_run(Path::new(&args[dump + n])) {
        return None;
    }
    let mut ordered = args.to_vec();
    let run = ordered.remove(dump + n);
    ordered.insert(dump, run);
    Some(ordered)
}

/// Whether `path` is the directory of a run or of a model, which no dump is.
fn is_run(path: &Path) -> bool {
    ["config.toml", "cfg.json", "sae"].iter().any(|name| path.join(name).exists())
}
