"""Two spirals, told apart by a net in which every layer reads all before it (Lang and Witbrock 1988)."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from outcome import Bench, Claim, Outcome, aligned, percent

from skipway import Chain, Dense, sigmoid, zoo
from skipway.study import interval

TITLE = "Two spirals"
PAPERS = "Lang and Witbrock 1988"


def spirals() -> tuple[torch.Tensor, torch.Tensor]:
    """The classic 194 points: three turns each, one the other turned by half a circle."""
    i = torch.arange(97)
    angle, radius = i * math.pi / 16, 6.5 * (104 - i) / 104
    one = torch.stack([radius * angle.sin(), radius * angle.cos()], dim=1)
    return torch.cat([one, -one]), torch.cat([torch.ones(97, 1), torch.zeros(97, 1)])


def plain(width: int) -> Chain:
    hidden = [Dense(2, width, sigmoid), Dense(width, width, sigmoid), Dense(width, width, sigmoid)]
    return Chain(*hidden, Dense(width, 1))


def train(net: Chain, x: torch.Tensor, y: torch.Tensor, steps: int) -> float:
    """The share of the points that is right after so many steps of L-BFGS over all of them."""
    with torch.no_grad():
        for p in net.parameters():
            p.uniform_(-1.0, 1.0)
    optimizer = torch.optim.LBFGS(net.parameters(), max_iter=20, history_size=20, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = torch.nn.functional.binary_cross_entropy_with_logits(net(x), y)
        loss.backward()
        return loss

    for _ in range(steps):
        optimizer.step(closure)
    with torch.no_grad():
        return float(((net(x) > 0) == (y > 0.5)).double().mean())


def run(bench: Bench) -> Outcome:
    x, y = spirals()
    steps, seeds = bench.pick((50, 5), (2, 2))
    nets: dict[str, Callable[[], Chain]] = {
        "plain 2-5-5-5-1": lambda: plain(5),
        "plain, as many weights": lambda: plain(7),
        "all to all 2-5-5-5-1": zoo.lang_witbrock,
    }
    right: dict[str, list[float]] = {}
    size = {name: sum(p.numel() for p in make().parameters()) for name, make in nets.items()}
    pictures = {}
    for name, make in nets.items():
        right[name] = []
        for s in range(bench.seed, bench.seed + seeds):
            bench.say(f"{name}, seed {s}")
            torch.manual_seed(s)
            net = make()
            right[name].append(train(net, x, y, steps))
            if right[name][-1] == max(right[name]):
                pictures[name] = net
    found = {name: interval(values) for name, values in right.items()}
    table = aligned(
        ["net", "weights", "right", "lowest", "highest"],
        {name: [str(size[name]), interval([100 * v for v in one.values]).told("{:.1f}", " %"),
                percent(min(one.values)), percent(max(one.values))] for name, one in found.items()},
    )  # fmt: skip
    bare, control, wired = found.values()
    claims = [
        Claim(
            "138 weights, every layer reading all before it, tell the spirals apart",
            f"best of {seeds} seeds {percent(max(wired.values))}, mean {percent(wired.mean)}",
            max(wired.values) == 1.0,
        ),
        Claim(
            "a plain net of the same layers does not",
            f"best {percent(max(bare.values))}, mean {percent(bare.mean)} with {size['plain 2-5-5-5-1']} weights",
            max(bare.values) < 1.0 and bare.mean < wired.mean,
        ),
        Claim(
            "(no paper) a plain net with about as many weights does not either: it is not their number",
            f"best {percent(max(control.values))}, mean {percent(control.mean)} with "
            f"{size['plain, as many weights']} weights",
            control.mean < wired.mean and min(wired.values) > control.mean,
        ),
    ]
    notes = f"L-BFGS, {steps} x 20 steps, {seeds} seeds; ±: 95 % interval of the mean (Student t)."
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.6), layout="constrained")
    grid = torch.linspace(-7, 7, 141)
    mesh = torch.stack(torch.meshgrid(grid, grid, indexing="xy"), dim=-1).reshape(-1, 2)
    for axes, (name, net) in zip(figure.subplots(1, 3), pictures.items(), strict=True):
        with torch.no_grad():
            seen = torch.sigmoid(net(mesh)).reshape(141, 141)
        axes.imshow(seen.tolist(), extent=(-7, 7, -7, 7), origin="lower", cmap="gray", vmin=0, vmax=1)
        for label, colour in ((1, "#e69f00"), (0, "#0072b2")):
            kept = y[:, 0] == label
            axes.scatter(*x[kept].T.tolist(), s=6, color=colour)
        axes.set(title=f"{name}: {percent(max(right[name]))}", xticks=[], yticks=[])
    numbers = {name: one.to_dict() | {"values": one.values, "weights": size[name]} for name, one in found.items()}
    return Outcome(claims, table, [bench.save(figure)], numbers, notes)
