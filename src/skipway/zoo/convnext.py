"""ConvNeXt (Liu et al. 2022, 2201.03545): a residual net that took over what makes a transformer, piece by piece.

A block is a 7x7 convolution of each channel by itself, a norm, and two dense layers over the channels of each pixel,
written as 1x1 convolutions. There is one norm and one activation in it, and nothing after the addition. What the block
adds is multiplied by a learned number for each channel, which begins at one millionth (LayerScale, 2103.17239), so that
the net begins as its stem, its convolutions between the stages and its head::

    7x7, one channel each -> norm -> 1x1 to 4 d -> gelu -> 1x1 to d  (x gamma)  + x
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skipway import Chain, Conv, Dense, GlobalAvgPool, LayerNorm, Learned, OpenChainError, Skip, gelu
from skipway.layer import Layer, Width, check_width
from skipway.value import Value, show

from .entry import LIBRARIES, Entry, Figure, parameters
from .initialise import truncated
from .options import one_of, positive

Size = Literal["tiny", "small", "base", "large"]

#: blocks of each stage, channels of the first (each next has twice as many), and the drop of the last block
SIZES: dict[str, tuple[tuple[int, ...], int, float]] = {
    "tiny": ((3, 3, 9, 3), 96, 0.1), "small": ((3, 3, 27, 3), 96, 0.4),
    "base": ((3, 3, 27, 3), 128, 0.5), "large": ((3, 3, 27, 3), 192, 0.5),
}  # fmt: skip


class ChannelNorm(Layer, nn.Module):
    """Layer normalisation over the channels of each pixel (1607.06450), for values with channels first.

    ``ChannelNorm()`` takes its width from what arrives. Shapes: ``(N, width, *size)`` to the same.

    >>> x = torch.randn(2, 8, 5, 5)
    >>> y = ChannelNorm(8)(x)
    >>> bool(y.mean(1).abs().max() < 1e-6), y.shape
    (True, torch.Size([2, 8, 5, 5]))
    """

    def __init__(self, width: Width = ..., eps: float = 1e-6) -> None:
        super().__init__()
        check_width("ChannelNorm: the width", width)
        self.width, self.eps, self._inferred = width, eps, width is ...
        self.register_parameter("weight", None)
        self.register_parameter("bias", None)
        if isinstance(width, int):
            self._make(width)
        else:
            self._wait()

    _width_name = "width"

    @property
    def inferred(self) -> bool:
        return self._inferred

    @property
    def is_open(self) -> bool:
        return self.width is ...

    def build(self, value: Value) -> None:
        width = value.shape[0] if value.shape else None
        if width is None:
            raise OpenChainError(f"needs the channels of what arrives, {show(value.shape)}")
        self.width = width
        self._make(width)
        self._close()

    def _make(self, width: int) -> None:
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        normed = F.layer_norm(x.movedim(1, -1), self.weight.shape, self.weight, self.bias, self.eps)
        return normed.movedim(-1, 1)

    def code(self) -> str:
        args = [] if self._inferred else [str(self.width)]
        args += [f"eps={self.eps!r}"] if self.eps != 1e-6 else []
        return f"ChannelNorm({', '.join(args)})"

    def extra_repr(self) -> str:
        return self.code()[len("ChannelNorm(") : -1]


def block(width: int, scale: float = 1e-6, drop: float = 0.0) -> Skip:
    """One block. Shapes: ``(N, width, H, W)`` to the same.

    >>> block(8, drop=0.1)
    Skip(Conv(8, 8, 7, padding=3, groups=8), ChannelNorm(8), Conv(8, 32, 1, gelu), Conv(32, 8, 1),
      scale=Learned(1e-06, per='channel'), drop=0.1)
    """
    return Skip(
        Conv(width, width, 7, padding=3, groups=width), ChannelNorm(width),
        Conv(width, 4 * width, 1, gelu), Conv(4 * width, width, 1),
        scale=Learned(scale, per="channel"), drop=drop,
    )  # fmt: skip


def convnext(
    size: Size = "tiny",
    num_classes: int = 1000,
    *,
    drop: float | None = None,
    scale: float = 1e-6,
    depths: Sequence[int] | None = None,
    width: int | None = None,
    in_channels: int = 3,
) -> Chain:
    """ConvNeXt. Shapes: ``(N, in_channels, H, W)`` to ``(N, num_classes)``.

    It is planned for images of 224 x 224 and takes any size from 32 x 32 on.

    =======  ================  ===============  ===========
    size     blocks            channels         parameters
    =======  ================  ===============  ===========
    tiny     3, 3, 9, 3        96 to 768        28,589,128
    small    3, 3, 27, 3       96 to 768        50,223,688
    base     3, 3, 27, 3       128 to 1024      88,591,464
    large    3, 3, 27, 3       192 to 1536      197,767,336
    =======  ================  ===============  ===========

    Parameters
    ----------
    drop:
        the probability with which the branch of the last block is dropped in training, row by row; it grows from 0
        linearly with depth (1603.09382). By default the paper's for ImageNet-1K: 0.1, 0.4, 0.5 and 0.5.
    scale:
        where the factor of each channel of a branch begins.
    depths, width:
        blocks of each stage, and channels of the first, in the place of those of the table.

    Weights begin from a truncated normal law of deviation 0.02, biases at 0.

    Raises
    ------
    ChainError
        for a size that is not in the table, depths or a width that are not positive whole numbers, or a probability
        outside [0, 1).

    >>> with torch.device("meta"):
    ...     net = convnext("tiny")
    >>> sum(p.numel() for p in net.parameters())
    28589128
    """
    one_of(SIZES, "2201.03545", size=size)
    blocks, channels, papers = SIZES[size]
    blocks, channels = tuple(blocks if depths is None else depths), channels if width is None else width
    positive(width=channels, depths=len(blocks))
    for count in blocks:
        positive(depths=count)
    drop, last = papers if drop is None else drop, max(sum(blocks) - 1, 1)
    drops = iter([drop * i / last for i in range(sum(blocks))])
    layers: dict[str, Any] = {"stem": Chain(Conv(in_channels, channels, 4, stride=4), ChannelNorm(channels))}
    for i, count in enumerate(blocks):
        if i:
            layers[f"down{i + 1}"] = Chain(ChannelNorm(channels), Conv(channels, 2 * channels, 2, stride=2))
            channels *= 2
        layers[f"stage{i + 1}"] = Chain(*[block(channels, scale, next(drops)) for _ in range(count)])
    net = Chain(
        **layers,
        mean=GlobalAvgPool(), norm=LayerNorm(channels, eps=1e-6), head=Dense(channels, num_classes),
        input=(in_channels, 224, 224),
    )  # fmt: skip
    return truncated(net)


def _figures(number: int, macs: float) -> list[Figure]:
    return [parameters(number, LIBRARIES), Figure("MACs", macs, "2201.03545, table 1", unit=1e8)]


NETS = {
    "convnext_tiny": Entry(convnext, {"size": "tiny"}, _figures(28_589_128, 4.5e9)),
    "convnext_small": Entry(convnext, {"size": "small"}, _figures(50_223_688, 8.7e9)),
    "convnext_base": Entry(convnext, {"size": "base"}, _figures(88_591_464, 15.4e9)),
    "convnext_large": Entry(convnext, {"size": "large"}, _figures(197_767_336, 34.4e9)),
}


__all__ = ["ChannelNorm", "block", "convnext"]
