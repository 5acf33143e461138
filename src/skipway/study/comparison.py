"""What a comparison measured: as a table, as plain data, as curves, as one sentence."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skipway.study.interval import Interval, interval, seeds_told
from skipway.study.result import COLOURS, GREYS, Result, as_json, short
from skipway.train.history import History

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_HEADS = ("net", "shortcuts", "parameters", "train loss", "test accuracy", "gradient first / last", "seconds")


@dataclass
class Run:
    """One net trained under one seed.

    ``gradient_at_start`` and ``gradient_at_end`` hold the norm of the loss's gradient for each weight, first layer
    first. ``seconds`` is wall-clock time of the whole training, tests included. ``failed`` says why training broke off.
    """

    name: str
    seed: int
    parameters: int
    shortcuts: int
    history: History = field(default_factory=History)
    seconds: float = 0.0
    failed: str = ""
    gradient_at_start: dict[str, float] = field(default_factory=dict)
    gradient_at_end: dict[str, float] = field(default_factory=dict)

    def last(self, column: str) -> float | None:
        """The value of the last epoch; None where it was not measured or training failed.

        >>> Run("a", 0, 1, 0, History([{"epoch": 1, "train_loss": 0.5}])).last("train_loss")
        0.5
        """
        if self.failed or not len(self.history):
            return None
        value: float | None = self.history[-1][column]
        return value


@dataclass
class Comparison(Result):
    """The runs of :func:`compare`, with its options.

    ``chance`` is the accuracy of always giving the most frequent label of the test data, of ``test_rows`` rows.

    >>> history = History([{"epoch": 1, "train_loss": 0.5, "test_accuracy": 0.75}])
    >>> print(Comparison([Run("plain", 0, 38, 0, history, 2.0)]).table())
    net    shortcuts  parameters  train loss  test accuracy  gradient first / last  seconds
    plain          0          38       0.500         75.0 %                      -      2.0
    <BLANKLINE>
    One seed, no interval.
    """

    runs: list[Run]
    options: dict[str, Any] = field(default_factory=dict)
    chance: float | None = None
    test_rows: int | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the nets in order."""
        return tuple(dict.fromkeys(run.name for run in self.runs))

    def of(self, name: str) -> list[Run]:
        """The runs of a net, a seed each."""
        return [run for run in self.runs if run.name == name]

    def rows(self) -> list[tuple[str, ...]]:
        """The cells of the table, a row a net, after the row of the heads; means over seeds, with their intervals."""
        made: list[tuple[str, ...]] = [_HEADS]
        for name in self.names:
            runs = self.of(name)
            loss, accuracy = (self.interval(name, column) for column in ("train_loss", "test_accuracy"))
            broke = sum(bool(run.failed) for run in runs)
            failed = f" ({broke} of {len(runs)} failed)" if 0 < broke < len(runs) else ""
            made.append(
                (
                    name,
                    str(runs[0].shortcuts),
                    f"{runs[0].parameters:,}",
                    "failed" if broke == len(runs) else loss.told("{:.3f}") + failed,
                    interval([100 * value for value in accuracy.values]).told("{:.1f}", " %"),
                    _ends(runs),
                    f"{statistics.mean(run.seconds for run in runs):.1f}",
                )
            )
        return made

    def table(self) -> str:
        """A line a net: loss and accuracy of the last epoch, gradient of the first and last weight before training.

        Over several seeds: the means, each with the interval of 95 % for it by Student's t.
        """
        told = self.caption()
        return super().table() + (f"\n\n{told}" if told else "")

    def interval(self, name: str, column: str = "test_accuracy") -> Interval:
        """The mean over the seeds of what a net ended with, and its interval; runs that failed are left out.

        >>> row = {"epoch": 1, "train_loss": 0.5}
        >>> found = Comparison([Run("a", seed, 1, 0, History([row])) for seed in range(2)]).interval("a", "train_loss")
        >>> found.mean, found.low
        (0.5, 0.5)
        """
        return interval([value for run in self.of(name) if (value := run.last(column)) is not None])

    def caption(self) -> str:
        """What the ± of the table are, with the number of seeds; or that one seed has none."""
        return seeds_told([len(self.interval(name, "train_loss").values) for name in self.names])

    def conclusion(self) -> str:
        """One sentence, computed: whether the nets with shortcuts do better than the best net without.

        *Better* is: more of the test right under every seed than the other under any, by more than two standard errors
        of a test of that size. Without nets of both kinds, or without a test, the sentence only ranks.
        """
        from skipway.study.verdict import verdict

        return verdict(self)

    def to_dict(self) -> dict[str, Any]:
        """Everything measured, as JSON has it: a number that is not finite is None."""
        runs = [
            {
                "name": run.name,
                "seed": run.seed,
                "shortcuts": run.shortcuts,
                "parameters": run.parameters,
                "seconds": run.seconds,
                "failed": run.failed or None,
                "history": run.history.to_dict(),
                "gradient_at_start": run.gradient_at_start,
                "gradient_at_end": run.gradient_at_end,
            }
            for run in self.runs
        ]
        whole = {
            "options": self.options,
            "chance": self.chance,
            "test_rows": self.test_rows,
            "conclusion": self.conclusion(),
            "intervals": {
                name: {column: self.interval(name, column).to_dict() for column in ("train_loss", "test_accuracy")}
                for name in self.names
            },
            "runs": runs,
        }
        plain: dict[str, Any] = as_json(whole)
        return plain

    def plot(self, path: str | Path | None = None) -> Figure:
        """Training loss (on a log scale) and test accuracy over the epochs, a line a run; written to ``path`` if given.

        The ending of ``path`` picks the format. No window is opened.
        """
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator

        figure = Figure(figsize=(10, 4.2), layout="constrained")
        panels = [("train_loss", "training loss"), ("test_accuracy", "test accuracy")]
        for place, (column, title) in enumerate(panels, start=1):
            axes = figure.add_subplot(1, 2, place)
            for name, colour in self._colours().items():
                for i, run in enumerate(self.of(name)):
                    points = [(row["epoch"], row[column]) for row in run.history if row[column] is not None]
                    if points:
                        label = name if i == 0 else None
                        axes.plot(*zip(*points, strict=True), color=colour, label=label, marker="o", markersize=3.5)
            axes.set_xlabel("epoch")
            axes.set_ylabel(title)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            longest = max((len(run.history) for run in self.runs), default=0)
            axes.set_xlim(0.5, max(1, longest) + 0.5)
            axes.grid(alpha=0.3)
            if column == "train_loss" and axes.lines:
                axes.set_yscale("log")
            if column == "test_accuracy":
                axes.set_ylim(0, 1)
                if self.chance is not None:
                    axes.axhline(self.chance, color="black", linestyle=":", linewidth=1, label="chance")
        handles = {line.get_label(): line for axes in figure.axes for line in axes.lines}
        shown = {label: line for label, line in handles.items() if not str(label).startswith("_")}
        if shown:
            figure.legend(
                list(shown.values()), list(map(str, shown)), loc="outside lower center", ncols=min(len(shown), 6)
            )
        if path is not None:
            figure.savefig(path, dpi=150)
        return figure

    def _colours(self) -> dict[str, str]:
        greys, colours = iter(GREYS * len(self.runs)), iter(COLOURS * len(self.runs))
        return {name: next(colours if self.of(name)[0].shortcuts else greys) for name in self.names}


def _ends(runs: list[Run]) -> str:
    """The gradient of the first and of the last weight before training, the geometric mean over seeds."""
    pairs = [list(run.gradient_at_start.values()) for run in runs if run.gradient_at_start]
    if not pairs:
        return "-"
    ends = [[norms[at] for norms in pairs] for at in (0, -1)]
    # a mean of logarithms, since gradients differ by powers of ten
    return " / ".join(short(statistics.geometric_mean(n) if min(n) > 0 else 0.0) for n in ends)
