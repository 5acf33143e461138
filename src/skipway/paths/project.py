"""Paths that change the number of features: a learned projection, and channels of zeros."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from skipway.errors import ChainError, nearest
from skipway.merges import Misfit
from skipway.pools import AvgPool, BlurPool
from skipway.value import Value, show

from .base import Path, PathFn, SameLayout, both_ends, pointwise, stride_between

Down = Literal["stride", "mean", "blur"]


def _check_down(what: str, down: str) -> None:
    words = ("stride", "mean", "blur")
    if down not in words:
        raise ChainError(f'{what}: down is "stride", "mean" or "blur", not {down!r}: {nearest(str(down), words)}')


def _pool(down: Down, stride: tuple[int, ...], what: str) -> list[nn.Module]:
    """What makes the image smaller before the rest, where it is not the stride itself."""
    if down == "stride" or set(stride) == {1}:
        return []
    if len(set(stride)) > 1:
        raise Misfit(
            f"{what} with down={down!r} makes all sides smaller alike, and here by {stride}",
            'leave out down=, or put a pool of your own before it, path=[nn.AvgPool2d((2, 1)), "project"]',
        )
    return [AvgPool(stride[0], ceil_mode=True) if down == "mean" else BlurPool(stride[0])]


def _made(norm: Callable[[int], nn.Module], width: int) -> nn.Module:
    try:
        made = norm(width)
    except Exception as error:
        raise ChainError(f"Project: norm={norm!r} fails for the width {width}: {error}") from error
    if not isinstance(made, nn.Module):
        raise ChainError(f"Project: norm={norm!r} makes {made!r} of the width {width}, and not a module")
    return made


@dataclass(frozen=True)
class Project(Path):
    """A learned linear map to the width of the branch: a dense layer, or a 1x1 convolution with the stride worked out
    from the two shapes (options B and C of 1512.03385).

    Parameters
    ----------
    always:
        project also where the shapes are equal already (option C); by default only where they differ (option B).
    norm:
        a function of the width that makes a norm to follow, such as ``nn.BatchNorm2d`` or ``BatchNorm``.
    bias:
        whether the map has a bias; the branch usually has one.
    down:
        how an image gets smaller: ``"stride"`` takes every s-th pixel, ``"mean"`` the mean over s x s of them (option
        D, ResNet-D, 1812.01187), ``"blur"`` every s-th of the blurred image (1904.11486).

    >>> from skipway import Conv, Skip
    >>> net = Skip(Conv(8, 16, 3, stride=2, padding=1), path=Project(down="mean"))
    >>> net.shortcuts["input->output"].path
    Sequential(
      (0): AvgPool(2, ceil_mode=True)
      (1): Conv2d(8, 16, kernel_size=(1, 1), stride=(1, 1), bias=False)
    )
    """

    always: bool = False
    norm: Callable[[int], nn.Module] | None = None
    bias: bool = False
    down: Down = "stride"

    def __post_init__(self) -> None:
        _check_down("Project", self.down)
        if self.norm is not None and (not callable(self.norm) or isinstance(self.norm, nn.Module)):
            raise ChainError(f"Project: norm= makes a norm of a width, as BatchNorm does, and is not {self.norm!r}")

    def make(self, start: Value, target: Value) -> nn.Module | None:
        if not self.always and start.same(target):
            return None
        width, goal, dims = both_ends(start, target, self.word)
        pool: list[nn.Module] = []
        if dims == 0:
            if start.shape != target.shape and start.trials[0].shape[:-1] != target.trials[0].shape[:-1]:
                raise Misfit(
                    f"project maps features, and cannot take {show(start.shape)} to {show(target.shape)}",
                    "give a module as path= that changes the other dimensions",
                )
            linear = pointwise(width, goal, 0, self.bias)
        else:
            stride = stride_between(start, target, self.word)
            pool = _pool(self.down, stride, self.word)
            linear = pointwise(width, goal, dims, self.bias, 1 if pool else stride)
        parts = [*pool, linear]
        if self.norm is not None:
            norm = self.norm(goal) if isinstance(self.norm, type) else _made(self.norm, goal)
            parts.append(norm)
        return parts[0] if len(parts) == 1 else nn.Sequential(*parts)


@dataclass(frozen=True)
class Pad(Path):
    """Option A of 1512.03385, without parameters: take every s-th pixel, and add channels of zeros at the end.

    Parameters
    ----------
    down:
        how an image gets smaller, as in :class:`Project`; PyramidNet (1610.02915) takes the mean.
    """

    down: Down = "stride"

    def __post_init__(self) -> None:
        _check_down("Pad", self.down)

    def make(self, start: Value, target: Value) -> PathFn | None:
        if start.same(target):
            return None
        width, goal, dims = both_ends(start, target, self.word)
        if goal < width:
            raise Misfit(
                f"pad only widens, and cannot take {width} features to {goal}",
                'use path="project", or take some of them with path=Slice(0, n)',
            )
        stride = stride_between(start, target, self.word) if dims else ()
        pool = _pool(self.down, stride, self.word) if dims else []
        pad = SubsampleAndPad((1,) * dims if pool else stride, goal - width)
        return nn.Sequential(*pool, Padding(pad)) if pool else pad


@dataclass(frozen=True)
class SubsampleAndPad(SameLayout):
    """What :class:`Pad` does at one place. Shapes: ``(N, C, *size)`` to ``(N, C + more, *ceil(size / stride))``."""

    stride: tuple[int, ...]
    more: int

    def __call__(self, x: Tensor) -> Tensor:
        for i, step in enumerate(self.stride):
            if step > 1:
                axis = i - len(self.stride)
                x = x[(..., slice(None, None, step)) + (slice(None),) * (-1 - axis)]
        return F.pad(x, [0, 0] * len(self.stride) + [0, self.more])


class Padding(nn.Module):
    """:class:`SubsampleAndPad` after a pool, as a module."""

    def __init__(self, pad: SubsampleAndPad) -> None:
        super().__init__()
        self.pad = pad

    def forward(self, x: Tensor) -> Tensor:
        return self.pad(x)

    def extra_repr(self) -> str:
        return f"more={self.pad.more}"
