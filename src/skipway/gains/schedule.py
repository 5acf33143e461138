"""Gains that change: over depth, known when a pattern is laid out, and over the steps of training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from skipway.errors import ChainError
from skipway.layer import check_width
from skipway.value import Value

from .base import Gain, is_number


@dataclass(frozen=True)
class Ramp:
    """A schedule over depth: ``start + (end - start) l / L`` for the l-th of L shortcuts, l = 1 ... L.

    Patterns ask it for each of their shortcuts; any function of ``(l, L)`` works in its place. In a net of nested
    :class:`~skipway.Skip`, take :meth:`over`. ``Ramp(0, 0.5)`` is the linear stochastic depth of 1603.09382.

    Raises
    ------
    ChainError
        for ends that are no numbers, and when asked for a shortcut past the last.

    >>> from skipway import Drop, every
    >>> [s.drop.p for s in every(1, drop=Drop(Ramp(0.0, 0.5)))(4)]
    [0.125, 0.25, 0.375, 0.5]
    >>> Ramp(0.0, 0.5).over(2)
    [0.25, 0.5]
    """

    start: float
    end: float

    def __post_init__(self) -> None:
        if not is_number(self.start) or not is_number(self.end):
            raise ChainError(f"Ramp: start and end are finite numbers, not {self.start!r} and {self.end!r}")

    def __call__(self, depth: int, of: int) -> float:
        if not 1 <= depth <= of:
            raise ChainError(f"{self!r} goes over shortcuts 1 to {of}: there is no number {depth}")
        return self.start + (self.end - self.start) * depth / of

    def over(self, count: int) -> list[float]:
        """Its values for ``count`` shortcuts."""
        check_width("Ramp.over: the number of shortcuts", count, open_ok=False)
        return [self(depth, count) for depth in range(1, count + 1)]


@dataclass(frozen=True)
class Anneal(Gain):
    """A schedule over training: from ``start`` to ``end`` within ``steps`` steps, and ``end`` ever after.

    A step is one forward in training mode, counted in a buffer as batch norms count theirs, so that a resumed run goes
    on where it was. :func:`set_step` says it where that is not so, as with several forwards for one step of the
    optimizer.

    Parameters
    ----------
    start, end:
        what the value is multiplied by.
    steps:
        how many steps it takes.
    shape:
        ``"linear"``, or ``"cosine"`` for a slow beginning and end.

    >>> from skipway import Skip, Dense
    >>> net = Skip(Dense(2, 2), scale=Anneal(0.0, 1.0, steps=10))
    >>> gain = net.shortcuts["input->output"].scale
    >>> float(gain.value()), float(gain.set_step(5).value()), float(gain.set_step(99).value())
    (0.0, 0.5, 1.0)
    """

    start: float
    end: float
    steps: int
    shape: Literal["linear", "cosine"] = "linear"

    def __post_init__(self) -> None:
        word = type(self).__name__
        if not is_number(self.start) or not is_number(self.end):
            raise ChainError(f"{word}: start and end are finite numbers, not {self.start!r} and {self.end!r}")
        if isinstance(self.steps, bool) or not isinstance(self.steps, int) or self.steps < 1:
            raise ChainError(f"{word}: steps is a positive whole number, not {self.steps!r}")
        if self.shape not in ("linear", "cosine"):
            raise ChainError(f'{word}: shape is "linear" or "cosine", not {self.shape!r}')

    def make(self, value: Value) -> Annealed:
        return Annealed(self.start, self.end, self.steps, self.shape)


def Warmup(steps: int) -> Anneal:
    """From 0 to 1 over ``steps`` steps. With more steps the deeper the branch it is ProRes (2603.05369)::

        every(1, scale=lambda l, L: Warmup(1000 * l))

    >>> Warmup(1000)
    Anneal(start=0.0, end=1.0, steps=1000, shape='linear')
    """
    return Anneal(0.0, 1.0, steps)


class Stepped(nn.Module):
    """A module that knows the step of training: it counts its forwards in training mode."""

    step: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("step", torch.zeros((), dtype=torch.long))

    def set_step(self, step: int) -> Stepped:
        """Say the step: so many are done."""
        self.step.fill_(step)
        return self

    def count(self) -> None:
        # a forward inside a backward recomputes what activation checkpointing threw away: the step is the same
        if not self.training:
            return
        if torch.compiler.is_compiling():
            # a new tensor: the compiled backward computes the gain again, and must find the step of its forward
            self.step = self.step + 1
        elif torch._C._current_graph_task_id() == -1:
            self.step.add_(1)


class Annealed(Stepped):
    """An :class:`Anneal` at one place. Shapes: ``(N, *)`` to the same."""

    def __init__(self, start: float, end: float, steps: int, shape: str) -> None:
        super().__init__()
        self.start, self.end, self.steps, self.shape = start, end, steps, shape

    def value(self) -> Tensor:
        """What it multiplies by at this step."""
        done = (self.step / self.steps).clamp(max=1.0)
        if self.shape == "cosine":
            done = (1 - torch.cos(torch.pi * done)) / 2
        return self.start + (self.end - self.start) * done

    def forward(self, x: Tensor) -> Tensor:
        self.count()
        return x * self.value().to(x.dtype)

    def extra_repr(self) -> str:
        return f"{self.start}, {self.end}, steps={self.steps}, shape={self.shape!r}"


def set_step(net: nn.Module, step: int) -> None:
    """Tell every gain of a net that is scheduled over training that ``step`` steps are done.

    Raises ``ChainError`` for a step that is no whole number from 0 on.

    >>> from skipway import Skip, Dense
    >>> net = Skip(Dense(2, 2), scale=Warmup(100))
    >>> set_step(net, 25)
    >>> float(net.shortcuts["input->output"].scale.value())
    0.25
    """
    if not isinstance(net, nn.Module):
        raise ChainError(f"set_step tells the gains of a net the step, and {net!r} is no net: set_step(net, step)")
    if isinstance(step, bool) or not isinstance(step, int) or step < 0:
        raise ChainError(f"set_step: the step is a whole number from 0 on, not {step!r}")
    for module in net.modules():
        if isinstance(module, Stepped):
            module.set_step(step)
