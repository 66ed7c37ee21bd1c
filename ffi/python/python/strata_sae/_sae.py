"""Models."""
from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Iterable, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from . import _native
from ._arrays import native, rows_of
from ._codes import Codes, Level
from ._watch import Probe, Watch

PathLike = str | os.PathLike[str]
_ROOT = 2**32 - 1


class Edit(NamedTuple):
    """A change of one latent, for `Sae.steer`.

    Attributes:
        latent: the latent within its level.
        strength: what is added to it, or what it becomes, in units of the rows.
        level: 1 for parents, 2 for children.
        mode: `"add"`, or `"set"`, with `strength` 0 to ablate the latent.
    """

    latent: int
    strength: float
    level: int = 1
    mode: Literal["add", "set"] = "add"


class Sae:
    """A sparse autoencoder that is ready to encode: of Strata, or of any tool whose models Strata reads.

    It is immutable, and any number of threads may use it. While it computes, other threads of Python run. Rows are arrays of
    float32, float16 or bfloat16 (by ml_dtypes), or tensors of torch on the CPU, of shape `[d]`, `[n, d]` or
    `[batch, tokens, d]` with any strides; they are read where they lie. What is returned has the kind and the type of the
    rows, where it is rows itself.
    """

    __slots__ = ("_model", "_f1", "_f2", "_cache")

    def __init__(self, model: _native.Model) -> None:
        self._model = model
        self._cache: dict[Any, Any] = {}
        self._f1, self._f2 = self.latents

    @classmethod
    def load(
        cls,
        path: PathLike,
        *,
        format: str | None = None,
        norm_scaling_factor: float | None = None,
        row_norm: str | None = None,
        k: int | None = None,
        weights: Literal["f32", "bf16", "int8"] = "f32",
    ) -> "Sae":
        """Loads a run, its `sae/`, or a model of another tool: its directory or its file.

        Args:
            path: SAELens, Gemma Scope, Llama Scope, sparsify, dictionary_learning and the others of docs/models.md.
            format: the format, where it is not recognised or more than one fits.
            norm_scaling_factor, row_norm, k: what the files of some tools do not say; an error says when they are needed.
            weights: the type in which the encoder's weights are kept. The codes are those of the rounded weights.

        Raises:
            Error: one sentence with the file that is missing or damaged.
        """
        return cls(_native.Model.load(path, format, norm_scaling_factor, row_norm, k, weights))

    @property
    def info(self) -> dict[str, Any]:
        """Sizes, format, origin and notes: what had to be assumed in loading, one sentence each."""
        if "info" not in self._cache:
            self._cache["info"] = json.loads(self._model.info())
        return self._cache["info"]

    @property
    def d(self) -> int:
        """Width of the rows that it reads."""
        return self.info["d"]

    @property
    def d_out(self) -> int:
        """Width of its reconstructions: `d`, except for a transcoder."""
        return self.info["d_out"]

    @property
    def latents(self) -> tuple[int, int]:
        """The number of latents of level 1 and of level 2 (0 for a flat model)."""
        one, two = self.info["latents"]
        return one, two

    @property
    def hook(self) -> str | None:
        """The hook point that its rows came from, where it is known."""
        return self.info["origin"].get("hook")

    @property
    def cfg(self) -> dict[str, Any]:
        """The content of `cfg.json`: architecture and origin."""
        return json.loads(self._model.files()[0])

    def encode(self, x: Any) -> Codes:
        """The latents of both levels that fire on each row, with the bits of `strata encode`.

        Raises:
            ValueError: rows of another width, or a number that is not finite.
            TypeError: numbers of another type.
        """
        x = native(x)
        one, two = self._model.encode(x)
        return Codes(Level(*one, self._f1), Level(*two, self._f2), x.shape[:-1])

    def watch(self, level1: Iterable[int] = (), level2: Iterable[int] = ()) -> Watch:
        """A watch-list of latents, in any order: its `encode` gives their codes, and computes no others than it must.

        Raises:
            IndexError: no such latent.
            ValueError: a latent that is listed twice.
        """
        one, two = (_listed(latents, f, level) for level, (latents, f) in enumerate(((level1, self._f1), (level2, self._f2)), 1))
        return Watch(_native.Watch(self._model, one, two), (self._f1, self._f2))

    def probe(self, path: PathLike) -> Probe:
        """The linear heads of a file that `strata probe RUN --save-head FILE` has written for this model.

        Raises:
            Error: a file that is missing or damaged, or heads of another model.
        """
        return Probe(_native.Probe(self._model, path))

    def decode(self, codes: Codes, rows: Any = None, *, level: int = 2) -> NDArray[np.float32]:
        """The reconstruction of codes, `[*codes.shape, d_out]` in float32.

        Args:
            codes: of both levels.
            rows: the rows that were encoded: needed where `info["needs_rows"]` is true, since the reconstruction of such a
                model depends on them too.
            level: 1 for the reconstruction by the parents alone.
        """
        if not isinstance(codes, Codes):
            raise TypeError(f"codes: expected Codes, as `encode` returns them, found {type(codes).__name__}")
        one, two = (_csr(part) for part in (codes.level1, codes.level2))
        out = self._model.decode(one, two, None if rows is None else native(rows), level)
        return out.reshape(*codes.shape, self.d_out)

    def reconstruct(self, x: Any, *, level: int = 2) -> Any:
        """`decode(encode(x))`, in the kind and type of `x`. `level=1`: by the parents alone."""
        x, restore, _ = rows_of(x)
        return restore(self._model.reconstruct(x, level).reshape(*x.shape[:-1], self.d_out))

    def steer(self, x: Any, edits: Edit | Iterable[Edit]) -> Any:
        """The rows with latents changed, in the kind and type of `x`: what the latents do not explain stays as it is.

        Raises:
            IndexError: no such latent.
            ValueError: a latent that is set has another edit; a strength that is not finite.
        """
        given = []
        for edit in [edits] if isinstance(edits, Edit) else edits:
            if not isinstance(edit, Edit):
                raise TypeError(f"edits: expected Edit(latent, strength, level, mode) or several of them, found {edit!r}")
            latent, strength, level, mode = edit
            if mode not in ("add", "set"):
                raise ValueError(f"edits: mode: expected 'add' or 'set', found {mode!r}")
            if level not in (1, 2):
                raise IndexError(f"edits: level: expected 1 or 2, found {level}")
            given.append((int(level), int(latent), float(strength), mode == "set"))
        x, restore, _ = rows_of(x)
        return restore(self._model.steer(x, given).reshape(x.shape))

    def decoder(self, level: int) -> NDArray[np.float32]:
        """`[latents, d_out]`: the decoder directions of level 1 or 2, in the space of the reconstruction. The array is read-only
        and lies in the model's own memory: nothing is copied.

        Raises:
            IndexError: another level.
        """
        return self._model.decoder(level)

    @property
    def parents(self) -> NDArray[np.int64]:
        """`[f2]`: the parent of each child; -1 for none. Empty for a model without families."""
        if "parents" not in self._cache:
            parents = self._model.parents().astype(np.int64)
            parents[parents == _ROOT] = -1
            parents.flags.writeable = False
            self._cache["parents"] = parents
        return self._cache["parents"]

    def children(self, parent: int) -> NDArray[np.int64]:
        """The children of a latent of level 1, ascending; of -1, those without a parent."""
        if not -1 <= parent < self._f1:
            raise IndexError(f"parent: expected -1 to {self._f1 - 1}, found {parent}")
        return np.flatnonzero(self.parents == parent)

    def tensors(self) -> dict[str, np.ndarray]:
        """Every tensor of the model by its name in `sae_weights.safetensors` (docs/formats.md), as arrays of one copy."""
        return _safetensors(self._model.files()[1])

    def save(self, directory: PathLike) -> None:
        """Writes `cfg.json` and `sae_weights.safetensors` into `directory`, which is made: `Sae.load` and `strata` read them."""
        directory = absent(directory)
        directory.mkdir(parents=True)
        for name, content in zip(("cfg.json", "sae_weights.safetensors"), self._model.files()):
            (directory / name).write_bytes(content)

    def __repr__(self) -> str:
        format, hook = self.info["format"], f", hook={self.hook!r}" if self.hook else ""
        return f"Sae(d={self.d}, latents={self.latents}, format={format!r}{hook})"


def absent(directory: PathLike) -> Path:
    """The path of a directory that is to be made.

    Raises:
        Error: it is there.
    """
    directory = Path(directory)
    if directory.exists():
        raise _native.Error(f"{directory} exists already: choose another directory, or remove it")
    return directory


def _listed(latents: Iterable[int], f: int, level: int) -> list[int]:
    listed = [int(j) for j in latents]
    for j in listed:
        if not 0 <= j < f:
            raise IndexError(f"latents of level {level}: expected 0 to {f - 1}, found {j}")
    if len(set(listed)) < len(listed):
        twice = next(j for j in sorted(listed) if listed.count(j) > 1)
        raise ValueError(f"latents of level {level}: expected each latent once, found {twice} twice")
    return listed


def _csr(level: Level) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    as_ = np.ascontiguousarray
    return as_(level.indptr, np.int64), as_(level.indices, np.uint32), as_(level.values, np.float32)


_DTYPES = {"F32": np.float32, "U32": np.uint32, "F16": np.float16, "F64": np.float64, "U64": np.uint64, "I64": np.int64}


def _safetensors(content: bytes) -> dict[str, np.ndarray]:
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    out = {}
    for name, about in header.items():
        if name != "__metadata__":
            start, end = about["data_offsets"]
            numbers = np.frombuffer(content, _DTYPES[about["dtype"]], offset=8 + length + start,
                                    count=(end - start) // np.dtype(_DTYPES[about["dtype"]]).itemsize)
            out[name] = numbers.reshape(about["shape"])
    return out
