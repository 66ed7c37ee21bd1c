#!/usr/bin/env python3
"""Writes probe.safetensors: probes of scikit-learn 1.9, and SAEBench's formulas for TPP and SCR in numpy, one token at a time."""
import pathlib
import numpy as np
from safetensors.numpy import save_file
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score

r = np.random.default_rng(11)
out = {}


def fit(x, y, **kw):
    m = LogisticRegression(solver='newton-cholesky', tol=1e-13, max_iter=1000, **kw).fit(x.astype(np.float64), y)
    return m.coef_[0], m.intercept_[0]


# Logistic regression: plain, weighted, ill-scaled columns far from 0, and classes that a plane divides.
for name, (n, d, c, balanced) in dict(plain=(200, 5, 1., False), weighted=(300, 20, .1, True), scaled=(250, 8, 2., False),
                                      separable=(60, 3, 10., False)).items():
    x = r.standard_normal((n, d))
    w = r.standard_normal(d)
    t = x @ w
    y = t > 0 if name == 'separable' else t + .7 + r.logistic(size=n) > (2. if name == 'weighted' else 0.)
    if name == 'scaled':
        x = x * 10. ** r.integers(-2, 3, d) + r.uniform(-50, 50, d)
        x[:, 3] = 7.  # says nothing
    x = x.astype(np.float32)
    coef, intercept = fit(x, y, C=c, class_weight='balanced' if balanced else None)
    out |= {f'{name}.x': x, f'{name}.y': y.astype(np.uint8), f'{name}.coef': coef,
            f'{name}.intercept': np.array([intercept]), f'{name}.c': np.array([c])}

# Sequences of tokens: directions of three classes and of two attributes, codes that see them through noise.
B, L, D, F, TRAIN = 240, 3, 10, 24, 160
cls, a, b = r.integers(0, 3, B), r.integers(0, 2, B), r.integers(0, 2, B)
dec = r.standard_normal((F, D))
dec[:5] = np.linalg.qr(r.standard_normal((D, D)))[0][:5]
dec /= np.linalg.norm(dec, axis=1, keepdims=True)
f = np.maximum(r.standard_normal((B, L, F)) - .8, 0)
for j, on in enumerate([cls == 0, cls == 1, cls == 2, a == 1, b == 1]):
    f[:, :, j] = on[:, None] * np.maximum(1 + .6 * r.standard_normal((B, L)), 0) + .3 * f[:, :, j]
f, dec = f.astype(np.float32), dec.astype(np.float32)
x = (f @ dec + .5 * r.standard_normal((B, L, D)) + .2).astype(np.float32)
out |= {'seq.x': x, 'seq.f': f, 'seq.dec': dec, 'seq.cls': cls.astype(np.uint8), 'seq.a': a.astype(np.uint8),
        'seq.b': b.astype(np.uint8)}
X, Fp = x.astype(np.float64).mean(1), f.astype(np.float64).mean(1)
train, test = np.arange(B) < TRAIN, np.arange(B) >= TRAIN

# k-sparse probes of class 0, on pooled codes.
y = cls == 0
diff = np.abs(Fp[train & y].mean(0) - Fp[train & ~y].mean(0))
for k in (1, 2, 5):
    top = np.argsort(-diff, kind='stable')[:k]
    coef, intercept = fit(Fp[train][:, top].astype(np.float32), y[train])
    called = Fp[test][:, top] @ coef + intercept > 0
    out[f'sparse.{k}'] = np.array([accuracy_score(y[test], called), f1_score(y[test], called), *top], np.float64)


def pooled_without(removed):
    """Mean over tokens of decode(f without `removed`) + (x - decode(f))."""
    g = f.astype(np.float64)
    error = x - g @ dec.astype(np.float64)
    g = g.copy()
    g[:, :, removed] = 0
    return (g @ dec.astype(np.float64) + error).mean(1)


def accuracy(probe, rows, labels, removed=()):
    coef, intercept = probe
    return ((pooled_without(list(removed))[rows] @ coef + intercept > 0) == labels).mean()


def strongest(probe, rows, labels, n, scr):
    delta = Fp[rows][labels].mean(0) - Fp[rows][~labels].mean(0)
    reach = dec.astype(np.float64) @ probe[0]
    effect = np.abs(delta * reach) if scr else np.maximum(delta, 0) * reach
    order = np.argsort(-effect, kind='stable')
    return [j for j in order[:n] if effect[j] > 0]


idx_train, idx_test = np.nonzero(train)[0], np.nonzero(test)[0]
x32 = X.astype(np.float32)
probes = [fit(x32[train], cls[train] == c) for c in range(3)]
clean = [accuracy(probes[c], idx_test, cls[test] == c) for c in range(3)]
out['tpp.clean'] = np.array(clean)
for n in (2, 5, 20):
    loss = np.zeros((3, 3))
    for i in range(3):
        removed = strongest(probes[i], idx_train, cls[train] == i, n, False)
        for c in range(3):
            loss[i, c] = clean[c] - accuracy(probes[c], idx_test, cls[test] == c, removed)
    intended, unintended = np.diag(loss).mean(), loss[~np.eye(3, dtype=bool)].mean()
    out[f'tpp.{n}'] = np.array([intended - unintended, intended, unintended])

biased_rows = np.nonzero(train & (a == b))[0]
pa, pb = fit(x32[train], a[train] == 1), fit(x32[train], b[train] == 1)
biased = fit(x32[biased_rows], a[biased_rows] == 1)
acc_a, acc_b = (accuracy(biased, idx_test, v[test] == 1) for v in (a, b))
clean_a, clean_b = accuracy(pa, idx_test, a[test] == 1), accuracy(pb, idx_test, b[test] == 1)
out['scr.accuracy'] = np.array([clean_a, clean_b, acc_a, acc_b])
for n in (1, 2, 5):
    without_b = strongest(pb, idx_train, b[train] == 1, n, True)
    without_a = strongest(pa, idx_train, a[train] == 1, n, True)
    dir1 = (accuracy(biased, idx_test, a[test] == 1, without_b) - acc_a) / (clean_a - acc_a)
    dir2 = (accuracy(biased, idx_test, b[test] == 1, without_a) - acc_b) / (clean_b - acc_b)
    out[f'scr.{n}'] = np.array([dir1 if acc_a <= acc_b else dir2, dir1, dir2])

save_file({k: np.ascontiguousarray(v) for k, v in out.items()}, pathlib.Path(__file__).parent / 'probe.safetensors')
for k in out:
    if k.startswith(('sparse', 'tpp', 'scr')):
        print(k, out[k])
