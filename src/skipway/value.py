"""What the plan knows of a value on its way through a chain: its shape, and which axis holds the features.

Shapes never include the batch axis. A value is carried by tensors on the meta device, so nothing is computed. Where the
height and width of an image are not known, two different trial sizes travel side by side: a dimension on which they
agree does not depend on the size, and is known; one on which they differ prints as ``?``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Shape = tuple[int | None, ...]
Layout = Literal["first", "last"]

#: Rows of the dry run. Two, so that nothing mistakes the batch for a dimension of size one.
BATCH = 2
#: Sizes tried for spatial dimensions that are not known. Both divide by 32, as five halvings need.
TRIAL_SIZES = (224, 256)


@dataclass(frozen=True, eq=False)
class Value:
    """A value of the chain: one meta tensor for each trial (none: nothing is known), and the layout of its features."""

    trials: tuple[Tensor, ...] = ()
    layout: Layout | None = None

    @classmethod
    def of(cls, shape: Sequence[int], layout: Layout | None = None, dtype: torch.dtype | None = None) -> Value:
        """A value whose whole shape is known."""
        return cls((torch.empty((BATCH, *shape), device="meta", dtype=dtype),), layout)

    @classmethod
    def channels(cls, width: int, dims: int) -> Value:
        """Channels first, of known width and unknown size."""
        return cls(tuple(torch.empty((BATCH, width, *[s] * dims), device="meta") for s in TRIAL_SIZES), "first")

    @property
    def form(self) -> Form:
        """What is known, without the tensors: this is what a plan keeps."""
        return Form(tuple(tuple(t.shape[1:]) for t in self.trials), self.layout, self.trials[0].dtype if self else None)

    def __bool__(self) -> bool:
        return bool(self.trials)

    @property
    def shape(self) -> Shape | None:
        """The shape without the batch axis, ``None`` where trials differ; ``None`` as a whole when unknown."""
        return self.form.shape

    @property
    def axis(self) -> int | None:
        """The feature axis, counted from the end (so that it holds with and without a batch axis)."""
        if not self.trials:
            return None
        ndim = self.trials[0].dim() - 1
        if ndim <= 1:
            return -1
        return {"first": -ndim, "last": -1, None: None}[self.layout]

    @property
    def width(self) -> int | None:
        """The number of features."""
        shape, axis = self.shape, self.axis
        return shape[axis] if shape and axis is not None else None

    def same(self, other: Value) -> bool:
        """Whether both are known and equal in shape, at every trial size."""
        return bool(self) and [t.shape for t in self.trials] == [t.shape for t in other.trials]

    def like(self, trials: Sequence[Tensor]) -> Value:
        """The same layout with other tensors."""
        return Value(tuple(trials), self.layout)


@dataclass(frozen=True)
class Form:
    """The shape of a value, as plain data."""

    sizes: tuple[tuple[int, ...], ...] = ()
    layout: Layout | None = None
    dtype: torch.dtype | None = None

    @property
    def value(self) -> Value:
        """Fresh meta tensors of this form."""
        return Value(tuple(Value.of(s, dtype=self.dtype).trials[0] for s in self.sizes), self.layout)

    @property
    def shape(self) -> Shape | None:
        if not self.sizes or len({len(s) for s in self.sizes}) > 1:
            return None
        return tuple(d[0] if len(set(d)) == 1 else None for d in zip(*self.sizes, strict=True))

    def __str__(self) -> str:
        return show(self.shape)


UNKNOWN = Value()


def show(shape: Shape | None) -> str:
    """``(N, 16, ?, ?)``: a shape as users read it.

    >>> show((16, None)), show(None)
    ('(N, 16, ?)', '(N, ...)')
    """
    if shape is None:
        return "(N, ...)"
    return "(" + ", ".join(["N", *("?" if d is None else str(d) for d in shape)]) + ")"
