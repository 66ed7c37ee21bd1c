"""Sparse codes of both levels."""
from __future__ import annotations

from typing import Any, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray


class Level:
    """The codes of one level for `n` rows, in CSR form: row `i` has the entries `indptr[i]` to `indptr[i + 1]`.

    Attributes:
        indptr: `[n + 1]` int64.
        indices: `[nnz]` uint32, the latents that fire, ascending within a row.
        values: `[nnz]` float32, their activations, in units of the rows.
        latents: the number of latents of the level.
    """

    __slots__ = ("indptr", "indices", "values", "latents")

    def __init__(self, indptr: Any, indices: Any, values: Any, latents: int) -> None:
        self.indptr: NDArray[np.int64] = indptr
        self.indices: NDArray[np.uint32] = indices
        self.values: NDArray[np.float32] = values
        self.latents = latents

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and latents."""
        return len(self.indptr) - 1, self.latents

    def __len__(self) -> int:
        return len(self.indptr) - 1

    def row(self, i: int) -> tuple[NDArray[np.uint32], NDArray[np.float32]]:
        """The latents that fire on row `i`, ascending, and their values."""
        n = len(self)
        if not -n <= i < n:
            raise IndexError(f"row {i} of {n}")
        at = slice(self.indptr[i % n], self.indptr[i % n + 1])
        return self.indices[at], self.values[at]

    def __iter__(self) -> Iterator[tuple[NDArray[np.uint32], NDArray[np.float32]]]:
        return (self.row(i) for i in range(len(self)))

    def l0(self) -> NDArray[np.int64]:
        """`[n]`: the number of latents that fire on each row."""
        return np.diff(self.indptr)

    def dense(self) -> NDArray[np.float32]:
        """`[n, latents]`: all values, with zeros. Takes `4 * n * latents` bytes."""
        out = np.zeros(self.shape, np.float32)
        out[self._rows(), self.indices] = self.values
        return out

    def topk(self, n: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The `n` largest latents of each row by magnitude, largest first, and their values: `[rows, n]` each. Rows with fewer
        end with latent -1 and value 0."""
        indices, values = np.full((len(self), n), -1, np.int64), np.zeros((len(self), n), np.float32)
        rows = self._rows()
        order = np.lexsort((self.indices, -np.abs(self.values), rows))
        rank = np.arange(len(order)) - self.indptr[rows]
        kept = rank < n
        at, place = order[kept], (rows[kept], rank[kept])
        indices[place], values[place] = self.indices[at], self.values[at]
        return indices, values

    def to_scipy(self) -> Any:
        """`scipy.sparse.csr_matrix` of shape `[n, latents]`. The values are not copied."""
        from scipy.sparse import csr_matrix

        indices = self.indices.view(np.int32) if self.latents <= 1 << 31 else self.indices
        return csr_matrix((self.values, indices, self.indptr), shape=self.shape, copy=False)

    def copy(self) -> "Level":
        """The same codes in arrays of their own."""
        return Level(self.indptr.copy(), self.indices.copy(), self.values.copy(), self.latents)

    def _rows(self) -> NDArray[np.int64]:
        """The row of each entry."""
        return np.repeat(np.arange(len(self)), np.diff(self.indptr))

    def __repr__(self) -> str:
        n, latents = self.shape
        return f"Level({n} rows, {latents} latents, {len(self.values) / max(n, 1):.2f} active per row)"


class Codes:
    """Codes of both levels for the same rows, in the order of the rows: those of `[batch, tokens, d]` are `batch * tokens`.

    Where one number names a latent of either level, those of level 2 follow those of level 1: child `j` is `f1 + j`.

    Attributes:
        level1: the parents.
        level2: the children; of a flat model it has no latents.
        shape: the leading dimensions of the rows: `()` for one row, `(n,)`, or `(batch, tokens)`.
    """

    __slots__ = ("level1", "level2", "shape")

    def __init__(self, level1: Level, level2: Level, shape: Sequence[int]) -> None:
        self.level1, self.level2, self.shape = level1, level2, tuple(shape)

    def __getitem__(self, level: int) -> Level:
        """Level 1 or 2."""
        if level not in (1, 2):
            raise IndexError(f"level: expected 1 or 2, found {level}")
        return self.level1 if level == 1 else self.level2

    def __len__(self) -> int:
        return len(self.level1)

    def copy(self) -> "Codes":
        """The same codes in arrays of their own."""
        return Codes(self.level1.copy(), self.level2.copy(), self.shape)

    def dense(self) -> NDArray[np.float32]:
        """`[*shape, f1 + f2]`: all values of both levels, with zeros."""
        out = np.concatenate([self.level1.dense(), self.level2.dense()], axis=1)
        return out.reshape(*self.shape, out.shape[1])

    def both(self) -> Level:
        """Both levels side by side as one."""
        one, two = self.level1, self.level2
        indptr = one.indptr + two.indptr
        # The entries of a row of level 2 come after those of level 1 of the same row.
        rows = np.concatenate([one._rows(), two._rows()])
        order = np.argsort(rows, kind="stable")
        indices = np.concatenate([one.indices, two.indices + np.uint32(one.latents)])[order]
        return Level(indptr, indices, np.concatenate([one.values, two.values])[order], one.latents + two.latents)

    def topk(self, n: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The `n` largest latents of either level for each row, as `Level.topk`, with the leading dimensions of the rows."""
        indices, values = self.both().topk(n)
        return indices.reshape(*self.shape, n), values.reshape(*self.shape, n)

    def to_scipy(self) -> Any:
        """`scipy.sparse.csr_matrix` of shape `[n, f1 + f2]`."""
        return self.both().to_scipy()

    def __repr__(self) -> str:
        return f"Codes({self.shape}, level1={self.level1!r}, level2={self.level2!r})"
