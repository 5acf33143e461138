"""``lesion``: what every shortcut and every branch is worth to a trained net, by taking it away."""

from __future__ import annotations

import itertools
import random
import statistics
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch import Tensor

from skipway.chain import Chain
from skipway.errors import ChainError
from skipway.graph import Edge, Node
from skipway.study.given import Bar, task_of, whole
from skipway.study.result import COLOURS, GREYS, Result, aligned, as_json, short
from skipway.study.walk import Meet, Walk, need_chain
from skipway.train.guard import untouched
from skipway.train.losses import Loss, class_axis, count_correct
from skipway.train.measure import Task

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Part = Literal["branch", "shortcut"]
_PARTS: tuple[Part, ...] = ("branch", "shortcut")


class Change(NamedTuple):
    """A change against the whole net, and the interval that holds 95 % of what other rows would have shown."""

    mean: float
    low: float
    high: float

    @property
    def sure(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Cut:
    """One lesion: what was cut, and what the net then did.

    ``mass`` is the share that it has in the merge, by the norm of what meets there, in the whole net: the largest mass
    is not always the largest effect. ``interaction``, of a pair, is its change in loss less those of its two by
    themselves.
    """

    what: tuple[str, ...]
    loss: float
    accuracy: float | None
    loss_change: Change
    accuracy_change: Change | None
    mass: float | None = None
    interaction: Change | None = None


@dataclass(frozen=True, repr=False)
class Lesion(Result):
    """What :func:`lesion` measured: the whole net, and every cut."""

    loss: float
    accuracy: float | None
    cuts: tuple[Cut, ...]
    how: float | str
    rows_used: int
    seed: int
    resamples: int
    interrupted: bool = False

    def of(self, part: Part) -> tuple[Cut, ...]:
        """The single cuts of branches, or of shortcuts, in the order of the net."""
        return tuple(cut for cut in self.cuts if len(cut.what) == 1 and cut.what[0].startswith(f"{part} "))

    @property
    def pairs(self) -> tuple[Cut, ...]:
        return tuple(cut for cut in self.cuts if len(cut.what) == 2)

    def rows(self) -> list[tuple[str, ...]]:
        heads = ("cut", "mass", "loss", "change (95 %)", "accuracy", "change (95 %)", "interaction")
        made = [heads, ("nothing", "", f"{self.loss:.3f}", "", _percent(self.accuracy), "", "")]
        for cut in self.cuts:
            change = cut.accuracy_change
            in_points = None if change is None else Change(*(100 * value for value in change))
            made.append(
                (
                    " + ".join(cut.what), "" if cut.mass is None else f"{cut.mass:.2f}", f"{cut.loss:.3f}",
                    _told(cut.loss_change, "+.3f"), _percent(cut.accuracy), _told(in_points, "+.1f"),
                    _told(cut.interaction, "+.3f"),
                )
            )  # fmt: skip
        empty = [i for i in range(len(heads)) if not any(row[i] for row in made[1:])]
        return [tuple(cell for i, cell in enumerate(row) if i not in empty) for row in made]

    def table(self) -> str:
        """A line a cut, and the verdict."""
        return f"{aligned(self.rows())}\n\n{self.verdict()}"

    def verdict(self) -> str:
        """What single cuts do, of branches and of shortcuts, in a sentence each, computed."""
        said = []
        for part in _PARTS:
            cuts = self.of(part)
            if cuts:
                said.append(self._sentence(part, cuts))
        if self.interrupted:
            said.append("The study was interrupted: this is what it had.")
        return " ".join(said)

    def _sentence(self, part: str, cuts: Sequence[Cut]) -> str:
        sure = sum(cut.loss_change.sure for cut in cuts)
        counted = f"{sure} of {len(cuts)} change the loss for sure"
        if self.accuracy is None or any(cut.accuracy is None for cut in cuts):
            worst = max(cuts, key=lambda cut: cut.loss)
            mean = statistics.mean(cut.loss for cut in cuts)
            return (
                f"Without one {part} the loss goes from {short(self.loss)} to {short(mean)} on average, "
                f"{short(worst.loss)} at worst ({worst.what[0]}); {counted}."
            )
        worst = min(cuts, key=lambda cut: cut.accuracy or 0.0)
        mean = statistics.mean(cut.accuracy or 0.0 for cut in cuts)
        return (
            f"Without one {part} {_percent(self.accuracy)} right become {_percent(mean)} on average, "
            f"{_percent(worst.accuracy)} at worst ({worst.what[0]}); {counted}."
        )

    def to_dict(self) -> dict[str, Any]:
        """Everything measured, as JSON has it: a number that is not finite is None."""
        cuts = [
            {
                "what": cut.what, "loss": cut.loss, "accuracy": cut.accuracy, "loss_change": cut.loss_change,
                "accuracy_change": cut.accuracy_change, "mass": cut.mass, "interaction": cut.interaction,
            }
            for cut in self.cuts
        ]  # fmt: skip
        made: dict[str, Any] = as_json(
            {
                "loss": self.loss, "accuracy": self.accuracy, "how": self.how, "rows": self.rows_used,
                "seed": self.seed, "resamples": self.resamples, "interrupted": self.interrupted,
                "verdict": self.verdict(), "cuts": cuts,
            }
        )  # fmt: skip
        return made

    def plot(self, path: str | Path | None = None) -> Figure:
        """The change in loss (and accuracy) of every single cut along the net, with its interval.

        Written to ``path`` if given.
        """
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator

        panels = ["loss"] + ["accuracy"] * (self.accuracy is not None)
        figure = Figure(figsize=(5 * len(panels), 4), layout="constrained")
        for place, which in enumerate(panels, start=1):
            axes = figure.add_subplot(1, len(panels), place)
            for part, colour in zip(_PARTS, COLOURS, strict=False):
                changes = [getattr(cut, f"{which}_change") for cut in self.of(part)]
                if changes:
                    off = [[c.mean - c.low for c in changes], [c.high - c.mean for c in changes]]
                    axes.errorbar(
                        range(len(changes)), [c.mean for c in changes], yerr=[[max(0.0, v) for v in s] for s in off],
                        color=colour, fmt="o", markersize=4, linewidth=1, label=f"without one {part}",
                    )  # fmt: skip
            axes.axhline(0, color=GREYS[0], linewidth=1, linestyle=":")
            axes.set(xlabel="which, in the order of the net", title=f"change in {which}")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.legend()
        if path is not None:
            figure.savefig(path, dpi=150)
        return figure


def lesion(
    net: Chain,
    data: Any,
    loss: str | Loss = "auto",
    *,
    parts: Collection[Part] = ("branch", "shortcut"),
    how: float | Literal["shuffle"] = 0.0,
    pairs: int = 0,
    seed: int = 0,
    resamples: int = 1000,
    batch: int = 1024,
    progress: bool = True,
) -> Lesion:
    """Cut every branch and every shortcut of a net, one at a time, and measure loss and accuracy (1605.06431).

    Parameters
    ----------
    net:
        a closed chain with shortcuts, chains inside included. It is run in eval mode and left as it was.
    data, loss, batch:
        ``(x, y)`` tensors or what else :func:`skipway.evaluate` takes; the loss as in :func:`skipway.fit`.
    parts:
        what is cut: ``"branch"``, what a layer brings to the first merge at its end, and ``"shortcut"``, what a
        shortcut brings to its merge. A shortcut that adds, cut, is ``net.without(shortcut)``.
    how:
        a number to multiply by, 0 to take it away; or ``"shuffle"``, to give every row what belongs to another one,
        which keeps the statistics and takes the meaning.
    pairs:
        how many pairs of cuts are made besides, drawn by the seed; all, if there are not more.
    seed, resamples:
        of the rows drawn again for the intervals (bootstrap, the same rows for the cut net and the whole), of shuffling
        and of pairs.

    An interrupt (Ctrl-C) ends the study with what it has.

    Raises
    ------
    ChainError
        for what is no closed chain, a net without shortcuts, and options that cannot be.
    DataError, TrainError
        for data that does not fit, is not finite or has one class only.

    >>> from skipway import Dense, every, relu
    >>> net = Chain(*[Dense(4, 4, relu) for _ in range(3)], wiring=every(1))
    >>> found = lesion(net, (torch.randn(50, 4), torch.arange(50) % 4), progress=False)
    >>> [cut.what[0] for cut in found.of("shortcut")]
    ['shortcut 0->1', 'shortcut 1->2', 'shortcut 2->3']
    """
    chain = need_chain(net, "lesion")
    wanted = (parts,) if isinstance(parts, str) else tuple(parts)
    if not wanted or any(part not in ("branch", "shortcut") for part in wanted):
        raise ChainError(f'lesion: parts are "branch" and "shortcut", not {parts!r}')
    if how != "shuffle" and (isinstance(how, (bool, str)) or not isinstance(how, (int, float))):
        raise ChainError(f'lesion: how is a number to multiply by, or "shuffle", not {how!r}')
    whole("lesion", "pairs", pairs, 0)
    whole("lesion", "resamples", resamples, 1)
    walk = Walk(chain)
    places = _places(walk, wanted)
    if not places:
        raise ChainError(
            f"this chain ({chain.source}) has no shortcuts, so there is nothing to cut: skipway.study.signal(net) "
            f"shows what its layers do to values and gradients"
        )
    task, source = task_of(chain, data, loss, batch, "lesion")
    both = list(itertools.combinations(places, 2))
    drawn = both if pairs >= len(both) else sorted(random.Random(seed).sample(both, pairs), key=both.index)
    tries: list[tuple[str, ...]] = [(), *[(name,) for name in places], *drawn]
    # the batches are gone over again and again, and shall be the same
    batches = [(x.to(task.device), y.to(task.device)) for x, y in source]
    rows = sum(len(x) for x, _ in batches)
    masses: dict[str, list[float]] = {name: [] for name in places}
    seen: list[tuple[Tensor, Tensor | None]] = []
    interrupted = False
    with (
        untouched(chain, task.device, train=False),
        Bar(f"lesion: {len(tries) - 1} cuts, each a pass over {rows:,} rows", len(tries), progress) as bar,
    ):
        try:
            for cut in tries:
                meet = _cutting([places[name] for name in cut], how, seed) if cut else _weighing(places, masses)
                seen.append(_pass(walk, task, batches, meet))
                bar.step()
        except KeyboardInterrupt:
            if not seen:
                raise
            interrupted = True
    return _result(tries[: len(seen)], seen, masses, how, rows, seed, resamples, interrupted)


class _Place(NamedTuple):
    """Something that can be cut: the branch that first merges at a node, or what an edge brings."""

    part: str
    node: Node
    edge: Edge


def _places(walk: Walk, parts: Sequence[str]) -> dict[str, _Place]:
    found: dict[str, _Place] = {}
    for part in ("branch", "shortcut"):
        for node in walk.graph.nodes if part in parts else ():
            for edge in node.edges[:1] if part == "branch" else node.edges:
                label = f"{edge.where}.{edge.shortcut.label}" if edge.where else edge.shortcut.label
                found[f"{part} {label}"] = _Place(part, node, edge)
    return found


def _cutting(places: Sequence[_Place], how: float | str, seed: int) -> Meet:
    """Multiply or shuffle what belongs to the places."""
    branches = {place.edge for place in places if place.part == "branch"}
    shortcuts = {place.edge for place in places if place.part == "shortcut"}

    def cut(value: Tensor) -> Tensor:
        if not isinstance(how, str):
            return value * how if how else torch.zeros_like(value)  # also of what is not finite
        order = torch.randperm(len(value), generator=torch.Generator().manual_seed(seed))
        return value[order.to(value.device)]

    def meet(_: Node, edges: Sequence[Edge], branch: Tensor, brought: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        whose = zip(edges, brought, strict=True)
        return (cut(branch) if edges[0] in branches else branch), [cut(b) if e in shortcuts else b for e, b in whose]

    return meet


def _weighing(places: dict[str, _Place], masses: dict[str, list[float]]) -> Meet:
    """Cut nothing, and note the share of everything that meets, by its norm, row by row."""
    names = {(place.part, place.edge): name for name, place in places.items()}

    def size(value: Tensor) -> Tensor:
        return value.flatten(1).double().norm(dim=1)

    def meet(_: Node, edges: Sequence[Edge], branch: Tensor, brought: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        sizes = [size(branch), *map(size, brought)]
        total = torch.stack(sizes).sum(0).clamp_min(torch.finfo(torch.float64).tiny)
        keys = [("branch", edges[0]), *(("shortcut", edge) for edge in edges)]
        for key, one in zip(keys, sizes, strict=True):
            if key in names:
                masses[names[key]] += (one / total).tolist()
        return branch, brought

    return meet


def _pass(walk: Walk, task: Task, batches: Sequence[tuple[Tensor, Tensor]], meet: Meet) -> tuple[Tensor, Tensor | None]:
    """The loss of every row, and the share of its targets that is right."""
    losses, right = [], []
    for x, y in batches:
        output = walk(x, meet=meet)
        losses += [float(task.loss(output[i : i + 1], y[i : i + 1])) for i in range(len(x))]
        if count_correct(output, y, task.name) is not None:
            axis = class_axis(output, y)
            target = y.argmax(axis) if y.shape == output.shape else y
            right.append((output.argmax(axis) == target).reshape(len(x), -1).double().mean(1).cpu())
    return torch.tensor(losses, dtype=torch.float64), torch.cat(right) if right else None


def _result(
    tries: Sequence[tuple[str, ...]], seen: Sequence[tuple[Tensor, Tensor | None]], masses: dict[str, list[float]],
    how: float | str, rows: int, seed: int, resamples: int, interrupted: bool,
) -> Lesion:  # fmt: skip
    losses = {cut: loss for cut, (loss, _) in zip(tries, seen, strict=True)}
    rights = {cut: right for cut, (_, right) in zip(tries, seen, strict=True) if right is not None}
    # a row a change: in loss, in accuracy, and what a pair does beyond its two
    changes = [losses[cut] - losses[()] for cut in tries[1:]]
    changes += [rights[cut] - rights[()] for cut in tries[1:] if rights]
    pairs = [cut for cut in tries if len(cut) == 2]
    changes += [losses[a, b] - losses[(a,)] - losses[(b,)] + losses[()] for a, b in pairs]
    told = iter(_bootstrap(changes, resamples, seed))
    in_loss = {cut: next(told) for cut in tries[1:]}
    in_right = {cut: next(told) for cut in tries[1:] if rights}
    beyond: dict[tuple[str, ...], Change] = {cut: next(told) for cut in pairs}
    cuts = tuple(
        Cut(
            cut, float(losses[cut].mean()), float(rights[cut].mean()) if rights else None, in_loss[cut],
            in_right.get(cut), statistics.mean(masses[cut[0]]) if len(cut) == 1 else None, beyond.get(cut),
        )
        for cut in tries[1:]
    )  # fmt: skip
    accuracy = float(rights[()].mean()) if rights else None
    return Lesion(float(losses[()].mean()), accuracy, cuts, how, rows, seed, resamples, interrupted)


def _bootstrap(changes: Sequence[Tensor], resamples: int, seed: int) -> list[Change]:
    """The mean of each change over the rows, and the interval of 95 % over rows drawn again, the same for all."""
    if not changes:
        return []
    values = torch.stack(list(changes), dim=1)
    rows, generator = len(values), torch.Generator().manual_seed(seed)
    means = []
    for begun in range(0, resamples, 64):
        count = min(64, resamples - begun)
        drawn = torch.randint(rows, (count, rows), generator=generator)
        weights = torch.zeros(count, rows, dtype=torch.float64)
        weights.scatter_add_(1, drawn, torch.ones_like(weights))
        means.append(weights @ values / rows)
    ends = torch.quantile(torch.cat(means), torch.tensor([0.025, 0.975], dtype=torch.float64), dim=0)
    return [Change(*map(float, three)) for three in zip(values.mean(0), ends[0], ends[1], strict=True)]


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f} %"


def _told(change: Change | None, form: str) -> str:
    return "" if change is None else f"{change.mean:{form}} ({change.low:{form}} to {change.high:{form}})"


__all__ = ["Change", "Cut", "Lesion", "lesion"]
