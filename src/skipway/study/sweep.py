"""``sweep``: wiring as a variable. The same layers, with one wiring after the other."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from skipway.chain import Chain
from skipway.errors import ChainError, SkipwayError, nearest
from skipway.shortcut import Shortcut
from skipway.study.compare import compare
from skipway.study.comparison import Comparison
from skipway.study.given import need_classes
from skipway.study.interval import interval
from skipway.study.paths import Paths, paths, told
from skipway.study.result import COLOURS, GREYS, Result, as_json
from skipway.train.batches import TensorSource, source_of
from skipway.wiring import Pattern, Wiring, Wirings

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Layers = Callable[[], Any] | Callable[[Any], Any]


@dataclass(frozen=True)
class Sweep(Result):
    """What :func:`sweep` measured: the runs of every wiring, and the paths that it makes."""

    comparison: Comparison
    wirings: dict[str, str]
    """Each wiring by its name, as it is written."""
    paths: dict[str, Paths]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.wirings)

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds that every wiring was trained under."""
        return tuple(dict.fromkeys(run.seed for run in self.comparison.runs))

    def of(self, name: str, what: str = "test_accuracy") -> tuple[float, ...]:
        """What the runs of a wiring ended with, a number a seed: ``"test_accuracy"``, ``"train_loss"``, ...

        Runs that failed are left out.
        """
        if name not in self.wirings:
            raise ChainError(f"no wiring is named {name!r}: {nearest(name, self.wirings)}")
        return tuple(v for run in self.comparison.of(name) if (v := run.last(what)) is not None)

    def rows(self) -> list[tuple[str, ...]]:
        head, *rest = self.comparison.rows()
        made: list[tuple[str, ...]] = [("wiring", *head[1:3], "paths", "mean length", *head[3:])]
        for name, row in zip(self.comparison.names, rest, strict=True):
            found = self.paths[name]
            made.append((name, *row[1:3], told(found.total), f"{found.mean:.1f}", *row[3:]))
        return made

    def table(self) -> str:
        """A line a wiring: what it has, and its last loss and accuracy, means over the seeds with their intervals."""
        told = " ".join(filter(None, (self.comparison.caption(), self.comparison.conclusion())))
        return f"{super().table()}\n\n{told}"

    def to_dict(self) -> dict[str, Any]:
        """Everything measured, as JSON has it."""
        about = {
            name: {"wiring": self.wirings[name], "paths": self.paths[name].to_dict()} for name in self.wirings
        }  # fmt: skip
        made: dict[str, Any] = as_json({"wirings": about, "seeds": self.seeds, **self.comparison.to_dict()})
        return made

    def plot(self, path: str | Path | None = None) -> Figure:
        """Test accuracy (where something was tested), training loss and mean length of a path, a line a wiring: the
        mean over seeds, its interval of 95 %, and a small mark a seed. Written to ``path`` if given.
        """
        from matplotlib.figure import Figure

        names = self.names
        panels = {
            "test accuracy": "test_accuracy",
            "training loss": "train_loss",
            "mean length of a path, in layers": "",
        }
        if not any(self.of(name) for name in names):
            del panels["test accuracy"]
        figure = Figure(figsize=(4.2 * len(panels), 1.6 + 0.3 * max(6, len(names))), layout="constrained")
        axes = figure.subplots(1, len(panels), sharey=True)
        for one, (title, what) in zip(axes, panels.items(), strict=True):
            for place, name in enumerate(names):
                colour = COLOURS[0] if self.comparison.of(name)[0].shortcuts else GREYS[0]
                values = self.of(name, what) if what else (self.paths[name].mean,)
                if values:
                    found = interval(values)
                    if found.low is not None:
                        one.plot([found.low, found.high], [place, place], color=colour, linewidth=2, alpha=0.5)
                        one.plot(values, [place] * len(values), color=colour, marker="|", linestyle="none")
                    one.plot([found.mean], [place], color=colour, marker="o")
            known = [v for name in names for v in self.of(name, "train_loss")]
            if what == "train_loss" and known and min(known) > 0 and max(known) > 20 * min(known):
                one.set_xscale("log")
            if what == "test_accuracy" and self.comparison.chance is not None:
                one.axvline(self.comparison.chance, color="black", linestyle=":", linewidth=1)
            one.set_xlabel(title)
            one.grid(alpha=0.3)
        axes[0].set_yticks(range(len(names)), [name if len(name) < 40 else f"{name[:37]}..." for name in names])
        axes[0].set_ylim(len(names) - 0.5, -0.5)
        if path is not None:
            figure.savefig(path, dpi=150)
        return figure


def sweep(
    layers: Layers,
    wirings: Mapping[str, Wiring] | Sequence[Wiring],
    train: Any,
    test: Any = None,
    *,
    epochs: int,
    seed: int = 0,
    seeds: int = 1,
    input: Sequence[int] | int | None = None,
    run: str | Path | None = None,
    progress: bool = True,
    **options: Any,
) -> Sweep:
    """Train the same layers under many wirings, all on the same data in the same order, under the same seeds.

    Parameters
    ----------
    layers:
        a function that makes the layers anew: a list, a dict by name, or a chain, whose wiring is then replaced. Or a
        function of the wiring that makes the whole net, for a wiring that is not of all layers::

            lambda wiring: Chain(stem=Dense(64, 32), body=Chain(..., wiring=wiring), head=Dense(32, 10))

        Layers are made before their shortcuts, so that those of all wirings begin with the same weights.
    wirings:
        name to wiring, or a list of wirings that are named as they print: patterns, lists of
        :class:`skipway.Shortcut`, functions of the length. ``[]`` is the plain net.
        :func:`skipway.random_shortcuts` with some seeds is the control for a wiring that was thought out.
    train, test, epochs, options:
        as in :func:`skipway.fit`, and ``threads=``: see :func:`skipway.study.compare`, which trains.
    seed, seeds:
        the first seed, and how many.
    input:
        the shape of the input, for layers with widths written ``...``.
    run:
        a folder that keeps every run when it ends: an interrupted sweep goes on from there, and wirings and seeds can
        be added.
    progress:
        False is silent. Otherwise the number of runs is said first; then bars on a terminal, lines elsewhere.

    Returns
    -------
    A :class:`Sweep`, with all that failed to train in it as failed.

    Raises
    ------
    ChainError, DataError, TrainError, CheckpointError
        for all that cannot be built or trained, by the name of the wiring, before the first is trained.

    >>> from skipway import Dense, every, sliding
    >>> x = torch.linspace(-1, 1, 40).unsqueeze(1)
    >>> found = sweep(
    ...     lambda: [Dense(1, 4), *[Dense(4, 4) for _ in range(4)], Dense(4, 2)],
    ...     {"plain": [], "around": lambda n: every(1)(n)[1:-1], "overlapping": lambda n: sliding(2)(n)[1:-1]},
    ...     (x, (x[:, 0] > 0).long()), epochs=1, batch=8, progress=False,
    ... )
    >>> [(name, found.paths[name].total, len(found.of(name, "train_loss"))) for name in found.names]
    [('plain', 1, 1), ('around', 16, 1), ('overlapping', 5, 1)]
    """
    if not callable(layers):
        raise ChainError(
            f"sweep makes the layers anew for every run: give a function, lambda: [Dense(...), ...], not {layers!r}"
        )
    named = _named(wirings)
    if not hasattr(train, "batch_size"):
        source = source_of(train, 1, "sweep")
        if isinstance(source, TensorSource):
            need_classes(source.y, "sweep")
    state = torch.get_rng_state()
    counted = {}
    try:
        for name, wiring in named.items():
            try:
                counted[name] = paths(_net(layers, wiring, input))
            except SkipwayError as error:
                raise type(error)(f"wiring {name!r}: {error}") from error
    finally:
        torch.set_rng_state(state)
    if progress:
        runs = len(named) * seeds if isinstance(seeds, int) else len(named)
        kept = ", but for those that are kept" if run is not None else ""
        print(f"sweep: {len(named)} wirings under {seeds} seeds, {runs} runs of {epochs} epochs{kept}", flush=True)
    nets = {name: _maker(layers, wiring, input) for name, wiring in named.items()}
    result = compare(
        nets, train, test, epochs=epochs, seed=seed, seeds=seeds, run=run, progress=progress, **options
    )  # fmt: skip
    return Sweep(result, {name: _written(wiring) for name, wiring in named.items()}, counted)


def _named(wirings: Any) -> dict[str, Any]:
    if isinstance(wirings, Mapping):
        found = {str(name): _again(wiring) for name, wiring in wirings.items()}
    elif isinstance(wirings, (str, Pattern, Wirings)) or not isinstance(wirings, Sequence):
        raise ChainError(
            f"sweep takes several wirings, {{name: wiring}} or a list of them, not {wirings!r}: [{wirings!r}]"
        )
    elif wirings and all(isinstance(one, Shortcut) for one in wirings):
        raise ChainError(
            f'these {len(wirings)} shortcuts are one wiring: write {{"mine": [...]}}, and others beside it'
        )
    else:
        found = {}
        for one in map(_again, wirings):
            name = _name(one)
            if name in found:
                raise ChainError(f"two wirings are called {name!r}: give {{name: wiring}}, with names of your own")
            found[name] = one
    if not found:
        raise ChainError(
            "sweep takes at least one wiring: {name: wiring}, or a list such as [[], every(1), sliding(2)]"
        )
    return found


def _again(wiring: Any) -> Any:
    """A wiring that can be used for every net: a generator would be empty after the first."""
    if callable(wiring) or wiring is None or isinstance(wiring, str) or not isinstance(wiring, Iterable):
        return wiring
    return list(wiring)


def _name(wiring: Any) -> str:
    if wiring is None or wiring == []:
        return "plain"
    written = _written(wiring)
    if isinstance(wiring, list) and len(written) > 60:
        raise ChainError(f"a list of {len(wiring)} shortcuts needs a name: give {{name: wiring}}")
    return written


def _written(wiring: Any) -> str:
    plain_function = callable(wiring) and not isinstance(wiring, (Pattern, Wirings))
    return getattr(wiring, "__name__", repr(wiring)) if plain_function else repr(wiring or [])


def _maker(layers: Any, wiring: Any, shape: Any) -> Callable[[], Chain]:
    return lambda: _net(layers, wiring, shape)


def _net(layers: Any, wiring: Any, shape: Any) -> Chain:
    """A new net of the layers, with this wiring."""
    wiring = wiring if wiring is not None else ()
    if _takes_wiring(layers):
        made = layers(wiring)
        if not isinstance(made, Chain):
            raise ChainError(f"a function of the wiring makes the whole Chain, not a {type(made).__name__}")
        if made.is_open and shape is not None:
            made.build(shape)
        return made
    made = layers()
    if isinstance(made, Chain):
        made = made.rewire(wiring)
        if made.is_open and shape is not None:
            made.build(shape)
        return made
    if isinstance(made, Mapping):
        return Chain(dict(made), input=shape, wiring=wiring)
    if isinstance(made, (list, tuple)):
        return Chain(*made, input=shape, wiring=wiring)
    raise ChainError(f"layers= makes a list of layers, a dict of them or a Chain, not a {type(made).__name__}")


def _takes_wiring(layers: Any) -> bool:
    try:
        given = inspect.signature(layers).parameters.values()
    except (TypeError, ValueError):
        return False
    return any(p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in given)


__all__ = ["Sweep", "sweep"]
