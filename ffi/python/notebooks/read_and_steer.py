# %% [markdown]
# # Read latents, and steer
# What do the latents of a language model mean, and what happens if one is changed? Needs `pip install strata-sae scipy
# safetensors`; the language model (4 blocks, width 128, characters) and its text are embedded in Strata.

# %%
import json
import os
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

import strata_sae
from strata_sae import Edit

# %% [markdown]
# The residual stream after block 1, with the token of every row.

# %%
if not Path("acts").exists():
    strata_sae.command("capture", "--layer", 1, "--max-tokens", 100_000, "--out", "acts")
steps = int(os.environ.get("STRATA_STEPS", 1500))
run = strata_sae.train("acts", out="run", level1={"latents": 128}, level2={"latents": 512}, train={"steps": steps})
run.eval()

# %% [markdown]
# `run.latents` has what the evaluation found of each: here the parents that fire most, with what they fire on.

# %%
parents = [latent for latent in run.latents if latent["level"] == 1]
print(sorted(parents[0]))                                # what is known of a latent: docs/formats.md
sae = run.sae

# %% [markdown]
# The same by hand: the rows, their tokens, and the latents that fire on them.

# %%
about = json.loads(Path("acts/dump.json").read_text())
shard = about["shards"][0]
rows = load_file(f"acts/{shard['file']}")["activations"]
tokens = load_file("acts/tokens.safetensors")["tokens"][: len(rows)]
vocab = json.loads(Path("acts/vocab.json").read_text())
text = "".join(vocab[i] for i in tokens[:200])
print(text)
codes = sae.encode(rows[:20_000])
matrix = codes.level1.to_scipy().tocsc()
often = np.argsort(-np.diff(matrix.indptr))[:5]
for latent in often:
    column = matrix[:, latent]
    best = column.indices[np.argsort(-column.data)[:10]]
    print(f"parent {latent}:", [vocab[tokens[i]] for i in best], "children", sae.children(int(latent))[:8])

# %% [markdown]
# Steering changes the rows, not the codes: what the latents do not explain stays as it is.

# %%
latent = int(often[0])
louder = sae.steer(rows[:100], Edit(latent, 5.0))
without = sae.steer(rows[:100], Edit(latent, 0.0, mode="set"))
before, after = sae.encode(rows[:100]).level1.dense(), sae.encode(without).level1.dense()
print("mean activation before", before[:, latent].mean(), "and without", after[:, latent].mean())
print("how far the rows moved:", np.linalg.norm(louder.astype(np.float32) - rows[:100], axis=1).mean())
