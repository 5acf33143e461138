"""Batch norms in a dense block: their affine form, their statistics, and what the backward owes to them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

#: dgamma is a quotient by gamma only where that loses less than a digit: gamma is not small beside beta
SMALL_GAMMA = 1 / 4

#: columns that torch computes statistics of at full speed
WIDE = 48


@dataclass(frozen=True)
class Norm:
    """A batch norm, with the relu after it, as ``a * x + b`` for the statistics of this batch."""

    gamma: Tensor
    beta: Tensor
    mean: Tensor
    rate: Tensor
    """``1 / sqrt(var + eps)``"""
    a: Tensor
    b: Tensor
    lively: Tensor
    """whether the variance of a channel is not small beside eps, so that ``xhat`` is of the size of 1"""

    @classmethod
    def of(cls, gamma: Tensor, beta: Tensor, mean: Tensor, var: Tensor, eps: float) -> Norm:
        rate = (var + eps).rsqrt()
        a = gamma * rate
        return cls(gamma, beta, mean, rate, a, beta - mean * a, var >= eps)

    def relu(self, x: Tensor, out: Tensor) -> Tensor:
        """``relu(a * x + b)``. Shapes: ``(rows, C)`` all."""
        return torch.addcmul(self.b, x, self.a, out=out).relu_()

    @cached_property
    def divides(self) -> bool:
        """Whether dgamma is the size of its parts in all channels, and no gamma is too small to divide by."""
        return bool((self.lively & (self.gamma.abs() >= SMALL_GAMMA * (1 + self.beta.abs()))).all())

    @cached_property
    def scale(self) -> Tensor | None:
        """``a``, where a 1x1 convolution behind may take it over: it is positive and not small; else ``None``."""
        return self.a if self.divides and bool((self.gamma > 0).all()) else None

    def ramp(self, x: Tensor, out: Tensor) -> Tensor:
        """``relu(a * x + b)`` over :attr:`scale`: a difference, where the whole would be a product and a sum."""
        if self.scale is None:
            return self.relu(x, out)
        return torch.sub(x, self._zero, out=out).relu_()

    @cached_property
    def _zero(self) -> Tensor:
        """where ``a * x + b`` is 0"""
        return self.mean - self.beta / self.a

    def quotient(self, contracted: Tensor, dbeta: Tensor) -> Tensor:
        """dgamma from ``sum(W * dW)``, a channel each."""
        return (contracted - self.beta * dbeta) / self.gamma


class Moments:
    """Mean and biased variance a channel, from those of tiles (Chan et al. 1983): nothing cancels."""

    def __init__(self) -> None:
        self._rows: list[int] = []
        self._means: list[Tensor] = []
        self._vars: list[Tensor] = []

    def add(self, tile: Tensor) -> None:
        """Take in a tile, ``(rows, C)``, row after row."""
        rows, width = tile.shape
        # torch takes ten times as long for 12 columns as for the same values in 48: some rows side by side, then
        beside = next((n for n in (4, 2) if rows % n == 0 and n * width <= WIDE), 1)
        wide = tile.reshape(rows // beside, beside * width)
        mean, var = torch.batch_norm_update_stats(wide.t()[None, :, :, None], None, None, 0.0)
        self._rows += [rows // beside] * beside
        self._means += mean.view(beside, width).unbind()
        self._vars += var.view(beside, width).unbind()

    def result(self) -> tuple[Tensor, Tensor]:
        if len(self._rows) == 1:
            return self._means[0], self._vars[0]
        dtype = self._means[0].dtype
        share = torch.tensor(self._rows, dtype=torch.float64).unsqueeze(1) / sum(self._rows)
        means, vars = torch.stack(self._means).double(), torch.stack(self._vars).double()
        mean = (share * means).sum(0)
        var = (share * (vars + (means - mean).square())).sum(0)
        return mean.to(dtype), var.to(dtype)


class Sums:
    """Sums over rows, from those of tiles."""

    def __init__(self) -> None:
        self._parts: list[Tensor] = []

    def add(self, tile: Tensor) -> None:
        self._parts.append(tile.sum(0))

    def result(self) -> Tensor:
        return torch.stack(self._parts).sum(0, dtype=torch.float64).to(self._parts[0].dtype)


class NormSums:
    """dgamma and dbeta of a norm, from tiles of the gradient behind it, or of ``scale`` times that."""

    def __init__(self, norm: Norm, scale: Tensor | None = None) -> None:
        self.norm, self.scale = norm, scale
        self._beta = Sums()
        self._gamma = None if norm.divides else Sums()

    def add(self, dz: Tensor, x: Tensor) -> None:
        """A tile of the gradient, and what was normalised there."""
        self._beta.add(dz)
        if self._gamma is not None:
            self._gamma.add((x - self.norm.mean).mul_(dz))

    def result(self, contracted: Tensor) -> tuple[Tensor, Tensor]:
        """dgamma and dbeta; ``contracted`` is ``sum(W * dW)`` a channel, of the convolution behind the norm."""
        dbeta = self._unscaled(self._beta.result())
        if self._gamma is None:
            return self.norm.quotient(contracted, dbeta).to(dbeta.dtype), dbeta
        return self._unscaled(self._gamma.result()) * self.norm.rate, dbeta

    def _unscaled(self, sums: Tensor) -> Tensor:
        return sums if self.scale is None else sums / self.scale


@dataclass(frozen=True)
class Late:
    """What is subtracted from the gradient of a channel once all layers that read it are through."""

    mean: Tensor
    shift: Tensor
    slope: Tensor

    def add(self, norm: Norm, dgamma: Tensor, dbeta: Tensor, rows: int) -> None:
        c = norm.a.shape[0]
        self.shift[:c] += norm.a * dbeta / rows
        self.slope[:c] += norm.a * norm.rate * dgamma / rows

    def applied(self, x: Tensor, g: Tensor, columns: slice, out: Tensor) -> Tensor:
        """The gradient of some columns of the features, complete, into ``out``. ``x`` are those columns themselves."""
        slope = self.slope[columns]
        base = self.mean[columns] * slope - self.shift[columns]
        return torch.addcmul(base, x, slope, value=-1, out=out).add_(g[:, columns])
