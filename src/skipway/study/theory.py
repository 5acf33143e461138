"""How values and gradients should grow with depth in wide nets, worked out value by value (mean-field theory).

In a wide net with weights drawn around zero, what a dense layer puts out is Gaussian, and independent of everything
before it: so mean squares add up at a merge, and cross terms vanish. A value is kept as a sum of such independent
parts, with the factors it has gathered, since a part that comes along two shortcuts adds before it is squared.
Gradients are treated in the same way from the end (1606.05340, 1611.01232; batch norm 1902.08129; residual nets
1712.08969).

It knows dense layers and convolutions, activations that work number by number, batch and layer norm, and shortcuts
that add, average or gate, with factors, along the identity or a projection. At anything else it stops.

Of images the mean square is kept for every position, so that the edges are right, where a convolution sees zeros. The
moments of a batch norm over images are approximate: other positions count as other rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor, nn

from skipway.graph import Edge, Graph, Node
from skipway.merges import Add, Gate, Mean, as_merge
from skipway.spine import unwrap
from skipway.study.moments import Gated, Map, Moments, Taps, Unknown, factor_of, gated, moments_of, through

#: activations that are asked for their mean squares at Gaussian input, by the name of the function or module
_ACTS = {"relu", "tanh", "sigmoid", "gelu", "silu", "elu", "leakyrelu", "leaky_relu", "softplus", "mish", "selu"}
#: what a layer does to the square of a gradient norm, summed over the channels: a factor, or an operation on a map
Gain = Map | Callable[[Map], Map]


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

    None where the theory does not reach; ``stopped`` says at what. ``end`` is the value whose gradient is 1 there: the
    last one, or where the theory stopped the last before it that no shortcut goes around.
    """

    forward: list[float | None] = field(default_factory=list)
    backward: list[float | None] = field(default_factory=list)
    stopped: str = ""
    end: int = -1


Sum = dict[int, float]


class MeanField:
    """The theory for one graph and one batch of inputs."""

    def __init__(self, graph: Graph, x: Tensor, gaussian: bool) -> None:
        self.graph, self.count = graph, len(x)
        self.parts: list[Part] = []
        layers = [m for node in graph.nodes if node.layer is not None for m in node.layer.modules()]
        images = x.dim() > 2 and any(map(_is_conv, layers))
        self.states: list[Sum] = [self._new(moments_of(x, gaussian, images), "gauss" if gaussian else "")]
        self.branches: list[Sum] = list(self.states)
        #: what each layer does to the square of a gradient norm, the last first; and each act after a merge
        self.gains: dict[int, list[Gain]] = {0: []}
        self.acts: dict[Edge, list[Gain]] = {}
        self.factors: dict[Edge, tuple[float, float, list[Gain]]] = {}
        self.gates: dict[Edge, Gated] = {}

    def run(self) -> Theory:
        """Forward as far as there are laws, and backward from there, or from before the shortcuts that lead past."""
        nodes = self.graph.nodes
        theory = Theory([self._square(self.states[0])], end=len(nodes) - 1)
        try:
            for node in nodes[1:]:
                self._node(node)
                theory.forward.append(self._square(self.states[-1]))
        except Unknown as stop:
            theory.stopped = f"{stop} ({nodes[len(theory.forward)].name})"
            theory.end = len(theory.forward) - 1
            theory.forward += [None] * (len(nodes) - len(theory.forward))
            while any(edge.start < theory.end < edge.end for node in nodes for edge in node.edges):
                theory.end -= 1
        theory.backward = [*self._back(theory.end), *[None] * (len(nodes) - 1 - theory.end)]
        return theory

    # -- forward -------------------------------------------------------------------------------------------------------

    def _new(self, moments: Moments, kind: str, of: frozenset[int] = frozenset()) -> Sum:
        self.parts.append(Part(moments, kind, of))
        return {len(self.parts) - 1: 1.0}

    def moments(self, value: Sum) -> Moments:
        """Of a sum of independent parts: squares add, and means."""
        mean: Map = sum(factor * self.parts[i].moments.mean for i, factor in value.items())
        square = rows = mean * mean
        for i, factor in value.items():
            part = self.parts[i].moments
            square = square + factor * factor * (part.square - part.mean**2)
            rows = rows + factor * factor * (part.rows - part.mean**2)
        return Moments(square, mean, rows)

    def _square(self, value: Sum) -> float:
        return float(np.mean(self.moments(value).square))

    def _kind(self, value: Sum) -> str:
        kinds = {self.parts[i].kind for i in value}
        if kinds == {"positive"} and min(value.values()) < 0:
            return ""
        return kinds.pop() if len(kinds) == 1 else ""

    def _node(self, node: Node) -> None:
        gains: list[Gain] = []
        value = self.states[-1]
        if node.layer is not None:
            value = self._layer(node.layer, value, gains)
        self.gains[node.index] = gains
        self.branches.append(value)
        for edge in node.edges:
            value = self._merge(edge, value)
        self.states.append(value)

    def _layer(self, layer: Any, value: Sum, gains: list[Gain]) -> Sum:
        if isinstance(layer, nn.Sequential):
            for step in layer:
                value = self._layer(step, value, gains)
            return value
        if isinstance(layer, nn.Linear) or _is_conv(layer):
            value = (self._conv if _is_conv(layer) else self._dense)(layer, value, gains)
            act = getattr(layer, "act", None)
            return value if act is None else self._act(act, value, gains)
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            return self._norm(layer, value, gains, over_rows=True)
        if isinstance(layer, nn.LayerNorm):
            return self._norm(layer, value, gains, over_rows=False)
        if isinstance(layer, nn.Flatten):
            return self._flatten(value, gains)
        return self._act(layer, value, gains)

    def _dense(self, layer: nn.Linear, value: Sum, gains: list[Gain]) -> Sum:
        """Weights around zero: the squares of a row of them times the mean square, and a gradient likewise."""
        known = self.moments(value)
        if known.is_map:
            raise Unknown("a dense layer on images: flatten them before")
        weight = layer.weight.detach().double()
        each = float(weight.square().mean())
        shift = 0.0 if layer.bias is None else float(layer.bias.detach().double().square().mean())
        gains.append(each * weight.shape[1])
        spread = each * weight.shape[1]
        return self._new(Moments(spread * known.square + shift, 0.0, spread * known.rows + shift), "gauss")

    def _conv(self, layer: Any, value: Sum, gains: list[Gain]) -> Sum:
        """As a dense layer, at each position over those of its taps that lie inside."""
        known = self.moments(value)
        if np.ndim(known.square) != layer.weight.dim() - 2:
            raise Unknown("a convolution of values whose positions are not known")
        taps, shape = Taps(layer), np.shape(known.square)
        weight = layer.weight.detach().double()
        spread = float(weight.square().mean()) * weight.shape[1]
        shift = 0.0 if layer.bias is None else float(layer.bias.detach().double().square().mean())
        gains.append(lambda above: spread * taps.back(above, shape))
        square, rows = (spread * taps(np.broadcast_to(one, shape)) + shift for one in (known.square, known.rows))
        return self._new(Moments(square, np.zeros(np.shape(square)), rows), "gauss")

    def _flatten(self, value: Sum, gains: list[Gain]) -> Sum:
        known = self.moments(value)
        if not known.is_map:
            return value
        shape = np.shape(known.square)
        gains.append(lambda above: np.full(shape, above / math.prod(shape)))
        return self._new(known.flat(), self._kind(value), self._made_of(value))

    def _norm(self, layer: Any, value: Sum, gains: list[Gain], over_rows: bool) -> Sum:
        known = self.moments(value)
        if known.is_map and not over_rows:
            raise Unknown(f"{type(layer).__name__} of images")
        flat, count = known.flat(), self.count * np.size(known.square)
        # what is taken away: the mean over the rows (and positions), or over the features
        off = flat.rows + (flat.square - flat.rows) / count if over_rows else flat.mean**2
        variance = flat.square - off
        learned = 1.0 if layer.weight is None else float(layer.weight.detach().square().mean())
        shift = 0.0 if layer.bias is None else float(layer.bias.detach().square().mean())
        if variance <= 0:
            raise Unknown(f"{type(layer).__name__} of values that do not vary")
        scale = learned / (variance + layer.eps)
        gains.append(scale * (1 - 2 / count if over_rows else 1.0))
        kind = "gauss" if self._kind(value) == "gauss" else ""
        # a position has as much in common with the mean as its size says: all the same, where all are alike
        size = np.sqrt(known.square) if known.is_map else 1.0
        shared = off * (2 * size / np.mean(size) - 1)
        square, rows = (scale * (one - shared) + shift for one in (known.square, known.rows))
        return self._new(Moments(square, 0.0 * known.square, rows), kind, self._made_of(value))

    def _act(self, act: Any, value: Sum, gains: list[Gain]) -> Sum:
        function = unwrap(act)
        name = getattr(function, "__name__", type(function).__name__).lower()
        kind = self._kind(value)
        if name == "identity" or (name == "relu" and kind == "positive"):
            return value
        if name not in _ACTS:
            raise Unknown(type(function).__name__ if name == "wrapped" else name)
        if kind != "gauss":
            raise Unknown(f"{name} of values that are not Gaussian")
        moments, slope = through(function, name, self.moments(value))
        gains.append(slope)
        return self._new(moments, "positive" if name == "relu" else "", self._made_of(value))

    def _made_of(self, value: Sum) -> frozenset[int]:
        return frozenset(value).union(*(self.parts[i].of for i in value))

    def _merge(self, edge: Edge, branch: Sum) -> Sum:
        connection, merge = edge.connection, as_merge(edge.shortcut.merge)
        if not isinstance(merge, (Add, Mean, Gate)):
            raise Unknown(f"a shortcut that merges by {getattr(merge, 'word', type(merge).__name__)}")
        if connection.drop is not None:
            raise Unknown("a branch that is dropped at random")
        start = (self.branches if edge.tap == "branch" else self.states)[edge.start]
        way: list[Gain] = []
        brought = start if connection.path is None else self._path(connection.path, start, way)
        half = 0.5 if isinstance(merge, Mean) else 1.0
        ours, theirs = half * factor_of(connection.scale), half * factor_of(connection.path_scale)
        self._independent(branch, brought)
        if isinstance(merge, Gate):
            law = gated(connection.merge, self.moments(branch).times(ours), self.moments(brought).times(theirs))
            value = self._new(law.moments, "", self._made_of(branch) | self._made_of(brought))
            self.gates[edge] = law
        else:
            value = {i: ours * factor for i, factor in branch.items()}
            for i, factor in brought.items():
                value[i] = value.get(i, 0.0) + theirs * factor
        self.factors[edge] = (ours, theirs, way)
        after: list[Gain] = []
        if connection.act is not None:
            value = self._act(connection.act, value, after)
        self.acts[edge] = after
        return value

    def _path(self, path: Any, start: Sum, way: list[Gain]) -> Sum:
        if not isinstance(path, (nn.Linear, nn.Sequential)) and not _is_conv(path):
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

    def _back(self, end: int) -> list[float]:
        """The norms of the gradients at all values up to one, that at this one being 1."""
        nodes = self.graph.nodes[: end + 1]
        shape = np.shape(self.moments(self.states[end]).square)
        squares: list[Map] = [np.full(shape, 1 / math.prod(shape)) if shape else 1.0]
        states: list[Sum] = [{} for _ in nodes]
        branches: list[Sum] = [{} for _ in nodes]
        states[-1] = {0: 1.0}

        def norm(value: Sum) -> Map:
            return sum(factor * factor * squares[i] for i, factor in value.items())

        def back(value: Sum, gains: list[Gain]) -> Sum:
            if not gains or not value:
                return value
            square = norm(value)
            for gain in reversed(gains):
                square = gain(square) if callable(gain) else gain * square
            squares.append(square)
            return {len(squares) - 1: 1.0}

        for node in reversed(nodes[1:]):
            value = states[node.index]
            for edge in reversed(node.edges):
                ours, theirs, way = self.factors[edge]
                value = back(value, self.acts[edge])
                tapped = branches if edge.tap == "branch" else states
                law = self.gates.get(edge)
                if law is not None:
                    _add(tapped[edge.start], back(back(value, [law.turn]), way), theirs)
                brought = value if law is None else back(value, [law.along[1]])
                _add(tapped[edge.start], back(brought, way), theirs)
                value = {i: ours * f for i, f in (value if law is None else back(value, [law.along[0]])).items()}
            value = dict(value)
            _add(value, branches[node.index], 1.0)
            _add(states[node.index - 1], back(value, self.gains[node.index]), 1.0)
        return [math.sqrt(float(np.sum(norm(value)))) for value in states]


def _is_conv(layer: Any) -> bool:
    return isinstance(layer, (nn.Conv1d, nn.Conv2d, nn.Conv3d))


def _add(into: Sum, value: Sum, factor: float) -> None:
    for i, known in value.items():
        into[i] = into.get(i, 0.0) + factor * known


__all__ = ["MeanField", "Theory"]
