"""Timing two or more ways of doing one thing, fairly: interleaved in one process, medians and spread."""

from __future__ import annotations

import platform
import random
import statistics
import time
from collections.abc import Callable, Mapping

import torch

#: seconds of a call that needs no other before it to be timed fairly
LONG = 0.05


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
    ways: Mapping[str, Callable[[], object]], *, budget: float = 12.0, seconds: float = 0.02, least: int = 9
) -> dict[str, list[float]]:
    """Seconds per call of every way, one figure a round, over as many rounds as fill ``budget`` seconds, or ``least``.

    Each round times every way once, over as many calls as fill ``seconds``: drift of the machine falls on all of them
    alike. Where calls are short, one before them is not timed: it finds its data out of the caches, and threads of the
    way before it still spinning on the cores. The order of a round is drawn, so that nobody always follows the same
    one.
    """
    calls, untimed, once = {}, {}, 0.0
    for name, way in ways.items():
        way()
        for _ in range(2):  # the first call may still set things up
            start = time.perf_counter()
            way()
            took = max(time.perf_counter() - start, 1e-9)
            if took > LONG:
                break
        calls[name] = max(1, int(seconds / took))
        untimed[name] = took < LONG
        once += (untimed[name] + calls[name]) * took
    rounds = max(least, int(budget / once))
    found: dict[str, list[float]] = {name: [] for name in ways}
    draw = random.Random(0)
    for _ in range(rounds):
        for name in draw.sample(list(ways), len(ways)):
            way, n = ways[name], calls[name]
            if untimed[name]:
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
