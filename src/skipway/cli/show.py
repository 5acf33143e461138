"""``skipway show``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from skipway.errors import SkipwayError

from .app import MODEL_HELP, Wrong, app, net_of


@app.command()
def show(
    model: Annotated[str, typer.Argument(metavar="MODEL", help=MODEL_HELP)],
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
    net = net_of(model)
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
