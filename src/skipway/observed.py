"""Who else looks on when layers are called: what speaks against computing them in another way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.autograd import forward_ad
from torch.nn.modules import module as everywhere
from torch.utils import _python_dispatch

#: where a module keeps its hooks
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def observed(module: nn.Module) -> bool:
    """Whether something must see a module itself called: a hook, or a forward of the object's own.

    >>> layer = nn.Linear(2, 2)
    >>> handle = layer.register_forward_hook(print)
    >>> observed(layer), observed(nn.Sequential(layer))
    (True, False)
    """
    return any(getattr(module, hooks) for hooks in HOOKS) or "forward" in module.__dict__


def all_observed() -> bool:
    """Whether hooks watch every module there is.

    >>> all_observed()
    False
    """
    return any(watchers())


def watchers() -> list[Mapping[int, Any]]:
    """Where torch keeps the hooks that watch every module there is: the same mappings for as long as it runs.

    >>> len(watchers())
    4
    """
    return [getattr(everywhere, f"_global{hooks}", {}) for hooks in HOOKS]


def dispatched() -> bool:
    """Whether a mode of torch's stands below autograd and sees every operator: a tracer, a counter of operations.

    >>> dispatched()
    False
    """
    # torch has no public question for it
    return bool(getattr(_python_dispatch, "_get_current_dispatch_mode", bool)())


def transformed() -> bool:
    """Whether torch.func, forward-mode differentiation or a tracer stands between a call and autograd.

    >>> torch.func.vmap(lambda x: x + transformed())(torch.zeros(1))
    tensor([1.])
    """
    # nor for the first of these; without them they say themselves that they cannot go on
    vectorised = getattr(torch._C, "_are_functorch_transforms_active", bool)
    differentiated = getattr(forward_ad, "_current_level", -1) >= 0
    return bool(vectorised() or differentiated or dispatched() or torch.jit.is_tracing())
