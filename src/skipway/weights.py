"""Shortcuts inside a weight: one linear layer that is the sum of itself and of the identity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .errors import ChainError, caller
from .layer import Act, Width, act_code
from .layers import Conv, Conv1d, Conv2d, Conv3d
from .value import Value


class DiracConv(Conv):
    """A convolution whose weight holds the shortcut: ``W = diag(a) I + diag(b) V / |V|`` (DiracNet, 1706.00388).

    ``I`` is the kernel that leaves a value as it is, with channels of zeros where there are more to make, and fewer
    where there are less. ``V`` is normalised filter by filter. a and b are learned, one of each a channel; they begin
    at 1 and 0.1, and weight decay leaves them alone (see :func:`~skipway.gains.undecayed`). So it is a residual block
    with one linear layer, ``Skip(Conv(...), path=Pad())``, that costs what the convolution costs: nets of it are plain,
    and :meth:`folded` is a plain convolution.

    Parameters
    ----------
    in_channels, out_channels:
        widths. ``...`` as the first means *whatever arrives*.
    kernel_size:
        an odd number, or a tuple of them whose length gives the number of dimensions. The size of the image is kept.
    act:
        any callable or module applied to the result.
    bias:
        whether to add a bias.
    dims:
        1, 2 or 3; by default the length of the kernel tuple, else 2.

    Shapes: ``(N, in_channels, *size)`` to ``(N, out_channels, *size)``.

    Raises
    ------
    ChainError
        for widths that are not positive whole numbers, and for an even kernel, which has no middle.

    >>> import torch
    >>> layer = DiracConv(4, 4, 3, bias=False)
    >>> _ = torch.nn.init.zeros_(layer.beta)
    >>> x = torch.randn(2, 4, 5, 5)
    >>> bool((layer(x) == x).all())
    True
    """

    no_decay = ("alpha", "beta")

    alpha: nn.Parameter
    beta: nn.Parameter

    def __new__(cls, *args: Any, dims: int | None = None, **kwargs: Any) -> Any:
        if cls is not DiracConv:
            return super().__new__(cls)
        return super().__new__(_DIRACS[_dims(args[2] if len(args) > 2 else kwargs.get("kernel_size"), dims)])

    def __init__(
        self,
        in_channels: Width,
        out_channels: int,
        kernel_size: int | Sequence[int],
        act: Act | None = None,
        bias: bool = True,
        *,
        dims: int | None = None,
    ) -> None:
        sides = kernel_size if isinstance(kernel_size, (tuple, list)) else (kernel_size,)
        even = next((k for k in sides if isinstance(k, int) and k > 0 and k % 2 == 0), None)
        if even is not None:
            odd = f"take {even - 1} or {even + 1}"
            raise ChainError(f"DiracConv: a kernel of {even} has no middle for the identity: {odd} ({caller()})")
        half = [k // 2 for k in sides if isinstance(k, int)]
        padding = tuple(half) if sides is kernel_size else sum(half)
        super().__init__(in_channels, out_channels, kernel_size, act, padding=padding, bias=bias, dims=dims)
        self._make_scales()

    def _make_scales(self) -> None:
        for name, start in (("alpha", 1.0), ("beta", 0.1)):
            scale = None if self.is_open else nn.Parameter(torch.full((self.out_channels,), start))
            self.register_parameter(name, scale)

    def build(self, value: Value) -> None:
        super().build(value)
        self._make_scales()

    def effective_weight(self) -> Tensor:
        """The kernel that it convolves with, shortcut included. Shapes: that of ``weight``."""
        weight = self.weight
        alpha, beta = self.alpha[:, None], self.beta[:, None]
        filters = (beta * F.normalize(weight.flatten(1))).view_as(weight)
        eye = torch.eye(*weight.shape[:2], dtype=weight.dtype, device=weight.device) * alpha
        edges = [k // 2 for k in reversed(weight.shape[2:]) for _ in range(2)]
        return filters + F.pad(eye.reshape(*eye.shape, *[1] * self.dims), edges)

    def forward(self, x: Tensor) -> Tensor:
        act, out = self.act, self._conv_forward(x, self.effective_weight(), self.bias)
        return out if act is None else act(out)

    def folded(self) -> Conv:
        """A plain convolution that does the same: what to run once it has learned.

        >>> layer = DiracConv(2, 3, 3)
        >>> layer.folded()
        Conv2d(2, 3, 3, padding=1)
        >>> x = torch.randn(1, 2, 4, 4)
        >>> bool(torch.equal(layer.folded()(x), layer(x)))
        True
        """
        options = {k: v for k, v in self._options.items() if k != "inferred"}
        twin = Conv(self.in_channels, self.out_channels, act=self.act, dims=self.dims, **options)
        twin = twin.to(self.weight.device, self.weight.dtype).train(self.training)
        with torch.no_grad():
            twin.weight.copy_(self.effective_weight())
            if self.bias is not None and twin.bias is not None:
                twin.bias.copy_(self.bias)
        return twin

    def code(self) -> str:
        o = self._options
        args = ["..." if o["inferred"] else str(self.in_channels), str(self.out_channels), repr(o["kernel_size"])]
        if self.act is not None:
            args.append(act_code(self.act))
        if not o["bias"]:
            args.append("bias=False")
        if not isinstance(o["kernel_size"], tuple) and self.dims != 2:
            args.append(f"dims={self.dims}")
        return f"DiracConv({', '.join(args)})"

    def extra_repr(self) -> str:
        return self.code()[len("DiracConv(") : -1]


def _dims(kernel: Any, dims: int | None) -> int:
    if dims is None:
        dims = len(kernel) if isinstance(kernel, (tuple, list)) else 2
    if dims not in _DIRACS:
        raise ChainError(f"DiracConv: dims is 1, 2 or 3, not {dims!r} ({caller()})")
    if isinstance(kernel, (tuple, list)) and len(kernel) != dims:
        raise ChainError(
            f"DiracConv: the kernel {tuple(kernel)} has {len(kernel)} dimensions, dims={dims} ({caller()})"
        )
    return dims


class DiracConv1d(DiracConv, Conv1d):
    pass


class DiracConv2d(DiracConv, Conv2d):
    pass


class DiracConv3d(DiracConv, Conv3d):
    pass


_DIRACS: dict[int, type[DiracConv]] = {1: DiracConv1d, 2: DiracConv2d, 3: DiracConv3d}


__all__ = ["DiracConv"]
