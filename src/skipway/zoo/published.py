"""What papers and other libraries say of the nets, and whether the nets here agree."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from skipway import Chain

from .cost import Count, count
from .entry import Figure
from .registry import ENTRIES, entry, make


def _norms(net: Chain) -> int:
    norms = (m for m in net.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm))
    return sum(p.numel() for m in norms for p in m.parameters())


#: what can be counted of a net
QUANTITIES: dict[str, Callable[[Chain, Count], int]] = {
    "parameters": lambda net, found: found.parameters,
    "MACs": lambda net, found: found.macs,
    "depth": lambda net, found: found.depth,
    "projections": lambda net, found: found.projections,
    "parameters of the plain twin": lambda net, found: count(net.plain()).parameters,
    "parameters more than the plain twin": lambda net, found: found.parameters - count(net.plain()).parameters,
    "parameters without norms": lambda net, found: found.parameters - _norms(net),
}

#: what was published, by the name of the net
FIGURES: dict[str, Sequence[Figure]] = {name: entry.figures for name, entry in ENTRIES.items()}


@dataclass(frozen=True)
class Row:
    """One figure, and what was counted here."""

    figure: Figure
    actual: int

    @property
    def expected(self) -> float:
        return self.figure.value

    @property
    def source(self) -> str:
        return self.figure.source

    @property
    def ok(self) -> bool:
        return self.figure.met(self.actual)


@dataclass(frozen=True)
class Check:
    """The figures published of one net beside those counted here; ``ok`` if all are met. Prints as a table."""

    name: str
    rows: tuple[Row, ...]

    @property
    def ok(self) -> bool:
        return all(row.ok for row in self.rows)

    def __str__(self) -> str:
        wrong = sum(not row.ok for row in self.rows)
        lines = [f"{self.name}: " + (f"{wrong} of {len(self.rows)} figures NOT met" if wrong else "all figures met")]
        cells = [("", "here", "figure", "source")]
        cells += [(_what(r.figure), f"{r.actual:,}", _printed(r.figure), r.source) for r in self.rows]
        a, b, c = (max(len(row[i]) for row in cells) for i in range(3))
        signs = ["", *("ok" if row.ok else "NOT" for row in self.rows)]
        for sign, (what, here, figure, source) in zip(signs, cells, strict=True):
            lines.append(f"  {sign:3}  {what:{a}}  {here:>{b}}  {figure:>{c}}  {source}")
        return "\n".join(lines)


def _what(figure: Figure) -> str:
    options = ", ".join(f"{key}={value!r}" for key, value in figure.options.items())
    return f"{figure.what} ({options})" if options else figure.what


def _printed(figure: Figure) -> str:
    if not figure.unit:
        return f"{figure.value:,.0f}"
    letter, scale = ("G", 1e9) if figure.value >= 1e9 else ("M", 1e6)
    places = len(f"{scale / figure.unit:.0f}") - 1
    return f"{figure.value / scale:.{places}f} {letter}"


def weightless(name: str, **options: Any) -> Chain:
    """The net of this name, to count and not to run: a large one on torch's meta device. No random state is used."""
    numbers = [f.value for f in FIGURES.get(name, ()) if f.what.startswith("parameters")]
    # on the meta device every call of torch takes a detour, which costs more than the weights of a small net
    with torch.random.fork_rng(devices=[]), torch.device("meta") if max(numbers, default=0) > 6e7 else nullcontext():
        return make(name, **options)


def check(name: str) -> Check:
    """Compare a net with what was published of it: parameters, multiply-adds, depth, projections.

    Raises ``ChainError`` for a name that is not there.

    >>> result = check("lang_witbrock")
    >>> result.ok, [(row.figure.what, row.expected, row.actual) for row in result.rows]
    (True, [('parameters', 138, 138), ('depth', 4, 4)])
    """
    entry(name)
    found: dict[tuple[tuple[str, Any], ...], tuple[Chain, Count]] = {}
    rows = []
    for figure in FIGURES[name]:
        key = tuple(figure.options.items())
        if key not in found:
            net = weightless(name, **figure.options)
            found[key] = net, count(net)
        rows.append(Row(figure, QUANTITIES[figure.what](*found[key])))
    return Check(name, tuple(rows))


__all__ = ["FIGURES", "QUANTITIES", "Check", "Figure", "Row", "check", "weightless"]
