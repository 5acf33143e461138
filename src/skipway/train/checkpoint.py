"""Weights and checkpoints on disk: safetensors and JSON, never pickled code; written whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import zlib
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from skipway.errors import CheckpointError
from skipway.train.losses import unwrap

Tensors = dict[str, Tensor]
FORMAT = "skipway-1"
Net = TypeVar("Net", bound=nn.Module)


def write_whole(path: Path, data: bytes) -> None:
    """Put ``data`` at ``path`` so that, whenever the machine stops, the old or the new file is there, never a part.

    Raises ``CheckpointError`` when the disk refuses; what was at ``path`` is then still there.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        with open(part, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
        _sync_folder(path.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise CheckpointError(
                f"cannot write {path} ({len(data):,} bytes): {error.strerror or error}; "
                f"what was there before is untouched"
            ) from error
        raise


def _sync_folder(folder: Path) -> None:
    # the new name of a file is only safe once its folder is; some systems cannot open folders
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _checksum(tensors: Tensors, state: str) -> str:
    crc = zlib.crc32(state.encode())
    for name in sorted(tensors):
        crc = zlib.crc32(name.encode(), crc)
        flat = tensors[name].detach().reshape(-1)
        if flat.numel():
            crc = zlib.crc32(flat.view(torch.uint8).numpy().data, crc)
    return f"{crc:08x}"


def write_tensors(path: Path, tensors: Tensors, state: dict[str, Any]) -> None:
    """One safetensors file of ``tensors``, with ``state`` as JSON in its header."""
    from safetensors.torch import save as to_bytes

    packed = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    text = json.dumps(state)
    header = {"format": FORMAT, "state": text, "crc32": _checksum(packed, text)}
    write_whole(path, to_bytes(packed, header))


def read_tensors(path: Path) -> tuple[Tensors, dict[str, Any]]:
    """What :func:`write_tensors` wrote, on the CPU.

    Raises ``CheckpointError`` when the file is missing, cut off, changed, or something else.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise CheckpointError(f"there is no file {path}")
    try:
        with safe_open(str(path), framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path} is corrupt or cut off: {error}") from error
    if "crc32" not in header:  # plain safetensors, written by others
        return tensors, {}
    if header.get("format") != FORMAT:
        raise CheckpointError(f"{path} has the format {header.get('format')!r}, and this skipway reads {FORMAT!r}")
    if _checksum(tensors, header["state"]) != header["crc32"]:
        raise CheckpointError(f"{path} is corrupt: its contents do not match their checksum")
    return tensors, json.loads(header["state"])


def pack_net(net: nn.Module) -> tuple[Tensors, dict[str, Any]]:
    """The state of a net as tensors, each shared one once, and the rest as plain data.

    Raises ``CheckpointError`` for extra state of a module that is not plain data.

    >>> a = nn.Linear(2, 2)
    >>> tensors, rest = pack_net(nn.Sequential(a, a))
    >>> sorted(tensors), rest["same"]
    (['0.bias', '0.weight'], {'1.weight': '0.weight', '1.bias': '0.bias'})
    """
    tensors: Tensors = {}
    same: dict[str, str] = {}
    extra: dict[str, Any] = {}
    seen: dict[Any, str] = {}
    for name, value in unwrap(net).state_dict().items():
        if not isinstance(value, Tensor):
            try:
                json.dumps(value)
            except (TypeError, ValueError) as error:
                raise CheckpointError(
                    f"the state {name!r} of the net is a {type(value).__name__}, which cannot be stored without "
                    f"pickling: get_extra_state must give tensors, or what JSON can say"
                ) from error
            extra[name] = value
            continue
        value = value.detach()
        place = (value.untyped_storage().data_ptr(), value.storage_offset(), value.shape, value.stride(), value.dtype)
        if value.numel() and place in seen:
            same[name] = seen[place]
            continue
        seen[place] = name
        # a copy: views of one buffer share storage too, and safetensors refuses that
        tensors[name] = value.cpu().clone(memory_format=torch.contiguous_format)
    return tensors, {"same": same, "extra": extra}


def _show(names: list[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def load_net(net: nn.Module, tensors: Tensors, rest: dict[str, Any], where: str) -> None:
    """Give ``net`` the state that :func:`pack_net` gave, all of it or nothing.

    Raises ``CheckpointError`` that lists the missing, unexpected and mis-shaped names.
    """
    net = unwrap(net)
    stored: dict[str, Any] = {**tensors, **rest.get("extra", {})}
    stored |= {name: tensors[first] for name, first in rest.get("same", {}).items() if first in tensors}
    own = net.state_dict()
    missing = [name for name in own if name not in stored]
    unexpected = [name for name in stored if name not in own]
    shapes = [
        f"{name} is {tuple(stored[name].shape)} in the file and {tuple(value.shape)} in the net"
        for name, value in own.items()
        if isinstance(value, Tensor) and isinstance(stored.get(name), Tensor) and stored[name].shape != value.shape
    ]
    lists = (("missing", missing), ("unexpected", unexpected), ("mis-shaped", shapes))
    told = [f"{what}: {_show(names)}" for what, names in lists if names]
    if told:
        raise CheckpointError(f"{where} does not fit this net, nothing was loaded; " + "; ".join(told))
    net.load_state_dict(stored)


def pack_optimizer(optimizer: Optimizer) -> tuple[Tensors, dict[str, Any]]:
    """The state of an optimizer as tensors ``"<parameter>/<name>"``, and the rest as plain data.

    Raises ``CheckpointError`` for state that is neither.

    >>> weight = nn.Parameter(torch.ones(2))
    >>> sgd = torch.optim.SGD([weight], lr=0.1, momentum=0.9)
    >>> weight.sum().backward(); sgd.step()
    >>> list(pack_optimizer(sgd)[0])
    ['0/momentum_buffer']
    """
    packed = optimizer.state_dict()
    tensors: Tensors = {}
    plain: dict[str, dict[str, Any]] = {}
    for index, state in packed["state"].items():
        plain[str(index)] = {}
        for name, value in state.items():
            if isinstance(value, Tensor):
                tensors[f"{index}/{name}"] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
            else:
                plain[str(index)][name] = value
    groups = []
    for number, group in enumerate(packed["param_groups"]):
        kept = dict(group)
        for name, value in group.items():
            if isinstance(value, Tensor):
                tensors[f"group{number}/{name}"] = kept.pop(name).detach().cpu().clone()
        groups.append(kept)
    rest = {"state": plain, "groups": groups}
    try:
        json.dumps(rest)
    except (TypeError, ValueError) as error:
        raise CheckpointError(
            f"the state of {type(optimizer).__name__} holds things that cannot be stored without pickling: {error}"
        ) from error
    return tensors, rest


def load_optimizer(optimizer: Optimizer, tensors: Tensors, rest: dict[str, Any], where: str) -> None:
    """Give ``optimizer`` the state that :func:`pack_optimizer` gave.

    Raises ``CheckpointError`` when it is of another make or over other parameters.
    """
    own = optimizer.state_dict()["param_groups"]
    theirs = rest["groups"]
    if [len(g["params"]) for g in own] != [len(g["params"]) for g in theirs]:
        raise CheckpointError(f"{where}: its optimizer has parameter groups of other sizes than this one")
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, Any]] = {int(index): dict(values) for index, values in rest["state"].items()}
    for key, value in tensors.items():
        index, _, name = key.partition("/")
        if index.startswith("group"):
            continue
        parameter = parameters[int(index)]
        if value.shape == parameter.shape:
            # fused kernels walk through memory: the state must lie as its parameter does
            value = torch.empty_like(parameter, dtype=value.dtype, requires_grad=False).copy_(value)
        state.setdefault(int(index), {})[name] = value
    groups = []
    for number, (mine, group) in enumerate(zip(own, theirs, strict=True)):
        merged = {**mine, **group, "params": mine["params"]}
        for name, value in mine.items():
            if isinstance(value, tuple):  # JSON knows lists only
                merged[name] = tuple(merged[name])
            elif isinstance(value, Tensor) and f"group{number}/{name}" in tensors:
                merged[name] = tensors[f"group{number}/{name}"].to(value.device)
        groups.append(merged)
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def save(net: nn.Module, path: str | Path) -> None:
    """Write the weights and buffers of ``net`` to one safetensors file, whole or not at all.

    Parameters
    ----------
    net:
        any module. Tied weights are written once.
    path:
        the file; its folder is made where it is missing.

    Raises
    ------
    CheckpointError
        when the disk refuses (what was at ``path`` is then untouched), or the net holds state that only pickling could
        store.

    >>> import tempfile
    >>> net = nn.Linear(2, 1)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(net, f"{folder}/net.safetensors")
    ...     load(nn.Linear(2, 1), f"{folder}/net.safetensors").weight.equal(net.weight)
    True
    """
    path = Path(path)
    tensors, rest = pack_net(net)
    make_folder(path.parent)
    if path.is_dir():
        raise CheckpointError(f"cannot write {path}: it is a folder; give the name of a file")
    write_tensors(path, tensors, rest)


def load(net: Net, path: str | Path) -> Net:
    """Give ``net`` the weights and buffers of a file, all of them or none.

    Parameters
    ----------
    net:
        a module with the names and shapes of the one that was saved; it stays on its device and keeps its types.
    path:
        a file of :func:`save`, a checkpoint, a run folder (its newest good checkpoint), or plain safetensors.

    Returns
    -------
    ``net`` itself.

    Raises
    ------
    CheckpointError
        when the file is missing or corrupt, or does not fit: it lists the missing, unexpected and mis-shaped names.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(nn.Linear(2, 1), f"{folder}/net.safetensors")
    ...     load(nn.Linear(3, 1), f"{folder}/net.safetensors")
    Traceback (most recent call last):
    skipway.errors.CheckpointError: ...mis-shaped: weight is (1, 2) in the file and (1, 3) in the net
    """
    path = Path(path)
    if path.is_dir():
        from skipway.train.run import newest_checkpoint

        found = newest_checkpoint(path)
        if found is None:
            raise CheckpointError(f"the folder {path} holds no checkpoint")
        path, tensors, state = found
    else:
        tensors, state = read_tensors(path)
    if "net" in state:
        tensors, state = part(tensors, "net"), state["net"]
    load_net(net, tensors, state, str(path))
    return net


def part(tensors: Tensors, prefix: str) -> Tensors:
    """The tensors whose names start with ``prefix/``, without it.

    >>> part({"net/a": torch.ones(1), "random/cpu": torch.ones(1)}, "net")
    {'a': tensor([1.])}
    """
    start = prefix + "/"
    return {name[len(start) :]: t for name, t in tensors.items() if name.startswith(start)}


def make_folder(folder: Path) -> None:
    """Make ``folder`` and those above it. Raises ``CheckpointError`` when the disk refuses."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(f"cannot make the folder {folder}: {error.strerror or error}") from error
