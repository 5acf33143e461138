import json
import re
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch

from skipway import Chain, ChainError, Dense, data, every, relu
from skipway.cli import main
from skipway.study.kept import Kept
from skipway.study.report import STUDIES, report

NETS = """
from torch import nn
from skipway import Chain, Dense, Learned, every, relu

body = Chain(*[Dense(12, 12, relu) for _ in range(4)], wiring=every(2, scale=Learned(0.5)))
net = Chain(stem=Dense(49, 12, relu), body=body, head=Dense(12, 10))
plain = Chain(Dense(49, 10))
torch_net = nn.Sequential(nn.Linear(49, 10))
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "net.py").write_text(NETS)
    load = data.load

    def few(name: str, **options: object) -> data.Dataset:
        small = [split.take(100) for split in load(name, **options)]
        return data.Dataset(*(replace(split, x=split.x[..., ::4, ::4].contiguous()) for split in small))

    monkeypatch.setattr("skipway.data.load", few)
    return tmp_path


class Page(HTMLParser):
    """All ids, and all that a page would load."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.loads: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        for key, value in attrs:
            if key == "id":
                self.ids.append(value)
            if key in ("src", "href", "xlink:href") and not value.startswith("#"):
                self.loads.append(value)
        if tag not in ("meta", "path", "use", "line", "rect", "circle", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if self.open and self.open[-1] == tag:
            self.open.pop()

    def handle_endtag(self, tag):
        if self.open and self.open[-1] == tag:
            self.open.pop()


def test_a_page_holds_all_studies_and_needs_no_other_file(here: Path, capsys):
    assert main(["study", "net.py:net", "--out", "pages/net.html", "--epochs", "1", "--rows", "60"]) == 0
    said = capsys.readouterr().out
    assert "written: pages/net.html, pages/net.json" in said
    text = (here / "pages" / "net.html").read_text()
    page = Page(text)
    assert page.loads == []
    assert len(page.ids) == len(set(page.ids))
    assert page.open == []
    # what a plot refers to is in it
    assert set(re.findall(r'(?:href="|url\()#([^")]+)', text)) <= set(page.ids)
    stored = json.loads((here / "pages" / "net.json").read_text())
    assert list(stored["studies"]) == list(STUDIES)
    assert stored["left_out"] == {}
    assert stored["command"] in text
    assert stored["command"].startswith("skipway study net.py:net --out pages/net.html --data mnist-small")
    assert (stored["seed"], stored["history"]["epoch"]) == (0, [1])
    assert stored["studies"]["paths"]["total"] == 4
    for name, question in STUDIES.items():
        assert f'<h2 id="{name}">' in text
        assert question in text
        assert f"{name}: " in said
    assert text.count("<svg") == 1 + len(STUDIES) + 1  # the drawing, the studies, the training


def test_the_same_command_makes_the_same_numbers(here: Path, capsys):
    made = []
    for name in ("a", "b"):
        args = ["study", "net.py:net", "--out", f"{name}.html", "--epochs", "0", "--studies", "jacobian,paths"]
        assert main([*args, "--seed", "3"]) == 0
        stored = json.loads((here / f"{name}.json").read_text())
        made.append((stored["studies"], stored["history"]))
    assert list(made[0][0]) == ["paths", "jacobian"]
    assert made[0][1] is None
    assert made[0] == made[1]


def test_what_a_net_does_not_allow_is_left_out_with_the_reason(here: Path, capsys):
    assert main(["study", "net.py:plain", "--epochs", "0", "--studies", "paths,lesion,flow", "--rows", "20"]) == 0
    stored = json.loads((here / "report.json").read_text())
    assert list(stored["studies"]) == ["paths"]
    assert set(stored["left_out"]) == {"lesion", "flow"}
    assert "Left out: " in (here / "report.html").read_text()
    assert "lesion: left out: " in capsys.readouterr().out


def test_an_interrupted_report_holds_what_was_done(here: Path, capsys, monkeypatch):
    def stop(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("skipway.study.report.fit", stop)
    assert main(["study", "net.py:net", "--studies", "paths,flow", "--epochs", "1"]) == 130
    assert "report.html holds what was done" in capsys.readouterr().err
    assert list(json.loads((here / "report.json").read_text())["studies"]) == ["paths"]


@pytest.mark.parametrize(("stop", "studies"), [("training", "paths,flow"), ("landscape", "landscape")])
def test_an_interrupted_report_goes_on(here: Path, capsys, monkeypatch, stop, studies):
    args = ["study", "net.py:net", "--studies", studies, "--epochs", "2", "--rows", "30"]
    assert main([*args, "--out", "whole.html"]) == 0
    real, made = Kept.keep, []

    def keep(self, name, piece):
        real(self, name, piece)
        made.append(name)
        if (name == "looks") if stop == "training" else (made.count("seed 1, point 3")):
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Kept, "keep", keep)
        assert main([*args, "--run", "parts"]) == 130
    assert "the same command goes on" in capsys.readouterr().err
    assert main([*args, "--run", "parts"]) == 0
    whole, again = (json.loads((here / name).read_text()) for name in ("whole.json", "report.json"))
    assert again["studies"] == whole["studies"]
    assert again["history"]["test_loss"] == whole["history"]["test_loss"]
    assert main([*args, "--run", "parts", "--lr", "0.1"]) in (1, 2)
    assert "lr" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "match"),
    [
        (["net.py:torch_net"], "is a Sequential"),
        (["net.py:net", "--out", "page.txt"], "an .html file"),
        (["net.py:net", "--studies", "pathes"], "did you mean 'paths'"),
        (["net.py:net", "--studies", ","], "no study"),
        (["net.py:net", "--epochs", "-1"], "--epochs"),
        (["net.py:net", "--data", "mnist-smal"], "did you mean 'mnist-small'"),
        (["net.py:net", "--lr", "0"], "lr must be"),
        (["net.py:net", "--out", "net.py/page.html", "--studies", "paths"], "cannot make the folder"),
    ],
)
def test_wrong_commands_are_told_in_a_line(here: Path, capsys, args, match):
    assert main(["study", *args]) in (1, 2)
    said = capsys.readouterr()
    assert re.search(match, said.err)
    assert said.err.count("\n") == 1


def test_a_report_is_of_a_chain():
    split = data.load("mnist-small", flat=True).train.take(20)
    with pytest.raises(ChainError, match="not a Linear"):
        report(torch.nn.Linear(784, 10), split, split)
    made = report(Chain(Dense(784, 10, relu), Dense(10, 10), wiring=[every(1)(2)[1]]), split, split, epochs=0,
                  studies=["paths"], progress=False)  # fmt: skip
    assert list(made.results) == ["paths"]
