//! `strata completions` and `strata man`, generated from the definition of the command line, so that they always agree
//! with it.

use crate::args::Cli;
use crate::files::{io_error, write_atomic};
use anyhow::Result;
use clap::CommandFactory;
use clap_complete::Shell;
use std::fs;
use std::path::{Path, PathBuf};

/// Returns the script that completes the command line in `shell`.
pub fn completions(shell: Shell) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "strata", &mut script);
    script
}

/// Writes `strata.1` and a page per command (`strata-train.1`) into `directory`, which is made if it is missing; returns the
/// files.
///
/// # Errors
/// If a page cannot be written.
pub fn man(directory: &Path) -> Result<Vec<PathBuf>> {
    fs::create_dir_all(directory).map_err(|e| io_error("making", directory, &e))?;
    let mut command = Cli::command().disable_help_subcommand(true);
    // This gives each command its full name, `strata-train`.
    command.build();
    let commands = command.get_subcommands().cloned().collect::<Vec<_>>();
    let mut files = Vec::new();
    for command in std::iter::once(command).chain(commands) {
        let page = clap_mangen::Man::new(command);
        let path = directory.join(page.get_filename());
        let mut text = Vec::new();
        page.render(&mut text).map_err(|e| io_error("writing", &path, &e))?;
        write_atomic(&path, &text)?;
        files.push(path);
    }
    Ok(files)
}
