"""A page to explore a chain with: one file that holds everything, and asks nothing of a network."""

from __future__ import annotations

import html
import json
from importlib import resources
from typing import Any

from skipway.layer import parameters_made
from skipway.plan import Plan

from .fold import view
from .layout import lay_out
from .parts import category_of, features, head
from .repeats import Item, Tree
from .scene import SIGNS
from .theme import DARK, FONT, LIGHT, Theme

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
    script = f'(() => {{\n"use strict";\n{_file("page.js")}\n{_file("page_hands.js")}}})();'
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
    tree = Tree(layout)
    closed = [] if fold is False else _closed(tree, fold)
    sources: dict[str, int] = {}
    told: dict[str, int] = {}
    rows = []
    for i, row in enumerate(layout.rows):
        node = row.node
        what = tree.kinds[i]
        kind = "title" if node is None else "input" if not i else category_of(what, tree.own[i])
        made = node.source if node is not None else getattr(row.module, "source", "")
        source = sources.setdefault(str(made or ""), len(sources))
        name = node.name if node is not None else ""
        width = features(node.arrival if node is not None and i else node.form if node is not None else None)
        shape = str(node.form) if node is not None else ""
        rows.append([row.depth, row.title, what, shape, tree.own[i], kind, source, name, width or 0])
    arcs = []
    for arc in layout.arcs:
        w, shortcut = tree.words[id(arc)], arc.edge.shortcut
        label = told.setdefault(str(w), len(told))
        merge = told.setdefault(w.merge, len(told))
        source = sources.setdefault(shortcut.source, len(sources))
        arcs.append(
            [arc.start, arc.end, int(shortcut.tap == "branch"), merge, label, tree.held[id(arc)], source, arc.edge.name]
        )
    return {
        "rows": rows, "arcs": arcs, "folds": _folds(tree), "closed": closed, "words": list(told),
        "sources": list(sources), "signs": SIGNS, "folded": fold is not False,
    }  # fmt: skip


def _folds(tree: Tree) -> list[list[Any]]:
    """``[first row, last row of the first block, last row of all, times, since, until]`` of blocks that repeat."""
    found = []

    def walk(items: list[Item], folds: list[tuple[int, int, int]]) -> None:
        rows = tree.layout.rows
        for at, period, times in folds:
            last, end = items[at + period - 1], items[at + period * times - 1]
            since, until = rows[items[at].first].title, rows[items[at + period * (times - 1)].first].title
            if period > 1:
                until = rows[end.first].title
            found.append([items[at].first, last.last, end.last, times, since, until])
        for item in items:
            walk(item.kids, item.folds)

    walk(tree.items, tree.folds)
    return found


def _closed(tree: Tree, fold: bool | None) -> list[int]:
    """Title rows that are closed at first: the innermost, until there are not too many rows."""
    shown = view(tree.layout, fold=True, tree=tree)
    if fold or len(shown.cells) <= _OPEN:
        return []
    deep = sorted({r.depth for r in tree.layout.rows if r.node is None}, reverse=True)
    closed: list[int] = []
    left = len(shown.cells)
    for depth in deep:
        if left <= _OPEN:
            break
        closed += [i for i, r in enumerate(tree.layout.rows) if r.node is None and r.depth == depth]
        left = sum(1 for c in shown.cells if c.depth <= depth) + len(closed)
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
