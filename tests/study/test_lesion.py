import json
import math
from pathlib import Path

import pytest
import torch
from torch import nn

from skipway import (
    BatchNorm,
    Chain,
    ChainError,
    DataError,
    Dense,
    OpenChainError,
    Project,
    ShapeError,
    Shortcut,
    Skip,
    dense,
    every,
    fit,
    relu,
    sliding,
)  # fmt: skip
from skipway.study import lesion
from skipway.study.lesion import Change, _bootstrap
from skipway.train import evaluate


@pytest.fixture
def data() -> tuple[torch.Tensor, torch.Tensor]:
    y = torch.arange(90) % 3
    return torch.randn(90, 4) * 0.8 + 2 * torch.eye(4)[y], y


def nets() -> dict[str, Chain]:
    return {
        "every": Chain(Dense(4, 4, relu), Dense(4, 4, relu), Dense(4, 4), wiring=every(1)),
        "sliding": Chain(*[Dense(4, 4, relu) for _ in range(5)], wiring=sliding(2)),
        "projected": Chain(Dense(4, 6, relu), Dense(6, 5, relu), wiring=every(1, path="project", act=relu)),
        "taps": Chain(
            Dense(4, 4, relu), Dense(4, 4, relu), Dense(4, 4),
            wiring=[Shortcut(0, 2, path_scale=0.3), Shortcut(1, 3, tap="branch"), Shortcut(0, 1)],
        ),
        "nested": Chain(Skip(Skip(Dense(4, 4, relu)), Dense(4, 4)), Skip(BatchNorm(4), relu, Dense(4, 4)), Dense(4, 3)),
    }  # fmt: skip


def loss_of(net: nn.Module, x: torch.Tensor, y: torch.Tensor) -> float:
    with torch.no_grad():
        return float(nn.functional.cross_entropy(net(x), y))


def names(net: Chain, where: str = "") -> list[str]:
    found = [f"{where}{s.label}" for s in net.wiring]
    for key in net._keys:
        if isinstance(net._modules[key], Chain):
            found += names(net._modules[key], f"{where}{key}.")
    return found


@pytest.mark.parametrize("name", nets())
def test_cutting_a_shortcut_that_adds_is_a_net_without_it(name, data):
    net = nets()[name]
    x, y = data
    found = lesion(net, data, parts=["shortcut"], progress=False)
    whole = evaluate(net, data)
    assert found.loss == pytest.approx(whole.loss, rel=1e-6)
    assert found.accuracy == pytest.approx(whole.accuracy)
    assert sorted(cut.what[0] for cut in found.cuts) == sorted(f"shortcut {n}" for n in names(net))
    for cut in found.cuts:
        rebuilt = net.without(cut.what[0].removeprefix("shortcut ")).eval()
        # to the rounding of a mean over rows that were taken one by one
        assert cut.loss == pytest.approx(loss_of(rebuilt, x, y), rel=1e-6)
        assert cut.accuracy == float((rebuilt(x).argmax(1) == y).double().mean())
        assert cut.loss_change.mean == pytest.approx(cut.loss - found.loss, abs=1e-9)


def test_two_cuts_are_a_net_without_two(data):
    net = nets()["every"]
    x, y = data
    found = lesion(net, data, parts="shortcut", pairs=99, progress=False)
    assert len(found.pairs) == 3
    for cut in found.pairs:
        rebuilt = net.without(*[one.removeprefix("shortcut ") for one in cut.what])
        assert cut.loss == pytest.approx(loss_of(rebuilt, x, y), rel=1e-6)
        alone = [c.loss_change.mean for c in found.cuts for one in cut.what if c.what == (one,)]
        assert cut.interaction.mean == pytest.approx(cut.loss_change.mean - sum(alone), abs=1e-9)
    assert len(lesion(net, data, pairs=4, progress=False).pairs) == 4


def test_cutting_a_branch_leaves_the_shortcut(data):
    """As 1605.06431 deletes a block."""
    net = Chain(Dense(4, 4), Skip(Dense(4, 4, relu)), Dense(4, 3))
    x, y = data
    found = lesion(net, data, progress=False)
    without = Chain(net[0], net[2])
    (cut,) = found.of("branch")
    assert cut.what == ("branch 1.input->output",)
    assert cut.loss == pytest.approx(loss_of(without, x, y), rel=1e-6)
    (other,) = found.of("shortcut")
    assert other.loss == pytest.approx(loss_of(net.plain(), x, y), rel=1e-6)


def test_a_factor_scales_and_one_changes_nothing(data):
    net = Chain(Dense(4, 4), Dense(4, 4, relu), Dense(4, 3), wiring=[Shortcut(1, 2)])
    x, y = data
    same = lesion(net, data, how=1.0, progress=False)
    assert all(cut.loss_change == Change(0.0, 0.0, 0.0) and not cut.loss_change.sure for cut in same.cuts)
    halved = lesion(net, data, how=0.5, parts="branch", progress=False)
    rebuilt = net.rewire([Shortcut(1, 2, scale=0.5)])
    assert halved.cuts[0].loss == pytest.approx(loss_of(rebuilt, x, y), rel=1e-6)


def test_what_is_the_same_in_all_rows_can_be_shuffled_for_nothing(data):
    net = Chain(Dense(4, 3), Skip(Dense(3, 3)))
    net[1][0].weight.data.zero_()  # a branch that puts out its bias, whatever comes
    net[1][0].bias.data.copy_(torch.tensor([0.1, 0.2, 3.0]))
    shuffled = lesion(net, data, how="shuffle", progress=False)
    removed = lesion(net, data, progress=False)
    assert shuffled.of("branch")[0].loss_change.mean == pytest.approx(0, abs=1e-12)
    assert abs(removed.of("branch")[0].loss_change.mean) > 0.1
    assert abs(shuffled.of("shortcut")[0].loss_change.mean) > 0.01
    assert shuffled == lesion(net, data, how="shuffle", progress=False)


def test_cat_gate_and_joint_merges_can_be_cut(data):
    for net in (
        Chain(Dense(4, 4), Dense(..., 4, relu), Dense(..., 3), wiring=dense(merge="cat")),
        Chain(Dense(4, 4), Dense(4, 4, relu), Dense(4, 3), wiring=[Shortcut(1, 2, merge="gate")]),
        Chain(Dense(4, 4), Skip(Dense(4, 3), path=Project(), merge="max")),
    ):
        if net.plan.nodes[-1].form.shape != (3,):
            net = Chain(net, Dense(..., 3), input=4)
        found = lesion(net, data, progress=False)
        assert len(found.cuts) >= 2
        assert all(math.isfinite(cut.loss) for cut in found.cuts)
        assert any(cut.loss != found.loss for cut in found.cuts)


def test_masses_are_the_shares_of_what_meets(data):
    net = Chain(Dense(4, 4, bias=False), Skip(Dense(4, 4, bias=False), path_scale=3.0), Dense(4, 3))
    net[1][0].weight.data = torch.eye(4)
    found = lesion(net, data, progress=False)
    assert found.of("branch")[0].mass == pytest.approx(0.25)
    assert found.of("shortcut")[0].mass == pytest.approx(0.75)


def test_intervals_hold_what_they_say():
    """The bootstrap of a mean of normal numbers is 1.96 standard errors wide on each side."""
    values = torch.randn(400, dtype=torch.float64) + 0.3
    (change,) = _bootstrap([values], 2000, 0)
    error = float(values.std(correction=0)) / 20
    assert change.mean == pytest.approx(float(values.mean()))
    assert change.high - change.mean == pytest.approx(1.96 * error, rel=0.1)
    assert change.mean - change.low == pytest.approx(1.96 * error, rel=0.1)
    assert change.sure
    assert not _bootstrap([values - values.mean()], 500, 0)[0].sure
    assert _bootstrap([], 10, 0) == []


def test_residual_nets_are_lesioned_smoothly(data):
    torch.manual_seed(0)
    net = Chain(Dense(4, 8, relu), *[Skip(Dense(8, 8, relu), scale=0.4) for _ in range(6)], Dense(8, 3))
    fit(net, data, epochs=30, batch=30, lr=1e-2, device="cpu", progress=False)
    found = lesion(net, data, progress=False)
    assert found.accuracy > 0.8
    accuracies = [cut.accuracy for cut in found.of("branch")]
    assert sum(accuracies) / len(accuracies) > 0.6
    assert "right become" in found.verdict()


def test_the_net_is_left_as_it_was(data):
    net = nets()["nested"].train()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    state = torch.get_rng_state()
    assert lesion(net, data, progress=False) == lesion(net, data, progress=False)
    assert net.training
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


def test_batches_make_no_difference(data):
    net = nets()["nested"]
    small, large = (lesion(net, data, batch=batch, progress=False) for batch in (13, 1024))
    assert [c.loss for c in small.cuts] == pytest.approx([c.loss for c in large.cuts], rel=1e-6)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*data), batch_size=30)
    loaded = lesion(net, loader, progress=False)
    assert [c.loss for c in loaded.cuts] == pytest.approx([c.loss for c in large.cuts], rel=1e-6)


def test_regression_has_no_accuracy():
    net = Chain(Dense(4, 4, relu), Skip(Dense(4, 4)), Dense(4, 1))
    found = lesion(net, (torch.randn(40, 4), torch.randn(40, 1)), progress=False)
    assert found.accuracy is None
    assert "the loss goes from" in found.verdict()
    assert "accuracy" not in found.rows()[0]
    assert len(found.plot().axes) == 1


def test_a_result_prints_plots_and_is_plain_data(tmp_path: Path, data, capsys):
    found = lesion(nets()["every"], data, pairs=2, seed=5)
    assert "lesion: 8 cuts, each a pass over 90 rows" in capsys.readouterr().out
    assert found.verdict() in str(found)
    stored = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert (stored["seed"], stored["rows"], stored["how"]) == (5, 90, 0.0)
    assert [cut["what"] for cut in stored["cuts"]] == [list(cut.what) for cut in found.cuts]
    figure = found.plot(tmp_path / "lesion.png")
    assert (tmp_path / "lesion.png").read_bytes().startswith(b"\x89PNG")
    assert len(figure.axes) == 2
    with pytest.raises(AttributeError):
        found.cuts = ()


def test_an_interrupted_study_keeps_what_it_has(data, monkeypatch):
    net, calls = nets()["every"], []

    def loss(output, y):
        calls.append(1)
        if len(calls) > 90 * 3:
            raise KeyboardInterrupt
        return nn.functional.cross_entropy(output, y)

    found = lesion(net, data, loss, progress=False)
    assert found.interrupted
    assert 1 <= len(found.cuts) < 6
    assert "interrupted" in found.verdict()


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda d: lesion(nn.Linear(4, 3), d), ChainError, "not a Linear"),
        (lambda d: lesion(Chain(Dense(..., 3)), d), OpenChainError, "open"),
        (lambda d: lesion(Chain(Dense(4, 3)), d), ChainError, r"nothing to cut: skipway.study.signal"),
        (lambda d: lesion(nets()["every"], d, parts=["gates"]), ChainError, "parts are"),
        (lambda d: lesion(nets()["every"], d, parts=[]), ChainError, "parts are"),
        (lambda d: lesion(nets()["every"], d, how="zero"), ChainError, "how is"),
        (lambda d: lesion(nets()["every"], d, pairs=-1), ChainError, "pairs must be"),
        (lambda d: lesion(nets()["every"], d, resamples=0), ChainError, "resamples must be"),
        (lambda d: lesion(nets()["every"], (d[0] * math.nan, d[1])), DataError, "(?i)nan|finite"),
        (lambda d: lesion(nets()["every"], (d[0], d[1] * 0)), DataError, "all 90 labels are 0"),
        (lambda d: lesion(nets()["every"], (d[0][:, :3], d[1])), ShapeError, "built for"),
    ],
)
def test_what_cannot_be_studied_is_told(call, error, match, data):
    with pytest.raises(error, match=match):
        call(data)
