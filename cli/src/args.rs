//! The command line as typed.

use crate::addend::Addend;
use crate::device::Choice;
use crate::settings::preset::Preset;
use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use std::num::NonZeroU64;
use std::path::PathBuf;
use strata_core::Dtype;
use strata_core::format::formats::{Choices, Format};
use strata_core::format::saelens_writer::Metadata;
use strata_core::model::WeightType;
use strata_core::row_norm::RowNorm;

/// Two-level hierarchical sparse autoencoders, from activations to features.
#[derive(Debug, Parser)]
#[command(name = "strata", bin_name = "strata", version, max_term_width = 110)]
pub struct Cli {
    /// The command.
    #[command(subcommand)]
    pub command: Command,
    /// Flags of every command.
    #[command(flatten)]
    pub global: Global,
}

/// Flags of every command.
#[derive(Debug, Args)]
pub struct Global {
    /// Number of threads [default: one per core]. The results do not depend on it
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
    /// Capture, train, evaluate and report on the embedded language model and text
    Demo(Demo),
    /// Run a language model over a text and write its activations at hook points as dumps
    Capture(Capture),
    /// Draw a dump from a synthetic world whose features and hierarchy are known
    Synth(Synth),
    /// Summarise a dump and check that it can be trained on
    Inspect(DumpArgs),
    /// Train on a dump
    Train(Train),
    /// Evaluate a run on the held-out rows of a dump
    Eval(Eval),
    /// Evaluate a run with linear probes: sparse probing, TPP, SCR, absorption
    Probe(Probe),
    /// Write the sparse codes of every row of a dump
    Encode(Encode),
    /// Write what the latents of a run do on a dump, in the format of another tool
    ///
    /// Each level becomes a sparse autoencoder of its own. For Neuronpedia rows that training left out are left out; for
    /// delphi every row is exported. The dump must have tokens and the starts of its sequences, as one by `strata capture`
    /// does. The rows are read twice; memory does not grow with them.
    Export(Export),
    /// Write the weights of a run, or of a model of another tool, in the format of another tool
    ///
    /// What the other tool cannot represent exactly is refused, with a sentence that says what would be lost. --inexact
    /// permits it.
    Convert(Convert),
    /// Train and evaluate many runs on one dump, and compare them seed by seed
    Ablate(Ablate),
    /// Show a run, or an ablation, as one HTML file that opens offline
    Report(Report),
    /// List the GPUs that --device can name, and compare them with the CPU
    Device(DeviceArgs),
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
    /// What the dump itself does not say.
    #[command(flatten)]
    pub source: SourceArgs,
}

/// What a dump itself does not say.
#[derive(Debug, Args)]
#[command(next_help_heading = "What the dump itself does not say")]
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
    /// Rows per sequence, where all sequences have the same number
    #[arg(long, value_name = "T", conflicts_with = "starts")]
    pub context: Option<usize>,
    /// The first row of every sequence: a .npy of integers, or a .safetensors with a tensor `sequence_starts`
    #[arg(long, value_name = "FILE")]
    pub starts: Option<PathBuf>,
    /// The layer, for a dump that has several
    #[arg(long, value_name = "L")]
    pub layer: Option<usize>,
}

/// What the files of a model of another tool do not say.
#[derive(Debug, Args)]
pub struct ModelArgs {
    /// Format of the model, where it is not recognised or more than one fits: saelens, gemma-scope-transcoder, ...
    #[arg(long, value_name = "FORMAT", value_parser = format_named)]
    pub from: Option<&'static str>,
    /// SAELens, expected_average_only_in: the factor by which rows are multiplied, which is in its list of pretrained
    /// models and in no file
    #[arg(long, value_name = "S")]
    pub norm_scaling_factor: Option<f32>,
    /// Normalisation of each row (none, layer, constant), where only SAELens' list says it
    #[arg(long, value_name = "NAME", value_parser = RowNorm::named)]
    pub row_norm: Option<RowNorm>,
    /// Top-k: active latents per row, where only the name of a repository says it (Qwen Scope)
    #[arg(long, value_name = "K")]
    pub k: Option<u64>,
}

/// Returns the name of the format called `name`.
fn format_named(name: &str) -> strata_core::Result<&'static str> {
    Format::named(name).map(|format| format.name)
}

impl ModelArgs {
    /// Returns the choices that were made.
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
    /// What the dump itself does not say.
    #[command(flatten)]
    pub source: SourceArgs,
}

/// Where to compute.
#[derive(Debug, Args)]
pub struct DeviceFlag {
    /// Compute on the processor or on a GPU: cpu, cuda, cuda:N, or auto (a GPU where one can be used). The results do not
    /// depend on it [default: what STRATA_DEVICE says, or cpu]
    #[arg(long, value_name = "DEVICE")]
    pub device: Option<Choice>,
}

/// `strata device`.
#[derive(Debug, Args)]
pub struct DeviceArgs {
    /// Compare every kernel on every GPU with the CPU, to the bit: some minutes
    #[arg(long)]
    pub check: bool,
}

/// Settings of a run.
#[derive(Debug, Args)]
pub struct Settings {
    /// Settings for a kind of rows, in place of the defaults; --config and --set come after them
    #[arg(long, value_name = "NAME")]
    pub preset: Option<Preset>,
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
    /// The directory for the dump and the run
    #[arg(long, value_name = "DIR", default_value = "strata-demo")]
    pub out: PathBuf,
    /// Another language model than the embedded one, as for `strata capture`
    #[arg(long, value_name = "MODEL")]
    pub model: Option<PathBuf>,
    /// With --model: the text, as for `strata capture` [default: the embedded one]
    #[arg(long, value_name = "PATH", requires = "model")]
    pub text: Option<PathBuf>,
    /// With --model: where the activations are taken, as for `strata capture` [default: the residual stream after the block in
    /// the middle]
    #[arg(long, value_name = "NAME", requires = "model")]
    pub hook: Option<String>,
    /// With --model: the number of tokens
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    pub max_tokens: u64,
    /// Settings of the run.
    #[command(flatten)]
    pub settings: Settings,
    /// Where to compute.
    #[command(flatten)]
    pub device: DeviceFlag,
}

/// `strata capture`.
#[derive(Debug, Args)]
pub struct Capture {
    /// The language model: a GGUF file, or a Hugging Face directory (config.json, model.safetensors or its shards,
    /// tokenizer.json) [default: the embedded one]
    #[arg(long, value_name = "MODEL")]
    pub model: Option<PathBuf>,
    /// The text: a file of plain text, which is one document; a file of JSON lines (.jsonl, .ndjson), which has one per line; one
    /// of Parquet, which has one per row; or a directory of such files (.txt, .md, .rst, .jsonl, .parquet), in the order of
    /// their paths [default: the embedded one]
    #[arg(long, value_name = "PATH")]
    pub text: Option<PathBuf>,
    /// JSON lines: the field that has the text [default: text]
    #[arg(long, value_name = "NAME", requires = "text")]
    pub field: Option<String>,
    /// Take the documents in a random order, which the seed determines
    #[arg(long, value_name = "SEED", requires = "text")]
    pub shuffle: Option<u64>,
    /// Begin a new window with every document, whose last window may then be shorter. Otherwise documents follow each other, and
    /// all windows have the same length
    #[arg(long)]
    pub per_document: bool,
    /// Take the activations at this hook point: blocks.L.hook_resid_pre, hook_resid_mid, hook_resid_post, hook_attn_out,
    /// hook_mlp_out, mlp.hook_in, mlp.hook_post, ..., a short form as in resid_post.L, or the path of a module as in
    /// model.layers.L.mlp. May be repeated: there is then a dump per point in the directory DUMP, of the same tokens
    #[arg(long = "hook", value_name = "NAME")]
    pub hooks: Vec<String>,
    /// Take the residual stream after this block, counted from 0: the same as --hook blocks.L.hook_resid_post
    #[arg(long, value_name = "L", required_unless_present = "hooks")]
    pub layer: Option<usize>,
    /// The dump to write
    #[arg(long, value_name = "DUMP")]
    pub out: PathBuf,
    /// Tokens per window [default: the longest context of the model, at most 1024]
    #[arg(long, value_name = "T")]
    pub context: Option<usize>,
    /// Begin every window and every document with the BOS token of the model
    #[arg(long)]
    pub bos: bool,
    /// Leave out the first N rows of every window, where the model has little context
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub skip_first: usize,
    /// Stop after this many tokens
    #[arg(long, value_name = "N")]
    pub max_tokens: Option<u64>,
    /// Type of the numbers that are written
    #[arg(long, value_name = "TYPE", default_value = "f16")]
    pub dtype: Dtype,
}

/// `strata synth`.
#[derive(Debug, Args)]
pub struct Synth {
    /// The world: the tree worlds A, B and C, or one of the sizes of SynthSAEBench-16k
    #[arg(long, value_name = "NAME")]
    pub world: WorldName,
    /// Number of rows
    #[arg(long, value_name = "N")]
    pub rows: u64,
    /// Seed of the world [default: 0]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// One constant of the world, as in `--set roots=12`; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub sets: Vec<String>,
    /// Type of the numbers that are written
    #[arg(long, value_name = "TYPE", default_value = "f32")]
    pub dtype: Dtype,
    /// Write no rows: each is drawn whenever it is read, so that a training can see more rows than a disk holds
    #[arg(long)]
    pub streamed: bool,
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
    /// 16,384 features in trees of depth 3, correlated, with frequencies by Zipf's law
    SaeBench,
}

/// Which ranks of a training read the rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Read {
    /// The first one, which sends them to the others
    First,
    /// All, each for itself: where the file system gives every rank the rows sooner than the first rank sends them
    All,
}

/// `strata train`.
#[derive(Debug, Args)]
pub struct Train {
    /// The dump, or its shards in order
    #[arg(long, required = true, num_args = 1.., value_name = "PATH")]
    pub dump: Vec<PathBuf>,
    /// Train a transcoder: the dump of the rows that it should reconstruct, one for each row of --dump, of any width
    #[arg(long, value_name = "PATH")]
    pub target: Option<PathBuf>,
    /// The directory of the new run
    #[arg(long, value_name = "RUN")]
    pub out: PathBuf,
    /// Continue a run from its last checkpoint: one that was stopped, or, with a larger `--set train.steps=N`, one that
    /// is finished. With another `--set level1.prune=P` or `level2.prune` the thresholds of a finished run are set again
    #[arg(long)]
    pub resume: bool,
    /// Also train the control run, RUN/control: the same training with the parents permuted at random from the step at
    /// which the gate starts. `strata eval` compares the run with it. With --resume, train the control of a finished
    /// run
    #[arg(long)]
    pub control: bool,
    /// Repeat every N-th step on the CPU, and stop at the first bit that differs: with --device, a proof of that step
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub verify: Option<u64>,
    /// Over several ranks: which of them read the rows [default: first]
    #[arg(long, value_name = "RANKS", hide_default_value = true, default_value = "first")]
    pub read: Read,
    /// Where to compute.
    #[command(flatten)]
    pub device: DeviceFlag,
    /// Settings of the run.
    #[command(flatten)]
    pub settings: Settings,
    /// What the dump itself does not say.
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
    /// Splice the reconstructions into the language model and measure its cross-entropy
    #[arg(long)]
    pub splice: bool,
    /// With --splice: splice at most N tokens, in whole sequences spread evenly over the rows [default: all]
    #[arg(long, value_name = "N", requires = "splice", default_value_t = NonZeroU64::MAX, hide_default_value = true)]
    pub splice_tokens: NonZeroU64,
    /// The language model that the rows come from, as for `strata capture`, for --splice and for the effects of latents on its
    /// logits [default: the embedded one, if the dump came from it]
    #[arg(long, value_name = "MODEL")]
    pub model: Option<PathBuf>,
    /// Another run on such rows, for instance with another seed, to compare with
    #[arg(long, value_name = "RUN")]
    pub against: Option<PathBuf>,
    /// The directory for eval.json and latents.jsonl, which is made if it does not exist [default: RUN]
    #[arg(short, long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// A transcoder: the dump of the rows that it should reconstruct, one for each row of --dump
    #[arg(long, value_name = "DUMP")]
    pub target: Option<PathBuf>,
    /// Where to compute.
    #[command(flatten)]
    pub device: DeviceFlag,
}

/// `strata probe`.
#[derive(Debug, Args)]
pub struct Probe {
    /// The model and the dump.
    #[command(flatten)]
    pub subject: Subject,
    /// Labels: `chars` for the kinds of the dump's own tokens (and absorption); or a .npy of integers with one
    /// dimension, or a .safetensors with such a tensor `labels`, one per row or one per sequence (whose rows are then
    /// averaged). A row with a negative label is left out. A second tensor `attributes` of 0 and 1 asks for spurious
    /// correlation removal
    #[arg(long, value_name = "LABELS")]
    pub labels: PathBuf,
    /// The report to write [default: RUN/probe.json]
    #[arg(short, long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Use at most this many rows or sequences
    #[arg(long, value_name = "N", default_value_t = 50_000)]
    pub sample: usize,
    /// Seed of the sample, the split and all other random choices
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// A transcoder: the dump of the rows that it should reconstruct, one for each row of --dump
    #[arg(long, value_name = "DUMP")]
    pub target: Option<PathBuf>,
    /// Write the probes as heads that an engine scores with strata_probe_load: for each class one on the rows, and one on
    /// latents of both levels
    #[arg(long, value_name = "FILE")]
    pub save_head: Option<PathBuf>,
    /// Latents per head of --save-head: 1, 2, 5, 10 or 20
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub head_latents: usize,
}

/// `strata encode`.
#[derive(Debug, Args)]
pub struct Encode {
    /// The model and the dump.
    #[command(flatten)]
    pub subject: Subject,
    /// The file to write: safetensors with one matrix per level in CSR form
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// Replace the file if it exists
    #[arg(long)]
    pub force: bool,
    /// Write values as f16
    #[arg(long)]
    pub f16: bool,
    /// Type of the encoder's weights: f32, bf16 or int8. The codes are those of the rounded weights
    #[arg(long, value_name = "TYPE", default_value = "f32", value_parser = WeightType::named)]
    pub weights: WeightType,
    /// Where to compute.
    #[command(flatten)]
    pub device: DeviceFlag,
}

/// `strata export`.
#[derive(Debug, Args)]
pub struct Export {
    /// The model and the dump.
    #[command(flatten)]
    pub subject: Subject,
    /// The other tool
    #[arg(long, value_name = "TOOL")]
    pub format: ExportFormat,
    /// The directory to make; of gguf-cvector, the file
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// delphi: files per level, from 1 to 256, at most one per latent; delphi reads one whole file at a time [default:
    /// 5]
    #[arg(long, value_name = "N")]
    pub splits: Option<usize>,
    /// gguf-cvector: a latent and how strongly its direction is added, as 1:109+6 for level 1 or 2:33-4; may be given several
    /// times
    #[arg(long, value_name = "LEVEL:LATENT+STRENGTH")]
    pub add: Vec<Addend>,
    /// saelens: how the weights are written; --model-id and --hook name what a dump does not for the other tools, too.
    #[command(flatten)]
    pub weights: WeightsArgs,
}

/// A tool to export for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ExportFormat {
    /// Feature dashboards as SAEDashboard writes them, in level1/ and level2/: density, histogram of activations,
    /// contexts with the largest and with weaker activations, correlated latents and dimensions, decoder directions, and
    /// the strongest logits that `strata eval` found. Fields that need a live language model are empty: the histogram of
    /// all logits, attention heads, attribution
    Neuronpedia,
    /// The cache of activations that LatentDataset reads, one module per level, named by the hook point of the dump:
    /// locations, activations, tokens, config.json. All sequences must have one length; rows after the last whole
    /// sequence are left out. config.json does not name a data set, since the tokens are in the files
    Delphi,
    /// The weights, as a directory that SAELens loads: the same as `strata convert --to saelens`
    Saelens,
    /// A control vector of llama.cpp, one GGUF file: the decoder directions of the latents of --add, times their strengths, which
    /// llama.cpp adds to the residual stream after the block of the run, for every token
    GgufCvector,
}

/// Files to write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum To {
    /// SAELens 6: cfg.json, sae_weights.safetensors
    #[default]
    Saelens,
    /// A run of Strata that has only the model: sae/cfg.json, sae/sae_weights.safetensors
    Strata,
    /// The same with encoder and decoder rows in 8 bits, for programs that use them in place
    Int8,
    /// Gemma Scope: params.npz, for models of one level with thresholds
    Npz,
}

/// Latents to write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum PartName {
    /// Level 1 only
    #[default]
    Level1,
    /// Level 2 only
    Level2,
    /// Both levels side by side, as one
    Both,
    /// Both levels with their families, which SAELens loads with the class in saelens_strata.py
    Tree,
}

/// How weights are written for SAELens.
#[derive(Debug, Args)]
pub struct WeightsArgs {
    /// The latents to write [default: those of a model of one level]
    #[arg(long, value_name = "PART")]
    pub part: Option<PartName>,
    /// Also write what is not exact, and say what is lost
    #[arg(long)]
    pub inexact: bool,
    /// Type of the numbers; with bf16 and f16 some latents near their thresholds change
    #[arg(id = "weights_dtype", long = "weights-dtype", value_name = "TYPE", default_value = "f32")]
    pub dtype: Dtype,
    /// The language model, by its name on a hub [default: as the run says]
    #[arg(long, value_name = "NAME")]
    pub model_id: Option<String>,
    /// The hook point, as blocks.6.hook_resid_post [default: as the run says]
    #[arg(long, value_name = "HOOK")]
    pub hook: Option<String>,
    /// Whether each sequence begins with a special token
    #[arg(long, value_name = "BOOL")]
    pub prepend_bos: Option<bool>,
    /// The data set, by its name on a hub
    #[arg(long, value_name = "NAME")]
    pub dataset: Option<String>,
}

impl WeightsArgs {
    /// Returns the metadata that was given, with `context` tokens per sequence.
    pub fn metadata(&self, context: Option<u64>) -> Metadata {
        Metadata {
            model: self.model_id.clone(),
            hook: self.hook.clone(),
            context,
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
    /// Tokens per sequence [default: as the run says]
    #[arg(long, value_name = "T")]
    pub context: Option<u64>,
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
    /// A page that computes: it holds the model in 8 bits, and encodes what its reader gives it. For runs on the embedded model it
    /// holds that, too: type a text, see what fires on each character, and read continuations that are steered
    #[arg(long)]
    pub live: bool,
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
    /// The directory for the pages
    #[arg(value_name = "DIR")]
    pub directory: PathBuf,
}

/// `strata ablate`.
#[derive(Debug, Args)]
pub struct Ablate {
    /// The dump, or its shards in order
    #[arg(long, required = true, num_args = 1.., value_name = "PATH")]
    pub dump: Vec<PathBuf>,
    /// The directory for the runs and their comparison; finished runs that are there already are kept
    #[arg(long, visible_alias = "out-dir", value_name = "DIR")]
    pub out: PathBuf,
    /// Settings for a kind of rows, in place of the defaults, which all runs share
    #[arg(long, value_name = "NAME")]
    pub preset: Option<Preset>,
    /// Settings that all runs share, as in the config.toml of a run, and additional runs: `[[run]]` or `[grid]`
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Built-in runs; may be repeated
    #[arg(long, value_name = "NAME")]
    pub suite: Vec<SuiteName>,
    /// Where to compute.
    #[command(flatten)]
    pub device: DeviceFlag,
    /// Seeds per row, counted from `seed` [default: 3; 1 for the suite `experiment`]
    #[arg(long, value_name = "N")]
    pub seeds: Option<u64>,
    /// One setting that all runs share, as in `--set train.steps=2000`; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub sets: Vec<String>,
    /// What the dump itself does not say.
    #[command(flatten)]
    pub source: SourceArgs,
}

/// Built-in runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SuiteName {
    /// Each consistency loss, at weights from none to strong
    Consistency,
    /// Each gate between the levels
    Gates,
    /// One budget divided between the levels from 4:1 to 1:4, and shared
    SparsityRatio,
    /// The weight of level 1's reconstruction, and how gradients are mixed
    Balance,
    /// The settings as given, beside models whose decoder or encoder is fixed
    Baselines,
    /// All of the above
    All,
    /// Five runs in run_1 to run_5, each with its final_info.json, and one final_info.json of all five beside them
    Experiment,
}
