//! Every setting of a run, with its default. `config.toml` holds exactly these keys.
//!
//! The default is the two-level model with the evidence behind it (`docs/default.md`): a parallel level 2 (`source =
//! "x"`), cumulative decoding, batch-top-k with separate budgets that start at three times their size in a long
//! training, both reconstructions and AuxK at weight 1, no gate for two thirds of the training and then the hard gate
//! over families found by co-firing, with ROOT for children that no parent contains, while the weight of level 1's
//! reconstruction falls to a tenth.

mod data;
mod gate;
mod level;
mod loss;
mod train;

pub use crate::activation::Activation;
pub use crate::balance::Balance;
pub use crate::decoder::Decoder;
pub use crate::freeze::Freeze;
pub use crate::gate::GateKind;
pub use crate::loss::Consistency;
pub use crate::row_norm::RowNorm;
pub use crate::setting::{Allowed, Section, Setting, Value};
pub use crate::source::Source;
pub use data::{DataConfig, TokenName};
pub use gate::{GateConfig, Parents};
pub use level::LevelConfig;
pub use loss::LossConfig;
pub use train::{ReviveConfig, TrainConfig};

use crate::activation::Selection;
use crate::choice::choices;
use crate::error::{Error, Result};
use crate::gate::Reads;
use crate::loss::NeededDecoder;
use crate::setting::{Entry, settings};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

choices! {
    /// Which model is trained.
    ModelKind {
        /// The two-level SAE of this crate, with every option.
        Tree = "tree",
        /// A reference design from an early sketch, kept as a baseline with its faults: see [`crate::model::seed`].
        Seed = "seed",
    }
}
choices! {
    /// How the budgets of two `batchtopk` levels are spent.
    Budget {
        /// `k1` latents per row at level 1 and `k2` at level 2.
        Separate = "separate",
        /// `k1 + k2` latents per row, wherever the largest pre-activations of both levels are, with one threshold at
        /// inference. With `source = "x"`, `decoder = "cum"` and no gate this is a Matryoshka BatchTopK of two prefixes
        /// (Bussmann et al. 2025).
        Shared = "shared",
    }
}
settings! {
    /// A run: model, losses, training and data.
    Config {
        /// Which model is trained.
        model: ModelKind = ModelKind::Tree;
        /// Seed of every random choice: initial weights, order of rows, revival.
        seed: u64 = 0;
        /// What level 2 reads.
        source: Source = Source::X;
        /// With `source = "res"`: no gradient flows through the residual into level 1.
        source_detach: bool = false;
        /// With `source = "res"`: share of the steps for which level 2 reads `x` beside level 1. After these steps it
        /// reads the residual, and level 1 no longer changes: levels that both learn on the residual may exchange their
        /// roles. 0: the residual from the first step, and level 1 learns to the end. 1: never the residual.
        source_start: f64 = 0.0, in 0.0..=1.0;
        /// What level 2 adds to.
        decoder: Decoder = Decoder::Cum;
        /// Give a transcoder (`strata train --dump DUMP --target DUMP2`) a skip connection: `W_skip x` is added to its
        /// reconstruction.
        skip: bool = false;
        /// How the budgets of two `batchtopk` levels are spent.
        budget: Budget = Budget::Separate;
        /// Level 1, the parents.
        level1: LevelConfig = LevelConfig { latents: 256, k: 8.0, ..LevelConfig::DEFAULT };
        /// Level 2, the children. `latents = 0` makes a flat SAE.
        level2: LevelConfig = LevelConfig { latents: 2048, k: 12.0, ..LevelConfig::DEFAULT };
        /// The gate between the levels, and the families of a hard gate.
        gate: GateConfig = GateConfig::DEFAULT;
        /// Weights of the loss, in units of the fraction of variance unexplained.
        loss: LossConfig = LossConfig::DEFAULT;
        /// Steps and optimiser.
        train: TrainConfig = TrainConfig::DEFAULT;
        /// Dead latents.
        revive: ReviveConfig = ReviveConfig::DEFAULT;
        /// Rows and their normalisation, which is folded into the saved weights.
        data: DataConfig = DataConfig::DEFAULT;
    }
}

impl Config {
    /// Returns the settings of a level: 0 for the parents, 1 for the children.
    pub fn level(&self, level: usize) -> &LevelConfig {
        [&self.level1, &self.level2][level]
    }

    /// Returns every setting with its value, range and meaning, by section, in the order of `config.toml`.
    pub fn sections(&self) -> Vec<Section> {
        let mut sections = Vec::new();
        self.list("", None, "Settings of the model as a whole.", &mut sections);
        sections
    }

    /// Checks every setting alone and with the others, for rows of width `d`.
    ///
    /// # Errors
    /// [`Error::Config`] for the first setting that cannot be trained with.
    pub fn validate(&self, d: usize) -> Result<()> {
        let bad = |key: &str, why: String| Err(Error::config(key, why));
        if d == 0 {
            return bad("d", "expected rows of at least one number, found rows of width 0".into());
        }
        let is_flat = self.level2.latents == 0;
        if self.level1.latents == 0 {
            return bad("level1.latents", "expected at least 1, found 0".into());
        }
        if is_flat && self.model == ModelKind::Seed {
            return bad("level2.latents", "expected at least 1, found 0".into());
        }
        for section in self.sections() {
            // Without latents at level 2 its other settings mean nothing.
            if !(is_flat && section.name == "level2") {
                section.settings.iter().try_for_each(Setting::check)?;
            }
        }
        for (name, level) in [("level1", &self.level1), ("level2", &self.level2)] {
            if level.latents == 0 {
                continue;
            }
            if level.k > level.latents as f64 {
                let most = level.latents;
                return bad(
                    &format!("{name}.k"),
                    format!("expected more than 0 and at most the number of latents ({most}), found {}", level.k),
                );
            }
            if level.prune > 0.0 && !level.activation.has_threshold() {
                let found = level.activation;
                return bad(
                    &format!("{name}.prune"),
                    format!("pruning compares with thresholds, which `batchtopk` and `jumprelu` have, found `{found}`"),
                );
            }
            if level.activation.has_whole_k() && libm::floor(level.k) != level.k {
                return bad(&format!("{name}.k"), format!("`topk` keeps a whole number of latents, found {}", level.k));
            }
        }
        if self.source_start > 0.0 && self.source.before_switch().is_none() {
            let found = self.source;
            return bad(
                "source_start",
                format!(
                    "it says when level 2 changes to the residual, which needs `source = \"res\"`, found `{found}`"
                ),
            );
        }
        self.validate_together()
    }

    /// Checks the settings as [`Config::validate`] does, and for a transcoder that reads rows of width `d` and
    /// reconstructs rows of width `target`. An autoencoder has no target.
    ///
    /// # Errors
    /// Those of [`Config::validate`], and [`Error::Config`] for a setting that only an autoencoder or only a transcoder
    /// can have.
    pub fn validate_rows(&self, d: usize, target: Option<usize>) -> Result<()> {
        self.validate(d)?;
        let bad = |key: &str, why: &str| Err(Error::config(key, why));
        let Some(target) = target else {
            if self.skip {
                return bad(
                    "skip",
                    "an autoencoder with a skip connection copies its rows: expected a second dump, of targets (--target)",
                );
            }
            return Ok(());
        };
        if target == 0 {
            return bad("target", "expected rows of at least one number to reconstruct, found rows of width 0");
        }
        if self.model == ModelKind::Seed {
            return bad("model", "a transcoder takes `tree`, found `seed`");
        }
        if self.data.row_norm != RowNorm::None {
            return bad(
                "data.row_norm",
                "a row's own normalisation is undone on its reconstruction, and a transcoder reconstructs other rows than it \
                 normalises: expected `none`",
            );
        }
        if self.level2.latents > 0 && self.source.reaches_decoder1(false) {
            return bad(
                "source",
                "level 2 would read the residual of level 1 in the space of its input, and level 1 of a transcoder reconstructs \
                 other rows than it reads: expected `x` or `z1`",
            );
        }
        Ok(())
    }

    /// Checks the settings that pruning in every step needs.
    fn check_pruning(&self) -> Result<()> {
        let need = |what: &str, found: &dyn core::fmt::Display| {
            Err(Error::config("train.prune", format!("pruning in training needs {what}, found {found}")))
        };
        if self.model == ModelKind::Seed {
            return need("`model = \"tree\"`", &"`seed`");
        }
        for (name, level) in [("level1", &self.level1), ("level2", &self.level2)] {
            if level.latents > 0 && level.activation.selection() != Selection::Batch {
                return need(&format!("`{name}.activation = \"batchtopk\"`"), &format!("`{}`", level.activation));
            }
        }
        if self.level2.latents > 0 && self.gate.kind.has_weights() {
            return need("a gate without weights (`none`, `hard` or `group-top1`)", &format!("`{}`", self.gate.kind));
        }
        if self.skip {
            return need("`skip = false`", &"`true`");
        }
        Ok(())
    }

    /// Checks that no two settings exclude each other.
    fn validate_together(&self) -> Result<()> {
        let bad = |key: &str, why: String| Err(Error::config(key, why));
        if self.train.prune > 0.0 {
            self.check_pruning()?;
        }
        let (loss, needs) = (self.loss.consistency, self.loss.consistency.needs());
        if self.budget == Budget::Shared {
            let batchtopk = [&self.level1, &self.level2].map(|l| l.activation.selection() == Selection::Batch);
            let need = |what: &str, found: &dyn core::fmt::Display| {
                bad("budget", format!("`shared` needs {what}, found {found}"))
            };
            if self.model == ModelKind::Seed {
                return need("`model = \"tree\"`", &"`seed`");
            }
            if self.level2.latents == 0 {
                return need("two levels", &"`level2.latents = 0`");
            }
            if batchtopk != [true; 2] {
                let found = if batchtopk[0] { self.level2.activation } else { self.level1.activation };
                return need("`batchtopk` at both levels", &format!("`{found}`"));
            }
            if !self.source.is_parallel() {
                return need("`source = \"x\"`", &format!("`{}`", self.source));
            }
            if self.gate.kind.reads() != Reads::Nothing {
                return need("`gate.kind = \"none\"`", &format!("`{}`", self.gate.kind));
            }
        }
        if self.model == ModelKind::Seed {
            if self.train.freeze != Freeze::None {
                return bad("train.freeze", format!("`model = \"seed\"` takes `none`, found `{}`", self.train.freeze));
            }
            if self.data.row_norm != RowNorm::None {
                let found = self.data.row_norm;
                return bad("data.row_norm", format!("`model = \"seed\"` takes `none`, found `{found}`"));
            }
            if self.gate.kind.has_families() {
                return bad(
                    "gate.kind",
                    format!("`model = \"seed\"` takes `mul`, `add` or `none`, found `{}`", self.gate.kind),
                );
            }
            if !needs.seed_has_it {
                return bad(
                    "loss.consistency",
                    format!("`model = \"seed\"` takes `none` or `seed-cos`, found `{loss}`"),
                );
            }
            return Ok(());
        }
        if self.level2.latents == 0 {
            if needs.two_levels {
                return bad("loss.consistency", format!("`{loss}` ties two levels, and `level2.latents` is 0"));
            }
            return Ok(());
        }
        if needs.families && !self.gate.kind.has_families() {
            return bad(
                "loss.consistency",
                format!(
                    "`{loss}` needs families: set `gate.kind` to `hard` or `group-top1`, found `{}`",
                    self.gate.kind
                ),
            );
        }
        match needs.decoder {
            NeededDecoder::Composed if !self.decoder.is_composed() => {
                bad("loss.consistency", format!("`{loss}` needs `decoder = \"comp\"`, found `{}`", self.decoder))
            }
            NeededDecoder::Directions if self.decoder.is_composed() => bad(
                "loss.consistency",
                format!(
                    "`{loss}` compares decoder directions, and `decoder = \"{}\"` has none at level 2",
                    self.decoder
                ),
            ),
            NeededDecoder::Any | NeededDecoder::Composed | NeededDecoder::Directions => Ok(()),
        }
    }
}
