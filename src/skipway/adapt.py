"""Data the way a net takes it: images as they are, or flat."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import torch
from torch import Tensor, nn

from skipway.chain import Chain
from skipway.data import Dataset
from skipway.errors import DataError
from skipway.value import show


def adapt(net: nn.Module, data: Dataset) -> Dataset:
    """The data set as it is, or with every ``x`` flat, ``(N, features)``: the first of the two that the net can take.

    A net can take a shape when it makes one row of outputs for one row of inputs, ``(N, classes)``. An open chain is
    built for the shape found.

    Raises ``DataError``, with the reason for each shape, when the net can take neither.

    >>> from skipway import Dense, data
    >>> digits = data.mnist(small=True)
    >>> adapt(nn.Linear(784, 10), digits).train
    Split 'mnist-small/train': 5000 examples, x float32 (784,), 10 classes
    >>> net = Chain(Dense(..., 10))
    >>> adapt(net, digits).train.x.shape[1:], net.is_open
    (torch.Size([784]), False)
    """
    shape = tuple(data.train.x.shape[1:])
    flat = (math.prod(shape),)
    problems = []
    for tried in dict.fromkeys([shape, flat]):
        problem = _problem(net, tried)
        if problem is None:
            if isinstance(net, Chain) and net.is_open:
                net.build(tried)
            if tried == shape:
                return data
            return Dataset(*(replace(split, x=split.x.flatten(1)) for split in data))
        problems.append(f"{'flat' if tried == flat else 'as'} {tried}: {problem}")
    name = data.train.name.partition("/")[0]
    if isinstance(net, Chain) and not net.is_open and net.plan.input.shape is not None:
        made = f"takes {net.plan.input} and makes {net.plan.output}"
        raise DataError(f"the net {made}; {name} has {show(shape)}, flat {show(flat)}, and needs (N, classes)")
    raise DataError(f"the net cannot take {name}: {'; '.join(problems)}")


def _problem(net: nn.Module, shape: tuple[int, ...]) -> str | None:
    """Why a net cannot take rows of this shape; None where it can. Tried on a copy."""
    trial = copy.deepcopy(net).eval()
    try:
        if isinstance(trial, Chain) and trial.is_open:
            trial.build(shape)
        first = next((p for p in trial.parameters() if p.is_floating_point()), torch.zeros(()))
        with torch.no_grad():
            made = trial(torch.zeros(2, *shape, dtype=first.dtype, device=first.device))
    except Exception as error:  # the net is anybody's
        text = " ".join(str(error).split())
        return text or type(error).__name__
    if isinstance(made, Tensor) and made.dim() == 2 and len(made) == 2:
        return None
    told = f"(N, {', '.join(map(str, made.shape[1:]))})" if isinstance(made, Tensor) else f"a {type(made).__name__}"
    return f"it makes {told}, not (N, classes)"
