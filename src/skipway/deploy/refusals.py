"""Why something is still there after folding: a reason for everything that folding is about."""

from __future__ import annotations

from skipway.words import describe_layer

from .kernels import Affine
from .layers import is_norm, shares
from .report import Notes
from .row import Join, Step


def explain(row: list[Step], notes: Notes) -> None:
    """Write down a refusal for every norm, scale, random drop, sum and odd layer that is left in a row."""
    for i, step in enumerate(row[1:], 1):
        if "alone" in step.why:
            notes.refuse(f"{type(step.layer).__name__} stays", step.name, step.why["alone"])
        if isinstance(step.linear, Affine) and not step.linear.nothing:
            notes.refuse("norm stays" if is_norm(step.layer) else "scale stays", step.name, _why_norm(row, i))
        if step.rows is not None:
            notes.refuse("branches stay apart", step.name, step.why.get("branches", "they are not linear"))
            for branch in step.rows:
                explain(branch, notes)
        for join in step.ends:
            _explain_join(join, notes)


def _why_norm(row: list[Step], i: int) -> str:
    """What keeps a norm from both its neighbours."""
    step = row[i]
    before = step.why.get("before") or f"before it is {_called(row, i - 1)}"
    after = step.why.get("across") or step.why.get("after") or f"after it is {_called(row, i + 1)}"
    return f"{before}; {after}" if before != after else before


def _called(row: list[Step], i: int) -> str:
    if i == 0:
        return "the input"
    if i == len(row):
        return "the output"
    layer = row[i].layer
    return "another" if layer is None else describe_layer(layer)


def _explain_join(join: Join, notes: Notes) -> None:
    for part in ("scale", "path_scale"):
        held = getattr(join, part)
        if held is not None:
            why = join.why.get(part) or f"{describe_layer(held)} looks at the value, or its law is not known here"
            notes.refuse(f"{part} stays", join.name, why)
    if join.drop is not None:
        notes.refuse("drop stays", join.name, f"what {describe_layer(join.drop)} does in eval mode is not known here")
    if shares(join.merge, join.connection.merge, 1 + len(join.group)) is not None:
        notes.refuse("shortcut stays", join.name, join.why.get("around", "what is inside it is not one linear layer"))
    explain(join.row, notes)
