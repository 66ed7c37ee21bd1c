//! GPT-NeoX and Pythia: attention and feed-forward layer side by side, a rotation of a part of each head.

use anyhow::{Result, bail};
use serde_json::{Value, json};

use crate::lm::block::{Block, Qkv};
use crate::lm::config::{Activation, Attention, Config};
use crate::lm::family::{Ends, Family, Weights, needed};
use crate::lm::fields::{epsilon, positive, shown, size, switch, token};
use crate::lm::hook::Point;
use crate::lm::rope::rope;

pub(super) struct NeoX;

impl Family for NeoX {
    fn model_types(&self) -> &'static [&'static str] {
        &["gpt_neox"]
    }

    fn architectures(&self) -> &'static [&'static str] {
        &["gptneox"]
    }

    fn config_of_gguf(&self, g: &Value, has: &dyn Fn(&str) -> bool) -> Result<Value> {
        let (d, heads) = (needed(g, "embedding_length")?, needed(g, "attention.head_count")?);
        let head_dim = size(g, "embedding_length")? as f64 / size(g, "attention.head_count")? as f64;
        let rotated = size(g, "rope.dimension_count")? as f64;
        Ok(json!({
            "hidden_size": d, "num_attention_heads": heads, "num_hidden_layers": needed(g, "block_count")?,
            "intermediate_size": needed(g, "feed_forward_length")?,
            "max_position_embeddings": needed(g, "context_length")?, "vocab_size": g["vocab_size"],
            "layer_norm_eps": needed(g, "attention.layer_norm_epsilon")?, "rotary_pct": rotated / head_dim,
            "rotary_emb_base": g["rope.freq_base"], "use_parallel_residual": g["use_parallel_residual"],
            "attention_bias": has("blk.0.attn_qkv.bias"), "bos_token_id": g["bos_token_id"],
            "tie_word_embeddings": !has("output.weight"),
        }))
    }

    fn config(&self, v: &Value) -> Result<Config> {
        let (d, n_head) = (size(v, "hidden_size")?, size(v, "num_attention_heads")?);
        if d % n_head != 0 {
            bail!("\"hidden_size\" must be a multiple of \"num_attention_heads\", found {d} and {n_head}");
        }
        let act = &v["hidden_act"];
        let activation = if act.is_null() { Some(Activation::Gelu) } else { act.as_str().and_then(Activation::named) };
        let Some(activation) = activation else {
            bail!("\"hidden_act\" must be gelu, gelu_new, relu or silu, found {}", shown(act));
        };
        let parameters = &v["rope_parameters"];
        let share = match positive(parameters, "partial_rotary_factor")? {
            Some(share) => share,
            None => positive(v, "rotary_pct")?.unwrap_or(0.25),
        };
        let dims = ((d / n_head) as f64 * share) as usize;
        if dims < 2 || !dims.is_multiple_of(2) || dims > d / n_head {
            bail!("\"rotary_pct\" must rotate an even part of the {} numbers of a head, found {share}", d / n_head);
        }
        let theta = positive(v, "rotary_emb_base")?.unwrap_or(1e4);
        let attention = Attention { scale: 1.0 / ((d / n_head) as f64).sqrt(), window: None, rope: Some(0) };
        Ok(Config {
            d,
            n_head,
            n_kv: n_head,
            head_dim: d / n_head,
            d_mlp: size(v, "intermediate_size")?,
            n_positions: size(v, "max_position_embeddings")?,
            vocab_size: size(v, "vocab_size")?,
            attention: vec![attention; size(v, "num_hidden_layers")?],
            ropes: vec![rope(v, dims, theta)?],
            attention_cap: None,
            activation,
            is_parallel: switch(v, "use_parallel_residual", true)?,
            embedding_scale: None,
            logit_cap: None,
            epsilon: epsilon(v, "layer_norm_eps", 1e-5)?,
            bos_token_id: token(v, "bos_token_id")?,
            tie_word_embeddings: switch(v, "tie_word_embeddings", false)?,
        })
    }

    fn modules(&self) -> &'static [(&'static str, Point)] {
        &[
            ("gpt_neox.layers.{}", Point::ResidPost),
            ("gpt_neox.layers.{}.input_layernorm", Point::AttnIn),
            ("gpt_neox.layers.{}.attention", Point::AttnOut),
            ("gpt_neox.layers.{}.post_attention_layernorm", Point::MlpIn),
            ("gpt_neox.layers.{}.mlp.act", Point::MlpPost),
            ("gpt_neox.layers.{}.mlp", Point::MlpOut),
        ]
    }

    fn ends(&self, from: &Weights<'_>) -> Result<Ends> {
        let prefix = from.prefix(&["gpt_neox.", ""], "embed_in.weight");
        let name = |plain: &str, gguf: &str| from.name(format!("{prefix}{plain}"), gguf.into());
        Ok(Ends {
            tokens: from.table(&name("embed_in.weight", "token_embd.weight"))?,
            positions: None,
            norm: from.layer_norm(&name("final_layer_norm", "output_norm"))?,
            head: if from.config.tie_word_embeddings {
                None
            } else {
                Some(from.table(&from.name("embed_out.weight".into(), "output.weight".into()))?)
            },
        })
    }

    fn block(&self, from: &Weights<'_>, layer: usize) -> Result<Block> {
        let prefix = from.prefix(&["gpt_neox.", ""], "embed_in.weight");
        let name = |plain: &str, gguf: &str| {
            from.name(format!("{prefix}layers.{layer}.{plain}"), format!("blk.{layer}.{gguf}"))
        };
        let (d, inner) = (from.config.d, from.config.d_mlp);
        let bias = |name: &str| from.tensors.has(&format!("{name}.bias"));
        let (qkv, out) = (name("attention.query_key_value", "attn_qkv"), name("attention.dense", "attn_output"));
        let joined = from.affine(&qkv, d, 3 * d, bias(&qkv))?;
        Ok(Block {
            attention_norm: from.layer_norm(&name("input_layernorm", "attn_norm"))?,
            // GGUF files are sorted already.
            qkv: if from.tensors.is_gguf() { Qkv::Joined(joined) } else { Qkv::ByHead(joined) },
            head_norms: None,
            attention_out: from.affine(&out, d, d, bias(&out))?,
            attention_post: None,
            mlp_norm: from.layer_norm(&name("post_attention_layernorm", "ffn_norm"))?,
            gate: None,
            up: from.affine(&name("mlp.dense_h_to_4h", "ffn_up"), d, inner, true)?,
            down: from.affine(&name("mlp.dense_4h_to_h", "ffn_down"), inner, d, true)?,
            mlp_post: None,
        })
    }
}
