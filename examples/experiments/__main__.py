"""Ten small experiments on shortcuts: what papers say, beside what a few minutes on a CPU show.

    python examples/experiments                 all ten, some five minutes on one core
    python examples/experiments e03 e09         these two
    python examples/experiments --quick         each so small that it only shows that it runs

Every experiment prints a table and its claims: the paper's, the number measured here, and whether they agree, which is
computed. Figures, the numbers as JSON and one page with all of it go to runs/experiments. What is done stays there: the
same command again goes on where it was interrupted, and an experiment whose file has changed is made anew.
"""

from __future__ import annotations

import argparse
import base64
import html
import importlib
import json
import os
import sys
import textwrap
import time
import zlib
from pathlib import Path
from types import ModuleType

import torch

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
from outcome import Bench, Outcome  # noqa: E402

NAMES = tuple(sorted(path.stem for path in HERE.glob("e[0-9]*.py")))
STYLE = """:root { color-scheme: light dark } body { font: 15px/1.5 system-ui, sans-serif; max-width: 64rem;
margin: 0 auto; padding: 1rem } pre { overflow-x: auto; font: 13px/1.4 ui-monospace, monospace } img { max-width: 100%;
background: #fff } td, th { text-align: left; vertical-align: top; padding: .25rem .75rem .25rem 0 } h2 { margin-top:
2.5rem } .no { font-weight: bold }"""


Done = tuple[ModuleType, Outcome, tuple[float, float]]  # with the seconds it took, and those of CPU


class Line:
    """How far it is: one line that is written over on a terminal, a line a part elsewhere."""

    def __init__(self, number: int, total: int, title: str) -> None:
        self.head, self.began, self.live = f"[{number}/{total}] {title}", time.monotonic(), sys.stdout.isatty()
        print(self.head if not self.live else "", end="" if self.live else "\n", flush=True)

    def __call__(self, part: str) -> None:
        spent = f"{time.monotonic() - self.began:5.1f} s"
        if self.live:
            width = os.get_terminal_size().columns
            print(f"\r\033[K{f'{self.head}: {part}, {spent}'[: width - 1]}", end="", flush=True)
        else:
            print(f"  {spent}  {part}", flush=True)

    def end(self) -> None:
        if self.live:
            print("\r\033[K", end="")


def known(name: str, quick: bool, seed: int) -> str:
    """What an outcome depends on: its files and options."""
    files = [HERE / f"{name}.py", HERE / "deep.py", HERE / "outcome.py", HERE.parent / "degradation.py"]
    return f"{zlib.crc32(b''.join(file.read_bytes() for file in files)):08x}{'-quick' * quick}-{seed}"


def kept(folder: Path, name: str, key: str) -> tuple[Outcome, tuple[float, float]] | None:
    """The outcome of an earlier run of the same experiment, with its seconds; None where there is none."""
    try:
        held = json.loads((folder / f"{name}.json").read_text())
        found = Outcome.from_json(json.dumps(held["outcome"])), (float(held["seconds"][0]), float(held["seconds"][1]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if held["key"] == key and all((folder / figure).exists() for figure in found[0].figures) else None


def spent(took: tuple[float, float]) -> str:
    return f"{took[0]:.1f} s, {took[1]:.1f} s of CPU"


def told(name: str, module: ModuleType, outcome: Outcome, took: tuple[float, float], quick: bool) -> str:
    lines = [f"{name.partition('_')[0].upper()}  {module.TITLE}  ({module.PAPERS})  {spent(took)}", ""]
    lines += [textwrap.indent(outcome.table, "  "), ""]
    for claim in outcome.claims:
        for head, text in (("paper", claim.paper), ("measured", claim.measured)):
            lines += textwrap.wrap(text, 110, initial_indent=f"  {head:9s} ", subsequent_indent=" " * 12)
        lines += [f"  {'':9s} {claim.verdict(quick)}", ""]
    if outcome.notes:
        lines += [*textwrap.wrap(outcome.notes, 116, initial_indent="  ", subsequent_indent="  "), ""]
    return "\n".join(lines)


def page(done: dict[str, Done], folder: Path, command: str, quick: bool) -> str:
    parts = ["<h1>Ten small experiments on shortcuts</h1>", f"<p>{html.escape(counted(done))}</p>"]
    for name, (module, outcome, took) in done.items():
        parts += [f'<h2 id="{name}">{name.partition("_")[0].upper()} {html.escape(module.TITLE)}</h2>']
        parts += [f"<p>{html.escape((module.__doc__ or '').strip())}</p><p>Papers: {html.escape(module.PAPERS)}.</p>"]
        for figure in outcome.figures:
            data = base64.b64encode((folder / figure).read_bytes()).decode()
            parts.append(f'<img alt="{html.escape(figure)}" src="data:image/png;base64,{data}">')
        rows = "".join(
            f"<tr><td>{html.escape(c.paper)}</td><td>{html.escape(c.measured)}</td>"
            f'<td class="{"yes" if c.agrees else "no"}">{c.verdict(quick)}</td></tr>'
            for c in outcome.claims
        )
        parts.append(f"<table><tr><th>the paper says</th><th>measured here</th><th></th></tr>{rows}</table>")
        parts.append(f"<pre>{html.escape(outcome.table)}</pre><p>{html.escape(outcome.notes)} {spent(took)}.</p>")
    parts.append(f"<h2>How this was made</h2><pre>{html.escape(command)}\ntorch {torch.__version__}</pre>")
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>Experiments</title>'
    return (
        f'<!doctype html>\n<html lang="en"><head>{head}<style>{STYLE}</style></head>\n<body>'
        + "\n".join(parts)
        + "</body></html>\n"
    )


def counted(done: dict[str, Done]) -> str:
    claims = [claim for _, outcome, _ in done.values() for claim in outcome.claims]
    took = [sum(took[i] for _, _, took in done.values()) for i in (0, 1)]
    agree = sum(claim.agrees for claim in claims)
    return (
        f"{len(done)} experiments in {took[0]:.0f} s ({took[1]:.0f} s of CPU): {agree} of {len(claims)} claims agree "
        f"with what was measured."
    )


def write(path: Path, text: str) -> None:
    """Whole or not at all."""
    part = path.with_name(f".{path.name}.part")
    part.write_text(text)
    part.replace(path)


def main(names: list[str], quick: bool, seed: int, out: Path) -> dict[str, Outcome]:
    out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)  # layers this small gain nothing by threads
    done: dict[str, Done] = {}
    for number, name in enumerate(names, start=1):
        module = importlib.import_module(name)
        key = known(name, quick, seed)
        found = kept(out, name, key)
        if found is None:
            line = Line(number, len(names), module.TITLE)
            cpu = time.process_time()
            bench = Bench(name, out, out / "parts" / f"{name}-{key}", quick, seed, line)
            outcome = Outcome.from_json(module.run(bench).to_json())  # as it will be read again
            found = outcome, (time.monotonic() - line.began, time.process_time() - cpu)
            line.end()
            write(
                out / f"{name}.json",
                json.dumps({"key": key, "seconds": found[1], "outcome": json.loads(outcome.to_json())}),
            )
        else:
            print(f"[{number}/{len(names)}] {module.TITLE}: kept from before")
        done[name] = (module, *found)
        print(told(name, module, *found, quick))
        write(out / "index.html", page(done, out, " ".join(["python", *sys.argv]), quick))
    print(f"{counted(done)}\n{out / 'index.html'}")
    return {name: outcome for name, (_, outcome, _) in done.items()}


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument(
        "names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}, or how they begin; all by default"
    )
    options.add_argument("--quick", action="store_true", help="each so small that it only shows that it runs")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--out", type=Path, default=Path("runs/experiments"))
    given = options.parse_args()
    chosen = [name for name in NAMES if not given.names or any(name.startswith(word) for word in given.names)]
    unknown = [word for word in given.names if not any(name.startswith(word) for name in NAMES)]
    if unknown:
        options.error(f"no experiment is called {unknown[0]!r}: {', '.join(NAMES)}")
    results = main(chosen, given.quick, given.seed, given.out)
