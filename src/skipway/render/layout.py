"""Where things go in a drawing: rows for values, lanes for shortcuts. Every renderer draws from this one layout."""

from __future__ import annotations

import heapq
import re
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from skipway.gains import Drop, Learned
from skipway.graph import Edge, Node
from skipway.merges import Merge, as_merge
from skipway.paths import Identity, Path, Project, as_path
from skipway.plan import Plan
from skipway.shortcut import value_code
from skipway.wrap import describe


@dataclass(eq=False)
class Row:
    """A line of the drawing: a value, or the title of a nested chain."""

    depth: int
    title: str
    node: Node | None = None
    module: Any = None
    """The layer, or the nested chain of a title."""
    starts: list[Arc] = field(default_factory=list)
    ends: list[Arc] = field(default_factory=list)


@dataclass(eq=False)
class Arc:
    """A shortcut of the drawing, from one row to a later one, in a lane."""

    edge: Edge
    start: int
    end: int
    lane: int = 0


@dataclass(eq=False)
class Layout:
    """Rows from top to bottom and the arcs beside them."""

    rows: list[Row]
    arcs: list[Arc]

    @property
    def lanes(self) -> int:
        return 1 + max((a.lane for a in self.arcs), default=-1)


def lay_out(plan: Plan) -> Layout:
    """Rows and lanes of a plan whose nested chains are all open.

    An arc takes the innermost lane that is free over its whole length; one may start on the row where another ends.
    """
    rows = [Row(0, "input", plan.nodes[0])]
    place = {0: 0}
    seen: set[str] = set()
    for node in plan.nodes[1:]:
        if node.opens is not None:
            place[node.index] = len(rows) - 1  # the value of a nested chain is the last one inside
            if not node.opens._keys:
                rows.append(Row(node.name.count("."), node.key, node, node.opens))
                place[node.index] = len(rows) - 1
            continue
        parts = node.where.split(".") if node.where else []
        for i in range(len(parts)):
            where = ".".join(parts[: i + 1])
            if where not in seen:
                seen.add(where)
                rows.append(Row(i, parts[i], None, _module(plan.chain, where)))
        rows.append(Row(len(parts), node.key, node, node.layer))
        place[node.index] = len(rows) - 1
    arcs = [Arc(e, place[e.start], place[e.end]) for e in plan.edges]
    _take_lanes(arcs)
    for arc in arcs:
        rows[arc.start].starts.append(arc)
        rows[arc.end].ends.append(arc)
    return Layout(rows, arcs)


def _module(chain: Any, where: str) -> Any:
    for part in where.split("."):
        chain = chain._modules[part]
    return chain


def _take_lanes(arcs: list[Arc]) -> None:
    busy: list[tuple[int, int]] = []
    free: list[int] = []
    for arc in sorted(arcs, key=lambda a: (a.start, a.end)):
        while busy and busy[0][0] <= arc.start:
            heapq.heappush(free, heapq.heappop(busy)[1])
        arc.lane = heapq.heappop(free) if free else len(busy)
        heapq.heappush(busy, (arc.end, arc.lane))


@dataclass(frozen=True)
class Words:
    """What a shortcut does, in words, each for the place where it acts; ``""`` where there is nothing to say."""

    merge: str
    path: str = ""
    scale: str = ""
    path_scale: str = ""
    drop: str = ""
    tap: str = ""
    act: str = ""

    def __str__(self) -> str:
        path_scale = f"path {self.path_scale}" if self.path_scale else ""
        act = f"then {self.act}" if self.act else ""
        told = [self.merge, self.path, self.scale, path_scale, self.drop, self.tap, act]
        return " · ".join(word for word in told if word)


def label(edge: Edge) -> str:
    """What a shortcut does, in a few words: ``add · project 10→5``."""
    return str(words(edge))


def words(edge: Edge) -> Words:
    """What a shortcut does, part by part. Recipes unknown here go by their word or the name of their class."""
    shortcut, connection = edge.shortcut, edge.connection
    path, drop = as_path(shortcut.path), shortcut.drop
    return Words(
        merge=_word(as_merge(shortcut.merge)),
        path=_path(path, connection.path if connection is not None else path),
        scale=_gain(shortcut.scale),
        path_scale=_gain(shortcut.path_scale),
        drop="" if not drop else _drop(drop),
        tap="branch" if shortcut.tap == "branch" else "",
        act="" if shortcut.act is None else value_code(shortcut.act),
    )


def _word(recipe: Any) -> str:
    return str(recipe.word) if isinstance(recipe, (Merge, Path)) else describe(recipe)


def _path(path: Any, made: Any) -> str:
    """The path: a projection with its widths and stride, several steps in a row, nothing for the identity."""
    if made is None or isinstance(path, Identity):
        return ""
    steps = getattr(path, "steps", None)
    if isinstance(path, Path) and isinstance(steps, (list, tuple)):
        return ", ".join(_word(step) for step in steps)
    if not isinstance(path, Project):
        return _word(path)
    parts = [made, *(made.modules() if isinstance(made, nn.Module) else ())]
    linear = next((m for m in parts if hasattr(m, "in_features") or hasattr(m, "in_channels")), None)
    widths = [getattr(linear, a, None) for a in ("in_features", "in_channels", "out_features", "out_channels")]
    known = [str(w) for w in widths if w is not None]
    stride = max((s for m in parts for s in _ints(getattr(m, "stride", 1))), default=1)
    return path.word + (f" {'→'.join(known)}" if len(known) == 2 else "") + (f" /{stride}" if stride > 1 else "")


def _ints(stride: Any) -> list[int]:
    return [s for s in (stride if isinstance(stride, tuple) else (stride,)) if isinstance(s, int)]


def _gain(gain: Any) -> str:
    if gain is None:
        return ""
    if isinstance(gain, (int, float)):
        return f"×{gain:g}"
    return "×learned" if isinstance(gain, Learned) else f"×{_lower(gain)}"


def _drop(drop: Any) -> str:
    p = drop if isinstance(drop, (int, float)) else getattr(drop, "p", None)
    name = "drop" if isinstance(drop, (int, float, Drop)) else _lower(drop)
    return f"{name} {p:.3g}" if isinstance(p, (int, float)) else name


def _lower(thing: Any) -> str:
    """The name of a recipe's class as words, ``squeeze-excite``, or that of a function."""
    name = getattr(thing, "__name__", None)
    return str(name) if name else re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", type(thing).__name__).lower()
