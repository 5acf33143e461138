"""Chains as Python: ``repr(net)`` builds the net again, with fresh weights."""

from __future__ import annotations

from typing import Any

from torch import nn

from skipway.layer import is_tied, module_code
from skipway.spine import identifier
from skipway.wrap import Wrapped, callable_code


def chain_code(chain: Any) -> str:
    """``Chain(...)`` or ``Skip(...)`` as Python.

    >>> from skipway import Chain, Dense, every, relu
    >>> Chain(Dense(4, 4, relu), head=Dense(..., 2), wiring=every(1, path="project"))
    Chain(Dense(4, 4, relu), head=Dense(..., 2), wiring=every(1, path='project'))
    """
    return _chain(chain, {}, outermost=True)


def layer_code(layer: nn.Module, tied: dict[int, str] | None = None) -> str:
    """One layer as Python; a tied one gets a name where it first stands, by which it is called again."""
    tied = {} if tied is None else tied
    if is_tied(layer):
        if id(layer) in tied:
            return tied[id(layer)]
        tied[id(layer)] = name = f"tied{len(tied) + 1}"
        return f"({name} := tie({_bare(layer, tied)}))"
    return _bare(layer, tied)


def _bare(layer: nn.Module, tied: dict[int, str]) -> str:
    if hasattr(layer, "wiring"):
        return _chain(layer, tied)
    return callable_code(layer.fn) if isinstance(layer, Wrapped) else module_code(layer)


def _chain(chain: Any, tied: dict[int, str], outermost: bool = False) -> str:
    from skipway.chain import Skip

    positional: list[str] = []
    named: list[str] = []
    odd: list[str] = []
    for name, layer in zip(chain._names, chain.modules_in_order, strict=True):
        code = layer_code(layer, tied)
        if name is None and not named and not odd:
            positional.append(code)
        elif name is None:
            odd.append(f"{str(len(positional) + len(named) + len(odd))!r}: {code}")
        elif identifier(name) and not odd:
            named.append(f"{name}={code}")
        else:
            odd.append(f"{name!r}: {code}")
    parts = [*positional, *named]
    if odd:
        # names that are no Python words travel in a dict
        parts = [*positional, *named, f"**{{{', '.join(odd)}}}"]
    sizes = chain._form.sizes
    if outermost and len(sizes) == 1 and sizes != chain.implied_input().sizes:
        parts.append(f"input={sizes[0]!r}")
    if type(chain) is Skip:
        around = repr(chain.wiring[0])[len("Shortcut('input', 'output'") : -1].lstrip(", ")
        return f"Skip({', '.join([*parts, *([around] if around else [])])})"
    if chain.wiring:
        parts.append(f"wiring={_wiring(chain)}")
    return f"Chain({', '.join(parts)})"


def _wiring(chain: Any) -> str:
    if chain._pattern:
        return str(chain._pattern)
    return f"[{', '.join(repr(s) for s in chain.wiring)}]"
