"""What the commands share: the app, its options and errors, and how a command line is run."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from skipway.errors import SkipwayError, nearest

if TYPE_CHECKING:
    from torch import nn


MODEL_HELP = "The net: file.py:name, package.module:name or a name of the zoo; a net, or a function that makes one."

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


def net_of(word: str) -> nn.Module:
    from skipway.locate import locate

    try:
        return locate(word)
    except SkipwayError as error:
        raise Wrong(str(error)) from error


def data_name(name: str) -> str:
    from skipway import data

    if name not in data.names():
        raise Wrong(f"no data set is named {name!r}: {nearest(name, data.names())}")
    return name
