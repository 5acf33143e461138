"""What the documentation writes runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import nn

import skipway
from skipway import Chain, Dense, Shortcut, Skip, every
from skipway.gains import Gain
from skipway.merges import MERGES
from skipway.paths import PATHS

PAGE = Path(__file__).parents[1] / "docs" / "vocabulary.md"
NAMES = {**vars(skipway), "nn": nn, "torch": torch}
ROWS = re.findall(r"^\| `(.+?)` \|", PAGE.read_text(), flags=re.MULTILINE)
OPTION = re.compile(r"(path|scale|path_scale|drop|merge)=")


@pytest.mark.parametrize("code", ROWS)
def test_every_line_of_the_vocabulary_runs(code):
    if OPTION.match(code):
        made = eval(f"every(1, {code})", NAMES)
        assert made(3)[-1] != Shortcut(2, 3) or code in ('path="identity"', 'merge="add"')
        assert "lambda" in code or "nn." in code or eval(repr(made), NAMES) == made
    else:
        made = eval(code, NAMES)
        assert isinstance(made, (Shortcut, Chain, nn.Module)) or callable(made)
    if isinstance(made, Chain):
        width = 8 if isinstance(made[0], (Dense, nn.LayerNorm)) else 4
        shape = (2, width) if width == 8 else (2, 4, 8, 8)
        assert made(torch.randn(shape)).shape[0] == 2


def test_every_word_and_recipe_is_on_the_page():
    text = PAGE.read_text()
    for words, option in ((MERGES, "merge"), (PATHS, "path")):
        assert [w for w in words if f'{option}="{w}"' not in text] == []
    recipes = [n for n, v in vars(skipway).items() if isinstance(v, type) and issubclass(v, (Gain, *RECIPES))]
    assert len(recipes) > 15
    worded = {type(recipe).__name__ for recipe in (*MERGES.values(), *PATHS.values())}
    assert [n for n in recipes if f"{n}(" not in text and n not in worded] == []


RECIPES = tuple({type(v).__mro__[-2] for v in (*MERGES.values(), *PATHS.values())})


def test_the_formula_of_the_page_is_what_runs():
    net = Skip(Dense(4, 4), scale=0.5, path_scale=2.0, path="detach", act=torch.tanh)
    x = torch.randn(3, 4)
    assert torch.allclose(net(x), torch.tanh(0.5 * net[0](x) + 2.0 * x))
    assert Chain(Dense(4, 4), wiring=every(1)).wiring == (Shortcut(0, 1),)


def test_the_example_of_the_studies_runs(capsys):
    page = (PAGE.parent / "studies.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    exec(code, {})
    assert "4,096" in capsys.readouterr().out
    named = re.findall(r"`(\w+)\(", page.split("## An example")[0])
    assert {"compare", "lesion", "sweep"} <= set(named)
    assert [name for name in named if name != "plot" and not hasattr(skipway.study, name)] == []
