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

from skipway import (
    BatchNorm,
    Chain,
    ChainError,
    Conv,
    Dense,
    GlobalAvgPool,
    MaxPool,
    Pad,
    Project,
    Skip,
    SqueezeExcite,
    relu,
)
from skipway.errors import nearest

from .entry import COUNTED, LIBRARIES, Entry, Figure, parameters
from .initialise import he, zero_last_norms

Option = Literal["A", "B", "C", "D"]
StrideOn = Literal["3x3", "1x1"]
Stem = Literal["7x7", "deep"]

#: blocks in each of the four stages, and whether they are bottlenecks
STAGES = {
    18: ((2, 2, 2, 2), False), 34: ((3, 4, 6, 3), False),
    50: ((3, 4, 6, 3), True), 101: ((3, 4, 23, 3), True), 152: ((3, 8, 36, 3), True),
}  # fmt: skip


def path(option: Option) -> Pad | Project:
    """What happens to a value on its way around a block.

    >>> path("D").down
    'mean'
    """
    if option == "A":
        return Pad()
    if option not in ("B", "C", "D"):
        raise ChainError(f'shortcut= is "A", "B", "C" or "D", not {option!r}: {nearest(str(option), "ABCD")}')
    return Project(norm=BatchNorm, always=option == "C", down="mean" if option == "D" else "stride")


def basic(width_in: int, width: int, stride: int, shortcut: Option, scale: Any = None) -> Skip:
    """Two 3x3 convolutions with a shortcut around them. Shapes: ``(N, width_in, H, W)`` to ``(N, width, H/s, W/s)``.

    >>> len(basic(8, 8, 1, "B"))
    5
    """
    return Skip(
        Conv(width_in, width, 3, stride=stride, padding=1, bias=False), BatchNorm(width), relu,
        Conv(width, width, 3, padding=1, bias=False), BatchNorm(width),
        path=path(shortcut), act=relu, scale=scale,
    )  # fmt: skip


def bottleneck(
    width_in: int,
    inner: int,
    width: int,
    stride: int,
    shortcut: Option,
    stride_on: StrideOn,
    groups: int = 1,
    scale: Any = None,
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
        path=path(shortcut), act=relu, scale=scale,
    )  # fmt: skip


def deep_stem(in_channels: int = 3) -> Chain:
    """Three 3x3 convolutions in the place of one of 7x7 (1812.01187).

    Shapes: ``(N, in_channels, H, W)`` to ``(N, 64, H/2, W/2)``.

    >>> deep_stem().build((3, 8, 8)).plan.output.shape
    (64, 4, 4)
    """
    return Chain(
        Conv(in_channels, 32, 3, stride=2, padding=1, bias=False), BatchNorm(32), relu,
        Conv(32, 32, 3, padding=1, bias=False), BatchNorm(32), relu,
        Conv(32, 64, 3, padding=1, bias=False),
    )  # fmt: skip


def resnet(
    depth: int,
    num_classes: int = 1000,
    shortcut: Option = "B",
    stride_on: StrideOn = "3x3",
    zero_init: bool = False,
    *,
    groups: int = 1,
    width: int = 64,
    stem: Stem = "7x7",
    squeeze: int | None = None,
    in_channels: int = 3,
) -> Chain:
    """The residual nets of table 1 (1512.03385). Shapes: ``(N, in_channels, H, W)`` to ``(N, num_classes)``.

    They are planned for images of 224 x 224 and take any size.

    Parameters
    ----------
    depth:
        18, 34 (two 3x3 convolutions a block), 50, 101 or 152 (bottlenecks).
    shortcut:
        ``"A"``, ``"B"``, ``"C"`` or ``"D"``, see the table of this module.
    stride_on:
        which convolution of a bottleneck halves the image: ``"1x1"`` is the paper's own, ``"3x3"`` that of
        fb.resnet.torch and torchvision ("v1.5"), with as many parameters and more work.
    zero_init:
        a gamma of 0 in the last norm of every branch (1706.02677).
    groups, width:
        groups of the 3x3 convolutions, and channels of each in the first stage: see :func:`resnext` and
        :func:`wide_resnet50_2`.
    stem:
        one ``"7x7"`` convolution, or the ``"deep"`` stem of :func:`resnet_d`: three of 3x3.
    squeeze:
        the reduction of squeeze-and-excitation on every branch: see :func:`se_resnet50`.

    Convolutions begin as in 1502.01852 (variance 2 / fan-out), norms with gamma 1.

    Raises
    ------
    ChainError
        for a depth that is not in the table, an unknown option, and bottleneck options without bottlenecks.

    >>> net = resnet(34, num_classes=10, shortcut="A")
    >>> sum(p.numel() for p in net.parameters()) == sum(p.numel() for p in net.plain().parameters())
    True
    """
    if depth not in STAGES:
        raise ChainError(f"depth= is one of {', '.join(map(str, STAGES))} (table 1 of 1512.03385), not {depth!r}")
    if stride_on not in ("3x3", "1x1"):
        raise ChainError(f'stride_on= is "3x3" or "1x1", the convolution that halves the image, not {stride_on!r}')
    if stem not in ("7x7", "deep"):
        raise ChainError(f'stem= is "7x7", one convolution, or "deep", three of 3x3 (1812.01187), not {stem!r}')
    blocks, deep = STAGES[depth]
    if not deep and (stride_on, groups, width) != ("3x3", 1, 64):
        raise ChainError(
            f"depth={depth} is made of blocks of two 3x3 convolutions: stride_on=, groups= and width= are for "
            f"bottlenecks, from depth 50 on"
        )

    scale = None if squeeze is None else SqueezeExcite(squeeze)
    stages: dict[str, Chain] = {}
    before = 64
    for i, count in enumerate(blocks):
        after, inner = (256 if deep else 64) << i, (groups * width) << i
        row = []
        for stride in [2 if i else 1] + [1] * (count - 1):
            if deep:
                row.append(bottleneck(before, inner, after, stride, shortcut, stride_on, groups, scale))
            else:
                row.append(basic(before, after, stride, shortcut, scale))
            before = after
        stages[f"stage{i + 1}"] = Chain(*row)
    first = Conv(in_channels, 64, 7, stride=2, padding=3, bias=False) if stem == "7x7" else deep_stem(in_channels)
    net = Chain(
        conv=first, norm=BatchNorm(64), relu=relu,
        pool=MaxPool(3, stride=2, padding=1),
        **stages,
        mean=GlobalAvgPool(), head=Dense(before, num_classes), input=(in_channels, 224, 224),
    )  # fmt: skip
    return zero_last_norms(he(net)) if zero_init else he(net)


def resnet18(num_classes: int = 1000, **options: Any) -> Chain:
    """ResNet-18: 11,689,512 parameters. Options as in :func:`resnet`.

    >>> sum(p.numel() for p in resnet18().parameters())
    11689512
    """
    return resnet(18, num_classes, **options)


def resnet34(num_classes: int = 1000, **options: Any) -> Chain:
    """ResNet-34: 21,797,672 parameters. Options as in :func:`resnet`; ``resnet34().plain()`` is the paper's plain-34.

    >>> import torch
    >>> with torch.device("meta"):
    ...     net = resnet34()
    >>> sum(p.numel() for p in net.parameters()), sum(p.numel() for p in net.plain().parameters())
    (21797672, 21623848)
    """
    return resnet(34, num_classes, **options)


def resnet50(num_classes: int = 1000, **options: Any) -> Chain:
    """ResNet-50: 25,557,032 parameters. Options as in :func:`resnet`.

    >>> import torch
    >>> with torch.device("meta"):
    ...     net = resnet50()
    >>> sum(p.numel() for p in net.parameters())
    25557032
    """
    return resnet(50, num_classes, **options)


def resnet101(num_classes: int = 1000, **options: Any) -> Chain:
    """ResNet-101: 44,549,160 parameters. Options as in :func:`resnet`.

    >>> sum(STAGES[101][0]) * 3 + 2  # three convolutions a block, the first one and the dense layer
    101
    """
    return resnet(101, num_classes, **options)


def resnet152(num_classes: int = 1000, **options: Any) -> Chain:
    """ResNet-152: 60,192,808 parameters. Options as in :func:`resnet`.

    >>> sum(STAGES[152][0]) * 3 + 2
    152
    """
    return resnet(152, num_classes, **options)


def resnext(depth: int = 50, groups: int = 32, width: int = 4, num_classes: int = 1000, **options: Any) -> Chain:
    """ResNeXt (1611.05431): the 3x3 convolution in ``groups`` of ``width`` channels, twice as many in every next stage.

    50-32x4d has 25,028,904 parameters. Other options as in :func:`resnet`.

    >>> import torch
    >>> with torch.device("meta"):
    ...     net = resnext(50, groups=32, width=4)
    >>> net["stage1"][0][3], sum(p.numel() for p in net.parameters())
    (Conv2d(128, 128, 3, padding=1, groups=32, bias=False), 25028904)
    """
    return resnet(depth, num_classes, groups=groups, width=width, **options)


def wide_resnet50_2(num_classes: int = 1000, **options: Any) -> Chain:
    """Wide ResNet-50-2 (1605.07146): bottlenecks with twice as many channels inside; 68,883,240 parameters.

    >>> import torch
    >>> with torch.device("meta"):
    ...     net = wide_resnet50_2()
    >>> net["stage1"][0][3], sum(p.numel() for p in net.parameters())
    (Conv2d(128, 128, 3, padding=1, bias=False), 68883240)
    """
    return resnet(50, num_classes, width=128, **options)


def wide_resnet101_2(num_classes: int = 1000, **options: Any) -> Chain:
    """Wide ResNet-101-2 (1605.07146): 126,886,696 parameters.

    >>> bottleneck(256, 2 * 64, 256, 1, "B", "3x3")[3]
    Conv2d(128, 128, 3, padding=1, bias=False)
    """
    return resnet(101, num_classes, width=128, **options)


def resnet_d(depth: int = 50, num_classes: int = 1000, **options: Any) -> Chain:
    """ResNet-D (1812.01187): no value of an image is passed over, neither in the stem nor on a shortcut.

    Three small convolutions at the start, the stride on the 3x3 convolution of a bottleneck, and shortcuts that take
    the mean before they project (option D). With depth 50, 25,576,264 parameters: 19,232 more than ResNet-50, all of
    them in the stem. Other options as in :func:`resnet`.

    >>> import torch
    >>> with torch.device("meta"):
    ...     net = resnet_d(50)
    >>> sum(p.numel() for p in net.parameters())
    25576264
    """
    return resnet(depth, num_classes, "D", stem="deep", **options)


def se_resnet50(num_classes: int = 1000, squeeze: int = 16, **options: Any) -> Chain:
    """SE-ResNet-50 (1709.01507): every channel of a branch is weighed by what the means of all channels say.

    A net of two dense layers, to a 16th of the channels and back, makes the weights: 28,088,024 parameters in all.
    Options as in :func:`resnet`.

    >>> import torch
    >>> with torch.device("meta"):
    ...     net = se_resnet50()
    >>> net["stage1"][0].wiring[0].scale, sum(p.numel() for p in net.parameters())
    (SqueezeExcite(reduction=16), 28088024)
    """
    return resnet(50, num_classes, squeeze=squeeze, **options)


_PAPER, _TIMM = "1512.03385, table 1", "timm 1.0.31"


def _figures(depth: int, number: int, macs: int, printed: float) -> list[Figure]:
    own = {"stride_on": "1x1"} if depth >= 50 else {}
    return [
        parameters(number, LIBRARIES),
        Figure("MACs", macs, COUNTED),
        Figure("MACs", printed, _PAPER, own, unit=1e8),
        Figure("depth", depth, _PAPER),
        Figure("projections", 4 if depth >= 50 else 3, "1512.03385, option B: where the shape changes"),
    ]


NETS = {
    "resnet18": Entry(resnet, {"depth": 18}, _figures(18, 11_689_512, 1_814_073_344, 1.8e9)),
    "resnet34": Entry(resnet, {"depth": 34}, [
        *_figures(34, 21_797_672, 3_663_761_408, 3.6e9),
        Figure("projections", 16, "1512.03385: option C adds thirteen", {"shortcut": "C"}),
        Figure("projections", 0, "1512.03385: option A has no parameters", {"shortcut": "A"}),
    ]),
    "resnet50": Entry(resnet, {"depth": 50}, [
        *_figures(50, 25_557_032, 4_089_184_256, 3.8e9),
        Figure("MACs", 3_857_973_248, COUNTED, {"stride_on": "1x1"}),
        parameters(25_557_032, "the stride moves no parameters", stride_on="1x1"),
    ]),
    "resnet101": Entry(resnet, {"depth": 101}, _figures(101, 44_549_160, 7_801_405_440, 7.6e9)),
    "resnet152": Entry(resnet, {"depth": 152}, _figures(152, 60_192_808, 11_513_626_624, 11.3e9)),
    "resnext50_32x4d": Entry(resnext, {"depth": 50, "groups": 32, "width": 4}, [
        parameters(25_028_904, LIBRARIES), Figure("depth", 50, "1611.05431, table 1"),
    ]),
    "wide_resnet50_2": Entry(resnet, {"depth": 50, "width": 128}, [
        parameters(68_883_240, LIBRARIES), Figure("depth", 50, "its name"),
    ]),
    "wide_resnet101_2": Entry(resnet, {"depth": 101, "width": 128}, [
        parameters(126_886_696, LIBRARIES), Figure("depth", 101, "its name"),
    ]),
    "resnet50_d": Entry(resnet, {"depth": 50, "shortcut": "D", "stem": "deep"}, [
        parameters(25_576_264, _TIMM),
        Figure("MACs", 4.3e9, "1812.01187, table 5", unit=1e8),
        Figure("depth", 52, "1812.01187: two more in the stem"),
        Figure("projections", 4, "1812.01187: where the shape changes"),
    ]),
    "se_resnet50": Entry(resnet, {"depth": 50, "squeeze": 16}, [
        parameters(28_088_024, _TIMM), Figure("depth", 50, "1709.01507, table 1"),
    ]),
    "resnet101_d": Entry(resnet, {"depth": 101, "shortcut": "D", "stem": "deep"}, [parameters(44_568_392, _TIMM)]),
}  # fmt: skip


__all__ = [
    "basic", "bottleneck", "deep_stem", "path", "resnet", "resnet18", "resnet34", "resnet50", "resnet101", "resnet152",
    "resnet_d", "resnext", "se_resnet50", "wide_resnet50_2", "wide_resnet101_2",
]  # fmt: skip
