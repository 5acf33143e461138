"""A scene as pixels, drawn by matplotlib, which is there anyway for the curves: the same places, no new dependency."""

from __future__ import annotations

import functools
import warnings
from pathlib import Path
from typing import Any

from .scene import SIGNS, Line, Scene, Text, cut, is_bold, text_width
from .theme import THEMES, Theme

#: no picture is larger than this along one side, so that no viewer chokes on it
MOST_PIXELS = 16000


def png(scene: Scene, path: Path, *, theme: str = "light", scale: float = 2.0) -> None:
    """Write a scene as a PNG file of ``scale`` pixels for each of its own."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    colours = THEMES["dark" if theme == "dark" else "light"]
    scale = min(scale, MOST_PIXELS / max(scene.width, scene.height))
    figure = Figure(figsize=(scene.width / 72, scene.height / 72), dpi=72 * scale)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, scene.width)
    axes.set_ylim(scene.height, 0)
    axes.axis("off")
    figure.set_facecolor(colours.paper)
    _paint(axes, scene, colours)
    with warnings.catch_warnings():
        # names in a script that no font here has come out as boxes; the SVG has them as they are
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        figure.savefig(path, format="png", facecolor=colours.paper)


def _paint(axes: Any, scene: Scene, colours: Theme) -> None:
    from matplotlib.patches import Circle, FancyBboxPatch

    def box(x: float, y: float, w: float, h: float, radius: float, kind: str, z: float) -> None:
        fill, stroke = colours.box(kind)
        dash = (0, (3, 2)) if "gap" in kind or "repeat" in kind else "-"
        style = f"round,pad=0,rounding_size={min(radius, w / 2, h / 2)}"
        axes.add_patch(
            FancyBboxPatch((x, y), w, h, boxstyle=style, fc=fill, ec=stroke, lw=1, ls=dash, zorder=z, clip_on=False)
        )

    for k, rect in enumerate(scene.rects):
        z = 1 + k / (len(scene.rects) + 1) if rect.is_behind else 5.0
        box(rect.box.x, rect.box.y, rect.box.w, rect.box.h, rect.radius, rect.kind.removeprefix("band "), z)
    _strokes(axes, scene.lines, colours)
    for sign in scene.signs:
        if sign.word in SIGNS:
            fill, ink = colours.boxes["sign"]
            axes.add_patch(Circle((sign.x, sign.y), sign.radius, fc=fill, ec=ink, lw=1, zorder=6))
            for stroke in SIGNS[sign.word]:
                xs, ys = [sign.x + sign.radius * a for a, _ in stroke], [sign.y + sign.radius * b for _, b in stroke]
                axes.plot(xs, ys, color=ink, lw=1.7, solid_capstyle="round", zorder=7)
        else:
            r, half = sign.radius, sign.half
            box(sign.x - half, sign.y - r, 2 * half, 2 * r, r, "sign", 6)
            _write(axes, Text(sign.x, sign.y + 3.2, ((cut(sign.word, 9, 70), "what"),), 9, "middle"), colours)
    for text in scene.texts:
        _write(axes, text, colours)


def _strokes(axes: Any, lines: list[Line], colours: Theme) -> None:
    """All lines of one look as one collection: thousands of them take no longer than a few."""
    from matplotlib.collections import PathCollection
    from matplotlib.path import Path as Shape

    looks: dict[tuple[str, bool, bool, bool, bool], tuple[list[Any], list[float]]] = {}
    for line in lines:
        words = line.kind.split()
        key = (colours.line(line.kind), "loose" in words, "head" in words, words[0] == "spine", "faint" in words)
        vertices: list[tuple[float, float]] = []
        codes: list[Any] = []
        for kind, *at in line.steps:
            points = list(zip(at[::2], at[1::2], strict=True))
            vertices += points
            codes += [{"M": Shape.MOVETO, "L": Shape.LINETO, "C": Shape.CURVE4}[kind]] * len(points)
        shapes, widths = looks.setdefault(key, ([], []))
        shapes.append(Shape(vertices, codes))
        widths.append(line.width)
    for (colour, loose, head, spine, faint), (shapes, widths) in looks.items():
        look: dict[str, Any] = {"facecolors": colour if head else "none", "edgecolors": colour, "linewidths": widths}
        look |= {"linestyles": (0, (3, 2)) if loose and not head else "-", "alpha": 0.45 if faint else None}
        axes.add_collection(PathCollection(shapes, **look, zorder=3 if spine else 4))


#: fonts that have what the first of them lacks: other scripts, and emoji
_FONTS = (
    "DejaVu Sans", "Noto Sans CJK JP", "Noto Sans CJK SC", "Hiragino Sans", "PingFang SC", "Microsoft YaHei",
    "Yu Gothic", "Malgun Gothic", "WenQuanYi Zen Hei", "Arial Unicode MS", "Noto Sans", "Noto Emoji", "Segoe UI Emoji",
)  # fmt: skip


@functools.cache
def _fonts() -> list[str]:
    """Those of them that are installed: matplotlib warns of others."""
    from matplotlib.font_manager import fontManager

    known = {font.name for font in fontManager.ttflist}
    return [name for name in _FONTS if name in known]


def _write(axes: Any, text: Text, colours: Theme) -> None:
    x, y = text.x, text.y
    spans = [span for span in text.spans if span[0]]
    if len(spans) == 1:  # by the width that the font has
        across = {"start": "left", "middle": "center", "end": "right"}[text.anchor]
        _word(axes, (x, y), spans[0], text, across, colours)
        return
    along = -{"start": 0.0, "middle": 0.5, "end": 1.0}[text.anchor] * text.length
    for told, kind in spans:
        at = (x + (0 if text.turned else along), y + (along if text.turned else 0))
        _word(axes, at, (told, kind), text, "left", colours)
        along += text_width(told, text.size, is_bold(kind))


def _word(axes: Any, at: tuple[float, float], span: tuple[str, str], text: Text, across: str, colours: Theme) -> None:
    told, kind = span
    axes.text(
        *at, told.replace("$", r"\$"), fontsize=text.size, color=colours.word(kind), rotation=270 if text.turned else 0,
        rotation_mode="anchor", ha=across, va="baseline", fontweight="bold" if is_bold(kind) else "normal", zorder=8,
        fontfamily=_fonts(),
    )  # fmt: skip
