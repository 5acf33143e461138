"""A run folder: the options, the numbers, the drawing, the curve and the checkpoints of one training run."""

from __future__ import annotations

import io
import json
import math
import re
import warnings
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from skipway.errors import CheckpointError
from skipway.train.checkpoint import Tensors, make_folder, read_tensors, write_tensors, write_whole
from skipway.train.history import History, Row
from skipway.train.losses import is_chain, unwrap

Found = tuple[Path, Tensors, dict[str, Any]]
_NAME = re.compile(r"checkpoint-(\d+)\.safetensors")
_KEPT = 2


def describe_net(net: nn.Module) -> dict[str, str]:
    """Names, shapes and types of everything in the state of a net.

    >>> describe_net(nn.Linear(2, 1))["weight"]
    'float32 (1, 2)'
    """
    state = unwrap(net).state_dict()
    return {
        name: f"{str(t.dtype).removeprefix('torch.')} {tuple(t.shape)}" if isinstance(t, Tensor) else "plain data"
        for name, t in state.items()
    }


def describe_optimizer(optimizer: Optimizer) -> dict[str, Any]:
    """The make and the options of an optimizer, without those that only say how fast it runs.

    >>> from torch.optim import SGD
    >>> describe_optimizer(SGD([nn.Parameter()], lr=0.5))["lr"]
    0.5
    """
    how = {"fused", "foreach", "capturable", "differentiable"}
    plain = (bool, int, float, str, tuple, type(None))
    options = {k: v for k, v in optimizer.defaults.items() if k not in how and isinstance(v, plain)}
    return {"kind": type(optimizer).__name__, **options}


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoint files of a run folder, newest first."""
    found = [(int(match[1]), path) for path in folder.iterdir() if (match := _NAME.fullmatch(path.name))]
    return [path for _, path in sorted(found, reverse=True)]


def newest_checkpoint(folder: Path) -> Found | None:
    """The newest checkpoint that can be read, with a warning for each newer one that cannot; None where none was made.

    Raises ``CheckpointError`` when there are some and none is good.
    """
    broken: list[str] = []
    for path in checkpoints(folder):
        try:
            tensors, state = read_tensors(path)
        except CheckpointError as error:
            broken.append(str(error))
            continue
        if broken:
            warnings.warn(f"{'; '.join(broken)}; falling back to {path}", stacklevel=2)
        return path, tensors, state
    if broken:
        raise CheckpointError(f"no checkpoint in {folder} can be read: {'; '.join(broken)}")
    return None


class RunFolder:
    """The folder of one run. Nothing is written before :meth:`begin` has found the folder fit."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def begin(self, config: dict[str, Any], net: nn.Module, resume: bool) -> Found | None:
        """Make the folder or go on in it; the checkpoint to go on from, or None.

        Raises ``CheckpointError`` when it is in use and ``resume`` is not set, is no run folder, or is that of another
        net or of other options.
        """
        folder = self.path
        if folder.exists() and not folder.is_dir():
            raise CheckpointError(f"run={str(folder)!r} is a file, not a folder: give another name")
        drawings = {"chain.txt": str(net), **({"chain.py": repr(net)} if is_chain(net) else {})}
        make_folder(folder)
        # a part of a file is what a killed write leaves behind
        there = [path.name for path in folder.iterdir() if not path.name.endswith(".part")]
        if there and not resume:
            raise CheckpointError(
                f"the run folder {folder} is in use: say resume=True to go on with it, or give another folder"
            )
        found = None
        if there:
            self._check(config)
            found = newest_checkpoint(folder)
            if found and found[2]["epoch"] > config["epochs"]:
                raise CheckpointError(
                    f"{found[0]} has {found[2]['epoch']} epochs behind it: epochs={config['epochs']} lies before that"
                )
        if found and found[0] == checkpoints(folder)[0]:
            self._prune()
        for path in folder.glob(".*.part"):
            path.unlink(missing_ok=True)
        write_whole(folder / "config.json", (json.dumps(config, indent=1) + "\n").encode())
        for name, text in drawings.items():
            write_whole(folder / name, f"{text}\n".encode())
        # rows of epochs that the checkpoint does not know will be trained again
        rows = found[2]["history"] if found else []
        write_whole(folder / "metrics.jsonl", "".join(_line(row) for row in rows).encode())
        return found

    def _check(self, config: dict[str, Any]) -> None:
        path = self.path / "config.json"
        try:
            old = json.loads(path.read_text())
            old_net, old_options = old["net"], old["options"]
        except FileNotFoundError as error:
            raise CheckpointError(
                f"{self.path} is not the folder of a run (it has no config.json): give an empty or a new one"
            ) from error
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"cannot read {path}: {error}") from error
        new = json.loads(json.dumps(config))
        changes = [
            f"{name} was {old_net.get(name, 'not there')} and is {new['net'].get(name, 'not there')}"
            for name in dict.fromkeys([*old_net, *new["net"]])
            if old_net.get(name) != new["net"].get(name)
        ]
        if changes:
            more = f" and {len(changes) - 4} more" if len(changes) > 4 else ""
            raise CheckpointError(
                f"{self.path} is the run of another network: {'; '.join(changes[:4])}{more}; give another folder"
            )
        changes = [
            f"{name} was {old_options.get(name)!r} and is {new['options'].get(name)!r}"
            for name in dict.fromkeys([*old_options, *new["options"]])
            if old_options.get(name) != new["options"].get(name)
        ]
        if changes:
            raise CheckpointError(
                f"{self.path} is a run with other options: {'; '.join(changes)}; "
                f"set them back (only epochs may grow), or give another folder"
            )

    def checkpoint(self, epoch: int, tensors: Tensors, state: dict[str, Any]) -> None:
        """Write the checkpoint of an epoch; then drop all but the last two."""
        write_tensors(self.path / f"checkpoint-{epoch:04d}.safetensors", tensors, state)
        self._prune()

    def _prune(self) -> None:
        for old in checkpoints(self.path)[_KEPT:]:
            old.unlink(missing_ok=True)

    def add(self, row: Row) -> None:
        """Append one row to the metrics. Raises ``CheckpointError`` when the disk refuses."""
        path = self.path / "metrics.jsonl"
        try:
            with open(path, "a", encoding="utf-8") as file:
                file.write(_line(row))
        except OSError as error:
            raise CheckpointError(f"cannot write {path}: {error.strerror or error}") from error

    def draw(self, history: History) -> None:
        """Write the curve, where there is something to show."""
        if not len(history):
            return
        picture = io.BytesIO()
        history.plot().savefig(picture, format="png", dpi=150)
        write_whole(self.path / "curve.png", picture.getvalue())


def _line(row: Row) -> str:
    # JSON has no word for NaN and infinity
    plain = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
    return json.dumps(plain) + "\n"
