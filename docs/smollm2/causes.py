#!/usr/bin/env python3
"""Says why children of a run have no parent, from its codes.

usage: causes.py RUN CODES.safetensors      (CODES: what `strata encode RUN` wrote for its dump)

A child under ROOT passes no gate, so its codes are those of an encoder without one. For each living child under ROOT:

    one = max_p P(p | child),   two = max_{p, q} P(p or q | child)

over the tokens on which the child fires; `q` is the best addition to the best `p`. The chance of a cover is that of the same latents
on all tokens. Rows of special tokens, on which hundreds of latents fire, are left out.
"""

import re
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

ROOT = 2**32 - 1
# Fewer tokens say nothing about a share.
LEAST = 30
MOST_PER_ROW = 300


def by_row(codes, level, keep):
    indptr, index = codes[f"z{level}.indptr"].astype(np.int64), codes[f"z{level}.indices"]
    rows = np.repeat(np.arange(len(indptr) - 1), np.diff(indptr))
    kept = keep[rows]
    return rows[kept], index[kept].astype(np.int64)


def main():
    run, codes = Path(sys.argv[1]), load_file(sys.argv[2])
    weights = load_file(run / "sae/sae_weights.safetensors")
    bar = float(re.search(r"^root_below = ([0-9.]+)", (run / "config.toml").read_text(), re.M)[1])
    parent = weights["parent"]
    f1, f2 = len(weights["level1.w_dec"]), len(parent)
    sizes = sum(np.diff(codes[f"z{level}.indptr"].astype(np.int64)) for level in (1, 2))
    keep = sizes < MOST_PER_ROW
    rows1, index1 = by_row(codes, 1, keep)
    rows2, index2 = by_row(codes, 2, keep)
    n = int(keep.sum())
    starts = np.searchsorted(rows1, np.arange(len(keep) + 1))
    share1 = np.bincount(index1, minlength=f1) / n
    order = np.argsort(index2, kind="stable")
    rows2 = rows2[order]
    of = np.searchsorted(index2[order], np.arange(f2 + 1))
    cosines = np.abs(weights["level2.w_dec"] @ weights["level1.w_dec"].T)

    found = {"parent": [], "root": []}
    rare = 0
    for j in range(f2):
        rows = rows2[of[j] : of[j + 1]]
        if len(rows) < LEAST:
            rare += 1
            continue
        where = [index1[starts[r] : starts[r + 1]] for r in rows]
        counts = np.bincount(np.concatenate(where), minlength=f1)
        p = int(counts.argmax())
        left = [w for w in where if p not in w]
        more = np.bincount(np.concatenate(left), minlength=f1) if left else np.zeros(f1, int)
        q = int(more.argmax())
        one, two = counts[p] / len(rows), (counts[p] + more[q]) / len(rows)
        chance = share1[p]
        both = chance + share1[q] - chance * share1[q]
        # Covered more often than by the best parent's frequency alone.
        attached = max((counts / len(rows) - share1) / (1 - share1))
        kind = "root" if parent[j] == ROOT else "parent"
        found[kind].append((len(rows) / n, one, two, chance, both, attached, cosines[j].max()))

    root, parented = np.array(found["root"]), np.array(found["parent"])
    total = len(root) + len(parented)
    print(f"{f2} children on {n} rows: {rare} fire on fewer than {LEAST} of them, {len(parented)} have a parent, {len(root)} have none")
    print("\n| of the children under ROOT | share | of all |\n|---|---|---|")
    one, two, both, attached = root[:, 1], root[:, 2], root[:, 4], root[:, 5]
    excess = (two - both) / (1 - both)

    def line(name, mask):
        print(f"| {name} | {100 * mask.mean():.1f} % | {100 * mask.sum() / total:.1f} % |")

    line(f"one parent fires on {bar:g} of its tokens: it could have one", one >= bar)
    line(f"two parents together do, and are {bar:g} above chance", (one < bar) & (excess >= bar))
    line(f"two parents together do, but by chance", (one < bar) & (two >= bar) & (excess < bar))
    line("no two parents do", (one < bar) & (two < bar))
    line("the best parent is attached by less than .1", attached < 0.1)
    print("\n| | tokens per child, median | best parent covers | best two cover | attachment of the best | its cosine |\n|---|---|---|---|---|---|")
    for name, rows in (("with a parent", parented), ("under ROOT", root)):
        m = np.median(rows, axis=0)
        print(f"| {name} | {m[0] * n:.0f} | {m[1]:.2f} | {m[2]:.2f} | {m[5]:.2f} | {m[6]:.2f} |")
    thirds = np.quantile(np.concatenate([root[:, 0], parented[:, 0]]), [1 / 3, 2 / 3])
    parts = [("rarest third", -1, thirds[0]), ("middle third", *thirds), ("most frequent third", thirds[1], 2)]
    print("\n| children | under ROOT |\n|---|---|")
    for name, low, high in parts:
        a, b = [((r[:, 0] > low) & (r[:, 0] <= high)).sum() for r in (root, parented)]
        print(f"| {name} | {100 * a / max(1, a + b):.0f} % |")


if __name__ == "__main__":
    main()
