"""FractalNet (1605.07648): the deepest column is the chain, and the columns beside it are its shortcuts.

A block grows by one rule: one column is a convolution, and C + 1 columns are two blocks of C after each other, beside
one convolution, joined by a mean::

    f(z) = join(conv(z), g(g(z)))

Joins that meet are one. So a block of C columns is a chain of ``2 ** (C - 1)`` convolutions, and the convolution of
another column is the *path* of a shortcut around 2, 4, 8, ... of them: there is no way without one, and nothing is a
residual. For three columns::

    0 ──conv── 1 ──conv── 2 ──conv── 3 ──conv── 4
    └────────conv─────────┴────────conv─────────┤
    └───────────────────conv────────────────────┘

In training every join drops columns: each with probability ``drop_path``, but never all (local), or all columns of the
net but one (global). After it every column is a net of its own: see :func:`column`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from skipway import (
    BatchNorm,
    Chain,
    ChainError,
    Conv,
    Dense,
    Dropout,
    GlobalAvgPool,
    Join,
    MaxPool,
    Shortcut,
    global_drop_path,
    relu,
)

from .entry import COUNTED, Entry, Figure, parameters
from .options import positive


def layer(start: int, end: int, dropout: float = 0.0) -> Chain:
    """What is called a convolution here. Shapes: ``(N, start, H, W)`` to ``(N, end, H, W)``.

    >>> layer(3, 8)
    Chain(Conv(3, 8, 3, padding=1, bias=False), BatchNorm(num_features=8), relu)
    """
    drop = [Dropout(dropout)] if dropout else []
    return Chain(Conv(start, end, 3, padding=1, bias=False), *drop, BatchNorm(end), relu)


def fractal(columns: int, start: int, end: int, drop_path: float = 0.15, dropout: float = 0.0) -> Chain:
    """A block of that many columns: ``2 ** columns - 1`` convolutions.

    Shapes: ``(N, start, H, W)`` to ``(N, end, H, W)``.

    >>> [s.label for s in fractal(3, 8, 8).wiring]
    ['0->2', '2->4', '0->4']
    """
    length = 2 ** (columns - 1)
    wiring = []
    for at in range(1, length + 1):
        shorter = [k for k in range(1, columns) if at % 2**k == 0]
        # column 0 is the shallowest; the branch, which is the chain itself, belongs to the deepest
        join = Join(drop_path, columns=(columns - 1, *(columns - 1 - k for k in shorter)))
        for k in shorter:
            before = at - 2**k
            wiring.append(Shortcut(before, at, merge=join, path=layer(end if before else start, end, dropout)))
    return Chain(*[layer(end if i else start, end, dropout) for i in range(length)], wiring=wiring)


def fractalnet(
    columns: int = 3,
    widths: Sequence[int] = (64, 128, 256, 512, 512),
    drop_path: float = 0.15,
    share: float = 0.5,
    dropout: float | Sequence[float] | None = None,
    num_classes: int = 10,
    in_channels: int = 3,
) -> Chain:
    """FractalNet for CIFAR: blocks, and a max pool over 2x2 pixels after each.

    Shapes: ``(N, in_channels, 32, 32)`` to ``(N, num_classes)``; five blocks need images of 32 pixels or more. With
    three columns it is 20 convolutions deep and has 33,724,618 parameters. The paper prints 38.6M, which its
    description does not give.

    Parameters
    ----------
    columns:
        C of the paper. The net is ``len(widths) * 2 ** (C - 1)`` convolutions deep.
    widths:
        channels of each block.
    drop_path:
        the probability with which a join drops each column.
    share:
        of the training forwards, in which all joins of the net let the same one column through, drawn anew for every
        batch (:func:`skipway.global_drop_path`).
    dropout:
        probability of dropout after the convolutions, one for all blocks or one for each; by default that of the paper,
        0, 0.1, 0.2, 0.3 and 0.4.

    Weights begin as Glorot and Bengio draw them (uniform).

    Raises
    ------
    ChainError
        for less than one column, or not as many probabilities of dropout as there are blocks.

    >>> net = fractalnet(columns=2, widths=(4, 8))
    >>> [len(net["block1"]), net["block1"].wiring[0].label, net["block1"].shortcuts["0->2"].path[0]]
    [2, '0->2', Conv2d(3, 4, 3, padding=1, bias=False)]
    """
    positive("C of 1605.07648", columns=columns)
    if dropout is None:
        dropout = [i / 10 for i in range(len(widths))]
    elif isinstance(dropout, (int, float)):
        dropout = [dropout] * len(widths)
    if not widths or len(dropout) != len(widths):
        raise ChainError(f"dropout= has a probability for each of the {len(widths)} blocks of widths=, not {dropout!r}")
    parts: dict[str, Any] = {}
    start = in_channels
    for i, (width, p) in enumerate(zip(widths, dropout, strict=True), 1):
        parts[f"block{i}"] = fractal(columns, start, width, drop_path, p)
        parts[f"pool{i}"] = MaxPool(2)
        start = width
    net = Chain(**parts, mean=GlobalAvgPool(), head=Dense(start, num_classes), input=(in_channels, 32, 32))
    for module in net.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.xavier_uniform_(module.weight)
    if columns > 1 and share:
        global_drop_path(net, share)
    return net


def column(net: Chain, which: int) -> Chain:
    """One column of a :func:`fractalnet` as a plain net with the same weights: 0 is the shallowest, -1 the deepest.

    The shallow ones answer sooner, the deep ones better. Shapes: those of ``net``.

    Raises ``ChainError`` for a column that is not there.

    >>> net = fractalnet(columns=3, widths=(4, 8))
    >>> [[len(column(net, c)[f"block{b}"]) for b in (1, 2)] for c in (0, 1, 2)]
    [[1, 1], [2, 2], [4, 4]]
    """
    parts: dict[str, Any] = {}
    for name, part in net.named_children():
        parts[name] = _column(part, which) if isinstance(part, Chain) else part
    size: Any = net.plan.input.shape
    return Chain(**parts, input=size).train(net.training)


def _column(block: Chain, which: int) -> Chain:
    columns = len(block).bit_length()
    if isinstance(which, bool) or not isinstance(which, int) or not -columns <= which < columns:
        raise ChainError(f"there are {columns} columns, 0 to {columns - 1}: no column {which!r}")
    step = 2 ** (columns - 1 - which % columns)
    if step == 1:
        return Chain(*block)
    return Chain(*[block.shortcuts[f"{k}->{k + step}"].path for k in range(0, len(block), step)])


_FRACTAL = "1605.07648"

NETS = {
    "fractalnet20": Entry(fractalnet, {"columns": 3}, [
        parameters(33_724_618, f"{COUNTED}; imgclsmob. {_FRACTAL} prints 38.6M, which its description does not give"),
        parameters(33_770_788, f"{COUNTED}; imgclsmob", num_classes=100),
        Figure("depth", 21, f"{_FRACTAL}: 20, and the dense layer"),
        Figure("projections", 15, f"{_FRACTAL}: convolutions beside the deepest column, three a block"),
    ]),
}  # fmt: skip
# the family is checked as the net it makes by default
NETS["fractalnet"] = Entry(fractalnet, figures=NETS["fractalnet20"].figures)


__all__ = ["column", "fractal", "fractalnet", "layer"]
