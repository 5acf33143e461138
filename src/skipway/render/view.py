"""What is drawn: cells along the chain, frames around them, shortcuts, and branches with the same in them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from .layout import Arc, Row, Words


@dataclass(eq=False)
class Cell:
    """A drawn row: a value, a fork with its branches, a closed chain, or the gap that stands for a long middle."""

    kind: Literal["input", "layer", "fork", "closed", "gap"]
    first: int
    last: int
    """The rows of the layout it stands for."""
    depth: int
    title: str
    what: str
    shape: str
    count: int
    row: Row
    """The row whose value leaves it."""
    inside: list[Arc] = field(default_factory=list)
    """Shortcuts that lie in what is not drawn."""
    limbs: list[Limb] = field(default_factory=list)
    """The branches of a fork."""
    hidden: int = 0
    """How many branches lie in what is not drawn."""


@dataclass(eq=False)
class Limb:
    """A drawn branch of a fork, with all those that it stands for."""

    view: View | None
    """``None`` for branches that are left out."""
    first: int
    """Which branch of its fork it is."""
    times: int
    """How many of the fork's branches it stands for."""
    total: int
    """The same over all forks that the drawn one stands for."""


@dataclass(eq=False)
class Band:
    """Neighbouring cells that belong together: a nested chain, or a block that repeats."""

    first: int
    last: int
    depth: int
    title: str
    what: str
    count: int
    times: int = 1
    until: str = ""
    """The name of the last of the equal layers or chains, and where they have no frame of their own, of the first."""
    since: str = ""
    row: int | None = None


@dataclass(eq=False)
class Link:
    """A drawn shortcut, with all those of the chain that it stands for."""

    arcs: list[Arc]
    start: int
    end: int
    words: Words
    held: int
    """Parameters of one of them."""
    leaves_inside: bool = False
    """Whether it starts at a value that is not drawn."""
    ends_inside: bool = False

    @property
    def edge(self) -> Any:
        return self.arcs[0].edge


@dataclass(eq=False)
class View:
    """What is drawn of a chain or of a branch, from the input on."""

    cells: list[Cell]
    bands: list[Band]
    links: list[Link]
    depth: int = 0
    """In how many frames a branch is."""
    at: tuple[int, int, int] = (0, 0, 0)
    """The numbers of its first cell, link and band in the whole drawing."""

    def ends(self, cell: int) -> list[Link]:
        """The shortcuts that merge into the value of a cell, in merge order."""
        return self._ends.get(cell, [])

    def __post_init__(self) -> None:
        self._ends: dict[int, list[Link]] = {}
        for link in self.links:
            self._ends.setdefault(link.end, []).append(link)

    def views(self) -> list[View]:
        """This one and those of all branches in it, by their numbers."""
        limbs = [limb for cell in self.cells for limb in cell.limbs]
        return [self, *(v for limb in limbs if limb.view is not None for v in limb.view.views())]

    @property
    def all_cells(self) -> list[Cell]:
        return [cell for v in self.views() for cell in v.cells]

    @property
    def all_links(self) -> list[Link]:
        return [link for v in self.views() for link in v.links]

    @property
    def all_bands(self) -> list[Band]:
        return [band for v in self.views() for band in v.bands]

    def number(self) -> View:
        """Give every piece its number."""
        rows = arcs = bands = 0
        for v in self.views():
            v.at = (rows, arcs, bands)
            rows, arcs, bands = rows + len(v.cells), arcs + len(v.links), bands + len(v.bands)
        return self
