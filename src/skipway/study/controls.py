"""What a net with shortcuts is compared with: its plain twin, and plain nets as large or as costly as itself."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from skipway.chain import Chain
from skipway.errors import ChainError
from skipway.layers import BatchNorm, Conv, Dense, LayerNorm
from skipway.parallel import Parallel
from skipway.spine import unwrap
from skipway.words import describe_layer

#: a control is left out where its number is as close as this to that of the net
CLOSE = 0.01


@dataclass(frozen=True)
class Controls:
    """Functions that make a net and its controls, by name, and what each is, in words.

    Attributes
    ----------
    nets:
        name to function, as :func:`skipway.study.compare` takes them; the first is the net itself.
    notes:
        what each is. Also says why a control is missing.
    """

    nets: dict[str, Callable[[], Chain]]
    notes: dict[str, str]

    def __str__(self) -> str:
        wide = max(map(len, self.notes))
        return "\n".join(f"{name:{wide}}  {note}" for name, note in self.notes.items())


def controls(net: Chain | Callable[[], Chain]) -> Controls:
    """The controls of a net: what else could have been done with its layers, its parameters and its multiply-adds.

    - ``plain``: the same layers without the shortcuts (``net.plain()``).
    - ``plain, as many parameters``: with all widths but the first and the last multiplied, until it has as many
      parameters as the net. Left out where the plain twin is within 1 % already, as with identity shortcuts.
    - ``plain, as many MACs``: the same for multiply-adds.

    Parameters
    ----------
    net:
        a function that makes the net, called anew for every seed; or a chain, whose layers the net and the plain twin
        then begin with. Wider controls begin as torch makes them.

    Raises
    ------
    ChainError
        for what makes no chain, and a net without shortcuts.

    >>> from skipway import Skip, relu
    >>> made = controls(lambda: Chain(*[Skip(Dense(8, 8, relu), merge="gate") for _ in range(3)], Dense(8, 2)))
    >>> {name: sum(p.numel() for p in make().parameters()) for name, make in made.nets.items()}
    {'net': 450, 'plain': 234, 'plain, as many parameters': 446, 'plain, as many MACs': 446}
    """
    from skipway.zoo.cost import count

    def make() -> Chain:
        made = copy.deepcopy(net) if isinstance(net, Chain) else net()
        if not isinstance(made, Chain):
            raise ChainError(f"controls are made of a Chain, and this made a {type(made).__name__}")
        made._need_closed("controls")
        return made

    with torch.random.fork_rng(devices=[]):
        first = make()
        if not any(module.wiring for module in first.modules() if isinstance(module, Chain)):
            raise ChainError("this net has no shortcuts, so it is its own plain twin: nothing to compare it with")
        nets: dict[str, Callable[[], Chain]] = {"net": make, "plain": lambda: make().plain()}
        twin, shape = first.plain(), _known(first)
        sizes = _Sizes(twin, shape)
        notes = {
            "net": f"{_size(first)} parameters",
            "plain": f"the same layers without shortcuts, {_size(twin)} parameters",
        }
        for name, of in (("parameters", "parameters"), ("MACs", "macs")):
            key = f"plain, as many {name}"
            try:
                goal, have = getattr(count(first, shape), of), getattr(count(twin, shape), of)
                if abs(have - goal) <= CLOSE * goal:
                    notes[key] = f"left out: the plain twin has {have:,} {name}, the net {goal:,}"
                    continue
                factor = sizes.match(goal, of)
                if abs(sizes.at(factor, of) - goal) >= abs(have - goal):
                    notes[key] = (
                        f"left out: no other width comes closer than the plain twin, {have:,} (the net {goal:,})"
                    )
                    continue
            except ChainError as error:
                notes[key] = f"left out: {error}"
                continue
            nets[key] = lambda factor=factor: widened(make().plain(), factor)  # type: ignore[misc]
            found = sizes.at(factor, of)
            notes[key] = f"the plain twin {factor:.2f} times as wide, {found:,} {name} (the net {goal:,})"
    return Controls(nets, notes)


def _size(net: Chain) -> str:
    return f"{sum(p.numel() for p in net.parameters()):,}"


def _known(net: Chain) -> list[int] | None:
    """The shape of the input, where all of it is known."""
    shape = net.plan.input.shape
    return None if shape is None or None in shape else [size for size in shape if size is not None]


class _Sizes:
    """What the plain twin costs at other widths; each width is built once."""

    def __init__(self, twin: Chain, shape: list[int] | None) -> None:
        self.twin, self.shape, self.known = twin, shape, {}  # type: ignore[var-annotated]

    def at(self, factor: float, of: str) -> int:
        from skipway.zoo.cost import count

        if factor not in self.known:
            with torch.device("meta"):
                self.known[factor] = count(widened(self.twin, factor), self.shape)
        number: int = getattr(self.known[factor], of)
        return number

    def match(self, goal: int, of: str) -> float:
        """The factor of the widths with which ``of`` is closest to ``goal``."""
        low, high = 1.0 / 64, 1.0
        while self.at(high, of) < goal:
            low, high = high, high * 2
            if high > 64:
                raise ChainError("no width makes the plain net as large")
        for _ in range(6):  # numbers grow about with the square of the width: straight lines between the roots
            ends = math.sqrt(self.at(low, of)), math.sqrt(self.at(high, of))
            middle = low + (high - low) * (math.sqrt(goal) - ends[0]) / (ends[1] - ends[0] or 1.0)
            if not low < middle < high or abs(self.at(middle, of) - goal) < CLOSE / 10 * goal:
                break
            low, high = (middle, high) if self.at(middle, of) < goal else (low, middle)
        return min(self.known, key=lambda factor: abs(self.at(factor, of) - goal))


def widened(net: Chain, factor: float) -> Chain:
    """A plain chain with ``factor`` times the width in all layers but the last, and fresh weights.

    Raises ``ChainError`` for a chain with shortcuts, and for layers whose width cannot be changed from outside.

    >>> widened(Chain(Dense(4, 8), nn.Tanh(), Dense(8, 2)), 1.5)
    Chain(Dense(4, 12), nn.Tanh(), Dense(..., 2))
    """
    if any(chain.wiring for chain in net.modules() if isinstance(chain, Chain)):
        raise ChainError("only a plain net is made wider: take net.plain()")
    weighted = [m for m in net.modules() if isinstance(m, (nn.Linear, nn.modules.conv._ConvNd))]
    if len(weighted) < 2:
        raise ChainError("a net of one layer has no width to change")
    unit = max((m.groups for m in weighted if isinstance(m, nn.modules.conv._ConvNd)), default=1)
    made = _chain(net, _Widths(factor, unit, weighted[0], weighted[-1]))
    shape = _known(net)
    if made.is_open and shape is not None:
        made.build(shape)
    return made.train(net.training)


@dataclass(frozen=True)
class _Widths:
    factor: float
    unit: int
    first: nn.Module
    last: nn.Module

    def of(self, layer: nn.Module, width: int) -> int:
        if layer is self.last:
            return width
        return max(1, round(width * self.factor / self.unit)) * self.unit


def _chain(chain: Chain, widths: _Widths) -> Chain:
    layers: dict[str, Any] = {key: _layer(chain._modules[key], widths) for key in chain._keys}
    if all(name is None for name in chain._names):
        return Chain(*layers.values())
    return Chain(layers)


def _layer(held: Any, widths: _Widths) -> Any:
    layer = unwrap(held)
    if isinstance(layer, Chain):
        return _chain(layer, widths)
    if isinstance(layer, Parallel):
        return layer.with_branches([_layer(branch, widths) for branch in layer.branches])
    if isinstance(layer, nn.Linear):
        arrives: Any = layer.in_features if layer is widths.first else ...
        return Dense(arrives, widths.of(layer, layer.out_features), _act(layer), layer.bias is not None)
    if isinstance(layer, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
        return Conv(
            layer.in_channels if layer is widths.first else ..., widths.of(layer, layer.out_channels),
            layer.kernel_size, _act(layer), stride=layer.stride, padding=layer.padding, groups=layer.groups,
            dilation=layer.dilation, bias=layer.bias is not None, padding_mode=layer.padding_mode,
        )  # fmt: skip
    if isinstance(layer, nn.modules.batchnorm._BatchNorm):
        return BatchNorm(..., layer.eps, layer.momentum, layer.affine, layer.track_running_stats)
    if isinstance(layer, nn.LayerNorm) and len(layer.normalized_shape) == 1:
        return LayerNorm(..., layer.eps, layer.elementwise_affine, layer.bias is not None)
    if isinstance(layer, nn.Module) and any(True for _ in (*layer.parameters(), *layer.buffers())):
        raise ChainError(f"{describe_layer(layer)} cannot be made wider from outside")
    return copy.deepcopy(layer)


def _act(layer: nn.Module) -> Any:
    return copy.deepcopy(getattr(layer, "act", None))
