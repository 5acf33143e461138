"""The rules of folding. Each looks at the last steps of a row, and makes less of them where that computes the same.

Steps are laid down one after the other; after each, the rules are tried until none applies. What a rule cannot do it
leaves a reason for (``why``), which becomes a refusal of the report if the step is still there in the end.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from skipway.merges import Add, Mean, Sub
from skipway.words import describe_layer

from .kernels import Affine, Inexact, Kernel, Linear, then, total
from .layers import (
    as_act,
    constant,
    homogeneous,
    is_flatten,
    is_global,
    is_max,
    is_mean,
    is_norm,
    left_alone,
    own_act,
    parametrized,
    read,
    shares,
)
from .moves import across, earlier
from .report import Notes
from .row import Join, Row, Step, describe


def reduce(row: Row, notes: Notes) -> Row:
    """A row that computes the same in eval mode, with fewer steps and shortcuts. The steps are changed."""
    done = row[:1]
    for step in row[1:]:
        _prepare(step, notes)
        done.append(step)
        while len(done) > 1 and any(rule(done, notes) for rule in RULES):
            pass
    return done


def _prepare(step: Step, notes: Notes) -> None:
    """Read the numbers of a step, and reduce what is inside it and along its shortcuts."""
    layer = step.layer
    if step.rows is not None:
        _side_by_side(step, notes)
    elif layer is None:
        step.linear = Affine.number(1.0)
    else:
        shape = step.before.shape
        width = shape[-step.rank] if shape and step.rank else None
        step.linear, step.act = read(layer, step.rank, width), own_act(layer)
        if parametrized(layer) and step.linear is not None:
            step.changed = True
            notes.fold("computed weights are stored", step.name, describe_layer(layer))
        alone = left_alone(layer)
        if alone:
            step.why["alone"] = alone
    for join in step.ends:
        join.row = reduce(join.row, notes)
    for join in list(step.ends):
        if join is join.group[0]:
            _opened(join.group, notes)


def _side_by_side(step: Step, notes: Notes) -> None:
    """Branches over one input: those that are linear become one, where the merge adds them up."""
    layer: Any = step.layer
    rows = step.rows = [reduce(row, notes) for row in step.rows or ()]
    weights = shares(layer._recipe, layer.merge, len(rows))
    try:
        if weights is None:
            raise Inexact("their merge is not a sum")
        parts = [as_linear(row) for row in rows]
        if None not in parts:
            gains = map(Affine.number, weights)
            step.linear = total([then(part, gain) for part, gain in zip(parts, gains, strict=True) if part is not None])
            step.rows, step.changed = None, True
        else:
            _weighted_branches(step, weights, notes)
            found = [i for i, row in enumerate(rows) if as_linear(row) is not None]
            if len(found) < 2:
                raise Inexact("no two of them are linear")
            one = total([part for part in map(as_linear, rows) if part is not None])
            merged = Step(f"{step.name}.{found[0]}", linear=one, changed=True)
            step.rows = [[rows[0][0], merged], *[row for i, row in enumerate(rows) if i not in found]]
    except Inexact as why:
        step.why["branches"] = str(why)
    else:
        notes.fold("branches side by side into one layer", step.name, f"{len(rows)} branches")


def _weighted_branches(step: Step, weights: list[float], notes: Notes) -> None:
    """A weighted sum of branches becomes a plain one: the weights go into the last layer of each."""
    if set(weights) == {1.0}:
        return
    gains = [Affine.number(weight) for weight in weights]
    pairs = list(zip(map(_scaled, step.rows or (), gains), gains, strict=True))  # all of them, or none
    for last, gain in pairs:
        assert last.linear is not None
        last.linear, last.changed = then(last.linear, gain), True
    step.summed = True
    notes.fold("weights of a merge into the layers before it", step.name, f"{len(weights)} branches")


def _opened(group: list[Join], notes: Notes) -> None:
    """A weighted sum of a branch and what shortcuts bring becomes additions, and its weights become scales."""
    head = group[0]
    if type(head.merge) in (Add, Mean, Sub):
        return
    weights = shares(head.merge, head.connection.merge, 1 + len(group))
    gains = [gain_of(1.0 if g is None else g) for g in (head.scale, *(join.path_scale for join in group))]
    keep = 1.0 if head.drop is None else constant(head.drop)
    if weights is None or keep is None or None in gains:
        return
    scales = [
        then(gain, Affine.number(weight)) for gain, weight in zip(gains, weights, strict=True) if gain is not None
    ]
    scales[0] = then(scales[0], Affine.number(keep))
    act = head.act
    for join, scale in zip(group, scales[1:], strict=True):
        join.scale = join.drop = join.act = None
        join.merge, join.path_scale, join.rewritten, join.group = Add(), scale, True, [join]
    head.scale, group[-1].act = scales[0], act
    for join in group:
        join.scale, join.path_scale = _unless_one(join.scale), _unless_one(join.path_scale)
    notes.fold("weights of a merge become scales", head.name, describe_layer(head.connection.merge))


def _unless_one(gain: Affine | None) -> Affine | None:
    return None if gain is None or gain.nothing else gain


def as_linear(row: Row) -> Linear | None:
    """A whole row as numbers, where it is one linear layer, or nothing at all."""
    if len(row) == 1:
        return Affine.number(1.0)
    step = row[1]
    return step.linear if len(row) == 2 and not step.act and not step.ends and not row[0].leaves else None


# -- rules: each changes the end of a row, or says False ---------------------------------------------------------------


def away(done: Row, notes: Notes) -> bool:
    """What does nothing in eval mode is taken away: dropout, the identity, the end of a nested chain."""
    step, before = done[-1], done[-2]
    if not (isinstance(step.linear, Affine) and step.linear.nothing) or step.act is not None:
        return False
    if step.ends:
        around = before is done[0] or any(j.start is before for j in step.ends)
        apart = bool(before.ends) and bool(before.read_as("state") or step.read_as("branch"))
        apart |= bool(before.ends) and any(map(_joint, (*before.ends, *step.ends)))
        # into one value, those of inner chains merge first
        apart |= bool(before.ends) and len(before.ends[-1].owner) < len(step.ends[0].owner)
        if around or apart:  # two values that are told apart need two places
            return False
        branches = [*(step.read_as("branch")), *(() if before.ends else before.leaves)]
        if any(not j.sees(before.place) for j in branches):
            return False
        for join in branches:
            join.tap = "branch"
    for join in list(step.leaves):
        join.start_from(before, join.tap if step.ends else "state")
    for join in list(step.ends):
        join.end_at(before)
    done.pop()
    if step.layer is not None:
        notes.fold("nothing to do in eval mode", step.name, describe_layer(step.layer))
    return True


def _joint(join: Join) -> bool:
    """Whether a shortcut would merge at once with others like it beside it."""
    return bool(getattr(join.merge, "joint", False))


def weigh(done: Row, notes: Notes) -> bool:
    """Scales of branch and shortcut, and the test law of random drops, go into the linear layers before them."""
    changed = False
    for place, join in enumerate(done[-1].ends):
        if len(join.group) == 1:  # else they say which shortcuts merge at once
            changed |= _drop_law(join, notes)
        for part in ("scale", "path_scale"):
            gain = gain_of(getattr(join, part))
            if gain is None:
                continue
            try:
                if part == "scale" and (place or len(join.group) > 1):
                    raise Inexact("its branch is the result of another merge")
                step = _scaled(join.row, gain) if part == "path_scale" else _scaled(done, gain, branch=True)
                assert step.linear is not None
                step.linear, step.changed = then(step.linear, gain), True
            except Inexact as why:
                join.why[part] = str(why)
                continue
            setattr(join, part, None)
            notes.fold("scale into the layer before it", join.name, part)
            changed = True
    return changed


def _drop_law(join: Join, notes: Notes) -> bool:
    """A random drop becomes what it is in eval mode: nothing, or a constant."""
    keep = None if join.drop is None else constant(join.drop)
    gain = Affine.number(1.0) if join.scale is None else gain_of(join.scale)
    if keep is None or gain is None:
        return False
    join.drop = None
    if keep != 1.0:
        join.scale = then(gain, Affine.number(keep))
    notes.fold("random drop becomes its test law", join.name, f"times {keep:g}")
    return True


def gain_of(scale: Any) -> Affine | None:
    """A scale as numbers; ``None`` for none, and for a module that looks at the value."""
    if scale is None or isinstance(scale, Affine):
        return scale
    if isinstance(scale, (int, float)):
        return Affine.number(float(scale))
    if isinstance(scale, nn.Parameter):
        exact = scale.detach().to("cpu", torch.float64)
        zero = torch.zeros((), dtype=torch.float64)
        return Affine(exact.flatten(), zero, -exact.dim()) if exact.dim() else Affine(exact, zero)
    factor = constant(scale)
    return None if factor is None else Affine.number(factor)


def _scaled(row: Row, gain: Affine, branch: bool = False) -> Step:
    """The linear layer that a gain on the last value of a row can go into; :class:`Inexact` where there is none.

    With ``branch`` it is the value before the shortcuts that end there merge.
    """
    positive = bool((gain.scale >= 0).all())
    for i in range(len(row) - 1, 0, -1):
        step = row[i]
        last = i == len(row) - 1
        if step.read_as("branch") if last and branch else not step.only_next:
            raise Inexact("what it scales is read elsewhere too, without it")
        if step.linear is not None and (step.act is None or (positive and homogeneous(step.act))):
            return step
        through = positive and (homogeneous(as_act(step.layer)) or is_max(step.layer))
        through |= is_mean(step.layer) and (gain.axis is None or not is_global(step.layer))
        through |= is_flatten(step.layer) and gain.axis is None
        if not through or step.linear is not None:
            if homogeneous(step.act or as_act(step.layer)):
                raise Inexact("it is negative, and an activation stands between it and a linear layer")
            raise Inexact("what it scales is not made by a linear layer")
    raise Inexact("no linear layer comes before it")


def absorb(done: Row, notes: Notes) -> bool:
    """A shortcut around one linear layer becomes part of it."""
    step, before = done[-1], done[-2]
    if not step.ends or step.linear is None:
        return False
    join = step.ends[0]
    if join.start is not before or (join.tap == "branch" and before.ends):
        return False
    try:
        step.linear = _absorbed(step, join)
    except Inexact as why:
        join.why["around"] = str(why)
        return False
    step.act, step.changed = join.act, True
    join.remove()
    notes.fold("shortcut around a linear layer into it", join.name, describe(step))
    return True


def _absorbed(step: Step, join: Join) -> Linear:
    weights = shares(join.merge, join.connection.merge, 2)
    brought = as_linear(join.row)
    if weights is None or len(join.group) > 1:
        raise Inexact("its merge is not a plain sum")
    if step.act is not None:
        raise Inexact("an activation is inside it")
    if step.read_as("branch"):
        raise Inexact("its branch is read elsewhere too")
    if join.scale is not None or join.drop is not None:
        raise Inexact(f"its {'drop' if join.drop is not None else 'scale'} is no constant")
    if brought is None:
        raise Inexact("its path is not one linear layer")
    if join.path_scale is not None:
        gain = gain_of(join.path_scale)
        if gain is None:
            raise Inexact("its path_scale is no constant")
        brought = then(brought, gain)
    assert step.linear is not None
    parts = [then(part, Affine.number(w)) for part, w in zip((step.linear, brought), weights, strict=True)]
    made = total(parts)
    if isinstance(made, Affine) and join.act is not None:
        raise Inexact("its activation would stand alone")
    return made


def unite(done: Row, notes: Notes) -> bool:
    """Two linear layers one after the other become one."""
    first, second = done[-2], done[-1]
    if first.linear is None or second.linear is None:
        return False
    readers = _readers(first)
    told = [describe(s) for s in (first, second)]
    kept = second if isinstance(first.linear, Affine) and isinstance(second.linear, Kernel) else first
    try:
        if first.act is not None:
            raise Inexact("an activation is between them")
        if readers:
            raise Inexact(readers)
        if second.ends and not all(j.sees(kept.place) for j in second.read_as("branch")):
            raise Inexact("what is read between them would be read from another chain")
        made = then(first.linear, second.linear)
    except Inexact as why:
        second.why["before"] = first.why["after"] = str(why)
        return False
    what = _what(first, second)
    names = f"{told[0]} and {told[1]}"
    second.linear, second.changed = made, True
    second.layer, second.place, second.key, second.name = kept.layer, kept.place, kept.key, kept.name
    second.before, second.why = first.before, {}
    del done[-2]
    notes.fold(what, second.name, names)
    return True


def _what(first: Step, second: Step) -> str:
    if isinstance(first.linear, Kernel) and isinstance(second.linear, Kernel):
        return "two linear layers into one"
    if isinstance(first.linear, Affine) and isinstance(second.linear, Affine):
        return "two norms or scales into one"
    affine, where = (first, "after") if isinstance(first.linear, Affine) else (second, "before")
    return f"{'norm' if is_norm(affine.layer) else 'scale'} into the layer {where} it"


def _readers(step: Step) -> str:
    """Who else needs the value of a step, in words; empty where nobody does."""
    if step.ends:
        return "a shortcut ends between them"
    return "a shortcut carries the value between them" if step.leaves else ""


def follow_up(done: Row, notes: Notes) -> bool:
    """An activation becomes part of the layer before it."""
    layer, act = done[-2], done[-1]
    found = as_act(act.layer) if act.linear is None and act.layer is not None else None
    fits = isinstance(layer.linear, Kernel) and layer.linear.transposed is None and layer.act is None
    if found is None or not fits or not layer.only_next:
        return False
    if act.ends and not all(j.sees(layer.place) for j in act.read_as("branch")):
        return False
    notes.fold("activation into the layer before it", act.name, describe(layer))
    for name in ("name", "layer", "place", "key", "before", "linear", "why"):
        setattr(act, name, getattr(layer, name))
    act.act, act.changed = found, True
    del done[-2]
    return True


RULES: tuple[Callable[[Row, Notes], bool], ...] = (away, weigh, absorb, unite, across, earlier, follow_up)
