"""What of a layout is drawn: repeats once with their number, nested chains open or closed, a long middle left out.

Whatever is left out is counted: every shortcut of the chain belongs to exactly one :class:`~.view.Link`, or lies inside
one :class:`~.view.Cell`; every branch belongs to exactly one :class:`~.view.Limb`, or is hidden in one cell.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

from .layout import Arc, Layout, Row, joining
from .repeats import Item, Tree
from .view import Band, Cell, Limb, Link, View

#: with more rows than this, norms and activations are drawn with the layer they belong to
JOIN_FROM = 20
#: chains of no more layers than this are drawn as they are
FOLD_FROM = 20
#: with more rows than this, nested chains that no shortcut runs inside of are drawn as one box
CLOSE_FROM = 56
#: more rows than this are never drawn, unless asked for
MOST = 112
#: rows that stay where the middle is left out
FEW = 24
#: more branches side by side than this are never drawn, unless asked for
MOST_BRANCHES = 12


def view(layout: Layout, *, fold: bool | None = None, tree: Tree | None = None) -> View:
    """What is drawn of a layout.

    ``fold=None`` folds repeats and closes nested chains where there would be too many rows, ``True`` folds whatever
    repeats, ``False`` draws every row.

    >>> from skipway import Chain, Dense, every, Skip
    >>> from skipway.render.layout import lay_out
    >>> shown = view(lay_out(Chain(*[Dense(4, 4) for _ in range(50)], wiring=every(2)).plan))
    >>> len(shown.cells), shown.bands[0].times, len(shown.links)
    (3, 25, 1)
    """
    tree = tree or Tree(layout)
    trees = tree.everything()
    folded = fold if fold is not None else tree.size - 1 > FOLD_FROM
    shown = _Emitter(tree, folded)
    if fold is None and shown.size > JOIN_FROM:
        shown = _Emitter(tree, folded, joined=True)
    if fold is None and shown.size > CLOSE_FROM:
        closed = {
            id(t.layout.rows[i.first])
            for t in trees
            for i in _all(t.items)
            if i.titled and i.leaves[1] > i.leaves[0] and t.straight(i) and not t.forks_in(i)
        }
        if closed:
            shown = _Emitter(tree, folded, closed, joined=True)
        holders = _holders(tree)
        for depth in sorted({depth for depth, _ in holders}, reverse=True):
            if shown.size <= MOST:
                break
            closed |= {id(row) for d, row in holders if d == depth}
            shown = _Emitter(tree, folded, closed, joined=True)
        if shown.size > MOST:
            shown.leave_out(FEW // 2, len(shown.cells) - FEW // 2)
    return shown.view(few=fold is None).number()


def _all(items: list[Item]) -> list[Item]:
    return [found for item in items for found in (item, *_all(item.kids))]


def _holders(tree: Tree, depth: int = 0) -> list[tuple[int, Row]]:
    """Titles of nested chains, and forks, with how deep they are."""
    rows = tree.layout.rows
    found = [(depth + row.depth, row) for row in rows if row.node is None or row.branches]
    for i, branches in tree.branches.items():
        found += [pair for branch in branches for pair in _holders(branch, depth + rows[i].depth + 1)]
    return found


class _Emitter:
    """Walks the items and puts down cells and bands.

    ``closed`` are the ids of the rows that are drawn as one box: titles of chains, and forks.
    """

    def __init__(self, tree: Tree, folded: bool, closed: set[int] | None = None, *, joined: bool = False) -> None:
        self.tree, self.folded, self.joined = tree, folded, joined
        self.closed = closed or set()
        rows = tree.layout.rows
        self.cells = [Cell("input", 0, 0, 0, "input", "", _shape(rows[0]), 0, rows[0])]
        self.bands: list[Band] = []
        self.cell_of: dict[int, int] = {0: 0}
        """The cell of a value that is drawn."""
        self.twin: dict[int, int] = {}
        """The drawn value that a folded one stands behind."""
        self._emit(tree.items, tree.folds, 0)
        if joined:
            self._join()
        self.limbs: dict[int, list[_Emitter]] = {
            cell.first: [self._limb(tree.branches[cell.first][at]) for at, _ in self._runs(cell.first)]
            for cell in self.cells
            if cell.kind == "fork"
        }

    def _limb(self, tree: Tree) -> _Emitter:
        return _Emitter(tree, self.folded, self.closed, joined=self.joined)

    def _runs(self, row: int) -> list[tuple[int, int]]:
        if self.folded:
            return self.tree.runs(row)
        return [(i, 1) for i in range(len(self.tree.branches[row]))]

    @property
    def size(self) -> int:
        """How many cells are drawn, those of branches too."""
        return len(self.cells) + sum(
            sum(limb.size - 1 for limb in self.limbs[cell.first][:MOST_BRANCHES])
            for cell in self.cells
            if cell.kind == "fork"
        )

    def _emit(self, items: list[Item], folds: list[tuple[int, int, int]], depth: int) -> None:
        blocks = {at: (period, times) for at, period, times in folds} if self.folded else {}
        i = 0
        while i < len(items):
            period, times = blocks.get(i, (1, 1))
            start = len(self.cells)
            alone = period == 1 and items[i].titled and not self._is_closed(items[i])
            inner = depth + (times > 1 and not alone)
            band = None
            if inner > depth:
                until = self._name(items[i + period * times - 1])
                band = Band(start, start, depth, "", "", 0, times, until, self._name(items[i]))
                self.bands.append(band)
            for item in items[i : i + period]:
                until = self._name(items[i + times - 1]) if alone and times > 1 else ""
                self._one(item, inner, times if alone else 1, until)
            if band is not None:
                band.last = len(self.cells) - 1
            for c in range(1, times):
                for k in range(period):
                    copy, first = items[i + c * period + k], items[i + k]
                    shift = copy.leaves[0] - first.leaves[0]
                    for v in range(copy.leaves[0], copy.leaves[1] + 1):
                        self.twin[v] = v - shift
            i += period * times

    def _is_closed(self, item: Item) -> bool:
        return id(self.tree.layout.rows[item.first]) in self.closed

    def _name(self, item: Item) -> str:
        return self.tree.layout.rows[item.first].title

    def _one(self, item: Item, depth: int, times: int, until: str) -> None:
        tree, row = self.tree, self.tree.layout.rows[item.first]
        count = tree.own[item.first]
        closed = self._is_closed(item)
        if not item.titled or closed:
            last = tree.layout.rows[tree.rows[item.leaves[1]]]
            kind: Literal["layer", "fork", "closed"] = "closed" if closed else "fork" if row.branches else "layer"
            told = tree.kinds[item.first] if not closed else self._contents(item)
            if kind == "fork":
                at = len(self.cells)
                self.bands.append(Band(at, at, depth, row.title, told, count, row=item.first))
                depth += 1
            for v in range(item.leaves[0], item.leaves[1] + 1):
                self.cell_of[v] = len(self.cells)
            self.cells.append(Cell(kind, item.first, item.last, depth, row.title, told, _shape(last), count, last))
            return
        band = Band(len(self.cells), 0, depth, row.title, tree.kinds[item.first], count, times, until, "", item.first)
        self.bands.append(band)
        self._emit(item.kids, item.folds, depth + 1)
        band.last = len(self.cells) - 1

    def _contents(self, item: Item) -> str:
        """The kinds of the layers in a closed chain: all, or those with weights that are no norms, or their number."""
        rows = [self.tree.rows[v] for v in range(item.leaves[0], item.leaves[1] + 1)]
        if not item.titled:
            row = self.tree.layout.rows[item.first]
            return f"{self.tree.kinds[item.first]} of {len(row.branches)}, {joining(row.module)}"
        kinds = [self.tree.kinds[i] for i in rows]
        heavy = [k for i, k in zip(rows, kinds, strict=True) if self.tree.own[i] and "Norm" not in k]
        for told in (kinds, heavy):
            if told and len(" · ".join(told)) <= 34:
                return " · ".join(told)
        return f"{self.tree.kinds[item.first]} of {len(kinds)} layers"

    def _join(self) -> None:
        """Put norms and activations into one cell with the layer before or after them, where no shortcut ends or starts
        between them and they stand in the same chain."""
        cells, groups = self.cells, [[0]]
        first_of = {b.first for b in self.bands}
        last_of = {b.last for b in self.bands}
        touched = self._touched()
        before = False  # whether norms come before weights here, as in 1603.05027
        for i in range(1, len(cells)):
            group, cell = groups[-1], cells[i]
            light = is_light(cell)
            alone = cell.kind != "layer" or i in first_of or i - 1 in last_of or i - 1 in touched or group[-1] == 0
            heavy = any(not is_light(cells[k]) for k in group)
            fits = cell.kind == cells[group[0]].kind == "layer" and cell.depth == cells[i - 1].depth
            weighted = cell.count > 0 and all(is_light(cells[k]) or cells[k].count for k in group)
            if not alone and fits and (light if heavy and not before else (light or weighted) and not heavy):
                group.append(i)
            else:
                if not (fits and not alone):
                    before = light
                groups.append([i])
        move = {i: k for k, group in enumerate(groups) for i in group}
        self.cells = [_joined([cells[i] for i in group]) for group in groups]
        self._move(lambda i: move[i])
        for band in sorted(self.bands, key=lambda b: -b.depth):
            cell = self.cells[band.first]
            if band.first == band.last and band.times == 1 and cell.depth > band.depth and cell.kind != "fork":
                # one cell is all there is in it: a frame around it would say nothing
                cell.title, cell.depth = band.title, band.depth
                self.bands.remove(band)

    def _touched(self) -> set[int]:
        """Cells at whose value a shortcut starts or ends."""
        found: set[int] = set()
        for v, cell in self.cell_of.items():
            if self.tree.arcs_into[v] or self.tree.arcs_from[v]:
                found.add(cell)
        for v in self.twin:
            if self.tree.arcs_from[v]:
                found.add(self.cell_of[self._drawn(v)])
        return found

    def _move(self, place: Callable[[int], int]) -> None:
        self.cell_of = {v: place(i) for v, i in self.cell_of.items()}
        for band in self.bands:
            band.first, band.last = place(band.first), place(band.last)

    def leave_out(self, first: int, last: int) -> None:
        """Put one gap in the place of the cells from ``first`` to before ``last``."""
        cells, gone = self.cells, last - first
        rows = self.tree.layout.rows
        kinds = {c.what for c in cells[first:last]}
        told = f"{gone:,} layers" if len(kinds) > 1 else f"{gone:,} × {kinds.pop()}"
        gap = Cell(
            "gap", cells[first].first, cells[last - 1].last, 0, "⋯", told, cells[last - 1].shape,
            sum(c.count for c in cells[first:last]), rows[self.tree.rows[self.tree.value[cells[last - 1].last]]]
            if cells[last - 1].last in self.tree.value else cells[last - 1].row,
        )  # fmt: skip

        def move(i: int) -> int:
            return i if i < first else first if i < last else i - gone + 1

        self.cells = [*cells[:first], gap, *cells[last:]]
        self.bands = [b for b in self.bands if not (first <= b.first and b.last < last)]
        self._move(move)

    def _drawn(self, value: int) -> int:
        while value in self.twin:
            value = self.twin[value]
        return value

    def view(self, copies: Sequence[Tree] = (), *, few: bool = False, depth: int = 0) -> View:
        """What is drawn; ``copies`` are the trees of equal branches that this one stands for."""
        tree = self.tree
        twins = [{id(a): b for a, b in zip(tree.layout.arcs, c.layout.arcs, strict=True)} for c in copies]
        groups: dict[int, list[Arc]] = {}
        for row in tree.layout.rows:
            for k, arc in enumerate(row.ends):
                end = self._drawn(tree.value[arc.end])
                first = tree.arcs_into[end][k][1]
                groups.setdefault(id(first), [first] if first is not arc else []).append(arc)
        links: list[Link] = []
        bundles: dict[Any, Link] = {}
        for arcs in (groups[id(a)] for _, a in ((i, a) for r in tree.layout.rows for i, a in enumerate(r.ends))
                     if id(a) in groups):  # fmt: skip
            found = list(dict.fromkeys(arcs))
            self._link([*found, *(twin[id(arc)] for twin in twins for arc in found)], links, bundles)
        links.sort(key=lambda link: link.end)
        self._forks(copies, few, depth)
        return View(self.cells, self.bands, links, depth)

    def _forks(self, copies: Sequence[Tree], few: bool, depth: int) -> None:
        """Draw the branches of every fork; those that lie in what is not drawn are counted there."""
        forks: dict[int, list[list[Tree]]] = {}
        for tree in (self.tree, *copies):
            for row, branches in tree.branches.items():
                drawn = self._drawn(self.tree.value[row])
                cell = self.cells[self.cell_of[drawn]]
                if cell.kind == "fork":
                    forks.setdefault(self.cell_of[drawn], []).append(branches)
                else:
                    held = tree.layout.rows[row]
                    cell.inside += [arc for branch in held.branches for arc in branch.all_arcs()]
                    cell.hidden += sum(_branches(branch) for branch in branches) + len(branches)
        for at, found in forks.items():
            cell = self.cells[at]
            runs, made = self._runs(cell.first), self.limbs[cell.first]
            for k, ((first, times), limb) in enumerate(zip(runs, made, strict=True)):
                alike = [tree for branches in found for tree in branches[first : first + times]]
                if few and len(runs) > MOST_BRANCHES and MOST_BRANCHES // 2 <= k < len(runs) - MOST_BRANCHES // 2 + 1:
                    self._leave_limb_out(cell, first, times, alike)
                    continue
                shown = limb.view([t for t in alike if t is not limb.tree], few=few, depth=depth + cell.depth)
                if times > 1:
                    _repeated(shown, first, times)
                cell.limbs.append(Limb(shown, first, times, len(alike)))

    @staticmethod
    def _leave_limb_out(cell: Cell, first: int, times: int, alike: list[Tree]) -> None:
        if not cell.limbs or cell.limbs[-1].view is not None:
            cell.limbs.append(Limb(None, first, 0, 0))
        gap = cell.limbs[-1]
        gap.times, gap.total = gap.times + times, gap.total + len(alike)
        cell.inside += [arc for tree in alike for arc in tree.layout.all_arcs()]
        cell.hidden += sum(_branches(tree) for tree in alike)

    def _link(self, arcs: list[Arc], links: list[Link], bundles: dict[Any, Link]) -> None:
        tree, arc = self.tree, arcs[0]
        start, end = self._drawn(tree.value[arc.start]), tree.value[arc.end]
        a, b = self.cell_of[start], self.cell_of[end]
        if a == b:
            self.cells[a].inside += arcs
            return
        leaves, ends = self._hidden(a, start), self._hidden(b, end)
        link = Link(arcs, a, b, tree.words[id(arc)], tree.held[id(arc)], leaves, ends)
        if leaves or ends:
            key = (a, b, str(link.words), leaves, ends)
            if key in bundles:
                bundles[key].arcs += arcs
                return
            bundles[key] = link
        links.append(link)

    def _hidden(self, cell: int, value: int) -> bool:
        found = self.cells[cell]
        return found.kind == "gap" or (
            found.kind == "closed" and found.row is not self.tree.layout.rows[self.tree.rows[value]]
        )


def _branches(tree: Tree) -> int:
    """How many branches there are in a tree."""
    return sum(1 + _branches(branch) for branches in tree.branches.values() for branch in branches)


def _repeated(shown: View, first: int, times: int) -> None:
    """Say of a branch that it stands for several: on its own frame, or on one around it."""
    outer = next((b for b in shown.bands if b.first == 1 and b.last == len(shown.cells) - 1 and b.depth == 0), None)
    until = str(first + times - 1)
    if outer is not None and outer.times == 1:
        outer.times, outer.until = times, until
        return
    for cell in shown.cells:
        cell.depth += 1
    for band in shown.bands:
        band.depth += 1
    shown.bands.insert(0, Band(1, len(shown.cells) - 1, 0, "", "", 0, times, until, str(first)))


_LIGHT = (
    "relu", "relu6", "gelu", "silu", "swish", "tanh", "sigmoid", "mish", "elu", "selu", "softplus", "leakyrelu",
    "prelu", "leaky_relu", "hardswish", "dropout", "dropout2d", "crelu", "maxout", "threshold", "softsign",
)  # fmt: skip


def is_light(cell: Cell) -> bool:
    """Whether a layer is a norm, an activation or a dropout."""
    first = cell.what.split(" ")[0].split("(")[0]
    return cell.kind == "layer" and ("norm" in first.lower() or first.lower() in _LIGHT)


def _joined(cells: list[Cell]) -> Cell:
    if len(cells) == 1:
        return cells[0]
    names = [c.title for c in cells]
    heavy = next((c.title for c in cells if not is_light(c) and not c.title.isdigit()), None)
    title = f"{names[0]}–{names[-1]}" if names[0].isdigit() and names[-1].isdigit() else heavy or names[0]
    last = cells[-1]
    return Cell(
        "layer", cells[0].first, last.last, last.depth, title, " · ".join(c.what for c in cells), last.shape,
        sum(c.count for c in cells), last.row,
    )  # fmt: skip


def _shape(row: Row) -> str:
    return str(row.node.form) if row.node is not None else ""
