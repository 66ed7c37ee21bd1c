//! Gemma 2 and 3: scaled embeddings, gains that are stored less 1, norms behind the layers, caps, and windows.

use anyhow::{Result, bail};
use serde_json::{Value, json};

use crate::lm::block::{Block, Qkv};
use crate::lm::config::{Activation, Attention, Config, Rope};
use crate::lm::family::{Ends, Family, Weights, needed};
use crate::lm::fields::{epsilon, positive, refuse, shown, size, size_or, switch, token};
use crate::lm::hook::Point;
use crate::lm::rope::{of_parameters, rope};

pub(super) struct Gemma;

/// Prefixes of the names in files of models that only read text, and of those that also read images.
const PREFIXES: [&str; 4] = ["model.", "language_model.model.", "model.language_model.", ""];

impl Family for Gemma {
    fn model_types(&self) -> &'static [&'static str] {
        &["gemma2", "gemma3_text"]
    }

    fn architectures(&self) -> &'static [&'static str] {
        &["gemma2", "gemma3"]
    }

    fn config_of_gguf(&self, g: &Value, has: &dyn Fn(&str) -> bool) -> Result<Value> {
        let architecture = g["architecture"].as_str().unwrap_or_default();
        let n_layer = size(g, "block_count")?;
        let (d, heads) = (size(g, "embedding_length")?, size(g, "attention.head_count")?);
        // The largest model of each generation divides its scores by another number, which the files do not say.
        let is_largest = matches!((architecture, n_layer), ("gemma2", 46) | ("gemma3", 62));
        let scalar = if is_largest { d / heads } else { size(g, "attention.key_length")? };
        let mut config = json!({
            "model_type": if architecture == "gemma3" { "gemma3_text" } else { architecture },
            "hidden_size": d, "num_hidden_layers": n_layer, "num_attention_heads": heads,
            "num_key_value_heads": g["attention.head_count_kv"], "head_dim": needed(g, "attention.key_length")?,
            "intermediate_size": needed(g, "feed_forward_length")?,
            "max_position_embeddings": needed(g, "context_length")?, "vocab_size": g["vocab_size"],
            "rms_norm_eps": needed(g, "attention.layer_norm_rms_epsilon")?, "query_pre_attn_scalar": scalar,
            "attn_logit_softcapping": g["attn_logit_softcapping"],
            "final_logit_softcapping": g["final_logit_softcapping"],
            "sliding_window": g["attention.sliding_window"], "bos_token_id": g["bos_token_id"],
            "tie_word_embeddings": !has("output.weight"), "rope_theta": g["rope.freq_base"],
        });
        if let Some(theta) = g["rope.freq_base_swa"].as_f64() {
            config["rope_local_base_freq"] = theta.into();
        }
        if matches!(g["rope.scaling.type"].as_str(), Some(kind) if kind != "none") {
            config["rope_scaling"] = json!({ "type": g["rope.scaling.type"], "factor": g["rope.scaling.factor"] });
        }
        Ok(config)
    }

    fn config(&self, v: &Value) -> Result<Config> {
        let version = if v["model_type"] == "gemma2" { 2 } else { 3 };
        refuse(v, "use_bidirectional_attention", "its tokens would attend to later ones")?;
        let (d, n_head) = (size(v, "hidden_size")?, size(v, "num_attention_heads")?);
        let head_dim = size_or(v, "head_dim", 256)?;
        let n_kv = size_or(v, "num_key_value_heads", n_head)?;
        if n_head % n_kv != 0 {
            bail!("\"num_attention_heads\" must be a multiple of \"num_key_value_heads\", found {n_head} and {n_kv}");
        }
        let act = &v["hidden_activation"];
        let activation =
            if act.is_null() { Some(Activation::GeluNew) } else { act.as_str().and_then(Activation::named) };
        let Some(activation) = activation else {
            bail!("\"hidden_activation\" must be gelu_pytorch_tanh, gelu, relu or silu, found {}", shown(act));
        };
        let n_layer = size(v, "num_hidden_layers")?;
        let slides = slides(v, version, n_layer)?;
        let window = if slides.contains(&true) { Some(size(v, "sliding_window")?) } else { None };
        let scalar = positive(v, "query_pre_attn_scalar")?.unwrap_or(256.0);
        let attention = |slides: &bool| Attention {
            scale: 1.0 / scalar.sqrt(),
            window: window.filter(|_| *slides),
            rope: Some(usize::from(version == 3 && *slides)),
        };
        Ok(Config {
            d,
            n_head,
            n_kv,
            head_dim,
            d_mlp: size(v, "intermediate_size")?,
            n_positions: size(v, "max_position_embeddings")?,
            vocab_size: size(v, "vocab_size")?,
            attention: slides.iter().map(attention).collect(),
            ropes: ropes(v, version, head_dim)?,
            attention_cap: positive(v, "attn_logit_softcapping")?,
            activation,
            is_parallel: false,
            embedding_scale: Some(f64::from((d as f32).sqrt())),
            logit_cap: positive(v, "final_logit_softcapping")?,
            epsilon: epsilon(v, "rms_norm_eps", 1e-6)?,
            bos_token_id: token(v, "bos_token_id")?,
            tie_word_embeddings: switch(v, "tie_word_embeddings", true)?,
        })
    }

    fn modules(&self) -> &'static [(&'static str, Point)] {
        &[
            ("model.layers.{}", Point::ResidPost),
            ("model.layers.{}.input_layernorm", Point::AttnIn),
            ("model.layers.{}.self_attn", Point::AttnRaw),
            ("model.layers.{}.post_attention_layernorm", Point::AttnOut),
            ("model.layers.{}.pre_feedforward_layernorm", Point::MlpIn),
            ("model.layers.{}.mlp", Point::MlpRaw),
            ("model.layers.{}.post_feedforward_layernorm", Point::MlpOut),
        ]
    }

    fn ends(&self, from: &Weights<'_>) -> Result<Ends> {
        let prefix = from.prefix(&PREFIXES, "embed_tokens.weight");
        let name = |plain: &str, gguf: &str| from.name(format!("{prefix}{plain}"), gguf.into());
        Ok(Ends {
            tokens: from.table(&name("embed_tokens.weight", "token_embd.weight"))?,
            positions: None,
            norm: from.rms_norm(&name("norm", "output_norm"), from.config.d, offset(from))?,
            head: if from.config.tie_word_embeddings {
                None
            } else {
                Some(from.table(&from.name("lm_head.weight".into(), "output.weight".into()))?)
            },
        })
    }

    fn block(&self, from: &Weights<'_>, layer: usize) -> Result<Block> {
        let prefix = from.prefix(&PREFIXES, "embed_tokens.weight");
        let name = |plain: &str, gguf: &str| {
            from.name(format!("{prefix}layers.{layer}.{plain}"), format!("blk.{layer}.{gguf}"))
        };
        let affine = |plain: &str, gguf: &str, n_in, n_out| {
            let name = name(plain, gguf);
            from.affine(&name, n_in, n_out, from.tensors.has(&format!("{name}.bias")))
        };
        let norm = |name: String, n| from.rms_norm(&name, n, offset(from));
        let c = from.config;
        let (d, inner, queries, keys) = (c.d, c.d_mlp, c.n_head * c.head_dim, c.n_kv * c.head_dim);
        let (q_norm, k_norm) = (name("self_attn.q_norm", "attn_q_norm"), name("self_attn.k_norm", "attn_k_norm"));
        let has_head_norms = from.tensors.has(&format!("{q_norm}.weight"));
        Ok(Block {
            attention_norm: norm(name("input_layernorm", "attn_norm"), d)?,
            qkv: Qkv::Apart([
                affine("self_attn.q_proj", "attn_q", d, queries)?,
                affine("self_attn.k_proj", "attn_k", d, keys)?,
                affine("self_attn.v_proj", "attn_v", d, keys)?,
            ]),
            head_norms: if has_head_norms {
                Some([norm(q_norm, c.head_dim)?, norm(k_norm, c.head_dim)?])
            } else {
                None
            },
            attention_out: affine("self_attn.o_proj", "attn_output", queries, d)?,
            attention_post: Some(norm(name("post_attention_layernorm", "post_attention_norm"), d)?),
            mlp_norm: norm(name("pre_feedforward_layernorm", "ffn_norm"), d)?,
            gate: Some(affine("mlp.gate_proj", "ffn_gate", d, inner)?),
            up: affine("mlp.up_proj", "ffn_up", d, inner)?,
            down: affine("mlp.down_proj", "ffn_down", inner, d)?,
            mlp_post: Some(norm(name("post_feedforward_layernorm", "post_ffw_norm"), d)?),
        })
    }
}

/// Returns what is added to stored gains. GGUF files have it in them.
fn offset(from: &Weights<'_>) -> f64 {
    if from.tensors.is_gguf() { 0.0 } else { 1.0 }
}

/// Returns which blocks attend to a window only.
fn slides(v: &Value, version: usize, n_layer: usize) -> Result<Vec<bool>> {
    if let Some(types) = v["layer_types"].as_array() {
        if types.len() != n_layer {
            bail!("\"layer_types\" must have {n_layer} entries, found {}", types.len());
        }
        return Ok(types.iter().map(|t| t == "sliding_attention").collect());
    }
    let pattern = if version == 2 { 2 } else { size_or(v, "sliding_window_pattern", 6)? };
    Ok((1..=n_layer).map(|l| l % pattern != 0).collect())
}

/// Returns the rotation of blocks without a window, and in Gemma 3 that of blocks with one.
fn ropes(v: &Value, version: usize, head_dim: usize) -> Result<Vec<Rope>> {
    if version < 3 {
        return Ok(vec![rope(v, head_dim, 1e4)?]);
    }
    let parameters = &v["rope_parameters"];
    if parameters["full_attention"].is_object() {
        return Ok(vec![
            of_parameters(&parameters["full_attention"], v, head_dim, 1e6)?,
            of_parameters(&parameters["sliding_attention"], v, head_dim, 1e4)?,
        ]);
    }
    let local = positive(v, "rope_local_base_freq")?.unwrap_or(1e4);
    Ok(vec![rope(v, head_dim, 1e6)?, Rope::new(head_dim, local)])
}
