"""Layers: torch's own with an activation, and thin names for them that take whatever width arrives.

A width written as ``...`` is *open*: the layer has no parameters until the plan of its chain has worked the width out.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from .errors import ChainError, OpenChainError, caller
from .functional import softmax
from .layer import Act, Layer, Width, act_code, check_act, check_width, hold_act, softmax_ends
from .pools import AvgPool, GlobalAvgPool, MaxPool
from .value import Value, show

__all__ = ["AvgPool", "BatchNorm", "Conv", "Dense", "Dropout", "Flatten", "GlobalAvgPool", "LayerNorm", "MaxPool"]

Flatten = nn.Flatten
Dropout = nn.Dropout


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

    >>> import torch
    >>> Dense(10, 5, torch.relu)(torch.zeros(3, 10)).shape
    torch.Size([3, 5])
    """

    act: Any

    def __init__(self, in_features: Width, out_features: int, act: Act | None = None, bias: bool = True) -> None:
        check_width("Dense: the in width", in_features)
        check_width("Dense: the out width", out_features, open_ok=False)
        check_act("Dense", act)
        self._options: dict[str, Any] = {"inferred": in_features is ..., "bias": bias}
        if in_features is ...:
            nn.Module.__init__(self)
            self.in_features, self.out_features = ..., out_features  # type: ignore[assignment]
            self.register_parameter("weight", None)
            self.register_parameter("bias", None)
            self._wait()
        else:
            super().__init__(in_features, out_features, bias=bias)
        hold_act(self, act)
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
        self._close()

    def forward(self, x: Tensor) -> Tensor:
        act, out = self.act, F.linear(x, self.weight, self.bias)
        return out if act is None else act(out)

    def code(self) -> str:
        width = "..." if self._options["inferred"] else str(self.in_features)
        act = f", {act_code(self.act)}" if self.act is not None else ""
        bias = "" if self._options["bias"] else ", bias=False"
        return f"Dense({width}, {self.out_features}{act}{bias})"

    def extra_repr(self) -> str:
        return self.code()[len("Dense(") : -1]


class Conv(Layer, nn.modules.conv._ConvNd):
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

    >>> import torch
    >>> Conv(1, 8, 3, torch.relu, padding=1)(torch.zeros(2, 1, 28, 28)).shape
    torch.Size([2, 8, 28, 28])
    >>> isinstance(Conv(1, 8, (5,)), nn.Conv1d)
    True
    """

    dims: int
    _torch: Any
    act: Any

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
        check_width("Conv: the in width", in_channels)
        check_width("Conv: the out width", out_channels, open_ok=False)
        check_width("Conv: groups", groups, open_ok=False)
        for size in kernel_size if isinstance(kernel_size, (tuple, list)) else (kernel_size,):
            check_width("Conv: the kernel", size, open_ok=False)
        check_act("Conv", act)
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
            self.in_channels = ...  # type: ignore[assignment]
            self.register_parameter("weight", None)
            self.register_parameter("bias", None)
            self._wait()
        # the features of a convolution are on axis 1, those of softmax by itself on the last one
        hold_act(self, functools.partial(softmax, axis=-1 - self.dims) if softmax_ends(act) else act)
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
        self._close()

    def forward(self, x: Tensor) -> Tensor:
        act, out = self.act, self._conv_forward(x, self.weight, self.bias)
        return out if act is None else act(out)

    def code(self) -> str:
        o = self._options
        args = ["..." if o["inferred"] else str(self.in_channels), str(self.out_channels), repr(o["kernel_size"])]
        if self.act is not None:
            args.append(act_code(self.act))
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

    >>> import torch
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
        check_width("BatchNorm: the width", num_features)
        super().__init__(1 if num_features is ... else num_features, eps, momentum, affine, track_running_stats)
        self._inferred = num_features is ...
        if num_features is ...:
            self.num_features: Any = ...
            for name in self._parameters:
                self._parameters[name] = None
            for name in self._buffers:
                self._buffers[name] = None
            self._wait()
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
        self._close()

    def _check_input_dim(self, x: Tensor) -> None:
        if x.dim() < 2:
            raise ValueError(f"BatchNorm takes (N, C, ...), not {tuple(x.shape)}")


class LayerNorm(Layer, nn.LayerNorm):
    """Layer normalisation over the last axis (1607.06450).

    ``LayerNorm()`` takes its width from what arrives. Shapes: ``(N, *, width)`` to the same.

    >>> import torch
    >>> LayerNorm(8)(torch.zeros(4, 8)).shape
    torch.Size([4, 8])
    """

    def __init__(self, width: Width = ..., eps: float = 1e-5, affine: bool = True, bias: bool = True) -> None:
        check_width("LayerNorm: the width", width)
        super().__init__(1 if width is ... else width, eps=eps, elementwise_affine=affine, bias=bias)
        self._options: dict[str, Any] = {"eps": eps, "affine": affine, "bias": bias, "inferred": width is ...}
        if width is ...:
            self.normalized_shape: Any = ...
            for name in self._parameters:
                self._parameters[name] = None
            self._wait()
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
        self._close()

    def code(self) -> str:
        o = self._options
        args = [] if o["inferred"] else [str(self.normalized_shape[0])]
        args += [f"{k}={o[k]!r}" for k, default in (("eps", 1e-5), ("affine", True), ("bias", True)) if o[k] != default]
        return f"LayerNorm({', '.join(args)})"
