"""LinkNet (Chaurasia and Culurciello 2017, 1707.03718): what goes into an encoder is added to what its decoder makes.

ResNet-18 takes the image down to a 32nd, four decoders take it up again. A decoder narrows to a quarter of the
channels, doubles the image there, and widens to what its partner reads. Adding instead of joining keeps the decoders
as small as they are::

    pool -> encoder1 -> encoder2 -> encoder3 -> encoder4
     |         |           |           |            |
     v         v           v           v            v
    decoder1 <- decoder2 <- decoder3 <- decoder4 <--+
"""

from __future__ import annotations

from typing import Any

from torch import nn

from skipway import BatchNorm, Chain, ChainError, Conv, MaxPool, Shortcut, relu

from .entry import COUNTED, Entry, Figure, parameters
from .initialise import he
from .resnet import basic


def encoder(start: int, end: int, stride: int) -> Chain:
    """Two basic blocks of ResNet-18: ``(N, start, H, W)`` to ``(N, end, H/stride, W/stride)``.

    >>> len(encoder(8, 16, 2))
    2
    """
    return Chain(basic(start, end, stride, "B"), basic(end, end, 1, "B"))


def decoder(start: int, end: int, stride: int) -> Chain:
    """1x1 convolution to a quarter, 3x3 transposed convolution, 1x1 convolution: to ``(N, end, stride H, stride W)``.

    >>> decoder(16, 8, 2).build((16, 4, 4)).plan.output.shape
    (8, 8, 8)
    """
    inner = start // 4
    return Chain(
        Conv(start, inner, 1, bias=False), BatchNorm(inner), relu,
        *_up(inner, inner, stride),
        Conv(inner, end, 1, bias=False), BatchNorm(end), relu,
    )  # fmt: skip


def _up(start: int, end: int, stride: int) -> list[Any]:
    """A transposed 3x3 convolution that multiplies the image by the stride."""
    full = nn.ConvTranspose2d(start, end, 3, stride=stride, padding=1, output_padding=stride - 1, bias=False)
    return [full, BatchNorm(end), relu]


def linknet(in_channels: int = 3, num_classes: int = 19, width: int = 64) -> Chain:
    """LinkNet. Shapes: ``(N, in_channels, H, W)`` to ``(N, num_classes, H, W)``, H and W multiples of 32.

    Parameters
    ----------
    num_classes:
        19 for Cityscapes, 11 for CamVid.
    width:
        channels of the first encoder, a multiple of 4; the others have 1, 2, 4 and 8 times as many.

    A relu follows every addition, as in the authors' code. Convolutions begin with a variance of 2 / fan-out
    (1502.01852); the authors begin the encoders as ResNet-18 trained on ImageNet.

    Raises
    ------
    ChainError
        for a width that is not a positive multiple of 4.

    >>> net = linknet(width=8)
    >>> [s.label for s in net.wiring]
    ['encoder3->decoder4', 'encoder2->decoder3', 'encoder1->decoder2', 'pool->decoder1']
    >>> net.plan.output.shape
    (19, 224, 224)
    """
    if isinstance(width, bool) or not isinstance(width, int) or width < 4 or width % 4:
        raise ChainError(
            f"width= is a positive multiple of 4, since a decoder works on a quarter of the channels, not {width!r}"
        )
    widths = [width, width, 2 * width, 4 * width, 8 * width]
    layers: dict[str, Any] = {
        "conv": Conv(in_channels, width, 7, stride=2, padding=3, bias=False), "norm": BatchNorm(width), "relu": relu,
        "pool": MaxPool(3, stride=2, padding=1),
    }  # fmt: skip
    for k in (1, 2, 3, 4):
        layers[f"encoder{k}"] = encoder(widths[k - 1], widths[k], 1 if k == 1 else 2)
    for k in (4, 3, 2, 1):
        layers[f"decoder{k}"] = decoder(widths[k], widths[k - 1], 1 if k == 1 else 2)
    half = width // 2
    layers["full"] = Chain(*_up(width, half, 2), Conv(half, half, 3, padding=1, bias=False), BatchNorm(half), relu)
    wiring = [Shortcut(f"encoder{k - 1}" if k > 1 else "pool", f"decoder{k}", act=relu) for k in (4, 3, 2, 1)]
    head = nn.ConvTranspose2d(half, num_classes, 2, stride=2)
    return he(Chain(**layers, head=head, wiring=wiring, input=(in_channels, 224, 224)))


NETS = {
    "linknet": Entry(linknet, figures=[
        parameters(11_535_635, COUNTED),
        Figure("parameters", 11.5e6, "1707.03718, abstract", unit=1e5),
        Figure("projections", 3, "those of ResNet-18: nothing is projected on the way to a decoder"),
    ]),
}  # fmt: skip


__all__ = ["decoder", "encoder", "linknet"]
