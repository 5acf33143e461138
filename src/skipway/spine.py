"""The layers of a chain in order, under their names: the part of a chain that knows nothing of shortcuts."""

from __future__ import annotations

import keyword
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import nn

from .errors import ChainError, caller, nearest
from .wrap import Wrapped, hidden_state


def adopt(layer: Any, where: str) -> nn.Module:
    """Any layer as a module: modules as they are, other callables wrapped with what they hold.

    Raises ``ChainError`` for what cannot be called, for a class instead of an object, and for a module that hides
    parameters in a plain list.
    """
    if isinstance(layer, nn.Module):
        lazy = (m for m in layer.modules() if isinstance(m, nn.modules.lazy.LazyModuleMixin))
        late = next((m for m in lazy if m.has_uninitialized_params()), None)
        if late is not None:
            raise ChainError(
                f"{where}: {type(late).__name__} makes its parameters in the first forward, too late for an optimizer "
                f"made before: write Dense(..., width), Conv(..., width, kernel) or BatchNorm()"
            )
        ours = type(layer).__module__.split(".")[0] in ("torch", "skipway")
        hidden = None if ours else hidden_state(layer)
        if hidden is not None:
            name, thing = hidden
            kind = "parameter" if isinstance(thing, nn.Parameter) else type(thing).__name__
            raise ChainError(
                f"{where}: {type(layer).__name__} keeps the {kind} {name!r} in a plain container, where no optimizer "
                f"finds it: use nn.ModuleList, nn.ModuleDict or nn.ParameterList"
            )
        return layer
    if isinstance(layer, type):
        raise ChainError(f"{where}: {layer.__name__} is a class: write {layer.__name__}(...)")
    if type(layer).__module__ in ("skipway.wiring", "skipway.shortcut"):
        raise ChainError(f"{where}: {layer!r} is a wiring, no layer: write wiring={layer!r}")
    if isinstance(layer, (list, tuple, Iterator)):
        raise ChainError(f"{where}: a {type(layer).__name__} is no layer: unpack it, Chain(*layers)")
    if not callable(layer):
        raise ChainError(f"{where}: a layer must be callable, and {layer!r} is not")
    try:
        return Wrapped(layer)
    except ChainError as error:
        raise ChainError(f"{where}: {error}") from None


class Spine(nn.Module):
    """Named layers in order. Layers without a name go by their position, as in ``nn.Sequential``."""

    #: keywords that are options, not layers: a misspelt one is told from a layer by these
    _options: tuple[str, ...] = ("input", "wiring")

    def __init__(self, layers: Iterable[Any], named: Mapping[str, Any]) -> None:
        super().__init__()
        self.source = caller()
        self._names: list[str | None] = []
        self._keys: list[str] = []
        for layer in layers:
            self._place(None, layer)
        for name, layer in named.items():
            self._place(name, layer)

    def _place(self, name: str | None, layer: Any) -> None:
        if name == str(len(self._keys)):
            name = None  # its position is the name it would have anyway
        key = self._check_name(name) if name is not None else str(len(self._keys))
        if key in self._keys:
            raise ChainError(f"two layers are named {key!r} ({self.source}): give one of them another name")
        if name is not None and not callable(layer):
            hint = nearest(name, self._options)
            raise ChainError(
                f"layer {key!r} ({self.source}): a layer must be callable, and {layer!r} is not"
                + (f"; {hint}" if hint.startswith("did") else "")
            )
        module = adopt(layer, f"layer {key!r} ({self.source})")
        if module is not layer:
            module.train(self.training)
        self._names.append(name)
        self._keys.append(key)
        self._modules[key] = module

    def _check_name(self, name: str) -> str:
        if not isinstance(name, str) or not name or "." in name:
            raise ChainError(f"a layer's name is a word without dots, not {name!r} ({self.source})")
        if name in ("input", "output"):
            raise ChainError(f"{name!r} names the chain's own {name}, so no layer can have it ({self.source})")
        if name.startswith("_"):
            raise ChainError(f"a layer's name starts with a letter, unlike {name!r} ({self.source})")
        if hasattr(type(self), name) or name in self.__dict__ or name == "shortcuts":
            raise ChainError(
                f"a layer cannot be named {name!r}, since a chain has an attribute of that name: try {name + '_'!r} "
                f"({self.source})"
            )
        return name

    @property
    def modules_in_order(self) -> list[nn.Module]:
        """The layers as modules, wrapped functions included."""
        return [self._modules[key] for key in self._keys]  # type: ignore[misc]

    def __len__(self) -> int:
        return len(self._keys)

    def __bool__(self) -> bool:
        return True  # an empty chain is the identity, not nothing

    def __iter__(self) -> Iterator[Any]:
        return iter([unwrap(m) for m in self.modules_in_order])

    def _index(self, which: int | str) -> int:
        """The position of a layer given by position or name."""
        if isinstance(which, str):
            if which not in self._keys:
                raise KeyError(f"there is no layer {which!r}: {nearest(which, self._keys)}")
            return self._keys.index(which)
        if not -len(self) <= which < len(self):
            count = f"{len(self)} layer{'s' * (len(self) != 1)}"
            raise IndexError(f"the chain has {count}, counted from 0; there is no layer {which}")
        return which % len(self)


def unwrap(module: Any) -> Any:
    """What the user put in: the callable of a wrapped one."""
    return module.fn if isinstance(module, Wrapped) else module


def identifier(name: str) -> bool:
    return name.isidentifier() and not keyword.iskeyword(name)
