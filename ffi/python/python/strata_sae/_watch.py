"""A few latents, and linear heads, on every row."""
from __future__ import annotations

from typing import Any, NamedTuple, Sequence

import numpy as np
from numpy.typing import NDArray

from . import _native
from ._arrays import integers, native
from ._codes import Codes, Level


class Computed(NamedTuple):
    """What a watch-list has to compute of a level.

    Attributes:
        latents: the number of latents whose pre-activations a row may need.
        why: why these are more than the listed ones; None where they are not.
    """

    latents: int
    why: str | None


class Watch:
    """Latents whose codes are wanted: `Sae.watch` makes it. Nothing is computed but what their values depend on.

    It is immutable, and any number of threads may use it.
    """

    __slots__ = ("_watch", "_latents")

    def __init__(self, watch: _native.Watch, latents: tuple[int, int]) -> None:
        self._watch, self._latents = watch, latents

    def encode(self, x: Any) -> Codes:
        """The codes of the listed latents on rows `[..., d]`: the entries that `Sae.encode` has for them, with its bits. Latents
        keep their numbers.

        Raises:
            ValueError: rows of another width, or a number that is not finite.
            TypeError: numbers of another type.
        """
        x = native(x)
        one, two = self._watch.encode(x)
        return Codes(Level(*one, self._latents[0]), Level(*two, self._latents[1]), x.shape[:-1])

    @property
    def latents(self) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
        """The listed latents of level 1 and of level 2, ascending."""
        one, two = (np.array(listed, np.uint32) for listed in self._watch.latents())
        return one, two

    @property
    def computed(self) -> tuple[Computed, Computed]:
        """What has to be computed of level 1 and of level 2: with thresholds (relu, batchtopk, jumprelu, gated) the listed
        latents, and behind a hard gate the parents of listed children; with topk, pruning and soft gates whole levels."""
        one, two = (Computed(*of) for of in self._watch.computed())
        return one, two

    def __repr__(self) -> str:
        one, two = self._watch.latents()
        return f"Watch({len(one)} latents of level 1, {len(two)} of level 2)"


class Head(NamedTuple):
    """A linear head: `score = bias + sum_i weight_i f_i`, where `f` are the numbers of the row, or the values of its latents, times
    the unit of the probe.

    Attributes:
        name: the class that it was fitted for.
        reads: `"row"` or `"latents"`.
        latents: `[n]` what it reads, `j` of level 1 or `f1 + j` of level 2; empty for a head on rows.
        weight: `[n]` float64, or `[d]`.
        bias: in units of the score, log-odds.
    """

    name: str
    reads: str
    latents: NDArray[np.uint32]
    weight: NDArray[np.float64]
    bias: float


class Probe:
    """Linear heads on the rows and codes of a model, from a file of `strata probe --save-head`: `Sae.probe` makes it.

    It is immutable, and any number of threads may use it.

    Attributes:
        heads: in the order of the scores.
        unit: what rows and codes are multiplied by.
    """

    __slots__ = ("_probe", "heads", "unit")

    def __init__(self, probe: _native.Probe) -> None:
        self._probe = probe
        self.unit: float = probe.unit()
        self.heads: tuple[Head, ...] = tuple(
            Head(name, "row" if latents is None else "latents", np.array(latents or [], np.uint32), weight, bias)
            for name, latents, weight, bias in probe.heads()
        )

    @property
    def names(self) -> list[str]:
        """The name of each head."""
        return [head.name for head in self.heads]

    def __len__(self) -> int:
        return len(self.heads)

    def score(self, x: Any) -> NDArray[np.float64]:
        """`[..., heads]`: the score of each head on rows `[..., d]`, above 0 where the class is likelier than the others. The scores
        have the bits of the fitted probe. Only the latents of the heads are computed.

        Raises:
            ValueError: rows of another width, or a number or a score that is not finite.
            TypeError: numbers of another type.
        """
        x = native(x)
        return self._probe.score(x).reshape(*x.shape[:-1], len(self.heads))

    def state(self, sequences: int = 1, *, on: Any = 0.0, off: Any = None) -> "ProbeState":
        """Running scores of so many sequences.

        Args:
            sequences: the number of sequences that are known at the same time: the slots of a batch.
            on: a score above it begins an alarm: one number, or one per head `[heads]`.
            off: a score at or below it ends the alarm; at most `on`, and `on` where it is left out.
        """
        on = np.broadcast_to(np.asarray(on, np.float64), (len(self.heads),))
        off = on if off is None else np.broadcast_to(np.asarray(off, np.float64), (len(self.heads),))
        return ProbeState(_native.ProbeState(self._probe, sequences, on.tolist(), off.tolist()))

    def __repr__(self) -> str:
        return f"Probe({len(self.heads)} heads: {', '.join(f'{head.name!r} on {head.reads}' for head in self.heads[:4])}" + (
            ", ...)" if len(self.heads) > 4 else ")")


class Readings(NamedTuple):
    """What is known of the scores, `[sequences, heads]` each; of a sequence without rows NaN, and -1 for `max_row`.

    Attributes:
        rows: the number of rows so far.
        last: the score of the last row.
        max: the largest score.
        max_row: the row of the largest score, counted from 0 within its sequence.
        mean: the mean score.
        alarms: the number of alarms that have begun.
    """

    rows: NDArray[np.int64]
    last: NDArray[np.float64]
    max: NDArray[np.float64]
    max_row: NDArray[np.int64]
    mean: NDArray[np.float64]
    alarms: NDArray[np.int64]


class ProbeState:
    """What is kept of the scores of a probe per sequence and head: `Probe.state` makes it."""

    __slots__ = ("_state",)

    def __init__(self, state: _native.ProbeState) -> None:
        self._state = state

    def update(self, x: Any, sequences: int | Sequence[int] | NDArray[Any] = 0) -> NDArray[np.float64]:
        """Scores rows `[..., d]`, adds the scores to those of their sequences, and returns them, `[..., heads]`. Where it raises,
        nothing is added.

        Args:
            x: the rows; those of one sequence in their order.
            sequences: the sequence of each row, of any shape that broadcasts to the leading dimensions of `x`: of rows
                `[batch, tokens, d]`, `np.arange(batch)[:, None]`.
        """
        x = native(x)
        each = np.ascontiguousarray(np.broadcast_to(integers(sequences, "sequences"), x.shape[:-1]).reshape(-1))
        if each.size and (each.min() < 0 or each.max() >= 1 << 32):
            raise IndexError(f"sequence: expected 0 or more, found {each.min() if each.min() < 0 else each.max()}")
        scores = self._state.update(x, each.astype(np.uint32))
        return scores.reshape(*x.shape[:-1], scores.shape[-1])

    def alarms(self) -> NDArray[np.bool_]:
        """`[sequences, heads]`: where there is an alarm at the last row."""
        return self._state.alarms()

    def read(self) -> Readings:
        """All that is known of the scores."""
        return Readings(*self._state.read())

    def reset(self, sequence: int) -> None:
        """Forgets the rows of a sequence, whose number is then free for another one."""
        self._state.reset(sequence)
