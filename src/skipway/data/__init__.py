"""The datasets that shortcut networks are shown on: MNIST, Fashion-MNIST and CIFAR-10, as tensors.

A subset of MNIST is inside the package, so that an example runs without a network:

>>> from skipway import data
>>> train, test = data.mnist(small=True)
>>> train.x.shape, train.y.shape, len(test)
(torch.Size([5000, 1, 28, 28]), torch.Size([5000]), 1000)

Everything else is downloaded once, into the folder of the environment variable ``SKIPWAY_DATA``, else ``skipway`` in
the user's cache folder. The layout there is torchvision's: point ``SKIPWAY_DATA`` (or ``root``) at the root of a
torchvision download and it is used as it is.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from skipway.data import files, sources
from skipway.errors import DataError, nearest

__all__ = ["Dataset", "Split", "cifar10", "default_root", "fashion_mnist", "load", "mnist", "names"]

_SMALL = Path(__file__).parent.parent / "assets" / "mnist-small.npz"


@dataclass(frozen=True, eq=False, repr=False)
class Split:
    """One part of a dataset: the inputs ``x`` (N, ...) and their classes ``y`` (int64, (N,)), all in memory.

    An index gives ``(x[i], y[i])`` (an int one example, a slice or a tensor of positions a batch), so a split is also a
    map-style dataset for ``torch.utils.data.DataLoader``. ``classes`` are the names of the classes, ``name`` says which
    part of which dataset this is.

    Raises DataError where ``x`` and ``y`` are not of one length.

    >>> import torch
    >>> x = torch.tensor([[0., 0.], [0., 1.], [1., 0.], [1., 1.]])
    >>> xor = Split(x, torch.tensor([0, 1, 1, 0]), classes=("even", "odd"), name="xor")
    >>> xor[1]
    (tensor([0., 1.]), tensor(1))
    >>> xor.take(2)
    Split 'xor': 2 examples, x float32 (2,), 2 classes
    """

    x: Tensor
    y: Tensor
    classes: tuple[str, ...]
    name: str

    def __post_init__(self) -> None:
        if len(self.x) != len(self.y):
            raise DataError(f"{self.name}: {len(self.x)} inputs and {len(self.y)} classes; every input needs one")

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int | slice | list[int] | Tensor) -> tuple[Tensor, Tensor]:
        return self.x[i], self.y[i]

    def __repr__(self) -> str:
        kind = str(self.x.dtype).removeprefix("torch.")
        shape, classes = tuple(self.x.shape[1:]), len(self.classes)
        return f"Split {self.name!r}: {len(self)} examples, x {kind} {shape}, {classes} classes"

    def take(self, n: int) -> Split:
        """The first ``n`` examples, which share this split's memory.

        Raises DataError where there are not so many.
        """
        if not 0 <= n <= len(self):
            raise DataError(f"{self.name} has {len(self)} examples, and {n} are asked for")
        return replace(self, x=self.x[:n], y=self.y[:n])


class Dataset(NamedTuple):
    """The two parts of a dataset: ``train, test = dataset``, or ``dataset.train`` and ``dataset.test``."""

    train: Split
    test: Split


def mnist(
    root: str | os.PathLike[str] | None = None,
    *,
    small: bool = False,
    flat: bool = False,
    raw: bool = False,
    normalize: bool = False,
    download: bool = True,
    mirrors: str | Sequence[str] | None = None,
) -> Dataset:
    """MNIST, handwritten digits: 60,000 to train on and 10,000 to test, 28 x 28 pixels, one channel, ten classes.

    ``x`` is float32 (N, 1, 28, 28) in [0, 1], ``y`` is int64 (N,).

    - ``root``: the folder the data lies under (``root/MNIST/raw``); :func:`default_root` where it is not given.
    - ``small``: 5,000 and 1,000 of them (500 and 100 a class), shipped with skipway. Needs no root and no network.
    - ``flat``: ``x`` is (N, 784).
    - ``raw``: ``x`` is uint8, from 0 to 255, as stored.
    - ``normalize``: ``x`` minus the mean and divided by the standard deviation of MNIST's training pixels.
    - ``download``: whether what is missing may be downloaded.
    - ``mirrors``: one address or several to download from in place of the public ones; what comes before the file name.

    Raises DataError where the data cannot be had (each mirror is named with its reason, and what to do without them) or
    written, where a file is truncated or damaged (it is named), and for ``raw`` with ``normalize``.

    LeCun, Bottou, Bengio and Haffner, *Gradient-based learning applied to document recognition*, 1998. The data
    is by Yann LeCun and Corinna Cortes, CC BY-SA 3.0.

    >>> train, test = mnist(small=True, flat=True)
    >>> train
    Split 'mnist-small/train': 5000 examples, x float32 (784,), 10 classes
    >>> test.y.bincount().tolist()
    [100, 100, 100, 100, 100, 100, 100, 100, 100, 100]
    """
    source = sources.MNIST
    if small:
        source = replace(source, name="mnist-small")
        arrays = _small_arrays()
    else:
        arrays = files.idx_arrays(source, _root(root), download, _mirrors(mirrors, source))
    return _dataset(source, arrays, flat, raw, normalize)


def fashion_mnist(
    root: str | os.PathLike[str] | None = None,
    *,
    flat: bool = False,
    raw: bool = False,
    normalize: bool = False,
    download: bool = True,
    mirrors: str | Sequence[str] | None = None,
) -> Dataset:
    """Fashion-MNIST, photographs of clothing: of the size, the layout and the options of :func:`mnist`.

    ``x`` is float32 (N, 1, 28, 28) in [0, 1], ``y`` is int64 (N,). The files lie in ``root/FashionMNIST/raw``.

    Raises DataError as :func:`mnist` does.

    Xiao, Rasul and Vollgraf, *Fashion-MNIST: a novel image dataset*, 2017 (arXiv 1708.07747). MIT licence.

    >>> train, test = fashion_mnist()  # doctest: +SKIP
    >>> train.classes[:3]  # doctest: +SKIP
    ('T-shirt/top', 'Trouser', 'Pullover')
    """
    source = sources.FASHION_MNIST
    arrays = files.idx_arrays(source, _root(root), download, _mirrors(mirrors, source))
    return _dataset(source, arrays, flat, raw, normalize)


def cifar10(
    root: str | os.PathLike[str] | None = None,
    *,
    flat: bool = False,
    raw: bool = False,
    normalize: bool = False,
    download: bool = True,
    mirrors: str | Sequence[str] | None = None,
) -> Dataset:
    """CIFAR-10, small colour photographs: 50,000 to train on and 10,000 to test, 32 x 32 pixels, ten classes.

    ``x`` is float32 (N, 3, 32, 32) in [0, 1], red, green and blue; ``y`` is int64 (N,). The options are those of
    :func:`mnist`; ``flat`` makes it (N, 3072), ``normalize`` goes channel by channel. In ``root`` lies
    ``cifar-10-python.tar.gz``, or ``cifar-10-batches-py`` unpacked from it.

    Raises DataError as :func:`mnist` does.

    Krizhevsky, *Learning multiple layers of features from tiny images*, 2009.

    >>> train, test = cifar10()  # doctest: +SKIP
    >>> train.x.shape  # doctest: +SKIP
    torch.Size([50000, 3, 32, 32])
    """
    source = sources.CIFAR10
    arrays = files.cifar_arrays(source, _root(root), download, _mirrors(mirrors, source))
    return _dataset(source, arrays, flat, raw, normalize)


_LOADERS: dict[str, tuple[Callable[..., Dataset], dict[str, Any]]] = {
    "mnist-small": (mnist, {"small": True}),
    "mnist": (mnist, {}),
    "fashion-mnist": (fashion_mnist, {}),
    "cifar10": (cifar10, {}),
}


def names() -> tuple[str, ...]:
    """The names that :func:`load` knows.

    >>> names()
    ('mnist-small', 'mnist', 'fashion-mnist', 'cifar10')
    """
    return tuple(_LOADERS)


def load(name: str, **options: Any) -> Dataset:
    """The dataset of this name, with the options of its function.

    Raises DataError for a name or an option that is not known, with the nearest that is, and as the function does.

    >>> load("mnist-small", raw=True).test
    Split 'mnist-small/test': 1000 examples, x uint8 (1, 28, 28), 10 classes
    >>> load("mnist-smal")
    Traceback (most recent call last):
    skipway.errors.DataError: no dataset is named 'mnist-smal': did you mean 'mnist-small'?
    """
    if name not in _LOADERS:
        raise DataError(f"no dataset is named {name!r}: {nearest(str(name), _LOADERS)}")
    function, fixed = _LOADERS[name]
    known = [option for option in inspect.signature(function).parameters if option not in fixed]
    for option in options:
        if option not in known:
            raise DataError(f"{name} has no option {option!r}: {nearest(option, known)}")
    return function(**fixed, **options)


def default_root() -> Path:
    """The folder that data is kept in: ``SKIPWAY_DATA``, else ``skipway`` in the user's cache folder.

    >>> default_root().is_absolute() or "SKIPWAY_DATA" in os.environ
    True
    """
    if own := os.environ.get("SKIPWAY_DATA"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "skipway"


def _root(root: str | os.PathLike[str] | None) -> Path:
    return default_root() if root is None else Path(root).expanduser()


def _mirrors(mirrors: str | Sequence[str] | None, source: sources.Source) -> tuple[str, ...]:
    if mirrors is None:
        return source.mirrors
    return (mirrors,) if isinstance(mirrors, str) else tuple(mirrors)


def _small_arrays() -> files.Arrays:
    """The subset of MNIST that is inside the package."""
    try:
        with open(_SMALL, "rb") as f, np.load(f) as stored:  # np.load(path) leaves a bad zip open
            return (stored["train_x"][:, None], stored["train_y"], stored["test_x"][:, None], stored["test_y"])
    except Exception as e:  # a damaged zip fails in many ways, of numpy, zipfile and zlib
        raise DataError(
            f"{_SMALL}, which comes with skipway, is missing or damaged ({e}): install skipway again"
        ) from e


def _dataset(source: sources.Source, arrays: files.Arrays, flat: bool, raw: bool, normalize: bool) -> Dataset:
    if raw and normalize:
        raise DataError("raw=True keeps the stored bytes and normalize=True needs floats: choose one")
    train_x, train_y, test_x, test_y = arrays

    def split(x: np.ndarray, y: np.ndarray, part: str) -> Split:
        # np.array copies: what was read from a file is read-only, and a tensor never is.
        values = torch.from_numpy(np.array(x))
        if not raw:
            values = values.to(torch.float32).div_(255)
        if normalize:
            channels = (1, -1, 1, 1)
            values = values.sub_(torch.tensor(source.mean).view(channels)).div_(torch.tensor(source.std).view(channels))
        if flat:
            values = values.flatten(1)
        return Split(values, torch.from_numpy(y.astype(np.int64)), source.classes, f"{source.name}/{part}")

    return Dataset(split(train_x, train_y, "train"), split(test_x, test_y, "test"))
