//! The command line, as typed.

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use std::path::PathBuf;
use strata_core::Dtype;
use strata_core::format::formats::{Choices, Format};
use strata_core::format::saelens_writer::Metadata;
use strata_core::model::WeightType;
use strata_core::row_norm::RowNorm;

/// Two-level hierarchical sparse autoencoders, from activations to features, on the CPU.
#[derive(Debug, Parser)]
#[command(name = "strata", bin_name = "strata", version, max_term_width = 110)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// Flags of every command.
    #[command(flatten)]
    pub global: Global,
}

/// Flags of every command.
#[derive(Debug, Args)]
pub struct Global {
    /// Threads to compute with [default: one a core]. The results do not depend on it
    #[arg(long, global = true, value_name = "N")]
    pub threads: Option<usize>,
    /// Print nothing but results and errors
    #[arg(long, global = true)]
    pub quiet: bool,
    /// Print results as JSON
    #[arg(long, global = true)]
    pub json: bool,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Capture, train, evaluate and report on the embedded language model and text: nothing else is needed
    Demo(Demo),
    /// Run a GPT-2-family language model over a text and write a layer's activations as a dump
    Capture(Capture),
    /// Draw a dump from a synthetic world whose features and hierarchy are known
    Synth(Synth),
    /// Say what is in a dump, and whether it can be trained on
    Inspect(DumpArgs),
    /// Train on a dump
    Train(Train),
    /// Evaluate a run on the held-out rows of a dump
    Eval(Eval),
    /// Ask what labels can be read from a run's codes, and what removing a class's latents does
    Probe(Probe),
    /// Write the sparse codes of every row of a dump
    Encode(Encode),
    /// Write what latents do on a dump in the format of another tool
    ///
    /// Each level is a sparse autoencoder of its own there. Every row of the dump is exported, which has to say its tokens
    /// and where its sequences begin, as one by `strata capture` does. The rows are read twice; memory does not grow with
    /// them.
    Export(Export),
    /// Write the weights of a run, or of a model of another tool, in the files of another tool
    ///
    /// What the other tool cannot hold exactly is refused with a sentence that says what would be lost, and done with
    /// --inexact.
    Convert(Convert),
    /// Train and evaluate many runs on one dump, and compare them seed by seed
    Ablate(Ablate),
    /// Show a run, or an ablation, as one HTML file that opens offline
    Report(Report),
    /// List the settings of a run with default, range and meaning
    Settings(ListSettings),
    /// Print the script that completes this command line in a shell
    ///
    /// For bash, for instance: `strata completions bash > ~/.local/share/bash-completion/completions/strata`
    Completions(Completions),
    /// Write a man page per command
    Man(Man),
}

/// A dump: a directory with `dump.json`, `.npy` or `.safetensors` files (several are shards), or a raw `.bin`.
#[derive(Debug, Args)]
pub struct DumpArgs {
    /// The dump, or its shards in order
    #[arg(required = true, value_name = "PATH")]
    pub dump: Vec<PathBuf>,
    /// What the dump does not say itself.
    #[command(flatten)]
    pub source: SourceArgs,
}

/// What a dump does not say itself.
#[derive(Debug, Args)]
#[command(next_help_heading = "What the dump does not say itself")]
pub struct SourceArgs {
    /// Raw files (.bin): type of the numbers (f32, f16, bf16)
    #[arg(long, value_name = "TYPE", requires = "dim")]
    pub dtype: Option<Dtype>,
    /// Raw files (.bin): numbers per row
    #[arg(long, value_name = "D", requires = "dtype")]
    pub dim: Option<usize>,
    /// The token id of every row: a .npy of integers, or a .safetensors with a tensor `tokens`
    #[arg(long, value_name = "FILE")]
    pub tokens: Option<PathBuf>,
    /// The text of every token id: tokenizer.json, vocab.json or vocab.txt, or a directory with one of them
    #[arg(long, value_name = "FILE")]
    pub vocab: Option<PathBuf>,
    /// Rows of a sequence, where all have as many
    #[arg(long, value_name = "T", conflicts_with = "starts")]
    pub context: Option<usize>,
    /// The first row of every sequence: a .npy of integers, or a .safetensors with a tensor `sequence_starts`
    #[arg(long, value_name = "FILE")]
    pub starts: Option<PathBuf>,
    /// Which layer, of a dump that holds several
    #[arg(long, value_name = "L")]
    pub layer: Option<usize>,
}

/// What the files of a model of another tool do not say.
#[derive(Debug, Args)]
pub struct ModelArgs {
    /// Format of the model, where it is not recognised or more than one fits: saelens, gemma-scope-transcoder, ...
    #[arg(long, value_name = "FORMAT", value_parser = format_named)]
    pub from: Option<&'static str>,
    /// SAELens, expected_average_only_in: the factor that rows are multiplied by, which its list of pretrained models has and
    /// no file
    #[arg(long, value_name = "S")]
    pub norm_scaling_factor: Option<f32>,
    /// How each row is normalised by itself (none, layer, constant), where only SAELens' list says it
    #[arg(long, value_name = "NAME", value_parser = RowNorm::named)]
    pub row_norm: Option<RowNorm>,
    /// Top-k: active latents a row, where only the name of a repository says it (Qwen Scope)
    #[arg(long, value_name = "K")]
    pub k: Option<u64>,
}

/// The name of a format, if there is one of that name.
fn format_named(name: &str) -> strata_core::Result<&'static str> {
    Format::named(name).map(|format| format.name)
}

impl ModelArgs {
    /// The choices that were made.
    pub fn choices(&self) -> Choices {
        Choices { from: self.from, norm_scaling_factor: self.norm_scaling_factor, row_norm: self.row_norm, k: self.k }
    }
}

/// The model and the dump of a command that applies one to the other.
#[derive(Debug, Args)]
pub struct Subject {
    /// The run directory, or a model of another tool (SAELens, Gemma Scope, sparsify, dictionary_learning, ...): its
    /// directory or its file
    pub run: Option<PathBuf>,
    /// The dump, or its shards in order [default: the one that the run was trained on]
    #[arg(long, num_args = 1.., value_name = "PATH")]
    pub dump: Vec<PathBuf>,
    /// What the files of a model of another tool do not say.
    #[command(flatten)]
    pub model_args: ModelArgs,
    /// What the dump does not say itself.
    #[command(flatten)]
    pub source: SourceArgs,
}

/// Settings of a run.
#[derive(Debug, Args)]
pub struct Settings {
    /// Settings, as in the config.toml of a run
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// One setting, as in `--set train.steps=2000`; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub sets: Vec<String>,
    /// Seed of every random choice
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
}

/// `strata demo`.
#[derive(Debug, Args)]
pub struct Demo {
    /// Where the dump and the run go
    #[arg(long, value_name = "DIR", default_value = "strata-demo")]
    pub out: PathBuf,
    /// Settings of the run.
    #[command(flatten)]
    pub settings: Settings,
}

/// `strata capture`.
#[derive(Debug, Args)]
pub struct Capture {
    /// Hugging Face directory of the language model (config.json, model.safetensors, tokenizer.json) [default: the embedded one]
    #[arg(long, value_name = "DIR")]
    pub model: Option<PathBuf>,
    /// Text to run it over [default: the embedded one]
    #[arg(long, value_name = "FILE")]
    pub text: Option<PathBuf>,
    /// Take the residual stream after this block, counted from 0
    #[arg(long, value_name = "L")]
    pub layer: usize,
    /// The dump to write
    #[arg(long, value_name = "DUMP")]
    pub out: PathBuf,
    /// Tokens per window [default: all that the model can attend to]
    #[arg(long, value_name = "T")]
    pub context: Option<usize>,
    /// Begin every window with the token that begins a text, as the config.json of the model names it
    #[arg(long)]
    pub bos: bool,
    /// Leave out the first N rows of every window, where the model has seen little
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub skip_first: usize,
    /// Stop after this many tokens
    #[arg(long, value_name = "N")]
    pub max_tokens: Option<u64>,
    /// Type of the numbers written
    #[arg(long, value_name = "TYPE", default_value = "f16")]
    pub dtype: Dtype,
}

/// `strata synth`.
#[derive(Debug, Args)]
pub struct Synth {
    /// Which world: the tree worlds A, B and C, or one of the sizes of SynthSAEBench-16k
    #[arg(long, value_name = "NAME")]
    pub world: WorldName,
    /// Rows to draw
    #[arg(long, value_name = "N")]
    pub rows: u64,
    /// Seed of the world [default: 0]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// One constant of the world, as in `--set roots=12`; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub sets: Vec<String>,
    /// Type of the numbers written
    #[arg(long, value_name = "TYPE", default_value = "f32")]
    pub dtype: Dtype,
    /// The dump to write
    #[arg(long, value_name = "DUMP")]
    pub out: PathBuf,
}

/// A synthetic world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum WorldName {
    /// 24 roots with 5 exclusive children each and 16 flat features in 64 dimensions
    A,
    /// World A; models get a budget 30 % below its L0
    B,
    /// 48 dimensions, children orthogonal to their roots, more noise
    C,
    /// 16,384 features in trees of depth 3, correlated, by Zipf's law
    SaeBench,
}

/// `strata train`.
#[derive(Debug, Args)]
pub struct Train {
    /// The dump, or its shards in order
    #[arg(long, required = true, num_args = 1.., value_name = "PATH")]
    pub dump: Vec<PathBuf>,
    /// The run directory to make
    #[arg(long, value_name = "RUN")]
    pub out: PathBuf,
    /// Go on with a run from its last checkpoint: one that was stopped, or, with another `--set train.steps=N`, one that
    /// is finished
    #[arg(long)]
    pub resume: bool,
    /// Train the control too, RUN/control: from the step at which the gate starts, with the parents permuted at random.
    /// `strata eval` compares the run with it; with --resume, of a run that is finished already
    #[arg(long)]
    pub control: bool,
    /// Settings of the run.
    #[command(flatten)]
    pub settings: Settings,
    /// What the dump does not say itself.
    #[command(flatten)]
    pub source: SourceArgs,
}

/// `strata eval`.
#[derive(Debug, Args)]
pub struct Eval {
    /// The model and the dump.
    #[command(flatten)]
    pub subject: Subject,
    /// Evaluate every row, not only those that training held out
    #[arg(long)]
    pub all: bool,
    /// Put the reconstructions back into the language model and measure its cross-entropy
    #[arg(long)]
    pub splice: bool,
    /// Hugging Face directory of the language model that the rows come from, for --splice and for what latents do to its
    /// logits [default: the embedded one, if the dump came from it]
    #[arg(long, value_name = "DIR")]
    pub model: Option<PathBuf>,
    /// Another run on such rows, for instance of another seed: how far it has found the same
    #[arg(long, value_name = "RUN")]
    pub against: Option<PathBuf>,
    /// The directory that eval.json and latents.jsonl go into; it is made if it is not there [default: RUN]
    #[arg(short, long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// A transcoder: the dump of what it should reconstruct, a row for each row of --dump
    #[arg(long, value_name = "DUMP")]
    pub target: Option<PathBuf>,
}

/// `strata probe`.
#[derive(Debug, Args)]
pub struct Probe {
    /// The model and the dump.
    #[command(flatten)]
    pub subject: Subject,
    /// Labels: `chars` for the kinds of the dump's own tokens (and absorption); or a .npy with one dimension of integers,
    /// or a .safetensors with a tensor `labels` of them, one a row or one a sequence (whose rows are then averaged). A
    /// negative label leaves its row out. A second tensor `attributes` of 0 and 1 asks for spurious correlation removal
    #[arg(long, value_name = "LABELS")]
    pub labels: PathBuf,
    /// Where the report goes [default: RUN/probe.json]
    #[arg(short, long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Work on at most this many rows or sequences
    #[arg(long, value_name = "N", default_value_t = 50_000)]
    pub sample: usize,
    /// Seed of the sample, the split and whatever is drawn
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// A transcoder: the dump of what it should reconstruct, a row for each row of --dump
    #[arg(long, value_name = "DUMP")]
    pub target: Option<PathBuf>,
}

/// `strata encode`.
#[derive(Debug, Args)]
pub struct Encode {
    /// The model and the dump.
    #[command(flatten)]
    pub subject: Subject,
    /// The file to write: safetensors, in CSR form a level
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// Replace the file if it exists
    #[arg(long)]
    pub force: bool,
    /// Write values as f16
    #[arg(long)]
    pub f16: bool,
    /// What to keep the encoder's weights in while it encodes: f32, bf16 or int8. The codes are those of the rounded weights
    #[arg(long, value_name = "TYPE", default_value = "f32", value_parser = WeightType::named)]
    pub weights: WeightType,
}

/// `strata export`.
#[derive(Debug, Args)]
pub struct Export {
    /// The model and the dump.
    #[command(flatten)]
    pub subject: Subject,
    /// For which tool
    #[arg(long, value_name = "TOOL")]
    pub format: ExportFormat,
    /// The directory to make
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// delphi: files a level, from 1 to 256, at most one a latent; it reads one at a time as a whole [default: 5]
    #[arg(long, value_name = "N")]
    pub splits: Option<usize>,
    /// saelens: how the weights are written.
    #[command(flatten)]
    pub weights: WeightsArgs,
}

/// A tool to export for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ExportFormat {
    /// Feature dashboards as SAEDashboard writes them, in level1/ and level2/: density, histogram of activations, strongest
    /// places, and the strongest logits that `strata eval` found. Empty, as they need more than activations and tokens:
    /// the histogram of all logits, correlations of latents, neurons and attention heads (a residual stream has none),
    /// vectors (the weights are in RUN/sae). Left out: attribution, groups of weaker activations
    Neuronpedia,
    /// The cache of activations that LatentDataset reads, a module a level, named by the hook of the dump: locations,
    /// activations, tokens, config.json. Sequences have to be of one length; rows after the last whole one are left out.
    /// Left out of config.json: the data set that delphi would load the tokens from, as they are in the files
    Delphi,
    /// The weights, as a directory that SAELens loads: as `strata convert --to saelens`
    Saelens,
}

/// Files to write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum To {
    /// SAELens 6: cfg.json, sae_weights.safetensors
    #[default]
    Saelens,
    /// A run of Strata with its model alone: sae/cfg.json, sae/sae_weights.safetensors
    Strata,
    /// Gemma Scope: params.npz, of models of one level with thresholds
    Npz,
}

/// Latents to write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum PartName {
    /// Level 1 alone
    #[default]
    Level1,
    /// Level 2 alone
    Level2,
    /// Both levels side by side, as one
    Both,
    /// Both levels with their families, which SAELens loads with the class in saelens_strata.py
    Tree,
}

/// How weights are written for SAELens.
#[derive(Debug, Args)]
pub struct WeightsArgs {
    /// Which latents [default: those of a model of one level]
    #[arg(long, value_name = "PART")]
    pub part: Option<PartName>,
    /// Do what is not exact, too, and say what is lost
    #[arg(long)]
    pub inexact: bool,
    /// Type of the numbers; of bf16 and f16 some latents at their thresholds come out otherwise
    #[arg(id = "weights_dtype", long = "weights-dtype", value_name = "TYPE", default_value = "f32")]
    pub dtype: Dtype,
    /// The language model, by its name on a hub [default: as the run says]
    #[arg(long, value_name = "NAME")]
    pub model_id: Option<String>,
    /// The hook point, as blocks.6.hook_resid_post [default: as the run says]
    #[arg(long, value_name = "HOOK")]
    pub hook: Option<String>,
    /// Tokens a sequence [default: as the run says]
    #[arg(long, value_name = "T")]
    pub context: Option<u64>,
    /// Whether sequences begin with a token of their own
    #[arg(long, value_name = "BOOL")]
    pub prepend_bos: Option<bool>,
    /// The data set, by its name on a hub
    #[arg(long, value_name = "NAME")]
    pub dataset: Option<String>,
}

impl WeightsArgs {
    /// The metadata that was given.
    pub fn metadata(&self) -> Metadata {
        Metadata {
            model: self.model_id.clone(),
            hook: self.hook.clone(),
            context: self.context,
            prepend_bos: self.prepend_bos,
            dataset: self.dataset.clone(),
        }
    }
}

/// `strata convert`.
#[derive(Debug, Args)]
pub struct Convert {
    /// The run directory, or a model of another tool: its directory or its file
    #[arg(value_name = "SRC")]
    pub run: PathBuf,
    /// The directory to make
    #[arg(value_name = "OUT")]
    pub out: PathBuf,
    /// Files to write
    #[arg(long, value_name = "FORMAT", default_value = "saelens")]
    pub to: To,
    /// How weights are written for SAELens.
    #[command(flatten)]
    pub weights: WeightsArgs,
    /// What the files of a model of another tool do not say.
    #[command(flatten)]
    pub model_args: ModelArgs,
}

/// `strata report`.
#[derive(Debug, Args)]
pub struct Report {
    /// The directory of a run or of an ablation, or of two runs to compare
    #[arg(value_name = "RUN_OR_ABLATION", required = true, num_args = 1..)]
    pub from: Vec<PathBuf>,
    /// The file to write [default: report.html in that directory; of two runs report-with-B.html in the first]
    #[arg(short, long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// The title of the page [default: the name of the directory]
    #[arg(long, value_name = "TEXT")]
    pub title: Option<String>,
    /// The names and notes of latents, as the page exports them [default: RUN/labels.json, if it is there]
    #[arg(long, value_name = "FILE")]
    pub labels: Option<PathBuf>,
}

/// `strata settings`.
#[derive(Debug, Args)]
pub struct ListSettings {
    /// Settings or sections to list, as in `gate` or `train.steps` [default: all]
    #[arg(value_name = "KEY")]
    pub keys: Vec<String>,
    /// Print the page docs/settings.md
    #[arg(long, conflicts_with = "keys")]
    pub markdown: bool,
}

/// `strata completions`.
#[derive(Debug, Args)]
pub struct Completions {
    /// The shell
    pub shell: Shell,
}

/// `strata man`.
#[derive(Debug, Args)]
pub struct Man {
    /// The directory to write the pages into
    #[arg(value_name = "DIR")]
    pub directory: PathBuf,
}

/// `strata ablate`.
#[derive(Debug, Args)]
pub struct Ablate {
    /// The dump, or its shards in order
    #[arg(long, required = true, num_args = 1.., value_name = "PATH")]
    pub dump: Vec<PathBuf>,
    /// Where the runs and the comparison go; what is there already is not done again
    #[arg(long, visible_alias = "out-dir", value_name = "DIR")]
    pub out: PathBuf,
    /// Settings that all runs share, as in the config.toml of a run, and runs of your own: `[[run]]` or `[grid]`
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Built-in runs; may be repeated
    #[arg(long, value_name = "NAME")]
    pub suite: Vec<SuiteName>,
    /// Seeds a row, from `seed` on [default: 3; 1 for the suite `experiment`]
    #[arg(long, value_name = "N")]
    pub seeds: Option<u64>,
    /// One setting that all runs share, as in `--set train.steps=2000`; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub sets: Vec<String>,
    /// What the dump does not say itself.
    #[command(flatten)]
    pub source: SourceArgs,
}

/// Built-in runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SuiteName {
    /// Every consistency loss, from no weight to a strong one
    Consistency,
    /// Every gate between the levels
    Gates,
    /// One budget divided between the levels from 4:1 to 1:4, and shared
    SparsityRatio,
    /// Weight of level 1's reconstruction, and how gradients are mixed
    Balance,
    /// The settings as they are, beside models whose decoder or encoder does not learn
    Baselines,
    /// All of the above
    All,
    /// Five runs in run_1 to run_5, each with its final_info.json, and one of all five beside them
    Experiment,
}
