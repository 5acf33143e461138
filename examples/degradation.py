"""Does a deeper net learn better? Six nets of 4 to 1,000 layers read the digits that come with skipway.

A deeper net can do all that a shallower one can, and yet it is trained to a *larger* training loss: that is
degradation, and what shortcuts were invented against (arXiv 1512.03385). Here the layers are the same, 32 wide, and
what is between them differs:

    plain            relu, Dense                      He's initial weights (1502.01852), which suit relu best
    plain + BN       BatchNorm, relu, Dense           batch norm alone makes gradients explode (1902.08129)
    residual + BN    the same, with every(3)          pre-activation (1603.05027)
    residual / √L    plain, with every(2, scale=...)  the branch over the root of the depth (2010.12859)
    ReZero           plain, with every(2, scale=...)  the branch times a learned number that begins at 0 (2003.04887)
    highway          Dense tanh, with every(1, ...)   gates that begin nearly shut (1505.00387)

    python degradation.py            4 to 1,000 layers: the last table says how long each took
    python degradation.py --quick    4 to 50 layers, one epoch: some ten seconds

Without shortcuts 20 layers are too many already, and batch norm makes it worse; with them 1,000 layers learn: after
three epochs ReZero has 90.0 % of the test digits right at 1,000 layers and 88.8 % at 4, the plain net 10.0 % and
86.6 %. Gates that begin at 0.05 fail beyond some hundred layers: a thousand of them let nothing through.

The plot goes to runs/degradation.png.
"""

import argparse
import math
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from skipway import BatchNorm, Chain, Dense, Learned, data, every, relu, zoo
from skipway.study import compare, signal
from skipway.zoo.initialise import he

WIDTH = 32


class Result(NamedTuple):
    """One net of one depth, over all seeds; NaN where training broke off."""

    loss: float
    accuracy: float
    ratio: float
    seconds: float


def nets(depth: int) -> dict[str, Callable[[], Chain]]:
    def chain(*block: Callable, wiring: Sequence = ()) -> Chain:
        body = Chain(*[make() for _ in range(depth) for make in block], wiring=wiring)
        # the head begins as a block does, since the sum that leaves the body went through no norm and no relu
        end = Chain(*[make() for make in block[:-1]])
        return he(Chain(stem=Dense(784, WIDTH), body=body, end=end, head=Dense(WIDTH, 10)), "fan_in", dense=True)

    act, norm, layer = lambda: relu, BatchNorm, lambda: Dense(WIDTH, WIDTH)
    return {
        "plain": lambda: chain(act, layer),
        "plain + BN": lambda: chain(norm, act, layer),
        "residual + BN": lambda: chain(norm, act, layer, wiring=every(3)),
        "residual / √L": lambda: chain(act, layer, wiring=every(2, scale=1 / math.sqrt(depth))),
        "ReZero": lambda: chain(act, layer, wiring=every(2, scale=Learned(0.0))),
        "highway": lambda: zoo.highway(784, WIDTH, depth, 10),
    }


def gradient_ratio(make: Callable[[], Chain], x: torch.Tensor, seeds: int) -> float:
    """The norm of the gradient where the body begins, over that where it ends: 1 where all of it arrives."""
    found = signal(make, x, seeds=seeds, progress=False)
    norms = dict(zip(found.names, found.mean("backward"), strict=True))
    return norms["stem"] / norms["body"]


def measure(depth: int, epochs: int, seeds: int, train: data.Split, test: data.Split) -> dict[str, Result]:
    done = compare(
        nets(depth), train, test, epochs=epochs, batch=100, optimizer="adam", seeds=seeds, device="cpu", threads=1
    )  # fmt: skip
    results = {}
    for name, make in nets(depth).items():
        ends = [(run.last("train_loss"), run.last("test_accuracy"), run.seconds) for run in done.of(name)]
        losses, accuracies, seconds = zip(*[[math.nan if v is None else v for v in end] for end in ends], strict=True)
        loss, accuracy, took = map(statistics.mean, (losses, accuracies, seconds))
        results[name] = Result(loss, accuracy, gradient_ratio(make, train.x[:500], seeds), took)
    return results


def ended(result: Result) -> str:
    return "diverged" if math.isnan(result.loss) else f"{result.loss:.2f} → {result.accuracy:.1%}"


def table(title: str, results: dict[int, dict[str, Result]], cell: Callable[[Result], str]) -> str:
    names = next(iter(results.values()))
    lines = [f"\n{title}", "depth" + "".join(f"{name:>15s}" for name in names)]
    for depth, row in results.items():
        lines.append(f"{depth:5,d}" + "".join(f"{cell(result):>15s}" for result in row.values()))
    return "\n".join(lines)


def plot(path: Path, results: dict[int, dict[str, Result]]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4), layout="constrained")
    panels = {"accuracy": "test accuracy", "loss": "training loss", "ratio": "gradient, first layer / last"}
    for axes, (what, title) in zip(figure.subplots(1, 3), panels.items(), strict=True):
        for name, mark in zip(next(iter(results.values())), "osv^D*", strict=True):
            axes.plot(list(results), [getattr(row[name], what) for row in results.values()], label=name, marker=mark)
        axes.set(xscale="log", yscale="log" if what == "ratio" else "linear", xlabel="layers", title=title)
        axes.set_xticks(list(results), [f"{depth:,}" for depth in results], minor=False)
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=6)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def main(depths: Sequence[int], epochs: int, seeds: int, out: Path) -> dict[int, dict[str, Result]]:
    train, test = data.mnist(small=True, flat=True, normalize=True)
    results = {}
    for depth in depths:
        print(f"\n{depth:,} layers, {epochs} epochs of {len(train):,} digits")
        results[depth] = measure(depth, epochs, seeds, train, test)
    print(table("training loss → test accuracy", results, ended))
    print(table("gradient at the first layer / at the last, before training", results, lambda r: f"{r.ratio:.2g}"))
    print(table("seconds to train and test one net", results, lambda r: f"{r.seconds:.1f}"))
    plot(out / "degradation.png", results)
    print(f"\n{out / 'degradation.png'}")
    return results


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--depths", type=int, nargs="+", default=[4, 20, 50, 100, 300, 1000], metavar="LAYERS")
    options.add_argument("--epochs", type=int, default=3)
    options.add_argument("--seeds", type=int, default=1, help="how many nets of each kind, over which to take the mean")
    options.add_argument("--out", type=Path, default=Path("runs"), help="the folder of the plot")
    options.add_argument(
        "--quick", action="store_true", help="4, 20 and 50 layers and one epoch, whatever else is said"
    )
    given = vars(options.parse_args())
    if given.pop("quick"):
        given.update(depths=[4, 20, 50], epochs=1)
    results = main(**given)
