"""Run a segment on an engine where that gives what the generated code gives, and on the generated code elsewhere."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from skipway.emit import Program
from skipway.errors import ChainError, nearest
from skipway.graph import Graph
from skipway.observed import all_observed, observed, transformed

from .function import DenseBlock
from .recognise import Layer, Segment, Stage, read

#: what `use_engines` takes
MODES = ("auto", "keep", "recompute", "off")

#: "auto" leaves smaller blocks to the generated code: values that leave the block, rows times channels
SMALL = 1 << 20


#: where decisions are told to :func:`explain`
_told: ContextVar[list[tuple[Any, Segment, str]] | None] = ContextVar("_told", default=None)


@dataclass(frozen=True)
class Use:
    """Where an engine could run, and why it does not."""

    where: str
    """dotted name of the layers, ``""`` for a whole chain"""
    what: str
    refusal: str
    """why the generated code runs instead; ``""`` where the engine runs"""

    def __str__(self) -> str:
        return f"{self.where or 'the chain'}: {self.what}, " + (self.refusal or "on the engine while it trains")


def run(segment: Segment, plain: Callable[[Any, Tensor], Tensor], net: Any, x: Tensor) -> Tensor:
    """The value at the end of a segment, from that at its start. ``plain`` is the generated code of the segment."""
    layers, why = decide(segment, net, x)
    told = _told.get()
    if told is not None:
        told.append((net, segment, why))
    return plain(net, x) if why else _run(net._engine, layers, x)


def decide(segment: Segment, net: Any, x: Tensor) -> tuple[list[Layer], str]:
    """The layers of a segment as they are now, and why the engine cannot run them on an input; ``""`` where it can.

    What is quick to ask comes first: a small net must not pay for questions.
    """
    why = "switched off" if net._engine == "off" else _input(x)
    if why:
        return [], why
    last = read(module_at(net, segment.layers[-1]))
    if net._engine == "auto" and isinstance(last, Layer):
        size = x.numel() // x.shape[1] * (last.shape.width + last.shape.growth)
        if size < SMALL:
            return [], f"too small to gain: {size:,} values of {SMALL:,}"
    found = [read(module_at(net, name)) for name in segment.layers]
    layers = [layer for layer in found if isinstance(layer, Layer)]
    return layers, refusal(segment, net, found) or _parameters(layers, x)


def executor(segment: Segment, graph: Graph) -> Callable[[Any, Tensor], Tensor]:
    """What runs a segment in the forward of a chain. It holds no module, so that a copy of the chain runs its own."""
    plain = Program(graph, span=(segment.start, segment.end)).function()

    def dense_block(net: Any, x: Tensor) -> Tensor:
        return run(segment, plain, net, x)

    return dense_block


def module_at(net: nn.Module, name: str) -> nn.Module:
    """A module inside by its dotted name."""
    for part in name.split("."):
        net = net._modules[part]  # type: ignore[assignment]
    return net


def refusal(segment: Segment, net: Any, layers: Sequence[Layer | str]) -> str:
    """Why the engine cannot run a segment, whatever the input; ``""`` where it can."""
    if net._engine == "off":
        return "switched off"
    width = None
    for name, layer in zip(segment.layers, layers, strict=True):
        if isinstance(layer, str):
            return f"layer {name!r} {layer}"
        if width is not None and width != layer.shape.width:
            return f"layer {name!r} reads {layer.shape.width} of {width} channels"
        width = layer.shape.width + layer.shape.growth
        if any(map(observed, module_at(net, name).modules())):
            return f"layer {name!r} has hooks, or a forward of its own"
        if not all(stage.norm.training for stage in layer.stages):
            return f"a batch norm of layer {name!r} is in eval mode"
    if all_observed():
        return "hooks watch all modules"
    return ""


def _input(x: Tensor) -> str:
    """What speaks against the engine in an input or around the call."""
    if not torch.is_grad_enabled():
        return "no gradients are recorded"
    if type(x) is not Tensor or x.dim() != 4:
        return f"its input is a {type(x).__name__}" + (f" of {x.dim()} axes" if type(x) is Tensor else "")
    if x.device.type != "cpu" or x.dtype not in (torch.float32, torch.float64):
        return f"its input is {x.dtype} on {x.device}"
    if torch.is_autocast_enabled("cpu"):
        return "autocast is on"
    if transformed():
        return "a transform or a tracer is at work"
    return "" if x.shape[0] * x.shape[2] * x.shape[3] > 1 else "one value a channel"


def _parameters(layers: list[Layer], x: Tensor) -> str:
    """What speaks against it in an input and the parameters."""
    if x.shape[1] != layers[0].shape.width:
        return f"its input has {x.shape[1]} channels"
    tensors = [t for layer in layers for stage in layer.stages for t in _tensors(stage)]
    if any(type(t) not in (nn.Parameter, Tensor) or t.dtype != x.dtype or t.device != x.device for t in tensors):
        return f"a parameter is not like its input, {x.dtype} on {x.device}"
    if not x.requires_grad and not any(t.requires_grad for t in tensors):
        return "nothing needs a gradient"
    return ""


def _tensors(stage: Stage) -> list[Tensor]:
    held = (stage.norm.weight, stage.norm.bias, stage.conv.weight, stage.conv.bias)
    return [t for t in held if t is not None]


def _run(mode: str, layers: list[Layer], x: Tensor) -> Tensor:
    given: list[Tensor | None] = []
    for layer in layers:
        first, last = layer.stages[0], layer.stages[-1]
        given += [first.norm.weight, first.norm.bias, last.conv.weight, last.conv.bias]
        if len(layer.stages) == 1:
            given += [None] * 4
        else:
            given += [first.conv.weight, first.conv.bias, last.norm.weight, last.norm.bias]
    seen = functools.partial(_count, layers, x.numel() // x.shape[1])
    shapes = [layer.shape for layer in layers]
    return DenseBlock.apply(shapes, mode != "recompute", seen, x, *given)


@torch.no_grad()
def _count(layers: list[Layer], rows: int, mean: Tensor, var: Tensor, narrows: list[tuple[Tensor, Tensor]]) -> None:
    """Move the running statistics of every batch norm as its own forward would have."""
    narrow = iter(narrows)
    unbiased = rows / (rows - 1)
    for layer in layers:
        c = layer.shape.width
        seen = [(mean[:c], var[:c]), *(next(narrow) for _ in layer.stages[1:])]
        for stage, (of, spread) in zip(layer.stages, seen, strict=True):
            norm = stage.norm
            if not norm.track_running_stats:
                continue
            share = norm.momentum
            if norm.num_batches_tracked is not None:
                norm.num_batches_tracked.add_(1)
                if share is None:
                    share = 1.0 / float(norm.num_batches_tracked)
            share = 0.0 if share is None else share
            if norm.running_mean is None or norm.running_var is None:
                continue
            norm.running_mean.mul_(1 - share).add_(of, alpha=share)
            norm.running_var.mul_(1 - share).add_(spread, alpha=share * unbiased)


def uses(net: Any) -> tuple[Use, ...]:
    """Where engines run in a chain and in those inside it, and where they do not and why."""
    found = []
    for name, module in net.named_modules():
        for segment in getattr(module, "_segments", ()):
            layers = [read(module_at(module, layer)) for layer in segment.layers]
            found.append(_use(name, segment, refusal(segment, module, layers)))
    return tuple(found)


def _use(name: str, segment: Segment, why: str) -> Use:
    where = ".".join(part for part in (name, segment.name) if part)
    return Use(where, f"dense block of {len(segment.layers)} layers", why)


def explain(net: nn.Module, x: Tensor) -> tuple[Use, ...]:
    """What ran where in a training forward on an input, and why: like ``net.engines``, with what depends on the input.

    A copy of the net runs it, so that no statistics move.

    >>> from skipway.zoo.densenet import block
    >>> print(explain(block(4, growth=12).build((16, 8, 8)), torch.zeros(2, 16, 8, 8))[0])
    the chain: dense block of 4 layers, too small to gain: 8,192 values of 1,048,576
    """
    twin = copy.deepcopy(net).train()
    names = {id(module): name for name, module in twin.named_modules()}
    told: list[tuple[Any, Segment, str]] = []
    token = _told.set(told)
    try:
        twin(x)
    finally:
        _told.reset(token)
    return tuple(_use(names[id(chain)], segment, why) for chain, segment, why in told)


def use_engines(net: nn.Module, mode: str = "auto") -> None:
    """Say whether faster executors may run parts of a chain while it trains: a switch, kept by copies and pickles.

    Parameters
    ----------
    net:
        a chain, or any module with chains inside.
    mode:
        ``"auto"``, the default of every chain, runs dense blocks on their engine where that is exact and pays;
        ``"keep"`` wherever it is exact, small ones too; ``"recompute"`` likewise, and computes the bottlenecks anew in
        the backward instead of keeping them: less memory again, for some more time (docs/performance.md has figures);
        ``"off"`` never.

    What each part runs on, and why, is in ``net.engines``; :func:`explain` tells it for an input. Raises ``ChainError``
    for another word.

    >>> from skipway.zoo.densenet import block
    >>> net = block(4, growth=12).build((16, 8, 8))
    >>> use_engines(net, "off")
    >>> print(net.engines[0])
    the chain: dense block of 4 layers, switched off
    """
    if mode not in MODES:
        raise ChainError(f"use_engines has no mode {mode!r}: {nearest(str(mode), MODES)}")
    for module in net.modules():
        if hasattr(module, "_segments"):
            module._engine = mode  # type: ignore[assignment]
