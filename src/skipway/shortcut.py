"""One shortcut as data: which value goes where, and what happens on the way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

from torch import Tensor, nn

from .errors import ChainError, caller
from .gains import Drop, Gain, Learned, ShakeDrop, as_drop, as_scale
from .gains.base import is_number, no_schedule
from .merges import MERGES, Merge, Mul, as_merge
from .paths import PATHS, Path, Route, as_path
from .wrap import callable_code

End = int | str
Tap = Literal["state", "branch"]


@dataclass(frozen=True, eq=False)
class Shortcut:
    """A shortcut: frozen data, which a chain turns into arithmetic.

    The value at ``end`` becomes ``act(merge(drop(scale * branch), path_scale * path(value at start)))``, where the
    *branch* is what arrives at ``end`` along the chain. Several shortcuts into one value merge in wiring order, each
    onto the result so far: the result of the first is the branch of the second.

    Parameters
    ----------
    start, end:
        names of values. ``0`` or ``"input"`` is the chain's input, ``k`` the value after k layers (``-1`` the last
        one), a layer's name the value after that layer, ``"enc.down1"`` a value inside a nested chain, ``"output"`` the
        last value.
    merge:
        ``"add"``, ``"cat"``, ``"mean"``, ``"max"``, ``"mul"``, ``"sub"``, ``"replace"``, ``"gate"``, ``"weighted"``,
        a recipe from :mod:`skipway.merges`, or any callable or module of ``(branch, shortcut)``.
    path:
        ``"identity"``, ``"project"``, ``"pad"``, ``"crop"``, ``"resize"``, ``"detach"``, a recipe from
        :mod:`skipway.paths`, any callable or module, or a list of them, one after the other.
    act:
        applied to the merged value, such as :func:`relu` (the original ResNet, 1512.03385).
    scale, path_scale:
        what the branch, and what the shortcut brings, are multiplied by: a number, :class:`Learned` or another recipe
        from :mod:`skipway.gains`, or a module that is called on the value.
    drop:
        probability that the branch is dropped in training, or a :class:`Drop` that says mode and law, or a
        :class:`ShakeDrop`.
    tap:
        ``"state"`` for the value itself, ``"branch"`` for what arrived there before its own merges.
    name:
        by default ``"start->end"``.

    Raises
    ------
    ChainError
        for an unknown word, a scale or probability out of range, ends that are no names, or random drop where the
        shortcut brings nothing that would remain.

    >>> Shortcut("stem", "b", merge="cat")
    Shortcut('stem', 'b', merge='cat')
    >>> Shortcut(0, 2) == Shortcut(0, 2, merge="add")
    True
    """

    start: End
    end: End
    merge: str | Merge | type[Merge] | Callable[..., Tensor] = "add"
    path: str | Path | type[Path] | Callable[..., Tensor] | Sequence[Any] = "identity"
    act: Callable[..., Tensor] | None = None
    scale: float | Gain | type[Gain] | nn.Module | None = None
    path_scale: float | Gain | type[Gain] | nn.Module | None = None
    drop: float | Drop | ShakeDrop = 0.0
    tap: Tap = "state"
    name: str = ""
    source: str = field(default="", repr=False, compare=False, kw_only=True)

    def __post_init__(self) -> None:
        if not self.source:
            object.__setattr__(self, "source", caller())
        where = f"shortcut {self.start!r} -> {self.end!r} ({self.source})"
        for which, end in (("start", self.start), ("end", self.end)):
            if isinstance(end, bool) or not isinstance(end, (int, str)) or end == "":
                raise ChainError(f"{where}: the {which} is a number of layers or the name of a value, not {end!r}")
        try:
            as_merge(self.merge)
            path = as_path(self.path)
            if isinstance(path, Route):  # a list is no plain data: it could change, and has no hash
                object.__setattr__(self, "path", path)
            for part in ("scale", "path_scale"):
                if isinstance(as_scale(getattr(self, part)), float) and type(getattr(self, part)) is not int:
                    object.__setattr__(self, part, float(getattr(self, part)))  # also a number of numpy
            drop = as_drop(self.drop)
            if is_number(self.drop) and type(self.drop) is not int:
                object.__setattr__(self, "drop", float(self.drop))  # type: ignore[arg-type]
            no_schedule("drop", getattr(drop, "p", 0.0))
        except ChainError as error:
            raise ChainError(f"{where}: {error}") from None
        if self.act is not None and not callable(self.act):
            raise ChainError(f"{where}: act must be callable, such as relu, not {self.act!r}")
        if self.tap not in ("state", "branch"):
            raise ChainError(f'{where}: tap is "state" or "branch", not {self.tap!r}')
        product = isinstance(as_merge(self.merge), Mul)
        if drop.drops and (self.path_scale == 0 or product):
            raise ChainError(
                f"{where}: drop={self.drop} would drop the only path, since "
                + ("a dropped branch makes the product zero" if product else "path_scale=0")
                + ": leave drop out"
            )
        if not isinstance(self.name, str) or "." in self.name:
            raise ChainError(f"{where}: name= is a word without dots, not {self.name!r}")

    def _same(self) -> tuple[Any, ...]:
        """What it says, however it is written: ``"add"`` is ``Add()``."""
        recipes = (as_merge(self.merge), as_path(self.path), as_scale(self.scale), as_scale(self.path_scale))
        return (self.start, self.end, *recipes, as_drop(self.drop), self.act, self.tap, self.name)

    def __eq__(self, other: object) -> bool:
        return self._same() == other._same() if isinstance(other, Shortcut) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._same())

    @property
    def label(self) -> str:
        """The name it goes by: its own, or ``start->end``."""
        return self.name or f"{self.start}->{self.end}"

    @property
    def key(self) -> str:
        """Its name in ``net.shortcuts`` and in the state dict, where dots separate levels."""
        return self.label.replace(".", "/")

    def moved(self, start: End, end: End) -> Shortcut:
        """The same shortcut between other values. A name of its own is kept."""
        return replace(self, start=start, end=end)

    def __repr__(self) -> str:
        args = [repr(self.start), repr(self.end)]
        for f in fields(self)[2:]:
            value = getattr(self, f.name)
            if f.repr and value != f.default and value_code(value) != repr(f.default):
                args.append(f"{f.name}={value_code(value)}")
        return f"Shortcut({', '.join(args)})"


def value_code(value: Any) -> str:
    """Python for a field of a shortcut: words and recipes as they are, callables by name."""
    if isinstance(value, type) and issubclass(value, (Merge, Path, Gain)):
        value = value()
    if isinstance(value, Route):
        return f"[{', '.join(value_code(step) for step in value.steps)}]"
    if isinstance(value, (Merge, Path)):
        word = next((word for word, recipe in (*MERGES.items(), *PATHS.items()) if recipe == value), None)
        if word is not None:
            return repr(word)
    if isinstance(value, (Merge, Path, Drop, ShakeDrop, Gain)):
        held = [(f.name, getattr(value, f.name), f.default) for f in fields(value)]
        if isinstance(value, Learned):  # ReZero and LayerScale differ in what they begin with: always said
            held = [("", value.init, None), *held[1:]]
        shown = [f"{name}={value_code(v)}".lstrip("=") for name, v, default in held if v != default]
        return f"{type(value).__name__}({', '.join(shown)})"
    if isinstance(value, (str, int, float)) or value is None:
        return repr(value)
    if isinstance(value, nn.Module):
        from .render.source import layer_code  # a chain as a path prints as a chain

        return layer_code(value)
    return callable_code(value)
