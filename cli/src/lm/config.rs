//! `config.json` of a GPT-2 model: the sizes and switches that determine what it computes.

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// The nonlinearity of the feed-forward layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x / 2 * (1 + tanh(sqrt(2/pi) * (x + 0.044715 * x^3)))`
    GeluNew,
    /// `x / 2 * (1 + erf(x / sqrt(2)))`
    Gelu,
    /// `max(x, 0)`
    Relu,
}

/// The content of `config.json`.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Number of blocks.
    pub n_layer: usize,
    /// Attention heads per block.
    pub n_head: usize,
    /// Width `d` of the residual stream.
    pub n_embd: usize,
    /// Width of the feed-forward layers; `4 * n_embd` where the file has null or nothing.
    pub n_inner: usize,
    /// Longest sequence.
    pub n_positions: usize,
    /// Number of token ids.
    pub vocab_size: usize,
    /// Constant that is added to the variance in every layer norm.
    pub layer_norm_epsilon: f64,
    /// The nonlinearity.
    pub activation: Activation,
    /// Attention scores are divided by `sqrt(n_embd / n_head)`.
    pub scale_attn_weights: bool,
    /// Attention scores of block `l` are also divided by `l + 1`.
    pub scale_attn_by_inverse_layer_idx: bool,
    /// The token that begins a text.
    pub bos_token_id: Option<u32>,
    /// The output matrix is the token embedding.
    pub tie_word_embeddings: bool,
}

impl Config {
    /// Reads `config.json`. A size must be given; a missing switch has the default of `transformers`.
    ///
    /// # Errors
    /// One sentence with the key, what was expected and what was found. The caller adds the file.
    pub fn parse(json: &[u8]) -> Result<Self> {
        let v: Value = serde_json::from_slice(json).context("not JSON")?;
        let model_type = &v["model_type"];
        if model_type.as_str() != Some("gpt2") {
            bail!("\"model_type\" must be \"gpt2\", found {}", shown(model_type));
        }
        let n_embd = size(&v, "n_embd")?;
        let n_head = size(&v, "n_head")?;
        if n_embd % n_head != 0 {
            bail!("\"n_embd\" must be a multiple of \"n_head\", found {n_embd} and {n_head}");
        }
        let eps = &v["layer_norm_epsilon"];
        let layer_norm_epsilon = if eps.is_null() { Some(1e-5) } else { eps.as_f64() };
        let Some(layer_norm_epsilon) = layer_norm_epsilon.filter(|e| *e > 0.0 && *e < 1.0) else {
            bail!("\"layer_norm_epsilon\" must be a number between 0 and 1, found {}", shown(eps));
        };
        let act = &v["activation_function"];
        let activation = match act.as_str() {
            None if act.is_null() => Activation::GeluNew,
            Some("gelu_new" | "gelu_pytorch_tanh") => Activation::GeluNew,
            Some("gelu") => Activation::Gelu,
            Some("relu") => Activation::Relu,
            _ => bail!("\"activation_function\" must be gelu_new, gelu or relu, found {}", shown(act)),
        };
        Ok(Self {
            n_layer: size(&v, "n_layer")?,
            n_head,
            n_embd,
            n_inner: if v["n_inner"].is_null() { 4 * n_embd } else { size(&v, "n_inner")? },
            n_positions: size(&v, "n_positions")?,
            vocab_size: size(&v, "vocab_size")?,
            layer_norm_epsilon,
            activation,
            scale_attn_weights: switch(&v, "scale_attn_weights", true)?,
            scale_attn_by_inverse_layer_idx: switch(&v, "scale_attn_by_inverse_layer_idx", false)?,
            bos_token_id: token(&v, "bos_token_id")?,
            tie_word_embeddings: switch(&v, "tie_word_embeddings", true)?,
        })
    }

    /// Returns the factor of the attention scores of block `layer`.
    pub fn attention_scale(&self, layer: usize) -> f32 {
        let mut scale = 1.0;
        if self.scale_attn_weights {
            scale /= ((self.n_embd / self.n_head) as f32).sqrt();
        }
        if self.scale_attn_by_inverse_layer_idx {
            scale /= (layer + 1) as f32;
        }
        scale
    }
}

/// No published GPT-2 has a size near this; it keeps products of two sizes within `usize`.
const SIZE_MAX: u64 = 1 << 24;

fn size(v: &Value, key: &str) -> Result<usize> {
    match v[key].as_u64() {
        Some(n @ 1..=SIZE_MAX) => Ok(n as usize),
        _ => bail!("{key:?} must be a whole number from 1 to {SIZE_MAX}, found {}", shown(&v[key])),
    }
}

/// A token id; none for null or nothing.
fn token(v: &Value, key: &str) -> Result<Option<u32>> {
    if v[key].is_null() {
        return Ok(None);
    }
    match v[key].as_u64().and_then(|id| u32::try_from(id).ok()) {
        Some(id) => Ok(Some(id)),
        None => bail!("{key:?} must be a token id, found {}", shown(&v[key])),
    }
}

fn switch(v: &Value, key: &str, default: bool) -> Result<bool> {
    match &v[key] {
        Value::Null => Ok(default),
        Value::Bool(b) => Ok(*b),
        other => bail!("{key:?} must be true or false, found {}", shown(other)),
    }
}

fn shown(v: &Value) -> String {
    if v.is_null() { "nothing".into() } else { v.to_string() }
}
