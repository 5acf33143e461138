"""Feature pyramid (Lin et al. 2016, 1612.03144): maps of all sizes, each with as much meaning as the smallest.

A ResNet takes the image down. From the smallest map on, each is doubled and added to what a 1x1 convolution makes of
the next larger one of the ResNet; a 3x3 convolution over the sum gives the map of that level::

    stage4 -- 1x1 -------> m5 -- 3x3 --> p5
                            | x 2
    stage3 -- 1x1 -- + --> m4 -- 3x3 --> p4
                            | x 2
    stage2 -- 1x1 -- + --> m3 -- 3x3 --> p3
                            | x 2
    stage1 -- 1x1 -- + --> m2 -- 3x3 --> p2

The chain visits the levels one by one, from m5 to p2. To each it comes by way of ``c4``, ``c3`` and ``c2``, where the
map of the ResNet takes the place of the one before.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from skipway import Chain, Conv, Shortcut, identity

from .entry import Entry, Figure, parameters
from .options import positive
from .resnet import resnet


def fpn(depth: int = 50, width: int = 256, in_channels: int = 3, **options: Any) -> Chain:
    """A feature pyramid over a ResNet. Shapes: ``(N, in_channels, H, W)`` to ``(N, width, H/4, W/4)``.

    H and W are multiples of 32. What leaves the chain is the finest map; ``net.features(x, ["p5", "p4", "p3", "p2"])``
    gives all four, of a 32nd, 16th, 8th and 4th of the size, from one pass. Over ResNet-50 it has 26,852,416
    parameters.

    Parameters
    ----------
    depth, options:
        of the ResNet, as in :func:`skipway.zoo.resnet.resnet`.
    width:
        channels of the pyramid.

    The ResNet begins as in 1502.01852, the convolutions of the pyramid with a variance of 1 / fan-in and biases at 0,
    as in the authors' code.

    ``net.plain()`` never goes back to a larger map, so that what leaves it is as small as p5.

    Raises
    ------
    ChainError
        for a width that is not a positive whole number, and what a ResNet raises.

    >>> net = fpn(18, width=8)
    >>> net.wiring[:2]
    (Shortcut('trunk.stage3', 'c4', merge='replace'), Shortcut('m5', 'm4', path='resize'))
    >>> net.plan.output.shape
    (8, 56, 56)
    """
    positive(width=width)
    trunk = resnet(depth, 1, in_channels=in_channels, **options)[:8]  # without the mean and the dense layer
    layers: dict[str, Any] = {"trunk": trunk, "m5": Conv(..., width, 1), "p5": Conv(width, width, 3, padding=1)}
    wiring = []
    for level in (4, 3, 2):
        layers[f"c{level}"] = identity
        layers[f"m{level}"] = Conv(..., width, 1)
        layers[f"p{level}"] = Conv(width, width, 3, padding=1)
        wiring += [
            Shortcut(f"trunk.stage{level - 1}", f"c{level}", merge="replace"),
            Shortcut(f"m{level + 1}", f"m{level}", path="resize"),
        ]
    net = Chain(**layers, wiring=wiring, input=(in_channels, 224, 224))
    for layer in net:
        if isinstance(layer, Conv) and layer.bias is not None:
            nn.init.kaiming_uniform_(layer.weight, a=1)
            nn.init.zeros_(layer.bias)
    return net


NETS = {
    "fpn": Entry(fpn, figures=[
        parameters(26_852_416, "torchvision 0.28: resnet_fpn_backbone"),
        Figure("projections", 4, "those of ResNet-50: the 1x1 convolutions lie along the chain"),
    ]),
}  # fmt: skip


__all__ = ["fpn"]
