//! Every setting of a run, with its default. `config.toml` holds exactly these keys.
//!
//! The default is the two-level model with the evidence behind it (`docs/default.md`): a parallel level 2
//! (`source = "x"`), cumulative decoding, batch-top-k with separate budgets that start at three times their size in a long
//! training, both reconstructions and AuxK at weight 1, no gate for two thirds of the training and then the hard gate over
//! families found by co-firing, with ROOT for children that nobody contains, while the weight of level 1's reconstruction
//! falls to a tenth.

pub use crate::activation::Activation;
pub use crate::balance::Balance;
pub use crate::decoder::Decoder;
pub use crate::gate::GateKind;
pub use crate::loss::Consistency;
pub use crate::source::Source;

use crate::activation::Selection;
use crate::choice::choices;
use crate::error::{Error, Result};
use crate::gate::Reads;
use crate::loss::NeededDecoder;
use alloc::format;
use serde::{Deserialize, Serialize};

choices! {
    /// Which model is trained.
    ModelKind {
        /// The two-level SAE of this crate, with every option.
        Tree = "tree",
        /// The reference design of the field's first sketch, kept as a baseline with its faults: see [`crate::model::seed`].
        Seed = "seed",
    }
}
choices! {
    /// How the budgets of two `batchtopk` levels are spent.
    Budget {
        /// `k1` a row at level 1 and `k2` at level 2.
        Separate = "separate",
        /// `k1 + k2` a row, wherever the largest pre-activations of both levels are, with one threshold at inference.
        /// With `source = "x"`, `decoder = "cum"` and no gate this is a Matryoshka BatchTopK of two prefixes (Bussmann
        /// et al. 2025).
        Shared = "shared",
    }
}
choices! {
    /// Where the families of a hard gate come from.
    Parents {
        /// Co-firing statistics of training: the parent of highest expected log-lift.
        Cofire = "cofire",
        /// Drawn at random, once (the rule of Tree SAE, as a baseline).
        Random = "random",
    }
}

/// A run: model, losses, training and data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Which model.
    pub model: ModelKind,
    /// Seed of every random choice: initial weights, order of rows, revival.
    pub seed: u64,
    /// What level 2 reads.
    pub source: Source,
    /// With `source = "res"`: no gradient flows through the residual into level 1.
    pub source_detach: bool,
    /// With `source = "res"`: share of the steps for which level 2 reads `x` beside level 1. Then it turns to the
    /// residual, and level 1 stays as it is: levels that both learn on the residual may trade places. 0: the residual
    /// from the first step, and level 1 learns to the end. 1: never the residual.
    pub source_start: f64,
    /// What level 2 adds to.
    pub decoder: Decoder,
    /// How the budgets of the levels are spent.
    pub budget: Budget,
    /// Level 1, the parents.
    pub level1: LevelConfig,
    /// Level 2, the children. `latents = 0` makes a flat SAE.
    pub level2: LevelConfig,
    /// The gate between the levels.
    pub gate: GateConfig,
    /// Loss weights.
    pub loss: LossConfig,
    /// Steps and optimiser.
    pub train: TrainConfig,
    /// Dead latents.
    pub revive: ReviveConfig,
    /// Rows and their normalisation.
    pub data: DataConfig,
}

/// One level.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LevelConfig {
    /// Number of latents.
    pub latents: usize,
    /// Activation.
    pub activation: Activation,
    /// Target L0: exact for `topk` (an integer) and `batchtopk`, held by a controller on `lambda` for the others.
    pub k: f64,
    /// `topk`, `batchtopk`: a training that is long (`train.long`) starts at `k_start` times `k`.
    pub k_start: f64,
    /// `topk`, `batchtopk`: share of the steps over which k falls linearly to its target.
    pub anneal: f64,
    /// First weight of the sparsity penalty (mean per row). Penalised activations only; 0 elsewhere means none.
    pub lambda: f64,
    /// `relu`, `jumprelu`, `gated`: hold L0 at `k` by a PI controller on `ln lambda`.
    pub control: bool,
    /// `jumprelu`: width of the straight-through kernel, in units of the pre-activations.
    pub bandwidth: f64,
}

/// The gate between the levels.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GateConfig {
    /// Which gate.
    pub kind: GateKind,
    /// Hard gates: share of the steps after which they act. 0: from the first step.
    pub start: f64,
    /// Where families come from.
    pub parents: Parents,
    /// A child whose best parent fires on less than this share of the child's tokens goes to ROOT. 0: no ROOT.
    pub root_below: f64,
    /// A child seen on fewer tokens than this (decayed count) goes to ROOT.
    pub min_count: f64,
    /// Steps between re-assignments once the gate acts; 0: never.
    pub reassign_every: u64,
    /// An alive child moves only if a parent contains it by this much more.
    pub hysteresis: f64,
    /// Share of the steps after which the families are frozen.
    pub freeze: f64,
    /// A family has at most this many times `latents2 / latents1` children.
    pub family_cap: f64,
    /// Decay of the co-firing statistics a step.
    pub decay: f64,
}

/// Weights of the loss, in units of the fraction of variance unexplained.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LossConfig {
    /// Weight of level 1's reconstruction.
    pub w1: f64,
    /// Share of the steps after which `w1` moves, linearly, to `w1_end` at the end; 1: never. It moves behind a hard gate
    /// only: without one a child may absorb its parent where level 1 counts for little. And only if level 1 is `topk` or
    /// `batchtopk`: against a penalty a smaller weight would mean fewer latents.
    pub w1_start: f64,
    /// Where `w1` ends, if it moves.
    pub w1_end: f64,
    /// Weight of level 2's reconstruction.
    pub w2: f64,
    /// Weight of AuxK at both levels.
    pub aux: f64,
    /// `gated`: weight of the auxiliary reconstruction through a frozen decoder.
    pub gated_aux: f64,
    /// Which consistency loss.
    pub consistency: Consistency,
    /// Its weight.
    pub consistency_weight: f64,
    /// `contain`: weight of the term that trains the child to stay inside.
    pub contain_down: f64,
    /// `contain`: weight of the term that trains the parent to cover.
    pub contain_up: f64,
    /// `contain`: the parent's pre-activation from which on nothing is charged.
    pub contain_margin: f64,
}

/// Steps and optimiser.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainConfig {
    /// Number of steps.
    pub steps: u64,
    /// Rows a step.
    pub batch: usize,
    /// Learning rate of Adam.
    pub lr: f64,
    /// Share of the steps over which the rate rises linearly from 0.
    pub warmup: f64,
    /// Share of the steps over which it falls linearly to 0 at the end.
    pub decay: f64,
    /// The training is long if its learning rates add up to this: `lr steps (1 - warmup / 2 - decay / 2)`, about as far as
    /// Adam can move a weight. A short one has no time for the larger k of the beginning (`k_start`), and leaves it out.
    /// 0: every training is long.
    pub long: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Largest global norm of the gradient, after the projection; 0: no limit.
    pub clip: f64,
    /// Decoder rows have norm 1. The optimiser may step as if they were free and had this norm at the start: by `lr / n`, with
    /// `n` the norm that a free row would have by now. A small one turns rows fast at the beginning and slows down by itself.
    /// 0: by `lr`.
    pub row_norm: f64,
    /// Norm at which encoder rows start.
    pub encoder_norm: f64,
    /// How the two reconstructions' gradients are mixed.
    pub balance: Balance,
    /// `norm`: the wanted ratio of level 1's gradient norm to level 2's.
    pub balance_ratio: f64,
    /// Steps between lines of `metrics.jsonl`.
    pub log_every: u64,
    /// Steps between checkpoints; 0: none but the last.
    pub checkpoint_every: u64,
}

/// Dead latents.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ReviveConfig {
    /// A latent that has not fired for this many rows is dead.
    pub dead_after: u64,
    /// AuxK uses the `k_aux` largest dead latents of each row; 0: half of `d`, as TopK SAEs had it (arXiv 2406.04093). Few,
    /// so that a dead latent learns one thing that is missing, and not its share of everything.
    pub k_aux: usize,
    /// Dead children of a hard gate are moved to the parent with the most error a child and set to a residual.
    pub reseed: bool,
}

/// Rows and their normalisation. All of it is folded into the saved weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DataConfig {
    /// Subtract the mean row.
    pub centre: bool,
    /// Multiply by one number such that the mean squared norm is `d`.
    pub scale: bool,
    /// Start the decoder bias at the geometric median.
    pub geometric_median: bool,
    /// Leave out of training the rows whose norm is more than this many times the median norm; 0: keep all.
    pub outlier: f64,
    /// Share of the rows, at the end of the dump, that is held out.
    pub holdout: f64,
    /// Rows that the statistics above are measured on.
    pub stats_rows: usize,
    /// Consecutive rows that are read together.
    pub block: u64,
    /// Blocks whose rows are mixed.
    pub window: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            model: ModelKind::Tree,
            seed: 0,
            source: Source::X,
            source_detach: false,
            source_start: 0.0,
            decoder: Decoder::Cum,
            budget: Budget::Separate,
            level1: LevelConfig { latents: 256, k: 8.0, ..LevelConfig::default() },
            level2: LevelConfig { latents: 2048, k: 12.0, ..LevelConfig::default() },
            gate: GateConfig::default(),
            loss: LossConfig::default(),
            train: TrainConfig::default(),
            revive: ReviveConfig::default(),
            data: DataConfig::default(),
        }
    }
}

impl Default for LevelConfig {
    fn default() -> Self {
        Self {
            latents: 0,
            activation: Activation::Batchtopk,
            k: 8.0,
            k_start: 3.0,
            anneal: 0.3,
            lambda: 0.0,
            control: true,
            bandwidth: 0.5,
        }
    }
}

impl Default for GateConfig {
    fn default() -> Self {
        Self {
            kind: GateKind::Hard,
            start: 2.0 / 3.0,
            parents: Parents::Cofire,
            root_below: 0.5,
            min_count: 30.0,
            reassign_every: 250,
            hysteresis: 0.2,
            freeze: 0.9,
            family_cap: 4.0,
            decay: 0.998,
        }
    }
}

impl Default for LossConfig {
    fn default() -> Self {
        Self {
            w1: 1.0,
            w1_start: 2.0 / 3.0,
            w1_end: 0.1,
            w2: 1.0,
            aux: 1.0,
            gated_aux: 1.0,
            consistency: Consistency::None,
            consistency_weight: 1e-3,
            contain_down: 1.0,
            contain_up: 1.0,
            contain_margin: 0.5,
        }
    }
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self {
            steps: 4000,
            batch: 1024,
            lr: 1e-3,
            warmup: 0.02,
            decay: 0.2,
            long: 15.0,
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            clip: 1.0,
            row_norm: 0.0,
            encoder_norm: 1.0,
            balance: Balance::Sum,
            balance_ratio: 1.0,
            log_every: 100,
            checkpoint_every: 1000,
        }
    }
}

impl Default for ReviveConfig {
    fn default() -> Self {
        Self { dead_after: 200_000, k_aux: 4, reseed: true }
    }
}

impl Default for DataConfig {
    fn default() -> Self {
        Self {
            centre: true,
            scale: true,
            geometric_median: true,
            outlier: 10.0,
            holdout: 0.1,
            stats_rows: 1 << 16,
            block: 256,
            window: 256,
        }
    }
}

impl Config {
    /// Returns the settings of a level: 0 for the parents, 1 for the children.
    pub fn level(&self, level: usize) -> &LevelConfig {
        [&self.level1, &self.level2][level]
    }

    /// Checks every setting alone and with the others, for rows of width `d`.
    ///
    /// # Errors
    /// [`Error::Config`] for the first setting that cannot be trained with.
    pub fn validate(&self, d: usize) -> Result<()> {
        let bad = |key: &str, why: alloc::string::String| Err(Error::config(key, why));
        if d == 0 {
            return bad("d", "rows have no columns".into());
        }
        for (name, level, needed) in [("level1", &self.level1, true), ("level2", &self.level2, false)] {
            if level.latents == 0 {
                if needed || self.model == ModelKind::Seed {
                    return bad(&format!("{name}.latents"), "expected at least 1, found 0".into());
                }
                continue;
            }
            if level.latents > u32::MAX as usize - 1 {
                return bad(
                    &format!("{name}.latents"),
                    format!("expected at most {}, found {}", u32::MAX - 1, level.latents),
                );
            }
            if level.k.is_nan() || level.k <= 0.0 || level.k > level.latents as f64 {
                return bad(
                    &format!("{name}.k"),
                    format!(
                        "expected more than 0 and at most the number of latents ({}), found {}",
                        level.latents, level.k
                    ),
                );
            }
            if level.activation.has_whole_k() && libm::floor(level.k) != level.k {
                return bad(&format!("{name}.k"), format!("`topk` keeps a whole number of latents, found {}", level.k));
            }
            range(&format!("{name}.k_start"), level.k_start, 1.0, 1e6)?;
            range(&format!("{name}.anneal"), level.anneal, 0.0, 1.0)?;
            range(&format!("{name}.lambda"), level.lambda, 0.0, 1e6)?;
            range(&format!("{name}.bandwidth"), level.bandwidth, 1e-9, 1e9)?;
        }
        range("source_start", self.source_start, 0.0, 1.0)?;
        if self.source_start > 0.0 && self.source.before_switch().is_none() {
            return bad("source_start", format!("only `source = \"res\"` has a turn, found `{}`", self.source));
        }
        range("train.long", self.train.long, 0.0, 1e12)?;
        range("gate.start", self.gate.start, 0.0, 1.0)?;
        range("gate.root_below", self.gate.root_below, 0.0, 1.0)?;
        range("gate.min_count", self.gate.min_count, 0.0, 1e12)?;
        range("gate.hysteresis", self.gate.hysteresis, 0.0, 1.0)?;
        range("gate.freeze", self.gate.freeze, 0.0, 1.0)?;
        range("gate.family_cap", self.gate.family_cap, 1.0, 1e12)?;
        range("gate.decay", self.gate.decay, 0.5, 1.0)?;
        range("loss.w1", self.loss.w1, 0.0, 1e6)?;
        range("loss.w1_start", self.loss.w1_start, 0.0, 1.0)?;
        range("loss.w1_end", self.loss.w1_end, 0.0, 1e6)?;
        range("loss.w2", self.loss.w2, 0.0, 1e6)?;
        range("loss.aux", self.loss.aux, 0.0, 1e6)?;
        range("loss.gated_aux", self.loss.gated_aux, 0.0, 1e6)?;
        range("loss.consistency_weight", self.loss.consistency_weight, -1e6, 1e6)?;
        range("loss.contain_down", self.loss.contain_down, 0.0, 1e6)?;
        range("loss.contain_up", self.loss.contain_up, 0.0, 1e6)?;
        range("loss.contain_margin", self.loss.contain_margin, 1e-6, 1e6)?;
        if self.train.steps == 0 {
            return bad("train.steps", "expected at least 1, found 0".into());
        }
        if self.train.batch == 0 || self.train.batch > 1 << 24 {
            return bad("train.batch", format!("expected 1 to {}, found {}", 1 << 24, self.train.batch));
        }
        range("train.lr", self.train.lr, 0.0, 1e3)?;
        range("train.warmup", self.train.warmup, 0.0, 1.0)?;
        range("train.decay", self.train.decay, 0.0, 1.0)?;
        range("train.beta1", self.train.beta1, 0.0, 0.999_999)?;
        range("train.beta2", self.train.beta2, 0.0, 0.999_999_9)?;
        range("train.eps", self.train.eps, 1e-30, 1.0)?;
        range("train.clip", self.train.clip, 0.0, 1e9)?;
        range("train.row_norm", self.train.row_norm, 0.0, 1e3)?;
        range("train.encoder_norm", self.train.encoder_norm, 1e-6, 1e3)?;
        range("train.balance_ratio", self.train.balance_ratio, 1e-6, 1e6)?;
        range("data.outlier", self.data.outlier, 0.0, 1e9)?;
        range("data.holdout", self.data.holdout, 0.0, 0.9)?;
        for (key, value) in [
            ("data.block", self.data.block),
            ("data.window", self.data.window),
            ("train.log_every", self.train.log_every),
        ] {
            if value == 0 {
                return bad(key, "expected at least 1, found 0".into());
            }
        }
        if self.data.stats_rows == 0 {
            return bad("data.stats_rows", "expected at least 1, found 0".into());
        }
        self.validate_together()
    }

    /// Settings that exclude one another.
    fn validate_together(&self) -> Result<()> {
        let bad = |key: &str, why: alloc::string::String| Err(Error::config(key, why));
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

fn range(key: &str, value: f64, low: f64, high: f64) -> Result<()> {
    if value >= low && value <= high {
        return Ok(());
    }
    Err(Error::config(key, format!("expected {low} to {high}, found {value}")))
}
