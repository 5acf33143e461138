"""Dual path nets (1707.01629): residual and dense at once, in one tensor.

The first channels of a value are added to, as in a residual net; the rest grows by concatenation, as in a dense one.
One block feeds both from the same three convolutions::

    Skip(norm, relu, conv1, norm, relu, conv3, norm, relu, conv1, merge=DualPath(add=256))

Its last convolution makes ``add + growth`` channels: those to add, and the new ones. The first block of a stage
projects the shortcut to ``add + 2 * growth`` channels, from where the dense part begins anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from skipway import BatchNorm, Chain, ChainError, Conv, Dense, DualPath, GlobalAvgPool, MaxPool, Skip, relu

from .entry import COUNTED, Entry, Figure, parameters
from .initialise import he


@dataclass(frozen=True)
class _Column:
    """A column of table 1: blocks and growth of each stage; the stem, channels to add, those inside, and groups."""

    blocks: tuple[int, int, int, int]
    growth: tuple[int, int, int, int]
    stem: int
    kernel: int
    add: int
    inner: int
    groups: int


#: table 1 of the paper; 68 and 107 are those of the released models
PLANS = {
    68: _Column((3, 4, 12, 3), (16, 32, 32, 64), 10, 3, 64, 128, 32),
    92: _Column((3, 4, 20, 3), (16, 32, 24, 128), 64, 7, 256, 96, 32),
    98: _Column((3, 6, 20, 3), (16, 32, 32, 128), 96, 7, 256, 160, 40),
    107: _Column((4, 8, 20, 3), (20, 64, 64, 128), 128, 7, 256, 200, 50),
    131: _Column((4, 8, 28, 3), (16, 32, 32, 128), 128, 7, 256, 160, 40),
}


def _conv(end: int, kernel: int, stride: int = 1, groups: int = 1) -> list[Any]:
    """Norm, relu, convolution: the order of pre-activation, at whatever width arrives."""
    conv = Conv(..., end, kernel, stride=stride, padding=kernel // 2, groups=groups, bias=False)
    return [BatchNorm(eps=1e-3), relu, conv]


def block(inner: int, add: int, growth: int, groups: int, stride: int = 1, first: bool = False) -> Skip:
    """One block. Shapes: ``(N, C, H, W)`` to ``(N, C + growth, H, W)``.

    The first one of a stage makes ``add + 3 * growth`` channels of whatever arrives, and may have a stride.

    >>> block(8, add=32, growth=4, groups=2).build((48, 8, 8)).plan.output.shape
    (52, 8, 8)
    >>> block(8, add=32, growth=4, groups=2, first=True).build((10, 8, 8)).plan.output.shape
    (44, 8, 8)
    """
    return Skip(
        *_conv(inner, 1), *_conv(inner, 3, stride, groups), *_conv(add + growth, 1),
        path=Chain(*_conv(add + 2 * growth, 1, stride)) if first else "identity", merge=DualPath(add),
    )  # fmt: skip


def dual_path(depth: int = 92, num_classes: int = 1000, in_channels: int = 3) -> Chain:
    """Dual path nets (1707.01629). Shapes: ``(N, in_channels, H, W)`` to ``(N, num_classes)``.

    They are planned for images of 224 x 224. DPN-92 has 37,668,392 parameters, DPN-68 12,611,602.

    Parameters
    ----------
    depth:
        68, 92, 98, 107 or 131.

    Convolutions begin as in 1502.01852, norms have an epsilon of 0.001.

    Raises
    ------
    ChainError
        for another depth.

    >>> sum(PLANS[92].blocks) * 3 + 2  # three convolutions a block, the first one and the dense layer
    92
    """
    if depth not in PLANS:
        raise ChainError(f"depth= is one of {', '.join(map(str, PLANS))} (table 1 of 1707.01629), not {depth!r}")
    column = PLANS[depth]
    stages = {}
    for i, (count, growth) in enumerate(zip(column.blocks, column.growth, strict=True)):
        inner, add = column.inner << i, column.add << i
        row = [block(inner, add, growth, column.groups, stride=2 if i else 1, first=True)]
        row += [block(inner, add, growth, column.groups) for _ in range(count - 1)]
        stages[f"stage{i + 1}"] = Chain(*row)
    net = Chain(
        conv=Conv(in_channels, column.stem, column.kernel, stride=2, padding=column.kernel // 2, bias=False),
        norm=BatchNorm(column.stem, eps=1e-3), relu=relu, pool=MaxPool(3, stride=2, padding=1),
        **stages,
        last_norm=BatchNorm(eps=1e-3), last_relu=relu, mean=GlobalAvgPool(), head=Dense(..., num_classes),
        input=(in_channels, 224, 224),
    )  # fmt: skip
    return he(net)


_DPN = "1707.01629, table 1"


def _entry(depth: int, number: int, macs: int, printed: float | None = None) -> Entry:
    return Entry(dual_path, {"depth": depth}, [
        parameters(number, "timm 1.0.31"),
        Figure("MACs", macs, COUNTED),
        *([Figure("MACs", printed, _DPN, unit=1e8)] if printed else []),
        Figure("depth", depth, "its name"),
        Figure("projections", 4, "1707.01629: the first block of each stage"),
    ])  # fmt: skip


NETS = {
    "dual_path68": _entry(68, 12_611_602, 2_326_163_456),
    "dual_path92": _entry(92, 37_668_392, 6_501_684_224, 6.5e9),
    "dual_path98": _entry(98, 61_570_728, 11_671_217_152, 11.7e9),
    "dual_path107": _entry(107, 86_917_800, 18_298_764_288),
    "dual_path131": _entry(131, 79_254_504, 16_013_648_896, 16.0e9),
}
# the family is checked as the net it makes by default
NETS["dual_path"] = Entry(dual_path, figures=NETS["dual_path92"].figures)


__all__ = ["block", "dual_path"]
