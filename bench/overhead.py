"""What composition costs: a chain against the same network written by hand in plain PyTorch.

Forward (no gradient) and a training step (forward, loss, backward, fused Adam), same weights, interleaved. A ratio of
1.00 is no cost; above 1 the chain is faster.

    python bench/overhead.py [--seconds 12] [--only ResNet] [--threads 1] [--quick]
"""

from __future__ import annotations

import argparse
import copy
import statistics

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import record
from skipway import BatchNorm, Chain, Conv, Dense, Flatten, GlobalAvgPool, MaxPool, Project, Shortcut, Skip, every, relu
from timing import interleaved


class Tiny(nn.Module):
    """10-5-4-2 with a projection around every layer."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(10, 5), nn.Linear(5, 4), nn.Linear(4, 2)
        self.sc1, self.sc2, self.sc3 = (nn.Linear(a, b, bias=False) for a, b in ((10, 5), (5, 4), (4, 2)))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.fc1(x)) + self.sc1(x)
        x = torch.relu(self.fc2(x)) + self.sc2(x)
        return torch.relu(self.fc3(x)) + self.sc3(x)


def tiny() -> Chain:
    return Chain(Dense(10, 5, relu), Dense(5, 4, relu), Dense(4, 2, relu), wiring=every(1, path="project"))


class TinySkip(nn.Module):
    """A policy network for a game: one hidden layer with a shortcut, one state at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(4, 16), nn.Linear(16, 16), nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.fc1(x))
        x = torch.tanh(self.fc2(x)) + x
        return self.fc3(x)


def tiny_skip() -> Chain:
    return Chain(Dense(4, 16, torch.tanh), Dense(16, 16, torch.tanh), Dense(16, 2), wiring=[Shortcut(1, 2)])


class DeepMLP(nn.Module):
    """50 layers of width 64, an identity shortcut around every hidden one."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(64, 64)
        self.hidden = nn.ModuleList([nn.Linear(64, 64) for _ in range(48)])
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        for layer in self.hidden:
            x = torch.relu(layer(x)) + x
        return self.head(x)


def deep_mlp() -> Chain:
    return Chain(
        Dense(64, 64, relu), Chain(*[Dense(64, 64, relu) for _ in range(48)], wiring=every(1)), Dense(64, 10)
    )  # fmt: skip


class ThousandLayers(nn.Module):
    """1,000 layers of width 64, an identity shortcut around each: the loop that one would write."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(64, 64) for _ in range(1000)])

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.relu(layer(x)) + x
        return x


def thousand_layers() -> Chain:
    return Chain(*[Dense(64, 64, relu) for _ in range(1000)], wiring=every(1))


class SmallCNN(nn.Module):
    """The CNN of the thread: two convolutions with pooling, one with a shortcut, a dense head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 3, padding=1)
        self.conv2 = nn.Conv2d(16, 16, 3, padding=1)
        self.conv3 = nn.Conv2d(16, 32, 3, padding=1)
        self.pool = nn.MaxPool2d(2)
        self.fc = nn.Linear(32 * 7 * 7, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(torch.relu(self.conv1(x)))
        x = torch.relu(self.conv2(x)) + x
        x = self.pool(torch.relu(self.conv3(x)))
        return self.fc(torch.flatten(x, 1))


def small_cnn() -> Chain:
    return Chain(
        Conv(1, 16, 3, relu, padding=1), MaxPool(2),
        Skip(Conv(16, 16, 3, relu, padding=1)),
        Conv(16, 32, 3, relu, padding=1), MaxPool(2),
        Flatten(), Dense(..., 10),
        input=(1, 28, 28),
    )  # fmt: skip


class Block(nn.Module):
    def __init__(self, fan_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(fan_in, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.down = None
        if stride != 1 or fan_in != width:
            self.down = nn.Sequential(nn.Conv2d(fan_in, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(out + (x if self.down is None else self.down(x)))


class ResNet20(nn.Module):
    """1512.03385, section 4.2, with option B."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn = nn.BatchNorm2d(16)
        widths = [16] * 3 + [32] * 3 + [64] * 3
        self.blocks = nn.ModuleList(
            [Block(a, b, 1 + (a != b)) for a, b in zip([16, *widths[:-1]], widths, strict=True)]
        )
        self.fc = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn(self.conv(x)))
        # a loop, not self.blocks(...) of a Sequential: that would hold the first block's input until the last is done,
        # and with it the top of the heap, which spares glibc the work of giving memory back (13 % here, by luck)
        for block in self.blocks:
            x = block(x)
        return self.fc(x.mean((2, 3)))


def resnet20() -> Chain:
    def conv(fan_in: int, width: int, stride: int = 1) -> Conv:
        return Conv(fan_in, width, 3, stride=stride, padding=1, bias=False)

    def block(fan_in: int, width: int) -> Skip:
        return Skip(
            conv(fan_in, width, 1 + (fan_in != width)), BatchNorm(), relu, conv(width, width), BatchNorm(),
            path=Project(norm=BatchNorm), act=relu,
        )  # fmt: skip

    widths = [16] * 3 + [32] * 3 + [64] * 3
    blocks = [block(a, b) for a, b in zip([16, *widths[:-1]], widths, strict=True)]
    return Chain(conv(3, 16), BatchNorm(), relu, *blocks, GlobalAvgPool(), Dense(64, 10), input=(3, 32, 32))


# a twin by hand, the chain, the shape of the input, classes, layers to divide by where there are many
CASES = {
    "4-16-16-2, batch 1": (TinySkip, tiny_skip, (1, 4), 2, 0),
    "10-5-4-2, projections, batch 32": (Tiny, tiny, (32, 10), 2, 0),
    "50-layer MLP, batch 64": (DeepMLP, deep_mlp, (64, 64), 10, 0),
    "1,000-layer MLP, batch 32": (ThousandLayers, thousand_layers, (32, 64), 64, 1000),
    "CNN of the thread, batch 32": (SmallCNN, small_cnn, (32, 1, 28, 28), 10, 0),
    "ResNet-20, batch 128": (ResNet20, resnet20, (128, 3, 32, 32), 10, 0),
}
GOAL = 0.99


def same_weights(chain: Chain, hand: nn.Module) -> None:
    """Give the hand-written twin the chain's weights, matched by shape: which is which does not matter."""
    by_shape: dict[torch.Size, list[Tensor]] = {}
    for p in chain.parameters():
        by_shape.setdefault(p.shape, []).append(p)
    with torch.no_grad():
        for q in hand.parameters():
            q.copy_(by_shape[q.shape].pop(0))


def step(net: nn.Module, x: Tensor, y: Tensor) -> object:
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-4, fused=True)

    def once() -> None:
        optimizer.zero_grad()
        F.cross_entropy(net(x), y).backward()
        optimizer.step()

    return once


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=12.0, help="time for each row, or 40 rounds (default 12)")
    parser.add_argument("--only", default="", help="the cases whose name holds this")
    parser.add_argument("--threads", type=int, help="threads of torch (default: its own choice)")
    parser.add_argument("--quick", action="store_true", help="a second for each row: to see that it runs")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    table = record.Table(
        "overhead", "A chain against the same network written by hand", ours="chain", unit="ms", quick=options.quick
    )
    for case, (by_hand, as_chain, shape, classes, layers) in CASES.items():
        if options.only not in case:
            continue
        torch.manual_seed(0)
        chain, hand = as_chain(), by_hand()
        count = sum(p.numel() for p in chain.parameters())
        assert count == sum(p.numel() for p in hand.parameters()), "not the same network"
        same_weights(chain, hand)
        x, y = torch.randn(shape), torch.randint(classes, shape[:1])

        def forward(net: nn.Module, x: Tensor = x) -> object:
            def once() -> None:
                with torch.no_grad():
                    net(x)

            return once

        for what, make in (("forward", forward), ("training step", lambda net, x=x, y=y: step(net, x, y))):
            pair = {"chain": make(copy.deepcopy(chain)), "hand": make(copy.deepcopy(hand))}
            # short turns, many of them: what is looked for is a hundredth, and the machine's moods are ten times that
            found = interleaved(pair, budget=1.0, least=9) if options.quick else interleaved(
                pair, budget=options.seconds, seconds=0.004, least=40
            )  # fmt: skip
            per = {
                name: {"µs a layer": f"{1e6 * statistics.median(values) / layers:.1f}"}
                for name, values in found.items()
                if layers
            }
            table.add(f"{case}, {what}", found, goals={"hand": GOAL}, more=per)
    table.notes.append("Fused Adam on both sides of a training step; no gradient in a forward.")
    record.save(table)


if __name__ == "__main__":
    main()
