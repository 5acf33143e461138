"""A table of ratios as an SVG: a dot for each contender with the quartiles as a line, on a logarithmic axis.

Written by hand so that the same figures give the same bytes, and so that it can be read on a light and on a dark page.
"""

from __future__ import annotations

import math
from html import escape

from record import Row, Table

WIDTH, LEFT, RIGHT, LINE = 760, 250, 90, 20
STYLE = (
    "text{font:12px 'Helvetica Neue',Helvetica,Arial,'DejaVu Sans',sans-serif;fill:#24292f}"
    ".case{font-weight:600}.dim{fill:#57606a}.grid{stroke:#d0d7de;stroke-width:1}.one{stroke:#57606a;stroke-width:1.5}"
    ".won{stroke:#0969da;fill:#0969da}.lost{stroke:#bc4c00;fill:#bc4c00}.spread{stroke-width:2.5;stroke-linecap:round}"
    ".goal{stroke:#8250df;stroke-width:2}.page{fill:#ffffff}"
    "@media(prefers-color-scheme:dark){text{fill:#e6edf3}.dim{fill:#8b949e}.grid{stroke:#30363d}.one{stroke:#8b949e}"
    ".won{stroke:#58a6ff;fill:#58a6ff}.lost{stroke:#f0883e;fill:#f0883e}.goal{stroke:#bc8cff}"
    ".page{fill:#0d1117}}"
)


def ticks(low: float, high: float) -> list[float]:
    """Round numbers between two ratios, few enough to be labelled.

    >>> ticks(0.5, 12)
    [0.5, 1, 2, 5, 10]
    >>> ticks(0.9, 1.2)
    [0.9, 1, 1.1, 1.2]
    """
    if high / low < 2:
        steps = range(math.ceil(round(10 * low, 6)), math.floor(round(10 * high, 6)) + 1)
        return [step // 10 if step % 10 == 0 else step / 10 for step in steps]
    found = []
    for power in range(-3, 5):
        for digit in (1, 2, 5):
            value = digit * 10**power if power >= 0 else round(digit * 10**power, -power)
            if low <= value <= high:
                found.append(value)
    return found


def svg(table: Table) -> str:
    """The picture of a table; "" where it compares nothing."""
    rows = [row for row in table.rows if row.ratio is not None]
    if not rows:
        return ""
    ends = [value for row in rows if row.ratio for value in row.ratio] + [row.goal for row in rows if row.goal] + [1.0]
    low, high = min(ends) / 1.08, max(ends) * 1.08
    span = math.log(high / low)

    def across(value: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * math.log(value / low) / span

    parts: list[str] = []
    y, last = 34, None
    for row in rows:
        if row.case != last:
            y += 8 if last is not None else 0
            parts.append(f'<text class="case" x="8" y="{y}">{escape(row.case)}</text>')
            y, last = y + LINE, row.case
        parts += mark(row, across, y)
        y += LINE
    bottom = y - LINE + 8
    grid = []
    for value in ticks(low, high):
        x = across(value)
        kind = "one" if value == 1 else "grid"
        grid.append(f'<line class="{kind}" x1="{x:.1f}" x2="{x:.1f}" y1="20" y2="{bottom}"/>')
        grid.append(f'<text class="dim" x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{value:g}x</text>')
    left, right = "ours is slower", "ours is faster"
    if table.unit == "MB":
        left, right = "ours is larger", "ours is smaller"
    head = (
        f'<text class="dim" x="{across(1) - 8:.1f}" y="14" text-anchor="end">← {left}</text>'
        f'<text class="dim" x="{across(1) + 8:.1f}" y="14">{right} →</text>'
    )
    if any(row.goal is not None for row in rows):
        x = WIDTH - RIGHT + 14
        head += f'<line class="goal" x1="{x}" x2="{x}" y1="4" y2="16"/><text class="dim" x="{x + 7}" y="14">goal</text>'
    height = bottom + 26
    title = escape(f"{table.title}: times ours")
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" '
        f'role="img" aria-label="{title}"><title>{title}</title><style>{STYLE}</style>\n'
        f'<rect class="page" width="{WIDTH}" height="{height}" rx="6"/>\n'
        + "\n".join([head, *grid, *parts])
        + "\n</svg>\n"
    )


def mark(row: Row, across, y: float) -> list[str]:
    """One contender: name, dot, spread, goal, and the ratio in figures."""
    assert row.ratio is not None
    middle, low, high = row.ratio
    kind = "won" if round(middle, 2) >= 1 else "lost"
    label = row.contender if len(row.contender) <= 36 else row.contender[:35] + "…"
    found = [
        f'<text x="{LEFT - 10}" y="{y + 4}" text-anchor="end">{escape(label)}</text>',
        f'<line class="{kind} spread" x1="{across(low):.1f}" x2="{across(high):.1f}" y1="{y}" y2="{y}"/>',
        f'<circle class="{kind}" cx="{across(middle):.1f}" cy="{y}" r="4.5"/>',
        f'<text class="dim" x="{WIDTH - RIGHT + 14}" y="{y + 4}">{middle:.2f}x</text>',
    ]
    if row.goal is not None:
        x = across(row.goal)
        found.append(f'<line class="goal" x1="{x:.1f}" x2="{x:.1f}" y1="{y - 8}" y2="{y + 8}"/>')
    return found
