"""What a net costs, counted from its plan: parameters, multiply-adds, depth and projections. Nothing is run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from skipway import Chain, ChainError
from skipway.edit import nested
from skipway.gains.attention import SqueezeExciteModule
from skipway.graph import Edge
from skipway.plan import Plan, describe_layer
from skipway.probe import run
from skipway.value import Form, Value


@dataclass(frozen=True)
class Count:
    """How large a net is.

    Attributes
    ----------
    parameters:
        learned numbers; shared ones once.
    macs:
        multiply-adds of convolutions and dense layers for one sample, shortcuts included, biases not: what papers
        call FLOPs.
    depth:
        weighted layers (convolutions and dense) one after the other, those of shortcuts left out, as papers count
        them; of branches side by side, the deepest.
    projections:
        shortcuts whose path has parameters.
    """

    parameters: int
    macs: int
    depth: int
    projections: int


def count(net: Chain, input: Sequence[int] | int | None = None) -> Count:
    """Count a chain for an input of this shape, without the batch axis; by default the one it was built for.

    Raises ``OpenChainError`` for a chain that is open, and ``ChainError`` where the shape of the input is not known or
    does not fit, or a module hides layers whose use cannot be seen.

    >>> from skipway import Conv, Dense, Flatten, Skip
    >>> net = Chain(Skip(Conv(1, 2, 3, padding=1), path="project"), Flatten(), Dense(..., 3), input=(1, 4, 4))
    >>> count(net)
    Count(parameters=121, macs=416, depth=2, projections=1)
    """
    parameters = sum(p.numel() for p in net.parameters())
    value = net.plan.input.value if input is None else Value.of((input,) if isinstance(input, int) else tuple(input))
    plan = Plan(net, value, opened=nested(net))
    plan.check()
    macs, depth, projections = _of_plan(plan)
    return Count(parameters, macs, depth, projections)


def _of_plan(plan: Plan) -> tuple[int, int, int]:
    """Multiply-adds, depth and projections of what a plan describes."""
    macs = depth = projections = 0
    for before, node in zip(plan.nodes, plan.nodes[1:], strict=False):
        if node.layer is not None:
            more, deeper, found = _of_layer(node.layer, before.form, node.arrival, node.sub)
            macs, depth, projections = macs + more, depth + deeper, projections + found
        for edge in node.edges:
            macs += _of_edge(edge, plan)
            path = edge.connection.path
            projections += isinstance(path, nn.Module) and next(path.parameters(), None) is not None
    return macs, depth, projections


def _of_layer(layer: nn.Module, arriving: Form, leaving: Form, sub: Any) -> tuple[int, int, int]:
    branches = getattr(sub, "subs", None)
    if branches is not None:  # a Parallel
        counts = [_of_plan(branch) for branch in branches]
        return sum(c[0] for c in counts), max(c[1] for c in counts), sum(c[2] for c in counts)
    if isinstance(sub, Plan):
        return _of_plan(sub)
    own = _macs(layer, arriving, leaving)
    if own is not None:
        return own, 1, 0
    if isinstance(layer, nn.Sequential):
        return _of_row(layer, arriving)
    hidden = next((m for m in layer.modules() if isinstance(m, _WEIGHTED)), None)
    if hidden is not None:
        raise ChainError(
            f"{describe_layer(layer)} holds {describe_layer(hidden)}, and how often it runs cannot be seen from "
            f"outside: use Chain(...) in its place to have it counted"
        )
    return 0, 0, 0


def _of_row(row: nn.Sequential, arriving: Form) -> tuple[int, int, int]:
    """The layers of a ``nn.Sequential``, which a plan sees as one."""
    total = (0, 0, 0)
    value = arriving.value
    for layer in row:
        after = Value(run(layer, value), value.layout)
        macs, depth, projections = _of_layer(layer, value.form, after.form, None)
        total = (total[0] + macs, total[1] + depth, total[2] + projections)
        value = after
    return total


def _of_edge(edge: Edge, plan: Plan) -> int:
    """Multiply-adds of a shortcut: its path, and its gate or what weighs channels where it has one."""
    start, connection = plan.nodes[edge.start], edge.connection
    form = start.arrival if edge.shortcut.tap == "branch" and edge.start else start.form
    macs = 0
    path = connection.path
    if isinstance(path, Chain):
        macs += _of_plan(Plan(path, form.value, opened=nested(path)))[0]
    elif isinstance(path, nn.Module):
        macs += _of_layer(path, form, Value(run(path, form.value), form.layout).form, None)[0]
    for gate in (getattr(connection.merge, name, None) for name in ("transform", "carry")):
        if isinstance(gate, nn.Module):
            macs += _of_layer(gate, form, form, None)[0]
    for gain in (connection.scale, connection.path_scale):
        if isinstance(gain, SqueezeExciteModule):  # over means, so that every weight is used once
            macs += gain.squeeze.weight.numel() + gain.excite.weight.numel()
    return macs


_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_WEIGHTED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, *_TRANSPOSED)


def _macs(layer: nn.Module, arriving: Form, leaving: Form) -> int | None:
    """Multiply-adds of one convolution or dense layer for one sample; ``None`` for another kind of layer."""
    if not isinstance(layer, _WEIGHTED):
        return None
    # every weight is used once a place: of the output, or for a transposed convolution of the input
    form = arriving if isinstance(layer, _TRANSPOSED) else leaving
    shape = form.shape
    if shape is None or None in shape:
        raise ChainError(
            f"the size of what arrives at {describe_layer(layer)} is not known: say it, count(net, (3, 224, 224))"
        )
    sizes = [s for s in shape if s is not None]
    places = sizes[:-1] if isinstance(layer, nn.Linear) else sizes[-len(layer.kernel_size) :]
    return math.prod(places) * layer.weight.numel()


__all__ = ["Count", "count"]
