"""A contender in a process of its own: what one has freed or compiled must not help or hinder another."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any


class Process:
    """A process that computes when it is told to, a word a line, and answers in lines of JSON."""

    def __init__(self, name: str, command: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
        self.name = name
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, text=True, env=environment
        )

    def say(self, word: str) -> None:
        with suppress(BrokenPipeError):  # it has ended: the next hear() tells why
            self.process.stdin.write(word + "\n")
            self.process.stdin.flush()

    def hear(self, what: str) -> Any:
        """The next answer. Raises ``RuntimeError`` with its last words if it has ended."""
        for line in self.process.stdout:
            if line.startswith("{"):  # a compiler may say something too
                return json.loads(line)[what]
        self.process.wait()
        self.log.seek(0)
        raise RuntimeError(f"{self.name} ended: {(self.log.read().strip().splitlines() or ['?'])[-1][:200]}")

    def close(self) -> None:
        for pipe in (self.process.stdin, self.process.stdout):
            with suppress(BrokenPipeError):
                pipe.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.log.close()
