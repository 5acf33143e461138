"""What the zoo knows of a net: how it is made, and what was published of it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from skipway import Chain

#: who says so
LIBRARIES = "torchvision 0.28, timm 1.0.31"
COUNTED = "an independent count from the description"


@dataclass(frozen=True)
class Figure:
    """A number that somebody published of a net.

    Attributes
    ----------
    what:
        one of :data:`skipway.zoo.published.QUANTITIES`.
    value:
        the number.
    source:
        who says so.
    options:
        of the net, besides what its name says.
    unit:
        the last place that is printed: a number is met if the net is within it. 0 for exact numbers.
    """

    what: str
    value: float
    source: str
    options: Mapping[str, Any] = field(default_factory=dict)
    unit: float = 0.0

    def met(self, actual: float) -> bool:
        return actual == self.value if not self.unit else abs(actual - self.value) < self.unit


def parameters(number: int, source: str, **options: Any) -> Figure:
    """An exact number of parameters.

    >>> parameters(138, "the number of weights it is known by").met(138)
    True
    """
    return Figure("parameters", number, source, options)


@dataclass(frozen=True)
class Entry:
    """A function that makes nets, with what a name already says of them, and what was published of that net."""

    function: Callable[..., Chain]
    says: Mapping[str, Any] = field(default_factory=dict)
    figures: Sequence[Figure] = ()

    @property
    def options(self) -> list[str]:
        """Options that are left to say."""
        return [name for name in inspect.signature(self.function).parameters if name not in self.says]


__all__ = ["COUNTED", "LIBRARIES", "Entry", "Figure", "parameters"]
