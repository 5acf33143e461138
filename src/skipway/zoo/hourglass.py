"""Stacked hourglass nets (Newell et al. 2016, 1603.06937): U-Nets that add, with a residual block on every shortcut.

An hourglass halves the image, works on the half, doubles it again and adds what a block of its own made of the full
size. The half is an hourglass itself, so that the definition is one line::

    hourglass(n) = Skip(pool, residual, hourglass(n - 1), residual, up, path=residual)

Each stack ends with heat maps, one for each joint of the body; these go back into the stream beside what they were
made of, and the next stack goes over them.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from skipway import BatchNorm, Chain, ChainError, Conv, MaxPool, Project, Shortcut, Skip, relu

from .entry import COUNTED, Entry, Figure, parameters
from .initialise import he
from .options import positive


def residual(start: int, end: int) -> Skip:
    """A pre-activation bottleneck of half the width: ``(N, start, H, W)`` to ``(N, end, H, W)``.

    >>> residual(8, 8)
    Skip(BatchNorm(num_features=8), relu, Conv(8, 4, 1), BatchNorm(num_features=4), relu,
      Conv(4, 4, 3, padding=1), BatchNorm(num_features=4), relu, Conv(4, 8, 1), path=Project(bias=True))
    """
    inner = end // 2
    return Skip(
        BatchNorm(start), relu, Conv(start, inner, 1),
        BatchNorm(inner), relu, Conv(inner, inner, 3, padding=1),
        BatchNorm(inner), relu, Conv(inner, end, 1),
        path=Project(bias=True),
    )  # fmt: skip


def one_hourglass(order: int, width: int) -> Skip:
    """One hourglass that halves the image ``order`` times: ``(N, width, H, W)`` to the same.

    >>> [type(layer).__name__ for layer in one_hourglass(1, 8)]
    ['MaxPool', 'Skip', 'Skip', 'Skip', 'Upsample']
    """
    inner = one_hourglass(order - 1, width) if order > 1 else residual(width, width)
    return Skip(
        MaxPool(2), residual(width, width), inner, residual(width, width), nn.Upsample(scale_factor=2),
        path=residual(width, width),
    )  # fmt: skip


def hourglass(stacks: int = 8, joints: int = 16, width: int = 256, order: int = 4, in_channels: int = 3) -> Chain:
    """Stacked hourglasses. Shapes: ``(N, in_channels, H, W)`` to ``(N, joints, H/4, W/4)``.

    H and W are multiples of ``4 * 2**order``; planned for 256 x 256.

    Parameters
    ----------
    stacks:
        hourglasses one after the other. The heat maps of each, for the supervision in between, are
        ``net.features(x, [f"stack{k}.heat" for k in range(1, stacks + 1)])``; the last ones leave the net.
    joints:
        heat maps: 16 for MPII.
    width:
        channels of the stream, a multiple of 4.
    order:
        how often one hourglass halves its image: four times, from 64 to 4 pixels.

    Convolutions begin with a variance of 2 / fan-out (1502.01852), biases at 0.

    Raises
    ------
    ChainError
        for a number of stacks, joints or halvings that is not a positive whole number, or a width that is not a
        positive multiple of 4.

    >>> net = hourglass(stacks=2, width=8, order=2)
    >>> net["stack1"].wiring
    (Shortcut('line', 'back', path=Conv(8, 8, 1)), Shortcut('input', 'back'))
    >>> net.plan.output.shape
    (16, 64, 64)
    """
    positive(stacks=stacks, joints=joints, order=order, width=width)
    if width % 4:
        raise ChainError(f"width= is a multiple of 4, since the stem works on a quarter and a half of it, not {width}")
    layers: dict[str, Any] = {
        "conv": Conv(in_channels, width // 4, 7, stride=2, padding=3), "norm": BatchNorm(width // 4), "relu": relu,
        "first": residual(width // 4, width // 2), "pool": MaxPool(2),
        "second": residual(width // 2, width // 2), "third": residual(width // 2, width),
    }  # fmt: skip
    for k in range(1, stacks + 1):
        layers[f"stack{k}"] = _stack(order, width, joints, last=k == stacks)
    return he(Chain(**layers, input=(in_channels, 256, 256)))


def _stack(order: int, width: int, joints: int, last: bool) -> Chain:
    """An hourglass and its heat maps; but for the last, these and what they were made of are added to the stream."""
    parts: dict[str, Any] = {
        "glass": one_hourglass(order, width),
        "line": Chain(Conv(width, width, 1), BatchNorm(width), relu),
        "heat": Conv(width, joints, 1),
    }  # fmt: skip
    if last:
        return Chain(**parts)
    wiring = [Shortcut("line", "back", path=Conv(width, width, 1)), Shortcut("input", "back")]
    return Chain(**parts, back=Conv(joints, width, 1), wiring=wiring)


NETS = {
    "hourglass": Entry(hourglass, figures=[
        parameters(23_717_888, COUNTED),
        Figure("projections", 2 + 8 * 4 + 7, "two in the stem, four blocks a stack, seven back to the stream"),
    ]),
}  # fmt: skip


__all__ = ["hourglass", "one_hourglass", "residual"]
