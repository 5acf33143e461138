"""Deep residual learning (He et al. 2015, 1512.03385), and the same net with groups or more width.

A stage is a row of blocks of one width. A block is a :class:`~skipway.Skip` around two or three convolutions with relu
after the addition; where the shape changes, ``shortcut=`` says what happens on the way:

======  ==========================================================================================================
``A``   every second pixel, and channels of zeros: no parameters, so that the net is as large as its plain twin
``B``   a 1x1 convolution and a norm where the shape changes, identity elsewhere: what everybody calls ResNet
``C``   a 1x1 convolution and a norm around every block
``D``   as B, with a mean over 2x2 pixels before a 1x1 convolution of stride 1 (1812.01187)
======  ==========================================================================================================
"""

from __future__ import annotations

from typing import Any, Literal

from skipway.chain import Chain, Skip
from skipway.errors import ChainError, nearest
from skipway.functional import relu
from skipway.layers import AvgPool, BatchNorm, Conv, Dense, GlobalAvgPool, MaxPool
from skipway.paths import Pad, Project

from .initialise import he, zero_last_norms

Option = Literal["A", "B", "C", "D"]
StrideOn = Literal["3x3", "1x1"]

#: blocks in each of the four stages, and whether they are bottlenecks
STAGES = {
    18: ((2, 2, 2, 2), False), 34: ((3, 4, 6, 3), False),
    50: ((3, 4, 6, 3), True), 101: ((3, 4, 23, 3), True), 152: ((3, 8, 36, 3), True),
}  # fmt: skip


def path(option: Option, start: int, end: int, stride: int) -> Any:
    """What happens to a value of ``start`` channels on its way around a block that makes ``end``.

    >>> path("A", 64, 128, 2)
    Pad()
    """
    if option == "A":
        return Pad()
    if option in ("B", "C"):
        return Project(norm=BatchNorm, always=option == "C")
    if option != "D":
        raise ChainError(f'shortcut= is "A", "B", "C" or "D", not {option!r}: {nearest(str(option), "ABCD")}')
    if start == end and stride == 1:
        return "identity"
    pool = [AvgPool(2, ceil_mode=True)] if stride > 1 else []
    return Chain(*pool, Conv(start, end, 1, bias=False), BatchNorm(end))


def basic(width_in: int, width: int, stride: int, shortcut: Option) -> Skip:
    """Two 3x3 convolutions with a shortcut around them. Shapes: ``(N, width_in, H, W)`` to ``(N, width, H/s, W/s)``.

    >>> len(basic(8, 8, 1, "B"))
    5
    """
    return Skip(
        Conv(width_in, width, 3, stride=stride, padding=1, bias=False), BatchNorm(width), relu,
        Conv(width, width, 3, padding=1, bias=False), BatchNorm(width),
        path=path(shortcut, width_in, width, stride), act=relu,
    )  # fmt: skip


def bottleneck(
    width_in: int, inner: int, width: int, stride: int, shortcut: Option, stride_on: StrideOn, groups: int = 1
) -> Skip:
    """1x1, 3x3 and 1x1 convolutions with a shortcut around them; the 3x3 works on ``inner`` channels.

    >>> bottleneck(64, 64, 256, 1, "B", "3x3")[3].kernel_size
    (3, 3)
    """
    first, second = (stride, 1) if stride_on == "1x1" else (1, stride)
    return Skip(
        Conv(width_in, inner, 1, stride=first, bias=False), BatchNorm(inner), relu,
        Conv(inner, inner, 3, stride=second, padding=1, groups=groups, bias=False), BatchNorm(inner), relu,
        Conv(inner, width, 1, bias=False), BatchNorm(width),
        path=path(shortcut, width_in, width, stride), act=relu,
    )  # fmt: skip


def _resnet(
    depth: int,
    num_classes: int,
    shortcut: Option,
    stride_on: StrideOn,
    zero_init: bool,
    in_channels: int,
    groups: int = 1,
    width: int = 64,
) -> Chain:
    if depth not in STAGES:
        raise ChainError(f"depth= is one of {', '.join(map(str, STAGES))} (table 1 of 1512.03385), not {depth!r}")
    if stride_on not in ("3x3", "1x1"):
        raise ChainError(f'stride_on= is "3x3" or "1x1", the convolution that halves the image, not {stride_on!r}')
    blocks, deep = STAGES[depth]
    stages: dict[str, Chain] = {}
    before = 64
    for i, count in enumerate(blocks):
        row: list[Skip] = []
        for k in range(count):
            stride = 2 if i and not k else 1
            after = (256 if deep else 64) << i
            inner = groups * (width << i)
            block = (
                bottleneck(before, inner, after, stride, shortcut, stride_on, groups)
                if deep
                else basic(before, after, stride, shortcut)
            )
            row.append(block)
            before = after
        stages[f"stage{i + 1}"] = Chain(*row)
    net = Chain(
        conv=Conv(in_channels, 64, 7, stride=2, padding=3, bias=False), norm=BatchNorm(64), relu=relu,
        pool=MaxPool(3, stride=2, padding=1),
        **stages,
        mean=GlobalAvgPool(), head=Dense(before, num_classes), input=(in_channels, 224, 224),
    )  # fmt: skip
    he(net)
    return zero_last_norms(net) if zero_init else net


def resnet18(
    num_classes: int = 1000, shortcut: Option = "B", stride_on: StrideOn = "3x3", zero_init: bool = False,
    in_channels: int = 3,
) -> Chain:  # fmt: skip
    """ResNet-18"""
    return _resnet(18, num_classes, shortcut, stride_on, zero_init, in_channels)
