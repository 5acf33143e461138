"""What both directions of a drawing say: the merges of a row, what stands on an arc, titles, the legend."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from skipway.value import Form

from .layout import joining
from .scene import SIGNS, cut, is_bold, text_width
from .text import what
from .view import Band, Cell, Link, View

_SAYS = {
    "add": "add", "sub": "subtract the branch", "mul": "multiply", "cat": "concatenate", "mean": "mean",
    "max": "maximum", "min": "minimum", "gate": "gate", "weighted": "weighted sum",
    "replace": "replace the branch",
}  # fmt: skip


@dataclass(eq=False)
class Merge:
    """Neighbouring shortcuts into one value that merge alike: one sign on the chain."""

    word: str
    links: list[int]
    says: list[str]
    """What is done to the branch before, and to the result after."""


def merges(view: View, cell: int, number: dict[int, int]) -> list[Merge]:
    """The merges of a value, in their order along the chain."""
    found: list[Merge] = []
    for link in view.ends(cell):
        if link.ends_inside:
            continue
        w, connection = link.words, link.edge.connection
        acts = f"then {w.act}{_count(connection, 'act')}" if w.act else ""
        held = _count(connection, "merge").strip(" ()")
        says = [
            f"{w.scale}{_count(connection, 'scale')}" if w.scale else "",
            w.drop,
            held and f"{held} parameters",
            acts,
        ]
        says = [s for s in says if s]
        if found and found[-1].word == w.merge and (not says or found[-1].says == says) and not w.act:
            found[-1].links.append(number[id(link)])
        else:
            found.append(Merge(w.merge, [number[id(link)]], says))
    return found


def _count(connection: Any, *parts: str) -> str:
    """Parameters of some parts of a shortcut, in brackets: ``" (50)"``; empty where they have none."""
    total = 0
    for part in parts if connection is not None else ():
        held = getattr(connection, part, None)
        own = [held] if isinstance(held, nn.Parameter) else held.parameters() if isinstance(held, nn.Module) else ()
        total += sum(p.numel() for p in own)
    return f" ({total:,})" if total else ""


def on_arc(link: Link, *, number: bool = True) -> str:
    """What stands on an arc: the name it was given, its path and what that is multiplied by, their parameters; with
    ``number`` also how many shortcuts it stands for, where they end at values that are not drawn."""
    w, edge = link.words, link.edge
    told = [t for t in (edge.shortcut.name, _path(link), w.path_scale) if t]
    text = " · ".join(told) + _count(edge.connection, "path", "path_scale")
    several = number and len(link.arcs) > 1 and (link.leaves_inside or link.ends_inside)
    many = f"{len(link.arcs):,} shortcuts" if several else ""
    return " · ".join(t for t in (text, many) if t)


def _path(link: Link) -> str:
    """The path of a shortcut; of a row of layers, what they are, where that is short."""
    made: Any = link.edge.connection.path if link.edge.connection is not None else None
    if link.words.path not in ("Chain", "Sequential"):
        return link.words.path
    row = made.modules_in_order if hasattr(made, "modules_in_order") else made
    told = ", ".join(what(layer) for layer in row)
    return told if len(told) <= 40 else link.words.path


def shape(text: str) -> str:
    """A shape without the batch axis.

    >>> shape("(N, 64, ?, ?)"), shape("(N, 5)"), shape("(N, ...)")
    ('64×?×?', '5', '…')
    """
    return "×".join(text.strip("()").split(", ")[1:]).replace("...", "…")


def features(form: Form | None) -> int | None:
    """How many features a value has."""
    known = form.shape if form is not None else None
    if not known:
        return None
    if len(known) == 1:
        return known[0]
    return {"first": known[0], "last": known[-1], None: None}[form.layout]  # type: ignore[union-attr]


class Thickness:
    """Widths as thickness: the widest value of the chain is drawn widest, on a scale of factors."""

    def __init__(self, view: View) -> None:
        known = [w for c in view.all_cells if c.row.node is not None for w in [features(c.row.node.form)] if w]
        self.low, self.high = min(known, default=1), max(known, default=1)

    def __call__(self, width: int | None, least: float = 2.0, most: float = 7.0) -> float:
        if not width or self.high <= self.low:
            return least + (most - least) / 4
        place = math.log(max(width, self.low) / self.low) / math.log(self.high / self.low)
        return least + (most - least) * min(1.0, place)


def leaving(cell: Cell) -> int | None:
    """Features of the value of a cell."""
    return features(cell.row.node.form) if cell.row.node is not None else None


def arriving(cell: Cell) -> int | None:
    """Features of what its layer puts out, before the merges."""
    node = cell.row.node
    return leaving(cell) if node is None or not node.index else features(node.arrival)


#: of so many shortcuts each is drawn faint, so that one sees through them
_FAINT = 400


def arc_look(links: list[Link], link: Link, features: int | None, thick: Thickness, levels: bool) -> tuple[str, float]:
    """The kind and the thickness of the line of a shortcut, one of ``links``, that brings so many features."""
    width = thick(features, 1.1, 2.6)
    if not levels:
        width = max(0.35, min(width, 60 / len(links) ** 0.6))
    loose = " loose" if link.leaves_inside or link.ends_inside else ""
    return f"arc {link.words.merge}{loose}" + (" faint" if len(links) > _FAINT else ""), width


_WEIGHTS = ("Dense", "Conv", "Linear", "Bilinear", "Embedding", "RNN", "LSTM", "GRU", "Attention")
_ACTS = (
    "relu", "gelu", "silu", "swish", "tanh", "sigmoid", "softmax", "mish", "elu", "selu", "softplus", "leakyrelu",
    "prelu", "leaky_relu", "hardswish", "identity",
)  # fmt: skip


def category(cell: Cell) -> str:
    """What a drawn row is, for its colour; its words say so too."""
    return category_of(cell.what, cell.count) if cell.kind == "layer" else cell.kind


def category_of(what: str, count: int) -> str:
    """What a layer is, from its kind and parameters: ``weights``, ``norm``, ``act``, ``pool`` or ``other``.

    >>> category_of("Conv 3x3 relu", 10), category_of("BatchNorm", 8), category_of("lambda", 0)
    ('weights', 'norm', 'other')
    """
    if " · " in what:  # joined: as what has the weights in it
        return "weights" if any(k.startswith(_WEIGHTS) for k in what.split(" · ")) else "norm"
    first = what.split(" ")[0].split("(")[0]
    if "norm" in first.lower():
        return "norm"
    if "pool" in first.lower() or first in ("Flatten", "Upsample"):
        return "pool"
    if first.lower() in _ACTS or "Dropout" in first:
        return "act"
    return "weights" if first.startswith(_WEIGHTS) or count else "other"


def tips(view: View) -> dict[tuple[str, int], str]:
    """What is said of every row and shortcut when one points at it."""
    told = {}
    for i, cell in enumerate(view.all_cells):
        lines = [" ".join(t for t in (cell.title, cell.what) if t), f"{cell.shape}"]
        lines += [f"branches: {len(cell.row.branches)}, {joining(cell.row.module)}"] if cell.kind == "fork" else []
        lines += [f"{cell.count:,} parameters"] if cell.count else []
        lines += [f"{len(cell.inside):,} shortcuts inside"] if cell.inside else []
        lines += [cell.row.node.source] if cell.kind in ("layer", "fork") and cell.row.node is not None else []
        told["row", i] = "\n".join(lines)
    for i, link in enumerate(view.all_links):
        held = f"\n{link.held:,} parameters" if link.held else ""
        times = f"\nstands for {len(link.arcs):,} shortcuts" if len(link.arcs) > 1 else ""
        told["arc", i] = f"{link.arcs[0].name}: {link.words}{held}{times}\n{link.edge.shortcut.source}"
    return told


def band_titles(band: Band) -> list[tuple[tuple[str, str], ...]]:
    """Ways to write the title of a band, the longest first."""
    times = ((f"×{band.times} ", "times"),) if band.times > 1 else ()
    until = f" to {band.until}" if band.times > 1 and band.until else ""
    since = f" {band.since}" if band.since else ""
    kind = "" if band.what in ("", "Chain") else f" {band.what}"
    count = f"  {band.count:,}" if band.count else ""
    if not band.title:
        tail = ((f"{since}{until}", "muted"),) if until else ()
        return [(*times, *tail), times] if tail else [times]
    name = (band.title, "name")
    return [
        (*times, name, (f"{until}{kind}{count}", "muted")),
        (*times, name, (f"{until}{kind}", "muted")),
        (*times, name, (until, "muted")),
        (*times, name),
    ]


def band_title(band: Band, room: float) -> tuple[tuple[str, str], ...]:
    """The longest way to write the title of a band that fits; its number first, then its name, cut if need be."""
    ways = band_titles(band)
    for way in ways:
        if sum(text_width(t, 10, is_bold(k)) for t, k in way) <= room:
            return tuple(span for span in way if span[0])
    times = tuple(span for span in ways[-1] if span[1] == "times")
    left = room - sum(text_width(t, 10, True) for t, _ in times)
    return (*times, *((cut(t, 10, left, True), k) for t, k in ways[-1] if k == "name"))


def title_of(cell: Cell) -> tuple[str, str]:
    """The name of a layer, or in grey its position."""
    named = cell.kind in ("layer", "closed") and not cell.title.replace("–", "").isdigit()
    return cut(cell.title, 11, 130, named), "name" if named else "index"


def head(chain: Any, plan: Any, parameters: int) -> list[tuple[str, str]]:
    """The title of a drawing, as ``print(net)`` has it."""
    count = f"open, {parameters:,} parameters so far" if chain.is_open else f"{parameters:,} parameters"
    return [(type(chain).__name__, "title"), (f"   {plan.input} → {plan.output}   {count}", "muted")]


def common(view: View) -> str:
    """What stands on every arc alike, so that it can be said once; empty where they differ or are few."""
    links = view.all_links
    told = Counter(on_arc(link, number=False) for link in links)
    return next(iter(told)) if len(told) == 1 and len(links) > 6 else ""


def legend(view: View, unplaced: Sequence[int], *, short: bool = False) -> list[tuple[str, str]]:
    """``(sign, words)`` of what needs an explanation here."""
    told: list[tuple[str, str]] = []
    links, cells = view.all_links, view.all_cells
    forks = [cell for cell in cells if cell.kind == "fork"]
    shown = sorted({link.words.merge for link in links} | {joining(cell.row.module) for cell in forks})
    told += [(word, _SAYS.get(word, word)) for word in shown if word in SIGNS]
    shortcuts = sum(len(link.arcs) for link in links) + sum(len(c.inside) for c in cells)
    if shortcuts:
        told.append(("line", f"{shortcuts:,} shortcut" + "s" * (shortcuts > 1)))
    if any(limb.view is None for cell in forks for limb in cell.limbs) or any(cell.hidden for cell in cells):
        total = sum(limb.total for cell in forks for limb in cell.limbs) + sum(cell.hidden for cell in cells)
        told.append(("", f"{total:,} branches"))
    if short:
        told.append(("", "below a layer: shape without the batch axis · parameters"))
    widths = {features(c.row.node.form) for c in cells if c.row.node is not None} - {None}
    if len(widths) > 1:
        told.append(("thick", f"thickness: {min(widths)} to {max(widths)} features"))  # type: ignore[type-var]
    if any(link.leaves_inside or link.ends_inside for link in links):
        told.append(("dashed", "from or to values that are not drawn"))
    if any(link.words.tap for link in links):
        told.append(("", "a shortcut that leaves before a merge brings the branch"))
    same = common(view)
    if same:
        told.append(("", f"every shortcut: {same}"))
    elif unplaced:
        counted = Counter(on_arc(links[i], number=False) for i in unplaced)
        counted.pop("", None)
        for text, n in counted.most_common(4):
            told.append(("", f"{n:,} shortcut{'s' * (n > 1)}: {text}"))
        if len(counted) > 4:
            told.append(("", f"and {len(counted) - 4:,} more kinds"))
    return told
