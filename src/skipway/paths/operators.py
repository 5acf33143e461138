"""Paths that multiply the value by a matrix close to the identity: low rank, and a reflection."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skipway.errors import ChainError
from skipway.gains import Learned
from skipway.gains.base import is_number
from skipway.layer import check_width
from skipway.merges import Misfit
from skipway.value import Value, show

from .base import Path, both_ends, pointwise


@dataclass(frozen=True)
class LowRank(Path):
    """``x + A B x`` with A and B of rank ``rank``: LAuReL-LR (2411.07501). B is random, A zero: at first the identity.

    ``2 * rank * width`` parameters. ``identity=False`` leaves out the x, and then A is random too.

    >>> from skipway import Dense, Skip
    >>> sum(p.numel() for p in Skip(Dense(8, 8, bias=False), path=LowRank(2)).parameters()) - 8 * 8
    32
    """

    rank: int
    identity: bool = True

    def __post_init__(self) -> None:
        check_width("LowRank: the rank", self.rank, open_ok=False)

    def make(self, start: Value, target: Value) -> nn.Module:
        width, goal, dims = both_ends(start, target, "low rank")
        if self.identity and width != goal:
            raise Misfit(
                f"low rank adds to the value itself, and cannot take {show(start.shape)} to {show(target.shape)}",
                "say LowRank(rank, identity=False), or project first: path=[Project(), LowRank(rank)]",
            )
        down, up = pointwise(width, self.rank, dims, False), pointwise(self.rank, goal, dims, False)
        if not self.identity:
            return nn.Sequential(down, up)
        nn.init.zeros_(up.weight)  # type: ignore[arg-type]
        return _AndItself(down, up)


class _AndItself(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


_FROM_ONE = Learned(1.0)


@dataclass(frozen=True)
class Householder(Path):
    """``x - beta k (k . x)`` with a unit vector k over the features: Deep Delta Learning (2601.00417).

    At beta = 0 the identity, at 1 the projection that takes k away, at 2 the reflection; the eigenvalue along k is
    ``1 - beta``, all others are 1.

    Parameters
    ----------
    beta:
        a number from 0 to 2, or ``Learned(init)`` with init strictly between, then ``2 sigmoid(b)`` of a learned b.
    dynamic:
        k and beta are linear in x, pixel by pixel and token by token, instead of the same everywhere.

    >>> import torch
    >>> from skipway import Dense, Skip
    >>> mirror = Skip(Dense(3, 3), path=Householder(2.0)).shortcuts["input->output"].path
    >>> x = torch.randn(5, 3)
    >>> torch.allclose(mirror(x).norm(dim=1), x.norm(dim=1)), torch.allclose(mirror(mirror(x)), x, atol=1e-6)
    (True, True)
    """

    beta: float | Learned = _FROM_ONE
    dynamic: bool = False

    def __post_init__(self) -> None:
        number: Any = self.beta.init if isinstance(self.beta, Learned) else self.beta
        if not is_number(number):
            raise ChainError(f"Householder: beta is a number from 0 to 2, or Learned of one, not {self.beta!r}")
        if isinstance(self.beta, Learned) and (not 0 < number < 2 or self.beta.per != "tensor"):
            raise ChainError(f"Householder: a learned beta is one number, between 0 and 2 at first, not {self.beta!r}")
        if not 0 <= number <= 2:
            raise ChainError(f"Householder: beta is from 0 (identity) to 2 (reflection), not {self.beta!r}")

    def make(self, start: Value, target: Value) -> nn.Module:
        width, goal, dims = both_ends(start, target, "householder")
        if width != goal:
            raise Misfit(
                f"householder turns the value itself, and cannot take {width} features to {goal}",
                "project first: path=[Project(), Householder()]",
            )
        return HouseholderModule(width, dims, self.beta, self.dynamic)


class HouseholderModule(nn.Module):
    """A reflection at one place. Shapes: ``(N, *)`` to the same."""

    no_decay = ("strength",)

    def __init__(self, width: int, dims: int, beta: float | Learned, dynamic: bool) -> None:
        super().__init__()
        self.axis, self.dynamic = -1 - dims, dynamic
        self.shape = (width, *[1] * dims)
        learned = isinstance(beta, Learned)
        start: Any = beta.init if isinstance(beta, Learned) else float(beta)
        logit = torch.logit(torch.tensor(start / 2)).item() if learned else 0.0
        self.key: Any = None
        self.strength: Any = None
        if dynamic:
            self.key = pointwise(width, width, dims, False)
            if learned:
                self.strength = pointwise(width, 1, dims, True)
                nn.init.zeros_(self.strength.weight)
                nn.init.constant_(self.strength.bias, logit)
        else:
            self.key = nn.Parameter(F.normalize(torch.randn(width), dim=0))
            if learned:
                self.strength = nn.Parameter(torch.tensor(logit))
        self.beta = None if learned else start

    def _beta(self, x: Tensor) -> Tensor | float:
        if self.beta is not None:
            return self.beta
        return 2 * torch.sigmoid(self.strength(x) if self.dynamic else self.strength)

    def forward(self, x: Tensor) -> Tensor:
        key = self.key(x) if self.dynamic else self.key.view(self.shape)
        key = F.normalize(key, dim=self.axis)
        return x - self._beta(x) * key * (key * x).sum(self.axis, keepdim=True)
