"""Studies that were interrupted go on from a folder, and end with the numbers of one that was not."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from skipway import Chain, CheckpointError, Dense, every, relu
from skipway.study import jacobian, landscape, lesion, paths, shatter
from skipway.study.kept import Kept


def small(layers: int = 4) -> Chain:
    torch.manual_seed(1)
    return Chain(*[Dense(3, 3, relu) for _ in range(layers)], wiring=every(1))


def blobs(shift: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(12, 3, generator=generator) + shift, torch.arange(12) % 3


STUDIES = ("lesion", "landscape", "paths", "shatter", "jacobian")


def study(name: str, run: Path | None = None, net: Chain | None = None, data: Any = None, **options: Any) -> Any:
    net, data = net or small(), data or blobs()
    options = {"run": run, "progress": False, **options}
    if name == "lesion":
        return lesion(net, data, **{"pairs": 3, **options})
    if name == "landscape":
        return landscape(net, data, **{"points": 5, "seeds": 2, **options})
    if name == "paths":
        return paths(net, data, **{"samples": 3, **options})
    if name == "shatter":
        return shatter(net, **{"points": 16, "lags": 3, "seeds": 4, **options})
    return jacobian(net, data[0].repeat(12, 1), **options)


OTHER = {
    "lesion": ({"how": 2.0}, {"parts": "shortcut"}, {"seed": 3}), "landscape": ({"span": 0.5}, {"points": 7}),
    "paths": ({"samples": 2}, {"unit": "blocks"}), "shatter": ({"points": 20}, {"span": 1.0}),
    "jacobian": ({"at": ["2"]}, {"double": False}),
}  # fmt: skip


def counted(monkeypatch: pytest.MonkeyPatch, stop_after: int = 0) -> list[str]:
    """The names of the pieces that are made from now on; an interrupt comes when so many are kept."""
    made: list[str] = []
    real = Kept.keep

    def keep(self: Kept, name: str, piece: Any) -> None:
        real(self, name, piece)
        made.append(name)
        if len(made) == stop_after:
            raise KeyboardInterrupt

    monkeypatch.setattr(Kept, "keep", keep)
    return made


@pytest.mark.parametrize("name", STUDIES)
def test_an_interrupted_study_goes_on_and_ends_with_the_same_numbers(name, tmp_path, monkeypatch):
    whole = study(name).to_dict()
    with monkeypatch.context() as patch:
        counted(patch, stop_after=2)
        try:
            assert study(name, run=tmp_path).interrupted  # lesion gives what it has
        except KeyboardInterrupt:
            assert name != "lesion"
    known = json.loads((tmp_path / f"{name}.json").read_text())["done"]
    assert len(known) == 2
    made = counted(monkeypatch)
    assert study(name, run=tmp_path).to_dict() == whole
    assert made
    assert not set(made) & set(known)
    made.clear()
    assert study(name, run=tmp_path).to_dict() == whole
    assert not made


@pytest.mark.parametrize("name", STUDIES)
def test_a_folder_of_another_study_is_refused(name, tmp_path):
    study(name, run=tmp_path)
    for other in OTHER[name]:
        with pytest.raises(CheckpointError, match=f"{next(iter(other))} was .* and is .*give another folder"):
            study(name, run=tmp_path, **other)
    with pytest.raises(CheckpointError, match="the net is another one"):
        study(name, run=tmp_path, net=small(5))
    again = small()
    with torch.no_grad():
        again[0].weight[0, 0] += 1
    with pytest.raises(CheckpointError, match="the net is another one"):
        study(name, run=tmp_path, net=again)
    if name != "shatter":
        with pytest.raises(CheckpointError, match=r"was '.*' and is '.*'"):
            study(name, run=tmp_path, data=blobs(1.0))
    (tmp_path / f"{name}.json").write_text('{"options": {')
    with pytest.raises(CheckpointError, match=r"cannot read .*move it away"):
        study(name, run=tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="is a file, not a folder"):
        study(name, run=tmp_path / "file")


def test_more_may_be_asked_of_the_same_folder(tmp_path, monkeypatch):
    study("lesion", run=tmp_path)
    study("landscape", run=tmp_path)
    made = counted(monkeypatch)
    assert study("lesion", run=tmp_path, pairs=5, resamples=50).to_dict() == study("lesion",
        pairs=5, resamples=50
    ).to_dict()  # fmt: skip
    assert len([name for name in made if "shortcut" in name or "branch" in name]) < 5 + 1 + 8 + 5
    made.clear()
    more = study("landscape", run=tmp_path, seeds=3)
    assert made == [f"seed 2, point {i}" for i in range(5)]
    assert more.losses == study("landscape", seeds=3).losses


_KILLED = """
import os, signal, sys
import torch
torch.set_num_threads(1)
sys.path.insert(0, {here!r})
import skipway.study.kept
from test_kept import study
real, count = os.replace, []
def replace(part, path):
    count.append(path)
    if len(count) == 6:  # the new file is written, and not yet in its place
        os.kill(os.getpid(), signal.SIGKILL)
    real(part, path)
os.replace = replace
skipway.study.kept._SHARE = 0  # so that every piece is written at once
study("lesion", run={folder!r})
"""


def test_a_study_that_is_killed_while_it_writes_goes_on(tmp_path, monkeypatch):
    script = _KILLED.format(here=str(Path(__file__).parent), folder=str(tmp_path))
    ended = subprocess.run([sys.executable, "-c", script], timeout=120)
    assert ended.returncode == -9
    known = json.loads((tmp_path / "lesion.json").read_text())["done"]
    assert len(known) == 4
    made = counted(monkeypatch)
    assert study("lesion", run=tmp_path).to_dict() == study("lesion").to_dict()
    assert not set(made[: 12 - 4]) & set(known)


def test_a_file_that_grows_is_written_less_often(tmp_path, monkeypatch):
    import skipway.study.kept as module

    now = [0.0]
    written = []

    def write(path: Path, data: bytes) -> None:
        written.append(now[0])
        now[0] += 1.0  # a write takes a second

    monkeypatch.setattr(module, "write_whole", write)
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    with Kept.begin(tmp_path, "lesion", options={}, data={}, nets={}) as kept:
        for i in range(25):
            kept.keep(str(i), i)
            now[0] += 1.0
    assert written == [0.0, 12.0, 24.0, 28.0]


def test_a_study_says_how_much_is_kept(tmp_path, capsys):
    study("lesion", run=tmp_path)
    study("lesion", run=tmp_path, progress=True)
    assert capsys.readouterr().out == "lesion: 11 cuts, each a pass over 12 rows; 11 are kept\n"
