"""``net.draw(...)``: the plan of a chain as a picture. Nothing is run or traced."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from skipway.errors import ChainError, nearest
from skipway.layer import parameters_made
from skipway.plan import Plan

from .fold import view
from .horizontal import Horizontal
from .layout import Layout, lay_out
from .layout import opened as planned
from .parts import head
from .scene import Scene
from .svg import svg
from .vertical import Vertical

Direction = Literal["auto", "horizontal", "vertical"]
Theme = Literal["auto", "light", "dark"]

#: what runs from left to right may be as wide as this; a wider drawing runs down
WIDE = 3900
_KINDS = (".svg", ".png", ".html")


def draw(
    chain: Any,
    path: str | os.PathLike[str] | None = None,
    *,
    direction: Direction = "auto",
    theme: Theme = "auto",
    fold: bool | None = None,
    legend: bool = True,
    title: str | None = None,
) -> str:
    """Draw a chain; see :meth:`skipway.Chain.draw`."""
    _check("direction", direction, ("auto", "horizontal", "vertical"))
    _check("theme", theme, ("auto", "light", "dark"))
    target = None if path is None else Path(path)
    if target is not None and target.suffix.lower() not in _KINDS:
        raise ChainError(f"draw: the name of the file says what is drawn: {', '.join(_KINDS)}, not {target.name!r}")
    kind = ".svg" if target is None else target.suffix.lower()
    plan = planned(chain)
    if kind == ".html":
        from .page import page

        text = page(chain, plan, theme=theme, fold=fold, title=title)
    else:
        made = scene(chain, plan, direction=direction, fold=fold, legend=legend, title=title)
        if kind == ".png":
            from .png import png

            assert target is not None
            _write(target, lambda file: png(made, file, theme=theme))
            return str(target)
        text = svg(made, theme=theme, label=_label(chain, plan))
    if target is None:
        return text
    _write(target, lambda file: file.write_text(text, encoding="utf-8"))
    return str(target)


def in_notebook(chain: Any) -> str:
    """The drawing for a notebook, which scrolls where it is too wide."""
    return f'<div style="overflow-x:auto">{draw(chain)}</div>'


def scene(
    chain: Any,
    plan: Plan,
    *,
    direction: Direction = "auto",
    fold: bool | None = None,
    legend: bool = True,
    title: str | None = None,
    layout: Layout | None = None,
) -> Scene:
    """The drawing of a plan, not written yet."""
    shown = view(layout or lay_out(plan), fold=fold)
    made = sum(p.numel() for p in {id(p): p for p in parameters_made(chain)}.values())
    words = head(chain, plan, made) if title is None else [(title, "title")] if title else []
    if direction == "vertical":
        return Vertical(shown, words, legend=legend).scene
    across = Horizontal(shown, words, legend=legend).scene
    if direction == "horizontal" or across.width <= WIDE:
        return across
    return Vertical(shown, words, legend=legend).scene


def _label(chain: Any, plan: Plan) -> str:
    count = len(plan.edges)
    return (
        f"{type(chain).__name__} of {len(chain)} layers, {plan.input} to {plan.output}, "
        f"{count} shortcut{'s' * (count != 1)}"
    )


def _check(what: str, value: object, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ChainError(f"draw: {what}= is {', '.join(map(repr, known))}, not {value!r}: {nearest(str(value), known)}")


def _write(path: Path, write: Callable[[Path], object]) -> None:
    if not os.path.isdir(path.parent):
        raise ChainError(f"draw: there is no folder {str(path.parent)!r} to write {path.name!r} into: make it first")
    if os.path.isdir(path):
        raise ChainError(f"draw: {str(path)!r} is a folder, not a file")
    try:
        write(path)
    except OSError as error:
        why = error.strerror or type(error).__name__
        raise ChainError(f"draw: {str(path)!r} cannot be written: {why}: choose another folder or name") from error
