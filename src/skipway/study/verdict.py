"""The sentence at the end of a comparison, computed from its numbers."""

from __future__ import annotations

import math
import statistics
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from skipway.study.comparison import Comparison


def verdict(comparison: Comparison) -> str:
    """See :meth:`Comparison.conclusion`.

    >>> from skipway.study import Comparison, Run
    >>> from skipway.train import History
    >>> def run(name, shortcuts, accuracy):
    ...     return Run(name, 0, 9, shortcuts, History([{"epoch": 1, "train_loss": 1.0, "test_accuracy": accuracy}]))
    >>> verdict(Comparison([run("plain", 0, 0.1), run("skip", 1, 0.9)], chance=0.1, test_rows=1000))
    "Shortcuts win (one seed): 'skip' gets 90.0 % of the test right, and the best net without shortcuts, 'plain', 10.0 %
    (chance is 10.0 %)."
    >>> verdict(Comparison([run("plain", 0, 0.89), run("skip", 1, 0.9)], test_rows=1000))
    "Shortcuts do not win here (one seed): 'skip' gets 90.0 % of the test right, and the best net without shortcuts,
    'plain', 89.0 %."
    """
    # a net that failed has nothing right
    right = {name: [run.last("test_accuracy") or 0.0 for run in comparison.of(name)] for name in comparison.names}
    if not any(run.last("test_accuracy") is not None for run in comparison.runs):
        return _by_loss(comparison)
    wired = [name for name in right if comparison.of(name)[0].shortcuts]
    plain = [name for name in right if name not in wired]
    best = max(plain or wired, key=lambda name: statistics.mean(right[name]))
    if not wired or not plain:
        return f"Best is {best!r} with {_percent(right[best])} of the test right{_chance(comparison)}."
    rows = comparison.test_rows or 0
    winners = [name for name in wired if better(right[name], right[best], rows)]
    if len(winners) == len(wired):
        opening = "Shortcuts win"
    elif winners:
        opening = (
            f"Of the nets with shortcuts only {_listed([repr(n) for n in winners])} win{'s' * (len(winners) == 1)}"
        )
    elif any(better(right[best], right[name], rows) for name in wired):
        opening = "Shortcuts lose here"
    else:
        opening = "Shortcuts do not win here"
    each = [f"{name!r} {'gets ' * (i == 0)}{_percent(right[name])}" for i, name in enumerate(wired)]
    each[0] += " of the test right"
    against = f"the best net without shortcuts, {best!r}, {_percent(right[best])}"
    count = max(len(values) for values in right.values())
    seeds = "one seed" if count == 1 else f"{count} seeds"
    return f"{opening} ({seeds}): {_listed(each)}, and {against}{_chance(comparison)}."


def better(ours: list[float], theirs: list[float], rows: int) -> bool:
    """Whether every accuracy of ours is above every one of theirs by more than chance explains.

    >>> better([0.9], [0.88], 1000), better([0.9], [0.85], 1000), better([0.9, 0.7], [0.8], 1000)
    (False, True, False)
    """
    low, high = min(ours), max(theirs)
    error = math.sqrt((low * (1 - low) + high * (1 - high)) / rows) if rows else 0.0
    return low - high > 2 * error


def _by_loss(comparison: Comparison) -> str:
    ended = {name: [v for run in comparison.of(name) if (v := run.last("train_loss")) is not None]
             for name in comparison.names}  # fmt: skip
    ended = {name: losses for name, losses in ended.items() if losses}
    if not ended:
        return "No net could be trained."
    best = min(ended, key=lambda name: statistics.mean(ended[name]))
    return f"Lowest is {best!r} with a training loss of {statistics.mean(ended[best]):.3g}; nothing was tested."


def _percent(shares: list[float]) -> str:
    return f"{100 * statistics.mean(shares):.1f} %"


def _chance(comparison: Comparison) -> str:
    return f" (chance is {comparison.chance:.1%})".replace("%", " %") if comparison.chance is not None else ""


def _listed(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
