"""docs/performance.md and its pictures, from bench/results/*.json alone.

python bench/report.py [--results bench/results] [--to docs]
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from parts import HEAD, PARTS, Part
from plot import svg
from record import RESULTS, ROOT, Row, Table, cells, computer, load, number

#: a ratio below this is a loss to be told of even where no goal was set: closer ones are noise
LOST = 0.95


def slug(name: str) -> str:
    return f"performance-{name}.svg"


def text_table(columns: Sequence[str], lines: Sequence[Sequence[str]], left: Sequence[str]) -> list[str]:
    """A table in Markdown.

    >>> text_table(["a", "b"], [["x|y", "1"]], ["a"])
    ['| a | b |', '|:--|--:|', '| x\\\\|y | 1 |']
    """
    rule = "|".join(":--" if column in left else "--:" for column in columns)
    rows = ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in [columns, *lines]]
    return [rows[0], f"|{rule}|", *rows[1:]]


def spread(row: Row) -> str:
    assert row.ratio is not None
    middle, low, high = row.ratio
    return f"{middle:.2f}x" + ("" if row.rounds == 1 else f" ({low:.2f} to {high:.2f})")


def section(table: Table) -> list[str]:
    """A table with its picture, its notes and where it comes from."""
    lines = [f"### {table.title}", ""]
    if table.failed:
        lines += [f"**This measurement did not end:** {table.failed}", ""]
    if table.quick:
        lines += ["**A quick run: its figures say little.**", ""]
    if svg(table):
        lines += [f"![{table.title}: times ours](images/{slug(table.name)})", ""]
    if table.rows:
        columns, rows = cells(table)
        bold = [[f"**{cell}**" if cell.endswith("MISSED") else cell for cell in row] for row in rows]
        seen = None
        for row in bold:  # a case is named once
            seen, row[0] = row[0], "" if row[0] == seen else row[0]
        lines += [*text_table(columns, bold, ["case", "contender", "goal"]), ""]
    lines += [f"- {note}" for note in table.notes]
    lines += [f"- `{table.command}`, {table.date}" + (f", commit {table.commit}" if table.commit else ""), ""]
    return lines


def verdict(tables: Sequence[Table]) -> list[str]:
    """Which goals were met and which not, and where others are ahead."""
    rows = [(table, row) for table in tables for row in table.rows]
    goals = [(table, row) for table, row in rows if row.goal is not None]
    lines = ["## In short", ""]
    if goals:
        met = sum(row.met is True for _, row in goals)
        lines += [f"Of {len(goals)} goals that were set, {met} are met.", ""]
        written = []
        for table in tables:
            mine = [row for row in table.rows if row.goal is not None]
            if mine:
                met = sum(row.met is True for row in mine)
                count = f"{met} of {len(mine)}"
                reached = [row.ratio[0] for row in mine if row.ratio]
                ends = f"{min(reached):.2f}x to {max(reached):.2f}x" if reached else "none"
                wanted = sorted({row.goal for row in mine})
                aims = f"{wanted[0]:g}x" + (f" to {wanted[-1]:g}x" if len(wanted) > 1 else "")
                written.append([table.title, aims, ends, count if met == len(mine) else f"**{count}**"])
        lines += [*text_table(["measurement", "goals", "reached", "met"], written, ["measurement"]), ""]
        missed = [row for _, row in goals if row.met is not True]
        lines += ["### Goals that were missed", ""] if missed else []
        written = [
            [row.case, row.contender, f"{row.goal:g}x", spread(row) if row.ratio else row.failed or "not measured"]
            for row in missed
        ]
        if missed:
            lines += [*text_table(["what", "against", "goal", "times ours"], written, ["what", "against"]), ""]
    lost = [(table, row) for table, row in rows if row.ratio is not None and row.ratio[0] < LOST]
    lines += ["### Where others are ahead", ""]
    if lost:
        lines += [f"Every row of this page in which skipway is behind by more than {1 - LOST:.0%}:", ""]
        written = [
            [row.case, row.contender, f"{number(row.median)} {table.unit}" if row.median else "", spread(row)]
            for table, row in sorted(lost, key=lambda pair: pair[1].ratio[0])
        ]
        lines += [*text_table(["what", "who", "theirs", "times ours"], written, ["what", "who"]), ""]
    else:
        lines += [f"In no row of this page is skipway behind by more than {1 - LOST:.0%}.", ""]
    failed = [table for table in tables if table.failed]
    if failed:
        lines += ["Not measured to the end: " + "; ".join(f"{table.title} ({table.failed})" for table in failed), ""]
    return lines


def origin(tables: Sequence[Table]) -> list[str]:
    """The machines and the versions, each once."""
    lines = ["## Where the figures come from", ""]
    machines = dict.fromkeys(computer(table) for table in tables)
    lines += [f"- {machine}" for machine in machines]
    seen = dict.fromkeys(", ".join(f"{name} {version}" for name, version in table.versions.items()) for table in tables)
    lines += [f"- {text}" for text in seen if text]
    return [*lines, ""]


def page(tables: Sequence[Table]) -> str:
    """The whole page."""
    lines = [HEAD]
    lines += verdict(tables)
    left = list(tables)
    for part in (*PARTS, Part("Further measurements", ("",), "")):
        mine = [t for name in part.names for t in left if t.name == name or t.name.startswith(name)]
        mine = list({t.name: t for t in mine}.values())
        if mine:
            lines += [f"## {part.title}", "", *([part.intro.strip(), ""] if part.intro else [])]
            for table in mine:
                lines += section(table)
        left = [table for table in left if table not in mine]
    return "\n".join(lines + origin(tables)).rstrip("\n") + "\n"


def order(tables: Sequence[Table]) -> list[Table]:
    """As the sections come."""
    names = [name for part in PARTS for name in part.names]

    def place(table: Table) -> tuple[int, str]:
        return next((i for i, name in enumerate(names) if table.name.startswith(name)), len(names)), table.name

    return sorted(tables, key=place)


def read(folder: Path) -> list[Table]:
    return order([load(path) for path in sorted(folder.glob("*.json")) if path.name != "run.json"])


def make(results: Path = RESULTS, to: Path = ROOT / "docs") -> Path:
    """Write the page and its pictures."""
    tables = read(results)
    (to / "images").mkdir(parents=True, exist_ok=True)
    for old in (to / "images").glob(slug("*")):
        old.unlink()
    for table in tables:
        if picture := svg(table):
            (to / "images" / slug(table.name)).write_text(picture)
    path = to / "performance.md"
    path.write_text(page(tables))
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--to", type=Path, default=ROOT / "docs")
    options = parser.parse_args()
    print(make(options.results, options.to))


if __name__ == "__main__":
    main()
