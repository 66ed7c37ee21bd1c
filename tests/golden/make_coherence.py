#!/usr/bin/env python3
"""Writes coherence.safetensors: cluster scores of scikit-learn 1.9, divergences of SciPy 1.17, intervals of numpy."""
import pathlib
import numpy as np
from safetensors.numpy import save_file
from scipy.spatial.distance import jensenshannon
from sklearn import metrics

r = np.random.default_rng(3)
out = {}


def unit(x):
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


# Clusters that are planted, clusters at random, and one with singletons.
for name, (n, k, d, noise) in dict(planted=(120, 9, 24, .15), random=(90, 14, 17, 9.), singles=(50, 24, 8, .3)).items():
    label = np.concatenate([np.arange(k), r.integers(0, k if name != 'singles' else 8, n - k)]).astype(np.uint32)
    x = unit(r.standard_normal((k, d))[label] + noise * r.standard_normal((n, d)))
    other = np.where(r.random(n) < .3, r.integers(0, k, n), label).astype(np.uint32)
    y = x.astype(np.float64)
    out |= {f'{name}.x': x, f'{name}.label': label, f'{name}.other': other}
    for score, value in dict(
            silhouette=metrics.silhouette_score(y, label, metric='cosine'),
            calinski_harabasz=metrics.calinski_harabasz_score(y, label),
            davies_bouldin=metrics.davies_bouldin_score(y, label),
            ari=metrics.adjusted_rand_score(label, other),
            ami=metrics.adjusted_mutual_info_score(label, other)).items():
        out[f'{name}.{score}'] = np.array([value], np.float64)

p, q = (r.dirichlet(np.full(40, a), 12) for a in (.3, 1.))
p[0, :20], q[0, 20:] = 0, 0
p, q = p / p.sum(1, keepdims=True), q / q.sum(1, keepdims=True)
out |= {'jsd.p': p, 'jsd.q': q, 'jsd.jsd': jensenshannon(p, q, axis=1, base=2) ** 2}

# Area under the curve, with ties.
positive, negative = r.integers(0, 12, 70) + 3., r.integers(0, 12, 110) + 0.
auc = metrics.roc_auc_score(np.r_[np.ones(70), np.zeros(110)], np.r_[positive, negative])
beats = (positive[:, None] > negative) + (positive[:, None] == negative) / 2
sd = np.sqrt(beats.mean(1).var(ddof=1) / 70 + beats.mean(0).var(ddof=1) / 110)
out |= {'auc.positive': positive, 'auc.negative': negative, 'auc.auc': np.array([auc, sd])}

save_file({k: np.ascontiguousarray(v) for k, v in out.items()}, pathlib.Path(__file__).parent / 'coherence.safetensors')
