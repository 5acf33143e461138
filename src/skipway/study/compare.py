"""``compare``: several nets, trained the same way on the same data."""

from __future__ import annotations

import contextlib
import copy
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from skipway.chain import Chain
from skipway.errors import SkipwayError, TrainError
from skipway.study.comparison import Comparison, Run
from skipway.study.controls import controls
from skipway.study.given import need_classes
from skipway.study.kept import Kept, data_known, net_known
from skipway.study.watch import Watch
from skipway.train import History, State, fit
from skipway.train.batches import TensorSource, source_of
from skipway.train.checks import check_fit, check_net, check_options, choose_device, try_forward
from skipway.train.guard import random_states, set_random_states, untouched
from skipway.train.losses import Loss, choose_loss, is_labels
from skipway.train.optimizers import OptimizerLike, make_optimizer

# rows that gradients are measured on, spread evenly over the training data
_ROWS = 256

Net = nn.Module | Callable[[], nn.Module]


def compare(
    nets: Mapping[str, Net] | Chain | Callable[[], Chain],
    train: Any,
    test: Any = None,
    *,
    epochs: int,
    batch: int | None = 64,
    lr: float = 1e-3,
    optimizer: OptimizerLike = "adamw",
    loss: str | Loss = "auto",
    device: str | torch.device = "auto",
    precision: str = "fp32",
    seed: int = 0,
    seeds: int = 1,
    threads: int | None = None,
    run: str | Path | None = None,
    progress: bool = True,
) -> Comparison:
    """Train every net with the same options on the same data in the same order, and measure.

    Parameters
    ----------
    nets:
        name to net. A function without arguments is called once a seed, under that seed, so that functions that make
        the same layers in the same order begin with the same weights. A module is copied for every run, with its
        weights; nothing you hold is trained. A single chain, or a function that makes one, is compared with its
        controls: the plain twin, and plain nets with as many parameters and multiply-adds
        (:func:`skipway.study.controls`).
    train, test, epochs, batch, lr, optimizer, loss, device, precision:
        as in :func:`skipway.fit`.
    seed, seeds:
        the first seed, and how many: ``seed, seed + 1, ...``. A seed rules the order of the data and the functions in
        ``nets``.
    threads:
        CPU threads for torch while this runs; None leaves them. For layers of some 64 wide, 1 is the fastest.
    run:
        a folder that keeps every run when it ends. With the same nets, options and data again, those in it are not
        trained again: an interrupted comparison goes on, and more seeds and nets can be added.
    progress:
        False is silent. Otherwise bars on a terminal, and lines elsewhere.

    Returns
    -------
    A :class:`Comparison`. A net whose loss becomes NaN or infinite is in it, as one that failed.

    Raises
    ------
    TrainError, DataError, ChainError
        for everything that cannot be trained, with the name of the net, before the first net is trained. The random
        state and the number of threads are as before, however it ends.
    CheckpointError
        for a folder that cannot be written, or that keeps runs of other nets, options or data.

    >>> from skipway import Chain, Dense, Skip, relu
    >>> x = torch.linspace(-1, 1, 60).unsqueeze(1)
    >>> y = (x[:, 0] > 0).long()
    >>> nets = {
    ...     "plain": lambda: Chain(Dense(1, 4, relu), Dense(4, 4, relu), Dense(4, 2)),
    ...     "skip": lambda: Chain(Dense(1, 4, relu), Skip(Dense(4, 4, relu)), Dense(4, 2)),
    ... }
    >>> result = compare(nets, (x, y), epochs=2, batch=10, progress=False)
    >>> [(run.name, run.shortcuts, run.parameters, len(run.history)) for run in result.runs]
    [('plain', 0, 38, 2), ('skip', 1, 38, 2)]
    """
    check_options(epochs, batch, lr, precision, seed)
    if isinstance(seeds, bool) or not isinstance(seeds, int) or seeds < 1:
        raise TrainError(f"seeds must be a whole number of at least 1, not {seeds!r}")
    if threads is not None and (isinstance(threads, bool) or not isinstance(threads, int) or threads < 1):
        raise TrainError(f"threads must be a whole number of at least 1, not {threads!r}")
    notes: dict[str, str] = {}
    if isinstance(nets, Chain) or (callable(nets) and not isinstance(nets, nn.Module)):
        made_of = controls(nets)
        nets, notes = made_of.nets, made_of.notes
    if not isinstance(nets, Mapping) or not nets:
        raise TrainError("compare takes at least one net, as {name: net}")
    on = choose_device(device)
    options = {
        "epochs": epochs, "batch": batch, "lr": lr, "optimizer": optimizer, "loss": loss, "device": on,
        "precision": precision,
    }  # fmt: skip
    told: dict[str, Any] = {**options, "device": str(on), "optimizer": _word(optimizer), "loss": _word(loss)}
    told |= {"controls": notes} if notes else {}
    result = Comparison([], {**told, "seed": seed, "seeds": seeds, "threads": threads}, _chance(test), _rows(test))
    with _as_found(on, threads):
        # what cannot work is told before minutes are spent on what can
        ready = {name: _start(name, net, seed, train, test, options) for name, net in nets.items()}
        known = {name: net_known(made, nets[name]) for name, (_, made) in ready.items()} if run is not None else {}
        with (
            Kept.begin(
                run, "runs", options={k: v for k, v in told.items() if k != "device"},
                data=data_known(**{"train data": train, "test data": test}) if run is not None else {},
                nets={f"net {name!r}": one for name, one in known.items()}, free=("nets", "seeds"),
            ) as kept,
            Watch([(name, s) for s in range(seed, seed + seeds) for name in nets], epochs, progress) as watch,
        ):  # fmt: skip
            for s in range(seed, seed + seeds):
                for name, net in nets.items():
                    piece = kept.find(f"{name}, seed {s}")
                    if piece is None:
                        one, made = ready.pop(name) if s == seed else _start(name, net, s, train, test, options)
                        _train(one, made, train, test, options, watch)
                        kept.keep(f"{name}, seed {s}", {**asdict(one), "history": one.history.rows})
                    else:
                        one = Run(**{**piece, "history": History(piece["history"])})
                    result.runs.append(one)
    return result


def _start(name: str, net: Net, seed: int, train: Any, test: Any, options: dict[str, Any]) -> tuple[Run, nn.Module]:
    """A net under a seed, on its device, and the run with all that is known before training."""
    try:
        if isinstance(net, nn.Module):
            made = copy.deepcopy(net)
        elif callable(net):
            torch.manual_seed(seed)
            made = net()
        else:
            raise TrainError(f"wanted a module or a function that makes one, not {net!r}")
        if isinstance(made, nn.Module):
            made.to(options["device"])
        check_ready(made, train, test, options=options, seed=seed)
        run = Run(
            name=name,
            seed=seed,
            parameters=sum(p.numel() for p in made.parameters()),
            shortcuts=sum(len(m.wiring) for m in made.modules() if isinstance(m, Chain)),
            gradient_at_start=gradients(made, train, options["loss"], options["device"]),
        )
    except SkipwayError as error:
        raise type(error)(f"net {name!r}: {error}") from error
    return run, made


def check_ready(net: nn.Module, train: Any, test: Any, *, options: dict[str, Any], seed: int) -> None:
    """Raise now what ``fit`` with these options, all given, would raise before its first step.

    The net lies on ``options["device"]`` already. Nothing in it changes.
    """
    check_net(net)
    batch, loss = options["batch"], options["loss"]
    make_optimizer(options["optimizer"], net, options["lr"])
    for data, where in ((train, "train"), (test, "test")):
        if data is not None:
            rows = batch or (None if isinstance(data, DataLoader) else 256)
            source = source_of(data, rows, where, seed if where == "train" else None)
            output, y = try_forward(net, source, options["device"], where, options["precision"] == "bf16")
            name, function = choose_loss(loss, net, y)
            check_fit(output, y, source, where, name, function)
            if where == "train" and isinstance(source, TensorSource):
                need_classes(source.y, where)


def _train(run: Run, net: nn.Module, train: Any, test: Any, options: dict[str, Any], watch: Watch) -> None:
    watch.begin(run.name, run.seed)

    def keep(state: State) -> None:
        run.history = History(state.history.rows)
        watch.epoch(run.history[-1])

    began = time.monotonic()
    try:
        fit(net, train, test, seed=run.seed, callbacks=[keep], progress=False, **options)
    except TrainError as error:  # the checks are behind us: the loss is not finite
        run.failed = str(error)
    run.seconds = time.monotonic() - began
    if not run.failed:
        run.gradient_at_end = gradients(net, train, options["loss"], options["device"])
    watch.end(run)


def gradients(net: nn.Module, train: Any, loss: str | Loss = "auto", device: Any = "cpu") -> dict[str, float]:
    """The norm of the loss's gradient for every weight of two axes or more, those of shortcuts left out, in order.

    Measured in train mode over up to 256 rows spread evenly over ``train``; empty for data that is no pair of tensors.
    The net is left as it was.

    >>> norms = gradients(nn.Sequential(nn.Linear(1, 2), nn.Linear(2, 1)), (torch.ones(4, 1), torch.zeros(4, 1)))
    >>> list(norms)
    ['0.weight', '1.weight']
    """
    source = source_of(train, None if isinstance(train, DataLoader) else _ROWS, "train")
    if not isinstance(source, TensorSource):
        return {}
    rows = torch.linspace(0, len(source.x) - 1, min(_ROWS, len(source.x))).round().long()
    x, y = (t[rows.to(t.device)].to(device) for t in (source.x, source.y))
    weights = {
        name: p
        for name, p in net.named_parameters()
        if p.dim() > 1 and p.requires_grad and "shortcuts" not in name.split(".")
    }
    if not weights:
        return {}
    with untouched(net, torch.device(device), train=True), torch.enable_grad():
        _, function = choose_loss(loss, net, y)
        found = torch.autograd.grad(function(net(x), y), list(weights.values()), allow_unused=True)
    return {name: 0.0 if g is None else float(g.norm()) for name, g in zip(weights, found, strict=True)}


def _labels(test: Any) -> Tensor | None:
    y = getattr(test, "y", test[1] if isinstance(test, (tuple, list)) and len(test) == 2 else None)
    return y if isinstance(y, Tensor) and y.dim() == 1 and len(y) and is_labels(y) else None


def _chance(test: Any) -> float | None:
    """The accuracy of always giving the most frequent label of the test data; None where there are no labels."""
    y = _labels(test)
    return None if y is None else float(y.unique(return_counts=True)[1].max()) / len(y)


def _rows(test: Any) -> int | None:
    y = _labels(test)
    return None if y is None else len(y)


def _word(thing: Any) -> str:
    return thing if isinstance(thing, str) else getattr(thing, "__name__", type(thing).__name__)


@contextlib.contextmanager
def _as_found(device: torch.device, threads: int | None) -> Iterator[None]:
    """A room with so many threads, after which threads and random state are as before."""
    before, states = torch.get_num_threads(), random_states(device)
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
        set_random_states(states, device)
