"""Deep pyramidal residual nets (1610.02915): every block is a little wider than the one before.

The k-th of N blocks has ``16 + alpha k / N`` channels, where other nets double their width three times. A block is
norm, convolution, norm, relu, convolution, norm: no relu before the first convolution, and a norm after the last. The
shortcut brings the channels that there are, and zeros for the new ones; where the image gets smaller, the mean over 2x2
pixels::

    Skip(BatchNorm(c), Conv(c, d, 3), BatchNorm(d), relu, Conv(d, d, 3), BatchNorm(d), path=Pad(down="mean"))
"""

from __future__ import annotations

import math

from skipway import BatchNorm, Chain, ChainError, Conv, Dense, GlobalAvgPool, Pad, Skip, relu

from .cifar import stage_length
from .entry import COUNTED, Entry, Figure, parameters
from .initialise import he


def block(start: int, inner: int, stride: int, bottleneck: bool) -> Skip:
    """One block. Shapes: ``(N, start, H, W)`` to ``(N, inner, H/s, W/s)``, with a bottleneck to four times ``inner``.

    >>> len(block(16, 18, 1, bottleneck=False)), len(block(16, 18, 1, bottleneck=True))
    (6, 9)
    """
    if not bottleneck:
        body = [
            BatchNorm(start), Conv(start, inner, 3, stride=stride, padding=1, bias=False),
            BatchNorm(inner), relu, Conv(inner, inner, 3, padding=1, bias=False), BatchNorm(inner),
        ]  # fmt: skip
    else:
        body = [
            BatchNorm(start), Conv(start, inner, 1, bias=False),
            BatchNorm(inner), relu, Conv(inner, inner, 3, stride=stride, padding=1, bias=False),
            BatchNorm(inner), relu, Conv(inner, 4 * inner, 1, bias=False), BatchNorm(4 * inner),
        ]  # fmt: skip
    return Skip(*body, path=Pad(down="mean"))


def pyramidnet(
    depth: int = 110, alpha: int = 48, bottleneck: bool | None = None, num_classes: int = 10, in_channels: int = 3
) -> Chain:
    """The additive PyramidNets of CIFAR. Shapes: ``(N, in_channels, 32, 32)`` to ``(N, num_classes)``.

    =====  =====  ==========  =====================
    depth  alpha  parameters  blocks
    =====  =====  ==========  =====================
    110    48     1,772,706   two convolutions
    110    84     3,904,446   two convolutions
    110    270    28,485,477  two convolutions
    164    270    27,216,021  bottlenecks
    200    240    26,752,702  bottlenecks
    272    200    26,210,842  bottlenecks
    =====  =====  ==========  =====================

    The paper prints a little less. Its numbers for the nets with bottlenecks, and 3.8M for 110 and 84, are met without
    the norms; for 110 and 270 it prints 28.3M, which nothing that can be left out gives.

    Parameters
    ----------
    depth:
        6n + 2 with blocks of two 3x3 convolutions, 9n + 2 with bottlenecks.
    alpha:
        the widening factor: channels that all blocks together add to the 16 of the first convolution.
    bottleneck:
        which of the two; by default bottlenecks from depth 164 on, as in the paper.

    Widths are rounded, as in the released code. Convolutions begin as in 1502.01852 (variance 2 / fan-out).

    Raises
    ------
    ChainError
        for a depth that is not of that form, or an alpha that is negative.

    >>> [b.plan.output.shape[0] for b in pyramidnet(20, alpha=48)["stage1"]], pyramidnet(20, alpha=48)["head"]
    ([21, 27, 32], Dense(64, 10))
    """
    deep = isinstance(depth, int) and depth >= 164 if bottleneck is None else bottleneck
    n = stage_length(depth, "pyramidnet", 9 if deep else 6)
    if isinstance(alpha, bool) or not isinstance(alpha, (int, float)) or not 0 <= alpha < math.inf:
        raise ChainError(f"alpha= is the widening factor of 1610.02915, the channels added in all, not {alpha!r}")
    stages, start = {}, 16
    for i in range(3):
        row = []
        for k in range(i * n + 1, (i + 1) * n + 1):
            inner = math.floor(16 + alpha * k / (3 * n) + 0.5)
            row.append(block(start, inner, 2 if i and k == i * n + 1 else 1, deep))
            start = 4 * inner if deep else inner
        stages[f"stage{i + 1}"] = Chain(*row)
    net = Chain(
        conv=Conv(in_channels, 16, 3, padding=1, bias=False), norm=BatchNorm(16),
        **stages,
        last_norm=BatchNorm(start), last_relu=relu, mean=GlobalAvgPool(), head=Dense(start, num_classes),
        input=(in_channels, 32, 32),
    )  # fmt: skip
    return he(net)


_PYRAMID = "1610.02915, table 4"


def _entry(depth: int, alpha: int, number: int, *more: Figure) -> Entry:
    return Entry(pyramidnet, {"depth": depth, "alpha": alpha}, [
        parameters(number, f"{COUNTED}; imgclsmob"),
        *more,
        Figure("depth", depth, _PYRAMID),
        Figure("projections", 0, "1610.02915: zeros for the new channels"),
    ])  # fmt: skip


def _without_norms(millions: float) -> Figure:
    return Figure("parameters without norms", millions * 1e6, f"{_PYRAMID}, where it reads as all", unit=1e5)


NETS = {
    "pyramidnet110_48": _entry(110, 48, 1_772_706, Figure("parameters", 1.7e6, _PYRAMID, unit=1e5)),
    "pyramidnet110_84": _entry(110, 84, 3_904_446, _without_norms(3.8)),
    "pyramidnet110_270": _entry(110, 270, 28_485_477),
    "pyramidnet164_270": _entry(164, 270, 27_216_021, _without_norms(27.0)),
    "pyramidnet200_240": _entry(200, 240, 26_752_702, _without_norms(26.6)),
    "pyramidnet236_220": _entry(236, 220, 26_969_046, _without_norms(26.8)),
    "pyramidnet272_200": _entry(272, 200, 26_210_842, _without_norms(26.0)),
}
# the family is checked as the net it makes by default
NETS["pyramidnet"] = Entry(pyramidnet, figures=NETS["pyramidnet110_48"].figures)


__all__ = ["block", "pyramidnet"]
