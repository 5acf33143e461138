"""Sums with weights that are learned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from skipway.errors import ChainError, nearest
from skipway.value import Value

from .base import Merge, MergeFn

By = Literal["free", "softmax", "positive"]
Init = Literal["branch", "sum", "mean"]


@dataclass(frozen=True)
class Weighted(Merge):
    """A sum with a learned weight for each value: for the branch, and for every shortcut that ends here with this
    merge.

    ``dense(merge=Weighted())`` is DenseFormer (2402.02622), which begins as the chain without shortcuts;
    ``dense(merge=Weighted("softmax", init="branch"))`` weighs as ELC-BERT does (2311.02265); ``Skip(...,
    merge=Weighted(init="sum"))`` is LAuReL-RW (2411.07501), which begins as the residual; ``Weighted("positive")`` is
    the fast normalised fusion of BiFPN (1911.09070). Also the merge of a :class:`~skipway.Parallel`.

    Parameters
    ----------
    by:
        what a weight is of its parameter w: ``"free"`` w itself, ``"softmax"`` its share ``exp(w) / sum(exp(w))``,
        ``"positive"`` ``relu(w) / (eps + sum(relu(w)))``.
    init:
        how the weights begin: ``"branch"`` 1 for the branch and 0 for the rest (of the parameters, with ``"softmax"``),
        ``"mean"`` all equal with sum 1, ``"sum"`` all 1 (only with ``"free"``). By default ``"branch"`` for free
        weights, else ``"mean"``.

    >>> from skipway import Chain, Dense, dense
    >>> net = Chain(*[Dense(4, 4) for _ in range(12)], wiring=dense(merge=Weighted()))
    >>> sum(p.numel() for p in net.shortcuts.parameters())
    90
    """

    by: By = "free"
    init: Init | None = None

    joint: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.by not in ("free", "softmax", "positive"):
            words = ("free", "softmax", "positive")
            raise ChainError(
                f'Weighted: by is "free", "softmax" or "positive", not {self.by!r}: {nearest(str(self.by), words)}'
            )
        if self.init not in (None, "branch", "sum", "mean"):
            raise ChainError(f'Weighted: init is "branch", "mean" or "sum", not {self.init!r}')
        if self.init == "branch" and self.by == "positive":
            raise ChainError(
                'Weighted: positive weights that begin at 0 have no gradient and stay there: say init="mean"'
            )
        if self.init == "sum" and self.by != "free":
            raise ChainError(
                f'Weighted: weights {self.by!r} have the sum 1, and cannot begin with init="sum": say "mean"'
            )

    def make_many(self, count: int) -> MergeFn:
        init = self.init or ("branch" if self.by == "free" else "mean")
        return WeightedSum(count, self.by, init)

    def make(self, branch: Value, shortcut: Value) -> MergeFn:
        return self.make_many(2)


class WeightedSum(nn.Module):
    """A :class:`Weighted` at one place: as many tensors of one shape to their weighted sum."""

    no_decay = ("weights",)

    def __init__(self, count: int, by: By, init: Init) -> None:
        super().__init__()
        start = torch.ones(count)
        if init == "branch":
            start[1:] = 0.0
        elif init == "mean":
            start = torch.zeros(count) if by == "softmax" else start / (count if by == "free" else 1)
        self.by, self.init = by, init
        self.weights = nn.Parameter(start)

    def shares(self) -> Tensor:
        """What each value is multiplied by."""
        if self.by == "softmax":
            return self.weights.softmax(0)
        if self.by == "positive":
            kept = torch.relu(self.weights)
            return kept / (kept.sum() + 1e-4)
        return self.weights

    def select(self, places: Sequence[int | None]) -> WeightedSum:
        """The sum of the values at these places, with their weights; a new value (``None``) begins as it would."""
        made = WeightedSum(len(places), self.by, self.init)
        made.weights.requires_grad_(self.weights.requires_grad)
        with torch.no_grad():
            for i, place in enumerate(places):
                if place is not None:
                    made.weights[i] = self.weights[place]
        return made

    def forward(self, *values: Tensor) -> Tensor:
        shares = self.shares()
        result = values[0] * shares[0]
        for i, value in enumerate(values[1:], 1):
            result = result + value * shares[i]
        return result

    def extra_repr(self) -> str:
        return f"{len(self.weights)}, by={self.by!r}"
