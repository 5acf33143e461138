"""Nets of dense layers with shortcuts: cascades, Highway, ReZero, and the residual net for tables."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import nn

from skipway import BatchNorm, Chain, Dense, Dropout, Gate, Learned, Skip, dense, every, relu, sigmoid, tanh
from skipway.layer import Act

from .entry import COUNTED, Entry, Figure, parameters
from .initialise import he
from .options import positive


def lang_witbrock(act: Act = sigmoid) -> Chain:
    """The net that learned to tell two spirals apart (Lang and Witbrock 1988): 2-5-5-5-1, everything to everything.

    Every layer reads the input and all layers before it: 138 weights. The last layer is linear here. Shapes: ``(N, 2)``
    to ``(N, 1)``.

    >>> sum(p.numel() for p in lang_witbrock().parameters())
    138
    """
    return _reading_all(2, (5, 5, 5), 1, act)


def cascade(inputs: int = 2, hidden: int = 12, outputs: int = 1, act: Act = tanh) -> Chain:
    """What Cascade-Correlation grows (Fahlman and Lebiere 1990, CMU-CS-90-100): unit by unit, each reads all before it.

    With 2 inputs, 12 hidden units and 1 output 117 weights. This is the grown net; the algorithm that adds a unit and
    freezes its weights is not here. Shapes: ``(N, inputs)`` to ``(N, outputs)``.

    >>> sum(p.numel() for p in cascade(2, 12, 1).parameters())
    117
    """
    positive(inputs=inputs, hidden=hidden, outputs=outputs)
    return _reading_all(inputs, (1,) * hidden, outputs, act)


def _reading_all(inputs: int, widths: Sequence[int], outputs: int, act: Act) -> Chain:
    hidden = Chain(*[Dense(..., width, act) for width in widths], wiring=dense(merge="cat"))
    return Chain(hidden=hidden, head=Dense(..., outputs), input=inputs)


def highway(
    inputs: int = 64, width: int = 32, layers: int = 100, outputs: int = 10, act: Act = tanh, gate_bias: float = -3.0
) -> Chain:
    """Highway net (1505.00387): every layer is ``g * act(W x + b) + (1 - g) * x`` with ``g = sigmoid(V x + c)``.

    The gates have as many parameters as the layers: 64-32x100-10 has 213,610, its plain twin 108,010. Shapes: ``(N,
    inputs)`` to ``(N, outputs)``.

    Parameters
    ----------
    act:
        of the layers. With relu and a hundred layers values may grow without bound; tanh keeps them within -1 and 1.
    gate_bias:
        where c begins: -1 to -4 in the paper, lower for deeper nets, so that the net begins as nearly the identity.

    Weights begin with a variance of 1 / fan-in, 2 / fan-in for relu (1502.01852), biases at 0 but for the gates.

    Raises
    ------
    ChainError
        for a width or a number of layers that is not a positive whole number.

    >>> net = highway(4, 8, 3, 2)
    >>> net["body"].wiring[0]
    Shortcut(0, 1, merge='gate')
    """
    positive(inputs=inputs, width=width, layers=layers, outputs=outputs)
    body = Chain(*[Dense(width, width, act) for _ in range(layers)], wiring=every(1, merge=Gate(gate_bias)))
    net = Chain(stem=Dense(inputs, width, act), body=body, head=Dense(width, outputs))
    for module in net.modules():
        if isinstance(module, nn.Linear):
            gain = math.sqrt(2) if getattr(module, "act", None) is relu else 1.0
            nn.init.normal_(module.weight, std=gain / math.sqrt(module.in_features))
            if isinstance(module, Dense):
                nn.init.zeros_(module.bias)
    return net


def rezero_mlp(inputs: int = 784, width: int = 256, layers: int = 32, outputs: int = 10) -> Chain:
    """ReZero (2003.04887): every layer is ``x + alpha * relu(W x + b)``, and alpha is learned from 0 on.

    The net begins as its first and last layer, with ``layers`` more parameters than its plain twin. Shapes: ``(N,
    inputs)`` to ``(N, outputs)``. Weights begin as in 1502.01852 (variance 2 / fan-in).

    Raises
    ------
    ChainError
        for a width or a number of layers that is not a positive whole number.

    >>> net = rezero_mlp(4, 8, 3, 2)
    >>> [s.scale for s in net["body"].wiring]
    [Learned(init=0.0, per='tensor'), Learned(init=0.0, per='tensor'), Learned(init=0.0, per='tensor')]
    """
    positive(inputs=inputs, width=width, layers=layers, outputs=outputs)
    body = Chain(*[Dense(width, width, relu) for _ in range(layers)], wiring=every(1, scale=Learned(0.0)))
    return he(Chain(stem=Dense(inputs, width, relu), body=body, head=Dense(width, outputs)), "fan_in", dense=True)


def tabular_resnet(
    inputs: int = 8, outputs: int = 1, blocks: int = 2, width: int = 192, hidden: int = 384, dropout: float = 0.15,
    last_dropout: float = 0.0,
) -> Chain:  # fmt: skip
    """The residual net for tables of numbers (2106.11959): blocks of norm, two dense layers and dropout.

    Shapes: ``(N, inputs)`` to ``(N, outputs)``. From 8 numbers to 1 with 2 blocks of 192 and 384 it has 299,137
    parameters; from 54 to 7 with 4 blocks of 256 and 512, 1,070,087.

    Parameters
    ----------
    width, hidden:
        features between the blocks, and between the two dense layers of each.
    dropout, last_dropout:
        probability of dropout after the first and after the second dense layer of a block.

    Weights begin as torch draws them, which the paper's code does too.

    Raises
    ------
    ChainError
        for a size that is not a positive whole number.

    >>> sum(p.numel() for p in tabular_resnet(54, 7, blocks=4, width=256, hidden=512).parameters())
    1070087
    """
    positive(inputs=inputs, outputs=outputs, blocks=blocks, width=width, hidden=hidden)

    def block() -> Skip:
        drop, last = ([Dropout(p)] if p else [] for p in (dropout, last_dropout))
        return Skip(BatchNorm(width), Dense(width, hidden, relu), *drop, Dense(hidden, width), *last)

    return Chain(
        stem=Dense(inputs, width),
        body=Chain(*[block() for _ in range(blocks)]),
        norm=BatchNorm(width), relu=relu, head=Dense(width, outputs),
    )  # fmt: skip


_RTDL = "rtdl_revisiting_models 0.0.2"

NETS = {
    "highway": Entry(highway, figures=[
        parameters(213_610, COUNTED), Figure("parameters of the plain twin", 108_010, COUNTED),
    ]),
    "rezero_mlp": Entry(rezero_mlp, figures=[
        Figure("parameters more than the plain twin", 32, "2003.04887: one number for each of 32 layers"),
    ]),
    "tabular_resnet": Entry(tabular_resnet, figures=[
        parameters(299_137, _RTDL),
        parameters(1_070_087, _RTDL, inputs=54, outputs=7, blocks=4, width=256, hidden=512),
    ]),
    "lang_witbrock": Entry(lang_witbrock, figures=[
        parameters(138, "the number of weights it is known by"), Figure("depth", 4, "2-5-5-5-1"),
    ]),
    "cascade": Entry(cascade, figures=[
        parameters(117, "(I + 1) O + sum over k < n of (I + 1 + k) + n O, with I = 2, n = 12, O = 1"),
    ]),
}  # fmt: skip


__all__ = ["cascade", "highway", "lang_witbrock", "rezero_mlp", "tabular_resnet"]
