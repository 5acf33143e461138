"""A chain as one row of steps, nested chains spread out: what the rules work on.

Names say where a step belongs, so that :mod:`~skipway.deploy.rebuild` can put chains into chains again.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from skipway.connection import Connection
from skipway.edit import nested
from skipway.merges import as_merge
from skipway.parallel import Parallel
from skipway.plan import Plan, kept_layout
from skipway.planned import Planned
from skipway.probe import layout_of, run
from skipway.shortcut import Shortcut, Tap
from skipway.value import Form, Value

from .kernels import Linear
from .layers import hooked, says_itself
from .report import Notes

#: the key of a layer in its chain: its name, or its position where it has none
Key = str | int
Place = tuple[Key, ...]


@dataclass(eq=False)
class Step:
    """A value of the row: what a layer makes, and then the shortcuts that end there.

    Attributes
    ----------
    layer:
        the module as it was; ``None`` for the input, for the value after a nested chain, and for what was computed.
    place, key:
        the chain it stands in, and its key there.
    name:
        what the report calls it.
    before, form:
        the forms of what the layer takes, and of what it makes.
    linear, act:
        the layer as numbers, where it is linear, and the activation after it.
    changed:
        whether ``linear`` and ``act`` are no longer those of ``layer``.
    fresh:
        whether ``layer`` is not one of the net's, but was made here, in float64.
    rows, summed:
        the branches of a :class:`~skipway.Parallel`, and whether they are added up now, whatever its merge was.
    ends, leaves:
        the shortcuts that end here, in the order in which they merge, and those that start here.
    why:
        reasons why a fold was not made, by what it would have been.
    """

    name: str
    layer: nn.Module | None = None
    place: Place = ()
    key: Key = 0
    before: Form = field(default_factory=Form)
    form: Form = field(default_factory=Form)
    linear: Linear | None = None
    act: Any = None
    changed: bool = False
    fresh: bool = False
    rows: list[list[Step]] | None = None
    summed: bool = False
    ends: list[Join] = field(default_factory=list)
    leaves: dict[Join, None] = field(default_factory=dict)
    why: dict[str, str] = field(default_factory=dict)

    @property
    def rank(self) -> int | None:
        """Dimensions of what the layer takes, without the batch axis."""
        return None if self.before.shape is None else len(self.before.shape)

    @property
    def only_next(self) -> bool:
        """Whether its value goes to the next step, as it is, and nowhere else."""
        return not self.ends and not self.leaves

    def read_as(self, tap: str) -> list[Join]:
        """The shortcuts that start from its state, or from its branch."""
        return [j for j in self.leaves if j.tap == tap]


@dataclass(eq=False)
class Join:
    """A shortcut of the row.

    Attributes
    ----------
    connection:
        what it works with; its parts below replace that connection's own.
    chain, owner, order:
        the chain whose wiring it belongs to, where that stands, and its place in the wiring.
    row:
        its path as a row of steps, the first of which is where it starts.
    scale, path_scale, drop, merge, act:
        as in the connection; the merge as a recipe.
    group:
        the shortcuts that merge at once with it, itself included.
    rewritten:
        whether it no longer says what its shortcut says of all of these.
    """

    shortcut: Shortcut
    connection: Connection
    name: str
    chain: Any
    owner: Place
    order: int
    start: Step
    end: Step
    tap: Tap
    row: list[Step]
    scale: Any
    path_scale: Any
    drop: Any
    merge: Any
    act: Any
    group: list[Join] = field(default_factory=list)
    rewritten: bool = False
    why: dict[str, str] = field(default_factory=dict)

    def sees(self, place: Place) -> bool:
        """Whether what stands at a place is inside its chain, and has a name there: else it is only its ``input``."""
        return place[: len(self.owner)] == self.owner

    def remove(self) -> None:
        """Take it away."""
        self.end.ends.remove(self)
        self.start.leaves.pop(self)

    def start_from(self, step: Step, tap: Tap) -> None:
        """Let it start from another step."""
        self.start.leaves.pop(self)
        self.start, self.tap = step, tap
        step.leaves[self] = None

    def end_at(self, step: Step) -> None:
        """Let it end at another step, after what ends there already."""
        self.end.ends.remove(self)
        self.end = step
        step.ends.append(self)


Row = list[Step]


def describe(step: Step) -> str:
    """A step as the report names it: ``'stage1.0.1' (BatchNorm)``."""
    return f"{step.name!r}" if step.layer is None else f"{step.name!r} ({type(step.layer).__name__})"


def row_of(layer: Any, value: Value, notes: Notes, name: str = "") -> Row:
    """The steps of a layer, or of all layers of a chain or ``nn.Sequential``; the first is the input.

    Parameters
    ----------
    layer:
        a module, or a function that is a path.
    value:
        what it takes.
    notes:
        where it is written down that a layer says itself what it is in eval mode.
    name:
        what the report calls it.
    """
    row = [Step("input", form=value.form)]
    _spread(row, layer, value, (), None, name, notes)
    return row


def _spread(row: Row, layer: Any, value: Value, place: Place, key: Key | None, name: str, notes: Notes) -> None:
    """Add the steps of a layer that stands at ``key`` of the chain ``place``; no key for what is the whole row."""
    inside = place if key is None else (*place, key)
    if says_itself(layer):
        notes.fold("what a layer says it is in eval mode", name, type(layer).__name__)
        _spread(row, copy.deepcopy(layer).double().folded().eval(), value, place, key, name, notes)
        row[-1].fresh = True
        return
    if is_chain(layer) and (not name or not hooked(layer)):  # the net itself is spread all the same
        _spread_chain(row, layer, value, inside, name, notes)
    elif type(layer) is nn.Sequential and not hooked(layer) and len(layer):
        for child_key, child in layer.named_children():
            trials = run(child, value)
            _spread(row, child, value, inside, as_key(child_key), _dotted(name, child_key), notes)
            value = Value(trials, layout_of(child) or kept_layout(value, trials))
            row[-1].form = value.form
    else:
        step = Step(name, layer, place, 0 if key is None else key, value.form)
        if type(layer) is Parallel and not hooked(layer):
            step.rows = [row_of(branch, value, notes, _dotted(name, str(i))) for i, branch in enumerate(layer.branches)]
        row.append(step)


def _spread_chain(row: Row, chain: Any, value: Value, place: Place, name: str, notes: Notes) -> None:
    plan = Plan(chain, value, opened=_to_open(chain))
    plan.check()
    made = [row[-1]]  # the step that makes each value of the plan
    for before, node in zip(plan.nodes, plan.nodes[1:], strict=False):
        at = (*place, *map(as_key, node.where.split("."))) if node.where else place
        if node.layer is None:
            row.append(Step(_dotted(name, node.name), None, at, as_key(node.key), before.form))
        else:
            _spread(row, node.layer, before.form.value, at, as_key(node.key), _dotted(name, node.name), notes)
        row[-1].form = node.arrival
        made.append(row[-1])
    orders = {
        id(s): i for part in {id(e.owner): e.owner for e in plan.edges}.values() for i, s in enumerate(part.wiring)
    }
    for meeting in (meeting for node in plan.nodes for meeting in node.meetings):
        group: list[Join] = []
        for edge in meeting:
            form = plan.nodes[edge.start].arrival if edge.tap == "branch" else plan.nodes[edge.start].form
            at = (*place, *map(as_key, edge.where.split("."))) if edge.where else place
            label = _dotted(name, f"{edge.where}.{edge.shortcut.label}" if edge.where else edge.shortcut.label)
            c = edge.connection
            path = [Step("input", form=form)] if c.path is None else row_of(c.path, form.value, notes, label)
            join = Join(
                edge.shortcut, c, label, edge.owner, at, orders[id(edge.shortcut)], made[edge.start], made[edge.end],
                edge.tap, path, c.scale, c.path_scale, c.drop, as_merge(edge.shortcut.merge), c.act, group,
            )  # fmt: skip
            group.append(join)
            join.end.ends.append(join)
            join.start.leaves[join] = None


def is_chain(layer: Any) -> bool:
    """Whether a layer is a chain that runs as it is planned."""
    return isinstance(layer, Planned) and type(layer).forward is Planned.forward


def _to_open(chain: Any) -> list[str]:
    """The chains inside a chain that are spread out: those with hooks stay as they are, with all that is in them."""
    closed: list[str] = []
    found = []
    for name in nested(chain):
        layer = chain
        for part in name.split("."):
            layer = layer._modules[part]
        if any(name.startswith(f"{other}.") for other in closed):
            continue
        if is_chain(layer) and not hooked(layer):
            found.append(name)
        else:
            closed.append(name)
    return found


def as_key(key: str) -> Key:
    """A layer's key, as a number where it goes by its position."""
    return int(key) if key.isdigit() else key


def _dotted(name: str, key: str) -> str:
    return f"{name}.{key}" if name else key
