"""What building costs: seconds to make a chain with `every(2)` by depth, and what the import adds to torch's.

python bench/build.py
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

from rich.console import Console
from rich.table import Table

from skipway import Chain, Dense, every, relu
from timing import machine


def build_seconds(depth: int, rounds: int = 7) -> float:
    found = []
    for _ in range(rounds):
        layers = [Dense(64, 64, relu) for _ in range(depth)]
        start = time.perf_counter()
        Chain(*layers, wiring=every(2))
        found.append(time.perf_counter() - start)
    return statistics.median(found)


def import_seconds(rounds: int = 7) -> tuple[float, float]:
    """Medians of a fresh interpreter that imports torch, and of what importing skipway takes on top."""
    code = (
        "import time; a = time.perf_counter(); import torch; b = time.perf_counter(); import skipway; "
        "print(b - a, time.perf_counter() - b)"
    )
    pairs = [
        tuple(
            map(
                float,
                subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split(),
            )
        )
        for _ in range(rounds)
    ]
    torch_, ours = zip(*pairs, strict=True)
    return statistics.median(torch_), statistics.median(ours)


def main() -> None:
    table = Table(title="building a chain with every(2)")
    for column in ("layers", "seconds", "ms a layer"):
        table.add_column(column, justify="right")
    build_seconds(10, 2)  # what is loaded on first use
    for depth in (100, 300, 1000):
        seconds = build_seconds(depth)
        table.add_row(str(depth), f"{seconds:.3f}", f"{1e3 * seconds / depth:.3f}")
    console = Console(width=110)
    console.print(table)
    console.print(f"Dense(64, 64, relu) each; {machine()}")
    torch_, ours = import_seconds()
    console.print(f"import torch {torch_:.2f} s; import skipway after it {ours:.3f} s")


if __name__ == "__main__":
    main()
