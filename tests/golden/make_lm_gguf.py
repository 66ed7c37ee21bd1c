"""Writes lm/NAME.gguf and lm/NAME.safetensors: small GGUF files with random weights, and what `transformers` reads from them.

    pip install torch transformers safetensors gguf
    python tests/golden/make_lm_gguf.py

Widths are multiples of 32, so that matrices can be quantised; each type that gguf-py writes occurs. The tokenizers have a few
merges: byte-level BPE (SmolLM's way to split words), and SentencePiece with bytes and scores (Gemma's). Goldens: ids of two
texts, the residual stream after every block, and logits, in f32.
"""

import pathlib

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Q, TokenType as Kind
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

HERE = pathlib.Path(__file__).parent / "lm"
TEXT = "the thing in the hat, then\n  caf\u00e9 \U0001f980 12 end"
D, MLP, HEADS, KV, HEAD, LAYERS = 32, 64, 2, 1, 32, 2
TYPES = [Q.Q8_0, Q.Q4_0, Q.Q4_1, Q.Q5_0, Q.Q5_1, Q.F16]


def letters():
    """The letters of byte-level BPE, in the order of the bytes."""
    seen = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = iter(range(256, 512))
    return [chr(b) if b in seen else chr(next(rest)) for b in range(256)]


def byte_level(w):
    merges = ["t h", "th e", "\u0120 the", "i n", "\u0120 in", "e n", "en d", "th in"]
    tokens = ["<|endoftext|>", "<|im_start|>"] + letters() + [m.replace(" ", "") for m in merges]
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre("smollm")
    w.add_token_list(tokens)
    w.add_token_types([Kind.CONTROL] * 2 + [Kind.NORMAL] * (len(tokens) - 2))
    w.add_token_merges(merges)
    w.add_bos_token_id(1)
    return len(tokens)


def sentence_piece(w):
    pieces = ["\u2581", "\u2581\u2581", "\u2581the", "the", "th", "in", "\u2581in", "thin", "en", "end", "\u2581t"] + list("abcdefghinotx,12")
    tokens = ["<pad>", "<eos>", "<bos>", "<unk>"] + [f"<0x{b:02X}>" for b in range(256)] + ["\n", "\n\n"] + pieces
    w.add_tokenizer_model("llama")
    w.add_tokenizer_pre("default")
    w.add_token_list(tokens)
    first = len(tokens) - len(pieces)
    w.add_token_scores([-1000.0] * first + [-float(i) for i in range(len(pieces))])
    w.add_token_types([Kind.CONTROL] * 3 + [Kind.UNKNOWN] + [Kind.BYTE] * 256 + [Kind.USER_DEFINED] * 2
                      + [Kind.NORMAL] * len(pieces))
    w.add_bos_token_id(2)
    w.add_eos_token_id(1)
    w.add_unk_token_id(3)
    w.add_pad_token_id(0)
    w.add_add_space_prefix(False)
    return len(tokens)


def make(name, arch, tokenizer):
    rng = np.random.default_rng(sum(name.encode()))
    path = HERE / f"{name}.gguf"
    w = gguf.GGUFWriter(path, arch)
    n_vocab = tokenizer(w)
    w.add_context_length(64)
    w.add_embedding_length(D)
    w.add_block_count(LAYERS)
    w.add_feed_forward_length(MLP)
    w.add_head_count(HEADS)
    w.add_head_count_kv(KV)
    w.add_layer_norm_rms_eps(1e-5)
    w.add_rope_freq_base(100.0)
    w.add_key_length(HEAD)
    w.add_value_length(HEAD)
    w.add_rope_dimension_count(HEAD)
    w.add_vocab_size(n_vocab)
    if arch == "gemma3":
        w.add_sliding_window(7)
    types = iter(TYPES * 10)

    def matrix(key, *shape, kind=None):
        kind = kind or next(types)
        x = (rng.standard_normal(shape) * 0.3).astype(np.float32)
        w.add_tensor(f"{key}.weight", gguf.quantize(x, kind), raw_dtype=kind)

    def norm(key, n):
        w.add_tensor(f"{key}.weight", (1 + 0.3 * rng.standard_normal(n)).astype(np.float32))

    matrix("token_embd", n_vocab, D, kind=Q.Q8_0)
    norm("output_norm", D)
    for l in range(LAYERS):
        b = f"blk.{l}."
        norm(b + "attn_norm", D)
        matrix(b + "attn_q", HEADS * HEAD, D)
        matrix(b + "attn_k", KV * HEAD, D)
        matrix(b + "attn_v", KV * HEAD, D)
        matrix(b + "attn_output", D, HEADS * HEAD)
        norm(b + "ffn_norm", D)
        matrix(b + "ffn_gate", MLP, D)
        matrix(b + "ffn_up", MLP, D)
        matrix(b + "ffn_down", D, MLP)
        if arch == "gemma3":
            for key, n in [("attn_q_norm", HEAD), ("attn_k_norm", HEAD), ("post_attention_norm", D), ("post_ffw_norm", D)]:
                norm(b + key, n)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()

    lm = AutoModelForCausalLM.from_pretrained(HERE, gguf_file=path.name, dtype=torch.float32, attn_implementation="eager").eval()
    reader = AutoTokenizer.from_pretrained(HERE, gguf_file=path.name)
    ids = torch.tensor(rng.integers(3, n_vocab, (1, 24)))
    seen = {}
    for l, layer in enumerate(lm.model.layers):
        # The file does not say the divisor of scores: llama.cpp takes the width of a head, transformers 256 whatever it is.
        layer.self_attn.scaling = HEAD ** -0.5
        layer.register_forward_hook(lambda _, __, out, l=l: seen.__setitem__(l, out[0] if isinstance(out, tuple) else out))
    with torch.no_grad():
        logits = lm(ids).logits
    text_ids = reader(TEXT, add_special_tokens=False)["input_ids"]
    print(name, path.stat().st_size, "bytes", reader.convert_ids_to_tokens(text_ids))
    save_file({"input_ids": ids.reshape(-1).int(), "text_ids": torch.tensor(text_ids).int(),
               "logits": logits.reshape(24, -1).contiguous()}
              | {f"block.{l}": x.reshape(24, D).contiguous() for l, x in seen.items()}, HERE / f"{name}.safetensors")


make("llama-q", "llama", byte_level)
make("gemma3-q", "gemma3", sentence_piece)
