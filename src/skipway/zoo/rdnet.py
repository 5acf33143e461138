"""DenseNets reloaded (Kim et al. 2024, 2403.19588): a net that concatenates, with the parts of a modern one.

As in a DenseNet every layer adds channels to all that came before it, but few layers add many, and a convolution after
every three of them halves the channels (not only where the image gets smaller). A layer is a ConvNeXt block that does
not add::

    7x7, one channel each -> norm -> 1x1 to 4 c -> gelu -> 1x1 to k (-> squeeze and excitation)  (x gamma)  , x
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skipway import Cat, Chain, ChainError, Conv, Dense, DropPath, GlobalAvgPool, LayerNorm, Skip, dense, gelu

from .convnext import ChannelNorm
from .entry import Entry, Figure, parameters
from .initialise import he
from .options import one_of, positive

#: channels of the stem; channels that a layer of each stage adds; stages that begin with half the image
SIZES: dict[str, tuple[int, tuple[int, ...], tuple[int, ...]]] = {
    "tiny": (64, (64, 104, 128, 128, 128, 128, 224), (1, 2, 6)),
    "small": (72, (64, *[128] * 8, 240, 240), (1, 2, 9)),
    "base": (120, (96, 128, *[168] * 7, 336, 336), (1, 2, 9)),
    "large": (144, (128, 192, *[256] * 8, 360, 360), (1, 2, 10)),
}


class LayerScale(nn.Module):
    """A learned number for each channel, from ``init`` on (2103.17239). Shapes: ``(N, C, H, W)`` to the same.

    >>> LayerScale(3, 0.5)(torch.ones(1, 3, 1, 1)).flatten().tolist()
    [0.5, 0.5, 0.5]
    """

    no_decay = ("weight",)

    def __init__(self, width: int, init: float = 1e-6) -> None:
        super().__init__()
        self.width, self.init = width, init
        self.weight = nn.Parameter(torch.full((width,), init))

    def folded(self) -> nn.Module:
        """The numbers as a scale, which :func:`skipway.deploy.fold` takes into the layer before."""
        from skipway.deploy import PerChannel

        made = PerChannel(self.width, axis=-3).to(self.weight)
        with torch.no_grad():
            made.scale.copy_(self.weight[:, None, None])
        return made

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight[:, None, None]

    def extra_repr(self) -> str:
        return f"{self.width}, {self.init}"


def image_mean(x: Tensor) -> Tensor:
    """The mean of every channel: ``(N, C, H, W)`` to ``(N, C, 1, 1)``."""
    return x.mean((2, 3), keepdim=True)


def weighed(weight: Tensor, value: Tensor) -> Tensor:
    """A merge that multiplies every channel of a value ``(N, C, H, W)`` by its weight ``(N, C, 1, 1)``."""
    return weight * value


def effective_squeeze(width: int) -> Skip:
    """Channels weighed by what one dense layer says of all their means (1911.06667): ``(N, width, H, W)`` to the same.

    >>> effective_squeeze(8)
    Skip(image_mean, Conv(8, 8, 1, F.hardsigmoid), merge=weighed)
    """
    return Skip(image_mean, Conv(width, width, 1, F.hardsigmoid), merge=weighed)


def layer(width: int, growth: int, squeeze: bool = False, scale: float = 1e-6) -> Chain:
    """The new channels of one layer: ``(N, width, H, W)`` to ``(N, growth, H, W)``.

    >>> layer(16, 8)
    Chain(Conv(16, 16, 7, padding=3, groups=16), ChannelNorm(16), Conv(16, 64, 1, gelu), Conv(64, 8, 1),
      LayerScale(8))
    """
    inner = width * 4 // 8 * 8
    return Chain(
        Conv(width, width, 7, padding=3, groups=width), ChannelNorm(width),
        Conv(width, inner, 1, gelu), Conv(inner, growth, 1),
        *([effective_squeeze(growth)] if squeeze else []), LayerScale(growth, scale),
    )  # fmt: skip


def rdnet(
    size: Literal["tiny", "small", "base", "large"] = "tiny",
    num_classes: int = 1000,
    *,
    scale: float = 1e-6,
    drop: float = 0.0,
    stem: int | None = None,
    growth: Sequence[int] | None = None,
    halving: Sequence[int] | None = None,
    in_channels: int = 3,
) -> Chain:
    """RDNet. Shapes: ``(N, in_channels, H, W)`` to ``(N, num_classes)``; planned for 224 x 224.

    =====  ======  ===========
    size   stages  parameters
    =====  ======  ===========
    tiny   7       23,863,008
    small  11      50,436,448
    base   11      87,451,096
    large  12      186,269,632
    =====  ======  ===========

    Parameters
    ----------
    scale:
        where the factors of new channels begin. At one millionth the net begins as if its layers gave nothing.
    drop:
        the probability with which the last layer gives nothing in training, row by row; it grows from 0 linearly with
        depth (1603.09382).
    stem, growth, halving:
        channels of the stem, channels that each of the three layers of a stage adds, and the stages, counted from 0,
        that begin with half the image, in the place of those of the size. From the third stage on a layer ends with
        squeeze and excitation.

    Convolutions begin with a variance of 2 / fan-in (1502.01852), biases at 0.

    Raises
    ------
    ChainError
        for an unknown size, a number of channels that is not positive and whole, a stage with half the image that is
        the first or not there, or a probability outside [0, 1).

    >>> with torch.device("meta"):
    ...     net = rdnet("tiny")
    >>> sum(p.numel() for p in net.parameters())
    23863008
    """
    one_of(SIZES, "2403.19588", size=size)
    width, papers, halved = SIZES[size]
    width, rates = width if stem is None else stem, tuple(papers if growth is None else growth)
    positive(stem=width, growth=len(rates))
    for rate in rates:
        positive(growth=rate)
    halved = tuple(halved if halving is None else halving)
    wrong = [k for k in halved if not 0 < k < len(rates)]
    if wrong:
        raise ChainError(f"halving= names stages from 1 to {len(rates) - 1}, those after the first, not {wrong[0]!r}")
    layers: dict[str, Any] = {"stem": Chain(Conv(in_channels, width, 4, stride=4), ChannelNorm(width))}
    last = max(3 * len(rates) - 1, 1)
    for i, rate in enumerate(rates):
        if i:
            narrow, k = width // 2 // 8 * 8, 2 if i in halved else 1
            layers[f"transition{i + 1}"] = Chain(ChannelNorm(width), Conv(width, narrow, k, stride=k))
            width = narrow
        row: list[nn.Module] = []
        for j in range(3):
            p, made = drop * (3 * i + j) / last, layer(width + j * rate, rate, i >= 2, scale)
            row.append(nn.Sequential(made, DropPath(p)) if p else made)
        layers[f"stage{i + 1}"] = Chain(*row, wiring=dense(merge=Cat(first="shortcut")))
        width += 3 * rate
    net = Chain(
        **layers,
        mean=GlobalAvgPool(), norm=LayerNorm(width, eps=1e-6), head=Dense(width, num_classes),
        input=(in_channels, 224, 224),
    )  # fmt: skip
    he(net, "fan_in")
    nn.init.zeros_(net["head"].bias)
    return net


_TIMM = "timm 1.0.31"

NETS = {
    "rdnet_tiny": Entry(rdnet, {"size": "tiny"}, [
        parameters(23_863_008, _TIMM), Figure("projections", 0, "2403.19588: what is concatenated stays as it is"),
    ]),
    "rdnet_small": Entry(rdnet, {"size": "small"}, [parameters(50_436_448, _TIMM)]),
    "rdnet_base": Entry(rdnet, {"size": "base"}, [parameters(87_451_096, _TIMM)]),
    "rdnet_large": Entry(rdnet, {"size": "large"}, [parameters(186_269_632, _TIMM)]),
}  # fmt: skip


__all__ = ["LayerScale", "effective_squeeze", "image_mean", "layer", "rdnet", "weighed"]
