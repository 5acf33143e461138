"""``landscape``: the loss around the weights of a net, along random directions that suit its filters."""

from __future__ import annotations

import contextlib
import math
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvTransposeNd

from skipway.errors import ChainError
from skipway.gains import undecayed
from skipway.study.given import Bar, task_of, whole
from skipway.study.kept import Kept, data_known, net_known
from skipway.study.result import COLOURS, Result, as_json
from skipway.train.batches import Source
from skipway.train.guard import untouched
from skipway.train.losses import Loss
from skipway.train.measure import Task

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BatchNorms = Literal["kept", "anew"]
#: norms, whose weights of several axes (of ``LayerNorm((H, W))``) are gains too
_NORMS = (_BatchNorm, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


@dataclass(frozen=True)
class Landscape(Result):
    """The loss on a slice through the space of weights: what :func:`landscape` gives.

    ``steps`` are the distances from the net along each direction, in units of the norm of every filter. With one
    direction ``losses`` has a row a seed; with two, ``losses[j][i]`` is the loss at ``steps[i]`` along the first and
    ``steps[j]`` along the second. ``loss`` is that of the net itself.
    """

    steps: tuple[float, ...]
    losses: tuple[tuple[float, ...], ...]
    loss: float
    directions: int
    seeds: tuple[int, ...]
    loss_name: str
    batchnorm: BatchNorms
    rows_used: int
    moved: int
    """Weights that the directions move; all others have direction zero."""
    parameters: int
    forwards: int
    """Passes over the data that it took."""

    def at(self, step: float, second: float = 0.0) -> tuple[float, ...]:
        """The losses at the point nearest to a step, one a seed; with two directions at ``(step, second)``, one."""
        i = min(range(len(self.steps)), key=lambda k: abs(self.steps[k] - step))
        if self.directions == 1:
            if second:
                raise ChainError("this slice has one direction: landscape(net, data, directions=2) has a second step")
            return tuple(row[i] for row in self.losses)
        j = min(range(len(self.steps)), key=lambda k: abs(self.steps[k] - second))
        return (self.losses[j][i],)

    @property
    def lowest(self) -> tuple[float, tuple[float, float]]:
        """The lowest loss of the slice, and the steps at which it is; NaN counts as high."""
        found = [
            (loss, (self.steps[i], self.steps[j] if self.directions == 2 else 0.0))
            for j, row in enumerate(self.losses)
            for i, loss in enumerate(row)
            if not math.isnan(loss)
        ]
        # of equal losses the one nearest to the net, which is always among them
        return min(found, key=lambda one: (one[0], math.hypot(*one[1])), default=(math.nan, (0.0, 0.0)))

    @property
    def is_minimum(self) -> bool:
        """Whether no point of the slice has a lower loss than the net itself."""
        return not self.lowest[0] < self.loss

    def verdict(self) -> str:
        """One sentence, computed: whether the net lies at a minimum of the slice, and how steep its walls are."""
        low, (a, b) = self.lowest
        where = f"{a:g}" if self.directions == 1 else f"({a:g}, {b:g})"
        if not math.isfinite(self.loss):
            return f"The loss of the net itself is {self.loss}: there is no slice to look at."
        if self.is_minimum:
            first = f"The net lies at the lowest point of the slice, {_cell(self.loss)}"
        else:
            first = f"Not the lowest point: {_cell(self.loss)} at the net, and {_cell(low)} at step {where}"
        edge = statistics.median(self._ring(self.steps[-1]))
        return f"{first}; at a distance of {self.steps[-1]:g} the loss is {_cell(edge)} (the median)."

    def _ring(self, distance: float) -> list[float]:
        """The losses at a distance along the axes, NaN as infinite."""
        ends = [(distance, 0.0), (-distance, 0.0)]
        ends += [(0.0, distance), (0.0, -distance)] if self.directions == 2 else []
        found = [loss for a, b in ends for loss in self.at(a, b)]
        return [math.inf if math.isnan(loss) else loss for loss in found]

    def rows(self) -> list[tuple[str, ...]]:
        """A row a distance from the net, up to ten: the median, lowest and highest loss there, on both sides."""
        away = [step for step in self.steps if step > 0]
        kept = sorted({round(i * (len(away) - 1) / 9) for i in range(10)})
        made = [("distance", "loss", "lowest", "highest"), ("0", *[_cell(self.loss)] * 3)]
        for step in (away[i] for i in kept):
            ring = self._ring(step)
            made.append((f"{step:.3g}", *(_cell(f(ring)) for f in (statistics.median, min, max))))
        return made

    def table(self) -> str:
        return f"{super().table()}\n\n{self.verdict()}"

    def to_dict(self) -> dict[str, Any]:
        """Everything measured, as JSON has it."""
        made: dict[str, Any] = as_json({
            "directions": self.directions, "steps": self.steps, "losses": self.losses, "loss": self.loss,
            "lowest": self.lowest[0], "lowest_at": self.lowest[1], "is_minimum": self.is_minimum,
            "loss_name": self.loss_name, "seeds": self.seeds, "batchnorm": self.batchnorm, "rows": self.rows_used,
            "moved": self.moved, "parameters": self.parameters, "forwards": self.forwards,
            "verdict": self.verdict(),
        })  # fmt: skip
        return made

    def plot(self, path: str | Path | None = None, others: Mapping[str, Landscape] | None = None) -> Figure:
        """The slice as a line (its median over seeds, and the range), or as contours; written to ``path`` if given.

        ``others`` are slices of one direction to draw on the same axes, by name; this one is then called ``"net"``.
        """
        from matplotlib.figure import Figure

        figure = Figure(figsize=(6, 4), layout="constrained")
        axes = figure.add_subplot()
        if self.directions == 2:
            if others:
                raise ChainError("contours are drawn one net at a time: leave others out")
            self._contours(figure, axes)
        else:
            drawn = {"net" if others else "": self, **(others or {})}
            for (name, one), colour in zip(drawn.items(), COLOURS * len(drawn), strict=False):
                if one.directions == 2:
                    raise ChainError(f"{name!r} is a slice of two directions: others= takes those of one")
                one._line(axes, name, colour)
            finite = [v for one in drawn.values() for row in one.losses for v in row if math.isfinite(v)]
            if finite and min(finite) > 0 and max(finite) > 20 * min(finite):
                axes.set_yscale("log")
            axes.set(xlabel="step along the direction, in norms of a filter", ylabel="loss")
            axes.grid(alpha=0.3)
            if others:
                axes.legend()
        if path is not None:
            figure.savefig(path, dpi=150)
        return figure

    def _line(self, axes: Any, name: str, colour: str) -> None:
        columns = [sorted(v for v in column if math.isfinite(v)) for column in zip(*self.losses, strict=True)]
        known = [(step, column) for step, column in zip(self.steps, columns, strict=True) if column]
        steps = [step for step, _ in known]
        axes.plot(steps, [statistics.median(column) for _, column in known], color=colour, label=name or None)
        if len(self.seeds) > 1:
            lows, highs = ([column[end] for _, column in known] for end in (0, -1))
            axes.fill_between(steps, lows, highs, color=colour, alpha=0.2, linewidth=0)
        axes.plot([0], [self.loss], color=colour, marker="o", markersize=4)

    def _contours(self, figure: Any, axes: Any) -> None:
        import numpy as np

        values = np.array(self.losses)
        finite = values[np.isfinite(values)]
        log = finite.size > 0 and finite.min() > 0 and finite.max() > 20 * finite.min()
        shown = np.ma.masked_invalid(np.log10(values) if log else values)
        if finite.size and finite.max() > finite.min():
            drawn = axes.contourf(self.steps, self.steps, shown, levels=24, cmap="viridis")
            axes.contour(self.steps, self.steps, shown, levels=12, colors="white", linewidths=0.5, linestyles="solid")
            figure.colorbar(drawn, label="log10 of the loss" if log else "loss")
        axes.plot([0], [0], color=COLOURS[1], marker="o")
        axes.locator_params(nbins=5)
        axes.set(xlabel="step along the first direction", ylabel="step along the second", aspect="equal")


def landscape(
    net: nn.Module,
    data: Any,
    loss: str | Loss = "auto",
    *,
    directions: int = 1,
    span: float = 1.0,
    points: int | None = None,
    seed: int = 0,
    seeds: int = 1,
    batchnorm: BatchNorms = "kept",
    batch: int = 1024,
    run: str | Path | None = None,
    progress: bool = True,
) -> Landscape:
    """The loss around a net, along random directions scaled to its filters (Li et al., 1712.09913).

    A direction is drawn from a normal distribution and then scaled filter by filter: every row of a weight that makes
    one feature gets the norm that this row has in the net. So a step of 1 is as large as the weights are, in every
    net, and slices of different architectures can be laid side by side.

    Everything else has direction zero: biases, norms, gains of shortcuts (:func:`skipway.gains.undecayed`), and
    parameters that are not trained. Of what the norm of a layer takes out again, moving it would show nothing; a gain
    is one number and has no filter to be scaled to.

    Parameters
    ----------
    net:
        a closed chain, or any module, in place: its weights are put back bit for bit however this ends.
    data:
        as in :func:`skipway.evaluate`: ``(x, y)`` tensors, anything with ``.x`` and ``.y``, a ``DataLoader``. The loss
        is that over all of it, in eval mode.
    loss:
        as in :func:`skipway.fit`.
    directions, span, points:
        1 for a line or 2 for a plane; from ``-span`` to ``span`` along each; at so many points along each, an odd
        number, so that the net itself is one (41 for a line, 21 for a plane).
    seed, seeds:
        the seed of the first direction, and for a line how many are drawn: ``seed, seed + 1, ...``.
    batchnorm:
        ``"kept"`` leaves the statistics of batch norms as they were trained. ``"anew"`` takes them from the data at
        every point, at the cost of a second pass over it.
    batch, progress:
        rows at a time; False is silent, otherwise the cost is said first, and a terminal shows a bar.
    run:
        a folder that keeps every point in ``landscape.json``: with the same net, data and options again, those in it
        are not measured again, so that an interrupted study goes on. Seeds may be added.

    Raises
    ------
    ChainError, OpenChainError, DataError, TrainError
        for options that cannot be, an open chain, data that does not fit, is not finite or has one class, and a net
        that is not finite.
    CheckpointError
        for a folder that cannot be written, or that keeps a study of another net, other data or options.

    >>> from skipway import Chain, Dense, Skip, relu
    >>> net = Chain(Dense(2, 8, relu), Skip(Dense(8, 8, relu)), Dense(8, 2))
    >>> data = torch.randn(20, 2), torch.arange(20) % 2
    >>> found = landscape(net, data, points=5, progress=False)
    >>> found.steps, found.at(0.0) == (found.loss,), found.moved
    ((-1.0, -0.5, 0.0, 0.5, 1.0), True, 96)
    """
    if directions not in (1, 2) or isinstance(directions, bool):
        raise ChainError(f"landscape: directions is 1 (a line) or 2 (a plane), not {directions!r}")
    points = (41 if directions == 1 else 21) if points is None else whole("landscape", "points", points, 3)
    if points % 2 == 0:
        raise ChainError(f"landscape: points must be odd, so that the net itself is one, not {points}")
    if isinstance(span, bool) or not isinstance(span, (int, float)) or not 0 < span < math.inf:
        raise ChainError(f"landscape: span must be a number above 0, not {span!r}")
    if batchnorm not in ("kept", "anew"):
        raise ChainError(f'landscape: batchnorm is "kept" or "anew", not {batchnorm!r}')
    whole("landscape", "seed", seed, 0)
    if whole("landscape", "seeds", seeds) > 1 and directions == 2:
        raise ChainError("landscape: a plane is drawn for one seed: leave seeds out, or take directions=1")
    task, source = task_of(net, data, loss, whole("landscape", "batch", batch), "landscape")
    filters = dict(_filters(net))
    if not filters:
        raise ChainError("landscape: the net has no trained weight of two axes or more, so no filter to move")
    half = points // 2
    steps = tuple(span * (i - half) / half for i in range(points))
    grid = [(a, b) for b in (steps if directions == 2 else (0.0,)) for a in steps]
    anew = batchnorm == "anew"
    passes = (1 + anew) * len(grid) * seeds
    told = f"{source.rows:,} rows" if source.rows is not None else "the data"
    kept = Kept.begin(
        run, "landscape", options={
            "directions": directions, "span": span, "points": points, "batchnorm": batchnorm, "loss": task.name,
            "batch": batch,
        }, data=data_known(data=data) if run is not None else {},
        nets={"the net": net_known(net, net)} if run is not None else {}, free=("seed", "seeds"),
    )  # fmt: skip
    again = f"; {len(kept)} points are kept" if len(kept) else ""
    losses = []
    with (
        untouched(net, task.device, train=False), kept,
        Bar(f"landscape: {passes} passes over {told}{again}", len(grid) * seeds, progress) as bar,
    ):  # fmt: skip
        for s in range(seed, seed + seeds):
            draw = torch.Generator().manual_seed(s)
            drawn = [_direction(filters, draw) for _ in range(directions)]
            row = []
            for i, (a, b) in enumerate(grid):
                found = kept.find(f"seed {s}, point {i}")
                if found is None:
                    with _moved(filters, drawn, (a, b)):
                        found = _loss(task, source, anew)
                    kept.keep(f"seed {s}, point {i}", found)
                row.append(found)
                bar.step()
            losses += [tuple(row[i : i + points]) for i in range(0, len(row), points)]
    middle = losses[half if directions == 2 else 0][half]
    return Landscape(
        steps, tuple(losses), middle, directions, tuple(range(seed, seed + seeds)), task.name, batchnorm,
        source.rows or 0, sum(p.numel() for p in filters), sum(p.numel() for p in net.parameters()), passes,
    )  # fmt: skip


def _filters(net: nn.Module) -> Iterator[tuple[nn.Parameter, tuple[int, ...]]]:
    """The weights that a direction moves, each with the shape in which one filter is one row."""
    still = {id(p) for _, p in undecayed(net)}
    for module in net.modules():
        if isinstance(module, _NORMS):
            continue
        for p in module._parameters.values():
            if p is None or p.dim() < 2 or id(p) in still or not p.requires_grad or not p.is_floating_point():
                continue
            still.add(id(p))
            groups = module.groups if isinstance(module, _ConvTransposeNd) else 0
            # a transposed convolution has (in, out / groups, *kernel): its filters run over the first axis
            yield p, (groups, p.shape[0] // groups, p.shape[1], -1) if groups else (len(p), -1)


def _direction(filters: Mapping[nn.Parameter, tuple[int, ...]], draw: torch.Generator) -> list[Tensor]:
    """A random direction with the norm of every filter. Drawn on the CPU, so that every device has the same."""
    made = []
    for p, shape in filters.items():
        d = torch.randn(p.shape, generator=draw).to(p.device, p.dtype).reshape(shape)
        axes = (1, 3) if len(shape) == 4 else (1,)
        ratio = p.detach().reshape(shape).norm(dim=axes, keepdim=True) / d.norm(dim=axes, keepdim=True)
        made.append((d * ratio).reshape(p.shape))
    return made


@contextlib.contextmanager
def _moved(
    filters: Mapping[nn.Parameter, tuple[int, ...]], drawn: list[list[Tensor]], by: tuple[float, ...]
) -> Iterator[None]:
    """The net with its weights moved. The weights themselves are laid aside, not changed, so they come back exactly."""
    kept = [(p, p.data) for p in filters]
    try:
        for i, (p, held) in enumerate(kept):
            p.data = sum((step * d[i] for step, d in zip(by, drawn, strict=False) if step), held)
        yield
    finally:
        for p, held in kept:
            p.data = held


def _loss(task: Task, source: Source, anew: bool) -> float:
    if anew:
        _statistics(task.net, source)
    return task.evaluate(source).loss


def _statistics(net: nn.Module, source: Source) -> None:
    """Take the statistics of all batch norms from the data, as the mean over its batches."""
    norms = [m for m in net.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    momenta = [norm.momentum for norm in norms]
    try:
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # the mean over all that has come
            norm.train()
        for x, _ in source if norms else ():
            net(x)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            norm.eval()


def _cell(value: float) -> str:
    return f"{value:.3g}"


__all__ = ["Landscape", "landscape"]
