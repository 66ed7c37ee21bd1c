"""What Python pays: `Sae.encode` of the installed package beside `strata_encode` of the C library, on the same rows.

usage: python ffi/bench/python.py libstrata.so [D F1 F2 [SECONDS]]      (needs strata_sae and numpy)
The model has random weights, a hard gate, families of eight, and some 16 parents and 32 children active on a row. The C call has
its structs and buffers made beforehand, and one thread, as the package has here. ctypes adds about a microsecond to it.
"""
import ctypes as c
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "examples"))
import minimal  # noqa: E402

import strata_sae  # noqa: E402


def write_model(place, d, f1, f2, rng):
    """The files of a model: thresholds, in units of the standard deviation of a pre-activation, are what keeps 16 of `f1` parents
    and a fourth of the children of each."""
    def unit(n):
        rows = rng.standard_normal((n, d)).astype(np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    threshold = [statistics.NormalDist().inv_cdf(1 - share) for share in (min(16 / f1, 0.5), 0.25)]
    level1, level2 = unit(f1), unit(f2)
    tensors = {
        "b_dec": np.zeros(d, np.float32), "level1.w_enc": level1, "level1.b_enc": np.full(f1, -threshold[0], np.float32),
        "level1.w_dec": level1, "level2.w_enc": level2, "level2.b_enc": np.full(f2, -threshold[1], np.float32), "level2.w_dec": level2,
        "parent": (np.arange(f2) // 8 % f1).astype(np.uint32),
    }
    header, at = {}, 0
    for name, x in tensors.items():
        header[name] = {"dtype": "U32" if x.dtype == np.uint32 else "F32", "shape": x.shape, "data_offsets": [at, at + x.nbytes]}
        at += x.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    (place / "sae_weights.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + b"".join(x.tobytes() for x in tensors.values()))
    architecture = {"model": "tree", "d": d, "f1": f1, "f2": f2, "activation1": "relu", "activation2": "relu", "k1": 16, "k2": 32,
                    "source": "x", "decoder": "cum", "gate": "hard"}
    (place / "cfg.json").write_text(json.dumps({"format": "strata-sae", "version": 1, "architecture": architecture}))


def measure(*functions, seconds=4.0):
    """Processor seconds per call of each, in rounds of a few milliseconds in which they take turns: the median, the least, and the
    median of the differences to the last one. Other programs on the machine lengthen the time on the clock much more."""
    once = []
    for f in functions:
        f(), f()
        start = time.process_time()
        f()
        once.append(max(time.process_time() - start, 1e-6))
    calls = [max(1, int(0.005 / t)) for t in once]
    found = [[] for _ in functions]
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(found[0]) < 15:
        for f, n, times in zip(functions, calls, found):
            f()                                     # the other one has had the cache
            start = time.process_time()
            for _ in range(n):
                f()
            times.append((time.process_time() - start) / n)
    return [(statistics.median(times), min(times), statistics.median(a - b for a, b in zip(times, found[-1]))) for times in found]


def main():
    library, *sizes = sys.argv[1:]
    d, f1, f2, seconds = map(int, [*sizes, *(768, 1024, 8192, 4)[len(sizes):]])
    strata_sae.set_threads(1)
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((4096, d)).astype(np.float32)
    with tempfile.TemporaryDirectory() as place:
        write_model(Path(place), d, f1, f2, rng)
        sae, by_c = strata_sae.Sae.load(place), minimal.Sae(place, library)
        codes = sae.encode(rows)
        print(f"d {d}, {f1} + {f2} latents, {len(codes.level1.values) / 4096:.1f} + {len(codes.level2.values) / 4096:.1f} active per row")
        for n in (1, 4096):
            x = np.ascontiguousarray(rows[:n])
            info = by_c.info
            given = minimal.Rows(c.sizeof(minimal.Rows), x.ctypes.data, *x.shape, x.strides[0], 0)
            most = (info.max_active1, info.max_active2)
            out = [(np.zeros(n + 1, np.uintp), np.empty(n * k, np.uint32), np.empty(n * k, np.float32)) for k in most]
            codes = [minimal.Codes(c.sizeof(minimal.Codes), o.ctypes.data, n + 1, i.ctypes.data, v.ctypes.data, len(i)) for o, i, v in out]
            arguments = (by_c.ctx, c.byref(given), c.byref(codes[0]), c.byref(codes[1]))
            call = lambda: by_c.lib.strata_encode(*arguments)
            assert call() == 0
            ours = sae.encode(x)
            np.testing.assert_array_equal(ours.level2.values, out[1][2][: codes[1].n])
            (python, python_min, more), (there, there_min, _) = measure(lambda: sae.encode(x), call, seconds=seconds)
            print(f"{n} rows: Sae.encode {python * 1e6:.2f} us, strata_encode {there * 1e6:.2f} us: {more * 1e6:+.2f} us, "
                  f"{100 * more / there:+.2f} % (fastest rounds: {1e6 * (python_min - there_min):+.2f} us, "
                  f"{100 * (python_min / there_min - 1):+.2f} %)")


if __name__ == "__main__":
    main()
