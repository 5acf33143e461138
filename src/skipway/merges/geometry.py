"""Merges that look at the direction of the value: interpolation, also on the sphere, and orthogonal updates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skipway.errors import ChainError
from skipway.gains import Learned
from skipway.gains.base import is_number
from skipway.value import Value

from .base import Merge, MergeFn, feature_axis

_HALF = Learned(0.5)


@dataclass(frozen=True)
class Lerp(Merge):
    """``shortcut + weight * (branch - shortcut)``, and with ``norm=True`` on the unit sphere (nGPT, 2410.01131).

    Parameters
    ----------
    weight:
        a number, or a learned one: ``Learned(0.5)`` mixes values as value residuals do (2410.17897),
        ``Learned(0.05, per="channel")`` with ``norm=True`` is nGPT's.
    norm:
        branch and result are divided by their length over the features, so that every result has length 1.

    >>> import torch
    >>> from skipway import Dense, Skip
    >>> net = Skip(Dense(4, 4), merge=Lerp(Learned(0.05, per="channel"), norm=True))
    >>> bool(torch.allclose(net(torch.randn(3, 4)).norm(dim=1), torch.ones(3)))
    True
    """

    weight: float | Learned = _HALF
    norm: bool = False

    sided: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not isinstance(self.weight, Learned) and not is_number(self.weight):
            raise ChainError(f"Lerp: weight is a number or Learned(init), not {self.weight!r}")

    def make(self, branch: Value, shortcut: Value) -> MergeFn:
        axis = feature_axis("lerp", branch, shortcut) if self.norm else None
        weight = self.weight.make(branch) if isinstance(self.weight, Learned) else float(self.weight)
        return LerpModule(weight, axis)


class LerpModule(nn.Module):
    """A :class:`Lerp` at one place: ``(branch, shortcut) -> (N, *)``."""

    no_decay = ("weight",)

    def __init__(self, weight: float | nn.Parameter, axis: int | None) -> None:
        super().__init__()
        self.weight, self.axis = weight, axis

    def forward(self, branch: Tensor, shortcut: Tensor) -> Tensor:
        if self.axis is None:
            return shortcut + self.weight * (branch - shortcut)
        moved = shortcut + self.weight * (F.normalize(branch, dim=self.axis) - shortcut)
        return F.normalize(moved, dim=self.axis)


@dataclass(frozen=True)
class Orthogonal(Merge):
    """The shortcut, and the part of the branch that is at right angles to it over the features (2505.11881).

    ``x + F - <F, x> / (|x|^2 + eps) x``, for every pixel and token by itself.

    >>> import torch
    >>> from skipway import Dense, Skip
    >>> x = torch.randn(3, 4, dtype=torch.float64)
    >>> net = Skip(Dense(4, 4), merge=Orthogonal()).double()
    >>> bool((((net(x) - x) * x).sum(1).abs() < 1e-5).all())
    True
    """

    eps: float = 1e-6

    sided: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not is_number(self.eps) or self.eps < 0:
            raise ChainError(f"Orthogonal: eps is a number from 0 on, not {self.eps!r}")

    def make(self, branch: Value, shortcut: Value) -> MergeFn:
        return OrthogonalAt(feature_axis("orthogonal", branch, shortcut), self.eps)


@dataclass(frozen=True)
class OrthogonalAt:
    """An :class:`Orthogonal` at one place."""

    axis: int
    eps: float

    def __call__(self, branch: Tensor, shortcut: Tensor) -> Tensor:
        # in single precision at least: in half a sum of squares is soon infinite
        f, x = (t.float() if t.dtype in (torch.float16, torch.bfloat16) else t for t in (branch, shortcut))
        share = (f * x).sum(self.axis, keepdim=True) / (x.square().sum(self.axis, keepdim=True) + self.eps)
        return (x + f - share * x).to(branch.dtype)
