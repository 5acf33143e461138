"""``print(net)``: a line per layer with its output shape and parameters, and the shortcuts as rails beside it."""

from __future__ import annotations

import textwrap
import unicodedata
from typing import Any

from torch import nn

from skipway.layer import module_code, parameters_made
from skipway.spine import unwrap
from skipway.wrap import Wrapped, describe

from .layout import Arc, label, lay_out, opened
from .unrolled import Line, Unrolled, unroll

WIDTH = 100
#: more rails than this side by side nobody can follow: then the shortcuts are told in words
MOST_LANES = 12
_BOX = {
    "ud": "│", "ul": "┘", "dl": "┐", "udl": "┤", "lr": "─", "udlr": "┼", "ulr": "┴", "dlr": "┬", "l": "─", "": " ",
    "ud|": "│",
}  # fmt: skip


def table(chain: Any) -> str:
    """The table of a chain; fits 100 columns, repeated blocks folded.

    >>> from skipway import Chain, Dense, every, relu
    >>> print(Chain(Dense(10, 5, relu), Dense(5, 4, relu), Dense(4, 2, relu), wiring=every(1, path="project")))
    Chain  (N, 10) -> (N, 2)   167 parameters
      input               (N, 10)       ─┐
      0      Dense relu   (N, 5)    55  ◄┤ add · project 10→5 (50)
      1      Dense relu   (N, 4)    24  ◄┤ add · project 5→4 (20)
      2      Dense relu   (N, 2)    10  ◄┘ add · project 4→2 (8)
    """
    plan = opened(chain)
    found = unroll(lay_out(plan))
    lanes = found.lanes if found.lanes <= MOST_LANES else 0
    lines = [_Line(line, i, found, lanes) for i, line in enumerate(found.lines)]
    made = sum(p.numel() for p in {id(p): p for p in parameters_made(chain)}.values())
    count = f"open, {made:,} parameters so far" if chain.is_open else f"{made:,} parameter{'s' * (made != 1)}"
    head = f"{type(chain).__name__}  {plan.input} -> {plan.output}   {count}"
    body = _fit(_fold(lines), lanes)
    missing = [f"  open: {reason}" for reason in chain._open]
    return "\n".join([head, *body, *missing])


class _Line:
    """A row as text cells."""

    def __init__(self, line: Line, index: int, found: Unrolled, lanes: int) -> None:
        row, module = line.row, line.row.module if line.role != "meet" else None
        self.gutter, self.title = line.gutter, line.title
        self.what = "" if module is None else what(module)
        self.shape = str(row.node.form) if row.node is not None and not line.is_title else ""
        own = 0 if module is None else sum(p.numel() for p in {id(p): p for p in parameters_made(module)}.values())
        self.count = (f"[{own:,}]" if line.is_title else f"{own:,}") if own else ""
        shown = [a for a in found.arcs if a.lane < lanes]
        self.rails = rails(index, shown, lanes) if lanes else ("◄" if line.ends else " ")
        self.through = "".join(
            "┆" if any(a.lane == i and a.start <= index < a.end for a in shown) else " " for i in range(lanes)
        )
        self.note = notes(line.ends, lanes)

    @property
    def name(self) -> str:
        return self.gutter + self.title

    def short(self, room: int) -> str:
        """Its name, the middle left out where it does not fit."""
        title, left = self.title, max(4, room - len(self.gutter))
        keep = len(title)
        while columns(self.gutter + title) > room and keep > 3:
            keep -= 1
            title = self.title[: (keep + 1) // 2] + "…" + self.title[len(self.title) - (keep - 1) // 2 :]
            if columns(title) <= left:
                break
        return (self.gutter + title)[:room]

    @property
    def key(self) -> tuple[str, ...]:
        """What two rows must share to be the same row of a repeated block."""
        return (self.gutter, self.what, self.shape, self.count, self.rails, self.note)


def what(module: nn.Module) -> str:
    """A layer in two words: ``Dense relu``, ``Conv 3x3/2 relu``."""
    thing = unwrap(module)
    if isinstance(module, Wrapped):
        return describe(thing)
    name = type(module).__name__
    if isinstance(module, nn.modules.conv._ConvNd):
        kernel = "x".join(map(str, module.kernel_size))
        name = "Conv" if name in ("Conv1d", "Conv2d", "Conv3d") else name
        stride = f"/{max(module.stride)}" if max(module.stride) > 1 else ""
        groups = f" groups {module.groups}" if module.groups > 1 else ""
        name = f"{name} {kernel}{stride}{groups}"
    act = getattr(module, "act", None)
    if act is not None:
        code = module_code(act) if isinstance(act, nn.Module) else describe(act)
        name += f" {'softmax' if code == 'partial(softmax)' else code}"
    return name if len(name) <= 34 else name[:33] + "…"


def notes(ends: list[Arc], lanes: int) -> str:
    """The labels of the shortcuts that end on a row; without rails, also where they come from."""
    told: dict[str, list[Arc]] = {}
    for arc in ends:
        connection = arc.edge.connection
        held = sum(p.numel() for p in connection.parameters()) if connection is not None else 0
        told.setdefault(label(arc.edge) + (f" ({held:,})" if held else ""), []).append(arc)
    return "; ".join(text + (_count(len(arcs)) if lanes else _from(arcs)) for text, arcs in told.items())


def _count(n: int) -> str:
    return "" if n == 1 else ", twice" if n == 2 else f", {n} times"


def _from(arcs: list[Arc]) -> str:
    steps = sorted(arc.end - arc.start for arc in arcs)
    if len(steps) > 1 and arcs[0].end - steps[-1] == 0 and steps == list(range(steps[0], steps[-1] + 1)):
        return " from all earlier values" + ("" if steps[0] == 1 else " but the last")
    shown = ", ".join(map(str, steps[:6])) + (", …" if len(steps) > 6 else "")
    return f" from {shown} row{'s' * (steps != [1])} up"


def rails(row: int, arcs: list[Arc], lanes: int) -> str:
    """The box drawing of one row: where rails start, pass and end."""
    up, down, touch = [False] * lanes, [False] * lanes, [False] * lanes
    for arc in arcs:
        if arc.start < row <= arc.end:
            up[arc.lane] = True
        if arc.start <= row < arc.end:
            down[arc.lane] = True
        if row in (arc.start, arc.end):
            touch[arc.lane] = True
    arrives = any(arc.end == row for arc in arcs)
    far = max((i for i in range(lanes) if touch[i]), default=-1)
    cells = []
    for i in range(lanes):
        sides = ("u" if up[i] else "") + ("d" if down[i] else "")
        if touch[i]:
            sides += "l" + ("r" if i < far else "")
        elif sides == "" and i < far:
            sides = "lr"
        # a rail that only passes stays whole, and the horizontal line runs behind it
        cells.append(_BOX[sides])
    lead = "◄" if arrives else ("─" if far >= 0 else " ")
    return lead + "".join(cells)


def _fold(lines: list[_Line]) -> list[_Line | tuple[int, int, str]]:
    """Replace repeats of a block of rows by one row that counts them; then those of blocks with such rows in them."""
    out: list[Any] = list(lines)
    while len(folded := _fold_once(out)) < len(out):
        out = folded
    return out


def _fold_once(lines: list[Any]) -> list[Any]:
    out: list[Any] = []
    keys = [line.key if isinstance(line, _Line) else line[:2] for line in lines]
    i = 0
    while i < len(lines):
        best = (0, 0)
        for period in range(1, min(48, (len(lines) - i) // 2 + 1)):
            block = keys[i : i + period]
            times = 1
            while keys[i + times * period : i + (times + 1) * period] == block:
                times += 1
            if (times >= 3 or (times == 2 and period >= 4)) and (times - 1) * period > best[0] * best[1] + 1:
                best = (period, times - 1)
        period, more = best
        if more and period * more > 1 and isinstance(lines[i], _Line):
            out += lines[i : i + period]
            last = lines[i + period - 1]
            out.append((period, more, last.through if isinstance(last, _Line) else last[2]))
            i += period * (more + 1)
        else:
            out.append(lines[i])
            i += 1
    return out


def _fit(lines: list[Any], lanes: int) -> list[str]:
    real = [line for line in lines if isinstance(line, _Line)]
    name = min(24, max(columns(line.name) for line in real))
    kind = max(columns(line.what) for line in real)
    shape = max(len(line.shape) for line in real)
    count = max(len(line.count) for line in real)
    # what a shortcut does needs room too: long names and kinds give way first
    over = 2 + name + 2 + kind + 3 + shape + 3 + count + 2 + 2 + lanes + min(44, max(len(n.note) for n in real)) - WIDTH
    if over > 0:
        kind, name = max(12, kind - over), max(10, name - max(0, over - max(0, kind - 12)))
    width = 2 + name + 2 + kind + 3 + shape + 3 + count + 2
    out = []
    for line in lines:
        if isinstance(line, _Line):
            shown = line.short(name)
            what_ = line.what if len(line.what) <= kind else line.what[: kind - 1] + "…"
            cells = (
                f"  {_padded(shown, name)}  {_padded(what_, kind)}   {line.shape:<{shape}}   {line.count:>{count}}  "
            )
            out += _wrapped(cells + line.rails, line.note, f"{'':<{width}} {line.through}", lanes)
        else:
            period, more, through = line
            times = "once more" if more == 1 else f"{more} more times"
            told = f"  {'⋮':<{name}}  " + (f"this row {times}" if period == 1 else f"these {period} rows {times}")
            out.append((f"{told:<{width}} {through}" if through.strip() else told)[:WIDTH].rstrip())
    return out


def columns(text: str) -> int:
    """How many columns of a terminal a text takes: signs of East Asian scripts are two wide, marks on others none.

    >>> columns("relu"), columns("入力"), columns("e\N{COMBINING ACUTE ACCENT}")
    (4, 4, 1)
    """
    if text.isascii():
        return len(text)
    wide = sum(unicodedata.east_asian_width(c) in "WF" for c in text)
    return len(text) + wide - sum(unicodedata.combining(c) > 0 for c in text)


def _padded(text: str, width: int) -> str:
    return text + " " * (width - columns(text))


def _unbroken(word: str, room: int) -> str:
    return word.replace(" ", "\N{NO-BREAK SPACE}") if len(word) <= room else word


def _wrapped(cells: str, note: str, under: str, lanes: int) -> list[str]:
    """A row with its note; what does not fit goes on under the rails."""
    if not note:
        return [cells[:WIDTH].rstrip()]
    if not lanes:
        under = under[:-1]
    room = max(16, WIDTH - len(under) - 1)
    # lines break between the words of a label, not inside one: a no-break space holds each together
    held = "; ".join(" · ".join(_unbroken(word, room) for word in text.split(" · ")) for text in note.split("; "))
    wrapped = textwrap.wrap(held, room, break_on_hyphens=False)
    pieces = [piece.replace("\N{NO-BREAK SPACE}", " ") for piece in wrapped]
    first = cells.rstrip() if len(cells.rstrip()) + 1 + len(pieces[0]) <= WIDTH else cells
    return [f"{first} {pieces[0]}"[:WIDTH].rstrip(), *(f"{under} {piece}"[:WIDTH].rstrip() for piece in pieces[1:])]
