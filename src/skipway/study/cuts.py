"""What :func:`skipway.study.lesion` measured: cuts, with their changes and intervals."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from skipway.study.result import COLOURS, GREYS, Result, aligned, as_json, short

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Part = Literal["branch", "shortcut"]
PARTS: tuple[Part, ...] = ("branch", "shortcut")


class Change(NamedTuple):
    """A change against the whole net, and the interval that holds 95 % of what other rows would have shown."""

    mean: float
    low: float
    high: float

    @property
    def sure(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.low > 0 or self.high < 0


#: places that a plot names one by one, at most
_NAMED = 24


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
        for part in PARTS:
            cuts = self.of(part)
            if cuts:
                said.append(self._sentence(part, cuts))
        if self.interrupted:
            said.append("The study was interrupted: this is what it had.")
        return " ".join(said)

    def _sentence(self, part: str, cuts: Sequence[Cut]) -> str:
        sure = sum(cut.loss_change.sure for cut in cuts)
        counted = f"the intervals of {sure} of {len(cuts)} changes in loss leave out 0"
        done = self._done(part)
        if self.accuracy is None or any(cut.accuracy is None for cut in cuts):
            worst = max(cuts, key=lambda cut: cut.loss)
            mean = statistics.mean(cut.loss for cut in cuts)
            return (
                f"{done} the loss goes from {short(self.loss)} to {short(mean)} on average, "
                f"{short(worst.loss)} at worst ({worst.what[0]}); {counted}."
            )
        worst = min(cuts, key=lambda cut: cut.accuracy or 0.0)
        mean = statistics.mean(cut.accuracy or 0.0 for cut in cuts)
        return (
            f"{done}, {_percent(self.accuracy)} right become {_percent(mean)} on average, "
            f"{_percent(worst.accuracy)} at worst ({worst.what[0]}); {counted}."
        )

    def _names(self) -> list[str]:
        """The shortcuts that are cut, or at which a branch is cut, in the order of the net."""
        known = {part: [cut.what[0].partition(" ")[2] for cut in self.of(part)] for part in PARTS}
        return known["shortcut"] or known["branch"]

    def _place(self, cut: Cut) -> int:
        name = cut.what[0].partition(" ")[2]
        return self._names().index(name) if name in self._names() else 0

    def _done(self, part: str) -> str:
        if isinstance(self.how, str):
            return f"With one {part} shuffled"
        return f"With one {part} times {self.how:g}" if self.how else f"Without one {part}"

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
        named = max((len(self.of(part)) for part in PARTS), default=0) <= _NAMED
        figure = Figure(figsize=(5 * len(panels), 5 if named else 4), layout="constrained")
        for place, which in enumerate(panels, start=1):
            axes = figure.add_subplot(1, len(panels), place)
            for part, colour, mark, aside in zip(PARTS, COLOURS, "os", (-0.1, 0.1), strict=False):
                cuts = self.of(part)
                changes = [getattr(cut, f"{which}_change") for cut in cuts]
                if changes:
                    off = [[c.mean - c.low for c in changes], [c.high - c.mean for c in changes]]
                    # a branch that meets several shortcuts is cut once: it lies at the first of them
                    at = [self._place(cut) + aside for cut in cuts]
                    axes.errorbar(
                        at, [c.mean for c in changes], yerr=[[max(0.0, v) for v in s] for s in off],
                        color=colour, fmt=mark, markersize=4, linewidth=1, label=self._done(part),
                    )  # fmt: skip
            axes.axhline(0, color=GREYS[0], linewidth=1, linestyle=":")
            axes.set(title=f"change in {which}")
            if named:
                axes.set_xticks(range(len(self._names())), [_brief(n) for n in self._names()], rotation=60, ha="right")
            else:
                axes.set_xlabel("which, in the order of the net")
                axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.grid(alpha=0.3)
        handles, labels = figure.axes[0].get_legend_handles_labels()
        if handles:
            figure.legend(handles, labels, loc="outside lower center", ncols=2)
        if path is not None:
            figure.savefig(path, dpi=150)
        return figure


def _brief(name: str) -> str:
    """A name for an axis: a shortcut around a whole chain is called as the chain."""
    name = name.removesuffix(".input->output")
    return name if len(name) <= 24 else f"...{name[-21:]}"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f} %"


def _told(change: Change | None, form: str) -> str:
    return "" if change is None else f"{change.mean:{form}} ({change.low:{form}} to {change.high:{form}})"


__all__ = ["PARTS", "Change", "Cut", "Lesion", "Part"]
