"""The residual stream after every layer of a GPT-2 or BERT, in numpy and float64: what captured rows are compared with."""
import math

import numpy as np

erf = np.vectorize(math.erf, otypes=[np.float64])
GELU = {
    "tanh": lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "erf": lambda x: 0.5 * x * (1 + erf(x / math.sqrt(2))),
}


def published_gelu(model):
    """The one that the model was trained with."""
    name = model.config["activation_function" if model.kind == "gpt2" else "hidden_act"]
    return GELU[{"gelu_new": "tanh", "gelu": "erf"}[name]]


def layers(model, ids, gelu):
    """Hidden states of one sequence of token ids: (layers, tokens, width)."""
    return (gpt2 if model.kind == "gpt2" else bert)(model, np.asarray(ids), gelu)


def gpt2(model, ids, gelu):
    c, t = model.config, {k: v.astype(np.float64) for k, v in model.tensors.items()}
    affine = lambda x, name: x @ t[name + ".weight"] + t[name + ".bias"]
    norm = lambda x, name: layer_norm(x, t[name + ".weight"], t[name + ".bias"], c["layer_norm_epsilon"])
    h, out = t["wte.weight"][ids] + t["wpe.weight"][: len(ids)], []
    for i in range(c["n_layer"]):
        q, k, v = np.split(affine(norm(h, f"h.{i}.ln_1"), f"h.{i}.attn.c_attn"), 3, axis=1)
        h = h + affine(attention(q, k, v, c["n_head"], causal=True), f"h.{i}.attn.c_proj")
        h = h + affine(gelu(affine(norm(h, f"h.{i}.ln_2"), f"h.{i}.mlp.c_fc")), f"h.{i}.mlp.c_proj")
        out.append(h)
    return np.stack(out)


def bert(model, ids, gelu):
    c, t = model.config, {k: v.astype(np.float64) for k, v in model.tensors.items()}
    affine = lambda x, name: x @ t[name + ".weight"].T + t[name + ".bias"]
    norm = lambda x, name: layer_norm(x, t[name + ".weight"], t[name + ".bias"], c["layer_norm_eps"])
    e = "embeddings."
    h = t[e + "word_embeddings.weight"][ids] + t[e + "position_embeddings.weight"][: len(ids)]
    h, out = norm(h + t[e + "token_type_embeddings.weight"][0], e + "LayerNorm"), []
    for i in range(c["num_hidden_layers"]):
        l = f"encoder.layer.{i}."
        q, k, v = (affine(h, f"{l}attention.self.{part}") for part in ("query", "key", "value"))
        a = affine(attention(q, k, v, c["num_attention_heads"], causal=False), l + "attention.output.dense")
        h = norm(h + a, l + "attention.output.LayerNorm")
        h = norm(h + affine(gelu(affine(h, l + "intermediate.dense")), l + "output.dense"), l + "output.LayerNorm")
        out.append(h)
    return np.stack(out)


def layer_norm(x, weight, bias, eps):
    x = x - x.mean(axis=1, keepdims=True)
    return x / np.sqrt((x * x).mean(axis=1, keepdims=True) + eps) * weight + bias


def attention(q, k, v, heads, causal):
    n, d = q.shape
    q, k, v = (m.reshape(n, heads, d // heads).transpose(1, 0, 2) for m in (q, k, v))
    scores = q @ k.transpose(0, 2, 1) / math.sqrt(d // heads)
    if causal:
        scores = np.where(np.tri(n, dtype=bool), scores, -np.inf)
    weights = np.exp(scores - scores.max(axis=2, keepdims=True))
    weights /= weights.sum(axis=2, keepdims=True)
    return (weights @ v).transpose(1, 0, 2).reshape(n, d)
