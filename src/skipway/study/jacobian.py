"""``jacobian``: how far a net stretches and shrinks small changes of its input, in every direction."""

from __future__ import annotations

import copy
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.func import jacrev, vmap

from skipway.chain import Chain
from skipway.errors import ChainError, DataError, SkipwayError, nearest
from skipway.graph import Node
from skipway.study.given import Bar, device_of
from skipway.study.kept import Kept, data_known, net_known
from skipway.study.result import COLOURS, GREYS, Result, as_json
from skipway.study.signal import trunk
from skipway.study.walk import Walk, fit_input, need_chain

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: values that are looked at unless they are named, and rows of the table
_SHOWN = 16
#: numbers in the Jacobians of one row, at most: half a gigabyte as float64
_MOST = 1 << 26
#: rows at a time
_ROWS = 8
#: below this share of the largest, a singular value computed in so many digits is zero
_ZERO = {torch.float64: 1e-13, torch.float32: 1e-6}


@dataclass(frozen=True)
class Spectrum:
    """The singular values of the Jacobian of one value, the largest first, a row a sample.

    ``features_in`` and ``features_out`` are the widths of the Jacobian.
    """

    value: str
    depth: int
    """Its place in the chain: layers before it, those of opened chains counted."""
    singular: tuple[tuple[float, ...], ...]
    features_in: int
    features_out: int

    @property
    def largest(self) -> float:
        """The median over the samples of the largest singular value."""
        return statistics.median(row[0] for row in self.singular)

    @property
    def smallest(self) -> float:
        return statistics.median(row[-1] for row in self.singular)

    @property
    def middle(self) -> float:
        """The median of all singular values of all samples."""
        return statistics.median(s for row in self.singular for s in row)

    @property
    def gain(self) -> float:
        """What a change of the input in a random direction is multiplied by: the root of the mean square."""
        total = sum(s * s for row in self.singular for s in row)
        return math.sqrt(total / (len(self.singular) * self.features_in))

    @property
    def condition(self) -> float:
        """The median over the samples of the largest over the smallest; infinite where a direction is lost."""
        return statistics.median(row[0] / row[-1] if row[-1] else math.inf for row in self.singular)

    @property
    def rank(self) -> float:
        """The median over the samples of the directions that come through."""
        return statistics.median(sum(s > 0 for s in row) for row in self.singular)

    def between(self, low: float = 0.05, high: float = 0.95) -> tuple[float, float]:
        """The interval that holds the singular values of all samples but for the lowest and highest 5 %."""
        found = sorted(s for row in self.singular for s in row)
        last = len(found) - 1
        return found[round(low * last)], found[round(high * last)]


@dataclass(frozen=True)
class Jacobian(Result):
    """What :func:`jacobian` found: a :class:`Spectrum` a value, in the order of the chain; the last is the net's."""

    start: str
    spectra: tuple[Spectrum, ...]
    samples: int

    @property
    def output(self) -> Spectrum:
        """The spectrum of the whole net."""
        return self.spectra[-1]

    def __getitem__(self, value: str) -> Spectrum:
        found = {one.value: one for one in self.spectra}
        if value not in found:
            raise ChainError(f"the Jacobian of {value!r} was not asked for: {nearest(value, found)}")
        return found[value]

    @property
    def isometric(self) -> bool:
        """Whether the net is near dynamical isometry (1711.04735): 90 % of its singular values lie in 1/2 to 2."""
        low, high = self.output.between()
        return low >= 0.5 and high <= 2.0

    def verdict(self) -> str:
        """One sentence, computed: what happens to small changes of the start on their way to the end."""
        end = self.output
        low, high = end.between()
        told = f"90 % of the singular values lie in {_cell(low)} to {_cell(high)}"
        if not all(math.isfinite(s) for row in end.singular for s in row):
            return "Singular values are not finite: the net overflows on these rows."
        if self.isometric:
            return f"Near dynamical isometry: {told}."
        if not end.largest:
            return "Nothing comes through: all singular values are 0."
        lost = min(end.features_in, end.features_out) - end.rank
        if lost:
            told += f", and {lost:g} of {min(end.features_in, end.features_out)} directions are lost"
        if high < 0.5:
            return f"Changes vanish in nearly every direction: {told}."
        if low > 2:
            return f"Changes grow in nearly every direction: {told}."
        said = "Far from isometry" if end.condition > 100 else "Not near isometry"
        return f"{said}, condition number {_cell(end.condition)}: {told}."

    def rows(self) -> list[tuple[str, ...]]:
        made: list[tuple[str, ...]] = [("value", "gain", "largest", "median", "smallest", "90 %", "condition", "rank")]
        kept = sorted({round(i * (len(self.spectra) - 1) / (_SHOWN - 1)) for i in range(_SHOWN)})
        for one in (self.spectra[i] for i in kept):
            low, high = one.between()
            numbers = [_cell(v) for v in (one.gain, one.largest, one.middle, one.smallest)]
            ends = f"{_cell(low)} – {_cell(high)}"
            full = min(one.features_in, one.features_out)
            made.append((one.value, *numbers, ends, _cell(one.condition), f"{one.rank:g} of {full}"))
        return made

    def table(self) -> str:
        return f"{super().table()}\n\n{self.verdict()}"

    def to_dict(self) -> dict[str, Any]:
        """Everything measured, as JSON has it."""
        made: dict[str, Any] = as_json({
            "start": self.start, "samples": self.samples, "isometric": self.isometric, "verdict": self.verdict(),
            "values": [
                {"value": s.value, "depth": s.depth, "gain": s.gain, "largest": s.largest, "median": s.middle,
                 "smallest": s.smallest, "condition": s.condition, "rank": s.rank, "singular": s.singular}
                for s in self.spectra
            ],
        })  # fmt: skip
        return made

    def plot(self, path: str | Path | None = None) -> Figure:
        """The singular values by depth, and all of those at the end; written to ``path`` if given."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(9, 3.8), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=(1.4, 1))
        depths = [one.depth for one in self.spectra]
        floor = min((s for one in self.spectra for row in one.singular for s in row if s > 0), default=1e-9)
        for (name, colour), values in {
            ("largest", COLOURS[1]): [one.largest for one in self.spectra],
            ("root mean square", COLOURS[0]): [one.gain for one in self.spectra],
            ("median", COLOURS[2]): [one.middle for one in self.spectra],
            ("smallest that is not 0", GREYS[0]): [
                min((s for row in one.singular for s in row if s), default=floor) for one in self.spectra
            ],
        }.items():
            left.plot(depths, [max(v, floor) for v in values], marker="o", markersize=3, label=name, color=colour)
        left.axhline(1.0, color="black", linestyle=":", linewidth=1)
        left.set(xlabel=f"layers after {self.start!r}", ylabel="singular value", yscale="log")
        left.legend(fontsize="small")
        rows = self.output.singular
        places = range(1, len(rows[0]) + 1)
        for row in rows:
            right.plot(places, [s if s > 0 else math.nan for s in row], color=COLOURS[0], alpha=0.4, linewidth=1)
        right.axhline(1.0, color="black", linestyle=":", linewidth=1)
        right.set(xlabel=f"direction, of {self.output.value!r}", yscale="log")
        if path is not None:
            figure.savefig(path, dpi=150)
        return figure


def jacobian(
    net: Chain,
    x: Tensor,
    *,
    at: Sequence[str] | None = None,
    start: str = "input",
    double: bool = True,
    run: str | Path | None = None,
    progress: bool = True,
) -> Jacobian:
    """The singular values of the Jacobian of a net, exactly, for every row of ``x`` and by depth.

    A singular value is what a small change of the input in one direction is multiplied by. All of them 1 is dynamical
    isometry: gradients come back with their length, whatever their direction (1312.6120, 1711.04735). Deep plain nets
    lose it, and shortcuts keep it.

    Parameters
    ----------
    net:
        a closed chain. A copy of it is studied, in eval mode: dropout rests, and batch norms are the linear maps that
        their statistics make of them, so that every row has a Jacobian of its own.
    x:
        rows, ``(N, *input)``: each has its Jacobian. All numbers said are medians over them.
    at:
        names of values, as in :meth:`skipway.Chain.features`, also inside chains (``"body.3"``): the Jacobian of each
        is taken. By default up to 16 of the trunk, spread over the depth. The output is always the last.
    start:
        the value to change. With the name of the stem, the stem is left out of what is measured.
    double:
        compute in float64, since the small singular values of a deep net are lost in float32.
    run:
        a folder that keeps the rows that are done in ``jacobian.json``: with the same net, rows and options again, an
        interrupted study goes on from there.

    Costs a backward pass for every feature of every value, a row at a time: for small nets.

    Raises
    ------
    ChainError, OpenChainError
        for what is no closed chain, names that are none, or a layer that torch.func cannot differentiate.
    DataError
        for rows that do not fit, are not finite or not floating point, and values so wide that their Jacobians do not
        fit into memory.
    CheckpointError
        for a folder that cannot be written, or that keeps a study of another net, other data or options.

    >>> from skipway import Dense, every
    >>> net = Chain(Dense(4, 4), Dense(4, 4), wiring=every(1, scale=0.0))
    >>> found = jacobian(net, torch.randn(3, 4), progress=False)
    >>> found.isometric, found.output.condition
    (True, 1.0)
    """
    need_chain(net, "jacobian")
    fit_input(net, x, "jacobian")
    if start == "input" and not x.is_floating_point():
        raise DataError(f'jacobian: x is {x.dtype}, and has no small changes: give start="stem", a value after it')
    copied = copy.deepcopy(net).eval().requires_grad_(False)
    kind = torch.float64 if double else torch.float32
    copied, x = copied.to(kind), x.detach().to(device_of(net), kind if x.is_floating_point() else x.dtype)
    walk = Walk(copied)
    begin, wanted = _wanted(walk, start, at)
    nodes = walk.graph.nodes
    sizes = _sizes(walk, x[:1], [begin, *wanted])
    entries = sizes[begin] * sum(sizes[i] for i in wanted)
    if entries > _MOST:
        raise DataError(
            f"jacobian: {len(wanted)} Jacobians from {sizes[begin]:,} to {max(sizes[i] for i in wanted):,} features "
            f"have {entries:,} numbers a row, more than {_MOST:,}: name narrower or fewer values with at=, start at a "
            f"narrower one, or give smaller images"
        )
    backward = sum(sizes[i] for i in wanted)
    found: dict[int, list[tuple[float, ...]]] = {i: [] for i in wanted}
    run_all = vmap(jacrev(_from(walk, begin, wanted)), randomness="same")
    zero = torch.zeros(sizes[begin], dtype=kind, device=x.device)
    # a row at a time where the Jacobians are large
    step = max(1, min(_ROWS, _MOST // 8 // max(entries, 1)))
    kept = Kept.begin(
        run, "jacobian", options={"at": [nodes[i].name for i in wanted], "start": start, "double": double},
        data=data_known(rows=(x, x)) if run is not None else {},
        nets={"the net": net_known(net, net)} if run is not None else {},
    )  # fmt: skip
    again = f"; {min(len(x), len(kept) * step):,} rows are kept" if len(kept) else ""
    cost = f"jacobian: {backward:,} backward passes for each of {len(x):,} rows{again}"
    with kept, Bar(cost, len(x), progress) as bar:
        for first in range(0, len(x), step):
            rows = x[first : first + step]
            piece = kept.find(f"row {first}")
            if piece is None:
                made = _made(run_all, zero, rows, kind)
                piece = [[_singular(matrix, kind) for matrix in made[i]] for i in wanted]
                kept.keep(f"row {first}", piece)
            for i, spectra_of in zip(wanted, piece, strict=True):
                found[i] += map(tuple, spectra_of)
            bar.step(len(rows))
    spectra = [
        Spectrum(nodes[i].name, _depth(nodes, begin, i), tuple(found[i]), sizes[begin], sizes[i]) for i in wanted
    ]
    return Jacobian(start, tuple(spectra), len(x))


def _made(run: Callable[..., dict[int, Tensor]], zero: Tensor, rows: Tensor, kind: torch.dtype) -> dict[int, Tensor]:
    """The Jacobians of all values wanted, for some rows at once."""
    try:
        return run(zero.expand(len(rows), -1), rows)
    except SkipwayError:
        raise
    except Exception as error:
        told = " ".join(str(error).split())
        raise ChainError(
            f"jacobian: torch.func cannot differentiate this net in {kind}: {told}"
            + ("; try double=False" if kind == torch.float64 else "")
        ) from error


def _wanted(walk: Walk, start: str, at: Sequence[str] | None) -> tuple[int, list[int]]:
    """The node to change and those to look at, in order."""
    names, nodes = walk.graph.names, walk.graph.nodes
    for name in (start, *((at,) if isinstance(at, str) else at or ())):
        if name not in names:
            raise ChainError(f"jacobian: there is no value {name!r}: {nearest(str(name), names)}")
    begin, last = names[start], len(nodes) - 1
    if begin == last:
        raise ChainError(f"jacobian: {start!r} is the last value, and nothing comes after it: start before it")
    if at is not None:
        chosen = {names[name] for name in ((at,) if isinstance(at, str) else at)}
        early = [nodes[i].name for i in sorted(chosen) if i < begin]
        if early:
            raise ChainError(f"jacobian: {early[0]!r} lies before {start!r}: it does not change with it")
        return begin, sorted(chosen | {last})
    # inside a branch most directions are lost for a while, which says nothing of the net
    distinct = [node.index for node in trunk(walk.graph) if node.index > begin] or [last]
    kept = {distinct[round(i * (len(distinct) - 1) / (_SHOWN - 1))] for i in range(_SHOWN)}
    return begin, sorted(kept | {last})


def _sizes(walk: Walk, x: Tensor, wanted: Sequence[int]) -> dict[int, int]:
    """The number of features of values."""
    sizes = {}

    def see(node: Node, value: Tensor) -> Tensor:
        sizes[node.index] = value.numel()
        return value

    with torch.no_grad():
        try:
            walk(x, see=see)
        except SkipwayError:
            raise
        except Exception as error:
            told = " ".join(str(error).split())
            raise ChainError(f"jacobian: this net does not run in {x.dtype}: {told}; try double=False") from error
    return {i: sizes[i] for i in wanted}


def _from(walk: Walk, begin: int, wanted: Sequence[int]) -> Callable[[Tensor, Tensor], dict[int, Tensor]]:
    """The values of one row as a function of a change of one of them."""

    def values(change: Tensor, row: Tensor) -> dict[int, Tensor]:
        found = {}

        def see(node: Node, value: Tensor) -> Tensor:
            if node.index == begin:
                value = value + change.reshape(value.shape)
            if node.index in wanted:
                found[node.index] = value.flatten()
            return value

        walk(row.unsqueeze(0), see=see)
        return found

    return values


def _singular(matrix: Tensor, kind: torch.dtype) -> tuple[float, ...]:
    if not bool(torch.isfinite(matrix).all()):
        return (math.inf,) * min(matrix.shape)
    values = torch.linalg.svdvals(matrix.double()).tolist()
    # what is left of rounding is no direction
    return tuple(s if s > values[0] * _ZERO[kind] else 0.0 for s in values)


def _depth(nodes: Sequence[Node], begin: int, index: int) -> int:
    return sum(node.layer is not None for node in nodes[begin + 1 : index + 1])


def _cell(value: float) -> str:
    return f"{value:.3g}"


__all__ = ["Jacobian", "Spectrum", "jacobian"]
