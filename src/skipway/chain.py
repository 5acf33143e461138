"""Chain and Skip: layers and a wiring, made into one module."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from typing import Any

from torch import Tensor, nn

from . import edit
from .emit import Program
from .engines import Use, uses
from .errors import ChainError, nearest
from .gains import Drop, Gain, ShakeDrop, undecayed
from .graph import Graph
from .merges import Merge
from .paths import Path
from .plan import Plan
from .planned import Planned
from .sequential import from_sequential
from .shortcut import End, Shortcut
from .spine import adopt, unwrap
from .value import UNKNOWN, Value
from .wiring import Wiring


class Chain(Planned):
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

    >>> import torch
    >>> from skipway import Chain, Dense, every, relu
    >>> net = Chain(Dense(10, 5, relu), Dense(5, 4, relu), Dense(4, 2, relu), wiring=every(1, path="project"))
    >>> net(torch.zeros(3, 10)).shape
    torch.Size([3, 2])
    >>> net.wiring
    (Shortcut(0, 1, path='project'), Shortcut(1, 2, path='project'), Shortcut(2, 3, path='project'))
    """

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

    @classmethod
    def from_sequential(
        cls,
        sequential: nn.Sequential,
        wiring: Wiring = (),
        input: Sequence[int] | int | None = None,
        nested: bool = False,
    ) -> Chain:
        """A chain of the layers of an ``nn.Sequential``, which it shares: their weights, names, hooks and mode.

        Parameters
        ----------
        sequential:
            the row of layers. Names that it was given stay names; others go by their position.
        wiring, input:
            as for :class:`Chain`.
        nested:
            make every ``nn.Sequential`` inside a chain too. Those that the wiring reaches into by a dotted name become
            chains in any case; others stay one layer.

        Its ``state_dict`` has the keys of the Sequential's, and besides them what the shortcuts own.

        Raises
        ------
        ChainError
            for anything but an ``nn.Sequential`` with torch's own forward and nothing beside its layers, for names that
            a chain has for itself, and for what does not fit, as :class:`Chain` does.

        >>> layers = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4))
        >>> net = Chain.from_sequential(layers, wiring=[Shortcut("input", "output")])
        >>> net[0] is layers[0], list(net.state_dict()) == list(layers.state_dict())
        (True, True)
        """
        if cls is not Chain:
            raise ChainError(
                f"{cls.__name__}.from_sequential: only Chain has it: write Chain.from_sequential(..., wiring=...)"
            )
        return from_sequential(sequential, wiring, input, nested)

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

        >>> import torch
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
        """The forward as Python: what runs, and what one would have written by hand.

        In eager mode, dense layers that nothing watches run without the call: ``F.linear`` on their parameters.
        """
        self._need_closed("code")
        return self._source

    @property
    def engines(self) -> tuple[Use, ...]:
        """The parts, also of chains inside, that a faster executor can run while they train, or why it does not.

        ``net.code`` is what runs everywhere else. :func:`skipway.engines.use_engines` is the switch.
        """
        self._need_closed("engines")
        return uses(self)

    def no_weight_decay(self) -> set[str]:
        """The names of parameters that are gains, which weight decay would pull to where they say nothing.

        The optimizers of :func:`skipway.fit` heed it; under this name, other training code asks for it too.

        >>> from skipway import Dense, Learned, Skip
        >>> Skip(Dense(2, 2), scale=Learned(0.0)).no_weight_decay()
        {'shortcuts.input->output.scale'}
        """
        return {name for name, _ in undecayed(self)}

    # -- other chains of these layers ----------------------------------------------------------------------------------

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

    def __repr__(self) -> str:
        from .render.source import chain_code

        return chain_code(self)

    def __str__(self) -> str:
        from .render.text import table

        return table(self)

    def _repr_html_(self) -> str:
        from .render.draw import in_notebook

        return in_notebook(self)

    def draw(self, path: str | PathLike[str] | None = None, **options: Any) -> str:
        """Draw the chain as an arc diagram: layers along a line, shortcuts as arches over it. Nothing is run.

        Parameters
        ----------
        path:
            a file whose name ends with ``.svg``, ``.png``, or ``.html`` for a page to explore (search, fold, paths
            through a shortcut; it needs no network). Without it, the SVG is returned.
        direction:
            ``"horizontal"``, ``"vertical"``, or ``"auto"``: horizontal unless it becomes too wide.
        theme:
            ``"light"``, ``"dark"``, or ``"auto"``: what the reader's system prefers (light for PNG).
        fold:
            ``True`` draws repeated blocks once, ``False`` draws every layer; by default only what would be too long
            is shortened: repeats, norms and activations beside their layer, nested chains, the middle.
        legend, title:
            whether to explain the signs; what stands above, ``""`` for nothing.

        Returns the path, or the SVG. Raises ``ChainError`` for another ending, an unknown word, or no such folder.

        >>> from skipway import Dense
        >>> Skip(Dense(4, 4)).draw().count('class="sign"')
        2
        """
        from .render.draw import draw

        return draw(self, path, **options)


class Skip(Chain):
    """A chain of layers with one shortcut around them, from its input to its output.

    The options are those of :class:`Shortcut`.

    >>> import torch
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
        path: str | Path | Callable[..., Tensor] | Sequence[Any] = "identity",
        act: Callable[..., Tensor] | None = None,
        scale: float | Gain | nn.Module | None = None,
        path_scale: float | Gain | nn.Module | None = None,
        drop: float | Drop | ShakeDrop = 0.0,
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
