"""Every example runs, without a warning, and what it shows is true."""

import ast
import re
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import skipway
import skipway.data
import skipway.study
import skipway.train
import skipway.zoo.initialise

FOLDER = Path(__file__).parents[1] / "examples"
FILES = sorted(FOLDER.rglob("*.py"))
Run = Callable[..., tuple[dict[str, Any], str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run an example as a script; gives its globals and what it printed."""

    def call(name: str, *arguments: str) -> tuple[dict[str, Any], str]:
        path = str(next(FOLDER.rglob(name)))
        monkeypatch.setattr(sys, "argv", [path, *arguments])
        # an example seeds torch's generator for itself, not for the tests after it
        with torch.random.fork_rng():
            space = runpy.run_path(path, run_name="__main__")
        return space, capsys.readouterr().out

    return call


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_an_example_says_what_it_answers_and_uses_public_names(path: Path) -> None:
    tree = ast.parse(path.read_text())
    doc = ast.get_docstring(tree)
    assert doc
    assert path.parent.name != "thread" or "The question: " in doc
    modules = (skipway, skipway.data, skipway.study, skipway.train, skipway.zoo.initialise)
    public = {module.__name__: module.__all__ for module in modules}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("skipway"):
            assert {alias.name for alias in node.names} <= set(public[node.module or ""])


def test_the_readme_lists_every_example() -> None:
    text = (FOLDER / "README.md").read_text()
    listed = set(re.findall(r"\]\(([\w/]+\.py)\)", text))
    assert listed == {path.relative_to(FOLDER).as_posix() for path in FILES}


def test_by_hand(run: Run) -> None:
    space, out = run("1_by_hand.py")
    assert space["difference"] < 1e-12
    # float64 and a step of 1e-6: rounding leaves about 1e-10
    assert max(space["errors"].values()) < 1e-7
    assert space["checked"]
    assert "gradcheck, weights and input: passed" in out
    assert space["net"].code in out


def test_identity_and_cat_skip(run: Run) -> None:
    space, out = run("2_identity_and_cat_skip.py")
    assert [tuple(space[name](space["h"]).shape) for name in ("added", "joined")] == [(3, 5), (3, 9)]
    assert "the branch is (N, 1), the shortcut (N, 5)" in space["refused"]
    assert "path='project'" in space["refused"] or 'path="project"' in space["refused"]
    assert "project 5→1" in out


def test_your_own_structs(run: Run) -> None:
    space, out = run("3_your_own_structs.py")
    assert space["counts"] == (4, 6)
    assert "affine.W is torch.float64" in out
    assert len(space["moved"]) == len(space["before"]) == 6
    assert space["history"][-1]["train_loss"] < 0.6 * space["history"][0]["train_loss"]
    assert list(space["refused"]) == list(space["tries"])
    said = ["'GLOBAL'", "nn.Parameter", "a tuple", "nn.ModuleList", "tie(...)"]
    assert all(word in message for word, message in zip(said, space["refused"].values(), strict=True))


def test_over_k_layers(run: Run) -> None:
    space, out = run("4_over_k_layers.py")
    assert "[Shortcut(0, 2), Shortcut(1, 3), Shortcut(2, 4)]" in out
    # neither of the two lies inside the other
    assert [(s.start, s.end) for s in space["crossing"].wiring] == [("a", "c"), ("b", "d")]
    assert "9 mixed, 0 plain, 3 rewired; 432 parameters" in out
    x = space["x"]
    assert not torch.equal(space["mixed"](x), space["plain"](x))


def test_activation_order(run: Run) -> None:
    space, out = run("5_activation_order.py", "--blocks=8", "--epochs=2")
    results = space["results"]
    assert list(results) == ["post-activation", "pre-activation", "DenseNet"]
    assert all(accuracy > 0.8 for accuracy, _ in results.values())
    # sixteen normalised layers one after the other: without the shortcuts little arrives in two epochs
    with_shortcuts, without = results["pre-activation"]
    assert with_shortcuts > without + 0.15
    assert all(f"{accuracy:.1%}" in out for accuracy, _ in results.values())


def test_policy_network(run: Run) -> None:
    space, out = run("6_policy_network.py", "--updates=60", "--walkers=64")
    results = space["results"]
    assert results["best"] >= results["end"] > results["start"] + 8
    assert "mean return over 1,000 walks" in out


def test_mnist_cnn(run: Run) -> None:
    space, out = run("7_mnist_cnn.py", "--epochs=1")
    assert space["results"][-1]["test_accuracy"] > 0.75
    assert f"test accuracy {space['results'][-1]['test_accuracy']:.2%} after 1 epochs" in out


def test_mnist_cnn_takes_all_of_mnist(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def mnist(*, small: bool) -> skipway.data.Dataset:
        asked.append(small)
        train, test = real(small=True)
        return skipway.data.Dataset(train.take(64), test.take(64))

    real = skipway.data.mnist
    monkeypatch.setattr(skipway.data, "mnist", mnist)
    run("7_mnist_cnn.py", "--full", "--epochs=1", "--batch=32")
    assert asked == [False]


def test_degradation(run: Run, tmp_path: Path) -> None:
    space, out = run("degradation.py", "--depths", "2", "30", "--epochs=1", f"--out={tmp_path}")
    deep = space["results"][30]
    # ReZero begins as the identity; batch norm without shortcuts explodes, by nearly a fifth a layer
    assert deep["ReZero"].ratio == pytest.approx(1, abs=1e-9)
    assert deep["plain + BN"].ratio > 100
    assert min(deep[name].accuracy for name in ("residual + BN", "residual / √L", "ReZero")) > 0.6
    assert deep["plain"].accuracy < 0.5
    assert deep["plain + BN"].accuracy < 0.3
    assert all(row[name].seconds > 0 for row in space["results"].values() for name in row)
    assert (tmp_path / "degradation.png").read_bytes().startswith(b"\x89PNG")
    assert f"{deep['ReZero'].accuracy:.1%}" in out


def test_shortcut_variants(run: Run) -> None:
    space, out = run("shortcut_variants.py", "--blocks=1", "--epochs=1", "--digits=200")
    runs = {one.name: one for one in space["results"].runs}
    assert list(runs) == list(space["VARIANTS"])
    more = {name: one.parameters - runs["original"].parameters for name, one in runs.items()}
    gates, maps = (sum(c * c + c * bias for c in space["WIDTHS"]) for bias in (1, 0))
    assert {name: count for name, count in more.items() if count} == {
        "exclusive gating": gates,
        "shortcut-only gating, 0": gates,
        "shortcut-only gating, -6": gates,
        "1x1 convolution": maps,
    }
    assert not any(one.failed for one in runs.values())
    assert space["results"].table() in out
