"""Activations in arrays of other libraries, as arrays that the compiled part reads where they lie."""
from __future__ import annotations

import sys
from typing import Any, Callable, NamedTuple

import numpy as np

_F32, _F16 = np.dtype(np.float32), np.dtype(np.float16)


class Rows(NamedTuple):
    """An array of float32, float16, or uint16 with the bits of bfloat16, and where it came from."""

    array: np.ndarray
    #: Turns a float32 array of any shape into the kind and type of the given one.
    restore: Callable[[np.ndarray], Any]
    #: The type of the numbers, as a dump names it.
    dtype: str


def is_torch(x: Any) -> bool:
    """Whether `x` is a tensor of torch, without importing it."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(x, torch.Tensor)


def native(x: Any) -> np.ndarray:
    """The array of `rows_of`, for callers that give nothing back."""
    if type(x) is np.ndarray and (x.dtype is _F32 or x.dtype is _F16) and x.ndim:
        return x
    return rows_of(x).array


def rows_of(x: Any) -> Rows:
    """`x` as rows, without a copy: an array of numpy of float32, float16 or (by ml_dtypes) bfloat16, a tensor of torch on the
    CPU of these types, or whatever numpy makes such an array of. The last dimension are the numbers of a row.

    Raises `TypeError` for other types: no number is rounded unasked.
    """
    if is_torch(x):
        return _of_torch(x)
    given, x = x, np.asarray(x)
    if x.dtype.kind not in "biufcV":
        raise TypeError(f"activations: expected an array of numbers, found {type(given).__name__}")
    if x.ndim == 0:
        raise ValueError("activations: expected rows, found a single number")
    if x.dtype == _F32:
        return Rows(x, lambda out: out, "f32")
    if x.dtype == _F16:
        return Rows(x, lambda out: out.astype(np.float16), "f16")
    if x.dtype.name == "bfloat16":
        dtype = x.dtype
        return Rows(x.view(np.uint16), lambda out: out.astype(dtype), "bf16")
    how = "convert them with .astype(numpy.float32)"
    raise TypeError(f"activations: expected numbers of float32, float16 or bfloat16, found {x.dtype}: {how}")


def _of_torch(x: Any) -> Rows:
    import torch

    x = x.detach()
    if x.device.type != "cpu":
        raise TypeError(f"activations: expected a tensor on the CPU, found one on {x.device}: move it with .cpu()")
    if x.ndim == 0:
        raise ValueError("activations: expected rows, found a single number")
    dtype = x.dtype

    def restore(out: np.ndarray) -> Any:
        return torch.from_numpy(out).to(dtype)

    if dtype == torch.float32:
        return Rows(x.numpy(), restore, "f32")
    if dtype == torch.float16:
        return Rows(x.numpy(), restore, "f16")
    if dtype == torch.bfloat16:
        return Rows(x.view(torch.int16).numpy().view(np.uint16), restore, "bf16")
    how = "convert them with .float()"
    raise TypeError(f"activations: expected numbers of float32, float16 or bfloat16, found {dtype}: {how}")


def integers(x: Any, what: str) -> np.ndarray:
    """`x`, an array or tensor or list of ids, as int64."""
    if is_torch(x):
        x = x.detach().cpu().numpy()
    x = np.asarray(x)
    if x.dtype.kind not in "iu" and not (x.dtype == bool or x.size == 0):
        raise TypeError(f"{what}: expected integers, found {x.dtype}")
    return x.astype(np.int64)
