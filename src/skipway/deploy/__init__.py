"""Nets to use, not to train: folded into fewer layers that compute the same, on the engine that runs them fastest.

>>> from skipway import BatchNorm, Chain, Dense, relu
>>> net = fold(Chain(Dense(4, 3), BatchNorm(3), relu).eval())
>>> net
Chain(Dense(4, 3, relu))
"""

from __future__ import annotations

from .compiling import Candidate, Compiled, compile, load
from .folding import Folded, fold
from .kernels import Affine, Inexact, Kernel
from .layers import Clamp, PerChannel
from .report import Difference, Fold, Refusal, Report, Size

__all__ = [
    "Affine", "Candidate", "Clamp", "Compiled", "Difference", "Fold", "Folded", "Inexact", "Kernel", "PerChannel",
    "Refusal", "Report", "Size", "compile", "fold", "load",
]  # fmt: skip
