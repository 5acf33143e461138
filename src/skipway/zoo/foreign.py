"""Weights of other libraries for the nets of the zoo."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from skipway import Chain, ChainError

from .match import COUNTER, By, Kind, Part, match, ours, parts
from .registry import ENTRIES

#: what training scripts put around a state dict
WRAPPERS = ("state_dict", "model", "model_state_dict")
#: what an optimizer changes
LEARNED = ("weight", "bias", "parameter")
#: how many keys of a kind an error lists
SHOWN = 8


@dataclass(frozen=True)
class Loaded:
    """One entry of a state dict and where it went; ``by`` is what decided it.

    ``"shape"``: nothing else there has these shapes and this place. ``"number"``: of equals, the number in its name.
    ``"order"``: of equals whose names say nothing, the order of the state dict.
    """

    foreign: str
    own: str
    shape: tuple[int, ...]
    by: By


@dataclass(frozen=True)
class Report:
    """What went where. Prints as a table with a line for each module.

    Attributes
    ----------
    entries:
        what was loaded, in the order in which the net runs.
    skipped:
        keys of the state dict that were left out: its head, with ``head=False``.
    kept:
        keys of the net that hold what they held: its head with ``head=False``, and counters of batches where the state
        dict has none.
    """

    entries: tuple[Loaded, ...]
    skipped: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [f"{len(self.entries)} tensors loaded, {len(self.skipped)} skipped, {len(self.kept)} kept"]
        rows: dict[tuple[str, str], list[Loaded]] = {}
        for entry in self.entries:
            rows.setdefault((_module(entry.foreign), _module(entry.own)), []).append(entry)
        cells = [(foreign, own, _listed(held)) for (foreign, own), held in rows.items()]
        cells += [(key, "", "skipped") for key in self.skipped]
        cells += [("", key, "kept") for key in self.kept if not key.endswith(COUNTER)]
        a, b = (max((len(row[i]) for row in cells), default=0) for i in range(2))
        return "\n".join([*lines, *(f"  {foreign:{a}}  {own:{b}}  {what}" for foreign, own, what in cells)])


def _module(key: str) -> str:
    return key.rpartition(".")[0] or key


def _listed(held: Sequence[Loaded]) -> str:
    """``weight (3, 1), bias (3,)``; counters are left out."""
    entries = [e for e in held if not e.foreign.endswith(COUNTER)]
    return ", ".join(f"{e.foreign.rpartition('.')[2]} {e.shape}" for e in entries)


def load(net: Chain, state_dict: Mapping[str, Any], *, head: bool = True) -> Report:
    """Load weights that another library made for the same net, such as torchvision or timm.

    Parameters
    ----------
    net:
        a net of the zoo, or any chain.
    state_dict:
        what the other net's ``state_dict()`` gives, or a checkpoint that holds it under ``"state_dict"`` or
        ``"model"``. Prefixes such as ``module.`` do not matter, nor do the names: parts are matched by how the names
        nest and by shapes, see :mod:`skipway.zoo.match`. Counters of batches may be missing.
    head:
        ``False`` leaves the last layer of both nets out, which may be for another number of classes then.

    Either everything is loaded, or nothing is changed. What has no weights cannot be seen in a state dict: strides,
    pools, activations and the epsilon of norms must be those of the other net. ``resnet50(stride_on="1x1")`` takes
    weights made for ``"3x3"``, and computes something else.

    Raises
    ------
    ChainError
        with all that is missing, left over or of another shape, and what the state dict looks like; for something that
        is no state dict; for a net on the meta device; and where only the order of the entries could tell two of them
        apart, and they are sorted by name.

    >>> import torch
    >>> from skipway import BatchNorm, Conv, Dense, Flatten, Skip
    >>> net = Chain(stem=Conv(1, 2, 1, bias=False), block=Skip(Conv(2, 2, 1, bias=False), BatchNorm(2)),
    ...             flat=Flatten(), head=Dense(8, 3), input=(1, 2, 2))
    >>> theirs = torch.nn.ModuleDict({"conv1": torch.nn.Conv2d(1, 2, 1, bias=False), "layer1": torch.nn.ModuleDict({
    ...     "conv": torch.nn.Conv2d(2, 2, 1, bias=False), "bn": torch.nn.BatchNorm2d(2)}), "fc": torch.nn.Linear(8, 3)})
    >>> print(load(net, theirs.state_dict()))
    9 tensors loaded, 0 skipped, 0 kept
      conv1        stem     weight (2, 1, 1, 1)
      layer1.conv  block.0  weight (2, 2, 1, 1)
      layer1.bn    block.1  weight (2,), bias (2,), running_mean (2,), running_var (2,)
      fc           head     weight (3, 8), bias (3,)
    """
    theirs = _tensors(state_dict)
    mine = dict(net.state_dict())
    own, foreign, skipped = ours(net, mine), parts(theirs), []
    kept = [key for part in own for key in part.keys.values()]
    if not head:
        last = _head(own)
        own = [part for part in own if part is not last]
        alike = [part for part in _surplus(foreign, own) if _form(part) == _form(last)]
        skipped = alike if len(alike) == 1 else []
        foreign = [part for part in foreign if part not in skipped]
    missing, left = _surplus(own, foreign), _surplus(foreign, own)
    if missing or left:
        raise ChainError(_difference(own, foreign, missing, left))
    if any(tensor.is_meta for tensor in mine.values()):
        raise ChainError(
            "this net is on the meta device, so it has nothing to load into: net.to_empty(device=...) first"
        )

    names = [key for key in theirs if not key.endswith(COUNTER)]
    moves, entries = [], []
    for pair in match(own, foreign, alphabetical=names == sorted(names)):
        for role, key in pair.foreign.keys.items():
            if role in pair.own.keys:
                moves.append((mine[pair.own.keys[role]], theirs[key]))
                entries.append(Loaded(key, pair.own.keys[role], pair.foreign.shapes[role], pair.by))
    with torch.no_grad():
        for to, tensor in moves:
            to.copy_(tensor.reshape(to.shape))
    filled = {entry.own for entry in entries}
    out = [key for part in skipped for key in part.keys.values()]
    return Report(tuple(entries), tuple(out), tuple(key for key in kept if key not in filled))


def _tensors(state_dict: Any) -> dict[str, Tensor]:
    """The tensors by name, from inside what a training script wrapped around them."""
    if isinstance(state_dict, nn.Module):
        raise ChainError(
            f"load takes a state dict, and got a {type(state_dict).__name__}: write load(net, it.state_dict())"
        )
    if not isinstance(state_dict, Mapping):
        raise ChainError(f"load takes a state dict, tensors by name, and got a {type(state_dict).__name__}")
    for name in WRAPPERS:
        inside = state_dict.get(name)
        if isinstance(inside, Mapping):
            return _tensors(inside)
    for key, value in state_dict.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise ChainError(
                f"a state dict holds tensors by name, and this holds a {type(value).__name__} under {key!r}: give the "
                f"state dict inside it"
            )
        if value.is_meta:
            raise ChainError(f"{key!r} of the state dict is on the meta device, so it has no values")
    if not state_dict:
        raise ChainError("the state dict is empty")
    return dict(state_dict)


def _head(own: Sequence[Part]) -> Part:
    """The layer that gives the classes: the last convolution or dense layer."""
    weighted = [part for part in own if part.weighted]
    if not weighted:
        raise ChainError("this net has no layer with weights, so it has no head to leave out")
    return weighted[-1]


def _surplus(some: Sequence[Part], others: Sequence[Part]) -> list[Part]:
    """Parts of ``some`` that are more, of their kind, than ``others`` have: first those where the rows differ."""
    room = Counter(part.kind for part in others)
    more = {kind: count - room[kind] for kind, count in Counter(part.kind for part in some).items()}
    if not any(count > 0 for count in more.values()):
        return []
    alike = _common([p.kind for p in some], [p.kind for p in others])
    surplus = []
    for i in [i for i in range(len(some)) if i not in alike] + sorted(alike, reverse=True):
        if more[some[i].kind] > 0:
            more[some[i].kind] -= 1
            surplus.append(i)
    return [some[i] for i in sorted(surplus)]


def _common(row: Sequence[Kind], other: Sequence[Kind]) -> set[int]:
    """Places of a row that are in its longest common subsequence with another one."""
    length = [[0] * (len(other) + 1) for _ in range(len(row) + 1)]
    for i, j in product(range(len(row) - 1, -1, -1), range(len(other) - 1, -1, -1)):
        same = row[i] == other[j]
        length[i][j] = length[i + 1][j + 1] + 1 if same else max(length[i + 1][j], length[i][j + 1])
    found, i, j = set(), 0, 0
    while i < len(row) and j < len(other):
        if row[i] == other[j]:
            found.add(i)
            i, j = i + 1, j + 1
        elif length[i + 1][j] >= length[i][j + 1]:
            i += 1
        else:
            j += 1
    return found


def _form(part: Part) -> frozenset[tuple[str, int, tuple[int, ...]]]:
    """The kind of a part whatever its widths: roles, axes and size of the kernel."""
    return frozenset((role, len(shape), shape[2:]) for role, shape in part.kind)


def _difference(own: Sequence[Part], foreign: Sequence[Part], missing: list[Part], left: list[Part]) -> str:
    """All that does not fit, in words."""
    counts = Counter(_form(p) for p in missing), Counter(_form(p) for p in left)
    equal = [form for form, number in counts[0].items() if counts[1][form] == number]
    misshapen = [
        pair
        for form in equal
        for pair in zip(*([p for p in side if _form(p) == form] for side in (missing, left)), strict=True)
    ]
    missing = [part for part in missing if _form(part) not in equal]
    left = [part for part in left if _form(part) not in equal]
    lacking, extra = _keys_apart(missing, left)

    lines = ["the state dict does not fit this net, which is as it was:"]
    shapes = [
        f"{theirs.keys[role]} {theirs.shapes[role]} for {mine.keys[role]} {mine.shapes[role]}"
        for mine, theirs in misshapen
        for role in mine.shapes
        if role in theirs.shapes and mine.shapes[role] != theirs.shapes[role]
    ]
    for what, items in (
        ("of another shape", shapes),
        ("missing in the state dict", lacking),
        ("left over in the state dict", extra),
    ):
        if items:
            more = [f"... and {len(items) - SHOWN} more"] if len(items) > SHOWN else []
            lines += [f"  {what} ({len(items)}):", *(f"    {item}" for item in [*items[:SHOWN], *more])]
    return "\n".join([*lines, *(f"  {hint}" for hint in _hints(own, foreign, missing, left, misshapen))])


def _keys_apart(missing: Sequence[Part], left: Sequence[Part]) -> tuple[list[str], list[str]]:
    """The keys that one side lacks and the other has too many. Of two parts that agree as far as they go, the rest."""
    lacking, extra, open_ = [], [], list(left)
    for part in missing:
        like = next((other for other in open_ if _agree(part, other)), None)
        if like is not None:
            open_.remove(like)
            extra += _keys(like, but=part)
        lacking += _keys(part, but=like)
    return lacking, extra + [key for part in open_ for key in _keys(part)]


def _agree(a: Part, b: Part) -> bool:
    mine, theirs = dict(a.kind), dict(b.kind)
    common = mine.keys() & theirs.keys()
    return bool(common) and all(mine[role] == theirs[role] for role in common)


def _keys(part: Part, but: Part | None = None) -> list[str]:
    known = {COUNTER, *(but.keys if but else ())}
    return [f"{key} {part.shapes[role]}" for role, key in part.keys.items() if role not in known]


def _hints(
    own: Sequence[Part],
    foreign: Sequence[Part],
    missing: Sequence[Part],
    left: Sequence[Part],
    misshapen: Sequence[tuple[Part, Part]],
) -> list[str]:
    """What the state dict looks like, and what to do."""
    weighted = [part for part in own if part.weighted]
    first, last = (weighted[0], weighted[-1]) if weighted else (None, None)
    hints, rest = [], []
    for mine, theirs in misshapen:
        (wide, *deep), (other_wide, *other_deep) = (p.shapes.get("weight", (0,)) for p in (mine, theirs))
        if mine is last and deep == other_deep:
            hints.append(
                f"its head is for {other_wide} classes and this net's for {wide}: make the net with "
                f"num_classes={other_wide}, or write head=False to keep the head of this net"
            )
        elif mine is first and wide == other_wide and deep[1:] == other_deep[1:]:
            hints.append(
                f"its first layer reads {other_deep[0]} channels and this net's {deep[0]}: make the net with "
                f"in_channels={other_deep[0]}"
            )
        else:
            rest.append(mine)
    if list(missing) == [last] and not left and not rest:
        return [*hints, "it has no head: write head=False to keep the head of this net"]
    if not missing and not left and not rest:
        return hints
    if not missing and not left:
        hints.append("it has the same layers in other widths: it looks like another width of the same family")
    elif Counter(p.kind for p in own if p.weighted) == Counter(p.kind for p in foreign if p.weighted):
        hints.append(
            "its convolutions and dense layers are those of this net, and what lies between them differs: it looks "
            "like the same net with other options"
        )
    else:
        counts = [sum(part.weighted for part in side) for side in (own, foreign)]
        kinds = [{part.kind for part in side} for side in (own, foreign)]
        alike = 2 * len(kinds[0] & kinds[1]) >= min(map(len, kinds))
        hints.append(
            f"it has {counts[1]} convolutions and dense layers, and this net {counts[0]}: it looks like another "
            f"{'depth of the same family' if alike else 'architecture'}"
        )
    known = _as_large(foreign)
    return [*hints, f"it has as many parameters as {' or '.join(known)}"] if known else hints


def _as_large(foreign: Sequence[Part]) -> list[str]:
    """Nets of the zoo that are known to have as many parameters as a state dict."""
    learned = sum(math.prod(s) for p in foreign for role, s in p.shapes.items() if role in LEARNED)
    found = []
    for name, entry in ENTRIES.items():
        for figure in entry.figures:
            if figure.what == "parameters" and figure.value == learned:
                options = "".join(f", {key}={value!r}" for key, value in figure.options.items())
                found.append(f"zoo.make({name!r}{options})")
    return list(dict.fromkeys(found))


__all__ = ["Loaded", "Report", "load"]
