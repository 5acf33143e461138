"""Mean squares, means and products of two rows: what wide nets keep of a value, and what layers do to it.

Of an image each is a map, with a number a position: at its edges a convolution sees padding, and less comes through.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

#: one number, or one a position of an image
Map = Any
Function = Callable[[Tensor], Tensor]


class Unknown(Exception):
    """Something that the theory has no law for."""


@dataclass(frozen=True)
class Moments:
    """Of a value's numbers: the mean square, the mean, and the mean product of the same number in two rows."""

    square: Map
    mean: Map
    rows: Map

    @property
    def is_map(self) -> bool:
        return np.ndim(self.square) > 0

    def times(self, factor: float) -> Moments:
        return Moments(factor * factor * self.square, factor * self.mean, factor * factor * self.rows)

    def flat(self) -> Moments:
        """Over all positions."""
        return Moments(*(float(np.mean(one)) for one in (self.square, self.mean, self.rows)))


def moments_of(x: Tensor, gaussian: bool, positions: bool) -> Moments:
    """Those of a batch; with ``positions`` as maps. Of ``gaussian`` rows, positions are alike."""
    flat = x.detach().double().flatten(1)
    rows = len(flat)

    def of(batch: Tensor) -> tuple[float, float, float]:
        square = float(batch.square().mean())
        together = float(batch.mean(0).square().mean())  # the mean over all pairs of rows, a row with itself included
        others = (rows * together - square) / (rows - 1) if rows > 1 else 0.0
        return square, float(batch.mean()), others

    if not positions:
        return Moments(*of(flat))
    shape = tuple(x.shape[2:])
    if gaussian:
        return Moments(*(np.full(shape, one) for one in of(flat)))
    by_position = x.detach().double().flatten(2)
    found = np.array([of(by_position[:, :, i]) for i in range(by_position.shape[2])])
    return Moments(*(found[:, i].reshape(shape) for i in range(3)))


class Taps:
    """How often every position is seen by a convolution: the sum over its taps of a map, and the way back.

    >>> taps = Taps(nn.Conv1d(2, 2, 3, padding=1))
    >>> taps(np.ones(4)), taps.back(np.ones(4), (4,))
    (array([2., 3., 3., 2.]), array([2., 3., 3., 2.]))
    """

    def __init__(self, layer: Any) -> None:
        if layer.padding_mode != "zeros":
            raise Unknown(f"a convolution whose padding is {layer.padding_mode!r}")
        self.dims = layer.weight.dim() - 2
        self.conv: Any = [nn.functional.conv1d, nn.functional.conv2d, nn.functional.conv3d][self.dims - 1]
        self.weight = torch.ones(1, 1, *layer.kernel_size, dtype=torch.float64)
        self.how = {"stride": layer.stride, "padding": layer.padding, "dilation": layer.dilation}

    def _run(self, values: Tensor) -> Tensor:
        found: Tensor = self.conv(values[None, None], self.weight, **self.how)[0, 0]
        return found

    def __call__(self, values: Map) -> Map:
        with torch.no_grad():
            return self._run(torch.tensor(values, dtype=torch.float64)).numpy()

    def back(self, values: Map, shape: tuple[int, ...]) -> Map:
        with torch.enable_grad():
            start = torch.zeros(shape, dtype=torch.float64, requires_grad=True)
            (found,) = torch.autograd.grad(self._run(start), start, torch.tensor(values, dtype=torch.float64))
        return found.numpy()


def factor_of(gain: Any) -> float:
    """A factor as a number; the root of the mean square of one a channel."""
    if gain is None:
        return 1.0
    if isinstance(gain, (int, float)):
        return float(gain)
    if isinstance(gain, nn.Parameter):
        values = gain.detach().double()
        return float(values) if values.dim() == 0 else float(values.square().mean().sqrt())
    raise Unknown(f"a shortcut with the gain {type(gain).__name__}")


def through(function: Function, name: str, known: Moments) -> tuple[Moments, Map]:
    """Moments of an activation of a Gaussian around zero, and the mean square of its slope."""
    if not known.is_map:
        return _through(function, name, known)
    # of an image most positions are alike, but for rounding
    pairs = np.stack([known.square.ravel(), np.broadcast_to(known.rows, known.square.shape).ravel()], axis=1)
    size = np.abs(pairs).max() or 1.0
    different, which = np.unique(np.round(pairs / size, 9), axis=0, return_inverse=True)
    made = [_through(function, name, Moments(*map(float, (a * size, 0.0, b * size)))) for a, b in different]
    shape, which = known.square.shape, which.ravel()
    columns = [(m.square, m.mean, m.rows, slope) for m, slope in made]
    square, mean, rows, slope = (np.array(column)[which].reshape(shape) for column in zip(*columns, strict=True))
    return Moments(square, mean, rows), slope


def _through(function: Function, name: str, known: Moments) -> tuple[Moments, float]:
    size = math.sqrt(known.square)
    alike = max(-1.0, min(1.0, known.rows / known.square)) if known.square else 0.0
    if name == "relu":  # in closed form, the arc-cosine kernel (Cho and Saul 2009)
        kernel = (math.sqrt(1 - alike * alike) + alike * (math.pi - math.acos(alike))) / math.pi
        return Moments(known.square / 2, size / math.sqrt(2 * math.pi), known.square / 2 * kernel), 0.5
    z = torch.linspace(-8, 8, 1601, dtype=torch.float64)
    weight = torch.exp(-z * z / 2)
    weight /= weight.sum()
    with torch.enable_grad():
        at = (z * size).requires_grad_()
        value = function(at)
        (slope,) = torch.autograd.grad(value.sum(), at)
    value = value.detach()
    coarse, heavy = z[::16], weight[::16] / weight[::16].sum()
    with torch.no_grad():
        first = function(coarse * size)
        second = function(size * (alike * coarse[:, None] + math.sqrt(1 - alike * alike) * coarse[None, :]))
    rows = float((heavy * first * (second @ heavy)).sum())
    return Moments(float(weight @ value**2), float(weight @ value), rows), float(weight @ slope**2)


@dataclass(frozen=True)
class Gated:
    """What a gate makes of a branch and a shortcut, and what of a gradient's square comes back to each.

    ``along`` is for the branch and for the shortcut themselves; ``turn`` for the shortcut through what it does to the
    gates.
    """

    moments: Moments
    along: tuple[Map, Map]
    turn: Map


def gated(merge: Any, branch: Moments, shortcut: Moments) -> Gated:
    """The law of a gate whose weights are new: it is then independent of what it multiplies, which is wide.

    The gate is the sigmoid of a Gaussian with the mean that its bias has, so that the mean of g and of g² follow.
    """
    g, slope, spread = _gate(merge.transform, shortcut)
    keep = Moments(1 - 2 * g.mean + g.square, 1 - g.mean, 1 - 2 * g.mean + g.rows)  # of 1 - g
    both = branch.square + shortcut.square - 2 * branch.mean * shortcut.mean  # (branch - shortcut)²
    if merge.carry is not None:
        c, carry_slope, carry_spread = _gate(merge.carry, shortcut)
        turn = slope * spread * branch.square + carry_slope * carry_spread * shortcut.square
        return Gated(_mixed(g, branch, c, shortcut, g.mean * c.mean), (g.square, c.square), turn)
    if merge.on == "shortcut":
        one = Moments(1.0, 1.0, 1.0)
        return Gated(
            _mixed(one, branch, keep, shortcut, keep.mean), (1.0, keep.square), slope * spread * shortcut.square
        )
    if merge.on == "branch":
        one = Moments(1.0, 1.0, 1.0)
        return Gated(_mixed(g, branch, one, shortcut, g.mean), (g.square, 1.0), slope * spread * branch.square)
    mixed = _mixed(g, branch, keep, shortcut, g.mean - g.square, g.mean - g.rows)
    return Gated(mixed, (g.square, keep.square), slope * spread * both)


def _gate(transform: Any, value: Moments) -> tuple[Moments, Map, float]:
    """Moments of a gate, the mean square of its slope, and what its weights multiply a mean square by."""
    weight, bias = transform.weight.detach().double(), transform.bias.detach().double()
    spread = float(weight.square().mean()) * weight.shape[1]
    middle, off = float(bias.mean()), float(bias.var(correction=0))
    before = Moments(spread * value.square + off, 0.0, spread * value.rows + off)
    made, slope = through(lambda z: torch.sigmoid(z + middle), "gate", before)
    return made, slope, spread


def _mixed(a: Moments, x: Moments, b: Moments, y: Moments, same: Map, other: Map | None = None) -> Moments:
    """``a x + b y`` for factors that are independent of the values; ``same`` is the mean of ab, ``other`` in two rows.

    ``x`` and ``y`` are independent of one another too.
    """
    other = same if other is None else other
    cross = 2 * x.mean * y.mean
    return Moments(
        a.square * x.square + b.square * y.square + same * cross,
        a.mean * x.mean + b.mean * y.mean,
        a.rows * x.rows + b.rows * y.rows + other * cross,
    )


__all__ = ["Gated", "Map", "Moments", "Taps", "Unknown", "factor_of", "gated", "moments_of", "through"]
