"""The command line: ``skipway train``, ``skipway compare``, ``skipway show``, ``skipway check``."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from skipway.errors import CheckpointError, SkipwayError, nearest

if TYPE_CHECKING:
    from torch import nn

_MODEL_HELP = "The net: file.py:name, package.module:name or a name of the zoo; a net, or a function that makes one."

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)

Data = Annotated[str, typer.Option(help="Data set: mnist-small (shipped), mnist, fashion-mnist or cifar10.")]
Epochs = Annotated[int, typer.Option(help="How often to go over the data.")]
Batch = Annotated[int, typer.Option(help="Rows at a time.")]
Rate = Annotated[float, typer.Option("--lr", help="Learning rate.")]
Optimizer = Annotated[str, typer.Option(help="adamw, adam or sgd.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")]


class Wrong(Exception):
    """What the user gave is wrong: one line, exit code 2."""


class Stopped(Exception):
    """The user pressed Ctrl-C: one line that says what is kept, exit code 130."""


def main(args: Sequence[str] | None = None) -> int:
    """Run a command line (that of the process by default); the exit code.

    0 is success, 2 a wrong argument, 1 what went wrong on the way, 130 an interruption. Errors are one line on stderr.

    >>> main(["show", "torch.nn:Flatten"])
    Flatten(start_dim=1, end_dim=-1)
    0
    """
    command: Any = typer.main.get_command(app)
    try:
        code = command.main(args=None if args is None else list(args), prog_name="skipway", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except Wrong as error:
        return _fail(str(error), 2)
    except SkipwayError as error:
        return _fail(str(error), 1)
    except Stopped as error:
        return _fail(str(error), 130)
    except (KeyboardInterrupt, typer.Abort):
        return _fail("stopped", 130)
    except BrokenPipeError:  # `skipway show ... | head`: the reader has what it wanted
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        # of click or of the copy of it inside typer, depending on the version
        if not hasattr(error, "format_message"):
            raise
        return _fail(error.format_message(), int(getattr(error, "exit_code", 2)))


def _fail(text: str, code: int) -> int:
    print("skipway:", " ".join(text.split()), file=sys.stderr, flush=True)
    return code


def _version(wanted: bool) -> None:
    if wanted:
        from skipway import __version__

        print(f"skipway {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _top(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Feed-forward networks with shortcut connections: train them, compare them, look at them.

    \b
    Examples:
      skipway train                              a small CNN with a skip, on the digits inside skipway
      skipway train net.py:net --epochs 10 --out runs/net
      skipway show net.py:net --code             its table, its shortcuts and its forward
      skipway compare --out runs/demo            50 layers with shortcuts and without
    """
    if context.invoked_subcommand is None:
        print(context.get_help())


@app.command()
def show(
    model: Annotated[str, typer.Argument(metavar="MODEL", help=_MODEL_HELP)],
    input: Annotated[
        str | None, typer.Option("--input", help="Shape of the input without the batch axis, as 1,28,28.")
    ] = None,
    code: Annotated[bool, typer.Option("--code", help="Also print the forward that runs.")] = False,
) -> None:
    """Print a net: a line a layer, the shortcuts beside it.

    \b
    Examples:
      skipway show net.py:net
      skipway show net.py:make --input 1,28,28 --code
    """
    shape = _shape(input) if input is not None else None
    net = _net(model)
    from skipway.chain import Chain

    if not isinstance(net, Chain):
        if code or shape:
            given = "--code" if code else "--input"
            raise Wrong(f"{given} is for a Chain, and {model} is a {type(net).__name__}")
        print(net)
        return
    try:
        if shape:
            net.build(shape)
        forward = _forwards(net) if code else ""
    except SkipwayError as error:
        raise Wrong(str(error)) from error
    print(net)
    if forward:
        print(f"\n{forward}")


@app.command()
def check(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="A net of the zoo.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Check all nets of the zoo: a minute or two.")] = False,
) -> None:
    """Compare a net of the zoo with what was published of it: parameters, multiply-adds, depth, projections.

    \b
    Examples:
      skipway check resnet50
      skipway check --all
    """
    from skipway import zoo

    if every == (name is not None) or name not in (None, *zoo.names()):
        raise Wrong(f"check takes --all, or the name of a net: {nearest(name or '', zoo.names())}")
    differ = []
    for one in zoo.names() if name is None else [name]:
        result = zoo.check(one)
        print(result, flush=True)
        differ += [] if result.ok else [one]
    if differ:
        raise SkipwayError(f"not as published: {', '.join(differ)}")


def _shape(text: str) -> tuple[int, ...]:
    try:
        sizes = tuple(int(size) for size in text.strip("() ").rstrip(",").replace("x", ",").split(","))
    except ValueError:
        sizes = ()
    if not sizes or min(sizes) < 1:
        raise Wrong(f"--input is a shape without the batch axis, such as 1,28,28 or 784, not {text!r}")
    return sizes


def _forwards(net: Any) -> str:
    """The generated forward, and those of the chains inside that run by themselves."""
    from skipway.chain import Chain

    parts = [net.code.rstrip()]
    for name, module in net.named_modules():
        if name and isinstance(module, Chain) and module.code:
            parts.append(f"# {name}\n{module.code.rstrip()}")
    return "\n\n".join(parts)


def _net(word: str) -> nn.Module:
    from skipway.locate import locate

    try:
        return locate(word)
    except SkipwayError as error:
        raise Wrong(str(error)) from error


def _data_name(name: str) -> str:
    from skipway import data

    if name not in data.names():
        raise Wrong(f"no data set is named {name!r}: {nearest(name, data.names())}")
    return name


@app.command()
def train(
    model: Annotated[
        str | None, typer.Argument(metavar="[MODEL]", help=_MODEL_HELP + " By default a small CNN.")
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
    _data_name(data)
    try:
        check_options(epochs, batch, lr, precision, seed)
        on = choose_device(device)
        if out is not None and not resume:
            _unused(out)
        torch.manual_seed(seed)
        net = _net(model) if model is not None else None
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

    _data_name(data)
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
