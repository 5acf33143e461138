"""``skipway train``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from skipway.errors import CheckpointError, SkipwayError

from .app import MODEL_HELP, Batch, Data, Device, Epochs, Optimizer, Rate, Stopped, Wrong, app, data_name, net_of

if TYPE_CHECKING:
    from torch import nn


@app.command()
def train(
    model: Annotated[
        str | None, typer.Argument(metavar="[MODEL]", help=MODEL_HELP + " By default a small CNN.")
    ] = None,
    data: Data = "mnist-small",
    epochs: Epochs = 5,
    batch: Batch = 64,
    lr: Rate = 1e-3,
    optimizer: Optimizer = "adamw",
    loss: Annotated[str, typer.Option(help="auto, crossentropy, logitcrossentropy, nll or mse.")] = "auto",
    precision: Annotated[str, typer.Option(help="fp32 or bf16.")] = "fp32",
    device: Device = "auto",
    seed: Annotated[int, typer.Option(help="Seed of the weights and of the order of the data.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Folder of the run: options, numbers, curve, checkpoints.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
) -> None:
    """Train a net on a data set.

    It is tested after every epoch. Images are made flat for a net that takes vectors.

    \b
    Examples:
      skipway train
      skipway train net.py:net --data fashion-mnist --epochs 20 --out runs/net
      skipway train net.py:net --data fashion-mnist --epochs 30 --out runs/net --resume
    """
    import torch

    from skipway import data as datasets
    from skipway.adapt import adapt
    from skipway.study.compare import check_ready
    from skipway.train import State, fit
    from skipway.train.checks import check_options, choose_device

    if resume and out is None:
        raise Wrong("--resume goes on with the run in a folder: give --out")
    data_name(data)
    try:
        check_options(epochs, batch, lr, precision, seed)
        on = choose_device(device)
        if out is not None and not resume:
            _unused(out)
        torch.manual_seed(seed)
        net = net_of(model) if model is not None else None
    except SkipwayError as error:
        raise Wrong(str(error)) from error
    loaded = datasets.load(data)
    options: dict[str, Any] = {
        "epochs": epochs, "batch": batch, "lr": lr, "optimizer": optimizer, "loss": loss, "precision": precision,
    }  # fmt: skip
    try:
        net = net if net is not None else _small_cnn(tuple(loaded.train.x.shape[1:]), len(loaded.train.classes))
        parts = adapt(net, loaded)
        net.to(on)
        check_ready(net, *parts, options={**options, "device": on}, seed=seed)
    except SkipwayError as error:
        raise Wrong(str(error)) from error
    print(f"{net}\n\n{data}: {len(parts.train):,} to train on, {len(parts.test):,} to test; on {on}", flush=True)
    done = [0]

    def count(state: State) -> None:
        done[0] = state.epoch

    try:
        history = fit(net, *parts, **options, device=on, seed=seed, run=out, resume=resume, callbacks=[count])
    except KeyboardInterrupt:
        raise Stopped(_kept(out)) from None
    except CheckpointError as error:
        if done[0]:
            raise
        raise Wrong(str(error).replace("resume=True", "--resume").replace("run=", "--out ")) from error
    print(f"\n{history.table()}")
    print(f"\nin {out}: {', '.join(sorted(p.name for p in out.iterdir()))}" if out else "\nnothing is kept: no --out")


def _small_cnn(shape: tuple[int, ...], classes: int) -> nn.Module:
    """The net of ``skipway train`` without MODEL."""
    from skipway import BatchNorm, Chain, Conv, Dense, GlobalAvgPool, Skip, relu

    return Chain(
        stem=Conv(..., 16, 3, relu, stride=2, padding=1),
        one=Skip(Conv(16, 16, 3, padding=1), BatchNorm(), act=relu),
        down=Conv(16, 32, 3, relu, stride=2, padding=1),
        two=Skip(Conv(32, 32, 3, padding=1), BatchNorm(), act=relu),
        pool=GlobalAvgPool(),
        head=Dense(32, classes),
        input=shape,
    )


def _unused(out: Path) -> None:
    if out.is_dir() and any(not path.name.endswith(".part") for path in out.iterdir()):
        raise Wrong(f"{out} is in use: add --resume to go on with the run in it, or give another --out")
    if out.exists() and not out.is_dir():
        raise Wrong(f"--out {out} is a file, not a folder: give another name")


def _kept(out: Path | None) -> str:
    if out is None:
        return "stopped; nothing is kept, since there was no --out"
    from skipway.train.run import checkpoints

    there = checkpoints(out) if out.is_dir() else []
    if not there:
        return f"stopped before the first checkpoint; {out} holds nothing to go on from"
    return f"stopped; {there[0]} is kept: the same command with --resume goes on from there"
