#!/usr/bin/env python3
"""Scores the codes of a run on a synthetic world by SAELens' own code, as SynthSAEBench does, and prints the scores as JSON.

usage: synth_score.py RUN WORLD      (RUN/codes.safetensors: what `strata encode` wrote for WORLD, a dump by `strata synth`)

The rows are those whose magnitudes the dump has in truth.safetensors: its last ones.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.numpy import load_file
from sae_lens.synthetic.evals import (
    ClassificationMetricsCalculator,
    DeadLatentsCalculator,
    ExplainedVarianceCalculator,
    L0Calculator,
    feature_uniqueness,
    mean_correlation_coefficient,
)

BATCH = 1024


def dense(values, indices, indptr, rows, width):
    """Rows of a matrix in CSR form."""
    start, end = int(indptr[rows.start]), int(indptr[rows.stop])
    out = np.zeros((len(rows), width), np.float32)
    at = np.repeat(np.arange(len(rows)), np.diff(indptr[rows.start : rows.stop + 1].astype(np.int64)))
    out[at, indices[start:end]] = values[start:end]
    return out


def main():
    run, world = Path(sys.argv[1]), Path(sys.argv[2])
    weights = load_file(run / "sae" / "sae_weights.safetensors")
    codes, truth = load_file(run / "codes.safetensors"), load_file(world / "truth.safetensors")
    description = json.loads((world / "truth.json").read_text())
    levels = [n for n in (1, 2) if f"level{n}.w_dec" in weights]
    decoder = torch.from_numpy(np.concatenate([weights[f"level{n}.w_dec"] for n in levels]))
    features = torch.from_numpy(truth["directions"])
    first, n = description["stored"]
    shards = json.loads((world / "dump.json").read_text())["shards"]

    counts = ClassificationMetricsCalculator(decoder, features)
    dead, l0, variance = DeadLatentsCalculator(len(decoder)), L0Calculator(), ExplainedVarianceCalculator()
    # The rows to score are the last ones, which may lie in several shards.
    parts, at = [], 0
    for shard in shards:
        with safe_open(world / shard["file"], "np") as file:
            rows = file.get_slice("activations")
            begin = max(first - at, 0)
            if begin < shard["rows"]:
                parts.append(rows[begin:])
        at += shard["rows"]
    x = torch.from_numpy(np.concatenate(parts))
    assert len(x) == n, f"expected {n} rows with a truth, found {len(x)}"
    for start in range(0, n, BATCH):
        rows = range(start, min(start + BATCH, n))
        own = range(first + rows.start, first + rows.stop)
        z = torch.from_numpy(
            np.concatenate(
                [dense(codes[f"z{k}.values"], codes[f"z{k}.indices"], codes[f"z{k}.indptr"], own, len(weights[f"level{k}.w_dec"])) for k in levels], 1
            )
        )
        a = torch.from_numpy(dense(truth["value"], truth["index"], truth["indptr"], rows, len(features)))
        counts.add_batch(z, a)
        dead.add_batch(z)
        l0.add_batch(z)
        variance.add_batch(z @ decoder + torch.from_numpy(weights["b_dec"]), x[rows.start : rows.stop])
    found = counts.compute()
    print(
        json.dumps(
            {
                "rows": n,
                "l0": l0.compute(),
                "f1": found.f1_score,
                "precision": found.precision,
                "recall": found.recall,
                "mcc": mean_correlation_coefficient(decoder, features),
                "uniqueness": feature_uniqueness(decoder, features),
                "ve": variance.compute(),
                "dead": dead.compute(),
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
