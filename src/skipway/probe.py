"""The dry run: what shape a layer makes of what arrives, without data.

Values travel as meta tensors. A layer is asked in eval mode, with its hooks asleep and its buffers stood in for, so no
statistics move and nothing is drawn at random. It is asked three ways, until one works:

1. with an empty batch: no row is computed. Nearly every layer answers, within microseconds.
2. on the meta device: for code that needs rows, such as ``x.view(len(x), -1)``. (Not at once, because the first
operation
   there makes torch import its compiler, which takes seconds.)
3. for real, as a copy, with two rows of zeros: for code that looks at numbers.
"""

from __future__ import annotations

import contextlib
import copy
import math
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.graph import increment_version

from .errors import SkipwayError
from .layer import parameters_made
from .observed import HOOKS
from .pools import BlurPool, Pool
from .value import BATCH, Layout, Value
from .wrap import Wrapped

_M = nn.modules
_FIRST = (
    _M.conv._ConvNd, _M.batchnorm._BatchNorm, _M.instancenorm._InstanceNorm, nn.GroupNorm, nn.LocalResponseNorm,
    _M.pooling._MaxPoolNd, _M.pooling._AvgPoolNd, _M.pooling._AdaptiveMaxPoolNd, _M.pooling._AdaptiveAvgPoolNd,
    nn.Upsample, nn.PixelShuffle, nn.PixelUnshuffle, nn.Dropout2d, nn.Dropout3d, Pool, BlurPool,
)  # fmt: skip
_LAST = (nn.Linear, nn.LayerNorm, nn.Embedding, nn.MultiheadAttention, nn.Bilinear)


class ProbeError(Exception):
    """A layer that could not be run on what arrives; ``cause`` is what the layer's own code raised, if it did."""

    cause: BaseException | None = None
    #: which part of a shortcut it was
    part: str = ""


@contextmanager
def blamed(part: str) -> Iterator[None]:
    """Say of a part that fails in here which it was."""
    try:
        yield
    except ProbeError as error:
        error.part = error.part or part
        raise


class NotATensor(ProbeError):
    """A layer that returned something else than one tensor."""


@contextmanager
def _asleep(module: nn.Module) -> Iterator[None]:
    """The module in eval mode, without hooks; as it was afterwards."""
    modes, hooks, marked = [], [], []
    for m in module.modules():
        if isinstance(m, _M.dropout._DropoutNd) and m.inplace:
            # in place only in training, which the dry run is not: let it show all the same
            m.__dict__["forward"] = _changed
            marked.append(m)
        modes.append((m, m.training))
        m.training = False
        for name in HOOKS:
            held = m.__dict__.get(name)
            if held:
                hooks.append((m, name, held))
                m.__dict__[name] = OrderedDict()
    try:
        yield
    finally:
        for m in marked:
            del m.__dict__["forward"]
        for m, mode in modes:
            m.training = mode
        for m, name, held in hooks:
            m.__dict__[name] = held


def _changed(x: Tensor) -> Tensor:
    increment_version(x)
    return x


def _own(fn: Any) -> bool:
    """Whether code runs that is not torch's, which might draw random numbers."""
    if isinstance(fn, Wrapped):
        fn = fn.fn
    module = type(fn).__module__ if isinstance(fn, nn.Module) else getattr(fn, "__module__", None)
    return (module or "torch").split(".")[0] not in ("torch", "skipway")


def _tensor(out: Any, fn: Any) -> Tensor:
    if not isinstance(out, Tensor):
        kind = f"a {type(out).__name__}" + (f" of {len(out)}" if isinstance(out, (tuple, list)) else "")
        raise NotATensor(f"returns {kind}; a chain carries one tensor: wrap it, lambda x: layer(x)[0]")
    if out.dim() == 0:
        raise NotATensor("returns a single number; a chain carries a batch")
    return out


def _on_empty(fn: Any, args: tuple[Tensor, ...]) -> Tensor:
    device = torch.device("cpu")
    if isinstance(fn, nn.Module):
        device = next((p.device for p in parameters_made(fn)), device)
    empty = [torch.empty((0, *a.shape[1:]), dtype=a.dtype, device=device) for a in args]
    versions = [e._version for e in empty]
    if isinstance(fn, nn.Module):
        buffers = {name: b.clone() for name, b in fn.named_buffers(remove_duplicate=False)} if _own(fn) else {}
        with _asleep(fn):
            out = torch.func.functional_call(fn, buffers, tuple(empty)) if buffers else fn(*empty)
    else:
        out = fn(*empty)
    out = _tensor(out, fn)
    if out.shape[0] != 0:
        raise ProbeError("mixes the rows of the batch")  # ask with rows
    for arg, e, version in zip(args, empty, versions, strict=True):
        if e._version != version:
            increment_version(arg)
    shape = (BATCH, *out.shape[1:])
    for arg, e in zip(args, empty, strict=True):
        if out is e:
            return arg
        if out._is_view() and out._base is e and math.prod(shape) <= arg.numel():
            # a view: what later changes it in place changes the value itself
            return arg.as_strided(shape, torch.empty(shape, device="meta").stride())
    return torch.empty(shape, dtype=out.dtype, device="meta")


def watch_training(fn: Any, value: Value) -> None:
    """Let a value show what a user's module changes in place only when it trains.

    Asked with two rows of zeros, since dropout leaves an empty batch alone. Whether it can run does not matter here, so
    this is only worth its cost where a shortcut still needs the value.
    """
    if not isinstance(fn, nn.Module) or not any(_own(m) for m in fn.modules()):
        return
    device = next((p.device for p in parameters_made(fn)), torch.device("cpu"))
    buffers = {name: b.clone() for name, b in fn.named_buffers(remove_duplicate=False)}
    forked = torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])
    with forked, torch.inference_mode(False), torch.no_grad(), _asleep(fn), contextlib.suppress(Exception):
        for module in fn.modules():
            module.training = True
        for trial in value.trials[:1]:
            rows = torch.zeros(trial.shape, dtype=trial.dtype, device=device)
            version = rows._version
            try:
                torch.func.functional_call(fn, buffers, (rows,))
            finally:
                if rows._version != version:
                    increment_version(trial)


def _on_meta(fn: Any, args: tuple[Tensor, ...]) -> Tensor:
    if not isinstance(fn, nn.Module):
        return _tensor(fn(*args), fn)
    held = [*fn.named_parameters(remove_duplicate=False), *fn.named_buffers(remove_duplicate=False)]
    swap = {name: torch.empty_like(t, device="meta") for name, t in held}
    with _asleep(fn):
        if not swap:
            return _tensor(fn(*args), fn)
        return _tensor(torch.func.functional_call(fn, swap, args), fn)


def _for_real(fn: Any, args: tuple[Tensor, ...]) -> Tensor:
    twin = copy.deepcopy(fn)
    device = torch.device("cpu")
    if isinstance(twin, nn.Module):
        twin.eval()
        device = next((p.device for p in twin.parameters()), device)
        with _asleep(twin):
            return _real_call(twin, args, device)
    return _real_call(twin, args, device)


def _real_call(fn: Any, args: tuple[Tensor, ...], device: torch.device) -> Tensor:
    real = [torch.zeros(a.shape, dtype=a.dtype, device=device) for a in args]
    versions = [r._version for r in real]
    out = _tensor(fn(*real), fn)
    for arg, r, version in zip(args, real, versions, strict=True):
        if r._version != version:
            increment_version(arg)  # what the layer does to its input must show on the meta tensor too
    return torch.empty(out.shape, dtype=out.dtype, device="meta")


def _dtype_of(fn: Any) -> torch.dtype | None:
    if not isinstance(fn, nn.Module):
        return None
    return next((p.dtype for p in fn.parameters() if p.is_floating_point()), None)


def run_once(fn: Callable[..., Any], *args: Tensor) -> Tensor:
    """The result of a layer or function on meta tensors. Raises :class:`ProbeError` with the layer's own complaint."""
    state = torch.get_rng_state() if _own(fn) else None
    try:
        with torch.inference_mode(False), torch.no_grad():
            first = None
            other = _dtype_of(fn)
            cast = other is not None and any(a.dtype != other for a in args)
            tries = [(_on_empty, None), *([(_on_empty, other)] if cast else []), (_on_empty, torch.int64)]
            tries += [(_on_meta, None), *([(_on_meta, other)] if cast else []), (_on_meta, torch.int64)]
            tries += [(_for_real, None), (_for_real, torch.int64)]
            for how, dtype in tries:
                try:
                    return how(fn, args if dtype is None else tuple(a.to(dtype) for a in args))
                except NotATensor:
                    raise
                except Exception as error:
                    first = first or error
            if isinstance(first, SkipwayError):
                raise ProbeError(str(first)) from None
            lines = str(first).strip().splitlines() or [""]
            failed = ProbeError(f"{type(first).__name__}: {lines[0]}")
            # what torch says of shapes is told in our words; what the user's code raises keeps its traceback
            failed.cause = None if isinstance(first, RuntimeError) else first
            raise failed from None
    finally:
        if state is not None:
            torch.set_rng_state(state)


def run(fn: Callable[..., Any], *values: Value) -> tuple[Tensor, ...]:
    """The result for every trial; empty where an argument is unknown or trials do not match up."""
    if len({len(v.trials) for v in values}) != 1:
        return ()
    return tuple(run_once(fn, *args) for args in zip(*(v.trials for v in values), strict=True))


def layout_of(fn: Any) -> Layout | None:
    """Where a layer puts its features: ``"first"`` (axis 1), ``"last"``, or ``None`` where it leaves them.

    A layer of one's own says it by an attribute ``layout``.
    """
    said = getattr(fn, "layout", None)
    if isinstance(said, str) and said in ("first", "last"):
        return cast(Layout, said)
    if isinstance(fn, _FIRST):
        return "first"
    if isinstance(fn, _LAST) or type(fn).__name__ in ("RMSNorm",):
        return "last"
    if not isinstance(fn, nn.Module):
        return None
    kinds = {layout_of(m) for m in fn.children()} - {None}
    return kinds.pop() if len(kinds) == 1 else None


def kept_layout(value: Value, trials: tuple[Tensor, ...]) -> Layout | None:
    """The layout after something that says nothing of its own: kept where as many features lie on the same axis."""
    after = Value(trials, value.layout)
    same_rank = bool(trials) and trials[0].dim() == value.trials[0].dim()
    return value.layout if same_rank and (len(trials[0].shape) == 2 or after.width == value.width) else None


def implied(layer: Any) -> Value:
    """What a layer says it takes, where its own widths tell: vectors for Dense, images of any size for Conv."""
    if isinstance(layer, nn.Linear) and isinstance(layer.in_features, int):
        return Value.of((layer.in_features,), "last", _dtype_of(layer))
    if isinstance(layer, _M.conv._ConvNd) and isinstance(layer.in_channels, int):
        return Value.channels(layer.in_channels, len(layer.kernel_size))
    if isinstance(layer, nn.BatchNorm1d):
        return Value.of((layer.num_features,), "last", _dtype_of(layer))
    if isinstance(layer, (nn.BatchNorm2d, nn.BatchNorm3d)):
        return Value.channels(layer.num_features, 2 if isinstance(layer, nn.BatchNorm2d) else 3)
    if isinstance(layer, nn.LayerNorm) and layer.normalized_shape is not ...:
        return Value.of(tuple(layer.normalized_shape), "last", _dtype_of(layer))
    if isinstance(layer, nn.Sequential) and len(layer):
        return implied(layer[0])
    return Value()


def expected(layer: Any) -> tuple[int, int] | None:
    """``(axis, width)`` that a layer with known widths asks for; the axis counts in the shape without the batch."""
    if isinstance(layer, nn.Linear) and isinstance(layer.in_features, int):
        return -1, layer.in_features
    if isinstance(layer, _M.conv._ConvNd) and isinstance(layer.in_channels, int):
        return -1 - len(layer.kernel_size), layer.in_channels
    if isinstance(layer, _M.batchnorm._BatchNorm) and isinstance(layer.num_features, int):
        return 0, layer.num_features
    if isinstance(layer, nn.GroupNorm):
        return 0, layer.num_channels
    if isinstance(layer, nn.LayerNorm) and layer.normalized_shape is not ... and len(layer.normalized_shape) == 1:
        return -1, layer.normalized_shape[0]
    return None


def resized(value: Value, axis: int, width: int) -> Value:
    """The same value with another number of features."""
    out = []
    for t in value.trials:
        shape = list(t.shape[1:])
        shape[axis] = width
        out.append(t.new_empty((BATCH, *shape)))
    return value.like(out)
