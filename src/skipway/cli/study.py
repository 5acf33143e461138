"""``skipway study``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from skipway.errors import SkipwayError

from .app import MODEL_HELP, Batch, Data, Rate, Stopped, Wrong, app, data_name, net_of


@app.command()
def study(
    model: Annotated[str, typer.Argument(metavar="MODEL", help=MODEL_HELP)],
    out: Annotated[Path, typer.Option(help="The page, an .html file; the numbers go beside it as .json.")] = Path(
        "report.html"
    ),
    data: Data = "mnist-small",
    studies: Annotated[
        str, typer.Option(help="Those to do, as paths,signal: of paths, signal, shatter, jacobian, flow, landscape, "
                               "lesion.")
    ] = "all",
    epochs: Annotated[int, typer.Option(help="Epochs of training between the studies; 0 for none.")] = 3,
    rows: Annotated[int, typer.Option(help="Rows of the test data for the loss in landscape and lesion.")] = 1000,
    batch: Batch = 64,
    lr: Rate = 1e-3,
    seed: Annotated[int, typer.Option(help="Seed of the weights, of the order of the data and of the studies.")] = 0,
    run: Annotated[
        Path | None, typer.Option(help="A folder that keeps what is done: the same command again goes on from there.")
    ] = None,
) -> None:  # fmt: skip
    """Study what the shortcuts of a net do, and write a page.

    The new net is studied, trained for a little, and studied again. The page holds the drawing, the plots, the numbers,
    this command and the seeds, in one file.

    \b
    Examples:
      skipway study net.py:net --out report.html
      skipway study net.py:net --studies paths,jacobian --epochs 0
      skipway study net.py:net --data fashion-mnist --epochs 10 --seed 1
      skipway study net.py:net --epochs 100 --run runs/study
    """
    import torch

    from skipway import data as datasets
    from skipway.adapt import adapt
    from skipway.chain import Chain
    from skipway.study.report import STUDIES, report
    from skipway.train.checks import check_options

    data_name(data)
    chosen = list(STUDIES) if studies == "all" else [word.strip() for word in studies.split(",") if word.strip()]
    if out.suffix.lower() != ".html":
        raise Wrong(f"--out {out}: the page is an .html file")
    if epochs < 0 or rows < 2:
        raise Wrong("--epochs must be at least 0, and --rows at least 2")
    torch.manual_seed(seed)
    net = net_of(model)
    if not isinstance(net, Chain):
        raise Wrong(
            f"a study is of a Chain, since it needs to know the shortcuts, and {model} is a {type(net).__name__}"
        )
    loaded = datasets.load(data)
    try:
        check_options(max(1, epochs), batch, lr, "fp32", seed)
        parts = adapt(net, loaded)
    except SkipwayError as error:
        raise Wrong(str(error)) from error
    given = {"out": out, "data": data, "studies": studies, "epochs": epochs, "rows": rows, "batch": batch, "lr": lr,
             "seed": seed}  # fmt: skip
    given |= {} if run is None else {"run": run}
    words = ["skipway", "study", model, *(word for key, value in given.items() for word in (f"--{key}", str(value)))]
    try:
        made = report(
            net, *parts, studies=chosen, epochs=epochs, rows=rows, batch=batch, lr=lr, seed=seed,
            title=f"{model} on {data}", command=shlex.join(words), path=out, run=run,
        )  # fmt: skip
    except KeyboardInterrupt:
        held = f"stopped; {out} holds what was done" if out.exists() else "stopped; nothing was done"
        how = "the same command goes on" if run is not None else "with --run FOLDER it could go on from there"
        raise Stopped(f"{held}; {how}") from None
    except SkipwayError as error:
        raise Wrong(str(error)) from error
    for name, result in made.results.items():
        said = result.verdict() if hasattr(result, "verdict") else ""
        print(f"{name}: {said or 'done'}")
    for name, why in made.left_out.items():
        print(f"{name}: left out: {why}")
    print(f"\nwritten: {', '.join(map(str, made.write(out)))}")
