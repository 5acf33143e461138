import copy
import dataclasses
import json
import pickle
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import skipway
from skipway import (
    Chain,
    ChainError,
    CheckpointError,
    DataError,
    Dense,
    Shortcut,
    TrainError,
    Weighted,
    dense,
    every,
    log2,
    random_shortcuts,
    relu,
    sliding,
)  # fmt: skip
from skipway.study import Sweep, compare, paths, sweep
from skipway.study.kept import Kept


def blobs(rows: int = 48) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(1)
    y = torch.arange(rows) % 3
    return torch.randn(rows, 5, generator=draw) * 0.3 + 2 * torch.eye(5)[y], y


def layers() -> list:
    return [*[Dense(5, 5, relu) for _ in range(4)]]


WIRINGS = {"plain": [], "around": every(1), "over": sliding(2)}


def quick(made=layers, wirings=WIRINGS, train=None, **options) -> Sweep:
    given = {"epochs": 2, "batch": 12, "lr": 1e-2, "device": "cpu", "progress": False, **options}
    return sweep(made, wirings, train or blobs(), **given)


def numbers(found: Sweep) -> list:
    """All that does not depend on the clock."""
    clock = ("seconds", "images_per_second")
    return [
        {**dataclasses.asdict(run), "seconds": 0, "history": [{k: v for k, v in row.items() if k not in clock}
                                                            for row in run.history]}
        for run in found.comparison.runs
    ]  # fmt: skip


# -- random wirings ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"merge": "cat"}, {"merge": Weighted()}], ids=str)
def test_random_shortcuts_are_a_share_of_the_dense_ones(options):
    everything = dense(**options)(12)
    for density in (0.1, 0.5, 1.0):
        found = random_shortcuts(density=density, seed=3, **options)(12)
        assert len(found) == round(density * len(everything))
        assert [s for s in everything if s in found] == found  # in the same order
    assert random_shortcuts(density=1, **options)(12) == everything


def test_random_shortcuts_are_those_of_their_seed():
    made = [random_shortcuts(density=0.3, seed=seed) for seed in range(20)]
    assert all(one(10) == random_shortcuts(density=0.3, seed=seed)(10) for seed, one in enumerate(made))
    assert len({str(one(10)) for one in made}) == 20
    counts = {(s.start, s.end): 0 for s in dense()(6)}
    for seed in range(400):
        for s in random_shortcuts(density=0.5, seed=seed)(6):
            counts[s.start, s.end] += 1
    # 8 of 15, each as often: five standard deviations of 400 draws
    assert all(abs(n - 400 * 8 / 15) < 50 for n in counts.values())
    assert random_shortcuts(density=1e-9)(5) == random_shortcuts(density=0.01)(5)  # one at least


def test_random_shortcuts_print_copy_and_pickle():
    for pattern in (random_shortcuts(), random_shortcuts(0.125, 7, merge="cat", scale=0.5)):
        assert eval(repr(pattern), dict(vars(skipway))) == pattern
        for twin in (copy.deepcopy(pattern), pickle.loads(pickle.dumps(pattern))):
            assert twin == pattern
            assert twin(9) == pattern(9)
    assert repr(random_shortcuts(0.125, 7)) == "random_shortcuts(density=0.125, seed=7)"
    assert paths(random_shortcuts(density=1.0), layers=12).total == 2048
    net = Chain(*[Dense(4, 4) for _ in range(8)], wiring=every(8) + random_shortcuts(0.1, 1))
    assert net(torch.randn(2, 4)).shape == (2, 4)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"density": 0}, "density"), ({"density": 1.5}, "density"), ({"density": "half"}, "density"),
        ({"density": True}, "density"), ({"seed": -1}, "seed"), ({"seed": 0.5}, "seed"), ({"mrge": "add"}, "merge"),
    ],
)  # fmt: skip
def test_wrong_random_shortcuts_are_told(options, match):
    with pytest.raises(ChainError, match=match):
        random_shortcuts(**options)
    with pytest.raises(ChainError, match="makes no shortcut"):
        random_shortcuts()(1)


# -- the sweep ---------------------------------------------------------------------------------------------------------


def test_every_wiring_is_trained_under_every_seed_as_compare_trains_it():
    found = quick(seeds=2, seed=3)
    assert [(run.name, run.seed) for run in found.comparison.runs] == [(n, s) for s in (3, 4) for n in WIRINGS]
    assert (found.names, found.seeds) == (tuple(WIRINGS), (3, 4))
    assert [run.shortcuts for run in found.comparison.runs[:3]] == [0, 4, 3]
    assert {name: one.total for name, one in found.paths.items()} == {"plain": 1, "around": 16, "over": 5}
    alone = compare({"around": lambda: Chain(*layers(), wiring=every(1))}, blobs(), epochs=2, batch=12, lr=1e-2,
                    device="cpu", seed=3, progress=False)  # fmt: skip
    assert found.of("around", "train_loss")[0] == alone.runs[0].last("train_loss")


def test_all_wirings_begin_with_the_same_layers():
    seen: dict[str, list] = {}

    def make(wiring):
        net = Chain(stem=Dense(5, 6), body=Chain(*[Dense(6, 6) for _ in range(3)], wiring=wiring), head=Dense(6, 3))
        weights = [p.detach().clone() for n, p in net.named_parameters() if "shortcuts" not in n]
        seen.setdefault(str(len(net["body"].wiring)), []).append(weights)
        return net

    found = quick(make, [[], every(1), dense()])
    assert found.names == ("plain", "every(1)", "dense()")
    trained = [made[-1] for made in seen.values()]
    assert all(torch.equal(a, b) for other in trained[1:] for a, b in zip(trained[0], other, strict=True))


@pytest.mark.parametrize(
    "made",
    [layers, lambda: tuple(layers()), lambda: {str("abcd"[i]): one for i, one in enumerate(layers())},
     lambda: Chain(*layers(), wiring=dense()), lambda wiring: Chain(*layers(), wiring=wiring)],
    ids=["list", "tuple", "dict", "chain", "function of the wiring"],
)  # fmt: skip
def test_layers_come_in_any_form(made):
    assert numbers(quick(made, epochs=1))[1:] != []
    assert [row["train_loss"] for run in quick(made, epochs=1).comparison.runs for row in run.history] == [
        row["train_loss"] for run in quick(epochs=1).comparison.runs for row in run.history
    ]


def test_open_layers_are_closed_for_each_wiring():
    made = [lambda: [Dense(..., 4, relu) for _ in range(3)] + [Dense(..., 3)],
            lambda: Chain(*[Dense(..., 4, relu) for _ in range(3)], Dense(..., 3)),
            lambda wiring: Chain(*[Dense(..., 4, relu) for _ in range(3)], Dense(..., 3), wiring=wiring)]  # fmt: skip
    for one in made:
        found = quick(one, {"plain": [], "cat": lambda n: dense(merge="cat")(n)[:-4]}, input=5, epochs=1)
        plain, cat = found.comparison.runs
        assert (plain.parameters, cat.parameters > 79) == (24 + 20 + 20 + 15, True)


def test_generators_and_lists_are_wirings_too():
    found = quick(wirings={"drawn": (Shortcut(i, i + 2) for i in range(3)), "listed": [Shortcut(0, 4)]}, seeds=2)
    assert [run.shortcuts for run in found.comparison.runs] == [3, 1, 3, 1]
    assert found.wirings["listed"] == "[Shortcut(0, 4)]"


# -- going on ----------------------------------------------------------------------------------------------------------


def trainings(monkeypatch, stop_at: int | None = None) -> list:
    """Count the trainings, and break the one with this number off."""
    module = sys.modules["skipway.study.compare"]
    real, count = module.fit, []

    def fit(*args, **options):
        count.append(1)
        if len(count) == stop_at:
            raise KeyboardInterrupt
        return real(*args, **options)

    monkeypatch.setattr(module, "fit", fit)
    return count


def test_an_interrupted_sweep_goes_on_and_ends_with_the_same_numbers(tmp_path: Path, monkeypatch):
    whole = quick(seeds=2, test=blobs(24))
    with monkeypatch.context() as patch:
        trainings(patch, stop_at=4)
        with pytest.raises(KeyboardInterrupt):
            quick(seeds=2, test=blobs(24), run=tmp_path)
    assert len(json.loads((tmp_path / "runs.json").read_text())["done"]) == 3
    count = trainings(monkeypatch)
    found = quick(seeds=2, test=blobs(24), run=tmp_path)
    assert len(count) == 3
    assert numbers(found) == numbers(whole)
    assert found.paths == whole.paths
    again = quick(seeds=2, test=blobs(24), run=tmp_path)
    assert len(count) == 3
    assert numbers(again) == numbers(whole)
    more = quick(wirings={**WIRINGS, "log2": log2()}, seeds=3, test=blobs(24), run=tmp_path)
    assert len(count) == 3 + 3 + 3
    assert len(more.comparison.runs) == 12


def test_runs_that_failed_are_kept_as_failed(tmp_path: Path):
    bad = {"lr": 1e20, "optimizer": "sgd", "run": tmp_path}
    first = quick(wirings={"around": every(1)}, **bad)
    assert first.comparison.runs[0].failed
    assert numbers(quick(wirings={"around": every(1)}, **bad)) == numbers(first)
    assert first.of("around", "train_loss") == ()
    assert "failed" in str(first)
    first.plot()


def test_a_folder_of_other_runs_is_told(tmp_path: Path):
    quick(run=tmp_path)
    x, y = blobs()
    for change, match in (
        ({"epochs": 3}, "epochs was 2 and is 3"), ({"lr": 0.5}, "lr was"), ({"train": (x + 1, y)}, "train data was"),
        ({"test": (x, y)}, "test data was 'none'"), ({"wirings": {"around": every(2)}}, "net 'around' is another"),
        ({"made": lambda: [Dense(5, 5) for _ in range(4)]}, "net 'plain' is another"),
    ):  # fmt: skip
        with pytest.raises(CheckpointError, match=match):
            quick(run=tmp_path, **change)
    (tmp_path / "runs.json").write_text("{")
    with pytest.raises(CheckpointError, match="cannot read"):
        quick(run=tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="is a file"):
        quick(run=tmp_path / "file")


def test_compare_goes_on_too_and_knows_the_weights_of_modules(tmp_path: Path, monkeypatch):
    options = {"epochs": 1, "batch": 12, "lr": 1e-2, "device": "cpu", "progress": False, "run": tmp_path}
    net = Chain(*layers())
    first = compare({"net": net}, blobs(), **options)
    count = trainings(monkeypatch)
    assert compare({"net": net}, blobs(), **options).runs[0].history.rows == first.runs[0].history.rows
    assert not count
    with torch.no_grad():
        net[0].weight.add_(1.0)
    with pytest.raises(CheckpointError, match="net 'net' is another one"):
        compare({"net": net}, blobs(), **options)


def test_a_loader_is_known_by_its_rows(tmp_path: Path):
    loader = DataLoader(TensorDataset(*blobs()), batch_size=12)
    found = quick(train=loader, batch=None, run=tmp_path, epochs=1)
    assert quick(train=loader, batch=None, run=tmp_path, epochs=1).of("plain", "train_loss") == found.of(
        "plain", "train_loss"
    )
    assert Kept().find("plain, seed 0") is None


# -- the result --------------------------------------------------------------------------------------------------------


def test_a_result_prints_plots_and_is_plain_data(tmp_path: Path, capsys):
    found = quick(seeds=2, test=blobs(24), progress=True)
    assert capsys.readouterr().out.startswith("sweep: 3 wirings under 2 seeds, 6 runs of 2 epochs\n")
    head, plain, around, *_ = found.rows()
    assert head[:5] == ("wiring", "shortcuts", "parameters", "paths", "mean length")
    assert (plain[:5], around[:5]) == (("plain", "0", "120", "1", "4.0"), ("around", "4", "120", "16", "2.0"))
    assert found.comparison.conclusion() in str(found)
    stored = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert stored["seeds"] == [0, 1]
    assert stored["wirings"]["around"]["wiring"] == "every(1)"
    assert len(stored["runs"]) == 6
    figure = found.plot(tmp_path / "sweep.png")
    assert (tmp_path / "sweep.png").read_bytes().startswith(b"\x89PNG")
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == list(WIRINGS)
    assert figure.axes[0].get_xlabel() == "test accuracy"
    assert quick(epochs=1).plot().axes[0].get_xlabel() == "training loss"
    with pytest.raises(AttributeError):
        found.paths = {}
    with pytest.raises(ChainError, match="did you mean 'around'"):
        found.of("arond")


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: quick(layers()), ChainError, "makes the layers anew"),
        (lambda: quick(lambda: Dense(5, 5)), ChainError, "a list of layers"),
        (lambda: quick(lambda wiring: layers()), ChainError, "whole Chain"),
        (lambda: quick(wirings=every(1)), ChainError, "several wirings"),
        (lambda: quick(wirings=[]), ChainError, "at least one"),
        (lambda: quick(wirings=[Shortcut(0, 1)]), ChainError, "one wiring"),
        (lambda: quick(wirings=[every(1), every(1)]), ChainError, "two wirings are called 'every"),
        (lambda: quick(wirings=[[Shortcut(i, i + 1) for i in range(4)]]), ChainError, "needs a name"),
        (lambda: quick(wirings={"far": every(9)}), ChainError, "wiring 'far': .*makes no shortcut"),
        (lambda: quick(lambda: [Dense(..., 3)], {"plain": []}), skipway.OpenChainError, "wiring 'plain': .*open"),
        (lambda: quick(train=(blobs()[0], blobs()[1] * 0)), DataError, "all 48 labels are 0"),
        (lambda: quick(train=(blobs()[0] / 0, blobs()[1])), DataError, "NaN"),
        (lambda: quick(lambda: [Dense(4, 4)], {"plain": []}), ChainError, "net 'plain'"),
        (lambda: quick(epochs=0), TrainError, "epochs"),
        (lambda: quick(seeds=0), TrainError, "seeds"),
        (lambda: quick(epoch=3), TypeError, "epoch"),
    ],
)
def test_what_cannot_be_swept_is_told(call, error, match):
    with pytest.raises(error, match=match):
        call()
