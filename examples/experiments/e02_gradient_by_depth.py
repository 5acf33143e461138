"""How gradients grow on their way back through new nets of a hundred blocks: six laws, each beside its theory."""

from __future__ import annotations

import math

from outcome import Bench, Claim, Outcome, aligned

from skipway import BatchNorm, Chain, Dense, every, relu
from skipway.study import Signal, signal
from skipway.zoo.initialise import he

TITLE = "Gradients by depth, before training"
PAPERS = "1902.08129, 1603.05027, 2010.12859, 2002.10444"


def nets(depth: int, width: int) -> dict[str, Chain]:
    def chain(norm: bool, wiring=()) -> Chain:
        block = [lambda: BatchNorm(width)] * norm + [lambda: relu, lambda: Dense(width, width)]
        layers = [make() for _ in range(depth) for make in block]
        return he(Chain(*layers, wiring=wiring, input=width), "fan_in", dense=True)

    return {
        "plain": lambda: chain(False),
        "plain + BN": lambda: chain(True),
        "x + F": lambda: chain(False, every(2)),
        "x / 2 + F / 2": lambda: chain(False, every(2, scale=0.5, path_scale=0.5)),
        "x + F / √L": lambda: chain(False, every(2, scale=1 / math.sqrt(depth))),
        "x + F, BN": lambda: chain(True, every(3)),
    }


def run(bench: Bench) -> Outcome:
    depth, width, rows = bench.pick((100, 128, 256), (20, 32, 64))
    found: dict[str, Signal] = {}
    for name, make in nets(depth, width).items():
        bench.say(f"{name}, {depth} blocks")
        found[name] = signal(make, seeds=bench.pick(3, 2), seed=bench.seed, rows=rows, progress=False)
    ratio = {name: one.gradient_ratio for name, one in found.items()}
    rate = {name: value ** (1 / depth) for name, value in ratio.items()}
    square = {name: one.mean("forward")[-1] / one.mean("forward")[0] for name, one in found.items()}
    expected = {
        name: one.theory_backward[0] / one.theory_backward[-1] if one.theory_backward[0] is not None else None
        for name, one in found.items()
    }
    rows_of = {
        name: [f"{square[name]:.3g}", f"{ratio[name]:.3g}", f"{rate[name]:.4f}",
               "-" if expected[name] is None else f"{expected[name]:.3g}"]
        for name in found
    }  # fmt: skip
    table = aligned(["net", "mean square out / in", "gradient in / out", "a block", "theory"], rows_of)
    explodes = math.sqrt(math.pi / (math.pi - 1))
    claims = [
        Claim(
            f"with batch norm and no shortcuts gradients grow by √(π/(π-1)) = {explodes:.3f} a layer (1902.08129)",
            f"{rate['plain + BN']:.3f} a layer, {ratio['plain + BN']:.1e} over {depth}",
            abs(rate["plain + BN"] / explodes - 1) < 0.02,
        ),
        Claim(
            "plain nets with He's weights keep the size of gradients (1502.01852)",
            f"{ratio['plain']:.2g} over {depth} layers",
            0.1 < ratio["plain"] < 10,
        ),
        Claim(
            "a sum of identity and branch, both at full size, grows exponentially: √2 a block (2010.12859)",
            f"{rate['x + F']:.3f} a block, {ratio['x + F']:.1e} over {depth}",
            abs(rate["x + F"] / math.sqrt(2) - 1) < 0.02,
        ),
        Claim(
            "a constant factor below 1 on the shortcut makes gradients vanish exponentially (1603.05027)",
            f"{rate['x / 2 + F / 2']:.3f} a block, {ratio['x / 2 + F / 2']:.1e} over {depth}",
            rate["x / 2 + F / 2"] < 0.9,
        ),
        Claim(
            "branches over √L keep gradients bounded at any depth, here by √e (2010.12859)",
            f"{ratio['x + F / √L']:.2f} over {depth} blocks, √e = {math.sqrt(math.e):.2f}",
            abs(ratio["x + F / √L"] / math.sqrt(math.e) - 1) < 0.2,
        ),
        Claim(
            "with batch norm in the branches values grow with the depth, not exponentially (2002.10444)",
            f"mean square {square['x + F, BN']:.0f} times that of the input after {depth} blocks; gradient "
            f"{ratio['x + F, BN']:.2g}",
            abs(square["x + F, BN"] / (depth + 1) - 1) < 0.2 and ratio["x + F, BN"] < depth,
        ),
    ]
    numbers = {name: one.to_dict() for name, one in found.items()}
    return Outcome(claims, table, [bench.save(_figure(found))], numbers)


def _figure(found: dict[str, Signal]):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for (name, one), mark in zip(found.items(), "osv^D*", strict=True):
        mean = one.mean("backward")
        line = axes.plot(one.depths, mean, label=name, marker=mark, markevery=max(1, len(mean) // 10), markersize=4)
        known = [(d, t) for d, t in zip(one.depths, one.theory_backward, strict=True) if t is not None]
        if known:
            axes.plot(*zip(*known, strict=True), color=line[0].get_color(), linestyle="--", linewidth=1, alpha=0.7)
    axes.set(yscale="log", xlabel="layers with weights before the value", title="gradient, over that at the output")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", title="dashed: theory")
    return figure
