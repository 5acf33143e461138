"""What a drawing is made of, before anything is written: boxes, lines, signs and words with their places.

A renderer (SVG, PNG) only turns these into its own words. Lengths are in pixels, y grows downwards.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

#: a step of a path: ("M" | "L", x, y) or ("C", x1, y1, x2, y2, x, y)
Step = tuple[str, *tuple[float, ...]]
#: what a piece belongs to: ("row", cell), ("arc", link), ("band", band), or nothing
Ref = tuple[str, int] | None

# advance widths of DejaVu Sans in thousandths of its size, from the space to the tilde: wider than Helvetica or Arial
_WIDTHS = (
    318, 401, 460, 838, 636, 950, 780, 275, 390, 390, 500, 838, 318, 361, 318, 337, 636, 636, 636, 636, 636, 636, 636,
    636, 636, 636, 337, 337, 838, 838, 838, 531, 1000, 684, 686, 698, 770, 632, 575, 775, 752, 295, 295, 656, 557, 863,
    748, 787, 603, 787, 695, 635, 611, 732, 684, 989, 685, 611, 685, 390, 337, 390, 838, 500, 500, 613, 635, 550, 635,
    615, 352, 635, 634, 278, 278, 579, 278, 974, 634, 612, 635, 635, 411, 521, 392, 634, 592, 818, 592, 592, 525, 636,
    337, 636, 838,
)  # fmt: skip
_OTHER = {"·": 318, "–": 500}
#: how much wider bold letters are, at most
BOLD = 1.16


def text_width(text: str, size: float, bold: bool = False) -> float:
    """Pixels that a text takes at most, in whatever sans-serif font it is shown.

    >>> text_width("add", 10) < text_width("add", 10, bold=True) < text_width("adding", 10)
    True
    """
    units = sum(_WIDTHS[ord(c) - 32] if " " <= c <= "~" else _OTHER.get(c, 1000) for c in text)
    return units / 1000 * size * (BOLD if bold else 1.0)


def cut(text: str, size: float, room: float, bold: bool = False) -> str:
    """A text that fits, its end replaced by ``…`` where it does not; empty where nothing fits."""
    room += 1e-6  # sums of widths come out a little off
    if text_width(text, size, bold) <= room:
        return text
    while text and text_width(text + "…", size, bold) > room:
        text = text[:-1]
    return text.rstrip() + "…" if text else ""


@dataclass(frozen=True)
class Box:
    """A rectangle: its left upper corner, its width and height."""

    x: float
    y: float
    w: float
    h: float

    @property
    def right(self) -> float:
        return self.x + self.w

    @property
    def bottom(self) -> float:
        return self.y + self.h

    def overlaps(self, other: Box, by: float = 0.01) -> bool:
        """Whether the two share more than an edge."""
        return (
            self.x < other.right - by and other.x < self.right - by
            and self.y < other.bottom - by and other.y < self.bottom - by
        )  # fmt: skip


@dataclass(frozen=True)
class Rect:
    box: Box
    kind: str
    radius: float = 4
    ref: Ref = None

    @property
    def is_behind(self) -> bool:
        """Whether it is a frame, behind everything else."""
        return self.kind.split()[0] in ("band", "stack")


@dataclass(frozen=True)
class Line:
    steps: tuple[Step, ...]
    kind: str
    width: float = 1.5
    ref: Ref = None


@dataclass(frozen=True)
class Sign:
    """A merge: a circle with the sign of what it does; an unknown one has its word in a pill."""

    x: float
    y: float
    word: str
    ref: Ref = None
    radius: float = 9.0

    @property
    def half(self) -> float:
        """Half of its length along the chain."""
        return sign_half(self.word, self.radius)


#: radius of a merge
SIGN = 9.0


def sign_half(word: str, radius: float = SIGN) -> float:
    """Half the length of a sign: a circle where the merge has one, otherwise a pill around its word."""
    return radius if word in SIGNS else max(radius, text_width(cut(word, 9, 70), 9) / 2 + 6)


@dataclass(frozen=True)
class Text:
    """Words on one line, in spans ``(text, kind)``; ``turned`` ones run downwards."""

    x: float
    y: float
    spans: tuple[tuple[str, str], ...]
    size: float = 11
    anchor: str = "start"
    turned: bool = False
    ref: Ref = None

    @property
    def string(self) -> str:
        return "".join(text for text, _ in self.spans)

    @property
    def length(self) -> float:
        return sum(text_width(text, self.size, is_bold(kind)) for text, kind in self.spans)

    @property
    def box(self) -> Box:
        """The room it takes; ``(x, y)`` is on its baseline."""
        back = {"start": 0.0, "middle": 0.5, "end": 1.0}[self.anchor] * self.length
        up, down = 0.8 * self.size, 0.22 * self.size
        if self.turned:
            return Box(self.x - down, self.y - back, up + down, self.length)
        return Box(self.x - back, self.y - up, self.length, up + down)


def is_bold(kind: str) -> bool:
    return kind in ("title", "name", "times")


@dataclass(eq=False)
class Scene:
    """A whole drawing."""

    width: float = 0
    height: float = 0
    rects: list[Rect] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)
    signs: list[Sign] = field(default_factory=list)
    texts: list[Text] = field(default_factory=list)
    tips: dict[tuple[str, int], str] = field(default_factory=dict)
    """What is said of a piece when one points at it."""

    def arcs(self) -> dict[int, list[Line]]:
        """The lines of every shortcut, by the number of its link."""
        found: dict[int, list[Line]] = {}
        for line in self.lines:
            if line.ref is not None and line.ref[0] == "arc":
                found.setdefault(line.ref[1], []).append(line)
        return found


def flatten(steps: Iterable[Step], fine: int = 24) -> list[tuple[float, float]]:
    """Points along a path."""
    points: list[tuple[float, float]] = []
    for kind, *at in steps:
        if kind == "C":
            x0, y0 = points[-1]
            x1, y1, x2, y2, x3, y3 = at
            for k in range(1, fine + 1):
                t = k / fine
                a, b, c, d = (1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t * t * (1 - t), t**3
                points.append((a * x0 + b * x1 + c * x2 + d * x3, a * y0 + b * y1 + c * y2 + d * y3))
        else:
            points.append((at[0], at[1]))
    return points


#: strokes of a sign in a circle of radius 1: lists of points, joined by straight lines
SIGNS: dict[str, list[list[tuple[float, float]]]] = {
    "add": [[(-0.55, 0), (0.55, 0)], [(0, -0.55), (0, 0.55)]],
    "sub": [[(-0.55, 0), (0.55, 0)]],
    "mul": [[(-0.4, -0.4), (0.4, 0.4)], [(-0.4, 0.4), (0.4, -0.4)]],
    "cat": [[(-0.25, -0.55), (-0.25, 0.55)], [(0.25, -0.55), (0.25, 0.55)]],
    "mean": [[(-0.4, -0.5), (0.4, -0.5)], [(-0.35, -0.15), (0.35, 0.6)], [(-0.35, 0.6), (0.35, -0.15)]],
    "max": [[(-0.5, 0.35), (0, -0.45), (0.5, 0.35)]],
    "min": [[(-0.5, -0.35), (0, 0.45), (0.5, -0.35)]],
    "weighted": [[(0.38, -0.5), (-0.38, -0.5), (0.1, 0), (-0.38, 0.5), (0.38, 0.5)]],
    "replace": [[(-0.55, 0), (0.5, 0)], [(0.1, -0.4), (0.5, 0), (0.1, 0.4)]],
    "gate": [[(-0.6, 0.4), (-0.2, 0.38), (-0.02, 0.18), (0.02, -0.18), (0.2, -0.38), (0.6, -0.4)]],
}


def arrow(x: float, y: float, way: str, kind: str, ref: Ref = None) -> Line:
    """A small arrow head with its tip at ``(x, y)``."""
    if way == "right":
        corners = [(x, y), (x - 7, y - 4.5), (x - 7, y + 4.5)]
    elif way == "down":
        corners = [(x, y), (x - 3.2, y - 6), (x + 3.2, y - 6)]
    else:
        corners = [(x, y), (x + 6, y - 3.2), (x + 6, y + 3.2)]
    steps = [("M" if k == 0 else "L", round(a, 1), round(b, 1)) for k, (a, b) in enumerate([*corners, corners[0]])]
    return Line(tuple(steps), kind, 0.5, ref)
