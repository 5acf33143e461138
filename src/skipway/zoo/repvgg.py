"""Shortcuts that are gone after training: RepVGG (2101.03697) and MobileOne (2206.04040).

A unit is a convolution with shortcuts around it, of which every one is linear, so that their sum is one convolution::

    Chain(Parallel(Chain(conv3, norm), Chain(conv1, norm), norm, merge="add"), relu)      # in training
    Conv(width, width, 3, relu, padding=1)                                                # deployed

The identity is a norm alone, and is there where a unit keeps the width and the size. No branch has a relu of its own:
with one the sum could not be folded.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from skipway import BatchNorm, Chain, ChainError, Conv, Dense, GlobalAvgPool, Parallel, relu
from skipway.errors import nearest

from .entry import COUNTED, Entry, Figure, parameters

#: units in each of the four stages, and the factors of their widths: a of the first three, b of the last (table 2)
REPVGG = {
    "a0": ((2, 4, 14, 1), 0.75, 2.5), "a1": ((2, 4, 14, 1), 1, 2.5), "a2": ((2, 4, 14, 1), 1.5, 2.75),
    "b0": ((4, 6, 16, 1), 1, 2.5), "b1": ((4, 6, 16, 1), 2, 4), "b2": ((4, 6, 16, 1), 2.5, 5),
    "b3": ((4, 6, 16, 1), 3, 5),
}  # fmt: skip

#: the factors of the widths of the four stages, and convolutions side by side in each unit (table 2)
MOBILEONE = {
    "s0": ((0.75, 1.0, 1.0, 2.0), 4), "s1": ((1.5, 1.5, 2.0, 2.5), 1), "s2": ((1.5, 2.0, 2.5, 4.0), 1),
    "s3": ((2.0, 2.5, 3.0, 4.0), 1),
}  # fmt: skip

_WIDTHS = (64, 128, 256, 512)


def unit(
    width_in: int,
    width: int,
    kernel: int = 3,
    stride: int = 1,
    groups: int = 1,
    side_by_side: int = 1,
    deployed: bool = False,
) -> nn.Module:
    """A convolution and the shortcuts that fold into it. Shapes: ``(N, width_in, H, W)`` to ``(N, width, H/s, W/s)``.

    ``side_by_side`` convolutions of this kernel are added up, one of 1x1 where the kernel is larger, and the identity
    where width and size are kept; each with a norm of its own.

    >>> [len(unit(8, 8)[0].branches), len(unit(8, 16)[0].branches), unit(8, 16, deployed=True)]
    [3, 2, Conv2d(8, 16, 3, relu, padding=1)]
    """
    if deployed:
        return Conv(width_in, width, kernel, relu, stride=stride, padding=kernel // 2, groups=groups)

    def convolution(size: int) -> Chain:
        conv = Conv(width_in, width, size, stride=stride, padding=size // 2, groups=groups, bias=False)
        return Chain(conv, BatchNorm(width))

    branches: list[nn.Module] = [convolution(kernel) for _ in range(side_by_side)]
    if kernel > 1:
        branches.append(convolution(1))
    if width_in == width and stride == 1:
        branches.append(BatchNorm(width))
    return Chain(Parallel(*branches, merge="add"), relu)


def repvgg(
    variant: str = "a0", num_classes: int = 1000, groups: int = 1, deployed: bool = False, in_channels: int = 3
) -> Chain:
    """RepVGG (2101.03697). Shapes: ``(N, in_channels, H, W)`` to ``(N, num_classes)``; planned for 224 x 224 pixels.

    A0 has 9,108,968 parameters in training and 8,309,384 when deployed, B0 15,817,960 and 14,339,048.

    Parameters
    ----------
    variant:
        ``"a0"`` to ``"a2"`` or ``"b0"`` to ``"b3"`` (table 2).
    groups:
        of every second convolution; 4 makes B1 the B1g4 of the paper.
    deployed:
        one 3x3 convolution in place of each unit: what its branches are when their norms no longer learn.

    Weights begin as torch makes them, which is what the released code does.

    Raises
    ------
    ChainError
        for a variant that is not in the table, and groups that do not divide every width.

    >>> import torch
    >>> with torch.device("meta"):
    ...     [sum(p.numel() for p in repvgg("a0", deployed=d).parameters()) for d in (False, True)]
    [9108968, 8309384]
    """
    counts, a, b = _variant("repvgg", variant, REPVGG)
    widths = [int(w * factor) for w, factor in zip(_WIDTHS, (a, a, a, b), strict=True)]
    if isinstance(groups, bool) or not isinstance(groups, int) or groups < 1 or any(w % groups for w in widths):
        raise ChainError(
            f"groups= divides the width of every stage of RepVGG-{variant.upper()}, {widths}: not {groups!r}"
        )
    before = min(64, widths[0])
    layers = 0

    def block(start: int, end: int, stride: int) -> list[nn.Module]:
        nonlocal layers
        layers += 1
        return [unit(start, end, stride=stride, groups=groups if layers % 2 == 0 else 1, deployed=deployed)]

    stages = _stages(before, widths, counts, block)
    return _net(unit(in_channels, before, stride=2, deployed=deployed), stages, widths[-1], num_classes, in_channels)


def mobileone(variant: str = "s0", num_classes: int = 1000, deployed: bool = False, in_channels: int = 3) -> Chain:
    """MobileOne (2206.04040): depthwise and 1x1 convolutions in turn, each with the shortcuts that fold into it.

    Shapes: ``(N, in_channels, H, W)`` to ``(N, num_classes)``; planned for 224 x 224 pixels. S1 has 4,825,192
    parameters in training and 4,764,840 when deployed. The largest of the paper, S4, which adds squeeze-and-excitation,
    is not made here.

    Parameters
    ----------
    variant:
        ``"s0"`` (four convolutions side by side in each unit) to ``"s3"`` (table 2).
    deployed:
        one convolution in place of each unit.

    Weights begin as torch makes them, which is what the released code does.

    Raises
    ------
    ChainError
        for a variant that is not in the table.

    >>> import torch
    >>> with torch.device("meta"):
    ...     sum(p.numel() for p in mobileone("s1").parameters())
    4825192
    """
    factors, side_by_side = _variant("mobileone", variant, MOBILEONE)
    widths = [int(w * factor) for w, factor in zip(_WIDTHS, factors, strict=True)]
    before = min(64, widths[0])

    def block(start: int, end: int, stride: int) -> list[nn.Module]:
        return [
            unit(start, start, 3, stride, groups=start, side_by_side=side_by_side, deployed=deployed),
            unit(start, end, 1, side_by_side=side_by_side, deployed=deployed),
        ]

    stages = _stages(before, widths, (2, 8, 10, 1), block)
    return _net(unit(in_channels, before, stride=2, deployed=deployed), stages, widths[-1], num_classes, in_channels)


def _variant(name: str, variant: str, table: dict[str, Any]) -> Any:
    key = str(variant).lower()
    if key not in table:
        raise ChainError(f"table 2 has no {name} {variant!r}: {nearest(key, table)}")
    return table[key]


def _stages(
    start: int, widths: list[int], counts: tuple[int, ...], block: Callable[..., list[nn.Module]]
) -> dict[str, Chain]:
    """Stages of units; the first of each halves the image."""
    stages = {}
    for i, (width, count) in enumerate(zip(widths, counts, strict=True), 1):
        row = []
        for stride in [2] + [1] * (count - 1):
            row += block(start, width, stride)
            start = width
        stages[f"stage{i}"] = Chain(*row)
    return stages


def _net(stem: nn.Module, stages: dict[str, Chain], width: int, num_classes: int, in_channels: int) -> Chain:
    return Chain(
        stem=stem, **stages, mean=GlobalAvgPool(), head=Dense(width, num_classes), input=(in_channels, 224, 224)
    )


_REPVGG, _ONE = "2101.03697, table 4", "2206.04040"


def _repvgg(name: str, number: int, deployed: int, millions: float, giga: float) -> Entry:
    says: dict[str, Any] = {"variant": name[:2]} | ({"groups": int(name[3:])} if "g" in name else {})
    return Entry(repvgg, says, [
        parameters(number, "timm 1.0.31"),
        parameters(deployed, COUNTED, deployed=True),
        Figure("parameters", millions * 1e6, _REPVGG, {"deployed": True}, unit=1e4),
        Figure("MACs", giga * 1e9, _REPVGG, {"deployed": True}, unit=1e8),
        Figure("depth", sum(REPVGG[name[:2]][0]) + 2, "2101.03697, table 2, and the dense layer"),
    ])  # fmt: skip


def _mobileone(name: str, number: int, deployed: int, millions: float, mega: float) -> Entry:
    return Entry(mobileone, {"variant": name}, [
        parameters(number, "timm 1.0.31"),
        parameters(deployed, COUNTED, deployed=True),
        Figure("parameters", millions * 1e6, f"{_ONE}, table 2", {"deployed": True}, unit=1e5),
        Figure("MACs", mega * 1e6, f"{_ONE}, table 2", {"deployed": True}, unit=1e6),
    ])  # fmt: skip


NETS = {
    "repvgg_a0": _repvgg("a0", 9_108_968, 8_309_384, 8.30, 1.4),
    "repvgg_a1": _repvgg("a1", 14_092_264, 12_789_864, 12.78, 2.4),
    "repvgg_a2": _repvgg("a2", 28_210_600, 25_499_944, 25.49, 5.1),
    "repvgg_b0": _repvgg("b0", 15_817_960, 14_339_048, 14.33, 3.1),
    "repvgg_b1": _repvgg("b1", 57_415_016, 51_829_480, 51.82, 11.8),
    "repvgg_b1g4": _repvgg("b1g4", 39_966_056, 36_125_416, 36.12, 7.3),
    "repvgg_b2": _repvgg("b2", 89_022_376, 80_315_112, 80.31, 18.4),
    "repvgg_b3": _repvgg("b3", 123_085_288, 110_960_872, 110.96, 26.2),
    "mobileone_s0": _mobileone("s0", 5_293_272, 2_078_504, 2.1, 275),
    "mobileone_s1": _mobileone("s1", 4_825_192, 4_764_840, 4.8, 825),
    "mobileone_s2": _mobileone("s2", 7_884_648, 7_808_168, 7.8, 1299),
    "mobileone_s3": _mobileone("s3", 10_170_600, 10_078_312, 10.1, 1896),
}
# a family is checked as the net it makes by default
NETS |= {
    "repvgg": Entry(repvgg, figures=NETS["repvgg_a0"].figures),
    "mobileone": Entry(mobileone, figures=NETS["mobileone_s0"].figures),
}


__all__ = ["mobileone", "repvgg", "unit"]
