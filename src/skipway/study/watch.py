"""What a comparison shows while it runs: a bar a run on a terminal, lines elsewhere."""

from __future__ import annotations

import sys
import time
from typing import Any

from skipway.study.comparison import Run
from skipway.train.history import Row

# seconds between two lines about the same run, where there is no terminal
_QUIET = 5.0


def outcome(row: Row) -> str:
    """The numbers of an epoch in words.

    >>> outcome({"train_loss": 0.25, "test_accuracy": 0.9})
    'loss 0.250  test 90.0 %'
    """
    accuracy = row.get("test_accuracy")
    return f"loss {row['train_loss']:.3f}" + (
        f"  test {accuracy:.1%}".replace("%", " %") if accuracy is not None else ""
    )


class Watch:
    """Progress over the runs of a comparison; ``runs`` are their names and seeds in order."""

    def __init__(self, runs: list[tuple[str, int]], epochs: int, show: bool) -> None:
        several = len({seed for _, seed in runs}) > 1
        self._titles = {run: f"{run[0]}, seed {run[1]}" if several else run[0] for run in runs}
        self._epochs, self._show = epochs, show
        self._bars: Any = None
        self._tasks: dict[tuple[str, int], Any] = {}
        self._run = runs[0]
        self._told = 0.0

    def __enter__(self) -> Watch:
        if self._show and sys.stdout.isatty():
            from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

            told = TextColumn("{task.fields[told]}")
            self._bars = Progress(TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), told)
            for run, title in self._titles.items():
                self._tasks[run] = self._bars.add_task(title, total=self._epochs, start=False, visible=False, told="")
            self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bars is not None:
            self._bars.stop()

    def begin(self, name: str, seed: int) -> None:
        """A run begins."""
        self._run, self._told = (name, seed), time.monotonic()
        if self._bars is not None:
            self._bars.start_task(self._tasks[self._run])
            self._bars.update(self._tasks[self._run], visible=True)

    def epoch(self, row: Row) -> None:
        """An epoch of the run has ended."""
        if self._bars is not None:
            self._bars.update(self._tasks[self._run], completed=row["epoch"], told=outcome(row))
        elif self._show and row["epoch"] < self._epochs and time.monotonic() - self._told > _QUIET:
            self._told = time.monotonic()
            print(f"{self._titles[self._run]}: epoch {row['epoch']}/{self._epochs}  {outcome(row)}", flush=True)

    def end(self, run: Run) -> None:
        """The run has ended."""
        said = run.failed or (outcome(run.history[-1]) if run.history else "")
        if self._bars is not None:
            self._bars.stop_task(self._tasks[self._run])
            self._bars.update(self._tasks[self._run], told="failed" if run.failed else said)
        elif self._show:
            print(f"{self._titles[self._run]}: {said}  in {run.seconds:.1f} s", flush=True)
