"""Gates: the value itself says how much of the branch and of the shortcut comes through."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from skipway.errors import ChainError, OpenChainError
from skipway.gains.base import is_number
from skipway.layer import check_width
from skipway.value import Value

from .base import Merge, MergeFn, feature_axis


@dataclass(frozen=True)
class Gate(Merge):
    """A gate ``g = sigmoid(W shortcut + b)`` for every feature; W is a dense layer, for images a 1x1 convolution.

    =============================  ======================================  =============================================
    ``on="both"``                  ``g * branch + (1 - g) * shortcut``     Highway (1505.00387); "exclusive" in
    1603.05027 ``on="both", free=True``       ``g * branch + c * shortcut``           Highway with a carry gate of its
    own ``on="shortcut"``              ``branch + (1 - g) * shortcut``         "shortcut-only" in 1603.05027
    ``on="branch"``                ``g * branch + shortcut``
    =============================  ======================================  =============================================

    Parameters
    ----------
    bias:
        what ``b`` starts at. Negative opens the shortcut at first: Highway has -1 to -4, more for deeper nets. A free
        carry gate starts at ``-bias``.
    on, free:
        see the table.
    """

    bias: float = -3.0
    on: Literal["both", "shortcut", "branch"] = "both"
    free: bool = False

    sided: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not is_number(self.bias):
            raise ChainError(f"Gate: bias is a finite number, not {self.bias!r}")
        if self.on not in ("both", "shortcut", "branch"):
            raise ChainError(f'Gate: on is "both", "shortcut" or "branch", not {self.on!r}')
        if self.free and self.on != "both":
            raise ChainError(
                f"Gate: free=True has a gate for each side, which on={self.on!r} contradicts: leave one out"
            )

    def make(self, branch: Value, shortcut: Value) -> MergeFn:
        axis, width = feature_axis("gate", shortcut), shortcut.width
        if width is None:
            raise OpenChainError("gate needs the width of the shortcut")
        return GateModule(width, -1 - axis, self.bias, self.on, self.free)


class GateModule(nn.Module):
    """The gate of one place, with its transform: ``(branch, shortcut) -> (N, *)``."""

    def __init__(self, width: int, dims: int, bias: float, on: str = "both", free: bool = False) -> None:
        super().__init__()
        check_width("gate: the width", width)
        self.on = on
        self.transform = _map(width, dims, bias)
        self.carry = _map(width, dims, -bias) if free else None

    def forward(self, branch: Tensor, shortcut: Tensor) -> Tensor:
        gate = torch.sigmoid(self.transform(shortcut))
        if self.carry is not None:
            return gate * branch + torch.sigmoid(self.carry(shortcut)) * shortcut
        if self.on == "shortcut":
            return branch + (1 - gate) * shortcut
        if self.on == "branch":
            return gate * branch + shortcut
        return shortcut + gate * (branch - shortcut)


def _map(width: int, dims: int, bias: float) -> nn.Module:
    conv: list[Callable[..., nn.Module]] = [nn.Conv1d, nn.Conv2d, nn.Conv3d]
    made = nn.Linear(width, width) if dims == 0 else conv[dims - 1](width, width, 1)
    nn.init.constant_(made.bias, bias)  # type: ignore[arg-type]
    return made
