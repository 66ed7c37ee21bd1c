"""Training, and what a training leaves behind."""
from __future__ import annotations

import html
import json
import os
import shutil
from pathlib import Path
from typing import Any, Callable, Iterable, Mapping, Sequence

import numpy as np

from . import _native
from ._arrays import is_torch, rows_of
from ._card import card
from ._dump import DumpWriter
from ._progress import Progress, Reporter, warn
from ._sae import Sae, absent

PathLike = str | os.PathLike[str]
_INTERRUPTED = 130


def settings(*keys: str) -> list[dict[str, Any]]:
    """Every setting of a training with its default, range and meaning; with `keys`, only those of these sections or names.

    Raises:
        Error: a key that names nothing, with the nearest one that does.
    """
    return json.loads(_native.settings(keys))


def command(*args: Any, progress: Progress = True) -> Any:
    """Runs any command of `strata` in this process: `command("probe", "run", "--labels", "chars")`.

    Returns what it prints with `--json`, parsed.

    Raises:
        Error: one sentence.
        KeyboardInterrupt: it was interrupted, and wrote nothing.
    """
    return _call([str(a) for a in args], progress)[1]


def _call(args: Sequence[str], progress: Progress) -> tuple[int, Any]:
    with Reporter(progress) as reporter:
        code, out = _native.run(list(args), reporter.show, reporter.note)
    try:
        return code, json.loads(out) if out else None
    except json.JSONDecodeError:
        return code, out


def _flag(name: str, value: Any) -> list[str]:
    """A flag of the command line, or nothing."""
    if value is None or value is False:
        return []
    return [f"--{name}"] if value is True else [f"--{name}", str(value)]


def _sets(given: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Settings by keyword as `key=value`: `level1={"k": 8}` and `{"level1.k": 8}` are `level1.k=8`."""
    sets = []
    for key, value in given.items():
        key = f"{prefix}{key}"
        sets += _sets(value, f"{key}.") if isinstance(value, Mapping) else [f"{key}={_toml(value)}"]
    return sets


def _set_flags(sets: Iterable[str]) -> list[str]:
    return [word for one in sets for word in ("--set", one)]


def _toml(value: Any) -> str:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, (bool, str, int)):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_toml, value))}]"
    raise TypeError(f"settings: expected numbers, texts, switches or lists of them, found {value!r}")


def train(
    rows: Any,
    out: PathLike,
    *,
    tokens: Any = None,
    vocab: Any = None,
    context: int | None = None,
    starts: PathLike | None = None,
    layer: int | None = None,
    dtype: str | None = None,
    dim: int | None = None,
    target: PathLike | None = None,
    dump: PathLike | None = None,
    dump_dtype: str | None = None,
    max_bytes: int = 64 << 30,
    model_name: str | None = None,
    hook_name: str | None = None,
    control: bool = False,
    preset: str | None = None,
    config: PathLike | None = None,
    progress: Progress = True,
    **settings: Any,
) -> "Run":
    """Trains a model, and returns the run.

    Ctrl-C (in a notebook: the button that interrupts) writes a checkpoint and returns the run as it is: `run.finished` is
    false, and `run.resume()` continues to the same bits.

    Args:
        rows: a dump (a path, or a list of paths to its shards); or an array or tensor `[n, d]` or `[sequences, tokens, d]`; or
            an iterable of such arrays, or of pairs of an array and its token ids. Arrays are written to a dump first, so that
            the training and every evaluation read the same rows: see `dump`.
        out: the directory of the run, which must not exist.
        tokens: the token id of every row: of a dump the path of a file of integers; of one array an array.
        vocab: the text of every token id: of a dump the path of a file; of arrays as `vocabulary` takes it.
        context: rows per sequence, where all have as many.
        starts, layer: of a dump, the file with the first row of every sequence, and which layer to read.
        dtype, dim: of raw files (.bin) the type and the count of the numbers of a row.
        target: a transcoder: the dump of the rows that it should reconstruct, one for each row.
        dump: where arrays are written; by default `OUT-rows` beside the run. It must not exist.
        dump_dtype: the type in which they are stored; by default that of the first array.
        max_bytes: most bytes that are written there. More rows raise `Error`, and nothing is kept.
        model_name, hook_name: of arrays, where they come from, as in `"gpt2"` and `"blocks.6.hook_resid_post"`: the run, its model
            card and SAELens name them.
        control: also train the control run, with which `eval` compares.
        preset: settings for a kind of rows in place of the defaults, as `"language"`; `config` and `settings` come after them.
        config: a file of settings.
        progress: a bar by tqdm where it is installed; or a function `(what, done, total, unit, message)`.
        **settings: as `strata settings` lists them, in sections: `level1={"latents": 512, "k": 16}, train={"steps": 2000}`,
            `seed=1`.

    Raises:
        Error: one sentence for a setting, a dump or a directory that does not fit.
    """
    out = Path(out)
    sets = _sets(settings)
    if _is_paths(rows):
        if model_name is not None or hook_name is not None:
            raise TypeError("model_name and hook_name are of arrays: a dump on disk says itself where its rows come from")
        paths = [rows] if isinstance(rows, (str, os.PathLike)) else list(rows)
        source = ["--dump", *map(str, paths)]
        for name, value in (("tokens", tokens), ("vocab", vocab), ("starts", starts)):
            if value is not None and not isinstance(value, (str, os.PathLike)):
                raise TypeError(f"{name}: of a dump on disk it is the path of a file, found {type(value).__name__}")
            source += _flag(name, value)
        source += _flag("context", context) + _flag("layer", layer) + _flag("dtype", dtype) + _flag("dim", dim)
    else:
        if any(given is not None for given in (starts, layer, dtype, dim)):
            raise TypeError("starts, layer, dtype and dim are those of a dump on disk: give sequences as [sequences, tokens, d]")
        if out.exists():
            raise _native.Error(f"{out} exists already: continue it with Run({str(out)!r}).resume(), or choose another `out`")
        path = Path(dump) if dump is not None else out.with_name(f"{out.name}-rows")
        about = {"model": model_name, "hook": hook_name}
        # A wrong setting is found before anything is written.
        check = lambda d: _native.check_settings(preset, config, sets, d)
        _write(rows, path, tokens, vocab, context, dump_dtype, max_bytes, about, check)
        source = ["--dump", str(path)]
    args = ["train", *source, "--out", str(out), *_flag("target", target), *_flag("control", control)]
    args += [*_flag("preset", preset), *_flag("config", config), *_set_flags(sets)]
    return _trained(out, args, progress)


def _trained(out: Path, args: list[str], progress: Progress) -> "Run":
    code, _ = _call(args, progress)
    run = Run(out)
    if code == _INTERRUPTED:
        warn(f"interrupted: a checkpoint is in {out}; continue with run.resume()")
    return run


def _is_paths(rows: Any) -> bool:
    if isinstance(rows, (str, os.PathLike)):
        return True
    return isinstance(rows, (list, tuple)) and bool(rows) and all(isinstance(p, (str, os.PathLike)) for p in rows)


def _write(
    rows: Any, path: Path, tokens: Any, vocab: Any, context: int | None, dtype: str | None, max_bytes: int,
    about: Mapping[str, Any], check: Callable[[int], None],
) -> None:
    """Writes arrays as a dump of at most `max_bytes`, after `check` of their width."""
    is_array = isinstance(rows, np.ndarray) or is_torch(rows) or hasattr(rows, "__array__")
    if not is_array and tokens is not None:
        raise TypeError("tokens: of an iterable they come with each array, as pairs (array, token_ids)")
    if not is_array and not isinstance(rows, Iterable):
        what = "an array, the path of a dump, or an iterable of arrays"
        raise TypeError(f"rows: expected {what}, found {type(rows).__name__}")
    pieces: Iterable[Any] = [(rows, tokens)] if is_array else rows
    writer: DumpWriter | None = None
    size, context_of = {"f32": 4, "f16": 2, "bf16": 2}, context
    try:
        for piece in pieces:
            array, ids = piece if isinstance(piece, tuple) else (piece, None)
            found = rows_of(array)
            array = found.array
            if writer is None:
                dtype = dtype or found.dtype
                if dtype not in size:
                    raise ValueError(f"dump_dtype: expected f32, f16 or bf16, found {dtype!r}")
                if context_of is None and ids is None and array.ndim == 3:
                    context_of = array.shape[1]
                check(array.shape[-1])
                writer = DumpWriter(path, array.shape[-1], dtype, vocab, context=context_of, **about)  # type: ignore[arg-type]
            if ids is None and array.ndim == 3 and context_of != array.shape[1]:
                raise ValueError(f"rows: expected sequences of {context_of} rows, found {array.shape[1]}")
            n = int(np.prod(array.shape[:-1]))
            if (writer.n_rows + n) * writer.d * size[dtype] > max_bytes:  # type: ignore[index]
                raise _native.Error(
                    f"rows: more than max_bytes = {max_bytes} bytes would be written to {path}: raise max_bytes, or give fewer"
                )
            if ids is not None and array.ndim == 2 and context_of is not None:
                writer.append(array, ids, continues=True)
            else:
                writer.append(array, ids)
        if writer is None:
            raise ValueError("rows: expected at least one array, found none")
        writer.finish()
    except BaseException:
        if writer is not None:
            writer.abandon()
        raise


class Report:
    """A report that was written. A notebook shows it; `path` is the file, which opens offline in any browser."""

    def __init__(self, path: PathLike) -> None:
        self.path = Path(path)

    def _repr_html_(self) -> str:
        page = html.escape(self.path.read_text(encoding="utf-8"), quote=True)
        style = "width:100%;height:900px;border:0"
        return f'<iframe srcdoc="{page}" style="{style}" sandbox="allow-scripts allow-downloads allow-popups"></iframe>'

    def __repr__(self) -> str:
        return f"Report({str(self.path)!r})"


class Run:
    """The directory of a training: the model, its settings, and what was measured."""

    def __init__(self, path: PathLike) -> None:
        """Opens a run.

        Raises:
            Error: there is no such directory.
        """
        self.path = Path(path)
        if not self.path.is_dir():
            raise _native.Error(f"{self.path} is no run: there is no such directory")

    @property
    def finished(self) -> bool:
        """Whether all steps were taken."""
        return (self.path / "final_info.json").exists()

    @property
    def sae(self) -> Sae:
        """The model, loaded anew each time."""
        return Sae.load(self.path)

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """The lines of `metrics.jsonl`: losses, FVU, L0 and dead latents, once per `train.log_every` steps."""
        return _lines(self.path / "metrics.jsonl")

    @property
    def summary(self) -> dict[str, Any] | None:
        """What `final_info.json` says of the dump of the run; none before it is finished."""
        found = _json(self.path / "final_info.json")
        return None if found is None else next(iter(found.values()))

    @property
    def evaluation(self) -> dict[str, Any] | None:
        """What `eval` has found (docs/metrics.md explains every number); none before."""
        return _json(self.path / "eval.json")

    @property
    def latents(self) -> list[dict[str, Any]]:
        """What `eval` has found about each latent: level 1 first, then level 2."""
        return _lines(self.path / "latents.jsonl")

    def resume(self, steps: int | None = None, *, control: bool = False, progress: Progress = True) -> "Run":
        """Continues the training: one that was interrupted, or with more `steps` one that is finished."""
        args = ["train", *self._source(), "--out", str(self.path), "--resume", *_flag("control", control)]
        return _trained(self.path, args + ([] if steps is None else _set_flags(_sets({"train.steps": steps}))), progress)

    def eval(
        self,
        dump: PathLike | Sequence[PathLike] | None = None,
        *,
        all: bool = False,
        splice: bool = False,
        splice_tokens: int | None = None,
        model: PathLike | None = None,
        against: "Run | PathLike | None" = None,
        out: PathLike | None = None,
        progress: Progress = True,
    ) -> dict[str, Any]:
        """Computes every metric on held-out rows, and returns `eval.json`.

        Args:
            dump: other rows than those of the training.
            all: every row, not only those that training held out.
            splice: put the reconstructions into the language model at `model`, and measure its cross-entropy.
            splice_tokens: with `splice`, at most so many tokens, in whole sequences spread evenly over the rows; by default all.
            model: the language model, as `strata capture --model` takes it; by default the embedded one, if the dump came from it.
            against: another run, for instance with another seed.
            out: another directory for `eval.json` and `latents.jsonl`.
        """
        args = ["eval", str(self.path)]
        if dump is not None:
            args += ["--dump", *map(str, [dump] if isinstance(dump, (str, os.PathLike)) else dump)]
        args += _flag("all", all) + _flag("splice", splice) + _flag("splice-tokens", splice_tokens)
        args += _flag("model", model) + _flag("out", out)
        args += _flag("against", against.path if isinstance(against, Run) else against)
        return _call(args, progress)[1]

    def report(self, out: PathLike | None = None, *, title: str | None = None, beside: "Run | PathLike | None" = None) -> Report:
        """Writes the page with all that is known of the run, or of two runs `beside` each other."""
        args = ["report", str(self.path), *([] if beside is None else [str(beside.path if isinstance(beside, Run) else beside)])]
        found = _call(args + _flag("out", out) + _flag("title", title), False)[1]
        return Report(found["report"])

    def encode(self, out: PathLike, dump: PathLike | None = None, *, f16: bool = False, progress: Progress = True) -> dict[str, Any]:
        """Writes the codes of every row of the dump to a safetensors file, in memory that does not grow with the rows."""
        args = ["encode", str(self.path), *_flag("dump", dump), "--out", str(out), *_flag("f16", f16)]
        return _call(args, progress)[1]

    def publish(self, directory: PathLike, *, license: str | None = None, repository: str | None = None) -> Path:
        """Writes a directory that is ready to be pushed to a hub: the model, `config.toml`, `eval.json` where there is one, and a
        `README.md` with metadata. Nothing is sent anywhere, and no file contains a path of this machine.

        Args:
            directory: the directory, which is made.
            license: as the hub names it, as in `"mit"`.
            repository: where it will be, as in `"owner/name"`, for the line that loads it.
        """
        text = card(self.path.name, self.sae, self.evaluation, license, repository)
        directory = absent(directory)
        shutil.copytree(self.path / "sae", directory)
        for name in ("config.toml", "eval.json"):
            if (self.path / name).exists():
                shutil.copy2(self.path / name, directory / name)
        (directory / "README.md").write_text(text, encoding="utf-8")
        return directory

    def _source(self) -> list[str]:
        """The flags of the dump that the run was trained on."""
        found = _json(self.path / "source.json")
        if found is None:
            raise _native.Error(f"{self.path} does not say what it was trained on: continue it with `strata train --resume --dump`")
        at = lambda p: os.path.normpath(self.path / p)
        flags = ["--dump", *map(at, found["paths"])]
        for name in ("tokens", "vocab", "starts"):
            if found.get(name) is not None:
                flags += _flag(name, at(found[name]))
        raw = found.get("raw") or {}
        flags += _flag("context", found.get("context")) + _flag("layer", found.get("layer"))
        flags += _flag("dtype", raw.get("dtype")) + _flag("dim", raw.get("dim"))
        if found.get("target") is not None:
            flags += ["--target", *map(at, found["target"]["paths"])]
        return flags

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r}{'' if self.finished else ', not finished'})"


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def _lines(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
