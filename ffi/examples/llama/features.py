"""What the checks of the program's output need to know of a run: its codes on a dump, as `strata encode` writes them.

usage: features.py parent CODES DUMP HF_DIRECTORY    the parent that is most about capital letters
       features.py watched CODES FILE                does what `strata-llama watch` printed, in FILE, agree with the codes?
       features.py steered FILE                      has what `strata-llama steer` printed, in FILE, gained capital letters?
"""
import pathlib
import re
import sys

import numpy as np
from safetensors.numpy import load_file

from compare import check, read_dump
from hf import Model


def codes(file, level):
    """[{latent: activation}] of every row."""
    c = load_file(file)
    indptr, index, value = (c[f"z{level}.{part}"] for part in ("indptr", "indices", "values"))
    return [dict(zip(index[a:b].tolist(), value[a:b].tolist())) for a, b in zip(indptr[:-1], indptr[1:])]


def parent(file, dump, directory):
    capital = np.array([c.isupper() for c in Model(directory).characters()])
    rows = codes(file, 1)
    tokens = read_dump(dump)[1].reshape(-1)
    total, on_capitals, fires = (np.zeros(1 + max(max(r, default=0) for r in rows)) for _ in range(3))
    for row, is_capital in zip(rows, capital[tokens]):
        for latent, value in row.items():
            total[latent] += value
            on_capitals[latent] += value * is_capital
            fires[latent] += 1
    share = np.where(fires > len(rows) / 100, on_capitals / np.maximum(total, 1e-9), 0)
    print(int(share.argmax()))


def watched(file, printed):
    """Each line has a token, parents and, in brackets after its parent or after ROOT, children."""
    levels = [codes(file, level) for level in (1, 2)]
    lines = pathlib.Path(printed).read_text().splitlines()
    check(0 < len(lines) <= len(levels[0]), f"{len(lines)} lines, {len(levels[0])} rows")
    entry = re.compile(r"(\d+)=([\d.]+)")
    for i, line in enumerate(lines):
        parts = line.split(maxsplit=1)[1]
        inside = "".join(re.findall(r"\(.*?\)", parts))
        outside = re.sub(r"\(.*?\)", "", parts)
        for level, text in ((0, outside), (1, inside)):
            found = {int(latent): float(value) for latent, value in entry.findall(text)}
            expected = levels[level][i]
            check(found.keys() == expected.keys(), f"line {i + 1}: other latents of level {level + 1} than strata encode says")
            check(all(abs(found[k] - expected[k]) < 0.006 for k in found), f"line {i + 1}: other activations")
    print(f"  {len(lines)} tokens have the features that strata encode says")


def steered(printed):
    _, before, after, last = re.split(r"^---.*\n", pathlib.Path(printed).read_text(), flags=re.MULTILINE)
    share = lambda text: sum(c.isupper() for c in text) / len(text)
    print(f"  capital letters: {share(before):.0%} before, {share(after):.0%} after")
    check(share(after) > share(before) + 0.1, "steering did not bring capital letters")
    off = re.search(r"control vector are off by up to (\S+)", last)
    check(off and float(off[1]) < 1e-3, "strata_steer and llama.cpp's control vector do not agree")


if __name__ == "__main__":
    commands = {"parent": parent, "watched": watched, "steered": steered}
    if len(sys.argv) < 3 or sys.argv[1] not in commands:
        raise SystemExit(__doc__)
    commands[sys.argv[1]](*sys.argv[2:])
