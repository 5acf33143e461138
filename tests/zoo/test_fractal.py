"""FractalNet: exact counts of parameters and paths, the rule it grows by, and columns that are nets of their own."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

from skipway import Chain, ChainError
from skipway.merges.random import JoinModule
from skipway.zoo.cost import count
from skipway.zoo.fractal import column, fractal, fractalnet

SMALL = {"widths": (4, 8), "dropout": 0}


def oracle(columns, widths, classes=10):
    """Parameters by hand: in every block 2^C - 1 convolutions, of which each column's first reads the block before."""
    total, start = 0, 3
    for end in widths:
        total += columns * 9 * start * end + (2**columns - 1 - columns) * 9 * end**2 + (2**columns - 1) * 2 * end
        start = end
    return total + start * classes + classes


def test_by_hand():
    assert oracle(3, (64, 128, 256, 512, 512)) == 33_724_618
    assert oracle(3, (64, 128, 256, 512, 512), classes=100) == 33_770_788
    for columns in (1, 2, 4):
        assert oracle(columns, (4, 8)) == count(fractalnet(columns, **SMALL)).parameters


def test_what_the_paper_prints_does_not_follow_from_its_description(built):
    found = count(built("fractalnet20")).parameters
    assert found == 33_724_618
    assert abs(found - 38.6e6) > 4e6


@pytest.mark.parametrize(("columns", "paths"), [(1, 1), (2, 2), (3, 5), (4, 26), (5, 677)])
def test_paths_through_a_block(columns, paths):
    block = fractal(columns, 2, 2)
    ways = [1] + [0] * len(block)
    for at in range(1, len(ways)):
        ways[at] = ways[at - 1] + sum(ways[s.start] for s in block.wiring if s.end == at)
    assert ways[-1] == paths
    assert len(block) + len(block.wiring) == 2**columns - 1


def test_depth():
    assert count(fractalnet(3, **SMALL)).depth == 2 * 4 + 1
    assert count(fractalnet(4, **SMALL)).depth == 2 * 8 + 1


def grown(block, columns, x, at=0):
    """A block by the rule of the paper: what arrives at its last join, from the deepest column on."""
    if columns == 1:
        return [block[at](x)]
    half = 2 ** (columns - 2)
    middle = torch.stack(grown(block, columns - 1, x, at)).mean(0)
    beside = block.shortcuts[f"{at}->{at + 2 * half}"].path
    return [*grown(block, columns - 1, middle, at + half), beside(x)]


@pytest.mark.parametrize("columns", [1, 2, 3, 4])
def test_a_block_grows_by_the_rule(columns):
    block = fractal(columns, 3, 5).build((3, 8, 8)).eval()
    x = torch.randn(2, 3, 8, 8)
    expected = torch.stack(grown(block, columns, x)).mean(0)
    assert torch.allclose(block(x), expected, atol=1e-6)


def joins(net):
    return [m for m in net.modules() if isinstance(m, JoinModule)]


@pytest.mark.parametrize("which", [0, 1, 2, -1])
def test_a_column_is_what_global_drop_path_leaves(which):
    net = fractalnet(3, **SMALL, drop_path=0.5).eval()
    alone = column(net, which)
    assert not any(m.wiring for m in alone.modules() if isinstance(m, Chain))
    x = torch.randn(2, 3, 32, 32)
    for join in joins(net):
        join.train()  # norms stay as they are at test
        join.column.fill_(which % 3)
    assert torch.allclose(net(x), alone(x), atol=1e-6)


def test_columns_share_the_weights():
    net = fractalnet(3, **SMALL)
    parts = [{id(p) for p in column(net, c).parameters()} for c in range(3)]
    whole = {id(p) for p in net.parameters()}
    assert set.union(*parts) == whole
    head = {id(p) for p in net["head"].parameters()}
    assert parts[0] & parts[1] == parts[1] & parts[2] == head


def test_the_deepest_column_is_the_plain_twin():
    net = fractalnet(3, **SMALL).eval()
    x = torch.randn(2, 3, 16, 16)
    assert torch.equal(column(net, -1)(x), net.plain()(x))
    assert net.plain().train()(x).shape == (2, 10)


def test_training_drops_columns_and_test_does_not():
    torch.manual_seed(0)
    net = fractalnet(3, **SMALL).eval()
    x = torch.randn(2, 3, 16, 16)
    assert torch.equal(net(x), net(x))
    net.train()
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
    picked = set()
    outs = []
    for _ in range(40):
        outs.append(net(x))
        picked |= {int(join.column) for join in joins(net)}
    assert picked == {-1, 0, 1, 2}
    alone = [column(net, c).eval()(x) for c in range(3)]
    assert all(any(torch.allclose(out, one, atol=1e-6) for out in outs) for one in alone)


def test_without_global_drop_path_no_column_is_picked():
    net = fractalnet(2, **SMALL, share=0.0).train()
    for _ in range(5):
        net(torch.randn(2, 3, 16, 16))
        assert {int(join.column) for join in joins(net)} == {-1}


def test_copies():
    net = fractalnet(2, **SMALL).eval()
    x = torch.randn(2, 3, 16, 16)
    for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert torch.equal(twin(x), net(x))
        assert twin.train()(x).isfinite().all()


def test_dropout_is_before_the_norm():
    net = fractalnet(2, (4, 8), dropout=(0.0, 0.4))  # the paper has it for the last block
    assert [type(m).__name__ for m in net["block2"][0]][1:3] == ["Dropout", "BatchNorm"]
    assert not any(isinstance(m, nn.Dropout) for m in net["block1"].modules())
    assert sum(isinstance(m, nn.Dropout) for m in net["block2"].modules()) == 3


def test_dropout_of_the_paper():
    net = fractalnet(1, (2,) * 5)
    found = [[m.p for m in net[f"block{i}"].modules() if isinstance(m, nn.Dropout)] for i in range(1, 6)]
    assert found == [[], [0.1], [0.2], [0.3], [0.4]]
    assert not any(isinstance(m, nn.Dropout) for m in fractalnet(1, (2, 2), dropout=0).modules())


def test_glorot_init():
    weight = fractalnet(1, (64, 128), dropout=(0, 0))["block2"][0][0].weight
    bound = (6 / (9 * 64 + 9 * 128)) ** 0.5
    assert weight.abs().max() <= bound
    assert weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.02)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: fractalnet(0), "columns= is C of 1605.07648"),
        (lambda: fractalnet(2, (4, 8), dropout=(0, 0, 0)), "a probability for each of the 2 blocks"),
        (lambda: fractalnet(2, ()), "each of the 0 blocks"),
        (lambda: fractalnet(2, **SMALL, drop_path=1.0), r"Join: drop is a probability in \[0, 1\)"),
        (lambda: fractalnet(2, **SMALL, share=2.0), "share is a probability"),
        (lambda: column(fractalnet(2, **SMALL), 2), "there are 2 columns, 0 to 1: no column 2"),
    ],
)
def test_what_cannot_be(make, words):
    with pytest.raises(ChainError, match=words):
        make()
