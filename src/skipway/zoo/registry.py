"""The nets of the zoo by name."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from skipway import Chain, ChainError
from skipway.errors import nearest

from .entry import Entry

#: the files of the zoo, in the order in which their nets are listed
FAMILIES = (
    "resnet", "nf_resnet", "cifar", "fixup", "densenet", "convnext", "rdnet", "repvgg", "dirac", "pyramidnet",
    "stochastic", "fractal", "dual_path", "encoder_decoder", "linknet", "unet_plus_plus", "hourglass", "fpn", "mlp",
    "deep_cross", "vit",
)  # fmt: skip

#: by module, since a function may be named as its file is
_NETS = [import_module(f"{__package__}.{family}").NETS for family in FAMILIES]
ENTRIES: dict[str, Entry] = {name: entry for nets in _NETS for name, entry in nets.items()}


def names() -> list[str]:
    """The names of all nets.

    >>> names()[:3]
    ['resnet18', 'resnet34', 'resnet50']
    """
    return list(ENTRIES)


def entry(name: str) -> Entry:
    """What is known under a name. Raises ``ChainError`` with the nearest name where there is none.

    >>> entry("resnet18").options
    ['num_classes', 'shortcut', 'stride_on', 'zero_init', 'groups', 'width', 'stem', 'squeeze', 'in_channels']
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
