//! Settings that were found to suit a kind of rows.

use anyhow::{Result, bail};
use clap::ValueEnum;
use strata_core::Config;

/// A named set of settings, between the defaults and what the user sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Preset {
    /// The residual stream of a language model, from a dump that lists its special tokens: level1.k = 20, level2.k = 12,
    /// gate.root_below = 0.3, gate.reassign_every = 25, gate.freeze = 0.95, loss.consistency = "contain", data.skip_special = true,
    /// train.lr = 0.002, train.scale_lr = true, train.row_norm = 0.1, train.encoder_norm = 0.3, revive.reseed = false
    Language,
    /// Those of `language`, with leave-one-out pruning in training and at inference: train.prune = 0.6, level1.prune = 1.5,
    /// level2.prune = 1.5. It explains more with as many latents, trains on one CPU only, and other tools cannot hold it exactly
    LanguagePruned,
}

impl Preset {
    /// Returns its name, as `--preset` takes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Language => "language",
            Self::LanguagePruned => "language-pruned",
        }
    }

    /// Returns the preset of this name.
    ///
    /// # Errors
    /// For a name of none, with those that there are.
    pub fn named(name: &str) -> Result<Self> {
        let all = Self::value_variants();
        match all.iter().find(|preset| preset.name() == name) {
            Some(preset) => Ok(*preset),
            None => {
                let names: Vec<&str> = all.iter().map(|preset| preset.name()).collect();
                bail!("preset: expected {}, found {name}", names.join(" or "))
            }
        }
    }

    /// Returns its settings in TOML, one per line, and comments.
    fn toml(self) -> &'static str {
        match self {
            Self::Language => include_str!("language.toml"),
            Self::LanguagePruned => concat!(include_str!("language.toml"), include_str!("pruned.toml")),
        }
    }

    /// Returns its settings on one line, in Markdown.
    pub fn text(self) -> String {
        let lines = self.toml().lines().filter(|line| !line.starts_with('#'));
        lines.map(|line| format!("`{line}`")).collect::<Vec<_>>().join(", ")
    }

    /// Returns the defaults with these settings.
    ///
    /// # Errors
    /// None, since the text is part of the program.
    pub fn config(self) -> Result<Config> {
        super::parse(self.toml(), &format!("the preset `{}`", self.name()))
    }
}

/// Returns the settings of a preset; the defaults without one.
///
/// # Errors
/// As [`Preset::config`].
pub fn base(preset: Option<Preset>) -> Result<Config> {
    preset.map_or_else(|| Ok(Config::default()), Preset::config)
}
