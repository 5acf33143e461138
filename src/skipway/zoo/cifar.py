"""The residual nets of CIFAR: original (1512.03385), pre-activation (1603.05027), wide (1605.07146) and with groups
(1611.05431).

Three stages of n blocks on images of 32, 16 and 8 pixels, under a 3x3 convolution and before one dense layer.

Where norm and relu stand makes the difference. In the original a block is ``relu(x + F(x))``. With pre-activation it is
``x + F(x)``, and F begins with norm and relu, so that nothing stands on the shortcut. Only where the shape changes, and
at the first block, does the shortcut leave after norm and relu, which branch and shortcut then share::

    Skip(BatchNorm(c), relu, Conv(...), BatchNorm(c), relu, Conv(...))              # x, and what F makes of it
    Chain(BatchNorm(c), relu, Skip(Conv(...), BatchNorm(d), relu, Conv(...), path="project"))       # shared
"""

from __future__ import annotations

from typing import Any, Literal

from skipway import BatchNorm, Chain, ChainError, Conv, Dense, Dropout, GlobalAvgPool, Pad, Project, Skip, relu
from skipway.errors import nearest

from .entry import COUNTED, Entry, Figure, parameters
from .initialise import he
from .options import positive
from .resnet import Option, basic
from .resnet import bottleneck as bottleneck_block


def cifar_resnet(depth: int = 20, shortcut: Option = "A", num_classes: int = 10, in_channels: int = 3) -> Chain:
    """The residual nets of section 4.2 of 1512.03385. Shapes: ``(N, 3, 32, 32)`` to ``(N, num_classes)``.

    Parameters
    ----------
    depth:
        6n + 2: a convolution, three stages of n blocks of two, a dense layer. The paper has 20, 32, 44, 56, 110 and
        1202.
    shortcut:
        ``"A"`` (zeros for the new channels, the paper's choice here), ``"B"``, ``"C"`` or ``"D"``, as in
        :mod:`skipway.zoo.resnet`.

    =====  =========  =========  =========
    depth  A          B          C
    =====  =========  =========  =========
    20     269,722    272,474    283,962
    32     464,154    466,906    489,594
    56     853,018    855,770    900,858
    110    1,727,962  1,730,714  1,826,202
    =====  =========  =========  =========

    Convolutions begin as in 1502.01852.

    Raises
    ------
    ChainError
        for a depth that is not 6n + 2, or an unknown option.

    >>> sum(p.numel() for p in cifar_resnet(20).parameters())
    269722
    """
    n = stage_length(depth, "cifar_resnet", 6)

    def block(start: int, end: int, stride: int) -> Skip:
        return basic(start, end, stride, shortcut)

    stages = _stages(16, (16, 32, 64), n, block)
    net = Chain(
        conv=Conv(in_channels, 16, 3, padding=1, bias=False), norm=BatchNorm(16), relu=relu,
        **stages,
        mean=GlobalAvgPool(), head=Dense(64, num_classes), input=(in_channels, 32, 32),
    )  # fmt: skip
    return he(net)


def preact_resnet(
    depth: int = 164,
    num_classes: int = 10,
    bottleneck: bool | None = None,
    shortcut: Literal["A", "B"] | None = None,
    in_channels: int = 3,
) -> Chain:
    """Identity mappings (1603.05027): norm and relu before every convolution, nothing after the addition.

    Shapes: ``(N, 3, 32, 32)`` to ``(N, num_classes)``. Depth 164 has 1,703,258 parameters, 110 as many as
    :func:`cifar_resnet` with option A, 1,727,962. Depth 1001 has 10,327,706, where 10.2M is printed: so many has it
    without the norms (10,178,490).

    Parameters
    ----------
    depth:
        6n + 2 with blocks of two 3x3 convolutions, 9n + 2 with bottlenecks (1x1, 3x3, 1x1 to four times the width).
    bottleneck:
        which of the two; by default bottlenecks from depth 164 on, as in the paper.
    shortcut:
        where the shape changes: ``"A"`` pads with channels of zeros, ``"B"`` is a 1x1 convolution without norm. By
        default B with bottlenecks, else A. Both start from the value after norm and relu, as the paper says of
        projections; for A it does not say.

    Convolutions begin as in 1502.01852.

    Raises
    ------
    ChainError
        for a depth that is not of that form, or an unknown option.

    >>> sum(p.numel() for p in preact_resnet(164).parameters())
    1703258
    """
    deep = depth >= 164 if bottleneck is None else bottleneck
    n = stage_length(depth, "preact_resnet", 9 if deep else 6)
    option = shortcut or ("B" if deep else "A")
    if option not in ("A", "B"):
        raise ChainError(f'shortcut= is "A" or "B", not {option!r}: {nearest(str(option), "AB")}')
    path = Pad() if option == "A" else Project()

    def block(start: int, end: int, stride: int) -> Chain:
        if not deep:
            return preact(start, end, stride, _two(start, end, stride), path)
        inner = end // 4
        body = [
            Conv(start, inner, 1, stride=stride, bias=False), BatchNorm(inner), relu,
            Conv(inner, inner, 3, padding=1, bias=False), BatchNorm(inner), relu,
            Conv(inner, end, 1, bias=False),
        ]  # fmt: skip
        return preact(start, end, stride, body, path)

    widths = (64, 128, 256) if deep else (16, 32, 64)
    return _preact_net(16, widths, n, block, num_classes, in_channels)


def wide_resnet(
    depth: int = 28, widen: int = 10, dropout: float = 0.0, num_classes: int = 10, in_channels: int = 3
) -> Chain:
    """Wide residual nets (1605.07146): pre-activation, two 3x3 convolutions a block, ``widen`` times as many channels.

    Shapes: ``(N, 3, 32, 32)`` to ``(N, num_classes)``. WRN-28-10 has 36,479,194 parameters, WRN-40-1 563,930.

    Parameters
    ----------
    depth:
        6n + 4: the paper counts convolutions, the first one and one projection a stage included.
    widen:
        the factor k: stages of 16k, 32k and 64k channels.
    dropout:
        probability of dropout between the two convolutions of a block.

    Where the shape changes, a 1x1 convolution without norm starts from the value after norm and relu. Convolutions
    begin as in 1502.01852.

    Raises
    ------
    ChainError
        for a depth that is not 6n + 4, or a factor that is not a positive whole number.

    >>> sum(p.numel() for p in wide_resnet(40, 1).parameters())
    563930
    """
    n = stage_length(depth, "wide_resnet", 6, more=4)
    positive("the factor k of 1605.07146", widen=widen)

    def block(start: int, end: int, stride: int) -> Chain:
        return preact(start, end, stride, _two(start, end, stride, dropout), Project())

    return _preact_net(16, (16 * widen, 32 * widen, 64 * widen), n, block, num_classes, in_channels)


def cifar_resnext(
    cardinality: int = 8, width: int = 64, depth: int = 29, num_classes: int = 10, in_channels: int = 3
) -> Chain:
    """ResNeXt for CIFAR (1611.05431, section 5.3): bottlenecks whose 3x3 convolution is in ``cardinality`` groups.

    Shapes: ``(N, 3, 32, 32)`` to ``(N, num_classes)``. ResNeXt-29 8x64d has 34,426,698 parameters, 16x64d 68,155,210.

    Parameters
    ----------
    cardinality:
        C, the number of groups, which is that of transformations added up: a convolution in C groups between two 1x1
        ones is the sum of C narrow bottlenecks side by side (figure 3 of the paper).
    width:
        d, the channels of each group in the first stage; twice as many in every next one.
    depth:
        9n + 2: a convolution, three stages of n blocks of three, a dense layer.

    Blocks make 256, 512 and 1024 channels; where the shape changes there is a 1x1 convolution and a norm. Relu follows
    the addition, as in the released code: the paper has the numbers of its table from pre-activated blocks.
    Convolutions begin as in 1502.01852.

    Raises
    ------
    ChainError
        for a depth that is not 9n + 2, a cardinality or a width that is not a positive whole number.

    >>> cifar_resnext(4, 8, depth=11)["stage1"][0][3]
    Conv2d(32, 32, 3, padding=1, groups=4, bias=False)
    """
    n = stage_length(depth, "cifar_resnext", 9)
    positive("C of 1611.05431", cardinality=cardinality)
    positive("d of 1611.05431", width=width)

    def block(start: int, end: int, stride: int) -> Skip:
        return bottleneck_block(start, end // 256 * cardinality * width, end, stride, "B", "3x3", cardinality)

    net = Chain(
        conv=Conv(in_channels, 64, 3, padding=1, bias=False), norm=BatchNorm(64), relu=relu,
        **_stages(64, (256, 512, 1024), n, block),
        mean=GlobalAvgPool(), head=Dense(1024, num_classes), input=(in_channels, 32, 32),
    )  # fmt: skip
    return he(net)


def _two(start: int, end: int, stride: int, dropout: float = 0.0) -> list[Any]:
    """The branch of a basic block, after its first norm and relu."""
    return [
        Conv(start, end, 3, stride=stride, padding=1, bias=False), BatchNorm(end), relu,
        *([Dropout(dropout)] if dropout else []),
        Conv(end, end, 3, padding=1, bias=False),
    ]  # fmt: skip


def preact(start: int, end: int, stride: int, body: list[Any], path: Any) -> Chain:
    """A block with pre-activation: the shortcut carries ``x``, or where the shape changes ``relu(norm(x))``.

    >>> preact(8, 8, 1, [Conv(8, 8, 3, padding=1)], "project")
    Skip(BatchNorm(num_features=8), relu, Conv(8, 8, 3, padding=1))
    >>> preact(8, 16, 1, [Conv(8, 16, 3, padding=1)], "project")
    Chain(norm=BatchNorm(num_features=8), relu=relu, body=Skip(Conv(8, 16, 3, padding=1), path='project'))
    """
    if start == end and stride == 1:
        return Skip(BatchNorm(start), relu, *body)
    return Chain(norm=BatchNorm(start), relu=relu, body=Skip(*body, path=path))


def _preact_net(stem: int, widths: tuple[int, ...], n: int, block: Any, num_classes: int, in_channels: int) -> Chain:
    net = Chain(
        conv=Conv(in_channels, stem, 3, padding=1, bias=False),
        **_stages(stem, widths, n, block),
        norm=BatchNorm(widths[-1]), relu=relu, mean=GlobalAvgPool(), head=Dense(widths[-1], num_classes),
        input=(in_channels, 32, 32),
    )  # fmt: skip
    return he(net)


def _stages(stem: int, widths: tuple[int, ...], n: int, block: Any) -> dict[str, Chain]:
    """Stages of n blocks; the first block of each but the first halves the image."""
    stages = {}
    start = stem
    for i, width in enumerate(widths):
        first = block(start, width, 2 if i else 1)
        stages[f"stage{i + 1}"] = Chain(first, *[block(width, width, 1) for _ in range(n - 1)])
        start = width
    return stages


def stage_length(depth: int, name: str, each: int, more: int = 2) -> int:
    """How many blocks a stage has, or why there can be no net of this depth.

    >>> stage_length(110, "cifar_resnet", each=6)
    18
    """
    n, rest = divmod(depth - more, each) if isinstance(depth, int) else (0, 1)
    if rest or n < 1:
        near = [each * k + more for k in (n, n + 1) if k > 0]
        layers = each // 3
        raise ChainError(
            f"{name}: depth= is {each}n + {more} (three stages of n blocks of {layers} convolutions), not {depth!r}: "
            f"take {' or '.join(map(str, near))}"
        )
    return n


_HE, _PREACT, _WRN, _NEXT = "1512.03385, section 4.2", "1603.05027", "1605.07146", "1611.05431, table 7"


def _figures(depth: int, a: int, b: int, c: int, macs: int) -> list[Figure]:
    each = {"B": (b, 2), "C": (c, (depth - 2) // 2)}
    return [
        parameters(a, COUNTED),
        *(parameters(each[option][0], COUNTED, shortcut=option) for option in "BC"),
        Figure("parameters of the plain twin", a, f"{_HE}: option A has as many as plain"),
        Figure("MACs", macs, COUNTED),
        Figure("depth", depth, f"{_HE}: 6n + 2"),
        Figure("projections", 0, "1512.03385, option A"),
        *(Figure("projections", each[o][1], f"1512.03385, option {o}", {"shortcut": o}) for o in "BC"),
    ]


NETS = {
    "cifar_resnet20": Entry(cifar_resnet, {"depth": 20}, _figures(20, 269_722, 272_474, 283_962, 40_551_040)),
    "cifar_resnet32": Entry(cifar_resnet, {"depth": 32}, _figures(32, 464_154, 466_906, 489_594, 68_862_592)),
    "cifar_resnet44": Entry(cifar_resnet, {"depth": 44}, [Figure("depth", 44, f"{_HE}: 6n + 2")]),
    "cifar_resnet56": Entry(cifar_resnet, {"depth": 56}, _figures(56, 853_018, 855_770, 900_858, 125_485_696)),
    "cifar_resnet110": Entry(
        cifar_resnet, {"depth": 110}, _figures(110, 1_727_962, 1_730_714, 1_826_202, 252_887_680)
    ),
    "preact_resnet110": Entry(preact_resnet, {"depth": 110}, [
        parameters(1_727_962, f"{COUNTED}; as many as 1512.03385"), Figure("depth", 110, _PREACT),
    ]),
    "preact_resnet164": Entry(preact_resnet, {"depth": 164}, [
        parameters(1_703_258, COUNTED), parameters(1_726_388, COUNTED, num_classes=100), Figure("depth", 164, _PREACT),
    ]),
    "preact_resnet1001": Entry(preact_resnet, {"depth": 1001}, [
        Figure("parameters without norms", 10.2e6, f"{_PREACT}, where it reads as all of them", unit=1e5),
        Figure("depth", 1001, _PREACT),
    ]),
    "wide_resnet28_10": Entry(wide_resnet, {"depth": 28, "widen": 10}, [
        parameters(36_479_194, COUNTED),
        parameters(36_536_884, COUNTED, num_classes=100),
        Figure("projections", 3, f"{_WRN}: where the shape changes"),
        Figure("depth", 26, f"{_WRN} counts 28: with the projections, without the dense layer"),
    ]),
    "wide_resnet40_1": Entry(wide_resnet, {"depth": 40, "widen": 1}, [parameters(563_930, COUNTED)]),
    "cifar_resnext29_8x64d": Entry(cifar_resnext, {"cardinality": 8, "width": 64, "depth": 29}, [
        parameters(34_426_698, COUNTED),
        Figure("parameters", 34.4e6, _NEXT, unit=1e5),
        Figure("depth", 29, _NEXT),
        Figure("projections", 3, "the released code: where the shape changes"),
    ]),
    "cifar_resnext29_16x64d": Entry(cifar_resnext, {"cardinality": 16, "width": 64, "depth": 29}, [
        parameters(68_155_210, COUNTED), Figure("parameters", 68.1e6, _NEXT, unit=1e5),
    ]),
}  # fmt: skip
# a family is checked as the net it makes by default
NETS |= {
    "cifar_resnet": Entry(cifar_resnet, figures=NETS["cifar_resnet20"].figures),
    "preact_resnet": Entry(preact_resnet, figures=NETS["preact_resnet164"].figures),
    "wide_resnet": Entry(wide_resnet, figures=NETS["wide_resnet28_10"].figures),
    "cifar_resnext": Entry(cifar_resnext, figures=NETS["cifar_resnext29_8x64d"].figures),
}


__all__ = ["cifar_resnet", "cifar_resnext", "preact", "preact_resnet", "stage_length", "wide_resnet"]
