"""The shapes of shortcuts: arches in levels, so that none lies on another, or half ellipses where there are too many.

Here a place is ``(s, t)``: s along the chain, t away from it. A drawing that runs down turns both.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from .scene import Step

#: more levels than this nobody can follow: then half ellipses show the pattern
MOST_LEVELS = 10
_MOST_ARCHES = 80
_KAPPA = 0.5523  # a quarter of an ellipse as a cubic


@dataclass(frozen=True)
class Arch:
    """One shortcut: straight up to ``base``, a quarter of an ellipse, level at ``top``, and down again."""

    start: float
    end: float
    base: float
    top: float
    foot: float = 0.0
    """Where it starts, and how far from the chain it ends."""
    head: float = 0.0
    whole: bool = False
    """Whether it is half an ellipse: round from end to end."""

    @property
    def radius(self) -> float:
        rise = self.top - self.base
        half = (self.end - self.start) / 2
        return half if self.whole else max(0.0, min(half, 9 + 0.45 * rise))

    def legs(self, low: float, high: float) -> list[tuple[float, float]]:
        """Where along the chain its two legs are, between two distances from it; empty where it does not reach."""
        if self.top <= low:
            return []
        high = min(high, self.top)
        near, far = self._in(low), self._in(high)
        if high >= self.top:
            far = self.radius
        return [(self.start + near, self.start + far), (self.end - far, self.end - near)]

    def _in(self, t: float) -> float:
        """How far inwards of its foot a leg is at a distance from the chain."""
        rise = self.top - self.base
        if t <= self.base or rise <= 0:
            return 0.0
        return self.radius * (1 - math.sqrt(max(0.0, 1 - ((t - self.base) / rise) ** 2)))

    def steps(self) -> list[Step]:
        """Its path, in ``(s, t)``."""
        a, b, r, k = self.start, self.end, self.radius, _KAPPA
        rise = self.top - self.base
        level: list[Step] = [] if self.whole else [("L", b - r, self.top)]
        return [
            ("M", a, self.foot),
            ("L", a, self.base),
            ("C", a, self.base + k * rise, a + r * (1 - k), self.top, a + r, self.top),
            *level,
            ("C", b - r * (1 - k), self.top, b, self.base + k * rise, b, self.base),
            ("L", b, self.head),
        ]


def levels(spans: Sequence[tuple[float, float]]) -> list[int] | None:
    """A level for every span, so that of two that overlap one is above the other, and the wider one where it holds the
    other; ``None`` where that takes too many levels.

    >>> levels([(0, 1), (0, 4), (1, 2), (3, 5)])
    [0, 1, 0, 0]
    """
    if len(spans) > _MOST_ARCHES:
        return None
    found: dict[int, int] = {}
    for i in sorted(range(len(spans)), key=lambda i: (round(spans[i][1] - spans[i][0], 3), spans[i])):
        a, b = spans[i]
        met = [(spans[j], level) for j, level in found.items() if spans[j][0] < b and a < spans[j][1]]
        level = 1 + max((lv for (c, d), lv in met if a <= c and d <= b), default=-1)
        taken = {lv for _, lv in met}
        while level in taken:
            level += 1
        found[i] = level
        if level >= MOST_LEVELS:
            return None
    return [found[i] for i in range(len(spans))]


def rise(span: float, longest: float, most: float) -> float:
    """How high half an ellipse is: the higher the longer, ``most`` for the longest."""
    return 14 + (most - 14) * (span / longest) ** 0.8
