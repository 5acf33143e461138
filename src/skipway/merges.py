"""Merges: how the branch and what a shortcut brings become one value. One class a value.

A merge takes ``(branch, shortcut)``, in that order. Besides the words below, any callable or ``nn.Module`` of two
tensors is a merge. A class here is a *recipe*: plain data, from which :meth:`Merge.make` creates the module or
function of one particular place, when the shapes that meet there are known.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from .errors import ChainError, OpenChainError, nearest
from .layer import check_width
from .value import Value, show

MergeFn = Callable[[Tensor, Tensor], Tensor]


class Misfit(ChainError):
    """Two values that cannot be merged; carries the fix."""

    def __init__(self, why: str, fix: str) -> None:
        super().__init__(why)
        self.why, self.fix = why, fix


@dataclass(frozen=True)
class Merge:
    """Base of the merges. Derive from it to add one whose result depends on the shapes that meet."""

    def target(self, branch: Value, start: Value) -> Value:
        """What the shortcut has to look like to meet ``branch``: a projection aims at this."""
        return branch

    def check(self, branch: Value, shortcut: Value) -> None:
        """Raise :class:`Misfit` where the two do not fit. Equal shapes, unless a merge says otherwise."""
        if clash(branch, shortcut):
            raise Misfit(f"{self.word} needs equal shapes, and {_shown(branch, shortcut)}", _fix(branch, shortcut))

    def make(self, branch: Value, shortcut: Value) -> MergeFn:
        """The function or module that merges here. Parameters, if any, are created now."""
        raise NotImplementedError

    def code(self, branch: str, shortcut: str) -> str | None:
        """The merge as a Python expression of two operands, where it is one."""
        return None

    def many(self, values: Sequence[Tensor]) -> Tensor:
        """Merge any number of values, as :class:`~skipway.Parallel` does: one onto the other, from the left."""
        merge = self.make(Value(), Value())
        result = values[0]
        for value in values[1:]:
            result = merge(result, value)
        return result

    @property
    def word(self) -> str:
        return type(self).__name__.lower()


def clash(a: Value, b: Value, but: int | None = None) -> bool:
    """Whether two shapes differ, but for one axis: at every size that is tried."""
    if not a or len(a.trials) != len(b.trials):
        return False

    def sizes(t: Tensor) -> list[int]:
        kept = list(t.shape[1:])
        if but is not None and -len(kept) <= but:
            del kept[but]
        return kept

    return all(s.dim() != t.dim() or sizes(s) != sizes(t) for s, t in zip(a.trials, b.trials, strict=True))


def _shown(branch: Value, shortcut: Value) -> str:
    """Both shapes; where the size is not known, as they come out for the first size that is tried."""
    b, s = tuple(branch.trials[0].shape[1:]), tuple(shortcut.trials[0].shape[1:])
    tried = ", for instance" if len(branch.trials) > 1 and b != branch.shape else ""
    return f"the branch is {show(b)}, the shortcut {show(s)}{tried}"


def _fix(branch: Value, shortcut: Value) -> str:
    b, s = tuple(branch.trials[0].shape[1:]), tuple(shortcut.trials[0].shape[1:])
    if len(b) != len(s):
        return 'give both the same number of dimensions, or bring the shortcut there with path="project" or a module'
    axis = branch.axis if branch.axis is not None else shortcut.axis
    size = [i for i in range(len(b)) if i - len(b) != axis and b[i] != s[i]]
    if not size:
        return 'add path="project"'
    known = [(b[i], s[i]) for i in size]
    if known and all(n >= m and -(-n // max(1, round(n / m))) == m for m, n in known):
        return 'add path="project" (a strided one follows from the two shapes)'
    if known and all(n > m for m, n in known):
        return "give the layers between padding that keeps the size, or crop the shortcut with a module as path="
    return "give an input whose size the layers between halve and double back exactly, or resize with a module as path="


def _add(branch: Tensor, shortcut: Tensor) -> Tensor:
    return branch + shortcut


def _mul(branch: Tensor, shortcut: Tensor) -> Tensor:
    return branch * shortcut


def _mean(branch: Tensor, shortcut: Tensor) -> Tensor:
    return (branch + shortcut) * 0.5


@dataclass(frozen=True)
class Add(Merge):
    """``branch + shortcut`` (1512.03385). The default."""

    def make(self, branch: Value, shortcut: Value) -> MergeFn:
        return _add

    def code(self, branch: str, shortcut: str) -> str:
        return f"{branch} + {shortcut}"


@dataclass(frozen=True)
class Mul(Merge):
    """``branch * shortcut``."""

    def make(self, branch: Value, shortcut: Value) -> MergeFn:
        return _mul

    def code(self, branch: str, shortcut: str) -> str:
        return f"{branch} * {shortcut}"


@dataclass(frozen=True)
class Mean(Merge):
    """The mean of the two; of all of them in :class:`~skipway.Parallel` (the join of 1605.07648)."""

    def make(self, branch: Value, shortcut: Value) -> MergeFn:
        return _mean

    def code(self, branch: str, shortcut: str) -> str:
        return f"({branch} + {shortcut}) * 0.5"

    def many(self, values: Sequence[Tensor]) -> Tensor:
        return torch.stack(tuple(values)).mean(0)


@dataclass(frozen=True)
class Max(Merge):
    """The larger of the two, element by element (maxout, 1302.4389)."""

    def make(self, branch: Value, shortcut: Value) -> MergeFn:
        return torch.maximum

    def code(self, branch: str, shortcut: str) -> str:
        return f"torch.maximum({branch}, {shortcut})"


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

    def __post_init__(self) -> None:
        if self.first not in ("branch", "shortcut"):
            raise ChainError(f'Cat: first is "branch" or "shortcut", not {self.first!r}')
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
                f"cat needs equal shapes but for the features, and {_shown(branch, shortcut)}", _fix(branch, shortcut)
            )

    def make(self, branch: Value, shortcut: Value) -> MergeFn:
        axis = self._axis(branch, shortcut)
        if axis is None and not (branch and shortcut):
            raise OpenChainError("cat needs the shapes that meet, to tell the feature axis")
        assert axis is not None
        return _CatFirst(axis) if self.first == "shortcut" else _CatLast(axis)


@dataclass(frozen=True)
class _CatLast:
    axis: int

    def __call__(self, branch: Tensor, shortcut: Tensor) -> Tensor:
        return torch.cat((branch, shortcut), self.axis)

    def code(self, branch: str, shortcut: str) -> str:
        return f"torch.cat(({branch}, {shortcut}), {self.axis})"

    def many(self, values: Sequence[Tensor]) -> Tensor:
        return torch.cat(tuple(values), self.axis)


@dataclass(frozen=True)
class _CatFirst(_CatLast):
    def __call__(self, branch: Tensor, shortcut: Tensor) -> Tensor:
        return torch.cat((shortcut, branch), self.axis)

    def code(self, branch: str, shortcut: str) -> str:
        return f"torch.cat(({shortcut}, {branch}), {self.axis})"

    def many(self, values: Sequence[Tensor]) -> Tensor:
        return torch.cat(tuple(reversed(values)), self.axis)


@dataclass(frozen=True)
class Gate(Merge):
    """A Highway gate (1505.00387): ``g * branch + (1 - g) * shortcut``, with ``g = sigmoid(W shortcut + b)``.

    ``W`` is a dense layer for vectors and tokens, a 1x1 convolution for images.

    Parameters
    ----------
    bias:
        what ``b`` starts at. Negative opens the shortcut at first: the paper uses -1 to -4, more for deeper nets.
    """

    bias: float = -3.0

    def make(self, branch: Value, shortcut: Value) -> MergeFn:
        width, axis = shortcut.width, shortcut.axis
        if width is None or axis is None:
            raise OpenChainError("gate needs the width of the shortcut")
        return GateModule(width, -1 - axis, self.bias)


class GateModule(nn.Module):
    """The gate of one place, with its transform: ``(branch, shortcut) -> (N, *)``."""

    def __init__(self, width: int, dims: int, bias: float) -> None:
        super().__init__()
        check_width("gate: the width", width)
        conv: list[Callable[..., nn.Module]] = [nn.Conv1d, nn.Conv2d, nn.Conv3d]
        self.transform = nn.Linear(width, width) if dims == 0 else conv[dims - 1](width, width, 1)
        nn.init.constant_(self.transform.bias, bias)  # type: ignore[arg-type]

    def forward(self, branch: Tensor, shortcut: Tensor) -> Tensor:
        gate = torch.sigmoid(self.transform(shortcut))
        return shortcut + gate * (branch - shortcut)


MERGES: dict[str, Merge] = {
    "add": Add(), "cat": Cat(), "mean": Mean(), "max": Max(), "mul": Mul(), "gate": Gate(),
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
        return merge()
    if not isinstance(merge, Merge) and not callable(merge):
        raise ChainError(f"merge= takes a word ({', '.join(MERGES)}) or a callable (branch, shortcut), not {merge!r}")
    return merge
