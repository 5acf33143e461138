"""Which of several ways of doing one thing is the fastest here, without waiting long for the others."""

from __future__ import annotations

import itertools
import random
import statistics
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

K = TypeVar("K")

#: how many times slower than the best a first call may be of what is measured at all, and then of what is measured on
FAR, NEAR = 4.0, 1.25
#: seconds of a call that needs no other to be timed fairly
LONG = 0.05
#: rounds of measuring, at most
ROUNDS = 200


def measured(ways: Mapping[K, Callable[[], object]], seconds: float) -> tuple[dict[K, float], set[K]]:
    """Median milliseconds of each way, and those that were measured by their first calls only, being far behind.

    ``seconds`` is for each way that is in the race. After a third of that time only those near the best go on, so that
    what is close is told apart by many rounds.
    """
    first: dict[K, float] = {}
    best = float("inf")
    for key, way in ways.items():
        first[key] = seconds_of(way)
        if first[key] < LONG:
            first[key] = min(first[key], seconds_of(way))
        best = min(best, first[key])
    running = {key: way for key, way in ways.items() if first[key] <= FAR * best}
    found: dict[K, list[float]] = {key: [] for key in running}
    draw = random.Random(0)
    for share, least in ((1 / 3, 1), (2 / 3, 3)):
        until = time.perf_counter() + share * seconds * len(running)
        for turn in itertools.count():
            enough = 1 if len(running) == 1 else least
            if turn >= ROUNDS or (turn >= enough and time.perf_counter() > until):
                break
            _round(running, first, found, draw)
        middle = {key: statistics.median(times) for key, times in found.items()}
        running = {key: way for key, way in running.items() if middle[key] <= NEAR * min(middle.values())}
    return {key: 1e3 * middle.get(key, first[key]) for key in ways}, set(ways) - set(middle)


def seconds_of(way: Callable[[], object]) -> float:
    """How long one call takes."""
    start = time.perf_counter()
    way()
    return max(time.perf_counter() - start, 1e-6)


def _round(
    ways: Mapping[K, Callable[[], object]], once: Mapping[K, float], found: dict[K, list[float]], draw: random.Random
) -> None:
    """Time every way, in an order that is drawn: drift of the machine falls on all alike, and none follows the same.

    Each is called several times in its turn, as it will be in use, the first of them untimed: it finds its weights out
    of the caches, and the threads of the engine before it still spinning for more. Neither matters to a long call.
    """
    for key in draw.sample(list(ways), len(ways)):
        way, n = ways[key], max(1, int(0.01 / once[key]))
        if once[key] < LONG:
            way()
        start = time.perf_counter()
        for _ in range(n):
            way()
        found[key].append((time.perf_counter() - start) / n)
