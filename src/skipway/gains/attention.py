"""Gains that look at what they multiply."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from skipway.errors import ChainError
from skipway.layer import check_width
from skipway.value import Value

from .base import Gain, need_features


@dataclass(frozen=True)
class SqueezeExcite(Gain):
    """A weight for every channel, from the mean of each: ``branch * sigmoid(W relu(V mean(branch)))`` (1709.01507).

    Parameters
    ----------
    reduction:
        how many times fewer channels there are between V and W. Both have a bias: ``2 C^2 / reduction + C / reduction +
        C`` parameters.

    For images the mean is over all pixels. Vectors and tokens are weighed as they are.

    >>> from skipway import Conv, Skip
    >>> net = Skip(Conv(32, 32, 3, padding=1, bias=False), scale=SqueezeExcite(16))
    >>> sum(p.numel() for p in net.shortcuts.parameters())
    162
    """

    reduction: int = 16

    def __post_init__(self) -> None:
        check_width("SqueezeExcite: the reduction", self.reduction, open_ok=False)

    def make(self, value: Value) -> SqueezeExciteModule:
        need_features("SqueezeExcite", value)
        assert value.width is not None
        assert value.axis is not None
        if value.width < self.reduction:
            raise ChainError(
                f"SqueezeExcite({self.reduction}) leaves less than one of {value.width} channels: "
                f"take a smaller reduction"
            )
        return SqueezeExciteModule(value.width, value.width // self.reduction, -1 - value.axis)


class SqueezeExciteModule(nn.Module):
    """The weights of one place, applied. Shapes: ``(N, *)`` to the same."""

    def __init__(self, width: int, inner: int, dims: int) -> None:
        super().__init__()
        self.squeeze, self.excite = nn.Linear(width, inner), nn.Linear(inner, width)
        self.dims = dims

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(tuple(range(-self.dims, 0))) if self.dims else x
        weight = torch.sigmoid(self.excite(torch.relu(self.squeeze(mean))))
        return x * weight[(...,) + (None,) * self.dims]
