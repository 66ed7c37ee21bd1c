"""Prints the versions of the peers, and the libraries and instruction set of torch, as one line of JSON."""

import json
import platform
import time
from importlib.metadata import version

import torch

n, d, f = 1024, 384, 12288
x, w, out = torch.randn(n, d), torch.randn(d, f), torch.empty(n, f)
took = []
for _ in range(8):
    before = time.perf_counter()
    torch.mm(x, w, out=out)
    took.append(time.perf_counter() - before)
config = torch.__config__.show()
print(json.dumps({
    "python": platform.python_version(), "torch": torch.__version__, "sae-lens": version("sae-lens"),
    "threads": torch.get_num_threads(), "mkl": torch.backends.mkl.is_available(), "cuda": torch.cuda.is_available(),
    "config": [line.strip(" -") for line in config.splitlines() if "Math Kernel" in line or "CPU capability" in line],
    "sgemm_flop_per_s": 2 * n * d * f / min(took),
}))
