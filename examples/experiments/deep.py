"""The deep nets of these experiments: blocks of one dense layer, and what is between them; and the digits they read."""

from __future__ import annotations

import math

import torch
from outcome import Bench

from skipway import BatchNorm, Chain, Dense, Drop, Learned, Ramp, Skip, data, fit, relu
from skipway.data import Split
from skipway.zoo.initialise import he

KINDS = ("plain", "plain + BN", "residual", "residual / √L", "ReZero", "residual + BN")


def net(kind: str, blocks: int, width: int = 32, inputs: int = 784, outputs: int = 10, drop: float = 0.0) -> Chain:
    """A stem, blocks of relu and one dense layer (after batch norm in ``+ BN``), and a head. He's initial weights.

    ``residual`` has a shortcut around every block; ``/ √L`` multiplies each branch by 1 over the root of their number;
    ``ReZero`` by a learned number that begins at 0. ``drop`` is the probability with which the last branch is left out
    in training (stochastic depth); that of the others grows towards it.
    """

    def block(number: int) -> Chain:
        norm = [BatchNorm(width)] if kind.endswith("BN") else []
        layers = [*norm, relu, Dense(width, width)]
        if kind.startswith("plain"):
            return Chain(*layers)
        scale = {"residual / √L": 1 / math.sqrt(blocks), "ReZero": Learned(0.0)}.get(kind)
        p = Ramp(0.0, drop)(number, blocks) if drop else 0.0
        return Skip(*layers, scale=scale, drop=Drop(p, law="test-scale") if p else 0.0)

    body = Chain(*[block(i) for i in range(1, blocks + 1)])
    # the head begins as a block does, since a sum of many branches went through no norm and no relu
    end = Chain(BatchNorm(width), relu) if kind.endswith("BN") else Chain(relu)
    made = Chain(stem=Dense(inputs, width), body=body, end=end, head=Dense(width, outputs))
    return he(made, "fan_in", dense=True)


def trained(bench: Bench, kind: str, blocks: int, train: Split, epochs: int) -> Chain:
    """Such a net after so many epochs, the same for the same seed: experiments that take nets apart begin with it."""
    bench.say(f"training {kind}, {blocks} blocks")
    torch.manual_seed(bench.seed)
    made = net(kind, blocks)
    fit(made, train, epochs=epochs, batch=50, lr=1e-3, optimizer="adam", device="cpu", seed=bench.seed, progress=False)
    return made


def without(made: Chain, cut: set[int]) -> Chain:
    """The same net without some of its blocks, with the same weights."""
    kept = [block for i, block in enumerate(made["body"]) if i not in cut]
    return Chain(stem=made["stem"], body=Chain(*kept), end=made["end"], head=made["head"])


def digits(train_rows: int, test_rows: int) -> tuple[Split, Split]:
    """Handwritten digits that come with skipway."""
    train, test = data.mnist(small=True, flat=True, normalize=True)
    return train.take(train_rows), test.take(test_rows)
