"""The nets of the training comparison in PyTorch: as chains, and by hand.

All end in logits. The CNN is that of examples/thread/7_mnist_cnn.py without its softmax, which every library here
has inside its loss.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from skipway import Chain, Conv, Dense, Flatten, MaxPool, Skip, relu, zoo


class CNN(nn.Module):
    """Two convolutions with pooling, a residual block of two, one more whose input stays beside its output."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, 3, padding=1)
        self.conv2 = nn.Conv2d(8, 32, 3, padding=1)
        self.pool = nn.MaxPool2d(2)
        self.conv3 = nn.Conv2d(32, 32, 3, padding=1)
        self.conv4 = nn.Conv2d(32, 32, 3, padding=1)
        self.conv5 = nn.Conv2d(32, 16, 3, padding=1)
        self.fc = nn.Linear(48 * 7 * 7, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(torch.relu(self.conv1(x)))
        x = self.pool(torch.relu(self.conv2(x)))
        x = torch.relu(self.conv4(torch.relu(self.conv3(x))) + x)
        x = torch.cat([torch.relu(self.conv5(x)), x], 1)
        return self.fc(torch.flatten(x, 1))


class MLP(nn.Module):
    """Three hidden layers of 256, a shortcut around the second and the third."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(784, 256)
        self.fc2 = nn.Linear(256, 256)
        self.fc3 = nn.Linear(256, 256)
        self.fc4 = nn.Linear(256, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.fc1(x))
        x = torch.relu(self.fc2(x)) + x
        x = torch.relu(self.fc3(x)) + x
        return self.fc4(x)


def by_hand(name: str) -> nn.Module:
    """The net as one writes it without skipway."""
    if name == "resnet20":
        from overhead import ResNet20

        return ResNet20()
    return {"cnn": CNN, "mlp": MLP}[name]()


def as_chain(name: str) -> Chain:
    if name == "mlp":
        return Chain(Dense(784, 256, relu), Skip(Dense(256, 256, relu)), Skip(Dense(256, 256, relu)), Dense(256, 10))
    if name == "resnet20":
        return zoo.make("cifar_resnet20", shortcut="B")
    return Chain(
        Conv(1, 8, 3, relu, padding=1), MaxPool(2),
        Conv(8, 32, 3, relu, padding=1), MaxPool(2),
        Skip(Conv(32, 32, 3, relu, padding=1), Conv(32, 32, 3, padding=1), act=relu),
        Skip(Conv(32, 16, 3, relu, padding=1), merge="cat"),
        Flatten(), Dense(..., 10),
        input=(1, 28, 28),
    )  # fmt: skip
