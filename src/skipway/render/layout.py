"""Where things go in a drawing: rows for values, lanes for shortcuts. Every renderer draws from this one layout."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

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
    free_from: list[int] = []
    for arc in sorted(arcs, key=lambda a: (a.start, a.end)):
        lane = next((i for i, row in enumerate(free_from) if row <= arc.start), len(free_from))
        free_from[lane : lane + 1] = [arc.end]
        arc.lane = lane


def label(edge: Edge) -> str:
    """What a shortcut does, in a few words: ``add · project 10→5``."""
    shortcut, connection = edge.shortcut, edge.connection
    merge, path = as_merge(shortcut.merge), as_path(shortcut.path)
    words = [merge.word if isinstance(merge, Merge) else describe(merge)]
    made = connection.path if connection is not None else path
    if made is not None and not isinstance(path, Identity):
        word = path.word if isinstance(path, Path) else describe(path)
        if isinstance(path, Project):
            linear = made[0] if hasattr(made, "__getitem__") else made
            widths = [getattr(linear, a, None) for a in ("in_features", "in_channels", "out_features", "out_channels")]
            known = [str(w) for w in widths if w is not None]
            word += f" {'→'.join(known)}" if len(known) == 2 else ""
            stride = max(getattr(linear, "stride", (1,)) or (1,))
            word += f" /{stride}" if stride > 1 else ""
        words.append(word)
    for part, shown in (("scale", "×"), ("path_scale", "path ×")):
        gain = getattr(shortcut, part)
        if gain is not None:
            words.append(f"{shown}{gain:g}" if isinstance(gain, (int, float)) else f"{shown}learned")
    if shortcut.drop:
        p = shortcut.drop if isinstance(shortcut.drop, (int, float)) else shortcut.drop.p
        words.append(f"drop {p:g}")
    if shortcut.tap == "branch":
        words.append("branch")
    if shortcut.act is not None:
        words.append(f"then {value_code(shortcut.act)}")
    return " · ".join(words)
