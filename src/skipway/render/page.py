"""A page to explore a chain with: one file that holds everything, and asks nothing of a network."""

from __future__ import annotations

import html
import json
from importlib import resources
from typing import Any

from skipway.layer import parameters_made
from skipway.plan import Plan

from .fold import view
from .layout import Row, lay_out
from .parts import category_of, features, head
from .repeats import Item, Tree
from .scene import SIGNS
from .theme import DARK, FONT, LIGHT, Theme
from .unrolled import Unrolled, unroll

#: nested chains are closed at first where a page would begin with more rows than this
_OPEN = 150


def page(chain: Any, plan: Plan, *, theme: str = "auto", fold: bool | None = None, title: str | None = None) -> str:
    """The text of the page.

    >>> from skipway import Dense, Skip
    >>> from skipway.render.draw import planned
    >>> net = Skip(Dense(4, 4))
    >>> page(net, planned(net)).startswith("<!doctype html>")
    True
    """
    made = sum(p.numel() for p in {id(p): p for p in parameters_made(chain)}.values())
    words = [text for text, _ in head(chain, plan, made)]
    title = "".join(words) if title is None else title
    rules = _colours() + _file("page.css")
    script = f'(() => {{\n"use strict";\n{_file("page.js")}\n{_file("page_paths.js")}\n{_file("page_hands.js")}}})();'
    data = json.dumps(_data(plan, fold), ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    body = _file("page.html")
    put = {"TITLE": html.escape(title), "STYLE": rules, "DATA": data, "SCRIPT": script, "THEME": html.escape(theme)}
    for key, text in put.items():
        body = body.replace(f"<!--{key}-->", text)
    return body


def _file(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _data(plan: Plan, fold: bool | None) -> dict[str, Any]:
    """What the page knows: rows, shortcuts and folds, as short as JSON can be."""
    layout = lay_out(plan)
    tree, found = Tree(layout), unroll(layout)
    closed = [] if fold is False else _closed(tree, found, fold)
    about = {id(row): (t, i) for t in tree.everything() for i, row in enumerate(t.layout.rows)}
    said = {at: w for t in tree.everything() for at, w in t.words.items()}
    held = {at: count for t in tree.everything() for at, count in t.held.items()}
    sources: dict[str, int] = {}
    told: dict[str, int] = {}
    rows = []
    for i, line in enumerate(found.lines):
        row, node = line.row, line.row.node
        inside, at = about[id(row)]
        what, own = (inside.kinds[at], inside.own[at]) if line.role != "meet" else ("", 0)
        kind = line.role or ("title" if node is None else "input" if not i else category_of(what, own))
        made = node.source if node is not None else getattr(row.module, "source", "")
        source = sources.setdefault(str(made or ""), len(sources))
        value = node is not None and line.role != "fork"
        form = (node.arrival if i else node.form) if value and node is not None else None
        shape = str(node.form) if value and node is not None else ""
        rows.append(
            [line.depth, line.title, what, shape, own, kind, source, row.name, features(form) or 0, line.fork,
             line.within, line.before]
        )  # fmt: skip
    arcs = []
    for arc in found.arcs:
        from_, shortcut = id(found.origin[id(arc)]), arc.edge.shortcut
        w = said[from_]
        label = told.setdefault(str(w), len(told))
        merge = told.setdefault(w.merge, len(told))
        source = sources.setdefault(shortcut.source, len(sources))
        arcs.append([arc.start, arc.end, int(shortcut.tap == "branch"), merge, label, held[from_], source, arc.name])
    return {
        "rows": rows, "arcs": arcs, "folds": _folds(tree, found), "closed": closed, "words": list(told),
        "sources": list(sources), "signs": SIGNS, "folded": fold is not False,
    }  # fmt: skip


def _folds(tree: Tree, lines: Unrolled) -> list[list[Any]]:
    """``[first line, last line of the first block, last line of all, times, since, until]`` of what repeats: blocks,
    and branches side by side."""
    found = []

    def walk(rows: list[Row], items: list[Item], folds: list[tuple[int, int, int]]) -> None:
        for at, period, times in folds:
            last, end = rows[items[at + period - 1].last], items[at + period * times - 1]
            since, until = rows[items[at].first].title, rows[items[at + period * (times - 1)].first].title
            if period > 1:
                until = rows[end.first].title
            first = lines.first[id(rows[items[at].first])]
            found.append([first, lines.last[id(last)], lines.last[id(rows[end.last])], times, since, until])
        for item in items:
            walk(rows, item.kids, item.folds)

    for part in tree.everything():
        walk(part.layout.rows, part.items, part.folds)
        for row in part.branches:
            branches = part.layout.rows[row].branches
            for at, times in part.runs(row):
                if times > 1:
                    ends = [lines.last[id(branches[k].rows[-1])] for k in (at, at + times - 1)]
                    first = lines.first[id(branches[at].rows[1])]
                    found.append([first, *ends, times, str(at), str(at + times - 1)])
    return found


def _closed(tree: Tree, found: Unrolled, fold: bool | None) -> list[int]:
    """Title lines that are closed at first: the innermost, until there are not too many rows."""
    shown = [(v.depth + cell.depth, cell) for v in view(tree.layout, fold=True, tree=tree).views() for cell in v.cells]
    if fold or len(shown) <= _OPEN:
        return []
    titles = [(line.depth, i) for i, line in enumerate(found.lines) if line.is_title]
    closed: list[int] = []
    left = len(shown)
    for depth in sorted({depth for depth, _ in titles}, reverse=True):
        if left <= _OPEN:
            break
        closed += [i for d, i in titles if d == depth]
        left = sum(1 for d, _ in shown if d <= depth) + len(closed)
    return closed


def _colours() -> str:
    """Light, and dark where the page or its reader says so: ``data-theme`` is what was asked for, and can be turned."""
    dark = _variables(":root[data-theme=auto]", DARK)
    return (
        _variables(":root", LIGHT)
        + f"@media (prefers-color-scheme:dark){{{dark}}}"
        + _variables(":root[data-theme=dark]", DARK)
    )


def _variables(root: str, theme: Theme) -> str:
    told = {"paper": theme.paper, "font": FONT, "scheme": theme.name}
    told |= {f"{k}-fill": fill for k, (fill, _) in theme.boxes.items()}
    told |= {f"{k}-line": line for k, (_, line) in theme.boxes.items()}
    told |= {f"l-{k}": colour for k, colour in theme.lines.items()}
    told |= {f"t-{k}": colour for k, colour in theme.words.items()}
    return f"{root}{{{''.join(f'--{k}:{v};' for k, v in told.items())}}}"
