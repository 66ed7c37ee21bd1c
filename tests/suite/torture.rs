//! The `strata` binary with hostile files, concurrent processes, failing systems and interruptions.

mod hostile;
mod inputs;
mod leftovers;
mod memory;
mod runs;
mod signals;
mod tokenizers;

use std::path::Path;
use std::process::Command;

/// Makes a named pipe.
fn fifo(path: &Path) {
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success(), "mkfifo {}", path.display());
}

/// Sends a signal to a process.
fn signal(name: &str, pid: u32) {
    assert!(Command::new("kill").args([format!("-{name}"), pid.to_string()]).status().unwrap().success(), "kill {pid}");
}
