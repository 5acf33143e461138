"""A chain run value by value, so that a study can look at what meets at each merge, and change it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from skipway.chain import Chain
from skipway.edit import nested
from skipway.errors import ChainError, DataError
from skipway.graph import Edge, Graph, Node

Meet = Callable[[Node, Sequence[Edge], Tensor, list[Tensor]], tuple[Tensor, list[Tensor]]]
See = Callable[[Node, Tensor], Tensor]


def need_chain(net: object, study: str) -> Chain:
    """The net, if it is a closed chain. Raises ``ChainError`` for what is none, ``OpenChainError`` for an open one."""
    if not isinstance(net, Chain):
        raise ChainError(f"{study} studies a Chain, since it needs to know the shortcuts, not a {type(net).__name__}")
    net._need_closed(study)
    return net


def fit_input(net: Chain, x: object, study: str) -> Tensor:
    """``x``, if the chain can be run on it and all of it is finite. Raises ``DataError`` or the chain's own error."""
    if not isinstance(x, Tensor) or x.dim() < 2 or not len(x):
        told = f"one of shape {tuple(x.shape)}" if isinstance(x, Tensor) else f"a {type(x).__name__}"
        raise DataError(f"{study} takes a batch, a tensor (rows, *shape of the input), not {told}")
    if not bool(torch.isfinite(x).all()):
        bad = ~torch.isfinite(x).flatten(1).all(1)
        raise DataError(
            f"{study}: {int(bad.sum())} of {len(x)} rows hold numbers that are NaN or infinite, the first is row "
            f"{int(bad.nonzero()[0])}: clean or drop these rows"
        )
    if x.shape[1:] not in net._verified:
        net._verify(x)
    return x


class Walk:
    """The forward of a chain, with all chains inside opened: node by node, edge by edge.

    It computes what the chain computes. ``meet`` is asked before every merge with the node, the shortcuts that merge at
    once, the branch, and what they bring, both after their gains, and gives back what shall meet. ``see`` is asked for
    every value, also for that of the input.

    >>> from skipway import Dense, every
    >>> net = Chain(Dense(4, 4), Dense(4, 4), wiring=every(1))
    >>> x = torch.randn(3, 4)
    >>> torch.equal(Walk(net)(x), net(x))
    True
    >>> def cut(node, edges, branch, brought):
    ...     return branch, [torch.zeros_like(b) for b in brought]
    >>> torch.equal(Walk(net)(x, meet=cut), net.plain()(x))
    True
    """

    def __init__(self, net: Chain) -> None:
        self.net = net
        self.graph = Graph(net, nested(net))

    def __call__(self, x: Tensor, meet: Meet | None = None, see: See | None = None) -> Tensor:
        states: dict[int, Tensor] = {}
        branches: dict[int, Tensor] = {}
        for node in self.graph.nodes:
            if node.layer is not None:
                x = node.layer(_own(x, node.layer))
            if any(edge.tap == "branch" for edge in node.leaves):
                branches[node.index] = x
            for edges in node.meetings:
                head = edges[0].connection
                branch = head.branch(x)
                brought = []
                for edge in edges:
                    tapped = branches if edge.tap == "branch" else states
                    brought.append(edge.connection.bring(tapped[edge.start]))
                if meet is not None:
                    branch, brought = meet(node, edges, branch, brought)
                x = head.merge(branch, *brought)
                x = x if head.act is None else head.act(x)
            if see is not None:
                x = see(node, x)
            if node.leaves:
                states[node.index] = x
        return x


def _own(x: Tensor, layer: nn.Module) -> Tensor:
    """A copy for a layer that works in place, since a study may hold the value."""
    return x.clone() if any(getattr(module, "inplace", False) for module in layer.modules()) else x
