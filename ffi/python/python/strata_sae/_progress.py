"""Progress and notes of commands."""
from __future__ import annotations

import logging
import os
import sys
import warnings
from types import TracebackType
from typing import Any, Callable, Union

log = logging.getLogger("strata_sae")

#: What callers pass as `progress`: a bar by tqdm, nothing, or `callback(what, done, total, unit, message)`.
Progress = Union[bool, Callable[[str, int, int, str, str], None]]


_HERE = os.path.dirname(__file__)


def warn(sentence: str) -> None:
    """Warns at the line outside of this package that has called into it."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and os.path.dirname(frame.f_code.co_filename) == _HERE:
        frame, level = frame.f_back, level + 1
    warnings.warn(sentence, UserWarning, stacklevel=level)


class Reporter:
    """Shows the progress of a command: `show` and `note` are its callbacks."""

    def __init__(self, progress: Progress) -> None:
        self._bar: Any = None
        self._what: str | None = None
        self._tqdm: Any = None
        self.show: Callable[[str, int, int, str, str], None] | None = None
        if callable(progress):
            self.show = progress
        elif progress:
            try:
                from tqdm.auto import tqdm
            except ImportError:
                return
            self._tqdm, self.show = tqdm, self._draw

    def _draw(self, what: str, done: int, total: int, unit: str, message: str) -> None:
        if what != self._what:
            self.close()
            self._what = what
            self._bar = self._tqdm(total=total, initial=done, desc=what, unit=f" {unit}", unit_scale=True)
        self._bar.total = total
        self._bar.set_postfix_str(message, refresh=False)
        self._bar.update(done - self._bar.n)

    def note(self, line: str) -> None:
        """A warning of the command becomes one of Python, other lines go to the logger `strata_sae`."""
        sentence = line.removeprefix("warning: ")
        if sentence != line:
            warn(sentence)
        else:
            log.info("%s", line)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def __enter__(self) -> "Reporter":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
