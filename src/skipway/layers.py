"""Layers: torch's own with an activation, and thin names for them that take whatever width arrives.

A width written as ``...`` is *open*: the layer has no parameters until the plan of its chain has worked the width out.
"""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from types import EllipsisType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .errors import ChainError, OpenChainError, caller
from .functional import softmax
from .value import Value, show
from .wrap import Wrapped, describe

Act = Callable[[Tensor], Tensor]
Width = int | EllipsisType

Flatten = nn.Flatten
Dropout = nn.Dropout


class Layer:
    """What a width-inferring layer adds to ``nn.Module``: it may be open, and a value that arrives can close it.

    A layer of your own joins in by deriving from this and defining the three members.
    """

    source: str = "unknown"

    @property
    def is_open(self) -> bool:
        """Whether the layer still waits for the width of what arrives."""
        return False

    def build(self, value: Value) -> None:
        """Create the parameters for what arrives. Raises ``ChainError`` where it cannot fit."""

    @property
    def inferred(self) -> bool:
        """Whether the width was written ``...``."""
        return False

    def reopened(self) -> Layer:
        """The same layer waiting for its width again, without weights. Only for one whose width was inferred."""
        twin = copy.deepcopy(self)
        for held in (twin._parameters, twin._buffers):  # type: ignore[attr-defined]
            for name in held:
                held[name] = None
        setattr(twin, self._width_name, ...)
        return twin

    _width_name = ""

    def code(self) -> str:
        """Python that makes the layer again (with fresh weights)."""
        return module_code(self)


def _check_width(what: str, value: object, *, open_ok: bool = True) -> None:
    if value is ... and open_ok:
        return
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        shown = "..." if value is ... else repr(value)
        hint = " or ... (whatever arrives)" if open_ok else ""
        raise ChainError(f"{what} must be a positive whole number{hint}, not {shown} ({caller()})")


def _check_act(what: str, act: object) -> None:
    if act is not None and not callable(act):
        raise ChainError(
            f"{what}: the activation must be callable, such as relu, not {act!r} ({caller()}); "
            f"options like bias= are given by name"
        )


def _act_code(act: object) -> str:
    if isinstance(act, Wrapped):
        act = act.fn
    if isinstance(act, functools.partial) and act.func is softmax:
        return "softmax"
    return module_code(act) if isinstance(act, nn.Module) else describe(act)


def _hold_act(owner: nn.Module, act: Act | None) -> None:
    """Keep an activation on a layer: a module or a callable that holds parameters is registered with it."""
    if act is not None and not isinstance(act, nn.Module):
        wrapped = Wrapped(act)
        act = act if wrapped.stateless else wrapped
    owner.act = act  # type: ignore[assignment]


class Dense(Layer, nn.Linear):
    """A fully connected layer, ``act(W x + b)``: :class:`torch.nn.Linear` with an activation.

    Parameters
    ----------
    in_features, out_features:
        widths. ``...`` as the first means *whatever arrives*.
    act:
        any callable or module applied to the result, such as :func:`relu`.
    bias:
        whether to add ``b``.

    Shapes: ``(N, *, in_features)`` to ``(N, *, out_features)``.

    Raises
    ------
    ChainError
        for a width that is not a positive whole number, or an activation that cannot be called.

    >>> Dense(10, 5, torch.relu)(torch.zeros(3, 10)).shape
    torch.Size([3, 5])
    """

    def __init__(self, in_features: Width, out_features: int, act: Act | None = None, bias: bool = True) -> None:
        _check_width("Dense: the in width", in_features)
        _check_width("Dense: the out width", out_features, open_ok=False)
        _check_act("Dense", act)
        self._options: dict[str, Any] = {"inferred": in_features is ..., "bias": bias}
        if in_features is ...:
            nn.Module.__init__(self)
            self.in_features, self.out_features = ..., out_features  # type: ignore[assignment]
            self.register_parameter("weight", None)
            self.register_parameter("bias", None)
        else:
            super().__init__(in_features, out_features, bias=bias)
        _hold_act(self, act)
        self.source = caller()

    _width_name = "in_features"

    @property
    def inferred(self) -> bool:
        return bool(self._options["inferred"])

    @property
    def is_open(self) -> bool:
        return self.weight is None

    def build(self, value: Value) -> None:
        width = value.shape[-1] if value.shape else None
        if width is None:
            raise OpenChainError(f"needs the last dimension of what arrives, {show(value.shape)}")
        fresh = nn.Linear(width, self.out_features, bias=self._options["bias"])
        self.in_features, self.weight, self.bias = width, fresh.weight, fresh.bias

    def forward(self, x: Tensor) -> Tensor:
        if self.act is None:
            return F.linear(x, self.weight, self.bias)
        return self.act(F.linear(x, self.weight, self.bias))

    def code(self) -> str:
        width = "..." if self._options["inferred"] else str(self.in_features)
        act = f", {_act_code(self.act)}" if self.act is not None else ""
        bias = "" if self._options["bias"] else ", bias=False"
        return f"Dense({width}, {self.out_features}{act}{bias})"

    def extra_repr(self) -> str:
        return self.code()[len("Dense(") : -1]


class Conv(Layer):
    """A convolution with an activation, ``act(W * x + b)``: torch's ``Conv1d``, ``Conv2d`` or ``Conv3d``.

    Parameters
    ----------
    in_channels, out_channels:
        widths. ``...`` as the first means *whatever arrives*.
    kernel_size:
        a number, or a tuple whose length gives the number of dimensions.
    act:
        any callable or module applied to the result.
    stride, padding, dilation, groups, bias, padding_mode:
        as in torch.
    dims:
        1, 2 or 3; by default the length of the kernel tuple, else 2.

    Shapes: ``(N, in_channels, *size)`` to ``(N, out_channels, *size')``.

    Raises
    ------
    ChainError
        for widths that are not positive whole numbers or are not divisible by ``groups``.

    >>> Conv(1, 8, 3, torch.relu, padding=1)(torch.zeros(2, 1, 28, 28)).shape
    torch.Size([2, 8, 28, 28])
    >>> isinstance(Conv(1, 8, (5,)), nn.Conv1d)
    True
    """

    dims: int
    _torch: type[nn.Module]

    def __new__(cls, *args: Any, dims: int | None = None, **kwargs: Any) -> Any:
        if cls is not Conv:
            return super().__new__(cls)
        kernel = args[2] if len(args) > 2 else kwargs.get("kernel_size")
        if dims is None:
            dims = len(kernel) if isinstance(kernel, (tuple, list)) else 2
        if dims not in _CONVS:
            raise ChainError(f"Conv: dims is 1, 2 or 3, not {dims!r} ({caller()})")
        if isinstance(kernel, (tuple, list)) and len(kernel) != dims:
            raise ChainError(f"Conv: the kernel {tuple(kernel)} has {len(kernel)} dimensions, dims={dims} ({caller()})")
        return super().__new__(_CONVS[dims])

    def __init__(
        self,
        in_channels: Width,
        out_channels: int,
        kernel_size: int | Sequence[int],
        act: Act | None = None,
        stride: int | tuple[int, ...] = 1,
        padding: int | str | tuple[int, ...] = 0,
        groups: int = 1,
        dilation: int | tuple[int, ...] = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        *,
        dims: int | None = None,
    ) -> None:
        _check_width("Conv: the in width", in_channels)
        _check_width("Conv: the out width", out_channels, open_ok=False)
        _check_width("Conv: groups", groups, open_ok=False)
        for size in kernel_size if isinstance(kernel_size, (tuple, list)) else (kernel_size,):
            _check_width("Conv: the kernel", size, open_ok=False)
        _check_act("Conv", act)
        for what, width in (("in", in_channels), ("out", out_channels)):
            if isinstance(width, int) and width % groups:
                raise ChainError(f"Conv: the {what} width {width} is not divisible by groups={groups} ({caller()})")
        options: dict[str, Any] = {
            "stride": stride, "padding": padding, "groups": groups, "dilation": dilation, "bias": bias,
            "padding_mode": padding_mode,
        }  # fmt: skip
        kernel = tuple(kernel_size) if isinstance(kernel_size, list) else kernel_size
        self._torch.__init__(self, groups if in_channels is ... else in_channels, out_channels, kernel, **options)
        self._options = {**options, "kernel_size": kernel, "inferred": in_channels is ...}
        if in_channels is ...:
            self.in_channels: Any = ...
            self.register_parameter("weight", None)
            self.register_parameter("bias", None)
        # the features of a convolution are on axis 1, those of softmax by itself on the last one
        _hold_act(self, functools.partial(softmax, axis=-1 - self.dims) if softmax_ends(act) else act)
        self.source = caller()

    _width_name = "in_channels"

    @property
    def inferred(self) -> bool:
        return bool(self._options["inferred"])

    @property
    def is_open(self) -> bool:
        return self.weight is None

    def build(self, value: Value) -> None:
        shape = value.shape
        width = shape[-1 - self.dims] if shape is not None and len(shape) > self.dims else None
        if width is None:
            raise OpenChainError(f"needs the channels of what arrives, {show(shape)}")
        if width % self.groups:
            raise ChainError(f"cannot split the {width} channels of what arrives into groups={self.groups}")
        options = {k: v for k, v in self._options.items() if k != "inferred"}
        fresh = self._torch(width, self.out_channels, **options)
        self.in_channels, self.weight, self.bias = width, fresh.weight, fresh.bias

    def forward(self, x: Tensor) -> Tensor:
        if self.act is None:
            return self._conv_forward(x, self.weight, self.bias)
        return self.act(self._conv_forward(x, self.weight, self.bias))

    def code(self) -> str:
        o = self._options
        args = ["..." if o["inferred"] else str(self.in_channels), str(self.out_channels), repr(o["kernel_size"])]
        if self.act is not None:
            args.append(_act_code(self.act))
        for name, default in _CONV_DEFAULTS.items():
            if o[name] != default:
                args.append(f"{name}={o[name]!r}")
        if not isinstance(o["kernel_size"], tuple) and self.dims != 2:
            args.append(f"dims={self.dims}")
        return f"Conv({', '.join(args)})"

    def extra_repr(self) -> str:
        return self.code()[len("Conv(") : -1]


_CONV_DEFAULTS = {"stride": 1, "padding": 0, "groups": 1, "dilation": 1, "bias": True, "padding_mode": "zeros"}


class Conv1d(Conv, nn.Conv1d):
    dims, _torch = 1, nn.Conv1d


class Conv2d(Conv, nn.Conv2d):
    dims, _torch = 2, nn.Conv2d


class Conv3d(Conv, nn.Conv3d):
    dims, _torch = 3, nn.Conv3d


_CONVS: dict[int, type[Conv]] = {1: Conv1d, 2: Conv2d, 3: Conv3d}


class BatchNorm(Layer, nn.modules.batchnorm._BatchNorm):
    """Batch normalisation over axis 1, of vectors, sequences, images or volumes (1502.03167).

    ``BatchNorm()`` takes its width from what arrives; ``eps``, ``momentum``, ``affine`` and ``track_running_stats`` are
    torch's. Shapes: ``(N, C, *)`` to the same.

    >>> BatchNorm(8)(torch.zeros(4, 8, 5, 5)).shape
    torch.Size([4, 8, 5, 5])
    """

    def __init__(
        self,
        num_features: Width = ...,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
    ) -> None:
        _check_width("BatchNorm: the width", num_features)
        super().__init__(1 if num_features is ... else num_features, eps, momentum, affine, track_running_stats)
        self._inferred = num_features is ...
        if num_features is ...:
            self.num_features: Any = ...
            for name in self._parameters:
                self._parameters[name] = None
            for name in self._buffers:
                self._buffers[name] = None
        self.source = caller()

    _width_name = "num_features"

    @property
    def inferred(self) -> bool:
        return bool(self._inferred)

    @property
    def is_open(self) -> bool:
        return self.num_features is ...

    def build(self, value: Value) -> None:
        width = value.shape[0] if value.shape else None
        if width is None:
            raise OpenChainError(f"needs the channels of what arrives, {show(value.shape)}")
        fresh = nn.BatchNorm1d(width, self.eps, self.momentum, self.affine, self.track_running_stats)
        self._parameters.update(fresh._parameters)
        self._buffers.update(fresh._buffers)
        self.num_features = width

    def _check_input_dim(self, x: Tensor) -> None:
        if x.dim() < 2:
            raise ValueError(f"BatchNorm takes (N, C, ...), not {tuple(x.shape)}")


class LayerNorm(Layer, nn.LayerNorm):
    """Layer normalisation over the last axis (1607.06450).

    ``LayerNorm()`` takes its width from what arrives. Shapes: ``(N, *, width)`` to the same.

    >>> LayerNorm(8)(torch.zeros(4, 8)).shape
    torch.Size([4, 8])
    """

    def __init__(self, width: Width = ..., eps: float = 1e-5, affine: bool = True, bias: bool = True) -> None:
        _check_width("LayerNorm: the width", width)
        super().__init__(1 if width is ... else width, eps=eps, elementwise_affine=affine, bias=bias)
        self._options = {"eps": eps, "affine": affine, "bias": bias, "inferred": width is ...}
        if width is ...:
            self.normalized_shape: Any = ...
            for name in self._parameters:
                self._parameters[name] = None
        self.source = caller()

    _width_name = "normalized_shape"

    @property
    def inferred(self) -> bool:
        return bool(self._options["inferred"])

    @property
    def is_open(self) -> bool:
        return self.normalized_shape is ...

    def build(self, value: Value) -> None:
        width = value.shape[-1] if value.shape else None
        if width is None:
            raise OpenChainError(f"needs the last dimension of what arrives, {show(value.shape)}")
        o = self._options
        fresh = nn.LayerNorm(width, eps=o["eps"], elementwise_affine=o["affine"], bias=o["bias"])
        self._parameters.update(fresh._parameters)
        self.normalized_shape = (width,)

    def code(self) -> str:
        o = self._options
        args = [] if o["inferred"] else [str(self.normalized_shape[0])]
        args += [f"{k}={o[k]!r}" for k, default in (("eps", 1e-5), ("affine", True), ("bias", True)) if o[k] != default]
        return f"LayerNorm({', '.join(args)})"


class _Pool(Layer, nn.Module):
    """A pool whose number of dimensions is that of what arrives."""

    _ops: tuple[Callable[..., Tensor], ...]

    def __init__(self, kernel_size: int, stride: int | None = None, padding: int = 0, ceil_mode: bool = False) -> None:
        super().__init__()
        _check_width(f"{type(self).__name__}: the kernel", kernel_size, open_ok=False)
        self.kernel_size, self.stride, self.padding, self.ceil_mode = kernel_size, stride, padding, ceil_mode
        self.source = caller()

    def forward(self, x: Tensor) -> Tensor:
        if not 3 <= x.dim() <= 5:
            raise ChainError(f"{self.code()} pools (N, C, size...), not {tuple(x.shape)}")
        return self._pool(x, x.dim() - 3)

    def _pool(self, x: Tensor, which: int) -> Tensor:
        raise NotImplementedError

    def code(self) -> str:
        args = [str(self.kernel_size)]
        args += [
            f"{k}={getattr(self, k)!r}"
            for k, default in (("stride", None), ("padding", 0), ("ceil_mode", False))
            if getattr(self, k) != default
        ]
        return f"{type(self).__name__}({', '.join(args)})"

    def extra_repr(self) -> str:
        return self.code()[len(type(self).__name__) + 1 : -1]


class MaxPool(_Pool):
    """The largest value of each window, over 1, 2 or 3 dimensions as arrive. ``stride`` defaults to the window.

    >>> MaxPool(2)(torch.zeros(1, 3, 8, 8)).shape
    torch.Size([1, 3, 4, 4])
    """

    def _pool(self, x: Tensor, which: int) -> Tensor:
        op = (torch.max_pool1d, torch.max_pool2d, torch.max_pool3d)[which]
        return op(x, self.kernel_size, self.stride or self.kernel_size, self.padding, 1, self.ceil_mode)


class AvgPool(_Pool):
    """The mean of each window, over 1, 2 or 3 dimensions as arrive. ``stride`` defaults to the window.

    >>> AvgPool(2)(torch.ones(1, 3, 8)).shape
    torch.Size([1, 3, 4])
    """

    def _pool(self, x: Tensor, which: int) -> Tensor:
        op = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[which]
        return op(x, self.kernel_size, self.stride or self.kernel_size, self.padding, self.ceil_mode)


class GlobalAvgPool(Layer, nn.Module):
    """The mean over all of an image: ``(N, C, *size)`` to ``(N, C)``.

    >>> GlobalAvgPool()(torch.ones(2, 3, 4, 4)).tolist()
    [[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]]
    """

    def __init__(self) -> None:
        super().__init__()
        self.source = caller()

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() < 3:
            raise ChainError(f"GlobalAvgPool takes (N, C, size...), not {tuple(x.shape)}")
        return x.mean(dim=tuple(range(2, x.dim())))


def tie(layer: Any) -> Any:
    """Allow one layer object at several places: its weights are shared on purpose.

    Without it the same object twice is an error, since ``[Dense(5, 5)] * 3`` is three times one layer.

    >>> from skipway import Chain
    >>> shared = tie(Dense(5, 5))
    >>> sum(p.numel() for p in Chain(shared, shared, shared).parameters())
    30
    """
    if isinstance(layer, nn.Module):
        layer.skipway_tied = True  # type: ignore[assignment]
        return layer
    wrapped = Wrapped(layer)
    wrapped.skipway_tied = True  # type: ignore[assignment]
    return wrapped


def is_tied(module: nn.Module) -> bool:
    return bool(getattr(module, "skipway_tied", False))


def parameters_made(module: nn.Module) -> Iterator[nn.Parameter]:
    """The parameters that exist, also in chains that are still open."""
    return (p for m in module.modules() for p in m._parameters.values() if p is not None)


def module_code(module: Any) -> str:
    """Python that makes a module again, with fresh weights; its own repr where that cannot be worked out."""
    if isinstance(module, Wrapped):
        return describe(module.fn)
    if isinstance(module, Layer) and type(module).code is not Layer.code:
        return module.code()
    name = type(module).__name__
    if type(module).__module__.startswith("torch.nn"):
        name = f"nn.{name}"
    if isinstance(module, (nn.Sequential, nn.ModuleList)):
        return f"{name}({', '.join(module_code(m) for m in module)})"
    args = []
    for parameter in list(inspect.signature(type(module).__init__).parameters.values())[1:]:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD) or parameter.name in ("device", "dtype"):
            continue
        missing = object()
        held = getattr(module, parameter.name, missing)
        if held is missing and parameter.default is not parameter.empty:
            continue
        if held is missing or isinstance(held, nn.Module):
            return repr(module).replace("\n", " ")
        if parameter.name == "bias" and (held is None or isinstance(held, Tensor)):
            held = held is not None
        if parameter.name == "num_features" and getattr(module, "_inferred", False):
            held = ...
        if parameter.default is not parameter.empty and _same(held, parameter.default):
            continue
        shown = "..." if held is ... else repr(held)
        args.append(shown if parameter.default is parameter.empty else f"{parameter.name}={shown}")
    return f"{name}({', '.join(args)})"


def _same(held: Any, default: Any) -> bool:
    if isinstance(held, tuple) and held and all(h == held[0] for h in held):
        return held == default or held[0] == default
    return type(held) in (type(default), bool, int, float) and held == default


def softmax_ends(act: object) -> bool:
    """Whether an activation gives probabilities."""
    if isinstance(act, functools.partial):
        return softmax_ends(act.func)
    return act in (softmax, torch.softmax, F.softmax) or isinstance(act, nn.Softmax)
