"""Live progress: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any, Protocol

from skipway.train.helpers import throttle
from skipway.train.history import Row

if TYPE_CHECKING:
    from rich.console import Console


def clock(seconds: float) -> str:
    """Seconds as ``m:ss`` or ``h:mm:ss``.

    >>> clock(75), clock(3600)
    ('1:15', '1:00:00')
    """
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


def line(row: Row, epochs: int, left: float) -> str:
    """One epoch in one line.

    >>> line({"epoch": 1, "train_loss": 0.5, "train_accuracy": 0.75, "images_per_second": 1234.5}, 10, 65.0)
    'epoch 1/10  loss 0.5000  accuracy 0.7500  1,234 images/s  1:05 left'
    """
    cells = [f"epoch {row['epoch']}/{epochs}"]
    for key, name in (
        ("train_loss", "loss"),
        ("train_accuracy", "accuracy"),
        ("test_loss", "test loss"),
        ("test_accuracy", "test accuracy"),
    ):
        if row.get(key) is not None:
            cells.append(f"{name} {row[key]:.4f}")
    cells.append(f"{row['images_per_second']:,.0f} images/s")
    if row["epoch"] < epochs:
        cells.append(f"{clock(left)} left")
    return "  ".join(cells)


class Sums(Protocol):
    """Means over an epoch so far, numbers or tensors still on the device, and the rows they are over."""

    rows: int

    @property
    def loss(self) -> Any: ...

    @property
    def accuracy(self) -> Any: ...


class Progress:
    """What ``fit`` shows while it runs: nothing, a line an epoch, or a bar on top of the lines."""

    def __init__(
        self, epochs: int, done: int, batches: int, *, show: bool = True, console: Console | None = None
    ) -> None:
        self._epochs, self._done, self._batches, self._show = epochs, done, batches, show
        self._console = console
        self._start = time.monotonic()
        self._bar: Any = None
        self._task: Any = None
        # reading a loss waits for the device, and a terminal cannot show more anyway
        self._paint = throttle(self._paint_now, 0.2)

    def __enter__(self) -> Progress:
        terminal = self._console.is_terminal if self._console else sys.stdout.isatty()
        if self._show and terminal:
            self._open()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def _open(self) -> None:
        from rich.console import Console
        from rich.errors import LiveError
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as Bar

        bar = Bar(
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(),
            TextColumn("{task.fields[told]}"),
            console=self._console or Console(),
            transient=True,
        )
        try:
            bar.start()
        except LiveError:  # the caller has a live display of its own: lines will do
            return
        self._bar = bar
        self._task = bar.add_task("", total=self._epochs * self._batches or None, epoch=f"-/{self._epochs}", told="")

    def step(self, epoch: int, steps: int, sums: Sums, began: float) -> None:
        """Called after every step: ``steps`` and ``sums`` of the epoch so far, which ``began`` then."""
        if self._bar is not None:
            self._paint(epoch, steps, sums, began)

    def _paint_now(self, epoch: int, steps: int, sums: Sums, began: float) -> None:
        told = f"loss {float(sums.loss):.4f}"
        accuracy = sums.accuracy
        if accuracy is not None:
            told += f"  accuracy {float(accuracy):.4f}"
        told += f"  {sums.rows / max(time.monotonic() - began, 1e-9):,.0f} images/s"
        past = epoch - 1
        if self._batches:
            told += f"  {clock(self._left(past + steps / self._batches))} left"
        self._bar.update(self._task, completed=past * self._batches + steps, epoch=f"{epoch}/{self._epochs}", told=told)

    def _left(self, epochs: float) -> float:
        """Seconds to go, after ``epochs`` whole and part epochs, of which those before a resume took no time here."""
        here = epochs - self._done
        return (time.monotonic() - self._start) / here * (self._epochs - epochs) if here > 0 else 0.0

    def epoch(self, row: Row) -> None:
        """Called after every epoch."""
        if not self._show:
            return
        text = line(row, self._epochs, self._left(row["epoch"]))
        if self._bar is not None:
            self._bar.console.print(text, highlight=False)
        else:
            print(text, file=sys.stdout, flush=True)
