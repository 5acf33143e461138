"""Layers as numbers, and numbers as layers: what :mod:`~skipway.deploy.kernels` works on, read and written back."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from skipway import functional, layers, pools
from skipway.gains.random import DropPath, Shaken
from skipway.gains.schedule import Annealed
from skipway.layer import is_tied
from skipway.merges import Add, Mean, Sub
from skipway.merges.random import JoinModule, ShakeModule, SwapoutModule
from skipway.merges.weighted import WeightedSum
from skipway.observed import HOOKS
from skipway.paths.project import Padding, SubsampleAndPad
from skipway.paths.size import SliceTo
from skipway.spine import unwrap

from .kernels import Affine, Kernel, Linear, select


class PerChannel(nn.Module):
    """``scale * x + shift`` channel by channel, in one pass: what is left of norms that found no neighbour.

    Shapes: ``(N, *)`` to the same. Begins as the identity.

    Parameters
    ----------
    width:
        the number of channels; 1 for one number for all.
    axis:
        their axis, counted from the end.

    >>> PerChannel(2)(torch.ones(1, 2)).tolist()
    [[1.0, 1.0]]
    """

    def __init__(self, width: int, axis: int = -1) -> None:
        super().__init__()
        self.width, self.axis, self.layout = width, axis, _layout(width, axis)
        shape = (width, *[1] * (-1 - axis))
        self.scale, self.shift = nn.Parameter(torch.ones(shape)), nn.Parameter(torch.zeros(shape))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addcmul(self.shift, x, self.scale)

    def extra_repr(self) -> str:
        return f"{self.width}, axis={self.axis}"


class Clamp(nn.Module):
    """``max(x, low)``, and with ``both`` also ``min(x, high)``, channel by channel, in one pass.

    It stands for norm and relu before a linear layer: ``relu(s x + t)`` is ``s max(x, -t / s) + t`` for a positive s
    (for a negative one with min), and s and t belong to the layer after it. Shapes: ``(N, *)`` to the same. Begins as
    relu.

    Parameters
    ----------
    width:
        the number of channels.
    axis:
        their axis, counted from the end.
    both:
        whether some channels have an upper end.

    >>> Clamp(2)(torch.tensor([[-1.0, 1.0]])).tolist()
    [[0.0, 1.0]]
    """

    low: Tensor
    high: Tensor

    def __init__(self, width: int, axis: int = -1, both: bool = False) -> None:
        super().__init__()
        self.width, self.axis, self.both, self.layout = width, axis, both, _layout(width, axis)
        shape = (width, *[1] * (-1 - axis))
        self.register_buffer("low", torch.zeros(shape))
        if both:
            self.register_buffer("high", torch.full(shape, torch.inf))

    def forward(self, x: Tensor) -> Tensor:
        return torch.clamp(x, self.low, self.high) if self.both else torch.maximum(x, self.low)

    def extra_repr(self) -> str:
        return f"{self.width}, axis={self.axis}{', both=True' if self.both else ''}"


def _layout(width: int, axis: int) -> str | None:
    """What the plan asks a layer for: where the features are. One number for all does not tell."""
    return None if width == 1 else "last" if axis == -1 else "first"


# -- layers as numbers -------------------------------------------------------------------------------------------------

_LINEAR = (nn.Linear, layers.Dense)
_CONV = (nn.Conv1d, nn.Conv2d, nn.Conv3d, layers.Conv1d, layers.Conv2d, layers.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_NORM = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm, layers.BatchNorm)
_NOTHING = (
    nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout,
)  # fmt: skip


def kind(layer: Any) -> type:
    """The class of a layer; under a parametrization, the class it had before."""
    is_ours = isinstance(layer, nn.Module) and parametrize.is_parametrized(layer)
    return parametrize.type_before_parametrizations(layer) if is_ours else type(layer)


def hooked(layer: Any) -> bool:
    return any(getattr(layer, hooks, None) for hooks in HOOKS)


def left_alone(layer: Any) -> str:
    """Why a layer that looks linear is not touched; empty for one that may be."""
    if not isinstance(layer, (*_LINEAR, *_CONV, *_TRANSPOSED, *_NORM)):
        return ""
    if hooked(layer):
        return "it has hooks, which a folded layer would not call"
    if is_tied(layer):
        return "its weights are shared by several places (tie)"
    if kind(layer) not in (*_LINEAR, *_CONV, *_TRANSPOSED, *_NORM):
        return f"{type(layer).__name__} is a class of its own, whose forward may differ from that of its base"
    if isinstance(layer, _CONV) and layer.padding == "same" and _pads(layer) is None:
        return "it pads one side more than the other"
    if isinstance(layer, _NORM) and (layer.running_mean is None or layer.running_var is None):
        return "it uses the statistics of the batch in eval mode too"
    return ""


def read(layer: Any, rank: int | None, width: int | None = None) -> Linear | None:
    """A layer without its activation as numbers; ``None`` for one that is not linear, or whose numbers are not known.

    Parameters
    ----------
    layer:
        the layer, or the function that is one.
    rank:
        dimensions of what it takes, without the batch axis.
    width:
        features of what it takes.
    """
    layer = unwrap(layer)
    if left_alone(layer) or hooked(layer):
        return None
    of = kind(layer)
    if layer is functional.identity or layer is Tensor.detach or of in _NOTHING:
        return Affine.number(1.0)
    factor = constant(layer)
    if factor is not None:
        return Affine.number(factor)
    if parametrized(layer):
        layer = copy.deepcopy(layer).double()  # so that the weights are computed in it
    if of in _LINEAR:
        return Kernel(_exact(layer.weight), _exact_or_none(layer.bias))
    if of in _CONV:
        return _convolution(layer)
    if of in _TRANSPOSED:
        made = _convolution(layer)
        return Kernel(
            made.weight, made.bias, made.stride, made.padding, made.dilation, made.groups,
            transposed=tuple(layer.output_padding),
        )  # fmt: skip
    if of in _NORM and rank is not None:
        scale = (_exact(layer.running_var) + layer.eps).rsqrt()
        if layer.weight is not None:
            scale = scale * _exact(layer.weight)
        shift = -_exact(layer.running_mean) * scale
        return Affine(scale, shift if layer.bias is None else shift + _exact(layer.bias), -rank)
    if of is PerChannel:
        scale, shift = _exact(layer.scale).flatten(), _exact(layer.shift).flatten()
        return Affine(scale, shift, layer.axis) if layer.width > 1 else Affine(scale[0], shift[0])
    if of is Padding:
        layer = layer.pad
    if isinstance(layer, SliceTo) and width is not None:
        return select(width, torch.arange(layer.start, layer.stop), (1,) * (-1 - layer.axis))
    if isinstance(layer, SubsampleAndPad) and width is not None:
        rows = torch.cat([torch.arange(width), torch.full((layer.more,), -1)])
        return select(width, rows, layer.stride)
    return None


def constant(gain: Any) -> float | None:
    """What a random or scheduled gain multiplies by in eval mode; ``None`` for one that is no constant."""
    if hooked(gain):
        return None
    if type(gain) is DropPath:
        return 1.0 - gain.p if gain.law == "test-scale" else 1.0
    if type(gain) is Shaken:
        return 1.0 - gain.p + gain.p * sum(gain.alpha) / 2
    return float(gain.value()) if type(gain) is Annealed else None


def shares(merge: Any, made: Any, count: int) -> list[float] | None:
    """What a merge multiplies each of ``count`` values by before it adds them up, in eval mode, the branch first.

    ``None`` for a merge that is no such sum. ``merge`` is the recipe, ``made`` what it made.
    """
    if hooked(made):
        return None
    if type(merge) in (Add, Mean):
        return [1.0 if type(merge) is Add else 1.0 / count] * count
    if type(merge) is Sub:
        return [-1.0, 1.0]
    if type(made) in (ShakeModule, JoinModule):
        return [1.0 / count] * count
    if type(made) is SwapoutModule:
        return list(made.keep)
    return copy.deepcopy(made).double().shares().tolist() if type(made) is WeightedSum else None


def says_itself(layer: Any) -> bool:
    """Whether a layer has a ``folded()`` that says what plain layer it is in eval mode, as ``DiracConv`` does.

    It is called on a copy in float64. What it makes is a layer of torch or skipway, a :class:`PerChannel` or a chain.
    """
    return (
        isinstance(layer, nn.Module)
        and callable(getattr(layer, "folded", None))
        and not hooked(layer)
        and not is_tied(layer)
    )


def is_norm(layer: Any) -> bool:
    return isinstance(layer, _NORM)


def parametrized(layer: Any) -> bool:
    """Whether the weights of a layer are computed anew in every forward."""
    return isinstance(layer, nn.Module) and parametrize.is_parametrized(layer)


def _exact(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", torch.float64)


def _exact_or_none(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else _exact(tensor)


def _convolution(layer: Any) -> Kernel:
    bias = _exact_or_none(layer.bias)
    sizes = tuple(layer.stride), _pads(layer) or (), tuple(layer.dilation)
    return Kernel(_exact(layer.weight), bias, *sizes, layer.groups, layer.padding_mode)


def _pads(layer: Any) -> tuple[int, ...] | None:
    """The padding of a convolution in numbers; ``None`` where the two sides differ."""
    if layer.padding == "valid":
        return (0,) * len(layer.kernel_size)
    if layer.padding != "same":
        return tuple(layer.padding)
    whole = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
    return None if any(w % 2 for w in whole) else tuple(w // 2 for w in whole)


# -- what stands between linear layers ---------------------------------------------------------------------------------

_RELU = (torch.relu, F.relu)
_LEAKY = (F.leaky_relu,)
_ACTS = (
    *_RELU, *_LEAKY, torch.tanh, torch.sigmoid, F.tanh, F.sigmoid, F.gelu, F.silu, F.elu, F.selu, F.softplus,
    F.hardswish, F.hardsigmoid, F.mish, F.relu6,
)  # fmt: skip
_ACT_MODULES = (
    nn.ReLU, nn.LeakyReLU, nn.Tanh, nn.Sigmoid, nn.GELU, nn.SiLU, nn.ELU, nn.SELU, nn.Softplus, nn.Hardswish,
    nn.Hardsigmoid, nn.Mish, nn.ReLU6,
)  # fmt: skip
_MEANS = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, pools.AvgPool)
_ADAPTIVE = (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d, pools.GlobalAvgPool)
_MAXIMA = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, pools.MaxPool)


def own_act(layer: Any) -> Callable[..., Any] | None:
    """The activation inside a Dense or Conv."""
    return getattr(layer, "act", None) if kind(layer) in (layers.Dense, *_CONV) else None


def as_act(layer: Any) -> Callable[..., Any] | None:
    """A layer that is an activation, element by element and without parameters; ``None`` for any other."""
    fn = unwrap(layer)
    if type(fn) is nn.ReLU and not hooked(fn):
        return torch.relu
    known = any(fn is act for act in _ACTS) or (type(fn) in _ACT_MODULES and not hooked(fn))
    return fn if known else None


def is_relu(act: Any) -> bool:
    return any(unwrap(act) is relu for relu in _RELU) or type(act) is nn.ReLU


def homogeneous(act: Any) -> bool:
    """Whether ``act(a x) = a act(x)`` for every ``a >= 0``."""
    return is_relu(act) or unwrap(act) in _LEAKY or type(act) is nn.LeakyReLU


def is_mean(layer: Any) -> bool:
    """Whether a layer is a mean over windows of every channel, which leaves constants as they are."""
    if hooked(layer):
        return False
    if type(layer) in _ADAPTIVE:
        return True
    if type(layer) not in _MEANS or getattr(layer, "divisor_override", None) is not None:
        return False
    sizes = layer.padding if isinstance(layer.padding, tuple) else (layer.padding,)
    return not any(sizes) or not getattr(layer, "count_include_pad", True)


def is_max(layer: Any) -> bool:
    return type(layer) in _MAXIMA and not hooked(layer) and not getattr(layer, "return_indices", False)


def is_flatten(layer: Any) -> bool:
    return type(layer) is nn.Flatten and (layer.start_dim, layer.end_dim) == (1, -1) and not hooked(layer)


def is_global(layer: Any) -> bool:
    """Whether a mean takes the image away altogether: ``(N, C, *size)`` to ``(N, C)``."""
    return type(layer) is pools.GlobalAvgPool


def shrinks(layer: Any) -> bool:
    """Whether a mean makes fewer places of an image, so that what comes after it is cheaper."""
    if type(layer) in _ADAPTIVE:
        return True
    stride = layer.stride or layer.kernel_size
    return any(s > 1 for s in (stride if isinstance(stride, tuple) else (stride,)))


# -- numbers as layers -------------------------------------------------------------------------------------------------


def write(linear: Linear, act: Any, like: tuple[torch.dtype, torch.device]) -> nn.Module:
    """A layer that computes ``act(linear(x))``, in a precision and on a device. Uses random numbers to no end."""
    dtype, device = like
    if isinstance(linear, Affine):
        return _written(linear).to(device, dtype)
    size = linear.weight.shape[2:]
    bias = linear.bias is not None
    kernel = size[0] if len(set(size)) == 1 else tuple(size)
    if linear.transposed is not None:
        of = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)[linear.dims - 1]
        made: nn.Module = of(
            linear.ins, linear.outs, tuple(size), linear.stride, linear.padding, linear.transposed,  # type: ignore[arg-type]
            linear.groups, bias, linear.dilation,  # type: ignore[arg-type]
        )  # fmt: skip
    elif linear.dims:
        made = layers.Conv(
            linear.ins, linear.outs, kernel, act, _short(linear.stride), _short(linear.padding), linear.groups,
            _short(linear.dilation), bias, linear.mode, dims=linear.dims,
        )  # fmt: skip
    else:
        made = layers.Dense(linear.ins, linear.outs, act, bias)
    for name, value in (("weight", linear.weight), ("bias", linear.bias)):
        if value is not None:
            setattr(made, name, nn.Parameter(value.to(device, dtype, copy=True).contiguous()))
    return made.to(device)


def _written(affine: Affine) -> nn.Module:
    if affine.nothing:
        return nn.Identity()
    scale, shift = torch.broadcast_tensors(affine.scale, affine.shift)
    made = PerChannel(max(1, scale.numel()), affine.axis or -1).double()
    for parameter, value in ((made.scale, scale), (made.shift, shift)):
        parameter.data.copy_(value.view_as(parameter))
    return made


def clamp(low: Tensor, high: Tensor, axis: int) -> Clamp:
    """The layer that keeps every channel between two ends, in float64."""
    made = Clamp(len(low), axis, both=bool((high < torch.inf).any())).double()
    made.low.copy_(low.view_as(made.low))
    if made.both:
        made.high.copy_(high.view_as(made.high))
    return made


def _short(sizes: tuple[int, ...]) -> int | tuple[int, ...]:
    return sizes[0] if len(set(sizes)) == 1 else sizes
