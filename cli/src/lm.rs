//! Language models: text to tokens, tokens to activations at hook points, and from there to logits.
//!
//! A family of models says what its `config.json` means and what its tensors are called ([`families`]); one forward pass serves
//! all ([`net`]). Weights are widened to `f32` and everything is computed in `f32` on the CPU, by candle, one window at a
//! time: the bits of a row depend neither on the other windows of a call nor on the number of threads. They may differ
//! between processors, whose caches and instruction sets candle's matrix products are cut for.
//!
//! Blocks that take no more than half of the machine's memory in `f32` are kept; those of larger models are read and widened
//! anew for every batch, so that no more than one block per thread is in memory.

mod block;
mod config;
mod families;
mod family;
mod fields;
mod find;
mod gguf;
pub mod hook;
mod net;
mod norm;
mod open;
mod pieces;
mod rope;
mod rotation;
mod tensors;
mod vocab;
mod windows;

use std::io::Read;
use std::sync::{Arc, Mutex, OnceLock};

use anyhow::{Result, bail, ensure};
use candle_core::{Device, Tensor};

pub use config::{Activation, Attention, Config, Rope};
pub use find::find;
pub use open::EMBEDDED_WEIGHTS;
pub use vocab::Ids;
pub use windows::ordered;

use crate::memory;
use block::Block;
use family::{Ends, Family, Weights};
use hook::{Hook, Point};
use net::{Tap, Untapped};
use rotation::Rotation;
use tensors::Tensors;
use vocab::Vocab;
use windows::BATCH_TOKENS;

/// The text that the embedded model was trained on; the last tenth was held out.
pub const EMBEDDED_TEXT: &str = include_str!("../assets/tinyshakespeare.txt");

/// Rows to which the output matrix is applied at once: rows of logits are wide.
const HEAD_ROWS: usize = 128;

/// A language model, ready to run.
pub struct Lm {
    name: String,
    family: &'static dyn Family,
    config: Config,
    tensors: Tensors,
    ends: Ends,
    /// Blocks that were read and are kept.
    blocks: Vec<Mutex<Option<Arc<Block>>>>,
    keeps_blocks: bool,
    /// The output matrix, (d, vocab).
    head: OnceLock<Tensor>,
    vocab: Vocab,
    expects_bos: bool,
}

/// Takes the rows of hook points, and ends the pass behind the last.
struct Collect<'a> {
    layer: usize,
    hooks: &'a [Hook],
    last: Hook,
    rows: &'a mut [Vec<f32>],
}

impl Tap for Collect<'_> {
    fn at(&mut self, point: Point, x: Tensor) -> candle_core::Result<Option<Tensor>> {
        let here = Hook { layer: self.layer, point };
        for (hook, rows) in self.hooks.iter().zip(self.rows.iter_mut()) {
            if *hook == here {
                rows.extend(x.flatten_all()?.to_vec1::<f32>()?);
            }
        }
        Ok((here < self.last).then_some(x))
    }
}

/// Puts other rows in the place of those at a point.
struct Replace {
    point: Point,
    rows: Tensor,
}

impl Tap for Replace {
    fn at(&mut self, point: Point, x: Tensor) -> candle_core::Result<Option<Tensor>> {
        Ok(Some(if point == self.point { self.rows.clone() } else { x }))
    }
}

impl Lm {
    /// Puts a model together from its parts, and reads what is outside of the blocks, and the first block.
    fn new(name: String, family: &'static dyn Family, config: Config, tensors: Tensors, vocab: Vocab) -> Result<Self> {
        let ends = family.ends(&Weights { tensors: &tensors, config: &config })?;
        let blocks = (0..config.n_layer()).map(|_| Mutex::default()).collect();
        // Half of the memory is left to the rows, the widened output matrix, and other programs.
        let keeps_blocks = memory::most_bytes().is_none_or(|most| u128::from(config.block_bytes()) <= most / 2);
        let lm = Self {
            name,
            family,
            config,
            tensors,
            ends,
            blocks,
            keeps_blocks,
            head: OnceLock::new(),
            vocab,
            expects_bos: false,
        };
        lm.block(0)?;
        lm.check_unused()?;
        Ok(lm)
    }

    /// Refuses a model with tensors in its first block that the family knows nothing of: without them it would be another
    /// model.
    fn check_unused(&self) -> Result<()> {
        // Buffers of old checkpoints, which are made from the sizes.
        let is_buffer = |name: &str| {
            ["attn.bias", "attn.masked_bias", "attention.bias", "attention.masked_bias", "rotary_emb.inv_freq"]
                .iter()
                .any(|end| name.ends_with(end))
        };
        for name in self.tensors.unused_beside(".0.") {
            if !is_buffer(name) {
                bail!(
                    "{}: tensor {name:?} has no place in a model of this family, which would be wrong without it",
                    self.name
                );
            }
        }
        Ok(())
    }

    /// Returns block `layer`, read anew where blocks are not kept.
    fn block(&self, layer: usize) -> Result<Arc<Block>> {
        let weights = Weights { tensors: &self.tensors, config: &self.config };
        if !self.keeps_blocks {
            return Ok(Arc::new(self.family.block(&weights, layer)?));
        }
        let mut kept = self.blocks[layer].lock().unwrap_or_else(|e| e.into_inner());
        if let Some(block) = &*kept {
            return Ok(block.clone());
        }
        let block = Arc::new(self.family.block(&weights, layer)?);
        *kept = Some(block.clone());
        Ok(block)
    }

    /// Reads the blocks up to that of `hook`, so that a fault in their weights is found before work begins.
    ///
    /// # Errors
    /// One sentence with the file and the tensor.
    pub fn read_blocks(&self, hook: Hook) -> Result<()> {
        if self.keeps_blocks {
            for layer in 0..self.config.n_layer().min(hook.layer + 1) {
                self.block(layer)?;
            }
        }
        Ok(())
    }

    /// Returns the name of the model: that of its directory or file without the directories above it, `owner/name` in a cache of
    /// the Hugging Face hub, or that of the embedded model.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the configuration of the model.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Returns the hook point called `name`: see [`Hook::parse`].
    ///
    /// # Errors
    /// An unknown name, a block that does not exist, or a point that the model does not have.
    pub fn hook(&self, name: &str) -> Result<Hook> {
        let hook = Hook::parse(name, self.family.modules())?;
        self.check_hook(hook)?;
        Ok(hook)
    }

    /// Checks that the model has a hook point.
    ///
    /// # Errors
    /// One sentence with what the model has.
    pub fn check_hook(&self, hook: Hook) -> Result<()> {
        self.check_layer(hook.layer)?;
        ensure!(
            !(self.config.is_parallel && hook.point == Point::ResidMid),
            "hook point `{hook}`: {} has no stream between its attention and feed-forward layers, which both read the \
             stream before the block",
            self.name
        );
        Ok(())
    }

    /// Returns the numbers per row at a hook point.
    pub fn width(&self, hook: Hook) -> usize {
        match hook.point {
            Point::AttnZ => self.config.n_head * self.config.head_dim,
            Point::MlpPost => self.config.d_mlp,
            _ => self.config.d,
        }
    }

    /// Returns `W_U diag(gamma)`, `(vocab, d)`: the output matrix with the gain of the last norm. The product of one of its
    /// rows with a direction of the residual stream is the contribution to the logit of that token, up to the scale of the norm.
    ///
    /// # Errors
    /// An output matrix that is not finite.
    pub fn unembedding(&self) -> Result<Vec<f32>> {
        let rows = self.ends.head.as_ref().unwrap_or(&self.ends.tokens).whole()?;
        Ok(rows.broadcast_mul(self.ends.norm.gain())?.flatten_all()?.to_vec1()?)
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
            Some(id) => bail!("\"bos_token_id\" of {} must be below {n}, found {id}", self.name),
            None => bail!("{} has no \"bos_token_id\", so no window can begin with it", self.name),
        }
    }

    /// Returns whether the file of the model says that it was trained on texts that begin with the BOS token.
    pub fn expects_bos(&self) -> bool {
        self.expects_bos
    }

    /// Returns the token ids of `text`, without special tokens around them.
    ///
    /// # Errors
    /// As [`Self::encode_first`].
    pub fn encode_text(&self, text: &str) -> Result<Vec<u32>> {
        self.encode_first(text, usize::MAX)
    }

    /// Returns at least the first `most` token ids of `text`; all where there are fewer. Memory grows by the ids and by one
    /// piece of the text: see [`Ids`].
    ///
    /// # Errors
    /// A character outside a character vocabulary, with its position; what a tokenizer cannot encode.
    pub fn encode_first(&self, text: &str, most: usize) -> Result<Vec<u32>> {
        self.vocab.encode(text, most)
    }

    /// Returns the ids of a text that is read while they are taken: see [`Ids`].
    pub fn ids_of<R: Read>(&self, text: R) -> Ids<'_, R> {
        Ids::new(&self.vocab, text)
    }

    /// Returns about how many tokens one thread should compute at once.
    pub fn batch_tokens(&self) -> usize {
        // Blocks that are read anew for each batch are worth reading for a larger one.
        if self.keeps_blocks { BATCH_TOKENS } else { 8 * BATCH_TOKENS }
    }

    /// Returns the activations at each of `hooks` for some windows of tokens: one row per token, in order. No block behind the
    /// last hook point is computed.
    ///
    /// # Errors
    /// A hook point, length or token id out of range.
    pub fn activations(&self, windows: &[&[u32]], hooks: &[Hook]) -> Result<Vec<Vec<f32>>> {
        let n_vocab = self.config.vocab_size;
        for window in windows {
            self.check(1, window.len())?;
            if let Some(i) = window.iter().position(|id| *id as usize >= n_vocab) {
                bail!("token {i} must have an id below {n_vocab}, found {}", window[i]);
            }
        }
        hooks.iter().try_for_each(|hook| self.check_hook(*hook))?;
        let Some(last) = hooks.iter().max().copied() else { return Ok(Vec::new()) };
        let n_rows: usize = windows.iter().map(|w| w.len()).sum();
        let mut rows: Vec<Vec<f32>> = hooks.iter().map(|h| Vec::with_capacity(n_rows * self.width(*h))).collect();
        let streams = windows.iter().map(|w| self.embed(w)).collect::<Result<Vec<_>>>()?;
        let mut streams: Vec<Option<Tensor>> = streams.into_iter().map(Some).collect();
        let rotations = self.rotations(windows.iter().map(|w| w.len()).max().unwrap_or(0))?;
        for layer in 0..=last.layer {
            let block = self.block(layer)?;
            for stream in &mut streams {
                let Some(h) = stream.take() else { continue };
                let mut tap = Collect { layer, hooks, last, rows: &mut rows };
                *stream = net::block(&self.config, layer, &block, &rotations, h, &mut tap)?;
            }
        }
        Ok(rows)
    }

    /// Returns the residual stream after block `layer`, counted from 0 and before the last norm, for `b` windows of `t`
    /// tokens: `b * t` rows of width `d`.
    ///
    /// # Errors
    /// A layer, length or token id out of range.
    pub fn resid_post(&self, ids: &[u32], b: usize, t: usize, layer: usize) -> Result<Vec<f32>> {
        self.check(b, t)?;
        self.check_layer(layer)?;
        ensure!(ids.len() == b * t, "{b} windows of {t} tokens have {} ids, found {}", b * t, ids.len());
        let windows: Vec<&[u32]> = ids.chunks_exact(t).collect();
        let mut rows = self.activations(&windows, &[Hook::resid_post(layer)])?;
        Ok(rows.swap_remove(0))
    }

    /// Returns the residual stream after the last block for windows of some lengths, with `rows` in the place of the activations
    /// at `hook`. `before` is the residual stream before that block; it is not needed for a stream itself.
    ///
    /// # Errors
    /// A hook point or length out of range.
    pub fn last_stream(&self, hook: Hook, before: &[f32], rows: &[f32], lengths: &[usize]) -> Result<Vec<f32>> {
        lengths.iter().try_for_each(|t| self.check(1, *t))?;
        self.check_hook(hook)?;
        let (d, width) = (self.config.d, self.width(hook));
        let n: usize = lengths.iter().sum();
        ensure!(rows.len() == n * width, "{n} rows of width {width} have {} numbers, found {}", n * width, rows.len());
        let rotations = self.rotations(lengths.iter().max().copied().unwrap_or(0))?;
        let windows = |mut all: &[f32], width: usize| -> Result<Vec<Tensor>> {
            let mut windows = Vec::with_capacity(lengths.len());
            for t in lengths {
                let (own, rest) = all.split_at(t * width);
                windows.push(Tensor::from_slice(own, (*t, width), &Device::Cpu)?);
                all = rest;
            }
            Ok(windows)
        };
        let (mut streams, first) = match hook.point {
            Point::ResidPost => (windows(rows, d)?, hook.layer + 1),
            Point::ResidPre => (windows(rows, d)?, hook.layer),
            point => {
                ensure!(before.len() == n * d, "{n} rows of width {d} have {} numbers, found {}", n * d, before.len());
                let block = self.block(hook.layer)?;
                let mut streams = Vec::with_capacity(lengths.len());
                for (h, rows) in windows(before, d)?.into_iter().zip(windows(rows, width)?) {
                    let mut tap = Replace { point, rows };
                    streams.extend(net::block(&self.config, hook.layer, &block, &rotations, h, &mut tap)?);
                }
                (streams, hook.layer + 1)
            }
        };
        for layer in first..self.config.n_layer() {
            let block = self.block(layer)?;
            for stream in &mut streams {
                let after = net::block(&self.config, layer, &block, &rotations, stream.clone(), &mut Untapped)?;
                *stream = after.unwrap_or_else(|| stream.clone());
            }
        }
        let mut out = Vec::with_capacity(n * d);
        for stream in streams {
            out.extend(stream.flatten_all()?.to_vec1::<f32>()?);
        }
        Ok(out)
    }

    /// Calls `f(i, rows of logits)` for each row `i` of several residual streams after the last block, with a row of each, in
    /// the order of `streams`.
    ///
    /// # Errors
    /// Streams of different lengths; an output matrix that is not finite.
    pub fn for_logits(&self, streams: &[&[f32]], mut f: impl FnMut(usize, &[&[f32]])) -> Result<()> {
        let (d, n_vocab) = (self.config.d, self.config.vocab_size);
        let n = streams.first().map_or(0, |s| s.len() / d);
        for stream in streams {
            ensure!(stream.len() == n * d, "{n} rows of width {d} have {} numbers, found {}", n * d, stream.len());
        }
        for from in (0..n).step_by(HEAD_ROWS) {
            let rows = from..n.min(from + HEAD_ROWS);
            let logits = streams.iter().map(|s| self.logits_of(&s[rows.start * d..rows.end * d]));
            let logits: Vec<Vec<f32>> = logits.collect::<Result<_>>()?;
            for i in 0..rows.len() {
                let row: Vec<&[f32]> = logits.iter().map(|l| &l[i * n_vocab..(i + 1) * n_vocab]).collect();
                f(from + i, &row);
            }
        }
        Ok(())
    }

    /// Returns the logits of some rows of the residual stream after the last block.
    fn logits_of(&self, rows: &[f32]) -> Result<Vec<f32>> {
        let d = self.config.d;
        let head = match self.head.get() {
            Some(head) => head,
            None => {
                let rows = self.ends.head.as_ref().unwrap_or(&self.ends.tokens).whole()?;
                let head = rows.t()?;
                self.head.get_or_init(|| head)
            }
        };
        let h = self.ends.norm.forward(&Tensor::from_slice(rows, (rows.len() / d, d), &Device::Cpu)?)?;
        let mut logits = h.matmul(head)?;
        if let Some(cap) = self.config.logit_cap {
            logits = net::capped(&logits, cap)?;
        }
        Ok(logits.flatten_all()?.to_vec1()?)
    }

    /// Returns the logits that the rest of the model computes from `resid`, taken as the residual stream after block
    /// `layer`: `b * t` rows of `vocab_size`.
    ///
    /// # Errors
    /// A layer or length out of range.
    pub fn logits_from(&self, layer: usize, resid: &[f32], b: usize, t: usize) -> Result<Vec<f32>> {
        self.check(b, t)?;
        let last = self.last_stream(Hook::resid_post(layer), &[], resid, &vec![t; b])?;
        let mut out = Vec::with_capacity(b * t * self.config.vocab_size);
        self.for_logits(&[&last], |_, rows| out.extend_from_slice(rows[0]))?;
        Ok(out)
    }

    /// Returns the logits of `b` windows of `t` tokens.
    ///
    /// # Errors
    /// As [`Self::resid_post`].
    pub fn logits(&self, ids: &[u32], b: usize, t: usize) -> Result<Vec<f32>> {
        let last = self.config.n_layer() - 1;
        self.logits_from(last, &self.resid_post(ids, b, t, last)?, b, t)
    }

    /// Returns the residual stream before the first block.
    fn embed(&self, ids: &[u32]) -> Result<Tensor> {
        let mut h = self.ends.tokens.rows(ids)?;
        if let Some(positions) = &self.ends.positions {
            h = net::add(&h, &positions.narrow(0, 0, ids.len())?)?;
        }
        if let Some(scale) = self.config.embedding_scale {
            h = net::scaled(&h, scale)?;
        }
        Ok(h)
    }

    fn rotations(&self, t: usize) -> Result<Vec<Rotation>> {
        Ok(self.config.ropes.iter().map(|rope| Rotation::new(rope, t)).collect::<candle_core::Result<_>>()?)
    }

    fn check(&self, b: usize, t: usize) -> Result<()> {
        let most = self.config.n_positions;
        ensure!((1..=most).contains(&t), "a window must have 1 to {most} tokens in {}, found {t}", self.name);
        ensure!(b > 0, "there must be at least one window");
        Ok(())
    }

    /// Refuses windows of `t` tokens whose activations do not fit into memory on `threads` threads.
    ///
    /// # Errors
    /// One sentence with the length.
    pub(crate) fn check_memory(&self, t: usize, threads: usize) -> Result<()> {
        let c = &self.config;
        // The stream and what a layer reads and adds; queries, keys and values, before and after they are turned; the hidden
        // activations of both matrices and their product.
        let numbers = 4 * c.d + 3 * c.head_dim * (c.n_head + 2 * c.n_kv) + 3 * c.d_mlp;
        let bytes = threads.max(1) as u128 * t as u128 * (4 * numbers as u128 + net::SCORE_BYTES);
        memory::check(bytes, || {
            format!("a window of {t} tokens in {} (a smaller --context takes less) needs", self.name)
        })
    }

    /// Checks that block `layer` exists.
    pub(crate) fn check_layer(&self, layer: usize) -> Result<()> {
        let n = self.config.n_layer();
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

/// Returns `-log p(target)` of a row of logits, in nats.
pub fn nll(row: &[f32], target: u32) -> f64 {
    log_total(row) - f64::from(row[target as usize])
}

/// Returns `log(sum_i exp(row_i))`.
pub fn log_total(row: &[f32]) -> f64 {
    let top = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let total: f64 = row.iter().map(|v| f64::from(v - top).exp()).sum();
    f64::from(top) + total.ln()
}
