"""The runs of a comparison in a folder, each written when it ends, so that an interrupted one can go on."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from skipway.errors import CheckpointError
from skipway.study.comparison import Run
from skipway.study.record import prepare
from skipway.train.batches import TensorSource, source_of
from skipway.train.checkpoint import write_whole
from skipway.train.history import History
from skipway.train.losses import is_chain
from skipway.train.run import describe_net

_FILE = "runs.json"


class Kept:
    """The runs that have ended; without a folder they are forgotten.

    >>> Kept().find("plain", 0) is None
    True
    """

    def __init__(self, path: Path | None = None, told: Mapping[str, Any] | None = None) -> None:
        self._path, self._told = path, dict(told or {})
        self._runs: list[Run] = []

    @classmethod
    def begin(cls, folder: str | Path, options: Any, data: Any, nets: Mapping[str, Any]) -> Kept:
        """The runs in a folder, made if it is not there.

        Raises ``CheckpointError`` where it cannot be written, or keeps runs of other options, data or nets.
        """
        path = prepare(folder) / _FILE
        told = json.loads(json.dumps({"options": options, "data": data, "nets": nets}))
        kept = cls(path, told)
        if path.exists():
            try:
                old = json.loads(path.read_text())
                kept._runs = [Run(**{**run, "history": History(run["history"])}) for run in old["runs"]]
                changed = [*_changes(old["options"], told["options"]), *_changes(old["data"], told["data"])]
                again = {name: known for name, known in told["nets"].items() if name in old["nets"]}
                changed += [f"net {name!r} is another one" for name in again if again[name] != old["nets"][name]]
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise CheckpointError(f"cannot read {path}: {error}; move it away, or give another folder") from error
            if changed:
                raise CheckpointError(
                    f"{folder} keeps runs of another comparison: {'; '.join(changed)}. Set it back (nets and seeds may "
                    f"be added), or give another folder"
                )
            kept._told["nets"] = {**old["nets"], **told["nets"]}
        kept._write()
        return kept

    def find(self, name: str, seed: int) -> Run | None:
        """The run of a net under a seed; None where it has not ended yet."""
        return next((run for run in self._runs if (run.name, run.seed) == (name, seed)), None)

    def keep(self, run: Run) -> None:
        """Write a run that has ended. Raises ``CheckpointError`` when the disk refuses."""
        self._runs.append(run)
        self._write()

    def _write(self) -> None:
        if self._path is not None:
            runs = [{**asdict(run), "history": run.history.rows} for run in self._runs]
            # a loss may be NaN, which Python's JSON can write and read
            write_whole(self._path, (json.dumps({**self._told, "runs": runs}, indent=1) + "\n").encode())


def _changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    return [
        f"{name} was {old.get(name)!r} and is {new.get(name)!r}"
        for name in dict.fromkeys([*old, *new])
        # what the seeds are is known of each run
        if old.get(name) != new.get(name) and name not in ("seed", "seeds")
    ]


def net_known(net: nn.Module, given: object) -> dict[str, Any]:
    """What a net is known by: its code, its state, and where it was given as a module, its weights."""
    told: dict[str, Any] = {"net": repr(net) if is_chain(net) else str(net), "state": describe_net(net)}
    if isinstance(given, nn.Module):
        told["weights"] = _sum(*given.state_dict().values())
    return told


def same_data(train: Any, test: Any) -> dict[str, Any]:
    """What data is known by: its shapes and a checksum, or only the number of rows where a loader brings it."""
    found = {}
    for where, data in (("train data", train), ("test data", test)):
        source = None if data is None else source_of(data, None if hasattr(data, "batch_size") else 1, where)
        if isinstance(source, TensorSource):
            found[where] = f"{tuple(source.x.shape)}, {tuple(source.y.shape)}, {_sum(source.x, source.y)}"
        else:
            found[where] = "none" if source is None else f"{source.rows} rows"
    return found


def _sum(*tensors: Any) -> str:
    total = 0
    for tensor in tensors:
        if isinstance(tensor, Tensor):
            held = tensor.detach().cpu().contiguous()
            # bfloat16 is nothing numpy knows
            total = zlib.crc32(held.float().numpy().tobytes() if held.is_floating_point() else held.numpy().tobytes(),
                               total)  # fmt: skip
    return f"{total:08x}"
