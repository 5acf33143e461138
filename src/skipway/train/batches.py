"""Where batches come from: tensors cut by index, or a ``DataLoader``."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset, default_collate

from skipway.errors import DataError, TrainError
from skipway.train.losses import is_labels

Pair = tuple[Tensor, Tensor]
# a data set up to this size is moved to the device once; a larger one goes batch by batch
_WHOLE_BYTES = 1 << 30
# how many values are looked at together when data is checked
_PIECE = 1 << 22


def to_channels_last(x: Tensor) -> Tensor:
    """Images ``(N, C, H, W)`` with the channels next to each other in memory; other tensors come back as they are.

    torch takes one channel to be in both orders at once and then picks the slower kernels: its strides are set here.

    >>> to_channels_last(torch.zeros(2, 1, 3, 4)).stride()
    (12, 1, 4, 1)
    """
    if x.dim() != 4 or x.numel() == 0:
        return x
    _, channels, height, width = x.shape
    if channels > 1:
        return x.contiguous(memory_format=torch.channels_last)
    return x.contiguous().as_strided(x.shape, (height * width, 1, width, 1))


def to_channels_first(x: Tensor) -> Tensor:
    """``x`` with torch's default strides, also where it has one channel.

    >>> to_channels_first(torch.zeros(2, 1, 3, 4).as_strided((2, 1, 3, 4), (12, 1, 4, 1))).stride()
    (12, 12, 4, 1)
    """
    return x.clone(memory_format=torch.contiguous_format).view(x.shape)


def moved_ahead(pairs: Iterator[Pair], device: torch.device) -> Iterator[Pair]:
    """The same batches on ``device``; on a GPU each is copied while the one before it is computed with.

    >>> [len(x) for x, _ in moved_ahead(iter([(torch.zeros(2), torch.zeros(2))]), torch.device("cpu"))]
    [2]
    """
    if device.type != "cuda":
        for x, y in pairs:
            yield (x, y) if x.device == y.device == device else (x.to(device), y.to(device))
        return
    stream, current = torch.cuda.Stream(device), torch.cuda.current_stream(device)
    held: tuple[Pair, Any] | None = None
    for pair in pairs:
        copied = None
        if any(t.device.type == "cpu" for t in pair):
            with torch.cuda.stream(stream):
                # only a copy from pinned memory runs beside the rest
                pair = tuple(  # type: ignore[assignment]
                    (t if t.device.type != "cpu" or t.is_pinned() else t.pin_memory()).to(device, non_blocking=True)
                    for t in pair
                )
                copied = stream.record_event()
        if held is not None:
            yield _arrived(*held, current)
        held = pair, copied
    if held is not None:
        yield _arrived(*held, current)


def _arrived(pair: Pair, copied: Any, current: Any) -> Pair:
    """Make what is computed next wait for the copy, and the memory of the copy stay until that has read it."""
    if copied is not None:
        current.wait_event(copied)
        for t in pair:
            t.record_stream(current)
    return pair


class TensorSource:
    """Batches cut out of two tensors by index: no loader and no work per sample.

    A last batch of one row joins the batch before it, since batch norm has no statistics of one row.

    >>> source = TensorSource(torch.arange(5.0), torch.arange(5), batch=2)
    >>> [len(x) for x, _ in source]
    [2, 3]
    """

    def __init__(self, x: Tensor, y: Tensor, batch: int) -> None:
        self.x, self.y, self.batch = x, y, batch
        self.rows: int | None = len(x)
        self.device = x.device
        self._pixels = False
        self.generator: torch.Generator | None = None

    def shuffle(self, seed: int) -> None:
        """From now on, a new random order every epoch."""
        self.generator = torch.Generator().manual_seed(seed)

    def sample(self) -> Pair:
        """The first row, as a batch of one, on the device."""
        return self._laid_out(self.x[:1].to(self.device)), self.y[:1].to(self.device)

    def to(self, device: torch.device, pixels: bool) -> None:
        """Feed this device; with the channels last when ``pixels``."""
        if self._pixels and not pixels:
            self.x = to_channels_first(self.x)
        self.device, self._pixels = device, pixels and self.x.dim() == 4
        if device.type == "cpu" or self.x.nbytes + self.y.nbytes <= _WHOLE_BYTES:
            self.x, self.y = self.x.to(device), self.y.to(device)
        if self._pixels:
            self.x = to_channels_last(self.x)

    def _laid_out(self, x: Tensor) -> Tensor:
        return to_channels_last(x) if self._pixels else x

    def _rows(self, index: Tensor) -> Tensor:
        # picking rows forgets the strides of one channel: pick from the memory order, then turn the axes
        if self._pixels:
            return self.x.permute(0, 2, 3, 1).index_select(0, index).permute(0, 3, 1, 2)
        return self.x.index_select(0, index)

    def _cuts(self) -> list[int]:
        cuts = [*range(0, len(self.x), self.batch), len(self.x)]
        if len(cuts) > 2 and cuts[-1] - cuts[-2] == 1 and self.batch > 1:
            del cuts[-2]
        return cuts

    def __len__(self) -> int:
        return len(self._cuts()) - 1

    def __iter__(self) -> Iterator[Pair]:
        return moved_ahead(self._batches(), self.device)

    def _batches(self) -> Iterator[Pair]:
        order = None
        if self.generator is not None:
            order = torch.randperm(len(self.x), generator=self.generator).to(self.x.device)
        cuts = self._cuts()
        for start, end in pairwise(cuts):
            if order is None:
                x, y = self.x[start:end], self.y[start:end]
            else:
                index = order[start:end]
                x, y = self._rows(index), self.y.index_select(0, index)
            yield x, y

    def states(self) -> dict[str, torch.Generator]:
        """The random generators behind the order of the data."""
        return {} if self.generator is None else {"order": self.generator}


class LoaderSource:
    """Batches of a ``DataLoader`` that gives ``(x, y)`` pairs, moved to the device; a last batch of one row is merged.

    >>> pairs = TensorDataset(torch.zeros(5, 2), torch.zeros(5))
    >>> [len(x) for x, _ in LoaderSource(DataLoader(pairs, batch_size=2), "train")]
    [2, 3]
    """

    def __init__(self, loader: DataLoader, where: str) -> None:
        self.loader, self._where = loader, where
        self.device = torch.device("cpu")
        self._pixels = False
        self._begun: tuple[Any, Iterator[Any]] | None = None
        self.classes: int | None = None
        dataset = loader.dataset
        self.rows: int | None = len(dataset) if hasattr(dataset, "__len__") else None
        if self.rows == 0:
            raise DataError(f"{where}: the data set is empty")

    def to(self, device: torch.device, pixels: bool) -> None:
        """Feed this device; with the channels last when ``pixels``."""
        self.device, self._pixels = device, pixels

    def sample(self) -> Pair:
        """One row or one batch to check the net with, on the device; what an iterable gave is kept for its epoch."""
        dataset = self.loader.dataset
        if self.loader.batch_size is not None and not isinstance(dataset, IterableDataset):
            return self._moved(self._pair(self.loader.collate_fn([dataset[0]])))
        batches = iter(self.loader)
        first = next(batches, None)
        if first is None:
            raise DataError(f"{self._where}: the loader gave no batch")
        self._begun = (first, batches)
        return self._moved(self._pair(first))

    def forget_begun(self) -> None:
        """Drop what :meth:`sample` had begun, so that the next epoch starts anew."""
        self._begun = None

    def _pair(self, batch: Any) -> Pair:
        if not (isinstance(batch, (tuple, list)) and len(batch) == 2 and all(isinstance(t, Tensor) for t in batch)):
            kinds = [type(t).__name__ for t in batch] if isinstance(batch, (tuple, list)) else type(batch).__name__
            raise DataError(f"{self._where}: a batch must be a pair (x, y) of tensors, not {kinds}; see collate_fn=")
        x, y = batch
        if len(x) != len(y):
            raise DataError(f"{self._where}: a batch has {len(x)} rows in x and {len(y)} in y")
        return x, y

    def _moved(self, pair: Pair) -> Pair:
        x, y = (t.to(self.device) for t in pair)
        return (to_channels_last(x) if self._pixels else x), y

    def __len__(self) -> int:
        try:
            return len(self.loader)
        except TypeError:  # an iterable of unknown length
            return 0

    def _raw(self) -> Iterator[Pair]:
        if self._begun is not None:
            (first, rest), self._begun = self._begun, None
            yield self._pair(first)
        else:
            rest = iter(self.loader)
        for batch in rest:
            yield self._pair(batch)

    def __iter__(self) -> Iterator[Pair]:
        for x, y in moved_ahead(self._joined(), self.device):
            yield (to_channels_last(x) if self._pixels else x), y

    def _joined(self) -> Iterator[Pair]:
        held: Pair | None = None
        for number, (x, y) in enumerate(self._raw()):
            if self.classes is not None and y.device.type == "cpu" and is_labels(y):
                check_labels(y, self.classes, f"{self._where}: batch {number}")
            if held is None:
                held = (x, y)
            elif len(x) == 1 and len(held[0]) > 1:
                held = (torch.cat([held[0], x]), torch.cat([held[1], y]))
            else:
                yield held
                held = (x, y)
        if held is None:
            raise DataError(
                f"{self._where}: the loader gave no batch; is drop_last=True and the data smaller than a batch?"
            )
        yield held

    def states(self) -> dict[str, torch.Generator]:
        """The random generators behind the order of the data."""
        found = {"loader": self.loader.generator, "sampler": getattr(self.loader.sampler, "generator", None)}
        if found["sampler"] is found["loader"]:
            del found["sampler"]
        return {name: generator for name, generator in found.items() if isinstance(generator, torch.Generator)}


Source = TensorSource | LoaderSource


def check_labels(y: Tensor, classes: int, where: str) -> None:
    """Raise ``DataError`` unless all labels are ``0`` to ``classes - 1``.

    >>> check_labels(torch.tensor([0, 3]), 3, "train")
    Traceback (most recent call last):
    skipway.errors.DataError: train: labels run from 0 to 3, and the net has 3 outputs: ...
    """
    low, high = (int(v) for v in torch.aminmax(y))
    if low < 0 or high >= classes:
        fix = (
            "labels start at 0: subtract 1"
            if low == 1 and high == classes
            else "widen its last layer or map the labels"
        )
        if low < 0:
            fix = "map the labels to 0 and up, and leave out rows without a label"
        raise DataError(
            f"{where}: labels run from {low} to {high}, and the net has {classes} outputs: "
            f"labels must be 0 to {classes - 1}; {fix}"
        )


def _check_finite(t: Tensor, what: str) -> None:
    if not (t.is_floating_point() or t.is_complex()):
        return
    # in pieces, since what torch makes to answer this is larger than what is asked about
    pieces = t.split(max(1, _PIECE // max(1, t[0].numel())))
    if not all(bool(torch.isfinite(piece).all()) for piece in pieces):
        bad = (~torch.isfinite(t)).reshape(len(t), -1)
        rows = bad.any(1).nonzero().flatten()
        raise DataError(
            f"{what} holds {int(bad.sum())} values that are NaN or infinite, in {len(rows)} of {len(t)} rows, "
            f"the first in row {int(rows[0])}: clean or drop these rows"
        )


def _tensors(data: Any, where: str) -> Pair | None:
    if isinstance(data, TensorDataset):
        pair: Any = data.tensors
    elif isinstance(data, (tuple, list)):
        pair = tuple(data)
    elif hasattr(data, "x") and hasattr(data, "y"):
        pair = (data.x, data.y)
    else:
        return None
    if len(pair) != 2:
        raise DataError(f"{where}: wanted (x, y), got {len(pair)} things")
    for name, t in zip("xy", pair, strict=True):
        if not isinstance(t, Tensor):
            kind = f"{type(t).__module__}.{type(t).__name__}"
            how = f"torch.from_numpy({name})" if kind == "numpy.ndarray" else f"torch.as_tensor({name})"
            raise DataError(f"{where}: {name} is a {kind}, not a tensor: write {how}")
        if t.dim() == 0:
            raise DataError(f"{where}: {name} is a single number, and needs a first axis of rows")
    x, y = pair
    if len(x) != len(y):
        raise DataError(f"{where}: x has {len(x)} rows and y has {len(y)}: row i of x belongs to row i of y")
    if len(x) == 0:
        raise DataError(f"{where}: the data set is empty (x has shape {tuple(x.shape)})")
    _check_finite(x, f"{where}: x")
    _check_finite(y, f"{where}: y")
    return x, y.long() if is_labels(y) else y


def source_of(data: Any, batch: int | None, where: str, seed: int | None = None) -> Source:
    """Batches of whatever ``fit`` and ``evaluate`` take as data; in a random order where there is a ``seed``.

    Raises ``DataError`` for what cannot be trained on and ``TrainError`` for a batch that cannot be cut.

    >>> source_of((torch.zeros(3, 2), torch.zeros(2)), 1, "train")
    Traceback (most recent call last):
    skipway.errors.DataError: train: x has 3 rows and y has 2: row i of x belongs to row i of y
    """
    if isinstance(data, DataLoader):
        if batch is not None and data.batch_size is not None and seed is not None and batch != data.batch_size:
            raise TrainError(
                f"{where}: batch={batch}, and the DataLoader makes batches of {data.batch_size}: leave batch out"
            )
        return LoaderSource(data, where)
    if batch is None:
        raise TrainError("batch= is missing: only a DataLoader brings its own")
    pair = _tensors(data, where)
    if pair is None and not isinstance(data, Dataset) and not hasattr(data, "__getitem__"):
        raise DataError(
            f"{where}: cannot train on a {type(data).__name__}: wanted (x, y) tensors, something with .x and .y, "
            f"a Dataset or a DataLoader"
        )
    rows = len(pair[0]) if pair else len(data) if hasattr(data, "__len__") else None
    if rows == 0:
        raise DataError(f"{where}: the data set is empty")
    if rows is not None and batch > rows:
        # only the batch of training changes what is learned; a test pass just takes what there is
        if seed is not None:
            raise TrainError(f"{where}: batch={batch} is larger than the data set of {rows} rows: at most batch={rows}")
        batch = rows
    if pair:
        source = TensorSource(*pair, batch)
        if seed is not None:
            source.shuffle(seed)
        return source
    shuffle = seed is not None and not isinstance(data, IterableDataset)
    generator = torch.Generator().manual_seed(seed) if shuffle and seed is not None else None
    return LoaderSource(
        DataLoader(data, batch_size=batch, shuffle=shuffle, generator=generator, collate_fn=default_collate), where
    )
