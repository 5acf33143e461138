"""Memory and time by depth: a training step of a chain of Dense(64, 64, relu) layers with a shortcut around each.

    python bench/memory.py [--depths 250,500,1000] [--batch 1024] [--rounds 2] [--quick]

The chain beside the same network as a loop in a hand-written forward, as modules nested in nn.Sequential, and as the
loop with torch's checkpointing of stretches of about sqrt(depth) layers.

Memory: how far the resident memory rises during a step above what it was before, each figure in a process of its own.
A step on two rows comes first, so that gradients, the state of Adam and code made on first use are there already.
Time: interleaved in one process.
"""

from __future__ import annotations

import argparse
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from record import Table, save
from skipway import Chain, Dense, every, relu
from timing import interleaved

WIDTH = 64


class Loop(nn.Module):
    """The forward as one writes it by hand."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(WIDTH, WIDTH) for _ in range(depth)])

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.relu(layer(x)) + x
        return x


class Checkpointed(Loop):
    """The same, with only the values between stretches kept, and the rest computed again."""

    def forward(self, x: Tensor) -> Tensor:
        stride = round(math.sqrt(len(self.layers)))

        def stretch(x: Tensor, start: int) -> Tensor:
            for layer in self.layers[start : start + stride]:
                x = torch.relu(layer(x)) + x
            return x

        for start in range(0, len(self.layers), stride):
            x = checkpoint(stretch, x, start, use_reentrant=False)
        return x


class Nested(nn.Module):
    """A module around a layer, as for nn.Sequential."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.layer(x)) + x


def chain(depth: int) -> nn.Module:
    return Chain(*[Dense(WIDTH, WIDTH, relu) for _ in range(depth)], wiring=every(1))


WAYS = {
    "chain": chain,
    "loop by hand": Loop,
    "nested modules": lambda depth: nn.Sequential(*[Nested() for _ in range(depth)]),
    "loop, checkpointed": Checkpointed,
}


def resident(which: str) -> int:
    """Bytes of this process in memory now (VmRSS), or at most since the last :func:`forget` (VmHWM)."""
    with open("/proc/self/status") as lines:
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith(which))


def forget() -> None:
    """Let the most that was in memory be counted from now on."""
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def stepper(way: str, depth: int) -> Callable[[Tensor, Tensor], None]:
    """A training step of one way."""
    torch.manual_seed(0)
    net = WAYS[way](depth)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-4, fused=True)

    def step(x: Tensor, y: Tensor) -> None:
        optimizer.zero_grad()
        F.mse_loss(net(x), y).backward()
        optimizer.step()

    return step


def rise(way: str, depth: int, batch: int) -> int:
    """Bytes by which memory rises in a step. For a process that does nothing else."""
    step = stepper(way, depth)
    x, y = torch.randn(batch, WIDTH), torch.randn(batch, WIDTH)
    step(x[:2], y[:2])
    forget()
    before = resident("VmRSS")
    step(x, y)
    return resident("VmHWM") - before


def rise_elsewhere(way: str, depth: int, batch: int) -> int:
    """:func:`rise` in a process of its own."""
    code = f"import memory; print(memory.rise({way!r}, {depth}, {batch}))"
    path = os.pathsep.join([str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}
    )
    if done.returncode:
        raise RuntimeError(f"{way}, {depth} layers: {done.stderr.strip().splitlines()[-1]}")
    return int(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--depths", default="250,500,1000")
    parser.add_argument("--batch", type=int, default=1024, help="rows while memory is measured")
    parser.add_argument("--rounds", type=int, default=2, help="processes for each figure of memory")
    parser.add_argument("--quick", action="store_true", help="to see that all works: one round, small depths")
    options = parser.parse_args()
    depths = [20, 40] if options.quick else [int(depth) for depth in options.depths.split(",")]
    note = f"Dense({WIDTH}, {WIDTH}, relu) with a shortcut around each, fused Adam, mean squared error, on all sides."

    table = Table("depth-time", "A training step of a deep chain: time", "chain", "ms", quick=options.quick)
    table.notes = [note + " Interleaved in one process."]
    for batch in (32, options.batch):
        x, y = torch.randn(batch, WIDTH), torch.randn(batch, WIDTH)
        depth = depths[-1]
        steps = {way: stepper(way, depth) for way in WAYS}
        found = interleaved(
            {way: lambda step=step, x=x, y=y: step(x, y) for way, step in steps.items()},
            budget=1.0 if options.quick else 15.0,
        )
        more = {way: {"µs a layer": f"{1e6 * median(values) / depth:.1f}"} for way, values in found.items()}
        table.add(f"{depth:,} layers, batch {batch:,}", found, goals={"loop by hand": 0.99}, more=more)
        save(table)

    if not os.access("/proc/self/clear_refs", os.W_OK):
        sys.exit("the rise of memory is read from /proc/self, which only Linux has")
    table = Table("depth-memory", "A training step of a deep chain: rise of memory", "chain", "MB", quick=options.quick)
    table.notes = [note + " Each figure is of a process of its own."]
    for depth in depths:
        rounds = range(1 if options.quick else options.rounds)
        found = {way: [rise_elsewhere(way, depth, options.batch) for _ in rounds] for way in WAYS}
        more = {way: {"kB a layer": f"{median(values) / depth / 1e3:,.0f}"} for way, values in found.items()}
        table.add(f"{depth:,} layers, batch {options.batch:,}", found, more=more)
    save(table)


if __name__ == "__main__":
    main()
