"""Gains: what a branch or a shortcut is multiplied by. One class a value."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from .errors import ChainError, OpenChainError
from .value import Value


@dataclass(frozen=True)
class Learned:
    """A learned scale, starting at ``init``: one number (ReZero, 2003.04887; SkipInit, 2002.10444), or one a channel
    (LayerScale, 2103.17239).

    >>> from skipway import Skip, Dense
    >>> Skip(Dense(4, 4), scale=Learned(0.0)).shortcuts["input->output"].scale.tolist()
    0.0
    """

    init: float = 0.0
    per: Literal["tensor", "channel"] = "tensor"

    def __post_init__(self) -> None:
        if not isinstance(self.init, (int, float)) or not math.isfinite(self.init):
            raise ChainError(f"Learned: init must be a finite number, not {self.init!r}")
        if self.per not in ("tensor", "channel"):
            raise ChainError(f'Learned: per is "tensor" or "channel", not {self.per!r}')

    def make(self, value: Value) -> nn.Parameter:
        """The parameter for what it multiplies: ``()``, or ``(C,)`` shaped to lie along the feature axis."""
        if self.per == "tensor":
            return nn.Parameter(torch.tensor(float(self.init)))
        if value.width is None or value.axis is None:
            raise OpenChainError('Learned(per="channel") needs the width of what it multiplies')
        return nn.Parameter(torch.full((value.width, *[1] * (-1 - value.axis)), float(self.init)))


@dataclass(frozen=True)
class Drop:
    """Random drop of a branch.

    ======================  =======================================  ============================
    law                     in training, with probability 1 - p      at test
    ======================  =======================================  ============================
    ``"train-scale"``       ``branch / (1 - p)``, else 0             ``branch``
    ``"test-scale"``        ``branch``, else 0                       ``(1 - p) * branch``
    ======================  =======================================  ============================

    The first is DropPath as timm and torchvision have it, the second stochastic depth as in its paper (1603.09382). The
    mean over draws equals the test law in both. ``mode="row"`` draws for every sample, ``"batch"`` once for all.
    """

    p: float
    mode: Literal["row", "batch"] = "row"
    law: Literal["train-scale", "test-scale"] = "train-scale"

    def __post_init__(self) -> None:
        if isinstance(self.p, bool) or not isinstance(self.p, (int, float)) or not 0.0 <= self.p < 1.0:
            raise ChainError(
                f"drop must be a probability in [0, 1), not {self.p!r}: at 1 the branch would never be trained"
            )
        if self.mode not in ("row", "batch"):
            raise ChainError(f'Drop: mode is "row" or "batch", not {self.mode!r}')
        if self.law not in ("train-scale", "test-scale"):
            raise ChainError(f'Drop: law is "train-scale" or "test-scale", not {self.law!r}')

    def make(self) -> DropPath | None:
        return DropPath(self.p, self.mode, self.law) if self.p else None


class DropPath(nn.Module):
    """Drops what passes through it at random; the laws are those of :class:`Drop`. Shapes: ``(N, *)`` to the same.

    >>> x = torch.ones(1000, 3)
    >>> dropped = DropPath(0.25)(x)
    >>> sorted(set(dropped[:, 0].tolist())) == [0.0, 1 / 0.75] or "float32 rounding"
    'float32 rounding'
    >>> bool((DropPath(0.25).eval()(x) == x).all())
    True
    """

    def __init__(self, p: float, mode: str = "row", law: str = "train-scale") -> None:
        super().__init__()
        checked = Drop(p, mode, law)  # type: ignore[arg-type]
        self.p, self.mode, self.law = checked.p, checked.mode, checked.law

    def forward(self, x: Tensor) -> Tensor:
        keep = 1.0 - self.p
        if not self.training:
            return x * keep if self.law == "test-scale" else x
        rows = x.shape[0] if self.mode == "row" and x.dim() else 1
        mask = torch.empty([rows] + [1] * (x.dim() - 1), dtype=x.dtype, device=x.device).bernoulli_(keep)
        if self.law == "train-scale":
            mask = mask / keep
        return x * mask

    def extra_repr(self) -> str:
        return f"{self.p}, mode={self.mode!r}, law={self.law!r}"


def as_drop(drop: Any) -> Drop:
    """``drop=`` as given on a shortcut: a probability, or a :class:`Drop` that also says mode and law."""
    return drop if isinstance(drop, Drop) else Drop(drop)


def as_scale(scale: Any) -> float | Learned | None:
    """``scale=`` as given on a shortcut: ``None``, a finite number, or :class:`Learned`."""
    if scale is None or isinstance(scale, Learned):
        return scale
    if isinstance(scale, type) and issubclass(scale, Learned):
        return scale()
    if isinstance(scale, bool) or not isinstance(scale, (int, float)) or not math.isfinite(scale):
        raise ChainError(f"a scale is a finite number or Learned(init), not {scale!r}")
    return float(scale)
