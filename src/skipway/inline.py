"""A forward with its dense layers written out, for as long as nobody looks on when they are called.

Calling a module costs Python more than the sums of a small dense layer cost. Where no hook, no parametrization and no
wrapper sits on a layer, ``F.linear`` on its parameters computes the same without that call.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from operator import contains
from typing import Any

from torch import nn

from .emit import Program
from .graph import Edge, Graph, Node
from .layers import Dense
from .observed import HOOKS, watchers
from .spine import Spine

#: what is written out
_WRITTEN = (nn.Linear, Dense)


def _classes() -> tuple[Any, ...]:
    """What calling such a layer runs: tools that look on put functions of their own there."""
    return nn.Linear.forward, Dense.forward, nn.Module.__call__


_MEANT = _classes()


class WrittenOut(Program):
    """The source of a forward that multiplies by the matrices of dense layers itself.

    ``layers`` are those written out, ``holders`` the connections that hold some of them.
    """

    def __init__(self, graph: Graph) -> None:
        self.layers: list[nn.Module] = []
        self.holders: list[nn.Module] = []
        self._names_of: dict[nn.Module, str] = {}
        super().__init__(graph)

    def _call_layer(self, node: Node) -> str:
        return self._product(node.layer, "x") or super()._call_layer(node)

    def _call(self, fn: Any, edge: Edge, part: str, *args: str) -> str:
        written = self._product(fn, args[0]) if part == "path" else ""
        if written:
            self.holders.append(edge.connection)
        return written or super()._call(fn, edge, part, *args)

    def _product(self, layer: Any, value: str) -> str:
        """A dense layer as an expression; empty for any other layer."""
        act = getattr(layer, "act", None)
        if type(layer) not in _WRITTEN or isinstance(act, nn.Module):
            return ""
        name = self._names_of.get(layer)
        if name is None:
            name = self._names_of[layer] = self._fresh(f"p{len(self.layers)}")
            self.names[name] = layer._parameters
            self.layers.append(layer)
        product = f'F.linear({value}, {name}["weight"], {name}["bias"])'
        return product if act is None else f"{self._bind(act)}({product})"


class Inlined:
    """The forward of a chain with its dense layers written out, and the question whether it may run now.

    Parameters
    ----------
    chain:
        whose layers are written out as they are when :meth:`serves` is first asked. If anything about them changes
        later it says no, and the chain calls them.
    """

    def __init__(self, chain: Spine) -> None:
        self._chain = chain
        self._ready = False

    def _write(self) -> None:
        graph = Graph(self._chain)
        program = WrittenOut(graph)
        self.source = program.source
        self.run: Callable[..., Any] = program.function()
        opened = [n.opens for n in graph.nodes if n.opens is not None]
        owners = [graph.chain, *opened]
        self._held = [m._modules for m in dict.fromkeys([*owners, *(c._connections for c in owners), *program.holders])]
        self._own = [layer.__dict__ for layer in program.layers]
        self._owned = [layer._parameters for layer in program.layers]
        self._hooks = [getattr(module, hooks) for module in (*program.layers, *opened) for hooks in HOOKS] + watchers()
        self._layers = program.layers
        self._was = self._state()
        self._ready = True  # last: another thread may ask

    def _state(self) -> list[Any]:
        """Which layers stand where, what they are and hold. No loop of Python's own: it is asked at every call."""
        return [
            *itertools.chain.from_iterable(map(dict.values, self._held)),
            *map(type, self._layers),
            *map(len, self._owned),
            *map(dict.get, self._own, itertools.repeat("act")),
        ]

    def serves(self, chain: nn.Module) -> bool:
        """Whether it computes what calling the layers of ``chain`` would, and nobody could tell the difference.

        A replica of ``nn.DataParallel`` is another chain: it has these layers' code, and weights of its own.
        """
        if self._chain is not chain:
            return False
        if not self._ready:
            self._write()
        return (
            bool(self._layers)
            and not any(self._hooks)
            and True not in map(contains, self._own, itertools.repeat("forward"))
            and True not in map(contains, self._own, itertools.repeat("_compiled_call_impl"))
            and _classes() == _MEANT
            and self._state() == self._was
        )
