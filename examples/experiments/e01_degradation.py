"""A deeper net can do all that a shallower one can, and yet it trains worse; shortcuts end that (1512.03385).

The nets are those of ../degradation.py. The very deep ones are trained for fewer steps.
"""

from __future__ import annotations

import sys
from pathlib import Path

from deep import digits
from outcome import Bench, Claim, Outcome, aligned, percent

from skipway.study import Comparison, compare

sys.path.append(str(Path(__file__).resolve().parent.parent))
from degradation import nets

TITLE = "Degradation: training loss by depth"
PAPERS = "1512.03385, 1505.00387, 2003.04887"
SHORTCUTS = ("residual + BN", "residual / √L", "ReZero")


def run(bench: Bench) -> Outcome:
    depths = bench.pick([4, 20, 50, 100], [2, 6])
    deep = bench.pick([300, 1000], [8])
    found: dict[int, Comparison] = {}
    for depth in [*depths, *deep]:
        far = depth in deep
        few = ("plain + BN", "ReZero") if depth == deep[-1] else ("plain + BN", *SHORTCUTS[1:])
        made = {name: make for name, make in nets(depth).items() if not far or name in few}
        rows, epochs = bench.pick((1500, 2) if far else (2000, 3), (200, 1))
        train, test = digits(rows, bench.pick(1000, 100))
        bench.say(f"{depth:,} layers, {len(made)} nets")
        found[depth] = compare(
            made, train, test, epochs=epochs, batch=bench.pick(100, 50), lr=1e-3, optimizer="adam",
            device="cpu", seed=bench.seed, seeds=1 if far else bench.pick(2, 1), run=bench.run(str(depth)),
            progress=False,
        )  # fmt: skip
    names = found[depths[0]].names

    def loss(name: str, depth: int) -> float:
        return found[depth].interval(name, "train_loss").mean

    def right(name: str, depth: int) -> float:
        runs = found[depth].of(name)
        return sum(run.last("test_accuracy") or 0.0 for run in runs) / len(runs)

    def ended(name: str, depth: int) -> bool:
        return bool(found[depth].interval(name, "train_loss").values)

    def told(name: str, depth: int) -> str:
        # what diverged has no accuracy, and not one of 0 %
        return percent(right(name, depth)) if ended(name, depth) else "diverged"

    def cell(name: str, depth: int) -> str:
        if name not in found[depth].names:
            return ""
        return f"{loss(name, depth):.2f} → {told(name, depth)}" if ended(name, depth) else told(name, depth)

    low, high = depths[0], depths[-1]
    table = aligned(["layers", *names], {f"{d:,}": [cell(name, d) for name in names] for d in found})
    worst = min(SHORTCUTS, key=lambda name: right(name, high))
    claims = [
        Claim(
            "a deep plain net has the larger training loss, not only the larger test error (1512.03385)",
            f"plain: {loss('plain', low):.2f} with {low} layers, {loss('plain', high):.2f} with {high}",
            loss("plain", high) > loss("plain", low),
        ),
        Claim(
            "batch norm does not cure it: without shortcuts it makes gradients explode (1902.08129)",
            f"plain + BN has {told('plain + BN', high)} right with {high} layers, plain {told('plain', high)}",
            right("plain + BN", high) <= right("plain", high) + 0.05,
        ),
        Claim(
            "with shortcuts depth costs little or nothing (1512.03385)",
            f"{high} layers have {', '.join(percent(right(n, high)) for n in SHORTCUTS)} right "
            f"({', '.join(SHORTCUTS)}), {low} layers {', '.join(percent(right(n, low)) for n in SHORTCUTS)}",
            right(worst, high) > right(worst, low) - 0.05,
        ),
        Claim(
            "gates that begin nearly shut train with a hundred layers (1505.00387)",
            f"highway has {told('highway', high)} right with {high} layers, "
            f"{told('highway', low)} with {low}, after {bench.pick(60, 4)} steps",
            right("highway", high) > 0.8,
        ),
        Claim(
            "with a learned factor that begins at 0 thousands of layers train (2003.04887)",
            f"{deep[-1]:,} layers: ReZero {told('ReZero', deep[-1])}, plain + BN {told('plain + BN', deep[-1])}",
            right("ReZero", deep[-1]) > 2 * max(0.1, right("plain + BN", deep[-1])),
        ),
    ]
    numbers = {str(d): one.to_dict() for d, one in found.items()}
    notes = (
        f"Cells: training loss → test accuracy. {bench.pick(60, 4)} steps and the mean over {bench.pick(2, 1)} seeds; "
        f"from {deep[0]} layers on {bench.pick(30, 4)} steps and one seed."
    )
    return Outcome(claims, table, [bench.save(_figure(found, names))], numbers, notes)


def _figure(found: dict[int, Comparison], names: tuple[str, ...]):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.2), layout="constrained")
    panels = {"train_loss": "training loss", "test_accuracy": "test accuracy"}
    for axes, (column, title) in zip(figure.subplots(1, 2), panels.items(), strict=True):
        for name, mark in zip(names, "osv^D*", strict=True):
            known = [d for d in found if name in found[d].names and found[d].interval(name, column).values]
            axes.plot(known, [found[d].interval(name, column).mean for d in known], label=name, marker=mark)
        axes.set(xscale="log", xlabel="layers", title=title)
        axes.set_xticks(list(found), [f"{d:,}" for d in found], minor=False)
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=6)
    return figure
