"""Models of Strata in SAELens, with both levels. Needs sae-lens 6."""
from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any, Literal

from ._run import Run, command

PathLike = str | os.PathLike[str]
Part = Literal["level1", "level2", "both", "tree"]


def register_saelens() -> None:
    """Makes `sae_lens.SAE.load_from_disk` load what `to_saelens(..., part="tree")` and `strata convert --part tree` write."""
    from . import saelens_strata  # noqa: F401 (registers its class)


def to_saelens(
    run: Run | PathLike,
    path: PathLike,
    part: Part | None = None,
    *,
    dtype: Literal["f32", "f16", "bf16"] = "f32",
    model: str | None = None,
    hook: str | None = None,
    context: int | None = None,
    prepend_bos: bool | None = None,
    inexact: bool = False,
) -> dict[str, Any]:
    """Writes a run, or a model of another tool, as a directory that SAELens loads.

    Args:
        run: what to write.
        path: the directory, which is made.
        part: `"level1"` or `"level2"` alone, `"both"` side by side, or `"tree"`, both with their families, which SAELens loads
            after `register_saelens()`. By default that of a flat model.
        dtype: the type of the numbers; with f16 and bf16 some latents near their thresholds change.
        model, hook, context, prepend_bos: what SAELens' metadata say; by default what the run says.
        inexact: also write what is not exact. Without it an `Error` says what would be lost.
    """
    source = run.path if isinstance(run, Run) else run
    args: list[Any] = ["convert", source, path, "--weights-dtype", dtype]
    for name, value in (("part", part), ("model-id", model), ("hook", hook), ("context", context)):
        args += [] if value is None else [f"--{name}", value]
    if prepend_bos is not None:
        args += ["--prepend-bos", str(prepend_bos).lower()]
    return command(*args, *(["--inexact"] if inexact else []), progress=False)


def load(run: Run | PathLike, part: Part = "tree") -> Any:
    """A run as a `sae_lens.SAE`."""
    from sae_lens import SAE

    register_saelens()
    with tempfile.TemporaryDirectory() as directory:
        to_saelens(run, Path(directory) / "sae", part)
        return SAE.load_from_disk(str(Path(directory) / "sae"))
