"""Tables of measurements: what a row says, and that nothing is lost on the way to the page."""

from __future__ import annotations

import doctest
import importlib
import json

import pytest


@pytest.fixture
def table():
    from record import Table

    made = Table("demo", "A demonstration", ours="ours", unit="ms")
    made.add(
        "first",
        {"ours": [0.001, 0.002, 0.003], "theirs": [0.002, 0.004, 0.006], "near": [0.001, 0.002, 0.0027]},
        goals={"theirs": 1.5, "near": 1.1, "absent": 2.0},
        more={"theirs": {"accuracy": "97 %"}},
        failed={"absent": "not installed"},
    )
    return made


@pytest.mark.parametrize("name", ["record", "plot", "report"])
def test_the_examples_of_the_scripts_run(name):
    found = doctest.testmod(importlib.import_module(name))
    assert found.attempted > 0
    assert found.failed == 0


def test_a_row_tells_medians_in_the_unit_and_ratios_by_round(table):
    ours, theirs, near, absent = table.rows
    assert (ours.median, ours.ratio, ours.goal, ours.met) == (2.0, None, None, None)
    assert theirs.ratio == (2.0, 2.0, 2.0)  # in every round, though rounds differ by three times
    assert theirs.met is True
    assert near.met is False
    assert (absent.median, absent.failed, absent.met) == (None, "not installed", None)


def test_a_goal_is_judged_by_the_digits_that_are_printed(table):
    from record import Row, told

    assert [told(Row("c", "x", 1.0, 1.0, 1.0, 1, (r, r, r), 0.99)) for r in (0.986, 0.984)] == ["met", "MISSED"]


def test_what_is_saved_is_what_is_loaded(table, tmp_path, capsys):
    from record import load, save

    path = save(table, tmp_path)
    assert load(path) == table
    assert json.loads(path.read_text())["rows"][3]["failed"] == "not installed"
    printed = capsys.readouterr().out
    assert "2.00x" in printed
    assert "1.1x: MISSED" in printed
    assert "not installed" in printed
    assert table.machine["cores"] >= 1
    assert table.versions["torch"]


def test_a_quick_run_never_takes_the_place_of_a_full_one(table, tmp_path, monkeypatch, capsys):
    from record import save

    monkeypatch.setenv("SKIPWAY_BENCH_RESULTS", str(tmp_path))
    table.quick = True
    assert save(table) == tmp_path / "quick" / "demo.json"
    assert "says little" in capsys.readouterr().out


def test_goals_of_nobody_and_rounds_that_differ_are_refused(table):
    with pytest.raises(KeyError, match="'their'"):
        table.add("second", {"ours": [1.0]}, goals={"their": 2.0})
    with pytest.raises(ValueError, match="zip"):
        table.add("second", {"ours": [1.0], "theirs": [1.0, 2.0]})


def test_every_line_of_a_table_has_every_column(table):
    from record import cells

    columns, lines = cells(table)
    assert {len(line) for line in lines} == {len(columns)}
    assert columns[-2:] == ["accuracy", "goal"]
    assert lines[1] == ["first", "theirs", "4.00", "3.00 to 5.00", "2.00x", "2.00 to 2.00", "97 %", "1.5x: met"]
