"""The initial weights of the papers: how a net of the zoo begins."""

from __future__ import annotations

from typing import Literal

from torch import nn

from skipway.chain import Chain

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def he(net: Chain, mode: Literal["fan_in", "fan_out"] = "fan_out", dense: bool = False) -> Chain:
    """The net with convolutions as He et al. 2015 (1502.01852) draw them for relu, and biases of 0.

    ``"fan_out"`` keeps the variance of the gradients, ``"fan_in"`` that of the values; the paper finds either enough.
    Dense layers are left as they are, with a bias of 0, or drawn in the same way with ``dense=True``.

    >>> from skipway import Conv
    >>> bool((he(Chain(Conv(1, 2, 3)))[0].bias == 0).all())
    True
    """
    for module in net.modules():
        if isinstance(module, CONVOLUTIONS) or (dense and isinstance(module, nn.Linear)):
            nn.init.kaiming_normal_(module.weight, mode=mode, nonlinearity="relu")
        if isinstance(module, (*CONVOLUTIONS, nn.Linear)) and module.bias is not None:
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


__all__ = ["he", "zero_last_norms"]
