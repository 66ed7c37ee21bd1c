"""Writing dumps of activations."""
from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Sequence

import numpy as np

from . import _native
from ._arrays import integers, rows_of

PathLike = str | os.PathLike[str]
Dtype = Literal["f32", "f16", "bf16"]


def vocabulary(tokenizer: Any) -> list[str]:
    """The readable text of each token id: pieces of byte-level, SentencePiece and WordPiece tokenizers are decoded.

    Args:
        tokenizer: a tokenizer of transformers; or the path of a `tokenizer.json`, `vocab.json` or `vocab.txt`, or of a
            directory with one of them; or the texts themselves.
    """
    if isinstance(tokenizer, (str, os.PathLike)):
        return _native.vocabulary(tokenizer)
    if isinstance(tokenizer, (list, tuple)):
        return [str(text) for text in tokenizer]
    with tempfile.TemporaryDirectory() as directory:
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is not None:
            path = Path(directory) / "tokenizer.json"
            path.write_text(backend.to_str(), encoding="utf-8")
        elif hasattr(tokenizer, "get_vocab"):
            path = Path(directory) / "vocab.json"
            path.write_text(json.dumps(tokenizer.get_vocab()), encoding="utf-8")
        else:
            raise TypeError(f"tokenizer: expected one of transformers, a path or a list of texts, found {tokenizer!r}")
        return _native.vocabulary(path)


class DumpWriter:
    """Writes a dump: rows of activations, and where they are known their tokens and sequences.

    The dump is a directory, and appears when the writer is finished; until then it is hidden beside it, and is deleted if the
    `with` block ends by an exception. Memory does not grow with the rows.

    >>> with DumpWriter("acts", d=768, tokenizer=tokenizer) as dump:
    ...     for batch in batches:                            # [batch, tokens, 768], [batch, tokens], [batch, tokens]
    ...         dump.append(hidden(batch), batch["input_ids"], batch["attention_mask"])
    """

    def __init__(
        self,
        path: PathLike,
        d: int,
        dtype: Dtype = "f32",
        tokenizer: Any = None,
        *,
        special_ids: Sequence[int] | None = None,
        model: str | None = None,
        hook: str | None = None,
        context: int | None = None,
        max_shard_bytes: int = 1 << 30,
    ) -> None:
        """Starts the dump.

        Args:
            path: the directory, which must not exist.
            d: width of a row.
            dtype: the type in which numbers are stored; others are rounded to it, and refused where they are beyond its range.
            tokenizer: the texts of the token ids, as `vocabulary` takes it. One of transformers also says which are special.
            special_ids: the ids of special tokens, which `data.skip_special` leaves out of a training.
            model, hook: where the rows come from, as in `"gpt2"` and `"blocks.6.hook_resid_post"`.
            context: every sequence has so many rows; without it `append` says where sequences start.
            max_shard_bytes: most bytes of a file.
        """
        vocab = None if tokenizer is None else vocabulary(tokenizer)
        if special_ids is None:
            special_ids = getattr(tokenizer, "all_special_ids", ())
        special = sorted({int(i) for i in special_ids})
        self.path, self.d, self._context = Path(path), d, context
        self._has_rows = False
        self._writer = _native.Writer(path, d, dtype, max_shard_bytes, model, hook, context, vocab, special)

    def append(
        self, activations: Any, token_ids: Any = None, attention_mask: Any = None, special: Any = None, *, continues: bool = False
    ) -> None:
        """Appends sequences.

        Args:
            activations: `[tokens, d]`, one sequence, or `[batch, tokens, d]`; any array that `Sae.encode` takes.
            token_ids: the id of each row, `[tokens]` or `[batch, tokens]`; for all rows of the dump or for none.
            attention_mask: the same shape: rows where it is 0 are padding, and left out.
            special: the same shape: where it is true, the token is special. The dump lists such ids, which are then special
                wherever they occur; the rows stay in the dump.
            continues: the rows continue the last sequence.

        Raises:
            ValueError: shapes that do not match, or a number that is not finite; nothing is appended then.
        """
        rows, *_ = rows_of(activations)
        if rows.ndim not in (2, 3):
            raise ValueError(f"activations: expected [tokens, {self.d}] or [batch, tokens, {self.d}], found {rows.shape}")
        leading = rows.shape[:-1]

        def beside(x: Any, what: str) -> np.ndarray | None:
            if x is None:
                return None
            x = integers(x, what)
            if x.shape != leading:
                raise ValueError(f"{what}: expected the shape {leading}, as the activations have, found {x.shape}")
            return x if x.ndim == 2 else x[None]

        ids, mask = beside(token_ids, "token_ids"), beside(attention_mask, "attention_mask")
        marks = beside(special, "special")
        if ids is None and marks is not None:
            raise ValueError("special: expected the ids of the tokens beside them, found no token_ids")
        if ids is not None and ids.size and not 0 <= ids.min() <= ids.max() < 2**32:
            raise ValueError("token_ids: expected ids from 0 to 4294967295")
        batch = rows if rows.ndim == 3 else rows[None]
        kept = [slice(None) if mask is None else _whole(np.flatnonzero(mask[i])) for i in range(len(batch))]
        sizes = [len(sequence[at]) for sequence, at in zip(batch, kept)]
        if marks is not None and ids is not None:
            named = ids[(marks != 0) & (mask != 0 if mask is not None else True)]
            self._writer.mark_special(np.unique(named).tolist())
        starts = ids is not None and self._context is None
        if not starts and mask is None and ids is None:
            # Without sequences a batch is nothing but rows.
            self._writer.append(batch, None, False)
            return
        for i, (sequence, at, size) in enumerate(zip(batch, kept, sizes)):
            if size:
                tokens = None if ids is None else np.ascontiguousarray(ids[i][at], np.uint32)
                self._writer.append(sequence[at], tokens, starts and not (continues and i == 0 and self._has_rows))
                self._has_rows = True

    @property
    def n_rows(self) -> int:
        """The number of rows so far."""
        return self._writer.n_rows()

    def finish(self) -> dict[str, Any]:
        """Makes the files durable and gives the directory its name. Returns `path`, `n_rows`, `n_shards`, `n_bytes` and
        `mean_norm`."""
        return json.loads(self._writer.finish())

    def abandon(self) -> None:
        """Deletes what was written."""
        self._writer.abandon()

    def __enter__(self) -> "DumpWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None:
            self.finish()
        else:
            self.abandon()


def _whole(at: np.ndarray) -> Any:
    """Indices as a slice where they are consecutive, so that rows are not copied."""
    if len(at) and at[-1] - at[0] + 1 == len(at):
        return slice(int(at[0]), int(at[-1]) + 1)
    return at
