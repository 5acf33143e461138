"""Graphs of torch's operators: what each of them is, and what in them need not be computed."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch.fx import Graph, Node

#: what only says that autograd looks elsewhere
_SAME = {"aten.detach.default", "aten.alias.default", "aten.lift_fresh.default"}


def writes(op: Any) -> bool:
    """Whether an operator changes one of its arguments."""
    return any(a.alias_info is not None and a.alias_info.is_write for a in op._schema.arguments)


def into(op: Any) -> Any:
    """The form of an operator that writes its result into given memory, None where there is none.

    Forms that torch generated compute as always and copy: they save nothing.

    >>> into(torch.ops.aten.mm.default), into(torch.ops.aten.convolution.default)
    (<OpOverload(op='aten.mm', overload='out')>, None)
    """
    packet = op.overloadpacket
    wanted = [(a.name, str(a.type)) for a in op._schema.arguments]
    for name in packet.overloads():
        form = getattr(packet, name)
        rooms = [a for a in form._schema.arguments if a.is_out]
        given = [(a.name, str(a.type)) for a in form._schema.arguments if not a.is_out]
        if rooms and len(rooms) == len(op._schema.returns) and given == wanted and torch.Tag.generated not in form.tags:
            return form
    return None


def in_place(op: Any) -> Any:
    """The form of an operator that writes its result over its first argument, None where there is none.

    >>> in_place(torch.ops.aten.relu.default)
    <OpOverload(op='aten.relu_', overload='default')>
    """
    name = op._schema.name.split("::")[1] + "_"
    packet = getattr(torch.ops.aten, name, None) if op.namespace == "aten" else None
    return getattr(packet, op._overloadname, None)


def rooms(form: Any) -> list[str]:
    """The names of the arguments that a form of an operator writes its results into."""
    return [a.name for a in form._schema.arguments if a.is_out]


def quickest(op: Any, rooms: list[str]) -> Any:
    """The function of ``torch`` that is this operator: calling it takes half as long, its arguments being read in C."""
    if list(rooms) not in ([], ["out"]) or op.namespace != "aten":
        return op
    found = getattr(torch._C._VariableFunctions, op._schema.name.split("::")[1], None)
    return op if found is None else found


def simplify(graph: Graph) -> None:
    """Take out of a graph what computes nothing."""
    for node in list(graph.nodes):
        if node.op == "call_function" and str(node.target) in _SAME:
            node.replace_all_uses_with(node.args[0])
        elif str(node.target) == "aten.t.default":
            source = node.args[0]
            if isinstance(source, Node) and str(source.target) == "aten.t.default":
                node.replace_all_uses_with(source.args[0])
    for node in reversed(list(graph.nodes)):
        if node.op == "call_function" and not node.users and not _acts(node.target):
            graph.erase_node(node)


def _acts(op: Any) -> bool:
    """Whether an operator does something besides its result: writes, or draws random numbers."""
    if op is operator.getitem:
        return False
    return writes(op) or torch.Tag.nondeterministic_seeded in op.tags


def pool_before_relu(graph: Graph) -> None:
    """Let relu follow the max pooling after it, which is the same, for a quarter of the values.

    A window's largest value is what relu makes of the largest before it. Backward, the gradient of a window goes to its
    largest value, or nowhere if that is not above zero: so it does too if relu has its say first.
    """
    for relu in [node for node in graph.nodes if str(node.target) == "aten.relu.default"]:
        found = _pooled(relu)
        if found is None:
            continue
        pool, value, back, threshold = found
        before = relu.args[0]
        pool.args = (before, *pool.args[1:])
        with graph.inserting_after(value):
            small = graph.call_function(torch.ops.aten.relu.default, (value,))
        value.replace_all_uses_with(small)
        small.args = (value,)
        with graph.inserting_before(back):
            masked = graph.call_function(torch.ops.aten.threshold_backward.default, (back.args[0], small, 0))
        back.args = (masked, before, *back.args[2:])
        threshold.replace_all_uses_with(back)
        graph.erase_node(threshold)
        graph.erase_node(relu)


def _pooled(relu: Node) -> tuple[Node, Node, Node, Node] | None:
    """The pooling of what a relu makes, its value, its backward and that of the relu; None where others read it too."""
    names = (
        "max_pool2d_with_indices.default",
        "max_pool2d_with_indices_backward.default",
        "threshold_backward.default",
    )
    by_name = {str(user.target): user for user in relu.users}
    if len(relu.users) != 3 or set(by_name) != {f"aten.{name}" for name in names}:
        return None
    pool, back, threshold = (by_name[f"aten.{name}"] for name in names)
    values = [user for user in pool.users if user.target is operator.getitem and user.args[1] == 0]
    lone = threshold.args == (back, relu, 0) and list(back.users) == [threshold] and back.args[1] is relu
    if len(values) != 1 or pool.args[0] is not relu or not lone:
        return None
    return pool, values[0], back, threshold
