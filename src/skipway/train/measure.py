"""What a net is worth on data: mean loss and accuracy, without a number leaving the device before the end."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from skipway.errors import TrainError
from skipway.train.batches import Source, source_of
from skipway.train.checks import check_fit, check_options, try_forward
from skipway.train.compiled import Compiled
from skipway.train.guard import autocast
from skipway.train.losses import Loss, choose_loss, count_correct
from skipway.train.optimizers import clear_gradients


class Score(NamedTuple):
    """Mean loss over the targets of a data set and, for classes, the share that is right (0 to 1), else None."""

    loss: float
    accuracy: float | None


class Sums:
    """Loss and accuracy summed on the device, so that no step waits for a number to reach Python.

    On the CPU nothing waits, and a sum of Python numbers costs a tenth of one of tensors.

    >>> sums = Sums(torch.device("cpu"))
    >>> sums.add(torch.tensor(2.0), (torch.tensor(3), 4), rows=4)
    >>> sums.score()
    Score(loss=2.0, accuracy=0.75)
    """

    def __init__(self, device: torch.device) -> None:
        wide = torch.float32 if device.type == "mps" else torch.float64
        self._here = device.type == "cpu"
        self._loss: Any = 0.0 if self._here else torch.zeros((), dtype=wide, device=device)
        self._right: Any = 0 if self._here else torch.zeros((), dtype=torch.long, device=device)
        self._targets = 0
        self.rows = 0

    def add(self, loss: Tensor, counted: tuple[Tensor, int] | None, rows: int) -> None:
        self._loss += (loss.item() if self._here else loss.detach()) * rows
        self.rows += rows
        if counted is not None:
            self._right += counted[0].item() if self._here else counted[0]
            self._targets += counted[1]

    @property
    def loss(self) -> Any:
        return self._loss / self.rows if self.rows else math.nan

    @property
    def accuracy(self) -> Any:
        return self._right / self._targets if self._targets else None

    def score(self) -> Score:
        accuracy = self.accuracy
        return Score(float(self.loss), None if accuracy is None else float(accuracy))


@dataclass
class Task:
    """Everything a pass over data needs besides the data."""

    net: nn.Module
    name: str
    loss: Loss
    device: torch.device
    bf16: bool
    compiled: Compiled | None = None

    @property
    def plain(self) -> bool:
        """Whether steps run as torch runs them on a CPU."""
        return self.compiled is None and not self.bf16 and self.device.type == "cpu"

    def gradients(self, x: Tensor, y: Tensor, optimizer: Optimizer) -> tuple[Any, Tensor]:
        """The forward and backward pass of one step: output and loss, with the gradients in the parameters."""
        with nullcontext() if self.compiled is None else self.compiled.step():
            output, loss = self.forward(x, y)
            if not loss.requires_grad:
                raise TrainError(f"the loss {self.name} depends on no trainable parameter: is there a detach()?")
            clear_gradients(optimizer)
            loss.backward()
        return output, loss

    def forward(self, x: Tensor, y: Tensor) -> tuple[Any, Tensor]:
        try:
            with autocast(self.device, self.bf16):
                if self.compiled is not None and self.net.training:
                    output, loss = self.compiled(x, y)
                else:
                    output = self.net(x)
                    loss = self.loss(output, y)
        except ValueError as error:
            if "more than 1 value per channel" in str(error):
                raise TrainError(
                    f"batch norm has no statistics of a single row, and this batch has shape {tuple(x.shape)}: "
                    f"train with batch=2 or more"
                ) from error
            raise
        if not isinstance(loss, Tensor) or loss.dim():
            kind = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
            raise TrainError(f"the loss {self.name} gives {kind}, not a scalar tensor: take its mean")
        return output, loss

    def evaluate(self, source: Source) -> Score:
        sums = Sums(self.device)
        with modes_kept(self.net), torch.no_grad():
            self.net.eval()
            for x, y in source:
                output, loss = self.forward(x, y)
                sums.add(loss, count_correct(output, y, self.name), len(x))
        return sums.score()


@contextlib.contextmanager
def modes_kept(net: nn.Module) -> Iterator[None]:
    modes = [(m, m.training) for m in net.modules()]
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def evaluate(
    net: nn.Module, data: Any, *, batch: int = 256, loss: str | Loss = "auto", precision: str = "fp32"
) -> Score:
    """Loss and accuracy of ``net`` over ``data``, in eval mode and without gradients; the mode ends as it began.

    Parameters
    ----------
    net:
        any module; it stays on its device.
    data, loss, precision:
        as in :func:`fit`.
    batch:
        how many rows at a time; of no influence on the result but for rounding.

    Returns
    -------
    ``(loss, accuracy)``: the mean loss over the rows; the share of targets that is right, or None where there are no
    classes.

    Raises
    ------
    DataError, TrainError
        as in :func:`fit`.

    >>> net = nn.Sequential(nn.Identity())
    >>> evaluate(net, (torch.eye(3) * 50, torch.tensor([0, 1, 1]))).accuracy
    0.666...
    """
    check_options(1, batch, None, precision, 0)
    if not isinstance(net, nn.Module):
        raise TrainError(f"net is a {type(net).__name__}, not a torch.nn.Module")
    held = next((t for tensors in (net.parameters(), net.buffers()) for t in tensors), None)
    device = torch.device("cpu") if held is None else held.device
    source = source_of(data, batch, "data")
    output, y = try_forward(net, source, device, "data", precision == "bf16")
    name, chosen = choose_loss(loss, net, y)
    check_fit(output, y, source, "data", name, chosen)
    return Task(net, name, chosen, device, precision == "bf16").evaluate(source)
