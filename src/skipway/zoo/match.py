"""Two state dicts of one net, matched by how their names nest and by shapes: no table of names.

The names of a state dict are a tree. A node of it is known by what it holds, the kinds and shapes of all parts under it
(its *content*), so that ``downsample.0`` and ``downsample.1`` in one library and a shortcut's path in another are the
same thing under any name and in any order. From the largest down, nodes of equal content are paired; what finds no
partner is opened, and what is inside is paired. Only where nodes have equal content, such as the blocks of a stage, do
the numbers in their names decide, and where those say nothing the order.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from torch import Tensor

from skipway import Chain, ChainError
from skipway.edit import nested
from skipway.graph import Graph

#: what a module of torch calls its own tensors; anything else is a parameter that lies about by itself
ROLES = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
#: counts batches, and is missing in old state dicts
COUNTER = "num_batches_tracked"

#: a map inside attention, as ``nn.MultiheadAttention`` names it
_ATTENTION = re.compile(r"(.*_proj)_(weight|bias)")

By = Literal["shape", "number", "order"]
_WEAKER = {"shape": 0, "number": 1, "order": 2}
Kind = frozenset[tuple[str, tuple[int, ...]]]
Content = frozenset[tuple[Kind, int]]


@dataclass(frozen=True, eq=False)
class Part:
    """What one module holds of its own, or one parameter by itself: its keys in the state dict by their role."""

    name: str
    keys: Mapping[str, str]
    shapes: Mapping[str, tuple[int, ...]]

    @cached_property
    def kind(self) -> Kind:
        """Roles and shapes. A 1x1 convolution is a dense layer, and a scale ``(C, 1, 1)`` a scale ``(C,)``."""
        return frozenset((role, _bare(role, shape)) for role, shape in self.shapes.items() if role != COUNTER)

    @property
    def weighted(self) -> bool:
        """Whether it is a convolution or a dense layer."""
        return len(self.shapes.get("weight", ())) > 1


def _bare(role: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    if role != "weight" or len(shape) < 2:
        return tuple(size for size in shape if size != 1)
    while len(shape) > 2 and shape[-1] == 1:
        shape = shape[:-1]
    return shape


def parts(state: Mapping[str, Tensor]) -> list[Part]:
    """The parts of a state dict, in the order of their first keys.

    >>> import torch
    >>> [part.name for part in parts({"bn.weight": torch.zeros(3), "bn.bias": torch.zeros(3), "gamma": torch.zeros(3)})]
    ['bn', 'gamma']
    """
    found: dict[str, dict[str, str]] = {}
    for key in state:
        name, _, role = key.rpartition(".")
        if role not in ROLES:
            attention = _ATTENTION.fullmatch(key)
            name, role = attention.groups() if attention else (key, "parameter")
        found.setdefault(name, {})[role] = key
    for keys in found.values():
        if list(keys) == ["weight"] and state[keys["weight"]].dim() < 2:  # a module that is one scale
            keys["parameter"] = keys.pop("weight")
    return [Part(n, keys, {r: tuple(state[k].shape) for r, k in keys.items()}) for n, keys in found.items()]


def ours(net: Chain, state: Mapping[str, Tensor]) -> list[Part]:
    """The parts of a chain in the order in which they run: each layer, then the shortcuts that end after it.

    >>> from skipway import Dense, Skip
    >>> net = Chain(Skip(Dense(2, 3), path="project"), Dense(3, 1))
    >>> [part.name for part in ours(net, net.state_dict())]
    ['0.0', '0.shortcuts.input->output.path', '1']
    """
    rank: dict[str, int] = {}
    for node in Graph(net, nested(net)).nodes[1:]:
        if node.layer is not None:
            rank[f"{node.where}.{node.key}" if node.where else node.key] = len(rank)
        for edge in node.edges:
            rank[".".join(filter(None, [edge.where, "shortcuts", edge.shortcut.key]))] = len(rank)

    def place(key: str) -> int:
        while key and key not in rank:
            key = key.rpartition(".")[0]
        return rank.get(key, len(rank))

    return parts({key: state[key] for key in sorted(state, key=place)})


class Node:
    """A name of the tree with everything under it."""

    def __init__(self, name: str, held: Sequence[tuple[int, Part]]) -> None:
        self.name, self.held = name, held

    @property
    def position(self) -> int:
        return self.held[0][0]

    @property
    def leaf(self) -> bool:
        return len(self.held) == 1

    @cached_property
    def content(self) -> Content:
        return content(part for _, part in self.held)

    def opened(self) -> list[Node]:
        """The names under this one, as far down as they are the same for all; the node itself for a leaf.

        What a shortcut owns is no module that anyone else would have: its path, scale and merge count one by one.
        """
        if self.leaf:
            return [self]
        depth = self.name.count(".") + 1 if self.name else 0
        inside: list[Node] = []
        while len(inside) < 2:
            depth, inside = depth + 1, _split(self.held, depth + 1)
        found: list[Node] = []
        for node in inside:
            *_, above, last = ["", *node.name.split(".")]
            further = 2 if last == "shortcuts" else 1 if above == "shortcuts" else 0
            found += _split(node.held, depth + further)
        return found


def _split(held: Sequence[tuple[int, Part]], depth: int) -> list[Node]:
    """Parts by the first words of their names, so many of them."""
    inside: dict[str, list[tuple[int, Part]]] = {}
    for at, part in held:
        inside.setdefault(".".join(part.name.split(".")[:depth]), []).append((at, part))
    return [Node(name, parts_) for name, parts_ in inside.items()]


def content(held: Iterable[Part]) -> Content:
    return frozenset(Counter(part.kind for part in held).items())


def tree(held: Sequence[Part]) -> Node:
    return Node("", list(enumerate(held)))


@dataclass(frozen=True, eq=False)
class Pair:
    """A part of the net and one of the state dict; ``by`` is what decided that they belong together."""

    own: Part
    foreign: Part
    by: By


def match(own: Sequence[Part], foreign: Sequence[Part], alphabetical: bool = False) -> list[Pair]:
    """Pair the parts of two state dicts of equal content, in the order of ``own``.

    Raises ``ChainError`` where only the order could tell two parts apart, and the foreign ones are ``alphabetical``.
    """
    place = {id(part): i for i, part in enumerate(own)}
    pairs = _pairs([tree(own)], [tree(foreign)], "shape", alphabetical)
    return sorted(pairs, key=lambda pair: place[id(pair.own)])


def _pairs(mine: list[Node], theirs: list[Node], by: By, alphabetical: bool) -> Iterator[Pair]:
    """Pair two lists of nodes whose content is equal as a whole."""
    if len(mine) == len(theirs) == 1 and mine[0].leaf and theirs[0].leaf:
        yield Pair(mine[0].held[0][1], theirs[0].held[0][1], by)
        return
    mine, theirs = (side[0].opened() if len(side) == 1 else side for side in (mine, theirs))
    while mine:
        # the largest first: what is still inside another node could be the partner of a small one
        largest = max([*mine, *theirs], key=lambda node: len(node.held)).content
        rows = [[[node] for node in side if node.content == largest] for side in (mine, theirs)]
        known = len(rows[1])
        if len(rows[0]) != known:
            # what has a name of its own on one side may be a row of neighbours on the other
            rows = [_runs(mine, largest), rows[1] if alphabetical else _runs(theirs, largest)]
        if len(rows[0]) != len(rows[1]):
            mine, theirs = _opened(mine, largest), _opened(theirs, largest)
            continue
        mine, theirs = (_without(side, runs) for side, runs in zip((mine, theirs), rows, strict=True))
        foreign, told = _in_turn(rows[1], alphabetical)
        weakest = max(by, told, "order" if len(rows[1]) > known else by, key=_WEAKER.__getitem__)
        for a, b in zip(rows[0], foreign, strict=True):
            yield from _pairs(a, b, weakest, alphabetical)


def _opened(side: list[Node], wanted: Content) -> list[Node]:
    inside = [part for node in side for part in (node.opened() if node.content == wanted else [node])]
    return sorted(inside, key=lambda node: node.position)


def _without(side: list[Node], runs: list[list[Node]]) -> list[Node]:
    gone = {id(node) for run in runs for node in run}
    return [node for node in side if id(node) not in gone]


def _runs(side: Sequence[Node], wanted: Content) -> list[list[Node]]:
    """Neighbours that hold together what a node of the other side holds: a row here that has one name there.

    None where two of them overlap: then it cannot be told which neighbours belong together.
    """
    size, runs, free = sum(count for _, count in wanted), [], 0
    for start in range(len(side)):
        end, held = start, 0
        while end < len(side) and held < size:
            held, end = held + len(side[end].held), end + 1
        if held == size and content(part for node in side[start:end] for _, part in node.held) == wanted:
            if start < free:
                return []
            runs.append(list(side[start:end]))
            free = end
    return runs


def _in_turn(runs: list[list[Node]], alphabetical: bool) -> tuple[list[list[Node]], By]:
    """Foreign nodes, or runs of them, of equal content one after the other, and what tells their order."""
    if len(runs) == 1:
        return runs, "shape"
    if len({re.sub(r"\d+", "#", run[0].name) for run in runs}) == 1:
        return sorted(runs, key=lambda run: [int(n) for n in re.findall(r"\d+", run[0].name)]), "number"
    if alphabetical:
        raise ChainError(
            f"{runs[0][0].name!r} and {runs[1][0].name!r} hold tensors of equal shapes, and the state dict is in "
            f"alphabetical order, which does not say which of them comes first: give it in the order of its model, "
            f"model.load_state_dict(...) and then model.state_dict()"
        )
    return runs, "order"


__all__ = ["COUNTER", "Content", "Kind", "Pair", "Part", "content", "match", "ours", "parts", "tree"]
