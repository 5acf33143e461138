"""Branches side by side over one input."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .connection import hold
from .errors import ChainError, ShapeError, caller
from .layer import Layer, parameters_made
from .merges import Merge, Misfit, as_merge
from .probe import ProbeError, run
from .spine import Spine, adopt
from .value import UNKNOWN, Form, Value


class Parallel(Layer, nn.Module):
    """Branches over the same input, their results merged: ``merge(f(x), g(x), ...)``.

    Parameters
    ----------
    branches:
        any layers; a chain of several layers is a ``Chain(...)``.
    merge:
        ``"add"``, ``"cat"``, ``"mean"``, ``"max"``, ``"mul"``, or any callable of as many tensors as there are
        branches.

    Shapes: ``(N, *input)`` to what the merge makes of the branches.

    Raises
    ------
    ChainError
        for no branches, or branches whose results do not fit together.

    >>> import torch
    >>> from skipway import Dense
    >>> Parallel(Dense(4, 3), Dense(4, 2), merge="cat")(torch.zeros(1, 4)).shape
    torch.Size([1, 5])
    """

    def __init__(self, *branches: Any, merge: Any = "add") -> None:
        super().__init__()
        self.source = caller()
        if not branches:
            raise ChainError(f"Parallel needs at least one branch ({self.source})")
        try:
            self._recipe = as_merge(merge)
        except ChainError as error:
            raise ChainError(f"Parallel ({self.source}): {error}") from None
        if isinstance(self._recipe, Merge) and self._recipe.sided:
            raise ChainError(
                f"Parallel ({self.source}): {self._recipe.word} weighs a branch against a shortcut; use Skip"
            )
        for i, branch in enumerate(branches):
            module = adopt(branch, f"branch {i} of Parallel ({self.source})")
            if any(module is m for m in self._modules.values()) and next(parameters_made(module), None) is not None:
                raise ChainError(
                    f"branches of Parallel ({self.source}) are the same object, so they would share weights"
                )
            self._modules[str(i)] = module
        self._joiner: Any = self._recipe
        self.merge: Any = None
        try:
            if not isinstance(self._recipe, Merge):
                self.merge = hold(self._recipe)
            elif self._recipe.joint:
                self.merge = hold(self._recipe.make_many(len(branches)))
        except ChainError as error:
            raise ChainError(f"Parallel ({self.source}): {error}") from None
        plan = self._settle(UNKNOWN, True)
        if plan.problems:
            raise ChainError("; ".join(plan.problems))

    def with_branches(self, branches: list[nn.Module]) -> Parallel:
        """The same merge over other branches."""
        known = isinstance(self._recipe, Merge)
        twin = Parallel(*branches, merge=self._recipe if known else self.merge)
        if known and len(branches) == len(self.branches):
            twin.merge = self.merge  # and what it has learned
        twin.source = self.source
        return twin.train(self.training)

    @property
    def branches(self) -> list[nn.Module]:
        return [m for name, m in self._modules.items() if name.isdigit() and m is not None]

    def _settle(self, value: Value, close: bool, strict: bool = True, refit: bool = False) -> Branches:
        from .chain import Chain

        chains = [branch if isinstance(branch, Chain) else _alone(branch) for branch in self.branches]
        subs = [chain._settle(value, close, strict, refit) for chain in chains]
        if not value:
            # what one branch says of its input holds for all
            value = next((sub.input.value for sub in subs if sub.input.sizes), value)
            subs = [chain._settle(value, close, strict, refit) for chain in chains] if value else subs
        result = Branches(subs, value)
        if result.in_place and len(subs) > 1:
            first = next(i for i, sub in enumerate(subs) if _mutates_input(sub))
            result.problems.append(
                f"branch {first} of Parallel ({self.source}) changes its input in place, which the other branches read "
                f"too: leave out inplace=True"
            )
        if not result.problems:
            result.value = self._join([sub.take_result() for sub in subs], result)
            result.complete = result.complete and bool(result.value)
        return result

    def _join(self, ends: list[Value], result: Branches) -> Value:
        recipe = self._recipe
        joined = ends[0]
        try:
            for other in ends[1:]:
                if isinstance(recipe, Merge):
                    recipe.check(joined, other)
                    if joined and other and not recipe.joint:
                        made: Any = recipe.make(joined, other)
                        if isinstance(made, nn.Module):
                            result.problems.append(
                                f"Parallel ({self.source}): {recipe.word} weighs a branch against a shortcut; use Skip"
                            )
                            return joined
                        self._joiner = made if hasattr(made, "many") else recipe
                        joined = joined.like(run(made, joined, other))
                    elif not recipe.joint:
                        joined = UNKNOWN
            if self.merge is not None:
                joined = ends[0].like(run(self.merge, *ends))
        except Misfit as misfit:
            result.problems.append(f"Parallel ({self.source}): {misfit.why}: give the branches equal shapes")
        except ProbeError as error:
            result.problems.append(f"Parallel ({self.source}): its merge fails: {error}")
        return joined

    def forward(self, x: Tensor) -> Tensor:
        values = [branch(x) for branch in self.branches]
        # a tracer has no shapes to compare, and runs what was planned
        checks = isinstance(self._joiner, Merge) and isinstance(values[0], Tensor) and not torch.jit.is_tracing()
        if checks and any(v.shape != values[0].shape for v in values):
            shapes = ", ".join(str(tuple(v.shape)) for v in values)
            raise ShapeError(f"Parallel ({self.source}): {self._joiner.word} needs equal shapes, and they are {shapes}")
        if self.merge is not None:
            return self.merge(*values)
        return values[0] if len(values) == 1 else self._joiner.many(values)

    def code(self) -> str:
        from .render.source import layer_code
        from .shortcut import value_code

        return f"Parallel({', '.join(layer_code(b) for b in self.branches)}, merge={value_code(self._recipe)})"


def _mutates_input(plan: Any) -> bool:
    return len(plan.nodes) > 1 and plan.nodes[1].mutates


class Branches:
    """What a Parallel tells the plan around it."""

    def __init__(self, subs: list[Any], value: Value) -> None:
        self.subs, self.input, self.value = subs, value.form, UNKNOWN
        self.problems = [f"branch {i}: {p}" for i, sub in enumerate(subs) for p in sub.problems]
        self.open = [f"branch {i}: {reason}" for i, sub in enumerate(subs) for reason in sub.open]
        self.misfits: list[tuple[Any, str]] = [m for sub in subs for m in sub.misfits]
        self.in_place = any(_mutates_input(sub) for sub in subs)
        self.complete = all(sub.complete for sub in subs)

    @property
    def output(self) -> Form:
        return self.value.form

    def take_result(self) -> Value:
        value, self.value = self.value, UNKNOWN
        return value


def _alone(branch: nn.Module) -> Any:
    """A single layer as a chain, only to plan it."""
    from .chain import Chain

    chain = Chain.__new__(Chain)
    Spine.__init__(chain, (), {})
    chain._place(None, branch)
    chain._begin((), UNKNOWN)
    return chain
