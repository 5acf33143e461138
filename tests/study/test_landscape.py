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
    Conv,
    DataError,
    Dense,
    GlobalAvgPool,
    Learned,
    OpenChainError,
    Skip,
    TrainError,
    evaluate,
    every,
    fit,
    relu,
)  # fmt: skip
from skipway.study import Landscape, landscape
from skipway.study.given import Bar
from skipway.study.landscape import _direction, _filters, _moved
from skipway.study.ways import he


def blobs(noise: float = 0.4, rows: int = 90, features: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(3)
    y = torch.arange(rows) % 3
    return torch.randn(rows, features, generator=draw) * noise + 2 * torch.eye(features)[y], y


def quick(net, data, *loss, **options) -> Landscape:
    return landscape(net, data, *loss, progress=False, **options)


def mixed() -> Chain:
    torch.manual_seed(0)
    block = Skip(Conv(4, 4, 3, padding=1), BatchNorm(), scale=Learned(0.3, per="channel"), act=relu)
    return Chain(Conv(1, 4, 3, relu, padding=1), block, GlobalAvgPool(), Dense(4, 3), input=(1, 6, 6))


# -- directions --------------------------------------------------------------------------------------------------------


def test_every_filter_of_a_direction_has_the_norm_of_the_filter():
    net = mixed()
    filters = dict(_filters(net))
    drawn = _direction(filters, torch.Generator().manual_seed(0))
    assert len(drawn) == 3
    for p, d in zip(filters, drawn, strict=True):
        torch.testing.assert_close(d.flatten(1).norm(dim=1), p.detach().flatten(1).norm(dim=1))
        assert not torch.allclose(d, p)


def test_transposed_convolutions_have_their_filters_on_another_axis():
    net = nn.Sequential(nn.ConvTranspose2d(4, 6, 3, groups=2))
    ((p, _), d) = next(iter(_filters(net))), _direction(dict(_filters(net)), torch.Generator().manual_seed(0))[0]
    for group in range(2):
        for feature in range(3):
            mine = d[2 * group : 2 * group + 2, feature], p.detach()[2 * group : 2 * group + 2, feature]
            torch.testing.assert_close(mine[0].norm(), mine[1].norm())


def test_norms_biases_gains_and_frozen_weights_have_direction_zero():
    net = mixed()
    net[3].weight.requires_grad_(False)
    moved = {id(p) for p, _ in _filters(net)}
    named = {name for name, p in net.named_parameters() if id(p) in moved}
    assert named == {"0.weight", "1.0.weight"}
    found = quick(net, (torch.randn(6, 1, 6, 6), torch.arange(6) % 3), points=3)
    assert found.moved == 4 * 9 + 4 * 4 * 9
    assert found.parameters == sum(p.numel() for p in net.parameters())
    assert not list(_filters(nn.Sequential(nn.LayerNorm((2, 3)))))


def test_a_filter_of_zeros_does_not_move():
    net = Chain(Dense(6, 4), Dense(4, 3))
    nn.init.zeros_(net[1].weight)
    (_, d) = _direction(dict(_filters(net)), torch.Generator().manual_seed(0))
    assert torch.equal(d, torch.zeros_like(d))


# -- the loss on a slice -----------------------------------------------------------------------------------------------


def test_the_slice_is_the_loss_of_nets_with_moved_weights():
    net, data = Chain(Dense(6, 8, relu), Skip(Dense(8, 8, relu)), Dense(8, 3)), blobs()
    found = quick(net, data, points=5, span=0.5, seed=7)
    filters = dict(_filters(net))
    d = _direction(filters, torch.Generator().manual_seed(7))
    assert found.steps == (-0.5, -0.25, 0.0, 0.25, 0.5)
    for step, loss in zip(found.steps, found.losses[0], strict=True):
        with _moved(filters, [d], (step,)):
            assert evaluate(net, data, batch=1024).loss == loss
    assert found.loss == evaluate(net, data, batch=1024).loss == found.at(0.0)[0]


def test_a_plane_holds_the_line_of_its_first_direction():
    net, data = Chain(Dense(6, 8, relu), Dense(8, 3)), blobs()
    line = quick(net, data, points=5, seed=2)
    plane = quick(net, data, points=5, seed=2, directions=2)
    assert plane.losses[2] == line.losses[0]
    assert plane.forwards == 25
    assert (line.forwards, len(plane.losses)) == (5, 5)
    assert plane.at(0.5, -1.0) == (plane.losses[0][3],)
    with pytest.raises(ChainError, match="one direction"):
        line.at(0.5, 1.0)


def test_slices_are_the_same_for_a_seed_and_differ_between_seeds():
    net, data = Chain(Dense(6, 8, relu), Dense(8, 3)), blobs()
    both = quick(net, data, points=5, seed=4, seeds=2)
    assert both == quick(net, data, points=5, seed=4, seeds=2)
    assert both.losses[1] == quick(net, data, points=5, seed=5).losses[0] != both.losses[0]
    assert (both.seeds, both.forwards) == ((4, 5), 10)
    assert len(both.at(1.0)) == 2


def test_scaling_a_weight_and_its_inverse_leaves_the_slice_as_it_is():
    """What filters are normalised for: relu nets that compute the same have the same landscape."""
    net, data = Chain(Dense(6, 8, relu), Dense(8, 3)).double(), (blobs()[0].double(), blobs()[1])
    before = quick(net, data, points=7)
    with torch.no_grad():
        net[0].weight.mul_(8.0)
        net[0].bias.mul_(8.0)
        net[1].weight.div_(8.0)
    # the direction of the second layer is scaled filter by filter, and so shrinks with it
    after = quick(net, data, points=7)
    torch.testing.assert_close(torch.tensor(after.losses), torch.tensor(before.losses))


def test_a_trained_net_lies_at_the_lowest_point():
    torch.manual_seed(0)
    # of classes that overlap: else larger weights are always better, and there is no minimum
    net, data = Chain(Dense(6, 12, relu), Skip(Dense(12, 12, relu)), Dense(12, 3)), blobs(noise=2.0)
    new = quick(net, data, points=21)
    fit(net, data, epochs=60, batch=90, lr=1e-2, device="cpu", progress=False)
    found = quick(net, data, points=11, directions=2)
    assert found.is_minimum
    assert found.lowest == (found.loss, (0.0, 0.0))
    assert "lies at the lowest point" in found.verdict()
    assert not new.is_minimum
    assert new.lowest[0] < new.loss
    assert "Not the lowest point" in new.verdict()


def test_shortcuts_keep_the_walls_low():
    """At 20 layers the loss of a plain net explodes along a direction, and that of a residual net does not."""
    layers, data = 20, blobs()
    found = {}
    for name, wiring in (("plain", ()), ("residual", every(1, scale=layers**-0.5))):
        torch.manual_seed(1)
        body = Chain(*[Dense(16, 16, relu) for _ in range(layers)], wiring=wiring)
        net = he(Chain(stem=Dense(6, 16, relu), body=body, head=Dense(16, 3)))
        fit(net, data, epochs=30, batch=30, lr=5e-3, device="cpu", progress=False)
        found[name] = quick(net, data, points=21, seeds=3)
    for step, times in ((0.2, 10.0), (0.5, 5.0), (1.0, 20.0)):
        plain, residual = ([r.at(step), r.at(-step)] for r in (found["plain"], found["residual"]))
        plain, residual = (sum(map(sum, both)) for both in (plain, residual))
        assert plain > times * residual, step


# -- the net is left as it was -----------------------------------------------------------------------------------------


def bits(net) -> dict[str, bytes]:
    return {name: t.numpy(force=True).tobytes() for name, t in net.state_dict().items()}


@pytest.mark.parametrize("batchnorm", ["kept", "anew"])
def test_weights_and_statistics_come_back_bit_for_bit(batchnorm):
    net = mixed()
    pointers = [p.data_ptr() for p in net.parameters()]
    versions = [p._version for p in net.parameters()]
    before, state = bits(net), torch.get_rng_state()
    quick(net.train(), (torch.randn(8, 1, 6, 6, generator=torch.Generator()), torch.arange(8) % 3),
          points=3, batchnorm=batchnorm)  # fmt: skip
    assert bits(net) == before
    assert [p.data_ptr() for p in net.parameters()] == pointers
    assert [p._version for p in net.parameters()] == versions  # so that a graph over them is still good
    assert torch.equal(torch.get_rng_state(), state)
    assert net.training
    assert net[1][1].training
    assert net[1][1].momentum == 0.1


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_weights_come_back_after_an_interruption(error):
    net, (x, y) = mixed(), (torch.randn(8, 1, 6, 6), torch.arange(8) % 3)
    before = bits(net)
    count = 0

    def loss(output, y):
        nonlocal count
        count += 1
        if count == 4:
            raise error("in the middle")
        return nn.functional.cross_entropy(output, y)

    with pytest.raises(error, match="in the middle"):
        quick(net, (x, y), loss, points=5, batchnorm="anew")
    assert bits(net) == before
    assert net.training
    assert net[1][1].momentum == 0.1


def test_statistics_taken_anew_are_those_of_the_data():
    net, (x, y) = mixed(), (3 + torch.randn(64, 1, 6, 6), torch.arange(64) % 3)
    anew = quick(net, (x, y), points=3, batchnorm="anew")
    kept = quick(net, (x, y), points=3)
    assert anew.forwards == 2 * kept.forwards
    assert anew.loss != pytest.approx(kept.loss)
    net[1][1].momentum = None
    with torch.no_grad():
        net.train()(x)
    assert quick(net, (x, y), points=3).loss == pytest.approx(anew.loss, rel=1e-6)


# -- the result --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("directions", [1, 2])
def test_a_result_prints_plots_and_is_plain_data(directions, tmp_path: Path):
    net, data = Chain(Dense(6, 8, relu), Dense(8, 3)), blobs()
    found = quick(net, data, points=5, directions=directions)
    assert str(found).splitlines()[0].split() == ["distance", "loss", "lowest", "highest"]
    stored = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert stored["loss"] == found.loss
    assert (stored["seeds"], stored["rows"], stored["moved"]) == ([0], 90, 72)
    figure = found.plot(tmp_path / "slice.png")
    assert (tmp_path / "slice.png").read_bytes().startswith(b"\x89PNG")
    assert len(figure.axes) == directions  # contours have a bar of colours
    with pytest.raises(AttributeError):
        found.loss = 0.0


def test_slices_are_drawn_over_one_another():
    data = blobs()
    one, two = (quick(Chain(Dense(6, w, relu), Dense(w, 3)), data, points=5, seeds=2) for w in (4, 8))
    axes = one.plot(others={"wide": two}).axes[0]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["net", "wide"]
    line = axes.get_lines()[0]
    assert list(line.get_xdata()) == list(one.steps)
    assert line.get_ydata()[4] == pytest.approx(sum(one.at(1.0)) / 2)
    plane = quick(Chain(Dense(6, 4)), data, points=3, directions=2, loss="logitcrossentropy")
    with pytest.raises(ChainError, match="two directions"):
        one.plot(others={"plane": plane})
    with pytest.raises(ChainError, match="one net at a time"):
        plane.plot(others={"wide": two})


def test_infinite_losses_are_told_and_drawn_around():
    found = Landscape((-1.0, 0.0, 1.0), ((math.nan, 1.0, math.inf),), 1.0, 1, (0,), "mse", "kept", 4, 8, 8, 3)
    assert found.is_minimum
    assert found.to_dict()["losses"] == [[None, 1.0, None]]
    assert "inf" in str(found)
    found.plot()


def test_the_cost_is_said_first(capsys):
    landscape(Chain(Dense(6, 3)), blobs(), points=3, batchnorm="anew", seeds=2)
    assert capsys.readouterr().out == "landscape: 12 passes over 90 rows\n"


def test_a_bar_counts_on_a_terminal(monkeypatch, capsys):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    with Bar("study: 3 things", 3) as bar:
        bar.step(2)
        assert bar._bar.tasks[0].completed == 2
    with Bar("silent", 3, show=False) as bar:
        bar.step()
    assert "silent" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda d: quick(Chain(Dense(..., 3)), d), OpenChainError, "open"),
        (lambda d: quick("net", d), ChainError, "not a str"),
        (lambda d: quick(nn.Sequential(nn.ReLU()), d), TrainError, "no trainable"),
        (lambda d: quick(nn.LayerNorm(6), (d[0], d[0])), ChainError, "no filter to move"),
        (lambda d: quick(Chain(Dense(5, 3)), d), DataError, "takes 5|cannot take"),
        (lambda d: quick(Chain(Dense(6, 3)), (d[0] / 0, d[1])), DataError, "NaN"),
        (lambda d: quick(Chain(Dense(6, 3)), (d[0], d[1] * 0 + 2)), DataError, "all 90 labels are 2.*two classes"),
        (lambda d: quick(Chain(Dense(6, 3)), d, directions=3), ChainError, "directions is 1"),
        (lambda d: quick(Chain(Dense(6, 3)), d, points=4), ChainError, "odd"),
        (lambda d: quick(Chain(Dense(6, 3)), d, points=1), ChainError, "at least 3"),
        (lambda d: quick(Chain(Dense(6, 3)), d, span=-1.0), ChainError, "span"),
        (lambda d: quick(Chain(Dense(6, 3)), d, seeds=2, directions=2), ChainError, "one seed"),
        (lambda d: quick(Chain(Dense(6, 3)), d, batchnorm="new"), ChainError, "kept"),
        (lambda d: quick(Chain(Dense(6, 3)), d, "mean"), TrainError, "'mean'"),
    ],
)
def test_what_cannot_be_studied_is_told(call, error, match):
    with pytest.raises((error, ChainError) if error is DataError else error, match=match):
        call(blobs())
