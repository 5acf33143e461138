"""Merges: how the branch and what a shortcut brings become one value. One class a value.

A merge takes ``(branch, shortcut)``, in that order. Besides the words below, any callable or ``nn.Module`` of two
tensors is a merge. A class here is a *recipe*: plain data, from which :meth:`Merge.make` creates the module or
function of one particular place, when the shapes that meet there are known. A *joint* merge takes all shortcuts that
end at a value at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from skipway.errors import ChainError, Misfit, nearest
from skipway.gains.base import from_class

from .base import Merge, MergeFn, clash
from .cat import Cat, CatFirst, CatLast, DualPath
from .gates import Gate, GateModule
from .geometry import Lerp, Orthogonal
from .random import Join, Shake, Swapout, global_drop_path
from .weighted import Weighted
from .words import Add, Max, Mean, Mul, Replace, Sub

MERGES: dict[str, Merge] = {
    "add": Add(), "cat": Cat(), "mean": Mean(), "max": Max(), "mul": Mul(), "sub": Sub(), "replace": Replace(),
    "gate": Gate(), "weighted": Weighted(),
}  # fmt: skip


def as_merge(merge: Any) -> Merge | Callable[..., Tensor]:
    """The merge that a word names; a merge, callable or module as it is.

    Raises ``ChainError`` with the nearest word for an unknown one.
    """
    if isinstance(merge, str):
        if merge not in MERGES:
            raise ChainError(f"there is no merge {merge!r}: {nearest(merge, MERGES)} Any callable works too.")
        return MERGES[merge]
    if isinstance(merge, type) and issubclass(merge, Merge):
        return from_class(merge)
    if not isinstance(merge, Merge) and not callable(merge):
        raise ChainError(f"merge= takes a word ({', '.join(MERGES)}) or a callable (branch, shortcut), not {merge!r}")
    return merge


__all__ = [
    "MERGES", "Add", "Cat", "CatFirst", "CatLast", "DualPath", "Gate", "GateModule", "Join", "Lerp", "Max", "Mean",
    "Merge", "MergeFn", "Misfit", "Mul", "Orthogonal", "Replace", "Shake", "Sub", "Swapout", "Weighted", "as_merge",
    "clash", "global_drop_path",
]  # fmt: skip
