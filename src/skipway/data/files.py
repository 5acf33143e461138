"""Files on the disk: finding them in torchvision's layout, reading them, and naming the one that is damaged."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from skipway.data.download import fetch, replacing
from skipway.data.sources import File, Source
from skipway.errors import DataError

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""Training images (uint8, (N, C, H, W)) and labels (uint8, (N,)), then those of the test."""

_AGAIN = "delete it and it is downloaded again, or put a good copy in its place"


def idx_arrays(source: Source, root: Path, download: bool, mirrors: Sequence[str]) -> Arrays:
    """The arrays of MNIST or one of its likes, from ``root / source.folder``; what is missing is downloaded.

    Raises DataError where a file is missing and cannot be had, is damaged, or cannot be read.
    """
    folder = root / source.folder
    missing = [file for file in source.files if _find(folder, file) is None]
    if missing:
        otherwise = _offline([file.name for file in missing], folder)
        if not download:
            raise DataError(f"{source.name} is not all there. {otherwise}")
        for file in missing:
            fetch(folder / file.name, file.md5, mirrors, otherwise)
    train_x, train_y, test_x, test_y = (read_idx(folder, file) for file in source.files)
    return train_x[:, None], train_y, test_x[:, None], test_y


def read_idx(folder: Path, file: File) -> np.ndarray:
    """The array of uint8 in the IDX file of this name in ``folder``, packed or unpacked, in the shape its header says.

    Raises DataError where it is not there, cannot be read, or does not hold what the dataset's file holds.
    """
    path = _find(folder, file)
    if path is None:
        raise DataError(f"there is no {file.name} in {folder}, packed or unpacked")
    blob = _bytes(path)
    if path.suffix == ".gz":
        import gzip
        import zlib

        try:
            blob = gzip.decompress(blob)
        except (OSError, EOFError, zlib.error) as e:
            raise DataError(f"{path} is truncated or damaged ({e}): {_AGAIN}") from e
    # IDX: two zeros, 8 for unsigned bytes, the number of axes, then each axis as four bytes, most significant first.
    axes = blob[3] if len(blob) > 3 and blob[:3] == b"\0\0\x08" else 0
    start = 4 + 4 * axes
    shape = tuple(int(n) for n in np.frombuffer(blob[4:start], dtype=">u4")) if axes and len(blob) >= start else ()
    if not shape:
        raise DataError(f"{path} is not an IDX file of bytes, as the dataset's is: {_AGAIN}")
    if len(blob) < start + math.prod(shape):
        raise DataError(
            f"{path} is truncated: its header says {start + math.prod(shape):,} bytes and there are {len(blob):,}; "
            f"{_AGAIN}"
        )
    _check(blob, file, str(path))
    return np.frombuffer(blob, dtype=np.uint8, offset=start).reshape(shape)


def cifar_arrays(source: Source, root: Path, download: bool, mirrors: Sequence[str]) -> Arrays:
    """The arrays of CIFAR-10, from its unpacked folder under ``root``, or its archive there, or the mirrors.

    Raises DataError where neither is there and it cannot be had, or one is damaged or cannot be read.
    """
    assert source.archive is not None
    folder, (name, md5) = root / source.folder, source.archive
    archive = root / name
    if all(_exists(folder / file.name) for file in source.files):
        blobs = {file.name: _bytes(folder / file.name) for file in source.files}
        for file in source.files:
            _check(blobs[file.name], file, str(folder / file.name))
    else:
        fresh = not _exists(archive)
        if fresh:
            otherwise = _offline([name], root)
            if not download:
                raise DataError(f"{source.name} is not there. {otherwise}")
            fetch(archive, md5, mirrors, otherwise)
        blobs = _untar(archive, source)
        for file in source.files:
            _check(blobs[file.name], file, f"{file.name} in {archive}")
        if fresh:
            # An archive that somebody put here is read where it lies: the folder may be one that nobody can write to.
            for member, blob in blobs.items():
                with replacing(folder / member) as f:
                    f.write(blob)
    train = [_unpickle(blob) for name, blob in blobs.items() if name.startswith("data_batch")]
    test = _unpickle(blobs["test_batch"])
    return (
        np.concatenate([batch["data"] for batch in train]).reshape(-1, 3, 32, 32),
        np.concatenate([np.array(batch["labels"], dtype=np.uint8) for batch in train]),
        test["data"].reshape(-1, 3, 32, 32),
        np.array(test["labels"], dtype=np.uint8),
    )


def _untar(archive: Path, source: Source) -> dict[str, bytes]:
    """What the source's files in the archive hold, by their names."""
    import tarfile
    import zlib

    blobs = {}
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for file in source.files:
                member = tar.extractfile(f"{source.folder}/{file.name}")
                blobs[file.name] = member.read() if member else b""
    except PermissionError as e:
        raise DataError(f"{archive} cannot be read: {e.strerror}") from e
    except (tarfile.TarError, zlib.error, EOFError, OSError, KeyError) as e:
        raise DataError(f"{archive} is truncated or damaged ({e}): {_AGAIN}") from e
    return blobs


def _unpickle(blob: bytes) -> dict[str, Any]:
    """A CIFAR batch: a pickle by Python 2, of which only arrays, lists and words are let in."""
    import io
    import pickle

    # numpy 2 moved the function, and 2.4.0 to 2.4.4 warn of the 0 and 1 that old pickles pass to dtype.
    known: dict[tuple[str, str], Any] = {
        ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): lambda spec, align=False, copy=False: np.dtype(spec, bool(align), bool(copy)),
    }

    class Reader(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            if (module, name) not in known:
                raise DataError(f"a CIFAR-10 batch asks for {module}.{name}, which is not data")
            return known[module, name]

    return Reader(io.BytesIO(blob), encoding="latin1").load()


def _find(folder: Path, file: File) -> Path | None:
    """The file, unpacked (read faster) or as it was served; None where neither is there."""
    for name in (file.name.removesuffix(".gz"), file.name):
        if _exists(folder / name):
            return folder / name
    return None


def _exists(path: Path) -> bool:
    # Not Path.exists, which says "no" also where it is not allowed to look.
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as e:
        raise DataError(f"{path} cannot be read: {e.strerror or e}") from e
    return True


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as e:
        raise DataError(f"{path} cannot be read: {e.strerror or e}") from e


def _check(blob: bytes, file: File, where: str) -> None:
    """Raise DataError where ``blob`` is not what this file of the dataset holds."""
    md5 = hashlib.md5(blob, usedforsecurity=False).hexdigest()
    if md5 != file.content:
        raise DataError(f"{where} is damaged: the md5 of what it holds is {md5}, not {file.content}; {_AGAIN}")


def _offline(names: Sequence[str], folder: Path) -> str:
    """What to do without a mirror, in one sentence."""
    listed = names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
    return f"Without a network, put {listed} into {folder}, or set SKIPWAY_DATA to the root of a torchvision download."
