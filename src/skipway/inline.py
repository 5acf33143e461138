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

#: what is written out
_WRITTEN = (nn.Linear, Dense)


def _classes() -> tuple[Any, ...]:
    """What calling such a layer runs: tools that look on put functions of their own there."""
    return nn.Linear.forward, Dense.forward, nn.Module.__call__


_MEANT = _classes()


class WrittenOut(Program):
    """The source of a forward that multiplies by the matrices of dense layers itself.

    ``layers`` are those written out, ``holders`` the modules that hold them.
    """

    def __init__(self, graph: Graph) -> None:
        self.layers: list[nn.Module] = []
        self.holders: list[nn.Module] = [graph.chain]
        self._names_of: dict[nn.Module, str] = {}
        super().__init__(graph)

    def _call_layer(self, node: Node) -> str:
        owner = self._module(node.where)
        return self._product(node.layer, owner, "x") or super()._call_layer(node)

    def _call(self, fn: Any, edge: Edge, part: str, *args: str) -> str:
        written = self._product(fn, edge.connection, args[0]) if part == "path" else ""
        return written or super()._call(fn, edge, part, *args)

    def _product(self, layer: Any, holder: nn.Module, value: str) -> str:
        """A dense layer as an expression; empty for any other layer."""
        act = getattr(layer, "act", None)
        if type(layer) not in _WRITTEN or isinstance(act, nn.Module):
            return ""
        name = self._names_of.get(layer)
        if name is None:
            name = self._names_of[layer] = self._fresh(f"p{len(self.layers)}")
            self.names[name] = layer._parameters
            self.layers.append(layer)
        self.holders.append(holder)
        product = f'F.linear({value}, {name}["weight"], {name}["bias"])'
        return product if act is None else f"{self._bind(act)}({product})"


class Inlined:
    """The forward of a chain with its dense layers written out, and the question whether it may run now.

    Parameters
    ----------
    graph:
        of the chain, whose layers are as they are now. If anything about them changes, :meth:`serves` says no, and the
        chain calls them.
    """

    def __init__(self, graph: Graph) -> None:
        program = WrittenOut(graph)
        self.source = program.source
        self.run: Callable[..., Any] = program.function()
        self._chain, self._layers = graph.chain, program.layers
        opened = [n.opens for n in graph.nodes if n.opens is not None]
        holders = [*dict.fromkeys([*program.holders, *opened, *(c._connections for c in (graph.chain, *opened))])]
        self._held = [holder._modules for holder in holders]
        self._own = [layer.__dict__ for layer in self._layers]
        self._owned = [layer._parameters for layer in self._layers]
        self._hooks = [getattr(module, hooks) for module in (*self._layers, *opened) for hooks in HOOKS] + watchers()
        self._was = self._state()

    def __bool__(self) -> bool:
        return bool(self._layers)

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
        return (
            self._chain is chain
            and not any(self._hooks)
            and True not in map(contains, self._own, itertools.repeat("forward"))
            and True not in map(contains, self._own, itertools.repeat("_compiled_call_impl"))
            and _classes() == _MEANT
            and self._state() == self._was
        )
