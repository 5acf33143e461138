"""Vision transformers (Dosovitskiy et al. 2020, 2010.11929), with the ways there are to put a residual together.

A block is attention and two dense layers, each with a shortcut around it. Where the norm stands, and what the two
values that meet are multiplied by, is the whole difference; F is attention or the dense layers:

================  ==================================  ===============================================================
``"pre-norm"``    ``x + F(norm(x))``                  the paper's, and nearly everybody's
``"post-norm"``   ``norm(x + F(x))``                  the first transformer (1706.03762)
``"sandwich"``    ``x + norm(F(norm(x)))``            CogView (2105.13290)
``"deepnorm"``    ``norm(alpha x + F(x))``            2203.00555: alpha = (2N)^(1/4) for N blocks, and smaller weights
``"layerscale"``  ``x + gamma F(norm(x))``            CaiT (2103.17239): gamma is learned, one number a channel
================  ==================================  ===============================================================
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skipway import Chain, ChainError, Conv, Dense, LayerNorm, Learned, Skip, gelu

from .entry import Entry, parameters
from .initialise import truncated
from .options import one_of, positive

Residual = Literal["pre-norm", "post-norm", "sandwich", "deepnorm", "layerscale"]
RESIDUALS = ("pre-norm", "post-norm", "sandwich", "deepnorm", "layerscale")
#: blocks, width and heads (2010.11929, table 1; tiny and small from DeiT, 2012.12877)
SIZES = {"tiny": (12, 192, 3), "small": (12, 384, 6), "base": (12, 768, 12), "large": (24, 1024, 16)}


def tokens(x: Tensor) -> Tensor:
    """Pixels as tokens: ``(N, C, H, W)`` to ``(N, H W, C)``."""
    return x.flatten(2).transpose(1, 2)


def first_token(x: Tensor) -> Tensor:
    """The class token, which has read the others: ``(N, T, C)`` to ``(N, C)``."""
    return x[:, 0]


class Embedding(nn.Module):
    """A class token before the others, and to each what stands for its place: ``(N, T, C)`` to ``(N, T + 1, C)``.

    >>> Embedding(196, 8)(torch.zeros(2, 196, 8)).shape
    torch.Size([2, 197, 8])
    """

    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        self.count, self.width = count, width
        self.first = nn.Parameter(torch.zeros(1, 1, width))
        self.place = nn.Parameter(torch.empty(1, count + 1, width))
        nn.init.trunc_normal_(self.place, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] != self.count:
            raise ChainError(f"there are places for {self.count} patches, and {x.shape[1]} arrive: make a net for them")
        return torch.cat((self.first.expand(x.shape[0], -1, -1), x), 1) + self.place

    def extra_repr(self) -> str:
        return f"{self.count}, {self.width}"


@dataclass(frozen=True)
class Heads:
    """Attention of queries, keys and values that lie side by side: ``(N, T, 3 C)`` to ``(N, T, C)``.

    ``(N, 3 C)`` is one token, which attends to itself.

    >>> Heads(2)(torch.zeros(1, 5, 24)).shape
    torch.Size([1, 5, 8])
    """

    count: int

    def __call__(self, x: Tensor) -> Tensor:
        if x.dim() == 2:
            return self(x[:, None])[:, 0]
        rows, length, width = x.shape
        each = width // (3 * self.count)
        query, key, value = x.view(rows, length, 3, self.count, each).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value)
        return mixed.transpose(1, 2).reshape(rows, length, width // 3)


def around(body: dict[str, Any], width: int, residual: Residual, depth: int, scale: float, drop: float) -> Skip:
    """The shortcut around attention, or around the dense layers: the table of this module.

    >>> around({"dense": Dense(8, 8)}, 8, "post-norm", depth=2, scale=0.1, drop=0.0)
    Skip(dense=Dense(8, 8), act=LayerNorm(8, eps=1e-06))
    """
    norm = LayerNorm(width, eps=1e-6)
    if residual == "post-norm":
        return Skip(**body, act=norm, drop=drop)
    if residual == "deepnorm":
        return Skip(**body, path_scale=(2 * depth) ** 0.25, act=norm, drop=drop)
    if residual == "sandwich":
        return Skip(norm=norm, **body, last_norm=LayerNorm(width, eps=1e-6), drop=drop)
    gain = Learned(scale, per="channel") if residual == "layerscale" else None
    return Skip(norm=norm, **body, scale=gain, drop=drop)


def block(
    width: int,
    heads: int,
    residual: Residual = "pre-norm",
    depth: int = 12,
    scale: float = 0.1,
    drop: float = 0.0,
) -> Chain:
    """One block of ``depth``. Shapes: ``(N, T, width)`` to the same.

    >>> block(8, heads=2)["mlp"]
    Skip(norm=LayerNorm(8, eps=1e-06), wide=Dense(8, 32, gelu), narrow=Dense(32, 8))
    """
    attention = {"qkv": Dense(width, 3 * width), "heads": Heads(heads), "out": Dense(width, width)}
    mlp = {"wide": Dense(width, 4 * width, gelu), "narrow": Dense(4 * width, width)}
    return Chain(
        attention=around(attention, width, residual, depth, scale, drop),
        mlp=around(mlp, width, residual, depth, scale, drop),
    )


def vit(
    size: Literal["tiny", "small", "base", "large"] = "base",
    num_classes: int = 1000,
    residual: Residual = "pre-norm",
    *,
    image: int = 224,
    patch: int = 16,
    depth: int | None = None,
    width: int | None = None,
    heads: int | None = None,
    scale: float | None = None,
    drop: float = 0.0,
    in_channels: int = 3,
) -> Chain:
    """A vision transformer. Shapes: ``(N, in_channels, image, image)`` to ``(N, num_classes)``.

    With pre-norm and patches of 16 x 16 pixels of 224 x 224:

    =====  ======  =====  =====  ===========
    size   blocks  width  heads  parameters
    =====  ======  =====  =====  ===========
    tiny   12      192    3      5,717,416
    small  12      384    6      22,050,664
    base   12      768    12     86,567,656
    large  24      1024   16     304,326,632
    =====  ======  =====  =====  ===========

    Parameters
    ----------
    residual:
        see the table of this module. With post-norm and deepnorm the last norm is that of the last block.
    image, patch:
        side of the image, and of a patch.
    depth, width, heads:
        in the place of those of the table.
    scale:
        where gamma begins, for ``residual="layerscale"``: by default 0.1 up to 18 blocks, 1e-5 up to 24, 1e-6 beyond,
        as in the paper.
    drop:
        the probability with which the branch of the last block is dropped in training, row by row; it grows from 0
        linearly with depth (1603.09382). DeiT has 0.1.

    Weights begin from a truncated normal law of deviation 0.02 (2012.12877), biases at 0. With deepnorm they begin as
    Glorot and Bengio draw them, those of the dense layers, of values and of attention's output times
    ``(8 N)**(-1/4)``.

    Raises
    ------
    ChainError
        for an unknown size or residual, a number that is not positive and whole, a patch that does not divide the
        image, heads that do not divide the width, and a scale for another residual than layerscale.

    >>> with torch.device("meta"):
    ...     net = vit("tiny")
    >>> sum(p.numel() for p in net.parameters())
    5717416
    """
    one_of(SIZES, size=size)
    one_of(RESIDUALS, residual=residual)
    given = zip((depth, width, heads), SIZES[size], strict=True)
    depth, width, heads = (papers if number is None else number for number, papers in given)
    positive(image=image, patch=patch, depth=depth, width=width, heads=heads)
    if image % patch:
        raise ChainError(f"patch={patch} does not divide image={image}: an image is cut into whole patches")
    if width % heads:
        raise ChainError(f"heads={heads} does not divide width={width}: every head works on as many channels")
    if scale is not None and residual != "layerscale":
        raise ChainError(f'scale= is where gamma of residual="layerscale" begins (2103.17239), not of {residual!r}')

    start = _gamma(depth) if scale is None else scale
    blocks = [block(width, heads, residual, depth, start, drop * i / max(depth - 1, 1)) for i in range(depth)]
    last = {} if residual in ("post-norm", "deepnorm") else {"norm": LayerNorm(width, eps=1e-6)}
    net = Chain(
        patches=Conv(in_channels, width, patch, stride=patch), tokens=tokens,
        embed=Embedding((image // patch) ** 2, width),
        blocks=Chain(*blocks), **last,
        first=first_token, head=Dense(width, num_classes), input=(in_channels, image, image),
    )  # fmt: skip
    return _deepnorm(truncated(net), depth) if residual == "deepnorm" else truncated(net)


def _gamma(depth: int) -> float:
    return 0.1 if depth <= 18 else 1e-5 if depth <= 24 else 1e-6


def _deepnorm(net: Chain, depth: int) -> Chain:
    """The weights of 2203.00555, section 3: beta = (8N)^(-1/4), for all but queries and keys."""
    beta = (8 * depth) ** -0.25
    for part in net["blocks"]:
        for weight, gain in _weights(part, beta):
            nn.init.xavier_normal_(weight, gain)
    return net


def _weights(part: Chain, beta: float) -> Iterator[tuple[Tensor, float]]:
    """The matrices of a block with their gains; queries, keys and values lie in one."""
    query, key, value = part["attention"]["qkv"].weight.data.chunk(3)
    yield from ((query, 1.0), (key, 1.0), (value, beta), (part["attention"]["out"].weight, beta))
    yield from ((part["mlp"]["wide"].weight, beta), (part["mlp"]["narrow"].weight, beta))


_TIMM = "timm 1.0.31"

NETS = {
    "vit_tiny": Entry(vit, {"size": "tiny"}, [
        parameters(5_717_416, _TIMM),
        parameters(5_717_416 + 2 * 12 * 192, "one number a channel and branch more", residual="layerscale"),
    ]),
    "vit_small": Entry(vit, {"size": "small"}, [parameters(22_050_664, _TIMM)]),
    "vit_base": Entry(vit, {"size": "base"}, [parameters(86_567_656, _TIMM)]),
    "vit_large": Entry(vit, {"size": "large"}, [parameters(304_326_632, _TIMM)]),
}  # fmt: skip


__all__ = ["RESIDUALS", "Embedding", "Heads", "around", "block", "first_token", "tokens", "vit"]
