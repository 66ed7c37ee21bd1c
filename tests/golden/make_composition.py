#!/usr/bin/env python3
"""Writes composition.safetensors: associations of scikit-learn 1.9, entropies and moments of SciPy 1.17."""
import pathlib
import numpy as np
from safetensors.numpy import save_file
from scipy import stats
from sklearn import metrics

r = np.random.default_rng(11)
n, f1, f2, classes = 300, 5, 12, 4
ROOT = np.uint32(2**32 - 1)
parent = np.array([0, 0, 0, 1, 1, 2, 2, 2, 2, 3, ROOT, ROOT], np.uint32)
group = r.integers(0, classes, n).astype(np.uint32)
on1 = r.random((n, f1)) < np.array([.4, .3, .5, .2, .1])
mask = np.stack([np.ones(n, bool) if p == ROOT else on1[:, p] for p in parent], 1)
# Children fire mostly, not only, with their parents, and more often in one class.
p2 = np.where(mask, .35, .04) * np.where(group[:, None] == np.arange(f2) % classes, 2., .6)
on2 = r.random((n, f2)) < p2
z1, z2 = ((on * r.lognormal(0, .6, on.shape)).astype(np.float32) for on in (on1, on2))

out = dict(z1=z1, z2=z2, parent=parent, group=group)
edges = [j for j in range(f2) if parent[j] != ROOT]
out['phi'] = np.array([metrics.matthews_corrcoef(on1[:, parent[j]], on2[:, j]) for j in edges])
out['jaccard'] = np.array([metrics.jaccard_score(on1[:, parent[j]], on2[:, j]) for j in edges])
mutual = lambda a, b: np.log((a & b).mean() / a.mean() / b.mean()) / -np.log((a & b).mean())
out['npmi'] = np.array([mutual(on1[:, parent[j]], on2[:, j]) for j in edges])
out['bits'] = np.array([
    stats.entropy([(on1[:, i] & on2[:, j]).sum() for j in range(f2) if parent[j] == i], base=2) for i in range(4)])
out['hamming'] = np.array([metrics.zero_one_loss(on1[:, i], on2[:, parent == i].any(1)) for i in range(4)])
out['l0_correlation'] = np.array([stats.pearsonr(on1.sum(1), on2.sum(1)).statistic])
out['cv'] = np.array([stats.variation(z2[on2[:, j], j].astype(np.float64)) for j in range(f2)])
tokens = np.bincount(group, minlength=classes)
out['class_bits'] = np.array(
    [stats.entropy(np.bincount(group[on2[:, j]], minlength=classes), tokens, base=2) for j in range(f2)])

save_file({k: np.ascontiguousarray(v) for k, v in out.items()}, pathlib.Path(__file__).parent / 'composition.safetensors')
