"""The algebra of linear layers: what two of them are, one after the other or side by side, as one.

Numbers are float64 here, and are rounded once: when a layer is made of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor


class Inexact(Exception):
    """A fold that would compute something else, or cost more than it saves. Its text says why."""


@dataclass(frozen=True, eq=False)
class Affine:
    """``scale * x + shift``, channel by channel: batch norm in eval mode, LayerScale, a constant gain, the identity.

    Attributes
    ----------
    scale, shift:
        ``(C,)``, or numbers ``()``.
    axis:
        the axis of the channels, counted from the end; ``None`` where both are numbers.
    """

    scale: Tensor
    shift: Tensor
    axis: int | None = None

    @classmethod
    def number(cls, factor: float) -> Affine:
        """A constant gain.

        >>> Affine.number(1.0).nothing
        True
        """
        return cls(torch.tensor(factor, dtype=torch.float64), torch.zeros((), dtype=torch.float64))

    @property
    def nothing(self) -> bool:
        """Whether it is the identity."""
        return self.axis is None and float(self.scale) == 1.0 and float(self.shift) == 0.0

    @property
    def size(self) -> int:
        return 0


@dataclass(frozen=True, eq=False)
class Kernel:
    """A dense layer or a convolution: ``weight * x + bias``.

    Attributes
    ----------
    weight:
        ``(out, in)`` of a dense layer, ``(out, in / groups, *size)`` of a convolution, ``(in, out / groups, *size)`` of
        a transposed one.
    bias:
        ``(out,)``, or ``None``.
    stride, padding, dilation:
        one number a dimension; empty for a dense layer.
    mode:
        what the padding is made of, in torch's words.
    transposed:
        the ``output_padding`` of a transposed convolution; ``None`` for all others.
    """

    weight: Tensor
    bias: Tensor | None = None
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    groups: int = 1
    mode: str = "zeros"
    transposed: tuple[int, ...] | None = None

    @property
    def dims(self) -> int:
        return self.weight.dim() - 2

    @property
    def axis(self) -> int:
        """The axis of the channels, counted from the end."""
        return -1 - self.dims

    @property
    def ins(self) -> int:
        return self.weight.shape[0] if self.transposed is not None else self.weight.shape[1] * self.groups

    @property
    def outs(self) -> int:
        return self.weight.shape[1] * self.groups if self.transposed is not None else self.weight.shape[0]

    @property
    def size(self) -> int:
        """Weights, which are also the multiply-adds for one place of the output."""
        return self.weight.numel()

    @property
    def pointwise(self) -> bool:
        """Whether every place of the output reads one place of the input."""
        return self.transposed is None and all(k == 1 for k in self.weight.shape[2:]) and not any(self.padding)

    @property
    def pads_zeros(self) -> bool:
        return self.mode == "zeros" and any(self.padding)


Linear = Affine | Kernel


def then(first: Linear, second: Linear) -> Linear:
    """One layer for two, the second after the first.

    Raises :class:`Inexact` where there is none that computes the same, or none that costs as little.

    >>> twice = then(Affine.number(2.0), Kernel(torch.ones(1, 3, dtype=torch.float64)))
    >>> twice.weight.tolist()
    [[2.0, 2.0, 2.0]]
    """
    if isinstance(first, Affine):
        return _both(first, second) if isinstance(second, Affine) else _before(first, second)
    return _after(first, second) if isinstance(second, Affine) else _row(first, second)


def _both(first: Affine, second: Affine) -> Affine:
    axes = {a for a in (first.axis, second.axis) if a is not None}
    if len(axes) > 1:
        raise Inexact("they scale other axes")
    return Affine(first.scale * second.scale, first.shift * second.scale + second.shift, next(iter(axes), None))


def _same_axis(affine: Affine, kernel: Kernel) -> None:
    if affine.axis not in (None, kernel.axis):
        raise Inexact("it scales another axis than that of the features")


def _after(kernel: Kernel, affine: Affine) -> Kernel:
    """``affine(kernel(x))``: always exact."""
    _same_axis(affine, kernel)
    scale, shift = affine.scale.expand(kernel.outs), affine.shift.expand(kernel.outs)
    bias = kernel.bias
    # channel by channel there is a bias whatever the numbers are; a single number has one where it shifts
    if bias is not None or affine.axis is not None or shift.any():
        bias = shift if bias is None else bias * scale + shift
    if kernel.transposed is not None:
        g = kernel.groups
        grouped = kernel.weight.unflatten(0, (g, -1)) * scale.view(g, 1, -1, *[1] * kernel.dims)
        return replace(kernel, weight=grouped.flatten(0, 1), bias=bias)
    return replace(kernel, weight=kernel.weight * scale.view(-1, *[1] * (kernel.dims + 1)), bias=bias)


def _before(affine: Affine, kernel: Kernel) -> Kernel:
    """``kernel(affine(x))``: exact unless zeros of a padding would have to be shifted too."""
    _same_axis(affine, kernel)
    scale, shift = affine.scale.expand(kernel.ins), affine.shift.expand(kernel.ins)
    if shift.any() and kernel.pads_zeros:
        raise Inexact("the convolution after it pads with zeros, which are not shifted")
    if shift.any() and kernel.transposed is not None:
        raise Inexact("a transposed convolution adds up another number of shifts at every place")
    if kernel.transposed is not None:
        return replace(kernel, weight=kernel.weight * scale.view(-1, *[1] * (kernel.dims + 1)))
    g = kernel.groups
    by_group = kernel.weight.unflatten(0, (g, -1))  # (groups, out / groups, in / groups, *size)
    weight = by_group * scale.view(g, 1, -1, *[1] * kernel.dims)
    if not shift.any():
        return replace(kernel, weight=weight.flatten(0, 1))
    moved = (by_group.flatten(3).sum(3) if kernel.dims else by_group) @ shift.view(g, -1, 1)
    bias = moved.flatten() if kernel.bias is None else kernel.bias + moved.flatten()
    return replace(kernel, weight=weight.flatten(0, 1), bias=bias)


def _row(first: Kernel, second: Kernel) -> Kernel:
    """``second(first(x))``, where one of them is pointwise and the product is no larger than the two."""
    if first.dims != second.dims or first.transposed is not None or second.transposed is not None:
        raise Inexact("they are of different kinds")
    if first.groups > 1 or second.groups > 1:
        raise Inexact("one of them works in groups, and their product would not")
    places = math.prod(second.stride)  # the first layer works at so many places for one of the second
    if second.pointwise:
        weight = torch.einsum("om,mi...->oi...", second.weight.flatten(1), first.weight)
        bias = None if first.bias is None else second.weight.flatten(1) @ first.bias
        stride = tuple(a * b for a, b in zip(first.stride, second.stride, strict=True))
        made = replace(first, weight=weight, stride=stride)
    elif first.pointwise and set(first.stride) == {1}:
        if first.bias is not None and first.bias.any() and second.pads_zeros:
            raise Inexact("the second pads with zeros, where the first would have put its bias")
        weight = torch.einsum("om...,mi->oi...", second.weight, first.weight.flatten(1))
        bias = None if first.bias is None else second.weight.flatten(2).sum(2) @ first.bias
        made = replace(second, weight=weight)
    else:
        raise Inexact("neither of them is a 1x1 convolution, and their product would be a larger kernel")
    if made.size > first.size * places + second.size:
        raise Inexact(f"their product would cost more ({made.size:,} weights for {first.size + second.size:,})")
    if second.bias is not None:
        bias = second.bias if bias is None else bias + second.bias
    return replace(made, bias=bias)


def total(parts: Sequence[Linear]) -> Linear:
    """One layer for the sum of several over the same input.

    A 1x1 kernel is the middle of a 3x3 one, and the identity a 1x1 kernel (2101.03697). Raises :class:`Inexact` where
    the places that the layers read do not line up, or their sum would cost more than they do.

    >>> eye = total([Kernel(torch.zeros(2, 2, dtype=torch.float64)), Affine.number(1.0)])
    >>> eye.weight.tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    kernels = [p for p in parts if isinstance(p, Kernel)]
    affines = [p for p in parts if isinstance(p, Affine)]
    if not kernels:
        return _sum_of_affines(affines)
    like = kernels[0]
    if any(k.dims != like.dims or k.transposed is not None for k in kernels):
        raise Inexact("they are of different kinds")
    groups = math.gcd(*[k.groups for k in kernels])
    for affine in affines:
        _same_axis(affine, like)
        if like.ins != like.outs:
            raise Inexact(f"the identity keeps the width, and the layer takes {like.ins} to {like.outs}")
        kernels.append(_diagonal(affine, like, groups))
    made = _lined_up([_regrouped(k, groups) for k in kernels])
    cost = sum(k.size for k in parts)
    if made.size > cost:
        raise Inexact(f"one kernel for them would cost more ({made.size:,} weights for {cost:,})")
    return made


def _sum_of_affines(affines: Sequence[Affine]) -> Affine:
    axes = {a.axis for a in affines} - {None}
    if len(axes) > 1:
        raise Inexact("they scale other axes")
    scale, shift = affines[0].scale, affines[0].shift
    for affine in affines[1:]:
        scale, shift = scale + affine.scale, shift + affine.shift
    return Affine(scale, shift, next(iter(axes), None))


def _diagonal(affine: Affine, like: Kernel, groups: int) -> Kernel:
    """An affine map as a pointwise kernel of the same kind as another."""
    width, dims = like.outs, like.dims
    inside = width // groups
    weight = affine.scale.new_zeros(width, inside)
    rows = torch.arange(width)
    weight[rows, rows % inside] = affine.scale.expand(width)
    bias = None if affine.axis is None and not affine.shift.any() else affine.shift.expand(width)
    ones = (1,) * dims
    return Kernel(weight.view(width, inside, *ones), bias, ones, (0,) * dims, ones, groups)


def select(width: int, rows: Tensor, stride: tuple[int, ...] = ()) -> Kernel:
    """The pointwise kernel whose output channel ``i`` is channel ``rows[i]`` of ``width``; zeros where that is -1."""
    weight = torch.zeros(len(rows), width, dtype=torch.float64)
    taken = rows >= 0
    weight[taken, rows[taken]] = 1.0
    ones = (1,) * len(stride)
    return Kernel(weight.view(len(rows), width, *ones), None, stride, (0,) * len(stride), ones)


def _regrouped(kernel: Kernel, groups: int) -> Kernel:
    """The same map in fewer, larger groups, with zeros between what was apart."""
    if kernel.groups == groups:
        return kernel
    each = kernel.groups // groups
    out, inside = kernel.weight.shape[0], kernel.weight.shape[1]
    weight = kernel.weight.new_zeros(out, inside * each, *kernel.weight.shape[2:])
    width = out // kernel.groups
    for g in range(kernel.groups):
        at = (g % each) * inside
        weight[g * width : (g + 1) * width, at : at + inside] = kernel.weight[g * width : (g + 1) * width]
    return replace(kernel, weight=weight, groups=groups)


def _lined_up(kernels: Sequence[Kernel]) -> Kernel:
    """The sum of convolutions that read around the same places, padded to the largest kernel."""
    like = max(kernels, key=lambda k: (k.padding, k.size))
    if any(k.stride != like.stride for k in kernels):
        raise Inexact("they have different strides")
    modes = {k.mode for k in kernels if any(k.padding)}
    if len(modes) > 1:
        raise Inexact("they pad in different ways")
    large = [k for k in kernels if any(s > 1 for s in k.weight.shape[2:])]
    dilations = {k.dilation for k in large}
    if len(dilations) > 1:
        raise Inexact("they have different dilations")
    dilation = next(iter(dilations), like.dilation)
    padding = tuple(max(k.padding[d] for k in kernels) for d in range(like.dims))
    reach = {
        tuple(2 * k.padding[d] - dilation[d] * (k.weight.shape[2 + d] - 1) for d in range(like.dims)) for k in kernels
    }
    if len(reach) > 1:
        raise Inexact("they make images of different sizes, but for some inputs")
    weights = []
    for kernel in kernels:
        margins: list[int] = []
        for d in reversed(range(like.dims)):
            more, rest = divmod(padding[d] - kernel.padding[d], dilation[d])
            if rest:
                raise Inexact("the places they read lie between each other")
            margins += [more, more]
        weights.append(torch.nn.functional.pad(kernel.weight, margins) if any(margins) else kernel.weight)
    biases = [k.bias for k in kernels if k.bias is not None]
    return replace(
        like,
        weight=torch.stack(weights).sum(0),
        bias=torch.stack(biases).sum(0) if biases else None,
        padding=padding,
        dilation=dilation,
        mode=next(iter(modes), "zeros"),
    )
