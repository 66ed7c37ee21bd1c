"""Times topk(relu(x W + b), k) in PyTorch, on the weights of a run of Strata and the rows that it is timed on.

Both layouts of W and both orders of the result are tried, under inference mode and into buffers made before where that is
possible; the fastest counts. One line of JSON.
"""

import argparse
import json
import time

import numpy as np
import torch
from safetensors.torch import load_file

from rows import Dump, peak_resident_bytes


def ways(w, b, k, n):
    """Each way to compute it, as a function of the rows, with the n x F products in a buffer made before."""
    across = w.t().contiguous()
    buffer = torch.empty(n, len(w))
    for name, weights in (("W (d, F)", across), ("W (F, d), transposed", w.t())):
        for order in (False, True):

            def call(x, weights=weights, order=order):
                return torch.addmm(b, x, weights, out=buffer).relu_().topk(k, sorted=order)

            yield f"{name}, {'sorted' if order else 'unsorted'}", call


def measure(call, batches, seconds):
    for x in batches[:2]:
        call(x)
    took = []
    started, cpu = time.perf_counter(), time.process_time()
    while time.perf_counter() - started < seconds or len(took) < 3:
        x = batches[len(took) % len(batches)]
        before = time.perf_counter()
        call(x)
        took.append(time.perf_counter() - before)
    return float(np.median(took)), time.process_time() - cpu, time.perf_counter() - started, len(took)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--sae", required=True, help="the directory sae of a flat run")
    p.add_argument("--rows", required=True)
    p.add_argument("--k", type=int, required=True)
    p.add_argument("--n", type=int, required=True)
    p.add_argument("--from", dest="start", type=int, default=0)
    p.add_argument("--threads", type=int, required=True)
    p.add_argument("--seconds", type=float, default=3.0)
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    saved = load_file(f"{a.sae}/sae_weights.safetensors")
    w = saved["level1.w_enc"]
    # (x - b_dec) W + b in one product.
    b = (saved["level1.b_enc"].double() - w.double() @ saved["b_dec"].double()).float()
    dump = Dump(a.rows)
    rows = dump.read(a.start, max(16 * a.n, 4096))
    batches = [part for part in rows.split(a.n) if len(part) == a.n]
    with torch.inference_mode():
        calls = dict(ways(w, b, a.k, a.n))
        value, _ = next(iter(calls.values()))(batches[0])
        total, l0 = float(value.double().sum()), float((value > 0).sum() / a.n)
        quick = {name: measure(call, batches, a.seconds / 10)[0] for name, call in calls.items()}
        best = min(quick, key=quick.get)
        median, cpu, wall, n_calls = measure(calls[best], batches, a.seconds)
    print(json.dumps({
        "tokens_per_s": a.n / median, "call_us": median * 1e6, "calls": n_calls, "wall_s": wall, "cpu_s": cpu,
        "way": best, "n": a.n, "threads": a.threads, "sum": total, "l0": l0, "peak_resident_bytes": peak_resident_bytes(),
    }))


if __name__ == "__main__":
    main()
