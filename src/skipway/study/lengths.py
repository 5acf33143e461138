"""Path lengths by dynamic programming, exact for any wiring: the counts of all lengths in one big integer.

The paths from the input to a value, sorted by length, are a polynomial: the coefficient of ``z ** k`` counts those of
length k. A layer multiplies it by ``z ** length``, a value adds up what its branch and its shortcuts bring. At z = 1 it
is the number of paths; at ``z = 2 ** bits``, with more bits than that number has, the coefficients lie side by side in
the integer and can be read off. So the same few additions and shifts of integers do both.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import nn

from skipway.chain import Chain
from skipway.edit import nested
from skipway.errors import ChainError
from skipway.graph import Graph
from skipway.parallel import Parallel
from skipway.wiring import Pattern, Wirings, resolve

Unit = Literal["layers", "blocks"]


@dataclass
class Place:
    """How paths come to one value: through a layer from the value before, and along shortcuts."""

    layer: Any
    """The layer, None where nothing is between (after an opened chain), or a length."""
    shortcuts: list[tuple[int, bool, Any]] = field(default_factory=list)
    """Where each starts, whether it taps the branch there, and the path it takes."""
    branch: bool = True
    """Whether the branch goes on (it does not if its scale is the number 0)."""


def places(net: Chain) -> list[Place]:
    """The values of a chain after its input, with all chains inside opened."""
    found = []
    for node in Graph(net, nested(net)).nodes[1:]:
        place = Place(node.layer)
        for edge in node.edges:
            shortcut = edge.shortcut
            place.branch = place.branch and shortcut.scale != 0
            if shortcut.path_scale != 0:
                place.shortcuts.append((edge.start, edge.tap == "branch", edge.connection.path))
        found.append(place)
    return found


def places_of(shortcuts: NDArray[np.int64], layers: int) -> list[Place]:
    """The values of a chain of so many layers that are alike, known by its wiring alone: what :func:`ends_of` gives."""
    found = [Place(1) for _ in range(layers)]
    for start, end, tapped in shortcuts.tolist():
        found[end - 1].shortcuts.append((start, bool(tapped and start), None))
    return found


def ends_of(wiring: Any, layers: int) -> NDArray[np.int64]:
    """The shortcuts of a wiring over so many layers, a row each: start, end, whether it taps the branch."""
    found = _ends(wiring, layers)
    misfits = found[(found[:, 0] < 0) | (found[:, 0] >= found[:, 1]) | (found[:, 1] > layers)]
    if len(misfits):
        start, end, _ = misfits[0].tolist()
        raise ChainError(f"a shortcut {start} -> {end} does not fit a chain of {layers} layers, values 0 to {layers}")
    return found


def _ends(wiring: Any, layers: int) -> NDArray[np.int64]:
    if isinstance(wiring, Wirings):
        return np.concatenate([_ends(part, layers) for part in wiring.parts])
    if isinstance(wiring, Pattern) and isinstance(ends := wiring.ends(layers), np.ndarray):
        return np.insert(ends, 2, wiring.opts.get("tap") == "branch", axis=1)  # half a million, without a Shortcut each
    rows = [
        (_position(shortcut.start, layers), _position(shortcut.end, layers), shortcut.tap == "branch")
        for shortcut in resolve(wiring, layers)
    ]
    return np.array(rows, dtype=np.int64).reshape(-1, 3)


def _position(end: Any, layers: int) -> int:
    known = {"input": 0, "output": layers}
    if isinstance(end, str) and end not in known:
        raise ChainError(f"a wiring alone has no layer named {end!r}: give the chain instead")
    return known[end] if isinstance(end, str) else end + (layers + 1) * (end < 0)


@dataclass
class Spread:
    """The polynomial of every value at ``z = 2 ** bits``: ``states`` after its merges, ``branches`` before them."""

    states: list[int]
    branches: list[int]
    bits: int

    def count(self, value: int, length: int) -> int:
        """How many paths of a length a polynomial counts."""
        return (value >> (self.bits * length)) & ((1 << self.bits) - 1) if length >= 0 else 0

    def counts(self) -> tuple[int, ...]:
        """The paths to the last value, by length."""
        step = self.bits // 8
        data = self.states[-1].to_bytes(-(-self.states[-1].bit_length() // 8) or 1, "little")
        return tuple(int.from_bytes(data[i : i + step], "little") for i in range(0, len(data), step))


def spread(found: Sequence[Place], unit: Unit) -> Spread:
    """All paths by length. Exact."""
    reads = _differences(found)
    total = _run(found, reads, unit, 0).states[-1]
    return _run(found, reads, unit, -(-(total.bit_length() + 1) // 8) * 8)


Reads = list[tuple[bool, list[tuple[int, bool]], list[tuple[int, bool]]]]


def _differences(found: Sequence[Place]) -> Reads:
    """What each value reads along shortcuts without a path of their own, as what to add and to take from a running sum.

    Dense wirings read nearly the same values again and again. The first of the three says to begin a new sum.
    """
    reads: Reads = []
    before: set[tuple[int, bool]] = set()
    for place in found:
        free = [(start, tapped) for start, tapped, path in place.shortcuts if path is None]
        now = set(free)
        changed = now ^ before
        if len(now) < len(free):  # two shortcuts between the same values
            reads.append((True, free, []))
            now = set()
        elif len(changed) < len(now):
            reads.append((False, list(changed & now), list(changed - now)))
        else:
            reads.append((True, free, []))
        before = now
    return reads


def _run(found: Sequence[Place], reads: Reads, unit: Unit, bits: int) -> Spread:
    states, branches = [1], [1]
    summed = 0
    for place, (anew, more, less) in zip(found, reads, strict=True):
        branches.append(_through(place.layer, states[-1], unit, bits))
        value = branches[-1] if place.branch else 0
        if unit == "blocks" and place.shortcuts:
            value <<= bits
        summed = 0 if anew else summed
        for start, tapped in more:
            summed += (branches if tapped else states)[start]
        for start, tapped in less:
            summed -= (branches if tapped else states)[start]
        value += summed
        for start, tapped, path in place.shortcuts:
            if path is not None:
                value += _through(path, (branches if tapped else states)[start], unit, bits)
        states.append(value)
    return Spread(states, branches, bits)


def _through(part: Any, value: int, unit: Unit, bits: int) -> int:
    """The paths to what a layer, or the path of a shortcut, makes of a value."""
    if isinstance(part, Chain):
        inside = places(part)
        return value * _run(inside, _differences(inside), unit, bits).states[-1]
    if isinstance(part, Parallel):
        return sum(_through(branch, value, unit, bits) for branch in part.branches)
    if isinstance(part, nn.Sequential):
        for step in part:
            value = _through(step, value, unit, bits)
        return value
    return value << (bits * length_of(part, unit))


def length_of(part: Any, unit: Unit) -> int:
    """How long the way through one layer is: its weights of two axes or more, one behind the other.

    >>> length_of(nn.Linear(2, 2), "layers"), length_of(nn.BatchNorm1d(2), "layers")
    (1, 0)
    """
    if isinstance(part, int):
        return part if unit == "layers" else 0
    if unit == "blocks" or not isinstance(part, nn.Module):
        return 0
    return sum(any(p is not None and p.dim() > 1 for p in module._parameters.values()) for module in part.modules())


def between(known: Sequence[tuple[int, float]], length: int) -> float:
    """The logarithm of a norm, on a line between those measured."""
    below = [(k, norm) for k, norm in known if k <= length]
    above = [(k, norm) for k, norm in known if k >= length]
    (a, low), (b, high) = (below or above[:1])[-1], (above or below[-1:])[0]
    if a == b or min(low, high) <= 0:
        return log_of(low if a == length else min(low, high))
    return log_of(low) + (length - a) / (b - a) * (log_of(high) - log_of(low))


def log_of(value: float) -> float:
    return math.log(value) if value > 0 else -math.inf


def told(count: int) -> str:
    """A count in full up to a million million, then with its power of ten.

    >>> told(4096), told(2**300)
    ('4,096', '2.04e+90')
    """
    if count < 10**12:
        return f"{count:,}"
    power = int(math.log10(count))
    return f"{count // 10 ** (power - 6) / 10**6:.2f}e+{power}"
