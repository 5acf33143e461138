"""The optimizers that have a name, fused where torch has it, with weight decay only where it belongs."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from skipway.errors import TrainError, nearest
from skipway.gains import undecayed

OptimizerLike = str | Optimizer | Callable[..., Optimizer]

_NAMED: dict[str, tuple[type[Optimizer], dict[str, Any]]] = {
    "adamw": (torch.optim.AdamW, {}),
    "adam": (torch.optim.Adam, {}),
    "sgd": (torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
}


def decay_groups(net: nn.Module) -> list[dict[str, Any]]:
    """The trainable parameters in two groups: matrices and kernels, which decay, and the rest, which does not.

    A bias, the scale of a norm or a gain has one axis or none: pulling it to zero changes what the net can say and
    regularises nothing.

    >>> [len(group["params"]) for group in decay_groups(nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2)))]
    [1, 3]
    """
    trainable = [p for p in net.parameters() if p.requires_grad]
    gains = {id(p) for _, p in undecayed(net)}  # one for every channel of an image has three axes
    groups: list[dict[str, Any]] = [
        {"params": [p for p in trainable if p.dim() > 1 and id(p) not in gains]},
        {"params": [p for p in trainable if p.dim() <= 1 or id(p) in gains], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def clear_gradients(optimizer: Optimizer) -> None:
    """``optimizer.zero_grad()``, without what torch's own does besides: names for a profiler, and a look at options.

    >>> weight = nn.Parameter(torch.ones(1))
    >>> weight.sum().backward()
    >>> clear_gradients(torch.optim.SGD([weight], lr=0.1))
    >>> weight.grad is None
    True
    """
    if type(optimizer).zero_grad is not Optimizer.zero_grad:
        optimizer.zero_grad(set_to_none=True)
        return
    for group in optimizer.param_groups:
        for p in group["params"]:
            p.grad = None


def make_optimizer(optimizer: OptimizerLike, net: nn.Module, lr: float | None) -> Optimizer:
    """The optimizer for ``optimizer=`` over the trainable parameters of ``net``.

    Raises ``TrainError`` for a name that is not known, a missing lr, or an optimizer that trains other parameters.

    >>> optimizer = make_optimizer("sgd", nn.Linear(2, 2), lr=0.1)
    >>> optimizer.defaults["nesterov"], optimizer.defaults["fused"]
    (True, True)
    """
    trainable = [p for p in net.parameters() if p.requires_grad]
    if isinstance(optimizer, str):
        if optimizer not in _NAMED:
            raise TrainError(f"optimizer={optimizer!r} is not known: {nearest(optimizer, _NAMED)}")
        if lr is None:
            raise TrainError(f"lr= is missing: the learning rate of {optimizer}")
        kind, options = _NAMED[optimizer]
        # a fused kernel is called once a group: two groups only where they differ
        groups: list[Any] = decay_groups(net) if kind is torch.optim.AdamW else trainable
        try:
            return kind(groups, lr=lr, fused=True, **options)  # type: ignore[call-arg]
        except RuntimeError:  # this device or type of number has no fused kernel
            return kind(groups, lr=lr, **options)  # type: ignore[call-arg]
    if isinstance(optimizer, Optimizer):
        made = optimizer
    elif callable(optimizer):
        try:
            takes_lr = "lr" in inspect.signature(optimizer).parameters
        except (TypeError, ValueError):
            takes_lr = False
        made = optimizer(trainable, lr=lr) if takes_lr and lr is not None else optimizer(trainable)
        if not isinstance(made, Optimizer):
            raise TrainError(f"optimizer= gave a {type(made).__name__}, not a torch.optim.Optimizer")
    else:
        raise TrainError(
            f"optimizer={optimizer!r}: wanted a name ({', '.join(_NAMED)}), a torch.optim.Optimizer, or a function of "
            f"the parameters that makes one"
        )
    if isinstance(made, torch.optim.LBFGS):
        raise TrainError(
            "optimizer=LBFGS evaluates the loss several times a step, which fit does not do: use adamw or sgd"
        )
    held = {id(p) for group in made.param_groups for p in group["params"]}
    names = [name for name, p in net.named_parameters() if p.requires_grad and id(p) not in held]
    if len(names) == len(trainable):
        raise TrainError("optimizer= trains none of the parameters of this net: make it from net.parameters()")
    return made
