//! The control of a run: the same training with random parents from the step at which the gate starts.
//!
//! A score that a gate gives to any parents is as good for the control. The control is in `RUN/control`
//! ([`crate::train::train_control`]), and an evaluation of the run measures both on the same rows.

use crate::files::read;
use crate::run::Run;
use crate::settings;
use anyhow::{Result, bail};
use std::path::{Path, PathBuf};
use strata_core::Config;

/// Returns the directory of the control of a run.
pub fn dir_of(run: &Path) -> PathBuf {
    run.join("control")
}

/// Returns the settings of the control of a run with these settings; `None` where there is nothing to control: without
/// families, or with parents that are random themselves.
pub fn settings_of(config: &Config) -> Option<Config> {
    let has_families = config.gate.kind.has_families() && config.level2.latents > 0;
    let mut control = config.clone();
    control.gate.shuffle = true;
    (has_families && !config.gate.shuffle).then_some(control)
}

/// Returns the settings with which a run was trained; `None` for a model without them.
///
/// # Errors
/// One sentence if they cannot be read.
pub fn trained_with(run: &Path) -> Result<Option<Config>> {
    let path = run.join("config.toml");
    let text = read::optional_text(&path, read::SMALL)?;
    text.map(|text| settings::parse(&text, &path.display().to_string())).transpose()
}

/// Opens the control of a run, if it was trained.
///
/// # Errors
/// If the control in its place has other settings.
pub fn of(run: &Run) -> Result<Option<Run>> {
    let dir = dir_of(&run.dir);
    if !dir.join("sae").join("cfg.json").exists() {
        return Ok(None);
    }
    let expected = trained_with(&run.dir)?.as_ref().and_then(settings_of);
    if expected.is_none() || trained_with(&dir)? != expected {
        bail!(
            "{} is no control of {}: expected its settings with `gate.shuffle = true`; remove it, or train it anew with \
             `strata train --control`",
            dir.display(),
            run.dir.display()
        );
    }
    Run::open(&dir).map(Some)
}

/// Returns whether a control adds at most a third to the cost of the training.
pub fn is_cheap(config: &Config) -> bool {
    settings_of(config).is_some() && config.gate.start >= 2.0 / 3.0 - 1e-9
}
