"""Gains: what a branch or a shortcut is multiplied by. One class a value.

A number; :class:`Learned`; one that looks at what it multiplies (:class:`SqueezeExcite`); one that changes with
training (:class:`Anneal`, :func:`Warmup`); one drawn at random (:class:`Drop`, :class:`ShakeDrop`); any module that is
called on the value. In a pattern, numbers may be functions of depth, such as :class:`Ramp`. Gates weigh a branch
*against* a shortcut, and are merges.
"""

from __future__ import annotations

from .attention import SqueezeExcite
from .base import Gain, GainFn, Learned, as_scale, at_depth, is_schedule, undecayed
from .random import Drop, DropPath, ShakeDrop, as_drop
from .schedule import Anneal, Ramp, Stepped, Warmup, set_step

__all__ = [
    "Anneal", "Drop", "DropPath", "Gain", "GainFn", "Learned", "Ramp", "ShakeDrop", "SqueezeExcite", "Stepped",
    "Warmup", "as_drop", "as_scale", "at_depth", "is_schedule", "set_step", "undecayed",
]  # fmt: skip
