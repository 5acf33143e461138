"""Measurements as tables: printed, and kept as JSON, from which ``bench/report.py`` makes docs/performance.md.

A script fills a :class:`Table` case by case and saves it:

    table = Table("overhead", "A chain against the same network by hand", ours="chain", unit="ms")
    table.add("ResNet-20, forward", found, goals={"hand": 0.99})  # found: seconds per contender, one a round
    table.add("ResNet-20, step", found, more={"chain": {"accuracy": "0.97"}}, failed={"peer": "no such operator"})
    table.notes.append("Fused Adam on both sides.")
    save(table)

A ratio is always what the other needs over what ours needs, round by round: above 1 ours is faster, or smaller. A goal
is the ratio that was set as the aim beforehand; it is printed whether it is met or not.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).parent / "results"
#: what one of what was measured (seconds, bytes) is in the unit of the table
UNITS = {"s": 1.0, "ms": 1e3, "µs": 1e6, "MB": 1e-6}
#: of these the version is told where they are installed
PACKAGES = (
    "torch", "numpy", "lightning", "skorch", "keras", "jax", "flax", "optax", "onnx", "onnxscript", "onnxruntime",
    "openvino",
)  # fmt: skip


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Median, lower and upper quartile; of one value, that value.

    >>> quartiles([3.0, 1.0, 2.0]), quartiles([4.0])
    ((2.0, 1.5, 2.5), (4.0, 4.0, 4.0))
    """
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return middle, low, high


@dataclass(frozen=True)
class Row:
    """One contender in one case: median and quartiles over ``rounds``, in the unit of the table."""

    case: str
    contender: str
    median: float | None = None
    low: float | None = None
    high: float | None = None
    rounds: int = 0
    #: median and quartiles of this contender's figure over ours, round by round; None in our own row
    ratio: tuple[float, float, float] | None = None
    #: what the ratio was meant to reach
    goal: float | None = None
    #: further columns
    more: dict[str, str] = field(default_factory=dict)
    #: why there is no figure
    failed: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the goal is reached: to the two digits that are printed; None without goal or figure."""
        if self.goal is None or self.ratio is None:
            return None
        return round(self.ratio[0], 2) >= self.goal


@dataclass
class Table:
    """What one comparison found, with all that a reader needs to judge it."""

    name: str
    title: str
    #: the contender that the others are compared with
    ours: str
    unit: str = "ms"
    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    #: what kept the script from ending, where something did
    failed: str = ""
    command: str = ""
    machine: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    date: str = ""
    commit: str = ""
    #: a short run, to see that all works: its figures say little
    quick: bool = False

    def add(
        self,
        case: str,
        found: Mapping[str, Sequence[float]],
        *,
        ours: str | None = None,
        goals: Mapping[str, float] | None = None,
        more: Mapping[str, Mapping[str, str]] | None = None,
        failed: Mapping[str, str] | None = None,
    ) -> None:
        """The rows of one case from what was measured in each round: seconds or bytes, whatever the unit is.

        ``ours`` is another contender than the table's to compare with. Contenders in ``failed`` get a row with the
        reason.
        """
        ours, goals, more = ours or self.ours, goals or {}, more or {}
        unknown = [name for name in (*goals, *more) if name not in found and name not in (failed or {})]
        if unknown:
            raise KeyError(f"{self.name}, {case}: goals or columns for {unknown}, and there are {list(found)}")
        scale = UNITS[self.unit]
        for contender, values in found.items():
            ratio = None
            if contender != ours and ours in found:
                ratio = quartiles([theirs / mine for theirs, mine in zip(values, found[ours], strict=True)])
            middle, low, high = (scale * value for value in quartiles(values))
            columns = dict(more.get(contender, {}))
            self.rows.append(Row(case, contender, middle, low, high, len(values), ratio, goals.get(contender), columns))
        for contender, reason in (failed or {}).items():
            columns = dict(more.get(contender, {}))
            self.rows.append(Row(case, contender, goal=goals.get(contender), more=columns, failed=reason))


# -- where figures come from -------------------------------------------------------------------------------------------


def machine() -> dict[str, Any]:
    """Processor, cores, memory and system."""
    cpu, memory, flags = platform.processor() or platform.machine(), 0, ""
    try:
        with open("/proc/cpuinfo") as lines:
            told = dict(map(str.strip, line.split(":", 1)) for line in lines if ":" in line)
        cpu, flags = told["model name"], told.get("flags", "")
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (OSError, KeyError, ValueError):
        pass
    system = f"{platform.system()} {platform.machine()}, {' '.join(platform.libc_ver())}".rstrip(", ")
    # what decides about bfloat16 and much of the rest
    vectors = [name for name in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if name in flags.split()]
    cpu = " ".join([cpu, *([f"({', '.join(vectors)})"] if vectors else [])])
    return {
        "cpu": cpu, "cores": os.cpu_count(), "memory_gb": round(memory / 2**30), "system": system,
        "python": platform.python_version(), "threads": int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1),
    }  # fmt: skip


def versions() -> dict[str, str]:
    """The versions of the libraries that are installed here."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def commit() -> str:
    """The commit that is measured, with a plus where files of the package differ from it; "" outside of git."""
    try:
        told = subprocess.run(
            ["git", "describe", "--always", "--abbrev=10", "--exclude=*"],
            cwd=ROOT, capture_output=True, text=True, check=True,
        ).stdout.strip()  # fmt: skip
        changed = subprocess.run(
            ["git", "status", "--porcelain", "--untracked-files=no", "src"],
            cwd=ROOT, capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return ""
    return told + "+" * bool(changed.strip())


# -- keeping and printing ----------------------------------------------------------------------------------------------


def command(arguments: Sequence[str]) -> str:
    """How a script was called, as one calls it from the root of the checkout.

    >>> command([str(ROOT / "bench" / "dense.py"), "--only", "two words"])
    "python bench/dense.py --only 'two words'"
    """
    script = Path(arguments[0]).resolve()
    script = script.relative_to(ROOT) if script.is_relative_to(ROOT) else Path(script.name)
    return " ".join(["python", str(script), *map(shlex.quote, arguments[1:])])


def save(table: Table, folder: Path | None = None) -> Path:
    """Fill in where and when, write ``bench/results/NAME.json`` (``results/quick`` for a quick run) and print it."""
    table.command = table.command or command(sys.argv)
    table.machine = table.machine or machine()
    table.versions = table.versions or versions()
    table.date = table.date or datetime.date.today().isoformat()
    table.commit = table.commit or commit()
    folder = folder or folder_of(table.quick)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{table.name}.json"
    write(table, path)
    show(table)
    return path


def write(table: Table, path: Path) -> None:
    path.write_text(json.dumps(dataclasses.asdict(table), indent=1, ensure_ascii=False) + "\n")


def folder_of(quick: bool) -> Path:
    """$SKIPWAY_BENCH_RESULTS, else beside this file; results of a quick run never take the place of others."""
    folder = Path(os.environ.get("SKIPWAY_BENCH_RESULTS", RESULTS))
    return folder / "quick" if quick else folder


def load(path: Path) -> Table:
    """The table that was saved to ``path``."""
    held = json.loads(path.read_text())
    rows = [Row(**{**row, "ratio": None if row["ratio"] is None else tuple(row["ratio"])}) for row in held.pop("rows")]
    return Table(**held, rows=rows)


def number(value: float) -> str:
    """Three digits of a figure.

    >>> [number(v) for v in (0.01234, 1.5, 12.345, 1234.5)]
    ['0.0123', '1.50', '12.3', '1,234']
    """
    if value == 0:
        return "0"
    size = abs(value)
    places = 0 if size >= 100 else 1 if size >= 10 else 2 if size >= 1 else 3 if size >= 0.1 else 4
    return f"{value:,.{places}f}"


def cells(table: Table) -> tuple[list[str], list[list[str]]]:
    """Column names and the text of every cell, as both the terminal and the page show them."""
    extra = list(dict.fromkeys(name for row in table.rows for name in row.more))
    with_goals = any(row.goal is not None for row in table.rows)
    columns = ["case", "contender", table.unit, "quartiles", "times ours", "quartiles of that", *extra]
    lines = []
    for row in table.rows:
        line = [row.case, row.contender]
        if row.median is None or row.low is None or row.high is None:
            line += [row.failed or "no figure", "", "", ""]
        else:
            line += [number(row.median), "" if row.rounds == 1 else f"{number(row.low)} to {number(row.high)}"]
            if row.ratio is None:
                line += ["", ""]
            else:
                middle, low, high = row.ratio
                line += [f"{middle:.2f}x", "" if row.rounds == 1 else f"{low:.2f} to {high:.2f}"]
        line += [row.more.get(name, "") for name in extra]
        if with_goals:
            line.append("" if row.goal is None else f"{row.goal:g}x: {told(row)}")
        lines.append(line)
    return columns + ["goal"] * with_goals, lines


def told(row: Row) -> str:
    """Whether a goal was reached, in a word."""
    return {True: "met", False: "MISSED", None: "not measured"}[row.met]


def show(table: Table) -> None:
    """Print a table to the terminal."""
    from rich import table as rich_table
    from rich.console import Console
    from rich.markup import escape

    columns, lines = cells(table)
    printed = rich_table.Table(title=table.title + (" (a quick run: says little)" if table.quick else ""))
    for column in columns:
        printed.add_column(column, justify="left" if column in ("case", "contender", "goal") else "right")
    last = None
    for line in lines:
        if last is not None and line[0] != last:
            printed.add_section()
        printed.add_row(*map(escape, ["" if line[0] == last else line[0], *line[1:]]))
        last = line[0]
    console = Console(width=None if sys.stdout.isatty() else 150)
    console.print(printed)
    for note in [*table.notes, *([f"FAILED: {table.failed}"] if table.failed else [])]:
        console.print(escape(note))
    console.print(escape(described(table)))


def computer(table: Table) -> str:
    """The machine in words; threads where they are not as many as the cores."""
    m = table.machine
    used = m.get("threads", m["cores"])
    cores = f"{m['cores']} cores" + (f" ({used} of them used)" if used != m["cores"] else "")
    return f"{m['cpu']}, {cores}, {m['memory_gb']} GB of memory, {m['system']}, Python {m['python']}"


def described(table: Table) -> str:
    """One line on where the figures come from."""
    libraries = ", ".join(f"{name} {version}" for name, version in table.versions.items())
    parts = [
        computer(table), libraries,
        table.date + (f", commit {table.commit}" if table.commit else ""), f"`{table.command}`",
    ]  # fmt: skip
    return "; ".join(part for part in parts if part)
