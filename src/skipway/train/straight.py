"""A graph of torch's operators as straight-line Python, on memory that it keeps from call to call.

What autograd does for a training step is the same every time: :mod:`skipway.train.recorded` records it once, as a graph
of operators on tensors. Written as Python, without autograd, it still asks for memory at every operator. Here every
operator that can write into given memory gets some: values whose lives do not overlap share it, and operators that work
element by element write over what they read where nobody else will. Views of what stays where it is are made once.
"""

from __future__ import annotations

import math
import operator
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.fx import Graph, Node
from torch.utils._pytree import tree_leaves

from skipway.train.graphs import in_place, into, pool_before_relu, quickest, rooms, simplify, writes

#: values that depend on the shape of what they are made from, not on what it holds
_FILLED = {"aten.ones_like.default", "aten.zeros_like.default", "aten.full_like.default", "aten.ones.default",
           "aten.zeros.default", "aten.full.default", "aten.scalar_tensor.default", "aten.arange.default",
           "aten.arange.start", "aten.arange.start_step"}  # fmt: skip


class Look(NamedTuple):
    """How a tensor lies in memory."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device

    @classmethod
    def of(cls, t: Tensor) -> Look:
        return cls(tuple(t.shape), t.stride(), t.dtype, t.device)

    def room(self) -> Tensor:
        """Memory for such a tensor."""
        return torch.empty_strided(self.shape, self.stride, dtype=self.dtype, device=self.device)


class Lives:
    """Which memory every value of a graph lies in, and when it is used for the last time.

    Found by running the graph once with all values kept: two values share memory when they do so there.
    """

    def __init__(self, graph: Graph, given: dict[Node, Tensor], owner: object) -> None:
        self.values: dict[Node, Any] = {}
        self.last: dict[int, int] = {}
        self.written: set[int] = set()
        self.order = {node: i for i, node in enumerate(graph.nodes)}
        for node in graph.nodes:
            if node.op == "placeholder":
                self.values[node] = given[node]
            elif node.op == "get_attr":
                self.values[node] = getattr(owner, str(node.target))
            elif node.op == "call_function":
                args, kwargs = torch.fx.node.map_arg((node.args, node.kwargs), lambda n: self.values[n])
                self.values[node] = node.target(*args, **kwargs)
                if node.target is not operator.getitem and writes(node.target):
                    self.written |= {self.memory(node.args[i]) for i in _written(node)}
            # picking one of several results uses the others no longer
            for used in [node] if node.target is operator.getitem else [*node.all_input_nodes, node]:
                for memory in self.memories(used):
                    self.last[memory] = self.order[node]
        self.ending: dict[int, list[int]] = defaultdict(list)
        for memory, at in self.last.items():
            self.ending[at].append(memory)

    def memories(self, node: Node) -> Iterator[int]:
        for value in tree_leaves(self.values.get(node)):
            if isinstance(value, Tensor):
                yield value.untyped_storage()._cdata

    def memory(self, node: Any) -> int:
        """The memory of the one tensor that a node gives."""
        return next(self.memories(node))


def _written(node: Node) -> list[int]:
    arguments = node.target._schema.arguments  # type: ignore[union-attr]
    return [
        i
        for i, a in enumerate(arguments)
        if a.alias_info is not None and a.alias_info.is_write and i < len(node.args) and isinstance(node.args[i], Node)
    ]


class Unfit(Exception):
    """A graph that is not written as straight-line code; says why."""


class Straight:
    """A graph as a function, ``call(x, y)`` giving ``(output, loss, gradients)``.

    The output and the gradients are overwritten by the next call, the loss is not.

    Parameters
    ----------
    graph:
        operators only, its last node giving ``(output, loss, *gradients)``, a gradient being None where there is none.
    held:
        the tensors of all placeholders but the last two: parameters and buffers, which stay where they are.
    batch:
        ``x`` and ``y``, the last two placeholders; every call must get tensors of the same shape and layout.
    like:
        what every gradient must lie in memory as: its parameter.
    owner:
        the module that holds the tensors which the graph names itself.

    Raises :class:`Unfit` for operators that write elsewhere than into their first argument.

    >>> from torch.fx.experimental.proxy_tensor import make_fx
    >>> def step(w, x, y):
    ...     loss = (x @ w - y).square().sum()
    ...     return x @ w, loss, *torch.autograd.grad(loss, [w])
    >>> w, x, y = torch.ones(2, 1, requires_grad=True), torch.ones(3, 2), torch.zeros(3, 1)
    >>> straight = Straight(make_fx(step)(w, x, y).graph, [w.detach()], (x, y), [w])
    >>> output, loss, (gradient,) = straight.call(x, y)
    >>> loss, gradient.flatten()
    (tensor(12.), tensor([12., 12.]))
    >>> straight.code.splitlines()[1].strip()
    'mm(x, w0, out=m1)'
    """

    def __init__(
        self,
        graph: Graph,
        held: Sequence[Tensor],
        batch: tuple[Tensor, Tensor],
        like: Sequence[Tensor],
        owner: object = None,
    ) -> None:
        simplify(graph)
        pool_before_relu(graph)
        graph.lint()
        places = [node for node in graph.nodes if node.op == "placeholder"]
        given = dict(zip(places, [*(t.clone() for t in held), *batch], strict=True))
        self._lives = Lives(graph, given, owner)
        self._names: dict[Any, str] = {}
        self._fixed: dict[str, Any] = {}
        self._functions: dict[str, Any] = {}
        self._lines: list[str] = []
        self._free: dict[Look, list[str]] = defaultdict(list)
        self._lent: dict[int, tuple[Look, str]] = {}
        self._locals: dict[int, list[str]] = defaultdict(list)
        self.bytes = 0
        for i, (node, tensor) in enumerate(zip(places[:-2], held, strict=True)):
            self._fix(node, f"w{i}", tensor)
        for node, name in zip(places[-2:], ("x", "y"), strict=True):
            self._names[node] = name
        end = next(node for node in graph.nodes if node.op == "output")
        output, loss, *gradients = end.args[0]
        self._kept = {memory for node in (output, loss, *gradients) if node for memory in self._lives.memories(node)}
        self._loss = self._lives.memory(loss)
        self._given = {
            memory
            for node in graph.nodes
            if node.op != "call_function" or str(node.target) in _FILLED
            for memory in self._lives.memories(node)
        }
        for node in graph.nodes:
            if node.op == "get_attr":
                self._fix(node, self._new("c"), self._lives.values[node])
            elif node.op == "call_function":
                self._write(node)
                self._give_back(node)
        made = self._gradients(gradients, like)
        self._lines.append(f"return {self._names[output]}, {self._names[loss]}, ({''.join(f'{g}, ' for g in made)})")
        self.code = "\n    ".join(["def step(x, y):", *self._lines]) + "\n"
        space = {**self._functions, **self._fixed}
        exec(compile(self.code, "<recorded step>", "exec"), space)
        self.call: Callable[[Tensor, Tensor], tuple[Tensor, Tensor, tuple[Tensor | None, ...]]] = space["step"]
        del self._lives  # all values of a step

    def _new(self, letter: str) -> str:
        return f"{letter}{len(self._fixed)}"

    def _fix(self, node: Node, name: str, value: Any) -> None:
        self._names[node], self._fixed[name] = name, value

    def _write(self, node: Node) -> None:
        """The line of one operator, and the memory it writes to."""
        lives, op, value = self._lives, node.target, self._lives.values[node]
        if op is operator.getitem:
            self._pick(node)
            return
        reads = {m for n in node.all_input_nodes for m in lives.memories(n)}
        mine = set(lives.memories(node))
        if str(op) in _FILLED and not mine & lives.written:
            self._fix(node, self._new("c"), value)
        elif mine <= reads and writes(op):
            if _written(node) != [0]:
                raise Unfit(f"{op} writes elsewhere than into its first argument")
            self._say(op, node)
            self._names[node] = self._names[node.args[0]]
        elif mine & reads and all(self._names.get(n) in self._fixed for n in node.all_input_nodes):
            args, kwargs = torch.fx.node.map_arg((node.args, node.kwargs), lambda n: self._fixed[self._names[n]])
            self._fix(node, self._new("v"), node.target(*args, **kwargs))  # type: ignore[operator]
        else:
            self._compute(node, mine & reads)

    def _pick(self, node: Node) -> None:
        """One of several results."""
        source, i = node.args
        if (source, i) in self._names:  # written into given memory
            self._names[node] = self._names[source, i]
        elif self._names[source] in self._fixed:
            self._fix(node, self._new("v"), self._fixed[self._names[source]][i])
        else:
            self._names[node] = f"{self._names[source]}_{i}"

    def _compute(self, node: Node, shared: set[int]) -> None:
        """An operator that makes something new, into memory of ours where it can."""
        lives, op, value = self._lives, node.target, self._lives.values[node]
        outs = [value] if isinstance(value, Tensor) else list(value)
        kept = shared or self._loss in set(lives.memories(node)) or not all(t is not None and _whole(t) for t in outs)
        over = None if kept or len(outs) > 1 else self._over(node, value)
        form = None if kept else into(op)
        inside = in_place(op) if form is None and over is not None and over == self._names.get(node.args[0]) else None
        if over is not None and inside is not None:
            self._say(inside, node)
            self._names[node] = over
        elif form is not None and len(outs) == len(rooms(form)):
            names = [over or self._place(t) for t in outs]
            self._say(form, node, dict(zip(rooms(form), names, strict=True)))
            self._names[node] = names[0]
            if not isinstance(value, Tensor):
                self._names |= {(node, i): name for i, name in enumerate(names)}
        else:
            self._local(node, outs)
            return
        if over is not None:
            ended = lives.memory(next(n for n in node.all_input_nodes if self._names[n] == over))
            mine = lives.memory(node)
            if ended in self._lent:
                self._lent[mine] = self._lent.pop(ended)
            if ended in self._locals:
                self._locals[mine] = self._locals.pop(ended)

    def _local(self, node: Node, outs: Sequence[Tensor | None]) -> None:
        """An operator whose results lie where it chose."""
        name = self._names[node] = f"t{self._lives.order[node]}"
        if isinstance(self._lives.values[node], Tensor):
            names = [name]
        else:
            read = {n.args[1] for n in node.users if n.target is operator.getitem}
            names = [f"{name}_{i}" if i in read else "_" for i in range(len(outs))]
        self._say(node.target, node, left=", ".join(names))
        for one, value in zip(names, outs, strict=True):
            if one != "_" and value is not None:
                self._locals[value.untyped_storage()._cdata].append(one)

    def _over(self, node: Node, value: Tensor) -> str | None:
        """The operand that an operator that works element by element may write over: it is used here for the last time.

        That is one that a line above made, in the layout of the result, and not in its turn something to keep.
        """
        lives = self._lives
        if torch.Tag.pointwise not in node.target.tags:  # type: ignore[union-attr]
            return None
        for operand in node.all_input_nodes:
            place = lives.memory(operand)
            if place in self._kept or place in self._given or lives.last[place] != lives.order[node]:
                continue
            # another operand may be another view of the same memory
            names = {self._names[n] for n in node.all_input_nodes if place in lives.memories(n)}
            held = lives.values[operand]
            if len(names) == 1 and Look.of(held) == Look.of(value) and _whole(held):
                return self._names[operand]
        return None

    def _place(self, value: Tensor) -> str:
        """Memory to write a value to: some that is free, or new."""
        look, memory = Look.of(value), value.untyped_storage()._cdata
        if memory not in self._kept and self._free[look]:
            name = self._free[look].pop()
        else:
            name = self._new("m")
            self._fixed[name] = look.room()
            self.bytes += self._fixed[name].nbytes
        self._lent[memory] = look, name
        return name

    def _give_back(self, node: Node) -> None:
        """Free the memory that was used for the last time."""
        for memory in self._lives.ending[self._lives.order[node]]:
            if memory in self._kept:
                continue
            if memory in self._lent:
                look, name = self._lent.pop(memory)
                self._free[look].append(name)
            elif memory in self._locals:
                self._lines.append(f"del {', '.join(self._locals.pop(memory))}")

    def _say(self, op: Any, node: Node, into: dict[str, str] | None = None, left: str = "") -> None:
        """Write a call of an operator."""
        fast = quickest(op, list(into or ()))
        name = op._schema.name.split("::")[1] + ("" if fast is not op else f"_{op._overloadname}")
        self._functions.setdefault(name, fast)
        said = [self._word(a) for a in node.args]
        said += [f"{key}={self._word(value)}" for key, value in node.kwargs.items() if value is not None]
        said += [f"{key}={room}" for key, room in (into or {}).items()]
        self._lines.append(f"{left} = {name}({', '.join(said)})" if left else f"{name}({', '.join(said)})")

    def _word(self, value: Any) -> str:
        """An argument as Python."""
        if isinstance(value, Node):
            return self._names[value]
        if isinstance(value, (list, tuple)):
            return f"[{', '.join(map(self._word, value))}]"
        if value is None or isinstance(value, (bool, int, str)) or (isinstance(value, float) and math.isfinite(value)):
            return repr(value)
        name = f"k{len(self._functions)}"
        self._functions[name] = value
        return name

    def _gradients(self, nodes: Sequence[Node | None], like: Sequence[Tensor]) -> list[str]:
        """Names of the gradients, each in memory of its own that lies as its parameter does."""
        lives, made = self._lives, []
        taken = set(self._given)
        for i, (node, wanted) in enumerate(zip(nodes, like, strict=True)):
            if node is None:
                made.append("None")
                continue
            value, memory, name = lives.values[node], lives.memory(node), self._names[node]
            lent = memory in self._lent or name not in self._fixed
            if value.stride() != wanted.stride() or memory in taken or not lent or not _whole(value):
                room = f"g{i}"
                self._fixed[room] = torch.empty_like(wanted, requires_grad=False)
                self.bytes += self._fixed[room].nbytes
                self._lines.append(f"{room}.copy_({name})")
                name = room
            taken.add(memory)
            made.append(name)
        return made


def _whole(value: Tensor) -> bool:
    """Whether a tensor fills its memory: no part of a larger one, nothing said twice."""
    return value.storage_offset() == 0 and value.nbytes == value.untyped_storage().nbytes()
