"""``skipway show``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from skipway.errors import SkipwayError

from .app import MODEL_HELP, Wrong, app, net_of


@app.command()
def show(
    model: Annotated[str | None, typer.Argument(metavar="[MODEL]", help=MODEL_HELP)] = None,
    input: Annotated[
        str | None, typer.Option("--input", help="Shape of the input without the batch axis, as 1,28,28.")
    ] = None,
    code: Annotated[bool, typer.Option("--code", help="Also print the forward that runs.")] = False,
    out: Annotated[
        Path | None, typer.Option("--out", "--svg", help="Draw it into this file: .svg, .png, or .html to explore it.")
    ] = None,
    direction: Annotated[str, typer.Option(help="Of the drawing: auto, horizontal or vertical.")] = "auto",
    theme: Annotated[str, typer.Option(help="Of the drawing: auto, light or dark.")] = "auto",
    fold: Annotated[
        bool | None, typer.Option("--fold/--no-fold", help="Draw repeats once, or every layer; by default what fits.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Draw every family of the zoo into the folder --out.")] = False,
) -> None:
    """Print a net: a line a layer, the shortcuts beside it. Or draw it.

    \b
    Examples:
      skipway show net.py:net
      skipway show net.py:make --input 1,28,28 --code
      skipway show resnet18 --out resnet18.svg
      skipway show net.py:net --out net.html
      skipway show --all --out pictures
    """
    if every:
        _draw_zoo(model, out, direction=direction, theme=theme)
        return
    if model is None:
        raise Wrong("Missing argument 'MODEL': " + MODEL_HELP)
    shape = _shape(input) if input is not None else None
    net = net_of(model)
    from skipway.chain import Chain

    if not isinstance(net, Chain):
        if code or shape or out:
            given = "--code" if code else "--input" if shape else "--out"
            raise Wrong(f"{given} is for a Chain, and {model} is a {type(net).__name__}")
        print(net)
        return
    try:
        if shape:
            net.build(shape)
        forward = _forwards(net) if code else ""
        if out is not None:
            net.draw(out, direction=direction, theme=theme, fold=fold)
    except SkipwayError as error:
        raise Wrong(str(error)) from error
    except OSError as error:
        raise Wrong(f"cannot write {out}: {error.strerror or error}") from error
    if out is not None and not code:
        print(f"drawn: {out}")
        return
    print(net)
    if forward:
        print(f"\n{forward}")


def families() -> dict[str, list[str]]:
    """The nets of the zoo that one function makes, by the first of them."""
    from skipway.zoo.registry import ENTRIES

    found: dict[Any, list[str]] = {}
    for name, entry in ENTRIES.items():
        found.setdefault(entry.function, []).append(name)
    return {names[0]: names for names in found.values()}


def _draw_zoo(model: str | None, out: Path | None, **options: Any) -> None:
    """One drawing a family of the zoo, of its first net."""
    from skipway import zoo

    if model is not None or out is None:
        raise Wrong("--all draws the whole zoo: give no MODEL, and a folder with --out")
    if out.exists() and not out.is_dir():
        raise Wrong(f"--out {out} is a file, not a folder: give another name")
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name in families():
            zoo.make(name).draw(out / f"{name}.svg", **options)
            print(f"drawn: {out / name}.svg", flush=True)
    except SkipwayError as error:
        raise Wrong(str(error)) from error
    except OSError as error:
        raise Wrong(f"cannot write into {out}: {error.strerror or error}") from error


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
