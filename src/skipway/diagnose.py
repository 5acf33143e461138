"""What went wrong in a forward, in words: devices, precisions and shapes instead of an error from inside torch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .errors import ChainError, ShapeError, SkipwayError
from .plan import Plan
from .value import Value, show


def explain(chain: Any, error: Exception, x: Any) -> None:
    """Raise a clear error in the place of ``error``, where its cause can be told; return where it cannot."""
    if not isinstance(x, (Tensor, torch.fx.Proxy)):
        raise ChainError(f"a chain takes one tensor, not a {type(x).__name__} ({chain.source})") from None
    if chain.is_open or not isinstance(x, Tensor):
        return
    if not isinstance(error, RuntimeError) or isinstance(error, SkipwayError):
        return  # clear already, or what the code of a layer raised
    _device(chain, x)
    _precision(chain, error, x)
    if x.dim() > 1:
        plan = Plan(chain, Value.of(tuple(x.shape[1:]), chain._form.layout, x.dtype))
        if plan.problems:
            raise misfit(chain, x, plan) from None


def _device(chain: Any, x: Tensor) -> None:
    held = [*chain.named_parameters(), *chain.named_buffers()]
    other = next(((n, p) for n, p in held if p.device != x.device), None)
    if other is not None:
        name, tensor = other
        one = len({str(p.device) for _, p in held}) == 1
        fix = f"x.to({str(tensor.device)!r})" if one else f"net.to({str(x.device)!r})"
        raise ChainError(
            f"the input is on {x.device} and {name!r} of this chain is on {tensor.device}: {fix}"
        ) from None


def _precision(chain: Any, error: Exception, x: Tensor) -> None:
    name, tensor = next(((n, p) for n, p in chain.named_parameters() if p.is_floating_point()), ("", x))
    whole = not x.is_floating_point() and not x.is_complex()
    if name and (whole or (x.dtype != tensor.dtype and "dtype" in str(error).lower())):
        fix = f"x.to({tensor.dtype})" + ("" if whole else ", or net.to(x.dtype)")
        raise ChainError(f"the input holds {x.dtype} and {name!r} of this chain {tensor.dtype}: {fix}") from None


def misfit(chain: Any, x: Tensor, plan: Plan) -> ShapeError:
    """The first thing that does not fit; what follows is mostly its consequence."""
    built = f", which was built for {chain._form}" if chain._form.sizes else ""
    more = f" (and {len(plan.problems) - 1} more)" if len(plan.problems) > 1 else ""
    shape = show(tuple(x.shape[1:]))
    return ShapeError(f"an input {shape} does not fit this chain ({chain.source}){built}: {plan.problems[0]}{more}")
