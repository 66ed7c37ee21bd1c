# %% [markdown]
# # Use a model of Strata in SAELens
# Needs `pip install "strata-sae[saelens]"`.

# %%
import os

import numpy as np
import torch
from sae_lens import SAE

import strata_sae
from strata_sae.saelens import register_saelens, to_saelens

# %%
if not os.path.exists("rows"):
    strata_sae.command("synth", "--world", "a", "--rows", 30_000, "--out", "rows")
steps = int(os.environ.get("STRATA_STEPS", 1500))
run = strata_sae.train("rows", out="run", level1={"latents": 64, "k": 5}, level2={"latents": 192, "k": 6}, train={"steps": steps})

# %% [markdown]
# Both levels with their families: SAELens loads them after `register_saelens()`.

# %%
register_saelens()
to_saelens(run, "for-saelens", part="tree", model="me/model", hook="blocks.1.hook_resid_post")
lens = SAE.load_from_disk("for-saelens")

# %%
x = np.random.default_rng(0).standard_normal((100, lens.cfg.d_in)).astype(np.float32)
theirs = lens.encode(torch.from_numpy(x)).detach().numpy()
ours = run.sae.encode(x).dense()
print("largest difference of a latent:", np.abs(theirs - ours).max())
print("latents that differ by more than rounding:", int((np.abs(theirs - ours) > 1e-3).sum()), "of", ours.size)
