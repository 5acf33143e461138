"""``skipway check``."""

from __future__ import annotations

from typing import Annotated

import typer

from skipway.errors import SkipwayError, nearest

from .app import Wrong, app


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
