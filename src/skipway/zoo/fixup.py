"""Fixup (Zhang et al. 2019, 1901.09321): residual nets without norms, which begin with small enough steps.

The last convolution of every branch begins at 0, and so does the dense layer at the end. The other m - 1 convolutions
of a branch begin as in 1502.01852 times ``L**(-1 / (2m - 2))``, with L branches in the net. A number is added before
every convolution, activation and dense layer, and one multiplies every branch::

    + b -> 3x3 -> + b -> relu -> + b -> 3x3  (x a)  + x  -> + b -> relu
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from skipway import Chain, ChainError, Conv, Dense, GlobalAvgPool, Learned, MaxPool, Pad, Project, Skip, relu

from .entry import COUNTED, Entry, Figure, parameters
from .initialise import he
from .resnet import STAGES


class Bias(nn.Module):
    """One learned number, from 0 on, added to all of a value. Shapes: ``(N, *)`` to the same.

    >>> Bias()(torch.ones(1, 2)).tolist()
    [[1.0, 1.0]]
    """

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(()))

    def folded(self) -> nn.Module:
        """The number as a shift, which :func:`skipway.deploy.fold` takes into the layers around it."""
        from skipway.deploy import PerChannel

        made = PerChannel(1).to(self.bias)
        nn.init.constant_(made.shift, self.bias.item())
        return made

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bias


def block(convolutions: list[Conv], path: Any, same: bool) -> Chain:
    """Convolutions with numbers added between them, and a shortcut around.

    Where the shape changes, the shortcut starts after the first number that is added.

    >>> block([Conv(8, 8, 3, padding=1, bias=False), Conv(8, 8, 3, padding=1, bias=False)], "identity", same=True)
    Skip(Bias(), Conv(8, 8, 3, padding=1, bias=False), Bias(), relu, Bias(), Conv(8, 8, 3, padding=1, bias=False),
      act=Chain(Bias(), relu), scale=Learned(1.0))
    """
    body: list[Any] = [convolutions[0]]
    for convolution in convolutions[1:]:
        body += [Bias(), relu, Bias(), convolution]
    # the number that follows the multiplied branch may as well be added after the shortcut
    options: dict[str, Any] = {"scale": Learned(1.0), "act": Chain(Bias(), relu)}
    if same:
        return Skip(Bias(), *body, **options)
    return Chain(before=Bias(), body=Skip(*body, path=path, **options))


def fixup_resnet(depth: int = 110, num_classes: int = 10, in_channels: int = 3) -> Chain:
    """The residual nets of CIFAR without norms. Shapes: ``(N, in_channels, 32, 32)`` to ``(N, num_classes)``.

    As :func:`skipway.zoo.cifar_resnet` with option A: three stages of 16, 32 and 64 channels.

    Parameters
    ----------
    depth:
        6n + 2: a convolution, three stages of n blocks of two, a dense layer. The paper has 110.

    At the beginning the net gives 0 for every class.

    Raises
    ------
    ChainError
        for a depth that is not 6n + 2.

    >>> fixup_resnet(8)(torch.ones(1, 3, 32, 32)).abs().max().item()
    0.0
    """
    n, rest = divmod(depth - 2, 6) if isinstance(depth, int) else (0, 1)
    if rest or n < 1:
        raise ChainError(
            f"fixup_resnet: depth= is 6n + 2 (three stages of n blocks of 2 convolutions), not {depth!r}: "
            f"take {' or '.join(str(6 * k + 2) for k in (n, n + 1) if k > 0)}"
        )

    def basic(start: int, end: int, stride: int) -> Chain:
        first = Conv(start, end, 3, stride=stride, padding=1, bias=False)
        return block([first, Conv(end, end, 3, padding=1, bias=False)], Pad(), start == end)

    stem = {"conv": Conv(in_channels, 16, 3, padding=1, bias=False), "bias": Bias(), "relu": relu}
    return _net(stem, basic, (n, n, n), (16, 32, 64), 16, num_classes, (in_channels, 32, 32))


def fixup_resnet50(num_classes: int = 1000, in_channels: int = 3) -> Chain:
    """ResNet-50 without norms. Shapes: ``(N, in_channels, H, W)`` to ``(N, num_classes)``; 25,504,026 parameters.

    Bottlenecks have three convolutions, of which the first two begin ``16**(-1/4)``, half, as large as in 1502.01852.
    Where the shape changes the shortcut is a 1x1 convolution.

    >>> sum(STAGES[50][0])
    16
    """

    def bottleneck(start: int, end: int, stride: int) -> Chain:
        inner = end // 4
        row = [
            Conv(start, inner, 1, bias=False), Conv(inner, inner, 3, stride=stride, padding=1, bias=False),
            Conv(inner, end, 1, bias=False),
        ]  # fmt: skip
        return block(row, Project(), start == end)

    stem = {
        "conv": Conv(in_channels, 64, 7, stride=2, padding=3, bias=False), "bias": Bias(), "relu": relu,
        "pool": MaxPool(3, stride=2, padding=1),
    }  # fmt: skip
    return _net(stem, bottleneck, STAGES[50][0], (256, 512, 1024, 2048), 64, num_classes, (in_channels, 224, 224))


def _net(
    stem: dict[str, Any],
    made: Callable[[int, int, int], Chain],
    counts: tuple[int, ...],
    widths: tuple[int, ...],
    before: int,
    num_classes: int,
    shape: tuple[int, ...],
) -> Chain:
    """Stages of blocks between a stem and a dense layer, with the initial weights of the paper."""
    stages = {}
    for i, (count, width) in enumerate(zip(counts, widths, strict=True)):
        strides = [2 if i else 1] + [1] * (count - 1)
        row = [made(before if k == 0 else width, width, stride) for k, stride in enumerate(strides)]
        stages[f"stage{i + 1}"] = Chain(*row)
        before = width
    net = Chain(**stem, **stages, mean=GlobalAvgPool(), last=Bias(), head=Dense(before, num_classes), input=shape)
    he(net)
    for stage in stages.values():
        for part in stage:
            branch = part if isinstance(part, Skip) else part["body"]
            *first, last = (layer for layer in branch if isinstance(layer, Conv))
            for convolution in first:
                convolution.weight.data *= sum(counts) ** (-1 / (2 * len(first)))
            nn.init.zeros_(last.weight)
    nn.init.zeros_(net["head"].weight)
    nn.init.zeros_(net["head"].bias)
    return net


NETS = {
    "fixup_resnet": Entry(fixup_resnet, figures=[
        parameters(1_720_138, COUNTED),
        Figure("depth", 110, "1901.09321: 6n + 2"),
        Figure("projections", 0, "1512.03385, option A"),
    ]),
    "fixup_resnet50": Entry(fixup_resnet50, figures=[
        parameters(25_504_026, COUNTED), Figure("depth", 50, "its name"),
    ]),
}  # fmt: skip


__all__ = ["Bias", "block", "fixup_resnet", "fixup_resnet50"]
