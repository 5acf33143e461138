"""What a loss that is no longer finite says about the net: the step, and the first value that went wrong."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from skipway.errors import TrainError
from skipway.spine import unwrap
from skipway.wrap import describe

Batch = tuple[Any, Any]

# steps between two copies of the buffers: one a step would cost a deep net of small layers some percent
_REMEMBER = 32


def random_states(device: torch.device) -> dict[str, Tensor]:
    """The states of torch's global random generators that work on ``device`` can move.

    >>> sorted(random_states(torch.device("cpu")))
    ['cpu']
    """
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    elif device.type == "mps":
        states["mps"] = torch.mps.get_rng_state()
    return states


def set_random_states(states: dict[str, Tensor], device: torch.device) -> None:
    """Put back what :func:`random_states` gave; a state of another kind of device is left out."""
    torch.set_rng_state(states["cpu"].cpu())
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"].cpu(), device)
    elif device.type == "mps" and "mps" in states:
        torch.mps.set_rng_state(states["mps"].cpu())


def seed_random(seed: int, device: torch.device) -> None:
    """Seed the generators of :func:`random_states`, and no others."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)


def autocast(device: torch.device, bf16: bool) -> AbstractContextManager[Any]:
    """torch's autocast to bfloat16 on this device, or none, whatever the caller of ``fit`` has switched on."""
    if bf16 or torch.is_autocast_enabled(device.type):
        return torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16)
    return nullcontext()


@contextmanager
def untouched(net: nn.Module, device: torch.device, train: bool | None = None) -> Iterator[None]:
    """A room to run ``net`` in without gradients, after which modes, buffers and random state are as before.

    ``train`` sets the mode inside; None keeps it.

    >>> net = nn.BatchNorm1d(2)
    >>> with untouched(net, torch.device("cpu"), train=True):
    ...     _ = net(torch.randn(8, 2))
    >>> net.running_mean
    tensor([0., 0.])
    """
    modes = [(m, m.training) for m in net.modules()]
    buffers = [(b, b.clone()) for b in net.buffers()]
    states = random_states(device)
    try:
        if train is not None:
            net.train(train)
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode
        with torch.no_grad():
            for buffer, kept in buffers:
                buffer.copy_(kept)
        set_random_states(states, device)


def _bad(value: Any) -> bool:
    if isinstance(value, Tensor):
        return (value.is_floating_point() or value.is_complex()) and not bool(torch.isfinite(value).all())
    if isinstance(value, dict):
        value = list(value.values())
    return isinstance(value, (tuple, list)) and any(_bad(v) for v in value)


def broken_parameter(net: nn.Module) -> str | None:
    """The name of the first parameter that holds a NaN or an infinity.

    >>> broken_parameter(nn.Linear(2, 2)) is None
    True
    """
    return next((name for name, p in net.named_parameters() if _bad(p.detach())), None)


def first_bad_value(net: nn.Module, x: Any) -> str | None:
    """Says which value of a forward pass of ``net`` over ``x``, in order of execution, is the first not to be finite.

    Runs in the mode the net is in. None where all are finite.

    >>> class Log(nn.Module):
    ...     def forward(self, x):
    ...         return x.log()
    >>> first_bad_value(nn.Sequential(nn.Identity(), Log(), nn.Identity()), torch.tensor([-1.0]))
    "the output of layer '1' (Log)"
    """
    if _bad(x):
        return "the input x of this batch"
    if hasattr(net, "values") and hasattr(net, "features"):
        names = list(net.values)  # type: ignore[arg-type]
        features = net.features(x, at=names)  # type: ignore[operator]
        bad = next((name for name in names if _bad(features[name])), None)
        layer = dict(net.named_modules()).get(bad) if bad else None
        return None if bad is None else f"the value {bad!r}" + (f", after {describe(unwrap(layer))}" if layer else "")
    names_of = {module: name for name, module in net.named_modules()}
    found: list[nn.Module] = []

    def look(module: nn.Module, _: Any, output: Any) -> None:
        if not found and _bad(output):
            found.append(module)

    # a module ends after those inside it, so the first to end with a bad output is the innermost
    handles = [module.register_forward_hook(look) for module in names_of]
    try:
        net(x)
    finally:
        for handle in handles:
            handle.remove()
    if not found:
        return None
    name = names_of[found[0]]
    return f"the output of layer {name!r} ({describe(unwrap(found[0]))})" if name else "the output of the net"


class Guard:
    """Watches the loss, and on a NaN or an infinity stops with the step and the first value that went wrong.

    On CPU every step is looked at. On an accelerator looking means waiting for it, so a fused optimizer is told to skip
    all steps from the first bad one on, and the look comes every ``every`` steps: nothing is lost in between.

    A bad forward also reaches what a forward writes, the statistics of batch norms. They are remembered every
    ``_REMEMBER`` steps, and put back when the guard stops.
    """

    def __init__(
        self,
        net: nn.Module,
        optimizer: torch.optim.Optimizer,
        device: torch.device,
        *,
        every: int = 1,
        bf16: bool = False,
        compiled: bool = False,
    ) -> None:
        self._net, self._optimizer, self._device = net, optimizer, device
        self._every, self._bf16, self._compiled = every, bf16, compiled
        self._recent: deque[tuple[int, Batch]] = deque(maxlen=every)
        self._bad = torch.zeros((), device=device)
        self._step_of_bad = torch.zeros((), dtype=torch.long, device=device)
        self._buffers = [(m, name) for m in net.modules() for name, b in m._buffers.items() if b is not None]
        self._remembered: list[Tensor] = []
        self._age = 0

    def before(self) -> None:
        """Called before the forward of every step."""
        if self._buffers and self._age % _REMEMBER == 0:
            self._remembered = [held.detach().clone() for held in self._held()]
        self._age += 1

    def _held(self) -> list[Tensor]:
        # read anew: a forward may also put another tensor in the place of a buffer
        return [module._buffers[name] for module, name in self._buffers]  # type: ignore[misc]

    def _put_back(self) -> None:
        with torch.no_grad():
            for held, kept in zip(self._held(), self._remembered, strict=False):
                held.copy_(kept)

    def watch(self, step: int, loss: Tensor, batch: Batch) -> None:
        """Called between the backward pass and the update of ``step``; raises as :meth:`look` does."""
        self._recent.append((step, batch))
        if self._every == 1:
            # a Python number: on CPU ten times cheaper than torch.isfinite
            if not math.isfinite(loss.item()):
                self._stop(step, batch)
            return
        now = (~torch.isfinite(loss.detach())).to(self._bad.dtype)
        self._step_of_bad += (now * (1 - self._bad)).long() * step
        self._bad = torch.maximum(self._bad, now)
        # read by torch's fused optimizers, which then leave everything as it is
        self._optimizer.found_inf = self._bad  # type: ignore[attr-defined]
        if len(self._recent) == self._every:
            self.look()

    def look(self) -> None:
        """Raise ``TrainError`` if a loss since the last look was not finite."""
        if self._every > 1 and bool(self._bad):
            step = int(self._step_of_bad)
            self._stop(step, dict(self._recent)[step])
        self._recent.clear()
        self._age = 0  # what is remembered next was looked at

    def check_parameters(self, step: int) -> None:
        """Raise ``TrainError`` if the update of ``step`` left a parameter that is not finite."""
        name = broken_parameter(self._net)
        if name:
            raise TrainError(
                f"parameter {name!r} is not finite after the update of step {step}, though the loss of that step was: "
                f"its gradient was not. {self._fix()}"
            )

    def forget(self) -> None:
        """Take back what was set on the optimizer."""
        if self._every > 1 and hasattr(self._optimizer, "found_inf"):
            del self._optimizer.found_inf

    def _fix(self) -> str:
        rates = sorted({float(group["lr"]) for group in self._optimizer.param_groups if "lr" in group})
        now = f" (now {', '.join(f'{lr:g}' for lr in rates)})" if rates else ""
        return f"Try a smaller lr{now}, and look at the scale of x"

    def _stop(self, step: int, batch: Batch) -> None:
        self._put_back()
        name = broken_parameter(self._net)
        if name:
            raise TrainError(
                f"the loss is not finite at step {step}: parameter {name!r} is not, since the update of "
                f"step {step - 1}: its gradient there was not. {self._fix()}"
            )
        with untouched(self._net, self._device, train=True), autocast(self._device, self._bf16):
            value = first_bad_value(self._net, batch[0])
        if value:
            where = f"the first value that is not finite is {value}"
        elif self._compiled:
            where = (
                "without compile=True all values in the net are finite: it is the loss itself, or the compiled code; "
                "look at the targets and the loss function, and try without"
            )
        else:
            where = "all values in the net are finite, it is the loss itself: look at the targets and the loss function"
        raise TrainError(
            f"the loss is not finite at step {step}: {where}. {self._fix()}. "
            f"The net has the weights from before that step"
        )
