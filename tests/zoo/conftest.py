"""Nets are built once for all tests of the zoo."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from skipway import Chain
from skipway.zoo import published

build = published.weightless


@pytest.fixture(scope="session")
def built() -> Callable[..., Chain]:
    """``built(name, **options)``: a net of the zoo to look at, not to change."""
    known: dict[tuple[object, ...], Chain] = {}

    def make(name: str, **options: object) -> Chain:
        key = (name, *sorted(options.items()))
        if key not in known:
            known[key] = build(name, **options)
        return known[key]

    return make


@pytest.fixture
def check(built, monkeypatch):
    """``skipway.zoo.check`` on these nets."""
    monkeypatch.setattr(published, "weightless", built)
    return published.check
