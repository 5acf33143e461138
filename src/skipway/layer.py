"""What layers of skipway have in common: a width that may still be open, code that makes them again, ties."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Iterator
from types import EllipsisType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .errors import ChainError, OpenChainError, caller
from .functional import softmax
from .value import Value
from .wrap import Wrapped, callable_code

Act = Callable[[Tensor], Tensor]
Width = int | EllipsisType


class Layer:
    """What a width-inferring layer adds to ``nn.Module``: it may be open, and a value that arrives can close it.

    A layer of your own joins in by deriving from this and defining the three members.
    """

    source: str = "unknown"

    @property
    def is_open(self) -> bool:
        """Whether the layer still waits for the width of what arrives."""
        return False

    def build(self, value: Value) -> None:
        """Create the parameters for what arrives. Raises ``ChainError`` where it cannot fit."""

    @property
    def inferred(self) -> bool:
        """Whether the width was written ``...``."""
        return False

    def reopened(self) -> Layer:
        """The same layer waiting for its width again, without weights. Only for one whose width was inferred."""
        twin = copy.deepcopy(self)
        for held in (twin._parameters, twin._buffers):  # type: ignore[attr-defined]
            for name in held:
                held[name] = None
        setattr(twin, self._width_name, ...)
        twin._wait()
        return twin

    def _wait(self) -> None:
        """Refuse to run until the width is known. On the object, so that a closed layer pays nothing for it."""
        self.__dict__["forward"] = self._still_open

    def _close(self) -> None:
        self.__dict__.pop("forward", None)

    def _still_open(self, *_: Any) -> Any:
        raise OpenChainError(
            f"{self.code()} ({self.source}) still waits for the width of what arrives: put it into a Chain directly "
            f"(inside nn.Sequential it sees nothing), or write the width"
        )

    _width_name = ""

    def code(self) -> str:
        """Python that makes the layer again (with fresh weights)."""
        return module_code(self)


def check_width(what: str, value: object, *, open_ok: bool = True) -> None:
    if value is ... and open_ok:
        return
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        shown = "..." if value is ... else repr(value)
        hint = " or ... (whatever arrives)" if open_ok else ""
        raise ChainError(f"{what} must be a positive whole number{hint}, not {shown} ({caller()})")


def check_act(what: str, act: object) -> None:
    if act is not None and not callable(act):
        raise ChainError(
            f"{what}: the activation must be callable, such as relu, not {act!r} ({caller()}); "
            f"options like bias= are given by name"
        )


def act_code(act: object) -> str:
    if isinstance(act, Wrapped):
        act = act.fn
    if isinstance(act, functools.partial) and act.func is softmax:
        return "softmax"
    return module_code(act) if isinstance(act, nn.Module) else callable_code(act)


def hold_act(owner: nn.Module, act: Act | None) -> None:
    """Keep an activation on a layer: a module or a callable that holds parameters is registered with it."""
    if act is not None and not isinstance(act, nn.Module):
        wrapped = Wrapped(act)
        act = act if wrapped.stateless else wrapped
    owner.act = act  # type: ignore[assignment]


def tie(layer: Any) -> Any:
    """Allow one layer object at several places: its weights are shared on purpose.

    Without it the same object twice is an error, since ``[Dense(5, 5)] * 3`` is three times one layer.

    >>> from skipway import Chain, Dense
    >>> shared = tie(Dense(5, 5))
    >>> sum(p.numel() for p in Chain(shared, shared, shared).parameters())
    30
    """
    if isinstance(layer, nn.Module):
        layer.skipway_tied = True  # type: ignore[assignment]
        return layer
    wrapped = Wrapped(layer)
    wrapped.skipway_tied = True  # type: ignore[assignment]
    return wrapped


def is_tied(module: nn.Module) -> bool:
    return bool(getattr(module, "skipway_tied", False))


def parameters_made(module: nn.Module) -> Iterator[nn.Parameter]:
    """The parameters that exist, also in chains that are still open."""
    return (p for m in module.modules() for p in m._parameters.values() if p is not None)


def module_code(module: Any) -> str:
    """Python that makes a module again, with fresh weights; its own repr where that cannot be worked out."""
    if isinstance(module, Wrapped):
        return callable_code(module.fn)
    if isinstance(module, Layer) and type(module).code is not Layer.code:
        return module.code()
    name = type(module).__name__
    if type(module).__module__.startswith("torch.nn"):
        name = f"nn.{name}"
    if isinstance(module, (nn.Sequential, nn.ModuleList)):
        return f"{name}({', '.join(module_code(m) for m in module)})"
    args = []
    if isinstance(module, nn.RNNBase):
        return f"nn.{module!r}"
    for parameter in list(inspect.signature(type(module).__init__).parameters.values())[1:]:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD) or parameter.name in ("device", "dtype"):
            continue
        missing = object()
        held = getattr(module, parameter.name, missing)
        if held is missing and parameter.default is not parameter.empty:
            continue
        if held is missing or isinstance(held, nn.Module):
            return " ".join(repr(module).split())
        if parameter.name == "bias" and (held is None or isinstance(held, Tensor)):
            held = held is not None
        if parameter.name == "num_features" and getattr(module, "_inferred", False):
            held = ...
        if parameter.default is not parameter.empty and _same(held, parameter.default):
            continue
        shown = "..." if held is ... else repr(held)
        args.append(shown if parameter.default is parameter.empty else f"{parameter.name}={shown}")
    return f"{name}({', '.join(args)})"


def _same(held: Any, default: Any) -> bool:
    if isinstance(held, tuple) and held and all(h == held[0] for h in held):
        return held == default or held[0] == default
    return type(held) in (type(default), bool, int, float) and held == default


def softmax_ends(act: object) -> bool:
    """Whether an activation gives probabilities."""
    if isinstance(act, functools.partial):
        return softmax_ends(act.func)
    return act in (softmax, torch.softmax, F.softmax) or isinstance(act, nn.Softmax)
