"""Drawings from the command line."""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from skipway.cli import main


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(
        "from torch import nn\nfrom skipway import Chain, Dense, Skip, every\n"
        "net = Chain(*[Dense(4, 4) for _ in range(30)], wiring=every(2))\nopen_ = Skip(Dense(..., 4))\n"
        "torch_net = nn.Sequential(nn.Linear(4, 2))\n"
    )
    return tmp_path


@pytest.mark.parametrize("flag", ["--svg", "--out"])
def test_show_draws(here, capsys, flag):
    assert main(["show", "net.py:net", flag, "net.svg"]) == 0
    assert capsys.readouterr().out == "drawn: net.svg\n"
    assert ET.parse(here / "net.svg").getroot().attrib["class"] == "skipway auto"


def test_the_ending_says_what_is_drawn(here):
    assert main(["show", "net.py:net", "--out", "net.html", "--theme", "dark"]) == 0
    assert (here / "net.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    assert main(["show", "net.py:net", "--out", "net.png"]) == 0
    assert (here / "net.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_show_passes_its_options_on(here):
    assert main(["show", "net.py:net", "--out", "a.svg"]) == 0
    assert main(["show", "net.py:net", "--out", "b.svg", "--no-fold", "--direction", "vertical"]) == 0
    assert "×15" in (here / "a.svg").read_text(encoding="utf-8")
    assert "×15" not in (here / "b.svg").read_text(encoding="utf-8")
    sizes = [ET.parse(here / name).getroot().attrib for name in ("a.svg", "b.svg")]
    assert float(sizes[1]["height"]) > 800 > float(sizes[0]["height"])


def test_show_draws_what_an_input_closes(here, capsys):
    assert main(["show", "net.py:open_", "--input", "4", "--out", "net.svg", "--code"]) == 0
    assert "def forward" in capsys.readouterr().out
    assert "(N, 4)" in (here / "net.svg").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ("show net.py:net --out net.pdf", "the name of the file says what is drawn"),
        ("show net.py:net --out no/net.svg", "there is no folder 'no'"),
        ("show net.py:net --out net.svg --theme blue", "theme= is 'auto', 'light', 'dark', not 'blue'"),
        ("show net.py:net --out net.svg --direction down", "direction="),
        ("show net.py:torch_net --out net.svg", "--out is for a Chain"),
        ("show --all", "a folder with --out"),
        ("show net.py:net --all --out pictures", "give no MODEL"),
        ("show --all --out net.py", "net.py is a file, not a folder"),
    ],
)
def test_what_cannot_be_drawn_is_one_line(capsys, args, said):
    assert main(args.split()) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert said in error


def test_all_draws_a_net_of_every_family(here, capsys, monkeypatch):
    from skipway.cli.show import families
    from skipway.zoo.registry import ENTRIES

    found = families()
    assert sorted(name for names in found.values() for name in names) == sorted(ENTRIES)
    some = {name: found[name] for name in ("highway", "cascade")}
    # the attribute `skipway.cli.show` is the command; the module of that name holds what it calls
    monkeypatch.setattr(sys.modules["skipway.cli.show"], "families", lambda: some)
    assert main(["show", "--all", "--out", "a/pictures"]) == 0
    assert sorted(path.name for path in (here / "a" / "pictures").iterdir()) == ["cascade.svg", "highway.svg"]
    assert capsys.readouterr().out.count("drawn: ") == 2
