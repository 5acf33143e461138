"""Losses over probabilities and over logits, and the check that a net and its loss belong together."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skipway.errors import DataError, TrainError, nearest

Loss = Callable[[Any, Any], Tensor]


def is_labels(y: Tensor) -> bool:
    """Whether ``y`` holds whole numbers, as class labels do.

    >>> is_labels(torch.tensor([1, 2])), is_labels(torch.tensor([1.0]))
    (True, False)
    """
    return not (y.is_floating_point() or y.is_complex())


def class_axis(p: Tensor, y: Tensor) -> int:
    """The axis of ``p`` that runs over the classes: 1 as in torch, or the last where only that fits ``y``.

    Raises ``DataError`` where ``y`` fits neither.

    >>> class_axis(torch.zeros(8, 3), torch.zeros(8)), class_axis(torch.zeros(8, 5, 3), torch.zeros(8, 5))
    (1, 2)
    """
    if p.dim() == 1 and (y.shape == p.shape or y.dim() == 0):
        return 0
    if p.dim() >= 2:
        if y.shape == p.shape or y.shape == p.shape[:1] + p.shape[2:]:
            return 1
        if y.shape == p.shape[:-1]:
            return p.dim() - 1
    fix = "; write y.squeeze(-1)" if p.dim() >= 2 and y.shape == (*p.shape[:-1], 1) else ""
    wanted = f"{tuple(p.shape[:1] + p.shape[2:])} of labels or {tuple(p.shape)} of probabilities" if p.dim() else "none"
    raise DataError(
        f"the targets have shape {tuple(y.shape)}, which does not fit an output of shape {tuple(p.shape)}: "
        f"wanted {wanted}{fix}"
    )


def _wide(p: Tensor) -> Tensor:
    # half-precision sums over a batch lose digits, and float16 has too small a range for log
    return p.float() if p.dtype in (torch.bfloat16, torch.float16) else p


def _nll(log_p: Tensor, y: Tensor) -> Tensor:
    axis = class_axis(log_p, y)
    if y.shape == log_p.shape:
        return -(y.to(log_p.dtype) * log_p).sum(axis).mean()
    place = 1 if log_p.dim() > 1 else 0
    try:
        # moving an axis to where it is makes one more step of the backward pass
        return F.nll_loss(log_p if axis == place else log_p.movedim(axis, place), y.long())
    except IndexError as error:
        width = log_p.shape[axis]
        raise DataError(
            f"labels run from {int(y.min())} to {int(y.max())}, and the net has {width} outputs: "
            f"labels must be 0 to {width - 1}"
        ) from error


def crossentropy(p: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy of probabilities, ``mean(-sum(y * log(p)))``: for a net that ends in softmax.

    Safe at zero: a probability of 0 counts as the smallest normal number of its type, so value and gradient are finite.

    Parameters
    ----------
    p:
        probabilities, ``(N, classes)``, ``(N, classes, *)`` or ``(N, *, classes)``.
    y:
        whole-number labels shaped as ``p`` without its class axis, or probabilities (one-hot, soft) shaped as ``p``.

    Returns
    -------
    A scalar, in nats, the mean over all targets.

    Raises
    ------
    DataError
        when ``y`` does not fit ``p``, or a label has no class.

    >>> crossentropy(torch.tensor([[0.5, 0.5], [1.0, 0.0]]), torch.tensor([0, 0])).item()
    0.3465...
    """
    p = _wide(p)
    return _nll(p.clamp_min(torch.finfo(p.dtype).tiny).log(), y)


def logitcrossentropy(z: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy of logits, ``crossentropy(softmax(z), y)`` in one stable step: for a net that ends in none.

    Parameters
    ----------
    z:
        logits, ``(N, classes)``, ``(N, classes, *)`` or ``(N, *, classes)``.
    y:
        whole-number labels shaped as ``z`` without its class axis, or probabilities (one-hot, soft) shaped as ``z``.

    Returns
    -------
    A scalar, in nats, the mean over all targets.

    Raises
    ------
    DataError
        when ``y`` does not fit ``z``, or a label has no class.

    >>> logitcrossentropy(torch.zeros(4, 2), torch.tensor([0, 1, 1, 0])).item()
    0.6931...
    """
    z = _wide(z)
    return _nll(F.log_softmax(z, class_axis(z, y)), y)


def nll(log_p: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy of log-probabilities: for a net that ends in ``nn.LogSoftmax``. Shapes as :func:`crossentropy`.

    >>> nll(torch.tensor([[0.5, 0.5]]).log(), torch.tensor([1])).item()
    0.6931...
    """
    return _nll(_wide(log_p), y)


def mse(p: Tensor, y: Tensor) -> Tensor:
    """Mean squared error over all elements. ``p`` and ``y`` have the same shape: nothing is broadcast.

    Raises ``DataError`` where the shapes differ.

    >>> mse(torch.zeros(2, 1), torch.tensor([[1.0], [3.0]])).item()
    5.0
    """
    if p.shape != y.shape:
        fix = ""
        if p.shape == (*y.shape, 1):
            fix = "; write y.unsqueeze(-1)"
        elif p.dim() == 2 and y.dim() == 1:
            fix = "; class labels are whole numbers: write y.long()"
        raise DataError(f"the targets have shape {tuple(y.shape)} and the output has {tuple(p.shape)}{fix}")
    p = _wide(p)
    return F.mse_loss(p, y.to(p.dtype))


LOSSES: dict[str, Loss] = {"crossentropy": crossentropy, "logitcrossentropy": logitcrossentropy, "nll": nll, "mse": mse}
# the end of a net that each loss over classes is made for
_MADE_FOR = {"crossentropy": "softmax", "logitcrossentropy": "", "nll": "logsoftmax"}


def unwrap(net: nn.Module) -> nn.Module:
    """The net inside DataParallel, DistributedDataParallel and ``torch.compile`` wrappers.

    >>> unwrap(nn.DataParallel(nn.ReLU()))
    ReLU()
    """
    wrappers = (nn.DataParallel, nn.parallel.DistributedDataParallel)
    while isinstance(net, wrappers) or hasattr(net, "_orig_mod"):
        net = net.module if isinstance(net, wrappers) else net._orig_mod  # type: ignore[assignment]
    return net


def is_chain(net: object) -> bool:
    """Whether ``net`` is a skipway ``Chain``; where there is one, its module has been imported.

    >>> is_chain(nn.Sequential())
    False
    """
    kind = getattr(sys.modules.get("skipway.chain"), "Chain", None)
    return kind is not None and isinstance(net, kind)


def _kind(thing: object) -> str:
    """``"softmax"``, ``"logsoftmax"`` or ``""`` of a layer, an activation or a function."""
    while isinstance(thing, functools.partial):
        thing = thing.func
    if isinstance(thing, (nn.Softmax, nn.Softmax2d)):
        return "softmax"
    if isinstance(thing, nn.LogSoftmax):
        return "logsoftmax"
    name = getattr(thing, "__name__", "")
    if not isinstance(thing, nn.Module) and name in ("softmax", "log_softmax"):
        return name.replace("_", "")
    for held in ("fn", "act"):
        inner = getattr(thing, held, None)
        if inner is not None and inner is not thing:
            return _kind(inner)
    return ""


def ending(net: nn.Module) -> str:
    """``"softmax"`` or ``"logsoftmax"`` where the net ends in one, else ``""``.

    Looks through ``nn.Sequential`` and ``Chain``, whose order is known; the children of other modules may run in any.

    >>> ending(nn.Sequential(nn.Linear(2, 2), nn.LogSoftmax(-1)))
    'logsoftmax'
    """
    net = unwrap(net)
    if is_chain(net):
        # what the chain puts out is the last merge, where there is one: its act= speaks, not the last layer
        last = {"output", len(net), getattr(net, "values", (None,))[-1]}  # type: ignore[arg-type]
        merged = [s for s in getattr(net, "wiring", ()) if s.end in last]
        if merged:
            return _kind(merged[-1].act)
    if is_chain(net) or isinstance(net, nn.Sequential):
        for layer in reversed(list(net)):  # type: ignore[call-overload]
            # these move values about and change none
            if not isinstance(layer, (nn.Identity, nn.Flatten, nn.Unflatten)):
                return ending(layer) if isinstance(layer, nn.Module) else _kind(layer)
        return ""
    return _kind(net)


def ends_in_softmax(net: nn.Module) -> bool:
    """Whether the last thing a net does is softmax, so that it puts out probabilities.

    Looks through ``nn.Sequential``, ``Chain`` and activations of layers. Softmax inside the ``forward`` of a module of
    your own is not seen.

    >>> ends_in_softmax(nn.Sequential(nn.Linear(4, 3), nn.Softmax(-1)))
    True
    >>> ends_in_softmax(nn.Linear(4, 3))
    False
    """
    return ending(net) == "softmax"


def choose_loss(loss: str | Loss, net: nn.Module, y: Tensor) -> tuple[str, Loss]:
    """The name and the function for ``loss=``, checked against the end of the net and the targets.

    Raises ``TrainError`` for a name that is not known or a loss that does not fit the end of the net.

    >>> choose_loss("auto", nn.Linear(4, 3), torch.tensor([0, 2]))[0]
    'logitcrossentropy'
    """
    if callable(loss):
        # skipway's own functions get the checks of their names
        name = next((n for n, f in LOSSES.items() if f is loss), "")
        if not name:
            return getattr(loss, "__qualname__", type(loss).__name__), loss
        loss = name
    if not isinstance(loss, str) or (loss != "auto" and loss not in LOSSES):
        raise TrainError(f"loss={loss!r} is not known: {nearest(str(loss), ['auto', *LOSSES])}")
    end = ending(net)
    if loss == "auto":
        fitting = {"softmax": "crossentropy", "logsoftmax": "nll", "": "logitcrossentropy"}
        loss = fitting[end] if isinstance(y, Tensor) and is_labels(y) else "mse"
    wanted = _MADE_FOR.get(loss, end)
    if wanted != end:
        said = {"softmax": "softmax", "logsoftmax": "log-softmax", "": "no softmax"}
        fix = {
            "softmax": "train with loss='crossentropy', or take the softmax off the end of the net",
            "logsoftmax": "train with loss='nll', or take the log-softmax off the end of the net",
            "": "train with loss='logitcrossentropy', or end the net in "
            + ("nn.Softmax(-1)" if wanted == "softmax" else "nn.LogSoftmax(-1)"),
        }
        takes = {"softmax": "probabilities", "logsoftmax": "log-probabilities", "": "logits"}
        raise TrainError(
            f"loss={loss!r} takes {takes[wanted]}, and the net ends in {said[end]}: "
            f"it would train, and wrongly; {fix[end]}"
        )
    return loss, LOSSES[loss]


def count_correct(p: Any, y: Any, loss: str) -> tuple[Tensor, int] | None:
    """How many targets the largest output hits, and how many targets there are; None where there are no classes.

    >>> count_correct(torch.eye(3), torch.tensor([0, 1, 1]), "logitcrossentropy")
    (tensor(2), 3)
    """
    if loss == "mse" or not isinstance(p, Tensor) or not isinstance(y, Tensor) or p.dim() < 2:
        return None
    if loss not in LOSSES and not (is_labels(y) and y.dim() == p.dim() - 1):
        return None
    axis = class_axis(p, y)
    target = y.argmax(axis) if y.shape == p.shape else y
    return (p.detach().argmax(axis) == target).sum(), target.numel()
