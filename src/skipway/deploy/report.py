"""What a fold did, what it refused and why, and how far the result is from the chain it came from."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch


@dataclass(frozen=True)
class Fold:
    """One fold: what kind it is of, where, and what it was made of."""

    kind: str
    where: str
    what: str


@dataclass(frozen=True)
class Refusal:
    """Something that could have been folded, were it not for ``why``."""

    kind: str
    where: str
    why: str


@dataclass(frozen=True)
class Size:
    """How large a net is: layers, shortcuts and parameters, those of nested chains and paths included."""

    layers: int
    shortcuts: int
    parameters: int


@dataclass(frozen=True)
class Difference:
    """The largest difference between two nets on one input.

    Attributes
    ----------
    precision:
        ``"float64"`` or ``"float32"``, and so on.
    absolute:
        the largest difference of any number of the output; ``nan`` where it could not be computed.
    relative:
        that, divided by the largest number of the output.
    why:
        why it could not be computed; else empty.
    """

    precision: str
    absolute: float
    relative: float
    why: str = ""

    def __str__(self) -> str:
        return self.why or f"{self.relative:.1e} of the largest output ({self.absolute:.1e})"


@dataclass(frozen=True)
class Report:
    """What :func:`~skipway.deploy.fold` did; prints as a summary.

    Attributes
    ----------
    folds, refusals:
        all of them, in the order of the chain.
    before, after:
        sizes.
    differences:
        how far the outputs are apart, in float64, where the algebra shows, and in the net's own precision, where
        rounding does; empty if it was not asked for.
    input:
        the shape on which that was computed, batch axis included.
    """

    folds: tuple[Fold, ...]
    refusals: tuple[Refusal, ...]
    before: Size
    after: Size
    differences: tuple[Difference, ...] = ()
    input: tuple[int, ...] = ()

    def __str__(self) -> str:
        lines = ["folded", *_change(self.before, self.after)]
        lines += _grouped([(f.kind, "", f.where) for f in self.folds]) or ["  nothing"]
        if self.refusals:
            lines += ["refused", *_grouped([(r.kind, r.why, r.where) for r in self.refusals])]
        if self.differences:
            lines.append(f"largest difference on random input {self.input}")
            lines += [f"  {d.precision:8} {d}" for d in self.differences]
        return "\n".join(lines)


def _change(before: Size, after: Size) -> Iterable[str]:
    for name in ("layers", "shortcuts", "parameters"):
        a, b = getattr(before, name), getattr(after, name)
        yield f"  {name:10} {a:>11,} -> {b:,}"


def _grouped(found: Iterable[tuple[str, str, str]], width: int = 100) -> list[str]:
    """What was found as text, with how often, why, and where."""
    places: dict[tuple[str, str], list[str]] = {}
    for kind, why, where in found:
        places.setdefault((kind, why), []).append(where)
    lines: list[str] = []
    for (kind, why), names in places.items():
        lines.append(f"  {len(names):>4} x {kind}")
        if why:
            lines += textwrap.wrap(why, width, initial_indent=" " * 9, subsequent_indent=" " * 9)
        # the first few places, on the line itself where there is room
        room = width - len(lines[-1]) - 3
        if room < 30:
            lines.append(" " * 8)
            room = width - 11
        lines[-1] += f" ({textwrap.shorten(', '.join(names), room, placeholder=' ...')})"
    return lines


@dataclass
class Notes:
    """What the rules write down while they work.

    Attributes
    ----------
    dtype:
        the precision of the net.
    clamps:
        whether norm and relu may become a clamp.
    """

    dtype: torch.dtype = torch.float32
    clamps: bool = True
    folds: list[Fold] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)

    @property
    def limit(self) -> float:
        """The largest number that leaves room to be multiplied in the precision of the net."""
        return float(torch.finfo(self.dtype).max ** 0.75)

    def fold(self, kind: str, where: str, what: str) -> None:
        self.folds.append(Fold(kind, where, what))

    def refuse(self, kind: str, where: str, why: str) -> None:
        self.refusals.append(Refusal(kind, where, why))
