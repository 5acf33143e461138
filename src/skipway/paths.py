"""Paths: what happens to a value on its way along a shortcut. One class a value.

Besides the words below, any callable or ``nn.Module`` is a path. A class here is a *recipe*: plain data, from which
:meth:`Path.make` creates the module of one particular shortcut, when the shapes at its two ends are known.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from .errors import ChainError, OpenChainError, nearest
from .merges import Misfit
from .value import Value, show

PathFn = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Path:
    """Base of the paths. Derive from it to add one that depends on the shapes at its two ends."""

    def make(self, start: Value, target: Value) -> PathFn | None:
        """The module or function that takes ``start`` to ``target``; ``None`` for nothing to do."""
        raise NotImplementedError

    @property
    def word(self) -> str:
        return type(self).__name__.lower()


@dataclass(frozen=True)
class Identity(Path):
    """The value as it is."""

    def make(self, start: Value, target: Value) -> None:
        return None


def _stride(start: Value, target: Value, what: str) -> tuple[int, ...]:
    """The stride that takes one image size to the other, as ``ceil(size / stride)``; the same at every trial size."""
    found: set[tuple[int, ...]] = set()
    for s, t in zip(start.trials, target.trials, strict=True):
        strides = []
        for size, goal in zip(s.shape[2:], t.shape[2:], strict=True):
            fits = [k for k in range(1, size + 1) if -(-size // k) == goal] if goal else []
            if not fits:
                raise Misfit(
                    f"{what} finds no stride that takes the size {tuple(s.shape[2:])} to {tuple(t.shape[2:])}",
                    "give the layers between padding that keeps the size (kernel 3 with padding=1), "
                    "or resize with a module as path=",
                )
            strides.append(fits[0])
        found.add(tuple(strides))
    if len(found) != 1:
        raise OpenChainError(f"{what} needs the size of the image to work out its stride: give the chain input=")
    return found.pop()


def _ends(start: Value, target: Value, what: str) -> tuple[Value, Value]:
    """Both ends with a known layout, or the reason why not."""
    if not start or not target or start.width is None or target.width is None:
        side = "start" if not start or start.width is None else "end"
        layout = start.axis is None or target.axis is None
        if start and target and layout:
            raise Misfit(
                f"{what} cannot tell the feature axis of {show(start.shape)}",
                "put a Dense or a Conv before it, or give a module as path=",
            )
        raise OpenChainError(f"{what} needs the width at its {side}")
    if start.axis != target.axis or start.trials[0].dim() != target.trials[0].dim():
        raise Misfit(
            f"{what} cannot take {show(start.shape)} to {show(target.shape)}: the features are on another axis",
            "give a module as path= that changes the layout",
        )
    if len(start.trials) != len(target.trials):
        raise OpenChainError(f"{what} needs the shapes at both ends: give the chain input=")
    return start, target


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
    """

    always: bool = False
    norm: Callable[[int], nn.Module] | None = None
    bias: bool = False

    def make(self, start: Value, target: Value) -> nn.Module | None:
        if not self.always and start.same(target):
            return None
        _ends(start, target, self.word)
        width, goal = start.width, target.width
        assert width is not None
        assert goal is not None
        dims = -1 - start.axis if start.axis is not None else 0
        linear: nn.Module
        if dims == 0:
            if start.shape != target.shape and start.trials[0].shape[:-1] != target.trials[0].shape[:-1]:
                raise Misfit(
                    f"project maps features, and cannot take {show(start.shape)} to {show(target.shape)}",
                    "give a module as path= that changes the other dimensions",
                )
            linear = nn.Linear(width, goal, bias=self.bias)
        else:
            stride = _stride(start, target, self.word)
            conv: list[Callable[..., nn.Module]] = [nn.Conv1d, nn.Conv2d, nn.Conv3d]
            linear = conv[dims - 1](width, goal, 1, stride=stride, bias=self.bias)
        if self.norm is None:
            return linear
        return nn.Sequential(linear, self.norm(goal))


@dataclass(frozen=True)
class Pad(Path):
    """Option A of 1512.03385, without parameters: take every s-th pixel, and add channels of zeros at the end."""

    def make(self, start: Value, target: Value) -> PathFn | None:
        if start.same(target):
            return None
        _ends(start, target, self.word)
        width, goal = start.width, target.width
        assert width is not None
        assert goal is not None
        if goal < width:
            raise Misfit(
                f"pad only widens, and cannot take {width} features to {goal}",
                'use path="project", or a module that slices',
            )
        dims = -1 - start.axis if start.axis is not None else 0
        stride = _stride(start, target, self.word) if dims else ()
        return SubsampleAndPad(stride, goal - width)


@dataclass(frozen=True)
class SubsampleAndPad:
    """What :class:`Pad` does at one place. Shapes: ``(N, C, *size)`` to ``(N, C + more, *ceil(size / stride))``."""

    stride: tuple[int, ...]
    more: int

    def __call__(self, x: Tensor) -> Tensor:
        for i, step in enumerate(self.stride):
            if step > 1:
                axis = i - len(self.stride)
                x = x[(..., slice(None, None, step)) + (slice(None),) * (-1 - axis)]
        return F.pad(x, [0, 0] * len(self.stride) + [0, self.more])


PATHS: dict[str, Path] = {"identity": Identity(), "project": Project(), "pad": Pad()}


def as_path(path: Any) -> Path | Callable[..., Tensor]:
    """The path that a word names; a path, callable or module as it is.

    Raises ``ChainError`` with the nearest word for an unknown one.
    """
    if path is None:
        return PATHS["identity"]
    if isinstance(path, str):
        if path not in PATHS:
            raise ChainError(f"there is no path {path!r}: {nearest(path, PATHS)} Any module or callable works too.")
        return PATHS[path]
    if isinstance(path, type) and issubclass(path, Path):
        return path()
    if not isinstance(path, Path) and not callable(path):
        raise ChainError(f"path= takes a word ({', '.join(PATHS)}), a module or a callable, not {path!r}")
    return path
