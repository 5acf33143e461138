"""Rules that move things: norms through means and relu, means to before the convolution that they followed."""

from __future__ import annotations

from dataclasses import replace

import torch

from .kernels import Affine, Inexact, Kernel, then
from .layers import Clamp, as_act, clamp, is_flatten, is_global, is_mean, is_relu, shrinks
from .report import Notes
from .row import Row, Step, describe


def across(done: Row, notes: Notes) -> bool:
    """A norm goes through means, and what relu leaves of it, into the linear layer after them.

    ``relu(s x + t)`` is ``s clamp(x) + t``: one pass over the value for two.
    """
    top = done[-1]
    if not isinstance(top.linear, Kernel):
        return False
    i = len(done) - 2
    while (
        i > 0 and done[i].only_next and done[i].linear is None and (is_mean(done[i].layer) or is_flatten(done[i].layer))
    ):
        i -= 1
    between = done[i + 1 : -1]
    step = done[i]
    relu = step if i > 1 and step.linear is None and is_relu(as_act(step.layer)) and step.only_next else None
    norm = done[i - 1] if relu else step
    if not isinstance(norm.linear, Affine) or norm.act is not None or not norm.only_next or not (relu or between):
        return False
    if relu and not notes.clamps:
        norm.why["across"] = "it was to stay with the relu after it (clamps=False)"
        return False
    try:
        bounds, left = _clamped(norm.linear, notes.limit) if relu else (None, norm.linear)
        top.linear, top.changed = then(_moved(left, between, top.linear), top.linear), True
    except Inexact as why:
        norm.why["across"] = str(why)
        return False
    if relu is None:
        del done[i]
        notes.fold("norm into the layer after it", norm.name, f"{describe(norm)} and {describe(top)}")
    else:
        notes.fold("norm and relu into a clamp and the layer after them", norm.name, describe(norm))
        norm.layer, norm.linear, norm.changed, norm.fresh, norm.why = bounds, None, False, True, {}
        del done[i]
    return True


def _lets_through(step: Step) -> bool:
    return step.only_next and step.linear is None and (is_mean(step.layer) or is_flatten(step.layer))


def _clamped(norm: Affine, limit: float) -> tuple[Clamp, Affine]:
    """``relu(norm(x))`` as a clamp, and the affine map after it."""
    if norm.axis is None:
        raise Inexact("it is a number, not a norm")
    scale, shift = torch.broadcast_tensors(norm.scale, norm.shift)
    dead = scale == 0
    knee = torch.where(dead, 0.0, -shift / scale.where(~dead, 1.0))
    if float(knee.abs().max()) > limit or (~dead & (scale.abs() < 1 / limit)).any():
        raise Inexact("one of its channels is scaled by next to nothing, and the clamp would overflow")
    low = knee.where((scale > 0) | dead, -torch.inf)
    high = knee.where((scale < 0) | dead, torch.inf)
    after = Affine(scale, shift.where(~dead, shift.clamp(min=0)), norm.axis)
    return clamp(low, high, norm.axis), after


def _moved(norm: Affine, between: Row, kernel: Kernel) -> Affine:
    """A norm as it is after the means and flattenings between it and a linear layer."""
    for step in between:
        if is_global(step.layer):
            norm = replace(norm, axis=-1)
        elif is_flatten(step.layer) and norm.axis is not None and norm.axis != -1:
            times, rest = divmod(kernel.ins, norm.scale.numel())
            if rest:
                raise Inexact("how often each channel is read cannot be told")
            scale, shift = (t.repeat_interleave(times) for t in torch.broadcast_tensors(norm.scale, norm.shift))
            norm = Affine(scale, shift, -1)
    return norm


def earlier(done: Row, notes: Notes) -> bool:
    """A mean over windows goes before the 1x1 convolution that it followed, which then has fewer places to work at."""
    conv, pool = done[-2], done[-1]
    kernel = conv.linear
    if not is_mean(pool.layer) or not shrinks(pool.layer) or not isinstance(kernel, Kernel) or not kernel.dims:
        return False
    if conv.act is not None or not conv.only_next or not kernel.pointwise or set(kernel.stride) != {1}:
        return False
    if is_global(pool.layer):
        if kernel.groups > 1:
            return False
        conv.linear, conv.changed = Kernel(kernel.weight.flatten(1), kernel.bias), True
    # what the steps are changes places; where they stand, and what starts and ends there, does not
    for name in ("name", "layer", "key", "linear", "changed", "why"):
        held = getattr(conv, name)
        setattr(conv, name, getattr(pool, name))
        setattr(pool, name, held)
    notes.fold("mean before, not after, a 1x1 convolution", pool.name, describe(pool))
    return True
