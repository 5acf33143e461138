"""Which learning rates train at all? Shortcuts, scaled down or normalised, widen the range (2002.10444, 2010.12859)."""

from __future__ import annotations

import math

from deep import KINDS, digits, net
from outcome import Bench, Claim, Outcome, aligned

from skipway.study import compare

TITLE = "Learning rates that train"
PAPERS = "2002.10444, 2010.12859"
#: half the loss of random guessing between ten digits
HALF = math.log(10) / 2
RATES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)


def run(bench: Bench) -> Outcome:
    depths, rates, rows, epochs = bench.pick(((4, 40), RATES, 1500, 2), ((2, 4), (0.1,), 200, 1))
    train, _ = digits(rows, 1)
    ends: dict[tuple[int, str, float], float] = {}
    for depth in depths:
        for rate in rates:
            bench.say(f"{depth} blocks, learning rate {rate:g}")
            found = compare(
                {kind: lambda kind=kind, depth=depth: net(kind, depth) for kind in KINDS}, train,
                epochs=epochs, batch=50, lr=rate, optimizer="sgd", device="cpu", seed=bench.seed,
                run=bench.run(f"{depth}-{rate:g}"), progress=False,
            )  # fmt: skip
            for one in found.runs:
                loss = one.last("train_loss")
                ends[depth, one.name, rate] = math.inf if loss is None else loss

    good = {
        (depth, kind): [rate for rate in rates if ends[depth, kind, rate] < HALF] for depth in depths for kind in KINDS
    }

    def told(depth: int, kind: str) -> str:
        kept = good[depth, kind]
        return "none" if not kept else f"{kept[0]:g}" if len(kept) == 1 else f"{kept[0]:g} to {kept[-1]:g}"

    def largest(depth: int, kind: str) -> float:
        return max(good[depth, kind], default=0.0)

    low, high = depths
    table = aligned(
        ["net", *(f"{depth} blocks" for depth in depths)],
        {kind: [told(depth, kind) for depth in depths] for kind in KINDS},
    )
    both, scaled = "residual + BN", "residual / √L"
    others = {kind: largest(high, kind) for kind in KINDS if kind != both}
    claims = [
        Claim(
            "shortcuts and batch norm together train at larger rates than anything else (2002.10444)",
            f"largest with {high} blocks: {both} {largest(high, both):g}, the next {max(others.values()):g} "
            f"({max(others, key=others.__getitem__)})",
            largest(high, both) > max(others.values()),
        ),
        Claim(
            "neither does it alone: a deep plain net trains at small rates or at none",
            f"largest with {low} and {high} blocks: plain {largest(low, 'plain'):g} and {largest(high, 'plain'):g}, "
            f"plain + BN {largest(low, 'plain + BN'):g} and {largest(high, 'plain + BN'):g}",
            max(largest(high, "plain"), largest(high, "plain + BN")) < largest(high, scaled),
        ),
        Claim(
            "branches over √L train at the same rates at any depth (2010.12859)",
            f"{scaled}: {largest(low, scaled):g} with {low} blocks, {largest(high, scaled):g} with {high}",
            0 < largest(low, scaled) <= 3.5 * largest(high, scaled),
        ),
        Claim(
            "unscaled sums of branches do not",
            f"residual: {largest(low, 'residual'):g} with {low} blocks, {largest(high, 'residual'):g} with {high}",
            3.5 * largest(high, "residual") < largest(low, "residual"),
        ),
    ]
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    for axes, depth in zip(figure.subplots(1, 2, sharey=True), depths, strict=True):
        for kind, mark in zip(KINDS, "osv^D*", strict=True):
            values = [min(ends[depth, kind, rate], 10.0) for rate in rates]
            axes.plot(rates, values, marker=mark, label=kind)
        axes.axhline(HALF, color="black", linestyle=":", linewidth=1)
        axes.set(xscale="log", yscale="log", xlabel="learning rate", title=f"{depth} blocks")
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("training loss (10: more, or diverged)")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=6)
    ended = {key: value if math.isfinite(value) else None for key, value in ends.items()}
    numbers = {
        f"{depth} blocks": {kind: {f"{rate:g}": ended[depth, kind, rate] for rate in rates} for kind in KINDS}
        for depth in depths
    }
    notes = (
        f"SGD with momentum, {epochs} epochs, no clipping. A rate trains where the mean loss of the last epoch is "
        f"below {HALF:.2f}, half that of random guessing."
    )
    return Outcome(claims, table, [bench.save(figure)], numbers, notes)
