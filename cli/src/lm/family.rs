//! What a family of language models says of itself, and how it reads its weights.

use anyhow::{Result, bail};
use candle_core::Tensor;
use candle_nn::LayerNorm;
use serde_json::Value;

use super::block::{Affine, Block};
use super::config::Config;
use super::hook::Point;
use super::norm::Norm;
use super::tensors::{Table, Tensors};

/// A family of language models whose blocks are an attention and a feed-forward layer on a residual stream.
pub trait Family: Sync {
    /// Returns the values of `"model_type"` in `config.json`.
    fn model_types(&self) -> &'static [&'static str];

    /// Returns the values of `general.architecture` in GGUF files.
    fn architectures(&self) -> &'static [&'static str];

    /// Returns the `config.json` that says the same as the metadata of a GGUF file. `g` has the keys of the architecture
    /// without its name, `vocab_size`, and `architecture`; `has(name)` says whether there is a tensor of that name.
    ///
    /// # Errors
    /// One sentence with the key, what was expected and what was found.
    fn config_of_gguf(&self, g: &Value, has: &dyn Fn(&str) -> bool) -> Result<Value>;

    /// Reads `config.json`. A size must be given; a missing switch has the default of `transformers`.
    ///
    /// # Errors
    /// One sentence with the key, what was expected and what was found.
    fn config(&self, v: &Value) -> Result<Config>;

    /// Returns the modules of `transformers` whose outputs are hook points, with `{}` for the block.
    fn modules(&self) -> &'static [(&'static str, Point)];

    /// Reads what is before the first block and behind the last.
    ///
    /// # Errors
    /// One sentence with the file and the tensor.
    fn ends(&self, from: &Weights<'_>) -> Result<Ends>;

    /// Reads block `layer`.
    ///
    /// # Errors
    /// One sentence with the file and the tensor.
    fn block(&self, from: &Weights<'_>, layer: usize) -> Result<Block>;
}

/// What is before the first block and behind the last.
pub struct Ends {
    /// Token embedding, (vocab, d).
    pub tokens: Table,
    /// Position embedding, (n_positions, d).
    pub positions: Option<Tensor>,
    /// Before the output matrix.
    pub norm: Norm,
    /// Output matrix, (vocab, d); none where it is the token embedding.
    pub head: Option<Table>,
}

/// The weights of a model, by name.
pub struct Weights<'a> {
    pub tensors: &'a Tensors,
    pub config: &'a Config,
}

impl Weights<'_> {
    /// Returns the prefix of the names of a safetensors file: the first of `candidates` with which there is a tensor `name`.
    pub fn prefix(&self, candidates: &[&'static str], name: &str) -> &'static str {
        candidates.iter().find(|prefix| self.tensors.has(&format!("{prefix}{name}"))).copied().unwrap_or(candidates[0])
    }

    /// Returns the name of a tensor: `plain` in safetensors files, `gguf` in GGUF files.
    pub fn name(&self, plain: String, gguf: String) -> String {
        if self.tensors.is_gguf() { gguf } else { plain }
    }

    /// Reads the vector `name`.
    pub fn vector(&self, name: &str, n: usize) -> Result<Tensor> {
        self.tensors.read(name, &[n])
    }

    /// Reads the embedding `name`, (vocab, d).
    pub fn table(&self, name: &str) -> Result<Table> {
        self.tensors.table(name, [self.config.vocab_size, self.config.d])
    }

    /// Reads the affine map `name.weight`, which is stored as (out, in), with `name.bias` where `has_bias` says so.
    pub fn affine(&self, name: &str, n_in: usize, n_out: usize, has_bias: bool) -> Result<Affine> {
        let w = self.tensors.read(&format!("{name}.weight"), &[n_out, n_in])?.t()?;
        let b = has_bias.then(|| self.vector(&format!("{name}.bias"), n_out)).transpose()?;
        Ok(Affine { w, b })
    }

    /// Reads the affine map `name.weight`, which is stored as (in, out), with `name.bias`.
    pub fn affine_in_out(&self, name: &str, n_in: usize, n_out: usize) -> Result<Affine> {
        let w = self.tensors.read(&format!("{name}.weight"), &[n_in, n_out])?;
        Ok(Affine { w, b: Some(self.vector(&format!("{name}.bias"), n_out)?) })
    }

    /// Reads the norm `name` of mean and variance over `d` numbers.
    pub fn layer_norm(&self, name: &str) -> Result<Norm> {
        let part = |part: &str| self.vector(&format!("{name}.{part}"), self.config.d);
        Ok(Norm::Layer(LayerNorm::new(part("weight")?, part("bias")?, self.config.epsilon)))
    }

    /// Reads the norm `name` of the root mean square over `n` numbers, whose gain is the tensor plus `offset`.
    pub fn rms_norm(&self, name: &str, n: usize, offset: f64) -> Result<Norm> {
        let weight = self.vector(&format!("{name}.weight"), n)?;
        let weight = if offset == 0.0 { weight } else { weight.affine(1.0, offset)? };
        Ok(Norm::Rms { weight, epsilon: self.config.epsilon as f32 })
    }
}

/// Returns a field of the metadata of a GGUF file.
///
/// # Errors
/// If it is missing.
pub fn needed<'a>(g: &'a Value, key: &str) -> Result<&'a Value> {
    if g[key].is_null() {
        bail!("its metadata must have `{}.{key}`, found nothing", g["architecture"].as_str().unwrap_or_default());
    }
    Ok(&g[key])
}
