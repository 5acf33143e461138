"""Training steps that were recorded once and are played again, without autograd: the same numbers in less time.

In a small net most of a training step is not arithmetic: autograd builds its graph anew every time, and every operator
asks for memory. Where the code of the net and of the loss does the same for every batch of one shape, the operators of
a step are always the same, and can be recorded once and written down (:mod:`skipway.train.straight`). They are those
that autograd calls, in its order, so that what comes out is the same to the last bit; that is looked at when a step has
been recorded, and :func:`fit` goes on as before where it is not so.
"""

from __future__ import annotations

import functools
import statistics
import sys
import time
import types
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from skipway.errors import TrainError
from skipway.observed import all_observed, dispatched, observed
from skipway.train.guard import random_states, set_random_states
from skipway.train.losses import LOSSES, Loss
from skipway.train.straight import Straight, Unfit
from skipway.wrap import Wrapped, describe

#: steps that are timed before it is asked whether recording would pay, after as many that are not
WATCHED = 4
#: steps of each kind that are timed, in turns, once a step has been recorded
TRIED = 5
#: seconds that recording takes (2 for what torch imports the first time, 0.02 for every module), and the share of a
#: step that is expected in return
FIRST, COST, GAIN = 2.0, 0.02, 0.2
#: how often a step is recorded anew, unasked
CHANGES = 3
#: bytes that the values of a step may take: what is gained is Python's time, and nothing beside steps that are larger
LARGE = 1 << 28

#: modules of torch that look at values
_LOOKING = (nn.MultiheadAttention, nn.modules.rnn.RNNBase, nn.modules.rnn.RNNCellBase, nn.AdaptiveLogSoftmaxWithLoss)
#: where the code is that keeps what changes in tensors
_HOUSES = ("skipway.", "torch.nn.modules.", "torch.nn.functional", "torch.nn.utils.parametriz", "torch.functional",
           "torch._C", "torch._jit_internal", "torch.special")  # fmt: skip
_TENSOR_HOOKS = ("_backward_hooks", "_post_accumulate_grad_hooks")

#: what the tracer imports when it is first used, and takes longest
_TRACER = "sympy"

Step = Callable[[Tensor, Tensor], tuple[Any, Tensor]]


def check_recorded(recorded: bool | str, compile: bool, precision: str, device: torch.device) -> None:
    """Raise ``TrainError`` for what ``recorded=`` cannot be, here or at all."""
    if not isinstance(recorded, bool) and recorded != "auto":
        raise TrainError(f'recorded must be "auto", True or False, not {recorded!r}')
    if recorded is True:
        other = "compile=True" if compile else 'precision="bf16"' if precision != "fp32" else f"device={str(device)!r}"
        if compile or precision != "fp32" or device.type != "cpu":
            raise TrainError(f"recorded=True is for full precision on the CPU, not for {other}: leave one out")


def varying(net: nn.Module, loss: str) -> str:
    """Why the code of a net or its loss may not do the same for every batch; ``""`` where it is known to.

    >>> varying(nn.Sequential(nn.Linear(2, 2), nn.ReLU()), "mse")
    ''
    >>> varying(nn.Sequential(nn.Linear(2, 2), nn.LSTM(2, 2)), "mse")
    "layer '1' is a LSTM, whose code is not known"
    """
    return f"the loss {loss} is not one of skipway's" if loss not in LOSSES else _first(net, _varying)


def _first(net: nn.Module, ask: Callable[[nn.Module], str]) -> str:
    """The first answer that a module of a net gives, and which it is."""
    for name, module in net.named_modules():
        what = ask(module)
        if what:
            return f"layer {name!r} {what}" if name else f"the net {what}"
    return ""


def _varying(module: nn.Module) -> str:
    kind = type(module)
    if isinstance(module, Wrapped) and not _known(module.fn):
        return f"calls {describe(module.fn)}, whose code is not known"
    if not _known(module) or isinstance(module, _LOOKING):
        return f"is a {kind.__name__}, whose code is not known"
    if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.momentum is None:
        return "averages over all batches, and counts them"
    if getattr(module, "_segments", ()) and getattr(module, "_engine", "off") != "off":
        return "has dense blocks, which an engine may run"
    return ""


def _known(thing: Any) -> bool:
    """Whether a module or function is skipway's or torch's, so that it keeps what changes in tensors."""
    if isinstance(thing, functools.partial):
        return _known(thing.func)
    house = thing.__module__ if isinstance(thing, types.FunctionType) else type(thing).__module__
    return (house or "").startswith(_HOUSES) or isinstance(thing, types.BuiltinFunctionType)


def _observed(module: nn.Module) -> str:
    """What of a module autograd would call, and a recorded step would not."""
    if observed(module):
        return "has hooks, or a forward of its own"
    if any(getattr(p, hooks, None) for p in module.parameters(recurse=False) for hooks in _TENSOR_HOOKS):
        return "has hooks on a parameter"
    if isinstance(module, (nn.DataParallel, nn.parallel.DistributedDataParallel)) or hasattr(module, "_orig_mod"):
        return f"is a {type(module).__name__}, which has a way of its own to run"
    return ""


def watched(net: nn.Module) -> str:
    """What would notice that operators are not called as they were; ``""`` where nothing does.

    >>> net = nn.Sequential(nn.Linear(2, 2))
    >>> handle = net[0].register_forward_hook(print)
    >>> watched(net)
    "layer '0' has hooks, or a forward of its own"
    """
    if all_observed():
        return "hooks watch all modules"
    if dispatched() or torch.is_anomaly_enabled() or torch.are_deterministic_algorithms_enabled():
        return "torch watches what is called"
    if torch.is_autocast_enabled("cpu"):  # which fit switches off for its steps, and is not recorded
        return "autocast is on around it"
    return _first(net, _observed)


#: what an attribute may be that a forward reads: the probability of a dropout, whether a norm is training
_PLAIN = (bool, int, float, str, tuple, type(None))


class Held(NamedTuple):
    """What a recorded step reads and writes of a net, and how it was when it was recorded."""

    parameters: tuple[nn.Parameter, ...]
    tensors: tuple[Tensor, ...]
    state: tuple[Any, ...]

    @classmethod
    def of(cls, net: nn.Module) -> Held:
        parameters = tuple(net.parameters())
        buffers = tuple(net.buffers())
        state = (
            *((id(m), [item for item in vars(m).items() if isinstance(item[1], _PLAIN)]) for m in net.modules()),
            *((id(t), t.data_ptr(), t.dtype, t.requires_grad, t.stride()) for t in (*parameters, *buffers)),
        )
        return cls(parameters, (*(p.detach() for p in parameters), *buffers), state)


class Recorded:
    """Training steps: ``step(x, y)`` leaves the gradients in the parameters, and gives output and loss.

    Parameters
    ----------
    net, loss:
        what is trained; ``name`` is the name of the loss.
    plain:
        the step as autograd does it, which is what runs until a step has been recorded, and for batches of another
        shape than the recorded one.
    steps:
        how many steps will come, 0 where that is not known.
    always:
        record the first step, whether it pays or not, and whatever the code of the net is.

    ``why`` tells why nothing is recorded, where that is settled.

    >>> net = nn.Sequential(nn.Linear(3, 2))
    >>> loss = nn.functional.cross_entropy
    >>> def plain(x, y):
    ...     net.zero_grad()
    ...     output = net(x)
    ...     value = loss(output, y)
    ...     value.backward()
    ...     return output, value
    >>> step = Recorded(net, loss, "logitcrossentropy", plain, steps=1, always=True)
    >>> x, y = torch.ones(4, 3), torch.zeros(4, dtype=torch.long)
    >>> made = [step(x, y)[1].item() for _ in range(3)]
    >>> step.straight is not None, made[0] == made[1] == made[2]
    (True, True)
    """

    def __init__(
        self, net: nn.Module, loss: Loss, name: str, plain: Step, *, steps: int = 0, always: bool = False
    ) -> None:
        self._net, self._loss, self._name, self._plain = net, loss, name, plain
        self._left, self._always = steps, always
        self._took: dict[bool, list[float]] = {False: [], True: []}
        self._seen = 0
        self._key: Any = None
        self._held: Held | None = None
        self.straight: Straight | None = None
        self._decided = False
        self._changes = 0
        self.why = ""

    def begin(self) -> None:
        """Called before an epoch: what was changed since the last one is seen, and then recorded anew."""
        if self.why:
            return
        why = watched(self._net) or ("" if self._always else varying(self._net, self._name))
        if why:
            self._give_up(why)
        elif self._held is not None and Held.of(self._net).state != self._held.state:
            self._changes += 1
            if self._changes > CHANGES and not self._always:
                self._give_up("the net changes from epoch to epoch")
                return
            self.straight = self._held = None
            self._seen, self._decided, self._took = 0, False, {False: [], True: []}

    def _give_up(self, why: str) -> None:
        self.why, self.straight, self._held = why, None, None
        if self._always:
            raise TrainError(f"recorded=True: a step cannot be recorded, {why}. Leave recorded out")

    def __call__(self, x: Tensor, y: Tensor) -> tuple[Any, Tensor]:
        self._left -= 1
        if self.straight is not None and self._decided:
            return self._play(x, y) if _key(x, y) == self._key else self._plain(x, y)
        if self.why or (self._seen and _key(x, y) != self._key):
            return self._plain(x, y)
        return self._consider(x, y)

    def _consider(self, x: Tensor, y: Tensor) -> tuple[Any, Tensor]:
        """A step before it is settled whether steps are played: timed, recorded, or compared."""
        self._seen += 1
        if self._seen == 1:
            self._key = _key(x, y)
        if self.straight is None:
            if self._always or self._seen == 2 * WATCHED + 1:
                return self._record(x, y)
            return self._timed(False, x, y) if self._seen > WATCHED else self._plain(x, y)
        if len(self._took[True]) == TRIED:
            self._decided = True
            plain, played = (statistics.median(self._took[kind][-TRIED:]) for kind in (False, True))
            if played > plain:
                self._give_up(f"it takes {1e3 * played:.3g} ms, and {1e3 * plain:.3g} ms as it is")
            return self(x, y)
        return self._timed(len(self._took[True]) < len(self._took[False]) - WATCHED, x, y)

    def _timed(self, play: bool, x: Tensor, y: Tensor) -> tuple[Any, Tensor]:
        start = time.perf_counter()
        made = self._play(x, y) if play else self._plain(x, y)
        self._took[play].append(time.perf_counter() - start)
        return made

    def _play(self, x: Tensor, y: Tensor) -> tuple[Any, Tensor]:
        assert self.straight is not None
        assert self._held is not None
        with torch.no_grad():
            output, loss, gradients = self.straight.call(x, y)
        for p, gradient in zip(self._held.parameters, gradients, strict=True):
            p.grad = gradient
        return output, loss

    def _record(self, x: Tensor, y: Tensor) -> tuple[Any, Tensor]:
        """A plain step, and besides it a recorded one, which must come to the same."""
        if not self._always:
            took = statistics.median(self._took[False])
            cost = COST * sum(1 for _ in self._net.modules()) + (0.0 if _TRACER in sys.modules else FIRST)
            if took * GAIN * self._left < cost:
                self._give_up("it does not pay for so few steps")
                return self._plain(x, y)
        held = Held.of(self._net)
        before = [b.clone() for b in self._net.buffers()], random_states(x.device)
        output, loss = self._plain(x, y)
        after = [b.clone() for b in self._net.buffers()], random_states(x.device)
        gradients = [p.grad for p in held.parameters]
        try:
            straight = _written(self._net, self._loss, held, x, y)
            self._go_back(before)
            self.straight, self._held = straight, held
            played = self._play(x, y)
            same = _same([*played, *(p.grad for p in held.parameters)], [output, loss, *gradients])
            now = [*self._net.buffers()], random_states(x.device)
            if not (same and _same(now[0], after[0]) and _same([*now[1].values()], [*after[1].values()])):
                raise Unfit("its numbers are not the same to the last bit")
        except Unfit as why:
            problem = str(why)
        except Exception as error:  # a tracer fails in ways of its own; nothing has been lost
            problem = f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
        else:
            self._decided = self._always
            return output, loss
        self._go_back(after)
        for p, gradient in zip(held.parameters, gradients, strict=True):
            p.grad = gradient
        self._give_up(problem)
        return output, loss

    def _go_back(self, to: tuple[Sequence[Tensor], dict[str, Tensor]]) -> None:
        with torch.no_grad():
            for buffer, kept in zip(self._net.buffers(), to[0], strict=True):
                buffer.copy_(kept)
        device = next((b.device for b in self._net.parameters()), torch.device("cpu"))
        set_random_states(to[1], device)


def _key(x: Any, y: Any) -> Any:
    """What a recorded step is bound to in a batch."""
    return x.shape, x.stride(), x.dtype, y.shape, y.dtype


def _same(left: Sequence[Any], right: Sequence[Any]) -> bool:
    """Whether tensors are the same to the last bit; none of them is NaN then."""
    return all(_alike(a, b) for a, b in zip(left, right, strict=True))


def _alike(a: Any, b: Any) -> bool:
    if not (isinstance(a, Tensor) and isinstance(b, Tensor)):
        return a is None and b is None
    return torch.equal(a, b)


def _written(net: nn.Module, loss: Loss, held: Held, x: Tensor, y: Tensor) -> Straight:
    """A step of a net on a batch as straight-line code. Raises :class:`Unfit`."""
    try:
        from torch.fx.experimental.proxy_tensor import make_fx
    except ImportError as error:
        raise Unfit("this PyTorch has no tracer") from error
    names = [name for name, _ in net.named_parameters()]
    states = [name for name, _ in net.named_buffers()]
    trained = [i for i, p in enumerate(held.parameters) if p.requires_grad]

    def step(parameters: list[Tensor], buffers: list[Tensor], x: Tensor, y: Tensor) -> list[Tensor | None]:
        state = dict(zip([*names, *states], [*parameters, *buffers], strict=True))
        output = torch.func.functional_call(net, state, (x,))
        value = loss(output, y)
        made = torch.autograd.grad(value, [parameters[i] for i in trained], allow_unused=True)
        gradients: list[Tensor | None] = [None] * len(parameters)
        for i, gradient in zip(trained, made, strict=True):
            gradients[i] = gradient
        return [output, value, *gradients]

    count = len(held.parameters)
    parameters = [
        t.clone().requires_grad_(p.requires_grad) for t, p in zip(held.tensors, held.parameters, strict=False)
    ]
    buffers = [t.clone() for t in held.tensors[count:]]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = make_fx(step)(parameters, buffers, x, y)
    size = sum(_bytes(node.meta.get("tensor_meta")) for node in made.graph.nodes)
    if size > LARGE:
        raise Unfit(f"its values take {size >> 20} MB, beside which Python's time is nothing")
    with torch.no_grad():
        return Straight(made.graph, held.tensors, (x, y), held.parameters, made)


def _bytes(meta: Any) -> int:
    return meta.shape.numel() * meta.dtype.itemsize if hasattr(meta, "dtype") else 0
