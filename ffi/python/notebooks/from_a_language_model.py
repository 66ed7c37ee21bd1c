# %% [markdown]
# # From a language model to a hierarchy
# Needs `pip install "strata-sae[torch]"`, and the model from a hub or a directory.

# %%
import os

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import strata_sae
from strata_sae import Edit
from strata_sae.torch import capture, hooked

name = os.environ.get("STRATA_MODEL", "HuggingFaceTB/SmolLM2-135M")
hook = os.environ.get("STRATA_HOOK", "model.layers.14")
tokenizer = AutoTokenizer.from_pretrained(name)
model = AutoModelForCausalLM.from_pretrained(name)

# %% [markdown]
# The activations after a block over your texts: any list of documents, or a generator.

# %%
if "STRATA_TEXT" in os.environ:
    texts = open(os.environ["STRATA_TEXT"], encoding="utf-8").read().split("\n\n")
else:
    texts = ["Put your documents here: a few million tokens make a good dictionary."] * 200
capture(model, tokenizer, texts, hook=hook, out="acts", context=128, max_tokens=int(os.environ.get("STRATA_TOKENS", 1_000_000)))

# %%
steps = int(os.environ.get("STRATA_STEPS", 4000))
run = strata_sae.train("acts", out="run", level1={"latents": 256}, level2={"latents": 1024}, train={"steps": steps})
run.eval()
run.report()

# %% [markdown]
# The cross-entropy with reconstructions in place of the activations.

# %%
batch = tokenizer(texts[0], return_tensors="pt", truncation=True, max_length=128)
with torch.no_grad():
    clean = model(**batch, labels=batch["input_ids"]).loss
    with hooked(model, run.sae, hook) as h:
        spliced = model(**batch, labels=batch["input_ids"]).loss
print(f"cross-entropy {clean:.3f}, with reconstructions {spliced:.3f}")
print("the strongest latents of the last token:", h.codes.topk(3)[0][0, -1])

# %% [markdown]
# And generation with a latent that is made stronger.

# %%
latent = int(h.codes.level1.topk(1)[0][-1, 0])
with hooked(model, run.sae, hook, splice=False, steer=Edit(latent, 4.0)):
    out = model.generate(**batch, max_new_tokens=20, do_sample=False)
print(tokenizer.decode(out[0][-20:]))
