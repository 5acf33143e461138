"""A residual net for tables of numbers (2106.11959) on Friedman's first function: do its shortcuts matter?"""

from __future__ import annotations

import math

import torch
from outcome import Bench, Claim, Outcome, aligned

from skipway import zoo
from skipway.study import Interval, compare, interval

TITLE = "Tables of numbers"
PAPERS = "2106.11959; Friedman 1991"


def friedman(rows: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Ten numbers from 0 to 1, of which five matter, and their function with noise of deviation 1, over 5."""
    draw = torch.Generator().manual_seed(seed)
    x = torch.rand(rows, 10, generator=draw)
    y = 10 * torch.sin(math.pi * x[:, 0] * x[:, 1]) + 20 * (x[:, 2] - 0.5) ** 2 + 10 * x[:, 3] + 5 * x[:, 4]
    return x - 0.5, ((y + torch.randn(rows, generator=draw) - 14.4) / 5).unsqueeze(1)


def run(bench: Bench) -> Outcome:
    depths, (rows, tests), epochs, seeds = bench.pick(((2, 8, 16), (1500, 1000), 10, 3), ((1, 2), (200, 100), 1, 2))
    train, test = friedman(rows, bench.seed), friedman(tests, bench.seed + 1000)
    variance = float(test[1].var(correction=0))
    found: dict[tuple[int, str], Interval] = {}
    numbers = {}
    for depth in depths:
        bench.say(f"{depth} blocks, {seeds} seeds, with shortcuts and without")

        def make(depth: int = depth):
            return zoo.tabular_resnet(10, 1, blocks=depth, width=64, hidden=128, dropout=0.0)

        done = compare(
            {"with": make, "without": lambda make=make: make().plain()}, train, test, epochs=epochs, batch=100,
            lr=1e-3, device="cpu", seed=bench.seed, seeds=seeds, run=bench.run(str(depth)), progress=False,
        )  # fmt: skip
        numbers[str(depth)] = done.to_dict()
        for name in done.names:
            found[depth, name] = interval([1 - v / variance for v in done.interval(name, "test_loss").values])
    table = aligned(
        ["blocks", "R² with shortcuts", "R² without"],
        {str(d): [found[d, name].told("{:.3f}") for name in ("with", "without")] for d in depths},
    )
    gains = {d: found[d, "with"].mean - found[d, "without"].mean for d in depths}
    low, high = depths[0], depths[-1]
    wide = (found[low, "with"].high or 0) - found[low, "with"].mean
    claims = [
        Claim(
            "a residual net is a strong and simple net for tables (2106.11959)",
            f"R² up to {max(one.mean for one in found.values()):.3f}; noise allows "
            f"{1 - (1 / 25) / variance:.3f} at most",
            max(found[d, "with"].mean for d in depths) > 0.8,
        ),
        Claim(
            "(no paper) with few blocks its shortcuts do not matter",
            f"{gains[low]:+.3f} with {low} blocks",
            abs(gains[low]) < max(wide, 0.01),
        ),
        Claim(
            "(no paper) with many they do",
            f"{gains[high]:+.3f} with {high} blocks, where R² is {found[high, 'with'].told('{:.3f}')} with them",
            gains[high] > 0.01 and min(found[high, "with"].values) > max(found[high, "without"].values),
        ),
    ]
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    for name, mark, shift in (("with", "o", 0.97), ("without", "s", 1.03)):
        for d in depths:
            values = found[d, name].values
            axes.plot(
                [d * shift] * len(values), values, mark, color="#0072b2" if name == "with" else "#555555", alpha=0.5
            )
        axes.plot([d * shift for d in depths], [found[d, name].mean for d in depths], marker=mark,
                  color="#0072b2" if name == "with" else "#555555", label=f"{name} shortcuts")  # fmt: skip
    axes.set(xscale="log", xlabel="blocks", ylabel="R² on the test rows")
    axes.set_xticks(depths, [str(d) for d in depths])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend()
    return Outcome(
        claims, table, [bench.save(figure)], numbers, f"±: 95 % interval of the mean over {seeds} seeds (Student t)."
    )
