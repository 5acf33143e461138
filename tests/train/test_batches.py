import contextlib
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from skipway.errors import DataError
from skipway.train import to_channels_last
from skipway.train.batches import LoaderSource, TensorSource, moved_ahead, to_channels_first

CPU = torch.device("cpu")


@pytest.mark.parametrize("channels", [1, 3])
def test_channels_last_strides_and_values(channels: int) -> None:
    x = torch.rand(5, channels, 6, 4)
    last = to_channels_last(x)
    assert last.stride() == (6 * 4 * channels, 1, 4 * channels, channels)
    assert torch.equal(last, x)
    first = to_channels_first(last)
    assert first.stride() == x.stride()
    assert torch.equal(first, x)


def test_channels_last_leaves_the_rest_alone() -> None:
    for x in (torch.rand(5, 4), torch.rand(2, 3, 4), torch.rand(0, 1, 4, 4)):
        assert to_channels_last(x) is x


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("shuffled", [False, True])
def test_every_batch_of_images_has_its_channels_last(channels: int, shuffled: bool) -> None:
    x = torch.rand(7, channels, 6, 4)
    source = TensorSource(x, torch.arange(7), 3)
    if shuffled:
        source.shuffle(0)
    source.to(CPU, pixels=True)
    wanted = (6 * 4 * channels, 1, 4 * channels, channels)
    for bx, by in source:
        assert bx.stride() == wanted
        assert torch.equal(bx, x[by])
    assert source.sample()[0].stride() == wanted


def test_a_one_channel_convolution_keeps_the_order() -> None:
    # the trap: torch takes one channel for both orders and then stays with the slow one
    y = nn.Conv2d(1, 4, 3)(to_channels_last(torch.rand(2, 1, 8, 8)))
    assert y.is_contiguous(memory_format=torch.channels_last)


@settings(max_examples=60)
@given(st.integers(1, 50), st.integers(1, 60), st.booleans(), st.booleans())
def test_batches_cover_all_rows_once_and_none_is_a_lone_row(
    rows: int, batch: int, shuffled: bool, loader: bool
) -> None:
    x, y = torch.arange(rows).float().unsqueeze(1), torch.arange(rows)
    if loader:
        source: TensorSource | LoaderSource = LoaderSource(
            DataLoader(TensorDataset(x, y), batch_size=batch, shuffle=shuffled), "train"
        )
    else:
        source = TensorSource(x, y, batch)
        if shuffled:
            source.shuffle(3)
    batches = list(source)
    assert all(torch.equal(bx.squeeze(1).long(), by) for bx, by in batches)
    seen = torch.cat([by for _, by in batches])
    assert torch.equal(seen.sort().values, y)
    assert shuffled or torch.equal(seen, y)
    sizes = [len(by) for _, by in batches]
    assert all(size in (batch, batch + 1) for size in sizes[:-1])
    if batch > 1 and rows > 1:
        assert min(sizes) > 1
    if not loader:
        assert len(source) == len(batches)


def test_each_epoch_has_its_own_order_and_the_seed_repeats_it() -> None:
    def orders(seed: int) -> list[list[int]]:
        source = TensorSource(torch.arange(30.0), torch.arange(30), 7)
        source.shuffle(seed)
        return [torch.cat([y for _, y in source]).tolist() for _ in range(3)]

    first = orders(5)
    assert first == orders(5)
    assert first != orders(6)
    assert len({tuple(order) for order in first}) == 3


def test_the_order_takes_nothing_from_the_global_generator() -> None:
    before = torch.get_rng_state()
    source = TensorSource(torch.arange(30.0), torch.arange(30), 7)
    source.shuffle(1)
    list(source)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([(torch.zeros(2), "a")], "pair.*tensors"),
        ([(torch.zeros(2), torch.tensor(1), torch.tensor(1))], "pair.*tensors"),
        ([], "empty"),
    ],
)
def test_a_loader_of_other_things_is_refused(rows: list[object], said: str) -> None:
    with pytest.raises(DataError, match=said):
        list(LoaderSource(DataLoader(rows, batch_size=1), "train"))  # type: ignore[arg-type]


class Noted:
    """A tensor on a machine without a GPU, and the streams around it: they write down what is asked of them."""

    def __init__(self, name: str, log: list[str], device: str = "cpu") -> None:
        self.name, self.log, self.device = name, log, torch.device(device)

    def is_pinned(self) -> bool:
        return self.name.startswith("pinned")

    def pin_memory(self) -> "Noted":
        return Noted(f"pinned {self.name}", self.log)

    def to(self, device: torch.device, non_blocking: bool) -> "Noted":
        assert non_blocking
        self.log.append(f"copy {self.name}")
        return Noted(self.name, self.log, "cuda")

    def record_stream(self, stream: object) -> None:
        self.log.append(f"keep {self.name}")


def test_a_copy_is_begun_before_the_batch_before_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[str] = []
    events = iter(range(9))
    side = SimpleNamespace(record_event=lambda: f"event {next(events)}")
    main = SimpleNamespace(wait_event=lambda event: log.append(f"wait {event}"))
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: side)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: main)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    pairs = [(Noted("x0", log), Noted("y0", log)), (Noted("pinned x1", log), Noted("y1", log))]
    pairs.append((Noted("x2", log, "cuda"), Noted("y2", log, "cuda")))
    for x, _ in moved_ahead(iter(pairs), torch.device("cuda")):  # type: ignore[arg-type]
        log.append(f"use {x.name}")  # type: ignore[attr-defined]
        assert x.device.type == "cuda"
    assert log == [
        *("copy pinned x0", "copy pinned y0", "copy pinned x1", "copy pinned y1"),
        *("wait event 0", "keep pinned x0", "keep pinned y0", "use pinned x0"),
        *("wait event 1", "keep pinned x1", "keep pinned y1", "use pinned x1"),
        "use x2",
    ]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("loader", [False, True])
def test_batches_reach_a_gpu_whole(loader: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("skipway.train.batches._WHOLE_BYTES", 0)
    x, y = torch.rand(1000, 1, 32, 32), torch.arange(1000)
    pairs = DataLoader(TensorDataset(x, y), batch_size=64, shuffle=True)
    source: TensorSource | LoaderSource = LoaderSource(pairs, "train") if loader else TensorSource(x, y, 64)
    if isinstance(source, TensorSource):
        source.shuffle(0)
    source.to(torch.device("cuda"), pixels=True)
    seen = []
    for bx, by in source:
        assert bx.stride() == (1024, 1, 32, 1)
        torch.mm(torch.rand(2000, 2000, device="cuda"), torch.rand(2000, 2000, device="cuda"))
        seen.append(by)
        assert torch.equal(bx.cpu(), x[by.cpu()])
    assert torch.equal(torch.cat(seen).sort().values.cpu(), y)


def test_a_loader_that_drops_everything_says_so() -> None:
    data = TensorDataset(torch.zeros(3, 1), torch.zeros(3))
    with pytest.raises(DataError, match="drop_last"):
        list(LoaderSource(DataLoader(data, batch_size=4, drop_last=True), "train"))
