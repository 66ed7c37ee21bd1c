"""Model cards."""
from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._sae import Sae


def card(name: str, sae: "Sae", found: dict[str, Any] | None, license: str | None, repository: str | None) -> str:
    """The text of a `README.md` with metadata as a hub reads them; `found` is the evaluation of the run."""
    origin = sae.info["origin"]
    f1, f2 = sae.latents
    model, hook = origin.get("model"), origin.get("hook")
    lines = ["---", "library_name: strata-sae"]
    if license:
        lines.append(f"license: {json.dumps(license)}")
    if model and model.count("/") == 1:
        lines.append(f"base_model: {json.dumps(model)}")
    lines += ["tags:", "- sparse-autoencoder", "- mechanistic-interpretability", "- hierarchical", "---", ""]
    kind = f"hierarchical sparse autoencoder with {f1:,} parents and {f2:,} children" if f2 else f"sparse autoencoder of {f1:,} latents"
    lines += [f"# {name}", "", f"A {kind}, for rows of width {sae.d}, trained with Strata.", ""]
    table: list[tuple[str, Any]] = [
        ("language model", model), ("hook point", hook), ("tokens per sequence", origin.get("context")),
        ("training steps", origin.get("steps")), ("training rows", origin.get("rows")), ("seed", origin.get("seed")),
    ]
    if found is not None:
        fidelity = found["fidelity"]
        levels = [1, 2] if f2 else [1]
        rows = "held-out rows" if found["held_out"] else "rows of the training"
        table += [(f"FVU of level {level}, {rows}", _number(fidelity[f"level{level}"]["fvu"])) for level in levels]
        table += [(f"active latents per row, level {level}", _number(found[f"level{level}"]["l0_mean"])) for level in levels]
        table += [(f"dead latents of level {level}", _percent(found[f"level{level}"]["dead"])) for level in levels]
        if f2:
            table.append(("is the hierarchy real?", found["verdict"]["answer"]))
    lines += ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in table if value is not None), ""]
    place = repository or "OWNER/NAME"
    lines += [
        "```python", "# pip install strata-sae huggingface_hub", "from huggingface_hub import snapshot_download",
        "from strata_sae import Sae", "", f"sae = Sae.load(snapshot_download({place!r}))",
        f"codes = sae.encode(activations)                 # [..., {sae.d}]", "```", "",
    ]
    return "\n".join(lines)


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _number(value: Any) -> str | None:
    return None if value is None else f"{value:.4g}"
