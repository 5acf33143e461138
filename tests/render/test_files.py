"""Drawings as files: what is written, what cannot be, and that nothing changes by it."""

from __future__ import annotations

import functools
import re
import subprocess
import sys
import xml.etree.ElementTree as ET

import numpy as np
import pytest
import torch
from torch import nn

from skipway import BatchNorm, Chain, ChainError, Conv, Dense, Parallel, Shortcut, Skip, dense, every, relu
from skipway.render.draw import planned, scene

NETS = {
    "one": lambda: Chain(Dense(4, 4)),
    "question": lambda: Chain(
        Dense(10, 5, relu), Dense(5, 4, relu), Dense(4, 2, relu), wiring=every(1, path="project")
    ),
    "crossing": lambda: Chain(
        stem=Dense(8, 16, relu), a=Dense(16, 16, relu), b=Dense(16, 16), c=Dense(16, 16),
        wiring=[
            Shortcut("stem", "b", name="first"), Shortcut("a", "c", merge="mean", act=torch.tanh),
            Shortcut("input", "c", path="project"),
        ],
    ),
    "branches": lambda: Chain(Dense(4, 4), Parallel(Dense(4, 3), Skip(Dense(4, 4)), merge="cat"), Dense(..., 2)),
    "dense 100": lambda: Chain(*[Dense(4, 4) for _ in range(100)], wiring=dense()),
}  # fmt: skip
NETS = {name: functools.cache(make) for name, make in NETS.items()}  # only read here


def test_an_svg_is_one_file_that_asks_for_nothing(tmp_path):
    path = tmp_path / "net.svg"
    assert NETS["crossing"]().draw(path) == str(path)
    text = path.read_text(encoding="utf-8")
    root = ET.fromstring(text)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert "href" not in text
    assert "<script" not in text
    assert "var(" not in text, "converters to PDF know no variables"
    tips = [t.text for t in root.iter("{http://www.w3.org/2000/svg}title")]
    assert any("first: add" in tip and "test_files.py:" in tip for tip in tips)
    assert "Chain of 4 layers, (N, 8) to (N, 16), 3 shortcuts" in root.attrib["aria-label"]


def test_light_and_dark():
    net = NETS["question"]()
    assert "prefers-color-scheme:dark" in net.draw()
    assert "prefers-color-scheme" not in net.draw(theme="light")
    assert "#12171d" in net.draw(theme="dark")
    assert "#12171d" not in net.draw(theme="light")


def test_title_and_legend_can_be_left_out():
    net = NETS["question"]()
    assert "167 parameters" in net.draw()
    bare = net.draw(title="", legend=False)
    assert "167 parameters" not in bare
    assert "3 shortcuts<" not in bare
    assert "A title" in net.draw(title="A title")


def test_names_are_written_as_they_are():
    text = Chain({"<b>&": Dense(4, 4), "b": Dense(4, 4)}, wiring=[Shortcut("<b>&", "b")]).draw(title="<i>")
    root = ET.fromstring(text)
    written = "".join(root.itertext())
    assert "<b>&" in written
    assert "<i>" in written


@pytest.mark.parametrize(("theme", "paper"), [("light", (255, 255, 255)), ("dark", (18, 23, 29))])
def test_a_png_has_the_size_and_the_paper_of_the_drawing(tmp_path, theme, paper):
    from matplotlib.image import imread

    net = NETS["branches"]()
    net.draw(tmp_path / "net.png", theme=theme)
    made = scene(net, planned(net))
    pixels = imread(tmp_path / "net.png")
    assert abs(pixels.shape[1] - 2 * made.width) <= 2
    assert abs(pixels.shape[0] - 2 * made.height) <= 2
    assert tuple((pixels[2, 2, :3] * 255).round().astype(int)) == paper
    assert len(np.unique(pixels.reshape(-1, pixels.shape[2]), axis=0)) > 20


def test_in_a_notebook_the_drawing_is_the_svg():
    net = NETS["question"]()
    assert net.draw() in net._repr_html_()


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("net.pdf", {}, "the name of the file says what is drawn: .svg, .png, .html, not 'net.pdf'"),
        ("net", {}, "not 'net'"),
        ("no/net.svg", {}, "there is no folder"),
        ("net.svg", {"direction": "vertcal"}, "did you mean 'vertical'?"),
        ("net.svg", {"theme": "drak"}, "did you mean 'dark'?"),
    ],
)
def test_what_cannot_be_drawn_is_said(tmp_path, name, options, said):
    with pytest.raises(ChainError, match="draw: ") as error:
        NETS["one"]().draw(tmp_path / name, **options)
    assert said in str(error.value)


@pytest.mark.parametrize("kind", ["svg", "png", "html"])
def test_a_file_that_cannot_be_written_is_said(tmp_path, kind):
    with pytest.raises(ChainError, match=r"draw: .* cannot be written: .*: choose another folder or name"):
        NETS["one"]().draw(tmp_path / f"{'a' * 300}.{kind}")
    (tmp_path / f"net.{kind}").mkdir()
    with pytest.raises(ChainError, match="is a folder, not a file"):
        NETS["one"]().draw(tmp_path / f"net.{kind}")


@pytest.mark.parametrize("kind", ["svg", "png", "html"])
def test_open_chains_and_names_of_any_script_are_drawn(tmp_path, kind):
    """Warnings are errors here: a font without a sign is no reason for one."""
    net = Chain({"入力": lambda x: x, "слой": Dense(..., 4), "🙂": Parallel(Dense(..., 2), Chain())})
    assert net.is_open
    net.draw(tmp_path / f"net.{kind}")
    assert (tmp_path / f"net.{kind}").stat().st_size > 2000


def test_drawings_on_one_page_do_not_meet():
    """No ids, and rules that are only for drawings of the same theme."""
    both = [NETS["question"]()._repr_html_(), NETS["branches"]().draw(theme="dark")]
    for text, theme in zip(both, ("auto", "dark"), strict=True):
        assert ' id="' not in text
        style = re.search("<style>(.*?)</style>", text)[1]
        coloured = re.findall(r"([^{}]*){[^{}]*(?:fill|stroke):#", style)
        assert len(coloured) > 30
        assert all(f"svg.skipway.{theme} " in rule for rule in coloured)


def test_drawing_changes_nothing():
    net = Chain(Conv(3, 4, 3), BatchNorm(), nn.Dropout(0.5), input=(3, 8, 8))
    before = {k: v.clone() for k, v in net.state_dict().items()}
    state = torch.get_rng_state()
    net.draw()
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())
    assert net.training


def test_only_a_png_needs_matplotlib():
    code = (
        "import sys\nfrom skipway import Dense, Skip\nnet = Skip(Dense(4, 4))\nnet.draw()\n"
        "assert 'matplotlib' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_dense_over_a_hundred_layers_stays_small():
    text = NETS["dense 100"]().draw()
    assert text.count('class="arc l-add faint"') == 4950
    assert len(text) < 1_000_000


@pytest.mark.parametrize("wiring", [every(1), every(2)])
def test_a_thousand_layers_one_by_one_stay_below_a_megabyte(wiring):
    net = Chain(*[Dense(8, 8, relu) for _ in range(1000)], wiring=wiring)
    text = net.draw(fold=False)
    assert text.count('class="weights"') == 1000
    assert len(text.encode()) < 1_000_000
