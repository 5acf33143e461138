"""Cut a block out of a trained net: a net with shortcuts hardly notices, a plain one is destroyed (1605.06431)."""

from __future__ import annotations

import itertools
import random
import statistics

from deep import digits, trained, without
from outcome import Bench, Claim, Outcome, aligned, percent

from skipway.study import lesion
from skipway.train import evaluate

TITLE = "Lesions: cutting blocks out of a trained net"
PAPERS = "1605.06431"
KINDS = ("plain", "residual / √L", "residual + BN")


def run(bench: Bench) -> Outcome:
    blocks, (rows, tests), epochs = bench.pick((20, (2500, 1000), 8), (6, (300, 100), 2))
    train, test = digits(rows, tests)
    counts = [k for k in (1, 2, 5, 10) if k < blocks]
    random.seed(bench.seed)
    whole: dict[str, float] = {}
    after: dict[str, dict[int, list[float]]] = {}
    studied = {}
    for kind in KINDS:
        made = trained(bench, kind, blocks, train, epochs)
        whole[kind] = evaluate(made, test).accuracy
        bench.say(f"cutting {kind}")
        draw = random.Random(bench.seed)
        cuts = {k: [{i} for i in range(blocks)] if k == 1 else [set(draw.sample(range(blocks), k)) for _ in range(20)]
                for k in counts}  # fmt: skip
        after[kind] = {k: [evaluate(without(made, cut), test).accuracy for cut in sets] for k, sets in cuts.items()}
        if kind != "plain":
            studied[kind] = lesion(made, test, parts="branch", seed=bench.seed, progress=False)
    rows_of = {
        kind: [percent(whole[kind]), *(percent(statistics.mean(after[kind][k])) for k in counts),
               percent(min(after[kind][1]))]
        for kind in KINDS
    }  # fmt: skip
    table = aligned(["net", "whole", *(f"{k} cut" for k in counts), "worst of 1 cut"], rows_of)
    one = {kind: statistics.mean(after[kind][1]) for kind in KINDS}
    chance = float(test.y.unique(return_counts=True)[1].max()) / len(test.y)
    wired = KINDS[1:]
    steps = {kind: [whole[kind], *(statistics.mean(after[kind][k]) for k in counts)] for kind in wired}
    claims = [
        Claim(
            "without one block a residual net is about as good as with it",
            "; ".join(f"{kind}: {percent(whole[kind])} → {percent(one[kind])}" for kind in wired),
            all(whole[kind] - one[kind] < 0.05 for kind in wired),
        ),
        Claim(
            "without one layer a plain net is at chance",
            f"plain: {percent(whole['plain'])} → {percent(one['plain'])} (chance is {percent(chance)})",
            one["plain"] < chance + (whole["plain"] - chance) / 4,
        ),
        Claim(
            "the more blocks are cut, the worse, and smoothly: like an ensemble that loses members",
            "; ".join(f"{kind}: {' → '.join(percent(v) for v in steps[kind])}" for kind in wired),
            all(a > b - 0.01 for values in steps.values() for a, b in itertools.pairwise(values)),
        ),
    ]
    same = all(
        abs(cut.accuracy - right) < 1e-6
        for kind in wired
        for cut, right in zip(studied[kind].cuts, after[kind][1], strict=True)
    )
    notes = (
        f"study.lesion cuts the branches in place, and finds the accuracies of the rebuilt nets: "
        f"{'equal' if same else 'NOT equal'} for all {len(wired) * blocks} cuts."
    )
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for kind, mark in zip(KINDS, "osv", strict=True):
        left.plot(range(1, blocks + 1), after[kind][1], marker=mark, label=kind)
        right.plot([0, *counts], [whole[kind], *(statistics.mean(after[kind][k]) for k in counts)], marker=mark)
    left.set(xlabel="block that is cut", ylabel="test accuracy", ylim=(0, 1), title="one block cut")
    right.set(xlabel="blocks cut, at random", title="mean over draws")
    for axes in (left, right):
        axes.axhline(chance, color="black", linestyle=":", linewidth=1)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
    left.legend()
    numbers = {"whole": whole, "after": after, "studies": {kind: one.to_dict() for kind, one in studied.items()}}
    return Outcome(claims, table, [bench.save(figure)], numbers, notes)
