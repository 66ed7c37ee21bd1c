"""The forward pass of a model in torch, for gradients."""
from __future__ import annotations

import json
from typing import Any

import torch
from torch import nn

from . import _native
from ._sae import Sae

#: The differences from a plain model that are computed here. All others, also those of later versions, are refused.
_VARIANTS = {"raw_input", "scale", "skip", "target"}


class TorchSae(nn.Module):
    """The forward pass of a model of Strata in torch, with gradients by autograd with respect to rows and weights.

    It computes what `Sae` computes up to rounding: where a pre-activation is within rounding of a threshold, a latent may
    differ. Use `Sae` where no gradient is needed: it is faster, and its bits are the same everywhere.

    >>> module = TorchSae(sae)
    >>> z1, z2 = module.encode(x)                          # dense, [..., f1] and [..., f2]
    >>> x_hat = module(x)
    """

    def __init__(self, sae: Sae) -> None:
        """Copies the weights.

        Raises:
            Error: an architecture that it does not have: the seed model, rows that are normalised one by one, levels that are
                pruned (`prune`), latents that compete in groups or by absolute value.
        """
        super().__init__()
        arch = json.loads(sae._model.files()[0])["architecture"]
        variant = arch.get("variant", {})
        unknown = sorted(variant.keys() - _VARIANTS)
        if arch["model"] != "tree" or unknown:
            what = unknown[0] if unknown else f"model = {arch['model']}"
            raise _native.Error(f"TorchSae: this model needs what it does not compute ({what}): use Sae")
        self.arch: dict[str, Any] = arch
        self.variant: dict[str, Any] = variant
        for name, tensor in sae.tensors().items():
            name = name.replace(".", "_")
            if name == "parent":
                parent = torch.from_numpy(tensor.astype("int64"))
                self.register_buffer("parent", torch.where(parent == 2**32 - 1, -1, parent))
            elif name.endswith("_tau"):
                self.register_buffer(name, torch.tensor(float(tensor[0])))
            else:
                self.register_parameter(name, nn.Parameter(torch.from_numpy(tensor.copy())))

    def _rule(self, level: int, u: torch.Tensor) -> torch.Tensor:
        """The latents of a level of its pre-activations; those that may not fire are minus infinity."""
        get = lambda name: getattr(self, f"level{level}_{name}")
        activation = self.arch[f"activation{level}"]
        closed = u == -torch.inf
        u = u.masked_fill(closed, 0.0)
        if activation == "relu":
            z = u.relu()
        elif activation == "jumprelu":
            z = torch.where(u > get("threshold").clamp(min=0), u, 0.0)
        elif activation == "batchtopk":
            z = torch.where(u > get("tau").clamp(min=0), u, 0.0)
        elif activation == "gated":
            z = torch.where(u > 0, (u * get("r_mag").exp() + get("b_mag")).relu(), 0.0)
        elif activation == "topk":
            k = min(int(self.arch[f"k{level}"]), u.shape[-1])
            among = u.masked_fill(closed, -torch.inf)
            # A stable sort, so that of equal numbers the lower index stays.
            at = among.sort(dim=-1, descending=True, stable=True).indices[..., :k]
            z = torch.zeros_like(u).scatter(-1, at, u.gather(-1, at)).relu()
        else:
            raise _native.Error(f"TorchSae: the activation {activation!r} is not known")
        return z.masked_fill(closed, 0.0)

    def _gate(self, z1: torch.Tensor, a2: torch.Tensor) -> torch.Tensor:
        """Pre-activations of level 2 behind its gate."""
        kind = self.arch["gate"]
        if kind == "none":
            return a2
        if kind in ("mul", "add"):
            g = z1 @ self.gate_w + self.gate_b
            return a2 * g.sigmoid() if kind == "mul" else a2 + g
        root = self.parent < 0
        of = self.parent.clamp(min=0)
        may = (z1 > 0)[..., of] | root
        if kind == "group-top1":
            # Of each family the largest child alone; of equal ones that with the lower index. Children of none are no family.
            count = a2.shape[-1]
            own = of.masked_fill(root, z1.shape[-1]).expand(a2.shape)
            best = torch.full((*z1.shape[:-1], z1.shape[-1] + 1), -torch.inf, dtype=a2.dtype, device=a2.device)
            largest = a2 == best.scatter_reduce(-1, own, a2.detach(), "amax").gather(-1, own)
            at = torch.where(largest, torch.arange(count, device=a2.device), count)
            first = torch.full(best.shape, count, device=a2.device)
            first = first.scatter_reduce(-1, own, at, "amin").gather(-1, own)
            may &= root | (torch.arange(count, device=a2.device) == first)
        return a2.masked_fill(~may, -torch.inf)

    def encode(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Dense latents `[..., f1]` and `[..., f2]`; the second is empty for a flat model."""
        xt = x if self.variant.get("raw_input") else x - self.b_dec
        z1 = self._rule(1, xt @ self.level1_w_enc.T + self.level1_b_enc)
        if self.variant.get("scale"):
            z1 = z1 * self.level1_scale
        if self.arch["f2"] == 0:
            return z1, z1.new_zeros((*z1.shape[:-1], 0))
        source = self.arch["source"]
        s = z1 if source == "z1" else xt - z1 @ self.level1_w_dec if source == "res" else xt
        a2 = s @ self.level2_w_enc.T + self.level2_b_enc
        return z1, self._rule(2, self._gate(z1, a2))

    def decode(self, z1: torch.Tensor, z2: torch.Tensor, x: torch.Tensor | None = None, *, level: int = 2) -> torch.Tensor:
        """The reconstruction `[..., d_out]`; `level=1`: by the parents alone. A model with a skip connection needs `x`."""
        out = z1 @ self.level1_w_dec + self.b_dec
        if level == 2 and self.arch["f2"]:
            two = self.level2_w_dec
            if self.arch["decoder"] == "comp":
                two = two @ self.level1_w_dec
            out = (out if self.arch["decoder"] == "cum" else self.b_dec) + z2 @ two
        if self.variant.get("skip"):
            if x is None:
                raise ValueError("decode: this model's reconstruction depends on the rows too: give them as `x`")
            out = out + x @ self.w_skip.T
        return out

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The reconstruction of rows `[..., d]`."""
        return self.decode(*self.encode(x), x)
