//! `model.safetensors` of a GPT-2 model: named tensors of known shapes, widened to `f32`.

use anyhow::{Context, Result, anyhow, bail};
use candle_core::{DType, Device, Tensor};
use candle_nn::LayerNorm;
use safetensors::{Dtype, SafeTensors};

use super::config::Config;

/// An affine map `x W + b`, with `W` of shape (in, out).
pub struct Affine {
    pub w: Tensor,
    pub b: Tensor,
}

/// The weights of one block.
pub struct Block {
    pub ln_1: LayerNorm,
    pub attn_in: Affine,
    pub attn_out: Affine,
    pub ln_2: LayerNorm,
    pub mlp_in: Affine,
    pub mlp_out: Affine,
}

/// All weights of a model.
pub struct Weights {
    /// Token embedding, (vocab, d).
    pub wte: Tensor,
    /// Position embedding, (n_positions, d).
    pub wpe: Tensor,
    pub blocks: Vec<Block>,
    pub ln_f: LayerNorm,
    /// Output matrix, (d, vocab), laid out for a product from the left.
    pub head: Tensor,
}

impl Weights {
    /// Reads every tensor that `config` requires; others (the mask buffers of old checkpoints) are ignored.
    ///
    /// # Errors
    /// One sentence with the tensor, what was expected and what was found. The caller adds the file.
    pub fn parse(file: &[u8], config: &Config) -> Result<Self> {
        let file = SafeTensors::deserialize(file).context("not a whole safetensors file")?;
        let prefix = if file.tensor("transformer.wte.weight").is_ok() { "transformer." } else { "" };
        let src = Source { file, prefix };
        let (d, inner) = (config.n_embd, config.n_inner);
        let block = |l: usize| -> Result<Block> {
            Ok(Block {
                ln_1: src.norm(&format!("h.{l}.ln_1"), config)?,
                attn_in: src.affine(&format!("h.{l}.attn.c_attn"), d, 3 * d)?,
                attn_out: src.affine(&format!("h.{l}.attn.c_proj"), d, d)?,
                ln_2: src.norm(&format!("h.{l}.ln_2"), config)?,
                mlp_in: src.affine(&format!("h.{l}.mlp.c_fc"), d, inner)?,
                mlp_out: src.affine(&format!("h.{l}.mlp.c_proj"), inner, d)?,
            })
        };
        let wte = src.tensor(&src.name("wte.weight"), &[config.vocab_size, d])?;
        let head = if config.tie_word_embeddings {
            wte.clone()
        } else {
            src.tensor("lm_head.weight", &[config.vocab_size, d])?
        };
        Ok(Self {
            wpe: src.tensor(&src.name("wpe.weight"), &[config.n_positions, d])?,
            blocks: (0..config.n_layer).map(block).collect::<Result<_>>()?,
            ln_f: src.norm("ln_f", config)?,
            wte,
            head: head.t()?.contiguous()?,
        })
    }
}

struct Source<'a> {
    file: SafeTensors<'a>,
    prefix: &'static str,
}

impl Source<'_> {
    fn name(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    fn tensor(&self, name: &str, shape: &[usize]) -> Result<Tensor> {
        let view = self.file.tensor(name).map_err(|_| anyhow!("tensor {name:?} is missing"))?;
        if view.shape() != shape {
            bail!("tensor {name:?} must have shape {shape:?}, found {:?}", view.shape());
        }
        let dtype = match view.dtype() {
            Dtype::F32 => DType::F32,
            Dtype::F16 => DType::F16,
            Dtype::BF16 => DType::BF16,
            other => bail!("tensor {name:?} must be f32, f16 or bf16, found {other:?}"),
        };
        let tensor = Tensor::from_raw_buffer(view.data(), dtype, shape, &Device::Cpu)?.to_dtype(DType::F32)?;
        // A sum is finite exactly when each element is: cheap, and a broken checkpoint is named before it is used.
        let sum = tensor.flatten_all()?.to_dtype(DType::F64)?.sum_all()?.to_scalar::<f64>()?;
        if !sum.is_finite() {
            bail!("tensor {name:?} holds a value that is not finite");
        }
        Ok(tensor)
    }

    fn norm(&self, name: &str, config: &Config) -> Result<LayerNorm> {
        let part = |part: &str| self.tensor(&self.name(&format!("{name}.{part}")), &[config.n_embd]);
        Ok(LayerNorm::new(part("weight")?, part("bias")?, config.layer_norm_epsilon))
    }

    fn affine(&self, name: &str, n_in: usize, n_out: usize) -> Result<Affine> {
        let part = |part: &str, shape: &[usize]| self.tensor(&self.name(&format!("{name}.{part}")), shape);
        Ok(Affine { w: part("weight", &[n_in, n_out])?, b: part("bias", &[n_out])? })
    }
}
