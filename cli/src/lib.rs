//! The `strata` command line: everything that reads or writes files, and the language models that activations come from.
//!
//! [`run()`] is the whole program as a function of its arguments and two streams, so that tests need no process:
//!
//! ```
//! let (mut out, mut err) = (Vec::new(), Vec::new());
//! let code = strata_cli::run(["strata", "settings", "gate"].map(Into::into), &mut out, &mut err);
//! assert_eq!(code, 0);
//! assert!(String::from_utf8(out).unwrap().contains("gate.root_below"));
//! ```
//!
//! The mathematics, the notation and the promise of equal bits are those of [`strata_core`]; its feature `rayon` is on here,
//! and with its feature `mpi` a training runs over the ranks of MPI. `unsafe` is allowed in `dump/map.rs` (memory maps) and `memory.rs` (the
//! allocator that reports missing memory as a sentence).
//!
//! # Modules
//!
//! | module | purpose |
//! |---|---|
//! | [`args`], [`commands`], [`shell`] | the command line as typed; the function of each command; completions and man pages |
//! | [`console`], [`escape`], [`texts`], [`nearest`], [`usage`] | output, signals, texts of tokens, the nearest known name, processor time |
//! | [`files`], [`checkpoint`], [`memory`] | files that appear whole or not at all; checkpoints; out of memory as a sentence |
//! | [`dump`], [`inspect`], [`health`] | dumps in every format, mapped; their summary; what is wrong with a run |
//! | [`feed`], [`row_filter`], [`sources`], [`heldout`] | reading ahead; rows left out; which files a run was trained on; held-out loss |
//! | [`train`], [`ranks`], [`control`], [`mod@run`], [`settings`] | training runs, over several processes, control runs, models of any tool, settings |
//! | [`eval`], [`probe`], [`splice`], [`truth`], [`contexts`] | metrics and the verdict; linear probes; cross-entropy; known truth; tokens in their context |
//! | [`encode`], [`export`], [`convert`], [`pickle`] | codes, features and weights in the formats of other tools |
//! | [`ablate`], [`ablation`] | sweeps; what they wrote |
//! | [`report`] | the HTML page |
//! | [`lm`], [`capture`], [`synth`], [`demo`] | language models; activations of them; synthetic dumps; all of it at once |
#![deny(unsafe_code)]

pub mod ablate;
pub mod ablation;
pub mod addend;
pub mod args;
pub mod capture;
pub mod checkpoint;
pub mod commands;
pub mod console;
pub mod contexts;
pub mod control;
pub mod convert;
pub mod corpus;
pub mod demo;
pub mod device;
pub mod dump;
pub mod encode;
pub mod escape;
pub mod eval;
pub mod export;
pub mod feed;
pub mod files;
pub mod health;
pub mod heldout;
pub mod inspect;
pub mod lm;
pub mod memory;
pub mod nearest;
mod panics;
pub mod pickle;
pub mod probe;
pub mod ranks;
pub mod report;
pub mod row_filter;
pub mod run;
pub mod settings;
pub mod shell;
pub mod sources;
pub mod splice;
pub mod synth;
pub mod texts;
pub mod train;
pub mod truth;
pub mod usage;

use clap::Parser;
use clap::error::ErrorKind;
use console::{Console, Interrupted};
use std::ffi::OsString;
use std::io::{self, Write};

/// Exit code after Ctrl-C.
pub const INTERRUPTED: u8 = 130;

/// Runs the command line `args`, the program's name first. Returns the exit code: 0 done, 1 failed, 2 usage, 130
/// interrupted.
pub fn run(args: impl IntoIterator<Item = OsString>, out: &mut (dyn Write + Send), err: &mut (dyn Write + Send)) -> u8 {
    let cli = match args::Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            let shown = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
            let text = error.render();
            // Nothing better to do if the stream is closed.
            let _ = if shown { write!(out, "{text}") } else { write!(err, "{text}") };
            return if shown { 0 } else { 2 };
        }
    };
    let mut console = Console { out, err, quiet: cli.global.quiet, json: cli.global.json, watch: None };
    match commands::run(cli, &mut console) {
        Ok(code) => code,
        Err(error) if is_broken_pipe(&error) => 0,
        Err(error) if error.chain().any(|e| e.is::<Interrupted>()) => {
            let _ = writeln!(console.err, "{Interrupted}");
            INTERRUPTED
        }
        Err(error) => {
            // Errors of files have a context with the path. One without was met while a result was printed.
            let what = if error.is::<io::Error>() && error.chain().count() == 1 { "writing the output: " } else { "" };
            let _ = writeln!(console.err, "error: {what}{}", escape::escaped(&files::words::sentence(&error)));
            1
        }
    }
}

/// Runs the command line `args`, the program's name first, inside of a host: on the rayon pool that is current, with the
/// signals of the host, and with failures as errors. Flags that concern the process (`--threads`, `--quiet`, `--json`)
/// are those of `console`.
///
/// # Errors
/// The failure of the command, an argument that is wrong, or [`Interrupted`] after [`console::ask_to_stop`].
pub fn run_hosted(args: impl IntoIterator<Item = OsString>, console: &mut Console<'_>) -> anyhow::Result<u8> {
    let failed = match args::Cli::try_parse_from(args) {
        Ok(cli) => return commands::dispatch(cli.command, console),
        Err(failed) => failed,
    };
    let text = failed.render().to_string();
    if !failed.use_stderr() {
        // Help, or the version.
        console.out.write_all(text.as_bytes())?;
        return Ok(0);
    }
    // What is missing, or possible, stands in the lines below the first; an empty line and the usage follow.
    let lines: Vec<_> = text.lines().map(str::trim).take_while(|line| !line.is_empty()).collect();
    let sentence = lines.join(" ");
    anyhow::bail!("{}", sentence.strip_prefix("error: ").unwrap_or(&sentence))
}

/// Whether the reader of the output has closed it, so that no error can be reported.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|e| e.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe))
}
