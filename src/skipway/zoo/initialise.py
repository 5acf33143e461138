"""The initial weights of the papers: how a net of the zoo begins."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Literal

from torch import nn

from skipway import Chain
from skipway.connection import Connection

Mode = Literal["fan_in", "fan_out"]

_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def he(net: Chain, mode: Mode = "fan_out", dense: bool = False) -> Chain:
    """The net with convolutions as He et al. 2015 (1502.01852) draw them for relu, and biases of 0.

    ``"fan_out"`` keeps the variance of the gradients, ``"fan_in"`` that of the values; the paper finds either enough.
    Gates of shortcuts keep how they begin. Dense layers keep their weights, or are drawn in the same way with
    ``dense=True``. Norms begin with gamma 1 and beta 0, as torch makes them.

    >>> from skipway import Conv
    >>> bool((he(Chain(Conv(1, 2, 3)))[0].bias == 0).all())
    True
    """
    gates = {id(inner) for module in net.modules() if isinstance(module, Connection) for inner in _weighing(module)}
    for module in net.modules():
        if id(module) in gates:
            continue
        if isinstance(module, _TRANSPOSED):
            nn.init.normal_(module.weight, std=math.sqrt(2 / _fan(module, mode)))
        elif isinstance(module, _CONVOLUTIONS) or (dense and isinstance(module, nn.Linear)):
            nn.init.kaiming_normal_(module.weight, mode=mode, nonlinearity="relu")
        elif not isinstance(module, nn.Linear):
            continue
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    return net


def _weighing(connection: Connection) -> Iterator[nn.Module]:
    """The modules of a shortcut that say how much comes through: gates and the like, whose own beginning is meant."""
    for part in (connection.merge, connection.scale, connection.path_scale):
        if isinstance(part, nn.Module):
            yield from part.modules()


def _fan(layer: Any, mode: Mode) -> float:
    """Values that one output of a transposed convolution is made of, or one input goes to.

    torch takes the axes of its weight for those of a convolution, which are the other way round.
    """
    if mode == "fan_out":
        return float(layer.out_channels // layer.groups * math.prod(layer.kernel_size))
    return layer.in_channels // layer.groups * math.prod(layer.kernel_size) / math.prod(layer.stride)


def truncated(net: Chain, std: float = 0.02) -> Chain:
    """The net with convolutions and dense layers drawn from a normal law of this deviation, and biases of 0.

    Draws beyond -2 and 2 are drawn again, as DeiT (2012.12877) and ConvNeXt (2201.03545) have it.

    >>> from skipway import Dense
    >>> bool(truncated(Chain(Dense(64, 64)))[0].weight.std() < 0.03)
    True
    """
    for module in net.modules():
        if isinstance(module, (nn.Linear, *_CONVOLUTIONS)):
            nn.init.trunc_normal_(module.weight, std=std)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return net


def zero_last_norms(net: Chain) -> Chain:
    """The net with a gamma of 0 in the last norm of every branch, so that a block begins as its shortcut (1706.02677).

    >>> from skipway import BatchNorm, Conv, Skip
    >>> zero_last_norms(Chain(Skip(Conv(2, 2, 1), BatchNorm(2))))[0][1].weight.tolist()
    [0.0, 0.0]
    """
    for module in net.modules():
        if isinstance(module, Chain) and [s.end for s in module.wiring] == ["output"]:
            norms = [m for m in module.modules_in_order if isinstance(m, nn.modules.batchnorm._BatchNorm)]
            nn.init.zeros_(norms[-1].weight)
    return net


__all__ = ["he", "truncated", "zero_last_norms"]
