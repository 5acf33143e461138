"""Chain and Skip: layers and a wiring, made into one module."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from . import diagnose, edit
from .connection import Connection, Connections
from .emit import Program
from .errors import ChainError, OpenChainError, ShapeError, nearest
from .gains import Drop, Learned
from .graph import Graph
from .layer import Layer
from .merges import Merge
from .paths import Path
from .plan import Plan
from .probe import implied
from .shortcut import End, Shortcut
from .spine import Spine, adopt, unwrap
from .value import UNKNOWN, Form, Value
from .wiring import Pattern, Wiring, Wirings, resolve


class Chain(Spine):
    """Layers one after the other, and shortcuts over them.

    Parameters
    ----------
    layers, named_layers:
        any ``nn.Module``, callable or object with ``__call__``, in order; those without a name go by their position. A
        single dict gives names that are no Python words.
    input:
        the shape of the input without the batch axis, such as ``(1, 28, 28)``. Needed only where widths written ``...``
        or a shortcut cannot be worked out without.
    wiring:
        a list of :class:`Shortcut`, a pattern such as ``every(2)``, or a sum of them.

    A chain is an ordinary module; without shortcuts its ``state_dict`` is that of ``nn.Sequential``. What shortcuts own
    is under ``shortcuts.<name>``. If some width is not known when the constructor returns, the chain is *open*: it
    prints what is missing, and refuses to be used until :meth:`build` or a chain around it closes it.

    Raises
    ------
    ChainError
        (as :class:`ShapeError` where shapes do not fit) for everything that cannot work, all of it in one message.

    >>> from skipway import Chain, Dense, every, relu
    >>> net = Chain(Dense(10, 5, relu), Dense(5, 4, relu), Dense(4, 2, relu), wiring=every(1, path="project"))
    >>> net(torch.zeros(3, 10)).shape
    torch.Size([3, 2])
    >>> net.wiring
    (Shortcut(0, 1, path='project'), Shortcut(1, 2, path='project'), Shortcut(2, 3, path='project'))
    """

    _connections: Connections
    _bare_drops: tuple[str, ...] = ()
    _plan: Plan | None = None
    _sound = False
    """Whether the plan found every shape, for the input this chain was built for."""

    def __init__(
        self,
        /,
        *layers: Any,
        input: Sequence[int] | int | None = None,
        wiring: Wiring = (),
        **named_layers: Any,
    ) -> None:
        if len(layers) == 1 and isinstance(layers[0], Mapping):
            layers, named_layers = (), {**dict(*layers), **named_layers}
        super().__init__(layers, named_layers)
        value = Value.of(self._check_shape(input)) if input is not None else UNKNOWN
        self._begin(wiring, value, refit=True).check()

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
        self._parents: weakref.WeakSet[Chain] = weakref.WeakSet()
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
        return first.implied_input() if isinstance(first, Chain) else implied(first).form

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
        elif plan.complete and not plan.problems and not plan.open and self._used and not self._bare_drops:
            self._verified |= set(plan.input.sizes)
        return plan

    def _adopt_children(self) -> None:
        """Let the chains inside know this one, which must follow when their layers change."""
        for module in self.modules():
            if isinstance(module, Chain) and module is not self:
                module._parents.add(self)

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
        if self._open:
            return
        graph = Graph(self)
        if any(e.connection is None for n in graph.nodes for e in n.edges):
            return
        program = Program(graph)
        self._source, self._run = program.source, program.function()
        self._run_checked = Program(graph, checked=True).function()
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

    def build(self, shape: Sequence[int] | int) -> Chain:
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
            run = self._run if x.shape[1:] in self._verified else self._verify(x)
            if self._opened:
                run = self._hooked(run)
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
        if self._bare_drops:
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

    def features(self, x: Tensor, at: Sequence[End]) -> dict[End, Tensor]:
        """Named values of one pass, without hooks.

        Parameters
        ----------
        x:
            the input, ``(N, *input)``.
        at:
            names of values, as in :class:`Shortcut`: layer names, ``"enc.down1"``, positions, ``"input"``,
            ``"output"``.

        Only the layers up to the last value asked for are run. Raises ``ChainError`` for a name that is none.

        >>> from skipway import Chain, Dense
        >>> got = Chain(a=Dense(4, 3), b=Dense(3, 2)).features(torch.zeros(1, 4), at=["a"])
        >>> {name: tuple(value.shape) for name, value in got.items()}
        {'a': (1, 3)}
        """
        wanted = (at,) if isinstance(at, (str, int)) else tuple(at)
        if wanted not in self._features:
            self._need_closed("features")
            names = {}
            prefixes = ["" for _ in wanted]
            for i, end in enumerate(wanted):
                name = str(end) if isinstance(end, str) else self._position(end)
                names[end], prefixes[i] = name, name.rpartition(".")[0]
            opened = {p[:i] for p in prefixes for i in range(1, len(p) + 1) if i == len(p) or p[i] == "."}
            known = Graph(self, opened).names
            for name in names.values():
                if name not in known:
                    raise ChainError(f"there is no value {name!r}: {nearest(name, known)}")
            graph = Graph(self, opened)
            if self.plan.complete and not self.plan.in_place:
                graph.overwritten = set()
            elif self.plan.complete:
                graph.overwritten = Plan(self, self._form.value, opened=opened, watch=names.values()).overwritten
            run = Program(graph, tuple(dict.fromkeys(names.values()))).function()
            self._features[wanted] = lambda net, x: {end: got[names[end]] for got in (run(net, x),) for end in wanted}
        if x.shape[1:] not in self._verified:
            self._verify(x)
        return self._features[wanted](self, x)

    def _position(self, k: int) -> str:
        n = len(self)
        if not -n - 1 <= k <= n:
            raise ChainError(
                f"this chain has {n} layer{'s' * (n != 1)}, so its values are 0 to {n}: there is no value {k}"
            )
        k %= n + 1
        return "input" if k == 0 else self._keys[k - 1]

    @property
    def values(self) -> tuple[str, ...]:
        """The names of all values in order, those inside nested chains included."""
        return tuple(node.name for node in Graph(self, edit.nested(self)).nodes)

    @property
    def code(self) -> str:
        """The forward as Python: what runs, and what one would have written by hand."""
        self._need_closed("code")
        return self._source

    # -- structure -----------------------------------------------------------------------------------------------------

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

    def __getitem__(self, which: int | str | slice) -> Any:
        if isinstance(which, slice):
            return edit.cut(self, which)
        if isinstance(which, str) and "." in which:
            head, rest = which.split(".", 1)
            return self[head][rest]
        return unwrap(self._modules[self._keys[self._index(which)]])

    def without(self, *shortcuts: str | Shortcut) -> Chain:
        """A chain of the same layers without some shortcuts, given by name or as they are in ``net.wiring``.

        One inside a nested chain is named after its place, ``"1.input->output"``. Raises ``ChainError`` for one that is
        not there, and ``ShapeError`` where a layer's width depends on it. An activation after its merge stays, as a
        layer ``act_<name>``.
        """
        return edit.without(self, *shortcuts)

    def plain(self) -> Chain:
        """The plain twin: the same layers without any shortcut, also in nested chains.

        An activation after a merge stays, as a layer of its own (``act_<name>``), as in the plain nets of 1512.03385.
        Layers are shared with this chain, except those whose width was written ``...`` and changes when nothing is
        concatenated any more: they are made anew. For an independent control, take ``copy.deepcopy(net.plain())``.
        """
        return edit.plain(self)

    def rewire(self, wiring: Wiring) -> Chain:
        """A chain of the same layers with another wiring. Shortcuts that stay keep their parameters."""
        return edit.rewire(self, wiring)

    def insert(self, before: int | str, layer: Any, name: str | None = None) -> Chain:
        """A chain with one more layer, before the one given by position or name. No shortcut shifts: each keeps
        joining the outputs of the same layers."""
        return edit.insert(self, before, layer, name)

    def replace(self, which: int | str, layer: Any) -> Chain:
        """A chain with another layer in the place of the one given by position or name."""
        return edit.replace_layer(self, which, layer)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self.__dict__.get("_keys", ()):
            self._put(name, value)
        else:
            super().__setattr__(name, value)

    def __setitem__(self, which: int | str, layer: Any) -> None:
        self._put(self._keys[self._index(which)], layer)

    def add_module(self, name: str, module: nn.Module | None) -> None:
        if name in self.__dict__.get("_keys", ()):
            self._put(name, module)
        else:
            super().add_module(name, module)

    def _put(self, key: str, layer: Any) -> None:
        """Another layer in the place of one, in this very chain; it stays as it was if that does not fit."""
        held = self._modules[key]
        self._modules[key] = adopt(layer, f"layer {key!r} ({self.source})")
        plan = self._settle(UNKNOWN, True, strict=False, remake=True)
        if plan.problems:
            self._modules[key] = held
            self._settle(UNKNOWN, True, strict=False)
            plan.check()
        plan.take_result()
        for parent in list(self._parents):
            parent._changed()

    def __delattr__(self, name: str) -> None:
        if name in self.__dict__.get("_keys", ()):
            raise ChainError(
                f"a layer cannot be deleted from a chain ({self.source}): make a new chain, net[:2] or Chain(...)"
            )
        super().__delattr__(name)

    def __delitem__(self, which: int | str) -> None:
        delattr(self, self._keys[self._index(which)])

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

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Chain:
        self._need_closed("parameters to move")
        return super()._apply(fn, recurse)

    def __getstate__(self) -> dict[str, Any]:
        dropped = ("_parents", "_plan", "_run", "_run_checked", "_run_hooked", "_features", "_source", "_opened")
        return {k: v for k, v in self.__dict__.items() if k not in dropped}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._plan, self._parents = None, weakref.WeakSet()
        self._adopt_children()
        self._compile()

    def __repr__(self) -> str:
        from .render.source import chain_code

        return chain_code(self)

    def __str__(self) -> str:
        from .render.text import table

        return table(self)


_tokens = itertools.count()


def _one_sample(net: Chain, x: Tensor) -> Tensor:
    """One sample without a batch axis: layers that count axes from the front need one."""
    return net(x[None])[0]


def _unready(*_: Any) -> Any:
    raise OpenChainError("this chain is part of another one, or open: it has no forward of its own")


class Skip(Chain):
    """A chain of layers with one shortcut around them, from its input to its output.

    The options are those of :class:`Shortcut`.

    >>> from skipway import Dense, relu
    >>> Skip(Dense(5, 5, relu)).wiring
    (Shortcut('input', 'output'),)
    >>> Skip(Dense(5, 7, relu), merge="cat")(torch.zeros(2, 5)).shape
    torch.Size([2, 12])
    """

    _options = ("input", "merge", "path", "act", "scale", "path_scale", "drop")

    def __init__(
        self,
        /,
        *layers: Any,
        merge: str | Merge | Callable[..., Tensor] = "add",
        path: str | Path | Callable[..., Tensor] = "identity",
        act: Callable[..., Tensor] | None = None,
        scale: float | Learned | None = None,
        path_scale: float | Learned | None = None,
        drop: float | Drop = 0.0,
        input: Sequence[int] | int | None = None,
        **named_layers: Any,
    ) -> None:
        around = Shortcut(
            "input", "output", merge=merge, path=path, act=act, scale=scale, path_scale=path_scale, drop=drop
        )  # fmt: skip
        super().__init__(*layers, input=input, wiring=[around], **named_layers)


def IdentitySkip(*layers: Any, **options: Any) -> Skip:
    """``Skip(..., merge="add")``: the input is added to what the layers make of it."""
    return Skip(*layers, **{"merge": "add", **options})


def CatSkip(*layers: Any, **options: Any) -> Skip:
    """``Skip(..., merge="cat")``: the input is concatenated to what the layers make of it."""
    return Skip(*layers, **{"merge": "cat", **options})
