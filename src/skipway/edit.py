"""Chains made from chains: slices, other wirings, one layer more or another one. Layers that stay are shared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import nn

from .connection import Connection
from .errors import ChainError, nearest
from .graph import Graph
from .parallel import Parallel
from .shortcut import Shortcut
from .spine import Spine
from .value import Value
from .wiring import Wiring, resolve

if TYPE_CHECKING:
    from .chain import Chain

Items = list[tuple[str | None, nn.Module]]


def assemble(items: Items, wiring: Wiring, like: nn.Module, value: Value, kept: Mapping[str, Connection]) -> Chain:
    """A chain of modules that exist, with the connections that stay, in the mode of what they came from."""
    from .chain import Chain

    made = Chain.__new__(Chain)
    Spine.__init__(made, (), {})
    made.training = like.training
    for name, module in items:
        made._place(name, module)
    foreign = set(like.modules())
    plan = made._begin(wiring, value, kept, remake=True)
    while plan.misfits:
        # written `...`, so another width is no mistake; the chain it came from keeps its own
        ours = [(owner, key) for owner, key in plan.misfits if owner not in foreign]
        for owner, key in ours:
            owner._modules[key] = owner._modules[key].reopened()
        if not ours:
            break
        plan = made._begin(wiring, value, kept, remake=True)
    plan.check()
    return made


def nested(chain: Any, prefix: str = "") -> list[str]:
    """Dotted names of all chains inside a chain."""
    found = []
    for key in chain._keys:
        layer = chain._modules[key]
        if hasattr(layer, "wiring"):
            found += [prefix + key, *nested(layer, f"{prefix}{key}.")]
    return found


def _items(chain: Chain) -> Items:
    return list(zip(chain._names, chain.modules_in_order, strict=True))


def _kept(chain: Chain, pairs: list[tuple[Shortcut, Shortcut]]) -> dict[str, Connection]:
    """The connections of shortcuts that stay, under their new names."""
    held = chain._connections
    return {new.label: held[old.label] for old, new in pairs if old.label in held}


def rewire(chain: Chain, wiring: Wiring) -> Chain:
    shortcuts = resolve(wiring, len(chain))
    kept = _kept(chain, [(old, s) for s in shortcuts for old in chain.wiring if s is old or s == old])
    return assemble(_items(chain), wiring, chain, chain._form.value, kept)


def without(chain: Chain, *which: str | Shortcut) -> Chain:
    inner: dict[str, list[str]] = {}
    gone = []
    for item in which:
        match = [s for s in chain.wiring if s == item or s.label == item]
        head = str(item).partition(".")[0]
        if match:
            gone += match
        elif isinstance(item, str) and "." in item and head in chain._keys and hasattr(chain._modules[head], "wiring"):
            inner.setdefault(head, []).append(item.partition(".")[2])
        else:
            raise ChainError(f"there is no shortcut {item!r} ({chain.source}): {nearest(str(item), labels(chain))}")
    items: Items = [
        (name, without(module, *inner[key]) if key in inner else module)  # type: ignore[arg-type]
        for key, (name, module) in zip(chain._keys, _items(chain), strict=True)
    ]
    items, pairs = _stripped(chain, gone, items)
    return assemble(items, [new for _, new in pairs], chain, chain._form.value, _kept(chain, pairs))


def _stripped(chain: Chain, gone: list[Shortcut], items: Items) -> tuple[Items, list[tuple[Shortcut, Shortcut]]]:
    """The layers and shortcuts that remain. The activation after a merge remains too, as a layer ``act_<name>``.

    Without it the control would lose non-linearities along with the shortcut (the plain nets of 1512.03385 keep them).
    """
    stay = [s for s in chain.wiring if not any(s is g for g in gone)]
    acts: dict[int, list[Shortcut]] = {}
    acting = _acting(chain, gone)
    for shortcut in gone:
        at = _place_of(chain, shortcut.end)
        if shortcut.act is not None and at is not None and id(shortcut) in acting:
            acts.setdefault(at, []).append(shortcut)
    if not acts:
        return items, [(s, s) for s in stay]
    order = {id(s): i for i, s in enumerate(chain.wiring)}

    def name(at: int, count: int) -> str:
        key = chain._keys[at - 1]
        return key if not count else f"act_{key}" + (f"_{count}" if count > 1 else "")

    def moved(end: int | str, count: int) -> int | str:
        at = _place_of(chain, end)
        if at is None:
            return end
        if isinstance(end, int) or end == "output":
            return at + count + sum(len(found) for u, found in acts.items() if u < at)
        return name(at, count) if count else end

    made: Items = []
    for i, (key, (_, module)) in enumerate(zip(chain._keys, items, strict=True), 1):
        made.append((key, module))
        for k, shortcut in enumerate(acts.get(i, ()), 1):
            made.append((name(i, k), chain._connections[shortcut.label].act))
    pairs = []
    for s in stay:
        start, end = _place_of(chain, s.start), _place_of(chain, s.end)
        after = len(acts.get(start, ())) if start is not None and s.tap == "state" else 0
        onto = sum(order[id(g)] < order[id(s)] for g in acts.get(end, ())) if end is not None else 0
        pairs.append((s, s.moved(moved(s.start, after), moved(s.end, onto))))
    return made, pairs


def _acting(chain: Chain, gone: list[Shortcut]) -> set[int]:
    """Of the shortcuts that go, those whose activation nothing else applies.

    Where several merge at once the activation comes once, after all of them: it stays theirs while one of them stays.
    """
    left = {id(s) for s in gone}
    meetings = [[edge.shortcut for edge in edges] for node in Graph(chain).nodes for edges in node.meetings]
    return {id(held[0]) for held in meetings if all(id(s) in left for s in held)}


def _place_of(chain: Chain, end: int | str) -> int | None:
    """The position of a value of this very chain; ``None`` for one inside a nested chain."""
    if isinstance(end, int):
        return end % (len(chain) + 1)
    if end in ("input", "output"):
        return 0 if end == "input" else len(chain)
    return chain._keys.index(end) + 1 if end in chain._keys else None


def labels(chain: Any, prefix: str = "") -> list[str]:
    """The names of all shortcuts, those in nested chains after their place."""
    found = [f"{prefix}{s.label}" for s in chain.wiring]
    for key in chain._keys:
        if hasattr(chain._modules[key], "wiring"):
            found += labels(chain._modules[key], f"{prefix}{key}.")
    return found


def _twin(module: nn.Module) -> nn.Module:
    """A layer without the shortcuts inside it."""
    if hasattr(module, "wiring"):
        return plain(module)  # type: ignore[arg-type]
    if isinstance(module, Parallel):
        return module.with_branches([_twin(branch) for branch in module.branches])
    return module


def plain(chain: Chain) -> Chain:
    items: Items = [(n, _twin(m)) for n, m in _items(chain)]
    items, _ = _stripped(chain, list(chain.wiring), items)
    return assemble(items, (), chain, chain._form.value, {})


def _moved(chain: Chain, shift: Any) -> list[tuple[Shortcut, Shortcut]]:
    """Shortcuts with their positions shifted; names and dotted names stay."""

    def end(e: int | str) -> int | str:
        return shift(e % (len(chain) + 1)) if isinstance(e, int) else e

    return [(s, s.moved(end(s.start), end(s.end))) for s in chain.wiring]


def insert(chain: Chain, before: int | str, layer: Any, name: str | None) -> Chain:
    at = len(chain) if before == len(chain) else chain._index(before)
    items = _items(chain)
    last = len(chain)
    pairs = _moved(chain, lambda k: k + (k > at))
    if at == last:  # what was the output is the value before the new layer now
        pairs = [(s, new.moved(new.start, last if new.end == "output" else new.end)) for s, new in pairs]
    pairs = [(old, _renumbered(chain, new, lambda i: i + (i >= at))) for old, new in pairs]
    items.insert(at, (name, _in_mode_of(chain, layer)))
    return assemble(items, [new for _, new in pairs], chain, chain._form.value, _kept(chain, pairs))


def _renumbered(chain: Chain, shortcut: Shortcut, shift: Any) -> Shortcut:
    """Ends that name a layer by its number, such as ``"3"`` or ``"3.conv"``, follow it to its new number."""

    def end(e: int | str) -> int | str:
        if not isinstance(e, str):
            return e
        head, dot, rest = e.partition(".")
        unnamed = head in chain._keys and chain._names[chain._keys.index(head)] is None
        return f"{shift(int(head))}{dot}{rest}" if unnamed else e

    return shortcut.moved(end(shortcut.start), end(shortcut.end))


def _in_mode_of(chain: Chain, layer: Any) -> Any:
    return layer.train(chain.training) if isinstance(layer, nn.Module) else layer


def replace_layer(chain: Chain, which: int | str, layer: Any) -> Chain:
    at = chain._index(which)
    items = _items(chain)
    items[at] = (items[at][0], _in_mode_of(chain, layer))
    return assemble(items, chain.wiring, chain, chain._form.value, _kept(chain, [(s, s) for s in chain.wiring]))


def cut(chain: Chain, which: slice) -> Chain:
    """Layers ``lo`` to ``hi``; an error where that would cut a shortcut."""
    if which.step not in (None, 1):
        raise ChainError("a slice of a chain takes no step: its layers follow each other")
    bounds = [chain._index(b) if isinstance(b, str) else b for b in (which.start, which.stop)]
    lo, hi, _ = slice(*bounds).indices(len(chain))
    hi = max(lo, hi)
    graph = Graph(chain)
    # the position of the spine a value belongs to: one inside a nested chain lies strictly between two
    place = {0: 0.0}
    k = 0
    for node in graph.nodes[1:]:
        k += not node.where
        place[node.index] = float(k) if not node.where else k + 0.5
    stay, broken = [], []
    for edge in (e for n in graph.nodes for e in n.edges if not e.where):
        start, end = place[edge.start], place[edge.end]
        starts = lo <= start < hi and not (start == lo and lo and edge.shortcut.tap == "branch")
        if starts and end <= hi:
            stay.append(edge.shortcut)
        elif (lo < end <= hi and not starts) or (lo < start < hi and end > hi):
            broken.append(edge.shortcut)
    if broken:
        listed = ", ".join(f"{s.label!r} ({s.source})" for s in broken)
        raise ChainError(
            f"the slice [{lo}:{hi}] would cut the shortcut{'s' * (len(broken) > 1)} {listed}: take both ends with it, "
            f"or leave them out first with net.without(...)"
        )
    pairs = [(s, new) for s, new in _moved(chain, lambda k: k - lo) if s in stay]
    pairs = [(s, _renumbered(chain, _ends(chain, new, lo, hi), lambda i: i - lo)) for s, new in pairs]
    form = next(n.form for n in chain.plan.nodes if not n.where and _at(chain, n.name) == lo)
    kept = _kept(chain, pairs)
    return assemble(_items(chain)[lo:hi], [new for _, new in pairs], chain, form.value, kept)


def _at(chain: Chain, name: str) -> int:
    return 0 if name == "input" else chain._keys.index(name) + 1


def _ends(chain: Chain, shortcut: Shortcut, lo: int, hi: int) -> Shortcut:
    """The name of the slice's first value is its ``input`` now."""
    before = chain._keys[lo - 1] if lo else "input"
    start = "input" if shortcut.start == before else shortcut.start
    if shortcut.start == "input" and lo:
        start = 0
    return shortcut.moved(start, shortcut.end)
