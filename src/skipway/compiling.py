"""``torch.compile`` for one net among many."""

from __future__ import annotations

import itertools
import types
from collections.abc import Callable
from typing import Any

import torch

_count = itertools.count()


def compile_alone(call: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """``torch.compile(call, **options)``, with a limit of recompilations of its own.

    The compiler counts them for each code object, and gives up after the eighth. All nets of one class share the code
    of their ``forward``, so that the ninth ``nn.Sequential`` or chain of a process would run uncompiled, with a warning
    only. This puts a function with code of its own around ``call``; what it calls is compiled into it.

    Parameters
    ----------
    call:
        a module or function.
    options:
        as ``torch.compile`` takes them.

    >>> double = compile_alone(lambda x: 2 * x, backend="eager")
    >>> double(torch.ones(2))
    tensor([2., 2.])
    """

    def compiled(*args: Any, **kwargs: Any) -> Any:
        return call(*args, **kwargs)

    code = compiled.__code__.replace(co_name=f"compiled_{next(_count)}")
    own = types.FunctionType(code, compiled.__globals__, code.co_name, None, compiled.__closure__)
    return torch.compile(own, **options)
