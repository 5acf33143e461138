"""DiracNets (1706.00388): plain nets, whose shortcuts are inside the weights.

A layer is relu, a convolution and a norm, nothing else. The convolution is a :class:`~skipway.DiracConv`: its kernel is
the sum of the identity and of filters that are small at first, so that the net begins as a deep residual net does, and
is a chain of plain convolutions once the sums are worked out (``deployed=True``)::

    [relu, DiracConv(c, d, 3, bias=False), BatchNorm(d)]      # in training
    [relu, Conv(c, d, 3, padding=1)]                          # deployed: norm and shortcut are in weight and bias

Max pools between the stages make the image smaller.
"""

from __future__ import annotations

from typing import Any

from skipway import BatchNorm, Chain, ChainError, Conv, Dense, DiracConv, GlobalAvgPool, MaxPool, relu

from .cifar import stage_length
from .entry import COUNTED, Entry, Figure, parameters
from .initialise import he
from .options import positive

#: pairs of layers in each of the four stages for ImageNet (table 3), those of the residual nets
STAGES = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}


def layer(start: int, end: int, deployed: bool = False) -> list[Any]:
    """One layer: ``(N, start, H, W)`` to ``(N, end, H, W)``.

    >>> Chain(*layer(8, 16)), Chain(*layer(8, 16, deployed=True))
    (Chain(relu, DiracConv(8, 16, 3, bias=False), BatchNorm(num_features=16)), Chain(relu, Conv(8, 16, 3, padding=1)))
    """
    if deployed:
        return [relu, Conv(start, end, 3, padding=1)]
    return [relu, DiracConv(start, end, 3, bias=False), BatchNorm(end)]


def dirac(
    depth: int = 28, widen: int = 10, num_classes: int = 10, deployed: bool = False, in_channels: int = 3
) -> Chain:
    """The DiracNets of CIFAR. Shapes: ``(N, in_channels, 32, 32)`` to ``(N, num_classes)``.

    DiracNet-28-10 has 36,450,090 parameters in training, 36,423,050 when deployed.

    Parameters
    ----------
    depth:
        6n + 4, named as in wide residual nets: three stages of 2n layers, the first convolution and the dense layer
        make 6n + 2.
    widen:
        the factor of the widths 16, 32 and 64.
    deployed:
        the plain net that the shortcuts and the norms fold into.

    Convolutions begin as in 1502.01852 (of the Dirac ones only the direction of each filter counts), a at 1, b at 0.1.

    Raises
    ------
    ChainError
        for a depth that is not 6n + 4, or a factor that is not a positive whole number.

    >>> sum(p.numel() for p in dirac(10, 1).parameters())
    75738
    """
    n = stage_length(depth, "dirac", 6, more=4)
    positive("the factor of the widths 16, 32 and 64", widen=widen)
    widths = (16 * widen, 32 * widen, 64 * widen)
    stem = Conv(in_channels, widths[0], 3, padding=1, bias=deployed)
    norm = {} if deployed else {"norm": BatchNorm(widths[0])}
    net = Chain(
        conv=stem, **norm, **_stages(widths[0], widths, (2 * n,) * 3, deployed),
        relu=relu, mean=GlobalAvgPool(), head=Dense(widths[-1], num_classes), input=(in_channels, 32, 32),
    )  # fmt: skip
    return he(net, "fan_in", dense=True)


def diracnet(depth: int = 18, num_classes: int = 1000, deployed: bool = False, in_channels: int = 3) -> Chain:
    """The DiracNets of ImageNet. Shapes: ``(N, in_channels, H, W)`` to ``(N, num_classes)``.

    They are planned for images of 224 x 224. DiracNet-18 has 11,523,368 parameters in training, 11,511,784 when
    deployed.

    Parameters
    ----------
    depth:
        18 or 34: as many layers as the residual nets of this depth.
    deployed:
        the plain net that the shortcuts and the norms fold into.

    Weights begin as in :func:`dirac`.

    Raises
    ------
    ChainError
        for another depth.

    >>> import torch
    >>> with torch.device("meta"):
    ...     sum(p.numel() for p in diracnet(18, deployed=True).parameters())
    11511784
    """
    if depth not in STAGES:
        raise ChainError(f"diracnet: depth= is {' or '.join(map(str, STAGES))} (table 3 of 1706.00388), not {depth!r}")
    widths = (64, 128, 256, 512)
    stem = Conv(in_channels, 64, 7, stride=2, padding=3, bias=deployed)
    norm = {} if deployed else {"norm": BatchNorm(64)}
    net = Chain(
        conv=stem, **norm, pool=MaxPool(3, stride=2, padding=1),
        **_stages(64, widths, tuple(2 * n for n in STAGES[depth]), deployed),
        relu=relu, mean=GlobalAvgPool(), head=Dense(512, num_classes), input=(in_channels, 224, 224),
    )  # fmt: skip
    return he(net, "fan_in", dense=True)


def _stages(start: int, widths: tuple[int, ...], counts: tuple[int, ...], deployed: bool) -> dict[str, Any]:
    """Stages of layers, and pools between them."""
    parts: dict[str, Any] = {}
    for i, (width, count) in enumerate(zip(widths, counts, strict=True), 1):
        row: list[Any] = []
        for _ in range(count):
            row += layer(start, width, deployed)
            start = width
        parts[f"stage{i}"] = Chain(*row)
        if i < len(widths):
            parts[f"pool{i}"] = MaxPool(2)
    return parts


_DIRAC = "1706.00388"


def _cifar(depth: int, widen: int, number: int, deployed: int) -> Entry:
    return Entry(dirac, {"depth": depth, "widen": widen}, [
        parameters(number, COUNTED),
        parameters(deployed, COUNTED, deployed=True),
        Figure("depth", depth - 2, f"{_DIRAC}: 6n layers between the first and the dense one, named 6n + 4"),
        Figure("projections", 0, f"{_DIRAC}: shortcuts are inside the weights"),
    ])  # fmt: skip


def _imagenet(depth: int, number: int, deployed: int, macs: int) -> Entry:
    return Entry(diracnet, {"depth": depth}, [
        parameters(number, COUNTED),
        parameters(deployed, f"imgclsmob, diracnet{depth}v2", deployed=True),
        Figure("MACs", macs, f"{COUNTED}; as plain-{depth} of 1512.03385"),
        Figure("depth", depth, _DIRAC),
    ])  # fmt: skip


NETS = {
    "dirac28_5": _cifar(28, 5, 9_124_250, 9_110_730),
    "dirac28_10": _cifar(28, 10, 36_450_090, 36_423_050),
    "dirac34_2": _cifar(34, 2, 1_854_378, 1_847_626),
    "diracnet18": _imagenet(18, 11_523_368, 11_511_784, 1_794_805_760),
    "diracnet34": _imagenet(34, 21_638_952, 21_616_232, 3_644_493_824),
}
# the family is checked as the net it makes by default
NETS["dirac"] = Entry(dirac, figures=NETS["dirac28_10"].figures)


__all__ = ["dirac", "diracnet", "layer"]
