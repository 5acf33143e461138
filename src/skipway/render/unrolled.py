"""A layout as one list of rows: those of branches one after the other, between a title and the row where they meet.

The text table and the page are lists, and show branches so.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from .layout import Arc, Layout, Row, joining, take_lanes

Role = Literal["", "fork", "branch", "meet"]


@dataclass(eq=False)
class Line:
    """One row of the list."""

    row: Row
    """The row of the layout it comes from; two lines share that of a ``Parallel``: its title and where it ends."""
    depth: int
    gutter: str
    """What stands before its name: the tree of branches, two characters for each depth."""
    role: Role
    """``fork``: the title of branches; ``branch``: that of one which is a chain; ``meet``: where they meet."""
    fork: int
    """How many forks it is in."""
    within: int
    """The line of the innermost of them, -1 outside of all."""
    before: list[int]
    """The lines whose values it reads along the chain: several where branches meet."""
    starts: list[Arc] = field(default_factory=list)
    ends: list[Arc] = field(default_factory=list)

    @property
    def title(self) -> str:
        return joining(self.row.module) if self.role == "meet" else self.row.title

    @property
    def is_title(self) -> bool:
        return self.row.node is None or self.role == "fork"

    @property
    def is_value(self) -> bool:
        """Whether a value is there: that of a layer, or the one which a branch begins with."""
        return not self.is_title or self.role == "branch"


@dataclass(eq=False)
class Unrolled:
    """All rows from top to bottom, and the arcs beside them."""

    lines: list[Line]
    arcs: list[Arc]
    origin: dict[int, Arc]
    """The arc of the layout that one here comes from, by its ``id``."""
    first: dict[int, int]
    """The first line of a row of the layout, by its ``id``."""
    last: dict[int, int]
    """The last one: where the branches of a ``Parallel`` meet, otherwise the same."""

    @property
    def lanes(self) -> int:
        return 1 + max((a.lane for a in self.arcs), default=-1)


def unroll(layout: Layout) -> Unrolled:
    """One list of all rows.

    >>> from skipway import Chain, Dense, Parallel, Skip
    >>> from skipway.render.layout import lay_out
    >>> found = unroll(lay_out(Chain(Dense(2, 2), Parallel(Dense(2, 2), Skip(Dense(2, 2)))).plan))
    >>> [line.gutter + line.title for line in found.lines]
    ['input', '0', '1', '├ 0', '├ 1', '│   0', '└ add']
    """
    found = Unrolled([], [], {}, {}, {})
    _put(found, layout, 0, "", 0, -1, -1)
    take_lanes(found.arcs)
    for arc in found.arcs:
        found.lines[arc.start].starts.append(arc)
        found.lines[arc.end].ends.append(arc)
    return found


def _put(found: Unrolled, layout: Layout, depth: int, gutter: str, fork: int, within: int, before: int) -> int:
    """Put down the rows of a layout; those of a branch leave out the input. Returns the line of its last value."""
    place: dict[int, int] = {}
    inside = before >= 0
    if inside:
        place[0] = before
    lines = found.lines
    for i, row in enumerate(layout.rows):
        if inside and i == 0:
            continue
        at = len(lines)
        found.first[id(row)] = found.last[id(row)] = at
        # the first row of a branch hangs on the tree, the others stand beside it
        lead = gutter + ("├ " if i == 1 else "│ ") if inside else ""
        lead += "  " * row.depth
        kept = [before] if before >= 0 else []
        if row.node is None:
            entry = inside and i == 1
            lines.append(Line(row, depth + row.depth, lead, "branch" if entry else "", fork, within, kept))
            if entry:
                before = place[0] = at
            continue
        if not row.branches:
            lines.append(Line(row, depth + row.depth, lead, "", fork, within, kept))
            before = place[i] = at
            continue
        lines.append(Line(row, depth + row.depth, lead, "fork", fork, within, kept))
        under = gutter + "│ " + "  " * row.depth if inside else "  " * row.depth
        ends = [_put(found, b, depth + row.depth + 1, under, fork + 1, at, before) for b in row.branches]
        before = place[i] = found.last[id(row)] = len(lines)
        lines.append(Line(row, depth + row.depth + 1, under + "└ ", "meet", fork, within, ends))
    for arc in layout.arcs:
        moved = Arc(arc.edge, place[arc.start], place[arc.end], within=arc.within)
        found.origin[id(moved)] = arc
        found.arcs.append(moved)
    return before
