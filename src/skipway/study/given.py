"""What the studies of a net and data ask of what they are given, and what they show while they run."""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor, nn

from skipway.chain import Chain
from skipway.errors import ChainError, DataError
from skipway.train.batches import Source, TensorSource, source_of
from skipway.train.checks import check_fit, check_net, try_forward
from skipway.train.losses import Loss, choose_loss, is_labels
from skipway.train.measure import Task


def whole(study: str, name: str, value: Any, least: int = 1) -> int:
    """The value, if it is a whole number that is large enough. Raises ``ChainError``.

    >>> whole("landscape", "points", 0, 3)
    Traceback (most recent call last):
    skipway.errors.ChainError: landscape: points must be a whole number of at least 3, not 0
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ChainError(f"{study}: {name} must be a whole number of at least {least}, not {value!r}")
    return value


def device_of(net: nn.Module) -> torch.device:
    """Where the net is: the device of its first parameter or buffer."""
    held = next((t for tensors in (net.parameters(), net.buffers()) for t in tensors), None)
    return torch.device("cpu") if held is None else held.device


def task_of(net: Any, data: Any, loss: str | Loss, batch: int, study: str) -> tuple[Task, Source]:
    """What it takes to go over the data with the net, all of it checked.

    Raises ``ChainError`` for what is no net, ``OpenChainError`` for an open chain, ``DataError`` for data that does not
    fit, is not finite or has one class only, and ``TrainError`` for a net that is not finite or another loss.
    """
    if not isinstance(net, nn.Module):
        raise ChainError(f"{study} studies a net, not a {type(net).__name__}")
    if isinstance(net, Chain):
        net._need_closed(study)
    check_net(net)
    device = device_of(net)
    source = source_of(data, batch, study)
    output, y = try_forward(net, source, device, study, False)
    name, function = choose_loss(loss, net, y)
    check_fit(output, y, source, study, name, function)
    if isinstance(source, TensorSource):
        need_classes(source.y, study)
    return Task(net, name, function, device, False), source


def need_classes(y: Tensor, study: str) -> None:
    """Raise ``DataError`` for labels that are all the same: a net is right about them whatever it does with its input.

    >>> need_classes(torch.tensor([2, 2, 2]), "landscape")
    Traceback (most recent call last):
    skipway.errors.DataError: landscape: all 3 labels are 2, and a loss over one class says nothing of the net: ...
    """
    if is_labels(y) and len(y) > 1 and bool((y == y.flatten()[0]).all()):
        raise DataError(
            f"{study}: all {len(y)} labels are {int(y.flatten()[0])}, and a loss over one class says nothing of the "
            f"net: give rows of two classes at least (was the data sorted before it was cut?)"
        )


class Bar:
    """How far a study is, and before it begins what it costs: a bar on a terminal, one line elsewhere.

    >>> with Bar("landscape: 41 passes over 100 rows", 41) as bar:
    ...     bar.step()
    landscape: 41 passes over 100 rows
    """

    def __init__(self, cost: str, total: int, show: bool = True) -> None:
        self._cost, self._total, self._show = cost, total, show
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Bar:
        if self._show and not sys.stdout.isatty():
            print(self._cost, flush=True)
        elif self._show:
            from rich.errors import LiveError
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            bar = Progress(*columns, transient=True)
            try:
                bar.start()
            except LiveError:  # the caller has a live display of its own
                return self
            self._bar, self._task = bar, bar.add_task(self._cost, total=self._total)
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def step(self, count: int = 1) -> None:
        """So many more are done."""
        if self._bar is not None:
            self._bar.advance(self._task, count)
