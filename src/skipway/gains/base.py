"""What gains have in common, and the learned scale."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import nn

from skipway.errors import ChainError, Misfit, OpenChainError
from skipway.value import Value, show

#: what a gain is where a shortcut works: multiplied by, or (a module) called on the value
GainFn = float | nn.Parameter | nn.Module


@dataclass(frozen=True)
class Gain:
    """Base of the gains. Derive from it to add one that depends on the shape of what it multiplies."""

    def make(self, value: Value) -> GainFn:
        """What multiplies ``value``: a number, a parameter, or a module that is called on it."""
        raise ChainError(f"{type(self).__name__} derives from Gain and has to define make(value)")

    def at(self, depth: int, of: int) -> Gain:
        """The gain of the ``depth``-th of ``of`` shortcuts of a pattern; the same everywhere, unless it says so."""
        return self


@dataclass(frozen=True)
class Learned(Gain):
    """A learned scale, starting at ``init``: one number (ReZero, 2003.04887; SkipInit, 2002.10444), or one a channel
    (LayerScale, 2103.17239).

    Optimizers that skipway makes give it no weight decay; see :func:`undecayed` for your own.

    >>> from skipway import Skip, Dense
    >>> Skip(Dense(4, 4), scale=Learned(0.0)).shortcuts["input->output"].scale.tolist()
    0.0
    """

    init: float | Callable[[int, int], float] = 0.0
    per: Literal["tensor", "channel"] = "tensor"

    def __post_init__(self) -> None:
        if not is_number(self.init) and not is_schedule(self.init):
            raise ChainError(f"Learned: init must be a finite number, not {self.init!r}")
        if self.per not in ("tensor", "channel"):
            raise ChainError(f'Learned: per is "tensor" or "channel", not {self.per!r}')

    def at(self, depth: int, of: int) -> Learned:
        return replace(self, init=at_depth(self.init, depth, of))

    def make(self, value: Value) -> nn.Parameter:
        """The parameter for what it multiplies: ``()``, or ``(C,)`` shaped to lie along the feature axis."""
        no_schedule("Learned: init", self.init)
        start = float(self.init)  # type: ignore[arg-type]
        if self.per == "tensor":
            return nn.Parameter(torch.tensor(start))
        need_features('Learned(per="channel")', value)
        assert value.width is not None
        assert value.axis is not None
        return nn.Parameter(torch.full((value.width, *[1] * (-1 - value.axis)), start))


def need_features(what: str, value: Value) -> None:
    """Raise where it is not known how many features there are, or on which axis."""
    if value and value.axis is None:
        raise Misfit(f"{what} cannot tell the feature axis of {show(value.shape)}", "put a Dense or a Conv before it")
    if value.width is None:
        raise OpenChainError(f"{what} needs the width of what it multiplies")


def is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)


def is_schedule(value: Any) -> bool:
    """Whether a value is a schedule over depth: a function of (l, L), such as :class:`~skipway.gains.Ramp`."""
    return callable(value) and not isinstance(value, (nn.Module, type))


def at_depth(value: Any, depth: int, of: int) -> Any:
    """A value, or what a schedule over depth gives for the ``depth``-th of ``of`` shortcuts."""
    if isinstance(value, Gain) or hasattr(value, "at"):
        return value.at(depth, of)
    return value(depth, of) if is_schedule(value) else value


def from_class(recipe: Any) -> Any:
    """The recipe of a class that was not called, if it needs nothing said."""
    try:
        return recipe()
    except TypeError:
        name = recipe.__name__
        raise ChainError(f"{name} is a class that has something to be said: write {name}(...)") from None


def no_schedule(what: str, value: Any) -> None:
    if is_schedule(value):
        raise ChainError(
            f"{what} is a schedule over depth, and one shortcut alone has no depth: give it to scale=, path_scale= or "
            f"drop= of a pattern such as every(1, ...), or say its value here"
        )


def as_scale(scale: Any) -> float | Gain | nn.Module | Callable[..., Any] | None:
    """``scale=`` as given on a shortcut: ``None``, a finite number, a gain, or a module that is called on the value."""
    if scale is None or isinstance(scale, (Gain, nn.Module)):
        return scale
    if isinstance(scale, type) and issubclass(scale, Gain):
        return from_class(scale)
    if is_schedule(scale):
        name = getattr(scale, "__name__", None) or repr(scale)
        raise ChainError(
            f"the scale is the function {name}: one of depth (l, L) belongs in a pattern such as every(1, scale=...), "
            f"one that makes a gain has to be called, and one of the value has to be a module, such as nn.Sigmoid()"
        )
    if not is_number(scale):
        raise ChainError(f"a scale is a finite number, Learned(init), another gain or a module, not {scale!r}")
    return float(scale)


def undecayed(net: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """The gains of a net by name: parameters that weight decay would pull to where the net says nothing.

    Modules of your own join in by naming such parameters in a class attribute ``no_decay``.

    >>> from skipway import Skip, Conv
    >>> [name for name, _ in undecayed(Skip(Conv(2, 2, 1), scale=Learned(1e-6, per="channel")))]
    ['shortcuts.input->output.scale']
    """
    for prefix, module in net.named_modules():
        for name in getattr(type(module), "no_decay", ()):
            held = module._parameters.get(name)
            if held is not None:
                yield (f"{prefix}.{name}" if prefix else name), held
