"""How layers and problems read in an error."""

from __future__ import annotations

from typing import Any

from torch import nn

from .layer import Layer, module_code
from .spine import unwrap
from .wrap import describe


def explicit(layer: Any, width: int) -> str:
    """The code of a layer with its width as a number, also where it was written ``...``."""
    return module_code(layer).replace("(...", f"({width}", 1) if isinstance(layer, Layer) else module_code(layer)


def report(problems: list[str], source: str) -> str:
    """All problems of a chain as one message."""
    if len(problems) == 1:
        return f"this chain ({source}) cannot work:\n  {problems[0]}"
    lines = [f"  {i}. " + p.replace("\n", "\n   ") for i, p in enumerate(problems, 1)]
    return "\n".join([f"this chain ({source}) cannot work, for {len(problems)} reasons:", *lines])


def describe_layer(layer: Any) -> str:
    """A layer in an error: its code on one line, shortened."""
    code = describe(unwrap(layer)) if not isinstance(unwrap(layer), nn.Module) else module_code(layer)
    code = " ".join(code.split())
    return code if len(code) <= 70 else code[:66] + " ..."
