import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import skipway
from skipway import data
from skipway.cli import main

NETS = """
from torch import nn
from skipway import Chain, Conv, Dense, Flatten, GlobalAvgPool, Shortcut, Skip, relu

net = Chain(Dense(784, 8, relu), Skip(Dense(8, 8, relu)), Dense(8, 10))
wide = Chain(Dense(784, 9, relu), Dense(9, 10))
open_ = Chain(Dense(..., 8, relu), Dense(..., 10))
image = Chain(Conv(1, 4, 5, relu, stride=4), GlobalAvgPool(), Dense(4, 10))
narrow = Chain(Dense(100, 10))
few = Chain(Dense(784, 3))
torch_net = nn.Sequential(nn.Linear(784, 10))
number = 3

def make():
    return Chain(Dense(784, 10))

def needs(width):
    return Chain(Dense(784, width))

def wrong():
    return Chain(Dense(3, 4), Dense(5, 2))

def nothing():
    return None
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with nets in it, to be in; the digits are few, so that training takes no time."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "net.py").write_text(NETS)
    load = data.load

    def few(name: str, **options: object) -> data.Dataset:
        return data.Dataset(*(split.take(100) for split in load(name, **options)))

    monkeypatch.setattr("skipway.data.load", few)
    return tmp_path


@pytest.fixture
def ends(here, capsys):
    """Run a command that goes wrong: its one line on stderr and its exit code."""

    def call(*args: str) -> tuple[str, int]:
        state = torch.get_rng_state()
        code = main(list(args))
        torch.set_rng_state(state)
        said = capsys.readouterr().err
        assert said.count("\n") == 1, said
        assert said.startswith("skipway: ")
        assert "Traceback" not in said
        return said, code

    return call


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ("show net.py:nett", "did you mean 'net'?"),
        ("show nit.py:net", "there is no file 'nit.py': did you mean 'net.py'?"),
        ("show net.pyy:net", "there is no module 'net.pyy': did you mean 'net.py'?"),
        ("show net.py:number", "net.py:number is of type int"),
        ("show net.py:needs", "cannot be called without arguments"),
        ("show net.py:nothing", "made a NoneType"),
        ("show net.py:wrong", "net.py:21: ShapeError: this chain (net.py:21) cannot work"),
        ("show net.py", "several nets, so say which: net.py:net, net.py:wide"),
        ("show no.such.module:net", "there is no module 'no'"),
        ("show folder/net", "is no Python file"),
        ("show net.py:open_ --code", "is open, so it has no code yet"),
        ("show net.py:net --input 5", "takes 784 features and gets 5"),
        ("show net.py:net --input a,b", "--input is a shape without the batch axis"),
        ("show net.py:net --input 0", "--input is a shape without the batch axis"),
        ("show net.py:torch_net --code", "--code is for a Chain"),
        ("show", "Missing argument 'MODEL'"),
        ("trian", "train"),
        ("train --epoch 3", "--epochs"),
        ("train --epochs 0", "epochs must be a whole number of at least 1, not 0"),
        ("train --epochs x", "--epochs"),
        ("train --lr 0", "lr must be a number above 0"),
        ("train --seed -1", "seed must be a whole number"),
        ("train --data mnis", "no data set is named 'mnis': did you mean 'mnist'?"),
        ("train --optimizer adm", "did you mean 'adam'?"),
        ("train --loss mes", "did you mean 'mse'?"),
        ("train --device cdua", "did you mean 'cuda'?"),
        ("train --precision bf61", "did you mean 'bf16'?"),
        ("train --batch 101", "batch=101 is larger than the data set of 100 rows"),
        ("train --resume", "give --out"),
        ("train --out net.py", "is a file, not a folder"),
        ("train net.py:net --out net.py/below", "cannot make the folder"),
        ("train net.py:narrow", "takes (N, 100) and makes (N, 10); mnist-small has (N, 1, 28, 28), flat (N, 784)"),
        ("train net.py:few", "labels run from 0 to 9, and the net has 3 outputs"),
        ("train nosuch", "nosuch"),
        ("compare --depth 0", "depth must be"),
        ("compare --step 51", "a shortcut goes around 1 to 50 layers"),
        ("compare --epochs 0", "epochs must be"),
        ("compare --seeds 0", "seeds must be"),
        ("compare --threads 0", "threads must be"),
        ("compare --data mnst", "did you mean 'mnist'?"),
        ("compare --out net.py", "net.py is a file, not a folder"),
        ("compare --out net.py/below", "cannot make the folder"),
    ],
)
def test_wrong_arguments_get_one_line_and_exit_code_2(ends, args, said):
    line, code = ends(*args.split())
    assert said in line
    assert code == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import os\n\nnet = undefined\n", "broken.py:3: NameError: name 'undefined' is not defined"),
        ("net = (\n", "broken.py:1: SyntaxError: '(' was never closed"),
        ("import torch\nnet = torch.zeros(2) @ torch.zeros(3)\n", "broken.py:2: RuntimeError"),
        ("import no_such_thing\n", "broken.py:1: ModuleNotFoundError: No module named 'no_such_thing'"),
        ("raise SystemExit(3)\n", "broken.py:1: the file ends Python (exit code 3)"),
    ],
)
@pytest.mark.parametrize("form", ["broken.py:net", "broken:net"])
def test_a_file_that_fails_is_told_with_its_line(ends, here, monkeypatch, text, said, form):
    (here / "broken.py").write_text(text)
    monkeypatch.delitem(sys.modules, "broken", raising=False)
    line, code = ends("show", form)
    assert code == 2
    assert said in line


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "broken.py has no 'net': it is empty"),
        ("x = 1\n", "broken.py has no 'net': there is 'x'"),
        ("def make(): ...\n", "broken.py has no 'net': there is 'make'"),
        ("from torch.nn import Linear as nets\n", "broken.py has no 'net': did you mean 'nets'?"),
    ],
)
def test_a_name_that_is_not_there_is_told_with_what_is(ends, here, text, said):
    (here / "broken.py").write_text(text)
    line, code = ends("show", "broken.py:net")
    assert code == 2
    assert said in line


def test_what_lies_beside_a_file_can_be_imported(here, capsys):
    (here / "part").mkdir()
    (here / "part" / "beside_me.py").write_text("WIDTH = 12\n")
    (here / "part" / "user.py").write_text(
        "from beside_me import WIDTH\nfrom skipway import Chain, Dense\nnet = Chain(Dense(WIDTH, 2))\n"
    )
    assert main(["show", "part/user.py"]) == 0
    assert "(N, 12) -> (N, 2)" in capsys.readouterr().out


@pytest.mark.parametrize("word", ["net.py:net", "net:net"])
def test_show_prints_the_table(here, capsys, monkeypatch, word):
    monkeypatch.delitem(sys.modules, "net", raising=False)
    assert main(["show", word]) == 0
    shown = capsys.readouterr().out
    assert "Chain  (N, 784) -> (N, 10)" in shown
    assert "add" in shown
    assert "def forward" not in shown


def test_show_prints_the_forward_and_builds_what_is_open(here, capsys):
    assert main(["show", "net.py:open_", "--input", "1,28,28", "--code"]) == 0
    shown = capsys.readouterr().out
    assert "(N, 1, 28, 28) -> (N, 1, 28, 10)" in shown
    assert "def forward(self, x):" in shown
    assert main(["show", "net.py:torch_net"]) == 0
    assert capsys.readouterr().out.startswith("Sequential(")


def test_train_prints_the_net_and_the_rows(here, capsys):
    assert main(["train", "net.py:net", "--epochs", "2", "--device", "cpu"]) == 0
    shown = capsys.readouterr().out
    assert "Chain  (N, 784) -> (N, 10)" in shown
    assert "mnist-small: 100 to train on, 100 to test; on cpu" in shown
    assert "epoch 2/2  loss" in shown
    assert shown.rstrip().endswith("nothing is kept: no --out")
    table = shown[shown.index("epoch  train loss") :].splitlines()
    assert [row.split()[0] for row in table[1:3]] == ["1", "2"]
    assert {path.name for path in here.iterdir()} <= {"net.py", "__pycache__"}


@pytest.mark.parametrize("word", ["net.py:make", "net.py:open_", "net.py:image", "net.py:torch_net"])
def test_train_takes_vectors_and_images(here, word):
    assert main(["train", word, "--epochs", "1", "--device", "cpu"]) == 0


def test_train_without_model_trains_a_cnn_with_a_skip(here, capsys):
    assert main(["train", "--epochs", "1", "--device", "cpu"]) == 0
    shown = capsys.readouterr().out
    assert "Skip" in shown
    assert "Conv 3x3" in shown


def test_seed_rules_the_weights_too(here, capsys):
    rows = []
    for seed in ("1", "1", "2"):
        assert main(["train", "net.py:make", "--epochs", "1", "--device", "cpu", "--seed", seed]) == 0
        rows.append(capsys.readouterr().out.splitlines()[-3].split()[:3])
    assert rows[0] == rows[1] != rows[2]


def test_a_run_folder_is_kept_resumed_and_guarded(here, capsys, ends):
    train = ["train", "net.py:net", "--device", "cpu", "--out", "run"]
    assert main([*train, "--epochs", "1"]) == 0
    assert "in run: " in capsys.readouterr().out
    assert (here / "run" / "curve.png").is_file()
    assert ends(*train, "--epochs", "1") == (
        "skipway: run is in use: add --resume to go on with the run in it, or give another --out\n",
        2,
    )
    assert main([*train, "--epochs", "2", "--resume"]) == 0
    assert len((here / "run" / "metrics.jsonl").read_text().splitlines()) == 2
    capsys.readouterr()
    line, code = ends("train", "net.py:wide", "--device", "cpu", "--out", "run", "--epochs", "3", "--resume")
    assert code == 2
    assert "the run of another network" in line
    line, code = ends(*train, "--epochs", "3", "--resume", "--lr", "0.5")
    assert code == 2
    assert "lr was 0.001 and is 0.5" in line
    assert main([*train, "--epochs", "3", "--resume"]) == 0


def _interrupt_after(monkeypatch: pytest.MonkeyPatch, epochs: int) -> None:
    from skipway.train.measure import Task

    forward, steps = Task.forward, [0]

    def counted(self, x, y):
        steps[0] += torch.is_grad_enabled()
        if steps[0] > 2 * epochs:  # two batches an epoch
            raise KeyboardInterrupt
        return forward(self, x, y)

    monkeypatch.setattr(Task, "forward", counted)


@pytest.mark.parametrize(
    ("epochs", "out", "said"),
    [
        (1, True, "checkpoint-0001.safetensors is kept: the same command with --resume goes on from there"),
        (0, True, "checkpoint-0000.safetensors is kept"),
        (1, False, "nothing is kept, since there was no --out"),
    ],
)
def test_an_interruption_says_what_is_kept(ends, monkeypatch, epochs, out, said):
    _interrupt_after(monkeypatch, epochs)
    line, code = ends("train", "net.py:net", "--device", "cpu", *(["--out", "run"] if out else []))
    assert code == 130
    assert said in line


def test_an_interruption_of_a_comparison(ends, monkeypatch):
    _interrupt_after(monkeypatch, 1)
    assert ends("compare", "--depth", "2", "--width", "8") == (
        "skipway: stopped; nothing of this comparison is kept\n",
        130,
    )


def test_errors_on_the_way_exit_with_1(ends, monkeypatch):
    from skipway.errors import TrainError

    def breaks(*_: object, **__: object) -> None:
        raise TrainError("the loss is NaN\nat step 3")

    monkeypatch.setattr("skipway.train.fit", breaks)
    assert ends("train", "net.py:net", "--device", "cpu") == ("skipway: the loss is NaN at step 3\n", 1)


def test_compare_prints_and_writes(here, capsys):
    args = ["compare", "--depth", "4", "--width", "8", "--epochs", "1", "--out", "demo dir"]
    for _ in range(2):
        assert main(args) == 0
    shown = capsys.readouterr().out
    stored = json.loads((here / "demo dir" / "summary.json").read_text())
    assert stored["command"] == "skipway compare --out 'demo dir' --depth 4 --width 8 --epochs 1"
    assert stored["conclusion"] in shown
    assert [r["shortcuts"] for r in stored["runs"]] == [0, 0, 4, 4]
    assert {p.name for p in (here / "demo dir").iterdir()} == {"summary.md", "summary.json", "curves.png", "chain.txt"}
    drawing = (here / "demo dir" / "chain.txt").read_text()
    assert "wiring: every(1, scale=0.5)" in drawing
    assert "◄" in drawing


def test_help_and_version(capsys):
    for args in ([], ["--help"], ["-h"]):
        assert main(args) == 0
        shown = capsys.readouterr().out
        assert "skipway compare --out runs/demo" in shown
    for command in ("train", "compare", "show"):
        assert main([command, "--help"]) == 0
        assert f"skipway {command}" in capsys.readouterr().out
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"skipway {skipway.__version__}\n"


def test_the_command_line_loads_no_more_than_it_needs():
    code = (
        "import sys, skipway\n"
        "assert not {'typer', 'rich', 'matplotlib'} & set(sys.modules), 'import skipway'\n"
        "from skipway.cli import main\n"
        "assert main(['--help']) == 0\n"
        "assert not {'matplotlib', 'skipway.train', 'skipway.data'} & set(sys.modules), '--help'\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_module_runs():
    done = subprocess.run([sys.executable, "-m", "skipway", "show", "no"], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("skipway: no net of the zoo is named 'no'")
