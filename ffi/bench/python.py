"""What Python pays: `Sae.encode` of the installed package beside `strata_encode` of the C library, on the same rows.

usage: python ffi/bench/python.py libstrata.so [D F1 F2 [SECONDS]]      (needs strata_sae and numpy)
The C call has its structs made beforehand, and one thread, as the package has here. ctypes adds about a microsecond to it.
"""
import ctypes as c
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "examples"))
import minimal  # noqa: E402

import strata_sae  # noqa: E402


def measure(*functions, seconds=4.0):
    """Processor seconds per call of each, in rounds in which they take turns: the median and the least. Other programs on the
    machine lengthen the time on the clock much more than this one."""
    once = []
    for f in functions:
        f(), f()
        start = time.process_time()
        f()
        once.append(max(time.process_time() - start, 1e-6))
    calls = [max(1, int(0.02 / t)) for t in once]
    found = [[] for _ in functions]
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for f, n, times in zip(functions, calls, found):
            start = time.process_time()
            for _ in range(n):
                f()
            times.append((time.process_time() - start) / n)
    return [(statistics.median(times), min(times)) for times in found]


def main():
    library, *sizes = sys.argv[1:]
    d, f1, f2, seconds = map(int, [*sizes, *(768, 1024, 8192, 4)[len(sizes):]])
    strata_sae.set_threads(1)
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as place:
        rows = rng.standard_normal((4096, d)).astype(np.float32)
        run = strata_sae.train(
            rows, f"{place}/run", level1={"latents": f1, "k": 16}, level2={"latents": f2, "k": 32}, progress=False,
            train={"steps": 4, "batch": 256}, gate={"start": 0.5, "min_count": 0, "freeze": 1.0}, data={"holdout": 0.0},
        )
        sae, by_c = run.sae, minimal.Sae(str(run.path), library)
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
            (python, python_min), (there, there_min) = measure(lambda: sae.encode(x), call, seconds=seconds)
            more = python - there
            print(f"{n} rows: Sae.encode {python * 1e6:.2f} us, strata_encode {there * 1e6:.2f} us: {more * 1e6:+.2f} us, "
                  f"{100 * more / there:+.2f} % (fastest rounds: {1e6 * (python_min - there_min):+.2f} us, "
                  f"{100 * (python_min / there_min - 1):+.2f} %)")


if __name__ == "__main__":
    main()
