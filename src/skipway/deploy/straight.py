"""A chain as a list of operations, nested chains spread out: what an engine of straight-line code is written from.

The steps are those of :mod:`~skipway.deploy.row`; here every one becomes one or more :class:`Op`, and neighbours that a
kernel computes at once become one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from skipway.chain import Chain
from skipway.merges import Add
from skipway.merges.cat import CatFirst, CatLast
from skipway.value import Form

from .kernels import Affine
from .layers import (
    _CONV,
    _LINEAR,
    _NORM,
    _NOTHING,
    Clamp,
    PerChannel,
    _pads,
    as_act,
    hooked,
    is_relu,
    kind,
    own_act,
    parametrized,
    read,
)
from .report import Notes
from .row import Join, Row, row_of

#: operations whose result is memory of its own, which no other value looks into
FRESH = ("conv", "dense", "add", "cat", "affine", "clamp", "times", "act", "max")


@dataclass(eq=False)
class Op:
    """One operation.

    Attributes
    ----------
    what:
        ``"input"``, ``"conv"``, ``"dense"``, ``"act"``, ``"add"``, ``"cat"``, ``"times"``, ``"clamp"``, ``"affine"``,
        ``"max"`` (of a dense layer and what it reads), or ``"call"`` for any other.
    args:
        what it reads.
    layer:
        the module or function it was; of ``"times"`` the factor.
    act:
        the activation that follows in the same operation.
    plus:
        what is added before that activation, in the same operation.
    axis:
        of ``"cat"``.
    affine:
        the numbers of ``"affine"``.
    """

    what: str
    args: list[Op] = field(default_factory=list)
    layer: Any = None
    act: Any = None
    plus: Op | None = None
    axis: int = 0
    affine: Affine | None = None

    @property
    def reads(self) -> list[Op]:
        return [*self.args, *([] if self.plus is None else [self.plus])]


def operations(chain: Chain, form: Form | None = None) -> list[Op]:
    """The operations of a chain in eval mode, in order; the first is the input, the last makes the output.

    >>> from skipway import Conv, Skip, relu
    >>> net = Chain(Skip(Conv(4, 4, 3, relu, padding=1), Conv(4, 4, 3, padding=1), act=relu)).eval()
    >>> [(op.what, op.act is not None, op.plus is not None) for op in operations(net)]
    [('input', False, False), ('conv', True, False), ('conv', True, True)]
    """
    form = chain._form if form is None else form
    ops = [Op("input")]
    last = _row(row_of(chain, form.value, Notes()), ops[0], ops)
    return _needed(fused(_needed(ops, last)), last)


def _needed(ops: list[Op], last: Op) -> list[Op]:
    """Those that the last one needs."""
    wanted, todo = set(), [last]
    while todo:
        op = todo.pop()
        if op not in wanted:
            wanted.add(op)
            todo += op.reads
    return [op for op in ops if op in wanted or op.what == "input"]


# -- from steps to operations ------------------------------------------------------------------------------------------


def _row(row: Row, x: Op, ops: list[Op]) -> Op:
    """Add the operations of a row over ``x``; returns the one that makes its last value."""
    states, branches = {row[0]: x}, {row[0]: x}
    for step in row[1:]:
        if step.rows is not None and type(getattr(step.layer, "_recipe", None)) is Add:
            values = [_row(branch, x, ops) for branch in step.rows]
            x = values[0]
            for value in values[1:]:
                x = _put(ops, Op("add", [x, value]))
        elif step.layer is not None:
            x = _layer(step.layer, step.rank, x, ops)
        branches[step] = x
        done: set[Join] = set()
        for join in step.ends:
            if join not in done:
                done.update(join.group)
                taps = [(one, (branches if _takes_branch(one) else states)[one.start]) for one in join.group]
                brought = [_times(_row(one.row, value, ops), one.path_scale, ops) for one, value in taps]
                x = _merged(join, x, brought, ops)
        states[step] = x
    return x


def _takes_branch(join: Join) -> bool:
    """Whether a shortcut starts before the merges of a value: the input of its own chain has none there."""
    return join.tap == "branch" and join.sees(join.start.place)


def _put(ops: list[Op], op: Op) -> Op:
    ops.append(op)
    return op


def _layer(layer: Any, rank: int | None, x: Op, ops: list[Op]) -> Op:
    of = kind(layer)
    act = as_act(layer)
    if act is not None:
        return _put(ops, Op("act", [x], act))
    if hooked(layer) or parametrized(layer):
        return _put(ops, Op("call", [x], layer))
    if of in _NOTHING:
        return x
    if of in _LINEAR or (of in _CONV and layer.padding_mode == "zeros" and _pads(layer) is not None):
        x = _put(ops, Op("dense" if of in _LINEAR else "conv", [x], layer))
        after = own_act(layer)
        return x if after is None else _put(ops, Op("act", [x], as_act(after) or after))
    if of is Clamp:
        return _put(ops, Op("clamp", [x], layer))
    if (of in _NORM and not layer.training) or of is PerChannel:
        affine = read(layer, rank)
        if isinstance(affine, Affine):
            return _put(ops, Op("affine", [x], layer, affine=affine))
    return _put(ops, Op("call", [x], layer))


def _times(x: Op, gain: Any, ops: list[Op]) -> Op:
    if gain is None:
        return x
    return _put(ops, Op("call" if isinstance(gain, nn.Module) else "times", [x], gain))


def _merged(join: Join, branch: Op, brought: list[Op], ops: list[Op]) -> Op:
    branch = _times(branch, join.scale, ops)
    if join.drop is not None:
        branch = _put(ops, Op("call", [branch], join.drop))
    merge = join.connection.merge
    if type(join.merge) is Add and len(brought) == 1:
        x = Op("add", [branch, brought[0]])
    elif type(merge) in (CatLast, CatFirst) and len(brought) == 1:
        values = [branch, brought[0]]
        x = Op("cat", values if type(merge) is CatLast else values[::-1], axis=merge.axis)
    else:
        x = Op("call", [branch, *brought], merge)
    ops.append(x)
    return x if join.act is None else _put(ops, Op("act", [x], as_act(join.act) or join.act))


# -- neighbours that are one operation ---------------------------------------------------------------------------------


def readers(ops: Iterable[Op]) -> dict[Op, list[Op]]:
    """Who reads each operation's result."""
    found: dict[Op, list[Op]] = {}
    for op in ops:
        found.setdefault(op, [])
        for read_ in op.reads:
            found.setdefault(read_, []).append(op)
    return found


def fused(ops: list[Op]) -> list[Op]:
    """The same with activations and sums inside the convolution or dense layer before them. Changes the operations."""
    for op in list(ops):
        users = readers(ops)
        if op.what == "act":
            before = op.args[0]
            if before.what in ("conv", "dense", "add") and before.act is None and len(users[before]) == 1:
                _become(op, before, ops, act=op.layer)
        elif op.what == "add":
            _sum(op, users, ops)
        elif op.what == "cat":
            _flatten(op)
    return ops


def _become(op: Op, before: Op, ops: list[Op], act: Any = None, plus: Op | None = None) -> None:
    """Let an operation be the one before it, with an activation or a sum more."""
    op.what, op.args, op.layer = before.what, before.args, before.layer
    op.act, op.plus = act, before.plus if plus is None else plus
    ops.remove(before)


def _sum(op: Op, users: dict[Op, list[Op]], ops: list[Op]) -> None:
    for value, other in (op.args, op.args[::-1]):
        if value is other or len(users[value]) > 1 or value.plus is not None:
            continue
        if value.what == "conv" and value.act is None:
            _become(op, value, ops, plus=other)
            return
        if value.what == "dense" and is_relu(value.act) and value.args == [other] and _square(value.layer):
            # x + relu(W x + b) is max(x, (W + 1) x + b): the shortcut joins the weights, one pass is left of two
            _become(op, value, ops)
            op.what = "max"
            return


def _square(layer: Any) -> bool:
    return bool(layer.weight.shape[0] == layer.weight.shape[1])


def _flatten(op: Op) -> None:
    """One concatenation for nested ones; the inner one goes where nobody else reads it."""
    while any(v.what == "cat" and v.axis == op.axis for v in op.args):
        op.args = [w for v in op.args for w in (v.args if v.what == "cat" and v.axis == op.axis else [v])]


# -- concatenations that grow ------------------------------------------------------------------------------------------


def growing(ops: list[Op], axis: int = -3) -> list[tuple[list[Op], bool]]:
    """Concatenations each of which holds all of the one before it at one end, as in a dense block.

    They can share one room, to which every layer adds its channels. With each family goes whether it grows forwards.
    Only those whose readers work channel by channel and write elsewhere, so that it does not matter that they see a
    part of a room.
    """
    users = readers(ops)
    cats = [op for op in ops if op.what == "cat" and op.axis == axis and op is not ops[-1]]
    cats = [cat for cat in cats if all(user.what in ("clamp", "affine", "cat") for user in users[cat])]
    found: list[tuple[list[Op], bool]] = []
    for forwards in (True, False):
        families: list[list[Op]] = []
        for cat in cats:
            family = next((f for f in families if _begins(cat, f[-1], forwards)), None)
            if family is None:
                families.append([cat])
            else:
                family.append(cat)
        taken = {cat for family, _ in found for cat in family}
        found += [(f, forwards) for f in families if len(f) > 2 and not taken & set(f)]
    return found


def _begins(cat: Op, earlier: Op, forwards: bool) -> bool:
    """Whether a concatenation is an earlier one, and more after it (or before it)."""
    n = len(earlier.args)
    return len(cat.args) > n and (cat.args[:n] if forwards else cat.args[-n:]) == earlier.args


def unary(act: Callable[..., Any] | None) -> tuple[str, list[Any], str] | None:
    """An activation in the words of PyTorch's fused operators: name, numbers, algorithm. ``None`` where it has none."""
    if act is None:
        return "none", [], ""
    if is_relu(act):
        return "relu", [], ""
    if isinstance(act, nn.LeakyReLU):
        return "leaky_relu", [act.negative_slope], ""
    if isinstance(act, nn.GELU):
        return "gelu", [], act.approximate
    for name, known in _UNARY.items():
        if any(act is one or (isinstance(one, type) and type(act) is one) for one in known):
            return name, [], "none" if name == "gelu" else ""
    return None


_F = nn.functional
_UNARY: dict[str, tuple[Any, ...]] = {
    "sigmoid": (torch.sigmoid, _F.sigmoid, nn.Sigmoid),
    "tanh": (torch.tanh, _F.tanh, nn.Tanh),
    "gelu": (_F.gelu,),
    "swish": (_F.silu, nn.SiLU),
    "hardswish": (_F.hardswish, nn.Hardswish),
    "hardsigmoid": (_F.hardsigmoid, nn.Hardsigmoid),
}
