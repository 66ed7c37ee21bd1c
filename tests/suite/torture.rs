//! The `strata` binary with hostile files, other processes, failing systems and impatient people.

mod hostile;
mod inputs;
mod leftovers;
mod memory;
mod runs;
mod signals;
mod tokenizers;

use std::path::Path;
use std::process::Command;

/// Makes a pipe.
fn fifo(path: &Path) {
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success(), "mkfifo {}", path.display());
}

/// Asks a process for its end.
fn signal(name: &str, pid: u32) {
    assert!(Command::new("kill").args([format!("-{name}"), pid.to_string()]).status().unwrap().success(), "kill {pid}");
}
