"""Concatenation, alone and beside an addition."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from skipway.errors import ChainError, Misfit, OpenChainError
from skipway.layer import check_width
from skipway.value import Value, show

from .base import Merge, MergeFn, both_shapes, clash, feature_axis, fix_for


@dataclass(frozen=True)
class Cat(Merge):
    """``cat([branch, shortcut])`` on the feature axis (1608.06993).

    Parameters
    ----------
    axis:
        the axis to join on, counted as torch does with the batch axis as 0. By default the feature axis: the last one
        of what ``Dense`` and ``LayerNorm`` make, axis 1 of what ``Conv`` and ``BatchNorm`` make.
    first:
        which of the two comes first, ``"branch"`` or ``"shortcut"``.
    """

    axis: int | None = None
    first: Literal["branch", "shortcut"] = "branch"

    widens: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.first not in ("branch", "shortcut"):
            raise ChainError(f'Cat: first is "branch" or "shortcut", not {self.first!r}')
        if self.axis is not None and type(self.axis) is not int:
            raise ChainError(f"Cat: axis is a whole number, not {self.axis!r}")
        if self.axis == 0:
            raise ChainError("Cat: axis 0 is the batch; features are joined on axis 1 or the last one")

    def _axis(self, branch: Value, shortcut: Value) -> int | None:
        if self.axis is not None:
            value = branch or shortcut
            if not value:
                return self.axis
            ndim = value.trials[0].dim()
            if not -ndim < self.axis < ndim:
                raise Misfit(f"Cat(axis={self.axis}) is outside the {ndim} axes of {show(value.shape)}", "say another")
            return self.axis
        known = {v.axis for v in (branch, shortcut) if v and v.axis is not None}
        if len(known) > 1:
            raise Misfit(
                "cat cannot tell the feature axis: the branch has its features "
                f"on the {'last axis' if branch.axis == -1 else 'axis 1'}, the shortcut on the other",
                "say merge=Cat(axis=1) or merge=Cat(axis=-1), imported from skipway",
            )
        return next(iter(known), None)

    def target(self, branch: Value, start: Value) -> Value:
        axis = self._axis(branch, start)
        if axis is None or not branch or len(branch.trials) != len(start.trials):
            return branch
        out = []
        for b, s in zip(branch.trials, start.trials, strict=True):
            shape = list(b.shape)
            if len(shape) == s.dim():
                shape[axis] = s.shape[axis]
            out.append(b.new_empty(shape))
        return branch.like(out)

    def check(self, branch: Value, shortcut: Value) -> None:
        axis = self._axis(branch, shortcut)
        if not branch or not shortcut:
            return
        if axis is None:
            raise Misfit(
                f"cat cannot tell the feature axis of {show(branch.shape)}",
                "say merge=Cat(axis=1) or merge=Cat(axis=-1), imported from skipway",
            )
        if clash(branch, shortcut, but=axis if axis < 0 else axis - branch.trials[0].dim()):
            raise Misfit(
                f"cat needs equal shapes but for the features, and {both_shapes(branch, shortcut)}",
                fix_for(branch, shortcut),
            )

    def make(self, branch: Value, shortcut: Value) -> MergeFn:
        axis = self._axis(branch, shortcut)
        if axis is None and not (branch and shortcut):
            raise OpenChainError("cat needs the shapes that meet, to tell the feature axis")
        assert axis is not None
        return CatFirst(axis) if self.first == "shortcut" else CatLast(axis)


@dataclass(frozen=True)
class CatLast:
    axis: int

    def __call__(self, branch: Tensor, shortcut: Tensor) -> Tensor:
        return torch.cat((branch, shortcut), self.axis)

    def code(self, branch: str, shortcut: str) -> str:
        return f"torch.cat(({branch}, {shortcut}), {self.axis})"

    def many(self, values: Sequence[Tensor]) -> Tensor:
        return torch.cat(tuple(values), self.axis)


@dataclass(frozen=True)
class CatFirst(CatLast):
    def __call__(self, branch: Tensor, shortcut: Tensor) -> Tensor:
        return torch.cat((shortcut, branch), self.axis)

    def code(self, branch: str, shortcut: str) -> str:
        return f"torch.cat(({shortcut}, {branch}), {self.axis})"

    def many(self, values: Sequence[Tensor]) -> Tensor:
        return torch.cat(tuple(reversed(values)), self.axis)


@dataclass(frozen=True)
class DualPath(Merge):
    """One tensor, two parts: the first ``add`` features add, the rest of both are concatenated (1707.01629).

    ``cat([branch[:add] + shortcut[:add], shortcut[add:], branch[add:]])`` on the feature axis. With ``add`` as wide as
    the branch it is a sum, followed by what the shortcut has more.

    >>> from skipway import Dense, Skip
    >>> Skip(Dense(6, 5), merge=DualPath(add=3))(torch.zeros(1, 6)).shape  # 3 added, 3 + 2 beside each other
    torch.Size([1, 8])
    """

    add: int

    sided: ClassVar[bool] = True
    widens: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_width("DualPath: add", self.add, open_ok=False)

    def target(self, branch: Value, start: Value) -> Value:
        return Cat().target(branch, start)

    def check(self, branch: Value, shortcut: Value) -> None:
        if branch and shortcut:
            feature_axis("dual path", branch, shortcut)
        Cat().check(branch, shortcut)
        for side, value in (("branch", branch), ("shortcut", shortcut)):
            if value.width is not None and value.width < self.add:
                raise Misfit(
                    f"dual path adds the first {self.add} features, and the {side} has {value.width}", "add fewer"
                )

    def make(self, branch: Value, shortcut: Value) -> MergeFn:
        return DualPathAt(feature_axis("dual path", branch, shortcut), self.add)


@dataclass(frozen=True)
class DualPathAt:
    """A :class:`DualPath` at one place."""

    axis: int
    add: int

    def __call__(self, branch: Tensor, shortcut: Tensor) -> Tensor:
        head, more = branch.tensor_split((self.add,), self.axis)
        base, rest = shortcut.tensor_split((self.add,), self.axis)
        return torch.cat((head + base, rest, more), self.axis)
