"""What training measured, an epoch a row: as a table, as plain data, as a curve."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Row = dict[str, Any]
COLUMNS = (
    "epoch",
    "train_loss",
    "train_accuracy",
    "test_loss",
    "test_accuracy",
    "seconds",
    "images_per_second",
)


class History:
    """The rows of a training run, one an epoch, oldest first.

    A row is a dict: ``epoch`` (from 1), ``train_loss`` and ``train_accuracy`` (means over the epoch, while the weights
    move), ``test_loss`` and ``test_accuracy`` (after it, in eval mode), ``seconds`` (of the training pass) and
    ``images_per_second``. What was not measured is None.

    >>> history = History([{"epoch": 1, "train_loss": 0.5, "train_accuracy": None}])
    >>> len(history), history[-1]["train_loss"]
    (1, 0.5)
    """

    def __init__(self, rows: list[Row] | None = None) -> None:
        self.rows: list[Row] = []
        for row in rows or []:
            self.append(row)

    def append(self, row: Row) -> None:
        """Add the row of an epoch; what it does not hold becomes None."""
        self.rows.append({column: row.get(column) for column in COLUMNS})

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Row:
        return self.rows[index]

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __repr__(self) -> str:
        return f"<History of {len(self)} epochs>"

    def __str__(self) -> str:
        return self.table()

    def to_dict(self) -> dict[str, list[Any]]:
        """The columns, each a list over the epochs.

        >>> History([{"epoch": 1, "train_loss": 0.5}]).to_dict()["train_loss"]
        [0.5]
        """
        return {column: [row[column] for row in self.rows] for column in COLUMNS}

    def table(self) -> str:
        """The rows as text; columns that hold nothing are left out.

        >>> print(History([{"epoch": 1, "train_loss": 0.5, "seconds": 2.0}]).table())
        epoch  train loss  seconds
            1      0.5000      2.0
        """
        shown = [c for c in COLUMNS if c == "epoch" or any(row[c] is not None for row in self.rows)]
        lines = [[c.replace("_", " ") for c in shown]]
        lines += [[_cell(c, row[c]) for c in shown] for row in self.rows]
        widths = [max(len(line[i]) for line in lines) for i in range(len(shown))]
        return "\n".join("  ".join(cell.rjust(w) for cell, w in zip(line, widths, strict=True)) for line in lines)

    def plot(self, path: str | Path | None = None) -> Figure:
        """Loss and accuracy over the epochs, as a matplotlib figure; written to ``path`` where one is given.

        The ending of ``path`` picks the format, as ``.png``, ``.svg`` or ``.pdf``. No window is opened and no global
        state of matplotlib is touched.

        >>> figure = History([{"epoch": 1, "train_loss": 0.5}]).plot()
        >>> [axes.get_ylabel() for axes in figure.axes]
        ['loss']
        """
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator

        measures = ["loss"]
        if any(row[f"{part}_accuracy"] is not None for part in ("train", "test") for row in self.rows):
            measures.append("accuracy")
        figure = Figure(figsize=(4.5 * len(measures), 3.2), layout="constrained")
        for place, measure in enumerate(measures, start=1):
            axes = figure.add_subplot(1, len(measures), place)
            for part in ("train", "test"):
                points = [(r["epoch"], r[f"{part}_{measure}"]) for r in self.rows if r[f"{part}_{measure}"] is not None]
                if points:
                    axes.plot(*zip(*points, strict=True), marker="o", markersize=3, label=part)
            axes.set_xlabel("epoch")
            axes.set_ylabel(measure)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.grid(alpha=0.3)
            if axes.lines:
                axes.legend()
        if path is not None:
            figure.savefig(path, dpi=150)
        return figure


def _cell(column: str, value: Any) -> str:
    if value is None:
        return "-"
    if column == "seconds":
        return f"{value:.1f}"
    if column == "images_per_second":
        return f"{value:,.0f}"
    return f"{value:.4f}" if isinstance(value, float) else str(value)
