"""The ten experiments run, are kept, go on, and what does not hang on their size is true at any."""

import json
import runpy
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch

FOLDER = Path(__file__).parents[1] / "examples" / "experiments"
NAMES = [path.stem for path in sorted(FOLDER.glob("e[0-9]*.py"))]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path):
    """Run the folder as a script with ``--quick``; gives its outcomes and what it printed."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)

    def call(*arguments: str) -> tuple[dict[str, Any], str]:
        monkeypatch.setattr(sys, "argv", ["experiments", "--quick", f"--out={tmp_path}", *arguments])
        with torch.random.fork_rng():
            space = runpy.run_path(str(FOLDER), run_name="__main__")
        return space["results"], capsys.readouterr().out

    yield call
    for name in set(sys.modules) - before:
        if name in (*NAMES, "outcome", "deep", "degradation"):
            del sys.modules[name]


class Loads(HTMLParser):
    """What a page would load from elsewhere."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found += [v for k, v in attrs if k in ("src", "href") and not v.startswith("data:image/png;base64,")]


def test_all_ten_run_and_are_kept(run, tmp_path: Path):
    results, out = run()
    assert list(results) == NAMES
    assert len(NAMES) == 10
    for name, outcome in results.items():
        assert outcome.claims, name
        assert all((tmp_path / figure).read_bytes().startswith(b"\x89PNG") for figure in outcome.figures)
        assert json.loads((tmp_path / f"{name}.json").read_text())["outcome"]["table"] == outcome.table
        assert all(line.strip() in out for line in outcome.table.splitlines())
    # what is counted, and what is exact, is so at every size
    assert [claim.agrees for claim in results["e05_path_lengths"].claims[:2]] == [True, True]
    assert "98.02 %" in results["e05_path_lengths"].claims[0].measured
    assert "rebuilt nets: equal for all" in results["e04_lesion"].notes
    weights = {name: one["weights"] for name, one in results["e09_two_spirals"].numbers.items()}
    assert list(weights.values()) == [81, 141, 138]
    laws = results["e02_gradient_by_depth"]
    assert [claim.agrees for claim in laws.claims][2:4] == [True, True]  # exponential laws of sums
    assert "--quick is too small to tell" in out
    page = (tmp_path / "index.html").read_text()
    assert Loads(page).found == []
    assert all(f'id="{name}"' in page for name in NAMES)
    again, said = run()
    assert again == results
    assert said.count("kept from before") == 10


def test_an_interrupted_run_goes_on(run, tmp_path: Path, monkeypatch):
    first, _ = run("e10")

    def stop(bench):
        raise KeyboardInterrupt

    import e09_two_spirals

    with monkeypatch.context() as patch:
        patch.setattr(e09_two_spirals, "run", stop)
        with pytest.raises(KeyboardInterrupt):
            run("e05", "e09", "e10")
    results, out = run("e05", "e09", "e10")
    assert out.count("kept from before") == 2
    assert list(results) == ["e05_path_lengths", "e09_two_spirals", "e10_tables"]
    assert results["e10_tables"] == first["e10_tables"]
    # other options are another experiment
    assert "kept from before" not in run("e10", "--seed", "1")[1]


def test_an_experiment_that_is_not_there_is_told(run, capsys):
    with pytest.raises(SystemExit):
        run("e11")
    assert "no experiment is called 'e11'" in capsys.readouterr().err
