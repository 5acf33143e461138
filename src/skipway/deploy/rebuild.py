"""A row of steps as chains in chains again: the way back from :mod:`~skipway.deploy.row`."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import torch
from torch import nn

from skipway.chain import Chain, Skip
from skipway.connection import PARTS, Connection
from skipway.functional import identity
from skipway.gains import Learned
from skipway.parallel import Parallel
from skipway.paths import Project, as_path
from skipway.shortcut import End, Shortcut
from skipway.spine import Spine
from skipway.value import UNKNOWN, Form, Value

from .kernels import Affine, Kernel
from .layers import write
from .row import Join, Key, Place, Row, Step

C = TypeVar("C", bound=Chain)


@dataclass(eq=False)
class Group:
    """A chain to be: steps and groups in order, under their names, and the shortcuts of its wiring."""

    key: Key
    items: list[Step | Group] = field(default_factory=list)
    joins: list[Join] = field(default_factory=list)
    names: list[str | None] = field(default_factory=list)

    @property
    def last(self) -> Step:
        """The step that makes its last value."""
        item = self.items[-1]
        return item if isinstance(item, Step) else item.last

    def called(self, i: int) -> str:
        return self.names[i] or str(i)


#: the groups around a step, from the outermost, and where it is in each
Around = list[tuple[Group, int]]


class Tree:
    """The chains in chains that a row stands for. One of a single layer, without shortcuts, is that layer.

    Attributes
    ----------
    root:
        the outermost.
    groups:
        all of them, by where they stood.
    around:
        the groups around every step.
    """

    def __init__(self, row: Row) -> None:
        self.root = Group(0)
        self.groups: dict[Place, Group] = {(): self.root}
        for step in row[1:]:
            self._group(step.place).items.append(step)
        for step in row[1:]:
            for join in step.ends:
                self.groups[join.owner].joins.append(join)
        _settle(self.root)
        self.around: dict[Step, Around] = dict(_around(self.root, []))

    def _group(self, place: Place) -> Group:
        if place not in self.groups:
            self.groups[place] = Group(place[-1])
            self._group(place[:-1]).items.append(self.groups[place])
        return self.groups[place]


def _settle(group: Group) -> None:
    """Take away chains of a single layer; give names, and the shortcuts their old order."""
    for i, item in enumerate(group.items):
        if isinstance(item, Group):
            _settle(item)
            if len(item.items) == 1 and not item.joins:
                group.items[i] = item.items[0]
                group.items[i].key = item.key
    group.joins = _in_order(group.joins)
    taken: set[str] = set()
    for item in group.items:
        free = isinstance(item.key, str) and item.key not in taken and not _reserved(item.key)
        group.names.append(str(item.key) if free else None)
        taken.add(str(item.key))


def _in_order(joins: list[Join]) -> list[Join]:
    """Shortcuts in the order of their wiring; those that end at one step, in the order in which they merge there."""
    ends: dict[Step, Iterator[Join]] = {}
    for join in joins:
        ends.setdefault(join.end, (j for j in join.end.ends if j.owner == join.owner))
    return [next(ends[join.end]) for join in sorted(joins, key=lambda join: join.order)]


def _reserved(name: str) -> bool:
    """Whether a chain has no place for a layer of this name (one of an ``nn.Sequential`` may have any)."""
    return name in ("input", "output", "shortcuts") or name.startswith("_") or hasattr(Chain, name)


def _around(group: Group, outer: Around) -> Iterator[tuple[Step, Around]]:
    for i, item in enumerate(group.items):
        here = [*outer, (group, i)]
        if isinstance(item, Step):
            yield item, here
        else:
            yield from _around(item, here)


class Rebuilder:
    """Makes modules of rows. What is shared in the old net is shared in the new one, and nothing between them.

    Parameters
    ----------
    dtype, device:
        precision and device of the layers that were computed.
    cast:
        whether everything else is brought to that precision too.
    """

    def __init__(self, dtype: torch.dtype, device: torch.device, cast: bool = False) -> None:
        self.dtype, self.device, self.cast = dtype, device, cast
        self._memo: dict[int, Any] = {}

    def chain(self, row: Row, of: type[C], form: Form) -> C:
        """A whole row as a chain that takes values of this form."""
        if self.cast and form.dtype is not None and form.dtype.is_floating_point:
            form = replace(form, dtype=self.dtype)
        tree = Tree(row)
        made = self._chain(tree.root, tree, of, form.value)
        made.plan.check()
        return made.eval()

    def _chain(self, group: Group, tree: Tree, of: type[C], value: Value) -> C:
        wiring: list[Shortcut] = []
        kept: dict[str, Connection] = {}
        for join in group.joins:
            shortcut, connection = self._shortcut(join, group, tree)
            if shortcut.label in kept:  # two values that were apart are one now
                shortcut = replace(shortcut, name=f"shortcut{len(kept) + 1}")
            wiring.append(shortcut)
            kept[shortcut.label] = connection
        original = group.joins[0].chain if group.joins else None
        around = [(s.start, s.end) for s in wiring] == [("input", "output")]
        if of is Chain and type(original) is Skip and around:
            of = Skip  # type: ignore[assignment]
        made: C = of.__new__(of)
        Spine.__init__(made, (), {})
        made.training = False
        for name, item in zip(group.names, group.items, strict=True):
            inside = self._layer(item) if isinstance(item, Step) else self._chain(item, tree, Chain, UNKNOWN)
            made._place(name, inside)
        made._begin(wiring, value, kept).take_result()
        if original is not None and len(original) == len(made) and original.wiring == tuple(wiring):
            made._pattern = original._pattern
        return made

    # -- layers --------------------------------------------------------------------------------------------------------

    def module(self, row: Row) -> nn.Module | None:
        """A row as a layer, a path or a branch; ``None`` for one that has no steps."""
        if len(row) == 1:
            return None
        if len(row) == 2 and not row[1].ends:
            return self._layer(row[1])
        tree = Tree(row)
        return self._chain(tree.root, tree, Chain, UNKNOWN)

    def _layer(self, step: Step) -> nn.Module:
        if step.rows is not None:
            return self._parallel(step, [self.module(row) for row in step.rows])
        if step.changed:
            assert step.linear is not None
            return write(step.linear, self._copy(step.act), (self.dtype, self.device))
        if step.layer is None:
            return nn.Identity()
        if step.fresh:
            return copy.deepcopy(step.layer).to(self.device, self.dtype)
        made: nn.Module = self._copy(step.layer)
        return made

    def _parallel(self, step: Step, branches: list[nn.Module | None]) -> Parallel:
        layer: Any = step.layer
        merge = "add" if step.summed else layer._recipe
        made = Parallel(*[identity if branch is None else branch for branch in branches], merge=merge)
        if layer.merge is not None and not step.summed:
            made.merge = self._copy(layer.merge)
        made.source = layer.source
        return made

    def _copy(self, part: Any) -> Any:
        twin = copy.deepcopy(part, self._memo)
        return twin.to(self.dtype) if self.cast and isinstance(twin, nn.Module) else twin

    # -- shortcuts -----------------------------------------------------------------------------------------------------

    def _shortcut(self, join: Join, group: Group, tree: Tree) -> tuple[Shortcut, Connection]:
        old, was = join.shortcut, join.connection
        parts = {part: self._copy(getattr(was, part)) for part in PARTS}
        said: dict[str, Any] = {}
        for part in ("scale", "path_scale"):
            held = getattr(join, part)
            if join.rewritten or held is not getattr(was, part):
                parts[part] = self._scale(held)
                said[part] = _scale_said(old, part, parts[part])
        if join.rewritten or join.drop is not was.drop:
            parts["drop"], said["drop"] = None, 0.0
        if join.rewritten:
            parts["merge"], parts["act"] = join.merge.make(UNKNOWN, UNKNOWN), self._copy(join.act)
            said |= {"merge": "add", "act": parts["act"]}
        if was.path is not None and _touched(join.row, was.path):
            parts["path"] = self.module(join.row)
            said["path"] = _path_said(old, join.row, parts["path"])
        tap = join.tap if join.start.ends else old.tap  # without merges they are the same value
        start = _end(join.start, group, tree, old.start, tap if join.start.ends else "state")
        end = _end(join.end, group, tree, old.end)
        shortcut = replace(old, start=start, end=end, tap=tap, **said)
        connection = Connection.__new__(Connection)
        nn.Module.__init__(connection)
        for part, value in parts.items():
            setattr(connection, part, value)
        connection.__dict__.update({k: v for k, v in was.__dict__.items() if k not in connection.__dict__})
        return shortcut, connection

    def _scale(self, gain: Affine | None) -> Any:
        if gain is None:
            return None
        if gain.axis is None:
            return float(gain.scale)
        shape = (-1, *[1] * (-1 - gain.axis))
        return nn.Parameter(gain.scale.view(shape).to(self.device, self.dtype, copy=True))


def _touched(row: Row, path: Any) -> bool:
    """Whether a path is another one than it was."""
    return len(row) != 2 or row[1].layer is not path or row[1].changed


def _scale_said(old: Shortcut, part: str, made: Any) -> Any:
    """What a shortcut says of its new scale: a number, or that it is learned."""
    if not isinstance(made, nn.Parameter):
        return made
    recipe = getattr(old, part)
    return recipe if isinstance(recipe, Learned) else Learned(1.0, per="channel")


def _path_said(old: Shortcut, row: Row, made: nn.Module | None) -> Any:
    """What a shortcut says of its new path: the recipe it had, without the norm, or the path itself."""
    recipe = as_path(old.path)
    if made is None:
        return "identity"
    last = row[-1].linear
    if isinstance(recipe, Project) and isinstance(last, Kernel) and row[-1].act is None:
        return replace(recipe, norm=None, bias=last.bias is not None)
    return made


def _end(step: Step, group: Group, tree: Tree, old: End, tap: str = "state") -> End:
    """What a shortcut of a group calls a step: by the outermost chain whose last value it is, as it was said before."""
    inside = tree.around.get(step, [])
    depth = _depth(step, group, inside)
    if depth is None:  # made before the first layer of the group
        return 0 if isinstance(old, int) else "input"
    if tap == "branch":  # before all merges, of which the first is the innermost
        owner = tree.groups[step.ends[0].owner]
        depth = max(depth, _depth(step, owner, inside) or 0)
    first = next(i for i, (g, _) in enumerate(inside) if g is group)
    if first == depth:
        if isinstance(old, int):
            return inside[first][1] + 1
        if old == "output" and inside[first][1] == len(group.items) - 1:
            return "output"
    return ".".join(g.called(i) for g, i in inside[first : depth + 1])


def _depth(step: Step, group: Group, inside: Around) -> int | None:
    """How deep one has to go from a group to find a chain or layer that ends with this step."""
    depths = [i for i, (g, _) in enumerate(inside) if g is group]
    if not depths:
        return None
    for depth in range(depths[0], len(inside)):
        at, i = inside[depth]
        item = at.items[i]
        if item is step or (isinstance(item, Group) and item.last is step):
            return depth
    return None
