import json
import math
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from skipway import Chain, ChainError, CheckpointError, DataError, Dense, Skip, TrainError, relu, study
from skipway.study import Comparison, Run, compare, ways
from skipway.study.compare import gradients
from skipway.study.record import FILES, record
from skipway.study.verdict import better, verdict
from skipway.train import History, fit


@pytest.fixture
def blobs() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    y = torch.arange(60) % 3
    return torch.randn(60, 4, generator=generator) * 0.3 + 2 * torch.eye(4)[y], y


def small(depth: int = 4) -> dict:
    return ways(depth, 8, features=4, classes=3).nets


def quick(nets, train, test=None, **changes):
    return compare(nets, train, test, **{"epochs": 1, "batch": 20, "device": "cpu", "progress": False, **changes})


def run(name: str, shortcuts: int, accuracy: float | None, seed: int = 0, loss: float = 1.0, failed: str = "") -> Run:
    row = {"epoch": 1, "train_loss": loss, "test_accuracy": accuracy}
    return Run(name, seed, 100, shortcuts, History([row]), 1.0, failed, {"a": 1e-9, "b": 0.5}, {"a": 0.25, "b": 0.5})


def test_ways_begin_with_the_same_layer_weights():
    weights = {}
    for name, make in ways(depth=5, width=8).nets.items():
        torch.manual_seed(3)
        weights[name] = {k: v for k, v in make().state_dict().items() if "shortcuts" not in k}
    plain = weights["plain"]
    for name in ("shortcuts", "ReZero"):
        assert weights[name].keys() == plain.keys()
        assert all(torch.equal(weights[name][key], plain[key]) for key in plain)
    assert not torch.equal(weights["plain, He init"]["stem.weight"], plain["stem.weight"])


def test_ways_are_what_they_say():
    nets = {name: make() for name, make in ways(depth=6, width=8, step=2).nets.items()}
    assert {name: len(net["body"].wiring) for name, net in nets.items()} == {
        "plain": 0,
        "plain, He init": 0,
        "shortcuts": 3,
        "ReZero": 3,
    }
    assert [s.scale for s in nets["shortcuts"]["body"].wiring] == [pytest.approx(1 / math.sqrt(3), abs=1e-6)] * 3
    # a ReZero net begins as its stem and head alone
    x = torch.randn(5, 784)
    assert torch.equal(nets["ReZero"](x), nets["ReZero"]["head"](nets["ReZero"]["stem"](x)))


@pytest.mark.parametrize(
    "options", [{"depth": 0}, {"width": 0}, {"depth": 2.5}, {"depth": 4, "step": 5}, {"step": 0}, {"classes": True}]
)
def test_ways_refuse_sizes_that_cannot_be(options):
    with pytest.raises(ChainError):
        ways(**options)


def test_a_run_is_the_run_of_fit(blobs):
    result = quick(small(), blobs, blobs, epochs=2, seed=5)
    assert result.names == ("plain", "plain, He init", "shortcuts", "ReZero")
    torch.manual_seed(5)
    net = small()["shortcuts"]()
    alone = fit(net, blobs, blobs, epochs=2, batch=20, lr=1e-3, seed=5, device="cpu", progress=False)
    ours = result.of("shortcuts")[0]
    for column in ("train_loss", "test_loss", "test_accuracy"):
        assert ours.history.to_dict()[column] == alone.to_dict()[column]
    assert ours.parameters == sum(p.numel() for p in net.parameters())
    assert ours.shortcuts == 4
    assert result.test_rows == 60
    assert result.chance == pytest.approx(1 / 3)


def test_a_net_is_copied_and_random_state_and_threads_are_left_alone(blobs):
    net = Chain(Dense(4, 8, relu), Skip(Dense(8, 8, relu)), Dense(8, 3))
    before = {k: v.clone() for k, v in net.state_dict().items()}
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    result = quick({"net": net}, blobs, seeds=2, threads=1)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads
    first, second = result.runs
    assert (first.seed, second.seed) == (0, 1)
    assert first.gradient_at_start == second.gradient_at_start  # the same weights
    assert first.last("train_loss") != second.last("train_loss")  # in another order


def test_functions_begin_anew_under_every_seed(blobs):
    result = quick({"plain": small()["plain"]}, blobs, seed=3, seeds=2)
    again = quick({"plain": small()["plain"]}, blobs, seed=4)
    assert result.runs[0].gradient_at_start != result.runs[1].gradient_at_start
    assert result.runs[1].gradient_at_start == again.runs[0].gradient_at_start
    assert result.runs[1].last("train_loss") == again.runs[0].last("train_loss")


def test_gradients_are_those_of_the_loss_and_leave_no_trace(blobs):
    net = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Dropout(0.0), nn.Linear(5, 3))
    state = {k: v.clone() for k, v in net.state_dict().items()}
    found = gradients(net, blobs)
    assert list(found) == ["0.weight", "4.weight"]
    assert all(p.grad is None for p in net.parameters())
    assert all(torch.equal(v, state[k]) for k, v in net.state_dict().items())
    nn.functional.cross_entropy(net(blobs[0]), blobs[1]).backward()
    assert found["0.weight"] == pytest.approx(float(net[0].weight.grad.norm()), rel=1e-5)


def test_gradients_leave_shortcuts_out(blobs):
    net = Chain(Dense(4, 6, relu), Skip(Dense(6, 5, relu), path="project"), Dense(5, 3))
    assert list(gradients(net, blobs)) == ["0.weight", "1.0.weight", "2.weight"]


def test_deep_plain_layers_get_no_gradient_and_shortcuts_bring_it(blobs):
    result = quick(ways(40, 16, features=4, classes=3).nets, blobs)
    first = {name: next(iter(result.of(name)[0].gradient_at_start.values())) for name in result.names}
    assert first["plain"] < 1e-10
    assert first["shortcuts"] > 1e-3
    assert first["ReZero"] > 1e-3


@pytest.mark.parametrize(
    ("nets", "match"),
    [
        ({}, "at least one net"),
        ([nn.Linear(4, 3)], "at least one net"),
        ({"good": nn.Linear(4, 3), "odd": 3}, "net 'odd': wanted a module"),
        ({"good": nn.Linear(4, 3), "odd": lambda: "net"}, "net 'odd': net is a str"),
        ({"good": nn.Linear(4, 3), "odd": nn.ReLU()}, "net 'odd': the net has no trainable parameters"),
    ],
)
def test_what_is_no_net_is_told_by_name(blobs, nets, match):
    with pytest.raises(TrainError, match=match):
        quick(nets, blobs)


def test_everything_is_checked_before_the_first_net_is_trained(blobs, monkeypatch):
    # by module, since skipway.study.compare is the function
    monkeypatch.setattr(sys.modules["skipway.study.compare"], "fit", lambda *_, **__: pytest.fail("it trained"))
    with pytest.raises(DataError, match="net 'narrow'"):
        quick({"good": nn.Linear(4, 3), "narrow": nn.Linear(3, 3)}, blobs)
    with pytest.raises(DataError, match="net 'few': train: labels run from 0 to 2"):
        quick({"good": nn.Linear(4, 3), "few": nn.Linear(4, 2)}, blobs)
    with pytest.raises(TrainError, match="batch=61 is larger"):
        quick({"good": nn.Linear(4, 3)}, blobs, batch=61)
    with pytest.raises(TrainError, match="did you mean 'adam'"):
        quick({"good": nn.Linear(4, 3)}, blobs, optimizer="adem")
    for wrong in ({"epochs": 0}, {"seeds": 0}, {"seeds": 1.5}, {"threads": 0}, {"lr": -1.0}, {"seed": -1}):
        with pytest.raises(TrainError, match=next(iter(wrong))):
            quick({"good": nn.Linear(4, 3)}, blobs, **wrong)


def test_a_net_that_diverges_is_a_result(blobs):
    class Bursts(nn.Linear):
        def forward(self, x):
            # finite while it is looked at, infinite once its weights have moved
            return super().forward(x) + ((self.bias - 7).abs().sum() * 1e30) ** 2

    def bursts():
        net = Bursts(4, 3)
        nn.init.constant_(net.bias, 7.0)
        return net

    result = quick({"bursts": bursts, "good": nn.Linear(4, 3)}, blobs, blobs)
    bad, good = result.runs
    assert "step" in bad.failed
    assert bad.last("train_loss") is None
    assert not good.failed
    assert result.rows()[1][3] == "failed"
    json.dumps(result.to_dict(), allow_nan=False)


def test_means_and_intervals_over_seeds():
    result = Comparison([run("a", 0, 0.5, 0, 1.0), run("a", 0, 0.7, 1, 3.0), run("b", 2, 0.9), run("b", 2, 0.9, 1)])
    head, a, b = result.rows()
    assert a == ("a", "0", "100", "2.000 ± 12.706", "60.0 ± 127.1 %", "1e-09 / 0.5", "1.0")
    assert b[4] == "90.0 ± 0.0 %"
    lines = result.table().splitlines()
    assert lines[3:] == ["", "±: 95 % interval of the mean over 2 seeds (Student t)."]
    stored = result.to_dict()["intervals"]["a"]["test_accuracy"]
    assert (stored["min"], stored["max"], stored["n"]) == (0.5, 0.7, 2)
    # t with one degree of freedom is 12.706 at 97.5 %; the standard error of two numbers is half their distance
    assert stored["low"] == pytest.approx(0.6 - 12.7062 * 0.1, abs=1e-4)
    lines = lines[:3]
    assert len({line.index(cell) + len(cell) for line, cell in zip(lines, (head[2], a[2], b[2]), strict=True)}) == 1


@pytest.mark.parametrize(
    ("runs", "said"),
    [
        ([("plain", 0, 0.1), ("skip", 9, 0.9), ("zero", 9, 0.8)], "Shortcuts win (one seed): 'skip' gets 90.0 %"),
        ([("plain", 0, 0.88), ("skip", 9, 0.9)], "Shortcuts do not win here"),
        ([("plain", 0, 0.9), ("skip", 9, 0.2)], "Shortcuts lose here"),
        ([("plain", 0, 0.5), ("skip", 9, 0.9), ("zero", 9, 0.3)], "Of the nets with shortcuts only 'skip' wins"),
        ([("plain", 0, 0.1), ("he", 0, 0.95), ("skip", 9, 0.9)], "Shortcuts lose here"),
        ([("plain", 0, 0.5), ("other", 0, 0.7)], "Best is 'other' with 70.0 %"),
        ([("plain", 0, None), ("skip", 9, None)], "nothing was tested"),
    ],
)
def test_the_conclusion_follows_from_the_numbers(runs, said):
    result = Comparison([run(*one) for one in runs], chance=0.1, test_rows=1000)
    assert said in verdict(result)
    assert result.to_dict()["conclusion"] == result.conclusion() == verdict(result)
    assert "\n" not in verdict(result)


def test_one_bad_seed_takes_the_win_away():
    won = [run("plain", 0, 0.5, s) for s in (0, 1)] + [run("skip", 1, 0.9, s) for s in (0, 1)]
    assert "Shortcuts win (2 seeds)" in Comparison(won, test_rows=1000).conclusion()
    won[-1] = run("skip", 1, 0.45, 1)
    assert "Shortcuts do not win" in Comparison(won, test_rows=1000).conclusion()


def test_a_failed_net_has_nothing_right():
    said = Comparison([run("plain", 0, 0.5), run("skip", 1, 0.9, failed="step 3")], test_rows=1000).conclusion()
    assert said.startswith("Shortcuts lose here (one seed): 'skip' gets 0.0 %")


def test_two_standard_errors_are_the_bar():
    error = math.sqrt(2 * 0.5 * 0.5 / 400)
    assert better([0.5 + 2.1 * error], [0.5], 400)
    assert not better([0.5 + 1.9 * error], [0.5], 400)


def test_files_are_written_and_others_left_alone(tmp_path: Path, blobs):
    (tmp_path / "mine.txt").write_text("mine")
    result = quick(small(2), blobs, blobs)
    for _ in range(2):  # again over its own
        written = record(tmp_path, result, command="skipway compare", drawings={"plain": "a drawing"})
    assert {path.name for path in written} == set(FILES)
    assert {path.name for path in tmp_path.iterdir()} == {*FILES, "mine.txt"}
    assert (tmp_path / "mine.txt").read_text() == "mine"
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    stored = json.loads((tmp_path / "summary.json").read_text())
    assert stored["command"] == "skipway compare"
    assert stored["machine"]["torch"] == torch.__version__
    assert stored["options"]["seed"] == 0
    assert [r["name"] for r in stored["runs"]] == list(result.names)
    assert stored["runs"][0]["history"]["train_loss"] == result.runs[0].history.to_dict()["train_loss"]
    page = (tmp_path / "summary.md").read_text()
    assert result.conclusion() in page
    assert "`skipway compare`" in page


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path):
    (tmp_path / "file").write_text("")
    (tmp_path / "taken" / "summary.md").mkdir(parents=True)
    result = Comparison([run("a", 0, 0.5)])
    for folder in ("file", "file/below", "taken"):
        with pytest.raises(CheckpointError):
            record(tmp_path / folder, result)
    assert [p.name for p in (tmp_path / "taken").iterdir()] == ["summary.md"]


def test_the_plot_has_a_line_a_run_and_chance():
    result = Comparison([run("a", 0, 0.5), run("b", 2, 0.7), run("b", 2, 0.8, 1)], chance=0.25)
    loss, accuracy = result.plot().axes
    assert len(loss.lines) == 3
    assert [line.get_ydata()[0] for line in accuracy.lines] == [0.5, 0.7, 0.8, 0.25]
    assert loss.get_yscale() == "log"
    colours = [line.get_color() for line in loss.lines]
    assert colours[1] == colours[2] != colours[0]


def test_progress_is_lines_where_there_is_no_terminal(blobs, capsys):
    quick({"net": nn.Linear(4, 3)}, blobs, blobs, progress=True)
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 1
    assert said[0].startswith("net: loss ")
    quick({"net": nn.Linear(4, 3)}, blobs)
    assert capsys.readouterr().out == ""


def test_study_is_an_attribute_of_skipway():
    assert study.compare is compare


def test_labels_of_one_class_are_refused_before_training(blobs):
    x, y = blobs
    with pytest.raises(DataError, match="all 60 labels are 0"):
        quick({"net": nn.Linear(4, 3)}, (x, y * 0), (x, y))
