"""What a study has done so far, in a file of a folder, so that one that was interrupted can go on."""

from __future__ import annotations

import json
import re
import time
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from torch import Tensor, nn

from skipway.errors import CheckpointError
from skipway.study.record import prepare
from skipway.train.batches import TensorSource, source_of
from skipway.train.checkpoint import write_whole
from skipway.train.losses import is_chain
from skipway.train.run import describe_net

# a file that grows is written less often, so that writing takes a tenth of the time at most
_SHARE = 10


class Kept:
    """The pieces of a study that are done, each plain data under a name; without a folder they are forgotten.

    The file is written whole or not at all, at the end of the ``with`` however it ends, and before that whenever a
    piece is kept and the last writing is ten times as long ago as it took.

    >>> with Kept() as kept:
    ...     kept.keep("plain, seed 0", {"loss": 0.5})
    ...     kept.find("plain, seed 0"), kept.find("plain, seed 1")
    ({'loss': 0.5}, None)
    """

    def __init__(self, path: Path | None = None, told: Mapping[str, Any] | None = None) -> None:
        self._path, self._told = path, dict(told or {})
        self._done: dict[str, Any] = {}
        self._new = False
        self._written, self._took = 0.0, 0.0

    @classmethod
    def begin(
        cls, folder: str | Path | None, study: str, *, options: Mapping[str, Any], data: Any, nets: Mapping[str, Any],
        free: Sequence[str] = (),
    ) -> Kept:  # fmt: skip
        """What a folder, made if it is not there, keeps of a study in ``<study>.json``; nothing where it is None.

        ``options``, ``data`` and ``nets`` say what the pieces depend on; nets may be added. ``free`` names, for the
        error, what may be another in the same folder.

        Raises ``CheckpointError`` where it cannot be written, or keeps the study of other options, data or nets.
        """
        if folder is None:
            return cls()
        path = prepare(folder) / f"{study}.json"
        told = json.loads(json.dumps({"options": options, "data": data, "nets": nets}))
        kept = cls(path, told)
        if path.exists():
            try:
                old = json.loads(path.read_text())
                kept._done = dict(old["done"])
                changed = [*_changes(old["options"], told["options"]), *_changes(old["data"], told["data"])]
                again = {name: known for name, known in told["nets"].items() if name in old["nets"]}
                changed += [f"{name} is another one" for name in again if again[name] != old["nets"][name]]
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise CheckpointError(
                    f"cannot read {path} ({type(error).__name__}: {error}): move it away, or give another folder"
                ) from error
            if changed:
                may = f" ({_listed(free)} may change)" if free else ""
                raise CheckpointError(
                    f"{path} keeps another study: {'; '.join(changed)}. Set it back{may}, or give another folder"
                )
            kept._told["nets"] = {**old["nets"], **told["nets"]}
        kept._write()
        return kept

    def __enter__(self) -> Kept:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.flush()

    @staticmethod
    def read(folder: str | Path, study: str) -> dict[str, Any]:
        """The pieces that a folder keeps of a study, whatever they are of; none where there is no such file.

        Raises ``CheckpointError`` for a file that cannot be read.
        """
        path = Path(folder) / f"{study}.json"
        try:
            return dict(json.loads(path.read_text())["done"]) if path.exists() else {}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"cannot read {path} ({type(error).__name__}: {error}): move it away") from error

    def flush(self) -> None:
        """Write what was kept and is not written yet."""
        if self._new:
            self._write()

    def __len__(self) -> int:
        return len(self._done)

    def __contains__(self, name: str) -> bool:
        return name in self._done

    def find(self, name: str) -> Any:
        """The piece of a name; None where it is not done yet."""
        return self._done.get(name)

    def keep(self, name: str, piece: Any) -> None:
        """Keep a piece that is done. Raises ``CheckpointError`` when the disk refuses."""
        self._done[name] = piece
        self._new = True
        if time.monotonic() - self._written > _SHARE * self._took:
            self._write()

    def _write(self) -> None:
        if self._path is not None:
            began = time.monotonic()
            # a loss may be NaN, which Python's JSON can write and read
            write_whole(self._path, (json.dumps({**self._told, "done": self._done}) + "\n").encode())
            self._written = time.monotonic()
            self._took = self._written - began
        self._new = False


def _changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    return [
        f"{name} was {old.get(name)!r} and is {new.get(name)!r}"
        for name in dict.fromkeys([*old, *new])
        if old.get(name) != new.get(name)
    ]


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def net_known(net: nn.Module, given: object) -> dict[str, Any]:
    """What a net is known by: its code, its state, and where it was given as a module, its weights."""
    text = repr(net) if is_chain(net) else str(net)
    # where a function lies in memory says nothing
    told: dict[str, Any] = {"net": re.sub(r" at 0x[0-9a-f]+", "", text), "state": describe_net(net)}
    if isinstance(given, nn.Module):
        told["weights"] = _sum(*given.state_dict().values())
    return told


def data_known(**data: Any) -> dict[str, str]:
    """What data is known by: its shapes and a checksum, or only the number of rows where a loader brings it.

    >>> import torch
    >>> data_known(train=(torch.zeros(3, 2), torch.zeros(3)), test=None)
    {'train': '(3, 2), (3,), 6ab6b2d5', 'test': 'none'}
    """
    found = {}
    for where, held in data.items():
        source = None if held is None else source_of(held, None if hasattr(held, "batch_size") else 1, where)
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
