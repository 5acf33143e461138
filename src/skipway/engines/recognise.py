"""Where an engine could run: runs of layers in the graph of a chain whose values are wired as in a dense block."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import nn

from skipway.connection import Connection
from skipway.graph import Edge, Graph
from skipway.layers import BatchNorm, Conv2d
from skipway.merges import CatFirst
from skipway.spine import Spine, unwrap
from skipway.wrap import Wrapped

from .kernel import Shape


@dataclass(frozen=True)
class Segment:
    """Neighbouring layers of a graph that an engine may run instead of the generated code."""

    start: int
    """the node whose value it takes"""
    end: int
    """the node whose value it gives"""
    name: str
    layers: tuple[str, ...]
    """dotted names of the layers, from the chain whose graph it is"""


def segments(graph: Graph) -> list[Segment]:
    """The dense blocks of a graph, from two layers on: values that are ``cat`` of all that was made since one value."""
    found, at = [], 0
    while at < len(graph.nodes):
        end = _dense_until(graph, at)
        if end - at >= 2 and _closed(graph, at, end):
            names = tuple(node.name for node in graph.nodes[at + 1 : end + 1])
            whole = at == 0 and end == len(graph.nodes) - 1
            found.append(Segment(at, end, "" if whole else f"{names[0]}..{names[-1]}", names))
            at = end
        else:
            at += 1
    return found


def _dense_until(graph: Graph, start: int) -> int:
    """The last node up to which each value is ``cat`` of the value at ``start`` and what every layer since made."""
    first = graph.nodes[start]
    end = start
    for node in graph.nodes[start + 1 :]:
        # the nearest joins first, each before what is there already: features lie in the order in which they were made
        wanted = list(range(node.index - 1, start - 1, -1))
        if node.layer is None or [e.start for e in node.edges] != wanted or not all(map(_joins, node.edges)):
            break
        taps = [e.shortcut.tap for e in node.edges]
        if any(tap != "branch" for tap in taps[:-1]):
            break
        if start and first.edges and taps[-1] != "state":
            break
        end = node.index
    return end


def _joins(edge: Edge) -> bool:
    c: Connection | None = edge.connection
    if c is None or type(c.merge) is not CatFirst or c.merge.axis not in (-3, 1):
        return False
    return all(part is None for part in (c.path, c.path_scale, c.scale, c.drop, c.act))


def _closed(graph: Graph, start: int, end: int) -> bool:
    """Whether no value inside is read from outside."""
    inside = graph.nodes[start + 1 : end + 1]
    return all(e.end <= end or (node.index == end and e.tap == "state") for node in inside for e in node.leaves)


# -- the layers of a segment -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stage:
    """``conv(relu(norm(x)))``"""

    norm: nn.modules.batchnorm._BatchNorm
    conv: nn.Conv2d


@dataclass(frozen=True)
class Layer:
    """A layer of a dense block: a convolution, or a 1x1 convolution and one after it, each behind norm and relu."""

    stages: tuple[Stage, ...]
    shape: Shape = field(compare=False)


_RELUS = (torch.relu, F.relu, torch.relu_)


def parts(module: nn.Module) -> Iterator[nn.Module]:
    """The single layers of a layer in order, nested rows opened."""
    if type(module) is nn.Sequential:
        for inner in module:
            yield from parts(inner)
    elif isinstance(module, Spine) and type(module).__module__ == "skipway.chain" and not module.wiring:
        for inner in module.modules_in_order:
            yield from parts(inner)
    else:
        yield module


def read(module: nn.Module) -> Layer | str:
    """A layer as norms and convolutions, or why it is not of that kind."""
    row = list(parts(module))
    if len(row) not in (3, 6):
        return f"has {len(row)} parts ({_types(row)}), not norm, relu and convolution once or twice"
    stages = []
    for norm, act, conv in zip(row[::3], row[1::3], row[2::3], strict=True):
        why = _norm(norm) or _relu(act) or _conv(conv)
        if why:
            return why
        assert isinstance(norm, nn.modules.batchnorm._BatchNorm)
        assert isinstance(conv, nn.Conv2d)
        if norm.num_features != conv.in_channels:
            return f"normalises {norm.num_features} channels and convolves {conv.in_channels}"
        stages.append(Stage(norm, conv))
    last = stages[-1]
    if len(stages) == 2:
        narrow = stages[0].conv
        if narrow.kernel_size != (1, 1) or narrow.padding != (0, 0):
            return f"its first convolution has a {narrow.kernel_size} kernel, not (1, 1)"
        if narrow.out_channels != last.conv.in_channels:
            return f"makes {narrow.out_channels} channels and convolves {last.conv.in_channels}"
    padding, dilation = tuple(map(int, last.conv.padding)), last.conv.dilation
    if any(2 * p != d * (k - 1) for p, d, k in zip(padding, dilation, last.conv.kernel_size, strict=True)):
        return "its convolution changes the image size"
    shape = Shape(
        stages[0].norm.num_features, last.conv.out_channels, stages[0].norm.eps, padding, dilation, last.norm.eps,
    )  # fmt: skip
    return Layer(tuple(stages), shape)


def _norm(module: nn.Module) -> str:
    if type(module) not in (BatchNorm, nn.BatchNorm2d):
        return f"has a {_type(module)} where a batch norm would be"
    return "its batch norm has no gamma and beta" if module.weight is None or module.bias is None else ""


def _relu(module: nn.Module) -> str:
    plain = isinstance(module, Wrapped) and module.stateless and unwrap(module) in _RELUS
    return "" if plain or type(module) is nn.ReLU else f"has {_type(module)} where a relu would be"


def _conv(module: nn.Module) -> str:
    if type(module) not in (Conv2d, nn.Conv2d):
        return f"has a {_type(module)} where a convolution of images would be"
    assert isinstance(module, nn.Conv2d)
    if getattr(module, "act", None) is not None:
        return "its convolution has an activation"
    if module.groups != 1 or module.stride != (1, 1):
        return f"its convolution has stride={module.stride} and groups={module.groups}"
    if module.padding_mode != "zeros" or not isinstance(module.padding, tuple):
        return f"its convolution has padding={module.padding!r} and padding_mode={module.padding_mode!r}"
    if not isinstance(module.dilation, tuple) or not isinstance(module.kernel_size, tuple):
        return f"its convolution has kernel_size={module.kernel_size!r} and dilation={module.dilation!r}"
    return ""


def _type(module: nn.Module) -> str:
    held = unwrap(module)
    return getattr(held, "__name__", type(held).__name__)


def _types(row: list[nn.Module]) -> str:
    names = [_type(m) for m in row]
    return ", ".join(names[:7]) + (", ..." if len(names) > 7 else "")
