"""Activations of models of transformers as dumps."""
from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any, Iterable, Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import nn

from . import _native
from ._dump import Dtype, DumpWriter, PathLike, vocabulary
from ._hooks import module_of, rows_in
from ._progress import Progress, Reporter

#: Sequences that one part of a dump has: what is lost at most if a capture is stopped, and not done again if it is resumed.
_PART = 2048


def capture(
    model: nn.Module,
    tokenizer: Any,
    texts: Iterable[str],
    hook: str | Sequence[str],
    out: PathLike,
    *,
    context: int = 256,
    batch_size: int = 8,
    dtype: Dtype | None = None,
    max_tokens: int | None = None,
    add_special_tokens: bool = True,
    progress: Progress = True,
) -> Path | dict[str, Path]:
    """Writes the activations of a model over texts as a dump, with tokens, sequences and the texts of the tokens.

    Each text is cut into sequences of at most `context` tokens, every one with the special tokens that the tokenizer adds. A
    batch is padded, and the rows of the padding are left out. Special tokens are listed in the dump, so that
    `data={"skip_special": True}` leaves them out of a training.

    A capture that was stopped continues where it was if it is called again with the same texts: finished parts of 2,048
    sequences are beside the dump, in `OUT.parts`, until the dump is whole.

    Args:
        model: a causal language model or an encoder of transformers, on any device; it is put into eval mode for the capture.
        tokenizer: its tokenizer, of the fast kind.
        texts: documents.
        hook: the name of a module whose output has the activations, as in `"model.layers.14"` (the residual stream after
            that block) or `"model.layers.14.mlp"`; or `"hidden_states.15"` for an entry of `output_hidden_states`. A list
            takes several in one pass.
        out: the dump. With several hooks a directory that gets a dump per hook, named by it.
        context: most tokens of a sequence.
        batch_size: sequences that are computed together.
        dtype: the type in which the activations are stored; by default the model's own.
        max_tokens: stop at so many rows.
        add_special_tokens: as for the tokenizer.
        progress: a bar by tqdm where it is installed; or a function.

    Returns:
        The path of the dump; of several hooks a dict from hook to path.
    """
    hooks = [hook] if isinstance(hook, str) else list(hook)
    if len(set(hooks)) != len(hooks) or not hooks:
        raise ValueError(f"hook: expected different names, found {hooks}")
    _check(tokenizer, texts, context, add_special_tokens)
    out = Path(out)
    paths = {name: out if isinstance(hook, str) else out / name for name in hooks}
    there = [path for path in paths.values() if path.exists()]
    if there:
        raise _native.Error(f"{there[0]} exists already: choose another `out`, or remove it")
    if not isinstance(hook, str):
        out.mkdir(parents=True, exist_ok=True)
    source = _Source(model, hooks)
    store = dtype or {torch.float16: "f16", torch.bfloat16: "bf16"}.get(next(model.parameters()).dtype, "f32")
    parts = out.with_name(f"{out.name}.parts")
    identity = {
        "model": _name(model), "hooks": hooks, "context": context, "dtype": store, "special": add_special_tokens,
        "max_tokens": max_tokens,
    }
    _begin(parts, identity)
    texts_of = vocabulary(tokenizer)
    special = [int(i) for i in getattr(tokenizer, "all_special_ids", [])]
    done = 0
    try:
        with Reporter(progress) as reporter:
            for number, sequences in enumerate(_in_parts(_sequences(tokenizer, texts, context, add_special_tokens), max_tokens)):
                n = sum(map(len, sequences))
                place = parts / f"part-{number:05}"
                digest = hashlib.sha256(json.dumps(sequences).encode()).hexdigest()
                if place.exists():
                    if json.loads((place / "part.json").read_text())["tokens"] != digest:
                        raise _native.Error(f"{parts} is of other texts: remove it to capture these")
                else:
                    _capture_part(source, tokenizer, sequences, place, store, batch_size, special, digest)
                done += n
                if reporter.show is not None:
                    reporter.show("capturing", done, max(done, max_tokens or 0), "tokens", "")
    finally:
        if not any(parts.glob("part-*")):
            # There is nothing to continue.
            shutil.rmtree(parts)
    if done == 0:
        raise ValueError("texts: expected at least one text that is not empty, found none")
    for i, (name, path) in enumerate(paths.items()):
        _join(parts, i, path, texts_of, special, _name(model), name)
    shutil.rmtree(parts)
    return paths[hooks[0]] if isinstance(hook, str) else paths


class _Source:
    """A model and where its activations are taken."""

    def __init__(self, model: nn.Module, hooks: Sequence[str]) -> None:
        self.model, self.hooks = model, hooks
        self.states = {name: _number(name) for name in hooks if name.startswith("hidden_states.")}
        self.modules = {name: module_of(model, name) for name in hooks if name not in self.states}
        # The logits, which nothing here needs, are most of the work of a small model.
        base = getattr(model, "base_model", model)
        inside = set(base.modules())
        self.run = base if all(m in inside for m in self.modules.values()) else model

    def rows(self, ids: torch.Tensor, mask: torch.Tensor) -> dict[str, torch.Tensor]:
        """`[batch, tokens, width]` for each hook, on the CPU."""
        found: dict[str, torch.Tensor] = {}

        def keep(name: str) -> Any:
            def hook(module: nn.Module, args: Any, output: Any) -> None:
                found[name] = rows_in(output, name)

            return hook

        handles = [module.register_forward_hook(keep(name)) for name, module in self.modules.items()]
        was_training = self.model.training
        try:
            self.model.eval()
            with torch.inference_mode():
                more = {"output_hidden_states": True} if self.states else {}
                result = self.run(input_ids=ids, attention_mask=mask, **more)
        finally:
            self.model.train(was_training)
            for handle in handles:
                handle.remove()
        for name, i in self.states.items():
            if not 0 <= i < len(result.hidden_states):
                raise ValueError(f"hook {name!r}: expected hidden_states.0 to hidden_states.{len(result.hidden_states) - 1}")
            found[name] = result.hidden_states[i]
        missing = [name for name in self.hooks if name not in found]
        if missing:
            raise ValueError(f"hook {missing[0]!r}: the model did not run this module")
        return {name: rows.cpu() for name, rows in found.items()}


def _number(hook: str) -> int:
    number = hook.removeprefix("hidden_states.")
    if not number.isdecimal():
        raise ValueError(f"hook {hook!r}: expected a number behind the point, as in 'hidden_states.15'")
    return int(number)


def _name(model: nn.Module) -> str:
    """The name of a model as a hub has it; of a directory its last part, since others who read it have another machine."""
    name = str(getattr(getattr(model, "config", None), "_name_or_path", "") or type(model).__name__)
    if not Path(name).is_dir():
        return name
    parts = Path(name).resolve().parts
    of_hub = [part.removeprefix("models--").replace("--", "/", 1) for part in parts if part.startswith("models--")]
    return of_hub[-1] if of_hub else parts[-1]


def _check(tokenizer: Any, texts: Any, context: int, add_special_tokens: bool) -> None:
    """Refuses what no sequence can be made of."""
    if isinstance(texts, str):
        raise TypeError("texts: expected several, found a single text: put it into a list")
    if not getattr(tokenizer, "is_fast", False):
        raise TypeError("tokenizer: expected a fast one (AutoTokenizer gives it by default)")
    least = 1 + (tokenizer.num_special_tokens_to_add() if add_special_tokens else 0)
    if context < least:
        raise ValueError(f"context: expected at least {least}, a token and those that the tokenizer adds, found {context}")


def _sequences(tokenizer: Any, texts: Iterable[str], context: int, special: bool) -> Iterator[list[int]]:
    """The token ids of every sequence."""
    for text in texts:
        cut = {"truncation": True, "max_length": context, "return_overflowing_tokens": True}
        for ids in tokenizer([text], add_special_tokens=special, verbose=False, **cut)["input_ids"]:
            if ids:
                yield [int(i) for i in ids]


def _in_parts(sequences: Iterable[list[int]], most: int | None) -> Iterator[list[list[int]]]:
    part: list[list[int]] = []
    left = most
    for ids in sequences:
        if left is not None:
            ids = ids[:left]
            left -= len(ids)
        if ids:
            part.append(ids)
        if len(part) == _PART:
            yield part
            part = []
        if left == 0:
            break
    if part:
        yield part


def _begin(parts: Path, identity: Mapping[str, Any]) -> None:
    """Makes the directory of parts, or checks that the parts that are there are of this capture."""
    about = parts / "capture.json"
    if about.exists():
        found = json.loads(about.read_text())
        for key, value in identity.items():
            if found.get(key) != value:
                what = f"{key} {found.get(key)!r}, and this one {value!r}"
                raise _native.Error(f"{parts} has parts of a capture with {what}: remove it, or capture as before")
        return
    parts.mkdir(parents=True, exist_ok=True)
    about.write_text(json.dumps(identity))


def _capture_part(
    source: _Source, tokenizer: Any, sequences: list[list[int]], place: Path, store: Any, batch_size: int,
    special: list[int], digest: str,
) -> None:
    """Writes a dump per hook into `place`, which appears when it is whole."""
    hidden = place.with_name(f".{place.name}.tmp")
    shutil.rmtree(hidden, ignore_errors=True)
    hidden.mkdir()
    device = next(source.model.parameters()).device
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
    writers: dict[str, DumpWriter] = {}
    try:
        for start in range(0, len(sequences), batch_size):
            some = sequences[start : start + batch_size]
            longest = max(map(len, some))
            ids = torch.full((len(some), longest), pad, dtype=torch.long)
            mask = torch.zeros((len(some), longest), dtype=torch.long)
            for i, sequence in enumerate(some):
                ids[i, : len(sequence)] = torch.tensor(sequence)
                mask[i, : len(sequence)] = 1
            for name, rows in source.rows(ids.to(device), mask.to(device)).items():
                if name not in writers:
                    at = hidden / str(source.hooks.index(name))
                    writers[name] = DumpWriter(at, rows.shape[-1], store, special_ids=special)
                writers[name].append(rows, ids, mask)
        for writer in writers.values():
            writer.finish()
    except BaseException:
        for writer in writers.values():
            writer.abandon()
        shutil.rmtree(hidden, ignore_errors=True)
        raise
    (hidden / "part.json").write_text(json.dumps({"tokens": digest}))
    hidden.rename(place)


def _join(
    parts: Path, number: int, path: Path, texts: list[str], special: list[int], model: str, hook: str
) -> None:
    """Makes one dump of the parts by moving their files."""
    hidden = path.with_name(f".{path.name}.tmp")
    shutil.rmtree(hidden, ignore_errors=True)
    hidden.mkdir(parents=True)
    shards, tokens, starts, rows = [], [], [], 0
    first: dict[str, Any] = {}
    for i, part in enumerate(sorted(parts.glob("part-*"))):
        about = json.loads((part / str(number) / "dump.json").read_text())
        first = first or about
        own = _integers(part / str(number) / about["tokens"])
        tokens.append(own["tokens"])
        starts.append(own["sequence_starts"] + np.uint64(rows))
        rows += about["rows"]
        for shard in about["shards"]:
            name = f"part-{i:05}-{shard['file']}"
            shutil.copy2(part / str(number) / shard["file"], hidden / name)
            shards.append({"file": name, "rows": shard["rows"]})
    np.save(hidden / "tokens.npy", np.concatenate(tokens))
    np.save(hidden / "starts.npy", np.concatenate(starts))
    (hidden / "vocab.json").write_text(json.dumps(texts), encoding="utf-8")
    manifest = {
        "format": "strata-dump", "version": 1, "d": first["d"], "rows": rows, "dtype": first["dtype"], "shards": shards,
        "tokens": "tokens.npy", "sequence_starts": "starts.npy", "vocab": "vocab.json", "model": model, "hook": hook,
    }
    if special:
        manifest["special_tokens"] = sorted(set(special))
    (hidden / "dump.json").write_text(json.dumps(manifest, indent=1))
    hidden.rename(path)


def _integers(path: Path) -> dict[str, np.ndarray]:
    from ._sae import _safetensors

    return _safetensors(path.read_bytes())
