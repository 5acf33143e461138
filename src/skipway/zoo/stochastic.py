"""Residual nets with branches drawn at random in training: stochastic depth (1603.09382), Shake-Shake (1705.07485).

In the first a block is there or not, for the whole batch; at test its branch is multiplied by the probability that it
was there. In the second every block has two branches, weighed at random for every image, in the backward otherwise than
in the forward; at test both weigh a half::

    Skip(conv, norm, relu, conv, norm, path=Pad(down="mean"), drop=Drop(p, "batch", "test-scale"), act=relu)
    Skip(Parallel(branch, branch, merge=Shake()))
"""

from __future__ import annotations

from typing import Any, Literal

from torch import nn

from skipway import (
    BatchNorm,
    Chain,
    ChainError,
    Conv,
    Dense,
    Drop,
    GlobalAvgPool,
    Pad,
    Parallel,
    Ramp,
    Shake,
    Skip,
    relu,
)

from .cifar import stage_length
from .entry import COUNTED, Entry, Figure, parameters
from .initialise import he


def stochastic_depth_resnet(
    depth: int = 110,
    survival: float = 0.5,
    decay: Literal["linear", "uniform"] = "linear",
    num_classes: int = 10,
    in_channels: int = 3,
) -> Chain:
    """The residual net of CIFAR with stochastic depth (1603.09382). Shapes: ``(N, 3, 32, 32)`` to ``(N, num_classes)``.

    Of the 54 blocks of depth 110, 40.25 are there on average. It has the parameters of the net with option A,
    1,727,962.

    Parameters
    ----------
    depth:
        6n + 2: three stages of n blocks of two convolutions.
    survival:
        p_L, the probability that the last block is there. 1 is a net of constant depth.
    decay:
        ``"linear"``: block l of L is there with probability ``1 - (l / L)(1 - p_L)``. ``"uniform"``: all with p_L.

    Where the image gets smaller the shortcut takes the mean over 2x2 pixels and adds channels of zeros. Convolutions
    begin as in 1502.01852.

    Raises
    ------
    ChainError
        for a depth that is not 6n + 2, or a survival outside (0, 1].

    >>> [round(block.wiring[0].drop.p, 3) for block in stochastic_depth_resnet(8)["stage3"]]
    [0.5]
    """
    n = stage_length(depth, "stochastic_depth_resnet", 6)
    if isinstance(survival, bool) or not isinstance(survival, (int, float)) or not 0 < survival <= 1:
        raise ChainError(f"survival= is p_L of 1603.09382, a probability in (0, 1], not {survival!r}")
    if decay not in ("linear", "uniform"):
        raise ChainError(f'decay= is "linear" or "uniform", not {decay!r}')
    drops = Ramp(0.0 if decay == "linear" else 1 - survival, 1 - survival).over(3 * n)

    stages: dict[str, Chain] = {}
    start = 16
    for i, width in enumerate((16, 32, 64)):
        row = []
        for k in range(n):
            row.append(_block(start, width, 2 if i and not k else 1, drops[i * n + k]))
            start = width
        stages[f"stage{i + 1}"] = Chain(*row)
    net = Chain(
        conv=Conv(in_channels, 16, 3, padding=1, bias=False), norm=BatchNorm(16), relu=relu,
        **stages,
        mean=GlobalAvgPool(), head=Dense(64, num_classes), input=(in_channels, 32, 32),
    )  # fmt: skip
    return he(net)


def _block(start: int, end: int, stride: int, p: float) -> Skip:
    return Skip(
        Conv(start, end, 3, stride=stride, padding=1, bias=False), BatchNorm(end), relu,
        Conv(end, end, 3, padding=1, bias=False), BatchNorm(end),
        path=Pad(down="mean"), drop=Drop(p, "batch", "test-scale"), act=relu,
    )  # fmt: skip


def branch(start: int, end: int, stride: int) -> Chain:
    """One of the two branches of a block of Shake-Shake. Shapes: ``(N, start, H, W)`` to ``(N, end, H/s, W/s)``.

    >>> branch(16, 32, 2)
    Chain(relu, Conv(16, 32, 3, stride=2, padding=1, bias=False), BatchNorm(num_features=32), relu, Conv(32, 32, 3, ...
    """
    return Chain(
        relu, Conv(start, end, 3, stride=stride, padding=1, bias=False), BatchNorm(end),
        relu, Conv(end, end, 3, padding=1, bias=False), BatchNorm(end),
    )  # fmt: skip


def shifted_projection(start: int, end: int, stride: int) -> Chain:
    """The shortcut where the shape changes: two 1x1 convolutions, each to half of the channels, side by side.

    The second one takes the image shifted by one pixel, so that with stride 2 they see other pixels. Shapes: ``(N,
    start, H, W)`` to ``(N, end, H/s, W/s)``.

    >>> shifted_projection(8, 16, 2)[1].branches[1]
    Chain(nn.ZeroPad2d((1, -1, 1, -1)), Conv(8, 8, 1, stride=2, bias=False))
    """
    straight = Conv(start, end // 2, 1, stride=stride, bias=False)
    shifted = Chain(nn.ZeroPad2d((1, -1, 1, -1)), Conv(start, end // 2, 1, stride=stride, bias=False))
    return Chain(relu, Parallel(straight, shifted, merge="cat"), BatchNorm(end))


def shake_shake(
    depth: int = 26,
    width: int = 96,
    num_classes: int = 10,
    forward: Literal["shake", "even"] = "shake",
    backward: Literal["shake", "keep", "even"] = "shake",
    mode: Literal["row", "batch"] = "row",
    in_channels: int = 3,
) -> Chain:
    """Shake-Shake (1705.07485): two branches a block. Shapes: ``(N, in_channels, 32, 32)`` to ``(N, num_classes)``.

    26 2x96d has 26,192,922 parameters.

    Parameters
    ----------
    depth:
        6n + 2: three stages of n blocks of two convolutions.
    width:
        channels of the first stage, an even number; twice as many in every next one.
    forward, backward, mode:
        what is drawn, as in :class:`~skipway.Shake`. The paper's best, "shake, shake, image", by default.

    Relu comes first in a branch, and nothing after the addition. Where the shape changes the shortcut is a
    :func:`shifted_projection`. Convolutions begin as in 1502.01852.

    Raises
    ------
    ChainError
        for a depth that is not 6n + 2, a width that is not even, or an unknown word.

    >>> sum(p.numel() for p in shake_shake(8, 8).parameters())
    40138
    """
    n = stage_length(depth, "shake_shake", 6)
    if isinstance(width, bool) or not isinstance(width, int) or width < 2 or width % 2:
        raise ChainError(f"width= is an even number, as each part of a shortcut makes half of it, not {width!r}")
    merge = Shake(forward, backward, mode)

    stages: dict[str, Chain] = {}
    start = 16
    for i in range(3):
        row, end = [], width << i
        for k in range(n):
            stride = 2 if i and not k else 1
            path: Any = "identity" if start == end else shifted_projection(start, end, stride)
            row.append(Skip(Parallel(branch(start, end, stride), branch(start, end, stride), merge=merge), path=path))
            start = end
        stages[f"stage{i + 1}"] = Chain(*row)
    net = Chain(
        conv=Conv(in_channels, 16, 3, padding=1, bias=False), norm=BatchNorm(16),
        **stages,
        relu=relu, mean=GlobalAvgPool(), head=Dense(start, num_classes), input=(in_channels, 32, 32),
    )  # fmt: skip
    return he(net)


_DEPTH, _SHAKE = "1603.09382", "1705.07485"


def _shake(width: int, number: int, printed: float | None = None) -> Entry:
    return Entry(shake_shake, {"depth": 26, "width": width}, [
        parameters(number, COUNTED),
        *([Figure("parameters", printed, _SHAKE, unit=1e5)] if printed else []),
        Figure("depth", 26, _SHAKE),
        Figure("projections", 3, f"{_SHAKE}: where the shape changes"),
    ])  # fmt: skip


NETS = {
    "stochastic_depth_resnet110": Entry(stochastic_depth_resnet, {"depth": 110}, [
        parameters(1_727_962, f"{COUNTED}; as 1512.03385 with option A"),
        Figure("parameters", 1.7e6, _DEPTH, unit=1e5),
        Figure("depth", 110, _DEPTH),
        Figure("projections", 0, f"{_DEPTH}: means and zeros"),
    ]),
    "shake_shake26_2x32d": _shake(32, 2_923_162),
    "shake_shake26_2x64d": _shake(64, 11_653_978),
    "shake_shake26_2x96d": _shake(96, 26_192_922, 26.2e6),
}  # fmt: skip
# a family is checked as the net it makes by default
NETS |= {
    "stochastic_depth_resnet": Entry(stochastic_depth_resnet, figures=NETS["stochastic_depth_resnet110"].figures),
    "shake_shake": Entry(shake_shake, figures=NETS["shake_shake26_2x96d"].figures),
}


__all__ = ["branch", "shake_shake", "shifted_projection", "stochastic_depth_resnet"]
