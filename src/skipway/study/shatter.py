"""``shatter``: whether gradients at neighbouring inputs have anything to do with each other."""

from __future__ import annotations

import copy
import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from skipway.chain import Chain
from skipway.errors import ChainError
from skipway.study.given import Bar, whole
from skipway.study.kept import Kept, net_known
from skipway.study.result import COLOURS, GREYS, Result, aligned, as_json
from skipway.study.signal import input_shape
from skipway.study.walk import need_chain
from skipway.train.guard import random_states, set_random_states

if TYPE_CHECKING:
    from matplotlib.figure import Figure


#: values of a gradient that are too few to be called smooth or noise
_FEW = 3


@dataclass(frozen=True, repr=False)
class Shatter(Result):
    """What :func:`shatter` measured: how alike gradients are at points so many steps apart.

    ``correlations`` has a tuple a draw of the net, with the autocorrelation at lags 0, 1, 2, ... (1 at lag 0).
    ``gradients`` is the derivative along the line for the first draw, to look at.
    """

    correlations: tuple[tuple[float, ...], ...]
    gradients: tuple[float, ...]
    points: int
    span: float
    seeds: tuple[int, ...] = (0,)

    def mean(self) -> tuple[float, ...]:
        """The mean over the draws, for every lag."""
        return tuple(statistics.mean(values) for values in zip(*self.correlations, strict=True))

    @property
    def neighbours(self) -> float:
        """The autocorrelation at lag 1: near 1 for a smooth gradient, near 0 for white noise."""
        return self.mean()[1]

    @property
    def noise(self) -> float:
        """What white noise of so many points and draws stays below, at any one lag, in 95 of 100 cases."""
        return 1.96 / math.sqrt(self.points * len(self.correlations))

    def verdict(self) -> str:
        """Whether the gradients are shattered, in a sentence, computed."""
        first, step = self.neighbours, 2 * self.span / (self.points - 1)
        said = f"the autocorrelation at neighbouring points ({step:.2g} apart) is {first:.2f}"
        if not math.isfinite(first):
            return "The gradient is not finite, or the same everywhere: there is nothing to correlate."
        top = max(map(abs, self.gradients), default=0.0)
        distinct = len({round(value / top, 9) for value in self.gradients}) if top else 0
        if 0 < distinct <= _FEW:
            return (
                f"Along this line the gradient has {distinct} values only: without biases or norms a relu net is "
                f"linear on either side of zero, which tells nothing of shattering."
            )
        # the mean of the points that is taken away costs 1 / points
        if abs(first + 1 / self.points) <= 1.5 * self.noise:
            return f"Gradients are shattered: {said}, as of white noise."
        if first < 0.3:
            return f"Gradients are nearly shattered: {said}."
        return f"Gradients are not shattered: {said}, where white noise has 0."

    def rows(self) -> list[tuple[str, ...]]:
        made: list[tuple[str, ...]] = [("lag", "autocorrelation", "smallest", "largest")]
        for lag, values in enumerate(zip(*self.correlations, strict=True)):
            cells = (statistics.mean(values), min(values), max(values))
            made.append((str(lag), *(f"{value:.3f}" for value in cells)))
        return made

    def table(self) -> str:
        """A line a lag, and the verdict."""
        return f"{aligned(self.rows())}\n\n{self.verdict()}"

    def to_dict(self) -> dict[str, Any]:
        """Everything measured, as JSON has it: a number that is not finite is None."""
        made: dict[str, Any] = as_json(
            {
                "correlations": self.correlations, "gradients": self.gradients, "points": self.points,
                "span": self.span, "seeds": self.seeds, "verdict": self.verdict(),
            }
        )  # fmt: skip
        return made

    def plot(self, path: str | Path | None = None) -> Figure:
        """The gradient along the line, and its autocorrelation with the band of white noise; written to ``path`` if
        given."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(10, 4), layout="constrained")
        left, right = figure.subplots(1, 2)
        along = [self.span * (2 * i / (self.points - 1) - 1) for i in range(self.points)]
        left.plot(along, self.gradients, color=COLOURS[1], linewidth=0.9)
        left.set(xlabel="along the line of inputs", title="gradient of the output, first draw")
        for values in self.correlations if len(self.correlations) > 1 else ():
            right.plot(values, color=COLOURS[0], alpha=0.25, linewidth=0.8)
        right.plot(self.mean(), color=COLOURS[0], linewidth=2, marker="o", markersize=3, label="measured")
        right.axhspan(-self.noise, self.noise, color=GREYS[1], alpha=0.3, linewidth=0, label="white noise")
        right.set(xlabel="lag in points", title="autocorrelation", ylim=(-0.5, 1.05))
        right.legend()
        if path is not None:
            figure.savefig(path, dpi=150)
        return figure


def shatter(
    net: Chain | Callable[[], Chain],
    *,
    points: int = 256,
    span: float = 2.0,
    lags: int = 15,
    seeds: int = 10,
    seed: int = 0,
    run: str | Path | None = None,
    progress: bool = True,
) -> Shatter:
    """The autocorrelation of a net's gradient along a line of inputs (Balduzzi et al., 1702.08591).

    In a deep plain net with batch norm the gradient at one input says nothing of that at the next one: it is
    *shattered* and looks like white noise, which no optimizer can follow. Shortcuts keep it correlated.

    Parameters
    ----------
    net:
        a function that makes the chain, called for every seed; or a chain, measured as it is.
    points, span:
        how many inputs, evenly spaced from ``-span`` to ``span`` along a random direction of length 1 (of an input of
        one number: along that number). They run as one batch in train mode, so that batch norm sees all of them.
    lags:
        how many steps apart are compared, at most.
    seeds, seed:
        how many draws of net, direction and outputs, and the first of their seeds.
    run:
        a folder that keeps every draw in ``shatter.json``: with the same net and options again, those in it are
        not measured again, so that an interrupted study goes on. Seeds may be added.

    Returns
    -------
    A :class:`Shatter`. The gradient is that of the sum of the outputs, with random signs where there are several.

    Raises
    ------
    ChainError
        for what is no closed chain, a chain that does not say what it takes, and options that cannot be.
    CheckpointError
        for a folder that cannot be written, or that keeps a study of another net or other options.

    >>> from skipway import Dense
    >>> found = shatter(lambda: Chain(Dense(1, 50, torch.tanh), Dense(50, 1)), seeds=2, progress=False)
    >>> found.verdict()
    'Gradients are not shattered: the autocorrelation at neighbouring points (0.016 apart) is ..., where white noise...'
    """
    whole("shatter", "points", points, 8)
    whole("shatter", "lags", lags)
    whole("shatter", "seeds", seeds)
    if lags >= points:
        raise ChainError(f"shatter: lags must be fewer than the {points} points, not {lags}")
    if isinstance(span, bool) or not isinstance(span, (int, float)) or not math.isfinite(span) or span <= 0:
        raise ChainError(f"shatter: span must be a positive number, not {span!r}")
    given = isinstance(net, torch.nn.Module) or not callable(net)
    used = tuple(range(seed, seed + seeds))
    states = random_states(torch.device("cpu"))
    found: list[tuple[float, ...]] = []
    first: tuple[float, ...] = ()
    kept = Kept()

    def make(s: int) -> Chain:
        torch.manual_seed(s)
        return need_chain(net if given else net(), "shatter")

    try:
        if run is not None:
            known = make(seed)
            kept = Kept.begin(
                run, "shatter", options={"points": points, "span": span, "lags": lags, "seed": seed}, data={},
                nets={"the net": net_known(known, known)}, free=("seeds",),
            )  # fmt: skip
        again = f"; {len(kept)} are kept" if len(kept) else ""
        with kept, Bar(f"shatter: {seeds} draws of {points} points{again}", seeds, progress) as bar:
            for s in used:
                piece = kept.find(f"seed {s}")
                if piece is None:
                    along = _derivative(copy.deepcopy(make(s)).double().train(), points, span)
                    piece = {"correlations": _autocorrelation(along, lags), "along": along.tolist() * (s == seed)}
                    kept.keep(f"seed {s}", piece)
                first = first or tuple(piece["along"])
                found.append(tuple(piece["correlations"]))
                bar.step()
    finally:
        set_random_states(states, torch.device("cpu"))
    return Shatter(tuple(found), first, points, float(span), used)


def _derivative(net: Chain, points: int, span: float) -> Tensor:
    """The derivative of the output along a line through the inputs, at every point of it."""
    shape = input_shape(net, "shatter")
    direction = torch.randn(shape, dtype=torch.float64)
    direction /= direction.norm()
    at = torch.linspace(-span, span, points, dtype=torch.float64)
    x = (at.view(-1, *[1] * len(shape)) * direction).requires_grad_()
    with torch.enable_grad():
        y = net(x)
        signs = torch.ones_like(y) if y[0].numel() == 1 else torch.randn_like(y[:1]).sign().expand_as(y)
        (gradient,) = torch.autograd.grad(y, x, signs)
    return (gradient * direction).flatten(1).sum(1)


def _autocorrelation(values: Tensor, lags: int) -> tuple[float, ...]:
    """At lags 0 to ``lags``: 1, and how alike values are that lie so many steps apart."""
    off = values - values.mean()
    whole_sum = float(off.square().sum())
    # a constant, but for rounding
    if not whole_sum > 1e-24 * float(values.square().sum()):
        return (math.nan,) * (lags + 1)
    return tuple(float((off[: len(off) - k] * off[k:]).sum()) / whole_sum for k in range(lags + 1))


__all__ = ["Shatter", "shatter"]
