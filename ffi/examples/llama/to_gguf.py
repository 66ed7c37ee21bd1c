"""Writes a Hugging Face directory (a GPT-2 of characters, or a BERT of word pieces) as a GGUF file for llama.cpp.

usage: to_gguf.py DIRECTORY OUT.gguf        every tensor in float32; needs gguf, numpy, safetensors, and no torch
"""
import sys

import gguf
import numpy as np

from hf import Model

GPT2 = {"attn_norm": "ln_1", "attn_qkv": "attn.c_attn", "attn_output": "attn.c_proj",
        "ffn_norm": "ln_2", "ffn_up": "mlp.c_fc", "ffn_down": "mlp.c_proj"}  # fmt: skip
BERT = {"attn_q": "attention.self.query", "attn_k": "attention.self.key", "attn_v": "attention.self.value",
        "attn_output": "attention.output.dense", "attn_output_norm": "attention.output.LayerNorm",
        "ffn_up": "intermediate.dense", "ffn_down": "output.dense", "layer_output_norm": "output.LayerNorm"}  # fmt: skip
SPECIAL = {"pad": "[PAD]", "unk": "[UNK]", "bos": "[CLS]", "sep": "[SEP]", "eos": "[SEP]", "mask": "[MASK]"}


def tensors(model):
    """(name in the GGUF file, values): rows of a matrix are outputs, as llama.cpp multiplies."""
    t, parts = model.tensors, ("weight", "bias")
    if model.kind == "gpt2":
        # Conv1D of GPT-2 holds its matrices as (inputs, outputs). The output matrix is the token embedding.
        yield "token_embd.weight", t["wte.weight"]
        yield "position_embd.weight", t["wpe.weight"]
        yield from ((f"output_norm.{p}", t[f"ln_f.{p}"]) for p in parts)
        for i in range(model.config["n_layer"]):
            yield from ((f"blk.{i}.{ours}.{p}", t[f"h.{i}.{theirs}.{p}"].T) for ours, theirs in GPT2.items() for p in parts)
    else:
        e = "embeddings."
        yield "token_embd.weight", t[e + "word_embeddings.weight"]
        yield "position_embd.weight", t[e + "position_embeddings.weight"]
        yield "token_types.weight", t[e + "token_type_embeddings.weight"]
        yield from ((f"token_embd_norm.{p}", t[f"{e}LayerNorm.{p}"]) for p in parts)
        for i in range(model.config["num_hidden_layers"]):
            layer = f"encoder.layer.{i}."
            yield from ((f"blk.{i}.{ours}.{p}", t[f"{layer}{theirs}.{p}"]) for ours, theirs in BERT.items() for p in parts)


def sizes(w, model):
    c, gpt2 = model.config, model.kind == "gpt2"
    w.add_block_count(c["n_layer" if gpt2 else "num_hidden_layers"])
    w.add_context_length(c["n_positions" if gpt2 else "max_position_embeddings"])
    w.add_embedding_length(c["n_embd" if gpt2 else "hidden_size"])
    w.add_feed_forward_length((c.get("n_inner") or 4 * c["n_embd"]) if gpt2 else c["intermediate_size"])
    w.add_head_count(c["n_head" if gpt2 else "num_attention_heads"])
    w.add_layer_norm_eps(c["layer_norm_epsilon" if gpt2 else "layer_norm_eps"])
    if not gpt2:
        w.add_causal_attention(False)
        w.add_pooling_type(gguf.PoolingType.MEAN)
        w.add_token_type_count(c["type_vocab_size"])


def characters(w, model):
    # llama.cpp's RWKV tokenizer takes the longest entry that matches: with an entry a character it is a character
    # vocabulary, without the merges and special tokens that its BPE wants.
    escapes = {"\n": "\\n", "\t": "\\t", "\r": "\\r", "\\": "\\\\"}
    w.add_tokenizer_model("rwkv")
    w.add_token_list([escapes.get(c, c).encode() for c in model.characters()])


def word_pieces(w, model):
    # llama.cpp marks the start of a word, BERT its continuation.
    pieces = model.word_pieces()
    bare = lambda p: p.startswith("[") and p.endswith("]")
    marked = [p if bare(p) else p[2:] if p.startswith("##") else "\u2581" + p for p in pieces]
    w.add_tokenizer_model("bert")
    w.add_tokenizer_pre("default")
    w.add_token_list([p.encode() for p in marked])
    special = set(SPECIAL.values())
    w.add_token_types([gguf.TokenType.CONTROL if p in special else gguf.TokenType.NORMAL for p in pieces])
    for name, piece in SPECIAL.items():
        getattr(w, f"add_{name}_token_id")(pieces.index(piece))
    w.add_add_bos_token(True)
    w.add_add_eos_token(True)


def main(directory, out):
    model = Model(directory)
    w = gguf.GGUFWriter(out, model.kind)
    w.add_name(model.directory.name)
    w.add_file_type(gguf.LlamaFileType.ALL_F32)
    sizes(w, model)
    (characters if model.kind == "gpt2" else word_pieces)(w, model)
    for name, values in tensors(model):
        w.add_tensor(name, np.ascontiguousarray(values))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    main(*sys.argv[1:])
