"""``skipway compare``."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from skipway.errors import SkipwayError

from .app import Batch, Data, Device, Epochs, Optimizer, Rate, Stopped, Wrong, app, data_name


@app.command()
def compare(
    context: typer.Context,
    out: Annotated[Path | None, typer.Option(help="Folder for the curves, the drawing and the summary.")] = None,
    data: Data = "mnist-small",
    depth: Annotated[int, typer.Option(help="Layers between the first and the last.")] = 50,
    width: Annotated[int, typer.Option(help="Width of these layers.")] = 64,
    step: Annotated[int, typer.Option(help="Layers that a shortcut goes around.")] = 1,
    epochs: Epochs = 10,
    batch: Batch = 64,
    lr: Rate = 1e-3,
    optimizer: Optimizer = "adamw",
    seed: Annotated[int, typer.Option(help="First seed, of the weights and of the order of the data.")] = 0,
    seeds: Annotated[int, typer.Option(help="How many seeds.")] = 1,
    device: Device = "cpu",
    threads: Annotated[int, typer.Option(help="CPU threads; for layers this small, one is the fastest.")] = 1,
) -> None:
    """Train a deep chain with shortcuts and without.

    The same layers with the same initial weights see the same data in the same order: plain, with shortcuts, and with
    shortcuts whose branches begin at zero (ReZero). A fourth net is plain with initial weights that suit relu.

    \b
    Examples:
      skipway compare --out runs/demo
      skipway compare --depth 4 --seeds 3
      skipway compare --data fashion-mnist --epochs 3
    """
    from skipway import data as datasets
    from skipway.study import compare as study
    from skipway.study.record import prepare, record
    from skipway.study.ways import ways

    data_name(data)
    try:
        if out is not None:
            prepare(out)
        ways(depth, width, step=step)
    except SkipwayError as error:
        raise Wrong(str(error)) from error
    parts = datasets.load(data, flat=True)
    classes = len(parts.train.classes)
    made = ways(depth, width, features=parts.train.x.shape[1], classes=classes, step=step)
    try:
        result = study(
            made.nets, *parts, epochs=epochs, batch=batch, lr=lr, optimizer=optimizer, seed=seed, seeds=seeds,
            device=device, threads=threads,
        )  # fmt: skip
    except KeyboardInterrupt:
        raise Stopped("stopped; nothing of this comparison is kept") from None
    except SkipwayError as error:  # nothing that goes wrong while a net trains ends the comparison
        raise Wrong(str(error)) from error
    title = f"{depth} layers of {width}, with shortcuts and without, on {data}"
    print(f"\n{title}: {epochs} epochs of {len(parts.train):,}, tested on {len(parts.test):,}\n")
    _print_table(result)
    print(f"\n{result.conclusion()}")
    if out is not None:
        written = record(
            out,
            result,
            title=title,
            command=shlex.join(["skipway", *_words(context)]),
            drawings={name: f"wiring: {made.wirings[name]}\n\n{net()}" for name, net in made.nets.items()},
            notes={name: f"{made.notes[name]}; wiring: `{made.wirings[name]}`" for name in made.nets},
        )
        print(f"\nwritten: {', '.join(map(str, written))}")


def _words(context: typer.Context) -> list[str]:
    """The command as one would type it, with the options that are not the default."""
    words = [str(context.info_name)]
    for parameter in context.command.params:
        value = context.params.get(str(parameter.name))
        if value is not None and value != parameter.default:
            words += [parameter.opts[0], str(value)]
    return words


def _print_table(result: Any) -> None:
    if not sys.stdout.isatty():
        print(result.table())
        return
    from rich.console import Console

    Console().print(result)
