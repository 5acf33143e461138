"""What docs/training.md writes runs, and the options it speaks of are there."""

import inspect
import re
from pathlib import Path

import pytest

import skipway.train
from skipway import fit
from skipway.train.allocator import ALLOCATORS

PAGE = (Path(__file__).parents[2] / "docs" / "training.md").read_text()


def test_the_examples_run(capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, object] = {}
    for code in re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL):
        exec(code, names)
    told = capsys.readouterr().out
    assert "test accuracy" in told
    assert re.search(r"worst batch: \d\.\d{3}", told)


def test_the_names_are_there() -> None:
    options = set(inspect.signature(fit).parameters)
    spoken_of = set(re.findall(r"`(\w+)=", PAGE))
    assert {"precision", "compile", "allocator", "run", "resume"} <= spoken_of <= options
    assert {name for name in re.findall(r"`skipway\.train\.(\w+)", PAGE) if not hasattr(skipway.train, name)} == set()
    assert set(re.findall(r'^\| `"(\w+)"`', PAGE, flags=re.MULTILINE)) == set(ALLOCATORS)
