"""Residual nets without norms (Brock et al. 2021, 2101.08692): the variance of every value is known beforehand.

A block is ``x + alpha F(x / beta)``, where beta**2 is the variance that x has at the beginning, so that F always gets
values of variance 1 and gives such back. Then the variance grows by ``alpha**2`` a block, from 1 on; where the shape
changes, the shortcut starts from the value over beta, which brings it back to 1::

    variance:  1 -> 1 + alpha^2 -> 1 + 2 alpha^2 -> ...  | next stage: 1 + alpha^2 -> 1 + 2 alpha^2 -> ...

What keeps the variance within F is a relu times a constant, and convolutions whose weights are standardised. F ends
with a learned number that begins at 0 (SkipInit, 2002.10444).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skipway import AvgPool, Chain, ChainError, Dense, GlobalAvgPool, Learned, MaxPool, Skip

from .entry import Entry, Figure, parameters
from .resnet import STAGES

#: relu times this keeps the variance of a normal law (2101.08692, section 4.3)
GAMMA = math.sqrt(2 / (1 - 1 / math.pi))


def scaled_relu(x: Tensor) -> Tensor:
    """relu, times what makes the variance of a standard normal law 1 again. Shapes: ``(N, *)`` to the same.

    >>> torch.manual_seed(0) and round(scaled_relu(torch.randn(1000, 1000)).var().item(), 2)
    1.0
    """
    return torch.relu(x) * GAMMA


@dataclass(frozen=True)
class Times:
    """A constant factor. Shapes: ``(N, *)`` to the same.

    >>> Times(0.5)(torch.ones(1, 2)).tolist()
    [[0.5, 0.5]]
    """

    by: float

    def __call__(self, x: Tensor) -> Tensor:
        return x * self.by


class ScaledConv(nn.Conv2d):
    """A convolution with standardised weights, times a learned number for each channel that it makes.

    The weights that make one channel are used less their mean, over their deviation and the root of their number, so
    that independent values of variance 1 give such back. ``eps`` is added to their number times their variance.

    Shapes: ``(N, C, H, W)`` to ``(N, out_channels, H', W')``.

    >>> conv = ScaledConv(64, 8, 3)
    >>> weight = conv.standardised()
    >>> round(weight.mean().item(), 6) + 0.0, round(weight[0].square().sum().item(), 3)
    (0.0, 1.0)
    """

    no_decay = ("gain",)

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 0,
        eps: float = 1e-4,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding)
        self.eps = eps
        self.gain = nn.Parameter(torch.ones(out_channels))

    def standardised(self) -> Tensor:
        """The weights as they are used, ``(out_channels, in_channels, k, k)``."""
        number = self.weight[0].numel()
        # layer norm over what makes one channel: one pass, where var_mean and the rest take five
        rows = F.layer_norm(self.weight.flatten(1), (number,), eps=self.eps / number)
        return (rows * (self.gain * number**-0.5)[:, None]).view_as(self.weight)

    def folded(self) -> nn.Conv2d:
        """An ordinary convolution that computes the same, as :func:`skipway.deploy.fold` puts in its place."""
        sizes: tuple[Any, ...] = (self.kernel_size, self.stride, self.padding)
        made = nn.Conv2d(self.in_channels, self.out_channels, *sizes).to(self.weight)
        assert made.bias is not None
        assert self.bias is not None
        with torch.no_grad():
            made.weight.copy_(self.standardised())
            made.bias.copy_(self.bias)
        return made

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.standardised(), self.bias, self.stride, self.padding)


def block(
    start: int, end: int, stride: int, beta: float, alpha: float = 0.2, skip_init: bool = True, down: str = "stride"
) -> Chain:
    """A bottleneck for values of variance ``beta**2``: ``(N, start, H, W)`` to ``(N, end, H/stride, W/stride)``.

    >>> block(8, 8, 1, beta=1.0)
    Skip(Times(by=1.0), scaled_relu, ScaledConv(8, 2, (1, 1)), scaled_relu,
      ScaledConv(2, 2, (3, 3), padding=(1, 1)), scaled_relu, ScaledConv(2, 8, (1, 1)), Times(by=0.2),
      scale=Learned(0.0))
    """
    inner = end // 4
    first: list[Any] = [Times(1 / beta), scaled_relu]
    last = ScaledConv(inner, end, 1)
    body: list[Any] = [
        ScaledConv(start, inner, 1), scaled_relu,
        ScaledConv(inner, inner, 3, stride=stride, padding=1), scaled_relu,
        last, Times(alpha),
    ]  # fmt: skip
    if not skip_init:
        nn.init.zeros_(last.gain)
    scale = Learned(0.0) if skip_init else None
    if start == end and stride == 1:
        return Skip(*first, *body, scale=scale)
    path: nn.Module = ScaledConv(start, end, 1, stride=stride if down == "stride" else 1)
    if down == "mean" and stride > 1:
        path = nn.Sequential(AvgPool(2, ceil_mode=True), path)
    return Chain(*first, body=Skip(*body, scale=scale, path=path))


def nf_resnet(
    depth: int = 50,
    num_classes: int = 1000,
    *,
    alpha: float = 0.2,
    skip_init: bool = True,
    down: Literal["stride", "mean"] = "stride",
    in_channels: int = 3,
) -> Chain:
    """NF-ResNet. Shapes: ``(N, in_channels, H, W)`` to ``(N, num_classes)``; planned for 224 x 224, for any size.

    With depth 50 it has 25,557,032 parameters, as many as ResNet-50 has with its norms, and 16 for SkipInit.

    Parameters
    ----------
    depth:
        50, 101 or 152, as in table 1 of 1512.03385.
    alpha:
        what every branch is multiplied by.
    skip_init:
        a learned number on every branch that begins at 0. Without it, as in NFNets in timm, the gains of the last
        convolution of every branch begin at 0.
    down:
        how a shortcut makes an image smaller: a strided convolution, or the mean of 2 x 2 pixels before it (timm).

    Weights begin from a normal law; its deviation does not matter, since they are standardised. The dense layer begins
    with 0.01, biases at 0.

    Raises
    ------
    ChainError
        for a depth without bottlenecks, an alpha that is not positive, or another word for down.

    >>> with torch.device("meta"):
    ...     net = nf_resnet(50)
    >>> sum(p.numel() for p in net.parameters())
    25557048
    """
    if depth not in (50, 101, 152):
        raise ChainError(f"depth= is 50, 101 or 152 (bottlenecks of table 1 of 1512.03385), not {depth!r}")
    if isinstance(alpha, bool) or not isinstance(alpha, (int, float)) or not 0 < alpha < math.inf:
        raise ChainError(f"alpha= is what a branch is multiplied by, a positive number such as 0.2, not {alpha!r}")
    if down not in ("stride", "mean"):
        raise ChainError(f'down= is "stride" or "mean", how a shortcut makes an image smaller, not {down!r}')
    stages = {}
    before, variance = 64, 1.0
    for i, count in enumerate(STAGES[depth][0]):
        after, row = 256 << i, []
        for k in range(count):
            stride = 2 if i and not k else 1
            row.append(block(before, after, stride, math.sqrt(variance), alpha, skip_init, down))
            variance = (1.0 if before != after else variance) + alpha**2
            before = after
        stages[f"stage{i + 1}"] = Chain(*row)
    net = Chain(
        conv=ScaledConv(in_channels, 64, 7, stride=2, padding=3), pool=MaxPool(3, stride=2, padding=1),
        **stages,
        relu=scaled_relu, mean=GlobalAvgPool(), head=Dense(before, num_classes), input=(in_channels, 224, 224),
    )  # fmt: skip
    for module in net.modules():
        if isinstance(module, ScaledConv):
            nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
        if isinstance(module, (ScaledConv, nn.Linear)) and module.bias is not None:
            nn.init.zeros_(module.bias)
    nn.init.normal_(net["head"].weight, std=0.01)
    return net


NETS = {
    "nf_resnet50": Entry(nf_resnet, {"depth": 50}, [
        parameters(25_557_048, "ResNet-50 with a gain and a bias for each norm, and a number a block"),
        parameters(25_557_032, "timm 1.0.31", skip_init=False, down="mean"),
        Figure("depth", 50, "its name"),
        Figure("projections", 4, "where the shape changes"),
    ]),
}  # fmt: skip


__all__ = ["GAMMA", "ScaledConv", "Times", "block", "nf_resnet", "scaled_relu"]
