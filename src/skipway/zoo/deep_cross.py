"""Deep & Cross, second version (Wang et al. 2020, 2008.13535): features of a table multiplied with each other.

A cross layer multiplies what a dense layer makes of the value with the input of the net, and adds the value itself, so
that after l layers there are products of up to l + 1 features::

    x -> x0 * (W x + b) + x

Beside it, or after it, go dense layers with relu.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from torch import nn

from skipway import Chain, ChainError, Dense, Parallel, cross, relu

from .entry import COUNTED, Entry, Figure, parameters
from .options import positive


def crosses(inputs: int, layers: int, rank: int | None = None) -> Chain:
    """Cross layers: ``(N, inputs)`` to the same. With ``rank``, W is the product of two matrices of this rank.

    >>> crosses(8, 2, rank=3)
    Chain(Chain(Dense(8, 3, bias=False), Dense(3, 8)), Chain(Dense(8, 3, bias=False), Dense(3, 8)), wiring=cross())
    """

    def layer() -> Any:
        return Dense(inputs, inputs) if rank is None else Chain(Dense(inputs, rank, bias=False), Dense(rank, inputs))

    return Chain(*[layer() for _ in range(layers)], wiring=cross())


def deep_cross(
    inputs: int = 16,
    outputs: int = 1,
    layers: int = 3,
    hidden: Sequence[int] = (64, 64),
    structure: Literal["stacked", "parallel"] = "stacked",
    rank: int | None = None,
) -> Chain:
    """Deep & Cross. Shapes: ``(N, inputs)`` to ``(N, outputs)``; categories come in as their embeddings.

    Parameters
    ----------
    layers:
        cross layers, of ``inputs**2 + inputs`` parameters each.
    hidden:
        widths of the dense layers with relu.
    structure:
        dense layers after the cross layers (``"stacked"``), or both over the input and their results side by side
        (``"parallel"``).
    rank:
        of W in every cross layer, below ``inputs``: ``2 * rank * inputs`` weights in the place of ``inputs**2``.

    Weights begin as Glorot and Bengio draw them, biases at 0.

    Raises
    ------
    ChainError
        for a size that is not a positive whole number, no hidden layers, another structure, or a rank that would save
        nothing.

    >>> net = deep_cross(4, layers=2, hidden=(8,))
    >>> net["cross"].wiring
    (Shortcut('input', 1, merge='mul'), Shortcut(0, 1), Shortcut('input', 2, merge='mul'), Shortcut(1, 2))
    """
    positive(inputs=inputs, outputs=outputs, layers=layers, rank=1 if rank is None else rank)
    for width in hidden:
        positive(hidden=width)
    if not hidden:
        raise ChainError("hidden= has no widths: without dense layers there is no deep part, take crosses(...) alone")
    if structure not in ("stacked", "parallel"):
        raise ChainError(f'structure= is "stacked" or "parallel" (2008.13535, figure 1), not {structure!r}')
    if rank is not None and 2 * rank >= inputs:
        raise ChainError(f"rank={rank} saves nothing over {inputs} inputs: it has to be below {inputs / 2:g}")
    deep = Chain(*[Dense(..., width, relu) for width in hidden])
    parts: dict[str, Any] = {"cross": crosses(inputs, layers, rank), "deep": deep}
    if structure == "parallel":
        parts = {"both": Parallel(*parts.values(), merge="cat")}
    net = Chain(**parts, head=Dense(..., outputs), input=inputs)
    for module in net.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_normal_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return net


NETS = {
    "deep_cross": Entry(deep_cross, figures=[
        parameters(3 * (16 * 16 + 16) + 17 * 64 + 65 * 64 + 65, COUNTED),
        parameters(3 * (2 * 4 * 16 + 16) + 17 * 64 + 65 * 64 + 65, COUNTED, rank=4),
        parameters(3 * (16 * 16 + 16) + 17 * 64 + 65 * 64 + 81, COUNTED, structure="parallel"),
        Figure("parameters more than the plain twin", 0, "2008.13535: a shortcut of a cross layer has none"),
    ]),
}  # fmt: skip


__all__ = ["crosses", "deep_cross"]
