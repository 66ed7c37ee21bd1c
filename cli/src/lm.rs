//! Language models of the GPT-2 family: text to tokens, tokens to the residual stream, and from there to logits.
//!
//! Weights are widened to `f32` and everything is computed in `f32` on the CPU, by candle, one window at a time: the
//! bits of a row depend neither on the other windows of a call nor on the number of threads.

mod config;
pub mod hook;
mod net;
mod pieces;
mod vocab;
mod weights;
mod windows;

use std::ffi::OsStr;
use std::fs;
use std::ops::Range;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use candle_core::{Device, Tensor};

pub use config::{Activation, Config};
pub use windows::{batches, ordered};

use crate::files::read as input;
use crate::memory;
use vocab::Vocab;
use weights::Weights;

/// The text that the embedded model was trained on; the last tenth was held out.
pub const EMBEDDED_TEXT: &str = include_str!("../assets/tinyshakespeare.txt");

/// Rows to which the output matrix is applied at once: rows of logits are wide.
const HEAD_ROWS: usize = 128;

/// The name of the embedded model.
const EMBEDDED: &str = "char-gpt";
const EMBEDDED_WEIGHTS: &[u8] = include_bytes!("../assets/char-gpt/model.safetensors");

/// Returns the name of the model in `dir`. The directories above it are private and stay out of files that may be
/// published.
fn name_of(dir: &Path) -> String {
    let whole = fs::canonicalize(dir).unwrap_or_else(|_| dir.to_owned());
    let of_hub = |part: &OsStr| Some(part.to_string_lossy().strip_prefix("models--")?.replacen("--", "/", 1));
    let own = || whole.file_name().map_or_else(|| "model".into(), |n| n.to_string_lossy().into_owned());
    whole.iter().rev().find_map(of_hub).unwrap_or_else(own)
}

/// A GPT-2 language model, ready to run.
pub struct Lm {
    name: String,
    config: Config,
    weights: Weights,
    vocab: Vocab,
}

impl Lm {
    /// Loads a Hugging Face directory: `config.json`, `model.safetensors`, and `tokenizer.json` or else the `"chars"`
    /// of `meta.json`.
    ///
    /// # Errors
    /// One sentence that names the file, what was expected in it and what was found.
    pub fn from_dir(dir: impl AsRef<Path>) -> Result<Self> {
        let dir = dir.as_ref();
        let read = |file: &str, most: u64| {
            let path = dir.join(file);
            input::bytes(&path, most)
        };
        let config = read("config.json", input::SMALL)?;
        // The vocabulary comes before the weights, which may be large.
        let (vocab_file, vocab) = if dir.join("tokenizer.json").exists() {
            ("tokenizer.json", read("tokenizer.json", input::VOCABULARY)?)
        } else if dir.join("meta.json").exists() {
            ("meta.json", read("meta.json", input::VOCABULARY)?)
        } else {
            bail!("{} has neither tokenizer.json nor meta.json, so text cannot be encoded", dir.display());
        };
        let index = dir.join("model.safetensors.index.json");
        if index.exists() && !dir.join("model.safetensors").exists() {
            bail!(
                "{} says that the weights are in several files, but they must be in one, model.safetensors",
                index.display()
            );
        }
        let weights = read("model.safetensors", input::LARGE)?;
        let mut name = name_of(dir);
        if name == EMBEDDED && weights != EMBEDDED_WEIGHTS {
            name += " (another)";
        }
        Self::from_parts(name, &dir.display().to_string(), &config, &weights, vocab_file, &vocab)
    }

    /// The model that is part of this program: 4 blocks of width 128 over the 65 characters of [`EMBEDDED_TEXT`].
    ///
    /// # Errors
    /// Never, unless the program was built from damaged files.
    pub fn embedded() -> Result<Self> {
        Self::from_parts(
            EMBEDDED.into(),
            EMBEDDED,
            include_bytes!("../assets/char-gpt/config.json"),
            EMBEDDED_WEIGHTS,
            "tokenizer.json",
            include_bytes!("../assets/char-gpt/tokenizer.json"),
        )
    }

    /// `place` precedes the names of files in errors.
    fn from_parts(
        name: String,
        place: &str,
        config: &[u8],
        weights: &[u8],
        vocab_file: &str,
        vocab: &[u8],
    ) -> Result<Self> {
        let config = Config::parse(config).with_context(|| format!("{place}/config.json"))?;
        let vocab = match vocab_file {
            "tokenizer.json" => Vocab::from_tokenizer_json(vocab),
            _ => Vocab::from_meta_json(vocab),
        };
        let vocab = vocab.with_context(|| format!("{place}/{vocab_file}"))?;
        // A tokenizer often has fewer tokens than the embedding has rows, which are padded to a round number. It may also have
        // more, for padding or later training. Such an id is refused where a text has it.
        let weights = Weights::parse(weights, &config).with_context(|| format!("{place}/model.safetensors"))?;
        Ok(Self { name, config, weights, vocab })
    }

    /// Returns the name of the model: that of its directory without those above it, `owner/name` in a cache of the
    /// Hugging Face hub, or that of the embedded model.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the configuration of the model.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Returns `W_U diag(gamma)`, `(vocab, d)`: the output matrix with the gain of the last layer norm. The product of
    /// one of its rows with a direction of the residual stream is the contribution to the logit of that token, up to
    /// the scale of the norm.
    ///
    /// # Errors
    /// None, for weights that were read.
    pub fn unembedding(&self) -> Result<Vec<f32>> {
        let rows = self.weights.head.t()?.broadcast_mul(self.weights.ln_f.weight())?;
        Ok(rows.flatten_all()?.to_vec1()?)
    }

    /// Returns the text of every token id of the model, in order.
    pub fn vocab(&self) -> Vec<String> {
        let mut texts = self.vocab.tokens();
        texts.truncate(self.config.vocab_size);
        texts
    }

    /// Returns the ids of special tokens, which are not text, ascending. The BOS token is among them where the tokenizer lists
    /// them.
    pub fn special_tokens(&self) -> Vec<u32> {
        let mut ids = self.vocab.special().to_vec();
        ids.retain(|id| (*id as usize) < self.config.vocab_size);
        ids
    }

    /// Returns the token that begins a text (BOS).
    ///
    /// # Errors
    /// A model without such a token, or without a row for it.
    pub fn bos(&self) -> Result<u32> {
        let n = self.config.vocab_size;
        match self.config.bos_token_id {
            Some(id) if (id as usize) < n => Ok(id),
            Some(id) => bail!("\"bos_token_id\" in config.json of {} must be below {n}, found {id}", self.name),
            None => bail!("config.json of {} has no \"bos_token_id\", so no window can begin with it", self.name),
        }
    }

    /// Returns the token ids of `text`, without special tokens around them.
    ///
    /// # Errors
    /// As [`Self::encode_first`].
    pub fn encode_text(&self, text: &str) -> Result<Vec<u32>> {
        self.encode_first(text, usize::MAX)
    }

    /// Returns at least the first `most` token ids of `text`; all where there are fewer. Memory grows by the ids and by one
    /// piece of the text, which ends at the first line end after 256 KiB that no token of the tokenizer can cross.
    ///
    /// # Errors
    /// A character outside a character vocabulary, with its position; what a tokenizer cannot encode.
    pub fn encode_first(&self, text: &str, most: usize) -> Result<Vec<u32>> {
        self.vocab.encode(text, most)
    }

    /// Returns the residual stream after block `layer`, counted from 0 and before the last layer norm, for `b` windows
    /// of `t` tokens: `b * t` rows of `n_embd`.
    ///
    /// # Errors
    /// A layer, length or token id out of range.
    pub fn resid_post(&self, ids: &[u32], b: usize, t: usize, layer: usize) -> Result<Vec<f32>> {
        self.check(b, t)?;
        self.check_layer(layer)?;
        ensure!(ids.len() == b * t, "{b} windows of {t} tokens have {} ids, found {}", b * t, ids.len());
        let n_vocab = self.config.vocab_size;
        if let Some(i) = ids.iter().position(|id| *id as usize >= n_vocab) {
            bail!("token {i} must have an id below {n_vocab}, found {}", ids[i]);
        }
        let mut out = Vec::with_capacity(b * t * self.config.n_embd);
        for window in ids.chunks_exact(t) {
            let h = self.blocks(net::embed(&self.weights, window)?, 0..layer + 1)?;
            out.extend(h.flatten_all()?.to_vec1::<f32>()?);
        }
        Ok(out)
    }

    /// Returns the logits that the rest of the model computes from `resid`, taken as the residual stream after block
    /// `layer`: `b * t` rows of `vocab_size`.
    ///
    /// # Errors
    /// A layer or length out of range.
    pub fn logits_from(&self, layer: usize, resid: &[f32], b: usize, t: usize) -> Result<Vec<f32>> {
        let mut out = Vec::with_capacity(b * t * self.config.vocab_size);
        self.for_logits(layer, resid, b, t, |_, row| out.extend_from_slice(row))?;
        Ok(out)
    }

    /// Returns the logits of `b` windows of `t` tokens.
    ///
    /// # Errors
    /// As [`Self::resid_post`].
    pub fn logits(&self, ids: &[u32], b: usize, t: usize) -> Result<Vec<f32>> {
        let last = self.config.n_layer - 1;
        self.logits_from(last, &self.resid_post(ids, b, t, last)?, b, t)
    }

    /// Returns the sum, over the tokens of `b` windows except the first of each, of `-log p(token | those before it)`
    /// in nats, where `resid` is taken as the residual stream after block `layer`. There are `b * (t - 1)` terms.
    ///
    /// # Errors
    /// A layer or length out of range.
    pub fn nll_from(&self, layer: usize, resid: &[f32], ids: &[u32], b: usize, t: usize) -> Result<f64> {
        ensure!(ids.len() == b * t, "{b} windows of {t} tokens have {} ids, found {}", b * t, ids.len());
        let mut sum = 0.0;
        self.for_logits(layer, resid, b, t, |i, row| {
            if (i + 1) % t != 0 {
                sum += nll(row, ids[i + 1]);
            }
        })?;
        Ok(sum)
    }

    /// Calls `f(i, row)` with the logits of every row.
    fn for_logits(
        &self,
        layer: usize,
        resid: &[f32],
        b: usize,
        t: usize,
        mut f: impl FnMut(usize, &[f32]),
    ) -> Result<()> {
        self.check(b, t)?;
        self.check_layer(layer)?;
        let (n, d) = (b * t, self.config.n_embd);
        ensure!(resid.len() == n * d, "{n} rows of width {d} have {} numbers, found {}", n * d, resid.len());
        for (w, rows) in resid.chunks_exact(t * d).enumerate() {
            let h = Tensor::from_slice(rows, (t, d), &Device::Cpu)?;
            let h = self.blocks(h, layer + 1..self.config.n_layer)?;
            for from in (0..t).step_by(HEAD_ROWS) {
                let rows = h.narrow(0, from, HEAD_ROWS.min(t - from))?;
                let logits: Vec<f32> = net::head(&self.weights, &rows)?.flatten_all()?.to_vec1()?;
                for (i, row) in logits.chunks_exact(self.config.vocab_size).enumerate() {
                    f(w * t + from + i, row);
                }
            }
        }
        Ok(())
    }

    /// Returns the residual stream of one window after the blocks `layers`, from the stream before them.
    fn blocks(&self, mut h: Tensor, layers: Range<usize>) -> Result<Tensor> {
        let mask = net::causal_mask(h.dim(0)?)?;
        for l in layers {
            h = net::block(&self.config, &self.weights.blocks[l], l, &h, &mask)?;
        }
        Ok(h)
    }

    fn check(&self, b: usize, t: usize) -> Result<()> {
        let most = self.config.n_positions;
        ensure!((1..=most).contains(&t), "a window must have 1 to {most} tokens in {}, found {t}", self.name);
        ensure!(b > 0, "there must be at least one window");
        Ok(())
    }

    /// Refuses windows of `t` tokens whose attention, `n_head t^2` scores, does not fit into memory on `threads` threads.
    ///
    /// # Errors
    /// One sentence with the length.
    pub(crate) fn check_attention(&self, t: usize, threads: usize) -> Result<()> {
        let (heads, pairs) = (self.config.n_head as u128, (t as u128).pow(2));
        // The scores, the masked scores, their exponentials and shares, each of 4 bytes, and the mask.
        let bytes = threads.max(1) as u128 * (4 * 4 * heads + 1) * pairs;
        memory::check(bytes, || {
            format!("attention over {t} tokens in {} (a smaller --context takes less) needs", self.name)
        })
    }

    /// Checks that block `layer` exists.
    pub(crate) fn check_layer(&self, layer: usize) -> Result<()> {
        let n = self.config.n_layer;
        ensure!(layer < n, "the layer must be from 0 to {} in {}, found {layer}", n - 1, self.name);
        Ok(())
    }
}

/// Returns the mean of `-log p(target)` over rows of logits, in nats.
///
/// # Panics
/// If `logits` does not have the same whole number of entries for each target, or a target is not below that number.
pub fn cross_entropy(logits: &[f32], targets: &[u32]) -> f64 {
    assert!(!targets.is_empty() && logits.len().is_multiple_of(targets.len()), "one row of logits per target");
    let rows = logits.chunks_exact(logits.len() / targets.len());
    rows.zip(targets).map(|(row, target)| nll(row, *target)).sum::<f64>() / targets.len() as f64
}

fn nll(row: &[f32], target: u32) -> f64 {
    let top = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let total: f64 = row.iter().map(|v| f64::from(v - top).exp()).sum();
    f64::from(top) + total.ln() - f64::from(row[target as usize])
}
