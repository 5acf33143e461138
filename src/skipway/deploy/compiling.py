"""``compile``: a net folded, on the engine that runs it fastest here."""

from __future__ import annotations

import itertools
import os
import pickle
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from skipway.chain import Chain
from skipway.errors import ChainError, nearest

from .engines import ENGINES, Engine, Precision, Run, Unfit, forget
from .folding import Folded, fold
from .layers import Clamp
from .measure import measured, seconds_of
from .onednn import has_bf16

#: seconds a call of the net takes at most for engines to be tried on one thread
SMALL = 0.02
#: the largest difference from the net, relative to its largest output, with which an engine is used
CLOSE = {"fp32": 1e-4, "bf16": 0.1}


@dataclass(frozen=True)
class Candidate:
    """An engine that was tried.

    Attributes
    ----------
    engine:
        its name.
    computes:
        the precision it computes in.
    norms:
        whether it was given norm and relu as they were, rather than the clamp that folding makes of them.
    alone:
        whether it runs on one thread, which is faster where the net is so small that threads wait for each other.
    milliseconds:
        the median time of a call on the example; ``nan`` where it was not measured.
    difference:
        the largest difference from the net on the example, relative to the largest output; ``nan`` if it did not run.
    why:
        why it is not used, where it is not.
    """

    engine: str
    computes: Precision = "fp32"
    norms: bool = False
    alone: bool = False
    milliseconds: float = float("nan")
    difference: float = float("nan")
    why: str = ""

    @property
    def name(self) -> str:
        """What a table calls it."""
        return self.engine + (", norms" if self.norms else "") + (", 1 thread" if self.alone else "")


class Compiled:
    """A net to use: call it with a batch. What :func:`compile` makes.

    Attributes
    ----------
    engine, precision:
        what it runs on, and the precision that was asked for; ``candidates[0].computes`` is the one it computes in.
    candidates:
        all engines that were tried, the fastest first.
    chain:
        the folded chain it came from, with its ``report``.
    """

    def __init__(
        self, run: Run, chain: Folded, example: Tensor, precision: Precision, candidates: tuple[Candidate, ...]
    ) -> None:
        self._run, self._example = run, example
        self.chain, self.precision, self.candidates = chain, precision, candidates
        self.engine = candidates[0].engine
        self._shape, self._kind = tuple(example.shape[1:]), (example.device.type, example.dtype)
        self._alike = example.shape, example.dtype, example.device

    def __call__(self, x: Tensor) -> Tensor:
        """The output for a batch, ``(N, *)`` to ``(N, *)``; without gradients. Any N, from any thread.

        Raises ``ChainError`` for an input of another kind than the example.
        """
        if type(x) is not Tensor or torch.is_autocast_enabled(self._kind[0]):
            return self._other(x)
        shape, dtype, device = self._alike
        if x.shape == shape and x.dtype == dtype and x.device == device:  # the common case, in under a microsecond
            return self._run(x)
        return self._other(x)

    def _other(self, x: Tensor) -> Tensor:
        """The output for an input that is not just like the example."""
        if not isinstance(x, Tensor):
            raise ChainError(f"this net takes a tensor of shape {('N', *self._shape)}, not {type(x).__name__}")
        if (x.device.type, x.dtype) != self._kind or x.dim() != len(self._shape) + 1:
            device, dtype = self._kind
            raise ChainError(
                f"this net was compiled for {dtype} on {device} of shape {('N', *self._shape)}, and gets {x.dtype} on "
                f"{x.device.type} of shape {tuple(x.shape)}"
            )
        try:
            with torch.autocast(self._kind[0], enabled=False):  # the precision was chosen when it was compiled
                return self._run(x)
        except ChainError:
            raise
        except Exception as error:  # engines refuse in ways of their own
            if x.shape[1:] == self._shape:
                raise
            raise ChainError(
                f"this net was compiled on inputs of shape {('N', *self._shape)}, and {self.engine} does not take "
                f"{tuple(x.shape)}: give that shape, or compile(net, example) for an example of the other one"
            ) from error

    def __getstate__(self) -> Any:
        raise ChainError("a compiled net holds an engine, which cannot be pickled: write it with save(path)")

    def __deepcopy__(self, memo: Any) -> Compiled:
        return self  # nothing in it changes

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the folded chain, the engine's name and the example: :func:`load` builds the engine again."""
        computes = self.candidates[0].computes
        held = {"chain": self.chain, "engine": self.engine, "precision": computes, "example": self._example}
        try:
            torch.save(held, path)
        except (AttributeError, TypeError, pickle.PicklingError) as error:
            raise ChainError(f"this chain holds something that cannot be written, such as a lambda: {error}") from None

    def __str__(self) -> str:
        lines = [f"compiled for {self.engine}, {self.precision}, on input {tuple(self._example.shape)}"]
        lines.append(f"  {'engine':28} {'in':4} {'ms':>9} {'difference':>11}")
        for c in self.candidates:
            took = "" if c.milliseconds != c.milliseconds else f"{c.milliseconds:.3f}"
            apart = "" if c.difference != c.difference else f"{c.difference:.1e}"
            lines.append(f"  {c.name:28} {c.computes:4} {took:>9} {apart:>11}  {c.why}".rstrip())
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"<Compiled {self.engine} {self.precision}, {self.candidates[0].milliseconds:.3f} ms>"


def compile(
    net: Chain, example: Tensor, engine: str = "auto", precision: Precision = "fp32", *, seconds: float = 1.0
) -> Compiled:
    """Fold a net, and put it on the engine that runs it fastest on this machine.

    Parameters
    ----------
    net:
        a closed chain in eval mode, which stays as it is; or one that was folded already.
    example:
        a batch as it will come, ``(N, *input)``: engines are checked and measured on it. Other N work too, and other
        image sizes where the engine takes them.
    engine:
        ``"eager"``, ``"channels_last"`` (PyTorch as it is, images with their channels last in memory), ``"onednn"``
        (PyTorch's fused operators for CPUs, in straight-line code), ``"cuda_graph"`` (recorded once, launched at once),
        ``"compile"`` (PyTorch's compiler, with weights as constants; takes a minute and a C++ compiler),
        ``"onnxruntime"`` or ``"openvino"`` (``pip install "skipway[onnx]"``, ``"skipway[openvino]"``). ``"auto"`` tries
        what is installed, but ``"compile"`` on a CPU only where there is neither of the last two, which are built much
        sooner; ``"all"`` tries everything.
    precision:
        ``"fp32"`` or ``"bf16"``, which says how much may be rounded: where several engines are tried, those that
        compute in float32 compete too, alone on processors without bf16. Inputs and outputs are float32 in both.
    seconds:
        about how long to measure each engine.

    Returns
    -------
    Compiled
        a callable; ``print`` shows what was measured. An engine whose output differs from the net's is never used.

    Raises
    ------
    ChainError
        for an engine or precision that is not there, one asked for by name that is not installed or cannot run the net,
        an example that the net cannot take, and a net in training mode.

    Engines that fuse relu may turn NaN into 0, where PyTorch keeps it: look for NaN before the net, not after it.

    >>> import torch
    >>> from skipway import BatchNorm, Chain, Dense, relu
    >>> net = Chain(Dense(4, 8), BatchNorm(8), relu, Dense(8, 2)).eval()
    >>> fast = compile(net, torch.randn(32, 4), engine="eager")
    >>> fast.engine, fast(torch.randn(7, 4)).shape
    ('eager', torch.Size([7, 2]))
    """
    if not isinstance(example, Tensor):
        raise ChainError(f"compile takes an example to measure on, a tensor of shape (N, *input), not {example!r}")
    if precision not in CLOSE:
        raise ChainError(f'precision= is "fp32" or "bf16", not {precision!r}: {nearest(str(precision), CLOSE)}')
    if not len(example):
        raise ChainError("compile takes an example of at least one row to measure on, and this one has none")
    names = _named(engine, example.device.type)
    folded = net if isinstance(net, Folded) else fold(net, check=False)
    clamped = folded is not net and any(isinstance(module, Clamp) for module in folded.modules())
    chains = {False: folded} | ({True: fold(net, check=False, clamps=False)} if clamped else {})
    expected = _expected(net, example)
    with torch.no_grad():
        small = torch.get_num_threads() > 1 and seconds_of(lambda: net(example)) < SMALL
    tried: list[tuple[Run | None, Candidate]] = []
    for name, computes in itertools.product(names, _precisions(precision, names)):
        if computes == "bf16" and len(names) > 1 and example.device.type == "cpu" and not has_bf16():
            tried.append((None, Candidate(name, computes, why="this processor has no bf16 arithmetic")))
            continue
        kinds = itertools.product(
            [norms for norms in chains if not norms or ENGINES[name].norms],
            [alone for alone in (False, small) if not alone or ENGINES[name].alone],
        )
        for norms, alone in dict.fromkeys(kinds):
            tried.append(_try(Candidate(name, computes, norms, alone), chains[norms], example, precision, expected))
    for chain in chains.values():
        forget(chain)
    runs = {candidate: run for run, candidate in tried if run is not None}
    if not runs:
        whys = "; ".join(f"{c.name}: {c.why}" for _, c in tried)
        asked = f"engine={engine!r} cannot be used" if len(names) == 1 else "no engine can be used"
        raise ChainError(f"{asked}: {tried[0][1].why if len(tried) == 1 else whys}")
    took, behind = measured({candidate: _call(run, example) for candidate, run in runs.items()}, seconds)
    ranked = sorted((c for _, c in tried), key=lambda c: (c not in took, c in behind, took.get(c, 0.0)))
    candidates = tuple(
        replace(c, milliseconds=took.get(c, float("nan")), why=c.why or ("far behind" if c in behind else ""))
        for c in ranked
    )
    return Compiled(runs[ranked[0]], chains[ranked[0].norms], example, precision, candidates)


def _expected(net: Chain, example: Tensor) -> Tensor:
    """What the net makes of the example."""
    own = next((p.dtype for p in net.parameters() if p.is_floating_point()), example.dtype)
    if own not in (torch.float32, torch.float64):
        raise ChainError(f'the net is {own}: give the float32 net, net.float(), and say precision="bf16"')
    if example.is_floating_point() and example.dtype != own:
        raise ChainError(f"the example is {example.dtype}, and the net is {own}: give example.to({own})")
    try:
        with torch.no_grad():
            made = net(example)
    except ChainError:
        raise
    except Exception as error:
        told = f"{example.dtype} {tuple(example.shape)}"
        raise ChainError(f"the net cannot take the example, {told}: {' '.join(str(error).split())[:160]}") from error
    if not bool(torch.isfinite(made).all()):
        raise ChainError("the net's own output for the example is not finite, so no engine can be compared with it")
    return made


def load(path: str | os.PathLike[str], engine: str | None = None) -> Compiled:
    """What :meth:`Compiled.save` wrote, with its engine built again on this machine.

    ``engine`` takes another than the one it was saved for, as in :func:`compile`. The file holds Python objects: load
    only what you trust. Raises ``ChainError`` where the engine is not installed, and for a file that ``save`` did not
    write.
    """
    held: Any = torch.load(path, weights_only=False)
    if not isinstance(held, dict) or not {"chain", "engine", "precision", "example"} <= set(held):
        raise ChainError(f"{os.fspath(path)} was not written by save of a compiled net")
    saved = held["engine"]
    gone = ENGINES[saved].missing if saved in ENGINES else "is not an engine of this version"
    if engine is None and gone:
        raise ChainError(f'this net was saved for {saved}, which {gone}; or run it on another: load(path, "auto")')
    return compile(held["chain"], held["example"], engine or saved, held["precision"], seconds=0.1)


def _precisions(asked: Precision, names: list[str]) -> list[Precision]:
    """The precisions to try: float32 is allowed for bf16 too, where it is not one engine that was asked for."""
    return ["bf16", "fp32"] if asked == "bf16" and len(names) > 1 else [asked]


def _named(engine: str, device: str) -> list[str]:
    """The engines to try."""
    if engine == "all":
        return list(ENGINES)
    if engine == "auto":
        others = [name for name, e in ENGINES.items() if e.extra and device in e.devices and not e.missing]
        fit = [name for name, e in ENGINES.items() if device in e.devices]
        return [name for name in fit if name != "compile" or not others]
    if engine not in ENGINES:
        raise ChainError(f'engine= is "auto", "all" or an engine, not {engine!r}: {nearest(str(engine), ENGINES)}')
    return [engine]


def _try(
    candidate: Candidate, chain: Folded, example: Tensor, precision: Precision, expected: Tensor
) -> tuple[Run | None, Candidate]:
    """An engine, if it can be built and computes what the net does."""
    engine: Engine = ENGINES[candidate.engine]
    if engine.missing:
        return None, replace(candidate, why=engine.missing)
    if example.device.type not in engine.devices:
        return None, replace(candidate, why=f"does not run on {example.device.type}")
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # exporters warn of what is theirs to mend
            alone = {"threads": 1} if candidate.alone else {}
            run = engine.build(chain, example, candidate.computes, **alone)
            found = run(example)
            apart = _apart(expected, found)
            if len(example) > 1 and found.shape == expected.shape:  # and with another number of rows
                apart = max(apart, _apart(expected[:1], run(example[:1])))
    except Unfit as why:
        return None, replace(candidate, why=str(why))
    except Exception as error:  # engines fail in ways of their own, and there are others
        return None, replace(candidate, why=_told(error))
    if not apart <= CLOSE[precision]:
        return None, replace(candidate, difference=apart, why="its output differs from the net's")
    return run, replace(candidate, difference=apart)


#: how exporters and engines name an operator that they have not
_LACKING = (
    re.compile(r"No ONNX function found for <OpOverload\(op='([\w.:]+)'"),
    re.compile(r"No (?:conversion rule|translator) found for (?:operations?|nodes?)?:? *([\w.:]+)"),
    re.compile(r"(?:[Nn]ot [Ii]mplemented|[Uu]nsupported)[^.]*?op(?:erator)?s?:? *'?([\w.:]+)"),
)


def _told(error: BaseException) -> str:
    """What an engine failed with, the operator it lacks by name."""
    cause: BaseException | None = error
    while cause is not None:
        for pattern in _LACKING:
            found = pattern.search(str(cause))
            if found:
                return f"has no operator {found[1]}"
        cause = cause.__cause__ or cause.__context__
    told = " ".join(str(error).split())
    return f"{type(error).__name__}: {told[:160]}"


def _apart(expected: Tensor, found: Tensor) -> float:
    if found.shape != expected.shape:
        return float("inf")
    large = float(expected.abs().max()) or 1.0
    return float((found.float() - expected.float()).abs().max()) / large


def _call(run: Run, example: Tensor) -> Callable[[], object]:
    if example.device.type != "cuda":
        return lambda: run(example)

    def call() -> None:
        run(example)
        torch.cuda.synchronize()

    return call
