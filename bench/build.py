"""What building costs: making a chain with `every(2)` by depth beside making its layers alone, and what the import adds
to torch's.

    python bench/build.py [--quick]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable

from torch import nn

import record
from skipway import Chain, Dense, every, relu
from timing import interleaved


def chain(depth: int) -> Callable[[], object]:
    return lambda: Chain(*[Dense(64, 64, relu) for _ in range(depth)], wiring=every(2))


def layers(depth: int) -> Callable[[], object]:
    return lambda: nn.Sequential(*[nn.Linear(64, 64) for _ in range(depth)])


def import_seconds(rounds: int) -> dict[str, list[float]]:
    """What a fresh interpreter takes to import torch, and to import skipway on top."""
    code = (
        "import time; a = time.perf_counter(); import torch; b = time.perf_counter(); import skipway; "
        "print(b - a, time.perf_counter() - b)"
    )
    found: dict[str, list[float]] = {"skipway, after torch": [], "torch": []}
    for _ in range(rounds):
        told = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
        found["torch"].append(float(told[0]))
        found["skipway, after torch"].append(float(told[1]))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few rounds: to see that it runs")
    options = parser.parse_args()
    table = record.Table("build", "Building a chain, and importing", ours="chain", unit="ms", quick=options.quick)
    for depth in (100, 300, 1000):
        ways = {"chain": chain(depth), "layers alone": layers(depth)}
        found = interleaved(ways, budget=1.0 if options.quick else 5.0)
        per = {name: {"ms a layer": f"{1e3 * min(values) / depth:.3f}"} for name, values in found.items()}
        table.add(f"{depth:,} layers of 64, every(2)", found, more=per)
    table.add("import", import_seconds(2 if options.quick else 7), ours="skipway, after torch")
    table.notes.append(
        "Layers alone are those of an nn.Sequential, whose weights are drawn as the chain's are: what the chain takes "
        "longer is the plan, with every shape checked."
    )
    record.save(table)


if __name__ == "__main__":
    main()
