"""U-Net (Ronneberger et al. 2015, 1505.04597): down to few large pixels and up again, with what was lost brought over.

On the way down, two 3x3 convolutions and a max pool halve the image and double the channels; on the way up, a
transposed convolution doubles the image and halves the channels, and what the way down had at that level is joined to
it::

    down1 ------------------------------------> up1
       down2 ----------------------------> up2
          down3 ------------------> up3
             down4 ----------> up4
                      mid
"""

from __future__ import annotations

from typing import Any, Literal

from torch import nn

from skipway import Chain, ChainError, Conv, Crop, MaxPool, Shortcut, relu

from .entry import COUNTED, Entry, parameters
from .initialise import he
from .options import positive


def unet(
    in_channels: int = 1,
    num_classes: int = 2,
    width: int = 64,
    depth: int = 4,
    padding: Literal["same", "valid"] = "same",
    merge: Literal["cat", "add"] = "cat",
) -> Chain:
    """U-Net, with a transposed 2x2 convolution for every level up and a 1x1 convolution at the end.

    Shapes: ``(N, in_channels, H, W)`` to ``(N, num_classes, H, W)``, H and W multiples of ``2**depth``; from 572 x 572
    to 388 x 388 with the paper's ``padding="valid"``. From 1 channel to 2 classes 31,030,658 parameters, from 3 to 1
    31,031,745.

    Parameters
    ----------
    width:
        channels of the first level; every next one has twice as many.
    depth:
        how often the image is halved.
    padding:
        ``"same"`` keeps the size; ``"valid"`` is the paper's own: convolutions without padding, and cropped shortcuts.
    merge:
        ``"cat"``, or ``"add"`` as in FCN and LinkNet, which halves the inputs of the first convolution after it.

    Convolutions begin with a variance of 2 / fan-in (section 3 of the paper, from 1502.01852), biases at 0.

    Raises
    ------
    ChainError
        for another word for padding or merge, or a width or depth that is not a positive whole number.

    >>> net = unet(width=4, depth=2)
    >>> net.wiring
    (Shortcut('down2', 'up2', merge='cat'), Shortcut('down1', 'up1', merge='cat'))
    >>> net.plan.output.shape
    (2, 256, 256)
    """
    if padding not in ("same", "valid"):
        raise ChainError(f'padding= is "same" or "valid" (the paper\'s own, with cropped shortcuts), not {padding!r}')
    if merge not in ("cat", "add"):
        raise ChainError(f'merge= is "cat" (U-Net) or "add" (FCN, LinkNet), not {merge!r}')
    positive(width=width, depth=depth)
    pad = 1 if padding == "same" else 0

    def twice(channels: int) -> Chain:
        return Chain(Conv(..., channels, 3, relu, padding=pad), Conv(..., channels, 3, relu, padding=pad))

    widths = [width << level for level in range(depth + 1)]
    layers: dict[str, Any] = {}
    for level in range(depth):
        layers[f"down{level + 1}"] = twice(widths[level])
        layers[f"pool{level + 1}"] = MaxPool(2)
    layers["mid"] = twice(widths[depth])
    for level in reversed(range(depth)):
        layers[f"up{level + 1}"] = nn.ConvTranspose2d(widths[level + 1], widths[level], 2, stride=2)
        layers[f"join{level + 1}"] = twice(widths[level])
    path = "identity" if padding == "same" else Crop()
    wiring = [Shortcut(f"down{k}", f"up{k}", merge=merge, path=path) for k in range(depth, 0, -1)]
    side = 256 if padding == "same" else 572
    net = Chain(**layers, head=Conv(width, num_classes, 1), wiring=wiring, input=(in_channels, side, side))
    return he(net, "fan_in")


NETS = {
    "unet": Entry(unet, figures=[
        parameters(31_030_658, COUNTED),
        parameters(31_031_745, COUNTED, in_channels=3, num_classes=1),
        parameters(7_759_521, "the U-Net beside U-Net++, MrGiovanni/UNetPlusPlus", width=32, num_classes=1),
        parameters(31_030_658, "padding has no parameters", padding="valid"),
    ]),
}  # fmt: skip


__all__ = ["unet"]
