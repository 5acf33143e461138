"""What :func:`gradient_flow` measures: a track a number, over the steps of training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from skipway.errors import ChainError
from skipway.study.result import COLOURS, Result, as_json

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Kind = Literal["gradient", "ratio", "cosine", "gain", "gate"]
KINDS: dict[Kind, str] = {
    "gradient": "gradient", "ratio": "branch / trunk", "cosine": "cosine", "gain": "gain", "gate": "gate",
}  # fmt: skip
#: rows of the table for layers, and as many for shortcuts
_SHOWN = 12


@dataclass(frozen=True)
class Track:
    """One number over the steps of training; ``place`` orders tracks along the depth.

    ``"gradient"`` is the norm of the loss's gradient for the parameters of a layer or a shortcut; ``"ratio"`` the norm
    of a branch over that of what the shortcut brings, both as they meet; ``"cosine"`` the mean over the rows of the
    cosine between the two (None where shapes differ); ``"gain"`` the mean of a learned or scheduled gain; ``"gate"``
    the mean of what a gate lets through of the branch. ``part`` says which gain of a layer or shortcut it is.
    """

    kind: Kind
    name: str
    part: str
    place: int
    of_shortcut: bool
    values: tuple[float | None, ...]

    @property
    def last(self) -> float | None:
        return self.values[-1]

    @property
    def trend(self) -> float | None:
        """The last value over the first, for cosines, gains and gates their difference; None where there is none.

        >>> Track("ratio", "0->1", "", 1, True, (2.0, 3.0)).trend
        1.5
        >>> Track("cosine", "0->1", "", 1, True, (0.5, 0.75)).trend
        0.25
        """
        first, last = self.values[0], self.values[-1]
        if first is None or last is None or len(self.values) < 2:
            return None
        if self.kind in ("gradient", "ratio"):
            return last / first if first else None
        return last - first

    def cell(self) -> str:
        """The last value, and its trend."""
        if self.last is None:
            return "-"
        told = f"{self.last:.3g}"
        if self.trend is None:
            return told
        return f"{told} " + (f"×{self.trend:.2g}" if self.kind in ("gradient", "ratio") else f"{self.trend:+.2g}")


@dataclass(frozen=True)
class Flow(Result):
    """What :func:`gradient_flow` and :class:`GradientFlow` measured: a :class:`Track` a number, after each of ``steps``
    steps of training (0 where there was no training).
    """

    steps: tuple[int, ...]
    tracks: tuple[Track, ...]
    rows_used: int
    seed: int = 0

    def of(self, kind: Kind) -> tuple[Track, ...]:
        """The tracks of a kind, along the depth."""
        if kind not in KINDS:
            raise ChainError(f"there is {', '.join(map(repr, KINDS))}, not {kind!r}")
        return tuple(track for track in self.tracks if track.kind == kind)

    def verdict(self) -> str:
        """One sentence, computed from the last step: how gradients travel, and what the branches add."""
        found = [t.last for t in self.of("gradient") if not t.of_shortcut and t.last is not None]
        told = []
        if len(found) > 1 and found[-1]:
            told.append(f"the first layer gets {found[0] / found[-1]:.3g} times the gradient of the last")
        ratios = [t.last for t in self.of("ratio") if t.last is not None]
        if ratios:
            low, high = min(ratios), max(ratios)
            told.append(f"branches are {low:.2g} to {high:.2g} times as large as what they meet")
        elif not any(t.of_shortcut for t in self.tracks):
            told.append("there are no shortcuts")
        sentence = "; ".join(told) or "nothing was measured"
        return sentence[0].upper() + sentence[1:] + "."

    def rows(self) -> list[tuple[str, ...]]:
        """A row a layer and a row a shortcut, up to twelve of each: the last values, with their trends."""
        by_name: dict[tuple[int, bool, str], list[Track]] = {}
        for track in self.tracks:
            by_name.setdefault((track.place, track.of_shortcut, track.name), []).append(track)
        kinds = [kind for kind in KINDS if self.of(kind)]
        made: list[tuple[str, ...]] = [("layer or shortcut", *(KINDS[kind] for kind in kinds))]
        for shortcut in (False, True):
            keys = sorted((key for key in by_name if key[1] == shortcut), key=lambda key: key[0])
            kept = sorted({round(i * (len(keys) - 1) / (_SHOWN - 1)) for i in range(_SHOWN)}) if keys else []
            for key in (keys[i] for i in kept):
                made.append((key[2], *(_cells(by_name[key], kind) for kind in kinds)))
        return made

    def table(self) -> str:
        when = f"step {self.steps[-1]}" + (f", against step {self.steps[0]}" if len(self.steps) > 1 else "")
        return f"{when}\n{super().table()}\n\n{self.verdict()}"

    def to_dict(self) -> dict[str, Any]:
        """Everything measured, as JSON has it."""
        made: dict[str, Any] = as_json({
            "steps": self.steps, "rows": self.rows_used, "seed": self.seed, "verdict": self.verdict(),
            "tracks": [
                {"kind": t.kind, "name": t.name, "part": t.part, "shortcut": t.of_shortcut, "values": t.values,
                 "trend": t.trend}
                for t in self.tracks
            ],
        })  # fmt: skip
        return made

    def plot(self, path: str | Path | None = None) -> Figure:
        """A panel a kind: over the steps, a line a layer or shortcut, light near the input and dark near the output;
        for one step alone, over the depth. Written to ``path`` if given.
        """
        import matplotlib
        from matplotlib.figure import Figure

        kinds = [kind for kind in KINDS if self.of(kind)]
        figure = Figure(figsize=(4.2 * max(1, len(kinds)), 3.6), layout="constrained")
        shades = matplotlib.colormaps["viridis_r"]
        for i, kind in enumerate(kinds, start=1):
            axes = figure.add_subplot(1, len(kinds), i)
            tracks = self.of(kind)
            if len(self.steps) == 1:
                for shortcut, colour in ((False, COLOURS[0]), (True, COLOURS[1])):
                    mine = [(t.place, t.last) for t in tracks if t.of_shortcut == shortcut and t.last is not None]
                    if mine:
                        label = "shortcuts" if shortcut else "layers"
                        axes.plot(*zip(*mine, strict=True), color=colour, marker="o", markersize=3, label=label)
                        axes.legend(fontsize="small")
            else:
                for n, track in enumerate(tracks):
                    shade = shades(0.1 + 0.9 * n / max(1, len(tracks) - 1))
                    values = [math.nan if v is None else v for v in track.values]
                    ends = track.name if n in (0, len(tracks) - 1) else None
                    axes.plot(self.steps, values, color=shade, linewidth=1, label=ends)
                axes.legend(fontsize="small")
            known = [v for t in tracks for v in t.values if v is not None and math.isfinite(v)]
            if kind in ("gradient", "ratio") and known and min(known) > 0:
                axes.set_yscale("log")
            axes.set(title=KINDS[kind], xlabel="values after the input" if len(self.steps) == 1 else "step")
            axes.grid(alpha=0.3)
        if path is not None:
            figure.savefig(path, dpi=150)
        return figure


def _cells(tracks: Sequence[Track], kind: Kind) -> str:
    return ", ".join(track.cell() for track in tracks if track.kind == kind)


__all__ = ["KINDS", "Flow", "Kind", "Track"]
