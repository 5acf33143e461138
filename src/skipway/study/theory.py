"""How values and gradients should grow with depth in wide nets, worked out value by value (mean-field theory).

In a wide net with weights drawn around zero, what a dense layer puts out is Gaussian, and independent of everything
before it: so mean squares add up at a merge, and cross terms vanish. A value is kept as a sum of such independent
parts, with the factors it has gathered, since a part that comes along two shortcuts adds before it is squared.
Gradients are treated in the same way from the end (1606.05340, 1611.01232; batch norm 1902.08129; residual nets
1712.08969).

It knows dense layers, activations that work number by number, batch and layer norm, and shortcuts that add or average
with factors, along the identity or a projection. At anything else it stops.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from skipway.graph import Edge, Graph, Node
from skipway.merges import Add, Mean, as_merge
from skipway.spine import unwrap

#: activations that are asked for their mean squares at Gaussian input, by the name of the function or module
_ACTS = {"relu", "tanh", "sigmoid", "gelu", "silu", "elu", "leakyrelu", "leaky_relu", "softplus", "mish", "selu"}
_PASS = {"identity", "flatten"}


class Unknown(Exception):
    """Something that the theory has no law for."""


@dataclass(frozen=True)
class Moments:
    """Of a value's numbers: the mean square, the mean, and the mean product of the same number in two rows."""

    square: float
    mean: float
    rows: float


@dataclass
class Part:
    """One of the independent parts of a value, and which earlier parts it was made of without a new weight."""

    moments: Moments
    kind: str
    """``"gauss"``, ``"positive"``, or ``""`` for another distribution."""
    of: frozenset[int] = frozenset()


@dataclass
class Theory:
    """The mean square of every value of a graph, and the norm of the gradient there over that at the end.

    None where the theory does not reach; ``stopped`` says at what.
    """

    forward: list[float | None] = field(default_factory=list)
    backward: list[float | None] = field(default_factory=list)
    stopped: str = ""


Sum = dict[int, float]


class MeanField:
    """The theory for one graph and one batch of inputs."""

    def __init__(self, graph: Graph, x: Tensor, gaussian: bool) -> None:
        self.graph, self.count = graph, len(x)
        self.parts: list[Part] = []
        self.states: list[Sum] = [self._new(_moments(x), "gauss" if gaussian else "")]
        self.branches: list[Sum] = list(self.states)
        #: what each layer does to the square of a gradient norm, the last first; and each act after a merge
        self.gains: dict[int, list[float]] = {0: []}
        self.acts: dict[Edge, list[float]] = {}
        self.factors: dict[Edge, tuple[float, float, list[float]]] = {}

    def run(self) -> Theory:
        """Forward as far as there are laws, and backward if there are laws for all."""
        theory = Theory([self.moments(self.states[0]).square])
        try:
            for node in self.graph.nodes[1:]:
                self._node(node)
                theory.forward.append(self.moments(self.states[-1]).square)
        except Unknown as stop:
            nodes = len(self.graph.nodes)
            theory.stopped = str(stop)
            theory.forward += [None] * (nodes - len(theory.forward))
            theory.backward = [None] * nodes
            return theory
        theory.backward = list(self._back())
        return theory

    # -- forward -------------------------------------------------------------------------------------------------------

    def _new(self, moments: Moments, kind: str, of: frozenset[int] = frozenset()) -> Sum:
        self.parts.append(Part(moments, kind, of))
        return {len(self.parts) - 1: 1.0}

    def moments(self, value: Sum) -> Moments:
        """Of a sum of independent parts: squares add, and means."""
        mean = sum(factor * self.parts[i].moments.mean for i, factor in value.items())
        square = rows = mean * mean
        for i, factor in value.items():
            part = self.parts[i].moments
            square += factor * factor * (part.square - part.mean**2)
            rows += factor * factor * (part.rows - part.mean**2)
        return Moments(square, mean, rows)

    def _kind(self, value: Sum) -> str:
        kinds = {self.parts[i].kind for i in value}
        if kinds == {"positive"} and min(value.values()) < 0:
            return ""
        return kinds.pop() if len(kinds) == 1 else ""

    def _node(self, node: Node) -> None:
        gains: list[float] = []
        value = self.states[-1]
        if node.layer is not None:
            value = self._layer(node.layer, value, gains)
        self.gains[node.index] = gains
        self.branches.append(value)
        for edge in node.edges:
            value = self._merge(edge, value)
        self.states.append(value)

    def _layer(self, layer: Any, value: Sum, gains: list[float]) -> Sum:
        if isinstance(layer, nn.Sequential):
            for step in layer:
                value = self._layer(step, value, gains)
            return value
        if isinstance(layer, nn.Linear):
            value = self._dense(layer, value, gains)
            act = getattr(layer, "act", None)
            return value if act is None else self._act(act, value, gains)
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            return self._norm(layer, value, gains, over_rows=True)
        if isinstance(layer, nn.LayerNorm):
            return self._norm(layer, value, gains, over_rows=False)
        return self._act(layer, value, gains)

    def _dense(self, layer: nn.Linear, value: Sum, gains: list[float]) -> Sum:
        """Weights around zero: the squares of a row of them times the mean square, and a gradient likewise."""
        known = self.moments(value)
        weight = layer.weight.detach().double()
        each = float(weight.square().mean())
        shift = 0.0 if layer.bias is None else float(layer.bias.detach().double().square().mean())
        gains.append(each * weight.shape[1])
        spread = each * weight.shape[1]
        return self._new(Moments(spread * known.square + shift, 0.0, spread * known.rows + shift), "gauss")

    def _norm(self, layer: Any, value: Sum, gains: list[float], over_rows: bool) -> Sum:
        known = self.moments(value)
        if over_rows:
            variance = (known.square - known.rows) * (1 - 1 / self.count)
            rest, others = 1 - 2 / self.count, -1 / max(1, self.count - 1)
        else:
            variance = known.square - known.mean**2
            rest, others = 1.0, (known.rows - known.mean**2) / variance if variance else 0.0
        size = 1.0 if layer.weight is None else float(layer.weight.detach().square().mean())
        shift = 0.0 if layer.bias is None else float(layer.bias.detach().square().mean())
        if variance <= 0:
            raise Unknown(f"{type(layer).__name__} of values that do not vary")
        scale = size / (variance + layer.eps)
        gains.append(scale * rest)
        square = scale * variance
        kind = "gauss" if self._kind(value) == "gauss" else ""
        return self._new(Moments(square + shift, 0.0, square * others + shift), kind, self._made_of(value))

    def _act(self, act: Any, value: Sum, gains: list[float]) -> Sum:
        function = unwrap(act)
        name = getattr(function, "__name__", type(function).__name__).lower()
        kind = self._kind(value)
        if name in _PASS or (name == "relu" and kind == "positive"):
            return value
        if name not in _ACTS:
            raise Unknown(f"{type(function).__name__ if name == 'wrapped' else name}, for which there is no law here")
        if kind != "gauss":
            raise Unknown(f"{name} of values that are not Gaussian")
        moments, slope = _through(function, name, self.moments(value))
        gains.append(slope)
        return self._new(moments, "positive" if name == "relu" else "", self._made_of(value))

    def _made_of(self, value: Sum) -> frozenset[int]:
        return frozenset(value).union(*(self.parts[i].of for i in value))

    def _merge(self, edge: Edge, branch: Sum) -> Sum:
        connection, merge = edge.connection, as_merge(edge.shortcut.merge)
        if not isinstance(merge, (Add, Mean)):
            raise Unknown(f"a shortcut that merges by {getattr(merge, 'word', type(merge).__name__)}")
        if connection.drop is not None:
            raise Unknown("a branch that is dropped at random")
        start = (self.branches if edge.shortcut.tap == "branch" and edge.start else self.states)[edge.start]
        way: list[float] = []
        brought = start if connection.path is None else self._path(connection.path, start, way)
        half = 0.5 if isinstance(merge, Mean) else 1.0
        ours, theirs = half * _factor(connection.scale), half * _factor(connection.path_scale)
        self._independent(branch, brought)
        value = {i: ours * factor for i, factor in branch.items()}
        for i, factor in brought.items():
            value[i] = value.get(i, 0.0) + theirs * factor
        self.factors[edge] = (ours, theirs, way)
        after: list[float] = []
        if connection.act is not None:
            value = self._act(connection.act, value, after)
        self.acts[edge] = after
        return value

    def _path(self, path: Any, start: Sum, way: list[float]) -> Sum:
        if not isinstance(path, (nn.Linear, nn.Sequential)):
            raise Unknown(f"a shortcut along {getattr(path, '__name__', type(path).__name__)}")
        return self._layer(path, start, way)

    def _independent(self, a: Sum, b: Sum) -> None:
        """Refuse a sum of a value and something made of it without a weight between, such as ``x + relu(x)``."""
        known = self._made_of(b)
        for i in a:
            made = self.parts[i].of if i in b else self.parts[i].of | {i}
            if made & (known - set(self.parts[i].of) - {i} if i in b else known):
                raise Unknown("a sum of values of which one is made of the other without weights between")

    # -- backward ------------------------------------------------------------------------------------------------------

    def _back(self) -> list[float]:
        """The norms of the gradients at all values, that at the last being 1."""
        nodes = self.graph.nodes
        squares = [1.0]
        states: list[Sum] = [{} for _ in nodes]
        branches: list[Sum] = [{} for _ in nodes]
        states[-1] = {0: 1.0}

        def norm(value: Sum) -> float:
            return sum(factor * factor * squares[i] for i, factor in value.items())

        def through(value: Sum, gains: list[float]) -> Sum:
            if not gains:
                return value
            squares.append(norm(value) * math.prod(gains))
            return {len(squares) - 1: 1.0}

        for node in reversed(nodes[1:]):
            value = states[node.index]
            for edge in reversed(node.edges):
                ours, theirs, way = self.factors[edge]
                value = through(value, self.acts[edge])
                tapped = branches if edge.shortcut.tap == "branch" and edge.start else states
                _add(tapped[edge.start], through(value, way), theirs)
                value = {i: ours * factor for i, factor in value.items()}
            value = dict(value)
            _add(value, branches[node.index], 1.0)
            _add(states[node.index - 1], through(value, self.gains[node.index]), 1.0)
        return [math.sqrt(norm(value)) for value in states]


def _add(into: Sum, value: Sum, factor: float) -> None:
    for i, known in value.items():
        into[i] = into.get(i, 0.0) + factor * known


def _moments(x: Tensor) -> Moments:
    flat = x.detach().double().flatten(1)
    rows, square = len(flat), float(flat.square().mean())
    together = float(flat.mean(0).square().mean())  # the mean over all pairs of rows, a row with itself included
    others = (rows * together - square) / (rows - 1) if rows > 1 else 0.0
    return Moments(square, float(flat.mean()), others)


def _factor(gain: Any) -> float:
    """A factor as a number; the root of the mean square of one a channel."""
    if gain is None:
        return 1.0
    if isinstance(gain, (int, float)):
        return float(gain)
    if isinstance(gain, nn.Parameter):
        values = gain.detach().double()
        return float(values) if values.dim() == 0 else float(values.square().mean().sqrt())
    raise Unknown(f"a shortcut with the gain {type(gain).__name__}")


def _through(function: Callable[[Tensor], Tensor], name: str, known: Moments) -> tuple[Moments, float]:
    """Moments of an activation of a Gaussian, and the mean square of its slope."""
    size = math.sqrt(known.square)
    alike = max(-1.0, min(1.0, known.rows / known.square)) if known.square else 0.0
    if name == "relu":  # in closed form, the arc-cosine kernel (Cho and Saul 2009)
        kernel = (math.sqrt(1 - alike * alike) + alike * (math.pi - math.acos(alike))) / math.pi
        return Moments(known.square / 2, size / math.sqrt(2 * math.pi), known.square / 2 * kernel), 0.5
    z = torch.linspace(-8, 8, 1601, dtype=torch.float64)
    weight = torch.exp(-z * z / 2)
    weight /= weight.sum()
    with torch.enable_grad():
        at = (z * size).requires_grad_()
        value = function(at)
        (slope,) = torch.autograd.grad(value.sum(), at)
    value = value.detach()
    coarse, heavy = z[::16], weight[::16] / weight[::16].sum()
    with torch.no_grad():
        first = function(coarse * size)
        second = function(size * (alike * coarse[:, None] + math.sqrt(1 - alike * alike) * coarse[None, :]))
    rows = float((heavy * first * (second @ heavy)).sum())
    return Moments(float(weight @ value**2), float(weight @ value), rows), float(weight @ slope**2)
