"""What merges have in common: recipes that know the shapes that meet."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from skipway.errors import ChainError, Misfit, OpenChainError
from skipway.value import Value, show

MergeFn = Callable[..., Tensor]


@dataclass(frozen=True)
class Merge:
    """Base of the merges. Derive from it to add one whose result depends on the shapes that meet."""

    #: whether neighbouring shortcuts into one value merge at once, since each weight depends on how many there are
    joint: ClassVar[bool] = False
    #: whether the two sides play different parts, so that there is no such merge of equal branches
    sided: ClassVar[bool] = False

    #: whether the result may be wider than the branch, so that shapes need not be equal
    widens: ClassVar[bool] = False

    def target(self, branch: Value, start: Value) -> Value:
        """What the shortcut has to look like to meet ``branch``: a projection aims at this."""
        return branch

    def check(self, branch: Value, shortcut: Value) -> None:
        """Raise :class:`Misfit` where the two do not fit. Equal shapes, unless a merge says otherwise."""
        if clash(branch, shortcut):
            raise Misfit(
                f"{self.word} needs equal shapes, and {both_shapes(branch, shortcut)}", fix_for(branch, shortcut)
            )

    def make(self, branch: Value, shortcut: Value) -> MergeFn:
        """The function or module that merges here. Parameters, if any, are created now."""
        raise ChainError(f"{type(self).__name__} derives from Merge and has to define make(branch, shortcut)")

    def make_many(self, count: int) -> MergeFn:
        """For a ``joint`` merge: the function or module that merges ``count`` values, the branch first.

        A module that learns has a method ``select(places)`` besides: a new one for the values at these places of its
        own, ``None`` for a new value, so that the others keep what was learned when one is left out.
        """
        raise ChainError(f"{type(self).__name__} is a joint merge and has to define make_many(count)")

    def code(self, branch: str, shortcut: str) -> str | None:
        """The merge as a Python expression of two operands, where it is one."""
        return None

    def many(self, values: Sequence[Tensor]) -> Tensor:
        """Merge any number of values, as :class:`~skipway.Parallel` does: one onto the other, from the left."""
        merge = self.make(Value(), Value())
        result = values[0]
        for value in values[1:]:
            result = merge(result, value)
        return result

    @property
    def word(self) -> str:
        return type(self).__name__.lower()


def feature_axis(what: str, *values: Value) -> int:
    """The axis that holds the features, counted from the end: of the first value that has one."""
    for value in values:
        if value.axis is not None:
            return value.axis
    known = next((value for value in values if value), None)
    if known is None:
        raise OpenChainError(f"{what} needs the shapes that meet, to tell the feature axis")
    raise Misfit(f"{what} cannot tell the feature axis of {show(known.shape)}", "put a Dense or a Conv before it")


def clash(a: Value, b: Value, but: int | None = None) -> bool:
    """Whether two shapes differ, but for one axis: at every size that is tried."""
    if not a or len(a.trials) != len(b.trials):
        return False

    def sizes(t: Tensor) -> list[int]:
        kept = list(t.shape[1:])
        if but is not None and -len(kept) <= but:
            del kept[but]
        return kept

    return all(s.dim() != t.dim() or sizes(s) != sizes(t) for s, t in zip(a.trials, b.trials, strict=True))


def both_shapes(branch: Value, shortcut: Value) -> str:
    """Both shapes; where the size is not known, as they come out for the first size that is tried."""
    b, s = tuple(branch.trials[0].shape[1:]), tuple(shortcut.trials[0].shape[1:])
    tried = ", for instance" if len(branch.trials) > 1 and b != branch.shape else ""
    return f"the branch is {show(b)}, the shortcut {show(s)}{tried}"


def fix_for(branch: Value, shortcut: Value) -> str:
    b, s = tuple(branch.trials[0].shape[1:]), tuple(shortcut.trials[0].shape[1:])
    if len(b) != len(s):
        return 'give both the same number of dimensions, or bring the shortcut there with path="project" or a module'
    axis = branch.axis if branch.axis is not None else shortcut.axis
    size = [i for i in range(len(b)) if i - len(b) != axis and b[i] != s[i]]
    if not size:
        return 'add path="project"'
    known = [(b[i], s[i]) for i in size]
    if known and all(n >= m and -(-n // max(1, round(n / m))) == m for m, n in known):
        return 'add path="project" (a strided one follows from the two shapes)'
    if known and all(n > m for m, n in known):
        return 'give the layers between padding that keeps the size, or say path="crop"'
    return 'give an input whose size the layers between halve and double back exactly, or say path="resize"'
