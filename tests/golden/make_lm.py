"""Writes lm/NAME/: small language models with random weights, and what `transformers` computes with them.

    pip install torch transformers safetensors
    python tests/golden/make_lm.py

A directory holds config.json, the weights as bf16 (model.safetensors, or two shards with their index), and
golden.safetensors: token ids, the residual stream after every block and before the first, activations inside of block 0 by
hooks on modules, and logits, all in f32 on the CPU. The configurations are chosen so that every branch of the forward pass
counts: weights are large enough that attention is far from uniform, norms have gains and biases, windows and the rotations of
long contexts act within the few tokens.
"""

import json
import pathlib
import shutil

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, CONFIG_MAPPING

HERE = pathlib.Path(__file__).parent / "lm"
T = 24

LLAMA3 = {"rope_type": "llama3", "rope_theta": 500.0, "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 16}
YARN = {"rope_type": "yarn", "rope_theta": 1000.0, "factor": 4.0, "original_max_position_embeddings": 16}
small = dict(hidden_size=12, intermediate_size=20, num_hidden_layers=2, vocab_size=31, max_position_embeddings=64,
             bos_token_id=1, eos_token_id=2, pad_token_id=0)
MODELS = {
    # Grouped heads of another width than hidden_size / heads, tied.
    "llama": ("llama", dict(small, num_attention_heads=4, num_key_value_heads=2, head_dim=6, tie_word_embeddings=True)),
    # Stretched rotations, biases of everything, an output matrix of its own.
    "llama3": ("llama", dict(small, num_attention_heads=2, num_key_value_heads=1, attention_bias=True, mlp_bias=True,
                             tie_word_embeddings=False, rope_parameters=LLAMA3, rms_norm_eps=1e-2)),
    "llama-linear": ("llama", dict(small, num_attention_heads=2, num_key_value_heads=2, hidden_act="gelu",
                                   rope_parameters={"rope_type": "linear", "rope_theta": 100.0, "factor": 3.0})),
    # A window shorter than the text.
    "mistral": ("mistral", dict(small, num_attention_heads=2, num_key_value_heads=1, sliding_window=5)),
    "qwen2": ("qwen2", dict(small, num_attention_heads=2, num_key_value_heads=1, tie_word_embeddings=True,
                            rope_parameters=YARN)),
    "qwen2-window": ("qwen2", dict(small, num_attention_heads=2, num_key_value_heads=2, use_sliding_window=True,
                                   sliding_window=6, max_window_layers=1)),
    "qwen3": ("qwen3", dict(small, num_attention_heads=2, num_key_value_heads=1, head_dim=8)),
    "gemma2": ("gemma2", dict(small, num_hidden_layers=3, num_attention_heads=2, num_key_value_heads=1, head_dim=8,
                              sliding_window=5, query_pre_attn_scalar=5, attn_logit_softcapping=2.0,
                              final_logit_softcapping=3.0)),
    # Of every two blocks one has a window; the rotations of the two kinds differ.
    "gemma3": ("gemma3_text", dict(small, num_hidden_layers=3, num_attention_heads=2, num_key_value_heads=1, head_dim=8,
                                   sliding_window=5, query_pre_attn_scalar=7,
                                   layer_types=["sliding_attention", "full_attention", "sliding_attention"],
                                   rope_parameters={
                                       "full_attention": {"rope_type": "linear", "rope_theta": 1000.0, "factor": 2.0},
                                       "sliding_attention": {"rope_type": "default", "rope_theta": 30.0}})),
    # Parallel layers, a rotation of half of each head.
    "neox": ("gpt_neox", dict(small, num_attention_heads=2, hidden_act="gelu",
                              rope_parameters={"rope_type": "default", "rope_theta": 100.0, "partial_rotary_factor": 2 / 3})),
    "neox-serial": ("gpt_neox", dict(small, num_attention_heads=2, hidden_act="gelu_new", use_parallel_residual=False,
                                     rope_parameters={"rope_type": "default", "partial_rotary_factor": 1.0})),
    "gpt2": ("gpt2", dict(n_embd=12, n_head=3, n_layer=2, n_inner=20, n_positions=32, vocab_size=31, bos_token_id=1,
                          eos_token_id=2, scale_attn_by_inverse_layer_idx=True)),
}
# Hooks on modules of block 0 whose outputs are golden.
PATHS = {"gpt2": ["ln_1", "attn", "ln_2", "mlp.act", "mlp"],
         "gpt_neox": ["input_layernorm", "attention", "post_attention_layernorm", "mlp.act", "mlp"]}
GEMMA = ["input_layernorm", "self_attn", "post_attention_layernorm", "pre_feedforward_layernorm", "mlp",
         "post_feedforward_layernorm"]


def make(name, kind, settings):
    torch.manual_seed(sum(name.encode()))
    config = CONFIG_MAPPING[kind](**settings, attn_implementation="eager", dtype="float32")
    model = AutoModelForCausalLM.from_config(config).float().eval()
    with torch.no_grad():
        for key, p in model.named_parameters():
            scale = 0.4 if p.dim() > 1 else 0.3
            noise = torch.randn_like(p) * scale
            # Gains of norms stay near those of a new model; biases become random.
            p.copy_(((p if p.dim() == 1 and "weight" in key else 0) + noise).bfloat16().float())
    out = HERE / name
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    ids = torch.randint(3, config.vocab_size, (2, T))
    prefix = {"gpt2": "transformer.h", "gpt_neox": "gpt_neox.layers"}.get(kind, "model.layers")
    paths = PATHS.get(kind, GEMMA if "gemma" in kind else ["input_layernorm", "self_attn", "post_attention_layernorm", "mlp"])
    seen, handles = {}, []
    for path in [f"{prefix}.0.{p}" for p in paths] + [f"{prefix}.{l}" for l in range(config.num_hidden_layers)]:
        def take(_, __, output, path=path):
            seen[path] = (output[0] if isinstance(output, tuple) else output).detach().reshape(2 * T, -1).contiguous()
        handles.append(model.get_submodule(path).register_forward_hook(take))
    with torch.no_grad():
        got = model(ids, output_hidden_states=True)
    golden = {"input_ids": ids.reshape(-1).int(), "embedded": got.hidden_states[0].reshape(2 * T, -1).contiguous()}
    golden |= seen | {"logits": got.logits.reshape(2 * T, -1).contiguous()}
    model.bfloat16().save_pretrained(out, max_shard_size="4KB" if name == "llama3" else "1GB")
    (out / "generation_config.json").unlink(missing_ok=True)
    save_file(golden, out / "golden.safetensors")
    (out / "meta.json").write_text(json.dumps({"chars": "".join(chr(97 + i) for i in range(config.vocab_size))}) + "\n")
    print(name, [p.name for p in out.iterdir()], sum(p.stat().st_size for p in out.iterdir()), "bytes",
          "logits", float(got.logits.std()))


for name, (kind, settings) in MODELS.items():
    make(name, kind, settings)
