"""How the cost of Strata grows: `scaling.sh` starts this. One process per cell, one table per question, rows of random numbers.

    latents   training and encoding, F from 4k to 128k
    batch     training, batch 1 to 4096; encoding, n = 1 to 4096
    threads   both, 1 and 2
    rows      training on dumps of 1e5 to 1e7 rows: speed and memory should not know
"""

import argparse
import json
import random
import struct
import sys
from pathlib import Path

from contenders import Lab, train_strata

D = 256
MIB = 1 << 20
SHAPE = dict(d=D, latents=16384, k=32, batch=1024, lr=1e-3)


def dump(lab, rows, d):
    """A .npy of f16 rows: a block of numbers, over and over, each time rotated by another number of them."""
    path = lab.data / f"random-{rows}-{d}.npy"
    if not path.exists():
        rng = random.Random(0)
        some = 4096 * d
        block = b"".join(struct.pack("<e", rng.gauss(0, 1)) for _ in range(some))
        header = f"{{'descr': '<f2', 'fortran_order': False, 'shape': ({rows}, {d}), }}".encode()
        header = header.ljust((len(header) + 11 + 63) // 64 * 64 - 11) + b"\n"
        with open(path.with_suffix(".tmp"), "wb") as file:
            file.write(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header)
            left = rows * d * 2
            while left > 0:
                turn = 2 * rng.randrange(some)
                part = (block[turn:] + block[:turn])[:left]
                file.write(part)
                left -= len(part)
        path.with_suffix(".tmp").rename(path)
    return path.name


def train(lab, rows, steps, **shape):
    """One training: tokens/s of its steps, peak memory."""
    shape = {**SHAPE, **shape}
    shape["rows"] = dump(lab, rows, shape["d"])
    settings = {"train.log_every": 1, "data.stats_rows": 4096, "data.holdout": min(0.1, 4096 / rows)}
    return train_strata(lab, "scaling", shape, steps, 2, **settings)


def encode(lab, latents, n, threads):
    """The encoder alone, with random weights."""
    sizes = ["--random", f"{D},{latents},0,{SHAPE['k']},0"]
    return lab.run([lab.args.encode, *sizes, "--n", n, "--threads", threads, "--seconds", 1], f"encode F={latents} n={n}")


def steps_for(batch, latents, quick):
    """A number of steps that is enough for a median and takes some seconds."""
    tokens = (1 << 30) // latents // (4 if quick else 1)
    return max(6, min(tokens // batch, 60))


def latents(lab, quick):
    yield "| F | training, tokens/s | peak MiB | parameters x 16 bytes, MiB | encode n = 256, tokens/s | of the dense bound |"
    yield "|---|---|---|---|---|---|"
    for f in (4096, 8192, 16384, 32768, 65536, 131072):
        t = train(lab, 100_000, steps_for(1024, f, quick), latents=f)
        e = encode(lab, f, 256, lab.args.threads)
        params = 16 * (2 * D * f + f + D) / MIB
        yield (
            f"| {f:,} | {t['tokens_per_s']:,.0f} | {t['peak_resident_bytes'] / MIB:,.0f} | {params:,.0f} |"
            f" {e['tokens_per_s']:,.0f} | {e['dense_flop_share_of_peak']:.0%} |"
        )


def batch(lab, quick):
    yield "| batch | training, tokens/s | ms per step | encode, tokens/s | us per call |"
    yield "|---|---|---|---|---|"
    for n in (1, 4, 16, 64, 256, 1024, 4096):
        t = train(lab, 100_000, steps_for(n, SHAPE["latents"], quick), batch=n)
        e = encode(lab, SHAPE["latents"], n, lab.args.threads)
        yield (
            f"| {n} | {t['tokens_per_s']:,.0f} | {n / t['tokens_per_s'] * 1e3:,.1f} | {e['tokens_per_s']:,.0f} |"
            f" {e['call_us']:,.0f} |"
        )


def threads(lab, quick):
    yield "| threads | training, tokens/s | cpu us per token | encode n = 256, tokens/s |"
    yield "|---|---|---|---|"
    most = lab.args.threads
    for count in sorted({1, most}):
        lab.args.threads = count
        t = train(lab, 100_000, steps_for(1024, SHAPE["latents"], quick))
        e = encode(lab, SHAPE["latents"], 256, count)
        yield f"| {count} | {t['tokens_per_s']:,.0f} | {t['cpu_us_per_token']:,.1f} | {e['tokens_per_s']:,.0f} |"
    lab.args.threads = most


def rows(lab, quick):
    yield "| rows | dump, MiB | training, tokens/s | peak MiB |"
    yield "|---|---|---|---|"
    for n in (100_000, 1_000_000, 10_000_000):
        # Narrow rows, so that the largest dump is 1.3 GB.
        t = train(lab, n, 60, d=64, latents=4096, batch=4096)
        yield f"| {n:,} | {n * 64 * 2 / MIB:,.0f} | {t['tokens_per_s']:,.0f} | {t['peak_resident_bytes'] / MIB:,.1f} |"


TABLES = {
    "latents": (f"latents: d = {D}, k = 32, batch 1024, flat top-k", latents),
    "batch": (f"batch: d = {D}, F = {SHAPE['latents']:,}, k = 32", batch),
    "threads": (f"threads: d = {D}, F = {SHAPE['latents']:,}, k = 32, batch 1024", threads),
    "rows": ("rows: d = 64, F = 4,096, k = 32, batch 4096, 60 steps", rows),
}


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("tables", nargs="*", metavar="TABLE", help="which [default: all]")
    p.add_argument("--quick", action="store_true", help="a quarter of the steps")
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--wrap", default="", help="a command to put before each measured one")
    for name in ("data", "out", "strata", "encode"):
        p.add_argument(f"--{name}", required=True, help=argparse.SUPPRESS)
    args = p.parse_args()
    lab = Lab(args)
    text = []
    for name in args.tables or TABLES:
        if name not in TABLES:
            sys.exit(f"table {name}: expected one of {', '.join(TABLES)}")
        title, lines = TABLES[name]
        text += [f"## Growth with {title}", "", *lines(lab, args.quick), ""]
    (lab.out / "scaling.md").write_text("\n".join(text))
    print("\n".join(text))


if __name__ == "__main__":
    main()
