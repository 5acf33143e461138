"""Blocks that are left out at random in training: a larger training loss, and a smaller test error (1603.09382)."""

from __future__ import annotations

from deep import digits, net
from outcome import Bench, Claim, Outcome, percent

from skipway.study import compare

TITLE = "Stochastic depth"
PAPERS = "1603.09382"


def run(bench: Bench) -> Outcome:
    blocks, (rows, tests), epochs, seeds = bench.pick((40, (1000, 1000), 12, 3), (6, (200, 100), 1, 2))
    train, test = digits(rows, tests)
    bench.say(f"{blocks} blocks, {seeds} seeds, with drop and without")
    nets = {
        "no drop": lambda: net("residual + BN", blocks),
        "drop 0 to 0.5": lambda: net("residual + BN", blocks, drop=0.5),
    }
    found = compare(
        nets,
        train, test, epochs=epochs, batch=50, lr=1e-3, optimizer="adam", device="cpu", seed=bench.seed, seeds=seeds,
        run=bench.run("runs"), progress=False,
    )  # fmt: skip
    loss = {name: found.interval(name, "train_loss") for name in found.names}
    right = {name: found.interval(name) for name in found.names}
    plain, drop = found.names
    gain = right[drop].mean - right[plain].mean
    apart = all(a > b for a, b in zip(right[drop].values, right[plain].values, strict=True))
    claims = [
        Claim(
            "training with random drop ends with a larger training loss",
            f"{loss[plain].told('{:.3f}')} without, {loss[drop].told('{:.3f}')} with",
            loss[drop].mean > loss[plain].mean,
        ),
        Claim(
            "and with a smaller test error",
            f"{percent(1 - right[plain].mean)} without, {percent(1 - right[drop].mean)} with; smaller under "
            f"{'every seed' if apart else 'not every seed'}",
            gain > 0 and apart,
        ),
    ]
    notes = (
        "The paper also saves time, since a branch that is dropped for a whole batch is not computed. Here every row "
        "draws for itself, and all branches are computed."
    )
    return Outcome(claims, found.table(), [bench.save(found.plot())], found.to_dict(), notes)
