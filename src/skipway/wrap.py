"""Plain functions and objects as layers, with whatever they hold registered.

A callable that keeps parameters where PyTorch does not look (an attribute, a dataclass field, a list, a closure) would
be left untrained and left behind by ``.to(device)``. :class:`Wrapped` finds them and registers them; what cannot be
registered safely is refused by name.
"""

from __future__ import annotations

import contextlib
import copy
import dis
import functools
import types
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from .errors import ChainError

_OPAQUE = (str, bytes, int, float, complex, bool, type(None), type, types.ModuleType, torch.dtype, torch.device)


class Slot:
    """Where a callable keeps one tensor: it can be read and written back."""

    def __init__(self, holder: Any, key: Any, kind: str) -> None:
        self.holder, self.key, self.kind = holder, key, kind

    def get(self) -> Any:
        if self.kind == "item":
            return self.holder[self.key]
        if self.kind == "cell":
            return self.holder.cell_contents
        return getattr(self.holder, self.key)

    def set(self, value: Any) -> None:
        if self.kind == "item":
            self.holder[self.key] = value
        elif self.kind == "cell":
            self.holder.cell_contents = value
        elif self.kind == "attr":
            # frozen dataclasses refuse plain assignment, but must follow `.to(device)` like everything else
            object.__setattr__(self.holder, self.key, value)


def _parts(holder: Any) -> Iterator[tuple[str, Any, Slot]]:
    """``(name, thing, slot)`` for everything a callable or container holds directly."""
    if isinstance(holder, functools.partial):
        yield "func", holder.func, Slot(holder, "func", "fixed")
        for i, arg in enumerate(holder.args):
            yield f"arg{i}", arg, Slot(holder.args, i, "fixed")
        for key, arg in holder.keywords.items():
            yield str(key), arg, Slot(holder.keywords, key, "item")
    elif isinstance(holder, types.MethodType):
        yield "self", holder.__self__, Slot(holder, "__self__", "fixed")
    elif isinstance(holder, types.FunctionType):
        for name, cell in zip(holder.__code__.co_freevars, holder.__closure__ or (), strict=False):
            try:
                yield name, cell.cell_contents, Slot(cell, None, "cell")
            except ValueError:  # a name that is not bound yet
                continue
        for key, value in holder.__dict__.items():
            yield key, value, Slot(holder.__dict__, key, "item")
        for i, default in enumerate(holder.__defaults__ or ()):
            yield f"default{i}", default, Slot(holder, i, "fixed")
        for key, default in (holder.__kwdefaults__ or {}).items():
            yield key, default, Slot(holder.__kwdefaults__, key, "item")
    elif isinstance(holder, dict):
        for key, item in holder.items():
            yield str(key), item, Slot(holder, key, "item")
    elif isinstance(holder, (list, tuple)):
        for i, item in enumerate(holder):
            yield str(i), item, Slot(holder, i, "item" if isinstance(holder, list) else "fixed")
    elif isinstance(holder, (set, frozenset)):
        for i, item in enumerate(holder):
            yield str(i), item, Slot(holder, i, "fixed")
    else:
        names = list(getattr(holder, "__dict__", {}))
        for klass in type(holder).__mro__:
            slots = klass.__dict__.get("__slots__", ())
            names += [slots] if isinstance(slots, str) else list(slots)
        for name in names:
            if name not in ("__dict__", "__weakref__") and hasattr(holder, name):
                yield name, getattr(holder, name), Slot(holder, name, "attr")


def is_leaf(thing: Any) -> bool:
    """Whether a thing can hold nothing of ours: plain data, and what torch and numpy define."""
    if isinstance(thing, (*_OPAQUE, types.BuiltinFunctionType)):
        return True
    module = type(thing).__module__ or ""
    if isinstance(thing, types.FunctionType):
        return (thing.__module__ or "").split(".")[0] in ("torch", "numpy")
    return module.split(".")[0] in ("torch", "numpy")


def _globals_named(fn: types.FunctionType) -> Iterator[tuple[str, Any]]:
    """The globals a function reads, also in the functions written inside it."""
    pending, known = [fn.__code__], fn.__globals__
    while pending:
        code = pending.pop()
        pending += [c for c in code.co_consts if isinstance(c, types.CodeType)]
        for instruction in dis.get_instructions(code):
            if instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME") and instruction.argval in known:
                yield instruction.argval, known[instruction.argval]


def _trainable(thing: Any) -> bool:
    """Whether leaving a thing unregistered would leave something untrained."""
    if isinstance(thing, nn.Module):
        return any(p is not None for m in thing.modules() for p in m._parameters.values())
    return isinstance(thing, Tensor) and thing.requires_grad


def _refuse_outside(fn: types.FunctionType, trail: str, seen: set[int]) -> None:
    """Refuse parameters that the code of a function reaches through globals."""
    for key, value in _globals_named(fn):
        out: list[tuple[str, Any, Slot]] = []
        if isinstance(value, (nn.Module, Tensor)):
            out = [(key, value, Slot(None, key, "fixed"))]
        elif isinstance(value, types.FunctionType):
            if value.__module__ == fn.__module__:
                _find(value, key, seen, out, f"{trail} -> {key}()")
        elif not is_leaf(value) and (isinstance(value, (dict, list, tuple, set)) or hasattr(value, "__dict__")):
            with contextlib.suppress(ChainError):  # what an unrelated object reads is not this layer's business
                _find(value, key, set(), out, trail)
        for name, thing, _ in out:
            if _trainable(thing):
                raise ChainError(
                    f"{trail} reads the global {name!r}, a {type(thing).__name__}: a chain could not keep it trained "
                    f"or move it. Make it an attribute of a callable class or of an nn.Module, or close over it."
                )


def _refuse_on_class(thing: Any, trail: str) -> None:
    """Refuse parameters on a class: all its objects would share them, and none could move them."""
    for klass in type(thing).__mro__[:-1]:
        for key, value in vars(klass).items():
            if isinstance(value, (nn.Module, Tensor)) and _trainable(value):
                raise ChainError(
                    f"{trail} finds {key!r}, a {type(value).__name__}, on the class {klass.__name__}, where all its "
                    f"objects would share it: make it an attribute of the object, in __init__"
                )


def _find(thing: Any, name: str, seen: set[int], out: list[tuple[str, Any, Slot]], trail: str) -> None:
    """Collect the tensors and modules that a callable or container holds, at any depth."""
    if id(thing) in seen:
        return
    seen.add(id(thing))
    code = thing
    if isinstance(thing, types.MethodType):
        code = thing.__func__
    elif not isinstance(thing, (types.FunctionType, functools.partial, dict, list, tuple, set, frozenset)):
        _refuse_on_class(thing, trail)
        code = next((vars(k)["__call__"] for k in type(thing).__mro__ if "__call__" in vars(k)), None)
    if isinstance(code, types.FunctionType) and not is_leaf(code):
        _refuse_outside(code, trail, seen)
    for key, value, slot in _parts(thing):
        full = f"{name}.{key}" if name else key
        if isinstance(value, (Tensor, nn.Module)):
            out.append((full, value, slot))
        elif not is_leaf(value):
            _find(value, full, seen, out, trail)


def _functions(thing: Any, seen: dict[int, types.FunctionType]) -> None:
    """Collect the functions inside a callable that have a closure or defaults."""
    if id(thing) in seen or is_leaf(thing) or isinstance(thing, (Tensor, nn.Module)):
        return
    seen[id(thing)] = thing
    for _, value, _ in _parts(thing):
        _functions(value, seen)


def copied(fn: Any, memo: dict[int, Any]) -> Any:
    """A deep copy of a callable, with closures over tensors and modules of its own.

    ``copy.deepcopy`` takes functions as they are, so a copied layer would go on computing with the original's weights.
    """
    seen: dict[int, Any] = {}
    _functions(fn, seen)
    twins = []
    for function in [f for f in seen.values() if isinstance(f, types.FunctionType)]:
        out: list[tuple[str, Any, Slot]] = []
        _find(function, "", set(), out, describe(function))
        if not out:
            continue
        cells = tuple(types.CellType() for _ in function.__closure__ or ())
        twin = types.FunctionType(function.__code__, function.__globals__, function.__name__, None, cells or None)
        twin.__dict__.update(function.__dict__)
        twin.__module__, twin.__qualname__ = function.__module__, function.__qualname__
        memo[id(function)] = twin
        twins.append((function, twin))
    for function, twin in twins:
        for old, new in zip(function.__closure__ or (), twin.__closure__ or (), strict=True):
            with contextlib.suppress(ValueError):  # a cell that was never filled
                new.cell_contents = copy.deepcopy(old.cell_contents, memo)
        twin.__defaults__ = copy.deepcopy(function.__defaults__, memo)
        twin.__kwdefaults__ = copy.deepcopy(function.__kwdefaults__, memo)
    return copy.deepcopy(fn, memo)


class Wrapped(nn.Module):
    """A callable as an ``nn.Module``: what it holds is registered under the name it has there.

    Parameters
    ----------
    fn:
        any callable. Parameters, tensors and modules in its attributes, dataclass fields, ``__slots__``, lists, dicts,
        closures, ``functools.partial`` arguments and bound ``self`` become parameters, buffers and children of this
        module; they keep being the callable's own, also after ``.to()`` and inside ``torch.func.functional_call``.

    Raises
    ------
    ChainError
        for a tensor that asks for a gradient without being an ``nn.Parameter``, for parameters in a global variable,
        and for parameters where they cannot be written back (a tuple or a default argument).

    >>> class Scale:
    ...     def __init__(self): self.by = nn.Parameter(torch.ones(3))
    ...     def __call__(self, x): return x * self.by
    >>> [name for name, _ in Wrapped(Scale()).named_parameters()]
    ['by']
    """

    def __init__(self, fn: Callable[..., Any]) -> None:
        super().__init__()
        self.fn = fn
        label = describe(fn)
        self._slots: dict[str, list[Slot]] = {}
        for key, name, thing, slot, first in self._held():
            if isinstance(thing, nn.Module):
                if first:
                    self.add_module(key, thing)
                continue
            if isinstance(thing, nn.Parameter):
                if slot.kind == "fixed":
                    raise ChainError(
                        f"{label} keeps the parameter {name!r} in a tuple or as a default argument, where it could not "
                        f"follow the chain to another device: keep it in an attribute, a list or a dict"
                    )
                self.register_parameter(key, thing)
            elif thing.requires_grad:
                raise ChainError(
                    f"{label} keeps the tensor {name!r} that asks for a gradient but is no parameter, so no optimizer "
                    f"would be given it: make it nn.Parameter({name.split('.')[-1]})"
                )
            elif slot.kind != "fixed":  # a constant in a tuple cannot be moved; a forward on another device says so
                self.register_buffer(key, thing)
            else:
                continue
            self._slots.setdefault(key, []).append(slot)

    def _held(self) -> Iterator[tuple[str, str, Any, Slot, bool]]:
        """``(key, name, thing, slot, first)`` of what the callable holds; the same thing has one key."""
        found: list[tuple[str, Any, Slot]] = []
        _find(self.fn, "", set(), found, describe(self.fn))
        keys: dict[int, str] = {}
        for name, thing, slot in found:
            first = id(thing) not in keys
            if first:
                key = name.replace(".", "_")
                while hasattr(nn.Module, key) or key in ("fn", "training", "stateless") or key in keys.values():
                    key += "_"
                keys[id(thing)] = key
            yield keys[id(thing)], name, thing, slot, first

    @property
    def stateless(self) -> bool:
        """Whether the callable holds nothing, so that it can be called directly."""
        return not (self._parameters or self._buffers or self._modules)

    def _sync(self) -> list[tuple[Slot, Any]]:
        """Give the callable the tensors registered now; returns what it held before.

        ``.to()`` and ``functional_call`` may have put others in their place.
        """
        swapped = []
        for key, slots in self._slots.items():
            current: Tensor | None = self._parameters.get(key)
            if current is None:
                current = self._buffers.get(key)
            for slot in slots:
                held = slot.get()
                if held is not current:
                    swapped.append((slot, held))
                    slot.set(current)
        return swapped

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Wrapped:
        super()._apply(fn, recurse)
        self._sync()
        return self

    def forward(self, *args: Any) -> Any:
        if not self._slots:
            return self.fn(*args)
        swapped = self._sync()
        try:
            return self.fn(*args)
        finally:
            for slot, held in swapped:
                slot.set(held)

    def __deepcopy__(self, memo: dict[int, Any]) -> Wrapped:
        twin = type(self).__new__(type(self))
        memo[id(self)] = twin
        fn = copied(self.fn, memo)
        state = {k: v for k, v in self.__getstate__().items() if k != "fn"}
        twin.__setstate__({"fn": fn, **copy.deepcopy(state, memo)})
        return twin

    def __getstate__(self) -> dict[str, Any]:
        # slots point into the callable itself: a copy finds its own
        return {**self.__dict__, "_slots": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._slots = {}
        for key, _, thing, slot, _ in self._held():
            if isinstance(thing, Tensor) and (key in self._parameters or key in self._buffers):
                self._slots.setdefault(key, []).append(slot)

    def extra_repr(self) -> str:
        return describe(self.fn)


def describe(fn: Any) -> str:
    """The short name of a callable: ``relu``, ``<lambda>``, ``Scale``."""
    if isinstance(fn, functools.partial):
        return f"partial({describe(fn.func)})"
    return str(getattr(fn, "__name__", None) or type(fn).__name__)


def callable_code(fn: Any) -> str:
    """Python for a callable: functions by the name they are imported under, objects by their own repr if any."""
    from . import functional

    name = getattr(fn, "__name__", "")
    if not name:
        return repr(fn) if type(fn).__repr__ is not object.__repr__ else f"<{type(fn).__name__}>"
    for prefix, library in (("", functional), ("torch.", torch), ("F.", torch.nn.functional), ("nn.", nn)):
        if name != "torch" and getattr(library, name, None) is fn:
            return f"{prefix}{name}"
    return name


def hidden_state(module: nn.Module) -> tuple[str, Any] | None:
    """The first parameter or module that a module keeps in a plain list or dict, where PyTorch does not see it."""
    held = [
        (k, v) for k, v in module.__dict__.items() if not k.startswith("_") and isinstance(v, (list, tuple, dict, set))
    ]
    if not held:
        return None
    registered = {id(m) for m in module.modules()} | {id(p) for p in module.parameters()}
    for name, container in held:
        out: list[tuple[str, Any, Slot]] = []
        _find(container, name, set(), out, name)
        for full, thing, _ in out:
            if id(thing) in registered:
                continue
            if isinstance(thing, nn.Parameter) or (
                isinstance(thing, nn.Module) and any(True for _ in thing.parameters())
            ):
                return full, thing
    return None
