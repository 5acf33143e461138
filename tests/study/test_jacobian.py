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
    Dropout,
    Flatten,
    MaxPool,
    OpenChainError,
    ShapeError,
    Shortcut,
    Skip,
    every,
    relu,
    tanh,
)  # fmt: skip
from skipway.study import Jacobian, Spectrum, jacobian
from skipway.study.ways import he


def quick(net, x, **options) -> Jacobian:
    return jacobian(net, x, progress=False, **options)


def blocks(layers: int, width: int, wiring) -> Chain:
    torch.manual_seed(0)
    return he(Chain(*[layer for _ in range(layers) for layer in (relu, Dense(width, width))], wiring=wiring))


def assert_spectrum(found: Spectrum, matrices: list[torch.Tensor]) -> None:
    assert len(found.singular) == len(matrices)
    for row, matrix in zip(found.singular, matrices, strict=True):
        torch.testing.assert_close(torch.tensor(row, dtype=torch.float64), torch.linalg.svdvals(matrix.double()))


# -- known answers -----------------------------------------------------------------------------------------------------


def test_a_net_that_computes_the_identity_has_only_ones():
    net = Chain(*[Dense(5, 5) for _ in range(4)], wiring=every(1, scale=0.0))
    found = quick(net, torch.randn(3, 5))
    assert [one.singular for one in found.spectra] == [((1.0,) * 5,) * 3] * 4
    assert found.isometric
    assert (found.output.condition, found.output.gain, found.output.rank) == (1.0, 1.0, 5)
    assert "Near dynamical isometry" in found.verdict()


def test_orthogonal_layers_are_isometric_and_half_of_them_shrink_everything():
    net = Chain(*[Dense(6, 6) for _ in range(3)])
    for layer in net:
        nn.init.orthogonal_(layer.weight)
    assert quick(net, torch.randn(2, 6)).output.condition == pytest.approx(1.0, abs=1e-5)
    assert quick(net, torch.randn(2, 6)).isometric
    with torch.no_grad():
        net[0].weight.mul_(0.25)
    found = quick(net, torch.randn(2, 6))
    assert found.output.gain == pytest.approx(0.25, rel=1e-5)
    assert not found.isometric
    assert "vanish in nearly every direction" in found.verdict()


def test_a_linear_chain_has_the_product_of_its_matrices():
    net = Chain(Dense(4, 6), Dense(6, 6), Dense(6, 3), wiring=[Shortcut(1, 2, scale=0.5, path_scale=2.0)])
    a, b, c = (layer.weight.detach().double() for layer in net)
    first, second = a, (2 * torch.eye(6) + 0.5 * b) @ a
    found = quick(net, torch.randn(2, 4))
    assert [one.value for one in found.spectra] == ["0", "1", "2"]
    for one, matrix in zip(found.spectra, (first, second, c @ second), strict=True):
        assert_spectrum(one, [matrix] * 2)
    assert [(one.features_in, one.features_out, one.depth) for one in found.spectra] == [
        (4, 6, 1),
        (4, 6, 2),
        (4, 3, 3),
    ]
    after = quick(net, torch.randn(2, 4), start="0")
    assert_spectrum(after.output, [c @ (2 * torch.eye(6) + 0.5 * b)] * 2)


@pytest.mark.parametrize("merge", ["gate", "cat", "max", "mul"])
def test_it_is_the_jacobian_that_autograd_computes(merge):
    torch.manual_seed(0)
    net = Chain(Conv(1, 2, 3, tanh, padding=1), Skip(Conv(2, 2, 3, padding=1), BatchNorm(), relu, merge=merge),
                MaxPool(2), Flatten(), Dropout(0.5), Dense(..., 3), input=(1, 4, 4)).double()  # fmt: skip
    x = torch.randn(3, 1, 4, 4, dtype=torch.float64)
    with torch.no_grad():
        for _ in range(5):
            net(x)  # statistics that are not the initial ones
    found = quick(net, x)
    net.eval()
    rows = [torch.autograd.functional.jacobian(net, row.unsqueeze(0)).reshape(3, 16) for row in x]
    assert_spectrum(found.output, rows)
    for name in ("1", "3"):

        def value(row, name=name):
            return net.features(row, at=[name])[name]

        made = [torch.autograd.functional.jacobian(value, row.unsqueeze(0)) for row in x]
        one = quick(net, x, at=[name])
        assert_spectrum(one[name], [m.reshape(-1, 16) for m in made])
        assert [s.value for s in one.spectra] == [name, "5"]


def test_the_gain_follows_the_law_of_scaled_branches():
    """(1 + 1/L) ** (L/2), near the root of e, for x + W relu(x) / sqrt(L); 1 for a plain net of relus."""
    layers, x = 16, torch.randn(2, 96)
    scaled = quick(blocks(layers, 96, every(2, scale=layers**-0.5)), x)
    assert scaled.output.gain == pytest.approx((1 + 1 / layers) ** (layers / 2), rel=0.1)
    unscaled = quick(blocks(layers, 96, every(2)), x, at="15")
    assert unscaled["15"].gain == pytest.approx(2**4, rel=0.3)


def test_shortcuts_keep_every_direction_and_a_plain_net_loses_half_of_them():
    layers, x = 12, torch.randn(3, 24)
    plain, residual = (quick(blocks(layers, 24, w), x) for w in ((), every(2, scale=layers**-0.5)))
    assert residual.output.rank == 24
    assert plain.output.rank < 16
    assert plain.output.condition == math.inf
    assert residual.output.condition < 1000
    assert "directions are lost" in plain.verdict()
    assert residual.verdict().startswith("Not near isometry, condition number")
    grown = quick(Chain(Dense(4, 4), wiring=every(1, path_scale=100.0)), x[:, :4])
    assert "grow in nearly every direction" in grown.verdict()


def test_nothing_comes_through_a_net_of_zeros():
    net = Chain(Dense(4, 4), Dense(4, 2))
    nn.init.zeros_(net[0].weight)
    assert "Nothing comes through" in quick(net, torch.randn(2, 4)).verdict()


def test_a_net_that_overflows_is_told():
    net = Chain(Dense(2, 2), Dense(2, 2))
    with torch.no_grad():
        for layer in net:
            layer.weight.fill_(1e30)
    assert "not finite" in quick(net, torch.randn(1, 2), double=False).verdict()


# -- which values ------------------------------------------------------------------------------------------------------


def test_values_inside_chains_are_looked_at_and_many_are_thinned():
    body = Chain(*[Dense(3, 3) for _ in range(40)], wiring=every(1))
    found = quick(Chain(stem=Dense(2, 3), body=body, head=Dense(3, 2)), torch.randn(1, 2))
    assert len(found.spectra) == 16
    assert (found.spectra[0].value, found.output.value, found.output.depth) == ("stem", "head", 42)
    named = quick(Chain(stem=Dense(2, 3), body=body, head=Dense(3, 2)), torch.randn(1, 2), at=["body.3", "stem"])
    assert [one.value for one in named.spectra] == ["stem", "body.3", "head"]
    with pytest.raises(ChainError, match="not asked for"):
        named["body.4"]


def test_tokens_start_after_their_embedding():
    net = Chain(embed=nn.Embedding(7, 3), a=Dense(3, 4))
    x = torch.tensor([[1, 2], [3, 4]])
    found = quick(net, x, start="embed")
    assert (found.output.features_in, found.output.features_out) == (6, 8)
    with pytest.raises(DataError, match="no small changes"):
        quick(net, x)


def test_the_net_is_left_as_it_was():
    net = Chain(Dense(4, 4), BatchNorm(4), Dropout(0.5), Dense(4, 2)).train()
    before, state = {k: v.clone() for k, v in net.state_dict().items()}, torch.get_rng_state()
    quick(net, torch.randn(6, 4, generator=torch.Generator()))
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert net.training
    assert net[2].training
    assert all(p.dtype == torch.float32 and p.requires_grad and p.grad is None for p in net.parameters())


# -- the result --------------------------------------------------------------------------------------------------------


def test_a_result_prints_plots_and_is_plain_data(tmp_path: Path, capsys):
    net = Chain(Dense(4, 6, relu), Dense(6, 6, relu), Dense(6, 3))
    found = jacobian(net, torch.randn(10, 4))
    assert capsys.readouterr().out == "jacobian: 15 backward passes for each of 10 rows\n"
    assert str(found).splitlines()[0].split()[:3] == ["value", "gain", "largest"]
    stored = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert [one["value"] for one in stored["values"]] == ["0", "1", "2"]
    assert len(stored["values"][-1]["singular"]) == stored["samples"] == 10
    figure = found.plot(tmp_path / "jacobian.png")
    assert (tmp_path / "jacobian.png").read_bytes().startswith(b"\x89PNG")
    assert len(figure.axes) == 2
    with pytest.raises(AttributeError):
        found.start = ""


def test_numbers_of_a_known_spectrum():
    one = Spectrum("a", 1, ((4.0, 2.0), (8.0, 0.0)), 2, 2)
    assert (one.largest, one.smallest, one.middle, one.rank) == (6.0, 1.0, 3.0, 1.5)
    assert one.gain == math.sqrt(84 / 4)
    assert one.condition == math.inf
    assert one.between(0, 1) == (0.0, 8.0)


class Rounds(nn.Module):
    def forward(self, x):
        return x * float(x.sum())


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda x: quick(nn.Linear(4, 4), x), ChainError, "not a Linear"),
        (lambda x: quick(Chain(Dense(..., 3)), x), OpenChainError, "open"),
        (lambda x: quick(Chain(Dense(5, 3)), x), ShapeError, "takes 5"),
        (lambda x: quick(Chain(Dense(4, 3)), x[0]), DataError, "a batch"),
        (lambda x: quick(Chain(Dense(4, 3)), x / 0), DataError, "NaN"),
        (lambda x: quick(Chain(a=Dense(4, 3)), x, at=["b"]), ChainError, "no value 'b'"),
        (lambda x: quick(Chain(a=Dense(4, 3)), x, start="b"), ChainError, "no value 'b'"),
        (lambda x: quick(Chain(a=Dense(4, 3)), x, start="a"), ChainError, "nothing comes after"),
        (lambda x: quick(Chain(a=Dense(4, 3), b=Dense(3, 3), c=Dense(3, 3)), x, start="b", at="a"), ChainError, "bef"),
        (lambda x: quick(Chain(Dense(4, 9000), Dense(9000, 2)), x, start="0", at=["0"]), DataError, "more than"),
        (lambda x: quick(Chain(Dense(4, 4), Rounds()), x), ChainError, "cannot differentiate"),
    ],
)
def test_what_cannot_be_studied_is_told(call, error, match):
    with pytest.raises(error, match=match):
        call(torch.randn(2, 4))
