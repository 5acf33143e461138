"""The merges that are one operation, element by element."""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from skipway.value import Value

from .base import Merge, MergeFn


def _add(branch: Tensor, shortcut: Tensor) -> Tensor:
    return branch + shortcut


def _mul(branch: Tensor, shortcut: Tensor) -> Tensor:
    return branch * shortcut


def _sub(branch: Tensor, shortcut: Tensor) -> Tensor:
    return shortcut - branch


def _replace(branch: Tensor, shortcut: Tensor) -> Tensor:
    return shortcut


def _mean(branch: Tensor, shortcut: Tensor) -> Tensor:
    return (branch + shortcut) * 0.5


def mean_of(values: Sequence[Tensor]) -> Tensor:
    """The mean of tensors, in the memory format they have, and without a copy of all of them."""
    return functools.reduce(operator.add, values) / len(values)


@dataclass(frozen=True)
class Add(Merge):
    """``branch + shortcut`` (1512.03385). The default."""

    def make(self, branch: Value, shortcut: Value) -> MergeFn:
        return _add

    def code(self, branch: str, shortcut: str) -> str:
        return f"{branch} + {shortcut}"


@dataclass(frozen=True)
class Mul(Merge):
    """``branch * shortcut``."""

    def make(self, branch: Value, shortcut: Value) -> MergeFn:
        return _mul

    def code(self, branch: str, shortcut: str) -> str:
        return f"{branch} * {shortcut}"


@dataclass(frozen=True)
class Sub(Merge):
    """``shortcut - branch``: what the branch has explained is taken away (the backcast of N-BEATS, 1905.10437)."""

    sided: ClassVar[bool] = True

    def make(self, branch: Value, shortcut: Value) -> MergeFn:
        return _sub

    def code(self, branch: str, shortcut: str) -> str:
        return f"{shortcut} - {branch}"


@dataclass(frozen=True)
class Replace(Merge):
    """The shortcut alone: the chain goes on from an earlier value, whatever the branch made and of any shape.

    So a chain can go back to a value it had before, as FPN and U-Net++ do between their levels. What only the branch
    would have read is computed for other shortcuts to tap, or for nothing.
    """

    sided: ClassVar[bool] = True
    widens: ClassVar[bool] = True

    def check(self, branch: Value, shortcut: Value) -> None:
        pass

    def make(self, branch: Value, shortcut: Value) -> MergeFn:
        return _replace

    def code(self, branch: str, shortcut: str) -> str:
        return shortcut


@dataclass(frozen=True)
class Mean(Merge):
    """The mean of the two; of all of them in :class:`~skipway.Parallel` (the join of 1605.07648)."""

    def make(self, branch: Value, shortcut: Value) -> MergeFn:
        return _mean

    def code(self, branch: str, shortcut: str) -> str:
        return f"({branch} + {shortcut}) * 0.5"

    def many(self, values: Sequence[Tensor]) -> Tensor:
        return mean_of(values)


@dataclass(frozen=True)
class Max(Merge):
    """The larger of the two, element by element (maxout, 1302.4389)."""

    def make(self, branch: Value, shortcut: Value) -> MergeFn:
        return torch.maximum

    def code(self, branch: str, shortcut: str) -> str:
        return f"torch.maximum({branch}, {shortcut})"
