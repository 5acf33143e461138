"""Pools: windows and whole images, over as many dimensions as arrive."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .errors import ChainError, caller
from .layer import Layer, check_width


class Pool(Layer, nn.Module):
    """A pool whose number of dimensions is that of what arrives."""

    def __init__(self, kernel_size: int, stride: int | None = None, padding: int = 0, ceil_mode: bool = False) -> None:
        super().__init__()
        check_width(f"{type(self).__name__}: the kernel", kernel_size, open_ok=False)
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


class MaxPool(Pool):
    """The largest value of each window, over 1, 2 or 3 dimensions as arrive. ``stride`` defaults to the window.

    >>> MaxPool(2)(torch.zeros(1, 3, 8, 8)).shape
    torch.Size([1, 3, 4, 4])
    """

    def _pool(self, x: Tensor, which: int) -> Tensor:
        op = (torch.max_pool1d, torch.max_pool2d, torch.max_pool3d)[which]
        return op(x, self.kernel_size, self.stride or self.kernel_size, self.padding, 1, self.ceil_mode)


class AvgPool(Pool):
    """The mean of each window, over 1, 2 or 3 dimensions as arrive. ``stride`` defaults to the window.

    >>> AvgPool(2)(torch.ones(1, 3, 8)).shape
    torch.Size([1, 3, 4])
    """

    def _pool(self, x: Tensor, which: int) -> Tensor:
        op = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[which]
        return op(x, self.kernel_size, self.stride or self.kernel_size, self.padding, self.ceil_mode)


class BlurPool(Layer, nn.Module):
    """Every s-th pixel of the blurred image: a pool that does not alias (1904.11486), over 1, 2 or 3 dimensions.

    The blur is the 1-2-1 kernel on every axis, with the edge reflected. Shapes: ``(N, C, *size)`` to ``(N, C,
    *ceil(size / stride))``.

    >>> BlurPool(2)(torch.ones(1, 3, 7, 8)).shape
    torch.Size([1, 3, 4, 4])
    """

    def __init__(self, stride: int = 2) -> None:
        super().__init__()
        check_width("BlurPool: the stride", stride, open_ok=False)
        self.stride = stride
        self.source = caller()

    def forward(self, x: Tensor) -> Tensor:
        dims = x.dim() - 2
        if not 1 <= dims <= 3:
            raise ChainError(f"{self.code()} pools (N, C, size...), not {tuple(x.shape)}")
        conv = (F.conv1d, F.conv2d, F.conv3d)[dims - 1]
        one = any(side == 1 for side in x.shape[2:])  # has no neighbour to reflect
        x = F.pad(x, [1, 1] * dims, mode="replicate" if one else "reflect")
        for axis in range(dims):  # one axis after the other: 3 + 3 products for 3 * 3
            shape, stride = [1] * dims, [1] * dims
            shape[axis], stride[axis] = 3, self.stride
            weight = x.new_tensor([0.25, 0.5, 0.25]).view(1, 1, *shape).expand(x.shape[1], 1, *shape)
            x = conv(x, weight, stride=stride, groups=x.shape[1])
        return x

    def code(self) -> str:
        return f"BlurPool({self.stride})"

    def extra_repr(self) -> str:
        return str(self.stride)


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
