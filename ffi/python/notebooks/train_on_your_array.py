# %% [markdown]
# # Train on your array
# From activations in an array to a hierarchy that you can read in a browser. Needs `pip install strata-sae`.

# %%
import os
from pathlib import Path

import numpy as np

import strata_sae

# %% [markdown]
# Put your own array here: float32 or float16, `[rows, width]` or `[sequences, tokens, width]`. Without one, rows are drawn
# whose features are known: 24 parents with 5 children each.

# %%
if Path("acts.npy").exists():
    rows = np.load("acts.npy", mmap_mode="r")
else:
    rng = np.random.default_rng(0)
    parents = rng.standard_normal((24, 64)).astype(np.float32)
    children = 0.4 * rng.standard_normal((24, 5, 64)).astype(np.float32)
    rows = 0.05 * rng.standard_normal((100_000, 64)).astype(np.float32)
    for _ in range(3):                                   # three trees per row
        parent, child = rng.integers(0, 24, len(rows)), rng.integers(0, 5, len(rows))
        rows += (0.5 + rng.random((len(rows), 1), np.float32)) * (parents[parent] + children[parent, child])
print(rows.shape, rows.dtype)

# %% [markdown]
# Every setting has a default; `strata_sae.settings()` lists them. Two matter: how many latents there are, and how many of them
# fire on a row.

# %%
steps = int(os.environ.get("STRATA_STEPS", 1500))
run = strata_sae.train(
    rows, out="run", level1={"latents": 64, "k": 4}, level2={"latents": 256, "k": 4}, train={"steps": steps}
)
print(run, run.summary["held_out"])

# %% [markdown]
# Metrics on rows that the training did not see, and a verdict on the hierarchy.

# %%
found = run.eval()
for level in ("level1", "level2"):
    print(level, f"leaves {found['fidelity'][level]['fvu']:.3f} of the variance unexplained")
print("Is the hierarchy real?", found["verdict"]["sentence"])

# %% [markdown]
# The page with all of it: in a notebook this cell shows it.

# %%
report = run.report()
report

# %% [markdown]
# The model on rows: sparse codes of both levels.

# %%
sae = run.sae
codes = sae.encode(rows[:1000])
print(codes)
latents, values = codes.level1.topk(3)
print("the three strongest parents of row 0:", latents[0], values[0])
print("children of the first:", sae.children(int(latents[0, 0])))
print("reconstruction:", np.square(rows[:1000] - sae.decode(codes)).mean())
