"""PyTorch's fused oneDNN operators: convolution, activation and the sum with a shortcut as one call.

These operators are what PyTorch's own compiler calls; they are private. So each is looked for before it is used, tried
on the example when the program is written, and an operation that they do not take is computed by plain PyTorch instead.
"""

from __future__ import annotations

import itertools
import threading
import types
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .layers import _pads
from .straight import FRESH, Op, growing, operations, readers, unary

OPERATORS = ("_convolution_pointwise", "_convolution_pointwise_", "_reorder_convolution_weight")


def missing(precision: str) -> str:
    """Why these operators cannot be used here, in words; empty where they can."""
    if not torch.backends.mkldnn.is_available():
        return "this PyTorch was built without oneDNN"
    held = torch.ops.mkldnn
    gone = [name for name in OPERATORS if not hasattr(held, name)]
    if gone:
        return f"this PyTorch has no torch.ops.mkldnn.{gone[0]}"
    if precision == "bf16" and not has_bf16():
        return "oneDNN has no bf16 convolutions on this processor"
    return ""


def has_bf16() -> bool:
    """Whether the processor has arithmetic in bf16, which is emulated by way of float32 elsewhere."""
    return bool(getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", bool)())


class Rooms(threading.local):
    """Memory for concatenations that grow, one room a place, kept from call to call of the same thread."""

    def __init__(self) -> None:
        self._held: dict[int, Tensor] = {}

    def room(self, which: int, like: Tensor, width: int) -> Tensor:
        """An image of ``width`` channels, channels last, as many and as large as those of ``like``."""
        n, _, h, w = like.shape
        held = self._held.get(which)
        if held is None or held.shape != (n, width, h, w):
            with torch.inference_mode(False):  # it may be written to outside of it in the next call
                held = self._held[which] = like.new_empty(n, h, w, width).permute(0, 3, 1, 2)
        return held


class Program:
    """Straight-line code for a list of operations, with the numbers it works on.

    It is written while the example runs through it: an operator that fails on what arrives there is replaced.

    Parameters
    ----------
    ops:
        from :func:`~skipway.deploy.straight.operations`.
    example:
        an input.

    Attributes
    ----------
    source:
        the code.
    plain:
        operations that PyTorch's ordinary operators compute, though a fused one was meant to, with the reason.
    """

    def __init__(self, ops: Sequence[Op], example: Tensor) -> None:
        self._ops, self.plain = list(ops), list[str]()
        self._names: dict[str, Any] = {"torch": torch, "F": torch.nn.functional, "rooms": Rooms()}
        self._values: dict[Op, Tensor] = {}
        self._rooms: dict[str, Tensor] = {}
        self._filled: dict[int, int] = {}
        self._vars: dict[Op, str] = {}
        self._users = readers(self._ops)
        self._at = {op: i for i, op in enumerate(self._ops)}
        self._shared: dict[Op, tuple[int, Op, bool]] = {}
        for which, (family, forwards) in enumerate(growing(self._ops)):
            self._shared.update(dict.fromkeys(family, (which, family[-1], forwards)))
        self._lines = self._write(example)
        self.source = "\n    ".join(["def forward(x):", *self._lines, f"return {self._vars[self._ops[-1]]}"]) + "\n"

    def function(self) -> Callable[[Tensor], Tensor]:
        """The compiled program, for a tensor in the layout of the example."""
        module = compile(self.source, "<skipway onednn>", "exec")
        code = next(c for c in module.co_consts if isinstance(c, types.CodeType))
        return types.FunctionType(code, self._names)

    # -- writing -------------------------------------------------------------------------------------------------------

    def _write(self, example: Tensor) -> list[str]:
        lines: list[str] = []
        for i, op in enumerate(self._ops):
            var = self._vars[op] = "x" if op.what == "input" else f"v{i}"
            if op.what == "input":
                self._values[op] = example
                continue
            lines += [*self._expression(op, var), *self._freed(op)]
        self._values.clear()
        return lines

    def _expression(self, op: Op, var: str) -> list[str]:
        """The lines that compute an operation: the first way that runs on what arrives."""
        why = ""
        for way in (getattr(self, f"_{op.what}_fused", None), getattr(self, f"_{op.what}", self._call)):
            if way is None:
                continue
            try:
                lines = way(op, var)
                self._values[op] = self._run(lines, op, var)
                return [line for line in lines if line]
            except (RuntimeError, TypeError, NotImplementedError) as error:
                why = why or " ".join(str(error).split())[:120]
                self.plain.append(f"{var}: {why}")
        raise RuntimeError(why)

    def _run(self, lines: list[str], op: Op, var: str) -> Tensor:
        held = {self._vars[value]: self._values[value].clone() for value in op.reads} | self._rooms
        exec("\n".join(lines), self._names, held)
        self._rooms.update({name: value for name, value in held.items() if name.startswith("room")})
        made = held[var]
        return made if isinstance(made, Tensor) else torch.as_tensor(made)

    def _freed(self, op: Op) -> list[str]:
        """Take away what nothing reads any more."""
        gone = [v for v in dict.fromkeys(op.reads) if max(self._at[user] for user in self._users[v]) == self._at[op]]
        for value in gone:
            self._values.pop(value, None)
        names = [self._vars[v] for v in gone]
        return [f"del {', '.join(names)}"] if names else []

    def _bind(self, value: Any, name: str) -> str:
        name = f"{name}{len(self._names)}"
        self._names[name] = value
        return name

    def _dies(self, value: Op, op: Op) -> bool:
        """Whether a value may be written over by an operation: it is the last to read it, and nothing looks into it."""
        users = self._users[value]
        return (
            value.what in FRESH
            and value not in self._shared
            and all(user.what in FRESH for user in users)
            and max(self._at[user] for user in users) == self._at[op]
            and op.reads.count(value) == 1
        )

    def _acted(self, op: Op, var: str, fresh: bool = True) -> list[str]:
        """The activation of an operation as a line of its own."""
        if op.act is None:
            return []
        known = unary(op.act)
        if known is not None and known[0] == "relu":
            return [f"torch.relu_({var})" if fresh else f"{var} = torch.relu({var})"]
        return [f"{var} = {self._bind(op.act, 'act')}({var})"]

    # -- one operation -------------------------------------------------------------------------------------------------

    def _conv_fused(self, op: Op, var: str) -> list[str]:
        layer, x = op.layer, self._values[op.args[0]]
        padding, act = _pads(layer), unary(op.act)
        if x.dim() != layer.weight.dim() or layer.weight.dim() != 4:
            raise NotImplementedError("the fused convolution works on images")
        held = torch.ops.mkldnn
        sizes = [list(padding or ()), list(layer.stride), list(layer.dilation), layer.groups]
        packed = held._reorder_convolution_weight(layer.weight.detach().clone(), *sizes, list(x.shape))
        bias = None if layer.bias is None else layer.bias.detach()
        arguments = [self._vars[op.args[0]], self._bind(packed, "weight"), self._bind(bias, "bias")]
        arguments += [self._bind(tuple(size), "size") for size in sizes[:3]] + [str(layer.groups)]
        name, numbers, algorithm = act or ("none", [], "")
        after = self._acted(op, var) if act is None else []
        tail = f"{name!r}, {numbers!r}, {algorithm!r}"
        if op.plus is None:
            call = self._bind(held._convolution_pointwise.default, "conv")
            return [f"{var} = {call}({', '.join(arguments)}, {tail})", *after]
        other, tail = (
            self._vars[op.plus],
            f'"add", None, {None if name == "none" else name!r}, {numbers!r}, {algorithm!r}',
        )
        if self._dies(op.plus, op):
            call = self._bind(held._convolution_pointwise_.binary, "conv_add")
            return [f"{var} = {call}({other}, {', '.join(arguments)}, {tail})", *after]
        call = self._bind(held._convolution_pointwise.binary, "conv_add")
        return [f"{var} = {call}({arguments[0]}, {other}, {', '.join(arguments[1:])}, {tail})", *after]

    def _conv(self, op: Op, var: str) -> list[str]:
        layer = op.layer
        call = ("torch.conv1d", "torch.conv2d", "torch.conv3d")[layer.weight.dim() - 3]
        weight = self._bind(layer.weight.detach(), "weight")
        bias = self._bind(None if layer.bias is None else layer.bias.detach(), "bias")
        sizes = f"{tuple(layer.stride)}, {tuple(_pads(layer) or ())}, {tuple(layer.dilation)}, {layer.groups}"
        lines = [f"{var} = {call}({self._vars[op.args[0]]}, {weight}, {bias}, {sizes})"]
        return [*lines, *self._plus(op, var), *self._acted(op, var)]

    def _plus(self, op: Op, var: str) -> list[str]:
        return [] if op.plus is None else [f"{var}.add_({self._vars[op.plus]})"]

    def _dense_fused(self, op: Op, var: str) -> list[str]:
        """``addmm`` on weights turned beforehand: the fused operator costs more than it saves on dense layers."""
        layer, x = op.layer, op.args[0]
        if self._values[x].dim() != 2 or layer.bias is None:
            raise NotImplementedError("addmm takes vectors, and a bias")
        weight = self._bind(layer.weight.detach().t().contiguous(), "weight")
        lines = [f"{var} = torch.addmm({self._bind(layer.bias.detach(), 'bias')}, {self._vars[x]}, {weight})"]
        return [*lines, *self._acted(op, var)]

    def _dense(self, op: Op, var: str) -> list[str]:
        weight = self._bind(op.layer.weight.detach(), "weight")
        bias = self._bind(None if op.layer.bias is None else op.layer.bias.detach(), "bias")
        return [f"{var} = F.linear({self._vars[op.args[0]]}, {weight}, {bias})", *self._acted(op, var)]

    def _max(self, op: Op, var: str) -> list[str]:
        layer, x = op.layer, op.args[0]
        weight = (layer.weight.detach().double() + torch.eye(layer.weight.shape[0], dtype=torch.float64)).to(
            layer.weight
        )
        if self._values[x].dim() == 2 and layer.bias is not None:
            turned, bias = self._bind(weight.t().contiguous(), "weight"), self._bind(layer.bias.detach(), "bias")
            made = f"torch.addmm({bias}, {self._vars[x]}, {turned})"
        else:
            bias = self._bind(None if layer.bias is None else layer.bias.detach(), "bias")
            made = f"F.linear({self._vars[x]}, {self._bind(weight, 'weight')}, {bias})"
        return [f"{var} = {made}", f"torch.maximum({var}, {self._vars[x]}, out={var})"]

    def _add(self, op: Op, var: str) -> list[str]:
        a, b = op.args
        if a is not b and self._dies(a, op):
            made = f"{self._vars[a]}.add_({self._vars[b]})"
        elif a is not b and self._dies(b, op):
            made = f"{self._vars[b]}.add_({self._vars[a]})"
        else:
            made = f"{self._vars[a]} + {self._vars[b]}"
        return [f"{var} = {made}", *self._acted(op, var)]

    def _act(self, op: Op, var: str) -> list[str]:
        value, known = op.args[0], unary(op.layer)
        if known is not None and known[0] == "relu":
            call = "torch.relu_" if self._dies(value, op) else "torch.relu"
            return [f"{var} = {call}({self._vars[value]})"]
        return [f"{var} = {self._bind(op.layer, 'act')}({self._vars[value]})"]

    def _times(self, op: Op, var: str) -> list[str]:
        gain = op.layer.detach() if isinstance(op.layer, Tensor) else op.layer
        return [f"{var} = {self._vars[op.args[0]]} * {self._bind(gain, 'gain')}"]

    def _clamp(self, op: Op, var: str) -> list[str]:
        layer, x = op.layer, self._vars[op.args[0]]
        if layer.both:
            return [f"{var} = torch.clamp({x}, {self._bind(layer.low, 'low')}, {self._bind(layer.high, 'high')})"]
        return [f"{var} = torch.maximum({x}, {self._bind(layer.low, 'low')})"]

    def _affine(self, op: Op, var: str) -> list[str]:
        affine, x = op.affine, self._values[op.args[0]]
        assert affine is not None
        shape = (-1, *[1] * (-1 - affine.axis)) if affine.axis is not None else ()
        scale, shift = (self._bind(t.to(x.dtype).view(shape), "norm") for t in (affine.scale, affine.shift))
        return [f"{var} = torch.addcmul({shift}, {self._vars[op.args[0]]}, {scale})"]

    def _cat(self, op: Op, var: str) -> list[str]:
        values = ", ".join(self._vars[value] for value in op.args)
        return [f"{var} = torch.cat(({values},), {op.axis})"]

    def _cat_fused(self, op: Op, var: str) -> list[str]:
        """What is new goes to its place in the room that all concatenations of a dense block share."""
        which, last, forwards = self._shared.get(op, (0, None, True))
        widths = [] if last is None else [self._width(value) for value in last.args]
        if last is None or None in widths or self._values[op.args[0]].dim() != 4:
            self._shared.pop(op, None)
            return self._cat(op, var)
        total = sum(width for width in widths if width is not None)
        room, there, n = f"room{which}", self._filled.get(which, 0), len(op.args)
        lines = []
        if not there:
            lines = [f"{room} = rooms.room({which}, {self._vars[op.args[0]]}, {total})"]
        # what is new stands at the one end, or the other
        at = range(there, n) if forwards else range(len(last.args) - n, len(last.args) - there)
        ends = list(itertools.accumulate((width for width in widths if width is not None), initial=0))
        for i in at:
            lines.append(f"{room}[:, {ends[i]} : {ends[i + 1]}].copy_({self._vars[last.args[i]]})")
        self._filled[which] = n
        seen = f": {ends[n]}" if forwards else f"{ends[-1 - n]} :"
        return [*lines, f"{var} = {room}[:, {seen}]"]

    def _width(self, value: Op) -> int | None:
        """The channels of an operation, also of one that is still to come."""
        if value in self._values:
            return self._values[value].shape[-3]
        if value.what == "conv":
            return int(value.layer.weight.shape[0])
        if value.what in ("clamp", "affine", "act", "add", "times"):
            return self._width(value.args[0])
        return None

    def _call(self, op: Op, var: str) -> list[str]:
        return [f"{var} = {self._bind(op.layer, 'layer')}({', '.join(self._vars[value] for value in op.args)})"]


def program(chain: Any, example: Tensor) -> Program:
    """The straight-line program of a chain, for inputs of the kind of ``example``."""
    from skipway.value import Form

    form = chain._form if chain._form.sizes else Form((tuple(example.shape[1:]),), None, example.dtype)
    return Program(operations(chain, form), example)
