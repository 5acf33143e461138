"""The meeting of shortcuts and a branch: where connections are made, checked and dry run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

from .connection import Connection
from .errors import ChainError, Misfit, OpenChainError
from .graph import Edge, Node
from .layer import parameters_made
from .merges import Merge, as_merge
from .paths import Identity, Pad, Path, Project, along, as_path, close, takes
from .probe import ProbeError, blamed, layout_of, run, watch_training
from .shortcut import value_code
from .value import UNKNOWN, Value
from .words import describe_layer

if TYPE_CHECKING:
    from .plan import Plan


class Meeting:
    """The shortcuts that merge at once into one value: one of them, or several with a joint merge.

    What goes wrong is told to the plan: its ``problems``, and ``open`` for what is not known yet.
    """

    def __init__(self, plan: Plan, edges: list[Edge], node: Node) -> None:
        self.plan, self.edges, self.node = plan, edges, node
        self.head = edges[0]
        self.recipe = as_merge(self.head.shortcut.merge)
        self.values = [plan.tapped(edge) for edge in edges]
        #: the connections at work, the first with the merge; which is ``at`` when something fails
        self.connections: list[Connection] = []
        self.at = self.head

    def merge(self, branch: Value) -> Value:
        """The value after the merge. Connections that do not exist yet are made."""
        plan, keeps = self.plan, isinstance(self.recipe, Merge) and not self.recipe.widens
        known = [edge.connection for edge in self.edges]
        old = all(known) and not (plan.remake and not self._still_fit(known, branch))
        self.connections = known if old else [Connection(edge.shortcut) for edge in self.edges]
        guarded = [v for v in (*self.values, branch) if v]
        versions = [t._version for v in guarded for t in v.trials]
        try:
            result = self._known(branch) if old else self._made(branch, known)
        except Misfit as misfit:
            fix, path = misfit.fix, as_path(self.at.shortcut.path)
            if not isinstance(path, Path):
                fix = f"let the path {describe_layer(path)} bring what the merge takes"
            elif not isinstance(path, (Identity, Project, Pad)):
                steps = value_code(path).strip("[]").replace("'", '"')
                fix = fix.replace('add path="project"', f'write path=[{steps}, "project"]')
            plan.problems.append(f"{_named(self.at)}: {misfit.why}{self._ends(branch)}\n    fix: {fix}")
            return branch
        except OpenChainError as error:
            plan.open.append(f"{_named(self.at)}: {error}")
            return branch if keeps else UNKNOWN
        except ProbeError as error:
            plan.complete = False
            if plan.strict and len(branch.trials) == 1:
                plan.blame(error.cause)
                where = f" in its {error.part}" if error.part else ""
                plan.problems.append(f"{_named(self.at)} fails{where}: {error}{self._ends(branch)}")
            return branch if keeps else UNKNOWN
        except ChainError as error:
            plan.problems.append(f"{_named(self.at)}: {error}{self._ends(branch)}")
            return branch
        if versions != [t._version for v in guarded for t in v.trials]:
            plan.problems.append(
                f"{_named(self.head)} changes one of the values it merges in place: write its scale, path, merge "
                f"and act without in-place operations (no inplace=True, add_ or +=)"
            )
        if not old and not plan.close:
            plan.open.append(f"{_named(self.head)}: its parameters are not made yet")
        elif not old:
            for edge, made in zip(self.edges, self.connections, strict=True):
                edge.owner._register_connection(edge.shortcut, made)
        return result

    def _made(self, branch: Value, known: list[Any]) -> Value:
        """Make the connections: first what they bring, then, from the shapes that meet, how it is merged.

        Only what does not fit is made anew: with another layer, or where one of several that merged at once is gone or
        has moved, the rest keeps what it had learned.
        """
        before = next((c.joint for c in known if c is not None), ())
        brought = []
        for edge, made, old, value in zip(self.edges, self.connections, known, self.values, strict=True):
            self.at = edge
            stays = old in before
            if stays and self._fits(old, value, branch):
                made.take(old, "path")
            else:
                made.make_path(edge.shortcut, value, branch)
                follow(made, self.node.owner)
            brought.append(self._brought(made, value, branch))
            if stays and self._gains_fit(old, UNKNOWN, brought[-1]):
                made.take(old, "path_scale")
            else:
                made.make_path_scale(edge.shortcut, brought[-1])
        self.at = self.head
        self._make_head(branch, brought, before, known)
        for made, value in zip(self.connections, self.values, strict=True):
            for part, taken in ((made.path, value), (made.path_scale, value), (made.scale, branch)):
                if taken and self.plan.close:
                    watch_training(part, taken)  # what works in place only in training shows now
            follow(made, self.node.owner)
            made.settled(tuple(self.connections))
        return self._met(branch, brought)

    def _make_head(self, branch: Value, brought: list[Value], before: tuple[Connection, ...], known: list[Any]) -> None:
        """The gains of the branch and the merge, which the first connection holds."""
        head = self.connections[0]
        if before and self._gains_fit(before[0], branch, UNKNOWN):
            head.take(before[0], "scale", "drop")
        else:
            head.make_gains(self.head.shortcut, branch)
        select = getattr(before[0].merge, "select", None) if before else None
        if not self._joint and before and self._merges(before[0], branch, brought):
            head.take(before[0], "merge")
        elif select is None:
            head.make_merge(self.head.shortcut, branch, brought)
        else:
            head.merge = select([0, *(before.index(old) + 1 if old in before else None for old in known)])

    def _merges(self, connection: Connection, branch: Value, brought: list[Value]) -> bool:
        """Whether the merge of a connection works on these values."""
        try:
            return bool(run(connection.merge, branch, *brought))
        except ProbeError:
            return False

    @property
    def _joint(self) -> bool:
        return isinstance(self.recipe, Merge) and self.recipe.joint

    def _fits(self, connection: Connection, value: Value, branch: Value) -> bool:
        """Whether what a connection brings can meet the branch."""
        try:
            self._brought(connection, value, branch)
        except (Misfit, ProbeError):
            return False
        return True

    def _gains_fit(self, connection: Connection, branch: Value, brought: Value) -> bool:
        """Whether the gains of a connection are right for these values; an unknown one is not asked."""
        try:
            connection.check_gains(branch, brought)
        except (Misfit, ProbeError):
            return False
        return True

    def _known(self, branch: Value) -> Value:
        brought = []
        for edge, known, value in zip(self.edges, self.connections, self.values, strict=True):
            self.at = edge
            brought.append(self._brought(known, value, branch))
        return self._met(branch, brought)

    def _brought(self, connection: Connection, value: Value, branch: Value) -> Value:
        brought = along(connection.path, value)
        if isinstance(self.recipe, Merge):
            self.recipe.check(branch, brought)
        return brought

    def _met(self, branch: Value, brought: list[Value]) -> Value:
        for edge, connection, value in zip(self.edges, self.connections, brought, strict=True):
            self.at = edge
            connection.check_gains(branch, value)
        self.at = self.head
        head = self.connections[0]
        with blamed("merge"):
            merged = Value(run(head.merge, branch, *brought), branch.layout or brought[0].layout)
        if head.act is not None and merged:
            if self.plan.close:
                close(head.act, merged, "its act")
                follow(head, self.node.owner)
            takes(head.act, merged, "its act")
            with blamed("act"):
                merged = Value(run(head.act, merged), layout_of(head.act) or merged.layout)
        return merged

    def _still_fit(self, known: list[Any], branch: Value) -> bool:
        """Whether connections made for other layers work between these values."""
        if self._joint and tuple(known) != known[0].joint:
            return False  # others were there, or in another order
        self.connections = known
        try:
            self._known(branch)
        except (Misfit, ProbeError):
            return False
        return True

    def _ends(self, branch: Value) -> str:
        start, value = self.plan.nodes[self.at.start], self.plan.tapped(self.at)
        return (
            f"\n    from {start.name!r} {value.form}{self.plan.place(start.source)}"
            f" to {self.node.name!r} {branch.form}{self.plan.place(self.node.source)}"
        )


def _named(edge: Edge) -> str:
    return f"shortcut {edge.shortcut.label!r} ({edge.shortcut.source})"


def follow(module: nn.Module, chain: nn.Module) -> None:
    """Put a new module where the rest of the chain is: on its device, in its precision and mode."""
    module.train(chain.training)
    if not module._modules and not module._parameters and not module._buffers:
        return
    held = [*parameters_made(module), *(b for m in module.modules() for b in m._buffers.values() if b is not None)]
    mine = {id(t) for t in held}
    like = next((p for p in parameters_made(chain) if p.is_floating_point() and id(p) not in mine), None)
    if like is None:
        return
    if any(t.device != like.device or (t.is_floating_point() and t.dtype != like.dtype) for t in held):
        module.to(like.device, like.dtype)
