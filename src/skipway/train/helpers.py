"""Small helpers that mean what they mean in Flux.jl: ``onehot``, ``onecold``, ``throttle``."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor

from skipway.errors import DataError, nearest


def onehot(y: Any, labels: int | Sequence[Hashable]) -> Tensor:
    """A 1 at the place of each label, 0 elsewhere.

    Parameters
    ----------
    y:
        a label, a (nested) list of labels, or a tensor of whole numbers.
    labels:
        all labels in order, any hashable things; or a number ``n`` for the labels ``0`` to ``n - 1``.

    Returns
    -------
    float32 of shape ``(*shape of y, number of labels)``; one label gives ``(number of labels,)``.

    Raises
    ------
    DataError
        for a label that is not in ``labels``.

    >>> onehot(["b", "a"], "abc")
    tensor([[0., 1., 0.],
            [1., 0., 0.]])
    >>> onehot(torch.tensor([2, 0]), 3).argmax(-1)
    tensor([2, 0])
    """
    device = y.device if isinstance(y, Tensor) else None
    if isinstance(y, Tensor) and (y.is_floating_point() or y.is_complex()):
        raise DataError(f"onehot takes whole-number labels, not {y.dtype}: write y.long()")
    if isinstance(labels, int):
        if labels < 1:
            raise DataError(f"onehot needs at least one label, not {labels}")
        try:
            index = torch.as_tensor(y, device=device)
        except (TypeError, ValueError, RuntimeError) as error:
            raise DataError(f"onehot(y, {labels}) takes whole-number labels; for others give all labels") from error
        if index.is_floating_point() and index.numel():
            raise DataError(f"onehot takes whole-number labels, not {index.dtype}")
        index = index.long()
        if index.numel() and (index.min() < 0 or index.max() >= labels):
            raise DataError(
                f"labels run from {int(index.min())} to {int(index.max())}; onehot(y, {labels}) takes 0 to {labels - 1}"
            )
        return torch.nn.functional.one_hot(index, labels).float()
    places = {label: i for i, label in enumerate(labels)}
    if len(places) != len(labels):
        raise DataError(f"the labels {list(labels)!r} name one of them twice")

    def place(label: Any) -> Any:
        if isinstance(label, list):
            return [place(one) for one in label]
        if label not in places:
            raise DataError(f"{label!r} is not one of the labels: {nearest(str(label), map(str, labels))}")
        return places[label]

    index = torch.tensor(place(y.tolist() if hasattr(y, "tolist") else y), dtype=torch.long, device=device)
    return torch.nn.functional.one_hot(index, len(places)).float()


def onecold(p: Tensor, labels: Sequence[Any] | None = None) -> Any:
    """The label of the largest value along the last axis: the way back from :func:`onehot`.

    Parameters
    ----------
    p:
        ``(*, number of labels)``: one-hot rows, probabilities or logits.
    labels:
        all labels in order; None gives the places themselves.

    Returns
    -------
    Places as int64 of shape ``(*)``, or a (nested) list of labels; one row gives one label.

    Raises
    ------
    DataError
        when ``p`` has no last axis, or one of another length than ``labels``.

    >>> onecold(torch.tensor([[0.1, 0.9], [0.8, 0.2]]))
    tensor([1, 0])
    >>> onecold(torch.tensor([[0.1, 0.9], [0.8, 0.2]]), ["cat", "dog"])
    ['dog', 'cat']
    """
    if p.dim() == 0 or p.shape[-1] == 0 or (labels is not None and len(labels) != p.shape[-1]):
        wanted = "(*, number of labels)" if labels is None else f"(*, {len(labels)}), one value a label"
        raise DataError(f"onecold takes {wanted}, not {tuple(p.shape)}")
    index = p.argmax(-1)
    if labels is None:
        return index

    def label(place: Any) -> Any:
        return [label(one) for one in place] if isinstance(place, list) else labels[place]

    return label(index.tolist())


def _start_timer(seconds: float, f: Callable[[], None]) -> None:
    timer = threading.Timer(seconds, f)
    # a program may end while a call is still waiting
    timer.daemon = True
    timer.start()


class throttle:
    """A function that calls ``f`` at most once every ``seconds``, however often it is called itself.

    Calls in between are dropped and give the last result.

    Parameters
    ----------
    f:
        any callable.
    seconds:
        the least time between two calls of ``f``.
    leading:
        call ``f`` at once where the time is up; otherwise that call waits until ``seconds`` later.
    trailing:
        when more calls came in between, run the last of them once the time is up, on a thread of its own.
    clock, timer:
        for tests: ``clock()`` gives seconds, ``timer(seconds, f)`` runs ``f`` later.

    >>> beat = throttle(print, seconds=60)
    >>> for step in range(1000):
    ...     beat("step", step)
    step 0
    """

    def __init__(
        self,
        f: Callable[..., Any],
        seconds: float,
        leading: bool = True,
        trailing: bool = False,
        *,
        clock: Callable[[], float] = time.monotonic,
        timer: Callable[[float, Callable[[], None]], None] = _start_timer,
    ) -> None:
        self._f, self._seconds, self._leading, self._trailing = f, seconds, leading, trailing
        self._clock, self._timer = clock, timer
        self._lock = threading.Lock()
        self._until = -float("inf")
        self._waiting: tuple[tuple[Any, ...], dict[str, Any]] | None = None
        self._result: Any = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with self._lock:
            now = self._clock()
            up = now >= self._until and self._waiting is None
            run = up and self._leading
            if up:
                self._until = now + self._seconds
            if not run and (up or self._trailing):
                if self._waiting is None:
                    self._timer(max(self._until - now, 0.0), self._fire)
                self._waiting = (args, kwargs)
        if run:
            self._result = self._f(*args, **kwargs)
        return self._result

    def _fire(self) -> None:
        with self._lock:
            waiting, self._waiting = self._waiting, None
            self._until = self._clock() + self._seconds
        if waiting is not None:
            self._result = self._f(*waiting[0], **waiting[1])

    def flush(self) -> Any:
        """Run the call that waits now, where there is one; the last result either way.

        >>> late = throttle(str, 60, leading=False)
        >>> late(5), late.flush()
        (None, '5')
        """
        if self._waiting is not None:
            self._fire()
        return self._result
