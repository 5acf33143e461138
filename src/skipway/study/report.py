"""Several studies of one net as a page: drawing, plots and numbers in a single HTML file, the raw numbers beside it."""

from __future__ import annotations

import html
import io
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from skipway.chain import Chain
from skipway.errors import ChainError, CheckpointError, SkipwayError, nearest
from skipway.study.jacobian import jacobian
from skipway.study.landscape import landscape
from skipway.study.lesion import lesion
from skipway.study.paths import paths
from skipway.study.record import machine
from skipway.study.result import as_json
from skipway.study.shatter import shatter
from skipway.study.signal import signal
from skipway.study.telemetry import GradientFlow
from skipway.study.walk import need_chain
from skipway.train import History, fit
from skipway.train.checkpoint import make_folder, write_whole

#: name to what it answers, in the order in which they are done: those before the comma of ``training`` see the new net
STUDIES = {
    "paths": "How many ways lead through the net, and how long are they?",
    "signal": "How do values and gradients grow through the new net?",
    "shatter": "Are gradients at neighbouring inputs of the new net alike?",
    "jacobian": "How far does the new net stretch small changes, in every direction?",
    "flow": "Gradients, branches against trunks, and gains while it trains",
    "landscape": "The loss around the net, after training",
    "lesion": "What is every shortcut and every branch worth, after training?",
}
_NEW = ("paths", "signal", "shatter", "jacobian")
#: rows for studies that take a gradient or a matrix a row
_BATCH, _FEW = 256, 8

_STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 76rem; margin: 0 auto; padding: 1rem; }
pre { overflow-x: auto; white-space: pre-wrap; font: 12.5px/1.35 ui-monospace, monospace; }
figure { margin: 1rem 0; overflow-x: auto; }
figure.plot { background: #fff; }
figure.plot svg { max-width: 100%; height: auto; }
h2 { margin-top: 2.5rem; }
.muted { opacity: .75; }
"""


@dataclass
class Report:
    """What was studied of a net so far. Each of ``results`` has a table, a plot and plain data; ``left_out`` says why
    a study could not be done.
    """

    net: Chain
    title: str
    command: str
    seed: int
    options: dict[str, Any]
    drawing: str
    table: str
    results: dict[str, Any] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    history: History | None = None
    _drawn: dict[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Everything, as JSON has it."""
        made: dict[str, Any] = as_json({
            "title": self.title, "command": self.command, "seed": self.seed, "options": self.options,
            "machine": machine(), "net": repr(self.net),
            "history": None if self.history is None else self.history.to_dict(),
            "studies": {name: result.to_dict() for name, result in self.results.items()}, "left_out": self.left_out,
        })  # fmt: skip
        return made

    def html(self) -> str:
        """The page: one file that needs no other."""
        parts = [f"<h1>{html.escape(self.title)}</h1>"]
        parts += [
            f"<figure>{self.drawing}</figure>",
            f"<details><summary>As a table</summary>{_pre(self.table)}</details>",
        ]
        for name in STUDIES:
            if name == "flow" and self.history is not None:
                parts += ["<h2>training</h2>", self._figure("training", self.history), _pre(self.history.table())]
            if name in self.results:
                result = self.results[name]
                parts += [f'<h2 id="{name}">{name}</h2>', f"<p>{STUDIES[name]}</p>"]
                parts += [self._figure(name, result), _pre(result.table())]
            elif name in self.left_out:
                parts += [f'<h2 id="{name}">{name}</h2>', f"<p>Left out: {html.escape(self.left_out[name])}</p>"]
        told = {"command": self.command, "seed": self.seed, **self.options, **machine()}
        rows = "\n".join(f"{key}: {value}" for key, value in told.items() if value != "")
        parts += ["<h2>how this was made</h2>", _pre(rows)]
        head = (
            f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{html.escape(self.title)}'
        )
        head += f"</title><style>{_STYLE}</style>"
        body = "\n".join(parts)
        return f'<!doctype html>\n<html lang="en">\n<head>{head}</head>\n<body>{body}</body></html>\n'

    def _figure(self, name: str, result: Any) -> str:
        # the page is written after every study
        if name not in self._drawn:
            self._drawn[name] = _figure(name, result.plot())
        return self._drawn[name]

    def write(self, path: Path) -> list[Path]:
        """Write the page to ``path``, and the numbers beside it as ``.json``. Raises ``CheckpointError``."""
        make_folder(path.parent)
        beside = path.with_suffix(".json")
        write_whole(path, self.html().encode())
        write_whole(beside, (json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n").encode())
        return [path, beside]


def report(
    net: Chain,
    train: Any,
    test: Any,
    *,
    studies: Sequence[str] = tuple(STUDIES),
    epochs: int = 3,
    rows: int = 1000,
    batch: int = 64,
    lr: float = 1e-3,
    seed: int = 0,
    title: str = "A net and its shortcuts",
    command: str = "",
    path: str | Path | None = None,
    run: str | Path | None = None,
    progress: bool = True,
) -> Report:
    """Study a net as it begins, train it, in place, and study it again.

    Parameters
    ----------
    net:
        a closed chain.
    train, test:
        splits with ``.x``, ``.y`` and ``.take``, as :func:`skipway.data.load` gives them.
    studies:
        names from :data:`STUDIES`. One that the net does not allow is left out, with the reason.
    epochs, batch, lr:
        of the training between; 0 epochs leave it out, and ``"flow"`` with it.
    rows:
        of the test data, for the loss of ``"landscape"`` and ``"lesion"``.
    path:
        the file of the page. It is written again after every study, so that an interruption leaves what was done.
    run:
        a folder that keeps the pieces of all studies and the training. With the same net, data and options again, what
        is in it is not done again, wherever it was interrupted.

    Raises
    ------
    ChainError, OpenChainError, DataError, TrainError, CheckpointError
        for what is no closed chain, a study that is not known, training that fails, a file that cannot be written, or
        a folder that keeps the studies of another net, other data or options.
    """
    need_chain(net, "report")
    unknown = [name for name in studies if name not in STUDIES]
    if unknown or not studies:
        raise ChainError(f"no study is named {''.join(unknown[:1])!r}: {nearest(''.join(unknown[:1]), STUDIES)}")
    options = {"studies": list(studies), "epochs": epochs, "rows": rows, "batch": batch, "lr": lr}
    made = Report(net, title, command, seed, options, net.draw(), str(net))
    target = None if path is None else Path(path)
    some, kept = train.take(min(_BATCH, len(train.x))), test.take(min(rows, len(test.x)))
    few = some.x[:_FEW]
    watch = GradientFlow(every=max(1, epochs * -(-len(train.x) // batch) // 50), run=run)
    shared: dict[str, Any] = {"progress": progress, "run": run}
    work: dict[str, Callable[[], Any]] = {
        "paths": lambda: paths(net, (some.x, some.y), seed=seed, **shared),
        "signal": lambda: signal(net, some.x, seed=seed, progress=progress),
        "shatter": lambda: shatter(net, seed=seed, **shared),
        "jacobian": lambda: jacobian(net, few, **shared),
        "flow": lambda: watch.result,
        "landscape": lambda: landscape(net, kept, seed=seed, seeds=3, points=21, **shared),
        "lesion": lambda: lesion(net, kept, seed=seed, **shared),
    }

    def do(names: Sequence[str]) -> None:
        for name in (name for name in STUDIES if name in names and name in studies):
            try:
                made.results[name] = work[name]()
            except CheckpointError:  # nothing of this net: a folder of another one, or a full disk
                raise
            except SkipwayError as error:  # a net without shortcuts has no lesions, and its paths can be counted
                made.left_out[name] = " ".join(str(error).split())
            if target is not None:
                made.write(target)

    do(_NEW)
    if epochs:
        torch.manual_seed(seed)
        made.history = fit(net, train, test, epochs=epochs, batch=batch, lr=lr, seed=seed, callbacks=[watch],
                           run=None if run is None else Path(run) / "training", resume=run is not None,
                           progress=progress)  # fmt: skip
    do([name for name in STUDIES if name not in _NEW])
    return made


def _pre(text: str) -> str:
    return f"<pre>{html.escape(text)}</pre>"


def _figure(name: str, figure: Any) -> str:
    """A plot as SVG inside the page, with names that no other plot has."""
    import matplotlib

    text = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(text, format="svg", metadata={"Date": None})
    drawn = text.getvalue()
    drawn = drawn[drawn.index("<svg") :]
    drawn = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", drawn)
    return f'<figure class="plot">{drawn}</figure>'


__all__ = ["STUDIES", "Report", "report"]
