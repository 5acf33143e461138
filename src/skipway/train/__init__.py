"""Training: losses, ``fit`` and ``evaluate``, checkpoints, and the helpers around them."""

from skipway.train.batches import to_channels_last
from skipway.train.checkpoint import load, save
from skipway.train.helpers import onecold, onehot, throttle
from skipway.train.history import History
from skipway.train.loop import State, fit
from skipway.train.losses import crossentropy, ends_in_softmax, logitcrossentropy, mse, nll
from skipway.train.measure import Score, evaluate

__all__ = [
    "History",
    "Score",
    "State",
    "crossentropy",
    "ends_in_softmax",
    "evaluate",
    "fit",
    "load",
    "logitcrossentropy",
    "mse",
    "nll",
    "onecold",
    "onehot",
    "save",
    "throttle",
    "to_channels_last",
]
