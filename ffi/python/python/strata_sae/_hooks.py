"""Hook points of models of transformers."""
from __future__ import annotations

from typing import Any

import torch
from torch import nn


def module_of(model: nn.Module, hook: str) -> nn.Module:
    """The module whose output is the hook point `hook`, the name of a module of `model` as in `"model.layers.14"`."""
    named = dict(model.named_modules())
    if hook in named and hook:
        return named[hook]
    ending = [name for name in named if name.endswith(f".{hook}")]
    if len(ending) == 1:
        return named[ending[0]]
    layers = [name for name in named if name and name.rsplit(".", 1)[-1].isdigit()]
    shown = ", ".join(repr(name) for name in layers[:3]) + (", ..." if len(layers) > 3 else "")
    raise ValueError(f"hook: expected the name of a module of {type(model).__name__}, as in {shown}; found {hook!r}")


def rows_in(output: Any, hook: str) -> torch.Tensor:
    """The activations in the output of a module: the output itself, or the first of several."""
    found = output[0] if isinstance(output, (tuple, list)) else output
    if not isinstance(found, torch.Tensor):
        found = getattr(found, "last_hidden_state", None)
    if not isinstance(found, torch.Tensor) or found.ndim != 3:
        raise ValueError(f"hook {hook!r}: expected a module whose output is a tensor [batch, tokens, width], alone or first")
    return found


def with_rows(output: Any, rows: torch.Tensor) -> Any:
    """The output of a module with other activations in it."""
    if isinstance(output, torch.Tensor):
        return rows
    if isinstance(output, tuple):
        return (rows, *output[1:])
    if isinstance(output, list):
        return [rows, *output[1:]]
    output.last_hidden_state = rows
    return output
