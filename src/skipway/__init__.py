"""skipway: feed-forward networks with shortcut connections, on PyTorch.

>>> from skipway import Chain, Dense, every, relu
>>> net = Chain(Dense(10, 5, relu), Dense(5, 4, relu), Dense(4, 2, relu), wiring=every(1, path="project"))
"""

from __future__ import annotations

from typing import Any

from .chain import CatSkip, Chain, IdentitySkip, Skip
from .errors import ChainError, CheckpointError, DataError, OpenChainError, ShapeError, SkipwayError, TrainError
from .functional import gelu, identity, relu, sigmoid, silu, softmax, tanh
from .gains import Anneal, Drop, DropPath, Learned, Ramp, ShakeDrop, SqueezeExcite, Warmup, set_step
from .layer import tie
from .layers import BatchNorm, Conv, Dense, Dropout, Flatten, LayerNorm
from .merges import Cat, DualPath, Gate, Join, Lerp, Orthogonal, Shake, Swapout, Weighted, global_drop_path
from .parallel import Parallel
from .paths import Crop, Detach, Householder, LowRank, Pad, Project, Resize, Slice
from .pools import AvgPool, BlurPool, GlobalAvgPool, MaxPool
from .shortcut import Shortcut
from .weights import DiracConv
from .wiring import cross, dense, every, from_input, log2, random_shortcuts, sliding, unet

__version__ = "0.1.0"

# loaded when first used, so that `import skipway` costs next to nothing beside `import torch`
_FROM_TRAIN = ("crossentropy", "evaluate", "fit", "logitcrossentropy", "onecold", "onehot", "throttle")


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name in _FROM_TRAIN:
        return getattr(import_module("skipway.train"), name)
    if name in ("data", "deploy", "study", "train", "zoo"):
        return import_module(f"skipway.{name}")
    raise AttributeError(f"module 'skipway' has no attribute {name!r}")


__all__ = [
    "Anneal", "AvgPool", "BatchNorm", "BlurPool", "Cat", "CatSkip", "Chain", "ChainError", "CheckpointError",
    "Conv", "Crop", "DataError", "Dense", "Detach", "DiracConv", "Drop", "DropPath", "Dropout", "DualPath", "Flatten",
    "Gate", "GlobalAvgPool", "Householder", "IdentitySkip", "Join", "LayerNorm", "Learned", "Lerp", "LowRank",
    "MaxPool", "OpenChainError", "Orthogonal", "Pad", "Parallel", "Project", "Ramp", "Resize", "Shake", "ShakeDrop",
    "ShapeError", "Shortcut", "Skip", "SkipwayError", "Slice", "SqueezeExcite", "Swapout", "TrainError", "Warmup",
    "Weighted",
    "cross", "crossentropy", "data", "dense", "deploy", "evaluate", "every", "fit", "from_input", "gelu",
    "global_drop_path", "identity", "log2", "logitcrossentropy", "onecold", "onehot", "random_shortcuts", "relu",
    "set_step", "sigmoid", "silu", "sliding", "softmax", "study", "tanh", "throttle", "tie", "train", "unet", "zoo",
]  # fmt: skip
