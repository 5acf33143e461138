"""The errors skipway raises, and how they read: what is wrong, where, and the fix."""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Iterable


class SkipwayError(Exception):
    """Base of every error that skipway raises on purpose."""


class ChainError(SkipwayError, ValueError):
    """A chain, a shortcut or a wiring that cannot work as written."""


class Misfit(ChainError):
    """Two values that cannot be merged; carries the fix."""

    def __init__(self, why: str, fix: str) -> None:
        super().__init__(why)
        self.why, self.fix = why, fix


class ShapeError(ChainError):
    """Values whose shapes do not fit, at build or for the input of a forward."""


class OpenChainError(SkipwayError, RuntimeError):
    """A chain used before its widths are known."""


class DataError(SkipwayError, ValueError):
    """Data that cannot be found, read or trained on."""


class TrainError(SkipwayError, RuntimeError):
    """Training that cannot start or go on."""


class CheckpointError(SkipwayError, RuntimeError):
    """A checkpoint or run folder that cannot be written, read or used here."""


def nearest(word: str, known: Iterable[str]) -> str:
    """``"did you mean 'stem'?"``, or the known words where none is near; empty when there are none.

    >>> nearest("stme", ["stem", "head"])
    "did you mean 'stem'?"
    """
    known = [str(k) for k in known]
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    if close:
        return f"did you mean {close[0]!r}?"
    if not known:
        return ""
    shown = ", ".join(repr(k) for k in known[:12])
    return f"there is {shown}" + (f" and {len(known) - 12} more" if len(known) > 12 else "")


def caller() -> str:
    """``file.py:12`` of the nearest frame that is neither skipway's nor torch's: where the user wrote the thing."""
    frame = sys._getframe(1)
    while frame is not None:
        # by module, not by file: dataclasses and generated forwards have no file
        if frame.f_globals.get("__name__", "").split(".")[0] not in ("skipway", "torch"):
            return f"{os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno}"
        frame = frame.f_back  # type: ignore[assignment]
    return "unknown"
