#!/usr/bin/env python3
"""Writes recovery.safetensors: decoders, codes and truth of two small trees, and the scores of the numpy reference.

`scores` is the `evaluate` of the reference trainer of the tree benchmark, with two differences: a feature without a
match scores 0 and lies in no level (there, index -1 picks the last latent and counts as level 1), and an empty mean
is NaN (there, 0). The four scores that it does not have are computed here from their definitions.
"""
import pathlib
import numpy as np
from safetensors.numpy import save_file
from scipy.optimize import linear_sum_assignment

F = np.float32
ROOT = 2 ** 32 - 1


def unit(D): return D / (np.linalg.norm(D, axis=1, keepdims=True) + 1e-9)


def by_lift(n12, n1, n2, N):
    p1 = n1 / N
    pc = n12 / np.maximum(n2[:, None], 1e-9)
    return (pc * np.log(np.maximum(pc, 1e-6) / np.maximum(p1, 1e-6))).argmax(1)


def scores(V, tpar, A, D1, D2, Z1, Z2, pi, R, C):
    N, m1, n = len(A), len(D1), len(V)
    Z, D = np.concatenate([Z1, Z2], 1), np.concatenate([D1, D2])
    alive = (Z > 0).any(0)
    Cs = np.abs(unit(D) @ unit(V).T)
    li, fi = linear_sum_assignment(-Cs)
    mcc = Cs[li, fi].mean()
    real = (Z > 0).sum(0) >= 1e-3 * N
    Cm = np.where(real[:, None], Cs, 0)
    li, fi = linear_sum_assignment(-Cm)
    mccr = Cm[li, fi].mean()
    keep = Cm[li, fi] > 0
    li, fi = li[keep], fi[keep]
    match = np.full(n, -1)
    match[fi] = li
    has = match >= 0
    fires, gt = Z > 0, A > 0
    f1 = np.zeros(n)
    for f in np.nonzero(has)[0]:
        j = match[f]
        tp = (fires[:, j] & gt[:, f]).sum()
        f1[f] = 2 * tp / max(1, fires[:, j].sum() + gt[:, f].sum())
    cos = np.where(has, Cs[match, np.arange(n)], 0)
    leaf = np.arange(R, R + R * C)
    n2 = fires[:, m1:].sum(0)
    n12 = fires[:, m1:].T.astype(F) @ fires[:, :m1].astype(F)
    post = by_lift(n12, fires[:, :m1].sum(0), n2, N)
    par = post if pi is None else pi
    ok = 0
    for f in leaf:
        j, p = match[f], match[tpar[f]]
        ok += j >= m1 and 0 <= p < m1 and cos[f] > .7 and cos[tpar[f]] > .7 and par[j - m1] == p
    ab = []
    nf = fires.sum(0)
    for p in range(R):
        cand = np.nonzero(real & (Cs[:, p] > .5))[0]
        t = gt[:, R + p * C:R + (p + 1) * C].any(1)
        if len(cand) == 0:
            ab.append(1.)
            continue
        tp = (fires[:, cand] & gt[:, p:p + 1]).sum(0)
        f = 2 * tp / (nf[cand] + gt[:, p].sum())
        ab.append(1 - fires[t, cand[f.argmax()]].mean())
    isr = par >= m1
    pp = np.where(isr, 0, par)
    cond = n12[np.arange(len(par)), pp] / np.maximum(n2, 1)
    lift = cond / np.maximum(fires[:, :m1].mean(0)[pp], 1e-9)
    live = (n2 > 20) & ~isr
    flat = np.arange(R + R * C, n)
    s = dict(mcc=mcc, mcc_firing=mccr, n_firing=real.sum(), dead=(~alive).sum(), n_unmatched=(~has).sum(),
             cos_root=cos[:R].mean(), cos_leaf=cos[leaf].mean(), f1=f1.mean(), f1_root=f1[:R].mean(),
             f1_leaf=f1[leaf].mean(), root_in_level1=(has[:R] & (match[:R] < m1)).mean(),
             leaf_in_level2=(match[leaf] >= m1).mean(), edge_recall=ok / len(leaf), absorption=np.mean(ab),
             containment=cond[live].mean(), median_lift=np.median(lift[live]),
             edge_precision=ok / (~isr & real[m1:] & real[pp]).sum(),
             uniqueness=len(set(Cs[real].argmax(1))) / real.sum(),
             false_parent_rate=np.mean([match[f] >= m1 and cos[f] > .7 and not isr[match[f] - m1] for f in flat]))
    s.update(detection(Cs, fires, gt), **edges(Cs, real, par, isr, pp, m1, tpar))
    return {k: np.array(float(v)) for k, v in s.items()}, post


def detection(Cs, fires, gt):
    """ClassificationMetricsCalculator and feature_uniqueness of SAELens 6.54, by their definitions."""
    near = Cs.argmax(1)
    tp, nf, on = (fires & gt[:, near]).sum(0), fires.sum(0), gt[:, near].sum(0)
    p = np.where(nf > 0, tp / np.maximum(nf, 1), 0)
    r = np.where(on > 0, tp / np.maximum(on, 1), 0)
    f = np.where(p + r > 0, 2 * p * r / np.maximum(p + r, 1e-12), 0)
    return {'detection.precision': p.mean(), 'detection.recall': r.mean(), 'detection.f1': f.mean(),
            'detection.uniqueness': len(set(near)) / len(near)}


def edges(Cs, real, par, isr, pp, m1, tpar):
    near = Cs.argmax(1)
    own = np.nonzero(~isr & real[m1:] & real[pp])[0]
    ends = [(near[m1 + j], near[par[j]]) for j in own]

    def above(f):
        while tpar[f] >= 0:
            f = tpar[f]
            yield f

    chance = np.mean([b in above(a) for a, _ in ends for _, b in ends])
    return {'edges.edges': len(ends), 'edges.to_parent': np.mean([tpar[a] == b for a, b in ends]),
            'edges.to_ancestor': np.mean([b in above(a) for a, b in ends]), 'edges.to_ancestor_chance': chance,
            'edges.to_itself': np.mean([a == b for a, b in ends])}


def csr(Z):
    t, j = np.nonzero(Z)
    off = np.concatenate([[0], np.cumsum((Z != 0).sum(1))])
    return off.astype(np.uint32), j.astype(np.uint16), Z[t, j].astype(np.float16)


def case(out, name, seed, m1, m2, extra, N=2000, d=16, R=4, C=3, flat=3, learned=True):
    r = np.random.default_rng(seed)
    n = R + R * C + flat
    V = unit(r.standard_normal((n, d))).astype(F)
    tpar = np.full(n, -1)
    tpar[R:R + R * C] = np.repeat(np.arange(R), C)
    A = np.zeros((N, n), F)
    A[:, :R] = r.random((N, R)) < [.3, .2, .1, .05]
    child = r.integers(0, C + 1, (N, R))
    for p in range(R):
        for c in range(C):
            A[:, R + p * C + c] = A[:, p] * (child[:, p] == c)
    A[:, R + R * C:] = r.random((N, flat)) < .06
    # latents: noisy copies of features, in mixed levels, some of them twice, some of nothing, some that hardly fire
    src = np.concatenate([np.arange(n), r.integers(0, n, extra)])[:m1 + m2] if extra >= 0 else r.permutation(n)[:m1 + m2]
    D = V[src] + np.where(r.random(len(src)) < .2, .4, .08)[:, None] * r.standard_normal((len(src), d))
    Z = A[:, src] * (r.random((N, len(src))) > .15) * (.5 + r.random((N, len(src))))
    Z += (r.random((N, len(src))) < .01) * (.1 + r.random((N, len(src))))
    Z[:, R] = A[:, 0] * (A[:, R] == 0) * Z[:, R] + A[:, R]          # something to absorb
    drop = r.random(len(src)) < .1
    Z[:, drop] = 0                                                  # dead
    if drop.any(): Z[7, np.nonzero(drop)[0][0]] = 1.                # on one token: not firing
    if extra >= 0:                                                  # swap a few latents between the levels
        o = np.arange(len(src)); o[[1, R + 4]] = o[[R + 4, 1]]; o[[R + 1, len(o) - 1]] = o[[len(o) - 1, R + 1]]
        D, Z, src = D[o], Z[:, o], src[o]
    Z = Z.astype(np.float16).astype(F)
    D = (D * (.5 + r.random((len(src), 1)))).astype(F)
    D1, D2, Z1, Z2 = D[:m1], D[m1:], Z[:, :m1], Z[:, m1:]
    first = {int(f): i for i, f in reversed(list(enumerate(src[:m1])))}
    pi = np.array([first.get(int(tpar[f]), ROOT) for f in src[m1:]])
    wrong = r.random(m2) < .2
    pi[wrong] = r.integers(0, m1, wrong.sum())
    out.update({f'{name}.{k}': v for k, v in dict(directions=V, true_parent=np.where(tpar < 0, ROOT, tpar).astype(np.uint32),
               on=(A > 0).astype(np.uint8), decoder1=D1, decoder2=D2, parent=pi.astype(np.uint32)).items()})
    for l, z in ((1, Z1), (2, Z2)):
        for k, v in zip(('offsets', 'index', 'value'), csr(z)):
            out[f'{name}.{k}{l}'] = v
    for kind, p in (('learned', pi), ('posthoc', None)):
        s, post = scores(V, tpar, A, D1, D2, Z1, Z2, p, R, C)
        print(name, kind, {k: round(float(v), 4) for k, v in s.items()})
        out.update({f'{name}.{kind}.{k}': v for k, v in s.items()})
    out[f'{name}.post'] = post.astype(np.uint32)


if __name__ == '__main__':
    out = {}
    case(out, 'full', 3, 6, 21, 8)       # more firing latents than features
    case(out, 'few', 5, 4, 9, -1)        # fewer: unmatched features
    save_file(out, pathlib.Path(__file__).parent / 'recovery.safetensors')
