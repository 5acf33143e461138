"""Which blocks of a layout repeat: equal layers, shapes and shortcuts, so that one can be drawn for all."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from skipway.layer import parameters_made

from .layout import Arc, Layout, Row, Words, joining, words
from .text import what

#: of so many equal branches side by side one is drawn for all; two or three are easier seen than counted
ALIKE = 4


@dataclass(eq=False)
class Item:
    """A layer or a nested chain, by the rows it has in the layout."""

    first: int
    last: int
    leaves: tuple[int, int]
    """The values in it, first and last, counted over the whole chain."""
    kids: list[Item] = field(default_factory=list)
    titled: bool = False
    signature: int = 0
    folds: list[tuple[int, int, int]] = field(default_factory=list)
    """Runs of kids that repeat: the first one, how many make the block, how often it stands there."""


class Tree:
    """The items of a layout, with the runs that repeat found.

    ``signatures`` is shared by the trees of branches, so that equal ones are known.
    """

    def __init__(self, layout: Layout, signatures: dict[Any, int] | None = None) -> None:
        self.layout = layout
        self._signatures = {} if signatures is None else signatures
        self.branches: dict[int, list[Tree]] = {
            i: [Tree(branch, self._signatures) for branch in row.branches]
            for i, row in enumerate(layout.rows)
            if row.branches
        }
        """The trees of the branches of a row."""
        self.value: dict[int, int] = {}
        """The number of the value on a row."""
        self.rows: list[int] = []
        for i, row in enumerate(layout.rows):
            if row.node is not None:
                self.value[i] = len(self.rows)
                self.rows.append(i)
        self.own = [_own(row) for row in layout.rows]
        self.kinds = ["" if row.module is None else what(row.module) for row in layout.rows]
        self.arcs_into = [[(self.value[a.start], a) for a in layout.rows[i].ends] for i in self.rows]
        self.arcs_from = [[self.value[a.end] for a in layout.rows[i].starts] for i in self.rows]
        self.words = _all_words(layout.arcs)
        self.held = {id(a): _held(a) for a in layout.arcs}
        self.items = self._items(1, len(layout.rows))
        self.folds = self._repeats(self.items)

    @property
    def size(self) -> int:
        """How many rows with a value there are, those of branches too."""
        return len(self.rows) + sum(tree.size - 1 for trees in self.branches.values() for tree in trees)

    @property
    def signature(self) -> tuple[int, ...]:
        """What equal branches share."""
        return tuple(item.signature for item in self.items)

    def everything(self) -> list[Tree]:
        """This tree and those of all branches in it."""
        inner = [t for trees in self.branches.values() for tree in trees for t in tree.everything()]
        return [self, *inner]

    def runs(self, row: int) -> list[tuple[int, int]]:
        """Neighbouring branches of a row that are equal: the first, and how many, where that saves much."""
        found: list[tuple[int, int]] = []
        trees, i = self.branches[row], 0
        while i < len(trees):
            times = 1
            while i + times < len(trees) and trees[i + times].signature == trees[i].signature:
                times += 1
            found += [(i, times)] if times >= ALIKE else [(i + k, 1) for k in range(times)]
            i += times
        return found

    def _items(self, low: int, high: int) -> list[Item]:
        rows, found, i = self.layout.rows, [], low
        while i < high:
            end = i + 1
            if rows[i].node is None:
                while end < high and rows[end].depth > rows[i].depth:
                    end += 1
            kids = self._items(i + 1, end) if rows[i].node is None else []
            leaves = (kids[0].leaves[0], kids[-1].leaves[1]) if kids else (self.value[i], self.value[i])
            item = Item(i, end - 1, leaves, kids, rows[i].node is None)
            item.folds = self._repeats(kids)
            item.signature = self._sign(item)
            found.append(item)
            i = end
        return found

    def _sign(self, item: Item) -> int:
        """A number that equal items share: equal layers, shapes and shortcuts, relative to where they stand."""
        row, at = self.layout.rows[item.first], item.leaves[0]
        told: Any = [k.signature for k in item.kids]
        if not item.titled:
            told = [
                (at - s, str(self.words[id(a)]), self.held[id(a)], type(a.edge.shortcut.merge).__name__)
                for s, a in self.arcs_into[at]
            ]
            if row.branches:
                told.append((joining(row.module), tuple(tree.signature for tree in self.branches[item.first])))
        shape = "" if row.node is None else str(row.node.form)
        key = (item.titled, self.kinds[item.first], shape, self.own[item.first], tuple(told))
        return self._signatures.setdefault(key, len(self._signatures))

    def _repeats(self, items: list[Item]) -> list[tuple[int, int, int]]:
        found, i = [], 0
        keys = [item.signature for item in items]
        while i < len(items):
            best, saved = (0, 0), 1
            for period in range(1, min(24, (len(items) - i) // 2) + 1):
                times = self._times(items, keys, i, period)
                size = items[i + period - 1].leaves[1] - items[i].leaves[0] + 1
                if (times >= 3 or (times == 2 and size >= 4)) and (times - 1) * size > saved:
                    best, saved = (period, times), (times - 1) * size
            if best[1]:
                found.append((i, *best))
            i += max(1, best[0] * best[1])
        return found

    def _times(self, items: list[Item], keys: list[int], at: int, period: int) -> int:
        """How many equal blocks stand here that can be drawn as one: no shortcut may cross from one to another, but for
        what starts at the value before a block, and what starts at the end of the last one."""
        block = keys[at : at + period]
        times = 0
        while keys[at + times * period : at + (times + 1) * period] == block:
            low = items[at + times * period].leaves[0]
            high = items[at + (times + 1) * period - 1].leaves[1]
            if times and any(end > high for end in self.arcs_from[low - 1]):
                break
            if any(start < low - 1 for v in range(low, high + 1) for start, _ in self.arcs_into[v]):
                break
            if any(end > high for v in range(low, high) for end in self.arcs_from[v]):
                break
            times += 1
        return times

    def forks_in(self, item: Item) -> bool:
        """Whether there are branches in it."""
        return any(item.first <= row <= item.last for row in self.branches)

    def straight(self, item: Item) -> bool:
        """Whether no shortcut starts or ends inside, but for its last value, and one that goes around it."""
        low, high = item.leaves
        return not any(
            any(s >= low for s, _ in self.arcs_into[v]) or (v < high and (self.arcs_into[v] or self.arcs_from[v]))
            for v in range(low, high + 1)
        )


def _own(row: Row) -> int:
    if row.module is None:
        return 0
    return sum(p.numel() for p in {id(p): p for p in parameters_made(row.module)}.values())


def _all_words(arcs: list[Arc]) -> dict[int, Words]:
    """The words of every shortcut. Those with equal options and nothing made for their place share them."""
    known: dict[Any, Words] = {}
    told = {}
    for arc in arcs:
        s, connection = arc.edge.shortcut, arc.edge.connection
        key: Any = None
        if connection is not None and connection.path is None:
            key = (s.merge, s.path, s.scale, s.path_scale, s.drop, s.tap, s.act)
            key = key if all(isinstance(k, (str, int, float, type(None))) for k in key) else None
        if key is None or key not in known:
            told[id(arc)] = words(arc.edge)
            known[key] = told[id(arc)]
        else:
            told[id(arc)] = known[key]
    return told


def _held(arc: Arc) -> int:
    connection = arc.edge.connection
    return sum(p.numel() for p in connection.parameters()) if connection is not None and connection.stateful else 0
