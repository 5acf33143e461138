"""``fit(compile=True)``: net and loss through ``torch.compile``, with the net itself left as it is."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from skipway.compiling import compile_alone
from skipway.errors import TrainError
from skipway.train.losses import Loss

BACKEND = "inductor"


def check_compiler(device: torch.device) -> None:
    """Raise ``TrainError`` where ``torch.compile`` lacks what it needs on this device, before anything has begun."""
    if BACKEND != "inductor" or device.type != "cpu":
        return
    with _quiet():
        try:
            from torch._inductor.cpp_builder import get_cpp_compiler
            from torch._inductor.exc import InvalidCxxCompiler
        except ImportError:  # a torch that keeps them elsewhere: the first step will tell
            return
        try:
            get_cpp_compiler()
        except InvalidCxxCompiler as error:
            raise _no_compiler() from error


def _no_compiler() -> TrainError:
    return TrainError(
        "compile=True needs a C++ compiler on the CPU, and torch finds none: install g++ or clang++, "
        "name one in the environment variable CXX, or leave compile out"
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """A room in which torch's own modules warn of nothing: what its compiler says of itself is not about the net."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"torch(\.|$)")
        yield


class Compiled:
    """The output and the loss of a net for one batch, compiled for the shape of the first batch it gets.

    Batches of another shape run uncompiled: there is one an epoch, the last, and compiling again, for one shape or for
    all, takes longer than it saves. The net stays the user's own: its weights, names, hooks and state are untouched.

    >>> import skipway.train.compiled as module
    >>> step = Compiled(nn.Linear(2, 2), nn.functional.cross_entropy, backend="eager")
    >>> output, loss = step(torch.zeros(4, 2), torch.zeros(4, dtype=torch.long))
    >>> output.shape, step.takes(torch.zeros(4, 2)), step.takes(torch.zeros(3, 2))
    (torch.Size([4, 2]), True, False)
    """

    def __init__(self, net: nn.Module, loss: Loss, backend: str | None = None) -> None:
        def forward(x: Tensor, y: Tensor) -> tuple[Any, Tensor]:
            output = net(x)
            return output, loss(output, y)

        self._plain: Callable[..., tuple[Any, Tensor]] = forward
        with _quiet():
            self._fast = compile_alone(forward, backend=backend or BACKEND, dynamic=False)
        self._shape: torch.Size | None = None
        self._begun = False

    def takes(self, x: Tensor) -> bool:
        """Whether a batch of this shape is run compiled."""
        return self._shape is None or x.shape == self._shape

    def __call__(self, x: Tensor, y: Tensor) -> tuple[Any, Tensor]:
        if not self.takes(x):
            return self._plain(x, y)
        self._shape = x.shape
        return self._fast(x, y)

    def step(self) -> AbstractContextManager[None]:
        """A room for one step, forward and backward: in the first, which compiles, failures of the compiler are told.

        Raises ``TrainError`` when the net cannot be compiled; nothing has been changed then.
        """
        return nullcontext() if self._begun else self._first()

    @contextmanager
    def _first(self) -> Iterator[None]:
        from torch._dynamo.exc import TorchDynamoException

        try:
            with _quiet():
                yield
        except TorchDynamoException as error:
            chain: list[BaseException] = [error]
            while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None and cause not in chain:
                chain.append(cause)
            if any(type(e).__name__ == "InvalidCxxCompiler" or "InvalidCxxCompiler" in str(e) for e in chain):
                raise _no_compiler() from error
            said = [line.strip() for line in str(error).splitlines() if line.strip()]
            why = " ".join(said[:2]) or type(error).__name__
            raise TrainError(
                f"torch.compile cannot compile this net with its loss ({why}): leave compile out; "
                f"the net has the weights from before"
            ) from error
        self._begun = True
