"""A dense block as one node of the autograd graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .kernel import Block, Shape, Weights

#: tensors of one layer, in the order in which the node takes them
FIELDS = ("gamma", "beta", "conv", "conv_bias", "narrow", "narrow_bias", "narrow_gamma", "narrow_beta")


#: told the statistics of a pass: mean and biased variance of the features, and those of every bottleneck
Seen = Callable[[Tensor, Tensor, list[tuple[Tensor, Tensor]]], None]


class DenseBlock(torch.autograd.Function):
    """``(N, C, H, W)`` to ``(N, C + growths, H, W)``.

    Kept for the backward: the input, the features once, with ``keep`` also the bottlenecks, and statistics.
    """

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
        ctx.shapes, ctx.counts = shapes, (len(kept), len(moments))
        ctx.save_for_backward(x, features, mean, var, *kept, *(m for pair in moments for m in pair), *given)
        # a copy, since what follows may change it in place; in the format that the layers one by one would give
        flat = x.is_contiguous() or not x.is_contiguous(memory_format=torch.channels_last)
        return features.clone(memory_format=torch.contiguous_format if flat else torch.channels_last)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, features, mean, var, *rest = ctx.saved_tensors
        n, m = ctx.counts
        kept, pairs, given = rest[:n], rest[n : n + 2 * m], rest[n + 2 * m :]
        wanted = ctx.needs_input_grad[3:]
        g = None if torch.is_grad_enabled() else _own(grad)
        if g is None:
            return None, None, None, *_differentiable(ctx.shapes, [x, *given], wanted, grad)
        moments = list(zip(pairs[::2], pairs[1::2], strict=True))
        block = Block(features, ctx.shapes, _weights(given))
        dx, found = block.backward(g, mean, var, kept, moments, wanted[0])
        grads = [getattr(layer, name) for layer in found for name in FIELDS]
        shaped = [
            g.reshape(w.shape) if w is not None and g is not None and need else None
            for g, w, need in zip(grads, given, wanted[1:], strict=True)
        ]
        return None, None, None, dx, *shaped


def _own(grad: Tensor) -> Tensor | None:
    """A gradient as a buffer to write to; ``None`` for a batch of gradients (``is_grads_batched``), which has none."""
    try:
        return grad.clone(memory_format=torch.channels_last)
    except RuntimeError as error:
        if "vmap" not in str(error):
            raise
        return None


def _differentiable(
    shapes: list[Shape], inputs: list[Tensor | None], wanted: Sequence[bool], grad: Tensor
) -> list[Tensor | None]:
    """The gradients as operations of autograd, for gradients of them: the layers one by one, once more."""
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        if not again:  # what is computed here is to have a graph, but none that goes on beyond it
            inputs = [t if t is None else t.detach().requires_grad_(t.requires_grad) for t in inputs]
        out = layer_by_layer(shapes, inputs)
        asked = [t for t, need in zip(inputs, wanted, strict=True) if need and t is not None]
        found = iter(torch.autograd.grad(out, asked, grad, create_graph=again))
    return [next(found) if need and t is not None else None for t, need in zip(inputs, wanted, strict=True)]


def layer_by_layer(shapes: list[Shape], inputs: Sequence[Tensor | None]) -> Tensor:
    """What a block computes, by torch's own operations. ``inputs`` are the input and :data:`FIELDS` of every layer."""
    x: Any = inputs[0]
    for i, shape in enumerate(shapes):
        layer = dict(zip(FIELDS, inputs[1 + i * len(FIELDS) :], strict=False))
        h = torch.relu(F.batch_norm(x, None, None, layer["gamma"], layer["beta"], True, 0.0, shape.eps))
        if layer["narrow"] is not None:
            u = torch.conv2d(h, layer["narrow"], layer["narrow_bias"])
            norm = layer["narrow_gamma"], layer["narrow_beta"]
            h = torch.relu(F.batch_norm(u, None, None, *norm, True, 0.0, shape.narrow_eps))
        conv: Any = layer["conv"]
        y = torch.conv2d(h, conv, layer["conv_bias"], padding=shape.padding, dilation=shape.dilation)
        x = torch.cat((x, y), 1)
    return x


def _weights(given: Any) -> list[Weights]:
    layers = [dict(zip(FIELDS, given[i : i + len(FIELDS)], strict=True)) for i in range(0, len(given), len(FIELDS))]
    for layer in layers:
        if layer["narrow"] is not None:
            layer["narrow"] = layer["narrow"].flatten(1)
    return [Weights(**layer) for layer in layers]
