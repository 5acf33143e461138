"""Draw every family of the zoo into ``docs/images/zoo`` and write ``docs/zoo.md``, which shows them.

    python scripts/draw_zoo.py [--out docs]

The pictures alone: ``skipway show --all --out FOLDER``.
"""

from __future__ import annotations

import argparse
import gc
import inspect
import re
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from skipway import zoo
from skipway.cli.show import families
from skipway.zoo.registry import ENTRIES

HEAD = """# The zoo in pictures

Every net here is `skipway.zoo.make(name)`; the picture is `net.draw(...)` of the first name, from its plan. Repeated
blocks stand there once with their number, norms and activations with the layer they belong to. `skipway show NAME --out
net.html` makes a page to explore one, and `skipway check NAME` compares it with what was published. Written by
`scripts/draw_zoo.py`.
"""
ARXIV = re.compile(r"\b\d{4}\.\d{4,5}\b")
#: how weights begin: named by most of the zoo, and the paper of none of its nets
INITIALISATION = "1502.01852"


def paper(function: Callable[..., object]) -> str:
    """The paper of a net: the first that its function names in its first paragraph, or that its file names first."""
    own, file = inspect.getdoc(function) or "", inspect.getdoc(sys.modules[function.__module__]) or ""
    for text in (own.split("\n\n")[0], file.split("\n\n")[0], own, file):
        found = [number for number in ARXIV.findall(text) if number != INITIALISATION]
        if found:
            return f"[arXiv:{found[0]}](https://arxiv.org/abs/{found[0]})"
    year = re.search(r"\(([A-Z][^()]*\d{4})\)", own) or re.search(r"\(([A-Z][^()]*\d{4})\)", file)
    return year[1] if year else ""


def summary(function: object) -> str:
    """The first sentence of what is said of a net, on one line."""
    text = " ".join((inspect.getdoc(function) or "").split("\n\n")[0].split())
    text = re.sub(r":\w+:`~?([^`]*)`", r"`\1`", text).replace("``", "`")
    return re.split(r"(?<=[.:])\s+Shapes:", text)[0].rstrip(":")


def parameters(name: str) -> int:
    """Parameters of a net: as published where that is exact, which the tests compare; otherwise counted."""
    exact = [f for f in ENTRIES[name].figures if f.what == "parameters" and not f.options and not f.unit]
    if exact:
        return int(exact[0].value)
    with torch.device("meta"):  # where a large net takes no memory
        net = zoo.make(name)
    return sum(p.numel() for p in net.parameters())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent.parent / "docs")
    out = parser.parse_args().out
    images = out / "images" / "zoo"
    images.mkdir(parents=True, exist_ok=True)
    for old in images.glob("*.svg"):
        old.unlink()
    text = [HEAD]
    for name, names in families().items():
        function = ENTRIES[name].function
        zoo.make(name).draw(images / f"{name}.svg", theme="auto")
        gc.collect()
        source = paper(function)
        text.append(f"## {function.__name__}\n\n{summary(function)}" + (f" Paper: {source}." if source else ""))
        counted = [f"| `{n}` | {parameters(n):,} |" for n in names]
        text.append("\n| name | parameters |\n|---|---:|\n" + "\n".join(counted))
        text.append(f"\n![{name}](images/zoo/{name}.svg)\n")
        print(f"{name}: {(images / f'{name}.svg').stat().st_size / 1000:.0f} kB", flush=True)
    (out / "zoo.md").write_text("\n".join(text).rstrip() + "\n", encoding="utf-8")
    print(f"written: {out / 'zoo.md'}")


if __name__ == "__main__":
    main()
