"""Nets to use, not to train: folded into fewer layers that compute the same.

>>> from skipway import BatchNorm, Chain, Dense, relu
>>> net = fold(Chain(Dense(4, 3), BatchNorm(3), relu).eval())
>>> net
Chain(Dense(4, 3, relu))
"""

from __future__ import annotations

from .folding import Folded, fold
from .kernels import Affine, Inexact, Kernel
from .layers import Clamp, PerChannel
from .report import Difference, Fold, Refusal, Report, Size

__all__ = [
    "Affine", "Clamp", "Difference", "Fold", "Folded", "Inexact", "Kernel", "PerChannel", "Refusal", "Report", "Size",
    "fold",
]  # fmt: skip
