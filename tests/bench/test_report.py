"""The page of measurements: it says what the results say, losses as plainly as wins."""

from __future__ import annotations

import itertools
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
M = {"cpu": "a processor", "cores": 2, "memory_gb": 4, "system": "Linux", "python": "3.11.7", "threads": 2}


def made(name, title, ratios, goal=None, **more):
    from record import Table

    table = Table(name, title, "ours", machine=M, versions={"torch": "2.13.0"}, date="2026-01-01", **more)
    table.command = f"python bench/{name}.py"
    for case, ratio in ratios.items():
        goals = {} if goal is None else {"theirs": goal}
        table.add(case, {"ours": [1.0, 1.0], "theirs": [ratio, ratio]}, goals=goals)
    return table


@pytest.fixture
def tables():
    return [
        made("overhead", "T1", {"a": 1.0, "b": 0.8}, goal=0.99),
        made("inference-x", "T2", {"c": 3.0}, goal=2.0),
        made("new-thing", "T3", {"d": 0.5, "e": 1.2}),
        made("fold", "T4", {}, failed="it broke <here>"),
    ]


def test_the_page_tells_losses_and_failures_as_plainly_as_wins(tables):
    from report import page

    text = page(tables)
    assert "Of 3 goals that were set, 2 are met." in text
    missed = text[text.index("### Goals that were missed") : text.index("### Where others are ahead")]
    assert "| b | theirs | 0.99x | 0.80x (0.80 to 0.80) |" in missed
    assert "| a |" not in missed
    ahead = text[text.index("### Where others are ahead") : text.index("Not measured to the end")]
    rows = re.findall(r"^\| (\w) \| theirs", ahead, flags=re.MULTILINE)
    assert rows == ["d", "b"]  # the largest loss first, goal or none
    assert "Not measured to the end: T4 (it broke <here>)" in text


def test_every_table_stands_on_the_page_once_in_the_section_that_it_belongs_to(tables):
    from report import page

    text = page(tables)
    headings = re.findall(r"^###? (.+)$", text, flags=re.MULTILINE)
    assert [heading for heading in headings if heading.startswith("T")][:4] == ["T1", "T4", "T2", "T3"]
    sections = {name: headings[headings.index(name) - 1] for name in ("T1", "T4", "T2", "T3")}
    assert list(sections.values()) == ["What composition costs", "Folding", "Inference", "Further measurements"]
    for table in tables:
        assert text.count(f"`{table.command}`") == 1


def test_tables_in_markdown_have_as_many_cells_in_every_line(tables):
    from report import page

    lines = page(tables).splitlines()
    blocks = [line for line in lines if line.startswith("|")]
    assert len(blocks) > 10
    for above, line in itertools.pairwise(lines):
        if above.startswith("|") and line.startswith("|"):
            assert above.count("|") == line.count("|")


def test_pictures_are_well_formed_and_put_better_to_the_right(tables, tmp_path):
    from plot import svg

    root = ET.fromstring(svg(tables[0]))
    circles = [float(c.get("cx")) for c in root.iter("{http://www.w3.org/2000/svg}circle")]
    ones = [line for line in root.iter("{http://www.w3.org/2000/svg}line") if line.get("class") == "one"]
    assert circles[0] == pytest.approx(float(ones[0].get("x1")))  # a ratio of one lies on the line of one
    assert circles[1] < circles[0]
    kinds = [c.get("class") for c in root.iter("{http://www.w3.org/2000/svg}circle")]
    assert kinds == ["won", "lost"]
    assert svg(tables[3]) == ""


def test_the_report_reads_only_results_and_removes_pictures_that_have_none(tables, tmp_path):
    from record import write
    from report import make

    results, to = tmp_path / "results", tmp_path / "docs"
    results.mkdir()
    for table in tables:
        write(table, results / f"{table.name}.json")
    (results / "run.json").write_text("{}")  # of the run, not a table
    (to / "images").mkdir(parents=True)
    (to / "images" / "performance-gone.svg").touch()
    (to / "images" / "other.svg").touch()
    text = make(results, to).read_text()
    links = re.findall(r"\(images/(.+?)\)", text)
    assert sorted([*links, "other.svg"]) == sorted(path.name for path in (to / "images").iterdir())
    assert text == make(results, to).read_text()


def test_the_committed_page_is_what_the_committed_results_say():
    from plot import svg
    from record import RESULTS
    from report import page, read, slug

    tables = read(RESULTS) if RESULTS.is_dir() else []
    if not tables:
        assert not (ROOT / "docs" / "performance.md").exists()
        pytest.skip("no results are committed")
    assert not any(table.quick for table in tables)
    assert (ROOT / "docs" / "performance.md").read_text() == page(tables), "run bench/report.py"
    for table in tables:
        if picture := svg(table):
            assert (ROOT / "docs" / "images" / slug(table.name)).read_text() == picture


def test_every_section_has_words_and_no_name_leads_to_two():
    from parts import HEAD, PARTS

    names = [name for part in PARTS for name in part.names]
    assert len(set(names)) == len(names)
    assert all(part.intro.strip() for part in PARTS)
    assert "below 1" in HEAD
