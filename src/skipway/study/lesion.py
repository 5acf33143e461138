"""``lesion``: what every shortcut and every branch is worth to a trained net, by taking it away."""

from __future__ import annotations

import itertools
import random
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from skipway.chain import Chain
from skipway.errors import ChainError
from skipway.graph import Edge, Node
from skipway.study.cuts import Change, Cut, Lesion, Part
from skipway.study.given import Bar, task_of, whole
from skipway.study.kept import Kept, data_known, net_known
from skipway.study.walk import Meet, Walk, need_chain
from skipway.train.guard import untouched
from skipway.train.losses import LOSSES, Loss, class_axis, count_correct
from skipway.train.measure import Task


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
    run: str | Path | None = None,
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

    run:
        a folder that keeps every cut in ``lesion.json``: with the same net, data and options again, those in it are
        not made again. More pairs may be asked for.

    An interrupt (Ctrl-C) ends the study with what it has.

    Raises
    ------
    ChainError
        for what is no closed chain, a net without shortcuts, and options that cannot be.
    DataError, TrainError
        for data that does not fit, is not finite or has one class only.
    CheckpointError
        for a folder that cannot be written, or that keeps a study of another net, other data or options.

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
    kept = Kept.begin(
        run, "lesion", options={"parts": sorted(wanted), "how": how, "loss": task.name, "seed": seed, "batch": batch},
        data=data_known(data=data) if run is not None else {},
        nets={"the net": net_known(chain, chain)} if run is not None else {}, free=("pairs", "resamples"),
    )  # fmt: skip
    again = sum(" + ".join(cut) in kept for cut in tries[1:])
    cost = f"lesion: {len(tries) - 1} cuts, each a pass over {rows:,} rows" + (f"; {again} are kept" if again else "")
    masses: dict[str, list[float]] = {name: [] for name in places}
    seen: list[_Seen] = []
    interrupted = False
    with untouched(chain, task.device, train=False), kept, Bar(cost, len(tries), progress) as bar:
        try:
            for cut in tries:
                piece = kept.find(" + ".join(cut))
                if piece is None:
                    meet = _cutting([places[name] for name in cut], how, seed) if cut else _weighing(places, masses)
                    losses, right = _pass(walk, task, batches, meet)
                    piece = {"losses": losses.tolist(), "right": None if right is None else right.tolist()}
                    if not cut:
                        piece["masses"] = {name: sum(found) / len(found) for name, found in masses.items()}
                    kept.keep(" + ".join(cut), piece)
                seen.append(piece)
                bar.step()
        except KeyboardInterrupt:
            if not seen:
                raise
            interrupted = True
    return _result(tries[: len(seen)], seen, how, rows, seed, resamples, interrupted)


#: of a cut: the loss of every row, the share of its targets that is right, and of no cut the masses
_Seen = Mapping[str, Any]


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
        losses.append(_each(task, output, y).double().cpu())
        if count_correct(output, y, task.name) is not None:
            axis = class_axis(output, y)
            target = y.argmax(axis) if y.shape == output.shape else y
            right.append((output.argmax(axis) == target).reshape(len(x), -1).double().mean(1).cpu())
    return torch.cat(losses), torch.cat(right) if right else None


def _each(task: Task, output: Tensor, y: Tensor) -> Tensor:
    """The loss of every row by itself."""

    def one(row: Tensor, target: Tensor) -> Tensor:
        return task.loss(row.unsqueeze(0), target.unsqueeze(0))

    if task.name in LOSSES:  # a loss of the user's may do what cannot be vectorised
        found: Tensor = torch.vmap(one)(output, y)
        return found
    return torch.stack([one(row, target).detach() for row, target in zip(output, y, strict=True)])


def _result(
    tries: Sequence[tuple[str, ...]], seen: Sequence[_Seen], how: float | str, rows: int, seed: int, resamples: int,
    interrupted: bool,
) -> Lesion:  # fmt: skip
    pieces = list(zip(tries, seen, strict=True))
    losses = {cut: torch.tensor(one["losses"], dtype=torch.float64) for cut, one in pieces}
    rights = {cut: torch.tensor(one["right"], dtype=torch.float64) for cut, one in pieces if one["right"] is not None}
    masses = seen[0]["masses"]
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
            in_right.get(cut), masses[cut[0]] if len(cut) == 1 else None, beyond.get(cut),
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


__all__ = ["Change", "Cut", "Lesion", "lesion"]
