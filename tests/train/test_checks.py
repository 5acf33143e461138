"""What is asked before a training begins."""

import pytest
import torch
from torch import nn

from skipway.train.checks import wants_pixels

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("layer", "wanted"),
    [
        (nn.Conv2d(3, 8, 3, stride=2), True),
        (nn.Conv2d(3, 8, 1), True),
        (nn.Conv2d(1, 8, 1, stride=2), True),
        (nn.Conv2d(16, 8, 1, stride=2), True),
        # weight gradients of these may crash: a branch of RepVGG is one
        (nn.Conv2d(3, 8, 1, stride=2), False),
        (nn.Conv2d(15, 8, 1, stride=(1, 2)), False),
        (nn.Conv2d(32, 32, 1, stride=2, groups=8), False),
        (nn.Linear(3, 8), False),
    ],
)
def test_channels_last_where_there_are_convolutions_but_not_where_onednn_writes_too_far(layer, wanted):
    assert wants_pixels(nn.Sequential(nn.ReLU(), nn.Sequential(layer)), CPU, bf16=False) is wanted
