"""skipway.fit and two loops by hand: the plain one of every tutorial, and one with all that is known to help."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from contenders.torch_nets import as_chain, by_hand
from contenders.turns import Job, Turns
from skipway import fit


def run(job: Job, turns: Turns) -> None:
    torch.manual_seed(job.seed)
    name, _, option = job.contender.partition(", ")
    {"skipway.fit": ours, "plain loop": plain, "tuned by hand": tuned}[name](job, turns, option)


def size(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def outputs(net: nn.Module, x: np.ndarray) -> np.ndarray:
    """What ``net`` makes of test images."""
    net.eval()
    with torch.no_grad():
        return torch.cat([net(part) for part in torch.from_numpy(x).split(500)]).float().numpy()


def precision(option: str) -> Callable[[], AbstractContextManager]:
    if option == "bf16":
        return lambda: torch.autocast("cpu", torch.bfloat16)
    return contextlib.nullcontext


#: what the rest of a contender's name means to fit
OPTIONS = {"": {}, "bf16": {"precision": "bf16"}, "compiled": {"compile": True}, "not recorded": {"recorded": False}}


def ours(job: Job, turns: Turns, option: str) -> None:
    net = as_chain(job.net)
    turns.ready(size(net))
    if turns.more():
        fit(
            net, (torch.from_numpy(job.x), torch.from_numpy(job.y)), epochs=10**6, batch=job.batch, lr=job.lr,
            optimizer="adam", progress=False, callbacks=[lambda state: not turns.more()],
            **OPTIONS[option],
        )  # fmt: skip
    turns.judged(job, outputs(net, job.test_x))


def plain(job: Job, turns: Turns, option: str) -> None:
    net, cast = by_hand(job.net), precision(option)
    data = TensorDataset(torch.from_numpy(job.x), torch.from_numpy(job.y))
    loader = DataLoader(data, batch_size=job.batch, shuffle=True)
    optimizer = torch.optim.Adam(net.parameters(), lr=job.lr)
    turns.ready(size(net))
    while turns.more():
        net.train()
        for x, y in loader:
            optimizer.zero_grad()
            with cast():
                loss = F.cross_entropy(net(x), y)
            loss.backward()
            optimizer.step()
    turns.judged(job, outputs(net, job.test_x))


def tuned(job: Job, turns: Turns, option: str) -> None:
    """Batches cut by index, fused Adam, and for images the channels last in memory, also of one channel."""
    net, cast = by_hand(job.net), precision(option)
    x, y = torch.from_numpy(job.x), torch.from_numpy(job.y)
    images = x.dim() == 4
    if images:
        net = net.to(memory_format=torch.channels_last)
        x = x.permute(0, 2, 3, 1).contiguous()
    optimizer = torch.optim.Adam(net.parameters(), lr=job.lr, fused=True)

    def batch(index: Tensor) -> Tensor:
        rows = x.index_select(0, index)
        return rows.permute(0, 3, 1, 2) if images else rows

    turns.ready(size(net))
    while turns.more():
        net.train()
        for index in torch.randperm(len(x)).split(job.batch):
            optimizer.zero_grad()
            with cast():
                loss = F.cross_entropy(net(batch(index)), y.index_select(0, index))
            loss.backward()
            optimizer.step()
    turns.judged(job, outputs(net, job.test_x))
