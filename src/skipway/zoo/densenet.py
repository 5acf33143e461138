"""Densely connected nets (Huang et al. 2016, 1608.06993): every layer reads all that was made before it in its block.

A dense block is a chain of layers of ``growth`` channels each under ``dense(merge=Cat(first="shortcut"))``: each
layer's own output (``tap="branch"``) is joined to the value before every later one, and to what leaves the block.
Widths follow from that, so nothing here has to count channels::

    Chain(first, layer(), layer(), layer(), wiring=dense(merge=Cat(first="shortcut")))

Between blocks a transition, a 1x1 convolution and a mean over 2x2 pixels, keeps the fraction ``compression``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from skipway import (
    AvgPool,
    BatchNorm,
    Cat,
    Chain,
    ChainError,
    Conv,
    Dense,
    Dropout,
    GlobalAvgPool,
    MaxPool,
    dense,
    relu,
)

from .entry import COUNTED, LIBRARIES, Entry, Figure, parameters
from .initialise import he

#: layers in each of the four blocks, growth rate and channels of the stem (table 1; 161 from the released models)
BLOCKS = {
    121: ((6, 12, 24, 16), 32, 64), 161: ((6, 12, 36, 24), 48, 96),
    169: ((6, 12, 32, 32), 32, 64), 201: ((6, 12, 48, 32), 32, 64),
    264: ((6, 12, 64, 48), 32, 64),
}  # fmt: skip


def layer(growth: int, bottleneck: bool = True, dropout: float = 0.0) -> Chain:
    """One layer of a dense block: ``growth`` new channels. Shapes: ``(N, any, H, W)`` to ``(N, growth, H, W)``.

    With ``bottleneck`` (DenseNet-B) a 1x1 convolution to ``4 * growth`` channels comes before the 3x3.

    >>> layer(12, bottleneck=False)
    Chain(BatchNorm(), relu, Conv(..., 12, 3, padding=1, bias=False))
    """
    narrow = [BatchNorm(), relu, Conv(..., 4 * growth, 1, bias=False), *_drop(dropout)] if bottleneck else []
    return Chain(*narrow, BatchNorm(), relu, Conv(..., growth, 3, padding=1, bias=False), *_drop(dropout))


def block(layers: int, growth: int, bottleneck: bool = True, dropout: float = 0.0) -> Chain:
    """A dense block: ``(N, C, H, W)`` to ``(N, C + layers * growth, H, W)``.

    >>> block(4, growth=12).build((16, 8, 8)).plan.output.shape
    (64, 8, 8)
    """
    return Chain(
        *[layer(growth, bottleneck, dropout) for _ in range(layers)], wiring=dense(merge=Cat(first="shortcut"))
    )


def transition(width: int, dropout: float = 0.0) -> Chain:
    """Between two blocks: a 1x1 convolution to ``width`` channels, and half the image size.

    >>> transition(8)
    Chain(BatchNorm(), relu, Conv(..., 8, 1, bias=False), AvgPool(2))
    """
    return Chain(BatchNorm(), relu, Conv(..., width, 1, bias=False), *_drop(dropout), AvgPool(2))


def densenet(
    layers: Sequence[int],
    growth: int,
    stem: int,
    num_classes: int = 1000,
    *,
    compression: float = 0.5,
    dropout: float = 0.0,
    in_channels: int = 3,
) -> Chain:
    """DenseNet-BC for ImageNet. Shapes: ``(N, in_channels, H, W)`` to ``(N, num_classes)``.

    Parameters
    ----------
    layers:
        layers of each block.
    growth:
        the growth rate k: channels that a layer adds.
    stem:
        channels before the first block; 2k in the paper.
    compression:
        the fraction of channels that a transition keeps, theta.
    dropout:
        probability of dropout after every convolution but the first.

    Convolutions begin as in 1502.01852 (variance 2 / fan-in).

    Raises
    ------
    ChainError
        for a compression outside (0, 1].

    >>> densenet((2, 2), growth=4, stem=8, num_classes=3)["block2"].plan.output.shape
    (16, 28, 28)
    """
    net = Chain(
        conv=Conv(in_channels, stem, 7, stride=2, padding=3, bias=False), norm=BatchNorm(stem), relu=relu,
        pool=MaxPool(3, stride=2, padding=1),
        **_trunk(stem, layers, growth, True, compression, dropout),
        last_norm=BatchNorm(), last_relu=relu, mean=GlobalAvgPool(), head=Dense(..., num_classes),
        input=(in_channels, 224, 224),
    )  # fmt: skip
    return he(net, "fan_in")


def densenet121(num_classes: int = 1000, **options: Any) -> Chain:
    """DenseNet-121, k = 32: 7,978,856 parameters. Options as in :func:`densenet`.

    >>> sum(p.numel() for p in densenet121().parameters())
    7978856
    """
    return densenet(*BLOCKS[121], num_classes, **options)


def densenet161(num_classes: int = 1000, **options: Any) -> Chain:
    """DenseNet-161, k = 48: 28,681,000 parameters. Options as in :func:`densenet`.

    >>> sum(BLOCKS[161][0]) * 2 + 5  # two convolutions a layer, the first one, three transitions and the dense layer
    161
    """
    return densenet(*BLOCKS[161], num_classes, **options)


def densenet169(num_classes: int = 1000, **options: Any) -> Chain:
    """DenseNet-169, k = 32: 14,149,480 parameters. Options as in :func:`densenet`.

    >>> sum(BLOCKS[169][0]) * 2 + 5
    169
    """
    return densenet(*BLOCKS[169], num_classes, **options)


def densenet201(num_classes: int = 1000, **options: Any) -> Chain:
    """DenseNet-201, k = 32: 20,013,928 parameters. Options as in :func:`densenet`.

    >>> sum(BLOCKS[201][0]) * 2 + 5
    201
    """
    return densenet(*BLOCKS[201], num_classes, **options)


def densenet264(num_classes: int = 1000, **options: Any) -> Chain:
    """DenseNet-264, k = 32: 33,337,704 parameters. Options as in :func:`densenet`.

    Its blocks of 6, 12, 64 and 48 layers (table 1) make 265 weighted layers, one more than its name says.

    >>> sum(BLOCKS[264][0]) * 2 + 5
    265
    """
    return densenet(*BLOCKS[264], num_classes, **options)


def cifar_densenet(
    depth: int = 40,
    growth: int = 12,
    bottleneck: bool = False,
    compression: float | None = None,
    dropout: float = 0.0,
    num_classes: int = 10,
    in_channels: int = 3,
) -> Chain:
    """The dense nets of CIFAR: three blocks of equal length. Shapes: ``(N, 3, 32, 32)`` to ``(N, num_classes)``.

    DenseNet (L=40, k=12) has 1,019,722 parameters, DenseNet-BC (L=100, k=12) 769,162 and (L=190, k=40) 25,624,430.

    Parameters
    ----------
    depth:
        3n + 4 with n layers a block, 6n + 4 with bottlenecks, which are two convolutions each.
    growth:
        the growth rate k.
    bottleneck:
        the letter B: a 1x1 convolution to 4k channels before every 3x3. The stem has 2k channels then, else 16.
    compression:
        the letter C, theta: what a transition keeps. By default 0.5 with bottlenecks (DenseNet-BC), else 1.
    dropout:
        probability of dropout after every convolution but the first; 0.2 in the paper without augmentation.

    Convolutions begin as in 1502.01852 (variance 2 / fan-in).

    Raises
    ------
    ChainError
        for a depth that is not of that form, or a compression outside (0, 1].

    >>> sum(p.numel() for p in cifar_densenet(40, 12).parameters())
    1019722
    """
    each = 6 if bottleneck else 3
    n, rest = divmod(depth - 4, each)
    if rest or n < 1:
        near = " or ".join(str(each * k + 4) for k in (n, n + 1) if k > 0)
        raise ChainError(
            f"cifar_densenet: depth= is {each}n + 4 {'with' if bottleneck else 'without'} bottlenecks (three blocks of "
            f"n layers, two transitions, the first convolution and the dense layer), not {depth!r}: take {near}"
        )
    theta = (0.5 if bottleneck else 1.0) if compression is None else compression
    stem = 2 * growth if bottleneck else 16
    net = Chain(
        conv=Conv(in_channels, stem, 3, padding=1, bias=False),
        **_trunk(stem, [n] * 3, growth, bottleneck, theta, dropout),
        last_norm=BatchNorm(), last_relu=relu, mean=GlobalAvgPool(), head=Dense(..., num_classes),
        input=(in_channels, 32, 32),
    )  # fmt: skip
    return he(net, "fan_in")


def _trunk(
    width: int, layers: Sequence[int], growth: int, bottleneck: bool, compression: float, dropout: float
) -> dict[str, Chain]:
    """Blocks, and transitions between them."""
    if not 0 < compression <= 1:
        raise ChainError(f"compression= is the fraction theta of channels that a transition keeps, not {compression!r}")
    parts: dict[str, Chain] = {}
    for i, count in enumerate(layers, 1):
        parts[f"block{i}"] = block(count, growth, bottleneck, dropout)
        width += count * growth
        if i < len(layers):
            width = int(width * compression)
            parts[f"transition{i}"] = transition(width, dropout)
    return parts


def _drop(p: float) -> list[Any]:
    return [Dropout(p)] if p else []


def _entry(name: int, number: int, giga: float, source: str = LIBRARIES) -> Entry:
    layers, growth, stem = BLOCKS[name]
    depth = Figure("depth", name, "its name") if name != 264 else Figure("depth", 265, f"{COUNTED}; its name says 264")
    return Entry(densenet, {"layers": layers, "growth": growth, "stem": stem}, [
        parameters(number, source),
        Figure("MACs", giga * 1e9, COUNTED, unit=1e6),
        depth,
    ])  # fmt: skip


def _cifar_entry(depth: int, growth: int, bottleneck: bool, number: int) -> Entry:
    says = {"depth": depth, "growth": growth, "bottleneck": bottleneck}
    return Entry(cifar_densenet, says, [parameters(number, COUNTED), Figure("depth", depth, "1608.06993")])


NETS = {
    "densenet121": _entry(121, 7_978_856, 2.834),
    "densenet161": _entry(161, 28_681_000, 7.728),
    "densenet169": _entry(169, 14_149_480, 3.360),
    "densenet201": _entry(201, 20_013_928, 4.291),
    "densenet264": _entry(264, 33_337_704, 5.752, COUNTED),
    "cifar_densenet40_12": _cifar_entry(40, 12, False, 1_019_722),
    "cifar_densenet_bc100_12": _cifar_entry(100, 12, True, 769_162),
    "cifar_densenet_bc190_40": _cifar_entry(190, 40, True, 25_624_430),
}
# the family is checked as the net it makes by default
NETS["cifar_densenet"] = Entry(cifar_densenet, figures=NETS["cifar_densenet40_12"].figures)


__all__ = [
    "block", "cifar_densenet", "densenet", "densenet121", "densenet161", "densenet169", "densenet201", "densenet264",
    "layer", "transition",
]  # fmt: skip
