"""The files that a comparison leaves behind: summary, curves and the drawing of the chains."""

from __future__ import annotations

import io
import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from skipway.errors import CheckpointError
from skipway.study.comparison import Comparison
from skipway.train.checkpoint import make_folder, write_whole

_LEGEND = (
    "Loss: mean over the last epoch, while the weights move. Accuracy: after the last epoch. Gradient: norm of the "
    "loss's gradient for the first and the last weight, before training. Seconds: wall clock, tests included."
)
FILES = ("summary.md", "summary.json", "curves.png", "chain.txt")


def machine() -> dict[str, str]:
    """What it ran on, and with which versions.

    >>> sorted(machine())
    ['cores', 'numpy', 'processor', 'python', 'skipway', 'system', 'torch']
    """
    from skipway import __version__

    return {
        "skipway": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": str(os.cpu_count()),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return (named or [platform.processor()])[0] or "unknown"


def prepare(folder: str | Path) -> Path:
    """The folder, made and found fit to be written to. Raises ``CheckpointError`` where it is not.

    Only the files of :data:`FILES` will be overwritten in it.
    """
    path = Path(folder)
    if path.exists() and not path.is_dir():
        raise CheckpointError(f"{path} is a file, not a folder: give another name")
    make_folder(path)
    probe = path / ".skipway.part"
    try:
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise CheckpointError(f"cannot write in the folder {path}: {error.strerror or error}") from error
    taken = [name for name in FILES if (path / name).is_dir()]
    if taken:
        raise CheckpointError(f"{path / taken[0]} is a folder, and a file of that name is to be written: move it away")
    return path


def record(
    folder: str | Path,
    comparison: Comparison,
    *,
    title: str = "Comparison",
    command: str = "",
    drawings: Mapping[str, str] | None = None,
    notes: Mapping[str, str] | None = None,
) -> list[Path]:
    """Write ``summary.md``, ``summary.json``, ``curves.png`` and, with ``drawings``, ``chain.txt``; their paths.

    ``drawings`` and ``notes`` are by name of the net: its table, and what it is in words. Other files in the folder are
    left alone. Raises ``CheckpointError`` when the disk refuses.
    """
    path = prepare(folder)
    ran = machine()
    picture = io.BytesIO()
    comparison.plot().savefig(picture, format="png", dpi=150)
    whole = {"title": title, "command": command, "machine": ran, "notes": dict(notes or {}), **comparison.to_dict()}
    texts = {
        "summary.md": summary(comparison, title, command, ran, notes or {}),
        "summary.json": json.dumps(whole, indent=1, allow_nan=False) + "\n",
    }
    if drawings:
        texts["chain.txt"] = "\n\n".join(f"{name}\n{'-' * len(name)}\n{text}" for name, text in drawings.items()) + "\n"
    for name, text in texts.items():
        write_whole(path / name, text.encode())
    write_whole(path / "curves.png", picture.getvalue())
    return [path / name for name in FILES if name in texts or name == "curves.png"]


def summary(comparison: Comparison, title: str, command: str, ran: Mapping[str, str], notes: Mapping[str, str]) -> str:
    """The comparison as a page of Markdown."""
    rows = comparison.rows()
    lines = [f"# {title}", "", comparison.conclusion(), ""]
    lines += [_row(rows[0]), _row(["---"] + ["---:"] * (len(rows[0]) - 1)), *[_row(row) for row in rows[1:]], ""]
    lines += [" ".join(filter(None, (comparison.caption(), _LEGEND))), ""]
    lines += [f"- **{name}**: {note}" for name, note in notes.items()] + [""] * bool(notes)
    lines += [f"- {run.name}, seed {run.seed}, failed: {run.failed}" for run in comparison.runs if run.failed]
    lines += ["Gradient of the first and the last weight after training:", ""]
    lines += [_after(comparison, name) for name in comparison.names] + [""]
    lines += [f"Options: {_told(comparison.options)}.", "", f"Machine: {_told(ran)}.", ""]
    lines += [f"Command: `{command}`", ""] if command else []
    return "\n".join(lines)


def _after(comparison: Comparison, name: str) -> str:
    ends = [list(run.gradient_at_end.values()) for run in comparison.of(name) if run.gradient_at_end]
    told = "; ".join(f"{values[0]:.2g} / {values[-1]:.2g}" for values in ends)
    return f"- {name}: {told or 'not measured'}"


def _row(cells: Any) -> str:
    return f"| {' | '.join(cells)} |"


def _told(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in values.items())
