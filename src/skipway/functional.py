"""Activations as plain functions, so that ``Dense(10, 5, relu)`` reads like the paper.

Any callable works where these do; these are the ones whose name prints back as code.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

relu = torch.relu
tanh = torch.tanh
sigmoid = torch.sigmoid
gelu = F.gelu
silu = F.silu


def identity(x: Tensor) -> Tensor:
    """``x`` itself.

    >>> identity(3)
    3
    """
    return x


def softmax(x: Tensor, axis: int | None = None) -> Tensor:
    """Probabilities over the feature axis: the last one, or ``axis``.

    ``Conv(..., softmax)`` takes axis 1. As a layer of its own over channels-first values, say
    ``lambda x: softmax(x, axis=1)``: a chain refuses the plain name there rather than guess.

    >>> softmax(torch.zeros(1, 4)).tolist()
    [[0.25, 0.25, 0.25, 0.25]]
    """
    return torch.softmax(x, dim=-1 if axis is None else axis)
