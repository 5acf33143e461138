"""The nets of the zoo by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from skipway import Chain, ChainError
from skipway.errors import nearest

from .cifar import cifar_resnet, preact_resnet, wide_resnet
from .densenet import BLOCKS, cifar_densenet, densenet
from .encoder_decoder import unet
from .mlp import cascade, highway, lang_witbrock, rezero_mlp, tabular_resnet
from .resnet import STAGES, resnet, resnext


@dataclass(frozen=True)
class Entry:
    """A function that makes nets, with what the name already says of them."""

    function: Callable[..., Chain]
    says: Mapping[str, Any] = field(default_factory=dict)

    @property
    def options(self) -> list[str]:
        """Options that are left to say."""
        return [name for name in inspect.signature(self.function).parameters if name not in self.says]


def _entries() -> dict[str, Entry]:
    entries = {f"resnet{depth}": Entry(resnet, {"depth": depth}) for depth in STAGES}
    entries["resnext50_32x4d"] = Entry(resnext, {"depth": 50, "groups": 32, "width": 4})
    for depth in (50, 101):
        entries[f"wide_resnet{depth}_2"] = Entry(resnet, {"depth": depth, "width": 128})
    entries["cifar_resnet"] = Entry(cifar_resnet)
    for depth in (20, 32, 44, 56, 110):
        entries[f"cifar_resnet{depth}"] = Entry(cifar_resnet, {"depth": depth})
    entries["preact_resnet"] = Entry(preact_resnet)
    for depth in (110, 164, 1001):
        entries[f"preact_resnet{depth}"] = Entry(preact_resnet, {"depth": depth})
    entries["wide_resnet"] = Entry(wide_resnet)
    for depth, widen in ((28, 10), (40, 1)):
        entries[f"wide_resnet{depth}_{widen}"] = Entry(wide_resnet, {"depth": depth, "widen": widen})
    for depth, (layers, growth, stem) in BLOCKS.items():
        entries[f"densenet{depth}"] = Entry(densenet, {"layers": layers, "growth": growth, "stem": stem})
    entries["cifar_densenet"] = Entry(cifar_densenet)
    entries["cifar_densenet40_12"] = Entry(cifar_densenet, {"depth": 40, "growth": 12, "bottleneck": False})
    for depth, growth in ((100, 12), (190, 40)):
        says = {"depth": depth, "growth": growth, "bottleneck": True}
        entries[f"cifar_densenet_bc{depth}_{growth}"] = Entry(cifar_densenet, says)
    for function in (unet, highway, rezero_mlp, tabular_resnet, lang_witbrock, cascade):
        entries[function.__name__] = Entry(function)
    return entries


ENTRIES = _entries()


def names() -> list[str]:
    """The names of all nets.

    >>> names()[:3]
    ['resnet18', 'resnet34', 'resnet50']
    """
    return list(ENTRIES)


def entry(name: str) -> Entry:
    """What is known under a name. Raises ``ChainError`` with the nearest name where there is none.

    >>> entry("resnet18").options
    ['num_classes', 'shortcut', 'stride_on', 'zero_init', 'groups', 'width', 'in_channels']
    """
    if name not in ENTRIES:
        raise ChainError(f"no net of the zoo is named {name!r}: {nearest(str(name), ENTRIES)}")
    return ENTRIES[name]


def make(name: str, **options: Any) -> Chain:
    """The net of this name, with the options of its function.

    Raises
    ------
    ChainError
        for a name or an option that is not there, with the nearest that is; for an option that the name already says
        otherwise; and for options that no net can have together, in the words of the paper.

    >>> make("cifar_resnet", depth=32, shortcut="B")["head"]
    Dense(64, 10)
    >>> make("cifar_resnet", depth=33)
    Traceback (most recent call last):
    skipway.errors.ChainError: cifar_resnet: depth= is 6n + 2 (three stages of n blocks of 2 convolutions), ...
    """
    found = entry(name)
    for key, value in options.items():
        if key in found.says:
            if found.says[key] == value:
                continue
            raise ChainError(f"{name!r} says {key}={found.says[key]!r}, and not {key}={value!r}: {_other(name, key)}")
        if key not in found.options:
            raise ChainError(f"{name!r} has no option {key!r}: {nearest(key, found.options) or 'it has none'}")
    return found.function(**{**found.says, **options})


def _other(name: str, key: str) -> str:
    """Where to find a net with another value."""
    function = ENTRIES[name].function
    family = next((n for n, e in ENTRIES.items() if e.function is function and key not in e.says), None)
    alike = [n for n, e in ENTRIES.items() if e.function is function and n != name and key in e.says]
    if family:
        return f"take {family!r}, which leaves that open"
    return f"take {' or '.join(map(repr, alike))}, or {function.__module__}.{function.__name__}"


__all__ = ["ENTRIES", "Entry", "entry", "make", "names"]
