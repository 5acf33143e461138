"""A shortcut at work: the modules and parameters it was given when its shapes were known."""

from __future__ import annotations

from collections.abc import Callable, ItemsView, Iterator, Sequence
from typing import Any

from torch import Tensor, nn

from .errors import ChainError, Misfit, nearest
from .gains import Gain, as_drop, as_scale
from .merges import Merge, as_merge
from .paths import Path, as_path, close, takes
from .probe import blamed, run
from .shortcut import Shortcut
from .value import Value, show
from .wrap import Wrapped, is_leaf

#: the parts of a connection, in the order in which they act
PARTS = ("scale", "drop", "path", "path_scale", "merge", "act")


class Connection(nn.Module):
    """What one shortcut does: ``act(merge(drop(scale * branch), path_scale * path(value)))``.

    It is found as ``net.shortcuts[name]`` if it holds modules or parameters. Each part is a module, a parameter, a
    number, a plain function, or ``None`` where there is nothing to do.
    """

    #: gains, which weight decay would pull to where they say nothing
    no_decay = ("scale", "path_scale")

    #: the connections that merge at once with this one, itself included
    joint: tuple[Connection, ...] = ()

    scale: Any
    drop: Any
    path: Any
    path_scale: Any
    merge: Any
    act: Any

    def __init__(self, shortcut: Shortcut) -> None:
        super().__init__()
        self.scale = self.drop = self.path = self.path_scale = None
        self.merge = None
        self.act = hold(shortcut.act)

    def make_path(self, shortcut: Shortcut, start: Value, branch: Value) -> None:
        """Create the path: it aims at what the merge asks of a shortcut."""
        path, merge = as_path(shortcut.path), as_merge(shortcut.merge)
        if isinstance(path, Path):
            target = merge.target(branch, start) if isinstance(merge, Merge) else branch
            self.path = hold(path.make(start, target))
        else:
            self.path = hold(path)
        close(self.path, start)

    def make_gains(self, shortcut: Shortcut, branch: Value) -> None:
        """Create the scale and the random drop of the branch."""
        self.scale = _gain(as_scale(shortcut.scale), branch, "its scale")
        self.drop = as_drop(shortcut.drop).make()

    def make_path_scale(self, shortcut: Shortcut, brought: Value) -> None:
        """Create the scale of what the shortcut brings."""
        self.path_scale = _gain(as_scale(shortcut.path_scale), brought, "its path_scale")

    def take(self, other: Connection, *parts: str) -> None:
        """The parts of another connection, shared with it."""
        for part in parts:
            setattr(self, part, getattr(other, part))

    def check_gains(self, branch: Value, brought: Value) -> None:
        """Raise :class:`~skipway.merges.Misfit` where a learned scale is for another width: it would broadcast."""
        for part, value in (("scale", branch), ("path_scale", brought)):
            gain = getattr(self, part)
            if isinstance(gain, nn.Module) and value:
                takes(gain, value, f"its {part}")
                with blamed(part):
                    after = run(gain, value)
                if [t.shape for t in after] != [t.shape for t in value.trials]:
                    raise Misfit(
                        f"its {part} makes {show(Value(after).shape)} of {show(value.shape)}",
                        "a gain keeps the shape of what it multiplies",
                    )
            if isinstance(gain, nn.Parameter) and gain.dim() and value.width not in (None, gain.shape[0]):
                raise Misfit(
                    f"its {part} is for {gain.shape[0]} channels, and there are {value.width}",
                    "build a new chain with this shortcut, so that it gets a scale of that width",
                )
            if isinstance(gain, nn.Parameter) and value and not _lies_along(gain, value):
                raise Misfit(
                    f"its {part} of shape {tuple(gain.shape)} would broadcast over {show(value.shape)}",
                    "make it (), or of the features and as many ones as axes follow",
                )

    def make_merge(self, shortcut: Shortcut, branch: Value, brought: Sequence[Value]) -> None:
        """Create the merge, or raise :class:`~skipway.merges.Misfit`."""
        merge = as_merge(shortcut.merge)
        made: Any = merge
        if isinstance(merge, Merge):
            made = merge.make_many(1 + len(brought)) if merge.joint else merge.make(branch, brought[0])
        self.merge = hold(made)

    def settled(self, joint: tuple[Connection, ...]) -> None:
        """From now on its parts stay. ``joint`` are all that merge at once with it, the first with the merge."""
        self.__dict__["joint"] = joint
        self.__dict__["_made"] = True

    def __setattr__(self, name: str, value: Any) -> None:
        if name in PARTS and self.__dict__.get("_made"):
            held = getattr(self, name)
            kept = isinstance(value, (nn.Parameter, nn.Module)) and isinstance(held, type(value))
            kept = kept and _shapes(held) == _shapes(value)
            if not kept:
                raise ChainError(
                    f"a connection keeps the {name} its Shortcut says, since the forward is written from it: "
                    f"net.rewire([...]) with another Shortcut (dataclasses.replace makes one)"
                )
        super().__setattr__(name, value)

    @property
    def stateful(self) -> bool:
        """Whether there is anything to register: a parameter or a module."""
        return bool(self._modules or any(p is not None for p in self._parameters.values()))

    def bring(self, value: Tensor) -> Tensor:
        """What the shortcut brings to the merge."""
        if self.path is not None:
            value = self.path(value)
        return _times(value, self.path_scale)

    def branch(self, branch: Tensor) -> Tensor:
        """The branch as it comes to the merge."""
        branch = _times(branch, self.scale)
        return branch if self.drop is None else self.drop(branch)

    def forward(self, branch: Tensor, value: Tensor) -> Tensor:
        """The merge of one shortcut, by itself."""
        merged = self.merge(self.branch(branch), self.bring(value))
        return merged if self.act is None else self.act(merged)


def _gain(gain: Any, value: Value, what: str) -> Any:
    made = gain.make(value) if isinstance(gain, Gain) else gain
    if made is not None and not isinstance(made, (float, int, nn.Parameter, nn.Module)):
        raise ChainError(
            f"{type(gain).__name__}.make gave a {type(made).__name__}, and a gain is a number, an nn.Parameter or an "
            f"nn.Module"
        )
    close(made, value, what)
    return made


def _shapes(part: Any) -> list[Any]:
    return [p.shape for p in (part.parameters() if isinstance(part, nn.Module) else [part])]


def _lies_along(gain: Tensor, value: Value) -> bool:
    shapes = [t.shape for t in value.trials]
    if any(gain.dim() >= len(shape) for shape in shapes):
        return False
    pairs = [(g, size) for shape in shapes for g, size in zip(reversed(gain.shape), reversed(shape), strict=False)]
    return all(g in (1, size) for g, size in pairs)


def _times(value: Tensor, gain: Any) -> Tensor:
    if gain is None:
        return value
    return gain(value) if isinstance(gain, nn.Module) else value * gain


class Connections(nn.Module):
    """The connections of a chain by the name of their shortcut: what ``net.shortcuts`` gives.

    Those that hold modules or parameters are children, under the name with ``/`` for dots.
    """

    def __init__(self) -> None:
        super().__init__()
        self._by_label: dict[str, Connection] = {}

    def add(self, shortcut: Shortcut, connection: Connection) -> None:
        self._by_label[shortcut.label] = connection
        if connection.stateful:
            self._modules[shortcut.key] = connection
        else:
            self._modules.pop(shortcut.key, None)  # one before it may have had state

    def get(self, label: str) -> Connection | None:
        return self._by_label.get(label)

    def __getitem__(self, label: str) -> Connection:
        if label not in self._by_label:
            raise KeyError(f"there is no shortcut {label!r}: {nearest(label, self._by_label)}")
        return self._by_label[label]

    def __contains__(self, label: object) -> bool:
        return label in self._by_label

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_label)

    def __len__(self) -> int:
        return len(self._by_label)

    def items(self) -> ItemsView[str, Connection]:
        return self._by_label.items()


def hold(part: Callable[..., Any] | None) -> Any:
    """A callable as it is kept: modules and plain functions as they are, one that holds parameters wrapped."""
    if part is None or isinstance(part, nn.Module) or is_leaf(part) or type(part).__module__.startswith("skipway."):
        return part
    if getattr(part, "__module__", "") in ("skipway.merges.words", "skipway.functional"):
        return part  # nothing to look for in our own functions
    wrapped = Wrapped(part)
    return part if wrapped.stateless else wrapped
