"""Random merges: each says its law in training; at test the merge is the mean over the draws."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from skipway.errors import ChainError
from skipway.gains.base import is_number
from skipway.gains.random import Mode, check_mode, draw_shape, kept, with_backward
from skipway.value import Value

from .base import Merge, MergeFn
from .words import mean_of


@dataclass(frozen=True)
class Shake(Merge):
    """Shake-Shake (1705.07485): branches weighed at random, and otherwise in the backward than in the forward.

    Two branches are weighed ``a`` and ``1 - a`` with a uniform in [0, 1]; more of them by uniform numbers divided by
    their sum. The gradient is weighed by another draw. At test all weigh the same. The merge of a
    :class:`~skipway.Parallel` inside a :class:`~skipway.Skip`.

    Parameters
    ----------
    forward:
        ``"shake"`` draws, ``"even"`` weighs all the same.
    backward:
        ``"shake"`` draws anew, ``"keep"`` takes the weights of the forward, ``"even"`` weighs all the same.
    mode:
        ``"row"`` draws for every image, ``"batch"`` once for all.

    >>> from skipway import Dense, Parallel
    >>> both = Parallel(Dense(2, 2), Dense(2, 2), merge=Shake())
    >>> x = torch.ones(1, 2)
    >>> bool(torch.allclose(both.eval()(x), (both.branches[0](x) + both.branches[1](x)) / 2))
    True
    """

    forward: Literal["shake", "even"] = "shake"
    backward: Literal["shake", "keep", "even"] = "shake"
    mode: Literal["row", "batch"] = "row"

    joint: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.forward not in ("shake", "even"):
            raise ChainError(f'Shake: forward is "shake" or "even", not {self.forward!r}')
        if self.backward not in ("shake", "keep", "even"):
            raise ChainError(f'Shake: backward is "shake", "keep" or "even", not {self.backward!r}')
        if self.mode not in ("row", "batch"):
            raise ChainError(f'Shake: mode is "row" or "batch", not {self.mode!r}')

    def make_many(self, count: int) -> MergeFn:
        return ShakeModule(self.forward, self.backward, self.mode)

    def make(self, branch: Value, shortcut: Value) -> MergeFn:
        return self.make_many(2)


class ShakeModule(nn.Module):
    """A :class:`Shake` at one place: tensors of one shape to their weighted mean."""

    def __init__(self, forward: str, backward: str, mode: str) -> None:
        super().__init__()
        self.laws, self.mode = (forward, backward), mode

    def _weights(self, values: Sequence[Tensor], law: str) -> list[Tensor]:
        x, n = values[0], len(values)
        shape = draw_shape(x, self.mode)
        if law == "even":
            return [x.new_full(shape, 1 / n)] * n
        drawn = [torch.rand(shape, dtype=x.dtype, device=x.device) for _ in range(n if n > 2 else 1)]
        if n == 2:
            return [drawn[0], 1 - drawn[0]]
        total = torch.stack(drawn).sum(0)
        return [d / total for d in drawn]

    def forward(self, *values: Tensor) -> Tensor:
        if not self.training:
            return mean_of(values)
        ahead = self._weights(values, self.laws[0])
        back = ahead if self.laws[1] == "keep" else self._weights(values, self.laws[1])
        shaken = [with_backward(v, a, b) for v, a, b in zip(values, ahead, back, strict=True)]
        result = shaken[0]
        for value in shaken[1:]:
            result = result + value
        return result

    def extra_repr(self) -> str:
        return f"forward={self.laws[0]!r}, backward={self.laws[1]!r}, mode={self.mode!r}"


@dataclass(frozen=True)
class Swapout(Merge):
    """``A * branch + B * shortcut`` with A and B drawn 0 or 1 for every element (1605.06465).

    At test both are multiplied by the probability that they are kept, the mean over the draws. Its corners are known:
    (0, 0) is the residual, (0, 1) the plain net, (p, 0) in mode ``"batch"`` stochastic depth, (p, p) with one draw
    dropout.

    Parameters
    ----------
    branch, shortcut:
        the probabilities that each is dropped, from 0 to 1; not both 1.
    mode:
        ``"element"``, or a draw for every sample (``"row"``) or for the ``"batch"``.
    """

    branch: float = 0.5
    shortcut: float = 0.5
    mode: Mode = "element"

    sided: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for p in (self.branch, self.shortcut):
            if not is_number(p) or not 0.0 <= p <= 1.0:
                raise ChainError(f"Swapout: a probability is in [0, 1], not {p!r}")
        if self.branch == self.shortcut == 1:
            raise ChainError("Swapout(1, 1) would drop the branch and the shortcut, always: let one of them through")
        check_mode("Swapout", self.mode)

    def make(self, branch: Value, shortcut: Value) -> MergeFn:
        return SwapoutModule(float(self.branch), float(self.shortcut), self.mode)


class SwapoutModule(nn.Module):
    """A :class:`Swapout` at one place: ``(branch, shortcut) -> (N, *)``."""

    def __init__(self, branch: float, shortcut: float, mode: str) -> None:
        super().__init__()
        self.keep, self.mode = (1.0 - branch, 1.0 - shortcut), mode

    def _kept(self, x: Tensor, keep: float) -> Tensor:
        if keep == 1.0:
            return x
        if not self.training:
            return x * keep
        return x * kept(x, self.mode, keep)

    def forward(self, branch: Tensor, shortcut: Tensor) -> Tensor:
        return self._kept(branch, self.keep[0]) + self._kept(shortcut, self.keep[1])

    def extra_repr(self) -> str:
        return f"keep={self.keep}, mode={self.mode!r}"


@dataclass(frozen=True)
class Join(Merge):
    """The mean of the branches that survive: FractalNet's join with drop-path (1605.07648).

    Local drop-path drops each branch with probability ``drop``, and keeps one at least. Global drop-path picks a column
    of the whole net: see :func:`global_drop_path`. At test it is the mean of all.

    Parameters
    ----------
    drop:
        the probability, 0.15 in the paper.
    columns:
        which column of the net each branch belongs to; by default 0, 1, 2, ...

    >>> from skipway import Dense, Parallel
    >>> both = Parallel(Dense(2, 2), Dense(2, 2), merge=Join(0.15))
    >>> x = torch.ones(1, 2)
    >>> bool(torch.allclose(both.eval()(x), (both.branches[0](x) + both.branches[1](x)) / 2))
    True
    """

    drop: float = 0.15
    columns: tuple[int, ...] | None = None

    joint: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not is_number(self.drop) or not 0.0 <= self.drop < 1.0:
            raise ChainError(f"Join: drop is a probability in [0, 1), not {self.drop!r}")
        if self.columns is not None:
            columns = tuple(self.columns) if isinstance(self.columns, (list, tuple)) else ()
            if not columns or not all(type(column) is int and column >= 0 for column in columns):
                raise ChainError(f"Join: columns= numbers the columns, from 0 on, and is not {self.columns!r}")
            object.__setattr__(self, "columns", columns)

    def make_many(self, count: int) -> MergeFn:
        columns = tuple(range(count)) if self.columns is None else self.columns
        if len(columns) != count:
            raise ChainError(f"Join: columns= names {len(columns)} columns, and {count} values meet: one for each")
        return JoinModule(self.drop, columns)

    def make(self, branch: Value, shortcut: Value) -> MergeFn:
        return self.make_many(2)


class JoinModule(nn.Module):
    """A :class:`Join` at one place: tensors of one shape to the mean of those that survive."""

    column: Tensor

    def __init__(self, drop: float, columns: Sequence[int]) -> None:
        super().__init__()
        self.drop, self.columns = drop, tuple(columns)
        #: the column that global drop-path picked, -1 for none
        self.register_buffer("column", torch.tensor(-1))

    def _weights(self) -> Tensor:
        alive = torch.rand(len(self.columns), device=self.column.device) >= self.drop
        one = torch.arange(len(alive), device=alive.device) == torch.randint(len(alive), (), device=alive.device)
        alive = torch.where(alive.any(), alive, one)
        picked = torch.tensor(self.columns, device=alive.device) == self.column
        kept = torch.where(picked.any(), picked, alive).float()
        return kept / kept.sum()

    def forward(self, *values: Tensor) -> Tensor:
        if not self.training:
            return mean_of(values)
        weights = self._weights().to(values[0].dtype).unbind()
        result = values[0] * weights[0]
        for value, weight in zip(values[1:], weights[1:], strict=True):
            result = result + value * weight
        return result

    def extra_repr(self) -> str:
        return f"drop={self.drop}, columns={self.columns}"


def global_drop_path(net: nn.Module, share: float = 0.5) -> nn.Module:
    """Let a net drop all but one column in ``share`` of its training forwards, and locally in the rest (1605.07648).

    The column is picked anew for every batch, by a forward hook of ``net``: all its :class:`Join` then let that column
    through and nothing else. Said again it replaces what was said; a share of 0 takes it away. Returns ``net``.

    Raises ``ChainError`` for a share that is no probability, or a net without joins.
    """
    joins = [m for m in net.modules() if isinstance(m, JoinModule)]
    if not joins:
        raise ChainError("global_drop_path needs a net with Parallel(..., merge=Join(...)), and this one has none")
    if not is_number(share) or not 0.0 <= share <= 1.0:
        raise ChainError(f"global_drop_path: share is a probability, not {share!r}")
    columns = sorted({column for join in joins for column in join.columns})
    for key, hook in list(net._forward_pre_hooks.items()):
        if isinstance(hook, _PickColumn):  # there is one law, the last that was said
            del net._forward_pre_hooks[key]
    for join in joins:
        join.column.fill_(-1)
    if not share:
        return net
    net.register_forward_pre_hook(_PickColumn(share, tuple(columns)))
    return net


@dataclass(frozen=True)
class _PickColumn:
    share: float
    columns: tuple[int, ...]

    def __call__(self, net: nn.Module, args: Any) -> None:
        if not net.training:
            return
        joins = [m for m in net.modules() if isinstance(m, JoinModule)]
        columns = torch.tensor(self.columns, device=joins[0].column.device)
        picked = columns.index_select(0, torch.randint(len(self.columns), (1,), device=columns.device))[0]
        column = torch.where(torch.rand((), device=columns.device) < self.share, picked, -1)
        for join in joins:
            join.column.copy_(column)
