"""Options that several families check alike, with errors that name the option."""

from __future__ import annotations

from collections.abc import Iterable

from skipway import ChainError
from skipway.errors import nearest


def positive(what: str = "", /, **sizes: int) -> None:
    """Raise ``ChainError`` for the first of these options that is not a positive whole number.

    ``what`` says what they are in the words of the paper.

    >>> positive(width=8, depth=0)
    Traceback (most recent call last):
    skipway.errors.ChainError: depth= is a positive whole number, not 0
    """
    for name, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            said = f"{what}, " if what else ""
            raise ChainError(f"{name}= is {said}a positive whole number, not {size!r}")


def one_of(words: Iterable[str], source: str = "", **options: str) -> None:
    """Raise ``ChainError`` for the first of these options that is none of the words, with the nearest one.

    >>> one_of(("tiny", "small"), "2201.03545", size="tinny")
    Traceback (most recent call last):
    skipway.errors.ChainError: size= is one of tiny, small (2201.03545), not 'tinny': did you mean 'tiny'?
    """
    words = list(words)
    for name, word in options.items():
        if word not in words:
            known = f"{', '.join(words)} ({source})" if source else ", ".join(words)
            raise ChainError(f"{name}= is one of {known}, not {word!r}: {nearest(str(word), words)}")


__all__ = ["one_of", "positive"]
