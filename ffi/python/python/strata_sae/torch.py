"""What needs torch: activations of language models, models with our latents in them, and our models with gradients."""
from __future__ import annotations

from ._capture import capture
from ._hooked import Hooked, hooked
from ._module import TorchSae

__all__ = ["Hooked", "TorchSae", "capture", "hooked"]
