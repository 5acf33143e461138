"""Where does the activation go: after the sum, before the layers, or inside them?

The question: in the ResNet paper the activation comes after the addition, but my layers have it inside. Do I need
another kind of skip for that?

No: the order in which things are written is the order in which they run, and `act=` is what comes after the merge.

    post-activation   Skip(Dense, BatchNorm, relu, Dense, BatchNorm, act=relu)      ResNet, arXiv 1512.03385
    pre-activation    Skip(BatchNorm, relu, Dense, BatchNorm, relu, Dense)          ResNet v2, arXiv 1603.05027
    DenseNet          Skip(BatchNorm, relu, Dense, merge="cat")                     arXiv 1608.06993

In the first the sum passes through a relu in every block. In the second nothing stands on the way from one end of
the net to the other. In the third nothing is even added: every block reads all that was made before it, and puts its
own beside it.

Each is trained here on the 5,000 digits that come with skipway, next to its plain twin: the same layers without
shortcuts.
"""

import argparse
import copy
from collections.abc import Callable

import torch

from skipway import BatchNorm, Chain, Dense, Skip, data, fit, relu

WIDTH, GROWTH = 64, 16


def post_activation() -> Skip:
    return Skip(
        Dense(WIDTH, WIDTH, bias=False), BatchNorm(), relu,
        Dense(WIDTH, WIDTH, bias=False), BatchNorm(),
        act=relu,
    )  # fmt: skip


def pre_activation() -> Skip:
    return Skip(
        BatchNorm(), relu, Dense(WIDTH, WIDTH, bias=False),
        BatchNorm(), relu, Dense(WIDTH, WIDTH, bias=False),
    )  # fmt: skip


def densenet() -> Skip:
    return Skip(BatchNorm(), relu, Dense(..., GROWTH, bias=False), merge="cat")


BLOCKS = {"post-activation": post_activation, "pre-activation": pre_activation, "DenseNet": densenet}


def make(block: Callable[[], Skip], blocks: int) -> Chain:
    # what leaves the last block is a sum that was not normalised, so a norm and a relu close the trunk
    return Chain(Dense(784, WIDTH), *[block() for _ in range(blocks)], BatchNorm(), relu, Dense(..., 10))


def main(blocks: int = 20, epochs: int = 5, batch: int = 100) -> dict[str, tuple[float, float]]:
    for name, block in BLOCKS.items():
        print(f"{name}, one block:", make(block, 1), "", sep="\n")

    train, test = data.mnist(small=True, flat=True, normalize=True)
    accuracy = {}
    print(f"{blocks} blocks, {epochs} epochs\n{'parameters':>26s}  train loss  test accuracy  plain twin")
    for name, block in BLOCKS.items():
        torch.manual_seed(0)
        net = make(block, blocks)
        # a copy, since a twin shares its layers with the net it was taken from; the relu after each sum stays in it
        twin = copy.deepcopy(net.plain())
        options = {"epochs": epochs, "batch": batch, "lr": 1e-3, "device": "cpu", "progress": False}
        row, plain = fit(net, train, test, **options)[-1], fit(twin, train, test, **options)[-1]
        accuracy[name] = row["test_accuracy"], plain["test_accuracy"]
        size = sum(p.numel() for p in net.parameters())
        print(f"{name:16s}{size:10,}{row['train_loss']:12.3f}{accuracy[name][0]:15.1%}{accuracy[name][1]:12.1%}")
    return accuracy


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--blocks", type=int, default=20)
    options.add_argument("--epochs", type=int, default=5)
    options.add_argument("--batch", type=int, default=100)
    results = main(**vars(options.parse_args()))
