"""Compares rows that were captured in llama.cpp, a dump, with what they should be.

usage: compare.py DUMP BOUND OTHER
OTHER: --model DIRECTORY LAYER [--gelu tanh] [--ends ID,ID]   numpy on the model's safetensors file; special tokens around a window
       --golden FILE LAYER                                    what PyTorch computed, by tests/golden
       --dump DUMP [--metadata]                               what `strata capture` wrote; of the same model file, all it says of it
The relative L2 difference of every window must be below BOUND.
"""
import argparse
import json
import pathlib

import numpy as np
from safetensors.numpy import load_file

import reference
from hf import Model

MOST_WINDOWS = 8


def read_dump(directory):
    """(rows by window, tokens by window) of a dump; what comes after the last whole window is left out."""
    directory = pathlib.Path(directory)
    about = json.loads((directory / "dump.json").read_text())
    shards = [load_file(directory / s["file"])["activations"] for s in about["shards"]]
    tokens, context = load_file(directory / about["tokens"])["tokens"], about["context"]
    n = len(tokens) // context
    rows = np.concatenate(shards)[: n * context].reshape(n, context, -1)
    return rows.astype(np.float64), tokens[: n * context].reshape(n, context)


def by_model(tokens, a):
    model = Model(a.model[0])
    ends = [int(i) for i in a.ends.split(",") if i]
    before, gelu = len(ends) // 2, reference.GELU[a.gelu] if a.gelu else reference.published_gelu(model)
    for window in tokens:
        layers = reference.layers(model, [*ends[:before], *window.tolist(), *ends[before:]], gelu)
        yield layers[int(a.model[1]), before : before + len(window)]


def by_golden(tokens, a):
    golden = load_file(a.golden[0])
    check(np.array_equal(tokens, golden["input_ids"]), "the tokens are not those of the golden windows")
    return golden[f"resid_post.{a.golden[1]}"]


def by_dump(tokens, a):
    rows, theirs = read_dump(a.dump_other)
    if a.metadata:
        ours, other = (json.loads((pathlib.Path(d) / "dump.json").read_text()) for d in (a.dump, a.dump_other))
        for key in ("format", "version", "d", "dtype", "context", "model", "hook", "special_tokens"):
            check(ours[key] == other[key], f"dump.json: {key} is {ours[key]}, and {other[key]} in {a.dump_other}")
        # A string of C ends at a zero.
        texts = [[t.replace("\0", "") for t in json.loads((pathlib.Path(d) / "vocab.json").read_text())] for d in (a.dump, a.dump_other)]
        differ = [i for i, (x, y) in enumerate(zip(*texts, strict=True)) if x != y]
        check(not differ, f"the texts of {len(differ)} tokens differ, as of {differ[:5]}: {[(texts[0][i], texts[1][i]) for i in differ[:5]]}")
    check(np.array_equal(tokens, theirs[: len(tokens)]), "the tokens of the dumps differ")
    return rows[: len(tokens)]


def check(is_so, sentence):
    if not is_so:
        raise SystemExit(f"compare: {sentence}")


def main():
    a = argparse.ArgumentParser(usage=__doc__)
    a.add_argument("dump")
    a.add_argument("bound", type=float)
    a.add_argument("--model", nargs=2)
    a.add_argument("--gelu")
    a.add_argument("--ends", default="")
    a.add_argument("--golden", nargs=2)
    a.add_argument("--dump", dest="dump_other")
    a.add_argument("--metadata", action="store_true")
    a = a.parse_args()
    rows, tokens = (part[:MOST_WINDOWS] for part in read_dump(a.dump))
    check(len(rows) > 0, f"{a.dump} has no whole window")
    name, expected = (
        (f"safetensors, {a.gelu or 'published'} GELU, layer {a.model[1]}", by_model(tokens, a)) if a.model
        else (f"PyTorch, layer {a.golden[1]}", by_golden(tokens, a)) if a.golden
        else ("strata capture", by_dump(tokens, a))
    )  # fmt: skip
    worst = max(float(np.linalg.norm(x - y) / np.linalg.norm(y)) for x, y in zip(rows, expected, strict=True))
    print(f"  {rows.shape[0]} windows of {rows.shape[1]} against {name}: off by {worst:.1e}, bound {a.bound:.0e}")
    check(worst < a.bound, "the rows are not those of the model")


if __name__ == "__main__":
    main()
