"""U-Net (Ronneberger et al. 2015, 1505.04597): down to a few large pixels and up again, with what was lost brought over.

On the way down, two 3x3 convolutions and a max pool halve the image and double the channels; on the way up, a transposed
convolution doubles the image and halves the channels, and the value of the same level on the way down is joined to it::

    down1 ------------------------------------> up1
       down2 ----------------------------> up2
          down3 ------------------> up3
             down4 ----------> up4
                      mid
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from skipway.chain import Chain
from skipway.errors import ChainError
from skipway.functional import relu
from skipway.layers import Conv, MaxPool
from skipway.merges import Cat, Misfit
from skipway.paths import Path
from skipway.shortcut import Shortcut
from skipway.value import Value, show

from .initialise import he


@dataclass(frozen=True)
class Crop(Path):
    """The middle of an image, as large as what it meets: convolutions without padding have made that smaller.

    >>> import torch
    >>> crop = Crop().make(Value.of((1, 7, 7), "first"), Value.of((1, 4, 4), "first"))
    >>> crop(torch.zeros(1, 1, 7, 7)).shape
    torch.Size([1, 1, 4, 4])
    """

    def make(self, start: Value, target: Value) -> CropTo | None:
        found = {_margins(s, t) for s, t in zip(start.trials, target.trials, strict=True)}
        if any(m < 0 for margins in found for m in margins):
            raise Misfit(
                f"crop only takes away, and cannot take {show(start.shape)} to {show(target.shape)}",
                "let the shortcut start from a larger image",
            )
        return CropTo() if False else None
