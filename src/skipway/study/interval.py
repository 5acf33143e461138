"""Intervals for the mean over seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

#: the share of intervals that hold the true mean, where the numbers are normal
LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """The mean over seeds, the interval of 95 % for it by Student's t, and the numbers it is made of.

    ``low`` and ``high`` are None for one number, since one seed has no interval, and where a number is not finite. The
    interval is for the mean, and not where the next seed will fall; with two seeds it is wide, since two numbers say
    little of how others scatter.

    >>> found = interval([0.9, 0.92, 0.94])
    >>> found.told("{:.2f}"), round(found.low, 3), round(found.high, 3)
    ('0.92 ± 0.05', 0.87, 0.97)
    >>> interval([0.9]).told("{:.2f}"), interval([]).told("{:.2f}")
    ('0.90', '-')
    """

    values: tuple[float, ...]
    mean: float
    low: float | None
    high: float | None

    def told(self, form: str, unit: str = "") -> str:
        """``mean ± half the interval``; the mean alone for one seed."""
        if not self.values:
            return "-"
        half = "" if self.low is None else f" ± {form.format(self.mean - self.low)}"
        return f"{form.format(self.mean)}{half}{unit}"

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it, with the smallest and the largest number."""
        none = "one seed, no interval" if len(self.values) < 2 else "a seed that is not finite, no interval"
        method = none if self.low is None else f"Student t, {LEVEL:.0%}, for the mean"
        return {
            "mean": self.mean, "low": self.low, "high": self.high, "n": len(self.values), "method": method,
            "min": min(self.values, default=None), "max": max(self.values, default=None),
        }  # fmt: skip


def interval(values: Sequence[float]) -> Interval:
    """The mean of numbers, one a seed, and its interval of 95 %: ``mean ± t(n - 1) · s / √n``.

    >>> interval([1.0, 3.0]).high
    14.706...
    """
    kept = tuple(map(float, values))
    if not kept:
        return Interval(kept, math.nan, None, None)
    mean = statistics.fmean(kept)
    if len(kept) == 1:
        return Interval(kept, mean, None, None)
    if not all(map(math.isfinite, kept)):  # a seed that diverged
        return Interval(kept, mean, None, None)
    half = student_t(len(kept) - 1) * statistics.stdev(kept) / math.sqrt(len(kept))
    return Interval(kept, mean, mean - half, mean + half)


def student_t(degrees: int, level: float = LEVEL) -> float:
    """The number that the size of Student's t stays below with a probability of ``level``.

    >>> [round(student_t(n), 3) for n in (1, 2, 4, 9, 100)]
    [12.706, 4.303, 2.776, 2.262, 1.984]
    """
    # by bisection, in the angle with tan = t / sqrt(degrees), in which the probability is a finite sum
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, degrees) < level else (low, middle)
    return math.sqrt(degrees) * math.tan(low)


def _within(angle: float, degrees: int) -> float:
    """The probability that t is smaller in size than ``sqrt(degrees) * tan(angle)`` (Abramowitz and Stegun, 26.7)."""
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = degrees % 2
    term = cosine if odd else 1.0
    total = 0.0 if degrees == 1 else term
    for k in range(2 + odd, degrees - 1, 2):
        term *= cosine * cosine * (k - 1) / k
        total += term
    return 2 / math.pi * (angle + sine * total) if odd else sine * total


def seeds_told(counts: Sequence[int]) -> str:
    """What stands below a table of means over so many seeds each.

    >>> seeds_told([3, 3])
    '±: 95 % interval of the mean over 3 seeds (Student t).'
    >>> seeds_told([1, 1])
    'One seed, no interval.'
    """
    known = sorted({count for count in counts if count})
    if not known:
        return ""
    if known[-1] == 1:
        return "One seed, no interval."
    some = f"{known[0]} to {known[-1]}" if known[0] != known[-1] else str(known[0])
    return f"±: 95 % interval of the mean over {some} seeds (Student t)."


__all__ = ["LEVEL", "Interval", "interval", "seeds_told", "student_t"]
