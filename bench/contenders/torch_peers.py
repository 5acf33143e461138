"""PyTorch Lightning and skorch, with what their documentation says about speed.

Lightning: ``Trainer(barebones=True)``, in which all that costs time is switched off. skorch, "Performance": a data set
of tensors, no callbacks (``callbacks="disable"``), no log; and no validation split.
"""

from __future__ import annotations

import logging
import warnings
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from contenders.torch_loops import outputs, size
from contenders.torch_nets import by_hand
from contenders.turns import Job, Turns


def run(job: Job, turns: Turns) -> None:
    torch.manual_seed(job.seed)
    {"PyTorch Lightning": with_lightning, "skorch": with_skorch}[job.contender](job, turns)


def with_lightning(job: Job, turns: Turns) -> None:
    import lightning

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")

    class Net(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = by_hand(job.net)

        def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
            x, y = batch
            return F.cross_entropy(self.net(x), y)

        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.parameters(), lr=job.lr)

        def on_train_epoch_end(self) -> None:
            self.trainer.should_stop = not turns.more()

    net = Net()
    data = TensorDataset(torch.from_numpy(job.x), torch.from_numpy(job.y))
    # no workers: they only copy what lies in memory already (Lightning's advice is to try; it is slower here)
    loader = DataLoader(data, batch_size=job.batch, shuffle=True)
    trainer = lightning.Trainer(accelerator="cpu", barebones=True, max_epochs=10**6)
    turns.ready(size(net))
    if turns.more():
        trainer.fit(net, loader)
    turns.judged(job, outputs(net.net, job.test_x))


def with_skorch(job: Job, turns: Turns) -> None:
    from skorch import NeuralNetClassifier

    class Net(NeuralNetClassifier):
        def on_epoch_end(self, net: Any, **kwargs: Any) -> None:
            if not turns.more():
                raise KeyboardInterrupt  # which skorch takes as the wish to end

    net = Net(
        by_hand(job.net), criterion=nn.CrossEntropyLoss, optimizer=torch.optim.Adam, lr=job.lr, batch_size=job.batch,
        max_epochs=10**6, iterator_train__shuffle=True, train_split=None, callbacks="disable", verbose=0,
    )  # fmt: skip
    net.initialize()
    turns.ready(size(net.module_))
    if turns.more():
        net.fit(TensorDataset(torch.from_numpy(job.x), torch.from_numpy(job.y)), None)
    turns.judged(job, outputs(net.module_, job.test_x))
