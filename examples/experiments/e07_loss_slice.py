"""The loss around a trained net, along directions scaled to its filters: shortcuts make the valley wide (1712.09913)"""

from __future__ import annotations

import statistics

from deep import digits, trained
from outcome import Bench, Claim, Outcome, aligned

from skipway.study import Landscape, landscape

TITLE = "Slices of the loss"
PAPERS = "1712.09913"
KINDS = ("plain", "residual / √L", "residual + BN")


def run(bench: Bench) -> Outcome:
    blocks, (rows, epochs), (points, seeds) = bench.pick((20, (2500, 8), (21, 5)), (6, (200, 1), (5, 1)))
    train, _ = digits(rows, 1)
    found: dict[str, Landscape] = {}
    for kind in KINDS:
        made = trained(bench, kind, blocks, train, epochs)
        bench.say(f"slices of {kind}")
        some = train.take(min(1000, rows))
        found[kind] = landscape(made, some, points=points, seeds=seeds, seed=bench.seed, progress=False)
    away = (0.2, 0.5, 1.0)

    def at(kind: str, step: float) -> float:
        return statistics.median([*found[kind].at(step), *found[kind].at(-step)])

    def lies(kind: str) -> str:
        low, (step, _) = found[kind].lowest
        return "yes" if found[kind].is_minimum else f"lower by {found[kind].loss - low:.2g} at {step:g}"

    table = aligned(
        ["net", "trained", *(f"at ±{step}" for step in away)],
        {kind: [f"{one.loss:.3g}", *(f"{at(kind, step):.3g}" for step in away)] for kind, one in found.items()},
    )
    plain, scaled, norm = KINDS
    rises = {kind: at(kind, 0.5) - found[kind].loss for kind in KINDS}
    claims = [
        Claim(
            "around a deep plain net the loss rises steeply; with shortcuts it is flat over a wide region",
            f"half a filter away it has risen by {rises[plain]:.3g} (plain), {rises[scaled]:.3g} ({scaled}), "
            f"{rises[norm]:.3g} ({norm})",
            rises[plain] > 3 * max(rises[scaled], rises[norm]),
        ),
        Claim(
            "a trained net with shortcuts lies at the bottom of its slice",
            "; ".join(f"{kind}: {lies(kind)}" for kind in KINDS),
            all(found[kind].lowest[0] > 0.9 * found[kind].loss - 0.01 for kind in KINDS[1:]),
        ),
    ]  # fmt: skip
    figure = found[plain].plot(others={kind: found[kind] for kind in KINDS[1:]})
    legend = figure.axes[0].get_legend()
    legend.get_texts()[0].set_text(plain)
    notes = f"Median over {seeds} directions, both sides. Every filter's step has the norm of the filter."
    return Outcome(claims, table, [bench.save(figure)], {kind: one.to_dict() for kind, one in found.items()}, notes)
