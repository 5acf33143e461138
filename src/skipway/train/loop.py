"""``fit``: the training loop."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from skipway.errors import TrainError
from skipway.train.allocator import check_allocator, set_allocator
from skipway.train.batches import LoaderSource, Source, source_of
from skipway.train.checkpoint import Tensors, load_net, load_optimizer, pack_net, pack_optimizer, part
from skipway.train.checks import check_callbacks, check_fit, check_net, check_options, choose_device, try_forward
from skipway.train.compiled import Compiled, check_compiler
from skipway.train.guard import Guard, random_states, seed_random, set_random_states
from skipway.train.history import History
from skipway.train.losses import Loss, choose_loss, count_correct
from skipway.train.measure import Sums, Task, modes_kept
from skipway.train.optimizers import OptimizerLike, make_optimizer
from skipway.train.progress import Progress
from skipway.train.recorded import Recorded, Step, check_recorded
from skipway.train.run import Found, RunFolder, describe_net, describe_optimizer
from skipway.train.update import Update

# how many steps an accelerator may run ahead before the loss is looked at
_LOOK_EVERY = 32


@dataclass
class State:
    """What a callback sees: the live training.

    ``epoch`` counts from 1, ``step`` from 1 over all epochs; ``loss`` is that of the last step, a tensor on the device
    (reading it waits for the device). ``x`` and ``y`` are the batch of that step, on the device as the net got it; they
    are there for ``on_step`` and None otherwise, so that no batch outlives its step. Set ``stop`` to end after this
    epoch. To change the learning rate, write to ``optimizer.param_groups``; what a callback derives from ``epoch`` or
    ``step`` goes on the same after a resume.
    """

    net: nn.Module
    optimizer: Optimizer
    epochs: int
    history: History = field(default_factory=History)
    epoch: int = 0
    step: int = 0
    loss: Tensor | None = None
    x: Any = None
    y: Any = None
    stop: bool = False


@contextlib.contextmanager
def _random_kept(device: torch.device) -> Iterator[None]:
    states = random_states(device)
    try:
        yield
    finally:
        set_random_states(states, device)


def fit(
    net: nn.Module,
    train: Any,
    test: Any = None,
    *,
    epochs: int,
    batch: int | None = None,
    lr: float | None = None,
    optimizer: OptimizerLike = "adamw",
    loss: str | Loss = "auto",
    device: str | torch.device = "auto",
    precision: str = "fp32",
    compile: bool = False,
    recorded: bool | str = "auto",
    allocator: str = "default",
    seed: int = 0,
    run: str | Path | None = None,
    resume: bool = False,
    callbacks: Sequence[Any] = (),
    progress: bool = True,
) -> History:
    """Train ``net`` in place and return what was measured.

    Parameters
    ----------
    net:
        any module; a ``Chain`` is one. It is moved to ``device`` and stays there; its train/eval modes end as they
        began.
    train, test:
        ``(x, y)`` tensors, anything with ``.x`` and ``.y``, or a ``TensorDataset``: cut into batches by index, in a new
        random order every epoch, moved to the device once when they are small. A ``DataLoader`` of ``(x, y)`` pairs is
        used as it is, another ``Dataset`` is wrapped in one. ``x`` is ``(rows, *)``; ``y`` holds whole-number labels
        ``(rows, *)``, or floats. A last batch of one row joins the batch before it: batch norm cannot use one row.
    epochs, batch:
        how often to go over ``train``, in how many rows at a time. A ``DataLoader`` brings its own batch.
    lr:
        the learning rate of a named optimizer. A ready ``Optimizer`` keeps its own; a function gets ``lr=`` if it
        takes it.
    optimizer:
        ``"adamw"`` (weight decay 0.01, not on biases, norms and gains), ``"adam"`` or ``"sgd"`` (Nesterov momentum
        0.9), fused where torch can; a ready ``torch.optim.Optimizer``; or a function ``parameters -> Optimizer``.
    loss:
        ``"auto"``: for whole-number targets ``"crossentropy"`` when the net ends in softmax, ``"nll"`` after
        log-softmax, else ``"logitcrossentropy"``; for float targets ``"mse"``. Or one of these names, or any function
        ``(output, y) -> scalar``.
    device:
        ``"auto"`` is the first there is of cuda, mps and cpu.
    precision:
        ``"fp32"``, or ``"bf16"`` for torch's autocast to bfloat16 (the weights stay as they are).
    compile:
        True puts net and loss through ``torch.compile``. The first step then takes from seconds to minutes; the net is
        the same module with the same names, and so is what is saved. A batch of another shape than the first (the last
        of an epoch) and the passes over ``test`` run uncompiled. Needs a C++ compiler on the CPU.
    recorded:
        whether the operators of a step are recorded once and played again, without autograd: the same numbers to the
        last bit, in less time where the net is small. ``"auto"`` does so, on the CPU in full precision, where
        the code of the net is known to do the same for every batch, after trying which is faster; False never. True
        also takes layers and losses of your own, at your word that they do: what they do in Python, such as counting,
        is done once only.
    allocator:
        ``"warm"`` and ``"keep"`` make glibc keep memory for the next step that it would give back to the system and ask
        for again: up to 64 MB, or all. They hold for the whole process and until it ends. Linux with glibc only.
    seed:
        seeds the order of the data (a generator of its own) and, inside ``fit`` only, torch's global generators of the
        CPU and of ``device`` (dropout), which are put back as they were found. Not touched: how ``net`` was
        initialised, a generator of a ``DataLoader`` of yours, Python's ``random`` and numpy.
    run:
        a folder for the options (``config.json``), the rows (``metrics.jsonl``), the drawing (``chain.txt``, and
        ``chain.py`` for a ``Chain``), the curve (``curve.png``, when training ends) and a checkpoint after every epoch,
        of which the last two stay. Checkpoints are safetensors and JSON, no pickled code, written whole or not at all.
    resume:
        go on with the run in that folder, or begin it when it is empty. Ends, on CPU, with the very bits of a run that
        was never broken, wherever it was killed. All options but ``epochs`` and ``device`` must be as they were. Not
        stored: Python's and numpy's random state, and what callbacks keep for themselves.
    callbacks:
        functions ``(state) -> None`` called after every epoch, before its checkpoint, with a :class:`State`; returning
        True ends the training. A method ``on_step(state)`` is called after every step.
    progress:
        False is silent. Otherwise a bar on a terminal, and one line an epoch elsewhere.

    Returns
    -------
    A :class:`History`, one row an epoch (with those before a resume).

    Raises
    ------
    TrainError
        for options that cannot be, here or at all, a loss that does not fit the end of the net, and a loss that becomes
        NaN or infinite: it names the step and the first value in the net that is not finite. The net then has the
        weights from before that step, and batch-norm statistics from at most 32 steps before.
    DataError
        for data that is empty, uneven, not finite, or does not fit the net.
    CheckpointError
        for a run folder that is in use, of another run, cannot be read or cannot be written. Checkpoints already there
        stay good.

    >>> x = torch.linspace(-1, 1, 64).unsqueeze(1)
    >>> net = nn.Linear(1, 1)
    >>> history = fit(net, (x, 3 * x + 1), epochs=30, batch=8, lr=0.1, device="cpu", progress=False)
    >>> history[-1]["train_loss"] < 1e-3
    True
    """
    check_options(epochs, batch, lr, precision, seed)
    if not isinstance(compile, bool):
        raise TrainError(f"compile must be True or False, not {compile!r}")
    check_allocator(allocator)
    check_callbacks(callbacks)
    if run is not None and not isinstance(run, (str, Path)):
        raise TrainError(f"run is a {type(run).__name__}, not the name of a folder")
    check_net(net)
    if resume and run is None:
        raise TrainError("resume=True goes on with the run in a folder: give run=")
    bf16 = precision == "bf16"
    on = choose_device(device)
    check_recorded(recorded, compile, precision, on)
    if compile:
        check_compiler(on)
    source = source_of(train, batch, "train", seed)
    test_batch = batch or getattr(train, "batch_size", None) or 256
    test_source = None if test is None else source_of(test, test_batch, "test")
    with _random_kept(on), modes_kept(net):
        net.to(on)
        # a loader may draw from the global generators as soon as it is asked for a batch
        seed_random(seed, on)
        output, y = try_forward(net, source, on, "train", bf16)
        name, chosen = choose_loss(loss, net, y)
        check_fit(output, y, source, "train", name, chosen)
        task = Task(net, name, chosen, on, bf16, Compiled(net, chosen) if compile else None)
        if test_source is not None:
            test_output, test_y = try_forward(net, test_source, on, "test", bf16)
            check_fit(test_output, test_y, test_source, "test", name, chosen)
        made = make_optimizer(optimizer, net, lr)
        state = State(net, made, epochs)
        folder = found = None
        if run is not None:
            folder = RunFolder(run)
            options = {
                "batch": batch,
                "lr": lr,
                "optimizer": describe_optimizer(made),
                "loss": name,
                "precision": precision,
                "seed": seed,
                "train_rows": source.rows,
                "test_rows": None if test_source is None else test_source.rows,
            }
            if compile:  # rounds otherwise; absent where it is not used, as in folders of before there was the option
                options["compile"] = True
            config = {"epochs": epochs, "device": str(on), "torch": torch.__version__, "options": options}
            # what cannot be stored is told before anything is written
            _pack(state, source, on)
            found = folder.begin({**config, "net": describe_net(net)}, net, resume)
        seed_random(seed, on)
        if folder is not None and found is not None and _restore(found, state, source, on):
            # killed after its last checkpoint, a run may still lack its curve
            folder.draw(state.history)
            return state.history
        if folder is not None and found is None:
            # killed in its first epoch, a run must go on from these weights, whatever the next process initialises
            folder.checkpoint(0, *_pack(state, source, on))
        set_allocator(allocator)
        _train(task, state, source, test_source, folder, callbacks, progress, recorded)
    return state.history


def _train(
    task: Task,
    state: State,
    source: Source,
    test: Source | None,
    folder: RunFolder | None,
    callbacks: Sequence[Any],
    show: bool,
    recorded: bool | str,
) -> None:
    fused = all(group.get("fused") for group in state.optimizer.param_groups)
    every = _LOOK_EVERY if task.device.type != "cpu" and fused else 1
    guard = Guard(
        state.net, state.optimizer, task.device, every=every, bf16=task.bf16, compiled=task.compiled is not None
    )
    on_step = [c.on_step for c in callbacks if hasattr(c, "on_step")]
    begun = state.epoch
    # a callback after a step may change anything
    update = state.optimizer.step if on_step else Update(state.optimizer)
    gradients: Step = functools.partial(task.gradients, optimizer=state.optimizer)
    if recorded is True or (recorded == "auto" and task.plain and not on_step):
        steps = (state.epochs - begun) * len(source)
        gradients = Recorded(task.net, task.loss, task.name, gradients, steps=steps, always=recorded is True)
    try:
        with Progress(state.epochs, begun, len(source), show=show) as bar:
            for epoch in range(begun + 1, state.epochs + 1):
                state.epoch = epoch
                state.net.train()
                for part in (gradients, update):
                    if isinstance(part, Recorded | Update):
                        part.begin()
                row = _epoch(task, state, source, gradients, update, guard, on_step, bar)
                if test is not None:
                    row["test_loss"], row["test_accuracy"] = task.evaluate(test)
                state.history.append(row)
                # a callback may set the learning rate: the checkpoint must know it
                for callback in callbacks:
                    if callable(callback) and callback(state) is True:
                        state.stop = True
                if folder is not None:
                    folder.checkpoint(epoch, *_pack(state, source, task.device))
                    folder.add(state.history[-1])
                bar.epoch(state.history[-1])
                if state.stop:
                    break
    except BaseException:
        if folder is not None:
            # the error under way says more than a curve that could not be drawn
            with contextlib.suppress(Exception):
                folder.draw(state.history)
        raise
    finally:
        guard.forget()
    if folder is not None:
        folder.draw(state.history)


def _epoch(
    task: Task,
    state: State,
    source: Source,
    gradients: Step,
    update: Callable[[], None],
    guard: Guard,
    on_step: list[Callable[[State], Any]],
    bar: Progress,
) -> dict[str, Any]:
    sums = Sums(task.device)
    began = time.monotonic()
    for steps, (x, y) in enumerate(source, start=1):
        state.step += 1
        guard.before()
        output, loss = gradients(x, y)
        guard.watch(state.step, loss, (x, y))
        update()
        state.loss = loss.detach()
        sums.add(state.loss, count_correct(output, y, task.name), len(x))
        bar.step(state.epoch, steps, sums, began)
        if on_step:
            state.x, state.y = x, y
            try:
                for call in on_step:
                    call(state)
            finally:
                state.x = state.y = None
    guard.look()
    guard.check_parameters(state.step)
    score = sums.score()
    seconds = time.monotonic() - began
    return {
        "epoch": state.epoch,
        "train_loss": score.loss,
        "train_accuracy": score.accuracy,
        "seconds": seconds,
        "images_per_second": sums.rows / max(seconds, 1e-9),
    }


def _pack(state: State, source: Source, device: torch.device) -> tuple[Tensors, dict[str, Any]]:
    """All that the rest of the run depends on."""
    net, net_rest = pack_net(state.net)
    optimizer, optimizer_rest = pack_optimizer(state.optimizer)
    rooms = {
        "net": net,
        "optimizer": optimizer,
        "random": random_states(device),
        "order": {name: generator.get_state() for name, generator in source.states().items()},
    }
    tensors = {f"{room}/{name}": t for room, held in rooms.items() for name, t in held.items()}
    rest = {
        "net": net_rest,
        "optimizer": optimizer_rest,
        "history": state.history.rows,
        "epoch": state.epoch,
        "epochs": state.epochs,
        "step": state.step,
        "stopped": state.stop,
    }
    return tensors, rest


def _restore(found: Found, state: State, source: Source, device: torch.device) -> bool:
    """Go back to a checkpoint; True when the run it belongs to has nothing left to do."""
    path, tensors, rest = found
    load_optimizer(state.optimizer, part(tensors, "optimizer"), rest["optimizer"], str(path))
    load_net(state.net, part(tensors, "net"), rest["net"], str(path))
    set_random_states(part(tensors, "random"), device)
    orders = part(tensors, "order")
    for name, generator in source.states().items():
        if name in orders:
            generator.set_state(orders[name])
    if isinstance(source, LoaderSource):
        source.forget_begun()
    state.history = History(rest["history"])
    state.epoch, state.step = rest["epoch"], rest["step"]
    return state.epoch == state.epochs or (rest["stopped"] and state.epochs <= rest["epochs"])
