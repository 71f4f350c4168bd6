"""Work on many tensors by several threads: reading, hashing and numpy let go of the interpreter while they run."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable
from typing import TypeVar

One = TypeVar("One")
Made = TypeVar("Made")
MOST = 4
"""Threads at most: memory is busy before more of them have something to do."""
EACH = 16 << 20
"""Bytes that are worth a thread."""


def mapped(function: Callable[[One], Made], items: Iterable[One], size: int, spare: int = 0) -> list[Made]:
    """The function of each item, in their order.

    The threads never delay the end of the process; those of `concurrent.futures` would.

    Arguments:
        function: safe to be called by several threads at once.
        items: what to call it with, in the order in which they are begun.
        size: bytes that will be read in all; few are not worth a thread.
        spare: processors that are left to others.

    Raises:
        What the function raised first; what was not begun by then never is.

    Example:
        >>> mapped(abs, [-1, 2, -3], size=1 << 30)
        [1, 2, 3]
    """
    items = list(items)
    count = min(MOST, processors() - spare, len(items), size // EACH)
    if count < 2:
        return [function(item) for item in items]
    from threading import Thread

    todo, made, failed = deque(enumerate(items)), dict[int, Made](), list[BaseException]()

    def work() -> None:
        while todo and not failed:
            try:
                at, item = todo.popleft()
            except IndexError:  # another thread took the last one
                return
            try:
                made[at] = function(item)
            except BaseException as error:
                failed.append(error)

    others = [Thread(target=work, name="anyvit-side", daemon=True) for _ in range(1, count)]
    for thread in others:
        thread.start()
    work()
    while any(thread.is_alive() for thread in others):  # nobody may go on, whatever interrupts the waiting
        try:
            for thread in others:
                thread.join()
        except BaseException as error:
            failed.append(error)
    if failed:
        raise failed[0]
    return [made[at] for at in range(len(items))]


def processors() -> int:
    """Processors that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1
