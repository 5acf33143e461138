"""What an experiment gives: what a paper says beside what was measured, tables and figures."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Claim:
    """What a paper says, what was measured here, and whether the two agree: computed from the numbers."""

    paper: str
    measured: str
    agrees: bool

    def verdict(self, quick: bool = False) -> str:
        """In words; ``quick`` experiments are too small to judge by."""
        said = "agrees" if self.agrees else "does not agree here"
        return f"({said}, but --quick is too small to tell)" if quick else said


@dataclass(frozen=True)
class Outcome:
    """One experiment that is done. ``figures`` are the names of the files in the folder that it was drawn to."""

    claims: list[Claim]
    table: str
    figures: list[str]
    numbers: dict[str, Any]
    notes: str = ""

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> Outcome:
        held = json.loads(text)
        return cls(**{**held, "claims": [Claim(**claim) for claim in held["claims"]]})


@dataclass(frozen=True)
class Bench:
    """What an experiment is given: how large it shall be, where its parts go, and a line to say how far it is."""

    name: str
    folder: Path
    parts: Path
    quick: bool = False
    seed: int = 0
    say: Callable[[str], None] = field(default=lambda _: None)

    def pick(self, whole: Any, quick: Any) -> Any:
        """``whole``, or ``quick`` with ``--quick``: small enough to show that it runs, and too small to show more."""
        return quick if self.quick else whole

    def run(self, part: str) -> Path:
        """A folder in which a study keeps what is done, so that an interrupted one goes on."""
        return self.parts / part

    def save(self, figure: Any, part: str = "") -> str:
        """Write a figure; its name."""
        name = f"{self.name}{'-' * bool(part)}{part}.png"
        figure.savefig(self.folder / name, dpi=110)
        return name


def aligned(head: Sequence[str], rows: Mapping[str, Sequence[str]]) -> str:
    """Rows by name as lines of equal columns."""
    cells = [tuple(head), *((name, *row) for name, row in rows.items())]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    lines = ["  ".join(c.rjust(w) if i else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
             for row in cells]  # fmt: skip
    return "\n".join(line.rstrip() for line in lines)


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"
