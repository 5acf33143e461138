"""Random gains: a branch that is dropped, or shaken, in training. Each says its law in training and at test.

For every law here the mean over the draws is the law at test.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from skipway.errors import ChainError

from .base import at_depth, is_number, is_schedule, no_schedule
from .schedule import Stepped

Mode = Literal["row", "batch", "element"]


def check_mode(what: str, mode: object) -> None:
    if mode not in ("row", "batch", "element"):
        raise ChainError(f'{what}: mode is "row" (every sample), "batch" or "element", not {mode!r}')


def draw_shape(x: Tensor, mode: str) -> list[int]:
    """The shape of one draw for every sample, for the whole batch, or for every element."""
    if mode == "element":
        return list(x.shape)
    rows = x.shape[0] if mode == "row" and x.dim() else 1
    return [rows] + [1] * (x.dim() - 1)


def uniform(x: Tensor, mode: str, low: float = 0.0, high: float = 1.0) -> Tensor:
    """Numbers between ``low`` and ``high`` on the device of ``x``, one a draw."""
    # in single precision: half has too few steps between 0 and 1
    drawn = torch.rand(draw_shape(x, mode), device=x.device) * (high - low) + low
    return drawn.to(x.dtype)


def kept(x: Tensor, mode: str, keep: float | Tensor) -> Tensor:
    """Ones with probability ``keep``, else zeros, one a draw."""
    return (torch.rand(draw_shape(x, mode), device=x.device) < keep).to(x.dtype)


def with_backward(x: Tensor, forward: Tensor, backward: Tensor) -> Tensor:
    """``forward * x``, whose gradient is that of ``backward * x``.

    In torch's own operations, so that it is traced, compiled and transformed as they are.
    """
    still = x.detach()
    return still * forward + (x - still) * backward  # the difference is exactly zero


@dataclass(frozen=True)
class Drop:
    """Random drop of a branch.

    ======================  =======================================  ============================
    law                     in training, with probability 1 - p      at test
    ======================  =======================================  ============================
    ``"train-scale"``       ``branch / (1 - p)``, else 0             ``branch``
    ``"test-scale"``        ``branch``, else 0                       ``(1 - p) * branch``
    ======================  =======================================  ============================

    The first is DropPath as timm and torchvision have it, the second stochastic depth as in its paper (1603.09382). The
    mean over draws equals the test law in both.

    Parameters
    ----------
    p:
        the probability that the branch is dropped. In a pattern it may be a function of ``(l, L)``, such as ``Ramp(0,
        0.5)``: deeper branches are dropped more often.
    mode:
        ``"row"`` draws for every sample, ``"batch"`` once for all, ``"element"`` for every number (dropout).
    law:
        see the table.
    warmup:
        steps of training within which p grows from 0 to itself (ScheduledDropPath, 1707.07012); see
        :class:`~skipway.gains.Anneal` for what a step is. Only with ``"train-scale"``, whose test law does not change.
    """

    p: float | Any
    mode: Mode = "row"
    law: Literal["train-scale", "test-scale"] = "train-scale"
    warmup: int = 0

    def __post_init__(self) -> None:
        if not is_schedule(self.p) and not (is_number(self.p) and 0.0 <= self.p < 1.0):
            why = ": at 1 the branch would never be trained" if self.p == 1 else ", Drop(...) or ShakeDrop(...)"
            raise ChainError(f"drop must be a probability in [0, 1), not {self.p!r}{why}")
        check_mode("Drop", self.mode)
        if self.law not in ("train-scale", "test-scale"):
            raise ChainError(f'Drop: law is "train-scale" or "test-scale", not {self.law!r}')
        if isinstance(self.warmup, bool) or not isinstance(self.warmup, int) or self.warmup < 0:
            raise ChainError(f"Drop: warmup is a number of steps, not {self.warmup!r}")
        if self.warmup and self.law != "train-scale":
            raise ChainError(
                'Drop: warmup= needs law="train-scale": with "test-scale" the net at test would change too'
            )

    def at(self, depth: int, of: int) -> Drop:
        return replace(self, p=at_depth(self.p, depth, of))

    def make(self) -> nn.Module | None:
        no_schedule("Drop: p", self.p)
        if not self.p:
            return None
        return DropPath(self.p, self.mode, self.law, self.warmup)

    @property
    def drops(self) -> bool:
        """Whether the branch may be missing altogether."""
        return is_schedule(self.p) or self.p > 0


class DropPath(nn.Module):
    """Drops what passes through it at random; the laws are those of :class:`Drop`. Shapes: ``(N, *)`` to the same.

    >>> x = torch.ones(1000, 3)
    >>> dropped = DropPath(0.25)(x)
    >>> sorted(set(dropped[:, 0].tolist())) == [0.0, 1 / 0.75] or "float32 rounding"
    'float32 rounding'
    >>> bool((DropPath(0.25).eval()(x) == x).all())
    True
    """

    def __init__(self, p: float, mode: str = "row", law: str = "train-scale", warmup: int = 0) -> None:
        super().__init__()
        checked = Drop(p, mode, law, warmup)  # type: ignore[arg-type]
        no_schedule("DropPath: p", p)
        self.p, self.mode, self.law, self.warmup = checked.p, checked.mode, checked.law, checked.warmup
        self.grows = _Growing(self.p, self.warmup) if self.warmup else None

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x * (1.0 - self.p) if self.law == "test-scale" else x
        if self.grows is not None:
            keep = 1.0 - self.grows()
            return x * (kept(x, self.mode, keep) / keep.to(x.dtype))
        keep = 1.0 - self.p
        mask = kept(x, self.mode, keep)
        if self.law == "train-scale":
            mask = mask / keep
        return x * mask

    def extra_repr(self) -> str:
        warmup = f", warmup={self.warmup}" if self.warmup else ""
        return f"{self.p}, mode={self.mode!r}, law={self.law!r}{warmup}"


class _Growing(Stepped):
    """A probability that grows with the steps of training."""

    def __init__(self, p: float, steps: int) -> None:
        super().__init__()
        self.p, self.steps = p, steps

    def forward(self) -> Tensor:
        self.count()
        return self.p * (self.step / self.steps).clamp(max=1.0)


@dataclass(frozen=True)
class ShakeDrop:
    """A branch that is kept, or else shaken: ``(b + a - b a) * branch`` with b = 1 with probability 1 - p (1802.02375).

    The gradient is multiplied by ``b + b' - b b'`` with another draw b' from ``beta``. At test the branch is multiplied
    by the mean, ``1 - p + p * mean(alpha)``. With alpha and beta both (0, 0) it is stochastic depth.

    Parameters
    ----------
    p:
        the probability that the branch is shaken; in a pattern also a function of ``(l, L)``: the paper has ``Ramp(0,
        0.5)``.
    alpha, beta:
        from where to where the factors are drawn, in the forward and in the backward.
    mode:
        how often a and b' are drawn: for every sample (``"row"``), ``"batch"`` or ``"element"``. b is drawn once a
        batch.
    """

    p: float | Any
    alpha: tuple[float, float] = (-1.0, 1.0)
    beta: tuple[float, float] = (0.0, 1.0)
    mode: Mode = "row"

    def __post_init__(self) -> None:
        if not is_schedule(self.p) and not (is_number(self.p) and 0.0 <= self.p <= 1.0):
            raise ChainError(f"ShakeDrop: p is a probability in [0, 1], not {self.p!r}")
        for name in ("alpha", "beta"):
            ends = getattr(self, name)
            ends = tuple(ends) if isinstance(ends, (list, tuple)) else (ends,)
            object.__setattr__(self, name, ends)
            if len(ends) != 2 or not all(is_number(end) for end in ends) or ends[0] > ends[1]:
                raise ChainError(f"ShakeDrop: {name} is (from, to), not {ends!r}")
        check_mode("ShakeDrop", self.mode)

    def at(self, depth: int, of: int) -> ShakeDrop:
        return replace(self, p=at_depth(self.p, depth, of))

    def make(self) -> Shaken | None:
        no_schedule("ShakeDrop: p", self.p)
        return Shaken(self.p, self.alpha, self.beta, self.mode) if self.p else None

    @property
    def drops(self) -> bool:
        return is_schedule(self.p) or self.p > 0


class Shaken(nn.Module):
    """A :class:`ShakeDrop` at one place. Shapes: ``(N, *)`` to the same."""

    def __init__(self, p: float, alpha: tuple[float, float], beta: tuple[float, float], mode: str) -> None:
        super().__init__()
        self.p, self.alpha, self.beta, self.mode = p, alpha, beta, mode

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x * (1.0 - self.p + self.p * sum(self.alpha) / 2)
        keep = kept(x, "batch", 1.0 - self.p)
        forward, backward = uniform(x, self.mode, *self.alpha), uniform(x, self.mode, *self.beta)
        return with_backward(x, keep + forward - keep * forward, keep + backward - keep * backward)

    def extra_repr(self) -> str:
        return f"{self.p}, alpha={self.alpha}, beta={self.beta}, mode={self.mode!r}"


def as_drop(drop: Any) -> Drop | ShakeDrop:
    """``drop=`` as given on a shortcut: a probability, or a recipe that also says mode and law."""
    return drop if isinstance(drop, (Drop, ShakeDrop)) else Drop(drop)
