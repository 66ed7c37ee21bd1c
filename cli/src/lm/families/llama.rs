//! The Llama shape: Llama 2 and 3, Mistral, SmolLM, Qwen 2 and 2.5 (biases of queries, keys and values) and Qwen 3 (norms
//! of queries and keys).

use anyhow::{Result, bail};
use serde_json::{Value, json};

use crate::lm::block::{Block, Qkv};
use crate::lm::config::{Activation, Attention, Config};
use crate::lm::family::{Ends, Family, Weights, needed};
use crate::lm::fields::{epsilon, shown, size, size_or, switch, token};
use crate::lm::hook::Point;
use crate::lm::rope::rope;

pub(super) struct Llama;

impl Family for Llama {
    fn model_types(&self) -> &'static [&'static str] {
        &["llama", "mistral", "qwen2", "qwen3"]
    }

    fn architectures(&self) -> &'static [&'static str] {
        &["llama", "qwen2", "qwen3"]
    }

    fn config_of_gguf(&self, g: &Value, has: &dyn Fn(&str) -> bool) -> Result<Value> {
        if has("blk.0.ffn_gate_inp.weight") {
            bail!("its feed-forward layers are mixtures of experts, which are not supported");
        }
        let mut scaling = json!({ "type": g["rope.scaling.type"], "factor": g["rope.scaling.factor"],
            "original_max_position_embeddings": g["rope.scaling.original_context_length"] });
        if matches!(scaling["type"].as_str(), None | Some("none")) {
            scaling = Value::Null;
        }
        Ok(json!({
            "model_type": g["architecture"],
            "hidden_size": needed(g, "embedding_length")?, "num_hidden_layers": needed(g, "block_count")?,
            "num_attention_heads": needed(g, "attention.head_count")?,
            "num_key_value_heads": g["attention.head_count_kv"], "head_dim": g["attention.key_length"],
            "intermediate_size": needed(g, "feed_forward_length")?,
            "max_position_embeddings": needed(g, "context_length")?, "vocab_size": g["vocab_size"],
            "rms_norm_eps": needed(g, "attention.layer_norm_rms_epsilon")?, "rope_theta": g["rope.freq_base"],
            "rope_scaling": scaling, "rope_factors": g["rope_factors"],
            // The rows of queries and keys of this architecture are stored in pairs of neighbours.
            "rope_interleaved": g["architecture"] == "llama",
            "bos_token_id": g["bos_token_id"], "tie_word_embeddings": !has("output.weight"),
            "use_sliding_window": false,
        }))
    }

    fn config(&self, v: &Value) -> Result<Config> {
        let (d, n_head) = (size(v, "hidden_size")?, size(v, "num_attention_heads")?);
        if v["head_dim"].is_null() && d % n_head != 0 {
            bail!("\"hidden_size\" must be a multiple of \"num_attention_heads\", found {d} and {n_head}");
        }
        let head_dim = size_or(v, "head_dim", d / n_head)?;
        let n_kv = size_or(v, "num_key_value_heads", n_head)?;
        if n_head % n_kv != 0 {
            bail!("\"num_attention_heads\" must be a multiple of \"num_key_value_heads\", found {n_head} and {n_kv}");
        }
        let act = &v["hidden_act"];
        let activation = if act.is_null() { Some(Activation::Silu) } else { act.as_str().and_then(Activation::named) };
        let Some(activation) = activation else {
            bail!("\"hidden_act\" must be silu, gelu, gelu_new or relu, found {}", shown(act));
        };
        let n_layer = size(v, "num_hidden_layers")?;
        let windows = windows(v, n_layer)?;
        let attention = |window| Attention { scale: 1.0 / (head_dim as f64).sqrt(), window, rope: Some(0) };
        Ok(Config {
            d,
            n_head,
            n_kv,
            head_dim,
            d_mlp: size(v, "intermediate_size")?,
            n_positions: size(v, "max_position_embeddings")?,
            vocab_size: size(v, "vocab_size")?,
            attention: windows.into_iter().map(attention).collect(),
            ropes: vec![rope(v, head_dim, 1e4)?],
            attention_cap: None,
            activation,
            is_parallel: false,
            embedding_scale: None,
            logit_cap: None,
            epsilon: epsilon(v, "rms_norm_eps", 1e-6)?,
            bos_token_id: token(v, "bos_token_id")?,
            tie_word_embeddings: switch(v, "tie_word_embeddings", false)?,
        })
    }

    fn modules(&self) -> &'static [(&'static str, Point)] {
        &[
            ("model.layers.{}", Point::ResidPost),
            ("model.layers.{}.input_layernorm", Point::AttnIn),
            ("model.layers.{}.self_attn", Point::AttnOut),
            ("model.layers.{}.post_attention_layernorm", Point::MlpIn),
            ("model.layers.{}.mlp", Point::MlpOut),
        ]
    }

    fn ends(&self, from: &Weights<'_>) -> Result<Ends> {
        let prefix = from.prefix(&["model.", ""], "embed_tokens.weight");
        let name = |plain: &str, gguf: &str| from.name(format!("{prefix}{plain}"), gguf.into());
        Ok(Ends {
            tokens: from.table(&name("embed_tokens.weight", "token_embd.weight"))?,
            positions: None,
            norm: from.rms_norm(&name("norm", "output_norm"), from.config.d, 0.0)?,
            head: if from.config.tie_word_embeddings {
                None
            } else {
                Some(from.table(&from.name("lm_head.weight".into(), "output.weight".into()))?)
            },
        })
    }

    fn block(&self, from: &Weights<'_>, layer: usize) -> Result<Block> {
        let prefix = from.prefix(&["model.", ""], "embed_tokens.weight");
        let name = |plain: &str, gguf: &str| {
            from.name(format!("{prefix}layers.{layer}.{plain}"), format!("blk.{layer}.{gguf}"))
        };
        // A bias is there where the model has one: files say so in ways of their own.
        let affine = |plain: &str, gguf: &str, n_in, n_out| {
            let name = name(plain, gguf);
            from.affine(&name, n_in, n_out, from.tensors.has(&format!("{name}.bias")))
        };
        let c = from.config;
        let (d, inner, queries, keys) = (c.d, c.d_mlp, c.n_head * c.head_dim, c.n_kv * c.head_dim);
        let head_norm = |plain: &str, gguf: &str| from.rms_norm(&name(plain, gguf), c.head_dim, 0.0);
        let has_head_norms = from.tensors.has(&format!("{}.weight", name("self_attn.q_norm", "attn_q_norm")));
        Ok(Block {
            attention_norm: from.rms_norm(&name("input_layernorm", "attn_norm"), d, 0.0)?,
            qkv: Qkv::Apart([
                affine("self_attn.q_proj", "attn_q", d, queries)?,
                affine("self_attn.k_proj", "attn_k", d, keys)?,
                affine("self_attn.v_proj", "attn_v", d, keys)?,
            ]),
            head_norms: if has_head_norms {
                Some([head_norm("self_attn.q_norm", "attn_q_norm")?, head_norm("self_attn.k_norm", "attn_k_norm")?])
            } else {
                None
            },
            attention_out: affine("self_attn.o_proj", "attn_output", queries, d)?,
            attention_post: None,
            mlp_norm: from.rms_norm(&name("post_attention_layernorm", "ffn_norm"), d, 0.0)?,
            gate: Some(affine("mlp.gate_proj", "ffn_gate", d, inner)?),
            up: affine("mlp.up_proj", "ffn_up", d, inner)?,
            down: affine("mlp.down_proj", "ffn_down", inner, d)?,
            mlp_post: None,
        })
    }
}

/// Returns how far the attention of each block reaches.
fn windows(v: &Value, n_layer: usize) -> Result<Vec<Option<usize>>> {
    let is_qwen = matches!(v["model_type"].as_str(), Some("qwen2" | "qwen3"));
    // Mistral's windows are those of all blocks; Qwen's are off unless a switch says otherwise.
    if v["sliding_window"].is_null() || is_qwen && !switch(v, "use_sliding_window", false)? {
        return Ok(vec![None; n_layer]);
    }
    let window = Some(size(v, "sliding_window")?);
    if let Some(types) = v["layer_types"].as_array() {
        return types_of(types, n_layer)?.into_iter().map(|slides| Ok(window.filter(|_| slides))).collect();
    }
    let first = if is_qwen { size_or(v, "max_window_layers", 28)? } else { 0 };
    Ok((0..n_layer).map(|l| window.filter(|_| l >= first)).collect())
}

/// Returns which blocks have a window, of `"layer_types"`.
fn types_of(types: &[Value], n_layer: usize) -> Result<Vec<bool>> {
    if types.len() != n_layer {
        bail!("\"layer_types\" must have {n_layer} entries, found {}", types.len());
    }
    let slides = |t: &Value| match t.as_str() {
        Some("sliding_attention") => Ok(true),
        Some("full_attention") => Ok(false),
        _ => bail!("\"layer_types\" must be sliding_attention or full_attention, found {}", shown(t)),
    };
    types.iter().map(slides).collect()
}
