"""Paths: what happens to a value on its way along a shortcut. One class a value.

Besides the words below, any callable or ``nn.Module`` is a path, and a list of paths runs them one after the other. A
class here is a *recipe*: plain data, from which :meth:`Path.make` creates the module of one particular shortcut, when
the shapes at its two ends are known.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from skipway.errors import ChainError, nearest
from skipway.gains.base import from_class

from .base import Detach, Identity, Path, PathFn, Route, along, close, takes
from .operators import Householder, LowRank
from .project import Pad, Project, SubsampleAndPad
from .size import Crop, Resize, Slice

PATHS: dict[str, Path] = {
    "identity": Identity(), "project": Project(), "pad": Pad(), "crop": Crop(), "resize": Resize(), "detach": Detach(),
}  # fmt: skip


def as_path(path: Any) -> Path | Callable[..., Tensor]:
    """The path that a word names; a path, callable or module as it is; a list as a :class:`Route`.

    Raises ``ChainError`` with the nearest word for an unknown one.
    """
    if path is None:
        return PATHS["identity"]
    if isinstance(path, str):
        if path not in PATHS:
            raise ChainError(f"there is no path {path!r}: {nearest(path, PATHS)} Any module or callable works too.")
        return PATHS[path]
    if isinstance(path, type) and issubclass(path, Path):
        return from_class(path)
    if isinstance(path, (list, tuple)) and not isinstance(path, nn.Module):
        if not path:
            raise ChainError('path=[] has no steps: write path="identity", or list some')
        return Route(tuple(as_path(step) for step in path))
    if not isinstance(path, Path) and not callable(path):
        raise ChainError(f"path= takes a word ({', '.join(PATHS)}), a module, a callable or a list, not {path!r}")
    return path


__all__ = [
    "PATHS", "Crop", "Detach", "Householder", "Identity", "LowRank", "Pad", "Path", "PathFn", "Project", "Resize",
    "Route", "Slice", "SubsampleAndPad", "along", "as_path", "close", "takes",
]  # fmt: skip
