"""The mathematics of a dense block: forward and backward over one feature buffer, in tiles.

All features lie in one matrix of rows (pixels) and columns (channels), so a layer reads its leading columns where they
are, nothing is concatenated, and the statistics of a channel are computed once, when it is made, however many layers
normalise it afterwards. With ``z = a * x + b`` for a batch norm and its affine part, ``h = relu(z)``, a convolution
``W`` after it and ``dz`` the gradient at ``z``, three facts save passes over the features:

- ``dx = a * dz - a / rows * (sum(dz) + xhat * dgamma)``. Only the first term differs from row to row and layer to
  layer; what the others weigh is summed a channel over all layers and applied once, when the channel is complete.
- ``sum(dh * h) == sum(W * dW)`` a channel of ``h``, since both contract the same three things; and
  ``sum(dh * h) == sum(dz * z) == gamma * dgamma + beta * dbeta``. So ``dgamma`` follows from ``dW``. It is divided by
  gamma: where that is small beside beta or 1, or a channel hardly varies, the sum is formed instead.
- ``h`` costs less to make again than to read back, so it is never stored.
- Where all ``a`` are positive, ``relu(a * x + b) == a * relu(x - zero)``, and ``a`` moves into the 1x1 convolution.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from .norms import Late, Moments, Norm, NormSums, Sums

#: what a tile of normalised features may take: so that they are still in a cache when they are read again
TILE_BYTES = 1 << 21


@dataclass(frozen=True)
class Weights:
    """Parameters of one layer. Without a bottleneck, ``narrow`` and what follows it are ``None``."""

    gamma: Tensor
    beta: Tensor
    conv: Tensor
    conv_bias: Tensor | None = None
    narrow: Tensor | None = None
    """``(B, C)``, the 1x1 convolution to ``B`` channels"""
    narrow_bias: Tensor | None = None
    narrow_gamma: Tensor | None = None
    narrow_beta: Tensor | None = None


@dataclass(frozen=True)
class Shape:
    """What is constant of one layer."""

    width: int
    """channels it reads"""
    growth: int
    """channels it makes"""
    eps: float
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    narrow_eps: float = 0.0


def _scaled(narrow: Tensor, scale: Tensor | None) -> Tensor:
    """The weight of a 1x1 convolution that takes over the scale of the norm before it."""
    return narrow if scale is None else narrow * scale


def tiles(total: int, size: int) -> Iterator[tuple[int, int]]:
    """Starts and lengths of the tiles of ``total`` rows or images."""
    for start in range(0, total, size):
        yield start, min(size, total - start)


class Block:
    """The forward and the backward of a dense block on one batch.

    Parameters
    ----------
    features:
        the buffer, ``(N, C, H, W)`` channels last, ``C`` what leaves the block. Its leading channels are the input.
    shapes, weights:
        of the layers, in order.
    """

    def __init__(self, features: Tensor, shapes: list[Shape], weights: list[Weights]) -> None:
        self.images, self.channels, *self.size = features.shape
        self.pixels = self.size[0] * self.size[1]
        self.rows = self.images * self.pixels
        self.x = features.permute(0, 2, 3, 1).reshape(self.rows, self.channels)
        self.shapes, self.weights = shapes, weights

    # -- tiles ---------------------------------------------------------------------------------------------------------

    def _row_tile(self, width: int) -> int:
        return max(1, min(self.rows, TILE_BYTES // (width * self.x.element_size())))

    def _image_tile(self, width: int) -> int:
        return max(1, min(self.images, TILE_BYTES // (width * self.pixels * self.x.element_size())))

    def _as_images(self, rows: Tensor) -> Tensor:
        """Rows of whole images as ``(N, C, H, W)``, channels last."""
        return rows.view(-1, *self.size, rows.shape[1]).permute(0, 3, 1, 2)

    def _as_rows(self, images: Tensor) -> Tensor:
        return images.permute(0, 2, 3, 1).reshape(-1, images.shape[1])

    def _new(self, rows: int, width: int) -> Tensor:
        return self.x.new_empty(rows, width)

    # -- forward -------------------------------------------------------------------------------------------------------

    def forward(self, mean: Tensor, var: Tensor, keep: bool) -> tuple[list[Tensor], list[tuple[Tensor, Tensor]]]:
        """Fill the buffer, and ``mean`` and ``var`` (``(C,)`` each) with the statistics of its channels.

        Those of the input are there. Returns the bottlenecks ``(rows, B)`` if they are to be kept, and the statistics
        of all of them.
        """
        kept, moments = [], []
        u = None
        for i, shape in enumerate(self.shapes):
            w, c = self.weights[i], shape.width
            norm = Norm.of(w.gamma, w.beta, mean[:c], var[:c], shape.eps)
            source, width = self.x, c
            if w.narrow is not None:
                assert w.narrow_gamma is not None
                assert w.narrow_beta is not None
                width = w.narrow.shape[0]
                if u is None or keep or u.shape[1] != width:
                    u = self._new(self.rows, width)
                collected = Moments()
                self._narrow(w, norm, u, collected)
                mean2, var2 = collected.result()
                moments.append((mean2, var2))
                if keep:
                    kept.append(u)
                norm = Norm.of(w.narrow_gamma, w.narrow_beta, mean2, var2, shape.narrow_eps)
                source = u
            made = slice(c, c + shape.growth)
            mean[made], var[made] = self._convolve(shape, w, norm, source, width)
        return kept, moments

    def _narrow(self, w: Weights, norm: Norm, u: Tensor, moments: Moments | None = None) -> None:
        """The 1x1 convolution of the normalised features, into ``u``; its statistics into ``moments``."""
        assert w.narrow is not None
        c, size = w.narrow.shape[1], self._row_tile(w.narrow.shape[1])
        # with all three matrices row after row, the product is a sixth faster than with one of them turned
        scratch, turned = self._new(size, c), _scaled(w.narrow, norm.scale).t().contiguous()
        for start, n in tiles(self.rows, size):
            h = norm.ramp(self.x[start : start + n, :c], scratch[:n])
            part = u[start : start + n]
            if w.narrow_bias is None:
                torch.mm(h, turned, out=part)
            else:
                torch.addmm(w.narrow_bias, h, turned, out=part)
            if moments is not None:
                moments.add(part)

    def _convolve(self, shape: Shape, w: Weights, norm: Norm, source: Tensor, width: int) -> tuple[Tensor, Tensor]:
        """The last convolution of a layer, into its columns of the buffer; returns their statistics."""
        size, moments = self._image_tile(width), Moments()
        scratch = self._new(size * self.pixels, width)
        for first, count in tiles(self.images, size):
            at = slice(first * self.pixels, (first + count) * self.pixels)
            v = self._as_images(norm.relu(source[at, :width], scratch[: count * self.pixels]))
            y = torch.conv2d(v, w.conv, w.conv_bias, padding=shape.padding, dilation=shape.dilation)
            rows = self._as_rows(y)
            moments.add(rows)
            self.x[at, shape.width : shape.width + shape.growth] = rows
        return moments.result()

    # -- backward ------------------------------------------------------------------------------------------------------

    def backward(
        self,
        grad: Tensor,
        mean: Tensor,
        var: Tensor,
        kept: list[Tensor],
        moments: list[tuple[Tensor, Tensor]],
        to_input: bool = True,
    ) -> tuple[Tensor | None, list[Weights]]:
        """The gradients of the input, ``(N, C, H, W)`` channels last, and of the parameters of every layer.

        ``grad`` is that of all features, channels last, and is overwritten; ``mean`` and ``var`` are the statistics of
        the features, ``kept`` the bottlenecks or nothing, ``moments`` their statistics. Without ``to_input`` the input
        gets no gradient.
        """
        g = self._as_rows(grad)
        # what the statistics of a channel make of it, summed over the layers that read it
        late = Late(mean, torch.zeros_like(mean), torch.zeros_like(mean))
        found = []
        narrows = [i for i, w in enumerate(self.weights) if w.narrow is not None]
        dz = u = None
        for i in reversed(range(len(self.shapes))):
            shape, w = self.shapes[i], self.weights[i]
            c = shape.width
            norm = Norm.of(w.gamma, w.beta, mean[:c], var[:c], shape.eps)
            if w.narrow is None:
                found.append(self._plain(shape, w, norm, g, late))
                continue
            assert w.narrow_gamma is not None
            assert w.narrow_beta is not None
            width, k = w.narrow.shape[0], narrows.index(i)
            if kept:
                u = kept[k]
            else:
                u = u if u is not None and u.shape[1] == width else self._new(self.rows, width)
                self._narrow(w, norm, u)
            inner = Norm.of(w.narrow_gamma, w.narrow_beta, *moments[k], shape.narrow_eps)
            dz = dz if dz is not None and dz.shape[1] == width else self._new(self.rows, width)
            got = self._convolved(shape, w, inner, u, width, g, late, dz)
            found.append(self._narrowed(w, norm, inner, got, u, dz, g, late))
        if not to_input:
            return None, found[::-1]
        c = self.shapes[0].width
        dx = late.applied(self.x[:, :c], g, slice(0, c), self._new(self.rows, c))
        return self._as_images(dx), found[::-1]

    def _convolved(
        self, shape: Shape, w: Weights, norm: Norm, source: Tensor, width: int, g: Tensor, late: Late, dz: Tensor | None
    ) -> Weights:
        """Back through the last convolution of a layer and the relu before it, to ``dz`` or, without one, to ``g``."""
        size = self._image_tile(width)
        scratch, dy = self._new(size * self.pixels, width), self._new(size * self.pixels, shape.growth)
        sums = NormSums(norm)
        dw, made = torch.zeros_like(w.conv), slice(shape.width, shape.width + shape.growth)
        db = None if w.conv_bias is None else torch.zeros_like(w.conv_bias)
        for first, count in tiles(self.images, size):
            n = count * self.pixels
            at = slice(first * self.pixels, first * self.pixels + n)
            v = norm.relu(source[at, :width], scratch[:n])
            dv, dw_tile, db_tile = torch.ops.aten.convolution_backward(
                self._as_images(late.applied(self.x[at, made], g[at], made, dy[:n])), self._as_images(v), w.conv,
                None if db is None else [shape.growth], (1, 1), shape.padding, shape.dilation, False, (0, 0), 1,
                (True, True, db is not None),
            )  # fmt: skip
            dw += dw_tile
            if db is not None:
                db += db_tile
            dv = self._as_rows(dv)
            masked = dv if dz is None else dz[at]
            masked = torch.ops.aten.threshold_backward.grad_input(dv, v, 0, grad_input=masked)
            sums.add(masked, source[at, :width])
            if dz is None:
                g[at, :width].addcmul_(masked, norm.a)
        dgamma, dbeta = sums.result((w.conv.double() * dw.double()).sum((0, 2, 3)))
        return Weights(dgamma, dbeta, dw, db)

    def _plain(self, shape: Shape, w: Weights, norm: Norm, g: Tensor, late: Late) -> Weights:
        """Back through a layer without a bottleneck."""
        got = self._convolved(shape, w, norm, self.x, shape.width, g, late, None)
        late.add(norm, got.gamma, got.beta, self.rows)
        return got

    def _narrowed(
        self, w: Weights, norm: Norm, inner: Norm, got: Weights, u: Tensor, dz: Tensor, g: Tensor, late: Late
    ) -> Weights:
        """Back through the bottleneck of a layer, from ``dz`` behind its norm to ``g``."""
        assert w.narrow is not None
        width, c = w.narrow.shape
        size = self._row_tile(c)
        scale, narrow = norm.scale, _scaled(w.narrow, norm.scale)
        sums = NormSums(norm, scale)
        bias = None if w.narrow_bias is None else Sums()
        h, dh, du = self._new(size, c), self._new(size, c), self._new(size, width)
        dw = w.narrow.new_zeros(c, width)
        slope = -inner.a * inner.rate * got.gamma / self.rows
        base = -inner.a * got.beta / self.rows - inner.mean * slope
        for start, n in tiles(self.rows, size):
            at = slice(start, start + n)
            x = self.x[at, :c]
            h_tile, dh_tile = norm.ramp(x, h[:n]), dh[:n]
            du_tile = torch.addcmul(base, u[at], slope, out=du[:n]).addcmul_(dz[at], inner.a)
            if bias is not None:
                bias.add(du_tile)
            dw.addmm_(h_tile.t(), du_tile)
            torch.mm(du_tile, narrow, out=dh_tile)
            torch.ops.aten.threshold_backward.grad_input(dh_tile, h_tile, 0, grad_input=dh_tile)
            sums.add(dh_tile, x)
            if scale is None:
                g[at, :c].addcmul_(dh_tile, norm.a)
            else:
                g[at, :c].add_(dh_tile)
        if scale is not None:
            dw *= scale.unsqueeze(1)
        dgamma, dbeta = sums.result((w.narrow.double().t() * dw.double()).sum(1))
        late.add(norm, dgamma, dbeta, self.rows)
        return Weights(
            dgamma,
            dbeta,
            got.conv,
            got.conv_bias,
            dw.t().contiguous(),
            None if bias is None else bias.result(),
            got.gamma,
            got.beta,
        )
