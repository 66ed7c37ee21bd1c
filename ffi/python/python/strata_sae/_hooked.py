"""Our latents in a model that runs."""
from __future__ import annotations

from types import TracebackType
from typing import Any, Callable, Iterable

import torch
from torch import nn

from ._codes import Codes
from ._hooks import module_of, rows_in, with_rows
from ._sae import Edit, Sae


class Hooked:
    """A model whose activations go through a sparse autoencoder: see `hooked`.

    Attributes:
        codes: the codes of the last forward pass, of its rows `[batch, tokens]`; none before.
        left_out: `[batch, tokens]`, the rows of that pass that were left as they were.
    """

    def __init__(
        self, model: nn.Module, sae: Sae, hook: str, edits: list[Edit], edit: Callable[[Codes], Codes] | None,
        splice: bool, level: int, keep_error: bool,
    ) -> None:
        self._model, self._sae, self._hook, self._module = model, sae, hook, module_of(model, hook)
        self._edits, self._edit, self._splice, self._level, self._keep_error = edits, edit, splice, level, keep_error
        self._handles: list[Any] = []
        self._ids: torch.Tensor | None = None
        self.codes: Codes | None = None
        self.left_out: torch.Tensor | None = None

    def __enter__(self) -> "Hooked":
        def see(module: nn.Module, args: Any, kwargs: Any) -> None:
            given = kwargs.get("input_ids", args[0] if args else None)
            self._ids = given if isinstance(given, torch.Tensor) and not given.is_floating_point() else None

        self._handles.append(self._model.register_forward_pre_hook(see, with_kwargs=True))
        self._handles.append(self._module.register_forward_hook(self._replace))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _replace(self, module: nn.Module, args: Any, output: Any) -> Any:
        given = rows_in(output, self._hook)
        rows = given.detach().to("cpu", torch.float32)
        self.codes = self._sae.encode(rows)
        if not (self._splice or self._edits or self._edit):
            return None
        out = rows
        if self._splice or self._edit:
            codes = self.codes if self._edit is None else self._edit(self.codes.copy())
            needs = rows if self._sae.info["needs_rows"] else None
            decode = lambda codes: torch.from_numpy(self._sae.decode(codes, needs, level=self._level))
            out = decode(codes)
            if self._keep_error:
                out = rows + (out - decode(self.codes))
        if self._edits:
            out = self._sae.steer(out, self._edits)
        self.left_out = self._rule(rows)
        out = torch.where(self.left_out[..., None], rows, out)
        return with_rows(output, out.to(given.device, given.dtype))

    def _rule(self, rows: torch.Tensor) -> torch.Tensor:
        """The rows that the training of the model left out."""
        rule = self._sae.info["origin"].get("left_out", {})
        out = torch.zeros(rows.shape[:2], dtype=torch.bool)
        limit = rule.get("norm_limit")
        if limit is not None:
            out |= rows.norm(dim=-1) > limit
        # With a cache of keys and values, a pass over one token is none over the first of a sequence.
        if rule.get("skip_first") and rows.shape[1] > 1:
            out[:, : rule["skip_first"]] = True
        if rule.get("skip_tokens"):
            if self._ids is None or self._ids.shape != rows.shape[:2]:
                raise ValueError("the model was trained without the rows of some tokens: call it with `input_ids`")
            out |= torch.isin(self._ids.cpu(), torch.tensor(rule["skip_tokens"]))
        return out


def hooked(
    model: nn.Module,
    sae: Sae,
    hook: str | None = None,
    *,
    splice: bool = True,
    edit: Callable[[Codes], Codes] | None = None,
    steer: Edit | Iterable[Edit] = (),
    level: int = 2,
    keep_error: bool = False,
) -> Hooked:
    """A context in which the activations of a hook point are replaced by their reconstruction, changed, or only watched.

    >>> with hooked(model, sae, "model.layers.14") as h:
    ...     loss = model(**batch, labels=batch["input_ids"]).loss       # with reconstructions
    ...     h.codes.topk(5)                                             # the latents of this pass

    Rows that the training of `sae` left out, those with outlying norms for instance, stay as they are. Gradients do not pass:
    use `TorchSae` for them.

    Args:
        model: a model of transformers, on any device.
        sae: the sparse autoencoder of the hook point.
        hook: the name of a module, as for `capture`; by default the one that `sae` was trained on.
        splice: put the reconstruction in place of the activations. With false they are only encoded, and steered.
        edit: changes the codes before they are decoded: a function from `Codes`, which it may change, to `Codes`.
        steer: changes of latents that are added to the activations (see `Sae.steer`).
        level: 1 for the reconstruction by the parents alone.
        keep_error: add what the codes do not explain, so that without `edit` the model is unchanged.
    """
    name = hook if hook is not None else sae.hook
    if name is None:
        raise ValueError("hook: the model does not say which hook point its rows came from: name the module")
    edits = [steer] if isinstance(steer, Edit) else list(steer)
    return Hooked(model, sae, name, edits, edit, splice, level, keep_error)
