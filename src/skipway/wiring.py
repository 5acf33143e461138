"""Wirings: which shortcuts run over a chain, as data separate from its layers.

A wiring is a list of :class:`Shortcut`, or a *pattern*: a function of the chain's length that returns one. Patterns
pass ``merge=``, ``path=`` and the rest on to their shortcuts, and wirings add::

    every(1) + every(4) + [Shortcut(0, 12)]

Write your own as a plain function ``n -> list of Shortcut``.
"""

from __future__ import annotations

import ast
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from .errors import ChainError, SkipwayError, caller, nearest
from .gains import at_depth, is_schedule
from .gains.base import is_number
from .graph import holds_state
from .layer import is_tied
from .merges import Cat, Merge, as_merge
from .shortcut import Shortcut, value_code

#: options of a shortcut that may be functions of depth
_GAINS = ("scale", "path_scale", "drop")

PatternFn = Callable[[int], Sequence[Shortcut]]
Wiring = Iterable[Shortcut] | PatternFn
#: where shortcuts start and end, perhaps with options of their own; as an array where there may be half a million
Ends = Iterable[tuple[Any, ...]] | NDArray[np.int64]


class Pattern:
    """A function of the chain's length that returns shortcuts, and that prints and adds.

    >>> every(2)(6)
    [Shortcut(0, 2), Shortcut(2, 4), Shortcut(4, 6)]
    >>> every(3) + [Shortcut(0, 6)]
    every(3) + [Shortcut(0, 6)]
    """

    def __init__(self, call: str, ends: Callable[[int], Ends], options: dict[str, Any]) -> None:
        self.call, self.ends, self.opts, self.source = call, ends, options, caller()
        for key, value in options.items():
            for module in value if isinstance(value, (list, tuple)) else (value,):
                if not isinstance(module, nn.Module) or not holds_state(module) or is_tied(module):
                    continue
                raise ChainError(
                    f"{self!r} ({self.source}) would share the weights of one {type(module).__name__} among all its "
                    f"shortcuts: list them, [Shortcut(i, i + 1, {key}=...) for i in range(n)], with a new module for "
                    f"each, use a recipe such as Project(), or share on purpose with tie(...)"
                )
        known = [f.name for f in fields(Shortcut)[2:] if f.name not in ("name", "source")]
        for key in options:
            if key not in known:
                name = call.split("(")[0]
                raise ChainError(f"{name}: shortcuts have no option {key!r} ({self.source}): {nearest(key, known)}")
        # a misspelt option fails here, where it was written; a schedule over depth, when it is asked
        Shortcut(0, 1, **{k: v for k, v in options.items() if not self._over_depth(k, v)}, source=self.source)

    def __call__(self, n: int) -> list[Shortcut]:
        ends = self.ends(n)
        ends = ends.tolist() if isinstance(ends, np.ndarray) else list(ends)
        depths = {b: depth for depth, b in enumerate(sorted({b for _, b, *_ in ends}), 1)}
        made = []
        for a, b, *own in ends:
            options = {**self._options(depths[b], len(depths)), **(own[0] if own else {})}
            made.append(Shortcut(a, b, **options, source=self.source))
        if not made:
            raise ChainError(f"{self!r} ({self.source}) makes no shortcut over a chain of {n} layer{'s' * (n != 1)}")
        return made

    @staticmethod
    def _over_depth(key: str, value: Any) -> bool:
        """Whether an option may differ from shortcut to shortcut: a gain that is, or holds, a function of (l, L)."""
        recipe = is_dataclass(value) and not isinstance(value, type)
        inside = [getattr(value, f.name) for f in fields(value)] if recipe else []
        return key in _GAINS and any(is_schedule(v) for v in (value, *inside))

    def _options(self, depth: int, of: int) -> dict[str, Any]:
        """The options of the shortcuts into the ``depth``-th of ``of`` values where shortcuts of this pattern end."""
        found = dict(self.opts)
        for key, value in self.opts.items():
            if self._over_depth(key, value):
                try:
                    found[key] = at_depth(value, depth, of)
                except SkipwayError as error:
                    raise ChainError(f"{self!r} ({self.source}): {error}") from None
                except Exception as error:
                    raise ChainError(
                        f"{self!r} ({self.source}): {key}= is a function of depth, and fails for "
                        f"(l, L) = ({depth}, {of}): {type(error).__name__}: {error}"
                    ) from error
        return found

    def __add__(self, other: Wiring) -> Wirings:
        return Wirings([self, other])

    def __radd__(self, other: Wiring) -> Wirings:
        return Wirings([other, self])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Pattern) and (self.call, self.opts) == (other.call, other.opts)

    def __hash__(self) -> int:
        return hash(self.call)

    def __reduce__(self) -> tuple[Any, ...]:
        return _again, (self.call, self.opts)

    def __repr__(self) -> str:
        name, given = self.call.rstrip(")").split("(")
        args = [given] * bool(given) + [f"{k}={value_code(v)}" for k, v in self.opts.items()]
        return f"{name}({', '.join(args)})"


def _again(call: str, options: dict[str, Any]) -> Pattern:
    """A pattern from how it prints: how it is copied and pickled."""
    made: Any = ast.parse(call, mode="eval").body
    make = next(p for p in PATTERNS if p.__name__ == made.func.id)
    given = {word.arg: ast.literal_eval(word.value) for word in made.keywords}
    return make(*map(ast.literal_eval, made.args), **given, **options)


class Wirings:
    """Several wirings as one, in order."""

    def __init__(self, parts: Iterable[Wiring]) -> None:
        self.parts: list[Wiring] = []
        for part in parts:
            if not callable(part) and not isinstance(part, Iterable):
                raise ChainError(f"a wiring adds to patterns and lists of Shortcut, not to {part!r} ({caller()})")
            self.parts += part.parts if isinstance(part, Wirings) else [part if callable(part) else list(part)]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Wirings) and self.parts == other.parts

    def __hash__(self) -> int:
        return hash(len(self.parts))

    def __call__(self, n: int) -> list[Shortcut]:
        return [s for part in self.parts for s in resolve(part, n)]

    def __add__(self, other: Wiring) -> Wirings:
        return Wirings([self, other])

    def __radd__(self, other: Wiring) -> Wirings:
        return Wirings([other, self])

    def __repr__(self) -> str:
        return " + ".join(value_code(p) if callable(p) and not isinstance(p, Pattern) else repr(p) for p in self.parts)


def resolve(wiring: Any, n: int) -> list[Shortcut]:
    """The shortcuts of a wiring over a chain of ``n`` layers.

    Raises ``ChainError`` for what is neither a pattern nor a list of :class:`Shortcut`.
    """
    if wiring is None:
        return []
    if isinstance(wiring, (str, Shortcut)):
        fix = "a list: wiring=[Shortcut(...)]" if isinstance(wiring, Shortcut) else f"a pattern: {wiring}(...)"
        raise ChainError(
            f"wiring= takes a pattern such as every(1), or a list of Shortcut, not {wiring!r}: write {fix}"
        )
    if callable(wiring) and wiring in PATTERNS:
        raise ChainError(
            f"wiring= takes a pattern for this chain, and {wiring.__name__} makes one: {wiring.__name__}()"
        )
    try:
        made = list(wiring(n) if callable(wiring) else wiring)
    except TypeError as error:
        raise ChainError(
            f"wiring= takes a pattern such as every(1), or a list of Shortcut, not {wiring!r}: {error}"
        ) from None
    for item in made:
        if not isinstance(item, Shortcut):
            raise ChainError(f"a wiring holds Shortcut(start, end), not {item!r}")
    return made


def _positive(name: str, k: Any) -> int:
    if isinstance(k, bool) or not isinstance(k, int) or k < 1:
        raise ChainError(f"{name}(k) takes a positive whole number of layers, not {k!r} ({caller()})")
    return k


def every(k: int = 1, **options: Any) -> Pattern:
    """A shortcut around every k layers: 0 to k, k to 2k, ... Layers left over at the end get none.

    >>> every(2, merge="cat")(5)
    [Shortcut(0, 2, merge='cat'), Shortcut(2, 4, merge='cat')]
    """
    _positive("every", k)
    return Pattern(f"every({k})", lambda n: [(i, i + k) for i in range(0, n - k + 1, k)], options)


def sliding(k: int = 2, **options: Any) -> Pattern:
    """A shortcut over every run of k layers: 0 to k, 1 to k + 1, ... They overlap.

    >>> sliding(2)(4)
    [Shortcut(0, 2), Shortcut(1, 3), Shortcut(2, 4)]
    """
    _positive("sliding", k)
    return Pattern(f"sliding({k})", lambda n: [(i, i + k) for i in range(n - k + 1)], options)


def _reads(distances: Callable[[int], Iterable[int]], merge: Any) -> Callable[[int], NDArray[np.int64]]:
    """Ends of shortcuts that let layer ``b`` read the layers ``b - d``, for every distance but 1 (the chain itself).

    When values add, what layer b puts out is merged with what layer b - d put out. When they are concatenated, layer b
    *reads* the earlier ones, so they join the value before it; the last value gets them too. A merge that weighs all
    values that meet takes in the one before the layer as well.
    """
    joint = _joint(merge)
    cat = not joint and (merge == "cat" or isinstance(merge, Cat))
    # each goes before what is there already, so that the features lie in the order in which they were made
    far_first = not (cat and isinstance(merge, Cat) and merge.first == "shortcut")

    def ends(n: int) -> NDArray[np.int64]:
        found = [np.empty((0, 2), np.int64)]
        for b in range(1, n + 1 + cat):
            far = np.fromiter(distances(b), np.int64)
            far = np.append(far, 1) if joint else far[far > 1]
            starts = np.unique(b - far)[:: 1 if far_first else -1]
            found.append(np.stack([starts, np.full_like(starts, b - cat)], axis=1))
        return np.concatenate(found)

    return ends


def _tapped(options: dict[str, Any]) -> dict[str, Any]:
    # concatenating or weighing states that are made of all before them would bring every feature again and again
    merge = options.get("merge")
    return {"tap": "branch", **options} if merge == "cat" or isinstance(merge, Cat) or _joint(merge) else options


def _joint(merge: Any) -> bool:
    recipe = as_merge(merge) if isinstance(merge, (str, Merge, type)) else None
    return isinstance(recipe, Merge) and recipe.joint


def dense(**options: Any) -> Pattern:
    """Every earlier value into every later one.

    With ``merge="cat"`` it is DenseNet (1608.06993): every layer reads all that was made before it, once
    (``tap="branch"``), and so does what follows the chain; with ``merge=Cat(first="shortcut")`` in the order in which
    it was made. With ``merge=Weighted()`` it is DenseFormer (2402.02622):
    every value is a weighted sum of all that the layers made.

    >>> dense()(3)
    [Shortcut(0, 2), Shortcut(0, 3), Shortcut(1, 3)]
    """
    return Pattern("dense()", _reads(lambda b: range(2, b + 1), options.get("merge")), _tapped(options))


def log2(**options: Any) -> Pattern:
    """Each value from those 2, 4, 8, ... layers before: O(n log n) shortcuts (LogDenseNet, 1711.00002).

    >>> log2()(4)
    [Shortcut(0, 2), Shortcut(1, 3), Shortcut(0, 4), Shortcut(2, 4)]
    """

    def powers(b: int) -> list[int]:
        return [1 << k for k in range(1, b.bit_length()) if 1 << k <= b]

    return Pattern("log2()", _reads(powers, options.get("merge")), _tapped(options))


def unet(**options: Any) -> Pattern:
    """From the way down to the way up: i to n - i (1505.04597).

    >>> unet()(6)
    [Shortcut(0, 6), Shortcut(1, 5), Shortcut(2, 4)]
    """
    return Pattern("unet()", lambda n: [(i, n - i) for i in range((n + 1) // 2)], options)


def from_input(*, output: bool = True, **options: Any) -> Pattern:
    """The chain's input into every later value, as input-convex nets and DeepSDF have it.

    ``output=False`` leaves out the last value, so that the net keeps its out width with ``merge="cat"``.

    >>> from_input(merge="cat", output=False)(3)
    [Shortcut(0, 1, merge='cat'), Shortcut(0, 2, merge='cat')]
    """
    call = "from_input()" if output else "from_input(output=False)"
    return Pattern(call, lambda n: [(0, b) for b in range(1, n + bool(output))], options)


def cross(**options: Any) -> Pattern:
    """``x0 * layer(x) + x`` after every layer: Deep & Cross (2008.13535). Every layer keeps the width of the input.

    >>> cross()(2)
    [Shortcut('input', 1, merge='mul'), Shortcut(0, 1), Shortcut('input', 2, merge='mul'), Shortcut(1, 2)]
    """

    def ends(n: int) -> Iterator[tuple[Any, ...]]:
        for k in range(1, n + 1):
            yield "input", k, {"merge": "mul"}
            yield k - 1, k

    return Pattern("cross()", ends, options)


def random_shortcuts(density: float = 0.25, seed: int = 0, **options: Any) -> Pattern:
    """A share of the shortcuts of :func:`dense`, drawn at random: always the same ones for a seed and a length.

    ``density`` is the share, above 0 and up to 1; at least one shortcut is drawn. Randomly wired nets are a control for
    any wiring that is thought out (1904.01569).

    >>> random_shortcuts(density=0.5, seed=1)(4)
    [Shortcut(0, 2), Shortcut(0, 4), Shortcut(2, 4)]
    """
    if not is_number(density) or not 0 < density <= 1:
        raise ChainError(f"random_shortcuts: density is a share, above 0 and up to 1, not {density!r} ({caller()})")
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise ChainError(f"random_shortcuts: seed is a whole number of at least 0, not {seed!r} ({caller()})")
    possible = _reads(lambda b: range(2, b + 1), options.get("merge"))

    def ends(n: int) -> NDArray[np.int64]:
        # sorted by a draw each: only random() itself is promised to draw the same in every version of Python
        draw, found = random.Random(seed), possible(n)
        drawn = np.fromiter((draw.random() for _ in found), np.float64, len(found)).argsort(kind="stable")
        return found[np.sort(drawn[: max(1, round(density * len(found)))])]

    return Pattern(f"random_shortcuts(density={density!r}, seed={seed})", ends, _tapped(options))


PATTERNS: tuple[Callable[..., Pattern], ...] = (every, sliding, dense, log2, unet, from_input, cross, random_shortcuts)
