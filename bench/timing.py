"""Timing two or more ways of doing one thing, fairly: interleaved in one process, medians and spread."""

from __future__ import annotations

import platform
import random
import statistics
import time
from collections.abc import Callable, Mapping

import torch


def machine() -> str:
    """One line on where the figures come from."""
    model = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo") as lines:
            model = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return f"{model}, {torch.get_num_threads()} threads, Python {platform.python_version()}, torch {torch.__version__}"


def interleaved(
    ways: Mapping[str, Callable[[], object]],
    *,
    budget: float = 12.0,
    seconds: float = 0.02,
    least: int = 9,
    pause: float = 0.0,
) -> dict[str, list[float]]:
    """Seconds per call of every way, one figure a round, over as many rounds as fill ``budget`` seconds (``least`` at
    least).

    Each round times every way once, over as many calls as fill ``seconds``: drift of the machine falls on all of them
    alike. One call before them is not timed: it finds its data out of the caches. Threads of the way before it may
    still be spinning on the cores: ``pause`` seconds before every turn let them go to sleep. The order of a round is
    drawn, so that nobody always follows the same one.
    """
    calls, once = {}, 0.0
    for name, way in ways.items():
        for _ in range(3):
            way()
        start = time.perf_counter()
        way()
        took = max(time.perf_counter() - start, 1e-9)
        calls[name] = max(1, int(seconds / took))
        once += pause + (1 + calls[name]) * took
    rounds = max(least, int(budget / once))
    found: dict[str, list[float]] = {name: [] for name in ways}
    draw = random.Random(0)
    for _ in range(rounds):
        for name in draw.sample(list(ways), len(ways)):
            way, n = ways[name], calls[name]
            if pause:
                time.sleep(pause)
            way()
            start = time.perf_counter()
            for _ in range(n):
                way()
            found[name].append((time.perf_counter() - start) / n)
    return found


def ratio(found: Mapping[str, list[float]], ours: str, theirs: str) -> tuple[float, float, float]:
    """Median over rounds of ours / theirs, with the quartiles: each round is compared with itself."""
    ratios = [a / b for a, b in zip(found[ours], found[theirs], strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    return middle, low, high


def median_ms(values: list[float]) -> float:
    return 1e3 * statistics.median(values)
