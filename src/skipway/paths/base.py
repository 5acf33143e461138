"""What paths have in common: recipes that know the shapes at both ends, and rows of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from skipway.errors import ChainError, OpenChainError
from skipway.layer import Layer, module_code
from skipway.merges import Misfit
from skipway.probe import blamed, expected, kept_layout, layout_of, run
from skipway.spine import adopt, unwrap
from skipway.value import Value, show
from skipway.words import describe_layer

PathFn = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Path:
    """Base of the paths. Derive from it to add one that depends on the shapes at its two ends."""

    def make(self, start: Value, target: Value) -> PathFn | None:
        """The module or function that takes ``start`` to ``target``; ``None`` for nothing to do."""
        raise ChainError(f"{type(self).__name__} derives from Path and has to define make(start, target)")

    @property
    def word(self) -> str:
        return type(self).__name__.lower()


class SameLayout:
    """Marks what leaves the features on their axis, also where it changes how many there are."""


@dataclass(frozen=True)
class Identity(Path):
    """The value as it is."""

    def make(self, start: Value, target: Value) -> None:
        return None


def _detach(x: Tensor) -> Tensor:
    return x.detach()


@dataclass(frozen=True)
class Detach(Path):
    """The value as it is, and no gradient back along the shortcut."""

    def make(self, start: Value, target: Value) -> PathFn:
        return _detach


@dataclass(frozen=True)
class Route(Path):
    """Several paths one after the other, written as a list: ``path=[Slice(0, 8), Project()]``.

    Each brings the value nearer to what it meets: a recipe does what it knows of, such as a :class:`Crop` the size, and
    leaves the rest to those after it. Modules and callables work too.

    >>> from skipway import Conv, Project, Skip, Slice
    >>> net = Skip(Conv(8, 4, 3, padding=1), path=[Slice(0, 6), Project()])
    >>> net.shortcuts["input->output"].path
    Sequential(
      (0): Wrapped(SliceTo)
      (1): Conv2d(6, 4, kernel_size=(1, 1), stride=(1, 1), bias=False)
    )
    """

    steps: tuple[Path | PathFn, ...]

    def make(self, start: Value, target: Value) -> PathFn | None:
        made: list[Any] = []
        value = start
        for i, step in enumerate(self.steps):
            part = step.make(value, target) if isinstance(step, Path) else adopt(step, f"step {i} of a path")
            if part is not None:
                close(part, value)
                made.append(part)
                value = along(part, value)
        if len(made) < 2:
            return made[0] if made else None
        return nn.Sequential(*[adopt(part, "a path") for part in made])


def along(path: Any, value: Value) -> Value:
    """What a path makes of a value. Raises :class:`~skipway.merges.Misfit` where it takes another width."""
    if path is None:
        return value
    takes(path, value, "its path")
    with blamed("path"):
        trials = run(path, value)
    kept = value.layout if isinstance(unwrap(path), SameLayout) else kept_layout(value, trials)
    return Value(trials, layout_of(path) or kept)


def takes(part: Any, value: Value, what: str) -> None:
    """Raise :class:`~skipway.merges.Misfit` where a part of a shortcut takes another width than there is."""
    if isinstance(part, nn.Sequential) and value:
        for step in part:
            takes(step, value, what)
            value = Value(run(step, value), value.layout)
        return
    asked, shape = expected(part), value.form.shape
    if asked is not None and shape is not None and len(shape) >= abs(asked[0]):
        got, width = shape[asked[0]], asked[1]
        if got not in (None, width):
            raise Misfit(
                f"{what} {describe_layer(part)} takes {width} features, and the value has {got}",
                f"give {what.replace('its', 'the')} the width {got}",
            )


def close(path: Any, start: Value, what: str = "its path") -> None:
    """A path written with ``...`` takes its width from where the shortcut starts."""
    if isinstance(path, Layer) and path.is_open:
        path.build(start)
    elif hasattr(path, "_settle"):
        plan = path._settle(start, True)
        if plan.problems:
            raise ChainError(f"{what}: {'; '.join(plan.problems)}")
        if plan.open:
            raise OpenChainError(f"{what}: {plan.open[0]}")
    elif isinstance(path, nn.Module):
        hidden = next((m for m in path.modules() if isinstance(m, Layer) and m.is_open), None)
        if hidden is not None:
            raise ChainError(
                f"{describe_layer(path)} holds {module_code(hidden)}, which cannot see there what arrives: write its "
                f"width, or use Chain(...) in the place of {type(path).__name__}(...)"
            )


def stride_between(start: Value, target: Value, what: str) -> tuple[int, ...]:
    """The stride that takes one image size to the other, as ``ceil(size / stride)``; the same at every trial size."""
    found: set[tuple[int, ...]] = set()
    for s, t in zip(start.trials, target.trials, strict=True):
        strides = []
        for size, goal in zip(s.shape[2:], t.shape[2:], strict=True):
            fits = [k for k in range(1, size + 1) if -(-size // k) == goal] if goal else []
            if not fits:
                raise Misfit(
                    f"{what} finds no stride that takes the size {tuple(s.shape[2:])} to {tuple(t.shape[2:])}",
                    "give the layers between padding that keeps the size (kernel 3 with padding=1), "
                    'or resize first with path=["resize", ...]',
                )
            strides.append(fits[0])
        found.add(tuple(strides))
    if len(found) != 1:
        raise OpenChainError(f"{what} needs the size of the image to work out its stride: give the chain input=")
    return found.pop()


def both_ends(start: Value, target: Value, what: str) -> tuple[int, int, int]:
    """The widths at both ends and the number of spatial dimensions, or the reason why they are not known."""
    width, goal = start.width, target.width
    if not start or not target or width is None or goal is None:
        side = "start" if not start or width is None else "end"
        layout = start.axis is None or target.axis is None
        if start and target and layout:
            raise Misfit(
                f"{what} cannot tell the feature axis of {show(start.shape)}",
                "put a Dense or a Conv before it, or give a module as path=",
            )
        raise OpenChainError(f"{what} needs the width at its {side}")
    if start.axis != target.axis or start.trials[0].dim() != target.trials[0].dim():
        raise Misfit(
            f"{what} cannot take {show(start.shape)} to {show(target.shape)}: the features are on another axis",
            "give a module as path= that changes the layout",
        )
    if len(start.trials) != len(target.trials):
        raise OpenChainError(f"{what} needs the shapes at both ends: give the chain input=")
    assert start.axis is not None
    return width, goal, -1 - start.axis


def pointwise(width: int, goal: int, dims: int, bias: bool, stride: Any = 1) -> nn.Module:
    """A linear map of the features alone: a dense layer, or a 1x1 convolution over ``dims`` dimensions."""
    if dims == 0:
        return nn.Linear(width, goal, bias=bias)
    conv: list[Callable[..., nn.Module]] = [nn.Conv1d, nn.Conv2d, nn.Conv3d]
    return conv[dims - 1](width, goal, 1, stride=stride, bias=bias)
