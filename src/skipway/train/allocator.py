"""``fit(allocator=...)``: what the C library does with memory that torch gives back, on request."""

from __future__ import annotations

import ctypes
import os
import sys

import torch

from skipway.errors import TrainError, nearest

ALLOCATORS = ("default", "warm", "keep")
# from glibc's malloc.h
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
# glibc gives a block above its threshold pages of its own, and raises the threshold to the size of each such block that
# is freed, up to 32 MB, and what it keeps for itself to twice that
_LARGEST = 32 * 2**20
_set: set[str] = set()


def libc() -> str:
    """The name of the C library, ``"glibc 2.36"``, or that of the system where it is another.

    >>> bool(libc())
    True
    """
    try:
        found = os.confstr("CS_GNU_LIBC_VERSION")
    except (AttributeError, ValueError, OSError):
        found = None
    if found:
        return found
    return {"darwin": "macOS", "win32": "Windows", "linux": "Linux without glibc (musl?)"}.get(
        sys.platform, sys.platform
    )


def check_allocator(allocator: str) -> None:
    """Raise ``TrainError`` for a name that is not known, or one that this system cannot do.

    >>> check_allocator("kept")
    Traceback (most recent call last):
    skipway.errors.TrainError: allocator='kept' is not known: did you mean 'keep'?
    """
    if not isinstance(allocator, str) or allocator not in ALLOCATORS:
        raise TrainError(f"allocator={allocator!r} is not known: {nearest(str(allocator), ALLOCATORS)}")
    if allocator == "default":
        return
    there = libc()
    if not there.startswith("glibc"):
        raise TrainError(f"allocator={allocator!r} sets options of glibc, and this is {there}: leave allocator out")
    other = os.environ.get("LD_PRELOAD", "")
    if "malloc" in other:
        raise TrainError(
            f"allocator={allocator!r} sets options of glibc, and memory comes from LD_PRELOAD={other}: "
            f"leave allocator out"
        )


def set_allocator(allocator: str) -> None:
    """Make glibc keep memory that is freed, for the whole process and until it ends; once is enough, and twice as well.

    ``"warm"`` frees one block of just under 32 MB, after which glibc by itself keeps up to 64 MB, as it does in any
    program that once frees a tensor of that size. ``"keep"`` calls ``mallopt``: nothing goes back to the system.

    Raises ``TrainError`` as :func:`check_allocator` does, and where glibc refuses.
    """
    check_allocator(allocator)
    if allocator in _set or allocator == "default":
        return
    if allocator == "warm":
        # no page of it is touched: this takes microseconds
        torch.empty(_LARGEST - 2**16, dtype=torch.uint8)
    else:
        mallopt = ctypes.CDLL(None).mallopt
        if not (mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)):
            raise TrainError("allocator='keep': glibc refuses these options: leave allocator out")
    _set.add(allocator)
