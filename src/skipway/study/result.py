"""What all results of studies have in common: a table, as text and in colour, and plain data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

#: colours that people who see few colours can tell apart (Okabe and Ito), plain nets in grey first
GREYS = ("#555555", "#a0a0a0", "#c8a27a")
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")


class Result:
    """Base of the results: whoever gives ``rows`` has a table and a print.

    >>> class Two(Result):
    ...     def rows(self):
    ...         return [("net", "loss"), ("plain", "2.303"), ("skip", "0.1")]
    >>> print(Two())
    net     loss
    plain  2.303
    skip     0.1
    """

    def rows(self) -> list[tuple[str, ...]]:
        """The cells of the table, the row of the heads first."""
        raise NotImplementedError

    def caption(self) -> str:
        """What stands below the table in colour; nothing by default."""
        return ""

    def table(self) -> str:
        """The table as text: the first column to the left, the others to the right."""
        return aligned(self.rows())

    def __str__(self) -> str:
        return self.table()

    def __repr__(self) -> str:
        # for those made with repr=False: thousands of numbers tell less at a prompt than the table
        return self.table()

    def __rich__(self) -> Any:
        from rich.table import Table

        rows = self.rows()
        table = Table(caption=self.caption() or None)
        for i, head in enumerate(rows[0]):
            table.add_column(head, justify="right" if i else "left")
        for row in rows[1:]:
            table.add_row(*row)
        return table


def aligned(rows: Sequence[tuple[str, ...]]) -> str:
    """Rows of cells as lines of equal columns.

    >>> print(aligned([("a", "b"), ("long", "1")]))
    a     b
    long  1
    """
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(cell.rjust(w) if i else cell.ljust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True)))
        for row in rows
    ]
    return "\n".join(line.rstrip() for line in lines)


def short(value: float) -> str:
    """Two digits of a number, with its power of ten where it is far from one.

    >>> short(0.256), short(2e-9), short(float("nan"))
    ('0.26', '2e-09', 'nan')
    """
    return f"{value:.2g}" if value == 0 or 0.01 <= abs(value) < 1000 or not math.isfinite(value) else f"{value:.0e}"


def as_json(thing: Any) -> Any:
    """The thing as JSON has it: tuples as lists, a number that is not finite as None.

    >>> as_json({"a": (1, float("inf"))})
    {'a': [1, None]}
    """
    if isinstance(thing, dict):
        return {str(k): as_json(v) for k, v in thing.items()}
    if isinstance(thing, (list, tuple)):
        return [as_json(v) for v in thing]
    return None if isinstance(thing, float) and not math.isfinite(thing) else thing
