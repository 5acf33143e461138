"""Run a segment on an engine where that gives what the generated code gives, and on the generated code elsewhere."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.modules import module as global_hooks
from torch.utils import _python_dispatch

from skipway.emit import Program
from skipway.errors import ChainError, nearest
from skipway.graph import Graph

from .function import DenseBlock
from .recognise import Layer, Segment, observed, read

#: what `use_engines` takes
MODES = ("auto", "keep", "recompute", "off")

#: "auto" leaves smaller blocks to the generated code: values that leave the block, rows times channels
SMALL = 1 << 19


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
    if net._engine == "off":
        return plain(net, x)
    read_now = [read(module_at(net, name)) for name in segment.layers]
    layers = [layer for layer in read_now if isinstance(layer, Layer)]
    if refusal(segment, net, read_now) or _not_now(net, layers, x):
        return plain(net, x)
    return _run(net._engine, layers, x)


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
        if observed(module_at(net, name)):
            return f"layer {name!r} has hooks, or a forward of its own"
        if not all(stage.norm.training for stage in layer.stages):
            return f"a batch norm of layer {name!r} is in eval mode"
    if _observed_all():
        return "hooks watch all modules"
    return ""


def _observed_all() -> bool:
    names = ("_global_forward_hooks", "_global_forward_pre_hooks", "_global_backward_hooks",
             "_global_backward_pre_hooks")  # fmt: skip
    return any(getattr(global_hooks, name, None) for name in names)


def _not_now(net: Any, layers: list[Layer], x: Tensor) -> str:
    """Why the engine cannot run on this input."""
    if type(x) is not Tensor or x.dim() != 4:
        return "not a plain tensor of images"
    if x.device.type != "cpu" or x.dtype not in (torch.float32, torch.float64):
        return f"{x.dtype} on {x.device}"
    if torch.is_autocast_enabled("cpu"):
        return "autocast"
    if not torch.is_grad_enabled() or _transformed():
        return "no gradients are recorded, or by a transform"
    shape = layers[-1].shape
    rows = x.shape[0] * x.shape[2] * x.shape[3]
    if x.shape[1] != layers[0].shape.width or rows < 2:
        return "an input that does not fit"
    if net._engine == "auto" and rows * (shape.width + shape.growth) < SMALL:
        return "too small to gain"
    tensors = [t for layer in layers for stage in layer.stages for t in _tensors(stage)]
    if any(type(t) not in (nn.Parameter, Tensor) or t.dtype != x.dtype or t.device != x.device for t in tensors):
        return "parameters of another kind"
    if not x.requires_grad and not any(t.requires_grad for t in tensors):
        return "nothing needs a gradient"
    return ""


def _transformed() -> bool:
    """Whether torch.func, forward-mode differentiation or a tracer stands between the call and autograd."""
    # torch has no public question for the first and the third; without them it says itself that it cannot go on
    vectorised = getattr(torch._C, "_are_functorch_transforms_active", bool)
    watched = getattr(_python_dispatch, "_get_current_dispatch_mode", bool)
    return bool(vectorised() or getattr(forward_ad, "_current_level", -1) >= 0 or watched() or torch.jit.is_tracing())


def _tensors(stage: Any) -> list[Tensor]:
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
            if not norm.track_running_stats or norm.running_mean is None or norm.running_var is None:
                continue
            share = norm.momentum
            if norm.num_batches_tracked is not None:
                norm.num_batches_tracked.add_(1)
                if share is None:
                    share = 1.0 / float(norm.num_batches_tracked)
            share = 0.0 if share is None else share
            norm.running_mean.mul_(1 - share).add_(of, alpha=share)
            norm.running_var.mul_(1 - share).add_(spread, alpha=share * unbiased)


def uses(net: Any) -> tuple[Use, ...]:
    """Where engines run in a chain and in those inside it, and where they do not and why."""
    found = []
    for name, module in net.named_modules():
        for segment in getattr(module, "_segments", ()):
            layers = [read(module_at(module, layer)) for layer in segment.layers]
            where = ".".join(part for part in (name, segment.name) if part)
            what = f"dense block of {len(segment.layers)} layers"
            found.append(Use(where, what, refusal(segment, module, layers)))
    return tuple(found)


def use_engines(net: nn.Module, mode: str = "auto") -> None:
    """Say whether faster executors may run parts of a chain while it trains: a switch, kept by copies and pickles.

    Parameters
    ----------
    net:
        a chain, or any module with chains inside.
    mode:
        ``"auto"``, the default of every chain, runs dense blocks on their engine where that is exact and pays;
        ``"keep"`` wherever it is exact, small ones too; ``"recompute"`` likewise, and computes the bottlenecks anew in
        the backward instead of keeping them: about half the memory for about a sixth more time; ``"off"`` never.

    What each part runs on, and why, is in ``net.engines``. Raises ``ChainError`` for another word.

    >>> from skipway.zoo.densenet import block
    >>> net = block(4, growth=12).build((16, 8, 8))
    >>> use_engines(net, "off")
    >>> print(net.engines[0])
    the chain: dense block of 4 layers, switched off
    """
    if mode not in MODES:
        raise ChainError(f"use_engines: mode= is one of {', '.join(map(repr, MODES))}, not {mode!r}: "
                         f"{nearest(str(mode), MODES)}")  # fmt: skip
    for module in net.modules():
        if hasattr(module, "_segments"):
            module._engine = mode  # type: ignore[assignment]
