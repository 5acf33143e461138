"""The graph of a chain: its values as nodes, its layers and shortcuts as edges. No shapes yet.

Nested chains that a shortcut reaches into are *opened*: their values become nodes of the outer graph. Others stay
closed and are one layer.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from .errors import nearest
from .gains import DropPath, Gain, as_drop, as_scale
from .layer import is_tied
from .merges import Merge, as_merge
from .paths import Path, Route
from .shortcut import End, Shortcut, Tap
from .spine import Spine, adopt, unwrap
from .value import Form
from .wrap import is_leaf


@dataclass(eq=False)
class Edge:
    """A shortcut of the graph: from one node to a later one."""

    shortcut: Shortcut
    start: int
    end: int
    owner: Any
    where: str
    """Dotted name of the chain whose wiring it belongs to, ``""`` for the outermost."""
    tap: Tap = "state"
    """What it takes of its start; the input of a chain has no branch, also where that is a value of a chain around."""

    @property
    def name(self) -> str:
        return f"{self.where}: {self.shortcut.label}" if self.where else self.shortcut.label

    def joins(self, other: Edge) -> bool:
        """Whether it merges at once with another that ends at the same value."""
        a, b = self.shortcut, other.shortcut
        merge = as_merge(a.merge)
        if not isinstance(merge, Merge) or not merge.joint:
            return False
        same = merge == as_merge(b.merge) and as_drop(a.drop) == as_drop(b.drop)
        same = same and as_scale(a.scale) == as_scale(b.scale) and a.act == b.act
        return same and self.owner is other.owner

    @property
    def connection(self) -> Any:
        """The modules and parameters it works with, once they exist."""
        return self.owner._connections.get(self.shortcut.label)


@dataclass(eq=False)
class Node:
    """A value: what a layer puts out, after the merges of the shortcuts that end there."""

    index: int
    name: str
    layer: nn.Module | None = None
    """The layer that makes it. ``None`` for the input, and for the value after an opened chain."""
    owner: Any = None
    where: str = ""
    key: str = ""
    edges: list[Edge] = field(default_factory=list)
    """The shortcuts that end here, in the order in which they merge."""
    leaves: list[Edge] = field(default_factory=list)
    """The shortcuts that start here."""
    opens: Any = None
    """The opened chain that ends with this value."""
    form: Form = field(default_factory=Form)
    arrival: Form = field(default_factory=Form)
    """The form of the branch: what the layer puts out before the merges."""
    sub: Any = None
    """The plan of a nested chain that is not opened."""
    mutates: bool = False
    """Whether the layer changes its input in place."""

    @property
    def meetings(self) -> list[list[Edge]]:
        """``edges`` as they merge: one after the other, neighbours with the same joint merge at once."""
        found: list[list[Edge]] = []
        for edge in self.edges:
            if found and edge.joins(found[-1][0]):
                found[-1].append(edge)
            else:
                found.append([edge])
        return found

    @property
    def source(self) -> str:
        return str(getattr(self.layer, "source", None) or getattr(self.owner, "source", "unknown"))

    @property
    def last_reader(self) -> int:
        """The node after which nothing reads this value any more, the next one at least."""
        return max([self.index + 1, *(e.end for e in self.leaves)])


class Graph:
    """Nodes and edges of a chain; ``problems`` lists what is wrong with its names and ends."""

    def __init__(self, chain: Spine, opened: Iterable[str] = (), *, check: bool = False) -> None:
        self.chain = chain
        self.nodes: list[Node] = [Node(0, "input", owner=chain)]
        self.names: dict[str, int] = {}
        self.problems: list[str] = []
        #: values that a later layer changes in place; ``None`` where that was not looked at
        self.overwritten: set[int] | None = None
        self._opened = set(opened)
        self._spread(chain, "", 0)
        if check:
            self._check_shared()

    # -- nodes ---------------------------------------------------------------------------------------------------------

    def _spread(self, chain: Any, prefix: str, at: int) -> list[int]:
        """Add the values of a chain whose input is node ``at``; returns the node of each of its positions."""
        for shortcut in chain.wiring:
            for end in (shortcut.start, shortcut.end):
                parts = str(end).split(".")[:-1] if isinstance(end, str) else []
                self._opened |= {prefix + ".".join(parts[: i + 1]) for i in range(len(parts))}
        values, inner = [at], {}
        self.names[f"{prefix}input"] = at
        for key in chain._keys:
            layer, name = chain._modules[key], prefix + key
            if name in self._opened and hasattr(layer, "wiring"):
                inner[key] = self._spread(layer, f"{name}.", len(self.nodes) - 1)
                node = Node(len(self.nodes), name, owner=chain, where=prefix[:-1], key=key, opens=layer)
            else:
                node = Node(len(self.nodes), name, layer, chain, prefix[:-1], key)
            self.nodes.append(node)
            self.names[name] = node.index
            values.append(node.index)
        self.names[f"{prefix}output"] = values[-1]
        self._connect(chain, prefix, values)
        return values

    # -- edges ---------------------------------------------------------------------------------------------------------

    def _connect(self, chain: Any, prefix: str, values: list[int]) -> None:
        labels: dict[str, Shortcut] = {}
        for shortcut in chain.wiring:
            where = f"shortcut {shortcut.label!r} ({shortcut.source})"
            if shortcut.key in labels:
                self.problems.append(
                    f"{where}: there is another shortcut of this name ({labels[shortcut.key].source}): "
                    f"give one of them name=..."
                )
                continue
            labels[shortcut.key] = shortcut
            start = self._resolve(shortcut.start, chain, prefix, values, where, "start")
            end = self._resolve(shortcut.end, chain, prefix, values, where, "end")
            if start is None or end is None:
                continue
            if end <= start:
                what = "goes from a value to itself" if start == end else "goes backwards"
                self.problems.append(
                    f"{where}: it {what}, from {self.nodes[start].name!r} to {self.nodes[end].name!r}: "
                    + ("a shortcut needs at least one layer between its ends" if start == end else "swap its ends")
                )
                continue
            into = start == values[0] or str(shortcut.start).endswith(".input")
            edge = Edge(shortcut, start, end, chain, prefix[:-1], "state" if into else shortcut.tap)
            self.nodes[end].edges.append(edge)
            self.nodes[start].leaves.append(edge)

    def _resolve(self, end: End, chain: Any, prefix: str, values: list[int], where: str, which: str) -> int | None:
        n = len(values) - 1
        if isinstance(end, int):
            if -n - 1 <= end <= n:
                return values[end]
            self.problems.append(
                f"{where}: its {which} is {end}, and this chain has {n} layer{'s' * (n != 1)}, so its values are 0 to "
                f"{n}: was the wiring written for another depth?"
            )
            return None
        found = self.names.get(prefix + end)
        if found is not None:
            return found
        holder, path = chain, end.split(".")
        for i, part in enumerate(path[:-1]):
            layer = holder._modules.get(part) if part in holder._keys else None
            if layer is None:
                break
            if not hasattr(layer, "wiring"):
                inside = ".".join(path[: i + 1])
                self.problems.append(
                    f"{where}: its {which} {end!r} is inside {inside!r}, a {type(layer).__name__}: only the values of "
                    f"a Chain have names; make it a Chain"
                )
                return None
            holder = layer
        known = [name[len(prefix) :] for name in self.names if name.startswith(prefix)]
        known += [".".join([*path[:-1], k]) for k in holder._keys] if len(path) > 1 else []
        self.problems.append(
            f"{where}: there is no value {end!r} for its {which}: {nearest(end, dict.fromkeys(known))}"
        )
        return None

    # -- checks --------------------------------------------------------------------------------------------------------

    def _check_shared(self) -> None:
        """One layer object at two places shares its weights: only on purpose."""
        seen: dict[int, str] = {}
        for name, place in _places(self.chain, ""):
            module, twice = next(((m, k) for m, k in _parts_held(place) if k in seen), (place, 0))
            if twice and seen[twice] != name:
                self.problems.append(
                    f"{name!r} and {seen[twice]!r} are the same {type(unwrap(module)).__name__} object "
                    f"({getattr(module, 'source', self.chain.source)}), so they would share their weights: make a new "
                    f"one for each place, or wrap it in tie(...) to share on purpose"
                )
            for _, key in _parts_held(place):
                seen.setdefault(key, name)

    def bare_drops(self) -> list[str]:
        """Random drops along the spine that no shortcut goes around: they would drop the only path."""
        bare, reach = [], 0
        for before, node in zip(self.nodes, self.nodes[1:], strict=False):
            reach = max([reach, *(e.end for e in before.leaves)])
            if reach >= node.index:
                continue
            if node.layer is not None:
                bare += [node.name + inner for inner in _drops(node.layer)]
        return bare


def _drops(layer: Any) -> list[str]:
    """Where a layer drops everything that passes through it: its own path after the layer's name."""
    if isinstance(layer, DropPath):
        return [""] if layer.p else []
    if isinstance(layer, nn.Sequential):
        return [f".{key}{inner}" for key, part in layer._modules.items() for inner in _drops(part)]
    branches = [_drops(branch) for branch in getattr(layer, "branches", ())]
    if branches:
        return [f".0{branches[0][0]}"] if all(branches) else []  # one that is not dropped is a path around the others
    return [f".{inner}" for inner in getattr(layer, "_bare_drops", ())]


def _parts_held(place: nn.Module) -> list[tuple[nn.Module, int]]:
    """The modules and callables at a place whose sharing would share weights, with what identifies them."""
    if is_tied(place):
        return []
    held = []
    for module in place.modules():
        if not is_tied(module) and _state_of(module):
            held.append((module, id(unwrap(module))))
    return held


def _state_of(module: nn.Module) -> bool:
    """Whether a module has parameters or buffers of its own, or waits for them."""
    own = [*module._parameters.values(), *module._buffers.values()]
    return any(t is not None for t in own) or bool(getattr(module, "is_open", False))


def holds_state(module: nn.Module) -> bool:
    """Whether sharing a module would share something it learns or counts."""
    return any(_state_of(m) for m in module.modules())


def _places(chain: Any, prefix: str) -> Iterable[tuple[str, nn.Module]]:
    """Every place of a module in a tree of chains: layers, and modules given to shortcuts."""
    for key in chain._keys:
        layer = chain._modules[key]
        yield f"{prefix}{key}", layer
    for shortcut in chain.wiring:
        for part, held in _given(shortcut):
            yield f"{part} of {prefix}{shortcut.label}", adopt(held, f"{part} of {shortcut.label!r}")


def _given(shortcut: Shortcut) -> Iterable[tuple[str, Any]]:
    """The callables and modules that a shortcut was given, other than recipes."""
    for part in ("scale", "path", "path_scale", "merge", "act"):
        held = getattr(shortcut, part)
        for i, one in enumerate(held.steps if isinstance(held, Route) else (held,)):
            recipe = not callable(one) or isinstance(one, (Merge, Path, Gain))
            if isinstance(one, nn.Module) or not (recipe or is_leaf(one)):
                yield f"{part}{f', step {i},' if i else ''}", one
