"""Where things go in a drawing: rows for values, lanes for shortcuts. Every renderer draws from this one layout."""

from __future__ import annotations

import heapq
import re
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from skipway.edit import nested
from skipway.gains import Drop, Learned
from skipway.graph import Edge, Node
from skipway.merges import Merge, as_merge
from skipway.parallel import Parallel
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
    name: str = ""
    """Its dotted name, from the outermost chain on."""
    branches: list[Layout] = field(default_factory=list)
    """The branches of a ``Parallel``, each with the value they share as its first row."""
    starts: list[Arc] = field(default_factory=list)
    ends: list[Arc] = field(default_factory=list)


@dataclass(eq=False)
class Arc:
    """A shortcut of the drawing, from one row to a later one, in a lane."""

    edge: Edge
    start: int
    end: int
    lane: int = 0
    within: str = ""
    """The dotted name of the branch it belongs to, ``""`` outside of all."""

    @property
    def name(self) -> str:
        if not self.within:
            return self.edge.name
        dot = "." if self.edge.where else ": "
        return f"{self.within}{dot}{self.edge.name}"


@dataclass(eq=False)
class Layout:
    """Rows from top to bottom and the arcs beside them."""

    rows: list[Row]
    arcs: list[Arc]

    @property
    def lanes(self) -> int:
        return 1 + max((a.lane for a in self.arcs), default=-1)

    def all_arcs(self) -> list[Arc]:
        """The shortcuts of the chain and of all branches in it."""
        inner = [a for row in self.rows for branch in row.branches for a in branch.all_arcs()]
        return [*self.arcs, *inner]


def opened(chain: Any) -> Plan:
    """The plan of a chain with all nested chains open; its own where there are none."""
    if not nested(chain):
        plan: Plan = chain.plan
        return plan
    return Plan(chain, chain._form.value, opened=nested(chain), strict=False)


def lay_out(plan: Plan, within: str = "") -> Layout:
    """Rows and lanes of a plan whose nested chains are all open; ``within`` is the branch that it is of.

    An arc takes the innermost lane that is free over its whole length; one may start on the row where another ends.
    """
    dot = f"{within}." if within else ""
    rows = [Row(0, "input", plan.nodes[0], name=f"{dot}input")]
    place = {0: 0}
    seen: set[str] = set()
    for node in plan.nodes[1:]:
        if node.opens is not None:
            place[node.index] = len(rows) - 1  # the value of a nested chain is the last one inside
            if not node.opens._keys:
                rows.append(Row(node.name.count("."), node.key, node, node.opens, dot + node.name))
                place[node.index] = len(rows) - 1
            continue
        parts = node.where.split(".") if node.where else []
        for i in range(len(parts)):
            where = ".".join(parts[: i + 1])
            if where not in seen:
                seen.add(where)
                rows.append(Row(i, parts[i], None, _module(plan.chain, where), dot + where))
        row = Row(len(parts), node.key, node, node.layer, dot + node.name)
        row.branches = _branches(plan, node, row.name)
        rows.append(row)
        place[node.index] = len(rows) - 1
    arcs = [Arc(e, place[e.start], place[e.end], within=within) for e in plan.edges]
    return _with_arcs(rows, arcs)


def _with_arcs(rows: list[Row], arcs: list[Arc]) -> Layout:
    take_lanes(arcs)
    for arc in arcs:
        rows[arc.start].starts.append(arc)
        rows[arc.end].ends.append(arc)
    return Layout(rows, arcs)


def _branches(plan: Plan, node: Node, name: str) -> list[Layout]:
    """The layouts of the branches of a ``Parallel``: a chain under its title, anything else as one row."""
    if not isinstance(node.layer, Parallel) or node.sub is None:
        return []
    found, before = [], plan.nodes[node.index - 1]
    for i, (branch, sub) in enumerate(zip(node.layer.branches, node.sub.subs, strict=True)):
        within = f"{name}.{i}"
        if not hasattr(branch, "wiring"):
            made = lay_out(sub, within)
            row = made.rows[1]
            row.title, row.name = str(i), within
            row.branches = _branches(sub, sub.nodes[1], within)
        elif not branch._keys:
            made = Layout([Row(0, "input", before), Row(0, str(i), sub.nodes[0], branch, within)], [])
        else:
            if nested(branch):
                sub = Plan(branch, before.form.value, opened=nested(branch), strict=False)
            made = lay_out(sub, within)
            made.rows.insert(1, Row(0, str(i), None, branch, within))
            for row in made.rows[2:]:
                row.depth += 1
            for arc in made.arcs:
                arc.start, arc.end = arc.start + (arc.start > 0), arc.end + 1
        made.rows[0].node = before
        found.append(made)
    return found


def joining(parallel: Any) -> str:
    """The word of the merge of a ``Parallel``."""
    return _word(parallel._recipe)


def _module(chain: Any, where: str) -> Any:
    for part in where.split("."):
        chain = chain._modules[part]
    return chain


def take_lanes(arcs: list[Arc]) -> None:
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
