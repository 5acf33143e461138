"""How a contender and bench/training.py talk: an epoch for every "go", whoever calls whom."""

from __future__ import annotations

import ctypes
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Job:
    """What to train: a net by name, and images ``(N, C, H, W)`` float32 with labels int64, as numpy arrays."""

    contender: str
    net: str
    batch: int
    x: np.ndarray
    y: np.ndarray
    test_x: np.ndarray
    test_y: np.ndarray
    lr: float = 1e-3
    seed: int = 0


class Turns:
    """The contender's end. A loop of its own asks ``while turns.more()``; a callback at the end of an epoch asks too.

    What lies between two answers is one epoch, and is timed by the other end: everything a library does for an epoch
    counts, and nothing that it says itself.
    """

    def __init__(self) -> None:
        # what libraries print goes to stderr: stdout is for this talk
        self._out = os.fdopen(os.dup(1), "w", buffering=1)
        os.dup2(2, 1)
        self._running = False

    def say(self, **told: Any) -> None:
        print(json.dumps(told), file=self._out, flush=True)

    def ready(self, parameters: int) -> None:
        """Tell that all is built. What the first epoch still has to do (compile, say) is not timed: it is a warm-up."""
        self.say(parameters=int(parameters))

    def more(self) -> bool:
        """Wait for one's turn; False when there will be no other."""
        if self._running:
            self.say(done=True)
        self._running = sys.stdin.readline().strip() == "go"
        return self._running

    def judged(self, job: Job, outputs: np.ndarray) -> None:
        """Tell how many of the test images are right, from outputs ``(N, classes)``."""
        self.say(accuracy=float((np.asarray(outputs).argmax(1) == job.test_y).mean()))


def keep_memory() -> None:
    """Let glibc keep what is freed instead of giving it back: fewer page faults, for this whole process."""
    libc = ctypes.CDLL(None)
    m_trim_threshold, m_mmap_max = -1, -4
    if not (libc.mallopt(m_mmap_max, 0) and libc.mallopt(m_trim_threshold, 2**31 - 1)):
        raise OSError("mallopt refused: the allocator of this machine cannot be tuned so")


PARTS = ("x", "y", "test_x", "test_y")


def arrays(folder: Path) -> dict[str, np.ndarray]:
    """Images and labels as bench/training.py laid them down.

    Not made here: to convert images frees large blocks, from which glibc's malloc learns to keep memory. Whether a
    process had done so would then decide what is measured.
    """
    return {name: np.load(folder / f"{name}.npy") for name in PARTS}
