"""Everything that can be known to be wrong before the first step, each as one error with its fix."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from skipway.errors import DataError, SkipwayError, TrainError, nearest
from skipway.train.batches import Source, TensorSource, check_labels, to_channels_first
from skipway.train.guard import autocast, broken_parameter, untouched
from skipway.train.losses import LOSSES, Loss, class_axis, is_labels

PRECISIONS = ("fp32", "bf16")


def choose_device(device: str | torch.device) -> torch.device:
    """The device for ``device=``: ``"auto"`` is the first there is of cuda, mps and cpu.

    Raises ``TrainError`` for a device that torch does not know or this machine does not have.

    >>> choose_device("cpu")
    device(type='cpu')
    """
    has = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device == "auto":
        device = next(name for name, there in has.items() if there)
    try:
        made = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise TrainError(f"device={device!r} is not known: {nearest(str(device), ['auto', *has])}") from error
    if not has.get(made.type, True):
        here = ", ".join(name for name, there in has.items() if there)
        raise TrainError(f"device={str(device)!r} is not on this machine, which has {here}")
    if made.type == "cuda":
        count = torch.cuda.device_count()
        if made.index is not None and made.index >= count:
            raise TrainError(f"device={str(device)!r} is not on this machine, which has {count} cuda devices")
    return made


def check_options(epochs: Any, batch: Any, lr: Any, precision: str, seed: Any) -> None:
    """Raise ``TrainError`` for a number that is none or out of range, or a precision that is not known.

    >>> check_options(0, 32, 0.1, "fp32", 0)
    Traceback (most recent call last):
    skipway.errors.TrainError: epochs must be a whole number of at least 1, not 0
    """
    for name, value in (("epochs", epochs), ("batch", batch)):
        if name == "batch" and value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise TrainError(f"{name} must be a whole number of at least 1, not {value!r}")
    if lr is not None and (isinstance(lr, bool) or not isinstance(lr, (int, float)) or not 0 < lr < math.inf):
        raise TrainError(f"lr must be a number above 0, not {lr!r}")
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
        raise TrainError(f"seed must be a whole number of at least 0, not {seed!r}")
    if precision not in PRECISIONS:
        raise TrainError(f"precision={precision!r} is not known: {nearest(str(precision), PRECISIONS)}")


def check_callbacks(callbacks: Any) -> None:
    """Raise ``TrainError`` unless ``callbacks`` is a list of what ``fit`` can call.

    >>> check_callbacks(print)
    Traceback (most recent call last):
    skipway.errors.TrainError: callbacks is a builtin_function_or_method, not a list: write callbacks=[...]
    """
    if not isinstance(callbacks, (list, tuple)):
        raise TrainError(f"callbacks is a {type(callbacks).__name__}, not a list: write callbacks=[...]")
    for place, one in enumerate(callbacks):
        if not callable(one) and not callable(getattr(one, "on_step", None)):
            raise TrainError(
                f"callbacks[{place}] is a {type(one).__name__}, which would never be called: give a function of the "
                f"State, or an object with a method on_step(state)"
            )


def check_net(net: Any) -> None:
    """Raise ``TrainError`` unless ``net`` is a module with something finite to train.

    >>> check_net(nn.ReLU())
    Traceback (most recent call last):
    skipway.errors.TrainError: the net has no trainable parameters: ...
    """
    if not isinstance(net, nn.Module):
        raise TrainError(f"net is a {type(net).__name__}, not a torch.nn.Module")
    parameters = list(net.parameters())
    if not any(p.requires_grad for p in parameters):
        frozen = f"all {len(parameters)} have requires_grad=False" if parameters else "it holds no parameters at all"
        raise TrainError(f"the net has no trainable parameters: {frozen}")
    if any(isinstance(p, nn.parameter.UninitializedParameter) for p in parameters):
        raise TrainError("the net has lazy parameters that do not exist yet: run one batch through it before fit")
    name = broken_parameter(net)
    if name:
        raise TrainError(f"parameter {name!r} is not finite before the first step: look at how the net was initialised")


def _types(net: nn.Module) -> set[torch.dtype]:
    return {p.dtype for p in net.parameters() if p.is_floating_point()}


def _forward(net: nn.Module, x: Tensor, bf16: bool) -> Any:
    with untouched(net, x.device, train=False), autocast(x.device, bf16):
        return net(x)


def wants_pixels(net: nn.Module, device: torch.device, bf16: bool) -> bool:
    """Whether batches of images should have their channels last in memory: where that is the faster order.

    >>> wants_pixels(nn.Conv2d(1, 1, 3), torch.device("cpu"), False)
    True
    """
    convolutions = [m for m in net.modules() if isinstance(m, nn.Conv2d)]
    if device.type == "cpu":
        return bool(convolutions) and not any(map(_overruns, convolutions))
    return bool(convolutions) and device.type == "cuda" and bf16


def _overruns(m: nn.Conv2d) -> bool:
    """Whether the backward of a convolution writes where it must not, with the channels last in memory.

    oneDNN's weight gradient of a strided 1x1 convolution on fewer channels than it takes at once, up to 16, ends in
    wrong numbers, a crash, or never: github.com/uxlfoundation/oneDNN/issues/6035.
    """
    return m.kernel_size == (1, 1) and max(m.stride) > 1 and 1 < m.in_channels // m.groups < 16


def try_forward(net: nn.Module, source: Source, device: torch.device, where: str, bf16: bool) -> tuple[Any, Tensor]:
    """The output of ``net`` for one row of the data, and the target of that row.

    Leaves the source ready to feed ``device``, and everything in the net as it was.

    Raises ``DataError`` when the net cannot take the data.
    """
    pixels = wants_pixels(net, device, bf16)
    source.to(device, pixels)
    x, y = source.sample()
    types = _types(net)
    if x.is_floating_point() and x.dtype not in types and not bf16 and types:
        wanted = str(next(iter(types))).removeprefix("torch.")
        how = "x.float()" if wanted == "float32" else f"x.to(torch.{wanted})"
        raise DataError(f"{where}: x is {x.dtype}, and the net computes in torch.{wanted}: write {how}")
    try:
        return _forward(net, x, bf16), y
    except SkipwayError:
        raise
    except Exception as error:
        if pixels:
            # a `view` inside the net may insist on channels first
            try:
                source.to(device, False)
                return _forward(net, to_channels_first(x), bf16), y
            except Exception:  # the first error says it all
                pass
        if not x.is_floating_point() and types:
            raise DataError(
                f"{where}: x is {x.dtype}, and the net could not take whole numbers ({error}): write x.float()"
            ) from error
        raise DataError(f"{where}: the net cannot take one row of x, shape {tuple(x.shape)}: {error}") from error


def check_fit(output: Any, y: Tensor, source: Source, where: str, name: str, loss: Loss) -> None:
    """Raise ``DataError`` unless an output of the net and a target fit each other and the loss, labels and all.

    ``name`` is the loss's; a loss of the user's own is left to its own checks.
    """
    if name not in LOSSES:
        return
    if not isinstance(output, Tensor):
        raise DataError(
            f"the net returns a {type(output).__name__}, and loss={name!r} takes one tensor: give a loss of your own"
        )
    try:
        with torch.no_grad():
            axis = None if name == "mse" else class_axis(output, y)
            if name == "mse":
                loss(output, y)
    except DataError as error:
        raise DataError(f"{where}: {error} (for one row)") from error
    if axis is None or y.shape == output.shape:
        return
    if not is_labels(y):
        raise DataError(
            f"{where}: loss={name!r} takes whole-number labels, and the targets are {y.dtype}: write y.long()"
        )
    classes = output.shape[axis]
    if isinstance(source, TensorSource):
        check_labels(source.y, classes, where)
    else:
        source.classes = classes
