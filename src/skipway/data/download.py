"""Files from the net: mirror after mirror, checked, and whole or not there at all."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from skipway.errors import DataError

TIMEOUT = 30.0  # seconds without a byte before a mirror is given up
# A server that drips never runs into the timeout: it is given up as well when, GRACE seconds or more after the start,
# it has sent less than SLOWEST bytes a second.
GRACE = 60.0
SLOWEST = 1024
LARGEST = 1 << 30  # bytes; far above every file there is, so that a mirror that never ends cannot fill the disk
_BLOCK = 1 << 16


class _MirrorFailed(Exception):
    """One mirror's failure: its reason, in words."""


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A new file that takes the place of ``path`` when the block ends well, and is gone when it does not.

    The folder is made where it is missing. Readers see the old file or the whole new one, never a part.

    Raises DataError where the folder or the file cannot be written, or the disk is full.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "new", "word.txt")
    ...     with replacing(path) as f:
    ...         _ = f.write(b"whole")
    ...         there_too_soon = path.exists()
    ...     path.read_text(), there_too_soon, [p.name for p in path.parent.iterdir()]
    ('whole', False, ['word.txt'])
    """
    # Not tempfile: its files are for the owner only, and a cache may be shared. One name a writer, so that several
    # processes which start together cannot write into each other's file.
    part = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(part, "xb") as f:
            yield f
            f.flush()
            os.fsync(f.fileno())
        os.replace(part, path)
    except OSError as e:
        raise DataError(
            f"cannot write {path}: {e.strerror or e}; free some space there, or choose another folder "
            "(root=, or the environment variable SKIPWAY_DATA)"
        ) from e
    finally:
        with contextlib.suppress(OSError):
            part.unlink()


def fetch(path: Path, md5: str, mirrors: Sequence[str], otherwise: str) -> None:
    """Download the file ``path.name`` to ``path`` from the first of ``mirrors`` that serves it with this ``md5``.

    A mirror is the address before the file's name. Progress is shown where stderr is a terminal. What is at ``path``
    stays as it is until the new file is whole and checked.

    Raises DataError where no mirror serves the file (each is named with its reason, then comes ``otherwise``: what to
    do without them), and where ``path`` cannot be written.
    """
    failures = []
    for mirror in mirrors:
        url = f"{mirror.rstrip('/')}/{path.name}"
        try:
            with replacing(path) as f:
                _copy(url, f, md5)
            return
        except _MirrorFailed as e:
            failures.append(f"  {url}: {e}")
    tried = "from any mirror:" if failures else "because no mirror is given."
    raise DataError("\n".join([f"{path.name} could not be downloaded {tried}", *failures, otherwise]))


def _copy(url: str, to: BinaryIO, md5: str) -> None:
    """Write what ``url`` serves. Whatever goes wrong on the net is a _MirrorFailed: an OSError is the disk's."""
    from http.client import HTTPException
    from urllib.request import Request, urlopen

    digest, received, began = hashlib.md5(usedforsecurity=False), 0, time.monotonic()
    try:
        # Some servers refuse urllib's own name.
        reply = urlopen(Request(url, headers={"User-Agent": "skipway"}), timeout=TIMEOUT)
    except (OSError, HTTPException, ValueError) as e:
        raise _MirrorFailed(_reason(e)) from e
    with reply:
        length = reply.headers.get("Content-Length", "")
        total = int(length) if length.isdecimal() else None
        with _progress(url.rpartition("/")[2], total) as advance:
            while True:
                try:
                    block = reply.read1(_BLOCK)  # what has arrived: read() would wait for a full block of a slow server
                except (OSError, HTTPException, ValueError) as e:
                    raise _MirrorFailed(f"{_reason(e)}, after {received:,} bytes") from e
                if not block:
                    break
                to.write(block)
                digest.update(block)
                received += len(block)
                advance(len(block))
                seconds = time.monotonic() - began
                if seconds > GRACE and received < SLOWEST * seconds:
                    raise _MirrorFailed(f"too slow: {received:,} bytes in {seconds:.0f} s")
                if received > LARGEST:
                    raise _MirrorFailed(f"does not end: more than {LARGEST:,} bytes")
    if total is not None and received < total:
        raise _MirrorFailed(f"cut off: {received:,} of {total:,} bytes")
    if digest.hexdigest() != md5:
        raise _MirrorFailed(f"wrong bytes: md5 {digest.hexdigest()}, not {md5}, of {received:,} bytes")


def _reason(e: Exception) -> str:
    """Why a mirror failed, in one line and without the wrapping."""
    from http.client import HTTPException
    from urllib.error import HTTPError, URLError

    cause = e.reason if isinstance(e, URLError) and not isinstance(e, HTTPError) else e
    if isinstance(cause, TimeoutError):
        return f"no answer for {TIMEOUT:g} s"
    if isinstance(cause, HTTPError):
        cause.close()
        said = f"{cause.code} {cause.reason}"
    elif isinstance(cause, HTTPException):
        said = f"{type(cause).__name__}: {cause}"
    else:
        said = getattr(cause, "strerror", None) or str(cause) or type(cause).__name__
    # These may be the server's own words: no line breaks, nothing that steers a terminal, and not a whole page.
    return "".join(c for c in " ".join(said.split()) if c.isprintable())[:200]


@contextlib.contextmanager
def _progress(name: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """A function to tell how many bytes more have come; a bar where stderr is a terminal, else silent."""
    if sys.stderr is None or not sys.stderr.isatty():
        yield lambda n: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as bar:
        task = bar.add_task(name, total=total)
        yield lambda n: bar.update(task, advance=n)
