//! Commands of `strata`, inside of this process.

use crate::failure::{self, Error};
use crate::pool;
use pyo3::exceptions::PyKeyboardInterrupt;
use pyo3::prelude::*;
use std::ffi::OsString;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;
use strata_cli::console::{self, Console, Watch};
use strata_cli::settings::list;
use strata_cli::settings::preset::{self, Preset};
use strata_cli::texts;

/// The time between two looks at signals and progress.
const TICK: Duration = Duration::from_millis(50);

/// Runs the program `strata` with these arguments, the program's name first, and returns its exit code.
#[pyfunction]
pub(crate) fn main(py: Python<'_>, args: Vec<OsString>) -> u8 {
    py.detach(|| {
        let code = strata_cli::run(args, &mut io::stdout(), &mut io::stderr());
        // Python ends the process without doing it; a closed stream has been reported.
        let _ = io::stdout().flush();
        code
    })
}

/// Runs a command, and returns its exit code and what it prints on standard output, as JSON where it has such a form.
///
/// `progress(what, done, total, unit, message)` and `note(line)` are called from the calling thread. A signal, or an
/// exception of either, asks the command to stop, and is raised once it has, unless the command says itself what it has
/// saved: then its exit code is 130.
#[pyfunction]
pub(crate) fn run(
    py: Python<'_>,
    args: Vec<String>,
    progress: Option<Bound<'_, PyAny>>,
    note: Option<Bound<'_, PyAny>>,
) -> PyResult<(u8, String)> {
    let (pool, watch, lines) = (pool::current()?, Watch::default(), Lines::default());
    let (shown, mut err) = (watch.clone(), lines.clone());
    let (send, mut receive) = mpsc::channel();
    let work = move || {
        let mut out = Vec::new();
        let console = &mut Console { out: &mut out, err: &mut err, quiet: false, json: true, watch: Some(shown) };
        let args = ["strata".to_owned()].into_iter().chain(args).map(OsString::from);
        let ended = pool.install(|| strata_cli::run_hosted(args, console));
        // The receiver waits for this.
        let _ = send.send(ended.map(|code| (code, String::from_utf8_lossy(&out).into_owned())));
    };
    thread::Builder::new().name("strata".into()).spawn(work)?;
    let mut stopped: Option<PyErr> = None;
    let mut last = None;
    let ended = loop {
        let got;
        (receive, got) = py.detach(move || {
            let got = receive.recv_timeout(TICK);
            (receive, got)
        });
        let mut look = || -> PyResult<()> {
            if let Some(note) = &note {
                lines.take(got.is_ok()).iter().try_for_each(|line| note.call1((line,)).map(drop))?;
            }
            let now = watch.progress();
            if let (Some(progress), Some(p)) = (&progress, now.as_ref().filter(|_| now != last)) {
                progress.call1((&p.what, p.done, p.total, &p.unit, &p.message))?;
            }
            last = now;
            py.check_signals()
        };
        if let Err(error) = look() {
            console::ask_to_stop();
            stopped.get_or_insert(error);
        }
        match got {
            Ok(ended) => break ended.map_err(|e| failure::of(&e)),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                break Err(Error::new_err("a bug in strata ended the command: the message is on standard error"));
            }
        }
    };
    let Some(stopped) = stopped else { return ended };
    console::forget_interrupt();
    match ended {
        // The command has saved what it did.
        Ok((strata_cli::INTERRUPTED, out)) if stopped.is_instance_of::<PyKeyboardInterrupt>(py) => {
            Ok((strata_cli::INTERRUPTED, out))
        }
        _ => Err(stopped),
    }
}

/// Returns the settings that `keys` name, each a setting or a section, or all of them, with default, range and meaning, as JSON.
#[pyfunction]
pub(crate) fn settings(keys: Vec<String>) -> PyResult<String> {
    let sections = list::select(&keys).map_err(|e| failure::of(&e))?;
    Ok(serde_json::json!(list::json(&sections)).to_string())
}

/// Checks the settings of a training on rows of width `d`: those of a preset, of a file, and `key=value` each.
#[pyfunction]
pub(crate) fn check_settings(
    preset: Option<&str>,
    config: Option<PathBuf>,
    sets: Vec<String>,
    d: usize,
) -> PyResult<()> {
    let preset = preset.map(Preset::named).transpose().map_err(|e| failure::of(&e))?;
    let config = preset::base(preset).and_then(|base| strata_cli::settings::load(base, config.as_deref(), &sets, None));
    config.map_err(|e| failure::of(&e))?.validate(d).map_err(failure::of_core)
}

/// Returns the readable text of each token id, from a `tokenizer.json`, `vocab.json` or `vocab.txt`.
#[pyfunction]
pub(crate) fn vocabulary(path: PathBuf) -> PyResult<Vec<String>> {
    texts::open(&path).map_err(|e| failure::of(&e))
}

/// What a command writes on standard error.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Lines {
    /// Removes and returns the whole lines; with `all` also one that has not ended.
    fn take(&self, all: bool) -> Vec<String> {
        let mut bytes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let end = bytes.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
        let end = if all { bytes.len() } else { end };
        let taken: Vec<u8> = bytes.drain(..end).collect();
        String::from_utf8_lossy(&taken).lines().map(str::to_owned).collect()
    }
}

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
