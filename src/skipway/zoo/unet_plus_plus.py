"""U-Net++ (Zhou et al. 2018, 1807.10165): a grid of nodes between the way down and the way up of a U-Net.

Node ``x{i}{j}`` stands on level i and reads all nodes of its level before it, and the one below that came before it,
with twice the pixels. Column 0 is the way down; the last node of each level is the way up of U-Net. The chain visits
the grid diagonal by diagonal, so that the node below is always the value before, and every other arrow is a shortcut.
After a diagonal it goes on from where that one began::

    x00 ---- x01 ---- x02        x00, x10 x01, x20 x11 x02
       \\    /   \\    /
        x10 ---- x11
           \\    /
            x20
"""

from __future__ import annotations

from typing import Any

from torch import nn

from skipway import Chain, ChainError, Conv, MaxPool, Shortcut, identity, relu

from .entry import Entry, Figure, parameters
from .initialise import he
from .options import positive


def twice(channels: int) -> Chain:
    """A node: two 3x3 convolutions. Shapes: ``(N, any, H, W)`` to ``(N, channels, H, W)``.

    >>> len(twice(8))
    2
    """
    return Chain(Conv(..., channels, 3, relu, padding=1), Conv(..., channels, 3, relu, padding=1))


def unet_plus_plus(
    in_channels: int = 1, num_classes: int = 1, width: int = 32, depth: int = 4, supervised: bool = False
) -> Chain:
    """U-Net++. Shapes: ``(N, in_channels, H, W)`` to ``(N, num_classes, H, W)``, H and W multiples of ``2**depth``.

    From 1 channel to 1 class 9,041,601 parameters.

    Parameters
    ----------
    width:
        channels of the first level; every next one has twice as many.
    depth:
        how often the image is halved. The nodes of a net of less depth are among those of a deeper one, under the same
        names: what the paper calls pruning.
    supervised:
        deep supervision: every node of level 0 but the first has a head of its own, and the mean of their maps leaves
        the net. Head k of ``net.shortcuts[f"head{k}"].path`` maps ``net.features(x, [f"x0{k}"])``, so that a loss can
        be put on each. Otherwise the last node alone has a head.

    Convolutions begin with a variance of 2 / fan-in (1502.01852), biases at 0. The authors' code puts dropout after
    each convolution and elu in the place of relu. ``net.plain()`` never goes back down, so that its image grows.

    Raises
    ------
    ChainError
        for a width or depth that is not a positive whole number, or a depth over 9.

    >>> net = unet_plus_plus(width=4, depth=2)
    >>> [s.label for s in net.wiring]
    ['x00->up01', 'x10->back2', 'x10->up11', 'x00->up02', 'x01->up02']
    >>> net.plan.output.shape
    (1, 256, 256)
    """
    positive(width=width, depth=depth)
    if depth > 9:
        raise ChainError(f"depth= is at most 9, since 10 halvings leave nothing of an image, not {depth}")
    layers: dict[str, Any] = {"x00": twice(width)}
    wiring = []
    for d in range(1, depth + 1):
        if d > 1:  # from the end of one diagonal back to the way down
            layers[f"back{d}"] = identity
            wiring.append(Shortcut(f"x{d - 1}0", f"back{d}", merge="replace"))
        layers[f"pool{d}"] = MaxPool(2)
        layers[f"x{d}0"] = twice(width << d)
        for i in reversed(range(d)):
            j, channels = d - i, width << i
            layers[f"up{i}{j}"] = nn.ConvTranspose2d(2 * channels, channels, 2, stride=2)
            layers[f"x{i}{j}"] = twice(channels)
            wiring += [Shortcut(f"x{i}{k}", f"up{i}{j}", merge="cat") for k in range(j)]
    if supervised:
        wiring += _heads(width, num_classes, depth)
    net = Chain(**layers, head=Conv(width, num_classes, 1), wiring=wiring, input=(in_channels, 256, 256))
    return he(net, "fan_in")


def _heads(width: int, num_classes: int, depth: int) -> list[Shortcut]:
    """A head on every node of level 0 but the last, and the mean over all of them at the end."""
    part = 1 / depth
    return [
        Shortcut(
            f"x0{j}", "head", path=Conv(width, num_classes, 1), path_scale=part, scale=part if j == 1 else None,
            name=f"head{j}",
        )
        for j in range(1, depth)
    ]  # fmt: skip


_CODE = "the authors' code, MrGiovanni/UNetPlusPlus"

NETS = {
    "unet_plus_plus": Entry(unet_plus_plus, figures=[
        parameters(9_041_601, _CODE),
        Figure("parameters", 9.04e6, "1807.10165, table 3", unit=1e4),
        parameters(9_041_601 + 3 * 33, "three heads more", supervised=True),
    ]),
}  # fmt: skip


__all__ = ["twice", "unet_plus_plus"]
