"""A dense block as one node of the autograd graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from skipway.errors import ChainError

from .kernel import Block, Shape, Weights

#: tensors of one layer, in the order in which the node takes them
FIELDS = ("gamma", "beta", "conv", "conv_bias", "narrow", "narrow_bias", "narrow_gamma", "narrow_beta")


#: told the statistics of a pass: mean and biased variance of the features, and those of every bottleneck
Seen = Callable[[Tensor, Tensor, list[tuple[Tensor, Tensor]]], None]


class DenseBlock(torch.autograd.Function):
    """``(N, C, H, W)`` to ``(N, C + growths, H, W)``. Kept for the backward: the features once, with ``keep`` also the
    bottlenecks before their norm, and statistics."""

    @staticmethod
    def forward(ctx: Any, shapes: list[Shape], keep: bool, seen: Seen, x: Tensor, *given: Tensor | None) -> Tensor:
        width, channels = x.shape[1], shapes[-1].width + shapes[-1].growth
        features = torch.empty(
            (x.shape[0], channels, *x.shape[2:]), dtype=x.dtype, memory_format=torch.channels_last
        )  # fmt: skip
        features[:, :width] = x
        mean, var = x.new_empty(channels), x.new_empty(channels)
        mean[:width], var[:width] = torch.batch_norm_update_stats(x, None, None, 0.0)
        block = Block(features, shapes, _weights(given))
        kept, moments = block.forward(mean, var, keep)
        seen(mean, var, moments)  # here, so that a checkpoint that stops at the last tensor kept has come by
        # in the memory format that the layers one by one would give
        flat = x.is_contiguous() or not x.is_contiguous(memory_format=torch.channels_last)
        ctx.shapes, ctx.counts = shapes, (len(kept), len(moments))
        ctx.save_for_backward(features, mean, var, *kept, *(m for pair in moments for m in pair), *given)
        return features.contiguous() if flat else features

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        if torch.is_grad_enabled():
            raise ChainError(
                "the dense block engine has no gradient of its gradient (create_graph=True): switch it off before the "
                'forward, skipway.engines.use_engines(net, "off")'
            )
        try:
            features, mean, var, *rest = ctx.saved_tensors
        except RuntimeError as error:
            if "inplace operation" not in str(error):
                raise
            raise ChainError(
                "the features of a dense block, or a parameter of it, were changed in place after its forward, and its "
                "engine needs them: work on a copy (no inplace=True, add_ or +=), or switch it off before the forward, "
                'skipway.engines.use_engines(net, "off")'
            ) from error
        n, m = ctx.counts
        kept, pairs, given = rest[:n], rest[n : n + 2 * m], rest[n + 2 * m :]
        moments = list(zip(pairs[::2], pairs[1::2], strict=True))
        wanted = ctx.needs_input_grad[3:]
        block = Block(features, ctx.shapes, _weights(given))
        dx, found = block.backward(grad, mean, var, kept, moments, wanted[0])
        grads = [getattr(layer, name) for layer in found for name in FIELDS]
        shaped = [
            g.view_as(w) if w is not None and g is not None and need else None
            for g, w, need in zip(grads, given, wanted[1:], strict=True)
        ]
        return None, None, None, dx, *shaped


def _weights(given: Any) -> list[Weights]:
    layers = [dict(zip(FIELDS, given[i : i + len(FIELDS)], strict=True)) for i in range(0, len(given), len(FIELDS))]
    for layer in layers:
        if layer["narrow"] is not None:
            layer["narrow"] = layer["narrow"].flatten(1)
    return [Weights(**layer) for layer in layers]
