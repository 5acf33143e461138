"""Paths that change the size of an image, or take some of the features."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from skipway.errors import ChainError, OpenChainError, nearest
from skipway.merges import Misfit
from skipway.value import Value, show

from .base import Path, SameLayout


@dataclass(frozen=True)
class Crop(Path):
    """The middle of an image, as large as what it meets: convolutions without padding have made that smaller.

    (U-Net, 1505.04597.) The number of channels stays.

    >>> import torch
    >>> crop = Crop().make(Value.of((1, 7, 7), "first"), Value.of((1, 4, 4), "first"))
    >>> crop(torch.zeros(1, 1, 7, 7)).shape
    torch.Size([1, 1, 4, 4])
    """

    def make(self, start: Value, target: Value) -> CropTo | None:
        if start.same(target):
            return None
        _images(start, target, "crop")
        found = {_margins(s, t) for s, t in zip(start.trials, target.trials, strict=False)}
        if not found:
            raise OpenChainError("crop needs the shapes at both ends: give the chain input=")
        if any(before < 0 for margins in found for before, _ in margins):
            raise Misfit(
                f"crop only takes away, and cannot take {show(start.shape)} to {show(target.shape)}",
                "let the shortcut start from a larger image",
            )
        if len(found) > 1:
            raise OpenChainError("crop takes away as much at every size, and here that differs: give the chain input=")
        margins = found.pop()
        return CropTo(margins) if any(m for pair in margins for m in pair) else None


def _images(start: Value, target: Value, what: str) -> None:
    if not start or not target:
        return
    ranks = {t.dim() for t in (*start.trials, *target.trials)}
    if len(ranks) > 1 or min(ranks) < 3 or "last" in (start.layout, target.layout):
        raise Misfit(
            f"{what} takes images, channels first, and cannot take {show(start.shape)} to {show(target.shape)}",
            "give a module as path= that changes the layout",
        )


def _margins(start: Tensor, target: Tensor) -> tuple[tuple[int, int], ...]:
    """What is too much before and after, for every axis of the image."""
    more = [s - t for s, t in zip(start.shape[2:], target.shape[2:], strict=True)]
    return tuple((m // 2, m - m // 2) for m in more)


@dataclass(frozen=True)
class CropTo(SameLayout):
    """What :class:`Crop` does at one place. Shapes: ``(N, C, *size)`` to ``(N, C, *(size - margins))``."""

    margins: tuple[tuple[int, int], ...]

    def __call__(self, x: Tensor) -> Tensor:
        for axis, (before, after) in enumerate(self.margins, 2):
            x = x.narrow(axis, before, x.shape[axis] - before - after)
        return x


@dataclass(frozen=True)
class Resize(Path):
    """The image made as large or as small as what it meets, by interpolation. The number of channels stays.

    A part of a side is rounded up, as convolutions with a stride and padding do. Where the sizes are not known, the
    factor between them has to be the same at every size.

    Parameters
    ----------
    mode:
        ``"nearest"`` repeats pixels (FPN, 1612.03144), ``"linear"`` interpolates between them (for images, bilinear).

    >>> import torch
    >>> from skipway import Conv, MaxPool, Skip
    >>> Skip(Conv(3, 3, 1), MaxPool(2), path="resize")(torch.ones(1, 3, 8, 8)).shape
    torch.Size([1, 3, 4, 4])
    """

    mode: Literal["nearest", "linear"] = "nearest"

    def __post_init__(self) -> None:
        if self.mode not in ("nearest", "linear"):
            found = nearest(str(self.mode), ("nearest", "linear"))
            raise ChainError(f'Resize: mode is "nearest" or "linear", not {self.mode!r}: {found}')

    def make(self, start: Value, target: Value) -> ResizeTo | None:
        if start.same(target):
            return None
        _images(start, target, "resize")
        if not start or not target or len(start.trials) != len(target.trials):
            raise OpenChainError("resize needs the shapes at both ends: give the chain input=")
        both = zip(start.trials, target.trials, strict=True)
        sides = [list(zip(s.shape[2:], t.shape[2:], strict=True)) for s, t in both]
        if all(a == b for pairs in sides for a, b in pairs):
            return None
        found = {tuple(_factor(a, b) for a, b in pairs) for pairs in sides}
        if len(found) > 1:
            raise OpenChainError("resize multiplies the size, and here by another factor at every size: give input=")
        return ResizeTo(self.mode, found.pop())


def _factor(start: int, target: int) -> Fraction:
    """What takes one side to the other: a whole number, a whole number's part (rounded up), or what else it takes."""
    for k in (round(start / target), -(-start // target), start // target) if target and start > target else ():
        if k and -(-start // k) == target:
            return Fraction(1, k)
    return Fraction(target, start)


@dataclass(frozen=True)
class ResizeTo(SameLayout):
    """What :class:`Resize` does at one place. Shapes: ``(N, C, *size)`` to ``(N, C, *(size * factor))``."""

    mode: str
    factor: tuple[Fraction, ...]

    def __call__(self, x: Tensor) -> Tensor:
        dims = len(self.factor)
        mode = self.mode if self.mode == "nearest" else ("linear", "bilinear", "trilinear")[dims - 1]
        if all(factor.denominator == 1 for factor in self.factor):  # what a tracer can follow at every size
            return F.interpolate(x, scale_factor=tuple(map(float, self.factor)), mode=mode)
        size = [_side(x.shape[axis - dims], factor) for axis, factor in enumerate(self.factor)]
        return F.interpolate(x, size, mode=mode)


def _side(side: int, factor: Fraction) -> int:
    # half of a side is rounded up, as convolutions with a stride do
    up = factor.denominator - 1 if factor.numerator == 1 else factor.denominator // 2
    return (side * factor.numerator + up) // factor.denominator


@dataclass(frozen=True)
class Slice(Path):
    """Some of the features: those from ``start`` up to, and not including, ``stop``.

    With another path after it, ``path=[Slice(0, 8), Project()]``, the shortcut taps a slice of channels.

    >>> import torch
    >>> from skipway import Dense, Skip
    >>> Skip(Dense(10, 4), path=Slice(0, 4))(torch.ones(1, 10)).shape
    torch.Size([1, 4])
    """

    start: int = 0
    stop: int | None = None

    def __post_init__(self) -> None:
        whole = all(isinstance(n, int) and not isinstance(n, bool) for n in (self.start, self.stop or 0))
        if not whole or self.start < 0 or (self.stop is not None and self.stop <= self.start):
            raise ChainError(f"Slice(start, stop) takes features 0 <= start < stop, not {self.start!r}, {self.stop!r}")

    def make(self, start: Value, target: Value) -> SliceTo:
        width, axis = start.width, start.axis
        if width is None or axis is None:
            if start and axis is None:
                raise Misfit(
                    f"slice cannot tell the feature axis of {show(start.shape)}", "put a Dense or a Conv before it"
                )
            raise OpenChainError("slice needs the width at its start")
        stop = width if self.stop is None else self.stop
        if self.start >= stop or stop > width:
            raise Misfit(f"slice takes features {self.start} to {stop}, and the value has {width}", "take fewer")
        return SliceTo(axis, self.start, stop)


@dataclass(frozen=True)
class SliceTo(SameLayout):
    """What :class:`Slice` does at one place."""

    axis: int
    start: int
    stop: int

    def __call__(self, x: Tensor) -> Tensor:
        return x.narrow(self.axis, self.start, self.stop - self.start)
