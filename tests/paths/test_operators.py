"""Paths that multiply by a matrix: low rank, and Householder's."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from skipway import ChainError, Conv, Dense, Householder, Learned, LowRank, Skip

KEY = "input->output"


def matrix(path: nn.Module, width: int) -> torch.Tensor:
    """The matrix of a linear path, column by column."""
    return path.double()(torch.eye(width, dtype=torch.float64)).T


def path_of(net: Skip) -> nn.Module:
    return net.shortcuts[KEY].path


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0, 1.5, 2.0])
def test_eigenvalues_of_householder(beta):
    # 2601.00417: one along k, 1 - beta, and all others 1
    m = matrix(path_of(Skip(Dense(5, 5), path=Householder(beta))), 5)
    values = torch.linalg.eigvalsh(m)
    expected = torch.tensor(sorted([1 - beta, 1.0, 1.0, 1.0, 1.0]), dtype=torch.float64)
    assert torch.allclose(values, expected, atol=1e-6)
    if beta == 1.0:
        assert torch.allclose(m @ m, m, atol=1e-6), "a projection"
    if beta == 2.0:
        assert torch.allclose(m @ m, torch.eye(5, dtype=torch.float64), atol=1e-6), "a reflection"


def test_a_learned_strength_stays_between_0_and_2():
    path = path_of(Skip(Dense(5, 5), path=Householder(Learned(0.5))))
    assert float(path._beta(torch.zeros(1, 5)).detach()) == pytest.approx(0.5)
    for far in (-50.0, 50.0):
        path.strength.data.fill_(far)
        assert 0.0 <= float(path._beta(torch.zeros(1, 5)).detach()) <= 2.0


@pytest.mark.parametrize("size", [(), (4, 3)])
def test_a_dynamic_one_looks_at_every_pixel_by_itself(size):
    torch.manual_seed(0)
    body = Conv(5, 5, 1) if size else Dense(5, 5)
    path = path_of(Skip(body, path=Householder(2.0, dynamic=True)))
    x = torch.randn(3, 5, *size)
    assert torch.allclose(path(x).norm(dim=1), x.norm(dim=1), atol=1e-5), "every reflection keeps the length"
    assert torch.allclose(path(x)[:1], path(x[:1]))


def test_low_rank():
    # LAuReL-LR, 2411.07501
    torch.manual_seed(0)
    net = Skip(Dense(6, 6), path=LowRank(2))
    path = path_of(net)
    x = torch.randn(3, 6)
    assert torch.equal(path(x), x), "at first the identity"
    nn.init.normal_(path[1].weight)
    m = matrix(path, 6)
    assert torch.linalg.matrix_rank(m - torch.eye(6, dtype=torch.float64)) == 2
    assert sum(p.numel() for p in net.shortcuts.parameters()) == 2 * 2 * 6


def test_low_rank_alone_maps_widths():
    net = Skip(Conv(6, 4, 3, padding=1), path=LowRank(2, identity=False))
    assert net(torch.randn(1, 6, 5, 5)).shape == (1, 4, 5, 5)
    assert sum(p.numel() for p in net.shortcuts.parameters()) == 2 * 6 + 2 * 4


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Householder(2.5), "from 0 .identity. to 2 .reflection., not 2.5"),
        (lambda: Householder(Learned(0.0)), "between 0 and 2 at first"),
        (lambda: Skip(Dense(4, 5), path=Householder()), "cannot take 4 features to 5"),
        (lambda: LowRank(0), "positive whole number, not 0"),
        (lambda: Skip(Dense(4, 5), path=LowRank(2)), "adds to the value itself"),
    ],
)
def test_bad_input_says_what_is_right(make, said):
    with pytest.raises(ChainError, match=said):
        make()
