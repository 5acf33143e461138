"""`python bench`: a script that fails or a run that is stopped loses nothing of the others."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[2] / "bench"

WORKS = """
import sys
from record import Table, save
table = Table({name!r}, {name!r}, "ours", quick="--quick" in sys.argv)
table.add("case", {{"ours": [1.0], "theirs": [2.0]}})
save(table)
open({log!r}, "a").write({name!r} + "\\n")
{end}
"""


def module(monkeypatch):
    spec = importlib.util.spec_from_file_location("bench_main", BENCH / "__main__.py")
    main = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "bench_main", main)
    spec.loader.exec_module(main)
    return main


@pytest.fixture
def driver(tmp_path, monkeypatch):
    """The driver with three small scripts in place of the measurements, the second of which fails at its end."""
    main = module(monkeypatch)
    monkeypatch.setenv("SKIPWAY_BENCH_RESULTS", str(tmp_path / "results"))
    monkeypatch.setenv("PYTHONPATH", str(BENCH))
    monkeypatch.setattr(main, "HERE", tmp_path)
    monkeypatch.setattr(main, "commit", lambda: "abc")
    monkeypatch.setattr(main, "JOBS", tuple(main.Job(name, f"{name}.py", 1, 1) for name in ("one", "two", "three")))
    main.log = tmp_path / "log"
    for name in ("one", "two", "three"):
        end = 'sys.exit("out of luck")' if name == "two" else ""
        (tmp_path / f"{name}.py").write_text(WORKS.format(name=name, log=str(main.log), end=end))
    return main


def called(main, monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", ["bench", *arguments])
    main.main()


def test_a_script_that_fails_does_not_stop_the_others_and_its_table_says_so(driver, monkeypatch, capfd):
    from record import folder_of, load

    with pytest.raises(SystemExit) as ended:
        called(driver, monkeypatch, "--quick")
    assert ended.value.code == 1
    assert driver.log.read_text().split() == ["one", "two", "three"]
    found = {name: load(folder_of(True) / f"{name}.json") for name in ("one", "two", "three")}
    assert {name: table.failed for name, table in found.items()} == {"one": "", "two": "out of luck", "three": ""}
    assert found["two"].rows  # what it had measured is kept
    out = capfd.readouterr().out
    assert "[1/3] one.py: 3 s left" in out
    assert "two FAILED: out of luck" in out

    # the next run repeats only what failed
    (folder_of(True) / "gone.json").write_text(
        (folder_of(True) / "one.json").read_text()
    )  # of a script that is no more
    (driver.HERE / "two.py").write_text(WORKS.format(name="two", log=str(driver.log), end=""))
    called(driver, monkeypatch, "--quick")
    assert driver.log.read_text().split() == ["one", "two", "three", "two"]
    assert load(folder_of(True) / "two.json").failed == ""
    # all is done: only its tables are left, and another run begins anew
    assert sorted(path.name for path in folder_of(True).iterdir()) == ["one.json", "three.json", "two.json"]


def test_what_was_measured_of_other_code_is_not_kept(driver, monkeypatch, capfd):
    from record import folder_of

    called(driver, monkeypatch, "--quick", "--only", "one")
    assert list(json.loads((folder_of(True) / driver.STATE).read_text())["done"]) == ["one"]
    called(driver, monkeypatch, "--quick", "--only", "one")
    monkeypatch.setattr(driver, "commit", lambda: "def")
    called(driver, monkeypatch, "--quick", "--only", "one")
    assert driver.log.read_text().split() == ["one", "one"]
    called(driver, monkeypatch, "--quick", "--only", "one", "--fresh")
    assert driver.log.read_text().split() == ["one", "one", "one"]


def test_a_script_that_leaves_no_table_gets_one_with_the_reason(driver, monkeypatch, capfd):
    from record import folder_of, load

    (driver.HERE / "one.py").write_text("raise RuntimeError('no such peer')")
    with pytest.raises(SystemExit):
        called(driver, monkeypatch, "--quick", "--only", "one")
    table = load(folder_of(True) / "one.json")
    assert (table.failed, table.rows) == ("RuntimeError: no such peer", [])


def test_a_word_that_names_no_job_is_told(driver):
    with pytest.raises(SystemExit, match="nothing is called 'thre_e': there are one, two, three"):
        driver.chosen("one,thre_e")


def test_every_job_is_a_script_that_is_there(monkeypatch):
    assert [job.name for job in module(monkeypatch).JOBS if not (BENCH / job.command.split()[0]).is_file()] == []
