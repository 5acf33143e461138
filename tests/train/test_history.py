import io
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import nn

from skipway.train import History
from skipway.train.measure import Sums
from skipway.train.progress import Progress

ROWS: list[dict[str, Any]] = [
    {
        "epoch": i, "train_loss": 1 / i, "train_accuracy": 1 - 0.5 / i, "test_loss": 2 / i,
        "test_accuracy": 1 - 0.6 / i, "seconds": 1.5, "images_per_second": 12345.6,
    }
    for i in (1, 2, 3)
]  # fmt: skip


def test_columns_and_rows_say_the_same() -> None:
    history = History(ROWS)
    columns = history.to_dict()
    assert [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)] == history.rows == ROWS


def test_the_table_has_a_line_an_epoch_and_only_what_was_measured() -> None:
    lines = History(ROWS).table().splitlines()
    assert len(lines) == 4
    assert len({len(line) for line in lines}) == 1
    assert "12,346" in lines[1]
    assert "test" not in History([{**r, "test_loss": None, "test_accuracy": None} for r in ROWS]).table()
    assert str(History(ROWS)) == History(ROWS).table()


def test_the_plot_holds_the_numbers(tmp_path: Path) -> None:
    figure = History(ROWS).plot(tmp_path / "curve.svg")
    assert (tmp_path / "curve.svg").read_text().startswith("<?xml")
    drawn = {(a.get_ylabel(), line.get_label()): list(line.get_ydata()) for a in figure.axes for line in a.lines}
    assert drawn == {
        (measure, part): [row[f"{part}_{measure}"] for row in ROWS]
        for measure, part in itertools.product(("loss", "accuracy"), ("train", "test"))
    }


def test_plotting_touches_no_global_state() -> None:
    import matplotlib

    before = matplotlib.rcParams["backend"], dict(matplotlib.rcParams)
    History(ROWS).plot()
    assert dict(matplotlib.rcParams) == before[1]
    History([]).plot()


def test_lines_where_there_is_no_terminal(
    net: nn.Module, blobs: Any, quick: Callable[..., History], capsys: pytest.CaptureFixture[str]
) -> None:
    history = quick(net, blobs, blobs, progress=True)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    for row, line in zip(history, lines, strict=True):
        assert line.startswith(f"epoch {row['epoch']}/2  loss {row['train_loss']:.4f}")
        assert f"test accuracy {row['test_accuracy']:.4f}" in line
        assert "images/s" in line
    assert "left" in lines[0]
    assert "left" not in lines[1]


def test_silence(net: nn.Module, blobs: Any, quick: Callable[..., History], capsys: pytest.CaptureFixture[str]) -> None:
    quick(net, blobs, progress=False)
    assert capsys.readouterr() == ("", "")


def test_a_bar_on_a_terminal() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=120)
    sums = Sums(torch.device("cpu"))
    sums.add(torch.tensor(0.25), (torch.tensor(8), 10), 10)
    with Progress(2, 0, 4, console=console) as bar:
        bar.step(1, 1, sums, 0.0)
        bar.epoch({**ROWS[0]})
    text = out.getvalue()
    assert "loss 0.2500" in text
    assert "accuracy 0.8000" in text
    assert "left" in text
    assert "epoch 1/2  loss 1.0000" in text


def test_inside_a_live_display_of_the_caller_lines_do() -> None:
    from rich.live import Live

    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=120)
    with Live(console=console), Progress(2, 0, 4, console=console) as bar:
        bar.step(1, 1, Sums(torch.device("cpu")), 0.0)
        bar.epoch({**ROWS[0]})
    assert "epoch 1/2" in out.getvalue()
