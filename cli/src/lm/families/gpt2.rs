//! GPT-2: learned positions, norms of mean and variance, matrices stored as (in, out).

use anyhow::{Result, bail};
use serde_json::{Value, json};

use crate::lm::block::{Affine, Block, Qkv};
use crate::lm::config::{Activation, Attention, Config};
use crate::lm::family::{Ends, Family, Weights, needed};
use crate::lm::fields::{epsilon, shown, size, switch, token};
use crate::lm::hook::Point;

pub(super) struct Gpt2;

impl Family for Gpt2 {
    fn model_types(&self) -> &'static [&'static str] {
        &["gpt2"]
    }

    fn architectures(&self) -> &'static [&'static str] {
        &["gpt2"]
    }

    fn config_of_gguf(&self, g: &Value, has: &dyn Fn(&str) -> bool) -> Result<Value> {
        Ok(json!({
            "n_layer": needed(g, "block_count")?, "n_head": needed(g, "attention.head_count")?,
            "n_embd": needed(g, "embedding_length")?, "n_inner": needed(g, "feed_forward_length")?,
            "n_positions": needed(g, "context_length")?, "vocab_size": g["vocab_size"],
            "layer_norm_epsilon": needed(g, "attention.layer_norm_epsilon")?, "bos_token_id": g["bos_token_id"],
            "tie_word_embeddings": !has("output.weight"),
        }))
    }

    fn config(&self, v: &Value) -> Result<Config> {
        let (d, n_head) = (size(v, "n_embd")?, size(v, "n_head")?);
        if d % n_head != 0 {
            bail!("\"n_embd\" must be a multiple of \"n_head\", found {d} and {n_head}");
        }
        let epsilon = epsilon(v, "layer_norm_epsilon", 1e-5)?;
        let act = &v["activation_function"];
        let activation = match act.as_str() {
            None if act.is_null() => Activation::GeluNew,
            Some("gelu_new" | "gelu_pytorch_tanh") => Activation::GeluNew,
            Some("gelu") => Activation::Gelu,
            Some("relu") => Activation::Relu,
            _ => bail!("\"activation_function\" must be gelu_new, gelu or relu, found {}", shown(act)),
        };
        let by_width = switch(v, "scale_attn_weights", true)?;
        let by_layer = switch(v, "scale_attn_by_inverse_layer_idx", false)?;
        let attention = |l: usize| {
            let mut scale = 1.0;
            if by_width {
                scale /= ((d / n_head) as f32).sqrt();
            }
            if by_layer {
                scale /= (l + 1) as f32;
            }
            Attention { scale: f64::from(scale), window: None, rope: None }
        };
        Ok(Config {
            d,
            n_head,
            n_kv: n_head,
            head_dim: d / n_head,
            d_mlp: if v["n_inner"].is_null() { 4 * d } else { size(v, "n_inner")? },
            n_positions: size(v, "n_positions")?,
            vocab_size: size(v, "vocab_size")?,
            attention: (0..size(v, "n_layer")?).map(attention).collect(),
            ropes: Vec::new(),
            attention_cap: None,
            activation,
            is_parallel: false,
            embedding_scale: None,
            logit_cap: None,
            epsilon,
            bos_token_id: token(v, "bos_token_id")?,
            tie_word_embeddings: switch(v, "tie_word_embeddings", true)?,
        })
    }

    fn modules(&self) -> &'static [(&'static str, Point)] {
        &[
            ("transformer.h.{}", Point::ResidPost),
            ("transformer.h.{}.ln_1", Point::AttnIn),
            ("transformer.h.{}.attn", Point::AttnOut),
            ("transformer.h.{}.ln_2", Point::MlpIn),
            ("transformer.h.{}.mlp.act", Point::MlpPost),
            ("transformer.h.{}.mlp", Point::MlpOut),
        ]
    }

    fn ends(&self, from: &Weights<'_>) -> Result<Ends> {
        let prefix = from.prefix(&["transformer.", ""], "wte.weight");
        let name = |plain: &str, gguf: &str| from.name(format!("{prefix}{plain}"), gguf.into());
        let c = from.config;
        Ok(Ends {
            tokens: from.table(&name("wte.weight", "token_embd.weight"))?,
            positions: Some(from.tensors.read(&name("wpe.weight", "position_embd.weight"), &[c.n_positions, c.d])?),
            norm: from.layer_norm(&name("ln_f", "output_norm"))?,
            head: if c.tie_word_embeddings {
                None
            } else {
                Some(from.table(&from.name("lm_head.weight".into(), "output.weight".into()))?)
            },
        })
    }

    fn block(&self, from: &Weights<'_>, layer: usize) -> Result<Block> {
        let prefix = from.prefix(&["transformer.", ""], "wte.weight");
        let name =
            |plain: &str, gguf: &str| from.name(format!("{prefix}h.{layer}.{plain}"), format!("blk.{layer}.{gguf}"));
        let affine = |plain: &str, gguf: &str, n_in, n_out| -> Result<Affine> {
            let name = name(plain, gguf);
            if from.tensors.is_gguf() {
                from.affine(&name, n_in, n_out, true)
            } else {
                from.affine_in_out(&name, n_in, n_out)
            }
        };
        let (d, inner) = (from.config.d, from.config.d_mlp);
        Ok(Block {
            attention_norm: from.layer_norm(&name("ln_1", "attn_norm"))?,
            qkv: Qkv::Joined(affine("attn.c_attn", "attn_qkv", d, 3 * d)?),
            head_norms: None,
            attention_out: affine("attn.c_proj", "attn_output", d, d)?,
            attention_post: None,
            mlp_norm: from.layer_norm(&name("ln_2", "ffn_norm"))?,
            gate: None,
            up: affine("mlp.c_fc", "ffn_up", d, inner)?,
            down: affine("mlp.c_proj", "ffn_down", inner, d)?,
            mlp_post: None,
        })
    }
}
