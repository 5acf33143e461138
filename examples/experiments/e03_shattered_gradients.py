"""Along a line of inputs, the gradient of a deep plain net with batch norm is white noise (1702.08591)."""

from __future__ import annotations

from outcome import Bench, Claim, Outcome, aligned

from skipway import BatchNorm, Chain, Dense, every, relu
from skipway.study import Shatter, shatter
from skipway.zoo.initialise import he

TITLE = "Shattered gradients"
PAPERS = "1702.08591"


def net(depth: int, width: int, norm: bool = True, wiring=()) -> Chain:
    block = [lambda: BatchNorm(width)] * norm + [lambda: relu, lambda: Dense(width, width)]
    body = Chain(*[make() for _ in range(depth) for make in block], wiring=wiring)
    return he(Chain(stem=Dense(1, width), body=body, head=Dense(width, 1), input=1), "fan_in", dense=True)


def run(bench: Bench) -> Outcome:
    (shallow, deep), width, points, seeds = bench.pick(((24, 50), 200, 256, 10), ((6, 12), 32, 64, 2))
    makers = {
        "plain + BN, 1": lambda: net(1, width),
        f"plain + BN, {shallow}": lambda: net(shallow, width),
        f"plain + BN, {deep}": lambda: net(deep, width),
        f"plain, no BN, {deep}": lambda: net(deep, width, norm=False),
        f"residual + BN, {shallow}": lambda: net(shallow, width, wiring=every(3)),
        f"residual + BN, {deep}": lambda: net(deep, width, wiring=every(3)),
        f"residual + BN, branch / 10, {deep}": lambda: net(deep, width, wiring=every(3, scale=0.1)),
    }
    found: dict[str, Shatter] = {}
    for i, (name, make) in enumerate(makers.items()):
        bench.say(name)
        found[name] = shatter(
            make, points=points, seeds=seeds, seed=bench.seed, run=bench.run(str(i)), progress=False
        )  # fmt: skip
    table = aligned(
        ["net, layers", "neighbours", "5 apart", "white noise below"],
        {name: [f"{one.neighbours:.2f}", f"{one.mean()[5]:.2f}", f"{one.noise:.2f}"] for name, one in found.items()},
    )
    one, plain, plainer, bare, some, more, tenth = (each.neighbours for each in found.values())
    noise = found[f"plain + BN, {deep}"].noise
    claims = [
        Claim(
            "gradients of a shallow net at neighbouring inputs are alike",
            f"autocorrelation {one:.2f} with one layer",
            one > 0.8,
        ),
        Claim(
            "in a deep plain net with batch norm they are white noise",
            f"{plain:.2f} with {shallow} layers, {plainer:.2f} with {deep}; white noise stays below {noise:.2f}",
            abs(plain) < 0.1 and abs(plainer) < 0.1,
        ),
        Claim(
            "with shortcuts they stay alike, and depth costs far less",
            f"{some:.2f} with {shallow} layers, {more:.2f} with {deep}",
            some > 0.3 and more > 0.3,
        ),
        Claim(
            "smaller branches keep them still more alike",
            f"branch / 10: {tenth:.2f} with {deep} layers",
            tenth > more,
        ),
    ]
    notes = f"Without batch norm a plain net shatters far more slowly: {bare:.2f} with {deep} layers."
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, style in ((f"plain + BN, {deep}", "-"), (f"residual + BN, {deep}", "-")):
        values = found[name].gradients
        size = max(map(abs, values)) or 1.0
        left.plot([4 * i / (points - 1) - 2 for i in range(points)], [v / size for v in values], style, linewidth=0.9)
    left.set(xlabel="input", title=f"gradient over its largest, {deep} layers: plain, residual", yticks=[-1, 0, 1])
    for (name, each), mark in zip(found.items(), "osv^D*p", strict=True):
        right.plot(each.mean(), label=name, marker=mark, markersize=3)
    right.axhspan(-noise, noise, color="#a0a0a0", alpha=0.3, linewidth=0)
    right.set(xlabel="lag in points", title="autocorrelation (grey: white noise)", ylim=(-0.2, 1.02))
    figure.legend(*right.get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize="small")
    return Outcome(claims, table, [bench.save(figure)], {name: o.to_dict() for name, o in found.items()}, notes)
