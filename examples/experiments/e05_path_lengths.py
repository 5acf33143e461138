"""A residual net is an ensemble of paths, most of them half as long as the net; short ones carry the gradient."""

from __future__ import annotations

import math
import statistics

from deep import digits, trained
from outcome import Bench, Claim, Outcome, aligned

from skipway import every
from skipway.study import paths

TITLE = "Lengths of paths, and which of them carry the gradient"
PAPERS = "1605.06431"


def run(bench: Bench) -> Outcome:
    # a residual net of 110 layers has 54 blocks of two layers
    counted = paths(every(1), layers=54, unit="blocks")
    exact = sum(math.comb(54, k) for k in range(19, 36)) / 2**54
    blocks, (rows, epochs), samples = bench.pick((20, (2500, 8), 12), (6, (300, 2), 3))
    train, _ = digits(rows, 1)
    found = {}
    for kind in ("residual / √L", "residual + BN"):
        made = trained(bench, kind, blocks, train, epochs)
        bench.say(f"gradients along paths, {kind}")
        some = train.take(min(256, rows))
        found[kind] = paths(made, (some.x, some.y), unit="blocks", samples=samples, seed=bench.seed, progress=False)
    rows_of = {"54 blocks, counted": [f"{counted.mean:.1f}", f"{counted.quantile(0.05)} to {counted.quantile(0.95)}",
                                      "", ""]}  # fmt: skip
    for kind, one in found.items():
        shares = one.gradient_shares()
        most = next(k for k in range(len(shares)) if sum(shares[: k + 1]) >= 0.95)
        rows_of[f"{blocks} blocks, {kind}"] = [
            f"{one.mean:.1f}", f"{one.quantile(0.05)} to {one.quantile(0.95)}", f"{one.gradient_mean:.1f}",
            f"up to {most}",
        ]  # fmt: skip
    table = aligned(["net", "mean length", "90 % of paths", "mean by gradient", "95 % of gradient"], rows_of)
    norms = {kind: dict(one.gradients) for kind, one in found.items()}
    # on a line against the length, the logarithm is
    line = {kind: statistics.correlation(list(v), [math.log(n) for n in v.values()]) for kind, v in norms.items()}
    claims = [
        Claim(
            "more than 95 % of the paths of a 110-layer net go through 19 to 35 of its 54 blocks",
            f"{100 * counted.share(19, 35):.2f} % of {counted.total:.3g} paths, counted; "
            f"by the binomial law {100 * exact:.2f} %",
            counted.share(19, 35) > 0.95 and math.isclose(counted.share(19, 35), exact, rel_tol=1e-12),
        ),
        Claim(
            "those of 5 to 17 blocks, which carry the gradient there, are 0.45 % of all",
            f"{100 * counted.share(5, 17):.3f} %",
            round(100 * counted.share(5, 17), 2) == 0.45,
        ),
        Claim(
            "the gradient along one path falls exponentially with its length",
            "; ".join(f"{kind}: {', '.join(f'{v[k]:.1e}' for k in (0, blocks // 4, blocks // 2, blocks))}"
                      for kind, v in norms.items()) + f" along 0, {blocks // 4}, {blocks // 2}, {blocks} blocks",
            all(value < -0.98 for value in line.values()),
        ),
        Claim(
            "so paths that are shorter than most carry most of the gradient",
            "; ".join(f"{kind}: mean length {one.gradient_mean:.1f} by gradient, {one.mean:.1f} by number"
                      for kind, one in found.items()),
            all(one.gradient_mean < 0.8 * one.mean for one in found.values()),
        ),
    ]  # fmt: skip
    figures = [bench.save(counted.plot(), "54-blocks")]
    figures += [bench.save(one.plot(), kind.split()[-1].replace("/ ", "").replace("√L", "scaled").lower())
                for kind, one in found.items()]  # fmt: skip
    numbers = {"54 blocks": counted.to_dict(), **{kind: one.to_dict() for kind, one in found.items()}}
    return Outcome(claims, table, figures, numbers)
