import copy
import pickle

import pytest
import torch
from torch import nn

import skipway
from skipway import (
    BatchNorm,
    Cat,
    Chain,
    ChainError,
    Conv,
    Dense,
    DropPath,
    Gate,
    Parallel,
    Shortcut,
    Skip,
    every,
    relu,
    tie,
)
from skipway.merges import Merge


@pytest.mark.parametrize(
    ("merge", "expected"),
    [
        ("add", lambda a, b, c: a + b + c),
        ("mean", lambda a, b, c: torch.stack([a, b, c]).mean(0)),
        ("mul", lambda a, b, c: a * b * c),
        ("max", lambda a, b, c: torch.maximum(torch.maximum(a, b), c)),
        ("cat", lambda a, b, c: torch.cat([a, b, c], -1)),
        (Cat(first="shortcut"), lambda a, b, c: torch.cat([c, b, a], -1)),
        (lambda a, b, c: a - b * c, lambda a, b, c: a - b * c),
    ],
)
def test_branches_over_one_input_are_merged(merge, expected, x4):
    branches = [Dense(4, 5), Dense(4, 5, relu), Chain(Dense(4, 3), Dense(3, 5))]
    values = [b(x4) for b in branches]
    net = Parallel(*branches, merge=merge)
    assert torch.equal(net(x4), expected(*values))
    assert torch.equal(Chain(net)(x4), expected(*values))


def test_one_branch_is_that_branch(x4):
    layer = Dense(4, 5)
    for merge in ("add", "cat", "mean"):
        assert torch.equal(Parallel(tie(layer), merge=merge)(x4), layer(x4))


def test_images_are_joined_on_their_channels():
    net = Chain(Parallel(Conv(3, 4, 1), Conv(3, 5, 3, padding=1), merge="cat"), BatchNorm(), input=(3, 8, 8))
    assert net(torch.randn(2, 3, 8, 8)).shape == (2, 9, 8, 8)
    assert net[1].num_features == 9


def test_open_branches_close_in_a_chain(x4):
    net = Chain(Dense(4, 6), Parallel(Dense(..., 3), Skip(Dense(..., 6)), merge="cat"), Dense(..., 2))
    assert not net.is_open
    assert net(x4).shape == (3, 2)
    assert len(list(net.parameters())) == 8


def test_open_branches_by_themselves_close_by_the_others_or_say_so(x4):
    net = Parallel(Dense(..., 5), Dense(4, 5))
    try:
        out = net(x4)
    except skipway.OpenChainError:
        return
    assert out.shape == (3, 5)
    assert len(list(net.parameters())) == 4


def test_a_grouped_convolution_is_a_sum_of_branches():
    grouped = nn.Conv2d(8, 8, 3, padding=1, groups=4, bias=False)
    branches = [
        Chain(lambda x, i=i: x[:, 2 * i : 2 * i + 2], nn.Conv2d(2, 2, 3, padding=1, bias=False)) for i in range(4)
    ]
    net = Chain(Parallel(*branches, merge="cat"), input=(8, 5, 5))
    with torch.no_grad():
        for i in range(4):
            net[0].branches[i][1].weight.copy_(grouped.weight[2 * i : 2 * i + 2])
    x = torch.randn(2, 8, 5, 5)
    assert torch.allclose(net(x), grouped(x), atol=1e-6)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Parallel(Dense(4, 3), Dense(4, 1)),
        lambda: Chain(Dense(4, 4), Parallel(nn.Identity(), Dense(4, 1))),
        lambda: Chain(Parallel(nn.Identity(), Dense(4, 1))),
        lambda: Chain(Parallel(lambda x: x, lambda x: x[:, :1]), input=4),
        lambda: Parallel(nn.Identity(), Dense(4, 1))(torch.ones(3, 4)),
        lambda: Parallel(Dense(4, 1), nn.Identity())(torch.ones(3, 4)),
        lambda: Parallel(lambda x: x, lambda x: x[:, :1])(torch.ones(3, 4)),
        lambda: Chain(Dense(4, 4), Parallel(lambda x: x, lambda x: x[:, :1], merge="mean")),
    ],
)
def test_branches_never_broadcast(make):
    with pytest.raises(ChainError, match=r"(?s)\([N3], \d\).*\([N3], \d\)"):
        make()


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda: Parallel(), "at least one branch"),
        (lambda: Parallel(Dense(4, 4), Dense(4, 4), merge="gate"), "gate"),
        (lambda: Parallel(Dense(4, 4), Dense(4, 4), merge=Gate()), "gate|Gate"),
        (lambda: Parallel(Dense(4, 4), Dense(4, 4), merge=Gate), "gate|Gate"),
        (lambda: Parallel(Dense(4, 4), 3), "callable"),
        (lambda: Parallel(Dense(4, 4), Dense(4, 4), merge="ad"), "did you mean 'add'"),
        (lambda: Parallel(*[Dense(4, 4)] * 2), "same (Dense )?object"),
        (lambda: Chain(Dense(4, 4), Parallel(Dense(3, 3), Dense(4, 3))), "takes 3 features|takes 4 features"),
    ],
)
def test_what_is_no_parallel_is_refused_with_the_place(make, what):
    with pytest.raises(ChainError, match=rf"(?s)({what}).*test_parallel\.py:\d+|test_parallel\.py:\d+.*({what})"):
        make()


def test_a_layer_of_the_chain_is_not_shared_with_a_branch_by_accident():
    layer = Dense(4, 4)
    with pytest.raises(ChainError, match="share"):
        Chain(layer, Parallel(layer, Dense(4, 4)))
    with pytest.raises(ChainError, match="share"):
        Chain(layer, Parallel(Chain(layer), Dense(4, 4)))


def test_a_merge_that_makes_modules_is_no_merge_of_many():
    class Weighted(Merge):
        def make(self, branch, shortcut):
            return nn.Bilinear(4, 4, 4)

    with pytest.raises(ChainError, match=r"test_parallel|parameters|module"):
        Parallel(Dense(4, 4), Dense(4, 4), merge=Weighted())


def test_random_drop_in_a_bare_branch_is_refused(x4):
    with pytest.raises(ChainError, match="drop the only path"):
        Chain(Dense(4, 4), Parallel(DropPath(0.5)))(x4)


def test_shortcuts_around_a_parallel(x4):
    net = Chain(Dense(4, 4), Parallel(Dense(4, 4), Skip(Dense(4, 4))), wiring=every(1))
    a = net[0](x4) + x4
    assert torch.equal(net(x4), net[1](a) + a)
    tapped = Chain(Dense(4, 4), Parallel(Dense(4, 4), nn.Identity()), wiring=[Shortcut(0, 2)])
    assert torch.equal(tapped(x4), tapped[1](tapped[0](x4)) + x4)


def test_a_branch_that_works_in_place_would_corrupt_the_others(x4):
    try:
        net = Chain(Dense(4, 4), Parallel(nn.ReLU(inplace=True), nn.Identity()))
    except ChainError as error:
        assert "in place" in str(error)  # noqa: PT017 - refused or made right
        return
    h = net[0](x4)
    assert torch.equal(net(x4), h.relu() + h)


def test_print_repr_and_copies(x4):
    net = Chain(Dense(4, 4), Parallel(Dense(4, 3), Skip(Dense(4, 3), path="project"), merge="cat"), Dense(..., 2))
    assert "Parallel" in str(net)
    assert repr(eval(repr(net), vars(skipway))) == repr(net)
    for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert torch.equal(twin(x4), net(x4))


def test_unseen_shapes_run(x4):
    net = Chain(Dense(4, 4), Parallel(nn.Identity(), Dense(4, 4)))
    assert net(torch.randn(2, 7, 4)).shape == (2, 7, 4)
    assert net(x4).shape == (3, 4)
