"""What is said once of a whole drawing: its title above, the legend below."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from .parts import legend
from .scene import Box, Line, Scene, Sign, Step, Text, text_width
from .view import View

MARGIN = 16.0


def add_legend(scene: Scene, view: View, unplaced: Sequence[int], *, short: bool = False) -> None:
    """Signs and their words in rows below the drawing, no wider than that."""
    room = max(scene.width, 360.0)
    x, y = 0.0, scene.height + 18
    for sign, words in legend(view, unplaced, short=short):
        width = text_width(words, 10) + 30
        if x and x + width > room:
            x, y = 0.0, y + 19
        kind = sign
        if sign in ("line", "dashed"):
            steps: tuple[Step, ...] = (("M", x, y + 4), ("C", x + 2, y - 9, x + 16, y - 9, x + 18, y + 4))
            scene.lines.append(Line(steps, "arc legend" + (" loose" if sign == "dashed" else ""), 1.5))
        elif sign == "thick":
            scene.lines.append(Line((("M", x, y), ("L", x + 9, y)), "spine", 2))
            scene.lines.append(Line((("M", x + 9, y), ("L", x + 18, y)), "spine", 7))
        elif kind:
            scene.signs.append(Sign(x + 9, y, kind))
        start = x + 24 if sign else x
        text = Text(start, y + 3.5, ((words, "muted"),), 10)
        scene.texts.append(text)
        x = text.box.right + 20
        scene.width = max(scene.width, text.box.right)
    scene.height = y + 10


def add_title(scene: Scene, title: list[tuple[str, str]]) -> None:
    """The title above everything, and a margin around: nothing moves to where it could meet something else."""
    down = 30.0 if title else 0.0
    left = min([0.0, *(t.box.x for t in scene.texts), *(r.box.x for r in scene.rects)])
    right = max([scene.width, *(t.box.right for t in scene.texts), *(r.box.right for r in scene.rects)])
    top = min([0.0, *(r.box.y for r in scene.rects)])
    move(scene, MARGIN - left, MARGIN + down - top)
    scene.width, scene.height = right - left + 2 * MARGIN, scene.height - top + down + 2 * MARGIN
    if title:
        text = Text(MARGIN, MARGIN + 12, tuple(title), 13)
        scene.texts.insert(0, text)
        scene.width = max(scene.width, text.box.right + MARGIN)


def move(scene: Scene, x: float, y: float) -> None:
    """Shift everything."""
    scene.rects = [replace(r, box=Box(r.box.x + x, r.box.y + y, r.box.w, r.box.h)) for r in scene.rects]
    scene.lines = [replace(line, steps=tuple(_moved(s, x, y) for s in line.steps)) for line in scene.lines]
    scene.signs = [replace(s, x=s.x + x, y=s.y + y) for s in scene.signs]
    scene.texts = [replace(t, x=t.x + x, y=t.y + y) for t in scene.texts]


def _moved(step: Step, x: float, y: float) -> Step:
    kind, *at = step
    return (kind, *(round(a + (y if k % 2 else x), 1) for k, a in enumerate(at)))
