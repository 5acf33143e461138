"""The command line: one file a command, imported in the order in which help lists them."""

# isort: skip_file
from __future__ import annotations

from .app import app, main
from .show import show
from .check import check
from .train import train
from .compare import compare
from .study import study

__all__ = ["app", "check", "compare", "main", "show", "study", "train"]
