"""``paths``: how many ways lead through a net, and how long they are."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from skipway.chain import Chain
from skipway.errors import ChainError, DataError
from skipway.graph import Edge, Node
from skipway.study.counting import of_wiring
from skipway.study.given import Bar, need_classes, whole
from skipway.study.kept import Kept, data_known, net_known
from skipway.study.lengths import Place, Spread, Unit, between, length_of, log_of, places, spread, told
from skipway.study.result import COLOURS, GREYS, Result, as_json
from skipway.study.walk import Walk, fit_input, need_chain
from skipway.train.guard import seed_random, untouched
from skipway.train.losses import Loss, choose_loss
from skipway.wiring import Wiring

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: lengths of paths that gradients are measured for, at most; those between follow from their neighbours
_LENGTHS = 24


@dataclass(frozen=True, repr=False)
class Paths(Result):
    """All paths from input to output: what :func:`paths` gives.

    ``counts[k]`` is the number of paths of length k, exactly. ``gradients`` holds, for the lengths that were measured,
    the mean norm of the gradient that comes back along one path; empty without data.
    """

    counts: tuple[int, ...]
    unit: Unit = "layers"
    gradients: tuple[tuple[int, float], ...] = ()
    samples: int = 0
    rows_used: int = 0
    seed: int = 0

    @property
    def total(self) -> int:
        """The number of paths."""
        return sum(self.counts)

    @property
    def shortest(self) -> int:
        return next(k for k, count in enumerate(self.counts) if count)

    @property
    def longest(self) -> int:
        return len(self.counts) - 1

    @property
    def mean(self) -> float:
        """The mean length of a path: the effective depth."""
        return float(Fraction(sum(k * count for k, count in enumerate(self.counts)), self.total))

    @property
    def median(self) -> int:
        """The length that at least half of the paths do not exceed."""
        return self.quantile(0.5)

    def quantile(self, p: float) -> int:
        """The smallest length that a share of ``p`` of all paths does not exceed."""
        if not 0 <= p <= 1:
            raise ChainError(f"a quantile is a share from 0 to 1, not {p!r}")
        wanted, below = Fraction(p) * self.total, 0
        for k, count in enumerate(self.counts):
            below += count
            if count and below >= wanted:
                return k
        return self.longest

    def share(self, low: int, high: int) -> float:
        """The share of paths with a length from ``low`` to ``high``, both included.

        >>> Paths((1, 2, 1)).share(1, 2)
        0.75
        """
        return float(Fraction(sum(self.counts[max(0, low) : high + 1]), self.total))

    def gradient_shares(self) -> tuple[float, ...]:
        """The share of the gradient that paths of each length bring: their number times the norm along one of them.

        Lengths between those that were measured get a norm between, on a line through the logarithms. Raises
        ``ChainError`` where there was no data.
        """
        if not self.gradients:
            raise ChainError("the gradient along paths was not measured: give paths(net, data=(x, y))")
        logs = [log_of(count) + between(self.gradients, k) for k, count in enumerate(self.counts)]
        top = max(logs)
        weights = [math.exp(value - top) if math.isfinite(top) else 0.0 for value in logs]
        return tuple(weight / sum(weights) if sum(weights) else 0.0 for weight in weights)

    @property
    def gradient_mean(self) -> float:
        """The mean length of a path, weighed by the gradient along it."""
        return sum(k * share for k, share in enumerate(self.gradient_shares()))

    def rows(self) -> list[tuple[str, ...]]:
        unit = self.unit
        made = [
            ("paths", told(self.total)),
            (f"shortest, longest in {unit}", f"{self.shortest}, {self.longest}"),
            ("mean length (effective depth)", f"{self.mean:.1f}"),
            ("median", str(self.median)),
            ("90 % of the paths", f"{self.quantile(0.05)} to {self.quantile(0.95)}"),
        ]
        if self.gradients:
            shares = self.gradient_shares()
            middle = [k for k in range(len(shares)) if sum(shares[: k + 1]) >= 0.05 and sum(shares[:k]) < 0.95]
            made.append(("mean length by gradient", f"{self.gradient_mean:.1f}"))
            made.append(("90 % of the gradient", f"{middle[0]} to {middle[-1]}" if middle else "-"))
        return [("what", "value"), *made]

    def table(self) -> str:
        """What is known of the lengths, and the distribution as bars of up to twenty lengths."""
        bars = self._bars()
        return super().table() + ("\n\n" + "\n".join(bars) if bars else "") + f"\n\n{self.verdict()}"

    def verdict(self) -> str:
        """How many paths there are, how long they are and, with data, which carry the gradient; computed.

        >>> Paths((1, 2, 1)).verdict()
        '4 paths, 0 to 2 layers long, 1.0 on the mean.'
        """
        ends = f"{self.shortest} to {self.longest}" if self.shortest < self.longest else str(self.longest)
        said = f"{told(self.total)} path{'s' * (self.total > 1)}, {ends} {self.unit} long"
        said += f", {self.mean:.1f} on the mean" if self.total > 1 else ""
        if self.gradients and self.total > 1:
            said += f"; weighed by the gradient along them, {self.gradient_mean:.1f}"
        return f"{said}."

    def _bars(self) -> list[str]:
        low, high = self.quantile(0.001), self.quantile(0.999)
        step = -(-(high - low + 1) // 20)
        bins = [(k, min(k + step - 1, self.longest)) for k in range(low, high + 1, step)]
        shares = [self.share(*ends) for ends in bins]
        widest = max(shares)
        names = [str(a) if a == b else f"{a}-{b}" for a, b in bins]
        size = max(map(len, names))
        return [
            f"{name:>{size}s} {share:6.1%} {'█' * round(40 * share / widest)}".rstrip()
            for name, share in zip(names, shares, strict=True)
        ] * (len(bins) > 1)  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        """Everything, as JSON has it; the counts are whole numbers of any size."""
        whole: dict[str, Any] = {
            "unit": self.unit, "total": self.total, "counts": self.counts, "shortest": self.shortest,
            "longest": self.longest, "mean": self.mean, "median": self.median,
        }  # fmt: skip
        if self.gradients:
            whole |= {
                "gradients": [{"length": k, "norm": norm} for k, norm in self.gradients],
                "gradient_shares": self.gradient_shares(), "gradient_mean": self.gradient_mean,
                "samples": self.samples, "rows": self.rows_used, "seed": self.seed,
            }  # fmt: skip
        made: dict[str, Any] = as_json(whole)
        return made

    def plot(self, path: str | FilePath | None = None) -> Figure:
        """The share of paths by length, and that of the gradient if it was measured; written to ``path`` if given."""
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator

        figure = Figure(figsize=(7, 4), layout="constrained")
        axes = figure.add_subplot()
        shares = [float(Fraction(count, self.total)) for count in self.counts]
        axes.bar(range(len(shares)), shares, width=0.9, color=GREYS[1], label=f"of {told(self.total)} paths")
        axes.axvline(self.mean, color=GREYS[0], linestyle=":", label=f"mean {self.mean:.1f}")
        if self.gradients:
            by_gradient = self.gradient_shares()
            axes.plot(range(len(by_gradient)), by_gradient, color=COLOURS[1], marker="o", markersize=3,
                      label=f"of the gradient, mean {self.gradient_mean:.1f}")  # fmt: skip
        axes.set(xlabel=f"length of a path in {self.unit}", ylabel="share")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlim(min(self.quantile(0.0001), self.shortest if self.gradients else self.longest) - 1,
                      self.quantile(0.9999) + 1)  # fmt: skip
        axes.legend()
        if path is not None:
            figure.savefig(path, dpi=150)
        return figure


def paths(
    net: Chain | Wiring,
    data: Any = None,
    *,
    layers: int | None = None,
    unit: Unit = "layers",
    loss: str | Loss = "auto",
    samples: int = 12,
    seed: int = 0,
    run: str | FilePath | None = None,
    progress: bool = True,
) -> Paths:
    """Count all paths from input to output by their length, exactly, and measure which of them carry the gradient.

    At every value where a shortcut ends there are several ways on, so that a residual net of n blocks is an ensemble of
    ``2 ** n`` paths (1605.06431). All of them are counted by dynamic programming over the wiring, for a thousand layers
    in about a second or less.

    Parameters
    ----------
    net:
        a chain, with chains inside; or a wiring alone, for ``layers`` layers.
    data:
        a batch ``(x, y)``, or anything with ``.x`` and ``.y``. With it, paths of each length are drawn at random, and
        the loss is taken back along one at a time: forward, the whole net runs; backward, every merge lets only one of
        its values through.
    unit:
        what a path's length counts. ``"layers"`` are those with weights, also on the way of a shortcut (a projection);
        ``"blocks"`` are the merges to which it comes along the branch, as 1605.06431 counts. Closed modules count as
        long as they have weights.
    loss, samples, seed:
        the loss as in :func:`skipway.fit`, how many paths are drawn of each length, and by which seed.
    run:
        a folder that keeps the gradients of every length in ``paths.json``: with the same net, data and options again,
        those in it are not measured again, so that an interrupted study goes on.
    progress:
        False is silent; otherwise gradients say what they cost, and a terminal shows a bar.

    Raises
    ------
    ChainError
        for what is no closed chain, a unit that is not known, or, with data, chains hidden in other modules.
    DataError
        for a batch that does not fit, or is not finite.
    CheckpointError
        for a folder that cannot be written, or that keeps a study of another net, other data or options.

    >>> from skipway import every, sliding
    >>> paths(every(1), layers=12).total, paths(sliding(2), layers=12).total
    (4096, 233)
    >>> paths(every(1), layers=4).counts
    (1, 4, 6, 4, 1)
    """
    if unit not in ("layers", "blocks"):
        raise ChainError(f'unit is "layers" or "blocks", not {unit!r}')
    if not isinstance(net, nn.Module):
        if isinstance(layers, bool) or not isinstance(layers, int) or layers < 1:
            raise ChainError(f"a wiring alone needs layers=, a whole number of at least 1, not {layers!r}")
        if data is not None:
            raise ChainError("a wiring alone has no gradients: give the chain")
        return Paths(of_wiring(net, layers, unit), unit)
    chain = need_chain(net, "paths")
    if layers is not None:
        raise ChainError(f"layers= goes with a wiring alone, and this chain has {len(chain)} of its own: leave it out")
    found = places(chain)
    known = spread(found, unit)
    counted = Paths(known.counts(), unit)
    if data is None:
        return counted
    whole("paths", "samples", samples)
    pair = (data.x, data.y) if hasattr(data, "x") and hasattr(data, "y") else data
    if not isinstance(pair, (tuple, list)) or len(pair) != 2:
        raise DataError("paths takes data=(x, y), two tensors of equally many rows")
    x, y = fit_input(chain, pair[0], "paths"), pair[1]
    if not isinstance(y, Tensor) or len(y) != len(x):
        raise DataError(f"paths: {len(x)} rows of x, and {len(y) if isinstance(y, Tensor) else 'none'} of y")
    need_classes(y, "paths")
    name, function = choose_loss(loss, net, y)
    kept = Kept.begin(
        run, "paths", options={"unit": unit, "loss": name, "samples": samples, "seed": seed},
        data=data_known(data=(x, y)) if run is not None else {},
        nets={"the net": net_known(chain, chain)} if run is not None else {},
    )  # fmt: skip
    draw = _Draws(found, known, unit, samples, random.Random(seed))
    measured = _gradients(chain, draw, counted.counts, x, y, function, seed, kept, progress)
    return Paths(counted.counts, unit, measured, samples, len(x), seed)


@dataclass(frozen=True)
class _Draws:
    """Paths of a length, drawn at random."""

    found: list[Place]
    known: Spread
    unit: Unit
    samples: int
    generator: random.Random

    def of(self, length: int) -> list[dict[int, int]]:
        return [_draw(self.found, self.known, self.unit, length, self.generator) for _ in range(self.samples)]


def _gradients(
    net: Chain, draws: _Draws, counts: tuple[int, ...], x: Tensor, y: Tensor, loss: Loss, seed: int, kept: Kept,
    progress: bool,
) -> tuple[tuple[int, float], ...]:  # fmt: skip
    """The mean norm of the gradient along one path, for up to 24 lengths from the shortest to the longest."""
    walk = Walk(net)
    there = [k for k, count in enumerate(counts) if count]
    chosen = sorted({there[round(i * (len(there) - 1) / (_LENGTHS - 1))] for i in range(_LENGTHS)})
    measured = []
    again = f"; {len(kept)} of {len(chosen)} lengths are kept" if len(kept) else ""
    cost = f"paths: {len(chosen) * draws.samples} passes forward and back over {len(x):,} rows{again}"
    bar = Bar(cost, len(chosen) * draws.samples, progress)
    with untouched(net, x.device, train=True), torch.enable_grad(), kept, bar:
        for length in chosen:
            ways = draws.of(length)  # also of a length that is kept: the next ones are then the same
            if f"length {length}" not in kept:
                seed_random(seed, x.device)
                norms = []
                for way in ways:
                    start = x.detach().requires_grad_()
                    output = walk(start, meet=_only(way))
                    (gradient,) = torch.autograd.grad(loss(output, y), start, allow_unused=True)
                    norms.append(0.0 if gradient is None else float(gradient.norm()))
                    bar.step()
                kept.keep(f"length {length}", sum(norms) / len(norms))
            else:
                bar.step(len(ways))
            measured.append((length, float(kept.find(f"length {length}"))))
    return tuple(measured)


def _draw(found: list[Place], known: Spread, unit: Unit, length: int, draw: random.Random) -> dict[int, int]:
    """A path of a length, all equally likely: for each value where ways part, which shortcut it comes by, or -1."""
    way: dict[int, int] = {}
    at, tapped = len(found), False
    while at:
        place = found[at - 1]
        ways: list[tuple[int, int, bool, int, int]] = []  # how many paths, where from, at its branch?, how long, which
        if place.branch or tapped:
            long = _length(place.layer, unit) + (unit == "blocks" and bool(place.shortcuts) and not tapped)
            ways.append((known.count(known.states[at - 1], length - long), at - 1, False, long, -1))
        for i, (start, of_branch, path) in enumerate(place.shortcuts if not tapped else ()):
            long = _length(path, unit)
            value = (known.branches if of_branch else known.states)[start]
            ways.append((known.count(value, length - long), start, of_branch, long, i))
        at_next, tapped_next, long, which = _pick(ways, draw)
        if place.shortcuts and not tapped:
            way[at] = which
        at, tapped, length = at_next, tapped_next, length - long
    return way


def _pick(ways: Sequence[tuple[int, int, bool, int, int]], draw: random.Random) -> tuple[int, bool, int, int]:
    left = draw.randrange(sum(count for count, *_ in ways))
    for count, at, tapped, long, which in ways:
        if left < count:
            return at, tapped, long, which
        left -= count
    raise AssertionError("a path that was counted is not there")


def _length(part: Any, unit: Unit) -> int:
    if isinstance(part, nn.Module) and any(isinstance(module, Chain) and module.wiring for module in part.modules()):
        raise ChainError(
            "gradients along paths are measured where all ways are shortcuts of the chain, and there is a chain with "
            f"shortcuts inside a {type(part).__name__}: leave data out"
        )
    return length_of(part, unit)


def _only(way: dict[int, int]) -> Any:
    """Let gradients through along one path only."""

    def meet(node: Node, edges: Sequence[Edge], branch: Tensor, brought: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        live = [edge for edge in node.edges if edge.shortcut.path_scale != 0]
        which = way.get(node.index, -1)
        chosen = live[which] if which >= 0 else None
        brought = [b if edge is chosen else b.detach() for edge, b in zip(edges, brought, strict=True)]
        return branch.detach() if chosen in edges else branch, brought

    return meet


__all__ = ["Paths", "paths"]
