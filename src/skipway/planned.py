"""A chain at work: planned once its shapes are known, then run by the forward that was generated for it."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from . import diagnose, engines
from .connection import Connection, Connections
from .emit import Program
from .errors import ChainError, OpenChainError, ShapeError
from .graph import Graph
from .inline import Inlined
from .layer import Layer
from .plan import Plan
from .probe import implied
from .shortcut import End, Shortcut
from .spine import Spine
from .value import Form, Value
from .wiring import Pattern, Wiring, Wirings, resolve


class Planned(Spine):
    """Layers, a wiring and their plan: what :class:`~skipway.Chain` is when it runs.

    This room holds the life of a chain: it begins, settles (for an input), is compiled, verifies new inputs, and runs.
    What users ask of a chain is in :class:`~skipway.Chain`.
    """

    _connections: Connections
    _bare_drops: tuple[str, ...] = ()
    _inside = False
    """Whether it is a part of another chain, which then looks whether a shortcut goes around its random drops."""
    _plan: Plan | None = None
    _engine = "auto"
    """Whether a faster executor may run a part of it: see :func:`skipway.engines.use_engines`."""
    _sound = False
    """Whether the plan found every shape, for the input this chain was built for."""

    def _begin(
        self,
        wiring: Wiring,
        value: Value,
        kept: Mapping[str, Connection] | None = None,
        *,
        refit: bool = False,
        remake: bool = False,
    ) -> Plan:
        self._token, self._used = next(_tokens), False
        self._parents: weakref.WeakSet[Planned] = weakref.WeakSet()
        self._pattern = repr(wiring) if isinstance(wiring, (Pattern, Wirings)) else ""
        self._wiring = tuple(resolve(wiring, len(self)))
        # kept beside the children: registered as one only when there is something to register
        self.__dict__["_connections"] = Connections()
        self._modules.pop("shortcuts", None)
        for shortcut in self._wiring:
            if kept and shortcut.label in kept:
                self._register_connection(shortcut, kept[shortcut.label])
        self._form = Form()
        self._open: tuple[str, ...] = ("it has not been planned",)
        plan = self._settle(value, True, refit=refit, remake=remake)
        plan.take_result()
        return plan

    def implied_input(self) -> Form:
        """What the chain's first layer says it takes; unknown where it does not say."""
        first = next(iter(self.modules_in_order), None)
        if isinstance(first, Layer) and first.inferred:
            return Form()
        return first.implied_input() if isinstance(first, Planned) else implied(first).form

    def _check_shape(self, shape: Sequence[int] | int) -> tuple[int, ...]:
        sizes = (shape,) if isinstance(shape, int) else tuple(shape)
        if not sizes or any(isinstance(s, bool) or not isinstance(s, int) or s < 1 for s in sizes):
            raise ChainError(
                f"an input shape is positive whole numbers without the batch axis, such as (1, 28, 28), not {shape!r} "
                f"({self.source})"
            )
        return sizes

    # -- plan ----------------------------------------------------------------------------------------------------------

    def _settle(
        self, value: Value, close: bool, strict: bool = True, refit: bool = False, remake: bool = False
    ) -> Plan:
        """Plan for an input; with ``close``, create what was missing and keep the plan if it is sound."""
        start = value or self._form.value
        plan = Plan(self, start, close=close, strict=strict, refit=refit, remake=remake)
        if close and not plan.problems:
            self._plan = plan
            self._form = plan.input
            self._open = tuple(plan.open)
            self._bare_drops = tuple(plan.bare_drops())
            self._sound = plan.complete and not plan.open
            self._verified: set[tuple[int, ...]] = set()
            self._adopt_children()
            for node in plan.nodes:
                if node.opens is not None:  # a part of this chain now: it has no plan of its own
                    node.opens._open, node.opens._plan = tuple(plan.open), None
                    node.opens._compile()
            self._compile()
        elif plan.complete and not plan.problems and not plan.open and self._used and not self._drops_all:
            self._verified |= set(plan.input.sizes)
        return plan

    @property
    def _drops_all(self) -> bool:
        """Whether some random drop of it would drop the only path."""
        return bool(self._bare_drops) and not self._inside

    def _adopt_children(self) -> None:
        """Let the chains inside know this one, which must follow when their layers change."""
        for module in self.modules():
            if isinstance(module, Planned) and module is not self:
                module._parents.add(self)
                module._inside = True

    def _changed(self) -> None:
        """A layer of a chain inside is another one now: forget what was checked, write the forward again."""
        self._verified.clear()
        self._plan, self._sound = None, False
        self._compile()
        for parent in list(self._parents):
            parent._changed()

    def _compile(self) -> None:
        """Generate the forward. Eagerly, since a compiler that traces this module cannot run the generator."""
        self._features: dict[tuple[End, ...], Callable[..., Any]] = {}
        self._source, self._run, self._run_checked, self._run_hooked = "", _unready, _unready, _unready
        self._opened: tuple[nn.Module, ...] = ()
        self._segments: list[engines.Segment] = []
        self._run_training: Callable[..., Any] | None = None
        self._inlined = Inlined(self)  # here, so that no attribute changes with a forward
        if self._open:
            return
        graph = Graph(self)
        if any(e.connection is None for n in graph.nodes for e in n.edges):
            return
        program = Program(graph)
        self._source, self._run = program.source, program.function()
        self._run_checked = Program(graph, checked=True).function()
        self._segments = engines.segments(graph)
        if self._segments:
            parts = [(s.start, s.end, engines.executor(s, graph)) for s in self._segments]
            self._run_training = Program(graph, executors=parts).function()
        self._opened = tuple(n.opens for n in graph.nodes if n.opens is not None)
        if self._opened:
            self._run_hooked = Program(graph, checked=True, hooked=True).function()

    @property
    def plan(self) -> Plan:
        """The plan for the input this chain was last built for: nodes, edges, shapes, lifetimes."""
        if self._plan is None:
            self._plan = Plan(self, self._form.value, strict=False)
            self._plan.take_result()
        return self._plan

    @property
    def is_open(self) -> bool:
        """Whether some width is still unknown."""
        return bool(self._open)

    def build(self, shape: Sequence[int] | int) -> Self:
        """Close the chain for an input of this shape (without the batch axis); returns the chain itself.

        Raises ``ShapeError`` with everything that does not fit.

        >>> from skipway import Chain, Dense
        >>> Chain(Dense(..., 5), Dense(..., 2)).build((10,))[0].weight.shape
        torch.Size([5, 10])
        """
        before = self._form
        plan = self._settle(Value.of(self._check_shape(shape)), True)
        if plan.problems and before.sizes:
            self._settle(before.value, True, strict=False)  # chains inside may have settled for the other shape
        plan.check()
        plan.take_result()
        return self

    def _need_closed(self, what: str) -> None:
        if self._open:
            missing = "; ".join(self._open[:3]) + ("; ..." if len(self._open) > 3 else "")
            raise OpenChainError(
                f"this chain ({self.source}) is open, so it has no {what} yet: {missing}. Give it input=(shape "
                f"without the batch axis), write the width, or call net.build(shape)"
            )

    # -- running -------------------------------------------------------------------------------------------------------

    def forward(self, x: Tensor) -> Tensor:
        if torch.jit.is_tracing():  # it can look at no shape without a warning
            self._need_closed("forward")
            return self._hooked(self._run)(self, x)
        if torch.compiler.is_compiling():
            self._need_closed("forward")
            if self._form.sizes and x.dim() == len(self._form.sizes[0]):
                return self._run_checked(self, x[None])[0]
            return self._hooked(self._run_checked)(self, x) if self._opened else self._run_checked(self, x)
        try:
            if x.shape[1:] not in self._verified:
                run = self._verify(x)
            elif self._run_training is None and self._inlined.serves(self):
                return self._inlined.run(self, x)
            else:
                run = self._run
            if self._opened and run is not _one_sample:
                run = self._hooked(run)
            if self._run_training is not None and run is self._run and self.training:
                run = self._run_training
            return run(self, x)
        except Exception as error:
            diagnose.explain(self, error, x)
            raise

    def _hooked(self, run: Callable[..., Any]) -> Callable[..., Any]:
        for chain in self._opened:
            if chain._forward_hooks or chain._forward_pre_hooks or chain._backward_hooks or chain._backward_pre_hooks:
                return self._run_hooked
        return run

    def _verify(self, x: Any) -> Callable[..., Any]:
        """Check a form of input that was not seen before; returns the forward to use for it."""
        self._need_closed("forward")
        if isinstance(x, torch.fx.Proxy):
            return self._run
        if not isinstance(x, Tensor):
            raise ChainError(f"a chain takes one tensor, not a {type(x).__name__} ({self.source})")
        if self._drops_all:
            raise ChainError(
                f"the random drop {self._bare_drops[0]!r} has no shortcut around it, so it would drop the only path "
                f"({self.source}): put it inside Skip(...), or give the shortcut drop=..."
            )
        self._used = True
        if self._form.sizes and x.dim() == len(self._form.sizes[0]):
            return _one_sample
        if self._sound and self._form.sizes == (tuple(x.shape[1:]),):
            self._verified.add(tuple(x.shape[1:]))  # the plan was made for this very shape
            return self._run
        if x.dim() < 2:
            raise ShapeError(f"this chain ({self.source}) takes {self._form}, with a batch axis, not {tuple(x.shape)}")
        plan = Plan(self, Value.of(tuple(x.shape[1:]), self._form.layout, x.dtype), strict=False)
        if plan.problems:
            raise diagnose.misfit(self, x, plan)
        if not plan.complete:
            return self._run_checked
        self._verified.add(tuple(x.shape[1:]))
        return self._run

    @property
    def wiring(self) -> tuple[Shortcut, ...]:
        """The shortcuts, in the order in which they merge."""
        return self._wiring

    @property
    def shortcuts(self) -> Connections:
        """The shortcuts at work, by name: their projections, scales and merges."""
        return self._connections

    def _register_connection(self, shortcut: Shortcut, connection: Connection) -> None:
        self._connections.add(shortcut, connection)
        self._connections.training = self.training
        if connection.stateful:
            self._modules["shortcuts"] = self._connections

    # -- an ordinary module --------------------------------------------------------------------------------------------

    def named_parameters(self, *args: Any, **kwargs: Any) -> Iterator[tuple[str, nn.Parameter]]:
        self._need_closed("parameters")
        self._used = True
        return super().named_parameters(*args, **kwargs)

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        self._need_closed("state_dict")
        return super().state_dict(*args, **kwargs)

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        self._need_closed("parameters to load")
        return super().load_state_dict(*args, **kwargs)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Self:
        self._need_closed("parameters to move")
        return super()._apply(fn, recurse)

    def __getstate__(self) -> dict[str, Any]:
        dropped = (
            "_parents", "_plan", "_run", "_run_checked", "_run_hooked", "_run_training", "_segments", "_features",
            "_source", "_opened", "_inlined",
        )  # fmt: skip
        return {k: v for k, v in self.__dict__.items() if k not in dropped}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._plan, self._parents = None, weakref.WeakSet()
        self._adopt_children()
        self._compile()


_tokens = itertools.count()


def _one_sample(net: Planned, x: Tensor) -> Tensor:
    """One sample without a batch axis: layers that count axes from the front need one."""
    return net(x[None])[0]


def _unready(*_: Any) -> Any:
    raise OpenChainError("this chain is part of another one, or open: it has no forward of its own")
