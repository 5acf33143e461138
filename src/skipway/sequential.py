"""A chain of the layers of an ``nn.Sequential``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import nn

from .edit import Items, assemble
from .errors import ChainError, caller
from .value import UNKNOWN, Value
from .wiring import Wiring, resolve

if TYPE_CHECKING:
    from .chain import Chain


def from_sequential(sequential: Any, wiring: Wiring, input: Sequence[int] | int | None, nested: bool) -> Chain:
    """See :meth:`skipway.Chain.from_sequential`."""
    from .chain import Chain

    reason = _not_a_row(sequential)
    if reason:
        raise ChainError(f"from_sequential takes an nn.Sequential, and {reason} ({caller()})")
    named: set[str] = set()
    for shortcut in resolve(wiring, len(sequential)):
        for end in (shortcut.start, shortcut.end):
            parts = end.split(".") if isinstance(end, str) else []
            named |= {".".join(parts[:i]) for i in range(1, len(parts))}
    value = UNKNOWN if input is None else Value.of(Chain()._check_shape(input))
    return assemble(_items(sequential, "", named, nested), wiring, sequential, value, {})


def _items(row: nn.Sequential, prefix: str, named: set[str], nested: bool) -> Items:
    """The layers under their names; rows inside, where they are wanted as chains, as chains."""
    items: Items = []
    for name, layer in row._modules.items():
        if layer is None:
            raise ChainError(f"layer {prefix + name!r} is None: an nn.Sequential runs only with a module there")
        if (nested or prefix + name in named) and isinstance(layer, nn.Sequential) and not _not_a_row(layer):
            layer = assemble(_items(layer, f"{prefix}{name}.", named, nested), (), layer, UNKNOWN, {})
        items.append((name, layer))
    return items


def _not_a_row(module: Any) -> str:
    """Why something is no plain row of layers; empty if it is one."""
    if isinstance(module, type):
        return f"{module.__name__} is a class: write {module.__name__}(...)"
    kind = type(module).__name__
    if not isinstance(module, nn.Sequential):
        hint = {
            nn.ModuleList: "which does not say in which order its modules run: write Chain(*modules)",
            nn.ModuleDict: "which does not say in which order its modules run: write Chain(dict(modules))",
        }.get(type(module), "whose forward may do anything with its modules: write Chain(...) of its layers")
        if not isinstance(module, nn.Module):
            hint = "write Chain(*layers)" if isinstance(module, (list, tuple)) else "which holds no layers"
        return f"got a {kind}, {hint}"
    if type(module).forward is not nn.Sequential.forward or "forward" in module.__dict__:
        return f"this {kind} has a forward of its own, which a chain of its layers would leave out"
    own = [*module._parameters, *module._buffers]
    if own:
        return f"this {kind} holds {own[0]!r} beside its layers, which a chain of them would leave out"
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    if any(hooks):
        return (
            f"this {kind} has hooks of its own, which would no longer run: remove them, and register them on the chain"
        )
    return ""
