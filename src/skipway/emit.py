"""The forward one would have written by hand: straight-line Python, generated from the plan.

What ``net.code`` shows is what runs, dense layers written out by ``inline.py``. Values that a shortcut needs are kept
in a variable of their own and deleted after their last reader.
"""

from __future__ import annotations

import builtins
import functools
import hashlib
import linecache
import re
import types
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import BackwardHook

from .connection import Connection
from .errors import ShapeError
from .graph import Edge, Graph, Node
from .merges import CatFirst, CatLast, Merge, as_merge
from .spine import identifier, unwrap
from .value import show
from .wrap import Wrapped

_RESERVED = {"x", "self", "layer", "edge", "shortcut", "torch", "F", "same", "entered", "left", "forward"}


def same(name: str, branch: Tensor, brought: Tensor) -> None:
    """Refuse to broadcast: what a merge without a known shape would otherwise do in silence."""
    if branch.shape != brought.shape:
        raise ShapeError(
            f"shortcut {name!r} needs equal shapes, and the branch is {show(tuple(branch.shape[1:]))}, "
            f"the shortcut {show(tuple(brought.shape[1:]))}"
        )


def entered(chain: nn.Module, x: Any) -> tuple[Any, Any]:
    """Run the pre-hooks of a chain whose layers run in the code of another; returns what ``left`` needs, and ``x``."""
    for key, hook in list(chain._forward_pre_hooks.items()):
        if key in chain._forward_pre_hooks_with_kwargs:
            changed = hook(chain, (x,), {})
            result = changed[0] if changed is not None else None
        else:
            result = hook(chain, (x,))
        if result is not None:
            x = result[0] if isinstance(result, tuple) else result
    backward = None
    if chain._backward_hooks or chain._backward_pre_hooks:
        full, _ = chain._get_backward_hooks()
        backward = BackwardHook(chain, full, chain._get_backward_pre_hooks())
        x = backward.setup_input_hook((x,))[0]
    return (x, backward), x


def left(chain: nn.Module, into: tuple[Any, Any], out: Any) -> Any:
    """Run the forward hooks of a chain whose layers run in the code of another."""
    x, backward = into
    for key, hook in list(chain._forward_hooks.items()):
        kwargs: tuple[Any, ...] = ({},) if key in chain._forward_hooks_with_kwargs else ()
        result = hook(chain, (x,), *kwargs, out)
        out = out if result is None else result
    return out if backward is None else backward.setup_output_hook(out)


class Program:
    """Source of a forward, with the functions it names.

    Parameters
    ----------
    graph:
        what to run.
    at:
        names of values to return as a dict; by default the last value alone.
    checked:
        compare shapes before every merge that could broadcast (where they could not be checked beforehand).
    hooked:
        run the hooks of opened chains.
    span:
        first and last node of a part that nothing outside reads into: ``x`` is the value of the first.
    executors:
        ``(first node, last node, run)`` of parts that ``run(self, x)`` takes over.
    """

    def __init__(
        self,
        graph: Graph,
        at: Sequence[str] | None = None,
        *,
        checked: bool = False,
        hooked: bool = False,
        span: tuple[int, int] | None = None,
        executors: Sequence[tuple[int, int, Callable[..., Any]]] = (),
    ) -> None:
        self.graph, self.checked, self.hooked = graph, checked, hooked
        self.span = span or (0, len(graph.nodes) - 1)
        self.executors = {first: (last, run) for first, last, run in executors}
        self.at = {name: graph.names[name] for name in at} if at is not None else None
        self.names: dict[str, Any] = {"torch": torch, "F": F, "__builtins__": builtins}
        # no "__name__": the compiler would look for our callables as attributes of that module
        self._taken = set(_RESERVED)
        self._vars: dict[tuple[int, str], str] = {}
        self._entries: dict[str, str] = {}
        self._prefixes: dict[str, str] = {}
        self._edges: dict[str, str] = {}
        self._readers: dict[int, dict[str, int]] = {}
        self._lines: list[str] = []
        self.source = self._write()

    def function(self) -> Callable[..., Any]:
        """The compiled forward, ``(self, x) -> Tensor``."""
        code = _compile(self.source)
        return types.FunctionType(code, self.names, "forward")

    # -- the walk ------------------------------------------------------------------------------------------------------

    def _write(self) -> str:
        nodes = self.graph.nodes
        first, last = self.span
        if self.at is not None:
            last = max(self.at.values(), default=0)
        self._keep(nodes[first], last)
        if first and any(e.tap == "branch" for e in nodes[first].leaves):
            self._line(f"{self._var(nodes[first], 'branch')} = x")
        reached = first
        for node in nodes[first + 1 : last + 1]:
            if node.index <= reached:
                continue
            if node.index - 1 in self.executors:
                reached, run = self.executors[node.index - 1]
                self._line(f"x = {self._bind(run)}(self, x)")
                self._keep(nodes[reached], last)
                self._free(nodes[reached], last, until=node.index - 1)
            else:
                self._node(node, last)
        if self.at is None:
            self._lines.append("return x")
        else:
            held = ", ".join(f"{name!r}: {self._vars[i, 'state']}" for name, i in self.at.items())
            self._lines.append(f"return {{{held}}}")
        head = ["layer = self._modules"] if any("layer[" in line for line in self._lines) else []
        head += [f"{var} = {self._chain(where)}._modules" for where, var in self._prefixes.items()]
        head += [f'{var} = {self._chain(where)}._modules["shortcuts"]._modules' for where, var in self._edges.items()]
        return "\n    ".join(["def forward(self, x):", *head, *self._lines]) + "\n"

    def _node(self, node: Node, last: int) -> None:
        if node.opens is not None:
            if self.hooked and node.opens._keys:
                self.names.update(left=left)
                self._line(f"x = left({self._chain(node.name)}, {self._entry(node.name)}, x)")
            expression = "x"
        else:
            self._enter(node)
            expression = self._call_layer(node)
        if node.edges and expression != "x":
            # a line of its own, so that what the layer read is free before the merge needs room
            self._line(f"x = {expression}")
            expression = "x"
        if any(e.tap == "branch" and e.end <= last for e in node.leaves):
            if expression != "x":
                self._line(f"x = {expression}")
                expression = "x"
            self._line(f"{self._var(node, 'branch')} = x")
        expression = self._merges(node, expression)
        if expression != "x":
            self._line(f"x = {expression}")
        self._keep(node, last)
        self._free(node, last)

    def _enter(self, node: Node) -> None:
        """Pre-hooks of the opened chains whose first layer this is."""
        if not self.hooked:
            return
        inside = node.where.split(".") if node.where else []
        for depth in range(1, len(inside) + 1):
            where = ".".join(inside[:depth])
            first = f"{where}.{self._module(where)._keys[0]}"
            if node.name == first or node.name.startswith(f"{first}."):
                self.names.update(entered=entered)
                self._line(f"{self._entry(where)}, x = entered({self._chain(where)}, x)")

    def _entry(self, where: str) -> str:
        if where not in self._entries:
            self._entries[where] = self._fresh(f"into_{where}")
        return self._entries[where]

    def _keep(self, node: Node, last: int) -> None:
        """Give a value a variable of its own if something reads it later."""
        wanted = self.at is not None and node.index in self.at.values()
        if any(e.end <= last and e.tap == "state" for e in node.leaves) or wanted:
            # a later layer that works in place would change what was asked for
            overwritten = self.graph.overwritten
            copied = (
                ".clone()"
                if wanted and node.index < last and (overwritten is None or node.index in overwritten)
                else ""
            )
            self._line(f"{self._var(node)} = x{copied}")

    def _free(self, node: Node, last: int, until: int | None = None) -> None:
        """Delete the variables of values that ``node`` reads last; with ``until`` only those up to that node."""
        if node.index == last:
            return
        gone = []
        for start in {e.start: self.graph.nodes[e.start] for e in node.edges}.values():
            if until is not None and start.index > until:
                continue
            for tap in ("state", "branch"):
                if self._last_readers(start).get(tap) == node.index:
                    wanted = self.at is not None and start.index in self.at.values()
                    if not (tap == "state" and wanted):
                        gone.append(self._var(start, tap))
        if gone:
            self._line(f"del {', '.join(gone)}")

    def _last_readers(self, start: Node) -> dict[str, int]:
        """After which node nothing reads what is tapped of a value."""
        found = self._readers.get(start.index)
        if found is None:
            found = self._readers[start.index] = {}
            for e in start.leaves:
                found[e.tap] = max(found.get(e.tap, 0), e.end)
        return found

    # -- merges --------------------------------------------------------------------------------------------------------

    def _merges(self, node: Node, expression: str) -> str:
        meetings = node.meetings
        while meetings:
            cats = isinstance(meetings[0][0].connection.merge, (CatLast, CatFirst))
            joined = self._joined([edges[0] for edges in meetings]) if cats else 0
            if joined:
                heads = [edges[0] for edges in meetings[:joined]]
                merge = heads[0].connection.merge
                values = [expression, *(self._brought(e) for e in heads)]
                values, axis = values[::-1] if isinstance(merge, CatFirst) else values, merge.axis
                expression = f"torch.cat(({', '.join(values)}), {axis})"
                meetings = meetings[joined:]
            else:
                expression = self._merge(meetings.pop(0), expression)
            if meetings and expression != "x":
                self._line(f"x = {expression}")
                expression = "x"
        return expression

    def _joined(self, edges: list[Edge]) -> int:
        """How many leading edges one ``torch.cat`` can join: nested ones would copy every feature again and again."""
        count = 0
        for edge in edges:
            c: Connection = edge.connection
            plain = isinstance(c.merge, (CatLast, CatFirst)) and c.act is None and c.scale is None and c.drop is None
            if not plain or c.merge != edges[0].connection.merge:
                break
            count += 1
        return count if count > 1 else 0

    def _brought(self, edge: Edge) -> str:
        start = self.graph.nodes[edge.start]
        value = self._var(start, edge.tap)
        c: Connection = edge.connection
        if c.path is not None:
            value = self._call(c.path, edge, "path", value)
        return self._times(edge, "path_scale", value)

    def _merge(self, edges: list[Edge], branch: str) -> str:
        edge = edges[0]
        c: Connection = edge.connection
        branch = self._times(edge, "scale", branch)
        if c.drop is not None:
            branch = self._call(c.drop, edge, "drop", branch)
        recipe = as_merge(edge.shortcut.merge)
        equal = isinstance(recipe, Merge) and not recipe.widens
        brought = []
        for i, one in enumerate(edges):
            value = self._brought(one)
            if self.checked and equal:
                self.names.update(same=same)
                if branch != "x":
                    self._line(f"x = {branch}")
                    branch = "x"
                name = f"shortcut_{i + 1}" if i else "shortcut"
                self._line(f"{name} = {value}")
                self._line(f"same({one.name!r}, x, {name})")
                value = name
            brought.append(value)
        written = None
        if isinstance(c.merge, (CatLast, CatFirst)):
            written = c.merge.code(branch, brought[0])
        elif isinstance(recipe, Merge) and not recipe.joint:
            written = recipe.code(_operand(branch), _operand(brought[0]))
        merged = written if written is not None else self._call(c.merge, edge, "merge", branch, *brought)
        return merged if c.act is None else self._call(c.act, edge, "act", merged)

    def _times(self, edge: Edge, part: str, value: str) -> str:
        """A value times a gain: a number, a parameter, or a module that is called on it."""
        held = getattr(edge.connection, part)
        if held is None:
            return value
        if isinstance(held, nn.Module):
            return self._call(held, edge, part, value)
        return f"{_operand(value)} * {repr(held) if isinstance(held, float) else f'{self._connection(edge)}.{part}'}"

    # -- names ---------------------------------------------------------------------------------------------------------

    def _line(self, text: str) -> None:
        self._lines.append(text)

    def _module(self, where: str) -> Any:
        module: Any = self.graph.chain
        for part in where.split(".") if where else []:
            module = module._modules[part]
        return module

    def _chain(self, where: str) -> str:
        return "self" + "".join(f"._modules[{part!r}]" for part in where.split(".") if part)

    def _call_layer(self, node: Node) -> str:
        fn = unwrap(node.layer)
        if isinstance(node.layer, Wrapped) and node.layer.stateless:
            return f"{self._bind(fn)}(x)"
        if not node.where:
            return f"layer[{_quoted(node.key)}](x)"
        if node.where not in self._prefixes:
            self._prefixes[node.where] = self._fresh(f"{node.where}_layer")
        return f"{self._prefixes[node.where]}[{_quoted(node.key)}](x)"

    def _connection(self, edge: Edge) -> str:
        if edge.where not in self._edges:
            self._edges[edge.where] = self._fresh(f"{edge.where}_edge") if edge.where else "edge"
        return f"{self._edges[edge.where]}[{_quoted(edge.shortcut.key)}]"

    def _call(self, fn: Any, edge: Edge, part: str, *args: str) -> str:
        if isinstance(fn, nn.Module):
            return f"{self._connection(edge)}.{part}({', '.join(args)})"
        return f"{self._bind(fn)}({', '.join(args)})"

    def _bind(self, fn: Callable[..., Any]) -> str:
        """A name for a function in the generated code: torch's own under torch's name."""
        name = getattr(fn, "__name__", type(fn).__name__)
        for library, module in (("torch", torch), ("F", F)):
            if getattr(module, name, None) is fn:
                return f"{library}.{name}"
        for bound, held in self.names.items():
            if held is fn:
                return bound
        bound = self._fresh(name if identifier(name) else "function")
        self.names[bound] = fn
        return bound

    def _var(self, node: Node, tap: str = "state") -> str:
        if (node.index, tap) not in self._vars:
            # positions count layers, as in Shortcut(2, 5): x2 is the value after two
            parts = [f"x{int(p) + 1}" if p.isdigit() else p for p in node.name.split(".")] if node.index else ["x0"]
            self._vars[node.index, tap] = self._fresh("_".join(parts) + ("_branch" if tap == "branch" else ""))
        return self._vars[node.index, tap]

    def _fresh(self, base: str) -> str:
        """A Python name near ``base`` that nothing else in this function has."""
        base = re.sub(r"\W", "_", base)
        base = base if identifier(base) else f"value_{base}"
        name, count = base, 2
        while name in self._taken:
            name, count = f"{base}_{count}", count + 1
        self._taken.add(name)
        return name


def _quoted(key: str) -> str:
    """A key as a Python string, in double quotes where it is an ordinary word."""
    return f'"{key}"' if key.isprintable() and not set(key) & set('\\"') else repr(key)


def _operand(expression: str) -> str:
    """An expression as an operand: in brackets where it is a sum or product itself."""
    depth = 0
    for i, char in enumerate(expression):
        depth += char in "([{"
        depth -= char in ")]}"
        if not depth and char in "+-*" and expression[i - 1] == " ":
            return f"({expression})"
    return expression


@functools.lru_cache(maxsize=4096)
def _compile(source: str) -> types.CodeType:
    """Compile once per text: equal networks share their code, and tracebacks show it."""
    name = f"<skipway forward {hashlib.sha1(source.encode()).hexdigest()[:10]}>"
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    module = compile(source, name, "exec")
    return next(c for c in module.co_consts if isinstance(c, types.CodeType))
