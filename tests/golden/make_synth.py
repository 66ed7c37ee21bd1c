#!/usr/bin/env python3
"""Writes synth.json: how often the features of worlds of SAELens' generator (sae-lens 6.54) fire, and what SynthSAEBench-16k looks like."""
import json
import logging
import pathlib
import torch
from sae_lens.synthetic import (FoldedNormalMagnitudeConfig, HierarchyConfig, LinearMagnitudeConfig, LowRankCorrelationConfig,
                                SyntheticModel, SyntheticModelConfig, ZipfianFiringProbabilityConfig)

logging.disable(logging.WARNING)
torch.manual_seed(1)
out = {}


def sampled(model, n, batch):
    for _ in range(n // batch):
        yield model.sample_with_features(batch_size=batch)


# Magnitudes with hardly a deviation, so that none is cut at 0. The first world has probabilities that compensation cannot reach.
for name, low, high in [("clamped", 0.01, 0.4), ("free", 0.002, 0.8)]:
    cfg = SyntheticModelConfig(
        num_features=220, hidden_dim=8, bias=0.0, seed=3,
        firing_probability=ZipfianFiringProbabilityConfig(max_prob=high, min_prob=low, exponent=0.5),
        hierarchy=HierarchyConfig(total_root_nodes=10, branching_factor=3, max_depth=2, mutually_exclusive_portion=1.0,
                                  compensate_probabilities=True, scale_children_by_parent=True),
        mean_firing_magnitudes=LinearMagnitudeConfig(start=5.0, end=4.0), std_firing_magnitudes=LinearMagnitudeConfig(start=1e-3, end=1e-3))
    fires, n = torch.zeros(220), 400000
    for _, features in sampled(SyntheticModel(cfg), n, 20000):
        fires += (features > 0).sum(0)
    out[name] = {"p_min": low, "p_max": high, "tokens": n, "fires": [int(f) for f in fires]}

cfg = SyntheticModelConfig(
    num_features=16384, hidden_dim=768, bias=0.5, seed=42,
    firing_probability=ZipfianFiringProbabilityConfig(max_prob=0.4, min_prob=5e-4, exponent=0.5),
    hierarchy=HierarchyConfig(total_root_nodes=128, branching_factor=4, max_depth=3, mutually_exclusive_portion=1.0,
                              mutually_exclusive_min_depth=0, compensate_probabilities=True, scale_children_by_parent=True),
    correlation=LowRankCorrelationConfig(rank=25, correlation_scale=0.1),
    mean_firing_magnitudes=LinearMagnitudeConfig(start=5.0, end=4.0), std_firing_magnitudes=FoldedNormalMagnitudeConfig(mean=0.5, std=0.5))
of_depth = torch.repeat_interleave(torch.arange(5), torch.tensor([128, 512, 2048, 8192, 5504]))
fires, squares, l0, n = torch.zeros(16384), torch.zeros(16384), [], 8192
for _, features in sampled(SyntheticModel(cfg), n, 512):
    fires += (features > 0).sum(0)
    squares += features.square().sum(0)
    l0.append((features > 0).sum(1).float())
l0 = torch.cat(l0)
by_depth = lambda of: [float(of[of_depth == depth].sum()) / n for depth in range(5)]
out["bench"] = {"tokens": n, "l0_mean": float(l0.mean()), "l0_std": float(l0.std()), "l0_of_depth": by_depth(fires), "energy_of_depth": by_depth(squares)}
(pathlib.Path(__file__).parent / "synth.json").write_text(json.dumps(out) + "\n")
print(out["bench"])
